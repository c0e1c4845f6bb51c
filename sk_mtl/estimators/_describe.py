"""What the tasks are: their classes, losses and scales, from the labels and the parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sk_mtl._support import resolve_recipe
from sk_mtl.losses import LOSSES, Loss
from sk_mtl.targets import Column, Targets, read_targets
from sk_mtl.tasks import Task, by_task, check_numbers, find_classes, weighted_scale

DEFAULT_LOSSES = {"classification": "log_loss", "regression": "squared_error"}
FORMS = {"classification": "binary", "regression": "regression"}  # what a loss has to fit


def kinds_of(tasks: Sequence[Task]) -> list[str]:
    """Return "classification" or "regression" a task."""
    return ["classification" if task.is_classification else "regression" for task in tasks]


def describe_tasks(
    targets: Targets,
    kinds: Sequence[str],
    losses: Sequence[Loss],
    weight: NDArray[Any] | None,
    classes: Sequence[NDArray[Any] | None],
) -> list[Task]:
    """Describe every task from its training labels, and from its classes where they are given."""
    tasks = []
    columns = zip(targets.task_names, kinds, targets.columns, losses, classes, strict=True)
    for t, (name, kind, column, loss, known) in enumerate(columns):
        if kind == "classification":
            if known is None and column.missing.all():
                raise ValueError(
                    f"Got no label at all for task {name!r} in the first call of partial_fit, "
                    "expected its classes. Pass classes, name its type in tasks if these are "
                    "amounts, or begin with a batch that has labels."
                )
            found = find_classes(column, name) if known is None else known
            tasks.append(Task(name, "binary" if len(found) <= 2 else "multiclass", found))
        else:
            w = None if weight is None else weight[:, min(t, weight.shape[1] - 1)]
            tasks.append(_describe_amounts(name, column, loss, w))
    return tasks


def _describe_amounts(name: str, column: Column, loss: Loss, weight: NDArray[Any] | None) -> Task:
    """Describe a regression task: where its labels lie, and how far they spread."""
    check_numbers(column, name)
    rows = ~column.missing if weight is None else ~column.missing & (weight > 0)
    if not rows.any():
        raise ValueError(
            f"Got no label at all for regression task {name!r} in the first call of partial_fit, "
            "expected some: its scale is taken from them. Begin with a batch that has labels."
        )
    if not loss.standardizes:
        return Task(name, "regression")
    values = column.values[rows].astype(np.float64)
    mean, scale = weighted_scale(values, None if weight is None else weight[rows], name)
    return Task(name, "regression", mean=mean, scale=scale)


def resolve_losses(loss: Any, kinds: Sequence[str], names: Sequence[str]) -> list[Loss]:
    """Return the loss of every task, checked against the task's type."""
    several = isinstance(loss, (list, tuple, dict))
    given = by_task(loss, names, "loss") if several else [loss] * len(names)
    losses = []
    for value, kind, name in zip(given, kinds, names, strict=True):
        value = DEFAULT_LOSSES[kind] if value is None else value
        found: Loss = resolve_recipe(value, LOSSES, Loss, "loss")
        if FORMS[kind] not in found.kinds:
            fitting = sorted(n for n, cls in LOSSES.items() if FORMS[kind] in cls.kinds)
            raise ValueError(
                f"Got loss={value!r} for {kind} task {name!r}, expected one of {fitting}. "
                "Give each task its loss in a dict by task name."
            )
        losses.append(found)
    return losses


def spread_classes(
    classes: Any, kinds: Sequence[str], names: Sequence[str]
) -> list[NDArray[Any] | None]:
    """Return the classes of every task from those that partial_fit was given."""
    if isinstance(classes, (str, bytes)) or not np.iterable(classes):
        raise ValueError(
            f"Got classes={classes!r}, expected an array of them. Pass all classes, or an "
            "array a task in a list or in a dict by task name."
        )
    flat = not any(isinstance(c, (list, tuple, np.ndarray)) or c is None for c in classes)
    given: list[Any]
    if not isinstance(classes, dict) and (flat or len(names) == 1):
        given = [classes if kind == "classification" else None for kind in kinds]
    else:
        given = by_task(classes, names, "classes")
    found: list[NDArray[Any] | None] = []
    for name, kind, labels in zip(names, kinds, given, strict=True):
        is_given = labels is not None and np.size(labels) > 0
        if kind == "classification" and not is_given:
            raise ValueError(
                f"Got no classes for classification task {name!r}, expected all of them. Pass an "
                "array of every label that the task may have."
            )
        if kind == "regression" and is_given:
            raise ValueError(
                f"Got some classes for regression task {name!r}, expected none. Pass None for it."
            )
        found.append(find_classes(read_targets(labels).columns[0], name) if is_given else None)
    return found


def check_same_classes(classes: Any, tasks: Sequence[Task]) -> None:
    """Raise where a later call of partial_fit names other classes than the first."""
    if classes is None:
        return
    given = spread_classes(classes, kinds_of(tasks), [task.name for task in tasks])
    for task, found in zip(tasks, given, strict=True):
        if found is None or task.classes is None:
            continue
        if not np.array_equal(found, task.classes):
            raise ValueError(
                f"Got classes {found.tolist()} for task {task.name!r}, expected those of the "
                f"first call: {task.classes.tolist()}. Leave classes out after it."
            )
