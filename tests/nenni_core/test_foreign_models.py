"""Models that were written without this project in mind: their own noise, their own idea of memory."""

from pathlib import Path

import pytest
import torch
from attack_models import CLASSES, byte_images, conv_net, mostly_right_labels
from torch import Tensor, nn

from nenni_core.attacks import AttackSpec
from nenni_core.errors import InputError
from nenni_core.evaluation import Evaluation, evaluate


def run(model: nn.Module, attacks: list[AttackSpec], count: int = 23) -> Evaluation:
    images = byte_images(count)
    with torch.random.fork_rng():
        labels = mostly_right_labels(conv_net(), images)
    return evaluate(model, images, labels, attacks, num_classes=CLASSES, keep_examples=0)


def test_noise_from_the_global_generators_is_noticed() -> None:
    """As most randomised defences draw it: one draw while attacking, others at inference, repeatable."""
    seen: list[tuple[bool, Tensor]] = []

    class Foreign(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = conv_net()

        def forward(self, x: Tensor) -> Tensor:
            noise = 0.3 * torch.randn(x.shape[1:])
            seen.append((x.requires_grad, noise))
            return self.net(x + noise)

    attacks = [
        AttackSpec(name="pgd3", kind="pgd", steps=3),
        AttackSpec(name="apgd_ce", kind="apgd_ce", steps=3, eot_samples=4),
    ]
    model = Foreign()
    state = torch.get_rng_state()
    first = run(model, attacks[:1], count=10)
    held = [noise for attacking, noise in seen if attacking]
    judged = [noise for attacking, noise in seen if not attacking][4:]
    assert len(held) == 3
    assert all(torch.equal(noise, held[0]) for noise in held)
    assert not any(torch.equal(noise, held[0]) for noise in judged)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    again = run(model, attacks[:1], count=10)
    assert all((first.records()[name] == column).all() for name, column in again.records().items())
    seen.clear()
    averaged = run(model, attacks, count=10)
    assert averaged.judged_again is not None
    fresh = [noise for attacking, noise in seen if attacking][3:]
    assert len(fresh) == 4 * 4
    assert not torch.equal(fresh[0], fresh[1])


def test_a_network_that_cannot_read_channels_last_images_is_shown_others() -> None:
    class Viewing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3 * 6 * 6, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x.view(len(x), -1))

    result = run(Viewing(), [AttackSpec(name="pgd3", kind="pgd", steps=3)])
    assert 0 <= result.accuracy("pgd3").value <= result.accuracy("clean").value


def test_noise_that_no_seed_repeats_is_refused() -> None:
    class Unrepeatable(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = conv_net()
            self.generator = torch.Generator()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x + 0.3 * torch.randn(x.shape, generator=self.generator))

    with pytest.raises(InputError, match="whatever the seed: expected noise from PyTorch's global"):
        run(Unrepeatable(), [AttackSpec(name="fgsm", kind="fgsm")])


@pytest.mark.parametrize("which", ["model", "surrogate"])
def test_other_code_of_the_same_weights_does_not_continue(tmp_path: Path, which: str) -> None:
    """What its modules print of themselves does not show it; its logits do."""

    class Levels(nn.Module):
        def __init__(self, levels: int) -> None:
            super().__init__()
            self.net = conv_net()
            self.levels = levels

        def forward(self, x: Tensor) -> Tensor:
            return self.net((x * self.levels).round() / self.levels)

    images = byte_images(12)
    labels = mostly_right_labels(conv_net(), images)
    attacks = [AttackSpec(name="transfer", kind="transfer", steps=3, eps=0.1)]

    def judged(levels: int, folder: Path | None) -> Evaluation:
        networks = {"model": Levels(50), "surrogate": Levels(50)} | {which: Levels(levels)}
        return evaluate(
            networks["model"],
            images,
            labels,
            attacks,
            num_classes=CLASSES,
            surrogate=networks["surrogate"],
            resume_dir=folder,
        )

    judged(50, tmp_path)
    continued, anew = judged(3, tmp_path), judged(3, None)
    for name, column in anew.records().items():
        assert (continued.records()[name] == column).all()
    assert continued.attacks["transfer"].forwards == anew.attacks["transfer"].forwards


def test_a_model_that_goes_on_learning_is_refused() -> None:
    class Restless(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = conv_net()

        def forward(self, x: Tensor) -> Tensor:
            self.net[3].train()
            logits = self.net(x)
            self.net[3].eval()
            return logits

    with pytest.raises(InputError, match=r"changes its buffer 'net\.3\.running_mean' in evaluation mode"):
        run(Restless(), [AttackSpec(name="fgsm", kind="fgsm")])
