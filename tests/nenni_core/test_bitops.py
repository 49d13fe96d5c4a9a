"""BitOPs against counts by hand and against every ratio that the paper prints."""

import csv
from pathlib import Path

import pytest
import torch
from torch import nn

from nenni_core import Injection, InputError, bitops, inject, mask_densities, set_injection
from nenni_core.models import build_model

REFERENCE = Path(__file__).parents[2] / "analysis" / "reference"


def test_one_convolution_counted_by_hand() -> None:
    """3x3, 4 -> 8 channels, 10x10 positions: d = 36, k = 9, 800 outputs, 28 800 multiply-accumulates."""
    layer = inject(nn.Conv2d(4, 8, 3, padding=1), Injection(ratio=0.75))
    cost = bitops(layer, (4, 10, 10)).layers[0]
    assert (cost.macs, cost.outputs) == (28_800, 800)
    assert cost.dense == 28_800 * 256
    assert cost.precise == 0.25 * 28_800 * 256
    assert cost.approximate == 800 * 9 * 64
    assert cost.projection == 100 * (9 * 36 / 3) * 4
    assert cost.selection == 800 * 16
    assert cost.total == cost.precise + cost.approximate + cost.projection + cost.selection


def test_a_grouped_convolution_projects_each_group() -> None:
    """Two groups of 2 -> 4 channels, 1x1: d = 2, k = 1 in each."""
    cost = bitops(inject(nn.Conv2d(4, 8, 1, groups=2), Injection(ratio=1.0)), (4, 5, 5)).layers[0]
    assert cost.macs == 25 * 8 * 2
    assert cost.approximate == 25 * 8 * 1 * 64
    assert cost.projection == pytest.approx(25 * 2 * (1 * 2 / 3) * 4)


def test_a_rounded_projection_is_multiplied_in_four_bits() -> None:
    plain, rounded = (
        bitops(inject(nn.Conv2d(4, 8, 3), Injection(quantize_projected=q)), (4, 6, 6)).layers[0]
        for q in (False, True)
    )
    assert plain.approximate == 16 * 8 * 9 * 64
    assert rounded.approximate == 16 * 8 * 9 * 16


def test_a_short_last_group_counts_what_it_keeps() -> None:
    """Ten channels at 7:8: one of the first eight and ceil(2/8) = 1 of the last two."""
    noisy = inject(nn.Conv2d(3, 10, 3), Injection(ratio=None, pattern="7:8"))
    assert bitops(noisy, (3, 6, 6)).layers[0].density == 0.2


def test_a_plain_model_costs_its_multiplications() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(2))
    cost = bitops(model, (3, 6, 6))
    assert cost.total == cost.dense == 16 * 4 * 27 * 256
    assert (cost.ratio, cost.reduction) == (1, 0)


def test_without_noise_nothing_is_approximated() -> None:
    assert bitops(inject(nn.Conv2d(3, 4, 3), Injection(ratio=0.0)), (3, 6, 6)).ratio == 1


@pytest.mark.parametrize(
    ("name", "convolutions", "macs"), [("resnet18", 20, 555_417_600), ("wrn34_10", 34, 6_658_899_968)]
)
def test_the_papers_networks_have_the_known_sizes(name: str, convolutions: int, macs: int) -> None:
    cost = bitops(build_model(name, num_classes=10).eval(), (3, 32, 32))
    assert (len(cost.layers), cost.macs) == (convolutions, macs)


def printed_costs() -> list[tuple[str, str, float, float]]:
    """(model, ratio or pattern, printed BitOPs, printed dense BitOPs) of tables 1, 2 and 4."""
    dense = {"resnet18": 2.60e9, "wrn34_10": 2.81e10}
    found = {}
    for table in ("table1", "table2", "table4"):
        with (REFERENCE / f"{table}.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                method = row["method"]
                if method.startswith("Noise Injection"):
                    setting = (
                        method.removeprefix("Noise Injection ").removeprefix("Ratio ").removesuffix(" (Ours)")
                    )
                    found[row["model"], setting] = float(row["bitops"])
    return [(model, setting, cost, dense[model]) for (model, setting), cost in found.items()]


PRINTED = printed_costs()


def rounding_interval(value: float) -> tuple[float, float]:
    """All numbers that print as `value` with three significant digits."""
    unit = 10.0 ** (int(f"{value:e}".split("e")[1]) - 2)
    return value - unit / 2, value + unit / 2


@pytest.fixture(scope="module")
def networks() -> dict[str, nn.Module]:
    return {
        name: inject(build_model(name, num_classes=10).eval(), Injection())
        for name in ("resnet18", "wrn34_10")
    }


def test_the_paper_prints_fourteen_costs_with_noise() -> None:
    """Twelve for ResNet-18 (seven ratios, five patterns) and two for WRN-34-10; CIFAR-100 repeats them.

    Both dense networks' costs, 2.60 E9 and 2.81 E10, are printed too. As they are what every ratio is taken
    to, they have no ratio of their own; whoever counts WRN-34-10's dense cost has fifteen.
    `test_one_dense_cost_explains_all_that_is_printed_of_a_network` covers them.
    """
    assert sorted(model for model, *_ in PRINTED) == ["resnet18"] * 12 + ["wrn34_10"] * 2


def our_ratio(network: nn.Module, setting: str) -> float:
    """Our cost of an injected network over the dense one's, at a printed ratio ("90%") or pattern."""
    if setting.endswith("%"):
        set_injection(network, ratio=float(setting.removesuffix("%")) / 100)
    else:
        set_injection(network, pattern=setting)
    return bitops(network, (3, 32, 32)).ratio


@pytest.mark.slow
@pytest.mark.parametrize(("model", "setting", "printed", "printed_dense"), PRINTED)
def test_every_printed_ratio_is_reproduced(
    networks: dict[str, nn.Module], model: str, setting: str, printed: float, printed_dense: float
) -> None:
    """Ours lies within what the printed costs, each rounded to three digits, allow."""
    low, high = rounding_interval(printed)
    dense_low, dense_high = rounding_interval(printed_dense)
    assert low / dense_high <= our_ratio(networks[model], setting) <= high / dense_low


@pytest.mark.slow
@pytest.mark.parametrize("model", ["resnet18", "wrn34_10"])
def test_one_dense_cost_explains_all_that_is_printed_of_a_network(
    networks: dict[str, nn.Module], model: str
) -> None:
    """Each printed cost allows a range of dense costs, given our ratio: they overlap with the printed one."""
    rows = [row for row in PRINTED if row[0] == model]
    lows, highs = map(list, zip(*(rounding_interval(dense) for *_, dense in rows), strict=True))
    for _, setting, printed, _ in rows:
        ratio = our_ratio(networks[model], setting)
        low, high = rounding_interval(printed)
        lows.append(low / ratio)
        highs.append(high / ratio)
    assert max(lows) <= min(highs)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["resnet18", "wrn34_10"])
@pytest.mark.parametrize(("ratio", "printed"), [(0.9, "82.6"), (0.99, "91.6")])
def test_every_printed_reduction_is_reproduced(
    networks: dict[str, nn.Module], model: str, ratio: float, printed: str
) -> None:
    """The "Improvement" rows of tables 1 and 2, to the digit."""
    reduction = bitops(set_injection(networks[model], ratio=ratio), (3, 32, 32)).reduction
    assert f"{100 * reduction:.1f}" == printed


def test_measured_densities_replace_the_nominal_ones() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
    noisy = inject(model, Injection(ratio=0.9))
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    densities = mask_densities(noisy, [images])
    measured, nominal = bitops(noisy, (3, 8, 8), densities), bitops(noisy, (3, 8, 8))
    kept = Injection(ratio=0.9).kept(8 * 64) / (8 * 64)
    assert densities == {"0": kept, "2": kept}  # the exact count is rounded up from 10%
    assert measured.total - nominal.total == pytest.approx((kept - 0.1) * nominal.dense)
    assert bitops(noisy, (3, 8, 8), {"0": 1.0, "2": 0.0}).layers[0].precise == nominal.layers[0].dense


def test_errors_name_the_layer_and_the_value() -> None:
    noisy = inject(nn.Sequential(nn.Conv2d(3, 4, 3)), Injection())
    with pytest.raises(InputError, match="unknown injected layer '1'; known: 0"):
        bitops(noisy, (3, 8, 8), {"1": 0.5})
    with pytest.raises(InputError, match=r"density 1\.5 of layer '0' is outside"):
        bitops(noisy, (3, 8, 8), {"0": 1.5})
