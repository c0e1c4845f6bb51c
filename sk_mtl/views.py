"""One task of a fitted multi-task estimator as a plain single-task estimator."""

from __future__ import annotations

from copy import deepcopy
from numbers import Integral
from typing import Any, NoReturn, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from sklearn.metrics import accuracy_score, r2_score
from sklearn.multioutput import MultiOutputRegressor, RegressorChain
from sklearn.utils import ClassifierTags, RegressorTags, Tags, TargetTags, get_tags
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from sk_mtl._support import did_you_mean
from sk_mtl.targets import default_names

__all__ = ["TaskView", "final_estimator", "task_classes", "task_index", "task_names"]


def final_estimator(estimator: Any) -> Any:
    """Return the estimator at the end of a fitted pipeline, search, or nest of both."""
    while not hasattr(estimator, "task_names_"):
        if hasattr(estimator, "best_estimator_"):
            estimator = estimator.best_estimator_
        elif hasattr(estimator, "steps"):
            estimator = estimator.steps[-1][1]
        else:
            break
    return estimator


def task_classes(estimator: Any) -> list[NDArray[Any] | None]:
    """Return every task's classes, None for a regression task.

    Any fitted multi-output estimator of scikit-learn will do, so that a baseline can be scored
    as our estimators are.
    """
    final = final_estimator(estimator)
    classes = getattr(final, "classes_", None)
    if isinstance(classes, (list, tuple)):
        return list(classes)
    if classes is not None:
        return [classes]
    return [None] * _n_amounts(final)


def _n_amounts(regressor: Any) -> int:
    """Return the number of targets of a fitted regressor, ours or scikit-learn's."""
    if hasattr(regressor, "task_names_"):
        return len(regressor.task_names_)
    if isinstance(regressor, (MultiOutputRegressor, RegressorChain)):
        return len(regressor.estimators_)
    if np.ndim(getattr(regressor, "coef_", 0)) == 2:
        return len(regressor.coef_)
    return int(getattr(regressor, "n_outputs_", 1))


def task_names(estimator: Any) -> list[str]:
    """Return every task's name, ``task0``, ``task1``, ... where the estimator keeps none."""
    names = getattr(final_estimator(estimator), "task_names_", None)
    if names is None:
        return default_names(len(task_classes(estimator)))
    return list(names)


def task_index(names: list[str], task: str | int) -> int:
    """Return the position of a task given by name or position."""
    if isinstance(task, str):
        if task not in names:
            raise ValueError(
                f"Got task={task!r}, expected one of {names}.{did_you_mean(task, names)}"
            )
        return names.index(task)
    if not isinstance(task, Integral) or isinstance(task, bool):
        raise TypeError(f"Got task={task!r}, expected a task's name or position among {names}.")
    if not 0 <= task < len(names):
        raise ValueError(
            f"Got task={task}, expected a position from 0 to {len(names) - 1}: tasks are {names}."
        )
    return int(task)


def _is_classification(view: TaskView) -> bool:
    """Whether the view is of a classification task; the condition of its probabilities."""
    return view._classes() is not None


def _has_sets(view: TaskView) -> bool:
    """Whether sets of classes can be had of the view's task."""
    return _is_classification(view) and hasattr(view.estimator, "predict_set")


def _has_intervals(view: TaskView) -> bool:
    """Whether intervals can be had of the view's task."""
    return not _is_classification(view) and hasattr(view.estimator, "predict_interval")


class TaskView(BaseEstimator):
    """One task of a fitted multi-task estimator as a plain single-task estimator.

    Most of scikit-learn's tools for a fitted model want one target: calibration, decision
    thresholds, ROC curves, partial dependence. A view gives them one: a classifier with one
    ``classes_`` array, or a regressor.

    Parameters
    ----------
    estimator : estimator
        A fitted multi-task estimator, or a fitted pipeline or search that ends in one. It is
        referred to, not copied. scikit-learn's own multi-output estimators work too.
    task : str or int, default=0
        The task's name or position.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Classes of a classification task. A regression task has none.
    task_name_ : str
        The task's name.
    n_features_in_ : int
        Number of features that the estimator saw.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Their names, where it saw names.

    See Also
    --------
    sk_mtl.metrics.make_task_scorer : A scorer of one task, for searches and cross-validation.

    Notes
    -----
    ``fit`` refuses: a view shows what was fitted already, and refitting it in a fold would need
    the other tasks' labels. Where a tool fits what it gets, freeze the view:
    ``CalibratedClassifierCV(FrozenEstimator(view))``. For cross-validation pass the multi-task
    estimator itself, with :func:`sk_mtl.metrics.make_task_scorer`.

    Rows whose label is missing are to be left out by the caller, as for any single-task
    estimator.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.ensemble import RandomForestClassifier
    >>> from sk_mtl.views import TaskView
    >>> X = np.arange(8.0).reshape(-1, 1)
    >>> Y = np.column_stack([X[:, 0] > 3, X[:, 0] // 3]).astype(int)
    >>> forest = RandomForestClassifier(n_estimators=20, random_state=0).fit(X, Y)
    >>> view = TaskView(forest, task=1)
    >>> view.classes_
    array([0, 1, 2])
    >>> view.predict([[0.0], [7.0]])
    array([0, 2])
    >>> view.predict_proba(X).shape
    (8, 3)
    """

    def __init__(self, estimator: Any, task: str | int = 0) -> None:
        self.estimator = estimator
        self.task = task

    @property
    def task_name_(self) -> str:
        """Name of the task."""
        return task_names(self.estimator)[self._index()]

    @property
    def classes_(self) -> NDArray[Any]:
        """Classes of the task."""
        classes = self._classes()
        if classes is None:
            raise AttributeError(f"Task {self.task_name_!r} is a regression task: no classes_.")
        return classes

    @property
    def n_features_in_(self) -> int:
        """Number of features that the estimator saw."""
        return cast("int", self.estimator.n_features_in_)

    @property
    def feature_names_in_(self) -> NDArray[Any]:
        """Names of the features that the estimator saw."""
        return cast("NDArray[Any]", self.estimator.feature_names_in_)

    def fit(self, X: Any, y: Any = None, **params: Any) -> NoReturn:
        """Refuse: a view shows what was fitted already.

        Parameters
        ----------
        X, y, **params : object
            Ignored.

        Raises
        ------
        NotImplementedError
            Always, with the way out.
        """
        raise NotImplementedError(
            "Got a call of TaskView.fit, expected none: a view shows one task of an estimator "
            "that is fitted already. Pass sklearn.frozen.FrozenEstimator(view) to a tool that "
            "fits what it gets; to cross-validate, pass the multi-task estimator itself with "
            "scoring=sk_mtl.metrics.make_task_scorer(metric, task=...)."
        )

    def predict(self, X: Any) -> NDArray[Any]:
        """Predict the task's labels or amounts.

        Parameters
        ----------
        X : array-like or frame of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples,)
            Predictions, in the type of the task's own labels.
        """
        classes = self._classes()
        column = self._column(np.asarray(self.estimator.predict(X)))
        if classes is not None:  # a table over several tasks may hold them in a wider type
            return np.asarray(column.astype(classes.dtype, copy=False))
        return np.asarray(column.astype(np.float64) if column.dtype == object else column)

    @available_if(_is_classification)
    def predict_proba(self, X: Any) -> NDArray[Any]:
        """Predict the probabilities of the task's classes.

        Parameters
        ----------
        X : array-like or frame of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Probabilities, in the order of ``classes_``.
        """
        return self._of_task(self.estimator.predict_proba(X))

    @available_if(_is_classification)
    def predict_log_proba(self, X: Any) -> NDArray[Any]:
        """Predict the logarithms of the probabilities of the task's classes.

        Parameters
        ----------
        X : array-like or frame of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Log-probabilities, in the order of ``classes_``.
        """
        return self._of_task(self.estimator.predict_log_proba(X))

    @available_if(_has_intervals)
    def predict_interval(self, X: Any, coverage: float = 0.9) -> tuple[NDArray[Any], NDArray[Any]]:
        """Predict intervals that hold the task's amounts with a given probability.

        Parameters
        ----------
        X : array-like or frame of shape (n_samples, n_features)
            Rows.
        coverage : float, default=0.9
            Share of amounts that shall lie in their intervals.

        Returns
        -------
        lower, upper : ndarray of shape (n_samples,)
            See the estimator's ``predict_interval``.
        """
        lower, upper = self.estimator.predict_interval(X, coverage=coverage)
        return self._column(lower), self._column(upper)

    @available_if(_has_sets)
    def predict_set(self, X: Any, coverage: float = 0.9) -> NDArray[np.bool_]:
        """Predict sets of classes that hold the task's label with a given probability.

        Parameters
        ----------
        X : array-like or frame of shape (n_samples, n_features)
            Rows.
        coverage : float, default=0.9
            Share of labels that shall lie in their sets.

        Returns
        -------
        ndarray of bool of shape (n_samples, n_classes)
            Whether a class is in the set; see the estimator's ``predict_set``.
        """
        return self._of_task(self.estimator.predict_set(X, coverage=coverage))

    def score(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Return the accuracy (classification) or R² (regression) of the task.

        Parameters
        ----------
        X : array-like or frame of shape (n_samples, n_features)
            Rows.
        y : array-like of shape (n_samples,)
            The task's labels, none missing.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows.

        Returns
        -------
        float
            The score.
        """
        metric = r2_score if self._classes() is None else accuracy_score
        return float(metric(y, self.predict(X), sample_weight=sample_weight))

    def _index(self) -> int:
        check_is_fitted(self.estimator)
        return task_index(task_names(self.estimator), self.task)

    def _classes(self) -> NDArray[Any] | None:
        return task_classes(self.estimator)[self._index()]

    def _column(self, table: NDArray[Any]) -> NDArray[Any]:
        """Return the task's column of a table of predictions."""
        n_tasks = 1 if table.ndim == 1 else table.shape[1]
        if n_tasks != len(task_names(self.estimator)):
            raise ValueError(
                f"Got predictions of shape {table.shape} from {type(self.estimator).__name__}, "
                f"expected one column for each of {task_names(self.estimator)}. "
                "Pass a fitted multi-task estimator."
            )
        return table.reshape(len(table), -1)[:, self._index()]

    def _of_task(self, probabilities: Any) -> NDArray[Any]:
        """Return the task's array of a list with one array a task."""
        if isinstance(probabilities, (list, tuple)):
            probabilities = probabilities[self._index()]
        return np.asarray(probabilities)

    def __sklearn_is_fitted__(self) -> bool:
        try:
            check_is_fitted(self.estimator)
        except NotFittedError:
            return False
        return True

    def __sklearn_tags__(self) -> Tags:
        inner = get_tags(self.estimator)
        tags = super().__sklearn_tags__()
        tags.input_tags = deepcopy(inner.input_tags)
        tags.target_tags = TargetTags(required=True)
        if not self.__sklearn_is_fitted__():
            tags.estimator_type = inner.estimator_type
        elif _is_classification(self):
            tags.estimator_type = "classifier"
        else:
            tags.estimator_type = "regressor"
        tags.classifier_tags = ClassifierTags() if tags.estimator_type == "classifier" else None
        tags.regressor_tags = RegressorTags() if tags.estimator_type == "regressor" else None
        return tags
