"""Accuracies are means of masks that can be recomputed by hand, also after a kill."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from attack_models import (
    CLASSES,
    NoisyInput,
    byte_images,
    conv_net,
    linear_model,
    mostly_right_labels,
    random_labels,
)
from evaluation_problem import ATTACKS as THREE
from evaluation_problem import judge
from scipy.stats import binomtest, quantile_test
from torch import nn

from nenni_core.attacks import ATTACKS, AttackKind, AttackSpec, run_attack
from nenni_core.errors import InputError
from nenni_core.evaluation import Evaluation, bench, evaluate
from nenni_core.evaluation.bench import Bench
from nenni_core.inject import inject, set_injection
from nenni_core.injection import Injection
from nenni_core.randomness import derive_seed, noise_streams

HERE = Path(__file__).parent
FGSM = AttackSpec(name="fgsm", kind="fgsm")
PGD = AttackSpec(name="pgd20", kind="pgd", steps=20)


@pytest.fixture
def net() -> nn.Module:
    return conv_net()


def run(net, attacks=(FGSM,), count=23, **changes) -> Evaluation:
    images = byte_images(count)
    with torch.random.fork_rng():
        labels = mostly_right_labels(conv_net(), images)
    arguments = {"num_classes": CLASSES, "batch_size": 10} | changes
    return evaluate(net, images, labels, attacks, **arguments)


def same(a: Evaluation, b: Evaluation) -> bool:
    """All masks, predictions, pictures and pass counts equal; seconds aside."""
    columns = all(np.array_equal(a.records()[name], b.records()[name]) for name in a.records())
    pictures = all(torch.equal(a.examples.adversarial[n], b.examples.adversarial[n]) for n in a.attacks)
    counts = [
        [(o.attacked, o.forwards, o.backwards, o.zero_gradients) for o in e.attacks.values()] for e in (a, b)
    ]
    return a.records().keys() == b.records().keys() and columns and pictures and counts[0] == counts[1]


class TestMasks:
    """What is counted as correct."""

    def test_recomputed_by_hand(self, net):
        """Batch by batch, with the seeds that the docstring promises and nothing shared with the code."""
        images = byte_images(23)
        labels = mostly_right_labels(net, images)
        result = run(net, (FGSM, PGD), seed=4)
        net.eval()
        for spec in (FGSM, PGD):
            for batch, index in enumerate(torch.tensor([i for i in range(23) if i % 5 != 0]).split(10)):
                x = (images[index].float() / 255).contiguous(memory_format=torch.channels_last)
                y = labels[index]
                seed = derive_seed(4, spec.name, str(batch))
                x_adv = run_attack(spec, net, x, y, seed=seed, num_classes=CLASSES)
                predicted = net(x_adv).argmax(1)
                assert torch.equal(result.attacks[spec.name].predicted[index], predicted)
                assert torch.equal(result.attacks[spec.name].correct[index], predicted == y)

    def test_wrong_images_are_not_attacked_and_stay_wrong(self, net, monkeypatch):
        """An attack that mends predictions would otherwise raise the accuracy."""
        seen = []

        def mend(model, spec, setting):
            def perturb(x, y):
                seen.append(len(x))
                return torch.zeros_like(x)

            return perturb

        monkeypatch.setitem(ATTACKS, "mend", AttackKind(build=mend, reads=(), norm=None))
        result = run(net, [AttackSpec(name="mend", kind="mend")])
        wrong = torch.arange(23) % 5 == 0
        assert torch.equal(result.clean_correct, ~wrong)
        assert sum(seen) == result.attacks["mend"].attacked == 18
        assert not result.attacks["mend"].correct[wrong].any()
        assert torch.equal(result.attacks["mend"].predicted[wrong], result.clean_predicted[wrong])

    def test_attacks_only_lower_and_the_worst_case_is_the_lowest(self, net):
        result = run(net, (FGSM, PGD))
        for outcome in result.attacks.values():
            assert (outcome.correct <= result.clean_correct).all()
            assert (result.worst_case_correct <= outcome.correct).all()
        by_hand = result.clean_correct & result.attacks["fgsm"].correct & result.attacks["pgd20"].correct
        assert torch.equal(result.worst_case_correct, by_hand)
        assert 0 < result.accuracy("worst_case").value < result.accuracy("clean").value

    def test_nothing_correct_means_nothing_to_attack(self, net):
        images = byte_images(6)
        with torch.no_grad():
            labels = (net.eval()(images.float() / 255).argmax(1) + 1) % CLASSES
        result = evaluate(net, images, labels, [FGSM], num_classes=CLASSES)
        assert result.accuracy("fgsm")[:2] == (0.0, 0.0)
        assert result.attacks["fgsm"].forwards == result.attacks["fgsm"].attacked == 0
        assert len(result.examples.index) == 0

    def test_accuracy_does_not_rise_with_eps_on_a_linear_model(self):
        images, labels = byte_images(60, size=4), random_labels(60, 2)
        attacks = [AttackSpec(name=f"eps{e}", kind="fgsm", eps=e / 255) for e in (0, 2, 4, 8, 16, 64)]
        result = evaluate(linear_model(), images, labels, attacks, num_classes=2)
        values = [result.accuracy(spec.name).value for spec in attacks]
        assert values == sorted(values, reverse=True)
        assert values[0] == result.accuracy("clean").value > values[-1]


class TestNumbers:
    """What the masks are turned into."""

    def test_accuracy_is_the_mean_with_wilsons_interval(self, net):
        result = run(net, (FGSM, PGD))
        for name in ("clean", "fgsm", "pgd20", "worst_case"):
            value, low, high = result.accuracy(name)
            successes = int(result.correct(name).sum())
            expected = binomtest(successes, 23).proportion_ci(method="wilson")
            assert value == successes / 23
            assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-9)
        with pytest.raises(InputError, match="unknown attack 'fgms'; did you mean 'fgsm'"):
            result.accuracy("fgms")

    def test_summary_is_json_and_carries_its_origin(self, net):
        result = run(net, (FGSM, PGD))
        summary = json.loads(json.dumps(result.summary()))
        attack = summary["attacks"]["pgd20"]
        assert attack["spec"] == {
            "name": "pgd20", "kind": "pgd", "eps": 8 / 255, "step_size": 2 / 255, "steps": 20,
            "random_start": True, "gradient": "blocked",
        }  # fmt: skip
        assert attack["images"] == summary["clean"]["images"] == 23
        assert attack["correct"] == int(result.attacks["pgd20"].correct.sum())
        assert attack["value"] == result.accuracy("pgd20").value
        assert summary["clean"]["correct"] == 18
        assert attack["seconds"] > 0

    def test_the_median_distance_is_that_of_the_images_that_were_right(self, net):
        """An image on which the attack fails lies infinitely far, wherever the attack has left it."""
        deepfool, one_step = (
            AttackSpec(name=f"deepfool_{steps}", kind="deepfool", steps=steps, overshoot=0.0)
            for steps in (50, 1)
        )
        result = run(net, (deepfool, one_step, FGSM))
        records, summary = result.records(), json.loads(json.dumps(result.summary()))
        for name in ("deepfool_50", "deepfool_1"):
            right = records["clean_correct"]
            needed = np.where(records[f"{name}_correct"], np.inf, records[f"{name}_distance"])[right]
            median = result.attacks[name].median_distance
            assert median is not None
            assert median.value == pytest.approx(np.median(needed))
            ends = quantile_test(needed, p=0.5).confidence_interval(0.95)
            assert (median.low, median.high) == pytest.approx((ends.low, ends.high))
            finite = {end: v if np.isfinite(v) else None for end, v in median._asdict().items()}
            assert summary["attacks"][name]["median_distance"] == finite
        assert result.attacks["fgsm"].median_distance is None
        assert "median_distance" not in summary["attacks"]["fgsm"]

    def test_records_are_columns_of_one_table(self, net):
        records = run(net, (FGSM, PGD)).records()
        per_attack = ("correct", "predicted", "probability", "distance")
        assert list(records) == [
            "index", "label", "clean_correct", "clean_predicted",
            *(f"{name}_{column}" for name in ("fgsm", "pgd20") for column in per_attack),
            "worst_case_correct",
            "worst_case_probability",
        ]  # fmt: skip
        assert all(column.shape == (23,) for column in records.values())
        assert records["clean_correct"].tolist() == (records["clean_predicted"] == records["label"]).tolist()
        for name in ("fgsm", "pgd20"):
            expected = records["clean_correct"] & (records[f"{name}_predicted"] == records["label"])
            assert records[f"{name}_correct"].tolist() == expected.tolist()

    def test_passes_are_counted_exactly(self, net):
        """The attack's own, as the field counts them; judging adds one forward per attacked image."""
        seen = []
        net.register_forward_hook(lambda _module, arguments, _output: seen.append(len(arguments[0])))
        mifgsm = AttackSpec(name="mifgsm", kind="mifgsm", steps=5)
        result = run(net, (FGSM, PGD, mifgsm))
        passes = {name: (o.forwards, o.backwards, o.attacked) for name, o in result.attacks.items()}
        assert passes == {"fgsm": (18, 18, 18), "pgd20": (360, 360, 18), "mifgsm": (90, 90, 18)}
        probes = seen[:4]  # can it read channels-last images, does it draw noise that can be repeated
        assert probes == [2, 2, 2, 2]
        assert sum(seen[4:]) == 23 + (18 + 18) + (360 + 18) + (90 + 18)

    def test_progress_ends_at_all_images(self, net):
        calls = []
        run(net, (FGSM, PGD), on_progress=lambda *call: calls.append(call))
        attacked = [(name, done, 18) for name in ("fgsm", "pgd20") for done in (10, 18)]
        assert calls == [("clean", done, 23) for done in (10, 20, 23)] + attacked


class TestExamples:
    """The pictures that are kept."""

    def test_are_what_was_judged(self, net):
        result = run(net, (FGSM, PGD), keep_examples=6)
        examples = result.examples
        assert len(examples.index) == 6
        assert result.clean_correct[examples.index].all()
        assert torch.equal(examples.clean, byte_images(23)[examples.index].float() / 255)
        net.eval()
        for name in result.attacks:
            x_adv = examples.adversarial[name]
            assert 0 < float((x_adv - examples.clean).abs().max()) <= 8 / 255 + 1e-6
            assert torch.equal(net(x_adv).argmax(1), examples.predicted[name])
            assert torch.equal(result.attacks[name].predicted[examples.index], examples.predicted[name])

    def test_show_each_class_before_repeating_one(self, net):
        result = run(net, count=60, keep_examples=CLASSES)
        present = set(result.labels[result.clean_correct].tolist())
        assert len(present) > 1
        assert set(result.examples.label.tolist()) == present

    def test_none(self, net):
        assert run(net, keep_examples=0).examples.clean.shape == (0, 3, 6, 6)


class TestModel:
    """What happens to the model, and what it may do."""

    def test_is_left_as_it_was(self, net):
        net.train()
        net[3].eval()
        before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        state = torch.get_rng_state()
        run(net, (FGSM, PGD))
        assert [module.training for module in net.modules()] == [m is not net[3] for m in net.modules()]
        assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
        assert all(p.requires_grad and p.grad is None for p in net.parameters())
        assert torch.equal(torch.get_rng_state(), state)

    def test_two_calls_give_the_same_bits(self):
        assert same(judge(), judge())
        assert not same(judge(), judge(seed=4))

    def test_random_model_is_judged_on_a_draw_that_the_attack_has_not_seen(self):
        noisy = NoisyInput(conv_net(), sigma=0.05)
        stream = noisy.noise_stream
        state = stream.generator.get_state()
        run(noisy, [AttackSpec(name="pgd3", kind="pgd", steps=3)], count=10, judge_draws=1)
        _probe, clean, *attack, judged = noisy.draws
        assert len(attack) == 3
        assert all(torch.equal(draw, attack[0]) for draw in attack)
        assert not torch.equal(judged, attack[0])
        assert not torch.equal(judged, clean)
        assert noise_streams(noisy) == [stream]
        assert torch.equal(stream.generator.get_state(), state)

    @pytest.mark.parametrize("value", [torch.nan, torch.inf])
    def test_logits_that_are_not_finite_are_refused(self, net, value):
        class Broken(nn.Module):
            def forward(self, x):
                logits = net(x)
                rows = (x[:, :1, :1, :1] < 0.5).flatten(1)
                return torch.where(rows, value, logits)

        images = byte_images(10)
        count = int((images[:, 0, 0, 0] < 128).sum())
        assert 0 < count < 10
        with pytest.raises(InputError, match=f"clean: the logits of {count} of 10 samples are NaN or inf"):
            evaluate(Broken(), images, random_labels(10), [FGSM], num_classes=CLASSES)

    def test_switching_to_training_mode_is_refused(self, net):
        class Sleepwalker(nn.Module):
            def __init__(self):
                super().__init__()
                self.net = net

            def forward(self, x):
                return self.net.train()(x)

        with pytest.raises(InputError, match="the model switches itself to training mode"):
            run(Sleepwalker())

    def test_without_parameters(self):
        class Corner(nn.Module):
            def forward(self, x):
                return 5 * x[:, :, 0, :2].flatten(1)[:, :CLASSES]

        images = byte_images(12)
        labels = Corner()(images.float()).argmax(1)
        result = evaluate(Corner(), images, labels, [FGSM], num_classes=CLASSES)
        assert result.accuracy("clean").value == 1
        assert result.attacks["fgsm"].backwards == 12

    def test_injected_model_under_both_gradients(self):
        """Attacker sees more of the model through straight-through gradients, never less than nothing."""
        noisy = inject(conv_net(), Injection(ratio=1.0))
        images = byte_images(20)
        with torch.no_grad():
            labels = noisy.eval()(images.float() / 255).argmax(1)
        attacks = [
            AttackSpec(name="pgd5", kind="pgd", steps=5),
            AttackSpec(name="pgd5_straight_through", kind="pgd", steps=5, gradient="straight_through"),
        ]
        result = evaluate(noisy, images, labels, attacks, num_classes=CLASSES)
        blocked, through = result.attacks.values()
        assert blocked.zero_gradients == blocked.backwards == 100
        assert through.zero_gradients == 0
        assert through.correct.sum() < blocked.correct.sum()


class TestArguments:
    """What is refused before any work is done."""

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"attacks": [FGSM, AttackSpec(name="fgsm", kind="pgd")]}, "two attacks are named 'fgsm'"),
            ({"attacks": [AttackSpec(name="clean", kind="fgsm")]}, "cannot be named 'clean'"),
            ({"attacks": [AttackSpec(name="worst_case", kind="fgsm")]}, "cannot be named 'worst_case'"),
            ({"attacks": [AttackSpec(name="a", kind="pdg")]}, "unknown attack 'pdg'; did you mean 'pgd'"),
            ({"batch_size": 0}, "batch_size is 0"),
            ({"keep_examples": -1}, "keep_examples is -1"),
            ({"num_classes": 2}, r"labels lie in \[0, 3\], expected \[0, 1\]"),
            ({"images": byte_images(0), "labels": random_labels(0)}, "0 images and 0 labels"),
            (
                {"images": byte_images(8)[:, :, :, :] / 255},
                r"images are torch\.float32, expected torch\.uint8",
            ),
        ],
    )
    def test_refused(self, net, changes, message):
        arguments = {
            "images": byte_images(8),
            "labels": torch.arange(8) % CLASSES,
            "attacks": [FGSM],
            "num_classes": CLASSES,
        }
        with pytest.raises(InputError, match=message):
            evaluate(net, **(arguments | changes))


class TestResume:
    """What is stored is used again, and only for the evaluation that it belongs to."""

    @pytest.mark.parametrize(("victim", "finished"), [("fgsm", 1), ("pgd3", 3), ("mifgsm", 5)])
    def test_killed_and_started_again(self, tmp_path, computed, victim, finished):
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), str(HERE)])}
        child = subprocess.run(
            [sys.executable, HERE / "evaluation_child.py", tmp_path, victim],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert child.returncode == -signal.SIGKILL, child.stderr
        expected = judge()
        computed.clear()
        assert same(judge(resume_dir=tmp_path), expected)
        # 20 of the 25 images are attacked, in two batches for each attack; the child ended after a first one
        batches = [spec.name for spec in THREE for _ in range(2)]
        assert computed == batches[finished:]

    @pytest.fixture
    def computed(self, monkeypatch):
        """The names of what is computed, batch by batch, and not read."""
        names = []
        clean, attack = Bench.clean_predictions, bench.run_attack

        def clean_predictions(self, on_progress):
            names.append("clean")
            return clean(self, on_progress)

        def run_attack(spec, *arguments, **named):
            names.append(spec.name)
            return attack(spec, *arguments, **named)

        monkeypatch.setattr(Bench, "clean_predictions", clean_predictions)
        monkeypatch.setattr(bench, "run_attack", run_attack)
        return names

    @pytest.fixture
    def work(self, tmp_path, computed):
        """Evaluate into one directory; gives which parts were computed and not read."""

        def work(net, **changes):
            expected = run(net, **changes)
            computed.clear()
            assert same(run(net, resume_dir=tmp_path, **changes), expected)
            return set(computed)

        return work

    def test_finished_work_is_not_done_again(self, net, work):
        assert work(net) == {"clean", "fgsm"}
        assert work(net) == set()
        assert work(net.train()) == set()
        assert work(net, attacks=(FGSM, PGD)) == {"pgd20"}

    def test_other_settings_are_other_work(self, net, work):
        work(net)
        stronger = AttackSpec(name="fgsm", kind="fgsm", eps=16 / 255)
        assert work(net, attacks=(stronger,)) == {"fgsm"}
        for changes in ({"seed": 1}, {"count": 22}, {"batch_size": 7}, {"keep_examples": 3}):
            assert work(net, **changes) == {"clean", "fgsm"}

    def test_other_images_and_labels_are_other_work(self, net, tmp_path, computed):
        images, labels = byte_images(12), mostly_right_labels(net, byte_images(12))
        for change_images, change_labels in ((0, 0), (1, 0), (0, 1)):
            images[1, 0, 0, 0] ^= change_images
            labels[0] = (labels[0] + change_labels) % CLASSES
            computed.clear()
            evaluate(net, images, labels, [FGSM], resume_dir=tmp_path, num_classes=CLASSES, batch_size=5)
            assert computed == [
                "clean",
                "fgsm",
                "fgsm",
            ]  # two batches of 9 or 10 right images, and nothing read

    def test_other_weights_are_other_work(self, net, work):
        work(net)
        with torch.no_grad():
            net[3].running_mean[0] += 1e-3
        assert work(net) == {"clean", "fgsm"}

    def test_other_injection_is_other_work(self, net, work):
        noisy = inject(net, Injection(ratio=0.9))
        work(noisy)
        assert work(noisy) == set()
        set_injection(noisy, ratio=0.5)
        assert work(noisy) == {"clean", "fgsm"}

    def test_damaged_files_are_done_again(self, net, work, tmp_path):
        work(net)
        whole = (tmp_path / "fgsm-00001.safetensors").read_bytes()
        for damaged in (b"", whole[: len(whole) // 2], b"\xff" * 64):
            (tmp_path / "fgsm-00001.safetensors").write_bytes(damaged)
            assert work(net) == {"fgsm"}

    def test_nothing_but_the_parts_is_left(self, net, work, tmp_path):
        work(net)
        parts = ["clean", "fgsm-00000", "fgsm-00001"]
        assert sorted(path.name for path in tmp_path.iterdir()) == [f"{part}.safetensors" for part in parts]
