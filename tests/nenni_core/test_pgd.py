"""PGD: the optimum on linear models, the ball and the box, and what it must leave alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from training_problem import net

from nenni_core.attacks.pgd import LINF, pgd


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def linear_model(weight: Tensor) -> nn.Module:
    """Logits (w . x, -w . x): class 0 where w . x is positive."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(weight.numel(), 2, bias=False))
    with torch.no_grad():
        model[1].weight.copy_(torch.stack([weight, -weight]))
    return model


def images(count: int = 8, low: float = 0.0, high: float = 1.0) -> tuple[Tensor, Tensor]:
    g = generator(7)
    return torch.rand(count, 3, 10, 10, generator=g) * (high - low) + low, torch.arange(count) % 4


@pytest.mark.parametrize("random_start", [True, False])
def test_on_a_linear_model_it_ends_in_the_worst_corner_of_the_ball_and_the_box(random_start: bool) -> None:
    weight = torch.randn(300, generator=generator()) / 10
    x, y = images()
    y = y % 2
    x_adv = pgd(
        linear_model(weight),
        x,
        y,
        eps=0.1,
        step_size=0.03,
        steps=10,
        generator=generator(),
        random_start=random_start,
    )
    away = weight.sign().reshape(3, 10, 10) * (2 * y - 1).reshape(-1, 1, 1, 1)
    torch.testing.assert_close(x_adv, (x + 0.1 * away).clamp(0, 1), atol=1e-6, rtol=0)


@settings(max_examples=30, deadline=None)
@given(
    eps=st.floats(0, 0.5),
    step_size=st.floats(0, 0.5),
    steps=st.integers(0, 3),
    random_start=st.booleans(),
    channels_last=st.booleans(),
)
def test_it_stays_in_the_ball_and_the_box(eps, step_size, steps, random_start, channels_last) -> None:
    x, y = images(4)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    x = x.contiguous(memory_format=memory_format)
    before = x.clone()
    x_adv = pgd(
        net().eval(),
        x,
        y,
        eps=eps,
        step_size=step_size,
        steps=steps,
        generator=generator(),
        random_start=random_start,
    )
    assert (x_adv - x).abs().max() <= eps + 1e-6
    assert 0 <= x_adv.min() <= x_adv.max() <= 1
    assert x_adv.is_contiguous(memory_format=memory_format)
    assert not x_adv.requires_grad
    assert torch.equal(x, before)


def uniform_distance(values: Tensor, eps: float) -> float:
    """Kolmogorov-Smirnov distance to the uniform distribution on [-eps, eps]."""
    ordered = values.flatten().sort().values.double()
    theory = ((ordered + eps) / (2 * eps)).clamp(0, 1)
    seen = torch.arange(1, len(ordered) + 1) / len(ordered)
    return float((theory - seen).abs().max())


def test_the_random_start_is_uniform_in_the_ball() -> None:
    x = torch.full((100, 3, 10, 10), 0.5)
    y = torch.zeros(100, dtype=torch.int64)
    x_adv = pgd(net(), x, y, eps=0.1, step_size=0.1, steps=0, generator=generator())
    threshold = 1.95 / 30_000**0.5  # exceeded by a right sample once in a thousand times
    assert uniform_distance(x_adv - x, 0.1) < threshold
    assert uniform_distance(x_adv - x, 0.105) > threshold


@pytest.mark.parametrize("training", [True, False])
def test_it_is_torchattacks_pgd_to_the_bit(training: bool) -> None:
    torchattacks = pytest.importorskip("torchattacks")
    x, y = images(8)
    theirs = torchattacks.PGD(net().train(training), eps=8 / 255, alpha=2 / 255, steps=5, random_start=False)
    theirs.set_model_training_mode(training, training, training)
    ours = pgd(
        net().train(training),
        x,
        y,
        eps=8 / 255,
        step_size=2 / 255,
        steps=5,
        generator=generator(),
        random_start=False,
    )
    assert torch.equal(ours, theirs(x, y))


def test_parameters_keep_their_gradients_and_their_flags() -> None:
    model = net()
    first, *others = model.parameters()
    first.requires_grad_(False)
    others[0].grad = torch.full_like(others[0], 3.0)
    x, y = images()
    pgd(model, x, y, eps=0.1, step_size=0.05, steps=2, generator=generator())
    assert [p.requires_grad for p in model.parameters()] == [False] + [True] * len(others)
    assert torch.equal(others[0].grad, torch.full_like(others[0], 3.0))
    assert all(p.grad is None for p in others[1:])


class Failing(nn.Module):
    """Breaks in the second forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.calls = net(), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        assert not any(p.requires_grad for p in self.parameters())
        if self.calls == 2:
            raise RuntimeError("on purpose")
        return self.inner(x)


def test_flags_come_back_after_an_error() -> None:
    model = Failing()
    x, y = images()
    with pytest.raises(RuntimeError, match="on purpose"):
        pgd(model, x, y, eps=0.1, step_size=0.05, steps=2, generator=generator())
    assert all(p.requires_grad for p in model.parameters())


def test_only_its_own_generator_is_drawn_from() -> None:
    x, y = images()
    before = torch.get_rng_state()
    runs = [
        pgd(net(), x, y, eps=0.1, step_size=0.05, steps=2, generator=generator(seed)) for seed in (1, 1, 2)
    ]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_it_works_where_gradients_are_off() -> None:
    x, y = images()
    arguments = {"eps": 0.1, "step_size": 0.05, "steps": 2, "random_start": False}
    expected = pgd(net(), x, y, generator=generator(), **arguments)
    with torch.no_grad():
        assert torch.equal(pgd(net(), x, y, generator=generator(), **arguments), expected)
        assert not torch.is_grad_enabled()


def test_an_image_is_attacked_alike_in_any_batch() -> None:
    model, (x, y) = net().eval(), images()
    arguments = {"eps": 0.1, "step_size": 0.05, "steps": 3, "random_start": False}
    together = pgd(model, x, y, generator=generator(), **arguments)
    alone = torch.cat(
        [pgd(model, x[i : i + 1], y[i : i + 1], generator=generator(), **arguments) for i in range(len(x))]
    )
    # A pixel whose gradient is zero but for rounding may go the other way.
    assert ((together - alone).abs() > 1e-6).float().mean() < 0.01


def test_another_loss_is_climbed_instead() -> None:
    weight = torch.randn(300, generator=generator()) / 10
    x, y = images(low=0.3, high=0.7)
    towards = pgd(
        linear_model(weight), x, y % 2, eps=0.1, step_size=0.05, steps=5, generator=generator(),
        loss=lambda logits, labels: logits[:, 0].sum(),
    )  # fmt: skip
    torch.testing.assert_close(towards, x + 0.1 * weight.sign().reshape(3, 10, 10), atol=1e-6, rtol=0)


class L2:
    """The Euclidean ball, to see that the formula asks nothing else of a norm."""

    def random_point(self, x: Tensor, eps: float, generator: torch.Generator) -> Tensor:
        return self.project(torch.randn(x.shape, generator=generator), eps)

    def direction(self, gradient: Tensor) -> Tensor:
        return gradient / gradient.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)

    def project(self, delta: Tensor, eps: float) -> Tensor:
        return delta * (eps / delta.flatten(1).norm(dim=1).clamp(min=eps)).reshape(-1, 1, 1, 1)


def test_another_norm_has_its_own_optimum() -> None:
    weight = torch.randn(300, generator=generator()) / 10
    x, y = images(low=0.3, high=0.7)
    y = y % 2
    x_adv = pgd(
        linear_model(weight), x, y, eps=0.5, step_size=0.2, steps=40, generator=generator(), norm=L2()
    )
    away = (weight / weight.norm()).reshape(3, 10, 10) * (2 * y - 1).reshape(-1, 1, 1, 1)
    torch.testing.assert_close(x_adv, x + 0.5 * away, atol=1e-4, rtol=0)


def test_a_zero_gradient_moves_nothing() -> None:
    assert torch.equal(
        LINF.direction(torch.tensor([[[[-2.0, 0.0, 3.0]]]])), torch.tensor([[[[-1.0, 0.0, 1.0]]]])
    )
