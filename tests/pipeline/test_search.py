"""What a search looks for, and what it leaves behind, without computing anything of it."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars
import pytest
import yaml
from tiny_search import searchable, tiny_search

from nenni_core.errors import InputError
from nenni_core.statistics import wilson_interval
from pipeline.config import Tracking
from pipeline.experiment import Experiment, ExperimentSet, load_parameters
from pipeline.pareto import dominates
from pipeline.runner import plan
from pipeline.search import Found, Search, first_with_noise, group_layers, knows_the_defence, parse_steps
from pipeline.search_figure import save
from pipeline.search_results import Results, Trial, winners, write_tables, write_winners
from pipeline.search_tracking import record


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def search(store: Path) -> Search:
    return tiny_search(store)


def found(worst_case: float, edp: float) -> Found:
    return Found(worst_case=worst_case, clean=0.75, images=12, edp=edp, seconds=0.5, joules=0.5, bitops=0.5)


@pytest.fixture
def results(search: Search) -> Results:
    """Dense, ratio 0.9, two by layer of which one is better than 0.9, and one that failed."""
    outcomes: list[tuple[list[int], Found | None]] = [
        ([0, 0, 0, 0], found(0.75, 1.0)),
        ([2, 2, 2, 2], found(0.25, 0.2)),
        ([1, 2, 2, 2], found(0.5, 0.2)),
        ([1, 1, 2, 2], found(0.25, 0.5)),
        ([2, 1, 1, 1], None),
    ]
    trials = []
    for number, (places, one) in enumerate(outcomes):
        choice = dict(zip(search.groups, places, strict=True))
        trials.append(
            Trial(
                number=number,
                choice=choice,
                ratios=search.ratios(choice),
                found=one,
                error="" if one else "InputError: no luck",
            )
        )
    return Results(search=search, trials=tuple(trials))


# --- what is looked for --------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["layer", "stage"])
def test_every_layer_is_in_one_group(search: Search, by: Any) -> None:
    layers = [layer for group in search.groups.values() for layer in group]
    grouped = group_layers(layers, by)
    assert sorted(layer for group in grouped.values() for layer in group) == sorted(layers)
    expected = layers if by == "layer" else ["conv1", "stages.0", "stages.1", "stages.2"]
    assert list(grouped) == expected


def test_one_ratio_for_all_layers_is_the_ordinary_variant(search: Search) -> None:
    """So that nothing is computed twice."""
    [dense, most] = [search.experiment(choice) for choice in search.uniform_choices()]
    content = searchable()
    content["finetune"]["ratio"] = [0.0, 0.9]
    ordinary = [e for e in ExperimentSet.model_validate(content).experiments() if e.finetune is not None]
    for one, other in zip((dense, most), ordinary, strict=True):
        assert plan([one])[0].keys["finetune"] == plan([other])[0].keys["finetune"]
        assert plan([one])[0].keys["attack"] != plan([other])[0].keys["attack"]  # on other images


def test_a_choice_gives_each_group_its_ratio(search: Search) -> None:
    choice = dict(zip(search.groups, (0, 1, 2, 2), strict=True))
    rule = search.experiment(choice).finetune
    assert rule is not None
    assert rule.layer_ratios is not None
    for group, layers in search.groups.items():
        assert {rule.layer_ratios[layer] for layer in layers} == {(0.0, 0.5, 0.9)[choice[group]]}


def test_nothing_is_chosen_by_test_images(search: Search) -> None:
    experiment = search.experiment(search.uniform_choices()[0])
    assert experiment.split == "validation"
    assert all(e.split == "test" for e in ExperimentSet.model_validate(searchable()).experiments())


def test_the_identity_is_that_of_all_that_scores_depend_on(store: Path, search: Search) -> None:
    assert tiny_search(store).identity() == search.identity()
    changed = searchable()
    changed["attack"]["attacks"]["fgsm"]["eps"] = "4/255"
    others = [
        tiny_search(store, steps=(0.5, 0.8, 0.9)),
        tiny_search(store, by="layer"),
        tiny_search(store, images=5),
        tiny_search(store, changed),
    ]
    assert len({search.identity(), *(other.identity() for other in others)}) == 5


def test_attacks_that_the_worst_case_does_not_need_are_left_out(store: Path) -> None:
    content = searchable()
    content["attack"]["attacks"] |= {
        "probe": {"kind": "pgd", "in_worst_case": False},
        "first": {"kind": "pgd", "in_worst_case": False},
        "second": {"kind": "square", "queries": 2, "survivors_of": ["first"]},
    }
    kept = tiny_search(store, content).base.attack
    assert set(kept.attacks) == {"fgsm", "pgd20_straight_through", "first", "second"}
    assert (kept.examples, kept.images) == (0, 12)


@pytest.mark.parametrize(
    ("attack", "knows"),
    [
        ({"kind": "pgd"}, False),
        ({"kind": "pgd", "gradient": "straight_through"}, True),
        ({"kind": "pgd", "gradient": "straight_through", "in_worst_case": False}, False),
        ({"kind": "square"}, True),
        ({"kind": "transfer"}, True),
    ],
)
def test_who_knows_the_defence(attack: dict[str, Any], knows: bool) -> None:
    content = searchable()
    content["attack"]["attacks"] = {"fgsm": {"kind": "fgsm"}, "other": attack}
    assert knows_the_defence(ExperimentSet.model_validate(content).attack) == knows


def test_mistakes_are_one_line(store: Path) -> None:
    content = searchable()
    with pytest.raises(InputError, match="--images is 13; expected at most 12, the validation images"):
        tiny_search(store, images=13)
    for steps in ("0.5,much", "0.5,1.5", ""):
        with pytest.raises(InputError, match="expected ratios in"):
            parse_steps(steps)
    content["simulate"] = {"images": 32, "batch_size": 16}
    with pytest.raises(InputError, match=r"simulate\.batch_size is 16; expected at most 12"):
        tiny_search(store, content)
    del content["simulate"]
    with pytest.raises(InputError, match="no section `simulate`"):
        first_with_noise(ExperimentSet.model_validate(content))


# --- what is left behind -------------------------------------------------------------------------------


def test_the_front_is_of_all_trials_with_a_score(results: Results) -> None:
    front = results.front
    assert [trial.number for trial in front] == [2, 0]
    for trial in results.scored:
        assert trial.found is not None
        assert (trial in front) != any(
            dominates(other.found.score, trial.found.score) for other in results.scored if other.found
        )
    summary = results.summary()
    assert (summary["trials"], summary["failed"], summary["front_searched"]) == (5, 1, 1)
    assert summary["area_uniform"] == pytest.approx(0.25 * 0.8)
    assert summary["area_all"] == pytest.approx(0.5 * 0.8)


def test_tables_have_every_trial_with_its_interval(results: Results, tmp_path: Path) -> None:
    write_tables(results, tmp_path)
    frame = polars.read_parquet(tmp_path / "trials.parquet")
    with (tmp_path / "trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row, same in zip(rows, frame.to_dicts(), strict=True):
        assert row == {name: "" if value is None else str(value) for name, value in same.items()}
    assert frame["error"].to_list() == ["", "", "", "", "InputError: no luck"]
    assert frame["worst_case"].to_list() == [0.75, 0.25, 0.5, 0.25, None]
    for row in frame.head(4).to_dicts():
        interval = row["worst_case_low"], row["worst_case_high"]
        assert interval == pytest.approx(wilson_interval(12 * row["worst_case"], 12))
    assert polars.read_csv(tmp_path / "front.csv")["trial"].to_list() == [2, 0]


def test_a_search_that_was_stopped_at_once_has_empty_tables(results: Results, tmp_path: Path) -> None:
    write_tables(replace(results, trials=()), tmp_path)
    frame = polars.read_parquet(tmp_path / "trials.parquet")
    write_tables(results, tmp_path)
    assert frame.schema == polars.read_parquet(tmp_path / "trials.parquet").schema
    assert frame.height == 0


def test_the_winners_are_a_parameter_file(results: Results, tmp_path: Path) -> None:
    params = tmp_path / "mine.yaml"
    content = searchable()
    content["finetune"]["objective"] = ["clean", "adversarial"]
    params.write_text(yaml.safe_dump(content))
    write_winners(results, params, tmp_path)
    experiments = load_parameters(tmp_path / "winners.yaml").experiments()
    assert [e.label for e in experiments] == ["dense", "ratio-0.9-clean", "layers-front_1-clean"]
    best = results.front[0]
    searched: Experiment = results.search.experiment(best.choice)
    assert plan(experiments)[2].keys["finetune"] == plan([searched])[0].keys["finetune"]
    own, given = experiments[2].attack, load_parameters(params).experiments()[0].attack
    assert own == given  # all of the attacks, on as many test images as the file says
    assert experiments[2].split == "test"


def test_a_front_of_uniform_ratios_only_is_a_parameter_file_too(results: Results, tmp_path: Path) -> None:
    params = tmp_path / "mine.yaml"
    params.write_text(yaml.safe_dump(searchable()))
    uniform = replace(results, trials=results.trials[:2])
    assert winners(uniform, params)["finetune"]["layer_ratios"] == {}


def test_equal_searches_give_equal_pictures(results: Results, tmp_path: Path) -> None:
    pictures = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        pictures.append({path.name: path.read_bytes() for path in save(results, tmp_path / name)})
    assert pictures[0].keys() == {"front.svg", "front.png", "front.pdf"}
    assert pictures[0] == pictures[1]
    assert save(replace(results, trials=results.trials[4:]), tmp_path) == []


@pytest.mark.slow
def test_a_search_is_one_run_without_stages(
    results: Results, tmp_path: Path, settings: Tracking, uri: str, client: Any
) -> None:
    write_tables(results, tmp_path)
    for _ in range(2):  # a search that goes on keeps its run
        record(settings, results, tmp_path, uri=uri)
    experiment = client.get_experiment_by_name(settings.experiment)
    [run] = client.search_runs([experiment.experiment_id])
    assert (run.data.tags["kind"], run.info.status) == ("search", "FINISHED")
    assert run.data.metrics["area_all"] == pytest.approx(results.summary()["area_all"])
    points = {point.step: point.value for point in client.get_metric_history(run.info.run_id, "worst_case")}
    assert points == {0: 0.75, 1: 0.25, 2: 0.5, 3: 0.25}


def test_tracking_that_fails_is_one_line(results: Results, tmp_path: Path) -> None:
    lines: list[str] = []
    record(Tracking(), results, tmp_path, uri="nonsense://nowhere", report=lines.append)
    [line] = lines
    assert line.startswith("warning: the search is not in MLflow (")
