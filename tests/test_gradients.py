"""The gradients of all tasks in one pass, and weightings that read them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from plain import plain
from sklearn.base import clone

from sk_mtl import MultiTaskEstimator
from sk_mtl.gradients import set_gradients, task_jacobian
from sk_mtl.losses import LogLoss, SquaredError
from sk_mtl.network import build_network, group_tasks
from sk_mtl.objective import Objective
from sk_mtl.tasks import Task
from sk_mtl.trunks import TRUNKS
from sk_mtl.weighting import ConstantWeights, Weighting

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

TASKS = [
    Task("a", "binary", np.array([0, 1])),
    Task("b", "regression"),
    Task("c", "multiclass", np.array([0, 1, 2])),
    Task("d", "regression"),
]
LOSSES = [LogLoss(), SquaredError(), LogLoss(), SquaredError()]


def network_and_objective(trunk, *, head=()):
    groups = group_tasks(TASKS, LOSSES)
    recipe = TRUNKS[trunk]()
    network = build_network(
        recipe,
        groups,
        n_inputs=5,
        n_tasks=4,
        hidden_layer_sizes=(7, 6),
        head_hidden_layer_sizes=head,
        activation="tanh",
        dropout=0.0,
        seeds=[(1, 2, 3)],
        dtype=torch.float64,
    )
    weights = torch.ones(4, dtype=torch.float64)
    return network, Objective(groups, 4, ConstantWeights(weights), weights, private=recipe.private)


def batch(*, absent=()):
    rng = np.random.default_rng(0)
    X = torch.from_numpy(rng.normal(size=(20, 5)))
    y = np.column_stack(
        [rng.integers(0, 2, 20), rng.normal(size=20), rng.integers(0, 3, 20), rng.normal(size=20)]
    ).astype(float)
    y[::3, 0] = np.nan
    y[:, list(absent)] = np.nan
    return X, torch.from_numpy(y)


@pytest.mark.parametrize("head", [(), (4,)], ids=["linear head", "hidden head"])
@pytest.mark.parametrize("trunk", TRUNKS)
def test_jacobian_is_one_backward_pass_a_task(trunk, head):
    """Row t is the gradient of task t's loss over the trunk, computed the slow way."""
    network, objective = network_and_objective(trunk, head=head)
    X, y = batch()

    def losses_of(raw):
        return objective.task_losses(raw, y, None, complete=False)

    losses, _, _, jacobian = task_jacobian(network, X, losses_of)
    head_grads = [p.grad.clone() for p in network.heads.parameters()]
    slow_losses, _ = losses_of(network(X))
    parameters = list(network.trunk.parameters())
    for t in range(4):
        grads = torch.autograd.grad(slow_losses[t], parameters, retain_graph=True)
        row = torch.cat([g.flatten() for g in grads])
        torch.testing.assert_close(jacobian[t], row, rtol=0, atol=1e-14)
        assert row.abs().max() > 1e-4  # negative control: there is something to compare
    torch.testing.assert_close(losses, slow_losses.detach(), rtol=0, atol=1e-14)
    slow_heads = torch.autograd.grad(slow_losses.sum(), list(network.heads.parameters()))
    for ours, slow in zip(head_grads, slow_heads, strict=True):
        torch.testing.assert_close(ours, slow, rtol=0, atol=1e-14)


def test_jacobian_is_that_of_torchjd():
    torchjd = pytest.importorskip("torchjd.autojac")
    network, objective = network_and_objective("shared_bottom")
    X, y = batch()
    _, _, _, jacobian = task_jacobian(
        network, X, lambda raw: objective.task_losses(raw, y, None, complete=False)
    )
    losses, _ = objective.task_losses(network(X), y, None, complete=False)
    torchjd.jac(losses, inputs=(parameters := list(network.trunk.parameters())))
    rows = torchjd.jac(
        objective.task_losses(network(X), y, None, complete=False)[0], inputs=parameters
    )
    theirs = torch.cat([row.flatten(1) for row in rows], dim=1)
    torch.testing.assert_close(jacobian, theirs, rtol=0, atol=1e-13)


@pytest.mark.parametrize("trunk", TRUNKS)
def test_gradients_of_a_weighted_sum_are_those_of_one_backward_pass(trunk):
    network, objective = network_and_objective(trunk)
    X, y = batch()
    share = torch.tensor([0.5, 0.3, 0.2, 0.0], dtype=torch.float64)
    _, _, _, jacobian = task_jacobian(
        network, X, lambda raw: objective.task_losses(raw, y, None, complete=False)
    )
    set_gradients(network, share @ jacobian, share)
    ours = [p.grad.clone() for p in network.parameters()]
    network.zero_grad()
    losses, _ = objective.task_losses(network(X), y, None, complete=False)
    losses.backward(share)
    for ours_grad, p in zip(ours, network.parameters(), strict=True):
        torch.testing.assert_close(ours_grad, p.grad, rtol=0, atol=1e-14)


class FromGradients(Weighting):
    """A user's weighting that reads gradients: weights by their norms, to a power."""

    needs = "jacobian"
    uses_task_weights = True

    def __init__(self, power=0.0):
        self.power = power

    def build(self, task_weights):
        return _ByNorm(task_weights, self.power)


class _ByNorm(torch.nn.Module):
    def __init__(self, weights, power):
        super().__init__()
        self.weights, self.power = weights, power
        self.shapes, self.present = [], []

    def forward(self, losses, jacobian, present):
        self.shapes.append(tuple(jacobian.shape))
        self.present.append([True] * len(jacobian) if present is None else present.tolist())
        return jacobian.norm(dim=1) ** self.power


def table():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(90, 4))
    Y = np.column_stack([X[:, 0] > 0, X[:, 1], 5 * X[:, 2] - X[:, 0]]).astype(float)
    Y[:30, 0] = np.nan
    return X, Y


def fitted(weighting, trunk="shared_bottom"):
    X, Y = table()
    model = plain(
        MultiTaskEstimator,
        trunk,
        tasks=["classification", "regression", "regression"],
        hidden_layer_sizes=(6,),
        weighting=weighting,
        batch_size=30,
        shuffle=False,
        max_iter=5,
        random_state=0,
    )
    return model.fit(X, Y)


def parameters_of(model):
    return torch.cat([p.detach().flatten() for p in model.net_.module_.parameters()])


@pytest.mark.parametrize("trunk", TRUNKS)
def test_constant_weights_train_alike_on_either_branch(trunk):
    """The first of three batches has no label of the first task."""
    by_gradients = fitted(FromGradients(power=0.0), trunk)
    by_losses = fitted("static", trunk)
    torch.testing.assert_close(
        parameters_of(by_gradients), parameters_of(by_losses), rtol=0, atol=1e-12
    )
    other = fitted(FromGradients(power=-1.0), trunk)  # negative control
    assert (parameters_of(other) - parameters_of(by_losses)).abs().max() > 1e-4


def test_a_trunk_without_parameters_has_an_empty_jacobian():
    """A linear model shares nothing; its heads are trained all the same."""
    X, Y = table()
    model = plain(
        MultiTaskEstimator,
        tasks=["classification", "regression", "regression"],
        hidden_layer_sizes=(),
        weighting=FromGradients(),
        max_iter=5,
        random_state=0,
    ).fit(X, Y)
    assert set(model.net_.criterion_.balance.shapes) == {(3, 0)}
    assert np.diff(model.loss_curve_).max() < 0


def test_a_weighting_is_told_which_tasks_are_in_the_batch():
    """Whatever it says of the absent ones, NaN included, has no effect."""
    model = fitted(FromGradients(power=-1.0))  # one over zero for the absent task
    balance = model.net_.criterion_.balance
    assert set(balance.shapes) == {(3, balance.shapes[0][1])}
    assert balance.present == [[False, True, True], [True] * 3, [True] * 3] * 5
    assert np.isfinite(model.loss_curve_).all()


class FromInnerProducts(FromGradients):
    needs = "gramian"

    def build(self, task_weights):
        return _ByNormOfGramian(task_weights, self.power)


class _ByNormOfGramian(_ByNorm):
    def forward(self, losses, gramian, present):
        unused = super().forward(losses, gramian, present)
        return unused * 0 + gramian.diagonal() ** (self.power / 2)


def test_a_gramian_holds_the_inner_products_of_the_gradients():
    by_gramian = fitted(FromInnerProducts(power=-1.0))
    by_jacobian = fitted(FromGradients(power=-1.0))
    assert set(by_gramian.net_.criterion_.balance.shapes) == {(3, 3)}
    torch.testing.assert_close(
        parameters_of(by_gramian), parameters_of(by_jacobian), rtol=0, atol=1e-10
    )


def test_a_recipe_of_ones_own_is_cloned_and_searched():
    model = plain(MultiTaskEstimator, weighting=FromGradients(power=0.5))
    assert clone(model).set_params(weighting__power=2).weighting.power == 2
