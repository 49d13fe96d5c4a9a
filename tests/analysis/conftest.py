"""A SQLite store of the test session with tracked runs in it."""

from collections.abc import Iterator

import pytest
from recorded_runs import DENSE, DENSE_BITOPS, Recorded, Recorder, noise, read_back


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
