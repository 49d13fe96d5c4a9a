"""Designs: derived figures, the shipped ones, files, and every wrong one in one line."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from hwsim.errors import InputError
from hwsim.hardware import Hardware, core_names, load_hardware

LEAST = {"name": "mine", "vector_units": 4, "lanes": 8}


def write(folder: Path, content: object, name: str = "mine.yaml") -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump(content))
    return path


def test_figures_by_hand() -> None:
    core = Hardware(name="mine", vector_units=6, lanes=12, rows_per_unit=5, clock_mhz=250,
                    weight_sram_kib_per_unit=3, activation_sram_kib=7)  # fmt: skip
    assert core.rows_per_block == 30
    assert core.word_bytes == 24
    assert (core.weight_bytes_per_unit, core.activation_bytes) == (3072, 7168)
    assert core.clock_hz == 250_000_000


def test_shipped_designs() -> None:
    """The structured one has twice the elements, and else the same (so that they can be compared)."""
    assert core_names() == ["structured", "unstructured"]
    structured, unstructured = (load_hardware(name) for name in core_names())
    assert (structured.name, unstructured.name) == ("structured", "unstructured")
    assert unstructured.vector_units * unstructured.lanes == 256
    assert structured.vector_units * structured.lanes == 512
    differ = {"name", "title", "lanes", "projection_adders", "selection"}
    assert structured.model_dump(exclude=differ) == unstructured.model_dump(exclude=differ)
    assert (structured.selection, unstructured.selection) == ("groups", "threshold")
    assert structured.dram_bytes_per_cycle is unstructured.dram_bytes_per_cycle is None


@settings(max_examples=30, deadline=None)
@given(
    units=st.integers(1, 32),
    rows=st.integers(1, 4),
    group=st.integers(1, 8),
    selection=st.sampled_from(["threshold", "groups"]),
    dram=st.none() | st.integers(1, 100),
    clock=st.floats(0.1, 5000),
)
def test_files_come_back(
    units: int, rows: int, group: int, selection: str, dram: int | None, clock: float,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    core = Hardware(name="mine", vector_units=units, lanes=32, rows_per_unit=rows * group,
                    group_channels=group, selection=selection, dram_bytes_per_cycle=dram,
                    clock_mhz=clock)  # fmt: skip
    folder = tmp_path_factory.mktemp("designs")
    for name in ("mine.yaml", "mine.yml"):
        path = write(folder, core.model_dump(), name)
        assert load_hardware(path) == load_hardware(str(path)) == core


def test_a_design_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load_hardware("structured").lanes = 3


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"vector_units": 0}, "vector_units: expected greater than or equal to 1, found 0"),
        ({"lanes": "many"}, "lanes: expected a valid integer, found 'many'"),
        ({"lanes": 8.0}, r"lanes: expected a valid integer, found 8\.0"),
        ({"lanes": True}, "lanes: expected a valid integer, found True"),
        ({"pipeline_depth_cycles": -1}, "pipeline_depth_cycles: expected .* or equal to 0, found -1"),
        ({"run_ahead_positions": 0}, "run_ahead_positions: expected greater than or equal to 1, found 0"),
        ({"selection": "top_k"}, "selection: expected 'threshold' or 'groups', found 'top_k'"),
        ({"clock_mhz": 0}, "clock_mhz: expected greater than 0, found 0"),
        ({"clock_mhz": True}, "clock_mhz: expected a valid number, found True"),
        ({"clock_mhz": 1e9}, "clock_mhz: expected less than or equal to 100000, found 1000000000"),
        ({"dram_bytes_per_cycle": 0}, "dram_bytes_per_cycle: expected greater than or equal to 1, found 0"),
        ({"name": ""}, "name: .*at least 1 character.*found ''"),
        ({"vector_unit": 3}, "unknown key 'vector_unit'; did you mean 'vector_units'"),
        ({"selection": "groups", "rows_per_unit": 12},
         "rows_per_unit 12 is no multiple of group_channels 8: a group lies in one vector unit"),
        ({"vector_units": 9}, "the approximate pass makes up to 36 outputs in a cycle, 32 can be"),
        ({"vector_units": 11, "rows_per_unit": 3}, "the approximate pass makes up to 33 outputs"),
        ({"vector_units": 9, "rows_per_unit": 5}, "the approximate pass makes up to 36 outputs"),
    ],
)  # fmt: skip
def test_wrong_designs(tmp_path: Path, changes: dict[str, object], expected: str) -> None:
    path = write(tmp_path, LEAST | changes)
    with pytest.raises(InputError, match=f"mine.yaml: {expected}") as caught:
        load_hardware(path)
    assert "\n" not in str(caught.value)


def test_what_just_can_be_written_is_a_design() -> None:
    assert Hardware(**LEAST | {"vector_units": 8}).rows_per_block == 64
    assert Hardware(**LEAST | {"vector_units": 16, "rows_per_unit": 2}).rows_per_block == 32


@pytest.mark.parametrize("missing", LEAST)
def test_missing_keys(tmp_path: Path, missing: str) -> None:
    path = write(tmp_path, {key: value for key, value in LEAST.items() if key != missing})
    with pytest.raises(InputError, match=f"missing key '{missing}'"):
        load_hardware(path)


def test_unknown_designs_and_files(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"unknown hardware 'structurd'; did you mean 'structured'\?.*\.yaml"
    ):
        load_hardware("structurd")
    with pytest.raises(InputError, match=r"cannot read '.*absent\.yaml': No such file"):
        load_hardware(tmp_path / "absent.yaml")
