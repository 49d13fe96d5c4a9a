"""Where a result comes from: the commit of the code and the versions of the libraries."""

import ast
import hashlib
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

LIBRARIES = ("torch", "numpy", "torchattacks", "safetensors", "scikit-learn", "polars", "pydantic", "mlflow")
"""Distributions whose versions are recorded with every result."""

_CODE = ("nenni_core", "hwsim", "pipeline")


class Commit(NamedTuple):
    """State of the source tree."""

    sha: str
    """Full commit hash; empty outside a git checkout."""
    dirty: bool
    """Whether the code differs from that commit (configuration is recorded anyway)."""


_assumed: Commit | None = None


def assume_commit(state: Commit) -> None:
    """Say where the code of this process comes from, where it is a copy without git's folder."""
    global _assumed
    _assumed = state


def commit() -> Commit:
    """The commit that this code was imported from, or that it was said to be."""
    return _found_commit() if _assumed is None else _assumed


@cache
def _found_commit() -> Commit:
    root = Path(__file__).resolve().parent.parent
    try:
        sha = _git(root, "rev-parse", "HEAD")
        changes = _git(root, "status", "--porcelain", "--untracked-files=normal", "--", *_CODE)
    except (OSError, subprocess.SubprocessError):
        return Commit("", False)
    return Commit(sha, bool(changes))


def _git(root: Path, *arguments: str) -> str:
    # optional locks off: reading the state must never collide with a commit made at the same time
    command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()


@cache
def code_digest() -> str:
    """SHA-256 over what the stages' code does: comments, docstrings and layout do not count."""
    root = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for path in sorted(path for package in _CODE for path in (root / package).rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode())
        digest.update(meaning(path.read_text(encoding="utf-8")).encode())
    return digest.hexdigest()


def meaning(source: str) -> str:
    """A text that two sources share if they differ in comments, docstrings and layout only."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            # strings that stand alone document the line before them, or what they open
            node.body = [statement for statement in body if not _is_text(statement)]  # type: ignore[attr-defined]
    return ast.dump(tree)


def _is_text(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


@cache
def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that produce numbers; absent ones are left out."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
