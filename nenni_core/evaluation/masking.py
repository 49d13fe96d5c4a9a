"""Is the gradient hidden rather than the network robust? Six tests, each with the numbers it rests on.

Athalye et al. 2018 (arXiv 1802.00420), section 3.1, and Carlini et al. 2019 (arXiv 1902.06705), section 5,
list what gives a masked gradient away. A flag is a reason for doubt, not a proof; no flag is no proof either.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from nenni_core.attacks.kinds import attack_kind, counts_in_worst_case
from nenni_core.attacks.protocols import PAPER_EPS
from nenni_core.attacks.spec import AttackSpec
from nenni_core.errors import InputError
from nenni_core.evaluation.results import Evaluation

GAP = 0.02
"""By how much the paper protocol's accuracy may exceed the adaptive one's."""
TOLERANCE = 0.01
"""How far one attack may beat another that should be stronger before that counts."""
UNBOUNDED_EPS = 64 / 255
"""A radius within which every photograph can be turned into one of another class. Images of full contrast
need 128/255, from where on any two images can be made the same grey."""
FEW_STEPS = "pgd2_probe"
UNBOUNDED = "pgd20_unbounded_probe"
PROBES = (FEW_STEPS, UNBOUNDED)
NEEDED = {"fgsm", "pgd20", "square", *PROBES}
"""Attacks that the tests are about."""


def masking_probes(
    eps: float = PAPER_EPS, step_size: float = 2 / 255, *, unbounded_eps: float = UNBOUNDED_EPS
) -> tuple[AttackSpec, ...]:
    """Two attacks beside the protocols: one that stops early, and one that nothing can withstand."""
    return (
        AttackSpec(name=FEW_STEPS, kind="pgd", eps=eps, step_size=step_size, steps=2, in_worst_case=False),
        AttackSpec(
            name=UNBOUNDED,
            kind="pgd",
            eps=unbounded_eps,
            step_size=unbounded_eps / 8,
            steps=20,
            in_worst_case=False,
        ),
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

    def metrics(self) -> dict[str, float]:
        """`masking/<test>`, 1 if it is raised and 0 if not, and its numbers as `masking/<test>/<number>`."""
        found: dict[str, float] = {}
        for flag in self.flags:
            found[f"masking/{flag.name}"] = float(flag.raised)
            found |= {f"masking/{flag.name}/{name}": value for name, value in flag.numbers.items()}
        return found

    def __str__(self) -> str:
        doubts = (
            f"{len(self.raised)} of {len(self.flags)} tests give reason to think that gradients are masked."
        )
        lines = [doubts if self.raised else "No sign of masked gradients."]
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
        if counts_in_worst_case(outcome.spec):
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
    "pgd20" in the first and "square" in the second, and `masking_probes`. Attacks that do not count in the
    worst case (another radius, another norm) are not compared. Raises `InputError` otherwise.
    """
    needed = {*NEEDED, *(paper := list(paper)), *(adaptive := list(adaptive))}
    if missing := sorted(needed - set(evaluation.attacks)):
        raise InputError(f"the masking verdict needs the attacks {', '.join(missing)}; they were not run")

    def accuracy(name: str) -> float:
        return evaluation.accuracy(name).value

    def comparable(names: list[str]) -> list[str]:
        return [name for name in names if counts_in_worst_case(evaluation.attacks[name].spec)]

    paper, adaptive = comparable(paper), comparable(adaptive)

    def by_gradients_alone(name: str) -> bool:
        spec = evaluation.attacks[name].spec
        # what is left standing by an attack without gradients says nothing about gradients any more
        specs = [spec, *(evaluation.attacks[earlier].spec for earlier in spec.survivors_of)]
        return not any(attack_kind(one).without_gradients for one in specs)

    black_box = [name for name in ("square", "transfer") if name in evaluation.attacks]
    white_box = [name for name in (*paper, *adaptive) if by_gradients_alone(name)]
    least_paper, least_adaptive = evaluation.worst_of(paper).value, evaluation.worst_of(adaptive).value
    boxes = {"white_box": evaluation.worst_of(white_box).value, "black_box": min(map(accuracy, black_box))}
    beaten = boxes["white_box"] - boxes["black_box"] > TOLERANCE
    if "transfer" in evaluation.attacks:
        # It is run on all images: it should beat none of the attacks that the paper itself runs either.
        followers = [name for name in paper if by_gradients_alone(name)]
        boxes |= {
            "paper_gradients": evaluation.worst_of(followers).value,
            "transfer": accuracy("transfer"),
        }
        beaten = beaten or boxes["paper_gradients"] - boxes["transfer"] > TOLERANCE
    one, many, few = accuracy("fgsm"), accuracy("pgd20"), accuracy(FEW_STEPS)
    gradients = [evaluation.attacks[name] for name in ("fgsm", "pgd20")]
    asked = sum(outcome.backwards for outcome in gradients)
    unbounded = evaluation.attacks[UNBOUNDED].spec.eps
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
                raised=beaten,
                question="Does an attack without gradients find what gradients did not?",
                numbers=boxes,
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
                question=f"Does anything withstand an attack of {255 * unbounded:.0f}/255?",
                numbers={"left": accuracy(UNBOUNDED)},
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
