"""How an evaluation is shown: where it stands while it runs, and its table afterwards."""

from collections.abc import Sequence

from rich.table import Table

from nenni_core.attacks import AttackSpec, counts_in_worst_case
from nenni_core.evaluation import CLEAN, WORST_CASE, Evaluation
from nenni_core.progress import ProgressCallback

IN_ALL = "in all (percent)"
BACKWARD = 2
"""A backward pass costs about as much as so many forward passes."""
TARGETS, AUTOATTACK_STEPS, AUTOATTACK_QUERIES = 9, 10 * 19, 5000
"""Of a targeted attack and of AutoAttack, roughly."""


class InAll:
    """A `ProgressCallback` for `evaluate` that shows the attack under way, and all of them together.

    How much of the whole an attack is, is guessed from the passes that it will make on one image.
    """

    def __init__(
        self, progress: ProgressCallback, specs: Sequence[AttackSpec], *, images: int, random: bool
    ) -> None:
        self._progress = progress
        self._images = images
        self._costs = {CLEAN: 1} | {spec.name: expected_passes(spec, random=random) for spec in specs}
        self._ahead = list(self._costs)
        self._totals: dict[str, int] = {}
        self._show(CLEAN, 0, images)

    def __call__(self, description: str, completed: int, total: int) -> None:
        """Show it, and close the attacks before it, which may have had no image left to attack."""
        if description not in self._costs:
            self._progress(description, completed, total)
            return
        while self._ahead and self._ahead[0] != description:
            self._close(self._ahead[0])
        self._show(description, completed, total)
        if completed >= total:
            self._ahead.remove(description)
            if self._ahead:  # a first batch can take minutes, so it is named before it is finished
                self._show(self._ahead[0], 0, self._images)

    def _show(self, name: str, completed: int, total: int) -> None:
        self._totals[name] = total
        self._progress(name, completed, total)
        done: float = sum(cost for other, cost in self._costs.items() if other not in self._ahead)
        done += self._costs[name] * completed / total
        self._progress(IN_ALL, int(100 * done / sum(self._costs.values())), 100)

    def _close(self, name: str) -> None:
        self._ahead.remove(name)
        if name in self._totals:
            self._progress(name, self._totals[name], self._totals[name])


def expected_passes(spec: AttackSpec, *, random: bool) -> int:
    """About how many forward passes an attack's work on one image is worth."""
    draws = spec.eot_samples if random else 1
    step = (1 + BACKWARD) * draws
    match spec.kind:
        case "fgsm":
            return step
        case "square":
            return spec.queries * draws
        case "apgd_dlr_targeted":
            return spec.steps * TARGETS * step
        case "autoattack_torchattacks" | "autoattack_standard":
            return AUTOATTACK_STEPS * step + AUTOATTACK_QUERIES
        case _:
            return spec.steps * step


def table_of(evaluation: Evaluation) -> Table:
    """A row for the clean images, for each attack and for the worst case; passes are per attacked image."""
    table = Table(box=None, header_style="bold", caption_justify="left", caption_style="")
    table.add_column("attack")
    for column in ("accuracy %", "95% interval", "attacked", "forwards", "backwards", "seconds"):
        table.add_column(column, justify="right")

    def accuracy(name: str) -> tuple[str, str]:
        value, low, high = (f"{100 * number:.1f}" for number in evaluation.accuracy(name))
        return value, f"{low} to {high}"

    table.add_row("clean", *accuracy(CLEAN), "", "", "", f"{evaluation.clean_seconds:.1f}")
    others = False
    for name, outcome in evaluation.attacks.items():
        counts = counts_in_worst_case(outcome.spec)
        others = others or not counts
        passes = [
            f"{count / outcome.attacked:.1f}" if outcome.attacked else ""
            for count in (outcome.forwards, outcome.backwards)
        ]
        table.add_row(
            name if counts else f"{name} *",
            *accuracy(name),
            str(outcome.attacked),
            *passes,
            f"{outcome.seconds:.1f}",
        )
    table.add_row("worst case", *accuracy(WORST_CASE), "", "", "", "", style="bold")
    if others:
        table.caption = "* another radius, or none: does not count in the worst case"
    return table
