"""An estimator for some of the tasks: their labels, and what it was given for each task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.pipeline import Pipeline
from sklearn.utils import check_random_state

from sk_mtl._support import resolve_recipe, safe_indexing
from sk_mtl.estimators._ours import why_not_ours
from sk_mtl.targets import as_frame, read_targets
from sk_mtl.tasks import by_task
from sk_mtl.trunks import TRUNKS, SharedBottom, Trunk
from sk_mtl.views import task_index

LABELS = ("y_val",)  # parameters of fit that have one column a task
WEIGHTS = ("sample_weight", "sample_weight_val")


def network_of(estimator: Any) -> tuple[Any, str]:
    """Return the multi-task estimator at the end of pipelines and groupers, and its prefix.

    Raises
    ------
    TypeError
        If it is none of this package.
    """
    final, prefix = estimator, ""
    while why_not_ours(final) is not None:
        if isinstance(final, Pipeline):
            name, final = final.steps[-1]
        elif hasattr(final, "_groups_tasks"):
            name, final = "estimator", final.estimator
        else:
            raise TypeError(
                f"Got {type(final).__name__}, expected a multi-task estimator of this package or a "
                "pipeline that ends in one. Pass the estimator itself, not a search over it."
            )
        prefix += f"{name}__"
    return final, prefix


def check_shares(estimator: Any, n_tasks: int) -> None:
    """Raise where there is nothing that tasks could share."""
    final = network_of(estimator)[0]
    trunk: Trunk = resolve_recipe(final.trunk, TRUNKS, Trunk, "trunk")
    if trunk.private:
        raise ValueError(
            f"Got trunk={trunk!r}, whose tasks share nothing, expected one that shares. Use "
            "trunk='shared_bottom', for instance."
        )
    if isinstance(trunk, SharedBottom) and not np.size(final.hidden_layer_sizes):
        raise ValueError(
            f"Got hidden_layer_sizes={final.hidden_layer_sizes!r}, which leaves no shared "
            "parameter, expected at least one hidden layer."
        )
    if n_tasks < 2:
        raise ValueError(
            "Got a single task, expected at least two that could share. Pass Y with a column a "
            "task."
        )


def seeded(estimator: Any, random_state: Any) -> Any:
    """Return a clone whose network has a seed: its own, or one that is drawn."""
    final, prefix = network_of(estimator)
    twin = clone(estimator)
    if final.random_state is None:
        seed = int(check_random_state(random_state).randint(2**31 - 1))
        twin.set_params(**{f"{prefix}random_state": seed})
    return twin


def select_tasks(Y: Any, tasks: Sequence[int]) -> Any:
    """Return the columns of some tasks; a single one as a one-dimensional array or series."""
    Y = as_frame(Y)
    if not hasattr(Y, "shape"):
        Y = np.asarray(Y, dtype=object)
    if len(Y.shape) == 1 or len(tasks) == Y.shape[1]:
        return Y
    if hasattr(Y, "get_column") and len(tasks) == 1:  # polars
        return Y.get_column(Y.columns[tasks[0]])
    return safe_indexing(Y, tasks[0] if len(tasks) == 1 else list(tasks), axis=1)


def plain_labels(Y: Any) -> NDArray[Any]:
    """Return labels of any container as an array of objects, None where they are missing."""
    targets = read_targets(Y)
    plain = np.full((targets.n_samples, len(targets)), None, dtype=object)
    for t, column in enumerate(targets.columns):
        plain[~column.missing, t] = column.observed
    return plain


def without_names(name: str, value: Any, names: Sequence[str]) -> Any:
    """Return a parameter of ``fit`` with its columns, if there is one a task, in their order."""
    last = name.rpartition("__")[2]
    if value is None or last not in (*LABELS, *WEIGHTS):
        return value
    value = as_frame(value)
    columns = list(getattr(value, "columns", []))
    if set(columns) == set(names):
        value = value[list(names)]
    return plain_labels(value) if last in LABELS else np.asarray(value)


def fit_params_of(
    params: Mapping[str, Any], names: Sequence[str], tasks: Sequence[int]
) -> dict[str, Any]:
    """Return parameters of ``fit``, those with a column a task cut to some tasks."""
    return {name: _cut(name, value, names, tasks) for name, value in params.items()}


def _cut(name: str, value: Any, names: Sequence[str], tasks: Sequence[int]) -> Any:
    last = name.rpartition("__")[2]
    if value is None or last not in (*LABELS, *WEIGHTS):
        return value
    value = as_frame(value)
    columns = list(getattr(value, "columns", []))
    if set(columns) == set(names):
        tasks = [columns.index(names[t]) for t in tasks]
    shape = np.shape(value)
    if len(shape) == 2 and shape[1] == len(names):
        return select_tasks(value, tasks)
    return value


def restricted(estimator: Any, names: Sequence[str], tasks: Sequence[int]) -> dict[str, Any]:
    """Return the parameters by which an estimator is told of some of the tasks only.

    Parameters
    ----------
    estimator : estimator
        A multi-task estimator, or a pipeline that ends in one.
    names : list of str
        All tasks.
    tasks : sequence of int
        Those that are kept.

    Returns
    -------
    dict
        For ``set_params``: values a task become lists in the order of ``tasks``.

    Raises
    ------
    ValueError
        If some part has parameters by task name, which nothing tells how to restrict.
    """
    if len(tasks) == len(names):
        return {}
    final, prefix = network_of(estimator)
    check_independent(final, "a part of the tasks")
    for part in ("trunk", "weighting", "penalty"):
        _check_names_no_tasks(part, getattr(final, part), names)
    found: dict[str, Any] = {}
    for name, empty in (("task_weights", 1.0), ("loss", None), ("class_weight", None)):
        value = getattr(final, name, None)
        if isinstance(value, (list, tuple, Mapping, np.ndarray)):
            found[name] = _chosen(value, names, tasks, name, empty)
    if isinstance(getattr(final, "tasks", "auto"), (list, tuple, Mapping)):
        found["tasks"] = _chosen(final.tasks, names, tasks, "tasks", None)
    if len(tasks) == 1:  # of one task they have no meaning
        found |= {name: None for name in ("task_weights", "penalty") if getattr(final, name)}
    if final.stopping_tasks is not None:
        places = [_place(task, names) for task in final.stopping_tasks]
        found["stopping_tasks"] = [list(tasks).index(p) for p in places if p in tasks] or None
    return {f"{prefix}{name}": value for name, value in found.items()}


def _chosen(
    value: Any, names: Sequence[str], tasks: Sequence[int], what: str, empty: Any
) -> list[Any]:
    """Return what is given for some of the tasks, in a mapping or for each."""
    if isinstance(value, np.ndarray):
        value = value.ravel()  # a draw of scipy.stats.dirichlet has two axes
    each = by_task(value, names, what, default=empty)
    return [each[t] for t in tasks]


def _place(task: Any, names: Sequence[str]) -> int:
    """Return the position of a task given by its name or index, as an estimator reads it."""
    if isinstance(task, (int, np.integer)) and -len(names) <= task < 0:
        task += len(names)
    return task_index(list(names), task)


def check_independent(final: Any, what: str) -> None:
    """Raise where tasks are told to depend on one another."""
    if final.task_dependencies:
        raise ValueError(
            f"Got task_dependencies={final.task_dependencies!r} for {what}, expected None: a task "
            "cannot be told apart from those that it depends on. Leave them out."
        )


def _check_names_no_tasks(part: str, recipe: Any, names: Sequence[str]) -> None:
    """Raise where a recipe has a parameter by task name, or by pairs of tasks."""
    if not hasattr(recipe, "get_params") or isinstance(recipe, type):
        return
    for name, value in recipe.get_params().items():
        by_name = isinstance(value, Mapping) and set(value) & set(names)
        if by_name or (value is not None and np.shape(value) == (len(names), len(names))):
            raise ValueError(
                f"Got {part}={recipe!r} with {name} by task, expected none: it cannot be "
                "restricted to a group of tasks. Leave it out."
            )
