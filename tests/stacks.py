"""Helpers of the tests of stacked training: small networks, and slow, plain ways to train them."""

from __future__ import annotations

import copy

import numpy as np
import torch
from plain import plain
from sklearn.base import clone
from torch.nn import functional as F

from sk_mtl import MultiTaskEstimator
from sk_mtl.estimators import _stacking as stacking
from sk_mtl.losses import LogLoss, SquaredError
from sk_mtl.network import HeadGroup, build_network
from sk_mtl.objective import Objective
from sk_mtl.trunks import TRUNKS, Trunk
from sk_mtl.trunks._soft_sharing import _SoftSharing
from sk_mtl.weighting import ConstantWeights

NAN = float("nan")
NAMES = ["class", "amount", "kind", "other"]
GROUPS = [  # two classes, three classes, two amounts
    HeadGroup((0,), LogLoss(), 1),
    HeadGroup((1, 3), SquaredError(), 1),
    HeadGroup((2,), LogLoss(), 3),
]


def recipe_of(trunk):
    return TRUNKS[trunk]() if isinstance(trunk, str) else trunk


def network_of(trunk, seeds, *, stack=None, dropout=0.0, activation="tanh"):
    """A network of four tasks, or a stack of them; one seed a network."""
    return build_network(
        recipe_of(trunk),
        GROUPS,
        n_inputs=3,
        n_tasks=4,
        hidden_layer_sizes=(5, 4),
        head_hidden_layer_sizes=(3,),
        activation=activation,
        dropout=dropout,
        seeds=[(seed, 10 + seed, 20 + seed) for seed in seeds],
        dtype=torch.float64,
        stack=() if stack is None else stack,
    )


def objective_of(trunk, weights):
    """The objective of constant weights ``(*stack, n_tasks)``."""
    weights = torch.as_tensor(weights, dtype=torch.float64)
    return Objective(GROUPS, 4, ConstantWeights(weights), weights, private=recipe_of(trunk).private)


def rows_of(n_rows, *, seed=0, missing=True):
    """Features and encoded targets."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_rows, 3))
    y = np.column_stack(
        [
            X[:, 0] > 0,
            X @ [1.0, -1.0, 0.5] + rng.normal(size=n_rows),
            rng.integers(0, 3, n_rows),
            rng.normal(size=n_rows),
        ]
    ).astype(float)
    if missing:
        y[rng.random(y.shape) < 0.3] = NAN
        y[0] = [1.0, 0.5, 2.0, -0.5]
    return torch.from_numpy(X), torch.from_numpy(y)


def plain_losses(network, X, y, sample_weight=None):
    """The mean loss of every task over its labelled rows, task by task; None without any."""
    losses = [None] * y.shape[1]
    for group, raw in zip(network.groups, network(X), strict=True):
        for place, t in enumerate(group.tasks):
            rows = ~y[:, t].isnan()
            if not rows.any():
                continue
            out, target = raw[place, rows], y[rows, t]
            if group.n_outputs > 1:
                each = F.cross_entropy(out, target.long(), reduction="none")
            elif isinstance(group.loss, LogLoss):
                each = F.binary_cross_entropy_with_logits(out[:, 0], target, reduction="none")
            else:
                each = F.mse_loss(out[:, 0], target, reduction="none") / 2
            if sample_weight is None:
                losses[t] = each.mean()
            else:
                w = sample_weight.expand(y.shape)[rows, t]
                losses[t] = (w * each).sum() / w.sum()
    return losses


def plain_loss(network, X, y, task_weights, *, private=False, sample_weight=None):
    """sum(w L) / sum(w) over the tasks with labels; over all tasks, times them, if private."""
    losses = plain_losses(network, X, y, sample_weight)
    known = [t for t, loss in enumerate(losses) if loss is not None]
    total = sum(task_weights[t] * losses[t] for t in known)
    if private:
        return total * len(task_weights) / sum(task_weights)
    return total / sum(task_weights[t] for t in known)


def plain_penalty(network, task_weights, decay, *, private=False):
    """decay / 2 times the squares of the weights of linear layers; heads by their task's share."""
    n_tasks = len(task_weights)
    share = [w / sum(task_weights) * (n_tasks if private else 1) for w in task_weights]
    each = decay if private else [decay] * n_tasks
    total = 0.0
    for name, parameter in network.trunk.named_parameters():
        if not name.endswith("weight"):
            continue
        if private:
            total += sum(each[t] * share[t] * parameter[t].square().sum() for t in range(n_tasks))
        else:
            total += decay * parameter.square().sum()
    for head in network.heads:
        for name, parameter in head.named_parameters():
            if name.endswith("weight"):
                for place, t in enumerate(head.tasks.tolist()):
                    total += each[t] * share[t] * parameter[place].square().sum()
    return (total + apart(network)) / 2


def apart(network):
    """How far towers that are held together are from their mean, times the strength of that."""
    total = 0.0
    if isinstance(network.trunk, _SoftSharing):
        for parameter in network.trunk.parameters():
            for tower in parameter:
                total += ((tower - sum(parameter) / len(parameter)) ** 2).sum()
        total *= network.trunk.strength
    return total


class Built(Trunk):
    """A user's trunk that makes its module by calling a function."""

    def __init__(self, module=None):
        self.module = module

    def build(self, spec):
        return self.module(spec)


# Estimators, trained in a stack and alone -----------------------------------------------------


def table(n_rows=103, seed=0, *, missing=False):
    """Features and labels: two classes, two amounts of different size."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_rows, 4))
    signal = X @ rng.normal(size=(4, 3)) + rng.normal(size=(n_rows, 3))
    Y = np.column_stack([signal[:, 0] > 0, signal[:, 1], 100 * signal[:, 2] + 500]).astype(float)
    if missing:
        gaps = rng.random(Y.shape) < 0.2
        gaps[gaps.all(axis=1), 1] = False  # rows without any label would be left out
        Y[gaps] = NAN
    return X, Y


def estimator(trunk="shared_bottom", **params):
    defaults = {
        "tasks": ["classification", "regression", "regression"],
        "hidden_layer_sizes": (6, 5),
        "learning_rate_init": 0.01,
        "batch_size": 32,
        "max_iter": 5,
        "random_state": 0,
    }
    return plain(MultiTaskEstimator, trunk, **(defaults | params))


def open_stack(models, data):
    """Sessions and plans of clones of estimators, each on the ``(X, y, fit_params)`` of its place.

    Parameters
    ----------
    models : list of estimators
        One a network.
    data : list of tuples
        One a network; those that are the same object are encoded once.
    """
    known = {}
    sessions = [
        stacking.open_session(clone(model), *rows, known, id(rows))
        for model, rows in zip(models, data, strict=True)
    ]
    return sessions, [session.plan() for session in sessions]


def fit_stack(models, data):
    """Return clones of estimators, trained as one stack; check that they can be."""
    sessions, plans = open_stack(models, data)
    forms = {stacking.form(s, p) for s, p in zip(sessions, plans, strict=True)}
    assert len(forms) == 1, "these networks are not of one form"
    assert not any(stacking.why_alone(s, p) for s, p in zip(sessions, plans, strict=True))
    errors = stacking.train_stack(sessions, plans)
    return [session.est for session in sessions], errors


def fit_alone(models, data):
    """Return clones of estimators, each trained by its own ``fit``."""
    pairs = zip(models, data, strict=True)
    return [clone(m).fit(X, y, **fit_params) for m, (X, y, fit_params) in pairs]


def raw(model, X):
    """The raw outputs of a fitted estimator, in one row."""
    outputs = model.net_.raw_outputs(torch.from_numpy(X).to(model._torch_dtype))
    return torch.cat([out.flatten() for out in outputs]).numpy()


def weights(model):
    """A copy of the tensors of a fitted estimator's network."""
    return copy.deepcopy(model.net_.module_.state_dict())
