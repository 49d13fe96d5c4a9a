"""The configuration of an experiment: one frozen, strict model per stage.

Everything here changes results and is part of the content keys. What only changes speed (device, threads,
where a data archive lies) is not: see `nenni_core.chain.runtime` and `Prepare.path`.
"""

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from nenni_core.errors import InputError, unknown_choice
from pipeline.defense_choice import DefenseChoice
from pipeline.values import Number, Pixels, Whole

if TYPE_CHECKING:
    from nenni_core.attacks import AttackSpec
    from nenni_core.training import Recipe

Checkpoint = Literal["best", "last"]
Objective = Literal["clean", "adversarial"]
Target = Literal["non_essential", "essential", "random"]
Randomize = Literal["fixed", "bank", "stochastic_rounding"]
SplitName = Literal["test", "validation"]
StageName = Literal["prepare", "pretrain", "defend", "distill", "finetune", "attack", "simulate"]


class Section(BaseModel):
    """Base of all configuration: immutable, and strict about its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _dataset(name: str) -> str:
    from nenni_core.data import DATASETS

    if name not in DATASETS:
        raise unknown_choice("dataset", name, list(DATASETS))
    return name


def _model(name: str) -> str:
    from nenni_core.models import MODELS

    if name not in MODELS:
        raise unknown_choice("model", name, list(MODELS))
    return name


def _attack(kind: str) -> str:
    from nenni_core.attacks import ATTACKS

    if kind not in ATTACKS:
        raise unknown_choice("attack", kind, list(ATTACKS))
    return kind


def _attack_name(name: str) -> str:
    from nenni_core.evaluation import CLEAN, WORST_CASE

    if name in (CLEAN, WORST_CASE):
        raise InputError(f"an attack cannot be called {name!r}: {name!r} is a column of its own")
    return name


def _pattern(text: str) -> str:
    from nenni_core.injection import Pattern as ParsedPattern

    noisy, group = ParsedPattern.parse(text)
    return f"{noisy}:{group}"


DatasetName = Annotated[str, AfterValidator(_dataset)]
ModelName = Annotated[str, AfterValidator(_model)]
AttackKind = Annotated[str, AfterValidator(_attack)]
AttackName = Annotated[str, Field(pattern=r"^[a-z0-9_]+$"), AfterValidator(_attack_name)]
Pattern = Annotated[str, AfterValidator(_pattern)]
Ratio = Annotated[Number, Field(ge=0, le=1)]
VariantName = Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
LayerRatios = Annotated[dict[str, Ratio], Field(min_length=1)]
"""A ratio for each layer of the network, by the layer's name; 0 leaves a layer as it is."""


class Prepare(Section):
    """Stage `prepare`: the data set as plain arrays, with a held-out slice of the training images."""

    dataset: DatasetName = Field(default="digits", description="name of the data set")
    path: str | None = Field(
        default=None,
        description="local archive or folder to read it from; where it lies is not part of the key",
    )
    train_images: Whole | None = Field(
        default=None,
        gt=0,
        description="class-balanced limit on the training images before the split; null: all",
    )
    test_images: Whole | None = Field(
        default=None, gt=0, description="class-balanced limit on the test images; null: all"
    )
    validation_images: Whole = Field(gt=0, description="images held out of the training set, class-balanced")
    split_seed: Whole = Field(default=0, ge=0, description="seed of the limits and of the split")


class Training(Section):
    """The recipe of a training loop, shared by pre-training and fine-tuning."""

    epochs: Whole = Field(gt=0, description="passes over the training images")
    batch_size: Whole = Field(default=128, gt=0, description="images per step")
    learning_rate: Number = Field(
        default=0.1, gt=0, description="initial (one_cycle: largest) learning rate of SGD"
    )
    momentum: Number = Field(default=0.9, ge=0, lt=1, description="momentum of SGD")
    weight_decay: Number = Field(default=5e-4, ge=0, description="L2 penalty")
    schedule: Literal["step", "one_cycle", "constant"] = Field(
        default="step", description="of the learning rate"
    )
    milestones: tuple[Whole, ...] = Field(default=(100, 150), description="schedule step: epochs of a decay")
    decay: Number = Field(default=0.1, gt=0, le=1, description="schedule step: factor at each milestone")
    eps: Pixels = Field(default=8 / 255, description="L-infinity radius of the training attack")
    step_size: Pixels = Field(default=2 / 255, description="step of the training attack")
    steps: Whole = Field(default=10, ge=0, description="steps of the training attack")
    crop_padding: Whole = Field(
        default=4, ge=0, description="pixels of padding for random crops; 0: no crops"
    )
    flip: bool = Field(default=True, description="mirror half of the images (wrong for digits)")
    precision: Literal["float32", "bfloat16"] = Field(default="float32", description="of the forward passes")
    validation_steps: Whole = Field(
        default=10, ge=0, description="PGD steps of the validation that picks the best"
    )

    @model_validator(mode="after")
    def _possible(self) -> Self:
        self.recipe()
        return self

    def recipe(self) -> "Recipe":
        """What the training loop reads; `InputError` for values that do not go together."""
        from nenni_core.training import Recipe

        shared = {name: getattr(self, name) for name in Training.model_fields}
        return Recipe(**shared)


class Pretrain(Training):
    """Stage `pretrain`: the dense teacher, and stage `defend` where its defence starts from a trained one."""

    model: ModelName = Field(default="small_resnet", description="name of the architecture")
    defense: DefenseChoice = Field(
        default_factory=lambda: DefenseChoice(),
        description="what makes it robust: a name, or {kind: name, and its hyperparameters}",
    )

    @model_validator(mode="after")
    def _buildable(self) -> Self:
        self.architecture  # noqa: B018 (names what does not go together)
        return self

    @property
    def architecture(self) -> str:
        """The network that is built: `model`, or what the defence makes of it."""
        return self.defense.defense().architecture(self.model)

    def base(self) -> "Pretrain":
        """The training before the stage `defend`: by the defence's base; itself where there is none."""
        before = self.defense.base
        return self if before is None else self.model_copy(update={"defense": before})


class Distill(Section):
    """Stage `distill`: the low-precision approximation of every convolution, learnt from the teacher."""

    checkpoint: Checkpoint = Field(
        default="best", description="which checkpoint of the pre-training is the teacher"
    )
    projection_ratio: Ratio = Field(
        default=0.25, gt=0, description="rows of the projection per patch element, k/d"
    )
    bits: Whole = Field(default=4, ge=2, le=16, description="bits of the approximate weights")
    scale: Literal["per_layer", "per_channel"] = Field(
        default="per_layer", description="of the fixed-point scale"
    )
    quantize_projected: bool = Field(default=False, description="also quantise the projected inputs")
    randomize: Randomize = Field(default="fixed", description="how the noise varies between forward passes")
    bank_size: Whole = Field(default=4, ge=1, description="randomize bank: projections to draw from")
    recall_ratio: Ratio = Field(default=0.9, description="injection ratio at which top-K recall is reported")
    solver: Literal["least_squares", "sgd"] = Field(
        default="least_squares", description="closed form, or the paper's"
    )
    epochs: Whole = Field(default=50, gt=0, description="solver sgd: passes over the images")
    learning_rate: Number = Field(
        default=0.5, gt=0, description="solver sgd: relative to the largest stable step"
    )
    momentum: Number = Field(default=0.9, ge=0, lt=1, description="solver sgd: momentum")
    ridge: Number = Field(default=1e-6, ge=0, description="solver least_squares: relative ridge")
    images: Whole | None = Field(default=None, gt=0, description="training images to distil from; null: all")
    batch_size: Whole = Field(default=128, gt=0, description="images per pass")


class FineTuning(Training):
    """What the variants of one set share: a short training with the noise in place."""

    epochs: Whole = Field(default=1, gt=0, description="passes over the training images")
    learning_rate: Number = Field(
        default=0.01, gt=0, description="initial (one_cycle: largest) learning rate of SGD"
    )
    schedule: Literal["step", "one_cycle", "constant"] = Field(
        default="constant", description="of the learning rate"
    )
    selection: Literal["top_k", "threshold"] = Field(
        default="top_k", description="exact sort, or fixed thresholds"
    )
    score: Literal["magnitude", "signed"] = Field(
        default="magnitude", description="what makes a neuron essential"
    )
    target: Target = Field(
        default="non_essential",
        description="which neurons get the noise (essential: ablation; random: control, drawn at each pass)",
    )
    checkpoint: Checkpoint = Field(default="last", description="which epoch's weights are kept")
    calibration_images: Whole | None = Field(
        default=None, gt=0, description="training images for thresholds and mask densities; null: all"
    )


class FineTune(FineTuning):
    """Stage `finetune`: one variant, i.e. where the noise goes and which loss it is fine-tuned with."""

    ratio: Ratio | None = Field(default=None, description="share of the neurons that get noise")
    pattern: Pattern | None = Field(default=None, description='"N:M": noise in N of every M channels')
    layer_ratios: LayerRatios | None = Field(default=None, description="a ratio for each layer, by its name")
    layer_ratios_name: VariantName | None = Field(
        default=None, description="what these ratios are called in labels; not part of the key"
    )
    objective: Objective = Field(default="adversarial", description="loss on clean or on PGD images")

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        rules = {"ratio": self.ratio, "pattern": self.pattern, "layer_ratios": self.layer_ratios}
        given = [name for name, rule in rules.items() if rule is not None]
        if len(given) != 1:
            raise InputError(
                f"a variant has one of ratio, pattern and layer_ratios; found {' and '.join(given) or 'none'}"
            )
        if (self.layer_ratios is None) != (self.layer_ratios_name is None):
            raise InputError("layer_ratios and layer_ratios_name go together; found one of them")
        if self.pattern is not None and self.selection == "threshold":
            raise InputError("selection 'threshold' goes with a ratio; patterns choose within groups")
        return self


class AttackConfig(Section):
    """One attack of the protocol."""

    kind: AttackKind = Field(description="which attack it is")
    eps: Pixels = Field(default=8 / 255, description="L-infinity radius")
    step_size: Pixels = Field(default=2 / 255, description="step")
    steps: Whole = Field(default=20, ge=1, description="number of steps")
    decay: Number = Field(default=1.0, ge=0, description="momentum of MI-FGSM")
    random_start: bool = Field(default=True, description="start at a random point of the ball")
    gradient: Literal["blocked", "straight_through"] = Field(
        default="blocked", description="what the attacker's gradient sees of the low-precision path"
    )
    c: Number = Field(default=1e-4, gt=0, description="cw: weight of the misclassification")
    confidence: Number = Field(default=0.0, ge=0, description="cw: margin of the misclassification")
    learning_rate: Number = Field(default=0.01, gt=0, description="cw: of Adam")
    overshoot: Number = Field(
        default=0.02, ge=0, description="deepfool: how far past the boundary, as a share"
    )
    queries: Whole = Field(default=5000, ge=1, description="square: forward passes per image")
    target: Whole = Field(
        default=0, ge=0, description="targeted attacks: rank of the other class, 1 the likeliest; 0: each"
    )
    eot_samples: Whole = Field(
        default=1, ge=1, description="random models: noise draws that a gradient or a query averages over"
    )
    survivors_of: tuple[AttackName, ...] = Field(
        default=(), description="attack only what these attacks have left standing"
    )
    in_worst_case: bool = Field(
        default=True, description="whether the worst case counts it (minimal-norm attacks never do)"
    )


class Attack(Section):
    """Stage `attack`: every attack of the protocol on one model."""

    images: Whole | None = Field(
        default=None, gt=0, description="class-balanced limit on the test images; null: all"
    )
    batch_size: Whole = Field(default=256, gt=0, description="images per attack batch")
    ensemble: Whole = Field(
        default=1, ge=1, description="random networks: passes whose mean probability is the prediction"
    )
    judge_draws: Whole = Field(
        default=20, ge=1, description="random networks: noise draws that an attack's result is judged on"
    )
    examples: Whole = Field(default=8, ge=0, description="adversarial images kept for the picture")
    attacks: dict[AttackName, AttackConfig] = Field(min_length=1, description="attacks by column name")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        self.specifications()
        return self

    def specifications(self) -> "list[AttackSpec]":
        """The attacks by name, so that the order in a file changes nothing; after those they name.

        Raises `InputError` for values that an attack cannot have.
        """
        from nenni_core.attacks import AttackSpec, attack_kind
        from nenni_core.attacks.spec import in_order

        ordered = in_order(AttackSpec(name=name, **dict(attack)) for name, attack in self.attacks.items())
        for spec in ordered:
            if spec.eot_samples > 1 and not attack_kind(spec).averages:
                raise InputError(
                    f"attacks.{spec.name}.eot_samples is {spec.eot_samples}; expected 1: "
                    f"{spec.kind!r} sees one draw"
                )
        return ordered

    @property
    def needs_surrogate(self) -> bool:
        """Whether an attack is made on the dense teacher and transferred."""
        from nenni_core.attacks import ATTACKS

        return any(ATTACKS[attack.kind].needs_surrogate for attack in self.attacks.values())


class AttackRun(Attack):
    """What the stage `attack` gets: the section, and the checkpoint if it reads the dense teacher."""

    checkpoint: Checkpoint | None = Field(default=None, description="of the dense teacher, if it is read")
    split: SplitName = Field(default="test", description="the images that are attacked")


def _core(name: str) -> str:
    from hwsim.hardware import core_names

    if name not in core_names():
        raise unknown_choice("core", name, core_names())
    return name


def _technology(name: str) -> str:
    from hwsim.technology import technologies

    if name not in technologies():
        raise unknown_choice("technology", name, technologies())
    return name


class Simulate(Section):
    """Stage `simulate`: the accelerator on the masks of real images, and on random ones."""

    images: Whole = Field(default=16, gt=0, description="test images whose masks are simulated")
    batch_size: Whole = Field(default=1, gt=0, description="images that the accelerator computes together")
    cores: tuple[Annotated[str, AfterValidator(_core)], ...] = Field(
        default=("unstructured", "structured"),
        description="designs that run it if they can; the first of those runs the dense network too",
    )
    technology: Annotated[str, AfterValidator(_technology)] = Field(
        default="nangate45", description="what operations cost"
    )
    dram_bytes_per_cycle: Whole | None = Field(
        default=None, gt=0, description="bandwidth of a memory outside; null: all data are on the chip"
    )

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if not self.cores:
            raise InputError("cores: expected at least one design")
        if self.images % self.batch_size:
            raise InputError(f"images {self.images} is no multiple of batch_size {self.batch_size}")
        return self


class SimulateRun(Simulate):
    """What the stage `simulate` gets: the section, and what its names stand for."""

    hardware: tuple[dict[str, Any], ...] = Field(description="the cores, value by value")
    technology_digest: str = Field(description="SHA-256 of the technology's figures")
    split: SplitName = Field(default="test", description="the images whose masks are simulated")


class Tracking(Section):
    """How the runs are recorded; changes no result and no key."""

    experiment: str = Field(default="demo", min_length=1, description="name of the MLflow experiment")
    uri: str | None = Field(
        default=None,
        min_length=1,
        description="where MLflow is, unless --tracking-uri or MLFLOW_TRACKING_URI say it; null: mlflow.db",
    )
    system_metrics: tuple[StageName, ...] = Field(
        default=(), description="stages during which CPU, memory and GPU use are sampled"
    )
