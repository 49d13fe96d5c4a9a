"""Running CACTI: what it is told, what is read from its answer, and everything that can go wrong.

The program is a stand-in that answers with the text of a real run. With the environment variable CACTI naming
a real one, rows of the shipped table are made again with it.
"""

import json
import os
import sys
from dataclasses import astuple
from pathlib import Path

import pytest

from hwsim.cacti import (
    CONFIGURATION,
    NO_ORGANISATION,
    STANDARD_POINTS,
    NoOrganisation,
    configuration,
    parse,
    regenerate,
    run,
)
from hwsim.errors import InputError
from hwsim.sram import MEASURED, SramPoint, point_of, read_table

POINT = point_of(65536, 8, "rw", "hp")

# As CACTI prints it for 64 KiB in words of 8 bytes; what follows the size of the cache is left out.
PRINTED = """
---------- CACTI (version 7.0.3DD Prerelease of Aug, 2012), Uniform Cache Access SRAM Model ----------

Cache Parameters:
    Total cache size (bytes): 65536
    Number of banks: 1
    Associativity: direct mapped
    Block size (bytes): 8
    Read/write Ports: 1
    Read ports: 0
    Write ports: 0
    Technology size (nm): 45

    Access time (ns): 0.605655
    Cycle time (ns):  0.570152
    Total dynamic read energy per access (nJ): 0.0249095
    Total dynamic write energy per access (nJ): 0.0204609
    Total leakage power of a bank (mW): 73.8104
    Total gate leakage power of a bank (mW): 1.99703
    Cache height x width (mm): 0.700165 x 0.262443
"""

# Answers PRINTED with the sizes and ports of the file it is given, if it is started as CACTI wants to be.
ANSWERS = """
import pathlib, sys
assert sys.argv[1] == "-infile"
assert pathlib.Path("tech_params/45nm.dat").read_text() == "silicon"
lines = pathlib.Path(sys.argv[2]).read_text().splitlines()
asked = dict(line.rsplit(" ", 1) for line in lines if " " in line)
if int(asked["-size (bytes)"]) < 512:
    sys.exit("ERROR: {no_organisation}")
text = {printed!r}
text = text.replace("65536", asked["-size (bytes)"]).replace("Block size (bytes): 8", "Block size (bytes): " +
    asked["-block size (bytes)"]).replace("Ports: 1", "Ports: " + asked["-read-write port"]).replace(
    "Read ports: 0", "Read ports: " + asked["-exclusive read port"]).replace(
    "Write ports: 0", "Write ports: " + asked["-exclusive write port"])
print(text)
pathlib.Path(sys.argv[2] + ".out").write_text("CACTI writes beside its input")
"""


def program(folder: Path, body: str) -> Path:
    """A program made of Python text, with CACTI's parameters beside it."""
    (folder / "tech_params").mkdir(exist_ok=True)
    (folder / "tech_params" / "45nm.dat").write_text("silicon")
    path = folder / "cacti"
    path.write_text(f"#!{sys.executable}\n{body}")
    path.chmod(0o755)
    return path


def answering(folder: Path, printed: str = PRINTED) -> Path:
    return program(folder, ANSWERS.format(printed=printed, no_organisation=NO_ORGANISATION))


# --- what CACTI is told ----------------------------------------------------------------------------------


def test_configuration_names_the_memory() -> None:
    lines = configuration(point_of(4096, 32, "r_w", "lstp")).splitlines()
    for line in (
        "-size (bytes) 4096",
        "-block size (bytes) 32",
        "-output/input bus width 256",
        "-read-write port 0",
        "-exclusive read port 1",
        "-exclusive write port 1",
        '-Data array cell type - "itrs-lstp"',
        '-Data array peripheral type - "itrs-lstp"',
    ):
        assert line in lines
    assert "-read-write port 1" in configuration(POINT).splitlines()
    assert not any("{" in line for line in lines)


def test_every_option_is_given_once() -> None:
    names = [line.rpartition(" ")[0] or line for line in CONFIGURATION.splitlines()]
    assert len(names) == len(set(names))


def test_standard_points_are_what_is_shipped() -> None:
    table = read_table()
    assert set(table.rows) <= set(STANDARD_POINTS)
    # CACTI builds no array of fewer rows than that
    missing = set(STANDARD_POINTS) - set(table.rows)
    assert all(point.bytes < 32 * point.word_bytes for point in missing)
    assert table.configuration == CONFIGURATION.rstrip("\n")


# --- what CACTI answers ----------------------------------------------------------------------------------


def test_answer(tmp_path: Path) -> None:
    version, sram = run(answering(tmp_path), POINT)
    assert version == "7.0.3DD Prerelease of Aug, 2012"
    assert (sram.bytes, sram.word_bytes) == (65536, 8)
    # subthreshold and gate leakage are added, nJ become pJ, height and width an area
    expected = (24.9095, 20.4609, 73.8104 + 1.99703, 0.700165 * 0.262443, 0.605655)
    assert astuple(sram)[2:] == pytest.approx(expected, rel=1e-5)


def test_nothing_is_written_beside_the_program(tmp_path: Path) -> None:
    cacti = answering(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    run(cacti, POINT)
    assert sorted(tmp_path.rglob("*")) == before


def test_program_below_its_parameters_and_by_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As CACTI's own build leaves it in obj_dbg/; named relative to where the user is."""
    cacti = answering(tmp_path)
    (tmp_path / "obj_dbg").mkdir()
    moved = cacti.rename(tmp_path / "obj_dbg" / "cacti")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "cacti").symlink_to(moved)
    monkeypatch.chdir(tmp_path)
    assert run(Path("bin/cacti"), POINT) == run(moved, POINT)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("65536", "65537", r"expected 'Total cache size \(bytes\)' to be 65536, found 65537"),
        ("Block size (bytes): 8", "Block size (bytes): 16", "expected 'Block size.*to be 8, found 16"),
        ("Read ports: 0", "Read ports: 1", "expected 'Read ports' to be 0, found 1"),
        ("(nm): 45", "(nm): 22", "to be 45, found 22"),
        ("CACTI (version", "CACTUS (version", "it does not print its version"),
        ("Access time (ns)", "Access (ns)", r"it does not print 'Access time \(ns\)'"),
        ("0.0249095", "fast", "expected a number after 'Total dynamic read.*found 'fast'"),
        (
            "0.700165 x 0.262443",
            "0.700165",
            "expected a number after 'Cache height x width.*found '0.700165'",
        ),
    ],
)
def test_answer_that_is_not_understood(old: str, new: str, expected: str) -> None:
    assert old in PRINTED
    with pytest.raises(InputError, match=expected):
        parse(PRINTED.replace(old, new), POINT)


def test_answer_that_is_no_number_that_makes_sense(tmp_path: Path) -> None:
    cacti = answering(tmp_path, PRINTED.replace("0.605655", "nan"))
    with pytest.raises(InputError, match=r"cacti.*Access time.*found 'nan'"):
        run(cacti, POINT)


# --- what goes wrong -------------------------------------------------------------------------------------


def test_memory_that_cannot_be_built(tmp_path: Path) -> None:
    with pytest.raises(NoOrganisation, match="no way to build an SRAM of 256 bytes in words of 8 bytes"):
        run(answering(tmp_path), point_of(256, 8))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("import sys; print('one'); sys.exit('two')", "failed with code 1 for 65536 bytes.*: two"),
        ("raise SystemExit(3)", "failed with code 3.*: it printed nothing"),
        ("import os; os.abort()", "failed with code -6"),
        ("print('hello')", "it does not print 'Total cache size"),
        ("import sys; sys.stdout.buffer.write(b'\\xff')", "it does not print 'Total cache size"),
    ],
)
def test_program_that_is_no_cacti(tmp_path: Path, body: str, expected: str) -> None:
    with pytest.raises(InputError, match=expected) as caught:
        run(program(tmp_path, body), POINT)
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "cacti") in str(caught.value)


def test_program_that_hangs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"took more than 0\.2 s for 65536 bytes"):
        run(program(tmp_path, "import time; time.sleep(60)"), POINT, seconds=0.2)


def test_program_that_is_missing_or_cannot_be_started(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no CACTI program"):
        run(tmp_path / "cacti", POINT)
    with pytest.raises(InputError, match="no CACTI program"):
        run(tmp_path, POINT)
    cacti = program(tmp_path, "")
    cacti.chmod(0o644)
    with pytest.raises(InputError, match=r"cannot start CACTI .*: Permission denied"):
        run(cacti, POINT)
    cacti.chmod(0o755)
    cacti.write_text("no program")
    with pytest.raises(InputError, match=r"cannot start CACTI .*: Exec format error"):
        run(cacti, POINT)


def test_program_without_its_parameters(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    cacti = answering(folder)
    (folder / "tech_params").rename(tmp_path / "tech_params")
    with pytest.raises(InputError, match="tech_params/ is neither beside"):
        run(cacti, POINT)


# --- the table -------------------------------------------------------------------------------------------


def test_regenerate_adds_rows_and_names_what_cannot_be_built(tmp_path: Path) -> None:
    cacti, out = answering(tmp_path), tmp_path / "table.json"
    said: list[str] = []
    first, impossible = regenerate(cacti, [POINT, point_of(256, 8), POINT], out, said.append)
    assert list(first.rows) == [POINT]
    assert len(impossible) == 1
    assert [line.split(":")[0] for line in said] == ["1/2", "2/2"]
    other = point_of(1024, 4, "r_w", "lop")
    second, impossible = regenerate(cacti, [other], out)
    assert read_table(out) == second
    assert set(second.rows) == {POINT, other}
    assert second.rows[POINT] == first.rows[POINT]
    assert impossible == []
    rows = json.loads(out.read_text())["rows"]
    assert [row["cell"] for row in rows] == ["hp", "lop"]  # sorted


def test_rows_of_different_versions_are_not_mixed(tmp_path: Path) -> None:
    out = tmp_path / "table.json"
    regenerate(answering(tmp_path), [POINT], out)
    before = out.read_text()
    newer = answering(tmp_path, PRINTED.replace("version 7.0", "version 8.0"))
    with pytest.raises(InputError, match=r"made with CACTI '7\.0.*is '8\.0.*name a new file"):
        regenerate(newer, [point_of(1024, 8)], out)
    assert out.read_text() == before
    table, _ = regenerate(newer, [POINT], out)  # nothing old is left
    assert table.version.startswith("8.0")


def test_rows_of_different_configurations_are_not_mixed(tmp_path: Path) -> None:
    cacti, out = answering(tmp_path), tmp_path / "table.json"
    regenerate(cacti, [POINT], out)
    out.write_text(out.read_text().replace("temperature (K) 360", "temperature (K) 350"))
    read_table.cache_clear()
    with pytest.raises(InputError, match="made with another configuration of CACTI"):
        regenerate(cacti, [point_of(1024, 8)], out)


def test_a_table_that_cannot_be_written(tmp_path: Path) -> None:
    cacti = answering(tmp_path)
    with pytest.raises(InputError, match=r"cannot write the SRAM table .*No such file"):
        regenerate(cacti, [POINT], tmp_path / "absent" / "table.json")
    with pytest.raises(InputError, match=r"nothing to write.*none of the 1 memories"):
        regenerate(cacti, [point_of(256, 8)], tmp_path / "table.json")


@pytest.mark.skipif("CACTI" not in os.environ, reason="the environment variable CACTI names no program")
@pytest.mark.parametrize(
    "point",
    [POINT, SramPoint("lop", "r_w", 32, 16384), SramPoint("lstp", "rw", 4, 1024)],
    ids=lambda point: "-".join(map(str, point)),
)
def test_real_cacti_gives_the_shipped_rows(point: SramPoint) -> None:
    _, sram = run(Path(os.environ["CACTI"]), point)
    row = read_table().rows[point]
    assert [getattr(sram, n) for n in MEASURED] == pytest.approx(
        [getattr(row, n) for n in MEASURED], rel=1e-4
    )
