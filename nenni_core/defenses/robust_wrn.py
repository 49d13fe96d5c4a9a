"""RobustWRN: adversarial training of a network with less capacity in its last stage."""

from dataclasses import dataclass
from typing import ClassVar

from nenni_core.defenses.adversarial_training import AdversarialTraining
from nenni_core.errors import unknown_choice

REDUCED = {"wrn34_10": "wrn34_r", "small_resnet": "small_resnet_r"}
"""Networks, and the same with a narrower last stage."""


@dataclass(frozen=True, kw_only=True)
class RobustWideResNet(AdversarialTraining):
    """RobustWRN (Huang et al. 2021, "Exploring architectural ingredients of adversarially robust DNNs").

    In place of WRN-34-10 one whose stages are 10, 10 and 4 times as wide as the base. Departures: the
    network that the authors publish as WRN-34-R has this ratio at twice the width (20, 20, 8); the training
    is our adversarial training (theirs: 100 epochs, gradients clipped at norm 5); the same ratio is applied
    to the small residual network, which the paper does not have.
    """

    title: ClassVar[str] = "RobustWRN (Huang et al., 2021)"

    def architecture(self, name: str) -> str:
        """The reduced form of the network; `InputError` where there is none."""
        if name not in REDUCED:
            raise unknown_choice("model to reduce for RobustWRN", name, list(REDUCED))
        return REDUCED[name]
