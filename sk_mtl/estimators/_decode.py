"""From raw outputs back to labels, probabilities and units."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, r2_score
from torch import Tensor

from sk_mtl.network import HeadGroup
from sk_mtl.targets import Targets
from sk_mtl.tasks import Task, check_numbers


def predictions(
    groups: Sequence[HeadGroup], raw: Sequence[Tensor], tasks: Sequence[Task], dtype: Any
) -> list[NDArray[Any]]:
    """Return every task's labels or values, in the user's classes and units."""
    columns: list[Any] = [None] * len(tasks)
    for group, output in zip(groups, raw, strict=True):
        if "regression" in group.loss.kinds:
            values = group.loss.to_prediction(output).numpy()  # (task, row)
        elif group.n_outputs == 1:
            values = (output[..., 0] > 0).long().numpy()
        else:
            values = output.argmax(-1).numpy()
        for t, value in zip(group.tasks, values, strict=True):
            task = tasks[t]
            if task.n_classes == 1:
                value = np.zeros_like(value)
            decoded = task.decode(value)
            columns[t] = decoded if task.is_classification else decoded.astype(dtype, copy=False)
    return columns


def probabilities(
    groups: Sequence[HeadGroup], raw: Sequence[Tensor], tasks: Sequence[Task], dtype: Any
) -> list[NDArray[Any] | None]:
    """Return every task's class probabilities; None for a regression task."""
    result: list[Any] = [None] * len(tasks)
    for group, output in zip(groups, raw, strict=True):
        if "regression" in group.loss.kinds:
            continue
        values = group.loss.to_prediction(output).numpy()  # (task, row, class)
        for t, value in zip(group.tasks, values, strict=True):
            if tasks[t].n_classes == 1:
                result[t] = np.ones((len(value), 1), dtype=dtype)
            else:
                result[t] = value.astype(dtype)
    return result


def join(columns: Sequence[NDArray[Any]], *, one_d: bool) -> NDArray[Any]:
    """Return predictions as one array: numbers of a common type, else objects."""
    if one_d:
        return columns[0]
    kinds = {column.dtype.kind for column in columns}
    if kinds <= set("biuf") or kinds == {"U"}:
        return np.column_stack(list(columns))
    joined = np.empty((len(columns[0]), len(columns)), dtype=object)
    for t, column in enumerate(columns):
        joined[:, t] = column
    return joined


def mean_score(
    tasks: Sequence[Task],
    targets: Targets,
    predicted: Sequence[NDArray[Any]],
    weight: NDArray[Any] | None,
) -> float:
    """Return the mean over tasks of accuracy or R2 on the labelled rows."""
    scores = []
    for t, (task, column) in enumerate(zip(tasks, targets.columns, strict=True)):
        w = None if weight is None else weight[:, min(t, weight.shape[1] - 1)]
        rows = ~column.missing if w is None else ~column.missing & (w > 0)
        if not rows.any():
            continue
        truth, guess = column.values[rows], predicted[t][rows]
        w = None if w is None else w[rows]
        if not task.is_classification:
            check_numbers(column, task.name)
            scores.append(r2_score(truth.astype(np.float64), guess, sample_weight=w))
        else:
            task.check_type(truth)
            hit = np.asarray(truth == guess)
            scores.append(accuracy_score(np.ones_like(hit), hit, sample_weight=w))
    if not scores:
        raise ValueError(
            "Got y without any label: all of them are missing, expected at least one to score. "
            "Score on rows with labels."
        )
    return float(np.mean(scores))
