"""PostgreSQL, MLflow's server and a Ray cluster on this machine, each in processes of its own."""

import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

POSTGRES_FOLDERS = "/usr/lib/postgresql/*/bin"
"""Where distributions put the programs that are not on PATH."""


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 90.0) -> None:
    """Raise `AssertionError` if the condition does not come true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.2)


def postgres_program(name: str) -> str | None:
    """A program of PostgreSQL; None if it is not installed."""
    for folder in sorted(Path("/").glob(POSTGRES_FOLDERS.lstrip("/")), reverse=True):
        if (folder / name).is_file():
            return str(folder / name)
    return shutil.which(name)


@dataclass
class PostgresServer:
    """A database server with a data folder of its own, on 127.0.0.1 only."""

    folder: Path
    port: int

    def start(self) -> None:
        """Create the data folder and start. PostgreSQL refuses to run as root: then it is its own user's."""
        self.folder.mkdir()
        if os.getuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            for parent in self.folder.parents:
                if parent.stat().st_uid == 0 and str(parent).startswith("/tmp/"):
                    parent.chmod(0o755)
        data = str(self.folder / "data")
        self._run("initdb", "--pgdata", data, "--username=nenni", "--auth=trust", "--no-sync")
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder}"
        log = str(self.folder / "log")
        self._run("pg_ctl", "start", "--pgdata", data, "--wait", "--options", options, "--log", log)
        self._run("createdb", "--host=127.0.0.1", f"--port={self.port}", "--username=nenni", "mlflow")

    def stop(self) -> None:
        """Stop at once."""
        self._run("pg_ctl", "stop", "--pgdata", str(self.folder / "data"), "--mode=immediate")

    @property
    def url(self) -> str:
        """As SQLAlchemy names the database."""
        return f"postgresql+psycopg2://nenni@127.0.0.1:{self.port}/mlflow"

    def _run(self, name: str, *arguments: str) -> None:
        program = postgres_program(name)
        assert program is not None
        user = "postgres" if os.getuid() == 0 else None
        output = subprocess.run(
            [program, *arguments],
            user=user,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"HOME": "/"},
            check=False,
        )
        assert output.returncode == 0, f"{name} ended with {output.returncode}"


@dataclass
class TrackingServer:
    """MLflow's server, as the recipe starts it."""

    database: str
    artifacts: str
    port: int
    environment: dict[str, str]
    folder: Path
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start and wait until it answers."""
        command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", self.database]
        command += ["--artifacts-destination", self.artifacts, "--host", "127.0.0.1"]
        command += ["--port", str(self.port), "--workers", "1"]
        off = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with (self.folder / "mlflow.log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                env=os.environ | self.environment | off,
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_for(self._answers, "MLflow's server does not answer", seconds=180)

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "mlflow.log").read_text()[-2000:]
        try:
            urllib.request.urlopen(f"{self.url}/health", timeout=5).close()
        except (OSError, urllib.error.URLError):
            return False
        return True

    def kill(self) -> None:
        """As `kill -9`, its workers too."""
        assert self.process is not None
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@dataclass
class RayNodes:
    """A Ray cluster: a head that computes nothing, and machines of one core each."""

    folder: Path
    port: int
    environment: dict[str, str]
    started: list[set[int]] = field(default_factory=list)
    """Process numbers of the head, then of each machine."""

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self, machines: int) -> None:
        """Start all."""
        head = ["--head", f"--port={self.port}", "--num-cpus=0", "--include-dashboard=false"]
        self._start(*head, f"--temp-dir={self.folder}")
        for _ in range(machines):
            self.add_machine()

    def add_machine(self, cpus: int = 1, gpus: int = 0) -> int:
        """Start one more machine; returns its number. Ray believes what it is told of GPUs."""
        self._start(f"--address={self.address}", f"--num-cpus={cpus}", f"--num-gpus={gpus}")
        return len(self.started) - 1

    def _start(self, *options: str) -> None:
        before = self._processes()
        subprocess.run(
            [sys.executable, "-m", "ray.scripts.scripts", "start", "--disable-usage-stats", *options],
            env=os.environ | self.environment,
            check=True,
            timeout=120,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.started.append(self._processes() - before)

    def _processes(self) -> set[int]:
        """Ray's processes that carry this cluster's mark."""
        found = set()
        for process in psutil.process_iter():
            try:
                if process.environ().get("NENNI_TEST_CLUSTER") == self.environment["NENNI_TEST_CLUSTER"]:
                    found.add(process.pid)
            except psutil.Error:
                continue
        return found

    def kill(self, number: int) -> None:
        """As if the machine lost its power: its raylet and, with it, its workers."""
        for pid in self.started[number]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def stop(self) -> None:
        """End all that is left."""
        for pid in self._processes() - {os.getpid()}:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
