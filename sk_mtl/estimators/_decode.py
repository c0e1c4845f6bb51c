"""From raw outputs back to labels, probabilities and units."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sk_mtl.cascades._recipes import Links, bound_probabilities
from sk_mtl.network import HeadGroup
from sk_mtl.tasks import Task


def outcomes(
    groups: Sequence[HeadGroup], raw: Sequence[Tensor], links: Links | None = None
) -> list[NDArray[Any]]:
    """Return what each task's loss makes of its raw outputs: (row, class), or (row,) for amounts.

    The loss alone knows how to read them, for labels as for probabilities.
    """
    found: dict[int, NDArray[Any]] = {}
    for group, output in zip(groups, raw, strict=True):
        values = group.loss.to_prediction(output).numpy()  # (task, row[, class])
        found.update(zip(group.tasks, values, strict=True))
    by_task = [found[t] for t in sorted(found)]
    bound_probabilities(by_task, links)
    return by_task


def mean_outcomes(by_net: Sequence[list[NDArray[Any]]]) -> list[NDArray[Any]]:
    """Return the mean over networks of every task's outcomes."""
    if len(by_net) == 1:
        return by_net[0]
    return [np.mean(task, axis=0) for task in zip(*by_net, strict=True)]


def predictions(
    outcomes: Sequence[NDArray[Any]], tasks: Sequence[Task], dtype: Any
) -> list[NDArray[Any]]:
    """Return every task's labels or values, in the user's classes and units."""
    return [
        task.decode(outcome[:, : task.n_classes].argmax(-1))
        if task.is_classification
        else task.decode(outcome).astype(dtype, copy=False)
        for task, outcome in zip(tasks, outcomes, strict=True)
    ]


def probabilities(
    outcomes: Sequence[NDArray[Any]], tasks: Sequence[Task], dtype: Any
) -> list[NDArray[Any] | None]:
    """Return every task's class probabilities; None for a regression task."""
    result: list[Any] = []
    for task, outcome in zip(tasks, outcomes, strict=True):
        if task.n_classes == 1:  # the second column stands for no class
            result.append(np.ones((len(outcome), 1), dtype=dtype))
        else:
            result.append(_as_type(outcome, dtype) if task.is_classification else None)
    return result


def _as_type(p: NDArray[Any], dtype: Any) -> NDArray[Any]:
    """Return probabilities in another type; of a wider one they add up to 1 to its precision."""
    found = p.astype(dtype)
    if found.dtype.itemsize > p.dtype.itemsize:
        if p.shape[1] == 2:  # the second stays, which a cascade may have bound to another task's
            found[:, 0] = 1.0 - found[:, 1]
        else:
            found /= found.sum(axis=1, keepdims=True)
    return found


def join(columns: Sequence[NDArray[Any]], *, one_d: bool) -> NDArray[Any]:
    """Return predictions as one array: numbers of a type that holds them all, else objects."""
    if one_d:
        return columns[0]
    kinds = {column.dtype.kind for column in columns}
    if kinds <= set("biuf") or kinds == {"U"}:
        stacked = np.column_stack(list(columns))
        if stacked.dtype.kind != "f" or all(_is_exact(column, stacked.dtype) for column in columns):
            return stacked
    joined = np.empty((len(columns[0]), len(columns)), dtype=object)
    for t, column in enumerate(columns):
        joined[:, t] = column
    return joined


def _is_exact(column: NDArray[Any], dtype: Any) -> bool:
    """Whether floats of this type hold the column: not so for whole numbers of 17 digits."""
    if column.dtype.kind not in "iu" or not column.size:
        return True
    limit = 2 ** (np.finfo(dtype).nmant + 1)
    return bool(column.min() >= -limit and column.max() <= limit)
