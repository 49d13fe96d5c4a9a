"""Files that runs have tracked, read through MLflow's API only."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl

from analysis.names import variant_name, variant_order
from analysis.runs import FINISHED
from nenni_core.errors import InputError


@dataclass(frozen=True)
class RunFiles:
    """The files of the runs in one MLflow store; what was read once is kept in memory."""

    tracking_uri: str
    _read: dict[tuple[str, str], bytes | None] = field(default_factory=dict)

    def content(self, run_id: str, name: str) -> bytes | None:
        """The bytes of a file of a run; None where it has no such file, or its place cannot be reached."""
        if (run_id, name) not in self._read:
            self._read[run_id, name] = self._download(run_id, name)
        return self._read[run_id, name]

    def rows(self, run_id: str, name: str) -> list[dict[str, Any]]:
        """A JSON file that is a list of objects, or an object of numbers as (name, value); [] for none."""
        content = self.content(run_id, name)
        if content is None:
            return []
        try:
            found = json.loads(content)
        except ValueError as error:
            raise InputError(f"{name} of run {run_id} is no JSON: {error}") from error
        if isinstance(found, Mapping):
            return [{"name": layer, "value": value} for layer, value in found.items()]
        return [dict(row) for row in found]

    def table(self, run_id: str, name: str) -> pl.DataFrame | None:
        """A CSV file of a run; None where it has none."""
        content = self.content(run_id, name)
        return None if not content else pl.read_csv(content)

    def _download(self, run_id: str, name: str) -> bytes | None:
        # a bar for each small file would bury what the command says
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        client = MlflowClient(tracking_uri=self.tracking_uri)
        with TemporaryDirectory() as folder:
            try:
                return Path(client.download_artifacts(run_id, name, folder)).read_bytes()
            except (MlflowException, OSError):
                return None


# The file with the numbers of each layer, by stage.
LAYER_FILES = {"distill": "layers.json", "finetune": "densities.json"}
# How many networks of a stage are looked into: more could not be shown, and each is a file to fetch.
MOST = {"distill": 3, "finetune": 24}
LAYER_SCHEMA: dict[str, pl.DataType] = {
    "network": pl.String(),
    "run_id": pl.String(),
    "place": pl.Int64(),
    "layer": pl.String(),
    "measure": pl.String(),
    "value": pl.Float64(),
}


def layers(runs: pl.DataFrame, files: RunFiles) -> pl.DataFrame:
    """What was measured layer by layer, one row for each number.

    Columns: `network` (the label of the run's subject), `run_id`, `place` (of the layer in the network, from
    0), `layer` (its name), `measure` and `value`. Measures of `distill` runs are `nmse`, `nmse_quantized`
    (squared error over the variance of the precise outputs) and `top_k_recall` (0 to 1), of `finetune` runs
    `density` (share of precise neurons). Networks come in the order of the tables. Of several runs of one the
    first seed's newest counts; the files of at most `MOST` networks of a stage are read, and those that
    cannot be had are left out.
    """
    newest: dict[tuple[str, str], dict[str, Any]] = {}
    chosen = runs.filter(pl.col("stage").is_in(list(LAYER_FILES)) & (pl.col("status") == FINISHED))
    chosen = chosen.sort("seed", "start_ms", descending=[True, False])
    for run in chosen.iter_rows(named=True):
        tuned = run["stage"] == "finetune"
        label = variant_name(run) if tuned else run["trained_by_title"] or ""
        name = f"{run['model']} on {run['dataset']}, {label}".removesuffix(", ")
        newest[run["stage"], name] = run
    newest = dict(sorted(newest.items(), key=lambda one: variant_order(one[1])))
    for stage, most in MOST.items():
        for name in [name for of, name in newest if of == stage][most:]:
            del newest[stage, name]
    rows = [
        {
            "network": name,
            "run_id": run["run_id"],
            "place": place,
            "layer": layer["name"],
            "measure": "density" if measure == "value" else measure,
            "value": value,
        }
        for (stage, name), run in newest.items()
        for place, layer in enumerate(files.rows(run["run_id"], LAYER_FILES[stage]))
        for measure, value in layer.items()
        if isinstance(value, int | float)
    ]
    return pl.DataFrame(rows, schema=LAYER_SCHEMA, orient="row")
