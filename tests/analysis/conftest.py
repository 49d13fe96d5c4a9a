"""A SQLite store of the test session with tracked runs in it."""

from collections.abc import Iterator

import pytest
from recorded_runs import (
    ADAPTIVE,
    DENSE,
    DENSE_BITOPS,
    PROBES,
    PROTOCOL,
    Recorded,
    Recorder,
    flat,
    noise,
    read_back,
    verdict,
)


@pytest.fixture(scope="session")
def recorder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorder]:
    """One store for the session: creating the database takes seconds. Tests share it, not experiments."""
    patch = pytest.MonkeyPatch()
    patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    patch.setenv("DO_NOT_TRACK", "true")
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path_factory.mktemp('tracking') / 'mlflow.db'}"
    yield Recorder(uri, MlflowClient(tracking_uri=uri))
    patch.undo()


@pytest.fixture(scope="session")
def demo(recorder: Recorder) -> Recorded:
    """The dense teacher and five noisy networks, recorded in no particular order; no cell is missing."""
    parent = recorder.parent("demo")
    recorder.stage(parent, "pretrain")
    ids = {}
    adversarial = noise(ratio="0.9", objective="adversarial")
    for name, tags, counts, bitops in (
        ("4:8", noise(pattern="4:8"), (190, 120, 110, 115, 101), (573_540.0, 570_000.0)),
        ("0.9 adversarial", adversarial, (180, 150, 140, 145, 130), (173_540.0, 180_000.0)),
        ("0.9", noise(ratio="0.9"), (188, 150, 140, 148, 70), (173_540.0, 180_000.0)),
        ("dense", DENSE, (190, 110, 100, 105, 100), (DENSE_BITOPS, DENSE_BITOPS)),
        ("2:8", noise(pattern="2:8"), (190, 112, 102, 107, 99), (823_540.0, 820_000.0)),
        ("0.5", noise(ratio="0.5"), (189, 118, 108, 113, 100), (573_540.0, 575_000.0)),
    ):
        columns = ("clean", "fgsm", "pgd20", "mifgsm", "pgd20_straight_through")
        ids[name] = recorder.attack(parent, tags, dict(zip(columns, counts, strict=True)), bitops=bitops)
    return read_back(recorder, "demo", ids)


@pytest.fixture(scope="session")
def adaptive(recorder: Recorder) -> Recorded:
    """The dense teacher, a network whose gain is gone in the worst case, and a random one with no verdict."""
    parent = recorder.parent("adaptive")
    params = PROTOCOL | flat(ADAPTIVE | PROBES)
    columns = ("clean", "fgsm", "pgd20", "mifgsm", "pgd20_straight_through", *ADAPTIVE, *PROBES, "worst_case")
    dense = (190, 110, 100, 105, 100, 99, 96, 90, 90, 89, 130, 0, 89)
    masked = (188, 150, 140, 148, 130, 120, 40, 36, 35, 34, 150, 11, 34)
    cheap = (173_540.0, 180_000.0)
    found = {
        "dense": recorder.attack(
            parent, DENSE, dict(zip(columns, dense, strict=True)), params=params, metrics=verdict()
        ),
        "0.9": recorder.attack(
            parent,
            noise(ratio="0.9"),
            dict(zip(columns, masked, strict=True)),
            bitops=cheap,
            params=params,
            metrics=verdict("protocols_disagree", "zero_gradients"),
        ),
    }
    # of a random network there are means over draws and no counts, and nothing of what is not defined for it
    means = {f"accuracy/{name}": 0.5012 for name in columns if name != "autoattack_standard"}
    found["random"] = recorder.attack(
        parent,
        noise(ratio="0.9") | {"randomize": "bank"},
        {},
        bitops=cheap,
        params=params,
        metrics=means,
    )
    return read_back(recorder, "adaptive", found)
