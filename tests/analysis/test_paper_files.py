"""`python -m analysis` writes the paper's tables that the tracked runs give."""

from pathlib import Path

import polars as pl
import pytest
from recorded_runs import DENSE, Recorder, noise
from typer.testing import CliRunner

from analysis.__main__ import app

PARAMS = """
tracking: {experiment: small-table1}
prepare: {dataset: digits, validation_images: 10}
pretrain: {model: small_resnet, epochs: 20}
distill: {}
finetune: {ratio: 0.9, objective: [clean]}
attack: {attacks: {pgd20: {kind: pgd}}}
"""


def test_a_set_called_like_a_table_gives_it(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(PARAMS)
    parent = recorder.parent("small-table1")
    recorder.attack(parent, DENSE | {"dataset": "cifar10"}, {"clean": 150, "pgd20": 90})
    recorder.attack(parent, noise(ratio="0.9") | {"dataset": "cifar10"}, {"clean": 150, "pgd20": 120})
    result = CliRunner().invoke(app, ["--tracking-uri", recorder.tracking_uri])
    assert result.exit_code == 0, result.output
    folder = tmp_path / "reports" / "tables"
    suffixes = (".md", ".tex", ".html", ".csv", "-protocol.md")
    assert {f"table1-small_resnet{suffix}" for suffix in suffixes} <= {path.name for path in folder.iterdir()}
    assert "table1-small_resnet.md" in result.output
    found = pl.read_csv(folder / "table1-small_resnet.csv", infer_schema_length=None)
    pgd = found.filter(pl.col("column") == "pgd20").drop_nulls("value").sort("value")
    assert pgd["value"].to_list() == [0.45, 0.6]
    assert pgd["standing"].to_list() == ["exploratory", "exploratory"]
    page = (tmp_path / "reports" / "report.html").read_text()
    assert (folder / "table1-small_resnet.html").read_text().strip() in page
