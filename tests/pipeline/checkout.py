"""A copy of this repository with a tiny experiment, and what users do in it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from pipeline.experiment import ExperimentSet

ROOT = Path(__file__).resolve().parents[2]
COPIED = (
    "nenni_core",
    "hwsim",
    "pipeline",
    "analysis",
    "paper",
    "dvc.yaml",
    ".dvc/config",
    ".dvcignore",
    ".gitignore",
)


class Checkout:
    """A git repository of its own, with DVC's commands in it."""

    def __init__(self, folder: Path, content: dict[str, Any]) -> None:
        """Copy the sources to `folder`, with `content` as the parameters, and commit."""
        self.folder = folder
        scripts = str(Path(sys.executable).parent)
        self.environment = os.environ | {
            "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
            "DVC_NO_ANALYTICS": "true",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        for name in ("MLFLOW_TRACKING_URI", "NENNI_STORE"):
            self.environment.pop(name, None)
        for name in COPIED:
            source, target = ROOT / name, folder / name
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, target)
        # the attacks that dvc.yaml plots
        attacks = yaml.safe_load((ROOT / "params.yaml").read_text())["attack"]["attacks"]
        for attack in attacks.values():
            attack["steps"] = 2
        content = content | {"attack": content["attack"] | {"attacks": attacks}, "simulate": {"images": 2}}
        # with every key, as DVC wants the keys that dvc.yaml names to be there
        complete = ExperimentSet.model_validate(content).model_dump(mode="json")
        (folder / "params.yaml").write_text(yaml.safe_dump(complete, sort_keys=False))
        self.git("init", "-q", "-b", "main")
        self.git("add", "-A")
        self.git("commit", "-q", "-m", "tiny")

    def run(self, *command: str, fails: bool = False, environment: dict[str, str] | None = None) -> str:
        """Run a command, alone in its process group, and return what it said; it `fails` or must not."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment | (environment or {}),
            capture_output=True,
            text=True,
            timeout=280,
            start_new_session=True,
        )
        assert (done.returncode != 0) == fails, f"{' '.join(command)}:\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def git(self, *arguments: str) -> str:
        """Run git as somebody."""
        return self.run("git", "-c", "user.name=Test", "-c", "user.email=test@example.org", *arguments)

    def json(self, *command: str) -> Any:
        """The JSON that a command prints last."""
        return json.loads(self.run(*command).splitlines()[-1])

    def accuracy(self) -> dict[str, Any]:
        """The metrics of the stage `attack`."""
        return json.loads((self.folder / "metrics" / "attack.json").read_text())
