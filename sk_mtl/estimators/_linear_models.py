"""Mix linear models into trained networks, as much as helps on rows that were held out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from sk_mtl.columns import torch_dtype
from sk_mtl.estimators._session import Plan, Session
from sk_mtl.linear_path import Features, LinearInputs, LinearPath
from sk_mtl.ridge import (
    MOST_WORK,
    LinearModels,
    fit_linear_models,
    n_label_patterns,
    share_of_linear,
    work,
)

Arrays = list[NDArray[Any]]


def mix_linear_models(networks: Sequence[tuple[Session, Plan]]) -> None:
    """Fit linear models to every network's training rows, and mix them into its outputs.

    How much of them a task takes is found on the held-out rows of all members together, which
    neither of the two has learned from; one of weight 0 takes nothing. Nothing is done where no
    rows are held out, where X is sparse, where heads depend on each other, or where it would take
    longer than some seconds.

    Parameters
    ----------
    networks : sequence of (Session, Plan)
        The trained networks of an estimator.
    """
    session, plan = networks[0]
    est = session.est
    if not est.linear_path or plan.valid is None or session.incremental:
        return
    if sparse.issparse(session.X) or est._links is not None:
        return
    dtype = torch_dtype(session.dtype)
    inputs = LinearInputs(est._columns.layout, est._columns.scaling == "robust", dtype)
    if not inputs.n_features:
        return
    if _work(networks, inputs) > MOST_WORK:
        return
    inputs.reach(session.X, session.rows)
    models = [_models(session, plan, inputs) for session, plan in networks]
    seen = [
        _held_out(session, plan, inputs, own)
        for (session, plan), own in zip(networks, models, strict=True)
    ]
    weights = plan.task_weights.tolist()
    shares = [_share(t, seen, est) if weights[t] else 0.0 for t in range(est.n_tasks_)]
    groups = [group.tasks for group in est.net_.module_.groups]
    for (session, _), own in zip(networks, models, strict=True):
        path = LinearPath(inputs, own, shares, groups, dtype)
        session.est.net_.module_.linear = path.to(session.device)


def _work(networks: Sequence[tuple[Session, Plan]], inputs: LinearInputs) -> float:
    """Return about how many multiplications the linear models of all networks take."""
    data = networks[0][1].train
    weight = data.weight
    n_fits = n_label_patterns(
        data.y.cpu().numpy(), None if weight is None else weight.cpu().numpy()
    )
    n_sets = len({id(plan.train) for _, plan in networks})
    return work(len(data), inputs.n_features, n_fits * n_sets)


def _models(session: Session, plan: Plan, inputs: LinearInputs) -> LinearModels:
    """Return linear models of a network's training rows; networks of the same rows share them."""
    rows = plan.train.rows
    key = ("linear", None if rows is None else rows.cpu().numpy().tobytes())
    if key not in session.tables:
        weight = plan.train.weight
        session.tables[key] = fit_linear_models(
            Features(inputs, plan.train),
            plan.train.y.cpu().numpy(),
            [task.n_classes for task in session.est._tasks],
            None if weight is None else weight.cpu().numpy(),
            inputs.n_scaled,
        )
    models: LinearModels = session.tables[key]
    return models


def _held_out(
    session: Session, plan: Plan, inputs: LinearInputs, models: LinearModels
) -> tuple[Arrays, Arrays, NDArray[Any], NDArray[Any]]:
    """Return raw outputs of network and linear models a task, targets and weights."""
    assert plan.valid is not None
    net, data = session.est.net_, plan.valid
    outputs: dict[int, NDArray[Any]] = {}
    for group, raw in zip(net.module_.groups, net.raw_outputs(data.X), strict=True):
        outputs.update(zip(group.tasks, raw.numpy(), strict=True))
    linear = Features(inputs, data)[:] @ models.coef.T + models.intercept
    owners, y = np.array(models.tasks), data.y.cpu().numpy()
    tasks = range(y.shape[1])
    weight = data.weight
    weights = np.ones((1, 1)) if weight is None else weight.cpu().numpy()
    by_task = [linear[:, owners == t] for t in tasks]
    return [outputs[t] for t in tasks], by_task, y, np.broadcast_to(weights, y.shape)


def _share(task: int, seen: Sequence[Any], est: Any) -> float:
    """Return how much of linear models a task takes."""
    network, linear = (np.concatenate([part[i][task] for part in seen]) for i in (0, 1))
    y, weight = (np.concatenate([part[i][:, task] for part in seen]) for i in (2, 3))
    if not est._task_losses[task].mixes_linear or network.shape != linear.shape:
        return 0.0
    there = ~np.isnan(y)
    return share_of_linear(
        network[there], linear[there], y[there], weight[there], est._tasks[task].n_classes
    )
