"""`python -m hwsim`: what each command prints and writes."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from simulator_commands import NANGATE, SMALL, masks_of_two_images, successful, written

from hwsim.counters import Counters
from hwsim.hardware import load_hardware
from hwsim.layers import save_network
from hwsim.masks import Pattern
from hwsim.results import utilisation
from hwsim.simulate import simulate_network
from hwsim.sweep import PATTERNS, RATIOS, can_run, random_noise
from hwsim.tables import engineering
from hwsim.technology import load_technology


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    """Masks of two images, as the pipeline saves them."""
    return masks_of_two_images(tmp_path)


# --- run -------------------------------------------------------------------------------------------------


def test_run_writes_what_simulate_network_says(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    said = successful("run", "--model", "small_resnet", "--ratio", 0.9, "--seed", 3, "--json", path)
    noise = random_noise(SMALL, 0.9, seed=3)
    expected = simulate_network(
        SMALL, load_hardware("unstructured"), NANGATE, noise.masks, network="small_resnet", noise="90%"
    )
    assert json.loads(path.read_text()) == expected.as_dict()
    assert all(layer.name in said for layer in SMALL)


def test_printed_figures_are_those_of_the_results() -> None:
    """Layers, the whole and the energy by part, each beside dense."""
    said = successful("run", "--model", "small_resnet", "--ratio", 0.75)
    core = load_hardware("unstructured")
    dense = simulate_network(SMALL, core, NANGATE)
    own = simulate_network(SMALL, core, NANGATE, random_noise(SMALL, 0.75).masks)
    for one in own.layers:
        density, cycles, used, energy, unit = numbers_after(said, f"{one.layer.name} ")
        assert (density, cycles) == ("25.0%", f"{one.counters.cycles:,}")
        assert used == f"{utilisation(one.counters, core):.1%}"
        joules = float(energy) * {"nJ": 1e-9, "uJ": 1e-6}[unit]
        assert joules == pytest.approx(sum(one.energy_pj.values()) * 1e-12, rel=1e-3)
    for heading, name in (
        ("cycles", "cycles"),
        ("time", "seconds"),
        ("energy x time", "energy_delay_joule_seconds"),
    ):
        ratio = f"{own.summary()[name] / dense.summary()[name]:.4f}"
        lines = [line for line in said.splitlines() if line.strip().startswith(heading)]
        assert ratio in [line.split()[-1] for line in lines]
    for what, parts, others in (
        ("energy", own.energy_pj, dense.energy_pj),
        ("area", own.area_um2, dense.area_um2),
    ):
        for part, value in parts.items():
            first, second, ratio = numbers_after(said, f"{what} of {part}")
            assert first == f"{value / sum(parts.values()):.1%}"
            assert second == f"{others[part] / sum(others.values()):.1%}"
            assert ratio == (f"{value / others[part]:.4f}" if others[part] else "-")


def test_printed_amounts_are_those_that_were_counted() -> None:
    """Products, additions and bytes; with a memory outside, of which each byte comes or goes once."""
    said = successful("run", "--model", "small_resnet", "--ratio", 0.75, "--dram", 16)
    core = load_hardware("unstructured").model_copy(update={"dram_bytes_per_cycle": 16})
    own = simulate_network(SMALL, core, NANGATE, random_noise(SMALL, 0.75).masks).counters
    for heading, expected in (
        ("products of 16 x 16 bits", own.multiplications_16x16),
        ("products of 4 x 16 bits", own.multiplications_4x16),
        ("additions of 32 bits", own.accumulations),
        ("additions of 4 bits", own.projection_additions),
        ("read from weight memories", 32 * (own.weight_words_read + own.projection_entry_words_read)),
        ("read from activation memory", 32 * own.activation_words_read),
        ("written to activation memory", 32 * own.activation_words_written),
        ("from and to outside", own.dram_bytes),
    ):
        value, prefix = numbers_after(said, heading)[:2]
        scale = {"k": 1e3, "M": 1e6, "kB": 1e3, "MB": 1e6}[prefix]
        assert float(value) * scale == pytest.approx(expected, rel=1e-3)


def test_a_pattern_runs_on_the_core_for_patterns(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    successful("run", "--model", "small_resnet", "--pattern", "7:8", "--json", path)
    assert json.loads(path.read_text())["hardware"]["name"] == "structured"


def test_dense_runs_on_the_same_design_or_beside_one_for_patterns_on_the_unstructured(tmp_path: Path) -> None:
    lines = "vector_units: 4\nlanes: 16\n"
    mine = written(tmp_path, "mine.yaml", "name: mine\ndram_bytes_per_cycle: 2\n" + lines)
    groups = written(tmp_path, "groups.yaml", "name: mine\nselection: groups\n" + lines)
    cycles = {
        core.name: simulate_network(SMALL, core, NANGATE).cycles
        for core in (load_hardware(mine), load_hardware("unstructured"))
    }
    for options, heading in (
        (["--hardware", mine], "mine"),
        (["--hardware", groups], "unstructured"),
        ([], "unstructured"),
    ):
        said = successful("run", "--model", "small_resnet", "--pattern", "7:8", *options)
        assert f"dense, {heading} core" in said
        [ratio] = [line.split()[-1] for line in said.splitlines() if line.split()[:1] == ["time"]]
        core = load_hardware(options[1] if options else "structured")
        own = simulate_network(SMALL, core, NANGATE, random_noise(SMALL, "7:8").masks)
        assert ratio == f"{own.cycles / cycles[heading]:.4f}"


def test_both_engines_write_the_same_bytes(tmp_path: Path) -> None:
    tiny = tmp_path / "tiny.csv"
    save_network(SMALL[-1:], tiny)
    for engine in ("fast", "reference"):
        options = ["--pattern", "6:8", "--dram", 4, "--engine", engine, "--json", tmp_path / engine]
        successful("run", "--model", tiny, *options)
    assert (tmp_path / "fast").read_bytes() == (tmp_path / "reference").read_bytes()


def test_lines_of_the_table_add_up_to_its_last(tmp_path: Path) -> None:
    path = tmp_path / "layers.csv"
    successful("run", "--model", "small_resnet", "--ratio", 0.5, "--csv", path)
    *rows, total = list(csv.DictReader(path.read_text().splitlines()))
    assert [row["layer"] for row in rows] == [layer.name for layer in SMALL]
    assert total["layer"] == "total"
    for name in Counters().__dict__:
        assert sum(int(row[name]) for row in rows) == int(total[name])
    busy = sum(float(row["utilisation"]) * int(row["cycles"]) for row in rows)
    assert float(total["utilisation"]) * int(total["cycles"]) == pytest.approx(busy)
    assert 0.1 < float(total["utilisation"]) < 1
    for name in ("seconds", "joules"):
        assert float(total[name]) == pytest.approx(sum(float(row[name]) for row in rows))
    for row in (*rows, total):
        product = float(row["seconds"]) * float(row["joules"])
        assert float(row["energy_delay_joule_seconds"]) == pytest.approx(product)


def test_measured_masks_say_how_many_images_there_are(tmp_path: Path, measured: Path) -> None:
    path = tmp_path / "result.json"
    successful("run", "--model", "small_resnet", "--masks", measured, "--json", path)
    found = json.loads(path.read_text())
    assert (found["images"], found["noise"]) == (2, "80%")
    assert found["total"]["counters"]["multiplications_4x16"] == 2 * sum(
        layer.output_values * layer.rank for layer in SMALL
    )


def test_weights_that_do_not_fit_are_remarked_unless_they_are_moved() -> None:
    remark = "the weight memories hold 1.0 MiB"
    assert remark in successful("run", "--model", "resnet18")
    assert remark not in successful("run", "--model", "resnet18", "--dram", 16)
    assert remark not in successful("run", "--model", "small_resnet")


def test_a_clock_that_a_memory_cannot_follow_is_remarked(tmp_path: Path) -> None:
    """At 45 nm and 500 MHz both memories of the shipped designs answer within a cycle."""
    for core in ("unstructured", "structured"):
        assert "would need more than one" not in successful(
            "run", "--model", "small_resnet", "--hardware", core
        )
    for clock, memories in ((600, ["activation"]), (1000, ["weight", "activation"])):
        text = f"name: mine\nvector_units: 16\nlanes: 16\nclock_mhz: {clock}\n"
        core_file = written(tmp_path, f"{clock}.yaml", text)
        said = successful("run", "--model", "small_resnet", "--hardware", core_file)
        assert [
            name for name in ("weight", "activation") if f"A read of the {name} memory" in said
        ] == memories


def test_output_into_a_file_is_complete(tmp_path: Path) -> None:
    """As wide as it needs to be, whatever terminal there is not."""
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    for command in (["sweep", "--out", str(tmp_path)], ["explain", "--ratio", "0.9"]):
        done = subprocess.run(
            [sys.executable, "-m", "hwsim", *command, "--model", "small_resnet"],
            capture_output=True, text=True, timeout=60, env=environment,
        )  # fmt: skip
        assert done.returncode == 0
        assert "\N{HORIZONTAL ELLIPSIS}" not in done.stdout
        assert len(done.stderr.splitlines()) == (command[0] == "sweep")


# --- sweep, explain, compare -----------------------------------------------------------------------------


def test_sweep_has_every_amount_on_every_core_that_can_run_it(tmp_path: Path, measured: Path) -> None:
    out = tmp_path / "out"
    successful("sweep", "--model", "small_resnet", "--masks", measured, "--out", out)
    rows = list(csv.DictReader((out / "sweep.csv").read_text().splitlines()))
    found = [(row["noise"], row["core"], row["masks"]) for row in rows]
    ratios = [(f"{round(100 * ratio)}%", "unstructured", "random") for ratio in RATIOS]
    patterns = [(text, core, "random") for text in PATTERNS for core in ("unstructured", "structured")]
    dense_rows = [("dense", core, "none") for core in ("unstructured", "structured")]
    measured_rows = [*dense_rows, ("80%", "unstructured", "measured")]  # of two images
    assert found == [*dense_rows, *ratios, *patterns, *measured_rows]
    assert [int(row["images"]) for row in rows] == [1] * (len(rows) - 3) + [2] * 3
    for row in rows:
        assert float(row["noisy_share"]) == pytest.approx(1 - float(row["density"]), abs=1e-3)
    dense = simulate_network(SMALL, load_hardware("unstructured"), NANGATE)
    for row in rows[:-3]:
        assert float(row["seconds_over_dense"]) == pytest.approx(int(row["cycles"]) / dense.cycles)
    for suffix in ("png", "pdf", "svg"):
        assert (out / f"sweep.{suffix}").stat().st_size > 1000


def test_sweep_heeds_its_options(tmp_path: Path) -> None:
    tiny = tmp_path / "tiny.csv"
    save_network(SMALL[-1:], tiny)
    options = ["--seed", 3, "--dram", 4, "--images", 2, "--technology", "horowitz45", "--out", tmp_path]
    successful("sweep", "--model", tiny, *options)
    rows = list(csv.DictReader((tmp_path / "sweep.csv").read_text().splitlines()))
    core = load_hardware("unstructured").model_copy(update={"dram_bytes_per_cycle": 4})
    masks = random_noise(SMALL[-1:], 0.5, seed=3, images=2).masks
    own = simulate_network(SMALL[-1:], core, load_technology("horowitz45"), masks, images=2)
    [row] = [row for row in rows if row["noise"] == "50%"]
    assert (row["network"], row["images"], row["technology"]) == ("tiny", "2", "horowitz45")
    assert (int(row["cycles"]), float(row["joules"])) == (own.cycles, own.joules)


@pytest.mark.parametrize(
    ("pattern", "structured"), [(None, False), ("7:8", True), ("2:4", True), ("1:3", False), ("8:16", False)]
)
def test_a_core_for_groups_of_eight_runs_patterns_of_their_divisors(
    pattern: str | None, structured: bool
) -> None:
    parsed = None if pattern is None else Pattern.parse(pattern)
    assert can_run(load_hardware("structured"), parsed) == structured
    assert can_run(load_hardware("unstructured"), parsed)


def test_two_sweeps_are_equal_bytes(tmp_path: Path) -> None:
    for name in "ab":
        successful("sweep", "--model", "small_resnet", "--out", tmp_path / name)
    for suffix in ("csv", "png", "pdf", "svg"):
        assert (tmp_path / "a" / f"sweep.{suffix}").read_bytes() == (
            tmp_path / "b" / f"sweep.{suffix}"
        ).read_bytes()


def test_sweep_over_designs_of_one_s_own(tmp_path: Path) -> None:
    """The first of them runs the dense network."""
    wide = written(tmp_path, "wide.yaml", "name: wide\nvector_units: 16\nlanes: 32\n")
    out = tmp_path / "out"
    options = ["--hardware", wide, "--hardware", "structured", "--out", out]
    said = successful("sweep", "--model", "small_resnet", *options)
    assert "the dense network on the wide core" in said
    rows = list(csv.DictReader((out / "sweep.csv").read_text().splitlines()))
    assert {row["core"] for row in rows} == {"wide", "structured"}
    dense = simulate_network(SMALL, load_hardware(wide), NANGATE)
    for row in rows:
        assert float(row["seconds_over_dense"]) == pytest.approx(int(row["cycles"]) / dense.cycles)


def test_tables_are_drawn_together(tmp_path: Path) -> None:
    """Two networks take more room than one; a table drawn twice, whose means are its values, as much."""
    for name in ("small_resnet", "small_resnet_r"):
        successful("sweep", "--model", name, "--out", tmp_path / name)
    one, other = (tmp_path / name / "sweep.csv" for name in ("small_resnet", "small_resnet_r"))
    for name, paths in (("one", [one]), ("twice", [one, one]), ("both", [one, other])):
        successful("draw", *paths, "--out", tmp_path / f"{name}.png")
    pictures = {name: (tmp_path / f"{name}.png").read_bytes() for name in ("one", "twice", "both")}
    assert pictures["one"] == pictures["twice"] == (tmp_path / "small_resnet" / "sweep.png").read_bytes()
    heights = {name: int.from_bytes(picture[20:24]) for name, picture in pictures.items()}
    assert heights["both"] > 1.5 * heights["one"]


def numbers_after(said: str, heading: str) -> list[str]:
    [line] = [line for line in said.splitlines() if line.strip().startswith(heading)]
    return line.replace(heading, "", 1).split()


def test_explained_causes_add_up() -> None:
    """The numbers that are printed, not those inside: units x cycles in the last line."""
    said = successful("explain", "--model", "small_resnet", "--ratio", 0.9, "--layer", SMALL[3].name)
    causes = ("precise", "approximate", "alignment", "imbalance", "activation port", "depth", "projection")
    shares = [numbers_after(said, cause)[0] for cause in (*causes, "selection", "drain", "dram")]
    whole = numbers_after(said, "all")[0]
    assert sum(int(share.replace(",", "")) for share in shares) == int(whole.replace(",", ""))


def test_explain_lists_all_layers() -> None:
    said = successful("explain", "--model", "small_resnet", "--pattern", "7:8")
    for layer in SMALL:
        shares = [float(share) for share in numbers_after(said, f"{layer.name} ")[1:]]
        assert sum(shares) == pytest.approx(100, abs=0.05 * len(shares))


def test_explain_shows_waiting_for_a_memory_outside() -> None:
    within, outside = (
        successful("explain", "--model", "small_resnet", *options) for options in ([], ["--dram", 4])
    )
    assert numbers_after(within, "dram")[0] == "0"
    core = load_hardware("unstructured").model_copy(update={"dram_bytes_per_cycle": 4})
    waited = simulate_network(SMALL, core, NANGATE).counters.dram_stall_cycles
    assert int(numbers_after(outside, "dram")[0].replace(",", "")) == 16 * waited > 0


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_a_layer_s_timeline(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"timeline.{suffix}"
    successful("explain", "--model", "small_resnet", "--layer", SMALL[0].name, "--timeline", path)
    assert path.stat().st_size > 1000


def test_compare_shows_the_ratio_of_two_results(tmp_path: Path) -> None:
    for name, images in (("one", 1), ("two", 2)):
        successful("run", "--model", "small_resnet", "--images", images, "--json", tmp_path / f"{name}.json")
    said = successful("compare", tmp_path / "one.json", tmp_path / "two.json")
    assert numbers_after(said, "count: multiplications_16x16")[-1] == "2.0000"
    assert numbers_after(said, "area_mm2")[-1] == "1.0000"


def test_compare_shows_what_only_one_of_them_does(tmp_path: Path) -> None:
    for name, options in (("dense", []), ("noisy", ["--ratio", 0.9])):
        successful("run", "--model", "small_resnet", *options, "--json", tmp_path / f"{name}.json")
    said = successful("compare", tmp_path / "dense.json", tmp_path / "noisy.json")
    first, second, ratio = numbers_after(said, "count: multiplications_4x16")
    assert (first, ratio) == ("0", "-")
    assert float(second) > 0
    assert "dram" not in said  # nothing in either
    assert "count: cycles" not in said  # a figure already


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (0, "B", "0 B"),
        (0.0, "", "0"),
        (0.00371, "J", "3.71 mJ"),
        (999.9, "B", "999.9 B"),
        (1000, "B", "1 kB"),
        (2.5e-15, "s", "0.0025 ps"),
        (3e15, "op/J", "3000 Top/J"),
    ],
)
def test_four_digits_and_a_prefix(value: float, unit: str, expected: str) -> None:
    assert engineering(value, unit) == expected
