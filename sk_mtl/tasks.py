"""Tasks: their types, classes and scales, and Y as one matrix of numbers and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from sk_mtl.targets import Column, Targets

Kind = Literal["binary", "multiclass", "regression"]
MAX_INFERRED_CLASSES = 20


@dataclass(frozen=True)
class Task:
    """One thing to predict.

    Attributes
    ----------
    name : str
        Its name, for messages, weights and scores.
    kind : {"binary", "multiclass", "regression"}
        A task with a single class counts as binary.
    classes : ndarray of shape (n_classes,) or None
        Sorted labels of a classification task.
    mean, scale : float
        Regression targets are trained as ``(y - mean) / scale``.
    """

    name: str
    kind: Kind
    classes: NDArray[Any] | None = field(default=None, compare=False)
    mean: float = 0.0
    scale: float = 1.0

    @property
    def is_classification(self) -> bool:
        """Whether the task has classes."""
        return self.kind != "regression"

    @property
    def n_classes(self) -> int:
        """Number of classes; 0 for regression."""
        return 0 if self.classes is None else len(self.classes)

    def encode(self, column: Column, dtype: Any) -> NDArray[Any]:
        """Return class indices or standardised targets, NaN where the label is missing."""
        if self.classes is None:
            values = column.values.astype(dtype)
            values -= dtype(self.mean)
            values /= dtype(self.scale)
            if column.missing.any():
                values[column.missing] = np.nan
            return values
        codes = np.full(len(column.values), np.nan, dtype=dtype)
        observed = as_labels(column.observed)
        index, known = self._look_up(observed)
        if not known.all():
            raise ValueError(
                f"Got labels {sorted(set(observed[~known].tolist()))[:5]} in task "
                f"{self.name!r}, expected labels seen at fit time: {self.classes.tolist()[:10]}. "
                "Refit, or pass every class at the first partial_fit."
            )
        codes[~column.missing] = index
        return codes

    def _look_up(self, observed: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Return the class index of every label, and whether it is a class at all."""
        assert self.classes is not None
        is_text = observed.dtype.kind in "OU"
        if is_text != (self.classes.dtype.kind in "OU"):
            nowhere = np.zeros(len(observed), dtype=np.intp)
            return nowhere, np.zeros(len(observed), dtype=bool)
        index = np.searchsorted(self.classes, observed).clip(max=self.n_classes - 1)
        return index, np.asarray(self.classes[index] == observed)

    def decode(self, index_or_value: NDArray[Any]) -> NDArray[Any]:
        """Return labels for class indices, or original units for standardised values."""
        if self.classes is not None:
            return cast("NDArray[Any]", self.classes[index_or_value])
        return cast(
            "NDArray[Any]",
            index_or_value * index_or_value.dtype.type(self.scale)
            + index_or_value.dtype.type(self.mean),
        )


def as_labels(observed: NDArray[Any]) -> NDArray[Any]:
    """Return class labels; whole numbers stored as floats (because of NaN) become integers."""
    if observed.dtype.kind == "f":
        whole = observed.astype(np.int64)
        if (whole == observed).all():
            return whole
    return observed


def find_classes(column: Column, name: str) -> NDArray[Any]:
    """Return the sorted classes among the labels that are there."""
    observed = as_labels(column.observed)
    if observed.dtype.kind == "f":
        examples = observed[observed != np.round(observed)][:3].tolist()
        raise ValueError(
            f"Unknown label type: continuous. Got {examples} in classification task {name!r}, "
            "expected classes. Use MultiTaskRegressor, or MultiTaskEstimator for both types."
        )
    return np.unique(observed)


def check_has_labels(targets: Targets, names: Sequence[str]) -> None:
    """Raise where a task has no label at all."""
    empty = [
        name for name, column in zip(names, targets.columns, strict=True) if column.missing.all()
    ]
    if len(empty) == len(names):
        raise ValueError(
            f"Got y without any label: Input y contains NaN in all {targets.n_samples} rows, "
            "expected at least one label a task."
        )
    if empty:
        raise ValueError(
            f"Got no label at all for {_tasks(empty)}, expected at least one. "
            "Drop the task, or use folds that spread its labels "
            "(sk_mtl.model_selection.MultiTaskStratifiedKFold)."
        )


def infer_kinds(targets: Targets) -> tuple[list[str], list[int]]:
    """Guess each task's type from its labels.

    Strings, booleans and two distinct whole numbers are classes; numbers with fractions and
    more than 20 distinct whole numbers are amounts. Between these, whole numbers are taken for
    classes, and the task's index is returned as doubtful.
    """
    kinds, doubtful = [], []
    for t, column in enumerate(targets.columns):
        observed = column.observed
        if not column.is_numeric or observed.dtype.kind == "b":
            kinds.append("classification")
            continue
        if observed.dtype.kind == "f" and (observed != np.round(observed)).any():
            kinds.append("regression")
            continue
        n_distinct = len(np.unique(observed))
        kinds.append("classification" if n_distinct <= MAX_INFERRED_CLASSES else "regression")
        if 2 < n_distinct <= MAX_INFERRED_CLASSES:
            doubtful.append(t)
    return kinds, doubtful


def regression_values(column: Column, name: str) -> NDArray[Any]:
    """Return the labels of a regression task, or raise where they are no numbers."""
    if not column.is_numeric:
        raise ValueError(
            f"Got labels of dtype {column.values.dtype} ({column.observed[:1].tolist()[0]!r}, ...) "
            f"in regression task {name!r}, expected numbers: could not convert string to float. "
            "Use MultiTaskClassifier, or name the task's type in MultiTaskEstimator(tasks=...)."
        )
    return column.observed.astype(np.float64)


def weighted_scale(values: NDArray[Any], weights: NDArray[Any] | None) -> tuple[float, float]:
    """Return mean and standard deviation; a constant target has scale 1."""
    mean = float(np.average(values, weights=weights))
    spread = float(np.sqrt(np.average((values - mean) ** 2, weights=weights)))
    if spread <= 10 * np.finfo(np.float64).eps * abs(mean):
        spread = 1.0
    return mean, spread


def by_task(value: Any, names: Sequence[str], what: str, *, default: Any = None) -> list[Any]:
    """Spread a per-task parameter, given as a dict by task name or a sequence, over the tasks."""
    if isinstance(value, Mapping):
        unknown = [name for name in value if name not in names]
        if unknown:
            raise ValueError(
                f"Got {what} for unknown {_tasks(unknown)}, expected names among {list(names)}."
            )
        return [value.get(name, default) for name in names]
    values = list(value)
    if len(values) != len(names):
        raise ValueError(
            f"Got {what} of length {len(values)}, expected {len(names)}, one a task: {list(names)}."
        )
    return values


def align(targets: Targets, names: Sequence[str], *, had_names: bool) -> Targets:
    """Return the columns of ``targets`` in the order of ``names``.

    A frame is matched by its column names where the estimator was fitted on a frame, anything
    else by position.
    """
    if len(targets) != len(names):
        raise ValueError(
            f"Got y with {len(targets)} columns, expected {len(names)}, one a task: {list(names)}."
        )
    if targets.names is None or not had_names or targets.names == list(names):
        return targets
    if set(targets.names) != set(names):
        raise ValueError(
            f"Got y with columns {targets.names}, expected {list(names)}, the tasks seen at fit "
            "time. Rename or select the columns."
        )
    order = [targets.names.index(name) for name in names]
    return Targets([targets.columns[t] for t in order], list(names), targets.one_d)


def _tasks(names: Sequence[Any]) -> str:
    """Return ``task 'a'`` or ``tasks 'a', 'b'``."""
    return ("task " if len(names) == 1 else "tasks ") + ", ".join(repr(n) for n in names)
