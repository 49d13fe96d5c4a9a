"""The contract of every attack: one table row per attack, all checks for each."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from attack_models import (
    CLASSES,
    NoisyInput,
    conv_net,
    float_images,
    random_labels,
)
from attack_table import (
    BY_NAME,
    SPECS,
    attack,
    every_attack,
    every_linf,
    every_random_capable,
    every_row,
    every_simple,
    every_white_box,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nenni_core.attacks import (
    ATTACKS,
    AttackCost,
    AttackError,
    AttackSpec,
    paper_protocol,
)
from nenni_core.errors import InputError
from nenni_core.inject import inject, injected_layers
from nenni_core.injection import Injection
from nenni_core.randomness import noise_streams

RANDOM = {
    "pgd",
    "autoattack_torchattacks",
    "autoattack_standard",
    "apgd_ce",
    "apgd_dlr_targeted",
    "square",
    "transfer",
}


def test_every_kind_has_a_row():
    assert {spec.kind for spec in SPECS} == set(ATTACKS)


def test_paper_protocol_is_the_papers():
    knobs = {spec.name: (spec.eps, spec.step_size, spec.steps, spec.gradient) for spec in paper_protocol()}
    assert knobs["pgd20"] == (8 / 255, 2 / 255, 20, "blocked")
    assert knobs["mifgsm"] == (8 / 255, 2 / 255, 5, "blocked")
    assert knobs["fgsm"][0] == 8 / 255


class TestContract:
    """What holds for every attack."""

    @every_linf
    @settings(max_examples=8, deadline=None)
    @given(seed=st.integers(0, 10_000), eps=st.floats(0, 0.5), step=st.floats(1e-4, 0.5))
    def test_stays_in_the_ball_and_in_the_pixel_range(self, spec, seed, eps, step):
        x = float_images(3, seed=seed)
        x_adv = attack(
            replace(spec, eps=eps, step_size=step), conv_net(seed), x, random_labels(3, seed=seed), seed=seed
        )
        assert x_adv.shape == x.shape
        assert x_adv.dtype == x.dtype
        assert float((x_adv - x).abs().max()) <= eps + 1e-6
        assert float(x_adv.min()) >= 0
        assert float(x_adv.max()) <= 1

    @every_linf
    def test_no_budget_no_change(self, spec):
        x = float_images(4)
        assert torch.equal(attack(replace(spec, eps=0.0), conv_net(), x, random_labels(4)), x)

    @every_simple
    def test_raises_the_loss(self, spec):
        net, x, y = conv_net().eval(), float_images(16), random_labels(16)
        loss = nn.CrossEntropyLoss()
        assert loss(net(attack(spec, net, x, y)), y) > loss(net(x), y) + 0.05

    @every_attack
    def test_inputs_are_not_written_to(self, spec):
        x, y = float_images(4), random_labels(4)
        x_before, y_before = x.clone(), y.clone()
        attack(spec, conv_net(), x, y)
        assert torch.equal(x, x_before)
        assert torch.equal(y, y_before)
        assert not x.requires_grad

    @every_attack
    def test_global_generators_are_as_before(self, spec):
        net, x, y = conv_net(), float_images(4), random_labels(4)
        torch_state, numpy_state, state = torch.get_rng_state(), np.random.get_state(), random.getstate()
        attack(spec, net, x, y)
        assert torch.equal(torch.get_rng_state(), torch_state)
        assert random.getstate() == state
        assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), numpy_state, strict=True))

    @every_attack
    def test_result_depends_on_the_seed_given_and_not_on_the_global_one(self, spec):
        net, x = conv_net(), float_images(4)
        y, spec = conv_net().eval()(x).argmax(1), replace(spec, eps=0.3)
        first = attack(spec, net, x, y, seed=5)
        torch.rand(7)
        assert torch.equal(first, attack(spec, net, x, y, seed=5))
        is_random = spec.kind in RANDOM and spec.random_start
        assert torch.equal(first, attack(spec, net, x, y, seed=6)) != is_random

    @every_attack
    def test_mode_of_each_module_is_restored(self, spec):
        net = conv_net().train()
        net[3].eval()  # a batch norm that its owner froze
        before = {name: module.training for name, module in net.named_modules()}
        statistics = net[3].running_mean.clone()
        attack(spec, net, float_images(4), random_labels(4))
        assert {name: module.training for name, module in net.named_modules()} == before
        assert torch.equal(net[3].running_mean, statistics)

    @every_attack
    def test_attacks_the_model_in_evaluation_mode(self, spec):
        net = conv_net().train()
        modes = []
        net[0].register_forward_hook(lambda *_: modes.append([m.training for m in net.modules()]))
        attack(spec, net, float_images(4), random_labels(4))
        assert modes
        assert not any(any(mode) for mode in modes)

    @every_attack
    def test_parameter_gradients_are_left_alone(self, spec):
        net = conv_net()
        net[0].weight.requires_grad_(False)
        flags = [parameter.requires_grad for parameter in net.parameters()]
        attack(spec, net, float_images(4), random_labels(4))
        assert [parameter.requires_grad for parameter in net.parameters()] == flags
        assert all(parameter.grad is None for parameter in net.parameters())

    @every_attack
    @pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
    def test_works_where_gradients_are_off(self, spec, context):
        net, x, y = conv_net(), float_images(4), random_labels(4)
        expected = attack(spec, net, x, y)
        with context():
            assert torch.equal(attack(spec, net, x.clone(), y.clone()), expected)
            assert not torch.is_grad_enabled()

    @every_attack
    def test_precision_of_the_caller_does_not_matter(self, spec):
        net, x, y = conv_net(), float_images(4), random_labels(4)
        expected = attack(spec, net, x, y)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(attack(spec, net, x, y), expected)

    @every_attack
    def test_model_without_parameters(self, spec, capsys):
        class Pool(nn.Module):
            def forward(self, x):
                return x.flatten(1)[:, :CLASSES] * 3

        x = float_images(4)
        x_adv = attack(replace(spec, eps=0.3), Pool(), x, Pool()(x).argmax(1))
        assert not torch.equal(x_adv, x)
        assert capsys.readouterr().out == ""

    @every_attack
    def test_one_sample_and_no_sample(self, spec):
        x, y = float_images(2), random_labels(2)
        assert attack(spec, conv_net(), x[:1], y[:1]).shape == (1, 3, 6, 6)
        assert attack(spec, conv_net(), x[:0], y[:0]).shape == (0, 3, 6, 6)

    @every_attack
    def test_refuses_what_is_no_image(self, spec):
        x, y = float_images(4), random_labels(4)
        for wrong, message in [
            (2 * x - 1, r"pixels lie in \[-1, 1\]"),
            (x * 255, r"expected \[0, 1\]"),
            (torch.where(x == x[0, 0, 0, 0], torch.nan, x), "pixels lie in"),
            ((x * 255).byte(), "images are torch.uint8"),
        ]:
            with pytest.raises(InputError, match=message):
                attack(spec, conv_net(), wrong, y)

    @every_attack
    def test_refuses_labels_and_logits_that_do_not_fit(self, spec):
        x, y = float_images(4), random_labels(4)
        with pytest.raises(InputError, match=r"labels lie in .* expected \[0, 3\]"):
            attack(spec, conv_net(), x, y + 1 + CLASSES - y.max())
        with pytest.raises(InputError, match=r"logits of shape \([14], 4\) .* expected \([14], 7\)"):
            attack(spec, conv_net(), x, y, num_classes=7)

    @every_attack
    def test_refuses_another_device_than_the_models(self, spec):
        net = conv_net().to("meta")
        with pytest.raises(InputError, match=r"images are on cpu .* the model is on meta"):
            attack(spec, net, float_images(4), random_labels(4))

    @every_row
    def test_gradients_that_are_not_finite_are_an_error(self, spec, passes):
        class Cusp(nn.Module):
            """The derivative of the square root at 0 is infinite."""

            def forward(self, x):
                return (x - x.detach()).sqrt().flatten(1)[:, :CLASSES] * x.flatten(1)[:, :CLASSES]

        count = rf"{4 * passes} of {4 * passes} input gradients are NaN or infinite"
        with pytest.raises(AttackError, match=f"attack {spec.name}: {count}"):
            attack(spec, Cusp(), float_images(4), random_labels(4))

    @every_row
    def test_passes_are_counted_in_samples(self, spec, passes):
        net = conv_net()
        seen = []
        net.register_forward_hook(lambda _module, arguments, _output: seen.append(len(arguments[0])))
        cost = AttackCost()
        for count in (3, 5):
            attack(spec, net, float_images(count), random_labels(count), cost=cost)
        assert cost.forwards == cost.backwards == sum(seen) == 8 * passes
        if spec.kind != "cw":  # whose loss is flat once the image is misclassified
            assert cost.zero_gradients == 0

    @every_random_capable
    def test_one_noise_draw_while_attacking(self, spec):
        net = NoisyInput(conv_net())
        stream = net.noise_stream
        state = stream.generator.get_state()
        x, y = float_images(4), random_labels(4)
        first = attack(spec, net, x, y)
        assert all(torch.equal(draw, net.draws[0]) for draw in net.draws)
        assert noise_streams(net) == [stream]
        assert torch.equal(stream.generator.get_state(), state)
        assert torch.equal(attack(spec, net, x, y), first)
        net.draws.clear()
        attack(spec, net, x, y, seed=2)
        other = net.draws[0]
        net(x)
        assert not torch.equal(net.draws[-1], other)

    def test_what_is_not_defined_for_random_models_is_refused(self):
        with pytest.raises(InputError, match=r"autoattack_standard' is defined for deterministic models"):
            attack(BY_NAME["autoattack_standard"], NoisyInput(conv_net()), float_images(2), random_labels(2))
        averaging = replace(BY_NAME["pgd20"], eot_samples=2)
        with pytest.raises(InputError, match=r"eot_samples is 2, expected 1: 'pgd' sees one draw"):
            attack(averaging, NoisyInput(conv_net()), float_images(2), random_labels(2))

    @every_white_box
    @pytest.mark.parametrize("gradient", ["blocked", "straight_through"])
    def test_attacker_sees_the_gradient_asked_for(self, spec, gradient):
        own = "blocked" if gradient == "straight_through" else "straight_through"
        net = inject(conv_net(), Injection(ratio=0.9, gradient=own))
        seen = set()
        layers = injected_layers(net)
        for layer in layers.values():
            layer.register_forward_hook(lambda layer, *_: seen.add(layer.injection.gradient))
        attack(replace(spec, gradient=gradient), net, float_images(2), random_labels(2))
        assert seen == {gradient}
        assert {layer.injection.gradient for layer in layers.values()} == {own}

    @every_white_box
    def test_a_fully_blocked_model_gives_zero_gradients_and_no_crash(self, spec):
        net = inject(conv_net(), Injection(ratio=1.0))
        x, cost = float_images(3), AttackCost()
        x_adv = attack(spec, net, x, random_labels(3), cost=cost)
        assert cost.zero_gradients == cost.backwards > 0
        assert x_adv.isfinite().all()
        cost = AttackCost()
        attack(replace(spec, gradient="straight_through"), net, x, random_labels(3), cost=cost)
        if spec.kind != "cw":  # whose loss is flat once the image is misclassified
            assert cost.zero_gradients == 0

    @every_white_box
    def test_a_model_that_is_cut_off_from_its_input(self, spec):
        class Detached(nn.Module):
            def forward(self, x):
                return x.detach().flatten(1)[:, :CLASSES]

        x, y, cost = float_images(3), random_labels(3), AttackCost()
        x_adv = attack(spec, Detached(), x, y, cost=cost)
        assert cost.zero_gradients == cost.backwards > 0
        if spec.kind == "fgsm":
            assert torch.equal(x_adv, x)


class TestSpec:
    """Values that no attack can work with."""

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"eps": 8.0}, "eps is 8.0, expected .* such as 8/255"),
            ({"eps": float("nan")}, "eps is nan"),
            ({"step_size": 0.0}, "step_size is 0.0"),
            ({"steps": 0}, "steps is 0"),
            ({"decay": -1.0}, "decay is -1.0"),
            ({"name": "PGD 20"}, "attack name 'PGD 20'"),
        ],
    )
    def test_refused(self, changes, message):
        with pytest.raises(InputError, match=message):
            AttackSpec(**({"name": "pgd20", "kind": "pgd"} | changes))

    def test_unknown_kind_names_the_nearest(self):
        with pytest.raises(InputError, match="unknown attack 'mi_fgsm'; did you mean 'mifgsm'"):
            attack(AttackSpec(name="a", kind="mi_fgsm"), conv_net(), float_images(1), random_labels(1))


def test_attack_on_a_model_that_was_used_in_inference_mode():
    net = inject(conv_net(), Injection(ratio=0.5)).eval()
    with torch.inference_mode():
        net(float_images(2))
    attack(replace(BY_NAME["fgsm"], gradient="straight_through"), net, float_images(2), random_labels(2))


@every_attack
def test_images_may_lie_in_memory_channels_last(spec):
    """The model gets them as the caller has them, and so does the caller his result."""
    net, x, y = conv_net(), float_images(4), random_labels(4)
    layouts = set()
    net[0].register_forward_hook(
        lambda _, arguments, __: layouts.add(arguments[0].is_contiguous(memory_format=torch.channels_last))
    )
    x_adv = attack(spec, net, x.contiguous(memory_format=torch.channels_last), y)
    assert layouts == {True}
    assert x_adv.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(x_adv, attack(spec, net, x, y), atol=1e-4)
