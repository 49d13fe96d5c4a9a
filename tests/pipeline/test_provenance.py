"""Where results come from."""

import subprocess
from pathlib import Path

import pytest

from pipeline import provenance


def test_documentation_does_not_change_the_meaning() -> None:
    plain = "X = 1\ndef f(a):\n    return a + X\n"
    documented = (
        '"""What."""\nX = 1  # one\n"""Of X."""\n\n\ndef f(\n    a,\n):\n    """Adds."""\n    return a + X\n'
    )
    assert provenance.meaning(plain) == provenance.meaning(documented)
    assert provenance.meaning(plain) != provenance.meaning(plain.replace("a + X", "a - X"))
    assert provenance.meaning("X = 'text'") != provenance.meaning("X = 'other text'")


def test_the_digest_follows_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "nenni_core").mkdir()
    module = tmp_path / "nenni_core" / "x.py"
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "pipeline" / "provenance.py"))

    def digest(source: str) -> str:
        module.write_text(source)
        return provenance.code_digest.__wrapped__()

    first = digest("X = 1\n")
    assert digest("# a comment\nX = 1\n") == first
    assert digest("X = 2\n") != first


def test_the_commit_is_dirty_only_for_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "pipeline" / "provenance.py"))
    read = provenance._found_commit.__wrapped__
    assert read() == ("", False)  # not a checkout
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "a.py").write_text("A = 1\n")
    (tmp_path / "params.yaml").write_text("seed: 0\n")
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    clean = read()
    assert len(clean.sha) == 40
    assert not clean.dirty
    (tmp_path / "params.yaml").write_text("seed: 1\n")
    assert read() == clean
    (tmp_path / "pipeline" / "b.py").write_text("B = 1\n")
    assert read() == (clean.sha, True)


def test_versions_name_the_libraries_that_compute() -> None:
    versions = provenance.library_versions()
    assert {"python", "torch", "numpy"} <= set(versions)
