"""What was computed outside the pipeline becomes what the pipeline would have computed."""

import dataclasses
import json
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from small_chain import compute, small_chain, small_files_for_cifar10, write_cifar
from typer.testing import CliRunner

from benchmarks.chain_run import Done
from nenni_core.attacks import AttackSpec
from nenni_core.chain.record import write_record
from nenni_core.chain.runtime import RecordCallback
from nenni_core.errors import InputError
from nenni_core.files import write_json
from pipeline.experiment import ExperimentSet, load_parameters
from pipeline.imports import PARAMETERS, import_chain
from pipeline.runner import Plan, Unobserved, ensure, plan
from pipeline.store import Store
from pipeline.store_commands import app

ATTACKS = (
    AttackSpec(name="cw_l2", kind="cw", steps=2, c=1.0),
    AttackSpec(name="fgsm", kind="fgsm"),
    AttackSpec(name="transfer", kind="transfer", steps=1, survivors_of=("fgsm",)),
)


@pytest.fixture(scope="module", autouse=True)
def small_files() -> Iterator[None]:
    with small_files_for_cifar10():
        yield


@pytest.fixture(scope="module")
def chain_folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Done]]:
    """A finished chain without the variant by pattern, and its steps."""
    root = tmp_path_factory.mktemp("chain")
    chain = dataclasses.replace(small_chain(*ATTACKS), patterns=())
    folder = write_cifar(root)
    write_json(root / "out" / PARAMETERS, chain.parameters(str(folder)))
    return root / "out", compute(chain, folder, root / "out")


class Refusing(Unobserved):
    """Nothing may be computed."""

    def computing(self, stage: str, plan: Plan, *, resumed: bool) -> AbstractContextManager[RecordCallback]:
        raise AssertionError(f"{stage} is computed")


@pytest.mark.slow
def test_the_pipeline_finds_it_and_would_have_computed_the_same(
    chain_folder: tuple[Path, list[Done]], tmp_path: Path
) -> None:
    folder, done = chain_folder
    parameters = load_parameters(folder / PARAMETERS)
    imported, computed = Store(tmp_path / "imported"), Store(tmp_path / "computed")
    lines: list[str] = []
    import_chain(folder, parameters, imported, lines.append)
    assert len(lines) == len(done) == len(imported.names())
    for planned in plan(parameters.experiments()):
        ensure("attack", planned, store=imported, observer=Refusing())
        ensure("attack", planned, store=computed)
    assert imported.names() == computed.names()
    for stage, key in imported.names():
        there, here = (store.find(stage, key) for store in (imported, computed))
        assert there is not None
        assert here is not None
        assert there.manifest.files.keys() == here.manifest.files.keys()
        assert there.manifest.digest == here.manifest.digest
        same = ("config", "seed", "upstream", "upstream_digests", "metrics", "stage_version", "device")
        for name in same:
            assert getattr(there.manifest, name) == getattr(here.manifest, name)
        assert there.manifest.imported_from == "cpu"
        assert here.manifest.imported_from == ""
    lines.clear()
    import_chain(folder, parameters, imported, lines.append)
    assert all(line.endswith("already there") for line in lines)


@pytest.mark.slow  # a database is created
def test_the_command_imports_tracks_and_names_what_is_not_there(
    chain_folder: tuple[Path, list[Done]], tmp_path: Path
) -> None:
    folder, done = chain_folder
    part = tmp_path / "part"
    part.mkdir()
    for one in done[:2]:
        (part / one.folder.name).symlink_to(one.folder)
    (part / PARAMETERS).symlink_to(folder / PARAMETERS)
    store = str(tmp_path / "store")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    result = CliRunner().invoke(app, ["import", str(part), "--store", store, "--tracking-uri", uri])
    assert result.exit_code == 0, result.output
    assert [stage for stage, _ in Store(Path(store)).names()] == ["prepare", "pretrain"]
    assert result.stderr.count("imported, computed on cpu in ") == 2
    missing = ["distill", "finetune", "attack", "attack"]
    assert [line.split()[3] for line in result.stderr.splitlines() if "not there yet" in line] == missing
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("paper-scale")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.kind = 'stage'")
    tracked = {run.data.tags["stage"]: run for run in runs}
    assert set(tracked) == {"prepare", "pretrain"}
    assert tracked["pretrain"].data.tags["imported_from"] == "cpu"
    assert {"peak_memory_bytes", "images_per_second"} <= tracked["pretrain"].data.metrics.keys()


def copied(done: list[Done], out: Path, count: int) -> list[Path]:
    """The first folders of a chain, each with a record that may be written anew."""
    folders = []
    for one in done[:count]:
        copy = out / one.folder.name
        copy.mkdir(parents=True)
        for file in one.folder.iterdir():
            (copy / file.name).write_bytes(file.read_bytes())
        folders.append(copy)
    return folders


def refused(folder: Path, parameters: ExperimentSet, store: Store) -> str:
    with pytest.raises(InputError) as caught:
        import_chain(folder, parameters, store, lambda line: None)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_cannot_be_imported_is_named(chain_folder: tuple[Path, list[Done]], tmp_path: Path) -> None:
    folder, done = chain_folder
    parameters, store = load_parameters(folder / PARAMETERS), Store(tmp_path / "store")
    prepared, trained = copied(done, tmp_path / "copy", 2)
    record = done[1].record

    def rewritten(**changes: Any) -> None:
        write_record(trained, dataclasses.replace(record, **changes))

    rewritten(upstream_digests={"prepare": "0" * 64})
    assert f"was computed from another prepare than '{prepared}'" in refused(
        tmp_path / "copy", parameters, store
    )
    rewritten(version=record.version - 1)
    assert f"by version {record.version - 1} of the stage pretrain" in refused(
        tmp_path / "copy", parameters, store
    )
    rewritten()
    (trained / "best.safetensors").write_bytes(b"other weights")
    assert "best.safetensors' is not what was written" in refused(tmp_path / "copy", parameters, store)
    other = json.loads((folder / PARAMETERS).read_text()) | {"seed": 7}
    other["prepare"]["split_seed"] = 7
    assert "is of the experiments of its parameter file" in refused(
        folder, ExperimentSet.model_validate(other), store
    )
    assert [stage for stage, _ in store.names()] in ([], ["prepare"])
