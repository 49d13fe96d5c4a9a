"""What holds between attacks of one evaluation, whatever the network."""

from dataclasses import replace
from itertools import pairwise

import torch
from attack_models import CLASSES, NoisyInput, byte_images, conv_net, mostly_right_labels
from attack_table import every_linf
from hypothesis import given, settings
from hypothesis import strategies as st

from nenni_core.attacks import AttackSpec
from nenni_core.evaluation import evaluate


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    radii=st.lists(st.floats(0, 0.1), min_size=2, max_size=4, unique=True),
    kind=st.sampled_from(["pgd", "mifgsm", "apgd_ce", "apgd_dlr_targeted", "square"]),
)
def test_accuracy_never_rises_with_the_radius_of_nested_restarts(
    seed: int, radii: list[float], kind: str
) -> None:
    """A larger ball has all that a smaller one has: what fell there has fallen."""
    images = byte_images(24, seed=seed)
    labels = mostly_right_labels(conv_net(seed), images)
    names = [f"radius{place}" for place in range(len(radii))]
    attacks = [
        AttackSpec(name=name, kind=kind, eps=eps, steps=3, queries=10, survivors_of=tuple(names[:place]))
        for place, (name, eps) in enumerate(zip(names, sorted(radii), strict=True))
    ]
    found = evaluate(conv_net(seed), images, labels, attacks, num_classes=CLASSES, keep_examples=0)
    standing = [found.correct(name) for name in ("clean", *names)]
    for before, after in pairwise(standing):
        assert (after <= before).all()
    assert torch.equal(found.correct("worst_case"), standing[-1])
    for before, name in zip(standing, names, strict=False):
        assert found.attacks[name].attacked == int(before.sum())  # and is not attacked again


@every_linf
def test_an_attack_never_raises_accuracy(spec: AttackSpec) -> None:
    """What is wrong without it is not attacked, and counts as wrong; without a radius nothing falls."""
    images = byte_images(24)
    net = conv_net()
    labels = mostly_right_labels(net, images)
    attacks = [replace(spec, name="some", eps=0.05), replace(spec, name="none", eps=0.0)]
    found = evaluate(net, images, labels, attacks, num_classes=CLASSES, surrogate=net, keep_examples=0)
    assert (found.correct("some") <= found.clean_correct).all()
    assert torch.equal(found.correct("none"), found.clean_correct)
    assert found.attacks["some"].attacked == int(found.clean_correct.sum()) < len(images)


def test_fooled_images_of_several_batches_fill_the_next() -> None:
    """The parts of AutoAttack see full batches, but for the last one of each part."""
    images = byte_images(60)
    net = conv_net().eval()
    labels = net(images.float() / 255).argmax(1)
    sizes: list[int] = []
    net.register_forward_hook(lambda _module, arguments, _output: sizes.append(len(arguments[0])))
    spec = AttackSpec(name="autoattack", kind="autoattack_torchattacks", eps=0.02)
    found = evaluate(net, images, labels, [spec], num_classes=CLASSES, batch_size=16, keep_examples=0)
    standing = int(found.correct("autoattack").sum())
    assert 16 < standing < 45
    # Square's queries are most of all passes: as many full batches as there can be
    full, rest = divmod(standing, 16)
    queries = sizes[-5000 * (full + (rest > 0)) :]
    assert sum(size == 16 for size in queries) >= 0.9 * 5000 * full


def test_a_random_model_is_attacked_on_all_images() -> None:
    """No single draw decides which images are done."""
    net = NoisyInput(conv_net().eval(), sigma=0.1)
    images = byte_images(20)
    labels = net.net(images.float() / 255).argmax(1)
    first = AttackSpec(name="first", kind="apgd_ce", eps=0.1, steps=3, eot_samples=2)
    second = replace(first, name="second", survivors_of=("first",))
    found = evaluate(net, images, labels, [first, second], num_classes=CLASSES, keep_examples=0)
    assert found.attacks["second"].attacked == found.attacks["first"].attacked
