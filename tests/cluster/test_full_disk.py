"""A sweep whose disk is full, for real: a small file system in memory, which takes rights that few have."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from sweeping import Sweeping, results, seconds, tiny_grid

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


def mount(folder: Path, *options: str) -> bool:
    """Mount a file system in memory; whether that was allowed."""
    command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "none", str(folder)]
    try:
        return subprocess.run(command, check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk that has room for the data and some, but not all, of the networks."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not mount(folder, "size=2m"):
        pytest.skip("mounting a file system takes the rights of root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_is_named_and_the_sweep_goes_on_when_there_is_room(
    small_disk: Path, tmp_path: Path
) -> None:
    alone = Sweeping(tmp_path / "alone", tiny_grid())
    alone.run("--no-tracking")

    sweeping = Sweeping(small_disk / "sweep", tiny_grid())
    said = sweeping.run("--no-tracking", status=1)
    assert "No space left on device" in said
    assert "Traceback" not in said
    before = seconds(sweeping.store)
    assert 0 < len(before) < len(seconds(alone.store))

    assert mount(small_disk, "remount", "size=200m")
    sweeping.run("--no-tracking")
    assert results(sweeping.store) == results(alone.store)
    after = seconds(sweeping.store)
    assert {name: after[name] for name in before} == before
