"""From the user's Y and weights to the matrices that training reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sk_mtl.targets import Targets
from sk_mtl.tasks import Task, by_task


@dataclass(frozen=True)
class Labels:
    """Encoded labels.

    Attributes
    ----------
    y : ndarray of shape (n_samples, n_tasks)
        Class indices and standardised values; NaN where a label is missing or weighs nothing.
    weight : ndarray of shape (n_samples, 1 or n_tasks) or None
        Weights of samples times weights of classes.
    """

    y: NDArray[Any]
    weight: NDArray[Any] | None

    def useful_rows(self) -> NDArray[np.intp] | None:
        """Return the rows with some label that counts, or None if all have one."""
        useful = ~np.isnan(self.y).all(axis=1)
        return None if useful.all() else np.flatnonzero(useful)

    def masses(self) -> NDArray[np.float64]:
        """Return the total weight of every task's labels."""
        observed = ~np.isnan(self.y)
        mass = observed if self.weight is None else observed * self.weight
        return np.asarray(mass.sum(axis=0), dtype=np.float64)


def encode_labels(targets: Targets, tasks: Sequence[Task], dtype: Any) -> NDArray[Any]:
    """Return Y as a matrix of class indices and standardised values, NaN where missing."""
    y = np.empty((targets.n_samples, len(tasks)), dtype=dtype)
    for t, (task, column) in enumerate(zip(tasks, targets.columns, strict=True)):
        y[:, t] = task.encode(column, dtype)
    return y


def indicators(y: NDArray[Any], tasks: Sequence[Task]) -> NDArray[Any]:
    """Return encoded labels with a 0/1 column a class in the place of tasks of three and more."""
    columns = []
    for column, task in zip(y.T, tasks, strict=True):
        if task.n_classes <= 2:
            columns.append(column)
            continue
        codes = np.where(np.isnan(column), np.nan, 0.0)
        columns += [codes + (column == k) for k in range(task.n_classes)]
    return np.column_stack(columns)


def weigh_labels(
    y: NDArray[Any], sample_weight: NDArray[Any] | None, factors: Sequence[NDArray[Any] | None]
) -> Labels:
    """Return encoded labels with the weights of samples times those of their classes."""
    weight = sample_weight
    if any(factor is not None for factor in factors):
        base = np.ones((1, 1), y.dtype) if weight is None else weight
        weight = np.broadcast_to(base, y.shape).copy()
        for t, factor in enumerate(factors):
            if factor is not None:
                observed = ~np.isnan(y[:, t])
                weight[observed, t] *= factor[y[observed, t].astype(np.intp)]
    if weight is not None and (weight == 0).any():
        # What weighs nothing is as good as absent, down to the last bit.
        y = np.where(weight == 0, np.nan, y).astype(y.dtype, copy=False)
    return Labels(y, None if weight is None else weight.astype(y.dtype, copy=False))


def class_factors(
    rules: Sequence[Any], tasks: Sequence[Task], y: NDArray[Any], weight: NDArray[Any] | None
) -> list[NDArray[Any] | None]:
    """Return the weight of every class of every task; None where classes weigh the same."""
    weights = np.broadcast_to(np.ones((1, 1)) if weight is None else weight, y.shape)
    return [
        None if rule is None else _factors(rule, task, codes, w).astype(y.dtype)
        for rule, task, codes, w in zip(rules, tasks, y.T, weights.T, strict=True)
    ]


def _factors(rule: Any, task: Task, codes: NDArray[Any], weight: NDArray[Any]) -> NDArray[Any]:
    """Return the weight of every class of a task."""
    assert task.classes is not None
    if isinstance(rule, Mapping):
        classes = task.classes.tolist()
        unknown = [c for c in rule if c not in classes]
        if unknown:
            raise ValueError(
                f"Got class_weight for classes {unknown} of task {task.name!r}, expected some of "
                f"{classes}. Remove the others."
            )
        return np.array([rule.get(c, 1.0) for c in classes])
    observed = ~np.isnan(codes)
    counts = np.bincount(
        codes[observed].astype(np.intp), weights=weight[observed], minlength=task.n_classes
    )
    # sklearn's "balanced": n / (n_classes * count), over what is labelled in this task
    n_present = max(int((counts > 0).sum()), 1)
    with np.errstate(divide="ignore"):
        factors = counts.sum() / (n_present * counts)
    return np.where(counts > 0, factors, 0.0)


def resolve_class_weight(class_weight: Any, tasks: Sequence[Task], *, one_d: bool) -> list[Any]:
    """Return one rule a task: None, "balanced" or a dict by class."""
    names = [task.name for task in tasks]
    if class_weight is None or isinstance(class_weight, str):
        rules: list[Any] = [class_weight if t.is_classification else None for t in tasks]
    elif one_d and isinstance(class_weight, Mapping) and not set(class_weight) <= set(names):
        rules = [class_weight]
    else:
        rules = by_task(class_weight, names, "class_weight")
    for rule, task in zip(rules, tasks, strict=True):
        if rule is not None and rule != "balanced" and not isinstance(rule, Mapping):
            raise ValueError(
                f"Got class_weight={rule!r} for task {task.name!r}, expected None, 'balanced' or "
                "a dict from classes to weights. With several tasks pass a dict by task name."
            )
        if isinstance(rule, Mapping):
            bad = {
                c: w
                for c, w in rule.items()
                if not (isinstance(w, Real) and 0 <= float(w) < np.inf)
            }
            if bad:
                raise ValueError(
                    f"Got class weights {bad} for task {task.name!r}, expected finite numbers "
                    ">= 0. Use 0 for a class that should not count."
                )
        if rule is not None and not task.is_classification:
            raise ValueError(
                f"Got a class_weight for task {task.name!r}, which is a regression task, expected "
                "class weights for classification tasks only. Remove it."
            )
    return rules


def resolve_task_weights(task_weights: Any, names: Sequence[str]) -> NDArray[np.float64]:
    """Return one non-negative weight a task."""
    if task_weights is None:
        return np.ones(len(names))
    given = task_weights
    if isinstance(given, Mapping):
        given = by_task(given, names, "task_weights", default=1.0)
    try:
        weights = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(
            f"Got task_weights={task_weights!r}, expected numbers. Pass one a task, or a dict by "
            "task name."
        ) from None
    if weights.shape == (1, len(names)):  # a draw of scipy.stats.dirichlet
        weights = weights.ravel()
    if weights.ndim != 1:
        raise ValueError(
            f"Got task_weights of shape {weights.shape}, expected ({len(names)},). Pass one a task."
        )
    by_task(weights, names, "task_weights")
    if not np.isfinite(weights).all() or (weights < 0).any():
        raise ValueError(
            f"Got task_weights={task_weights!r}, expected finite numbers >= 0. "
            "Use 0 to leave a task untrained."
        )
    if not weights.any():
        raise ValueError(
            f"Got task_weights={task_weights!r}, all of them zero, expected at least one positive "
            "weight. Only their ratios matter."
        )
    return weights
