"""Tasks: their types, classes and scales, and Y as one matrix of numbers and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from sk_mtl._support import did_you_mean
from sk_mtl.targets import Column, Targets, as_frame

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
            check_numbers(column, self.name)
            # In double precision: amounts that differ late would be equal in single precision.
            values = (column.values.astype(np.float64) - self.mean) / self.scale
            values[column.missing] = np.nan
            return values.astype(dtype, copy=False)
        codes = np.full(len(column.values), np.nan, dtype=dtype)
        observed = as_labels(column.observed)
        check_type(observed, self.classes, self.name)
        index = np.searchsorted(self.classes, observed).clip(max=self.n_classes - 1)
        known = np.asarray(self.classes[index] == observed)
        if not known.all():
            raise ValueError(
                f"Got labels {sorted(set(observed[~known].tolist()))[:5]} in task "
                f"{self.name!r}, expected labels seen at fit time: {self.classes.tolist()[:10]}. "
                "Drop them, refit, or pass every class at the first partial_fit."
            )
        codes[~column.missing] = index
        return codes

    def decode(self, index_or_value: NDArray[Any]) -> NDArray[Any]:
        """Return labels for class indices, or original units for standardised values.

        Amounts come in double precision. Of a value that was computed in single precision about
        seven digits hold, counted from the task's spread, not from its mean.
        """
        if self.classes is not None:
            return cast("NDArray[Any]", self.classes[index_or_value])
        return index_or_value.astype(np.float64) * self.scale + self.mean


def check_type(observed: NDArray[Any], classes: NDArray[Any], name: str) -> None:
    """Raise where labels are text and the classes are not, or the other way round."""
    if len(observed) and _is_text(observed) != _is_text(classes):
        raise ValueError(
            f"Got labels such as {observed[:1].tolist()[0]!r} in task {name!r}, expected the type "
            f"of the labels seen at fit time: {classes.tolist()[:10]}. Convert them."
        )


def _is_text(labels: NDArray[Any]) -> bool:
    return labels.dtype.kind in "OSU"


def as_labels(observed: NDArray[Any]) -> NDArray[Any]:
    """Return class labels; whole numbers stored as floats (because of NaN) become integers."""
    if observed.dtype.kind == "f" and (np.abs(observed) < 2**53).all():
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


def check_has_labels(targets: Targets, names: Sequence[str], weight: NDArray[Any] | None) -> None:
    """Raise where a task has no label at all, or none that weighs anything."""
    empty, weightless = [], []
    for t, (name, column) in enumerate(zip(names, targets.columns, strict=True)):
        if column.missing.all():
            empty.append(name)
        elif weight is not None and not weight[~column.missing, min(t, weight.shape[1] - 1)].any():
            weightless.append(name)
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
    if weightless:
        raise ValueError(
            f"Got a sample weight of zero for every label of {_tasks(weightless)}, expected a "
            "positive one. Drop the task, or set its task_weights to 0."
        )


def infer_kinds(targets: Targets) -> tuple[list[str], list[int]]:
    """Guess each task's type from its labels.

    Strings, booleans, whole numbers of a categorical type and two distinct ones are classes;
    numbers with fractions and more than 20 distinct whole numbers are amounts. Between these, whole
    numbers are taken for classes, and the task's index is returned as doubtful.
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
        if column.is_categorical:
            kinds.append("classification")
            continue
        n_distinct = len(np.unique(observed))
        kinds.append("classification" if n_distinct <= MAX_INFERRED_CLASSES else "regression")
        if 2 < n_distinct <= MAX_INFERRED_CLASSES:
            doubtful.append(t)
    return kinds, doubtful


def check_numbers(column: Column, name: str) -> None:
    """Raise where the labels of a regression task are no numbers."""
    if not column.is_numeric:
        raise ValueError(
            f"Got labels of dtype {column.values.dtype} ({column.observed[:1].tolist()[0]!r}, ...) "
            f"in regression task {name!r}, expected numbers: could not convert string to float. "
            "Use MultiTaskClassifier, or name the task's type in MultiTaskEstimator(tasks=...)."
        )


def weighted_scale(
    values: NDArray[Any], weights: NDArray[Any] | None, name: str
) -> tuple[float, float]:
    """Return mean and standard deviation; a constant target has scale 1."""
    with np.errstate(over="ignore", invalid="ignore"):
        mean = float(np.average(values, weights=weights))
        spread = float(np.sqrt(np.average((values - mean) ** 2, weights=weights)))
    if not np.isfinite(spread):
        raise ValueError(
            f"Got targets up to {np.abs(values).max():.3g} in task {name!r}, expected a finite "
            "variance. Divide them by a constant."
        )
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
                + (did_you_mean(str(unknown[0]), list(names)) or " Rename or remove them.")
            )
        return [value.get(name, default) for name in names]
    values = list(value)
    if len(values) != len(names):
        raise ValueError(
            f"Got {what} of length {len(values)}, expected {len(names)}. Pass one a task: "
            f"{list(names)}."
        )
    return values


def align(targets: Targets, names: Sequence[str], *, had_names: bool) -> Targets:
    """Return the columns of ``targets`` in the order of ``names``.

    A frame is matched by its column names where the estimator was fitted on a frame, anything
    else by position.
    """
    if len(targets) != len(names):
        raise ValueError(
            f"Got y with {len(targets)} columns, expected {len(names)}. Pass one a task: "
            f"{list(names)}."
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


def read_weights(
    sample_weight: Any, n_rows: int, names: Sequence[str], dtype: Any, *, had_names: bool
) -> NDArray[Any] | None:
    """Return sample weights of shape (n_rows, 1) or (n_rows, n_tasks), checked.

    The columns of a frame are matched to the tasks by name, as those of Y are.
    """
    if sample_weight is None:
        return None
    sample_weight = as_frame(sample_weight)
    columns = [c for c in getattr(sample_weight, "columns", []) if isinstance(c, str)]
    if set(columns) == set(names):
        sample_weight = sample_weight[list(names)]
    elif had_names and len(columns) > 1:
        raise ValueError(
            f"Got sample_weight with columns {columns}, expected {list(names)}, the tasks. Rename "
            "or select the columns."
        )
    try:
        weights = np.asarray(sample_weight, dtype=dtype)
    except (TypeError, ValueError) as error:
        raise ValueError(f"Got sample_weight that is not numeric: {error}. Pass numbers.") from None
    if weights.ndim == 0:
        weights = np.full(n_rows, weights)
    expected = (n_rows, len(names))
    if weights.shape not in ((n_rows,), (n_rows, 1), expected):
        raise ValueError(
            f"Got sample_weight of shape {weights.shape}, expected ({n_rows},) or {expected}. "
            "Pass one weight a row, or one a row and task."
        )
    if not np.isfinite(weights).all():
        raise ValueError(
            "Got NaN or infinity in sample_weight, expected finite weights. "
            "Use 0 for a label that should not count."
        )
    if (weights < 0).any():
        raise ValueError(
            f"Negative values in data passed to `sample_weight`: got {weights.min()}, expected "
            "weights >= 0. Use 0 for a label that should not count."
        )
    if not weights.any():
        raise ValueError(
            "Got sample_weight that is zero in every row, expected at least one positive weight. "
            "Pass None to weigh all rows alike."
        )
    return weights.reshape(n_rows, -1)


def _tasks(names: Sequence[Any]) -> str:
    """Return ``task 'a'`` or ``tasks 'a', 'b'``."""
    return ("task " if len(names) == 1 else "tasks ") + ", ".join(repr(n) for n in names)
