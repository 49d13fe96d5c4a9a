"""Technologies: figures that were published or follow from published ones; every wrong file in one line."""

import math
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from hwsim.errors import InputError
from hwsim.sram import cacti_sram
from hwsim.technology import TECHNOLOGIES, Entry, Technology, load_technology, technologies

PRESETS = ("horowitz45", "nangate45")


@pytest.fixture(params=PRESETS)
def technology(request: pytest.FixtureRequest) -> Technology:
    return load_technology(request.param)


def figure(technology: Technology, name: str) -> float:
    return technology.entries()[name].value


def complete() -> dict[str, Any]:
    """The content of a technology file, to be spoilt."""
    return yaml.safe_load((TECHNOLOGIES / "nangate45.yaml").read_text(encoding="utf-8"))


def write(folder: Path, content: object) -> Path:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


# --- the shipped technologies ----------------------------------------------------------------------------


def test_shipped_technologies() -> None:
    assert tuple(technologies()) == PRESETS


def test_each_is_named_as_its_file_and_of_45_nm(technology: Technology) -> None:
    assert technology.name in PRESETS
    assert load_technology(technology.name) == technology
    assert technology.feature_nm == 45


def test_every_figure_has_a_source_that_can_be_followed(technology: Technology) -> None:
    """It refers to the method, derives the figure with numbers, or names a publication."""
    for name, entry in technology.entries().items():
        assert re.search(r"\(see method\)|\d|as nangate45", entry.source), name


def test_zero_figures_say_so(technology: Technology) -> None:
    zeros = {name: entry for name, entry in technology.entries().items() if entry.value == 0}
    assert all(name.endswith("leakage_uw") and "counted as zero" in e.source for name, e in zeros.items())
    assert bool(zeros) == (technology.name == "horowitz45")


def test_horowitz_as_published() -> None:
    """ISSCC 2014, figure 1.1.9."""
    horowitz = load_technology("horowitz45")
    assert figure(horowitz, "add_32_pj") == 0.1
    assert figure(horowitz, "add_32_area_um2") == 137
    assert figure(horowitz, "compare_16_pj") == 0.05
    assert figure(horowitz, "compare_16_area_um2") == 67
    assert 1300 / 8 <= figure(horowitz, "dram_pj_per_byte") <= 2600 / 8
    assert horowitz.supply_volt == 0.9


@pytest.mark.parametrize(("kilobytes", "published"), [(8, 10), (32, 20), (1024, 100)])
def test_horowitz_caches_follow_the_square_root(kilobytes: int, published: float) -> None:
    memory = load_technology("horowitz45").memory(kilobytes * 1024, 8)
    assert memory.read_pj == memory.write_pj == pytest.approx(published, rel=0.14)


def test_horowitz_multipliers_lie_on_the_power_law_of_8_and_32_bits() -> None:
    horowitz = load_technology("horowitz45")
    exponent = math.log(3.1 / 0.2, 32 / 8)
    assert exponent == pytest.approx(2, rel=0.02)  # a multiplier is quadratic in its width
    assert figure(horowitz, "multiply_16x16_plain_pj") == pytest.approx(0.2 * 2**exponent, rel=1e-4)
    assert figure(horowitz, "multiply_4x4_pj") == pytest.approx(0.2 / 2**exponent, rel=1e-4)
    plain_area = 282 * 2 ** math.log(3495 / 282, 4)
    assert figure(horowitz, "multiplier_area_um2") == pytest.approx(plain_area * 2604 / 1969, rel=1e-4)


def test_nangate_as_measured() -> None:
    nangate = load_technology("nangate45")
    assert figure(nangate, "multiply_16x16_pj") == 4.12
    assert 4 * figure(nangate, "multiply_4x16_pj") == pytest.approx(4.71)
    assert figure(nangate, "multiplier_area_um2") / 1969 == pytest.approx(1.32, abs=0.005)
    assert 16 * figure(nangate, "register_bit_write_pj") == pytest.approx(0.196)
    assert 16 * figure(nangate, "register_bit_area_um2") == pytest.approx(72.4)
    assert 16 * figure(nangate, "register_bit_leakage_uw") == pytest.approx(1.27)
    # a flip-flop of the library alone takes 4.52 um2
    assert figure(nangate, "register_bit_area_um2") == pytest.approx(4.52, rel=0.002)


@pytest.mark.parametrize("unit", ["multiplier", "add_4", "add_32", "compare_16", "register_bit"])
def test_units_of_one_library_leak_alike_for_their_area(unit: str) -> None:
    """About 0.02 uW per um2, as gates of one library do."""
    nangate = load_technology("nangate45")
    density = figure(nangate, f"{unit}_leakage_uw") / figure(nangate, f"{unit}_area_um2")
    assert 0.016 < density < 0.025


def test_a_composed_multiplier_costs_what_composing_costs(technology: Technology) -> None:
    plain, composed = (figure(technology, f"multiply_16x16_{kind}pj") for kind in ("plain_", ""))
    assert composed / plain == pytest.approx(1.23, abs=0.005)


def test_products_cost_what_their_bits_say(technology: Technology) -> None:
    """4 x 4 to 16 x 16 bits is sixteen times the work; small multipliers lose the additions between."""
    plain = figure(technology, "multiply_16x16_plain_pj")
    assert 1 / 1.4 < plain / figure(technology, "multiply_4x4_pj") / 16 < 1.4
    # four products of 4 x 16 bits use the same sixteen small multipliers as one of 16 x 16
    four = 4 * figure(technology, "multiply_4x16_pj")
    assert 1 < four / figure(technology, "multiply_16x16_pj") < 1.25


def test_wider_adders_cost_more_but_less_than_twice_in_proportion(technology: Technology) -> None:
    for unit in ("pj", "area_um2"):
        assert 4 < figure(technology, f"add_32_{unit}") / figure(technology, f"add_4_{unit}") < 16


def test_memory_hierarchy_is_ordered(technology: Technology) -> None:
    """A byte from a register costs less than from an SRAM, and that less than from DRAM."""
    register = 8 * figure(technology, "register_bit_read_pj")
    sram = technology.memory(65536, 8).read_pj / 8
    assert register < sram < figure(technology, "dram_pj_per_byte")


def test_aladdin_agrees_on_registers(technology: Technology) -> None:
    """0.009 pJ and 5.98 um2 a bit at 45 nm (Aladdin's tables), an independent source, within 40%."""
    assert figure(technology, "register_bit_write_pj") == pytest.approx(0.009, rel=0.4)
    assert figure(technology, "register_bit_area_um2") == pytest.approx(5.98, rel=0.4)


def test_presets_disagree_by_the_known_spread() -> None:
    horowitz, nangate = (load_technology(name) for name in PRESETS)
    spread = figure(nangate, "multiply_16x16_pj") / figure(horowitz, "multiply_16x16_pj")
    assert 4 < spread < 4.5


# --- memories --------------------------------------------------------------------------------------------


def test_memory_has_every_quantity(technology: Technology) -> None:
    for ports in ("rw", "r_w"):
        memory = technology.memory(100_000, 32, ports)
        assert (memory.bytes, memory.word_bytes) == (100_000, 32)
        assert min(memory.read_pj, memory.write_pj, memory.leakage_mw, memory.area_mm2) > 0


def test_nangate_memory_is_the_row_of_the_table() -> None:
    nangate = load_technology("nangate45")
    assert nangate.memory(65536, 32, "r_w") == cacti_sram(65536, 32, "r_w", nangate.sram.cell)


def test_horowitz_memory_takes_from_the_table_what_was_not_published() -> None:
    horowitz = load_technology("horowitz45")
    memory, row = horowitz.memory(65536, 16), cacti_sram(65536, 16, "rw", horowitz.sram.cell)
    assert memory.read_pj == pytest.approx(10 * math.sqrt(65536 / 8192) * 16 / 8)
    assert memory.read_pj != row.read_pj
    assert (memory.leakage_mw, memory.area_mm2, memory.access_ns) == (
        row.leakage_mw,
        row.area_mm2,
        row.access_ns,
    )


def test_memory_outside_of_the_table(technology: Technology) -> None:
    with pytest.raises(InputError, match="python -m hwsim cacti"):
        technology.memory(2**30, 8)


# --- a user's own ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [str, Path])
def test_own_file(tmp_path: Path, kind: type) -> None:
    content = complete()
    content["name"] = "mine"
    content["dram_pj_per_byte"] = {"value": "1e-1", "source": "a wish"}  # YAML 1.1 reads 1e-1 as text
    technology = load_technology(kind(write(tmp_path, content)))
    assert technology.name == "mine"
    assert technology.dram_pj_per_byte == Entry(value=0.1, source="a wish")


def test_small_multiplier_may_be_unknown(tmp_path: Path) -> None:
    content = complete()
    del content["multiply_4x4_pj"]
    technology = load_technology(write(tmp_path, content))
    assert technology.multiply_4x4_pj is None
    assert "multiply_4x4_pj" not in technology.entries()


def test_a_technology_is_frozen(technology: Technology) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        technology.supply_volt = 2.0
    with pytest.raises(ValidationError, match="frozen"):
        technology.add_32_pj.value = 0.0


def test_unknown_name() -> None:
    with pytest.raises(InputError, match=r"unknown technology 'nangate54'; did you mean 'nangate45'\?"):
        load_technology("nangate54")


def spoilt(key: str, value: object) -> dict[str, Any]:
    return complete() | {key: value}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            spoilt("add_32_pj", {"value": -1, "source": "x"}),
            "add_32_pj.value: expected greater than or equal to 0, found -1",
        ),
        (spoilt("add_32_pj", {"value": "much", "source": "x"}), "add_32_pj.value: .*number.*found 'much'"),
        (
            spoilt("add_32_pj", {"value": math.nan, "source": "x"}),
            "add_32_pj.value: expected greater than or equal to 0, found nan",
        ),
        (
            spoilt("add_32_pj", {"value": math.inf, "source": "x"}),
            "add_32_pj.value: expected a finite number, found inf",
        ),
        (
            spoilt("add_32_pj", {"value": True, "source": "x"}),
            "add_32_pj.value: expected a number, found true",
        ),
        (spoilt("add_32_pj", {"value": 1, "source": " "}), "add_32_pj.source: .*found ' '"),
        (spoilt("add_32_pj", {"value": 1}), "missing key 'add_32_pj.source'"),
        (spoilt("add_32_pj", {"value": 1, "source": "x", "unit": "pJ"}), "unknown key 'add_32_pj.unit'"),
        (spoilt("add_32_pj", 0.1), "add_32_pj: expected a section with keys, found 0.1"),
        (
            spoilt("add_32_pJ", {"value": 1, "source": "x"}),
            "unknown key 'add_32_pJ'; did you mean 'add_32_pj'",
        ),
        (spoilt("supply_volt", 0), "supply_volt: expected greater than 0, found 0"),
        (spoilt("feature_nm", None), "feature_nm: expected a valid number, found None"),
        (spoilt("name", "My Own"), "name: .*found 'My Own'"),
        (
            spoilt("sram", {"kind": "cacti54", "cell": "lop"}),
            "sram.kind: expected .*'cacti45'.*found 'cacti54'",
        ),
        (spoilt("sram", {"cell": "lop"}), "sram: expected a section with the key 'kind'"),
        (
            spoilt("sram", {"kind": "cacti45", "cell": "fast"}),
            "sram.cacti45.cell: expected .*'lop'.*found 'fast'",
        ),
        (spoilt("sram", "cacti45"), "sram: expected .*found 'cacti45'"),
        ({k: v for k, v in complete().items() if k != "compare_16_pj"}, "missing key 'compare_16_pj'"),
        ([1, 2], r"expected keys with values, found \[1, 2\]"),
        (None, "expected keys with values, found None"),
        (spoilt("two\nlines", 1), r"unknown key 'two\\nlines'; known: name, title"),
        (spoilt("supply_volt", 10**400), "supply_volt: expected .*, found 10+[.]{3}$"),
    ],
)
def test_malformed_content(tmp_path: Path, content: object, expected: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(InputError, match=f"^{re.escape(str(path))}: {expected}") as caught:
        load_technology(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600 + len(str(path))


def test_several_problems_are_counted(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"missing key 'name' \(and \d+ more\)$"):
        load_technology(write(tmp_path, {"title": "x"}))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"name: [", "line 1: not valid YAML: "),
        (b"name: a\nname: b\n", "line 2: not valid YAML: the key 'name' is given twice"),
        (b"\xff\xfe\xfa", "not valid YAML: "),
        (b"? [a, b]\n: c\n", "not valid YAML: "),
        (b"[" * 5000, "nested too deeply"),
        (b"when: 2014-02-31\n", "not valid YAML: "),
    ],
)
def test_no_yaml(tmp_path: Path, text: bytes, expected: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(text)
    with pytest.raises(InputError, match=expected) as caught:
        load_technology(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read '.*absent.yaml': No such file"):
        load_technology(str(tmp_path / "absent.yaml"))
    with pytest.raises(InputError, match="cannot read"):
        load_technology(tmp_path)
