"""The loop: closed forms for one step, a plain twin, repeatability, selection and divergence."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from training_problem import CLASSES, SIZE, Jitter, net, problem, recipe, same

from nenni_core import Injection, inject
from nenni_core.attacks.pgd import pgd
from nenni_core.defenses import Defense, StepContext
from nenni_core.defenses.adversarial_training import AdversarialTraining
from nenni_core.defenses.clean_training import CleanTraining
from nenni_core.errors import InputError, TrainingDiverged
from nenni_core.randomness import make_generator
from nenni_core.training import TrainingResult, train
from nenni_core.training.augmentation import augment, pixels
from nenni_core.training.loop import batch_bounds, training_step
from nenni_core.training.validation import validate

CLEAN = CleanTraining()


def fit(
    model: nn.Module,
    seed: int = 0,
    checkpoint_dir: Path | None = None,
    defense: Defense = AdversarialTraining(),  # noqa: B008
    **changes: object,
) -> TrainingResult:
    given = recipe(**changes)
    return train(model, *problem(), given, seed=seed, checkpoint_dir=checkpoint_dir, defense=defense)


def linear() -> nn.Sequential:
    generator = torch.Generator().manual_seed(2)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, CLASSES))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 30)
    return model


def softmax_gradient(weight: Tensor, bias: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient of the mean cross-entropy of a linear model, written out."""
    error = (x @ weight.T + bias).softmax(1) - F.one_hot(y, CLASSES)
    return error.T @ x / len(x), error.mean(0)


def test_two_steps_are_sgd_with_momentum_and_weight_decay() -> None:
    model = linear()
    weight, bias = (parameter.detach().clone() for parameter in model.parameters())
    images, labels, *_ = problem()
    x = images.flatten(1) / 255
    velocity = [torch.zeros_like(weight), torch.zeros_like(bias)]
    for _ in range(2):
        gradients = softmax_gradient(weight, bias, x, labels)
        for i, (value, gradient) in enumerate(zip((weight, bias), gradients, strict=True)):
            velocity[i] = 0.9 * velocity[i] + gradient + 0.01 * value
            value -= 0.05 * velocity[i]
    result = fit(model, epochs=2, batch_size=96, defense=CLEAN, crop_padding=0, weight_decay=0.01)
    torch.testing.assert_close(result.last["1.weight"], weight, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(result.last["1.bias"], bias, atol=1e-6, rtol=1e-5)


def plain_loop(model: nn.Module, epochs: int, seed: int) -> nn.Module:
    """Adversarial training as one writes it down: channels first, no autocast, a loss read in each step."""
    images, labels, *_ = problem()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    shuffling, augmentation, attack = (
        make_generator(seed, n) for n in ("shuffling", "augmentation", "attack")
    )
    model.train()
    for _ in range(epochs):
        order = torch.randperm(len(labels), generator=shuffling)
        for start in range(0, len(labels), 32):
            index = order[start : start + 32]
            x = augment(images, index, padding=1, flip=False, generator=augmentation).contiguous()
            x_adv = pgd(model, x, labels[index], eps=8 / 255, step_size=2 / 255, steps=2, generator=attack)
            loss = F.cross_entropy(model(x_adv), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            assert np.isfinite(loss.item())
    return model


def test_it_is_the_plain_loop_up_to_rounding() -> None:
    expected = plain_loop(net(), epochs=1, seed=3).state_dict()
    last = fit(net(), seed=3, epochs=1).last
    for name, value in expected.items():
        torch.testing.assert_close(last[name], value, atol=2e-3, rtol=1e-2)


def test_it_learns() -> None:
    first, *_, last = fit(net(), epochs=6).history
    assert last.validation_robust_accuracy >= 0.9  # chance is 0.25
    assert last.train_loss < first.train_loss


@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_equal_arguments_give_equal_bits(noisy: bool, precision: str) -> None:
    runs = [fit(net(noisy=noisy), seed=seed, precision=precision, flip=True) for seed in (0, 0, 1)]
    assert same(runs[0].last, runs[1].last)
    assert same(runs[0].best, runs[1].best)
    assert runs[0].history == runs[1].history
    assert not same(runs[0].last, runs[2].last)


def test_the_state_of_a_noise_stream_before_does_not_matter() -> None:
    used = net(noisy=True)
    used(torch.rand(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)))
    used[1].reset_running_stats()
    assert same(fit(used).last, fit(net(noisy=True)).last)


def test_global_generators_are_not_drawn_from() -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    fit(net(noisy=True), epochs=1)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])


def test_bfloat16_keeps_float32_weights_and_learns_the_same() -> None:
    half, full = (fit(net(), epochs=4, precision=precision) for precision in ("bfloat16", "float32"))
    assert {value.dtype for value in half.last.values()} == {torch.float32, torch.int64}
    assert not same(half.last, full.last)
    assert half.history[-1].train_loss == pytest.approx(full.history[-1].train_loss, abs=0.1)


def test_best_is_the_first_epoch_with_the_highest_accuracy() -> None:
    states: list[dict[str, Tensor]] = []
    model = net()
    arguments = recipe(epochs=8, learning_rate=0.3, schedule="constant")
    result = train(
        model, *problem(), arguments, seed=1, checkpoint_dir=None,
        on_epoch=lambda record: states.append({k: v.clone() for k, v in model.state_dict().items()}),
    )  # fmt: skip
    robust = [record.validation_robust_accuracy for record in result.history]
    assert result.best_epoch == robust.index(max(robust)) + 1
    assert same(result.best, states[result.best_epoch - 1])
    assert same(result.last, states[-1])
    assert same(result.last, dict(model.state_dict()))
    assert all(value.is_contiguous() for value in (result.best | result.last).values())
    # The recorded accuracies are those of the returned weights.
    model.load_state_dict(result.best)
    *_, images, labels = problem()
    clean, again = validate(model, images, labels, arguments, seed=1, on_batch=lambda: None)
    assert again == max(robust)
    assert clean == result.history[result.best_epoch - 1].validation_clean_accuracy


def test_clean_training_selects_by_clean_accuracy() -> None:
    history = (result := fit(net(), epochs=5, defense=CLEAN, eps=0.3, step_size=0.1)).history
    accuracies = [record.validation_clean_accuracy for record in history]
    assert result.best_epoch == accuracies.index(max(accuracies)) + 1
    assert max(r.validation_robust_accuracy for r in history) < max(accuracies)


@pytest.mark.parametrize("noisy", [False, True])
def test_validation_is_comparable_and_leaves_the_model_alone(noisy: bool) -> None:
    model = net(noisy=noisy)
    model[1].eval()
    *_, images, labels = problem()
    modes, state = (
        [m.training for m in model.modules()],
        {k: v.clone() for k, v in model.state_dict().items()},
    )
    streams = [m.noise_stream for m in model if isinstance(m, Jitter)]
    noise = [s.generator.get_state() for s in streams]
    runs = [validate(model, images, labels, recipe(), seed=0, on_batch=lambda: None) for _ in range(2)]
    assert runs[0] == runs[1]
    assert [m.training for m in model.modules()] == modes
    assert same(dict(model.state_dict()), state)
    assert [m.noise_stream for m in model if isinstance(m, Jitter)] == streams
    assert all(torch.equal(s.generator.get_state(), n) for s, n in zip(streams, noise, strict=True))


def test_modes_and_frozen_parameters_stay_as_the_caller_set_them() -> None:
    model = net()
    model.eval()
    model[2].train()
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    fit(model, epochs=1)
    assert [name for name, module in model.named_modules() if module.training] == ["2"]
    assert torch.equal(model[0].weight, before)
    assert not model[0].weight.requires_grad


def test_the_attack_sees_the_model_in_train_mode() -> None:
    model = net()
    fit(model, epochs=1)
    # Three batches, each seen by two steps of the attack and by the loss; validation counts nothing.
    assert int(model[1].num_batches_tracked) == 3 * (2 + 1)


def test_a_random_model_shows_the_attack_one_draw_and_the_loss_another() -> None:
    model = net(noisy=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    images, labels, *_ = problem()
    generator = torch.Generator().manual_seed(0)
    training_step(model, optimizer, pixels(images), labels, recipe=recipe(steps=5), generator=generator)
    assert [module.draws for module in model if isinstance(module, Jitter)] == [2]


def test_progress_counts_every_batch_of_every_epoch() -> None:
    calls: list[tuple[str, int, int]] = []
    train(
        net(), *problem(), recipe(), seed=0, checkpoint_dir=None,
        on_progress=lambda text, done, total: calls.append((text, done, total)),
    )  # fmt: skip
    total = 3 * (3 + 2)
    assert calls == [("training", done, total) for done in range(1, total + 1)]


@pytest.mark.parametrize(
    ("count", "size", "expected"),
    [
        (6, 3, [(0, 3), (3, 6)]),
        (5, 3, [(0, 3), (3, 5)]),
        (7, 3, [(0, 3), (3, 7)]),
        (1, 3, [(0, 1)]),
        (3, 1, [(0, 1), (1, 3)]),
    ],
)
def test_a_lone_last_image_joins_the_batch_before(count: int, size: int, expected: list) -> None:
    assert batch_bounds(count, size) == expected


class NanIn(CleanTraining):
    """Clean training whose loss is NaN in one batch."""

    def __init__(self, epoch: int, batch: int) -> None:
        self.target, self.calls = (epoch, batch), {}

    def step(self, model: nn.Module, x: Tensor, y: Tensor, context: StepContext) -> tuple[Tensor, Tensor]:
        loss, logits = super().step(model, x, y, context)
        self.calls[context.epoch] = self.calls.get(context.epoch, 0) + 1
        bad = (context.epoch, self.calls[context.epoch]) == self.target
        # The weights stay finite: it is the loss that tells.
        return (loss + float("nan") if bad else loss) * (0 if bad else 1), logits


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_a_nan_is_named_and_never_becomes_a_checkpoint(tmp_path: Path, batch: int) -> None:
    expected = f"epoch 2 of 3, batch {batch} of 3, at learning rate 0.05; .* lower learning rate"
    with pytest.raises(TrainingDiverged, match=expected):
        fit(net(), defense=NanIn(2, batch), checkpoint_dir=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["epoch-00001.safetensors"]


def test_weights_that_overflow_in_the_very_last_step_are_noticed(tmp_path: Path) -> None:
    with pytest.raises(TrainingDiverged, match=r"epoch 1 of 1, batch 1 of 1, at learning rate 1e\+38"):
        fit(
            linear(), epochs=1, batch_size=96, learning_rate=1e38, weight_decay=100.0, checkpoint_dir=tmp_path
        )
    assert not list(tmp_path.iterdir())


def test_divergence_is_noticed_before_the_epoch_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nenni_core.training.loop.DIVERGENCE_CHECK_INTERVAL", 2)
    done: list[int] = []
    with pytest.raises(TrainingDiverged, match="batch 2 of 12"):
        train(
            net(), *problem(), recipe(batch_size=8), seed=0, checkpoint_dir=None, defense=NanIn(1, 2),
            on_progress=lambda text, completed, total: done.append(completed),
        )  # fmt: skip
    assert max(done) < 4


class Perturbing(CleanTraining):
    """The shape of adversarial weight perturbation: weights moved around the step, put back after."""

    def __init__(self, log: list[str], fail: bool = False) -> None:
        self.log, self.fail = log, fail

    def loss(
        self, model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor, context: StepContext
    ) -> tuple[Tensor, Tensor]:
        weight = model[1].weight

        def put_back() -> None:
            with torch.no_grad():
                weight.sub_(0.25)
            self.log.append("put back")

        with torch.no_grad():
            weight.add_(0.25)
        context.after_step.callback(put_back)
        F.cross_entropy(model(x), y).backward()  # an inner gradient that must not leak into the step
        if self.fail:
            raise KeyboardInterrupt
        return super().loss(model, x, x_adv, y, context)


def test_a_defence_may_move_the_weights_around_the_step() -> None:
    log: list[str] = []
    model = linear()
    weight, bias = (parameter.detach().clone() for parameter in model.parameters())
    images, labels, *_ = problem()
    gradient, _ = softmax_gradient(weight + 0.25, bias, images.flatten(1) / 255, labels)
    fit(model, epochs=1, batch_size=96, defense=Perturbing(log), crop_padding=0, weight_decay=0.0)
    torch.testing.assert_close(model[1].weight, weight - 0.05 * gradient, atol=1e-6, rtol=1e-5)
    assert log == ["put back"]


def test_moved_weights_are_put_back_when_the_step_is_interrupted() -> None:
    model = linear()
    before = model[1].weight.detach().clone()
    with pytest.raises(KeyboardInterrupt):
        fit(model, defense=Perturbing([], fail=True))
    torch.testing.assert_close(model[1].weight, before)


@pytest.mark.parametrize("randomize", ["fixed", "bank", "stochastic_rounding"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_injected_models_train(randomize: str, precision: str) -> None:
    model = inject(net(), Injection(ratio=0.5, randomize=randomize, bank_size=2))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    result = fit(model, epochs=1, precision=precision)
    assert all(not torch.equal(before[name], parameter) for name, parameter in model.named_parameters())
    again = fit(
        inject(net(), Injection(ratio=0.5, randomize=randomize, bank_size=2)), epochs=1, precision=precision
    )
    assert all(torch.equal(again.last[k].nan_to_num(), v.nan_to_num()) for k, v in result.last.items())


def changed(change: Callable[[list[Tensor]], None]) -> list[Tensor]:
    data = [tensor.clone() for tensor in problem()]
    change(data)
    return data


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.__setitem__(1, d[1][:-1]), "training data have 96 images and 95 labels"),
        (lambda d: (d.__setitem__(2, d[2][:0]), d.__setitem__(3, d[3][:0])), "validation data have 0 images"),
        (
            lambda d: d.__setitem__(2, d[2][:, :, :-1]),
            r"validation images have shape \(3, 9, 10\); expected .* \(3, 10, 10\)",
        ),
        (lambda d: d[1].fill_(4), "training labels range from 4 to 4; expected 0 to 3"),
        (lambda d: d[3].fill_(-1), "validation labels range from -1 to -1"),
    ],
)
def test_unusable_data_are_refused(change: Callable[[list[Tensor]], None], message: str) -> None:
    with pytest.raises(InputError, match=message):
        train(net(), *changed(change), recipe(), seed=0, checkpoint_dir=None)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(InputError, match=r"crop_padding is 10; expected below the image size, 10"):
        fit(net(), crop_padding=10)


def test_a_finished_run_returns_at_once_and_another_one_is_refused(tmp_path: Path) -> None:
    first = fit(net(), checkpoint_dir=tmp_path)
    calls: list[str] = []
    model = net()
    again = train(
        model, *problem(), recipe(), seed=0, checkpoint_dir=tmp_path,
        on_progress=lambda *call: calls.append("progress"), on_epoch=lambda record: calls.append("epoch"),
    )  # fmt: skip
    assert calls == []
    assert same(first.last, again.last)
    assert same(first.best, again.best)
    assert (first.history, first.best_epoch) == (again.history, again.best_epoch)
    assert same(dict(model.state_dict()), first.last)
    for refused, changes in (
        ("learning_rate was 0.05, is 0.1", {"learning_rate": 0.1}),
        (r"epochs was 3, is 4, milestones was \[100, 150\], is \[2\]", {"epochs": 4, "milestones": (2,)}),
        ("seed was 0, is 1", {"seed": 1}),
    ):
        with pytest.raises(InputError, match=f"belongs to another run .{refused}"):
            fit(net(), checkpoint_dir=tmp_path, **changes)
    with pytest.raises(InputError, match=r"another run .initial weights was"):
        fit(net(seed=1), checkpoint_dir=tmp_path)
    with pytest.raises(InputError, match=r"another run .data was"):
        train(net(), *problem(seed=1), recipe(), seed=0, checkpoint_dir=tmp_path)


def test_the_same_weights_under_another_injection_are_another_run(tmp_path: Path) -> None:
    fit(inject(net(), Injection(ratio=0.5)), epochs=1, checkpoint_dir=tmp_path)
    with pytest.raises(InputError, match=r"another run .injection was"):
        fit(inject(net(), Injection(ratio=0.6)), epochs=1, checkpoint_dir=tmp_path)


def test_an_epoch_is_reported_once_it_is_on_the_disk(tmp_path: Path) -> None:
    newest: list[str] = []
    train(
        net(), *problem(), recipe(), seed=0, checkpoint_dir=tmp_path,
        on_epoch=lambda record: newest.append(max(path.name for path in tmp_path.iterdir())),
    )  # fmt: skip
    assert newest == [f"epoch-{epoch:05d}.safetensors" for epoch in (1, 2, 3)]


def test_damage_costs_one_epoch_or_all_but_never_the_run(tmp_path: Path) -> None:
    expected = fit(net(), checkpoint_dir=tmp_path)
    second, third = sorted(tmp_path.iterdir())
    third.write_bytes(third.read_bytes()[:-10])
    with pytest.warns(UserWarning, match=r"epoch-00003.safetensors is damaged"):
        resumed = fit(net(), checkpoint_dir=tmp_path)
    assert same(resumed.last, expected.last)
    assert resumed.history == expected.history
    second.write_bytes(b"")
    third.write_bytes(b"")
    with pytest.warns(UserWarning, match="is damaged"):
        restarted = fit(net(), checkpoint_dir=tmp_path)
    assert same(restarted.last, expected.last)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(net(), checkpoint_dir=tmp_path)


def test_seconds_are_not_part_of_what_a_run_is() -> None:
    record = fit(net(), epochs=1).history[0]
    assert record == replace(record, seconds=record.seconds + 1)
    assert record != replace(record, train_loss=record.train_loss + 1)
