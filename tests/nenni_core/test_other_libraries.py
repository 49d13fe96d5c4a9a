"""The same attack by another library, on the same weights and images."""

import pytest
import torch
import torchattacks
from attack_models import conv_net, float_images
from attack_table import attack
from torch import Tensor, nn

from nenni_core.attacks import AttackCost, AttackSpec
from nenni_core.evaluation import evaluate

EPS = 0.03


@pytest.fixture(scope="module")
def problem() -> tuple[nn.Module, Tensor, Tensor]:
    """A network, and images that it classifies correctly, some of which withstand `EPS`."""
    net, x = conv_net(scale=3.0).eval(), float_images(120)
    return net, x, net(x).argmax(1)


def standing(net: nn.Module, x_adv: Tensor, y: Tensor) -> Tensor:
    right = net(x_adv).argmax(1) == y
    assert 5 < int(right.sum()) < len(y) - 5  # else agreement would say little
    return right


class TestFoolbox:
    """foolbox 3 (Rauber et al. 2020)."""

    @pytest.mark.parametrize("steps", [1, 10])
    def test_pgd_agrees_sample_by_sample(self, problem, steps):
        foolbox = pytest.importorskip("foolbox", reason="foolbox is not installed (requirements/dev.in)")
        net, x, y = problem
        theirs = foolbox.attacks.LinfPGD(abs_stepsize=EPS / 4, steps=steps, random_start=False)
        model = foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
        _, expected, fooled = theirs(model, x, y, epsilons=EPS)
        spec = AttackSpec(name="pgd", kind="pgd", eps=EPS, step_size=EPS / 4, steps=steps, random_start=False)
        ours = attack(spec, net, x, y)
        assert torch.allclose(ours, expected, rtol=0, atol=1e-5)
        assert torch.equal(standing(net, ours, y), ~fooled)

    def test_fgsm_agrees_sample_by_sample(self, problem):
        foolbox = pytest.importorskip("foolbox", reason="foolbox is not installed (requirements/dev.in)")
        net, x, y = problem
        model = foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
        _, expected, fooled = foolbox.attacks.FGSM()(model, x, y, epsilons=EPS)
        ours = attack(AttackSpec(name="fgsm", kind="fgsm", eps=EPS), net, x, y)
        assert torch.allclose(ours, expected, rtol=0, atol=1e-5)
        assert torch.equal(standing(net, ours, y), ~fooled)

    def test_deepfool_agrees_sample_by_sample(self, problem):
        foolbox = pytest.importorskip("foolbox", reason="foolbox is not installed (requirements/dev.in)")
        net, x, y = problem
        model = foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
        theirs = foolbox.attacks.L2DeepFoolAttack(steps=50, candidates=None, overshoot=0.02)
        expected, _, fooled = theirs(model, x, y, epsilons=None)
        ours = attack(AttackSpec(name="deepfool", kind="deepfool", steps=50, overshoot=0.02), net, x, y)
        assert fooled.all()
        assert (net(ours).argmax(1) != y).all()
        assert torch.allclose(ours, expected, rtol=0, atol=1e-4)
        with torch.random.fork_rng():  # what our own is for
            library = torchattacks.DeepFool(net, steps=50, overshoot=0.02)(x, y)
        assert (net(library).argmax(1) != y).float().mean() < 0.6


class TestAutoAttack:
    """The code of AutoAttack's authors (Croce & Hein 2020), and torchattacks' copy of an older one."""

    def test_apgd_agrees_with_the_authors_sample_by_sample(self, problem):
        """Also where fooled images are not computed any more."""
        pyautoattack = pytest.importorskip("pyautoattack", reason="pyautoattack is not installed")
        net, x, y = problem
        steps, seed = 20, 3
        theirs = pyautoattack.autopgd_base.APGDAttack(
            net, n_restarts=1, n_iter=steps, eps=EPS, norm="Linf", seed=seed, device="cpu"
        )
        with torch.random.fork_rng():
            theirs.init_hyperparam(x)
            torch.manual_seed(seed)
            right = theirs.attack_single_run(x, y)[1]
        cost = AttackCost()
        spec = AttackSpec(name="apgd_ce", kind="apgd_ce", eps=EPS, steps=steps)
        ours = attack(spec, net, x, y, seed=seed, cost=cost)
        assert torch.equal(standing(net, ours, y), right.bool())
        assert cost.backwards < 0.8 * len(x) * (steps + 1)  # what it would be without dropping

    def test_apgd_agrees_with_torchattacks_sample_by_sample(self, problem):
        net, x, y = problem
        with torch.random.fork_rng():
            expected = torchattacks.APGD(net, eps=EPS, steps=20, seed=3)(x, y)
        ours = attack(AttackSpec(name="apgd_ce", kind="apgd_ce", eps=EPS, steps=20), net, x, y, seed=3)
        assert torch.equal(standing(net, ours, y), net(expected).argmax(1) == y)

    def test_fab_agrees_with_torchattacks_sample_by_sample(self, problem):
        """One target, deterministic: what falls within eps does, whether or not the search goes on."""
        net, x, y = problem
        theirs = torchattacks.attacks.fab.FAB(net, eps=EPS, steps=20, multi_targeted=True, n_classes=4)
        theirs.target_class = 2
        with torch.no_grad():
            tried = theirs.attack_single_run_targeted(x, y)
        inside = (tried - x).abs().flatten(1).amax(1) <= EPS
        expected = (net(tried).argmax(1) == y) | ~inside
        spec = AttackSpec(name="fab", kind="fab_targeted", eps=EPS, steps=20, target=1)
        assert torch.equal(standing(net, attack(spec, net, x, y), y), expected)

    def test_accuracy_of_torchattacks_autoattack(self, problem):
        """Parts, dropping and refilled batches find what the library finds."""
        net, x, _ = problem
        images = (x * 255).round().to(torch.uint8)
        x = images.float() / 255
        y = net(x).argmax(1)
        with torch.random.fork_rng():
            expected = torchattacks.AutoAttack(net, eps=EPS, n_classes=4, seed=1)(x, y)
        theirs = standing(net, expected, y)
        spec = AttackSpec(name="autoattack", kind="autoattack_torchattacks", eps=EPS)
        found = evaluate(net, images, y, [spec], num_classes=4, batch_size=32, keep_examples=0)
        assert int((found.correct("autoattack") != theirs).sum()) <= 1

    def test_accuracy_of_the_standard(self, problem):
        pyautoattack = pytest.importorskip("pyautoattack", reason="pyautoattack is not installed")
        net, x, _ = problem
        images = (x[:60] * 255).round().to(torch.uint8)
        x = images.float() / 255
        y = net(x).argmax(1)
        theirs = pyautoattack.AutoAttack(net, eps=EPS, norm="Linf", seed=1, device="cpu")
        theirs.apgd_targeted.n_target_classes = theirs.fab.n_target_classes = 3
        with torch.random.fork_rng():
            expected = theirs.run_standard_evaluation(x, y, batch_size=60)[0]
        strong = AttackSpec(name="standard", kind="autoattack_standard", eps=EPS)
        weak = AttackSpec(name="ten_steps", kind="autoattack_torchattacks", eps=EPS)
        found = evaluate(net, images, y, [strong, weak], num_classes=4, keep_examples=0)
        right = net(expected).argmax(1) == y
        assert int((found.correct("standard") != right).sum()) <= 1
        assert int((found.correct("ten_steps") != right).sum()) <= 1
