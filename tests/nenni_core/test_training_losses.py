"""Defences that are another loss: by hand on a linear model, and equal to what they contain, to the bit."""

from contextlib import ExitStack

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import kstest, norm
from torch import Tensor, nn
from training_problem import Jitter, net, problem, recipe, same

from nenni_core.attacks.pgd import pgd
from nenni_core.defenses import DEFENSES, Defense, Ensemble, StepContext, make_defense
from nenni_core.defenses.trades import START_SIGMA
from nenni_core.errors import InputError
from nenni_core.models import MODELS, build_model
from nenni_core.randomness import held_noise, set_noise
from nenni_core.training import TrainingResult, train


def fit(defense: Defense, **changes: object) -> TrainingResult:
    return train(net(), *problem(), recipe(**changes), seed=3, checkpoint_dir=None, defense=defense)


def context(
    eps: float = 0.1, steps: int = 4, step_size: float = 0.03, position: float = 0.0, epochs: int = 10
) -> StepContext:
    return StepContext(
        eps=eps,
        step_size=step_size,
        steps=steps,
        generator=torch.Generator().manual_seed(1),
        position=position,
        epochs=epochs,
        after_step=ExitStack(),
    )


def linear(weight: list[list[float]], bias: list[float]) -> nn.Module:
    """Logits W x + b of images with as many pixels as W has columns."""
    layer = nn.Linear(len(weight[0]), len(weight))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
        layer.bias.copy_(torch.tensor(bias))
    return nn.Sequential(nn.Flatten(), layer)


def images(*pixels: list[float]) -> Tensor:
    return torch.tensor(pixels).view(len(pixels), 1, 1, -1)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


# --- defences that contain each other --------------------------------------------------------------------

EQUAL = [
    ("trades", {"beta": 0.0}, "clean", {}),
    ("fat", {"taus": (2,), "milestones": (), "omega": 0.0}, "adversarial", {}),
    ("awp", {"gamma": 0.0}, "adversarial", {}),
    ("awp", {"gamma": 0.1, "warmup": 1.0}, "adversarial", {}),
    ("trades_awp", {"gamma": 0.0}, "trades", {}),
    ("trades_awp", {"gamma": 0.0, "beta": 0.0}, "clean", {}),
    ("robust_wrn", {}, "adversarial", {}),
]


@pytest.mark.parametrize(("kind", "settings", "other", "its"), EQUAL)
def test_a_defence_without_its_own_part_is_the_other_one_to_the_bit(
    kind: str, settings: dict, other: str, its: dict
) -> None:
    one, two = fit(make_defense(kind, **settings)), fit(make_defense(other, **its))
    assert same(one.last, two.last)
    assert same(one.best, two.best)


@pytest.mark.parametrize(
    ("kind", "settings", "other"),
    [("trades", {"beta": 1.0}, "clean"),
     ("fat", {"taus": (0,), "milestones": (), "omega": 0.0}, "adversarial"),
     ("fat", {"taus": (2,), "milestones": (), "omega": 0.01}, "adversarial"), ("awp", {}, "adversarial"),
     ("trades_awp", {"warmup": 0.0}, "trades")],
)  # fmt: skip
def test_its_own_part_changes_the_result(kind: str, settings: dict, other: str) -> None:
    assert not same(fit(make_defense(kind, **settings)).last, fit(make_defense(other)).last)


# --- TRADES ----------------------------------------------------------------------------------------------


def test_the_loss_of_trades_by_hand() -> None:
    weight, bias = [[1.0, -2.0], [0.5, 1.0], [-1.0, 0.0]], [0.1, 0.0, -0.2]
    x, x_adv = np.array([[0.2, 0.7], [0.9, 0.4]]), np.array([[0.3, 0.6], [0.8, 0.5]])
    y = np.array([0, 2])
    clean, attacked = (softmax(points @ np.array(weight).T + np.array(bias)) for points in (x, x_adv))
    expected = -np.log(clean[[0, 1], y]).mean()
    expected += 6 * (clean * (np.log(clean) - np.log(attacked))).sum(1).mean()
    loss, logits = make_defense("trades").loss(
        linear(weight, bias),
        torch.tensor(x, dtype=torch.float32).view(2, 1, 1, 2),
        torch.tensor(x_adv, dtype=torch.float32).view(2, 1, 1, 2),
        torch.tensor(y),
        context(),
    )
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(logits.softmax(1).detach().numpy(), attacked, rtol=1e-5)


def test_the_gradient_of_trades_flows_through_both_predictions() -> None:
    """Written out: of KL(p || q) it is p (log p - log q - KL) at the clean logits and q - p at the others."""
    weight, bias = [[1.0, -2.0], [0.5, 1.0], [-1.0, 0.0]], [0.1, 0.0, -0.2]
    x, x_adv = np.array([[0.2, 0.7], [0.9, 0.4]]), np.array([[0.5, 0.4], [0.6, 0.7]])
    clean, attacked = (softmax(points @ np.array(weight).T + np.array(bias)) for points in (x, x_adv))
    ratio = np.log(clean / attacked)
    at_clean = clean - np.eye(3)[[0, 2]] + 6 * clean * (ratio - (clean * ratio).sum(1, keepdims=True))
    at_attacked = 6 * (attacked - clean)
    model = linear(weight, bias)
    loss, _ = make_defense("trades").loss(
        model, images(*x.tolist()), images(*x_adv.tolist()), torch.tensor([0, 2]), context()
    )
    loss.backward()
    expected = (at_clean.T @ x + at_attacked.T @ x_adv) / 2
    np.testing.assert_allclose(model[1].weight.grad.numpy(), expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        model[1].bias.grad.numpy(), (at_clean + at_attacked).mean(0), rtol=1e-4, atol=1e-6
    )


def test_trades_starts_very_near_to_the_image() -> None:
    """Normal with standard deviation START_SIGMA, whatever eps is."""
    model = linear([[1.0] * 20_000, [0.0] * 20_000], [0.0, 0.0])
    x = torch.full((1, 1, 1, 20_000), 0.5)
    start = make_defense("trades").search(model, x, torch.tensor([0]), context(eps=0.1, steps=0))
    moved = (start - x).flatten().numpy()
    assert np.abs(moved).max() < 6 * START_SIGMA
    assert kstest(moved, norm(scale=START_SIGMA).cdf).pvalue > 0.01
    assert kstest(moved, norm(scale=1.1 * START_SIGMA).cdf).pvalue < 1e-4


def test_trades_walks_into_a_corner_of_the_cube() -> None:
    """Of two classes the difference of the logits is linear: the divergence grows up to two corners."""
    model = linear([[2.0, -1.0, 0.5], [0.0, 0.0, 0.0]], [0.0, 0.0])
    x, y = images([0.5, 0.5, 0.5], [0.3, 0.6, 0.4]), torch.tensor([0, 1])
    found = make_defense("trades").search(model, x, y, context(eps=0.1, steps=10, step_size=0.03))
    corner = torch.tensor([0.1, -0.1, 0.1]).view(1, 1, 1, 3)
    for delta in found - x:
        torch.testing.assert_close(delta * (delta[0, 0, 0] / corner[0, 0, 0, 0]).sign(), corner[0])


def test_trades_searches_in_eval_mode_and_leaves_the_statistics_alone() -> None:
    model, (x, y, *_) = net(), problem()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    make_defense("trades").search(model, x[:8] / 255, y[:8], context())
    assert all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())
    assert model.training


# --- friendly adversarial training -----------------------------------------------------------------------


@pytest.mark.parametrize("tau", [0, 1, 2, 5])
def test_an_image_is_attacked_tau_steps_beyond_the_boundary(tau: int) -> None:
    """On a linear model every step moves the margin by the same amount, so the stop is known in advance."""
    model = linear([[1.0], [0.0]], [-0.5, 0.0])  # class 0 above 0.5
    x = torch.linspace(0.35, 0.75, 24).view(-1, 1, 1, 1)
    friendly = make_defense("fat", taus=(tau,), milestones=(), omega=0.0)
    given = context(eps=0.1, steps=10, step_size=0.02)
    # replay the random start, and walk down until the boundary is crossed
    begin = (x + (torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) * 0.2 - 0.1)).clamp(0, 1)
    found = friendly.search(model, x, torch.zeros(24, dtype=torch.int64), given)
    stopped_midway = 0
    for i in range(24):
        value, beyond, walked = float(begin[i]), 0, 0
        for _ in range(10):
            if value < 0.5:
                if beyond == tau:
                    stopped_midway += walked > tau  # right at the start, wrong later, and then stopped
                    break
                beyond += 1
            value, walked = max(value - 0.02, float(x[i]) - 0.1), walked + 1
        assert float(found[i]) == pytest.approx(value, abs=1e-5)
    assert stopped_midway >= 3


@pytest.mark.parametrize("steps", [1, 4])
def test_omega_is_the_standard_deviation_of_noise_that_moves_the_image_at_each_step(steps: int) -> None:
    """Against the search without noise: normal, of variance omega^2 a step, and not of a tenth more."""
    pixels, omega = 40_000, 0.01
    model = linear([[1.0] * pixels, [0.0] * pixels], [0.0, 0.0])
    x, y = torch.full((1, 1, 1, pixels), 0.5), torch.tensor([0])
    start, with_noise, without = (
        make_defense("fat", taus=(9,), milestones=(), omega=sigma).search(
            model, x, y, context(eps=0.3, steps=count, step_size=0.01)
        )
        for sigma, count in ((0.0, 0), (omega, steps), (0.0, steps))
    )
    inside = (start - x).abs() < 0.15  # never projected
    moved = (with_noise - without)[inside].numpy()
    sigma = omega * steps**0.5
    assert kstest(moved, norm(scale=sigma).cdf).pvalue > 0.01
    assert kstest(moved, norm(scale=1.1 * sigma).cdf).pvalue < 1e-4


def test_tau_follows_its_curriculum() -> None:
    friendly = make_defense("fat", taus=(0, 1, 2), milestones=(0.25, 0.5))
    taus = [friendly.tau(context(position=epoch + 0.9, epochs=8)) for epoch in range(8)]
    assert taus == [0, 0, 1, 1, 2, 2, 2, 2]


# --- adversarial weight perturbation ---------------------------------------------------------------------


def test_a_step_of_awp_by_hand() -> None:
    weight, bias = torch.tensor([[1.0, -2.0], [0.5, 1.0]]), torch.tensor([0.1, 0.0])
    model = linear(weight.tolist(), bias.tolist())
    x, y = images([0.2, 0.7], [0.9, 0.4]), torch.tensor([0, 1])
    given = context(eps=0.05, steps=1, step_size=0.05)
    defense = make_defense("awp", gamma=0.1)
    x_adv = pgd(model, x, y, eps=0.05, step_size=0.05, steps=1, generator=torch.Generator().manual_seed(1))
    points = x_adv.flatten(1)

    def gradient(w: Tensor) -> Tensor:
        error = (points @ w.T + bias).softmax(1) - F.one_hot(y, 2)
        return error.T @ points / len(points)

    ascent = gradient(weight)
    moved = weight + 0.1 * weight.norm() / ascent.norm() * ascent
    with given.after_step:
        loss, _ = defense.step(model, x, y, given)
        torch.testing.assert_close(model[1].weight.detach(), moved)
        torch.testing.assert_close(loss, F.cross_entropy(points @ moved.T + bias, y))
        loss.backward()
        torch.testing.assert_close(model[1].weight.grad, gradient(moved), atol=1e-6, rtol=1e-5)
        assert torch.equal(model[1].bias, bias)
    torch.testing.assert_close(model[1].weight.detach(), weight)


def test_the_search_for_the_worst_weights_leaves_no_trace_in_the_statistics() -> None:
    x, y = (tensor[:16] for tensor in problem()[:2])
    states = {}
    for gamma in (1e-12, 0.0):
        model = net()
        with (given := context()).after_step:
            make_defense("awp", gamma=gamma).step(model, x / 255, y, given)
        states[gamma] = {name: buffer.clone() for name, buffer in model.named_buffers()}
    for name, buffer in states[0.0].items():
        torch.testing.assert_close(states[1e-12][name], buffer)


# --- RobustWRN, and names --------------------------------------------------------------------------------


def test_robust_wrn_has_less_capacity_in_its_last_stage_only() -> None:
    defense = make_defense("robust_wrn")
    for name in ("wrn34_10", "small_resnet"):
        reduced = defense.architecture(name)
        assert reduced in MODELS
        full, less = (
            [m.out_channels for m in build_model(n, num_classes=10).modules() if isinstance(m, nn.Conv2d)]
            for n in (name, reduced)
        )
        changed = [(a, b) for a, b in zip(full, less, strict=True) if a != b]
        assert changed == [(max(full), round(0.4 * max(full)))] * full.count(max(full))
    with pytest.raises(InputError, match="unknown model to reduce for RobustWRN 'resnet18'"):
        defense.architecture("resnet18")


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("tradez", {}, "unknown defence 'tradez'; did you mean 'trades'"),
        ("trades", {"betta": 1.0}, "unknown setting of the defence 'trades' 'betta'; did you mean 'beta'"),
        ("trades", {"beta": -1.0}, "beta is -1.0; expected a value at least 0"),
        ("fat", {"taus": (0, 1), "milestones": ()}, "taus has 2 values and milestones 0"),
        ("fat", {"taus": (-1,), "milestones": ()}, "taus is"),
        ("fat", {"milestones": (0.9, 0.5, 0.1)}, "milestones is"),
        ("fat", {"omega": 2.0}, "omega is 2.0"),
        ("awp", {"gamma": -0.1}, "gamma is -0.1"),
        ("awp", {"warmup": 1.5}, "warmup is 1.5"),
        ("trades_awp", {"beta": -1.0}, "beta is -1.0"),
    ],
)
def test_wrong_settings_are_named(kind: str, settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_defense(kind, **settings)


def test_every_defence_has_a_title_of_its_own_and_says_what_it_is() -> None:
    titles = [defense.title for defense in DEFENSES.values()]
    assert len(set(titles)) == len(titles)
    assert all(defense.__doc__ for defense in DEFENSES.values())


# --- ensembles -------------------------------------------------------------------------------------------


def noisy() -> nn.Module:
    model = net(noisy=True).eval()
    set_noise(model, "inference", 4)
    return model


def test_an_ensemble_predicts_the_mean_probability_of_its_passes() -> None:
    x = problem()[0][:6] / 255
    model = noisy()
    single = [model(x).softmax(1) for _ in range(3)]
    set_noise(model, "inference", 4)
    together = Ensemble(model, 3)(x)
    torch.testing.assert_close(together.exp(), torch.stack(single).mean(0))
    torch.testing.assert_close(together.exp().sum(1), torch.ones(6))


def test_each_pass_of_an_ensemble_keeps_a_draw_of_its_own_while_the_noise_is_held() -> None:
    x = problem()[0][:6] / 255
    model = noisy()
    ensemble = Ensemble(model, 3)
    [jitter] = [module for module in model if isinstance(module, Jitter)]
    with held_noise(ensemble):
        first, again, part = ensemble(x), ensemble(x), ensemble(x[2:4])
        assert jitter.draws == 3
        alone = model(x).log_softmax(1)
    assert torch.equal(first, again)
    torch.testing.assert_close(part, first[2:4])
    assert not torch.equal(first, alone)
    assert not torch.equal(first, ensemble(x))


def test_an_attack_differentiates_the_whole_ensemble() -> None:
    x = (problem()[0][:2] / 255).requires_grad_(True)
    model = noisy()
    with held_noise(model):
        ensemble = Ensemble(model, 2)
        (whole,) = torch.autograd.grad(ensemble(x)[:, 0].sum(), x)
        [stream] = [module.noise_stream for module in model if isinstance(module, Jitter)]
        probabilities = []
        for stream.member in (0, 1):
            probabilities.append(model(x).softmax(1))
        stream.member = 0
        (expected,) = torch.autograd.grad(torch.stack(probabilities).mean(0)[:, 0].log().sum(), x)
    torch.testing.assert_close(whole, expected)


def test_an_ensemble_of_a_deterministic_network_is_refused() -> None:
    with pytest.raises(InputError, match="would repeat one prediction; expected a random network"):
        Ensemble(net(), 10)
    with pytest.raises(InputError, match="passes is 0; expected a value at least 1"):
        Ensemble(noisy(), 0)
