"""Random models are judged on enough draws that the worst of several images is not the worst by chance."""

import pytest
import torch
from attack_models import CLASSES, NoisyInput, byte_images, conv_net, mostly_right_labels

from nenni_core.attacks import AttackSpec
from nenni_core.errors import InputError
from nenni_core.evaluation import Evaluation, evaluate

STRONG = AttackSpec(name="strong", kind="pgd", steps=10, eps=24 / 255, step_size=6 / 255)
WEAK = [AttackSpec(name=f"weak{i}", kind="pgd", steps=1, eps=8 / 255, step_size=4 / 255) for i in range(8)]


def judged(model: NoisyInput, attacks: list[AttackSpec], count: int = 100, **changes) -> Evaluation:
    images = byte_images(count)
    labels = mostly_right_labels(conv_net(), images)
    return evaluate(model, images, labels, attacks, num_classes=CLASSES, keep_examples=0, **changes)


def test_more_weak_attacks_do_not_lift_the_worst_case():
    """An attacker can always choose the strong one, so the worst case is not above what that leaves."""
    result = judged(NoisyInput(conv_net(), sigma=0.2), [STRONG, *WEAK], batch_size=5)
    assert result.judged_again is not None
    left = result.attacks["strong"].probability.mean()
    assert left < result.attacks["weak0"].probability.mean() - 0.1
    assert result.judged_again.mean() < left + 0.02


@pytest.mark.parametrize("draws", [1, 2, 7])
def test_every_result_is_judged_on_as_many_draws(draws):
    """The probability of an image is a multiple of 1 / draws, and all of them occur on some image."""
    result = judged(NoisyInput(conv_net(), sigma=0.3), WEAK[:1], batch_size=5, judge_draws=draws)
    found = (result.attacks["weak0"].probability * draws).round(decimals=4)
    assert set(found.tolist()) == set(range(draws + 1))
    assert (result.judged_again is None) == (draws == 1)


def test_a_model_without_noise_is_judged_once():
    net = conv_net()
    images = byte_images(12)
    labels = mostly_right_labels(net, images)
    results = [
        evaluate(net, images, labels, [STRONG], num_classes=CLASSES, judge_draws=draws) for draws in (1, 9)
    ]
    assert torch.equal(results[0].attacks["strong"].predicted, results[1].attacks["strong"].predicted)
    assert results[1].judged_again is None


def test_no_draw_is_refused():
    with pytest.raises(InputError, match="judge_draws is 0, expected at least 1"):
        judged(NoisyInput(conv_net()), [STRONG], count=4, judge_draws=0)
