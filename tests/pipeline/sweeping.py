"""Sweeps of a tiny grid as users start them: in processes of their own, with accidents on demand."""

import copy
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from tiny_experiment import TINY

from pipeline.store import TIMING, Store

ROOT = Path(__file__).resolve().parents[2]
# Python imports this in every process of ours. Renaming a file is an audited event, which comes first: the
# stage has done its work and is about to put a file in place. Each accident happens once.
SITECUSTOMIZE = """
import errno, os, signal, sys, time

def happens(kind):
    if kind == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "hangs":
        time.sleep(1000)
    if kind == "full":
        raise OSError(errno.ENOSPC, "No space left on device")
    if kind == "memory":
        raise MemoryError("cannot allocate")
    if kind == "raises":
        raise RuntimeError("a mistake in the code")

def first(number):
    try:
        os.close(os.open(os.path.join(os.environ["ACCIDENT_FOLDER"], str(number)), os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True

def hook(event, arguments):
    for number, accident in enumerate(os.environ["ACCIDENTS"].split(",")) if event == "os.rename" else ():
        kind, where = accident.split("=")
        if where in str(arguments[1]) and first(number):
            happens(kind)

if os.environ.get("ACCIDENTS"):
    sys.addaudithook(hook)
"""


def tiny_grid() -> dict[str, Any]:
    """Two seeds, dense and with noise: 11 stages that share the data."""
    content: dict[str, Any] = copy.deepcopy(TINY)
    content["axes"] = {"seed": [0, 1]}
    content["pretrain"]["epochs"] = 3
    content["attack"]["images"] = 8
    return content


class Sweeping:
    """A folder with a grid, a store and a database, in which sweeps are started."""

    def __init__(self, folder: Path, content: dict[str, Any]) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tiny.yaml").write_text(yaml.safe_dump(content))
        (folder / "hook").mkdir()
        (folder / "hook" / "sitecustomize.py").write_text(SITECUSTOMIZE)
        self.accidents = 0

    @property
    def store(self) -> Store:
        return Store(self.folder / "store")

    def logs(self, beginning: str = "") -> list[Path]:
        """The log files of all stages, or of those whose name begins so."""
        return sorted((self.folder / "store" / ".sweeps").glob(f"*/logs/{beginning}*"))

    def start(
        self,
        *options: str,
        accidents: str = "",
        environment: dict[str, str] | None = None,
        grid: bool = True,
        cores: int | None = 2,
    ) -> "subprocess.Popen[str]":
        """A sweep in a process group of its own; `accidents`: `kind=part of a path`, with commas."""
        self.accidents += 1
        happened = self.folder / f"accidents-{self.accidents}"
        happened.mkdir()
        what = ["--grid", "tiny.yaml"] if grid else []
        what += [] if cores is None else [f"--cores={cores}"]
        command = [sys.executable, "-m", "pipeline.sweep", *what, "--device=cpu", *options]
        own = {
            "PYTHONPATH": os.pathsep.join([str(self.folder / "hook"), str(ROOT)]),
            "ACCIDENTS": accidents,
            "ACCIDENT_FOLDER": str(happened),
            "OMP_NUM_THREADS": "1",
        }
        inherited = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=inherited | own | (environment or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *options: str, status: int = 0, **arguments: Any) -> str:
        """Run a sweep to its end, check its exit status, return all that it said."""
        process = self.start(*options, **arguments)
        said, _ = process.communicate(timeout=250)
        assert process.returncode == status, said
        return said


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Raise `TimeoutError` if the condition does not come true."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.05)


def results(store: Store) -> dict[tuple[str, str], dict[str, str]]:
    """SHA-256 of every result file of every entry, but of the seconds."""
    found = {}
    for stage, key in store.names():
        entry = store.find(stage, key)
        assert entry is not None, f"{stage} {key} is damaged"
        files = entry.manifest.files
        found[stage, key] = {name: record.sha256 for name, record in files.items() if name != TIMING}
    return found


def seconds(store: Store) -> dict[tuple[str, str], float]:
    """When each entry was written: it changes if it is computed again."""
    return {
        (stage, key): (store.entry_path(stage, key) / "manifest.json").stat().st_mtime
        for stage, key in store.names()
    }
