"""The files of the repository: clean, small, and with a lock that is exact and complete."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
MAX_LINES = 450


def tracked_files() -> list[Path]:
    """Files that git knows, so that caches, results and virtual environments are left out."""
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    return [path for name in names.split("\0") if name and (path := ROOT / name).is_file()]


TRACKED = tracked_files()
PYTHON = [path for path in TRACKED if path.suffix == ".py"]


# --- files -----------------------------------------------------------------------------------------------

# Written in parts so that this file does not name what it looks for.
REGISTRY_HOSTS = [
    ".".join(parts) for parts in (("pypi", "org"), ("pythonhosted", "org"), ("download", "pytorch"))
]
UNWANTED = {
    "a registry's address": re.compile("|".join(map(re.escape, REGISTRY_HOSTS)) + r"|https?://\S*/simple\b"),
    "a path of one machine": re.compile(r"(?<![\w.$}])/(?:home|root|Users|work)/\w"),
    "unfinished work": re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X)\b"),
}


def unwanted_lines(text: str) -> list[str]:
    return [
        f"line {number}: {what}: {line.strip()[:80]}"
        for number, line in enumerate(text.splitlines(), start=1)
        for what, pattern in UNWANTED.items()
        if pattern.search(line)
    ]


def test_files_name_no_machine_registry_or_unfinished_work() -> None:
    found = {}
    for path in TRACKED:
        content = path.read_bytes()
        if b"\0" not in content and (lines := unwanted_lines(content.decode())):
            found[path.relative_to(ROOT).as_posix()] = lines
    assert found == {}


@pytest.mark.parametrize(
    "line",
    [
        f"see https://{REGISTRY_HOSTS[0]}/x",
        "open('/" + "home/me/x')",
        "# TO" + "DO later",
        "x = /" + "work/data",
    ],
)
def test_unwanted_line_is_seen(line: str) -> None:
    assert len(unwanted_lines(f"fine\n{line}\n")) == 1


@pytest.mark.parametrize("line", ["reports/home/index", "$ROOT/work/data", "https://example.com/simpler"])
def test_harmless_line_passes(line: str) -> None:
    assert unwanted_lines(line) == []


def test_python_files_stay_small() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in PYTHON}
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}


def test_test_files_have_names_of_their_own() -> None:
    """The test folders are no packages, so pytest tells their modules apart by file name only."""
    tests = [path.name for path in PYTHON if path.is_relative_to(ROOT / "tests")]
    names = [name for name in tests if name != "conftest.py"]
    assert sorted(names) == sorted(set(names))


# --- packaging -------------------------------------------------------------------------------------------


def requirements(name: str) -> list[Requirement]:
    """The requirements of a file of requirements/, all of them exact and with hashes if it is a lock."""
    text = (ROOT / "requirements" / name).read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    parsed = []
    for line in lines:
        specification, *hashes = re.split(r"\s--hash=", line)
        if "lock" in name:
            assert hashes, f"{specification} has no hash"
            assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", value.strip()) for value in hashes), specification
            assert re.fullmatch(r"[\w.-]+==[\w.!+-]+( ;.*)?", specification.strip()), (
                f"{specification} is no exact pin"
            )
        parsed.append(Requirement(specification.strip()))
    return parsed


def pins() -> dict[str, list[Version]]:
    """Package -> its locked versions; several if they depend on the platform or Python's version."""
    found: dict[str, list[Version]] = {}
    for name in ("lock.txt", "no-deps.lock", "torch.txt"):
        for requirement in requirements(name):
            (specifier,) = requirement.specifier
            assert specifier.operator == "=="
            found.setdefault(canonicalize_name(requirement.name), []).append(Version(specifier.version))
    return found


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DECLARED = [
    Requirement(text)
    for text in [
        *PROJECT["dependencies"],
        *(r for extra in PROJECT["optional-dependencies"].values() for r in extra),
    ]
]


def test_lock_satisfies_what_is_asked_for() -> None:
    asked = DECLARED + [r for name in ("base.in", "dev.in", "no-deps.in") for r in requirements(name)]
    locked = pins()
    unmet = {
        str(requirement): locked.get(canonicalize_name(requirement.name), [])
        for requirement in asked
        if not (versions := locked.get(canonicalize_name(requirement.name), []))
        or not all(requirement.specifier.contains(version) for version in versions)
    }
    assert unmet == {}, "make lock"


def test_the_cluster_tests_fit_into_the_locked_environment() -> None:
    """Installing what they need on top changes no version of what is there."""
    locked, more = pins(), requirements("cluster.lock")
    for requirement in more:
        version = Version(next(iter(requirement.specifier)).version)
        assert version in locked.get(canonicalize_name(requirement.name), [version]), requirement
    asked = {canonicalize_name(requirement.name) for requirement in requirements("cluster.in")}
    assert asked <= {canonicalize_name(requirement.name) for requirement in more}, "make lock"


def test_what_the_package_declares_is_what_is_locked() -> None:
    asked = {
        canonicalize_name(r.name) for file in ("base.in", "dev.in", "torch.txt") for r in requirements(file)
    }
    assert {canonicalize_name(r.name) for r in DECLARED} <= asked
