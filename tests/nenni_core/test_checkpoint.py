"""A checkpoint is whole or it is not used."""

import os
import resource
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from nenni_core import checkpoint
from nenni_core.checkpoint import latest_checkpoint, portable, write_checkpoint

TENSORS = {
    "weight": torch.linspace(-1, 1, 24).reshape(2, 3, 2, 2).contiguous(memory_format=torch.channels_last),
    "half": torch.tensor([1.5, float("nan"), float("-inf")], dtype=torch.bfloat16),
    "count": torch.tensor(7),
    "flags": torch.tensor([True, False]),
    "state": torch.Generator().manual_seed(3).get_state(),
    "empty": torch.zeros(0, 3),
}
RECORD = {"rate": 0.1 + 0.2, "history": [1 / 3, 1e-300], "text": "ü"}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(
        a[name].dtype == b[name].dtype
        and a[name].shape == b[name].shape
        and torch.equal(a[name].nan_to_num(), b[name].nan_to_num())
        for name in a
    )


def test_it_comes_back_to_the_bit(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "new" / "folder", 1, TENSORS, RECORD)
    found = latest_checkpoint(tmp_path / "new" / "folder")
    assert found is not None
    assert equal(found[0], TENSORS)
    assert found[1] == RECORD


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path) is None
    assert latest_checkpoint(tmp_path / "absent") is None


def test_the_newest_two_are_kept_and_leftovers_removed(tmp_path: Path) -> None:
    (tmp_path / "epoch-00007.partial").write_bytes(b"cut off")
    (tmp_path / "notes.txt").write_text("not ours")
    for epoch in (8, 9, 10, 100_000):
        write_checkpoint(tmp_path, epoch, {"epoch": torch.tensor(epoch)}, {})
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["epoch-00010.safetensors", "epoch-100000.safetensors", "notes.txt"]
    found = latest_checkpoint(tmp_path)
    assert found is not None
    assert int(found[0]["epoch"]) == 100_000


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_anywhere_is_noticed_and_the_one_before_is_used(tmp_path: Path, data: st.DataObject) -> None:
    write_checkpoint(tmp_path, 1, {"old": torch.ones(2)}, {"epoch": 1})
    path = write_checkpoint(tmp_path, 2, TENSORS, RECORD)
    content = bytearray(path.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1), label="position")
    if data.draw(st.booleans(), label="truncate"):
        content = content[:position]
    else:
        content[position] ^= 1 << data.draw(st.integers(0, 7), label="bit")
    path.write_bytes(content)
    with pytest.warns(UserWarning, match=r"epoch-00002.safetensors is damaged .* the one before it"):
        found = latest_checkpoint(tmp_path)
    assert found is not None
    assert found[1] == {"epoch": 1}


def test_nothing_but_damage_is_a_start_from_scratch(tmp_path: Path) -> None:
    for epoch in (1, 2):
        write_checkpoint(tmp_path, epoch, TENSORS, RECORD).write_bytes(b"\x10")
    with pytest.warns(UserWarning, match="damaged") as caught:
        assert latest_checkpoint(tmp_path) is None
    assert len(caught) == 2


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_an_error_while_writing_leaves_the_former_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    write_checkpoint(tmp_path, 1, TENSORS, RECORD)

    def fail(*arguments: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(OSError, match="no space"):
        write_checkpoint(tmp_path, 2, TENSORS, {"epoch": 2})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = latest_checkpoint(tmp_path)
    assert found is not None
    assert found[1] == RECORD


def test_a_full_disk_is_an_error_of_the_system(tmp_path: Path) -> None:
    """Stood for by the size that the system allows a file to have."""
    write_checkpoint(tmp_path, 1, TENSORS, RECORD)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_checkpoint(tmp_path, 2, {"large": torch.zeros(10_000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    found = latest_checkpoint(tmp_path)
    assert found is not None
    assert found[1] == RECORD


def test_the_file_is_flushed_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = []
    replace, flush = os.replace, checkpoint._flush
    monkeypatch.setattr(os, "replace", lambda a, b: (events.append("rename"), replace(a, b)))
    monkeypatch.setattr(checkpoint, "_flush", lambda path: (events.append(path.suffix), flush(path)))
    write_checkpoint(tmp_path, 1, TENSORS, RECORD)
    assert events == [".partial", "rename", ""]


def test_portable_copies_share_nothing() -> None:
    base = torch.zeros(4)
    copies = portable({"whole": base, "part": base[:2], "same": base})
    base.fill_(1)
    assert all(not copy.any() and copy.is_contiguous() for copy in copies.values())
