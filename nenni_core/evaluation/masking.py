"""Is the gradient hidden rather than the network robust? Six tests, each with the numbers it rests on.

Athalye et al. 2018 (arXiv 1802.00420), section 3.1, and Carlini et al. 2019 (arXiv 1902.06705), section 5,
list what gives a masked gradient away. A flag is a reason for doubt, not a proof; no flag is no proof either.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from nenni_core.attacks.kinds import attack_kind
from nenni_core.attacks.protocols import PAPER_EPS
from nenni_core.attacks.spec import AttackSpec
from nenni_core.errors import InputError
from nenni_core.evaluation.results import Evaluation

GAP = 0.02
"""By how much the paper protocol's accuracy may exceed the adaptive one's."""
TOLERANCE = 0.01
"""How far one attack may beat another that should be stronger before that counts."""
UNBOUNDED_EPS = 64 / 255
"""A radius within which every image can be turned into one of another class."""
FEW_STEPS = "pgd2_probe"
UNBOUNDED = "pgd20_eps64_probe"
NEEDED = {"fgsm", "pgd20", "square", FEW_STEPS, UNBOUNDED}
"""Attacks that the tests are about."""


def masking_probes(eps: float = PAPER_EPS, step_size: float = 2 / 255) -> tuple[AttackSpec, ...]:
    """Two attacks beside the protocols: one that stops early, and one that nothing can withstand."""
    return (
        AttackSpec(name=FEW_STEPS, kind="pgd", eps=eps, step_size=step_size, steps=2),
        AttackSpec(name=UNBOUNDED, kind="pgd", eps=UNBOUNDED_EPS, step_size=UNBOUNDED_EPS / 8, steps=20),
    )


@dataclass(frozen=True, kw_only=True)
class Flag:
    """One test of the verdict."""

    name: str
    raised: bool
    question: str
    numbers: dict[str, float]
    """What it was decided on: accuracies and shares as fractions."""


@dataclass(frozen=True, kw_only=True)
class MaskingVerdict:
    """The six tests of one model."""

    flags: tuple[Flag, ...]

    @property
    def raised(self) -> tuple[str, ...]:
        """Names of the tests that give reason for doubt; empty if none does."""
        return tuple(flag.name for flag in self.flags if flag.raised)

    def summary(self) -> dict[str, Any]:
        """Plain JSON types."""
        tests = {
            flag.name: {"raised": flag.raised, "question": flag.question, **flag.numbers}
            for flag in self.flags
        }
        return {"raised": list(self.raised), "tests": tests}

    def __str__(self) -> str:
        lines = ["Gradients look masked." if self.raised else "No sign of masked gradients."]
        for flag in self.flags:
            numbers = ", ".join(
                f"{name.replace('_', ' ')} {100 * value:.1f}%" for name, value in flag.numbers.items()
            )
            lines.append(f"  [{'x' if flag.raised else ' '}] {flag.question} {numbers}")
        return "\n".join(lines)


def verdict_of(evaluation: Evaluation) -> MaskingVerdict | None:
    """The verdict, if the attacks that it needs were run under their usual names; else None.

    The adaptive protocol are those that average over draws, ask without gradients, transfer, or see through
    low-precision paths; the paper's are the others.
    """
    adaptive: list[str] = []
    paper: list[str] = []
    for name, outcome in evaluation.attacks.items():
        if name not in (FEW_STEPS, UNBOUNDED):
            knows = attack_kind(outcome.spec).averages or outcome.spec.gradient == "straight_through"
            (adaptive if knows else paper).append(name)
    if NEEDED.issubset(evaluation.attacks) and "pgd20" in paper:
        return masking_verdict(evaluation, paper=paper, adaptive=adaptive)
    return None


def masking_verdict(
    evaluation: Evaluation, *, paper: Iterable[str], adaptive: Iterable[str]
) -> MaskingVerdict:
    """The verdict on the model of `evaluation`.

    `paper` and `adaptive` name the attacks of the two protocols; both must have been run, with "fgsm" and
    "pgd20" in the first and "square" in the second, and `masking_probes`. Raises `InputError` otherwise.
    """
    paper, adaptive = list(paper), list(adaptive)
    needed = {*NEEDED, *paper, *adaptive}
    if missing := sorted(needed - set(evaluation.attacks)):
        raise InputError(f"the masking verdict needs the attacks {', '.join(missing)}; they were not run")

    def accuracy(name: str) -> float:
        return evaluation.accuracy(name).value

    black_box = [name for name in ("square", "transfer") if name in evaluation.attacks]
    white_box = [name for name in {*paper, *adaptive} if name not in black_box]
    least_paper, least_adaptive = min(map(accuracy, paper)), min(map(accuracy, adaptive))
    least_white, least_black = min(map(accuracy, white_box)), min(map(accuracy, black_box))
    one, many, few = accuracy("fgsm"), accuracy("pgd20"), accuracy(FEW_STEPS)
    gradients = [evaluation.attacks[name] for name in ("fgsm", "pgd20")]
    asked = sum(outcome.backwards for outcome in gradients)
    zero = sum(outcome.zero_gradients for outcome in gradients) / asked if asked else 0.0
    return MaskingVerdict(
        flags=(
            Flag(
                name="protocols_disagree",
                raised=least_paper - least_adaptive > GAP,
                question="Does an attacker who knows the defence find much more?",
                numbers={"paper": least_paper, "adaptive": least_adaptive},
            ),
            Flag(
                name="black_box_beats_white_box",
                raised=least_white - least_black > TOLERANCE,
                question="Does an attack without gradients find what gradients did not?",
                numbers={"white_box": least_white, "black_box": least_black},
            ),
            Flag(
                name="one_step_beats_many",
                raised=many - one > TOLERANCE,
                question="Is one step stronger than twenty?",
                numbers={"one_step": one, "twenty_steps": many},
            ),
            Flag(
                name="unbounded_attack_fails",
                raised=accuracy(UNBOUNDED) > TOLERANCE,
                question="Does anything withstand an attack of 64/255?",
                numbers={"eps_64": accuracy(UNBOUNDED)},
            ),
            Flag(
                name="more_steps_do_not_help",
                raised=many > TOLERANCE and few - many <= 0,
                question="Are twenty steps no stronger than two?",
                numbers={"two_steps": few, "twenty_steps": many},
            ),
            Flag(
                name="zero_gradients",
                raised=zero > TOLERANCE,
                question="Are input gradients exactly zero?",
                numbers={"share": zero},
            ),
        )
    )
