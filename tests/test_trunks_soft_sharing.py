"""Soft sharing: towers that are drawn to their mean, against loops over towers.

What all trunks keep is tested in ``test_trunks``.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from plain import plain
from searches import FOLDS, TASKS, X, Y, check_equal, mixed
from sklearn.base import clone
from stacks import fit_alone, fit_stack, network_of, objective_of, plain_losses, weights
from test_trunks import X as ROWS
from test_trunks import build, perceptron, randn
from torch.testing import assert_close

from sk_mtl import MultiTaskRegressor
from sk_mtl.estimators import _run
from sk_mtl.steps import Penalties
from sk_mtl.trunks import SharedBottom, SoftSharing
from sk_mtl.weighting import ConstantWeights, Weighting

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

SGD = {"solver": "sgd", "momentum": 0.0, "alpha": 0.0, "shuffle": False, "activation": "tanh"}


def moved(trunk):
    """Towers that are no longer alike; biases too."""
    with torch.no_grad():
        for i, parameter in enumerate(trunk.parameters()):
            parameter.add_(randn(*parameter.shape, seed=i))
    return trunk


def slow_penalty(layers, strength):
    """strength / 2 times the squared distances from the mean; ``layers`` holds tensors by task."""
    total = 0.0
    for towers in layers:
        mean = sum(towers) / len(towers)
        for tower in towers:
            total = total + strength / 2 * ((tower - mean) ** 2).sum()
    return total


# The module ---------------------------------------------------------------------------------


@pytest.mark.parametrize("n_tasks", [1, 2, 5])
def test_every_task_has_a_tower(n_tasks):
    trunk = moved(build(SoftSharing(), n_tasks=n_tasks))
    towers = [perceptron(trunk.towers, t) for t in range(n_tasks)]
    assert_close(trunk(ROWS), torch.stack([t(ROWS) for t in towers]), rtol=0, atol=1e-14)
    if n_tasks > 1:
        assert (trunk(ROWS)[0] - trunk(ROWS)[1]).abs().max() > 0.1  # negative control


def test_towers_begin_alike():
    """As the one of a shared bottom, and nothing pulls at them."""
    trunk = build(SoftSharing(), seeds=[3])
    alone = build(SharedBottom(), seeds=[3])
    assert_close(trunk(ROWS), alone(ROWS).expand(3, -1, -1), rtol=0, atol=1e-14)
    assert trunk.penalty().item() < 1e-30
    assert moved(trunk).penalty().item() > 0.1


@pytest.mark.parametrize("strength", [0.0, 0.01, 3.0])
def test_the_penalty_is_the_squared_distance_from_the_mean_tower(strength):
    trunk = moved(build(SoftSharing(strength)))
    expected = slow_penalty([list(p.unbind(0)) for p in trunk.parameters()], strength)
    assert trunk.penalty().item() == pytest.approx(expected.item(), rel=1e-13)
    weights_only = [list(p.unbind(0)) for n, p in trunk.named_parameters() if n.endswith("weight")]
    other = slow_penalty(weights_only, strength).item()  # negative control: biases count
    assert strength == 0 or other < 0.99 * expected.item()


def test_the_penalty_by_hand():
    """Weights 1, 3, 8 lie 3, 1 and 4 from their mean; biases 0, 0, 3 lie 1, 1 and 2."""
    trunk = build(SoftSharing(0.5), hidden=(1,))
    with torch.no_grad():
        for parameter in trunk.parameters():
            parameter.zero_()
        trunk.towers.layers[0].weight[:, 0, 0] = torch.tensor([1.0, 3.0, 8.0])
        trunk.towers.layers[0].bias[:, 0] = torch.tensor([0.0, 0.0, 3.0])
    assert trunk.penalty().item() == 0.5 / 2 * ((9 + 1 + 16) + (1 + 1 + 4))


@pytest.mark.parametrize("stack", [(4,), (2, 3)], ids=str)
def test_a_stack_has_one_penalty_a_network(stack):
    n = int(np.prod(stack))
    stacked = moved(build(SoftSharing(0.7), seeds=range(n), stack=stack))
    found = stacked.penalty()
    assert found.shape == stack
    for i, total in enumerate(found.flatten()):
        own = [p.flatten(0, len(stack) - 1)[i] for p in stacked.parameters()]
        expected = slow_penalty([list(p.unbind(0)) for p in own], 0.7)
        assert total.item() == pytest.approx(expected.item(), rel=1e-13)
    assert len(set(found.flatten().tolist())) == n  # negative control


# A step -------------------------------------------------------------------------------------


def test_a_step_adds_the_slope_of_the_penalty():
    """By finite differences; what took no part in the step is left alone."""
    network = network_of(SoftSharing(0.7), [0])
    trunk = moved(network.trunk)
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    left = trunk.towers.layers[1].bias
    left.grad = None
    Penalties(network, objective_of(SoftSharing(), [1.0] * 4), 0.0).add()
    h = 1e-5
    for parameter in trunk.parameters():
        if parameter is left:
            assert parameter.grad is None
            continue
        flat = parameter.data.view(-1)
        for i in range(0, len(flat), 3):
            at = float(flat[i])
            flat[i] = at + h
            above = trunk.penalty().item()
            flat[i] = at - h
            below = trunk.penalty().item()
            flat[i] = at
            slope = (above - below) / (2 * h)
            assert float(parameter.grad.view(-1)[i]) - 1 == pytest.approx(slope, abs=1e-8)
    assert all((p.grad == 1).all() for p in network.heads.parameters())
    assert (trunk.towers.layers[0].weight.grad - 1).abs().max() > 0.1  # negative control


# Training -----------------------------------------------------------------------------------


def train_slowly(model, X, Y):
    """Return networks of one task each, trained side by side: a tower and a head of its own."""
    session = clone(model)._session(X, Y)
    plan, strength = session.plan(), model.trunk.strength
    network = _run.build([session], [plan], stack=())
    copies = [_run.build([session], [plan], stack=()) for _ in range(Y.shape[1])]
    for copy in copies:
        copy.load_state_dict(network.state_dict())
    optimizers = [torch.optim.SGD(c.parameters(), lr=model.learning_rate_init) for c in copies]
    rows, y = plan.train.X, plan.train.y
    for _ in range(model.max_iter):
        for start in range(0, len(rows), model.batch_size):
            batch = slice(start, start + model.batch_size)
            losses = [plain_losses(c, rows[batch], y[batch])[t] for t, c in enumerate(copies)]
            towers = zip(*[c.trunk.parameters() for c in copies], strict=True)
            own = [[p[t] for t, p in enumerate(layer)] for layer in towers]
            for optimizer in optimizers:
                optimizer.zero_grad()
            (sum(losses) / len(losses) + slow_penalty(own, strength)).backward()
            for optimizer in optimizers:
                optimizer.step()
    return copies


def of_task(network, t):
    """All numbers of a task: of its tower, and of its head."""
    parts = [p[t] for p in network.trunk.parameters()]
    for head in network.heads:
        if t in (tasks := head.tasks.tolist()):
            parts += [head.output.weight[tasks.index(t)], head.output.bias[tasks.index(t)]]
    return torch.cat([p.detach().flatten() for p in parts])


@pytest.mark.parametrize("strength", [0.0, 0.05, 1.0])
def test_training_is_descent_of_separate_networks_that_are_held_together(strength):
    """Without a strength each is trained as if alone, but for its share of the loss."""
    model = mixed(trunk=SoftSharing(strength), max_iter=5, **SGD)
    fitted = clone(model).fit(X, Y).net_.module_
    for t, copy in enumerate(train_slowly(model, X, Y)):
        assert_close(of_task(fitted, t), of_task(copy, t), rtol=0, atol=1e-12)
    # Negative control: another strength.
    other = clone(model).set_params(trunk__strength=strength + 0.5).fit(X, Y).net_.module_
    assert max((of_task(other, t) - of_task(fitted, t)).abs().max() for t in range(3)) > 1e-4


def distance(model):
    """How far towers lie from their mean, beside how large they are."""
    layers = [layer.weight.detach() for layer in model.net_.module_.trunk.towers.layers]
    return max(float((w - w.mean(0)).norm() / w.norm()) for w in layers)


def test_strength_says_how_far_towers_may_differ():
    found = [
        distance(mixed(trunk=SoftSharing(s), max_iter=60, learning_rate_init=0.05, **SGD).fit(X, Y))
        for s in (0.0, 0.01, 0.1, 1.0, 10.0)
    ]
    assert found == sorted(found, reverse=True)
    assert found[0] > 0.1
    assert found[-1] < 0.01


class Even(Weighting):
    """Even weights, for which it wants to see the tasks' gradients."""

    needs = "jacobian"

    def build(self, task_weights):
        return ConstantWeights(task_weights)


def test_weightings_by_gradients_leave_the_penalty_alone():
    """They see the tasks' losses only; towers are held together all the same."""
    by_losses = mixed(trunk=SoftSharing(0.5)).fit(X, Y)
    by_gradients = mixed(trunk=SoftSharing(0.5), weighting=Even()).fit(X, Y)
    for name, tensor in weights(by_losses).items():
        assert_allclose(weights(by_gradients)[name], tensor, rtol=0, atol=1e-10, err_msg=name)
    free = mixed(trunk=SoftSharing(0.0), weighting=Even()).fit(X, Y)  # negative control
    assert distance(free) > 1.5 * distance(by_gradients)


def test_a_stack_is_trained_as_its_networks_alone():
    models = [
        mixed(trunk=SoftSharing(0.3), random_state=seed, learning_rate_init=rate, max_iter=n)
        for seed, rate, n in [(0, 0.01, 6), (1, 0.05, 2), (0, 0.02, 3), (2, 0.02, 9)]
    ]
    data = [(X, Y, {})] * 4
    stacked, errors = fit_stack(models, data)
    assert errors == [None] * 4
    for ours, theirs in zip(stacked, fit_alone(models, data), strict=True):
        for name, tensor in weights(theirs).items():
            assert_allclose(weights(ours)[name], tensor, rtol=0, atol=1e-10, err_msg=name)


def test_strengths_are_searched_as_other_parameters_are():
    grid = {"trunk__strength": [0.0, 0.1, 5.0], "learning_rate_init": [0.01, 0.03]}
    ours, _ = check_equal(mixed(trunk=SoftSharing()), grid, cv=FOLDS)
    assert len(set(ours.cv_results_["mean_test_score"])) == 6


def test_tasks_that_are_alike_gain_by_being_held_together():
    """One curve, seen by few rows a task: towers of their own follow the noise."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(640, 4))
    curve = np.sin(2 * rows[:, 0]) + rows[:, 1] * rows[:, 2]
    labels = np.stack([curve + 0.5 * rng.normal(size=640) for _ in range(4)], axis=1)
    few = np.full((240, 4), np.nan)  # every row has the label of one task
    few[np.arange(240), np.arange(240) % 4] = labels[np.arange(240), np.arange(240) % 4]
    scores = [
        plain(
            MultiTaskRegressor,
            SoftSharing(strength),
            hidden_layer_sizes=(32,),
            learning_rate_init=0.02,
            max_iter=300,  # a strong pull takes Adam longer
            tol=0.0,
            n_iter_no_change=300,
            random_state=0,
        )
        .fit(rows[:240], few)
        .score(rows[240:], labels[240:])
        for strength in (0.0, 10.0)
    ]
    assert scores[1] > scores[0] + 0.05


# What is refused ----------------------------------------------------------------------------


def test_towers_are_made_of_hidden_layers():
    message = (
        r"Got hidden_layer_sizes=\(\) with trunk SoftSharing\(\), expected at least one layer: "
        r"its experts are made of them\. Use trunk='shared_bottom' for a linear model\."
    )
    with pytest.raises(ValueError, match=message):
        mixed(trunk=SoftSharing(), hidden_layer_sizes=()).fit(X, Y)
    with pytest.raises(ValueError, match="The 'strength' parameter of SoftSharing must be a float"):
        mixed(trunk=SoftSharing(-1.0), tasks=TASKS).fit(X, Y)
