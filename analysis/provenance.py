"""How a number came about: the settings of the attack, the images, the draws, the commit and the runs."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from analysis import names, protocol
from analysis.claims import Fitness
from analysis.measurement import Source, behind
from analysis.paper_layout import CLEAN

# Kinds that start more than once have a setting for it; the others start once.
RESTARTS = "restarts"
NAMED_RUNS = 5
"""So many runs are named in a text; files have them all."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What is behind one number, as texts; "" where it does not apply or was not tracked."""

    settings: Mapping[str, protocol.Settings]
    """By attack: one, or for the worst case all that count."""
    eps: str
    step_size: str
    steps: str
    restarts: str
    eot_samples: str
    judge_draws: str
    """Fresh noise draws that a random network is judged on."""
    ensemble: str
    batch_size: str
    images: str
    seeds: str
    commits: str
    runs: tuple[str, ...]
    data_fingerprint: str

    def __str__(self) -> str:
        said = {
            "eps": self.eps,
            "step size": self.step_size,
            "steps": self.steps,
            "starts": self.restarts,
            "draws for a gradient": self.eot_samples,
            "draws to judge": self.judge_draws,
        }
        words = [f"{name} {value}" for name, value in said.items() if value]
        words += [f"{field} {value}" for field, value in self._others()]
        if len(self.settings) > 1:
            words.append(f"attacks: {names.listed(map(names.column_name, self.settings))}")
        words += [f"{self.images} images", f"seeds {self.seeds}", f"commit {self.commits}"]
        runs = [run[:8] for run in self.runs[:NAMED_RUNS]]
        if len(self.runs) > NAMED_RUNS:
            runs.append(f"{len(self.runs) - NAMED_RUNS} more")
        return "; ".join([*words, f"runs {', '.join(runs)}"])

    def _others(self) -> list[tuple[str, str]]:
        """Settings of one attack that have no field of their own."""
        if len(self.settings) != 1:
            return []
        shown = ("eps", "step_size", "steps", RESTARTS, "eot_samples")
        [own] = self.settings.values()
        return [(name.replace("_", " "), own[name]) for name in own if name not in shown]


def protocol_of(source: Source, column: str) -> Protocol:
    """The protocol behind the number of `source` in `column`."""
    settings = behind(column, source.settings[0]) if source.settings and column != CLEAN else {}
    params = json.loads(source.runs[0]["params"] or "{}") if source.runs else {}

    def of_attack(field: str) -> str:
        values = (protocol.readable(field, own[field]) for own in settings.values() if field in own)
        return ", ".join(dict.fromkeys(values))

    bounded = any("random_start" in own or "steps" in own for own in settings.values())
    return Protocol(
        settings=settings,
        eps=of_attack("eps"),
        step_size=of_attack("step_size"),
        steps=of_attack("steps") if len(settings) == 1 else "",
        restarts=of_attack(RESTARTS) or ("1" if bounded and len(settings) == 1 else ""),
        eot_samples=of_attack("eot_samples"),
        judge_draws=params.get("judge_draws", "") if source.random and column != CLEAN else "",
        ensemble=params.get("ensemble", ""),
        batch_size=params.get("batch_size", ""),
        images=str(next((run["images"] for run in source.runs), 0)),
        seeds=in_ranges(source.seeds) or "none",
        commits=", ".join(commit[:10] for commit in source.commits) or "none",
        runs=tuple(run["run_id"] for run in source.runs),
        data_fingerprint=", ".join(dict.fromkeys(str(run["data_fingerprint"] or "") for run in source.runs)),
    )


def in_ranges(seeds: Iterable[int | None]) -> str:
    """Ascending seeds in few words; one that was not recorded is "unknown".

    >>> in_ranges([0, 1, 2, 5, None])
    '0 to 2, 5, unknown'
    """
    ranges: list[list[int | None]] = []
    for seed in seeds:
        if seed is not None and ranges and ranges[-1][-1] == seed - 1:
            ranges[-1].append(seed)
        else:
            ranges.append([seed])
    return ", ".join(_range(each) for each in ranges)


def _range(seeds: Sequence[int | None]) -> str:
    if seeds[0] is None:
        return "unknown"
    return f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 2 else ", ".join(map(str, seeds))


def standing(fit: Fitness) -> str:
    """What a number may be used for, with its denominators, in words."""
    if fit.is_claim:
        return f"fit for a claim: {fit.denominators}"
    others = [reason for reason in fit.against_claim if not reason.endswith((" test images", " seeds"))]
    return "; ".join([f"exploratory: {fit.denominators}", *others])
