"""A search that is as small as it can be."""

import copy
from pathlib import Path
from typing import Any

from tiny_experiment import TINY

from pipeline.experiment import ExperimentSet
from pipeline.runner import ensure, plan
from pipeline.search import Search, first_with_noise, search_for
from pipeline.store import Store


def searchable() -> dict[str, Any]:
    """The content of a parameter file with all that a search needs."""
    content = copy.deepcopy(TINY)
    content["finetune"] |= {"epochs": 1, "ratio": [0.9]}
    content["simulate"] = {"images": 2}
    return content


def tiny_search(folder: Path, content: dict[str, Any] | None = None, **options: Any) -> Search:
    """The search of a parameter file's content, its data in a store in `folder`."""
    first, _ = first_with_noise(ExperimentSet.model_validate(content or searchable()))
    prepared = ensure("prepare", plan([first])[0], store=Store(folder)).path
    asked: dict[str, Any] = {"images": None, "uniform": (0.9,), "steps": (0.5, 0.9), "by": "stage"}
    return search_for(first, prepared, **(asked | options))
