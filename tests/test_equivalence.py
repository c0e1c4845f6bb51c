"""Whole trainings equal independent, simpler computations of the same thing."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from fakes import Recorder
from numpy.testing import assert_allclose, assert_array_equal
from plain import plain
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression, Ridge
from torch import nn
from torch.nn import functional as F

from sk_mtl import MultiTaskClassifier, MultiTaskEstimator, MultiTaskRegressor
from sk_mtl.losses import LogLoss, SquaredError
from sk_mtl.network import HeadGroup, build_network
from sk_mtl.objective import Objective
from sk_mtl.trunks import TRUNKS
from sk_mtl.weighting import Static

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

NAN = float("nan")
EXACT = {"n_iter_no_change": np.inf, "early_stopping": False, "random_state": 0}


@pytest.fixture(scope="module")
def table():
    """Four tasks on 90 rows: two classes, three classes, two amounts of very different size."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(90, 5))
    signal = X @ rng.normal(size=(5, 4)) + rng.normal(size=(90, 4))
    Y = np.column_stack(
        [
            signal[:, 0] > 0,
            np.digitize(signal[:, 1], [-1, 1]),
            signal[:, 2],
            1e4 * signal[:, 3] + 5e4,
        ]
    )
    return X, Y.astype(float)


KINDS = ["classification", "classification", "regression", "regression"]


@pytest.fixture(scope="module")
def holes(table):
    """The same with a third of the labels missing, some rows without any."""
    X, Y = table
    Y = Y.copy()
    rng = np.random.default_rng(1)
    Y[rng.random(Y.shape) < 0.3] = NAN
    Y[[3, 40, 41, 77]] = NAN
    return X, Y


def parameters(fitted):
    return torch.cat([p.detach().flatten() for p in fitted.net_.module_.parameters()]).numpy()


# Linear models ------------------------------------------------------------------------------

DESCENT = {  # full-batch gradient descent to the optimum of a strictly convex function
    "hidden_layer_sizes": (),
    "solver": "sgd",
    "momentum": 0.9,
    "learning_rate_init": 0.5,
    "max_iter": 500,
    "batch_size": 90,
    "n_iter_no_change": np.inf,
    "early_stopping": False,
}


@pytest.mark.parametrize("alpha", [0.3, 10.0])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("task", [0, 1], ids=["two classes", "three classes"])
def test_no_hidden_layer_and_one_task_is_logistic_regression(alpha, weighted, task, table):
    X, Y = table
    y = Y[:, task]
    weight = np.random.default_rng(0).integers(1, 4, size=90) if weighted else None
    ours = plain(MultiTaskClassifier, alpha=alpha, **DESCENT).fit(X, y, weight)
    theirs = LogisticRegression(C=1 / alpha, tol=1e-10, max_iter=1000).fit(X, y, weight)
    assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=0, atol=1e-6)
    output = ours.net_.module_.heads[0].output
    coef, intercept = output.weight[0].detach().numpy(), output.bias[0].detach().numpy()
    if task == 1:  # a constant on all classes changes no probability
        coef, intercept = coef - coef.mean(0), intercept - intercept.mean()
    assert_allclose(coef, theirs.coef_, rtol=0, atol=1e-6)
    assert_allclose(intercept, theirs.intercept_, rtol=0, atol=1e-6)
    other = LogisticRegression(C=2 / alpha).fit(X, y, weight)  # negative control
    assert np.abs(ours.predict_proba(X) - other.predict_proba(X)).max() > 1e-3


@pytest.mark.parametrize("alpha", [0.3, 30.0])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("task", [2, 3])
def test_no_hidden_layer_and_one_task_is_ridge(alpha, weighted, task, table):
    X, Y = table
    y = Y[:, task]
    weight = np.random.default_rng(0).integers(1, 4, size=90) if weighted else None
    ours = plain(MultiTaskRegressor, alpha=alpha, **DESCENT | {"learning_rate_init": 0.1}).fit(
        X, y, weight
    )
    theirs = Ridge(alpha=alpha).fit(X, y, weight)
    assert_allclose(ours.predict(X), theirs.predict(X), rtol=1e-9, atol=1e-9 * y.std())
    other = Ridge(alpha=2 * alpha).fit(X, y, weight)  # negative control
    assert np.abs(ours.predict(X) - other.predict(X)).max() > 1e-3 * y.std()


def test_linear_single_task_networks_are_one_linear_model_a_task(table):
    X, Y = table
    ours = plain(
        MultiTaskEstimator,
        "single_task",
        tasks=KINDS,
        alpha=1.0,
        **DESCENT | {"learning_rate_init": 0.1},
    ).fit(X, Y)
    predicted, p = ours.predict(X), ours.predict_proba(X)
    for task in range(4):
        if task < 2:
            theirs = LogisticRegression(C=1.0, tol=1e-10).fit(X, Y[:, task])
            assert_allclose(p[task], theirs.predict_proba(X), rtol=0, atol=1e-6)
        else:
            theirs = Ridge(alpha=1.0).fit(X, Y[:, task])
            assert_allclose(predicted[:, task], theirs.predict(X), rtol=1e-9)


# A loop written by hand ---------------------------------------------------------------------


class PlainNetwork(nn.Module):
    """A shared bottom and a head a task, of torch's own layers."""

    GROUPS = ((0, 0), (1, 0), (2, 0), (2, 1))  # task -> the estimator's group and place in it

    def __init__(self, widths=(1, 3, 1, 1)):
        super().__init__()
        self.bottom = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU())
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, width)) for width in widths
        )

    def pairs(self, state):
        """Yield each of our tensors beside the estimator's part of the same meaning."""
        for place, layer in enumerate((self.bottom[0], self.bottom[2])):
            yield layer.weight, state[f"trunk.layers.{place}.weight"]
            yield layer.bias, state[f"trunk.layers.{place}.bias"]
        for (group, place), head in zip(self.GROUPS, self.heads, strict=True):
            for layer, name in ((head[0], "tower.layers.0"), (head[2], "output")):
                yield layer.weight, state[f"heads.{group}.{name}.weight"][place]
                yield layer.bias, state[f"heads.{group}.{name}.bias"][place]

    def load(self, state):
        with torch.no_grad():
            for ours, theirs in self.pairs(state):
                ours.copy_(theirs)

    def difference(self, state):
        return max((a - b).abs().max().item() for a, b in self.pairs(state))


def plain_loss(network, X, y, task_weights, alpha, mass):
    """sum(w L) / sum(w) over the tasks with labels, plus the L2 penalty, task by task."""
    shared = network.bottom(X)
    losses, weights = [], []
    for t, head in enumerate(network.heads):
        rows = ~y[:, t].isnan()
        if not rows.any():
            continue
        raw, target = head(shared[rows]), y[rows, t]
        if t == 0:
            loss = F.binary_cross_entropy_with_logits(raw[:, 0], target)
        elif t == 1:
            loss = F.cross_entropy(raw, target.long())
        else:
            loss = F.mse_loss(raw[:, 0], target) / 2
        losses.append(task_weights[t] * loss)
        weights.append(task_weights[t])
    squares = sum(layer.weight.square().sum() for layer in (network.bottom[0], network.bottom[2]))
    for t, head in enumerate(network.heads):
        share = task_weights[t] / sum(task_weights)
        squares = squares + share * sum(head[i].weight.square().sum() for i in (0, 2))
    return sum(losses) / sum(weights) + alpha / (2 * mass) * squares


def encoded(Y):
    """Class indices, and amounts in standard deviations from their mean."""
    y = torch.from_numpy(Y.copy())
    for t in (2, 3):
        known = Y[~np.isnan(Y[:, t]), t]
        y[:, t] = (y[:, t] - known.mean()) / known.std()
    return y


SOLVERS = {
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True),
}


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("data", ["table", "holes"])
def test_shared_bottom_is_a_plain_torch_loop_step_by_step(solver, data, request):
    X, Y = request.getfixturevalue(data)
    rows = ~np.isnan(Y).all(axis=1)
    task_weights, alpha, batch_size = [1.0, 0.5, 2.0, 1.0], 0.5, 32
    model = plain(
        MultiTaskEstimator,
        tasks=KINDS,
        hidden_layer_sizes=(8, 6),
        head_hidden_layer_sizes=(4,),
        task_weights=task_weights,
        solver=solver,
        alpha=alpha,
        batch_size=batch_size,
        learning_rate_init=0.01,
        max_iter=6,
        callbacks=[Recorder()],
        **EXACT,
    ).fit(X, Y)
    (recorder,) = model.net_.callbacks
    steps = iter(recorder.states)
    network = PlainNetwork().double()
    network.load(next(steps))
    optimizer = SOLVERS[solver](network.parameters())
    features, y = torch.from_numpy(X[rows]), encoded(Y)[rows]
    # The penalty of a batch is spread over the labels that a batch has on average.
    mass = (~y.isnan()).sum(0).double().mean().item() / len(y) * batch_size
    shuffle = torch.Generator().manual_seed(model._shuffle.seed)
    for _ in range(6):
        for batch in torch.randperm(len(y), generator=shuffle).split(batch_size):
            optimizer.zero_grad()
            plain_loss(network, features[batch], y[batch], task_weights, alpha, mass).backward()
            optimizer.step()
            assert network.difference(next(steps)) < 1e-11
    assert next(steps, None) is None
    # Negative control: one more step, and steps without the penalty or the weights, show.
    for weights, penalty in ((task_weights, alpha), ([1.0] * 4, alpha), (task_weights, 0.0)):
        other = copy.deepcopy(network)
        other.load(recorder.states[0])
        plain_loss(other, features, y, weights, penalty, mass).backward()
        SOLVERS[solver](other.parameters()).step()
        assert other.difference(recorder.states[1]) > 1e-6


# One network a task -------------------------------------------------------------------------

NETWORK = {
    "hidden_layer_sizes": (8, 6),
    "head_hidden_layer_sizes": (4,),
    "learning_rate_init": 0.01,
    "max_iter": 12,
    **EXACT,
}


def separate_fits(X, Y, **params):
    """One ordinary fit a task; predictions side by side, probabilities in a list."""
    models = [
        plain(MultiTaskEstimator, tasks=[kind], **NETWORK | params).fit(X, Y[:, t])
        for t, kind in enumerate(KINDS)
    ]
    p = [m.predict_proba(X) if m.task_types_[0] != "regression" else None for m in models]
    return np.column_stack([m.predict(X) for m in models]), p


def assert_same_fits(model, X, predicted, p, *, tolerance):
    assert_allclose(model.predict(X), predicted, rtol=tolerance, atol=tolerance)
    for ours, theirs in zip(model.predict_proba(X), p, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert_allclose(ours, theirs, rtol=0, atol=tolerance)


VARIANTS = {
    "full batch": {},
    "batches": {"batch_size": 16},
    "strong penalty": {"batch_size": 16, "alpha": 5.0},
    "dropout": {"batch_size": 16, "dropout": 0.3},
    "sgd": {"batch_size": 16, "solver": "sgd"},
    "no hidden layers in the heads": {"batch_size": 16, "head_hidden_layer_sizes": ()},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_single_task_equals_separate_fits(variant, table):
    X, Y = table
    params = VARIANTS[variant]
    model = plain(MultiTaskEstimator, "single_task", tasks=KINDS, **NETWORK | params).fit(X, Y)
    predicted, p = separate_fits(X, Y, **params)
    assert_same_fits(model, X, predicted, p, tolerance=1e-10)
    # Negative controls: another seed is another fit, and so is a shared trunk.
    for change in ({"random_state": 1}, {"trunk": "shared_bottom"}):
        other = clone(model).set_params(**change).fit(X, Y).predict_proba(X)[0]
        assert np.abs(other - p[0]).max() > 1e-3


@pytest.mark.parametrize("alpha", [0.0, 1.0])
@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_single_task_equals_separate_fits_with_missing_labels(solver, alpha, holes):
    """In a full batch: a separate fit makes its batches of its own rows alone."""
    X, Y = holes
    params = NETWORK | {"alpha": alpha, "solver": solver}
    model = plain(MultiTaskEstimator, "single_task", tasks=KINDS, **params).fit(X, Y)
    predicted, p = separate_fits(X, Y, alpha=alpha, solver=solver)
    assert_same_fits(model, X, predicted, p, tolerance=1e-9)


# Weights and missing labels -----------------------------------------------------------------

every_trunk = pytest.mark.parametrize("trunk", TRUNKS)


@every_trunk
def test_sample_weights_equal_repetition(trunk, table):
    X, Y = table
    X, Y = X[:40], Y[:40]
    times = np.random.default_rng(0).integers(0, 4, size=40)
    model = plain(MultiTaskEstimator, trunk, tasks=KINDS, alpha=1.0, **NETWORK)
    weighted = parameters(clone(model).fit(X, Y, sample_weight=times))
    repeated = parameters(clone(model).fit(X.repeat(times, axis=0), Y.repeat(times, axis=0)))
    assert_allclose(weighted, repeated, rtol=0, atol=1e-10)
    assert np.abs(weighted - parameters(clone(model).fit(X, Y))).max() > 1e-3


@every_trunk
def test_weights_a_task_equal_repetition_of_the_tasks_labels(trunk, table):
    X, Y = table
    X, Y = X[:20], Y[:20]
    times = np.random.default_rng(0).integers(0, 3, size=(20, 4))
    rows, labels = [], []
    for row, task in np.ndindex(times.shape):
        alone = np.full(4, NAN)
        alone[task] = Y[row, task]
        rows += [X[row]] * times[row, task]
        labels += [alone] * times[row, task]
    model = plain(MultiTaskEstimator, trunk, tasks=KINDS, alpha=1.0, **NETWORK)
    weighted = parameters(clone(model).fit(X, Y, sample_weight=times))
    repeated = parameters(clone(model).fit(np.array(rows), np.array(labels)))
    assert_allclose(weighted, repeated, rtol=0, atol=1e-10)
    assert np.abs(weighted - parameters(clone(model).fit(X, Y))).max() > 1e-3


@every_trunk
@pytest.mark.parametrize("batch_size", ["auto", 16])
def test_a_row_without_any_label_is_absent_to_the_last_bit(trunk, batch_size, holes):
    X, Y = holes
    useful = ~np.isnan(Y).all(axis=1)
    assert not useful.all()
    model = plain(MultiTaskEstimator, trunk, tasks=KINDS, **NETWORK | {"batch_size": batch_size})
    with_rows = clone(model).fit(X, Y)
    without = clone(model).fit(X[useful], Y[useful])
    assert_array_equal(parameters(with_rows), parameters(without))
    assert with_rows.loss_curve_ == without.loss_curve_
    fewer = clone(model).fit(X[useful][1:], Y[useful][1:])  # negative control: a row that counts
    assert np.abs(parameters(fewer) - parameters(without)).max() > 1e-6


@pytest.mark.parametrize("zero", ["row", "cell"])
def test_what_weighs_nothing_is_missing_to_the_last_bit(zero, table):
    X, Y = table
    weight = np.ones(Y.shape)
    weight[np.random.default_rng(0).random(Y.shape) < 0.3] = 0
    if zero == "row":
        weight = weight[:, :1].repeat(4, axis=1)
    model = plain(MultiTaskEstimator, tasks=KINDS, **NETWORK)
    weighted = clone(model).fit(X, Y, sample_weight=weight)
    missing = clone(model).fit(X, np.where(weight > 0, Y, NAN), sample_weight=np.ones(Y.shape))
    assert_array_equal(parameters(weighted), parameters(missing))


@pytest.mark.parametrize("task", [0, 2], ids=["class", "amount"])
def test_one_task_does_not_see_its_unlabelled_rows_to_the_last_bit(task, holes):
    X, Y = holes
    known = ~np.isnan(Y[:, task])
    model = plain(MultiTaskEstimator, tasks=[KINDS[task]], **NETWORK | {"batch_size": 16})
    assert_array_equal(
        clone(model).fit(X, Y[:, task]).predict(X),
        clone(model).fit(X[known], Y[known, task]).predict(X),
    )


@every_trunk
def test_the_features_of_a_row_do_not_reach_a_task_that_lacks_its_label(trunk, holes):
    """To the last bit: whatever stands in the row, its part of the task's gradient is zero.

    All weight is on one task, so that only the labels of the others need the row.
    """
    X, Y = holes
    params = {"task_weights": [0, 0, 1, 0], "alpha": 0.0, "batch_size": 16}
    model = plain(MultiTaskEstimator, trunk, tasks=KINDS, **NETWORK | params)
    changed = X.copy()
    lacking = np.isnan(Y[:, 2]) & ~np.isnan(Y).all(axis=1)
    changed[lacking] += 3.0
    straight = clone(model).fit(X, Y).predict(X)
    assert_array_equal(clone(model).fit(changed, Y).predict(X), straight)
    changed[~np.isnan(Y[:, 2])] += 0.01  # negative control: rows with a label do reach it
    assert np.abs(clone(model).fit(changed, Y).predict(X)[:, 2] - straight[:, 2]).max() > 1e-6


# Stacks -------------------------------------------------------------------------------------

GROUPS = [
    HeadGroup((0, 3), LogLoss(), 1),
    HeadGroup((1,), LogLoss(), 3),
    HeadGroup((2,), SquaredError(), 1),
]
MEMBER_WEIGHTS = torch.tensor([[1.0, 1, 1, 1], [1, 3, 0.5, 2], [0, 1, 5, 1]], dtype=torch.float64)


def train(trunk, seeds, weights, stack, X, y, *, steps=30):
    """Train a network, or a stack of networks, as the estimators do; return it."""
    recipe = TRUNKS[trunk]()
    network = build_network(
        recipe,
        GROUPS,
        n_inputs=5,
        n_tasks=4,
        hidden_layer_sizes=(8, 6),
        head_hidden_layer_sizes=(4,),
        activation="relu",
        dropout=0.2,
        seeds=seeds,
        dtype=torch.float64,
        stack=stack,
    )
    objective = Objective(GROUPS, 4, Static().build(weights), weights, private=recipe.private)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    order = torch.Generator().manual_seed(0)
    for _ in range(steps):
        rows = torch.randperm(len(X), generator=order)[:32]
        optimizer.zero_grad()
        losses, mass = objective.task_losses(network(X[rows]), y[rows], None, complete=False)
        losses.backward(objective.normalised(objective.weigh(losses.detach(), None, mass), mass))
        optimizer.step()
    return network


@every_trunk
def test_a_stack_is_trained_as_separate_networks_are(trunk, holes):
    X, Y = holes
    X, y = torch.from_numpy(X), encoded(Y)
    y[:, 3] = torch.where(y[:, 3].isnan(), y[:, 3], (y[:, 3] > 0).double())
    seeds = [(10 + i, 20 + i, 7) for i in range(3)]
    stacked = train(trunk, seeds, MEMBER_WEIGHTS, (3,), X, y)
    separate = [
        train(trunk, [seed], weights, (), X, y)
        for seed, weights in zip(seeds, MEMBER_WEIGHTS, strict=True)
    ]
    names = [name for name, _ in stacked.named_parameters()]
    for name, ours in zip(names, stacked.parameters(), strict=True):
        for member, network in enumerate(separate):
            theirs = network.get_parameter(name)
            assert_allclose(ours[member].detach(), theirs.detach(), rtol=0, atol=1e-10)
    # Negative control: the same member with another member's weights ends elsewhere.
    other = train(trunk, seeds[:1], MEMBER_WEIGHTS[1], (), X, y)
    apart = [
        (a - b).abs().max().item()
        for a, b in zip(other.parameters(), separate[0].parameters(), strict=True)
    ]
    assert max(apart) > (1e-7 if trunk == "single_task" else 1e-3)


def test_heads_of_different_widths_are_not_padded(table):
    X, Y = table
    model = plain(
        MultiTaskEstimator, tasks=KINDS, hidden_layer_sizes=(6,), max_iter=1, **EXACT
    ).fit(X, Y)
    widths = [1, 3, 1, 1]  # raw outputs of two classes, three classes, and amounts
    n_head_parameters = sum(p.numel() for p in model.net_.module_.heads.parameters())
    assert n_head_parameters == sum(width * (6 + 1) for width in widths)
