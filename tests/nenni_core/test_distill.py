"""Distillation against linear algebra done another way."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nenni_core import (
    InputError,
    TrainingDiverged,
    calibrate,
    distill,
    distill_checkpoint,
    inject,
    injected_layers,
    mask_densities,
)
from nenni_core.injection import Injection
from nenni_core.moments import Moments


def small_network(groups: int = 1) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 6, 3, stride=2, groups=groups),
            nn.ReLU(),
            nn.Flatten(),
            nn.LazyLinear(4),
        ).eval()


def batches(count: int = 3, size: int = 12) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(size, 3, 9, 9, generator=generator) for _ in range(count)]


@pytest.fixture
def network() -> nn.Module:
    model = small_network()
    model(batches()[0])
    return model


def regression_table(
    network: nn.Module, layer: nn.Module, position: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(P x with a column of ones, z) over all data and positions, for ordinary least squares."""
    rows, targets = [], []
    for x in batches():
        x = network[:position](x)
        rows.append(layer.projected(x).movedim(1, -1).flatten(0, 2))
        targets.append(network[position](x).movedim(1, -1).flatten(0, 2))
    y = torch.cat(rows).double()
    return torch.cat([y, torch.ones(len(y), 1)], dim=1), torch.cat(targets).double()


@torch.no_grad()
@pytest.mark.parametrize("position", [0, 3])
def test_least_squares_is_the_ordinary_least_squares_solution(network: nn.Module, position: int) -> None:
    noisy = inject(network, Injection())
    quality = {q.name: q for q in distill(noisy, batches(), ridge=0.0)}
    layer = injected_layers(noisy)[str(position)]
    table, target = regression_table(network, layer, position)
    solution = torch.linalg.lstsq(table, target).solution
    assert torch.allclose(layer.approx_weight[0].double(), solution[:-1].T, atol=1e-3)
    assert torch.allclose(layer.approx_bias[0].double(), solution[-1], atol=1e-3)
    residual = (table @ solution - target).square().sum() / (target - target.mean(0)).square().sum()
    assert quality[str(position)].nmse == pytest.approx(residual.item(), rel=1e-3)
    weight, bias = layer.rounded_parameters(0)
    rounded = (table @ torch.cat([weight.T, bias[None]]).double() - target).square().sum()
    assert quality[str(position)].nmse_quantized == pytest.approx(
        (rounded / (target - target.mean(0)).square().sum()).item(), rel=1e-3
    )


@pytest.mark.parametrize("groups", [1, 2])
def test_least_squares_beats_or_equals_sgd_on_the_same_data(groups: int) -> None:
    network = small_network(groups)
    network(batches()[0])
    closed = distill(inject(network, Injection()), batches())
    descended = distill(inject(network, Injection()), batches(), solver="sgd", epochs=60)
    start = distill(inject(network, Injection()), batches(), solver="sgd", epochs=0)
    for best, sgd, untrained in zip(closed, descended, start, strict=True):
        assert best.nmse <= sgd.nmse + 1e-6
        assert sgd.nmse < untrained.nmse  # SGD does learn ...
        assert sgd.nmse < best.nmse + 0.25 * (untrained.nmse - best.nmse)  # ... most of what there is


def test_a_projection_without_loss_is_learned_exactly(network: nn.Module) -> None:
    """With k = 3d the projected input determines the input, so that the optimum reproduces the layer."""
    noisy = inject(network, Injection(projection_ratio=1.0, bits=16))
    first = distill(noisy, batches(), ridge=1e-12)[0]
    signs = injected_layers(noisy)["0"].signs[0, 0].double()
    assert torch.linalg.matrix_rank(signs) == signs.shape[1]
    assert first.nmse < 1e-6
    assert first.top_k_recall > 0.95


def test_more_rank_never_fits_worse(network: nn.Module) -> None:
    errors = [
        distill(inject(network, Injection(projection_ratio=share)), batches())[1].nmse
        for share in (0.1, 0.4, 0.9)
    ]
    assert errors[0] > errors[1] > errors[2]


def test_rounding_costs_and_wider_numbers_cost_less(network: nn.Module) -> None:
    for narrow, wide in zip(
        *(distill(inject(network, Injection(bits=bits)), batches()) for bits in (4, 8)), strict=True
    ):
        assert narrow.nmse == pytest.approx(wide.nmse)
        assert narrow.nmse_quantized > wide.nmse_quantized >= wide.nmse - 1e-9


def test_distillation_selects_better_than_the_random_estimate(network: nn.Module) -> None:
    def recall(model: nn.Module, epochs: int) -> list[float]:
        return [q.top_k_recall for q in distill(model, batches(), solver="sgd", epochs=epochs)]

    untrained = recall(inject(network, Injection(ratio=0.8)), 0)
    learned = [q.top_k_recall for q in distill(inject(network, Injection(ratio=0.8)), batches())]
    assert all(a > b for a, b in zip(learned, untrained, strict=True))


@pytest.mark.parametrize("fields", [{"randomize": "bank", "bank_size": 3}, {"quantize_projected": True}])
@pytest.mark.parametrize("solver", ["least_squares", "sgd"])
def test_banks_and_rounded_projections_are_distilled_too(
    network: nn.Module, fields: dict, solver: str
) -> None:
    before = distill(inject(network, Injection(**fields)), batches(), solver="sgd", epochs=0)
    after = distill(inject(network, Injection(**fields)), batches(), solver=solver, epochs=30)
    assert all(a.nmse < b.nmse for a, b in zip(after, before, strict=True))


def test_distillation_is_reproducible_and_keeps_the_dense_weights_and_modes(network: nn.Module) -> None:
    network.train()
    statistics = {name: value.clone() for name, value in network.state_dict().items()}
    states = []
    for _ in range(2):
        noisy = inject(network, Injection())
        distill(noisy, batches(), solver="sgd", epochs=3)
        assert all(module.training for module in noisy.modules())
        states.append(noisy.state_dict())
    assert all(
        torch.equal(states[0][name], states[1][name]) or states[0][name].isnan().all() for name in states[0]
    )
    assert all(torch.equal(states[0][name], value) for name, value in statistics.items())


@pytest.mark.parametrize(
    ("target", "score"),
    [("non_essential", "magnitude"), ("non_essential", "signed"), ("essential", "magnitude")],
)
def test_calibrated_thresholds_hold_the_mean_ratio_on_the_data(
    network: nn.Module, target: str, score: str
) -> None:
    noisy = inject(network, Injection(ratio=0.7, selection="threshold", target=target, score=score))
    distill(noisy, batches())
    calibrate(noisy, batches())
    # the first layer sees the same inputs when the mask is measured; later ones see other noise upstream
    assert mask_densities(noisy, batches())["0"] == pytest.approx(0.3, abs=0.002)
    assert mask_densities(noisy, batches())["3"] == pytest.approx(0.3, abs=0.03)


def test_errors_say_what_to_do(network: nn.Module) -> None:
    noisy = inject(network, Injection())
    with pytest.raises(InputError, match="no injected layers to distil; call inject first"):
        distill(network, batches())
    with pytest.raises(InputError, match="at least one batch of images to distil on"):
        distill(noisy, [])
    with pytest.raises(InputError, match="at least one batch of images to calibrate on"):
        calibrate(noisy, [])
    with pytest.raises(InputError, match="keeps a pattern, which has no threshold"):
        calibrate(inject(network, Injection(ratio=None, pattern="1:2")), batches())
    with pytest.raises(TrainingDiverged, match="not finite; lower the learning rate 1e\\+06"):
        distill(noisy, batches(), solver="sgd", epochs=60, learning_rate=1e6)


def test_sampled_thresholds_hold_the_ratio_where_borders_differ_from_the_middle() -> None:
    """Zero padding makes the first column unlike the rest: the sample must not be taken from it alone."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = nn.Conv2d(3, 8, 3, padding=1)
    noisy = inject(layer, Injection(ratio=0.9, selection="threshold"))
    generator = torch.Generator().manual_seed(0)
    data = [torch.rand(32, 3, 32, 32, generator=generator) for _ in range(4)]
    calibrate(noisy, data, samples_per_layer=4 * 32 * 8 * 32)  # one in 32, the width of a row
    assert mask_densities(noisy, data)[""] == pytest.approx(0.1, abs=0.005)


def test_dead_inputs_and_constant_outputs_are_learned_as_constants() -> None:
    depthwise = nn.Conv2d(4, 4, 3, groups=4)
    noisy = inject(depthwise, Injection())
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(6, 4, 8, 8, generator=generator)
    images[:, 1] = 0  # as after a dead ReLU
    [quality] = distill(noisy, [images])
    assert noisy.approx_weight[0, 1].abs().max() == 0
    assert torch.isfinite(noisy(images)).all()
    assert 0 < quality.nmse < 1
    [constant] = distill(noisy, [torch.zeros(2, 4, 8, 8)])
    assert constant.nmse == pytest.approx(0, abs=1e-5)


def test_distillation_leaves_frozen_layers_frozen_and_noise_where_it_was(network: nn.Module) -> None:
    network.train()
    network[1].eval()
    noisy = inject(network, Injection(randomize="stochastic_rounding"))
    state = noisy[0].noise_stream.generator.get_state()
    distill(noisy, batches())
    assert not noisy[1].training
    assert noisy[0].training
    assert torch.equal(noisy[0].noise_stream.generator.get_state(), state)


@pytest.mark.parametrize("mean", [0.0, 1e4])
def test_moments_keep_their_precision_where_the_mean_is_large(mean: float) -> None:
    """Against ordinary least squares in float64 on the same numbers; the second batch's mean has moved."""
    generator = torch.Generator().manual_seed(0)
    y = mean + torch.randn(2, 1, 500, 5, generator=generator)
    y[1] += 3
    mixing = torch.randn(5, 4, generator=generator)
    z = y @ mixing + 0.5 * torch.randn(2, 1, 500, 4, generator=generator)
    moments = Moments(groups=1, rank=5, outputs=4)
    for batch in range(2):
        moments.add(y[batch], z[batch])
    inputs, outputs = y.double().flatten(0, 2), z.double().flatten(0, 2)
    centred = outputs - outputs.mean(0)
    expected = torch.linalg.lstsq(inputs - inputs.mean(0), centred).solution.T
    weight, bias = moments.solve(ridge=0.0)
    assert torch.allclose(weight.double(), expected, atol=1e-5)
    offsets = outputs.mean(0) - expected @ inputs.mean(0)
    assert torch.allclose(bias.double(), offsets, rtol=1e-6, atol=1e-5 * (1 + mean))
    residual = (outputs - inputs @ weight.double().T - bias.double()).square().sum()
    assert moments.normalised_error(weight, bias) == pytest.approx(
        (residual / centred.square().sum()).item(), rel=1e-4
    )


def test_one_image_is_enough_for_a_model_in_training_mode() -> None:
    """Batch norm over single values cannot train on it, but to look at a model is not to train it."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(8)
    ).train()
    noisy = inject(model, Injection(ratio=0.5, selection="threshold"))
    [image] = batches(1, size=1)
    with pytest.raises(InputError, match="has no threshold"):
        noisy(image)
    [quality] = distill(noisy, [image])
    calibrate(noisy, [image])
    assert 0 <= quality.nmse <= 1
    assert mask_densities(noisy, [image])["0"] == pytest.approx(0.5, abs=0.01)
    assert noisy[3].num_batches_tracked == 0
    with pytest.raises(ValueError, match="more than 1 value per channel"):  # as the dense model says
        noisy(image)


def test_labelled_batches_are_understood_and_generators_refused(network: nn.Module) -> None:
    labelled = [(x, torch.zeros(len(x))) for x in batches()]
    assert distill(inject(network, Injection()), labelled) == distill(inject(network, Injection()), batches())
    with pytest.raises(InputError, match="data is a generator, which can be read only once"):
        distill(inject(network, Injection()), (x for x in batches()))


def test_frozen_parameters_are_distilled_and_stay_frozen(network: nn.Module) -> None:
    noisy = inject(network, Injection()).requires_grad_(False)
    before = noisy[0].approx_weight.clone()
    distill(noisy, batches(), solver="sgd", epochs=2)
    assert not torch.equal(noisy[0].approx_weight, before)
    assert not any(parameter.requires_grad for parameter in noisy.parameters())


def test_one_tensor_is_no_list_of_batches() -> None:
    network = inject(nn.Sequential(nn.Conv2d(3, 4, 3)), Injection(ratio=0.5))
    with pytest.raises(InputError, match=r"one tensor of shape \(2, 3, 8, 8\); expected batches"):
        distill(network, torch.rand(2, 3, 8, 8))


class Stopped(Exception):
    """Raised in the middle of a distillation."""


@pytest.mark.parametrize(
    ("fields", "solver", "stops"),
    [
        ({}, "least_squares", [("measuring layers", 1), ("measuring layers", 5)]),
        (
            {"quantize_projected": True, "randomize": "bank", "bank_size": 2},
            "least_squares",
            [("measuring layers", 3), ("measuring layers", 4)],
        ),
        (
            {"scale": "per_channel"},
            "sgd",
            [("measuring layers", 3), ("distilling", 1), ("distilling", 3), ("distilling", 4)],
        ),
    ],
)
def test_interrupted_it_ends_in_the_same_bits(
    network: nn.Module,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fields: dict[str, Any],
    solver: str,
    stops: list[tuple[str, int]],
) -> None:
    """Stopped at the given places, each time going on with a fresh model; what is kept is not done again."""
    monkeypatch.setattr(distill_checkpoint, "CHECKPOINT_INTERVAL", 2)
    seen: list[tuple[str, int]] = []

    def distilled(
        directory: Path | None, stop: tuple[str, int] | None
    ) -> tuple[Any, dict[str, torch.Tensor]]:
        def progress(description: str, completed: int, total: int) -> None:
            seen.append((description, completed))
            if (description, completed) == stop:
                raise Stopped

        model = inject(network, Injection(**fields))
        quality = distill(
            model, batches(6), solver=solver, epochs=4, checkpoint_dir=directory, on_progress=progress
        )
        return quality, model.state_dict()

    quality, state = distilled(None, None)
    whole = list(seen)
    seen.clear()
    for stop in stops:
        with pytest.raises(Stopped):
            distilled(tmp_path, stop)
    again, continued = distilled(tmp_path, None)
    assert again == quality
    assert state.keys() == continued.keys()
    for name, tensor in state.items():
        assert torch.equal(tensor.nan_to_num(), continued[name].nan_to_num()), name
    assert set(seen) == set(whole)
    repeated = [step for step in whole if seen.count(step) > 1 + stops.count(step)]
    assert all(step[0] == "measuring layers" and step[1] % 2 == 1 for step in repeated)  # between checkpoints


def test_a_checkpoint_of_another_distillation_is_refused(
    network: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distill_checkpoint, "CHECKPOINT_INTERVAL", 1)
    distill(inject(network, Injection()), batches(), checkpoint_dir=tmp_path)
    with pytest.raises(InputError, match=r"belongs to another run \(ridge was 1e-06, is 0\.5\)"):
        distill(inject(network, Injection()), batches(), checkpoint_dir=tmp_path, ridge=0.5)
    with pytest.raises(InputError, match=r"belongs to another run \(first batch was"):
        distill(inject(network, Injection()), [1 - x for x in batches()], checkpoint_dir=tmp_path)
    with torch.no_grad():
        network[0].weight.mul_(2)
    with pytest.raises(InputError, match=r"belongs to another run \(model was"):
        distill(inject(network, Injection()), batches(), checkpoint_dir=tmp_path)
