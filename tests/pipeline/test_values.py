"""Numbers and YAML: exact quotients, YAML 1.2 scalars, errors that name the line."""

from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from ruamel.yaml import YAML

from nenni_core.errors import InputError
from pipeline.values import Number, Pixels, Whole, as_list, parse_yaml, read_yaml, show_pixels

pixels = TypeAdapter(Pixels)
number = TypeAdapter(Number)
whole = TypeAdapter(Whole)


@given(st.integers(0, 255))
def test_grey_levels_survive_the_round_trip(level: int) -> None:
    read = pixels.validate_python(f"{level}/255")
    assert read == level / 255 == float(Fraction(level, 255))
    assert pixels.validate_python(pixels.dump_python(read, mode="json")) == read


@given(st.floats(0, 1))
def test_any_distance_survives_the_round_trip(value: float) -> None:
    assert pixels.validate_python(pixels.dump_python(value, mode="json")) == value


def test_distances_are_shown_as_they_are_written() -> None:
    assert show_pixels(8 / 255) == "8/255"
    assert show_pixels(0.1) == 0.1
    assert show_pixels(0.0) == 0.0
    assert show_pixels(1.0) == 1.0
    assert pixels.validate_python(8 / 255) == pixels.validate_python(" 8 / 255 ")


@pytest.mark.parametrize("text", ["8/", "/255", "8/0", "eight", "", "8/255/2", True, "nan", "inf", "1e999"])
def test_what_is_no_number_is_refused(text: object) -> None:
    with pytest.raises(ValidationError):
        number.validate_python(text)


def test_booleans_are_no_whole_numbers() -> None:
    assert whole.validate_python(3) == 3
    with pytest.raises(ValidationError, match="found true"):
        whole.validate_python(True)
    with pytest.raises(ValidationError):
        whole.validate_python(1.5)


@pytest.mark.parametrize(
    "scalar",
    [
        "4:8",
        "1e-3",
        "0x1F",
        "017",
        "0o17",
        "no",
        "On",
        "yes",
        "true",
        "~",
        "null",
        "",
        "1_000",
        "2026-11-21",
        "-1",
        ".5",
        "+2.",
        "-.inf",
        "8/255",
        "'8'",
    ],
)
def test_scalars_mean_what_they_mean_to_dvc(scalar: str) -> None:
    text = f"key: {scalar}\n"
    theirs = YAML(typ="safe", pure=True).load(text)["key"]
    ours = parse_yaml(text, source="test")["key"]
    if scalar == "2026-11-21":  # a date to both core and DVC's reader; we have no use for dates
        assert ours == scalar
    else:
        assert (type(ours), ours) == (type(theirs), theirs)


def test_a_key_given_twice_is_named_with_its_line() -> None:
    with pytest.raises(InputError, match=r"params.yaml line 3: .*'a' is given twice"):
        parse_yaml("a: 1\nb: 2\na: 3\n", source="params.yaml")


@pytest.mark.parametrize("text", ["", "- 1\n", "a: [1\n", "a: !!python/object:os.system x\n", "a: \x00"])
def test_other_content_is_an_input_error(text: str) -> None:
    with pytest.raises(InputError, match=r"params\.yaml"):
        parse_yaml(text, source="params.yaml")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.yaml.*No such file"):
        read_yaml(tmp_path / "nothing.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="UTF-8"):
        read_yaml(tmp_path / "binary.yaml")


def test_one_value_is_a_list_of_one() -> None:
    assert as_list(None) == []
    assert as_list(0.9) == [0.9]
    assert as_list("4:8") == ["4:8"]
    assert as_list((1, 2)) == [1, 2]


def test_a_file_that_is_nested_too_deeply_is_one_line() -> None:
    with pytest.raises(InputError, match=r"deep\.yaml: not a parameter file: it is nested too deeply"):
        parse_yaml("seed: " + "[" * 3000 + "]" * 3000, source="deep.yaml")
