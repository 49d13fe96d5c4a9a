"""What is kept of sweeps beside the results: how to resume one, its log files, and which stages failed.

`<store>/.sweeps/<id>/` has `sweep.json` (what was asked for), `events.jsonl` (a line for each stage that
ended), `logs/` (a file for each stage that ran) and, at the end, `summary.json`.
`<store>/.failures/<stage>/<key>.json` says of a stage that it failed, and with which code. All of this may be
lost without losing results.
"""

import json
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nenni_core.errors import InputError, unknown_choice
from nenni_core.files import write_json
from pipeline.graph import NodeId
from pipeline.provenance import code_digest

SWEEPS, FAILURES = ".sweeps", ".failures"
ASKED, EVENTS, SUMMARY, LOGS = "sweep.json", "events.jsonl", "summary.json", "logs"

End = Literal["running", "complete", "failed", "incomplete", "interrupted"]


class Asked(BaseModel):
    """What a sweep is asked to do: all that decides on its stages."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    grid: str
    where: tuple[str, ...] = ()
    seeds: int | None = None
    override: dict[str, Any] = Field(default_factory=dict)
    data: dict[str, str] = Field(default_factory=dict)


class SweepRecord(BaseModel):
    """The content of `sweep.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    asked: Asked
    digest: str
    """Of the keys of all stages: whether the same question gives the same stages now."""
    started: str
    end: End = "running"


class FailureRecord(BaseModel):
    """Why a stage failed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reason: str
    log: str
    code: str
    """`pipeline.provenance.code_digest` of the code that failed."""
    when: str


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class SweepFolder:
    """The folder of one sweep. Writing to it never fails: what cannot be written is reported once."""

    def __init__(self, path: Path, record: SweepRecord, report: Callable[[str], None]) -> None:
        self.path = path
        self.record = record
        self._report = report
        self._reported = False

    @classmethod
    def create(cls, store: Path, asked: Asked, digest: str, report: Callable[[str], None]) -> "SweepFolder":
        """A new folder. Its name sorts by time."""
        stem = "".join(character if character.isalnum() else "-" for character in Path(asked.grid).stem)
        name = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{stem}-{secrets.token_hex(2)}"
        record = SweepRecord(id=name, asked=asked, digest=digest, started=now())
        folder = cls(store / SWEEPS / name, record, report)
        folder._write(ASKED, record.model_dump(mode="json"))
        return folder

    @property
    def logs(self) -> Path:
        """Where the log files of the stages go."""
        return self.path / LOGS

    def event(self, name: NodeId, values: Mapping[str, Any]) -> None:
        """Note that a stage has ended."""
        line = json.dumps({"when": now(), "stage": name.stage, "key": name.key} | dict(values))

        def append() -> None:
            self.path.mkdir(parents=True, exist_ok=True)
            with (self.path / EVENTS).open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")

        self._try(append)

    def close(self, end: End, summary: Mapping[str, Any]) -> None:
        """Note how the sweep ended."""
        self.record = self.record.model_copy(update={"end": end})
        self._write(ASKED, self.record.model_dump(mode="json"))
        self._write(SUMMARY, {"end": end, "ended": now()} | dict(summary))

    def _write(self, name: str, value: Any) -> None:
        self._try(lambda: write_json(self.path / name, value))

    def _try(self, action: Callable[[], None]) -> None:
        try:
            action()
        except OSError as error:
            if not self._reported:
                self._reported = True
                self._report(
                    f"warning: {self.path} cannot be written to: {error.strerror}; results are not concerned"
                )


def find_sweep(store: Path, wanted: str | None) -> SweepRecord:
    """The sweep called `wanted` (the beginning of its name will do), or the newest one that is not complete.

    Raises `InputError` if there is none.
    """
    records = _records(store)
    if wanted is None:
        unfinished: list[SweepRecord] = []
        for record in records:
            if record.end == "complete":  # and with it every earlier one of the same stages
                unfinished = [other for other in unfinished if other.digest != record.digest]
            else:
                unfinished.append(record)
        if not unfinished:
            raise InputError(f"--resume: no sweep of the store {str(store)!r} is left to resume")
        return unfinished[-1]
    if not records:
        raise InputError(f"--resume {wanted}: there are no sweeps in the store {str(store)!r}")
    found = [record for record in records if record.id.startswith(wanted)]
    if len(found) != 1:
        raise unknown_choice("sweep", wanted, [record.id for record in (found or records)[-5:]])
    return found[0]


def _records(store: Path) -> list[SweepRecord]:
    """The sweeps of a store, oldest first."""
    found = []
    for path in sorted((store / SWEEPS).glob(f"*/{ASKED}")):
        try:
            found.append(SweepRecord.model_validate_json(path.read_bytes()))
        except (OSError, ValidationError):
            continue  # written by a process that was killed, or by a later version
    return found


def remember_failure(store: Path, name: NodeId, reason: str, log: Path) -> None:
    """Keep that a stage failed, so that a later sweep does not run into it again with the same code."""
    record = FailureRecord(reason=reason, log=str(log), code=code_digest(), when=now())
    with suppress(OSError):  # it will be tried again
        write_json(_failure_path(store, name), record.model_dump())


def forget_failure(store: Path, name: NodeId) -> None:
    """A stage that had failed is done."""
    with suppress(OSError):
        _failure_path(store, name).unlink(missing_ok=True)


def known_failures(store: Path, names: Iterable[NodeId]) -> dict[NodeId, FailureRecord]:
    """`known_failure` of all these stages."""
    found = {name: known_failure(store, name) for name in names}
    return {name: record for name, record in found.items() if record is not None}


def known_failure(store: Path, name: NodeId) -> FailureRecord | None:
    """Why a stage failed in an earlier sweep with the code of today; None if it did not."""
    try:
        record = FailureRecord.model_validate_json(_failure_path(store, name).read_bytes())
    except (OSError, ValidationError):
        return None
    return record if record.code == code_digest() else None


def _failure_path(store: Path, name: NodeId) -> Path:
    return store / FAILURES / name.stage / f"{name.key}.json"


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._start = clock()

    @property
    def seconds(self) -> float:
        """So many have gone by."""
        return self._clock() - self._start
