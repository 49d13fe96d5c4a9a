"""Manifests as the runner would write them."""

from typing import Any

from pipeline.store import Manifest

KEY = "a" * 64


def manifest(key: str = KEY, stage: str = "pretrain", **changes: Any) -> Manifest:
    """A manifest with its `files` still to be filled in by the store."""
    fields: dict[str, Any] = {
        "stage": stage,
        "key": key,
        "stage_version": 1,
        "config": {"epochs": 2},
        "seed": 0,
        "upstream": {"prepare": "b" * 64},
        "upstream_digests": {"prepare": "f" * 64},
        "data_fingerprint": "c" * 64,
        "metrics": {"accuracy": 0.5},
        "files": {},
        "git_commit": "d" * 40,
        "git_dirty": False,
        "code": "e" * 64,
        "versions": {"torch": "2"},
        "device": "cpu",
        "threads": 1,
        "seconds": 1.5,
        "resumed": False,
    }
    return Manifest(**(fields | changes))
