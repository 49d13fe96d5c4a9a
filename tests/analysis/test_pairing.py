"""Comparing two networks on the same images, seed by seed, or as strangers: what decides, and the numbers."""

from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import polars as pl
import pytest
from paper_runs import DENSE, attack, frame, noise
from recorded_runs import DENSE as DENSE_TAGS
from recorded_runs import Recorder
from recorded_runs import noise as noise_tags
from scipy.stats import binomtest, ttest_1samp, ttest_rel

from analysis.against_dense import AgainstDense
from analysis.comparison import Share, difference
from analysis.findings_claims import find
from analysis.networks import Network, networks
from analysis.pairing import Comparer, Comparison
from analysis.records import FILE, Reader, Records, no_records
from analysis.runs import find_parent, stage_runs
from analysis.summary import summarise
from analysis.tables.robustness import build_table

IMAGES = 40
GENERATOR = np.random.default_rng(3)
HARD = GENERATOR.random(IMAGES)
"""How hard each image is for every network: what makes networks err on the same ones."""


def records(**columns: Any) -> pl.DataFrame:
    """Records by column: truth values are masks, other numbers the chances of a random network."""
    found: dict[str, Any] = {"index": range(IMAGES), "label": [0] * IMAGES}
    for name, values in columns.items():
        array = np.asarray(values)
        found[f"{name}_correct"] = array > 0.5
        if array.dtype != bool:
            found[f"{name}_probability"] = array.astype(np.float32)
    return pl.DataFrame(found)


def mask(skill: float) -> np.ndarray:
    return HARD + GENERATOR.normal(0, 0.1, IMAGES) < skill


def run(network: dict[str, Any], table: pl.DataFrame, **other: Any) -> dict[str, Any]:
    """An attack run that tracked what `table` has."""
    sums = {
        name.removesuffix("_correct"): float(table[name].sum())
        for name in table.columns
        if name.endswith("_correct")
    }
    row = attack(network, {name: int(total) for name, total in sums.items()}, images=IMAGES, **other)
    for name in table.columns:
        if name.endswith("_probability"):
            column = name.removesuffix("_probability")
            row |= {f"correct/{column}": None, f"accuracy/{column}": float(table[name].mean())}
    return row


def two(*runs: dict[str, Any]) -> tuple[Network, Network]:
    """The network with noise, and the dense one."""
    dense, noisy = sorted(networks(frame(*runs)), key=lambda network: not network.is_dense)
    return noisy, dense


def compare(read: Reader, *runs: dict[str, Any], column: str = "pgd20", **options: Any) -> Comparison:
    found = Comparer(read, **options).compare(*two(*runs), column)
    assert found is not None
    return found


def test_one_training_each_is_compared_image_by_image() -> None:
    ours, theirs = records(pgd20=mask(0.8)), records(pgd20=mask(0.5))
    tables = {"ours": ours, "theirs": theirs}
    runs = (run(noise(0.9), ours, run_id="ours"), run(DENSE, theirs, run_id="theirs"))
    found = compare(tables.get, *runs)
    assert found.basis == "paired, 40 images, 1 seed"
    assert found.run_ids == ("ours", "theirs")
    mine, other = ours["pgd20_correct"].to_numpy(), theirs["pgd20_correct"].to_numpy()
    assert (found.now, found.before) == (mine.mean(), other.mean())
    assert found.difference.value == pytest.approx(mine.mean() - other.mean())
    only = int((mine & ~other).sum()), int((~mine & other).sum())
    assert found.p_value == binomtest(only[0], sum(only), 0.5).pvalue
    strangers = compare(no_records, *runs)
    assert strangers.basis == "independent, 40 images, 1 seed"
    assert strangers.p_value is None
    assert (strangers.now, strangers.before) == (found.now, found.before)
    width, wide = (one.difference.high - one.difference.low for one in (found, strangers))
    assert width < wide
    shares = (Share(correct=int(one.sum()), images=IMAGES) for one in (mine, other))
    assert strangers.difference == difference(*shares)


@pytest.mark.parametrize(
    ("other", "how"),
    [
        ({"params": {"attacks.pgd20.steps": "7"}}, "independent: different attack settings"),
        ({"data_fingerprint": "e" * 64}, "independent: different test data"),
    ],
)
def test_another_protocol_or_other_data_are_not_paired(other: dict[str, Any], how: str) -> None:
    table = records(pgd20=mask(0.5))
    runs = (run(noise(0.9), table, run_id="ours"), run(DENSE, table, run_id="theirs", **other))
    assert compare(lambda _: table, *runs).how == how


@pytest.mark.parametrize(
    "spoilt",
    [
        None,
        records(fgsm=mask(0.5)),
        records(pgd20=mask(0.5)).with_columns(pl.col("index") + 1),
        records(pgd20=mask(0.5)).head(IMAGES - 1),
        records(pgd20=np.zeros(IMAGES, dtype=bool)),
    ],
    ids=["none", "another attack", "other images", "fewer images", "other numbers than tracked"],
)
def test_records_that_do_not_fit_are_not_used(spoilt: pl.DataFrame | None) -> None:
    table = records(pgd20=HARD < 0.5)
    runs = (run(noise(0.9), table, run_id="ours"), run(DENSE, table, run_id="theirs"))
    assert compare({"ours": table, "theirs": table}.get, *runs).how == "paired"
    assert compare({"ours": table, "theirs": spoilt}.get, *runs).how == "independent"


def test_common_seeds_are_compared_by_their_differences() -> None:
    seeds = range(5)
    tables = {f"{name}{seed}": records(pgd20=mask(skill))
              for name, skill in (("ours", 0.7), ("theirs", 0.6)) for seed in seeds}  # fmt: skip
    wanted = {"ours": seeds, "theirs": range(1, 5)}
    runs = [
        run(network, tables[f"{name}{seed}"], run_id=f"{name}{seed}", seed=seed)
        for name, network in (("ours", noise(0.9)), ("theirs", DENSE))
        for seed in wanted[name]
    ]

    def unread(_: str) -> None:
        raise AssertionError("the differences of seeds need no records")

    found = compare(unread, *runs)
    now, before = ([tables[f"{name}{seed}"]["pgd20_correct"].mean() for seed in range(1, 5)]
                   for name in ("ours", "theirs"))  # fmt: skip
    assert found.basis == "paired by seed, 40 images, 4 seeds"
    assert (found.now, found.before) == pytest.approx((mean(now), mean(before)))
    interval = ttest_rel(now, before).confidence_interval(0.95)
    assert (found.difference.low, found.difference.high) == pytest.approx((interval.low, interval.high))
    assert "ours0" not in found.run_ids


def test_seeds_in_disjoint_sets_are_independent() -> None:
    table = records(pgd20=mask(0.5))
    runs = [run(noise(0.9), table, run_id=f"o{seed}", seed=seed) for seed in (0, 1)]
    runs += [run(DENSE, table, run_id=f"t{seed}", seed=seed) for seed in (2, 3, 4)]
    assert compare(lambda _: table, *runs).basis == "independent, 40 images, 2 and 3 seeds"


def test_a_random_network_is_compared_by_its_chances() -> None:
    chances = np.clip(1.2 - HARD - 0.2 * GENERATOR.random(IMAGES), 0, 1).round(2)
    ours, theirs = records(pgd20=chances), records(pgd20=HARD < 0.5)
    found = compare(
        {"ours": ours, "theirs": theirs}.get,
        run(noise(0.9), ours, run_id="ours"),
        run(DENSE, theirs, run_id="theirs"),
    )
    assert found.how == "paired"
    assert found.p_value is None
    assert found.now == pytest.approx(chances.mean(), abs=1e-6)
    assert found.difference.value == pytest.approx(chances.mean() - (HARD < 0.5).mean(), abs=1e-6)


def test_no_more_runs_are_read_than_allowed_and_each_once() -> None:
    asked: list[str] = []
    table = records(pgd20=mask(0.6), clean=mask(0.8))

    def read(run_id: str) -> pl.DataFrame:
        asked.append(run_id)
        return table

    runs = [run(noise(0.1 * place), table, run_id=f"r{place}") for place in range(1, 7)]
    runs.append(run(DENSE, table, run_id="dense"))
    every = networks(frame(*runs))
    dense = next(one for one in every if one.is_dense)
    comparer = Comparer(read, most=3)
    hows = [
        found.how
        for column in ("pgd20", "clean")
        for one in every
        if not one.is_dense and (found := comparer.compare(one, dense, column))
    ]
    assert set(asked) == {"r1", "dense", "r2"}
    assert hows == 2 * (2 * ["paired"] + 4 * ["independent"])


def test_gains_are_compared_image_by_image_and_seed_by_seed() -> None:
    columns = {"pgd20": 0.6, "pgd50_eps16": 0.3}
    params = {"attacks.pgd50_eps16.kind": "pgd", "attacks.pgd50_eps16.eps": "16/255"}
    tables = {
        f"{name}{seed}": records(**{column: mask(skill + more) for column, skill in columns.items()})
        for name, more in (("ours", 0.2), ("theirs", 0.0))
        for seed in range(3)
    }
    runs = {
        seed: [run(network, tables[f"{name}{seed}"], run_id=f"{name}{seed}", seed=seed, params=params)
               for name, network in (("ours", noise(0.9)), ("theirs", DENSE))]
        for seed in range(3)
    }  # fmt: skip

    def gain(seed: int, column: str) -> np.ndarray:
        ours, theirs = (
            tables[f"{name}{seed}"][f"{column}_correct"].to_numpy() for name in ("ours", "theirs")
        )
        return ours.astype(float) - theirs

    single = Comparer(tables.get).compare_gains(*two(*runs[0]), "pgd50_eps16", "pgd20")
    assert single is not None
    apart = gain(0, "pgd50_eps16") - gain(0, "pgd20")
    interval = ttest_1samp(apart, 0).confidence_interval(0.95)
    assert single.basis == "paired, 40 images, 1 seed"
    assert (single.now, single.before) == pytest.approx(
        (gain(0, "pgd50_eps16").mean(), gain(0, "pgd20").mean())
    )
    assert (single.difference.low, single.difference.high) == pytest.approx((interval.low, interval.high))
    several = Comparer(tables.get).compare_gains(
        *two(*(row for own in runs.values() for row in own)), "pgd50_eps16", "pgd20"
    )
    assert several is not None
    by_seed = [(gain(seed, "pgd50_eps16") - gain(seed, "pgd20")).mean() for seed in range(3)]
    assert several.basis == "paired by seed, 40 images, 3 seeds"
    half = 4.302653 * stdev(by_seed) / 3**0.5  # Student, two degrees of freedom
    low, high = several.difference.low, several.difference.high
    assert (low, high) == pytest.approx((mean(by_seed) - half, mean(by_seed) + half))
    strangers = Comparer().compare_gains(*two(*runs[0]), "pgd50_eps16", "pgd20")
    assert strangers is not None
    assert strangers.how == "independent"
    assert strangers.difference.value == pytest.approx(single.difference.value)


def test_findings_use_the_artifacts_of_the_runs(recorder: Recorder, tmp_path: Path) -> None:
    """A gain of 5 points on 200 images is clear only when the images are paired."""
    parent = recorder.parent("paired-findings")
    ids = []
    for tags, right in ((DENSE_TAGS, 100), (noise_tags(ratio="0.9"), 110)):
        ids.append(recorder.attack(parent, tags, {"pgd20": right}))
        table = {
            "index": range(200),
            "label": [0] * 200,
            "pgd20_correct": [place < right for place in range(200)],
        }
        pl.DataFrame(table).write_parquet(tmp_path / FILE)
        recorder.client.log_artifact(ids[-1], str(tmp_path / FILE))
    found = find_parent(recorder.tracking_uri, "paired-findings")
    runs = stage_runs(found, stage=None)
    signs, told, tests = {}, {}, {}
    for name, read in (("paired", Records(found.tracking_uri)), ("independent", no_records)):
        comparer = Comparer(read)
        [one] = next(f for f in find(runs, comparer=comparer) if f.evidence).evidence
        assert one.basis == f"{name}, 200 images, 1 seed"
        assert one.run_ids == (ids[1], ids[0])
        signs[name], tests[name] = one.sign, one.numbers
        attacks = runs.filter(pl.col("stage") == "attack")
        table = build_table(attacks)
        against = AgainstDense(table, attacks, comparer)
        _, noisy = table.rows
        assert against.sign(noisy, "pgd20") == one.sign  # the page's marks are not at odds with its findings
        told[name] = summarise(table, against).headline
    assert signs == {"paired": 1, "independent": 0}
    assert "McNemar p = 0.002" in tests["paired"]  # 2 / 2^10
    assert told["paired"].endswith("it is clearly above the dense teacher.")
    assert told["independent"].endswith("it is not clearly different from the dense teacher.")
