"""What the documents say is so: links lead somewhere, commands exist, and the examples run."""

import csv
import doctest
import importlib
import os
import pkgutil
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

import nenni_core
from analysis.names import variant_name
from pipeline.experiment import ExperimentSet, load_parameters
from pipeline.keys import stage_keys
from pipeline.run_tags import stage_tags
from pipeline.runner import Plan

ROOT = Path(__file__).resolve().parents[1]
LISTING = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, check=True, capture_output=True, text=True)
DOCUMENTS = {
    name: (ROOT / name).read_text() for name in LISTING.stdout.splitlines() if (ROOT / name).is_file()
}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def slug(heading: str) -> str:
    """The anchor of a heading, as code hosts make it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def broken_links(name: str, documents: dict[str, str], exists: set[str]) -> list[str]:
    """Links of the document `name` to files that do not exist, or to headings that their document lacks."""
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", documents[name])):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = os.path.normpath(Path(name).parent / path) if path else name
        headings = re.findall(r"^#+ (.*)$", documents.get(linked, ""), re.MULTILINE)
        if linked not in exists or (anchor and anchor not in map(slug, headings)):
            broken.append(target)
    return broken


def test_links_lead_to_files_and_headings() -> None:
    files = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split()
    exists = {part.as_posix() for name in files for part in (Path(name), *Path(name).parents)}
    assert {name: bad for name in DOCUMENTS if (bad := broken_links(name, DOCUMENTS, exists))} == {}


def test_broken_links_are_seen() -> None:
    documents = {
        "a.md": "# One two\n[x](b/c.md#is-it) [y](b/c.md#missing) [z](gone.md) [w](#one-two) [v](#three) [u](https://e.g)",
        "b/c.md": "## Is it?\n[x](../a.md#one-two) [y](../gone.md) [z](../b/)",
    }
    exists = {"a.md", "b", "b/c.md"}
    assert broken_links("a.md", documents, exists) == ["b/c.md#missing", "gone.md", "#three"]
    assert broken_links("b/c.md", documents, exists) == ["../gone.md"]


def test_files_named_in_code_spans_exist() -> None:
    """`folder/file.ext` in a text is a file of ours, from the root or beside the text."""
    named = {
        (name, path)
        for name, text in DOCUMENTS.items()
        for path in re.findall(r"`((?:\w+/)+\w+\.\w+)`", FENCE.sub("", text))
    }
    assert ("CONTRIBUTING.md", "pipeline/keys.py") in named
    places = {(name, path): (ROOT / path, (ROOT / name).parent / path) for name, path in named}
    assert {key for key, files in places.items() if not any(file.is_file() for file in files)} == set()


def make_targets() -> set[str]:
    """All that a person can ask make for: the phony targets of the Makefile."""
    return set(re.findall(r"^\.PHONY: (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_make_help_lists_every_target() -> None:
    shown = subprocess.run(["make", "help"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    listed = dict(re.findall(r"^  make (\S+) +(\S.*)$", shown, re.MULTILINE))
    assert listed.keys() == make_targets()


def test_help_is_what_make_alone_does() -> None:
    outputs = [
        subprocess.run(["make", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout
        for arguments in ([], ["help"])
    ]
    assert outputs[0] == outputs[1]


def test_documents_name_real_make_targets() -> None:
    named = {
        target
        for text in DOCUMENTS.values()
        for code in [*(body for _, body in FENCE.findall(text)), *re.findall(r"`([^`\n]+)`", text)]
        for target in re.findall(r"(?:^|&& )make ([a-z]+)", code, re.MULTILINE)
    }
    assert {"env", "demo", "test"} <= named
    assert named <= make_targets()


def test_documents_name_real_modules() -> None:
    """`python -m pipeline.x` is a file of ours; modules of others, `pip` for example, are not looked at."""
    named = {
        m
        for text in DOCUMENTS.values()
        for m in re.findall(r"python -m ((?:pipeline|analysis|benchmarks)[\w.]*)", text)
    }
    missing = {
        module
        for module in named
        for path in [ROOT / module.replace(".", "/")]
        if not (path.with_suffix(".py").is_file() or (path / "__main__.py").is_file())
    }
    assert missing == set()


def test_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All Python blocks, those on defences last, are one program; that on tracked runs is tried elsewhere."""
    monkeypatch.chdir(tmp_path)
    text = DOCUMENTS["README.md"] + DOCUMENTS["docs/defences.md"]
    blocks = [body for language, body in FENCE.findall(text) if language == "python"]
    blocks = [block for block in blocks if "load_runs" not in block]
    assert blocks
    namespace: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)


def test_examples_in_docstrings_are_true() -> None:
    modules = [m.name for m in pkgutil.walk_packages(nenni_core.__path__, "nenni_core.")]
    results = {name: doctest.testmod(importlib.import_module(name)) for name in modules}
    assert {name: result.failed for name, result in results.items() if result.failed} == {}
    assert sum(result.attempted for result in results.values()) > 0


def shown_names(parameters: ExperimentSet) -> dict[str, str]:
    """The label of every experiment of a set by the name that the analysis gives its row."""
    shown = {}
    for experiment in parameters.experiments():
        keys = stage_keys(experiment, "any data")
        tags = stage_tags("attack", Plan(experiment=experiment, keys=keys, data_fingerprint="any data"))
        recorded: dict[str, Any] = {name: value or None for name, value in tags.items()}
        for name, kind in (("ratio", float), ("projection_ratio", float), ("bits", int), ("ensemble", int)):
            recorded[name] = kind(tags[name]) if tags[name] else None
        shown[variant_name(recorded)] = experiment.label
    return shown


def test_rows_are_named_as_the_analysis_names_them() -> None:
    parameters = load_parameters(ROOT / "params.yaml").model_dump(mode="json")
    parameters["pretrain"]["defense"] = [
        "adversarial",
        {"kind": "sparse", "sparsity": 0.8},
        {"kind": "trades", "beta": 1},
    ]
    parameters["finetune"] |= {"defenses": ["adversarial", "trades"], "ratio": [0.9], "pattern": ["4:8"]}
    parameters["finetune"]["objective"] = ["clean"]
    assert shown_names(ExperimentSet.model_validate(parameters)) == {
        "Dense teacher": "dense",
        "Ratio 0.9, clean": "ratio-0.9-clean",
        "Pattern 4:8, clean": "pattern-4:8-clean",
        "Sparse network (Guo et al., 2018), sparsity 0.8": "sparse-sparsity-0.8",
        "TRADES (Zhang et al., 2019), beta 1": "trades-beta-1",
        "Ratio 0.9, clean, on TRADES (Zhang et al., 2019), beta 1": "trades-beta-1-ratio-0.9-clean",
        "Pattern 4:8, clean, on TRADES (Zhang et al., 2019), beta 1": "trades-beta-1-pattern-4:8-clean",
    }


def test_the_readmes_table_is_the_committed_run() -> None:
    """README.md's demo table against plots/accuracy.csv, which `dvc repro` wrote beside dvc.lock."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text.partition("<!-- demo:start -->")[2].partition("<!-- demo:end -->")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if "|" in line]
    columns = ("clean", "fgsm", "pgd20", "mifgsm", "worst_case")
    parameters = load_parameters(ROOT / "params.yaml")
    variants = shown_names(parameters)
    shown = {}
    for name, *cells in rows[2:]:
        shown[variants[name]] = [cell.split(" ")[0] for cell in cells[: len(columns)]]
    with (ROOT / "plots" / "accuracy.csv").open(encoding="utf-8") as file:
        computed = {
            row["variant"]: [f"{100 * float(row[column]):.1f}" for column in columns]
            for row in csv.DictReader(file)
        }
    assert shown == computed
    labels = [experiment.label for experiment in parameters.experiments()]
    assert list(computed) == labels
