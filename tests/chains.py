"""Helpers of the tests of cascades: tasks that depend on tasks, slowly, and a small shop."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from plain import plain
from torch.utils._python_dispatch import TorchDispatchMode

from sk_mtl import MultiTaskClassifier
from sk_mtl.cascades import Funnel
from sk_mtl.cascades._recipes import resolve_cascade
from sk_mtl.losses import LogLoss, SquaredError
from sk_mtl.network import build_network, group_tasks
from sk_mtl.tasks import Task
from sk_mtl.trunks import TRUNKS

NAN = float("nan")
every_trunk = pytest.mark.parametrize("trunk", TRUNKS)
both_ways = pytest.mark.parametrize("flows", [False, True], ids=["detached", "backpropagated"])

# Networks of tasks that read what is predicted of others --------------------------------------

TWO, THREE = np.array([0, 1]), np.array([0, 1, 2])
TASKS = {
    "late": Task("late", "binary", TWO),
    "kind": Task("kind", "multiclass", THREE),
    "loss": Task("loss", "regression"),
    "default": Task("default", "binary", TWO),
    "alone": Task("alone", "regression"),
    "early": Task("early", "binary", TWO),
}
# Three levels; "default" and "loss" read outputs of other widths: one, one and three.
PARENTS = {"default": ["late"], "kind": "early", "loss": ["kind", "default"]}


LOSS_OF = {"binary": LogLoss(), "multiclass": LogLoss(), "regression": SquaredError()}


def network_of(trunk, tasks, dependencies, *, head=(3,), stack=(), seeds=(0,)):
    """The network of some tasks, in the order in which their columns come."""
    links = resolve_cascade(dependencies, tasks)
    network = build_network(
        TRUNKS[trunk](),
        group_tasks(tasks, [LOSS_OF[task.kind] for task in tasks], links),
        n_inputs=4,
        n_tasks=len(tasks),
        hidden_layer_sizes=(6, 5),
        head_hidden_layer_sizes=head,
        activation="tanh",
        dropout=0.0,
        seeds=[(seed, 10 + seed, 20 + seed) for seed in seeds],
        dtype=torch.float64,
        stack=stack,
        links=links,
    )
    return network, links


def slow_outputs(network, links, tasks, X, *, order=None):
    """Raw outputs a task, one task after the other, parents first, each from its slices."""
    features = network.trunk(X)
    place = {t: (g, i) for g, group in enumerate(network.groups) for i, t in enumerate(group.tasks)}
    raw, seen = {}, {}
    for t in sorted(range(len(tasks)), key=lambda t: links.levels[t]):
        g, i = place[t]
        parents = links.parents[t] if order is None else order(links.parents[t])
        own = features if features.dim() == 2 else features[t]
        x = torch.cat([own, *(seen[p] for p in parents)], dim=1)
        for layer in network.heads[g].tower.layers:
            x = torch.tanh(x @ layer.weight[i].T + layer.bias[i])
        raw[t] = x @ network.heads[g].output.weight[i].T + network.heads[g].output.bias[i]
        seen[t] = raw[t] if links.flows else raw[t].detach()
        if tasks[t].kind == "binary":
            seen[t] = torch.sigmoid(seen[t])
        elif tasks[t].kind == "multiclass":
            seen[t] = torch.softmax(seen[t], dim=1)
    return [raw[t] for t in range(len(tasks))]


def fast_outputs(network, X):
    """The network's raw outputs a task."""
    found = {}
    for group, out in zip(network.groups, network(X), strict=True):
        found.update(zip(group.tasks, out, strict=True))
    return [found[t] for t in range(len(found))]


def rows(n=13, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, 4)))


class CountOperators(TorchDispatchMode):
    """Counts the operators that run, those of the backward pass included."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


# A funnel -------------------------------------------------------------------------------------

NAMES = ["click", "buy", "ship"]
FUNNEL = Funnel({"buy": "click", "ship": "buy"})


def shop(n_rows=300, seed=0):
    """Features, three labels, and their true probabilities a row."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_rows, 4))
    click = 1 / (1 + np.exp(0.8 - 1.5 * X[:, 0]))
    buy = 1 / (1 + np.exp(0.5 - 1.5 * X[:, 0] - X[:, 1]))
    ship = 1 / (1 + np.exp(-0.5 - X[:, 2]))
    chances = np.column_stack([click, click * buy, click * buy * ship])
    happened = np.cumprod(rng.random((n_rows, 3)) < np.column_stack([click, buy, ship]), axis=1)
    return X, pd.DataFrame(happened.astype(float), columns=NAMES), chances


def as_observed(Y):
    """Labels as a shop has them: who has not clicked was never asked to buy."""
    Y = Y.copy()
    Y.loc[Y["click"] == 0, ["buy", "ship"]] = NAN
    Y.loc[Y["buy"] == 0, "ship"] = NAN
    return Y


def model_of(trunk="shared_bottom", **params):
    defaults = {
        "hidden_layer_sizes": (6, 5),
        "learning_rate_init": 0.02,
        "batch_size": 50,
        "max_iter": 5,
        "task_dependencies": FUNNEL,
        "random_state": 0,
    }
    return plain(MultiTaskClassifier, trunk, **(defaults | params))


def positive(model, X):
    """Probabilities of the second class, a column a task."""
    return np.column_stack([p[:, 1] for p in model.predict_proba(X)])
