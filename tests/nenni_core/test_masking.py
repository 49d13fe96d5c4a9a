"""The masking verdict: defences whose robustness is known to be zero are named, honest models are not."""

import json
from dataclasses import replace

import pytest
import torch
from attack_models import NoisyInput, byte_images, conv_net, linear_model
from torch import Tensor, nn

from nenni_core import Injection, distill, inject
from nenni_core.attacks import AttackSpec, adaptive_protocol, paper_protocol
from nenni_core.errors import InputError
from nenni_core.evaluation import Evaluation, evaluate
from nenni_core.evaluation.masking import MaskingVerdict, masking_probes, masking_verdict, verdict_of
from nenni_core.randomness import NoiseStream, make_generator

PAPER = tuple(spec for spec in paper_protocol() if spec.name in ("fgsm", "mifgsm", "pgd20"))
IMAGES = 40


class _NoGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):  # type: ignore[no-untyped-def]
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        return torch.zeros_like(gradient)


class GradientKiller(nn.Module):
    """A network whose gradient is zero and whose decisions are those of the network inside."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(_NoGradient.apply(x))


class FewPixels(nn.Module):
    """Decides by the mean of a tenth of the pixels, drawn anew each time.

    An attack on one draw moves the pixels of that draw, and the next draw looks at others.
    """

    def __init__(self) -> None:
        super().__init__()
        self.noise_stream = NoiseStream(0, "inference")

    def forward(self, x: Tensor) -> Tensor:
        def fresh(stream: NoiseStream) -> Tensor:
            return (torch.rand(x.shape[1:], generator=stream.generator) < 0.1).to(x.dtype)

        mask = self.noise_stream.draw(self, fresh)
        score = 10 * ((x - 0.5) * mask).flatten(1).sum(1)
        return torch.stack([score, -score], dim=1)


def judge(
    model: nn.Module, images: Tensor, labels: Tensor, surrogate: nn.Module | None = None, **adaptive: int
) -> tuple[Evaluation, MaskingVerdict]:
    """Both protocols, the paper's without its slow attacks."""
    surrogate = linear_model(seed=5) if surrogate is None else surrogate
    known = adaptive_protocol(**({"steps": 30, "queries": 2000, "eot_samples": 1} | adaptive), num_classes=2)
    attacks = [*PAPER, *masking_probes(), *known]
    result = evaluate(model, images, labels, attacks, num_classes=2, surrogate=surrogate, keep_examples=0)
    verdict = masking_verdict(result, paper=[s.name for s in PAPER], adaptive=[s.name for s in known])
    return result, verdict


def fragile(images: Tensor) -> tuple[nn.Module, Tensor]:
    """A linear network that 3/255 are enough to fool on every one of `images`, and its decisions."""
    net = linear_model(scale=1.0)
    with torch.no_grad():
        weight, x = net[1].weight, images.float().div(255).flatten(1)
        difference = weight[0] - weight[1]
        net[1].bias.zero_()
        labels = (x @ difference < 0).long()
        # shift every image towards the border, to a margin of what 2/255 of all pixels can change
        margin = (x @ difference)[:, None]
        reach = difference.abs().sum()
        shifted = x - (margin - margin.sign() * reach * 2 / 255) * difference / difference.square().sum()
        images.copy_((shifted.clamp(0, 1) * 255).round().to(torch.uint8).view_as(images))
        labels = net(images.float().div(255)).argmax(1)
    return net, labels


def test_a_gradient_killer_is_broken_and_named() -> None:
    images = byte_images(IMAGES, size=4) // 3 + 85
    net, labels = fragile(images)
    result, verdict = judge(GradientKiller(net), images, labels)
    assert min(result.accuracy(spec.name).value for spec in PAPER) > 0.5  # "robust"
    assert result.accuracy("square").value < 0.05
    expected = {"protocols_disagree", "black_box_beats_white_box", "more_steps_do_not_help", "zero_gradients"}
    assert expected <= set(verdict.raised)


def test_random_noise_is_averaged_away_and_named() -> None:
    """Every pixel is 5/255 on the side of its class: 8/255 turn all of them."""
    labels = torch.arange(IMAGES) % 2
    images = torch.where(labels == 0, 133, 122)[:, None, None, None].expand(-1, 3, 8, 8).to(torch.uint8)
    result, verdict = judge(FewPixels(), images.contiguous(), labels, FewPixels(), eot_samples=20, queries=50)
    assert result.accuracy("pgd20").value > 0.9  # "robust"
    assert result.accuracy("apgd_ce").value < 0.05
    assert result.accuracy("worst_case").value < 0.05
    assert "protocols_disagree" in verdict.raised


def test_a_killer_is_named_by_both_protocols_as_they_are() -> None:
    """Also by the test of black boxes, although both AutoAttacks ask without gradients themselves."""
    generator = make_generator(3, "images")
    images = torch.randint(80, 170, (16, 3, 4, 4), dtype=torch.uint8, generator=generator)
    net = linear_model(classes=10, scale=2.0)
    with torch.no_grad():
        labels = net(images.float() / 255).argmax(1)
    paper = [replace(spec, steps=5) for spec in paper_protocol()]
    known = adaptive_protocol(steps=5, queries=1000)
    attacks = [*paper, *masking_probes(), *known]
    found = evaluate(
        GradientKiller(net), images, labels, attacks, num_classes=10, surrogate=net, keep_examples=0
    )
    verdict = verdict_of(found)
    assert verdict is not None
    assert {"black_box_beats_white_box", "zero_gradients", "more_steps_do_not_help"} <= set(verdict.raised)
    boxes = {flag.name: flag.numbers for flag in verdict.flags}["black_box_beats_white_box"]
    assert boxes["white_box"] > boxes["black_box"] + 0.1
    assert boxes["white_box"] == found.accuracy("apgd_dlr_targeted").value  # not of what includes Square


class PlainNoise(FewPixels):
    """The same, as a user would write it: without a noise stream, from the global generator."""

    def __init__(self) -> None:
        nn.Module.__init__(self)

    def forward(self, x: Tensor) -> Tensor:
        mask = (torch.rand(x.shape[1:]) < 0.1).to(x.dtype)
        score = 10 * ((x - 0.5) * mask).flatten(1).sum(1)
        return torch.stack([score, -score], dim=1)


def test_noise_of_a_users_own_is_averaged_away_and_named() -> None:
    labels = torch.arange(IMAGES) % 2
    images = torch.where(labels == 0, 133, 122)[:, None, None, None].expand(-1, 3, 8, 8).to(torch.uint8)
    result, verdict = judge(
        PlainNoise(), images.contiguous(), labels, FewPixels(), eot_samples=20, queries=50
    )
    assert result.accuracy("pgd20").value > 0.9  # "robust"
    assert result.accuracy("worst_case").value < 0.05
    assert "protocols_disagree" in verdict.raised


def test_what_asks_something_else_counts_neither_in_the_worst_case_nor_in_the_protocols() -> None:
    """Everything withstands 8/255 here, nothing 200/255 or an attack without a radius."""
    net, images = linear_model(scale=1.0), byte_images(60, size=4)
    labels = net(images.float() / 255).argmax(1).detach()
    margin = net(images.float() / 255).detach().diff(dim=1).abs().squeeze(1)
    reach = (net[1].weight[0] - net[1].weight[1]).abs().sum().detach() * 8 / 255
    images, labels = images[margin > reach], labels[margin > reach]
    others = [
        AttackSpec(name="deepfool", kind="deepfool", steps=50),
        AttackSpec(name="far", kind="pgd", eps=200 / 255, step_size=50 / 255, in_worst_case=False),
    ]
    known = adaptive_protocol(steps=5, queries=20, num_classes=2)
    attacks = [*PAPER, *masking_probes(), *others, *known]
    result = evaluate(net, images, labels, attacks, num_classes=2, surrogate=net, keep_examples=0)
    assert result.accuracy("deepfool").value < 0.5  # it does not find all images that are clipped
    assert result.accuracy("far").value == 0.0
    assert result.accuracy("worst_case").value == 1.0
    paper = [spec.name for spec in (*PAPER, *others)]
    verdict = masking_verdict(result, paper=paper, adaptive=[spec.name for spec in known])
    assert verdict.metrics()["masking/protocols_disagree/paper"] == 1.0
    assert verdict.metrics()["masking/black_box_beats_white_box/white_box"] == 1.0


def test_transfer_that_beats_following_the_gradient_is_named() -> None:
    """Even where the adaptive attacks find as much: a network of nothing but low-precision paths."""
    images = byte_images(IMAGES, size=4) // 3 + 85
    linear, labels = fragile(images)
    dense = nn.Sequential(nn.Conv2d(3, 2, 4), nn.Flatten())
    with torch.no_grad():
        dense[0].weight.copy_(linear[1].weight.view(2, 3, 4, 4))
        dense[0].bias.copy_(linear[1].bias)
    noisy = inject(dense, Injection(ratio=1.0, projection_ratio=1.0, bits=16))
    distill(noisy, [byte_images(2000, size=4, seed=7).float() / 255])
    result, verdict = judge(noisy, images, labels, surrogate=dense)
    assert result.accuracy("transfer").value < 0.05
    assert result.accuracy("apgd_ce").value < 0.05
    boxes = {flag.name: flag for flag in verdict.flags}["black_box_beats_white_box"]
    assert boxes.raised
    assert boxes.numbers["paper_gradients"] > 0.5
    assert boxes.numbers["white_box"] <= boxes.numbers["black_box"]


def test_an_honest_network_is_not_accused() -> None:
    """A linear network: its gradient is what it is, and margins of all sizes."""
    net, images = linear_model(scale=2.0), byte_images(IMAGES * 3, size=4) // 2 + 64
    labels = net(images.float() / 255).argmax(1).detach()
    result, verdict = judge(net, images, labels)
    assert 0.05 < result.accuracy("pgd20").value < 0.95
    assert verdict.raised == ()


def test_it_is_written_for_people_and_for_programs() -> None:
    images = byte_images(IMAGES, size=4) // 3 + 85
    net, labels = fragile(images)
    _, verdict = judge(GradientKiller(net), images, labels, queries=200)
    summary = json.loads(json.dumps(verdict.summary()))
    assert summary["raised"] == list(verdict.raised)
    assert summary["tests"]["zero_gradients"]["share"] == 1.0
    text = str(verdict)
    assert text.startswith("5 of 6 tests give reason to think that gradients are masked.")
    assert "[x] Are input gradients exactly zero? share 100.0%" in text
    assert len(text.splitlines()) == 7


def test_attacks_that_were_not_run_are_named() -> None:
    images = byte_images(4, size=4)
    fgsm = AttackSpec(name="fgsm", kind="fgsm")
    result = evaluate(linear_model(), images, torch.zeros(4, dtype=torch.int64), [fgsm], num_classes=2)
    with pytest.raises(
        InputError, match=r"needs the attacks pgd20, pgd20_unbounded_probe, pgd2_probe, square"
    ):
        masking_verdict(result, paper=["fgsm"], adaptive=[])


def test_worst_images_of_a_random_model_are_judged_on_further_draws() -> None:
    """An attack that does nothing must not lower the worst case of a noisy network by being repeated."""
    net = NoisyInput(conv_net().eval(), sigma=0.2)
    images = byte_images(60)
    labels = net.net(images.float() / 255).argmax(1)
    idle = AttackSpec(name="idle0", kind="apgd_ce", eps=0.0, steps=1, eot_samples=10)
    attacks = [replace(idle, name=f"idle{i}") for i in range(5)]
    result = evaluate(net, images, labels, attacks, num_classes=4, keep_examples=0)
    single = result.accuracy("idle0").value
    unlucky = torch.stack([outcome.correct for outcome in result.attacks.values()]).all(0)
    assert unlucky.float().mean() < single - 0.05  # what adding up unlucky draws would say
    assert result.summary()["worst_case"]["correct"] is None  # a mean over draws is no count
    records = result.records()
    assert records["worst_case_probability"].mean() == pytest.approx(result.accuracy("worst_case").value)
    assert result.accuracy("worst_case").value > single - 0.05
