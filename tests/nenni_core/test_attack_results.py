"""What theory, the library behind and a distrustful reader say about the results of attacks."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchattacks
from attack_models import (
    CLASSES,
    NoisyInput,
    conv_net,
    float_images,
    linear_model,
    random_labels,
)
from attack_table import BY_NAME, attack, every_simple
from hypothesis import given, settings
from hypothesis import strategies as st

from nenni_core.attacks import (
    ATTACKS,
    AttackCost,
    AttackError,
    AttackKind,
    AttackSpec,
)
from nenni_core.attacks.margin import margin_of
from nenni_core.attacks.pgd import pgd
from nenni_core.errors import InputError


class TestLinearOptimum:
    """On a linear model the strongest linf attack is known in closed form."""

    @pytest.mark.parametrize("classes", [2, 5])
    @every_simple
    def test_reaches_the_closed_form(self, spec, classes):
        net = linear_model(classes=classes)
        weight, bias = net[1].weight.detach(), net[1].bias.detach()
        bias[2:] -= 40  # the others are too far to matter, so that the rival of class 0 is class 1
        x = 0.2 + 0.6 * float_images(6, size=4)  # further than eps from 0 and 1: no pixel clips
        y = random_labels(6, classes=2)
        x_adv = attack(spec, net, x, y, num_classes=classes)

        difference = weight[y] - weight[1 - y]
        margin = (difference * x.flatten(1)).sum(1) + bias[y] - bias[1 - y]
        optimum = margin - spec.eps * difference.abs().sum(1)
        logits = net(x_adv).detach()
        rows = torch.arange(6)
        reached = logits[rows, y] - logits[rows, 1 - y]
        assert torch.allclose(reached, optimum, atol=1e-4)
        assert (optimum < margin - 0.5).all()  # else the comparison would say nothing

    @every_simple
    def test_reaches_the_closed_form_at_the_borders_of_the_pixel_range(self, spec):
        net, x, y = linear_model(seed=3), float_images(6, size=4), random_labels(6, classes=2)
        assert (x == 0).any()
        assert (x == 1).any()
        weight = net[1].weight.detach()
        difference = (weight[y] - weight[1 - y]).view_as(x)
        expected = (x - spec.eps * difference.sign()).clamp(0, 1)
        assert torch.allclose(attack(spec, net, x, y, num_classes=2), expected, atol=1e-6)

    @settings(max_examples=10, deadline=None)
    @given(seed=st.integers(0, 10_000), low=st.floats(0, 0.1), more=st.floats(0, 0.1))
    def test_accuracy_does_not_rise_with_eps(self, seed, low, more):
        net, x, y = linear_model(seed), float_images(20, size=4, seed=seed), random_labels(20, 2, seed)
        correct = [
            net(attack(AttackSpec(name="fgsm", kind="fgsm", eps=eps), net, x, y, num_classes=2)).argmax(1)
            == y
            for eps in (low, low + more)
        ]
        assert (correct[1] <= correct[0]).all()


class TestAgainstTheLibrary:
    """The adapter adds safety and changes no pixel."""

    @pytest.mark.parametrize(
        ("spec", "build"),
        [
            (BY_NAME["fgsm"], lambda net: torchattacks.FGSM(net)),
            (BY_NAME["pgd20"], lambda net: torchattacks.PGD(net, steps=20)),
            (BY_NAME["mifgsm"], lambda net: torchattacks.MIFGSM(net, steps=5)),
        ],
        ids=["fgsm", "pgd", "mifgsm"],
    )
    def test_same_pixels(self, spec, build):
        net, x, y = conv_net().eval(), float_images(8), random_labels(8)
        with torch.random.fork_rng():
            torch.manual_seed(11)
            expected = build(net)(x, y)
        assert torch.equal(attack(spec, net, x, y, seed=11), expected)

    @settings(max_examples=10, deadline=None)
    @given(seed=st.integers(0, 10_000), steps=st.integers(1, 8), step=st.floats(0.002, 0.1))
    def test_pgd_equals_our_own(self, seed, steps, step):
        """The loop that training uses, from the clean image; both are the same formula."""
        net, x, y = conv_net(seed).eval(), float_images(4, seed=seed), random_labels(4, seed=seed)
        spec = AttackSpec(name="pgd", kind="pgd", steps=steps, step_size=step, random_start=False)
        generator = torch.Generator()
        own = pgd(
            net, x, y, eps=8 / 255, step_size=step, steps=steps, generator=generator, random_start=False
        )
        assert torch.allclose(attack(spec, net, x, y), own, rtol=0, atol=1e-6)

    def test_momentum_of_a_vanished_gradient(self):
        """A sample of which the model is too sure is left alone by the library, and moved by the adapter."""
        net, x = linear_model(scale=5e4).eval(), float_images(8, size=4)
        y = net(x).argmax(1)
        given_up = (torchattacks.MIFGSM(net, steps=5)(x, y) == x).flatten(1).all(1)
        assert given_up.any()
        cost = AttackCost()
        x_adv = attack(BY_NAME["mifgsm"], net, x, y, num_classes=2, cost=cost)
        assert x_adv.isfinite().all()
        assert not (x_adv == x).flatten(1).all(1).any()
        assert 0 < cost.zero_gradients <= cost.backwards


class TestNearest:
    """On a linear model of two classes the nearest misclassified point is a step along the weights."""

    @pytest.mark.parametrize(
        "spec",
        [
            AttackSpec(name="cw", kind="cw", c=2.0, steps=1000, learning_rate=0.005),
            AttackSpec(name="deepfool", kind="deepfool"),
        ],
        ids=lambda spec: spec.name,
    )
    def test_comes_within_five_percent_of_the_closed_form(self, spec):
        net = linear_model(scale=2.0)
        weight, bias = net[1].weight.detach(), net[1].bias.detach()
        bias[0] += 0.4 * (weight[0] - weight[1]).norm()  # all images are of class 0, some way from the border
        x = 0.35 + 0.3 * float_images(8, size=4)  # no pixel of the nearest point clips
        y = net(x).argmax(1)
        difference = weight[y] - weight[1 - y]
        margin = (difference * x.flatten(1)).sum(1) + bias[y] - bias[1 - y]
        optimum = margin / difference.norm(dim=1)
        assert ((x.flatten(1) - (margin / difference.square().sum(1))[:, None] * difference) > 0).all()
        x_adv = attack(spec, net, x, y, num_classes=2)
        assert (net(x_adv).argmax(1) != y).all()
        found = (x_adv - x).flatten(1).norm(dim=1)
        assert (found <= 1.05 * optimum).all()
        assert (found >= optimum * (1 - 1e-4)).all()

    def test_cw_moves_pixels_that_are_black_or_white(self):
        net, x = linear_model(seed=3, scale=2.0), float_images(8, size=4, seed=1).round()
        y = net(x).argmax(1)
        x_adv = attack(AttackSpec(name="cw", kind="cw", c=5.0, steps=500), net, x, y, num_classes=2)
        assert (net(x_adv).argmax(1) != y).all()

    def test_cw_of_an_image_does_not_depend_on_the_others(self):
        net, x = conv_net().eval(), float_images(5)
        y, spec = net(x).argmax(1), AttackSpec(name="cw", kind="cw", c=0.5, steps=100)
        together = attack(spec, net, x, y)
        alone = torch.cat([attack(spec, net, x[i : i + 1], y[i : i + 1]) for i in range(5)])
        assert torch.allclose(together, alone, atol=1e-5)

    def test_cw_goes_as_far_as_it_is_asked_to(self):
        net, x = linear_model(scale=2.0), float_images(8, size=4)
        y = net(x).argmax(1)
        margins = []
        for confidence in (0.0, 1.5):
            spec = AttackSpec(name="cw", kind="cw", c=5.0, steps=500, confidence=confidence)
            margins.append(margin_of(net(attack(spec, net, x, y, num_classes=2)), y))
            assert (margins[-1] <= -confidence).all()
        assert (margins[1] < margins[0]).all()

    def test_cw_leaves_what_is_misclassified_already(self):
        net, x = conv_net().eval(), float_images(4)
        wrong = (net(x).argmax(1) + 1) % CLASSES
        assert torch.equal(attack(BY_NAME["cw"], net, x, wrong), x)


class TestStrongest:
    """On a linear model an image can be fooled within eps or it cannot; the strongest attacks know."""

    @pytest.mark.parametrize(
        ("name", "classes"),
        [
            ("apgd_ce", 2),  # with more classes the steepest way need not be the shortest
            ("apgd_dlr_targeted", 2),
            ("apgd_dlr_targeted", 3),
            ("apgd_dlr_targeted", 6),
            ("autoattack_torchattacks", 6),
            ("autoattack_standard", 6),
        ],
    )
    def test_fools_all_that_can_be_fooled_and_no_other(self, name, classes):
        spec, net = replace(BY_NAME[name], steps=30), linear_model(classes=classes)
        x = 0.2 + 0.6 * float_images(24, size=4)
        y = net(x).argmax(1)
        weight, bias = net[1].weight.detach(), net[1].bias.detach()
        difference = weight[y][:, None] - weight[None]
        margin = (difference * x.flatten(1)[:, None]).sum(2) + bias[y][:, None] - bias[None]
        needed = (margin / difference.abs().sum(2)).scatter(1, y[:, None], float("inf")).amin(1)
        spec = replace(spec, eps=float(needed.sort().values[11:13].mean()))  # half of them can be fooled
        correct = net(attack(spec, net, x, y, num_classes=classes)).argmax(1) == y
        assert torch.equal(correct, needed > spec.eps)

    @pytest.mark.parametrize("kind", ["autoattack_torchattacks", "autoattack_standard"])
    def test_losses_that_need_four_classes_say_so(self, kind):
        with pytest.raises(InputError, match=f"'{kind}' needs 4 classes or more, not 2"):
            attack(BY_NAME[kind], linear_model(), float_images(1, size=4), random_labels(1, 2), num_classes=2)

    @pytest.mark.parametrize(
        ("kind", "draws"),
        [
            ("apgd_ce", 1),
            ("apgd_ce", 3),
            ("apgd_dlr_targeted", 1),
            ("apgd_dlr_targeted", 3),
            ("autoattack_torchattacks", 1),
            ("square", 1),
            ("square", 3),
        ],
    )
    def test_a_random_model_gets_no_clean_image_back(self, kind, draws):
        """The library judges each image on one more pass, and returns it as it was where that is right."""
        net = NoisyInput(conv_net(scale=1.0).eval(), sigma=0.05)
        x = float_images(30)
        y = net.net(x).argmax(1)
        spec = replace(BY_NAME[kind], eps=0.01, steps=5, queries=30, eot_samples=draws)
        x_adv = attack(spec, net, x, y, seed=3)
        assert (net.net(x_adv).argmax(1) == y).float().mean() > 0.3  # many withstand
        started_right = net.net(x).argmax(1) == y
        assert not (x_adv == x).flatten(1).all(1)[started_right].any()

    def test_an_attack_goes_on_with_what_has_fooled_one_draw(self):
        """Else it stops right behind the boundary of that draw, where the next draw is not fooled."""
        net = NoisyInput(conv_net(scale=4.0).eval(), sigma=0.05)
        x = float_images(40)
        y = net.net(x).argmax(1)
        spec = AttackSpec(name="apgd_ce", kind="apgd_ce", steps=20, eps=0.1)
        margins = [
            margin_of(net.net(attack(spec, model, x, y, seed=3)), y).median() for model in (net, net.net)
        ]
        assert margins[0] < margins[1] - 0.5  # the second is deterministic, where the first point will do

    def test_averaging_finds_what_one_draw_does_not(self):
        """Strong noise hides the gradient from an attack that sees one draw."""
        net = NoisyInput(conv_net(scale=4.0).eval(), sigma=0.3)
        x = float_images(40)
        y = net.net(x).argmax(1)
        right = {}
        for draws in (1, 20):
            spec = AttackSpec(name="apgd_ce", kind="apgd_ce", steps=20, eps=0.1, eot_samples=draws)
            x_adv = attack(spec, net, x, y)
            right[draws] = sum((net(x_adv).argmax(1) == y).float().mean() for _ in range(50)) / 50
        assert right[20] < right[1] - 0.03


class TestAttacksThatMisbehave:
    """The adapter does not trust what it runs."""

    @pytest.fixture
    def run(self, monkeypatch):
        # built here, as checking the types of tuples draws from the global generator
        planted = []
        build = lambda model, spec, _: lambda x, y: planted[-1](model, x, y)  # noqa: E731
        monkeypatch.setitem(ATTACKS, "planted", AttackKind(build=build, reads=(), norm="linf"))
        spec = AttackSpec(name="planted", kind="planted", eps=0.1)

        def run(perturb, net=None):
            planted.append(perturb)
            net = conv_net() if net is None else net
            return attack(spec, net, 0.3 + 0.4 * float_images(4), random_labels(4))

        return run

    def test_leaving_the_ball(self, run):
        with pytest.raises(AttackError, match=r"attack planted left the linf ball of radius 0\.1 by 0\.05"):
            run(lambda _model, x, _y: x + 0.15)
        run(lambda _model, x, _y: x + 0.1)

    def test_writing_into_the_images_and_labels(self, run):
        """Else the check would compare the result with itself."""

        def scribble(_model, x, y):
            y.zero_()
            return x.add_(0.15)

        with pytest.raises(AttackError, match="left the linf ball"):
            run(scribble)

    def test_broken_pixels(self, run):
        with pytest.raises(AttackError, match="attack planted returned NaN pixels in 4 of 4 images"):
            run(lambda _model, x, _y: x * torch.nan)

    def test_leaving_the_pixel_range(self, run):
        with pytest.raises(AttackError, match=r"attack planted left the pixel range \[0, 1\] by"):
            run(lambda _model, x, _y: x * 2)

    def test_other_shape_or_precision(self, run):
        with pytest.raises(AttackError, match=r"attack planted returned torch\.float64"):
            run(lambda _model, x, _y: x.double())
        with pytest.raises(AttackError, match=r"\(3, 3, 6, 6\), expected torch.float32 \(4, 3, 6, 6\)"):
            run(lambda _model, x, _y: x[1:])

    def test_touching_everything(self, run):
        """Seeds every generator, trains the model, accumulates gradients, then fails."""

        def vandal(model, x, y):
            torch.manual_seed(0)
            np.random.seed(0)
            random.seed(0)
            model.train()
            x.requires_grad_(True)
            model(x).sum().backward()
            raise KeyboardInterrupt

        net = conv_net()
        net[3].eval()
        before = [module.training for module in net.modules()]
        torch_state, numpy_state, state = torch.get_rng_state(), np.random.get_state(), random.getstate()
        with pytest.raises(KeyboardInterrupt):
            run(vandal, net)
        assert [module.training for module in net.modules()] == before
        assert all(p.grad is None and p.requires_grad for p in net.parameters())
        assert torch.equal(torch.get_rng_state(), torch_state)
        assert random.getstate() == state
        assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), numpy_state, strict=True))
