"""A search from the command line: what is finished is not evaluated again, and mistakes are one line."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars
import pytest
import yaml
from optuna.distributions import IntDistribution
from optuna.trial import TrialState
from tiny_search import searchable, tiny_search
from typer.testing import CliRunner

from nenni_core.errors import InputError
from pipeline import search_trials
from pipeline.experiment import load_parameters
from pipeline.ray_session import cluster
from pipeline.search import Search
from pipeline.search_trials import (
    DIED,
    ERROR,
    Journal,
    JournalledSearch,
    describe,
    evaluate_trial,
    results_of,
)
from pipeline.store import Store
from pipeline.tune import app


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> Search:
    return tiny_search(tmp_path_factory.mktemp("data"))


def space_of(search: Search) -> dict[str, IntDistribution]:
    return dict.fromkeys(search.groups, IntDistribution(0, len(search.steps) - 1))


# --- the journal -----------------------------------------------------------------------------------------


def test_uniform_ratios_come_first_and_once(search: Search, tmp_path: Path) -> None:
    for _ in range(2):
        journal = Journal(tmp_path, search)
    assert [journal.study.ask(space_of(search)).params for _ in search.uniform] == search.uniform_choices()
    assert not journal.study.get_trials(states=[TrialState.WAITING])


def test_what_was_under_way_is_proposed_again(search: Search, tmp_path: Path) -> None:
    first = Journal(tmp_path, search).study.ask(space_of(search)).params
    again = Journal(tmp_path, search)
    assert again.finished() == []
    waiting = len(again.study.get_trials(states=[TrialState.WAITING]))
    proposed = [again.study.ask(space_of(search)).params for _ in range(waiting)]
    assert proposed == [*search.uniform_choices()[1:], first]


def test_another_search_needs_another_folder(search: Search, tmp_path: Path) -> None:
    Journal(tmp_path / "one", search)
    other = tiny_search(tmp_path / "data", steps=(0.1, 0.9))
    with pytest.raises(InputError, match="has a search of other parameters, data, steps or stage versions"):
        Journal(tmp_path / "one", other)


@pytest.mark.parametrize(
    ("result", "error", "reason"),
    [
        ({"worst_case": float("nan"), "edp": float("nan"), "error": "no luck"}, False, "no luck"),
        (None, True, DIED),
    ],
)
def test_a_failure_keeps_its_reason(
    search: Search, tmp_path: Path, result: dict[str, Any] | None, error: bool, reason: str
) -> None:
    journal = Journal(tmp_path, search)
    searcher = JournalledSearch(
        space=space_of(search),
        metric=["worst_case", "edp"],
        mode=["max", "min"],
        storage=journal.storage,
        study_name="search",
    )
    assert searcher.suggest("a") == search.uniform_choices()[0]
    searcher.on_trial_complete("a", result, error)
    [trial] = journal.finished()
    assert (trial.state, trial.user_attrs[ERROR]) == (TrialState.FAIL, reason)
    [one] = results_of(journal, Store(tmp_path)).trials
    assert (one.found, one.error) == (None, reason)


def test_a_stage_that_raises_is_a_result(
    search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[dict[str, Any]] = []
    monkeypatch.setattr("ray.tune.report", reported.append)
    monkeypatch.setattr(search_trials, "configure_torch", lambda threads, device: None)
    (tmp_path / "store").write_text("a file")
    evaluate_trial(
        search.uniform_choices()[0], search=search, store=str(tmp_path / "store"), device="cpu", threads=1
    )
    [result] = reported
    assert "store" in result[ERROR]
    assert "\n" not in result[ERROR]


def test_ratios_are_described_in_the_groups_order() -> None:
    assert describe({"b": 0.5, "a": 0.99}) == "ratios 0.5 0.99"


# --- the command -----------------------------------------------------------------------------------------


@pytest.fixture
def params(tmp_path: Path) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(searchable()))
    return path


def call(params: Path, *options: str) -> tuple[int, str]:
    folder = params.parent
    always = ["--params", str(params), "--store", str(folder / "store"), "--out", str(folder / "found")]
    settings = ["--no-tracking", "--threads", "1", "--device", "cpu", "--by", "stage"]
    result = CliRunner().invoke(app, [*always, *settings, *options])
    return result.exit_code, result.output


@pytest.fixture
def one_ray() -> Iterator[None]:
    """A Ray that several calls use: starting one takes seconds."""
    with cluster(None, cores=1):
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("one_ray")
def test_a_search_goes_on_where_it_stopped(params: Path) -> None:
    code, output = call(params, "--trials", "1")
    assert code == 0, output
    assert "3 of 3, ratio" in output
    frame = polars.read_parquet(params.parent / "found" / "trials.parquet")
    assert frame["kind"].to_list()[:2] == ["uniform", "uniform"]
    assert frame.filter(kind="uniform")["ratio/conv1"].to_list() == [0.0, 0.9]
    assert frame.filter(trial=0)["edp"].item() == 1  # no noise at all is the dense network
    assert frame["images"].unique().to_list() == [12]

    entries = params.parent / "store" / "attack"
    before = {path.name: path.stat().st_mtime_ns for path in entries.iterdir()}
    code, output = call(params, "--trials", "2")
    assert code == 0, output
    assert [line for line in output.splitlines() if " of 4, ratio" in line] == [
        line for line in output.splitlines() if line.startswith("4 of 4, ratio")
    ]
    after = {path.name: path.stat().st_mtime_ns for path in entries.iterdir()}
    assert before.items() <= after.items()
    assert len(after) <= len(before) + 1
    more = polars.read_parquet(params.parent / "found" / "trials.parquet")
    assert more.head(frame.height).drop("on_front").equals(frame.drop("on_front"))
    winners = load_parameters(params.parent / "found" / "winners.yaml").experiments()
    assert {"dense", "ratio-0.9-clean"} <= {experiment.label for experiment in winners}
    for kind in ("svg", "png", "pdf"):
        assert (params.parent / "found" / f"front.{kind}").stat().st_size > 1000


@pytest.mark.parametrize(
    ("change", "options", "expected"),
    [
        ({"simulate": None}, [], "the parameter file has no section `simulate`"),
        ({}, ["--images", "500"], "--images is 500; expected at most 12"),
        ({}, ["--steps", "0.5;0.9"], "--steps is '0.5;0.9'; expected ratios in [0, 1]"),
        ({"finetune": {"ratoi": 1}}, [], "unknown key 'finetune.ratoi'; did you mean 'ratio'?"),
        ({}, ["--device", "abacus"], "device 'abacus' cannot be used here"),
    ],
)
def test_mistakes_are_one_line(
    params: Path, change: dict[str, Any], options: list[str], expected: str
) -> None:
    content = searchable()
    content |= change
    params.write_text(yaml.safe_dump(content))
    code, output = call(params, *options)
    assert code == 2
    [line] = [line for line in output.splitlines() if line.startswith("error: ")]
    assert expected in line
    assert not list(params.parent.glob("store/pretrain/*"))
