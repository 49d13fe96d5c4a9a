"""Figures 3, 4 and 5, security curves, Pareto fronts: their numbers, and why there is none."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from recorded_runs import DENSE, Recorded, Recorder, flat, noise, read_back

from analysis.figures import (
    accuracy_over_ratio,
    cost_of_runs,
    hardware_over_noise,
    pareto_fronts,
    pgd_over_radius,
    security_curves,
)
from analysis.figures.catalogue import FIGURES, Source, draw_all, save_all
from analysis.figures.drawing import FORMATS, render
from analysis.figures.series import NothingToDrawError, foremost, look
from analysis.files import RunFiles, layers
from analysis.networks import networks
from analysis.runs import stage_runs

COSTS = {"0.5": 573_540.0, "0.9": 173_540.0, "0.99": 85_000.0}
RADII = (8, 12, 16)
LAYERS = [{"name": "conv1", "nmse": 0.02, "nmse_quantized": 0.03, "top_k_recall": 0.9}]


def pgd_attacks() -> dict[str, dict[str, str]]:
    found = {
        f"pgd{steps}_eps{eps}": {"kind": "pgd", "eps": f"{eps}/255", "steps": str(steps)}
        for eps in RADII
        for steps in (10, 20)
    }
    found = {name: knobs | {"gradient": "blocked", "in_worst_case": "false"} for name, knobs in found.items()}
    return found | {
        "pgd20": {"kind": "pgd", "eps": "8/255", "steps": "20", "gradient": "blocked"},
        "apgd_ce": {"kind": "apgd_ce", "eps": "8/255", "steps": "100", "gradient": "straight_through"},
    }


def counts(clean: int, pgd: tuple[int, int, int], worst: int) -> dict[str, int]:
    """PGD of 20 steps at the three radii; of 10 steps two images more."""
    found = {"clean": clean, "pgd20": pgd[0], "apgd_ce": worst + 1, "worst_case": worst}
    for eps, count in zip(RADII, pgd, strict=True):
        found |= {f"pgd20_eps{eps}": count, f"pgd10_eps{eps}": count + 2}
    return found


def simulation(scale: float) -> dict[str, float]:
    numbers = dict.fromkeys(hardware_over_noise.FIGURES, scale)
    return {
        f"{name}/{core}/{origin}": value
        * (0.5 if core == "structured" else 1)
        * (0.8 if origin == "random" else 1)
        for name, value in numbers.items()
        for core in ("unstructured", "structured")
        for origin in ("measured", "random")
    }


@pytest.fixture(scope="module")
def recorded(recorder: Recorder, tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """One of everything; artifacts lie in a folder of the test."""
    name = "further-figures"
    recorder.client.create_experiment(name, artifact_location=tmp_path_factory.mktemp("files").as_uri())
    parent = recorder.parent(name)
    params = flat(pgd_attacks())
    ids = {"dense": recorder.attack(parent, DENSE, counts(190, (100, 80, 60), 90), params=params)}
    for ratio, own in (
        ("0.5", counts(188, (104, 90, 70), 60)),
        ("0.9", counts(186, (130, 120, 110), 30)),
        ("0.99", counts(150, (140, 134, 141), 20)),
    ):
        for target, lost in (("non_essential", 0), ("random", 10)):
            tags = noise(ratio=ratio) | {"target": target}
            less = {column: max(0, count - lost) for column, count in own.items()}
            ids[f"{ratio} {target}"] = recorder.attack(
                parent, tags, less, params=params, bitops=(COSTS[ratio], COSTS[ratio])
            )
    for tags, scale in ((noise(ratio="0.5"), 0.6), (noise(ratio="0.9"), 0.3), (noise(pattern="4:8"), 0.7)):
        metrics = simulation(scale)
        stage = {"stage": "simulate", "images": "16"}
        ids[f"simulate {scale}"] = recorder.attack(parent, tags | stage, {}, params={}, metrics=metrics)
    distill = recorder.stage(parent, "distill")
    recorder.client.log_text(distill, json.dumps(LAYERS), "layers.json")
    tuned = recorder.attack(parent, noise(ratio="0.9") | {"stage": "finetune"}, {}, params={})
    recorder.client.log_text(tuned, json.dumps({"conv1": 0.1}), "densities.json")
    header = "core,layer,density,cycles,precise,imbalance\n"
    table = f"{header}unstructured,conv1,0.1,100,0.75,0.25\nunstructured,conv2,0.1,50,1.0,0.0\n"
    recorder.client.log_text(ids["simulate 0.3"], table, "layers.csv")
    return every_stage(recorder, name, ids)


def every_stage(recorder: Recorder, name: str, ids: dict[str, str]) -> Recorded:
    """The runs of all stages, not only the attacks."""
    parent = read_back(recorder, name, ids).parent
    return Recorded(parent, stage_runs(parent, stage=None), ids)


@pytest.fixture(scope="module")
def source(recorder: Recorder, recorded: Recorded) -> Source:
    return Source(runs=recorded.runs, files=RunFiles(recorder.tracking_uri))


def drawn_points(figure: Figure, panel: int) -> dict[str, list[tuple[float, float]]]:
    """Points with bars by the colour of their series."""
    found: dict[str, list[tuple[float, float]]] = {}
    for container in figure.axes[panel].containers:
        line: Any = container.lines[0]
        points = zip(line.get_xdata(), line.get_ydata(), strict=True)
        found.setdefault(line.get_color(), []).extend(
            (round(float(x), 6), round(float(y), 6)) for x, y in points
        )
    return found


@pytest.mark.slow
def test_everything_that_there_is_is_drawn_and_twice_the_same(source: Source, tmp_path: Path) -> None:
    drawn = draw_all(source)
    assert [one.kind.name for one in drawn if one.words] == ["accelerator_timeline"]
    written = save_all(drawn, tmp_path)
    assert {path.stem for path in written} == {kind.name for kind in FIGURES}
    assert {path.suffix for path in written} == {f".{form}" for form in FORMATS}
    for kind in FIGURES:
        for form in ("svg", "pdf"):
            again = render(kind.draw(source), form)
            assert again == (tmp_path / form / f"{kind.name}.{form}").read_bytes(), kind.name


def test_without_runs_nothing_is_drawn_and_every_figure_says_why(
    recorder: Recorder, recorded: Recorded, tmp_path: Path
) -> None:
    empty = Source(runs=recorded.runs.head(0), files=RunFiles(recorder.tracking_uri))
    drawn = draw_all(empty)
    assert all(one.reason and not one.files for one in drawn)
    assert save_all(drawn, tmp_path / "none") == []
    assert not (tmp_path / "none").exists()


def test_figure_3_has_its_accuracies_and_gains(recorded: Recorded) -> None:
    figure = pgd_over_radius.draw(recorded.runs)
    assert len(figure.axes) == 4
    dense = look(0).colour
    # radius 8/255: 102 of 200 after ten steps, 100 after twenty
    assert [y for _, y in drawn_points(figure, 0)[dense]] == [51.0, 50.0]
    # the paper's networks are drawn, and as many others as can be told apart
    shown, note = foremost(networks(recorded.runs))
    labels = [network.label for network in shown]
    assert labels[0] == "Dense teacher"
    assert {"Ratio 0.5, clean", "Ratio 0.9, clean", "Ratio 0.99, clean"} < set(labels)
    assert (len(labels), note) == (6, "; networks not drawn: 1")
    chosen = labels.index("Ratio 0.9, clean")
    # (130 - 100), (120 - 80), (110 - 60) of 200
    assert [y for _, y in drawn_points(figure, 3)[look(chosen).colour]] == [15.0, 20.0, 25.0]
    assert dense not in drawn_points(figure, 3)


def test_figure_4_has_a_curve_for_each_target_from_the_dense_network_on(recorded: Recorded) -> None:
    [group] = accuracy_over_ratio.ratio_curves(recorded.runs).values()
    assert {target: list(own) for target, own in group.items()} == {
        "non_essential": [0, 0.5, 0.9, 0.99],
        "random": [0, 0.5, 0.9, 0.99],
    }
    figure = accuracy_over_ratio.draw(recorded.runs)
    clean, pgd, worst = (drawn_points(figure, panel) for panel in range(3))
    chosen, control = look(0).colour, look(2).colour
    # set apart by 1.2 points: non-essential to the left, random to the right
    assert clean[chosen] == [(-1.2, 95.0), (48.8, 94.0), (88.8, 93.0), (97.8, 75.0)]
    assert pgd[control] == [(1.2, 50.0), (51.2, 47.0), (91.2, 60.0), (100.2, 65.0)]
    assert [y for _, y in worst[chosen]] == [45.0, 30.0, 15.0, 10.0]


def test_what_table_4_prints_is_marked_for_its_data_only() -> None:
    assert accuracy_over_ratio.printed("cifar10", "pgd20")[0.9] == pytest.approx(0.6727)
    assert accuracy_over_ratio.printed("cifar100", "clean")[0.1] == pytest.approx(0.556)
    assert accuracy_over_ratio.printed("digits", "pgd20") == {}
    assert accuracy_over_ratio.printed("cifar10", "worst_case") == {}


def test_figure_5_has_measured_and_random_masks_by_core_and_rule(recorded: Recorded) -> None:
    [own] = hardware_over_noise.simulated(recorded.runs).values()
    found = hardware_over_noise.series(own, "seconds_over_dense")
    numbers = {key: [(share, one.value) for share, one in points] for key, points in found.items()}
    assert numbers == {
        ("unstructured", "ratio", "measured"): [(0.5, 0.6), (0.9, 0.3)],
        ("unstructured", "ratio", "random"): [(0.5, pytest.approx(0.48)), (0.9, pytest.approx(0.24))],
        ("unstructured", "pattern", "measured"): [(0.5, 0.7)],
        ("unstructured", "pattern", "random"): [(0.5, pytest.approx(0.56))],
        ("structured", "pattern", "measured"): [(0.5, 0.35)],
        ("structured", "pattern", "random"): [(0.5, pytest.approx(0.28))],
    }


def test_security_curves_start_at_clean_and_tell_where_they_rise(recorded: Recorded) -> None:
    found = {(one.network.label, one.family): one for one in security_curves.security_curves(recorded.runs)}
    dense = found["Dense teacher", "PGD-20, blocked"]
    assert [(eps, number.value) for eps, number in dense.points] == [
        (0, 0.95),
        (8, 0.5),
        (12, 0.4),
        (16, 0.3),
    ]
    assert dense.violations == ()
    [(near, far, rise)] = found["Ratio 0.99, clean", "PGD-20, blocked"].violations
    assert (near, far, rise.value) == (12, 16, pytest.approx(7 / 200))
    assert rise.sign == 0


def test_the_front_of_the_recorded_networks(recorded: Recorded) -> None:
    every = networks(recorded.runs)
    costs = pareto_fronts.costs_of(recorded.runs)
    by_bitops = pareto_fronts.candidates(every, costs["bitops"])
    assert [one.network.label for one in by_bitops if one.on_front] == [
        "Ratio 0.99, clean",
        "Ratio 0.9, clean",
        "Ratio 0.5, clean",
        "Dense teacher",
    ]
    # those with as much noise in random neurons cost the same and have ten images fewer
    assert len(by_bitops) == 7
    energy = pareto_fronts.candidates(every, costs["joules_over_dense"])
    # a ratio is simulated on the core for any mask, whatever other numbers there are
    assert [(one.network.label, one.cost) for one in energy] == [
        ("Ratio 0.9, clean", 0.3),
        ("Ratio 0.5, clean", 0.6),
        ("Dense teacher", 1.0),
    ]


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(1, 20)), min_size=1, max_size=12))
def test_the_front_is_what_brute_force_finds(recorded: Recorded, planted: list[tuple[int, int]]) -> None:
    [template] = [one for one in networks(recorded.runs) if one.is_dense]
    every, costs = [], {}
    for count, cost in planted:
        run = dict(template.runs[0]) | {"correct/worst_case": count, "accuracy/worst_case": count / 200}
        network = type(template)(identity=template.identity, data_fingerprint="f", runs=(run,))
        every.append(network)
        costs[id(network)] = float(cost)
    found = pareto_fronts.candidates(every, lambda network: costs[id(network)])
    points = [(one.accuracy.value, one.cost) for one in found]
    best = [  # equal networks do not dominate each other: all of them are on the front, or none
        not any(v >= value and c <= cost and (v, c) != (value, cost) for v, c in points)
        for value, cost in points
    ]
    assert [one.on_front for one in found] == best


def test_layers_are_read_from_the_files_of_the_runs(source: Source) -> None:
    found = layers(source.runs, source.files)
    numbers = {(row["measure"], row["layer"]): row["value"] for row in found.iter_rows(named=True)}
    assert numbers == {
        ("nmse", "conv1"): 0.02,
        ("nmse_quantized", "conv1"): 0.03,
        ("top_k_recall", "conv1"): 0.9,
        ("density", "conv1"): 0.1,
    }


def test_layers_have_the_networks_in_the_order_of_the_tables(recorder: Recorder) -> None:
    parent = recorder.parent("layers-in-order")
    recorder.attack(parent, DENSE, {"clean": 100})
    tags = [noise(pattern="4:8"), noise(ratio="0.9", objective="adversarial"), noise(ratio="0.5")]
    tags.append(noise(ratio="0.9"))
    ids = [recorder.stage(parent, "finetune", **one) for one in tags]
    runs = every_stage(recorder, "layers-in-order", {}).runs
    densities = json.dumps([{"name": "conv1", "value": 0.5}]).encode()
    files = RunFiles(recorder.tracking_uri, {(run, "densities.json"): densities for run in ids})
    found = [name.partition(", ")[2] for name in layers(runs, files)["network"]]
    assert found == ["Ratio 0.5, clean", "Ratio 0.9, clean", "Ratio 0.9, adversarial", "Pattern 4:8, clean"]


def test_the_cost_of_the_runs_counts_each_result_once(recorder: Recorder) -> None:
    parent = recorder.parent("costs")
    for key in ("a", "a", "b"):
        recorder.attack(parent, DENSE | {"key": key}, {"clean": 100})
    recorder.attack(parent, {"stage": "pretrain", "key": "c"}, {}, params={}, metrics={"seconds": 40.0})
    recorder.attack(parent, DENSE | {"key": "d"}, {"clean": 100}, status="FAILED")
    found = cost_of_runs.seconds_by_stage(every_stage(recorder, "costs", {}).runs)
    assert found.rows() == [("pretrain", 1, 40.0, 40.0, 40.0), ("attack", 2, 5.0, 2.5, 2.5)]


def test_a_reason_names_what_computes_it(demo: Recorded) -> None:
    with pytest.raises(NothingToDrawError, match="grid figure3 or small-figure3"):
        pgd_over_radius.draw(demo.runs)
    with pytest.raises(NothingToDrawError, match="grid figure5 or small-figure5"):
        hardware_over_noise.draw(demo.runs)
    with pytest.raises(NothingToDrawError, match="no finished run"):
        cost_of_runs.draw(demo.runs.filter(pl.col("stage") == "simulate"))


def test_figure3_needs_several_numbers_of_steps_and_a_security_curve_does_not(recorder: Recorder) -> None:
    attacks = {
        f"pgd20_eps{eps}": {"kind": "pgd", "eps": str(eps / 255), "steps": "20", "gradient": "blocked"}
        for eps in (2, 4, 8)
    }
    parent = recorder.parent("one length")
    recorder.attack(parent, DENSE, {"clean": 90} | dict.fromkeys(attacks, 50), params=flat(attacks))
    runs = read_back(recorder, "one length", {}).runs
    with pytest.raises(NothingToDrawError, match="numbers of steps"):
        pgd_over_radius.draw(runs)
    [curve] = security_curves.security_curves(runs)
    assert [radius for radius, _ in curve.points] == [0, 2, 4, 8]
