"""On-chip memories: an independent run, what theory says of the shipped table, bad requests."""

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsim.errors import InputError
from hwsim.sram import CACTI45, MEASURED, SramPoint, SramTable, cacti_sram, read_table, write_table

TABLE = read_table()
NEIGHBOURS = [
    (below, above)
    for below, above in pairwise(sorted(TABLE.rows))
    if below._replace(bytes=0) == above._replace(bytes=0)
]


def test_independent_run_of_cacti() -> None:
    """64 KiB in words of 8 bytes, one port, 45 nm itrs-hp, 360 K, no error correction, optimiser's tag NONE.

    From a run by hand, with a configuration that this package had no part in.
    """
    sram = cacti_sram(65536, 8, "rw", "hp")
    expected = {"read_pj": 24.9, "write_pj": 20.5, "leakage_mw": 75.8, "area_mm2": 0.184, "access_ns": 0.606}
    assert {name: getattr(sram, name) for name in MEASURED} == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(
    ("cell", "read_pj", "write_pj", "leakage_mw", "access_ns"),
    [("lop", 11.8, 8.6, 4.87, 1.25), ("lstp", 25.4, 21.3, 0.017, 1.88)],
)
def test_independent_run_of_other_cells(
    cell: str, read_pj: float, write_pj: float, leakage_mw: float, access_ns: float
) -> None:
    sram = cacti_sram(65536, 8, "rw", cell)
    assert sram.read_pj == pytest.approx(read_pj, rel=0.02)
    assert sram.write_pj == pytest.approx(write_pj, rel=0.02)
    assert sram.leakage_mw == pytest.approx(leakage_mw, rel=0.03)
    assert sram.access_ns == pytest.approx(access_ns, rel=0.02)


def test_configuration_is_kept_and_pins_what_changes_the_figures() -> None:
    for line in (
        '-Optimize ED or ED^2 (ED, ED^2, NONE): "NONE"',
        '-Add ECC - "false"',
        "-technology (u) 0.045",
        "-operating temperature (K) 360",
        '-Data array cell type - "itrs-{cell}"',
        "-output/input bus width {word_bits}",
        "-burst length 8",
        "-internal prefetch width 8",
    ):
        assert line in TABLE.configuration.splitlines()
    assert TABLE.version.startswith("7.0")


@pytest.mark.parametrize("cell", ["hp", "lop", "lstp"])
@pytest.mark.parametrize("ports", ["rw", "r_w"])
@pytest.mark.parametrize("word_bytes", [4, 8, 16, 32, 64])
def test_table_covers_the_buffers_of_an_accelerator(cell: str, ports: str, word_bytes: int) -> None:
    for exponent in range(12, 22):
        assert cacti_sram(2**exponent, word_bytes, ports, cell).bytes == 2**exponent


def test_more_capacity_takes_more_area_and_leaks_more() -> None:
    for below, above in NEIGHBOURS:
        assert TABLE.rows[below].area_mm2 < TABLE.rows[above].area_mm2, above
        assert TABLE.rows[below].leakage_mw < TABLE.rows[above].leakage_mw, above


def test_a_second_port_takes_area() -> None:
    for point in TABLE.rows:
        if point.ports == "rw" and (two := point._replace(ports="r_w")) in TABLE.rows:
            assert TABLE.rows[two].area_mm2 > TABLE.rows[point].area_mm2, point


def test_cells_are_ordered_as_their_names_say() -> None:
    """High performance is the fastest and leaks most, low standby power leaks least."""
    for point in TABLE.rows:
        if point.cell == "hp":
            fast, low_power, low_standby = (TABLE.rows[point._replace(cell=c)] for c in ("hp", "lop", "lstp"))
            assert fast.leakage_mw > low_power.leakage_mw > low_standby.leakage_mw, point
            assert fast.access_ns < low_power.access_ns < low_standby.access_ns, point
            assert low_power.read_pj + low_power.write_pj < fast.read_pj + fast.write_pj, point


# --- between rows ----------------------------------------------------------------------------------------


def test_a_row_is_given_as_it_is() -> None:
    for point, row in TABLE.rows.items():
        assert cacti_sram(point.bytes, point.word_bytes, point.ports, point.cell) == row


@given(neighbours=st.sampled_from(NEIGHBOURS), share=st.floats(0, 1))
def test_interpolation_lies_between_its_neighbours(
    neighbours: tuple[SramPoint, SramPoint], share: float
) -> None:
    below, above = neighbours
    size = round(below.bytes + share * (above.bytes - below.bytes))
    sram = cacti_sram(size, below.word_bytes, below.ports, below.cell)
    assert (sram.bytes, sram.word_bytes) == (size, below.word_bytes)
    for name in MEASURED:
        ends = sorted(getattr(TABLE.rows[point], name) for point in neighbours)
        assert ends[0] * (1 - 1e-12) <= getattr(sram, name) <= ends[1] * (1 + 1e-12)


def test_interpolation_is_a_power_law(tmp_path: Path) -> None:
    """Half way in the logarithm of the capacity is the geometric mean."""
    ends = [cacti_sram(size, 8) for size in (4096, 16384)]
    path = tmp_path / "table.json"
    write_table(SramTable("7", "", {SramPoint("lop", "rw", 8, end.bytes): end for end in ends}), path)
    middle = cacti_sram(8192, 8, table=path)
    for name in MEASURED:
        product = getattr(ends[0], name) * getattr(ends[1], name)
        assert getattr(middle, name) == pytest.approx(product**0.5, rel=1e-12)


# --- what the table does not have ------------------------------------------------------------------------


def test_capacity_out_of_range() -> None:
    smallest = min(p.bytes for p in TABLE.rows if p[:3] == ("lop", "rw", 8))
    for size in (smallest - 1, 2**21 + 1):
        expected = (
            f"no SRAM of {size} bytes in words of 8 bytes, one read/write port, cell lop in cacti45.json, "
            f"which has {smallest} to 2097152 bytes; `python -m hwsim cacti --cacti PATH` can add it"
        )
        with pytest.raises(InputError, match=re.escape(expected)):
            cacti_sram(size, 8)


def test_unknown_width() -> None:
    with pytest.raises(
        InputError, match=r"words of 24 bytes.*which has words of 4, 8, 16, 32, 64 bytes; `python -m hwsim"
    ):
        cacti_sram(65536, 24)


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (
            {"bytes": 65536, "word_bytes": 8, "ports": "wr"},
            "unknown arrangement of SRAM ports 'wr'; known: rw, r_w",
        ),
        ({"bytes": 65536, "word_bytes": 8, "cell": "lopp"}, "unknown SRAM cell 'lopp'; did you mean 'lop'"),
        ({"bytes": 0, "word_bytes": 8}, "SRAM bytes: expected a whole number of at least 1, found 0"),
        ({"bytes": 65536, "word_bytes": -8}, "SRAM word_bytes: expected a whole number.*found -8"),
        ({"bytes": 1e5, "word_bytes": 8}, "SRAM bytes: expected a whole number.*found 100000.0"),
        ({"bytes": True, "word_bytes": 8}, "SRAM bytes: expected a whole number.*found True"),
    ],
)
def test_wrong_request(request_: dict, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        cacti_sram(**request_)


# --- the file --------------------------------------------------------------------------------------------


def test_shipped_table_is_written_as_we_write_it(tmp_path: Path) -> None:
    """Sorted, one row a line: what `regenerate` writes differs only where figures do."""
    path = tmp_path / "again.json"
    write_table(TABLE, path)
    assert path.read_text() == CACTI45.read_text()
    assert read_table(path) == TABLE


ROW = {"cell": "lop", "ports": "rw", "word_bytes": 8, "bytes": 64} | dict.fromkeys(MEASURED, 1.0)


def table_text(*rows: object) -> str:
    return json.dumps({"version": "7", "configuration": [], "rows": rows})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "not an SRAM table: Expecting property name"),
        ("[]", "not an SRAM table: "),
        ("{}", "not an SRAM table: no 'rows'"),
        (table_text({"cell": "lop"}), "not an SRAM table: no 'bytes'"),
        (table_text(7), "not an SRAM table: "),
        (table_text(ROW | {"cell": "xx"}), "unknown SRAM cell 'xx'"),
        (table_text(ROW | {"read_pj": 0}), "read_pj of 64 bytes.*: expected a positive number, found 0"),
        (table_text(ROW | {"area_mm2": "1"}), "area_mm2 of .*: expected a positive number, found '1'"),
        (table_text(ROW | {"access_ns": float("nan")}), "access_ns of .*: expected a positive number"),
        (table_text(ROW, ROW), "a row is given twice"),
    ],
)
def test_malformed_table(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "table.json"
    path.write_text(text)
    with pytest.raises(InputError, match=f"^{re.escape(str(path))}: .*{expected}") as caught:
        read_table(path)
    assert "\n" not in str(caught.value)


def test_well_formed_table(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_text(table_text(ROW))
    assert cacti_sram(64, 8, table=path).read_pj == 1.0
    with pytest.raises(InputError, match=r"cell hp in table\.json, which has none with such"):
        cacti_sram(64, 8, cell="hp", table=path)


def test_missing_table(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read the SRAM table .*No such file"):
        read_table(tmp_path / "absent.json")
