"""Every task's score on its labelled rows."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.utils.validation import check_consistent_length, check_is_fitted

from sk_mtl._support import safe_indexing
from sk_mtl.metrics._rules import (
    KINDS,
    Metric,
    Undefined,
    check_keys,
    check_undefined,
    choose_metric,
    scorer_of_task,
    why_undefined,
)
from sk_mtl.targets import Targets, read_targets
from sk_mtl.tasks import align, as_labels, check_numbers, check_type, read_weights
from sk_mtl.views import TaskView, final_estimator, task_classes, task_index, task_names


def task_scores(
    estimator: Any,
    X: Any,
    Y: Any,
    metric: Metric | Mapping[str, Metric] | None = None,
    sample_weight: ArrayLike | None = None,
    *,
    undefined: Undefined = "nan",
) -> dict[str, float]:
    """Score every task on its labelled rows.

    Parameters
    ----------
    estimator : estimator
        A fitted multi-task estimator, or a fitted pipeline or search that ends in one.
        scikit-learn's own multi-output estimators work too.
    X : array-like or frame of shape (n_samples, n_features)
        Rows.
    Y : array-like or frame of shape (n_samples,) or (n_samples, n_tasks)
        Labels; NaN, None and NA are missing and skipped. The columns of a frame are matched to
        the tasks by name.
    metric : str, callable or dict, default=None
        One of scikit-learn's scorer names, a scorer made with ``make_scorer``, or a function
        ``metric(y_true, y_pred)``. A dict gives metrics by task name, by kind of task
        (``{"classification": "roc_auc", "regression": "r2"}``) or both; a task's own entry comes
        first. Default, also of tasks that a dict leaves out: accuracy for classification, R² for
        regression.
    sample_weight : array-like of shape (n_samples,) or (n_samples, n_tasks), default=None
        Weights of rows or cells; metrics that know no weights go without.
    undefined : {"nan", "raise"} or float, default="nan"
        The score of a task whose labels do not define the metric, such as the area under the
        ROC curve of one class; ``"raise"`` raises ``ValueError`` instead.

    Returns
    -------
    dict of str to float
        Scores by task name, higher is better.

    Raises
    ------
    ValueError
        If the metric does not fit a task, columns do not match, weights are not valid, or a
        score is undefined under ``undefined="raise"``.

    See Also
    --------
    mean_score : Their mean.
    make_multi_task_scorer : The same for ``scoring=``.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.ensemble import RandomForestClassifier
    >>> from sk_mtl.metrics import task_scores
    >>> X = np.arange(8.0).reshape(-1, 1)
    >>> Y = np.column_stack([X[:, 0] > 3, X[:, 0] > 5]).astype(float)
    >>> forest = RandomForestClassifier(n_estimators=20, random_state=0).fit(X, Y)
    >>> Y[:4, 1] = np.nan
    >>> task_scores(forest, X, Y)
    {'task0': 1.0, 'task1': 1.0}
    >>> task_scores(forest, X, Y, metric="roc_auc")
    {'task0': 1.0, 'task1': 1.0}
    """
    return score_tasks(
        estimator, X, Y, metric=metric, sample_weight=sample_weight, undefined=undefined
    )


def mean_score(
    estimator: Any,
    X: Any,
    Y: Any,
    metric: Metric | Mapping[str, Metric] | None = None,
    sample_weight: ArrayLike | None = None,
    *,
    undefined: Undefined = "nan",
) -> float:
    """Return the mean over tasks of :func:`task_scores`.

    Parameters
    ----------
    estimator : estimator
        A fitted multi-task estimator, or a fitted pipeline or search that ends in one.
    X : array-like or frame of shape (n_samples, n_features)
        Rows.
    Y : array-like or frame of shape (n_samples,) or (n_samples, n_tasks)
        Labels; missing ones are skipped.
    metric : str, callable or dict, default=None
        As for :func:`task_scores`.
    sample_weight : array-like of shape (n_samples,) or (n_samples, n_tasks), default=None
        Weights of rows or cells.
    undefined : {"nan", "raise"} or float, default="nan"
        As for :func:`task_scores`; under ``"nan"`` the task does not count.

    Returns
    -------
    float
        The mean; NaN if no task's score is defined.

    See Also
    --------
    task_scores : Every task's score.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.ensemble import RandomForestRegressor
    >>> from sk_mtl.metrics import mean_score
    >>> X = np.arange(8.0).reshape(-1, 1)
    >>> Y = np.hstack([X, -X])
    >>> forest = RandomForestRegressor(n_estimators=20, random_state=0).fit(X, Y)
    >>> mean_score(forest, X, Y) > 0.9
    True
    """
    scores = task_scores(estimator, X, Y, metric, sample_weight, undefined=undefined)
    return mean_defined(scores.values())


def mean_defined(scores: Iterable[float]) -> float:
    """Return the mean of the scores that are defined, NaN if none is."""
    defined = [score for score in scores if not np.isnan(score)]
    return float(np.mean(defined)) if defined else float("nan")


def score_tasks(
    estimator: Any,
    X: Any,
    Y: Any,
    *,
    metric: Metric | Mapping[str, Metric] | None,
    sample_weight: ArrayLike | None,
    undefined: Undefined,
    tasks: Sequence[str | int] | None = None,
) -> dict[str, float]:
    """Return the scores by name, of all tasks or of those given by name or position."""
    check_is_fitted(estimator)
    check_undefined(undefined)
    targets = read_targets(Y)
    check_consistent_length(X, targets.columns[0].values)
    names, had_names = _names(estimator, targets)
    if isinstance(metric, Mapping):
        check_keys(metric, names)
    chosen = range(len(names)) if tasks is None else [task_index(names, t) for t in tasks]
    n_samples, n_tasks = targets.n_samples, len(names)
    targets = align(targets, names, had_names=had_names)
    weights = read_weights(sample_weight, n_samples, names, np.float64, had_names=had_names)
    weights = None if weights is None else np.broadcast_to(weights, (n_samples, n_tasks))
    classes = task_classes(estimator)
    samples = _read_samples(names, chosen, classes, targets, weights)
    rows = np.flatnonzero(np.any([sample.labelled for sample in samples], axis=0))
    if len(rows) < n_samples:
        X = safe_indexing(X, rows)
    remembered = _Remembered(estimator, X, rows, names, classes)
    return {
        sample.task: _score(TaskView(remembered, sample.index), sample, metric, undefined)
        for sample in samples
    }


def _names(estimator: Any, targets: Targets) -> tuple[list[str], bool]:
    """Return the tasks' names, and whether they are those of a frame's columns.

    A baseline that keeps no names takes those of the frame at hand.
    """
    final, names = final_estimator(estimator), task_names(estimator)
    if not hasattr(final, "task_names_") and len(targets) == len(names):
        names = targets.task_names
    return names, getattr(final, "_has_names", targets.names is not None)


@dataclass(frozen=True)
class _Sample:
    """What a metric sees of one task; rows without label or of zero weight are left out."""

    task: str
    index: int
    classes: NDArray[Any] | None
    labelled: NDArray[np.bool_]  # (n_samples,)
    labels: NDArray[Any]  # (n_labelled,)
    weights: NDArray[np.float64] | None  # (n_labelled,)


class _Remembered:
    """An estimator that predicts some rows once; its ``X`` are then their positions.

    A network predicts all tasks in one pass, so one task's metric leaves the next its work.
    """

    def __init__(
        self,
        estimator: Any,
        X: Any,
        rows: NDArray[np.intp],
        names: list[str],
        classes: list[NDArray[Any] | None],
    ) -> None:
        self._estimator = estimator
        self._X = X
        self._rows = rows
        self.task_names_ = names
        self.classes_ = classes
        self._tables: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._estimator, name)

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def predict(self, rows: NDArray[np.intp]) -> Any:
        return self._recall("predict", rows)

    def predict_proba(self, rows: NDArray[np.intp]) -> Any:
        return self._recall("predict_proba", rows)

    def predict_log_proba(self, rows: NDArray[np.intp]) -> Any:
        return self._recall("predict_log_proba", rows)

    def _recall(self, method: str, rows: NDArray[np.intp]) -> Any:
        if method not in self._tables:
            self._tables[method] = getattr(self._estimator, method)(self._X)
        table = self._tables[method]
        places = np.searchsorted(self._rows, rows)
        if isinstance(table, (list, tuple)):
            return [None if part is None else part[places] for part in table]
        return np.asarray(table)[places]


def _read_samples(
    names: list[str],
    chosen: Sequence[int],
    classes: list[NDArray[Any] | None],
    targets: Targets,
    weights: NDArray[np.float64] | None,
) -> list[_Sample]:
    """Return what the metrics of the chosen tasks see."""
    samples = []
    for t in chosen:
        column = targets.columns[t]
        labelled = ~column.missing if weights is None else ~column.missing & (weights[:, t] > 0)
        labels, known = column.values[labelled], classes[t]
        if known is not None:
            labels = as_labels(labels)
            check_type(labels, known, names[t])
        elif len(labels):
            check_numbers(column, names[t])
            labels = labels.astype(np.float64)
        weight = None if weights is None else weights[labelled, t]
        samples.append(_Sample(names[t], t, known, labelled, labels, weight))
    return samples


def _score(
    view: TaskView,
    sample: _Sample,
    metric: Metric | Mapping[str, Metric] | None,
    undefined: Undefined,
) -> float:
    """Return one task's score."""
    kind = KINDS[sample.classes is None]
    if metric is None and len(sample.labels) > 1:
        predicted = view.predict(np.flatnonzero(sample.labelled))
        if sample.classes is not None or np.isfinite(predicted).all():
            return _default_score(predicted, sample)
    scorer = scorer_of_task(
        choose_metric(metric, sample.task, kind), sample.task, kind, sample.classes
    )
    reason = why_undefined(scorer, sample.labels, sample.classes)
    if reason is None:
        weighted = sample.weights is not None and scorer._accept_sample_weight()
        weights = {"sample_weight": sample.weights} if weighted else {}
        with warnings.catch_warnings():
            if undefined != "raise":  # what the labels leave undefined is known by now
                warnings.simplefilter("ignore", UndefinedMetricWarning)
                warnings.filterwarnings("ignore", message="y_pred contains classes not in y_true")
                warnings.filterwarnings("ignore", message="A single label was found")
            score = scorer(view, np.flatnonzero(sample.labelled), sample.labels, **weights)
        if not np.isnan(score):
            return float(score)
        reason = "labels for which the metric returned NaN"
    if undefined == "raise":
        raise ValueError(
            f"Got {reason} for task {sample.task!r}, for which {scorer!r} is undefined, expected "
            "labels that define it. Use folds that spread every class "
            "(sk_mtl.model_selection.MultiTaskStratifiedKFold), or undefined='nan' or a number."
        )
    return float("nan") if undefined == "nan" else float(undefined)


def _default_score(predicted: NDArray[Any], sample: _Sample) -> float:
    """Return accuracy or R2: scikit-learn's, without its checks of what was checked before.

    A search over hundreds of small networks would otherwise spend more time on these checks than
    on the predictions.
    """
    weights = sample.weights
    if sample.classes is not None:
        return float(np.average(predicted == sample.labels, weights=weights))
    y = sample.labels[:, np.newaxis]
    w = 1.0 if weights is None else weights[:, np.newaxis]
    residual = float((w * (y - predicted[:, np.newaxis]) ** 2).sum())
    spread = float((w * (y - np.average(y, axis=0, weights=weights)) ** 2).sum())
    if spread == 0.0:
        return float(residual == 0.0)
    return 1.0 - residual / spread
