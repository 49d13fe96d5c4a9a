"""One small evaluation of a random model, for this process and for a child that is killed."""

from attack_models import CLASSES, NoisyInput, byte_images, conv_net, mostly_right_labels

from nenni_core.attacks import AttackSpec
from nenni_core.evaluation import Evaluation, evaluate

ATTACKS = (
    AttackSpec(name="fgsm", kind="fgsm"),
    AttackSpec(name="pgd3", kind="pgd", steps=3),
    AttackSpec(name="mifgsm", kind="mifgsm", steps=2),
)
COUNT = 25


def judge(**changes) -> Evaluation:
    """25 images in batches of 10, every fifth label wrong, under three attacks."""
    net, images = conv_net(), byte_images(COUNT)
    labels = mostly_right_labels(net, images)
    arguments = {"num_classes": CLASSES, "batch_size": 10, "seed": 3, "keep_examples": 5}
    return evaluate(NoisyInput(net, sigma=0.05), images, labels, ATTACKS, **(arguments | changes))
