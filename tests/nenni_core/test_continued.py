"""Trained on by another loss, a network keeps what its defence has promised."""

import pytest
import torch
from torch import nn
from training_problem import SIZE, net, problem, recipe, same

from nenni_core import Injection, inject
from nenni_core.defenses import DEFENSES, make_defense
from nenni_core.defenses.continued import Continued
from nenni_core.defenses.learn2perturb import perturbed_maps
from nenni_core.defenses.sparse import pruned_layers
from nenni_core.training import train

SHAPE = (3, SIZE, SIZE)


def continued(kind: str, objective: str = "clean", **settings: object) -> nn.Module:
    """A network of the defence with noise on top, after an epoch of large steps."""
    defense = make_defense(kind, **settings)
    model = inject(defense.wrap(net(), 0, SHAPE), Injection(ratio=0.5))
    if kind == "learn2perturb":
        with torch.no_grad():
            for module in perturbed_maps(model):
                module.sigma.fill_(0.01)
    loss = Continued(objective=make_defense(objective), built_by=defense)
    train(model, *problem(), recipe(epochs=1, learning_rate=0.2), seed=0, checkpoint_dir=None, defense=loss)
    return model


@pytest.mark.parametrize("objective", ["clean", "adversarial"])
def test_it_is_the_objective_itself_on_a_network_without_rules(objective: str) -> None:
    plain, on = net(), net()
    loss = make_defense(objective)
    train(plain, *problem(), recipe(epochs=1), seed=0, checkpoint_dir=None, defense=loss)
    wrapped = Continued(objective=loss, built_by=make_defense("trades"))
    train(on, *problem(), recipe(epochs=1), seed=0, checkpoint_dir=None, defense=wrapped)
    assert same(plain.state_dict(), on.state_dict())
    assert wrapped.select_by == loss.select_by


def test_trained_noise_stays_above_its_minimum() -> None:
    sigmas = torch.cat(
        [m.sigma.detach().flatten() for m in perturbed_maps(continued("learn2perturb", noise_start=0.0))]
    )
    assert (sigmas >= 0.01).all()
    assert (sigmas > 0.01).any()  # it has moved


@pytest.mark.parametrize("method", ["magnitude", "surgery"])
def test_pruned_weights_stay_zero(method: str) -> None:
    layers = pruned_layers(continued("sparse", sparsity=0.5, method=method))
    assert layers
    for layer in layers:
        assert (layer.weight[~layer.mask] == 0).all()


@pytest.mark.parametrize("kind", DEFENSES)
def test_everybody_keeps_the_weight_decay_that_the_defence_gives(kind: str) -> None:
    defense = make_defense(kind)
    model = inject(defense.wrap(net(), 0, SHAPE), Injection(ratio=0.5)) if kind != "k_winners" else net()
    groups = Continued(objective=make_defense("clean"), built_by=defense).parameter_groups(model)
    trained = [parameter for group in groups for parameter in group["params"]]
    assert {id(parameter) for parameter in trained} == {id(parameter) for parameter in model.parameters()}
    assert len(trained) == len(list(model.parameters()))
    decays = {group.get("weight_decay") for group in groups}
    assert decays == {"pni": {None, 0.0}, "learn2perturb": {None, 0.0}, "rpf": {None, 1e-2}}.get(kind, {None})
