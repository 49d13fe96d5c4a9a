"""What theory, the library behind and a distrustful reader say about the results of attacks."""

import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torchattacks
from attack_models import (
    conv_net,
    float_images,
    linear_model,
    random_labels,
)
from attack_table import BY_NAME, attack, every_attack
from hypothesis import given, settings
from hypothesis import strategies as st

from nenni_core.attacks import (
    ATTACKS,
    AttackCost,
    AttackError,
    AttackKind,
    AttackSpec,
)
from nenni_core.attacks.pgd import pgd


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Models this small are several times faster so."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class TestLinearOptimum:
    """On a linear model the strongest linf attack is known in closed form."""

    @pytest.mark.parametrize("classes", [2, 5])
    @every_attack
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

    @every_attack
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


class TestAttacksThatMisbehave:
    """The adapter does not trust what it runs."""

    @pytest.fixture
    def run(self, monkeypatch):
        def run(perturb, net=None):
            kind = AttackKind(build=lambda model, spec, _: lambda x, y: perturb(model, x, y), norm="linf")
            monkeypatch.setitem(ATTACKS, "planted", kind)
            spec = AttackSpec(name="planted", kind="planted", eps=0.1)
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
