"""What `benchmarks.paper_scale` computes: the paper's chain for ResNet-18 on CIFAR-10, stage by stage.

The same is described by a parameter file of the pipeline, which `Chain.parameters` gives.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, NamedTuple

from nenni_core.attacks import AttackSpec
from nenni_core.attacks.protocols import adaptive_protocol, deepfool_protocol, paper_protocol
from nenni_core.attacks.spec import in_order
from nenni_core.chain.attack import AttackSettings
from nenni_core.chain.distill import DistillSettings
from nenni_core.chain.finetune import FineTuneSettings
from nenni_core.chain.prepare import PrepareSettings
from nenni_core.chain.pretrain import PretrainSettings
from nenni_core.chain.record import plain
from nenni_core.errors import InputError
from nenni_core.evaluation import masking_probes
from nenni_core.training import Recipe

PROTOCOLS = ("none", "own", "paper", "both")
"""Which attacks are run: "own", those that need no further library; "both", the paper's and the adaptive."""

INSTALL = "pip install scipy && pip install --no-deps torchattacks==3.5.1 pyautoattack==0.2.0"
"""What the attacks need beside PyTorch. What torchattacks requires would replace NumPy and PyTorch."""


class Step(NamedTuple):
    """One stage of the chain."""

    stage: str
    label: str
    """Of which network, as the pipeline calls its variants; empty before they part."""
    settings: Any
    """The stage's dataclass."""
    seed: int
    upstream: tuple[tuple[str, str], ...]
    """(stage, label) of the steps that it reads."""


@dataclass(frozen=True, kw_only=True)
class Chain:
    """The settings of all stages; variants are made of `rules` and `objectives`."""

    seed: int
    split_seed: int
    prepare: PrepareSettings
    pretrain: PretrainSettings
    distill: DistillSettings
    finetune: FineTuneSettings
    """What the variants share."""
    ratios: tuple[float, ...]
    patterns: tuple[str, ...]
    objectives: tuple[str, ...]
    attack: AttackSettings
    """Without attacks nothing is attacked."""
    experiment: str = "paper-scale"
    """What its tracked runs are found under."""

    def variants(self) -> dict[str, FineTuneSettings]:
        """What is fine-tuned, by the names that the pipeline gives them."""
        rules: list[tuple[str, dict[str, Any]]] = [(f"ratio-{r:g}", {"ratio": r}) for r in self.ratios]
        rules += [(f"pattern-{pattern}", {"pattern": pattern}) for pattern in self.patterns]
        return {
            f"{name}-{objective}": replace(self.finetune, objective=objective, **rule)
            for name, rule in rules
            for objective in self.objectives
        }

    def steps(self) -> Iterator[Step]:
        """All stages in an order in which each comes after those that it reads; the dense network first."""
        prepare, teacher, distilled = ("prepare", ""), ("pretrain", ""), ("distill", "")
        yield Step("prepare", "", self.prepare, self.split_seed, ())
        yield Step("pretrain", "", self.pretrain, self.seed, (prepare,))
        yield from self._attack("dense", (prepare, teacher))
        yield Step("distill", "", self.distill, self.seed, (prepare, teacher))
        for label, settings in self.variants().items():
            yield Step("finetune", label, settings, self.seed, (prepare, distilled))
            yield from self._attack(label, (prepare, teacher, ("finetune", label)))

    def _attack(self, label: str, upstream: tuple[tuple[str, str], ...]) -> Iterator[Step]:
        settings = self.attack
        if not settings.attacks:
            return
        if label != "dense" and not settings.needs_surrogate:  # nothing of the teacher is read
            settings = replace(settings, checkpoint=None)
            upstream = tuple(read for read in upstream if read[0] != "pretrain")
        yield Step("attack", label, settings, self.seed, upstream)

    def parameters(self, data: str) -> dict[str, Any]:
        """The parameter file that describes the same; `data` is where the data set is."""
        prepare = plain(self.prepare) | {"path": data, "split_seed": self.split_seed}
        defense = dict(self.pretrain.defense)
        pretrain = plain(self.pretrain.recipe) | {"model": self.pretrain.architecture, "defense": defense}
        shared = ("selection", "score", "target", "checkpoint", "calibration_images")
        finetune = plain(self.finetune.recipe) | {name: getattr(self.finetune, name) for name in shared}
        finetune |= {
            "dense": True,
            "ratio": list(self.ratios),
            "pattern": list(self.patterns),
            "objective": list(self.objectives),
        }
        attack = plain(self.attack)
        for name in ("checkpoint", "split"):
            del attack[name]
        # a parameter file has one attack at least; where nothing is attacked, it says what would be
        attacks = self.attack.attacks or paper_protocol()
        attack["attacks"] = {spec.name: _without_name(spec) for spec in attacks}
        return {
            "seed": self.seed,
            "tracking": {"experiment": self.experiment},
            "prepare": prepare,
            "pretrain": pretrain,
            "distill": plain(self.distill),
            "finetune": finetune,
            "attack": attack,
        }


def _without_name(spec: AttackSpec) -> dict[str, Any]:
    values = plain(spec)
    del values["name"]
    return values


def paper_chain(
    *,
    epochs: int = 30,
    images: int | None = 1000,
    attacks: str = "both",
    precision: str = "bfloat16",
    seed: int = 0,
) -> Chain:
    """The paper's chain for ResNet-18 on CIFAR-10: the dense network, 90%, 99% and 7:8, both fine-tunings.

    Other than in the paper: the precision of training; the closed form instead of 50 epochs of SGD for the
    distillation, whose optimum it is; with 30 epochs one cycle of the learning rate up to 0.2 (Wong et al.
    2020, "Fast is better than free") instead of steps.

    Raises `InputError` for attacks whose library cannot be imported.
    """
    if epochs >= 200:
        recipe = Recipe(epochs=epochs, precision=precision)
    else:
        recipe = Recipe(
            epochs=epochs, precision=precision, schedule="one_cycle", learning_rate=0.2, milestones=()
        )
    return Chain(
        seed=seed,
        split_seed=0,
        prepare=PrepareSettings(
            dataset="cifar10", train_images=None, test_images=None, validation_images=1000
        ),
        pretrain=PretrainSettings(architecture="resnet18", defense={"kind": "adversarial"}, recipe=recipe),
        distill=DistillSettings(
            checkpoint="best",
            projection_ratio=0.25,
            bits=4,
            scale="per_layer",
            quantize_projected=False,
            randomize="fixed",
            bank_size=4,
            recall_ratio=0.9,
            solver="least_squares",
            epochs=50,
            learning_rate=0.5,
            momentum=0.9,
            ridge=1e-6,
            images=None,
            batch_size=128,
        ),
        finetune=FineTuneSettings(
            ratio=None,
            pattern=None,
            layer_ratios=None,
            objective="adversarial",
            selection="top_k",
            score="magnitude",
            target="non_essential",
            checkpoint="last",
            calibration_images=None,
            recipe=Recipe(
                epochs=1, precision=precision, schedule="constant", learning_rate=0.01, milestones=()
            ),
        ),
        ratios=(0.9, 0.99),
        patterns=("7:8",),
        objectives=("clean", "adversarial"),
        attack=AttackSettings(
            attacks=tuple(in_order(chosen_attacks(attacks))),
            images=images,
            batch_size=256,
            ensemble=1,
            judge_draws=20,
            examples=8,
            checkpoint="best",
            split="test",
        ),
    )


def rehearsal(chain: Chain) -> Chain:
    """The same stages, variants and attacks at a size that a CPU is done with in minutes."""
    images = chain.attack.images
    return replace(
        chain,
        prepare=replace(chain.prepare, train_images=600, validation_images=100),
        pretrain=replace(
            chain.pretrain,
            architecture="small_resnet",
            recipe=replace(chain.pretrain.recipe, epochs=2),
        ),
        attack=replace(chain.attack, images=10 if images is None else min(images, 10)),
        experiment=f"{chain.experiment}-rehearsal",
    )


def chosen_attacks(name: str) -> tuple[AttackSpec, ...]:
    """The attacks of one of `PROTOCOLS`; `InputError` if a library that they need cannot be imported."""
    paper = paper_protocol()
    straight = AttackSpec(name="pgd20_straight_through", kind="pgd", gradient="straight_through")
    own = [spec for spec in (*paper, *deepfool_protocol()) if spec.kind in ("cw", "deepfool")]
    found = {
        "none": (),
        "own": tuple(own),
        "paper": paper,
        "both": (*paper, straight, *adaptive_protocol(), *masking_probes()),
    }[name]
    libraries = {"none": (), "own": (), "paper": ("torchattacks",), "both": ("torchattacks", "pyautoattack")}
    for library in libraries[name]:
        try:
            import_module(library)  # finding it would not show that it lacks what it imports itself
        except ImportError as error:
            raise InputError(
                f"--attacks {name} needs {library}, which cannot be imported here ({error}); expected "
                f"`{INSTALL}` before, or --attacks own or none now and another call for the rest"
            ) from None
    return found
