"""How sure an estimator is: intervals, sets of classes, and the spread of its members."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from sk_mtl._support import warn
from sk_mtl.estimators._out_of_fold import Scores

Array = NDArray[Any]


def _has_amounts(estimator: Any) -> bool:
    """Whether some task of the estimator is, or may turn out to be, a regression task."""
    return not estimator.__sklearn_is_fitted__() or "regression" in estimator.task_types_


def _has_classes(estimator: Any) -> bool:
    """Whether some task of the estimator is, or may turn out to be, a classification task."""
    return not estimator.__sklearn_is_fitted__() or hasattr(estimator, "classes_")


class IntervalMixin:
    """``predict`` with a spread, and ``predict_interval``; it must precede the base class."""

    def predict(self: Any, X: Any, return_std: bool = False) -> Any:
        """Predict labels, in the classes and units of the training labels.

        Parameters
        ----------
        X : array-like or frame of shape (n_samples, n_features)
            Features.
        return_std : bool, default=False
            Whether to return the standard deviation over the members beside their mean. It tells
            where members disagree, as they do far from the training rows; it knows nothing of
            the noise in labels, which ``predict_interval`` includes.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_tasks)
            One-dimensional if the training labels were. Numbers have the tasks' common type,
            amounts that of X; strings beside numbers make an object array.
        std : ndarray of shape (n_samples,) or (n_samples, n_tasks)
            In the units of the labels; NaN for classification tasks. Only returned with
            ``return_std=True``.

        Raises
        ------
        ValueError
            If a spread is asked for and there is one member only.

        References
        ----------
        Lakshminarayanan et al. 2017, "Simple and Scalable Predictive Uncertainty Estimation
        using Deep Ensembles", section 2.4: the spread of the members' means.
        """
        y = super().predict(X)  # type: ignore[misc]
        return (y, spread(self, X)) if return_std else y

    @available_if(_has_amounts)
    def predict_interval(self: Any, X: Any, coverage: float = 0.9) -> tuple[Array, Array]:
        """Predict intervals that hold the labels with a given probability, task by task.

        They reach as far to either side of ``predict`` as that share of the rows held out for
        early stopping had missed the members that did not see them. So it needs such rows: set
        ``early_stopping=True``, with five members or more all rows are held out once but for the
        few that are left over, or pass ``X_val`` and ``y_val``.

        Parameters
        ----------
        X : array-like or frame of shape (n_samples, n_features)
            Features.
        coverage : float, default=0.9
            Share of labels that shall lie in their intervals, between 0 and 1.

        Returns
        -------
        lower, upper : ndarray of shape (n_samples,) or (n_samples, n_tasks)
            In the units of the labels, of counts (``Poisson``) not below 0; NaN for
            classification tasks. Infinite, with a warning, for tasks with too few held-out labels
            to tell: 0.9 takes 9 of them, 0.99 takes 99.

        Raises
        ------
        ValueError
            If nothing was held out, or ``coverage`` is not between 0 and 1.

        Notes
        -----
        Coverage is meant over rows like those of the training table, drawn at random, and over
        each task's labelled rows. It is not meant row by row: all rows of a task have equally
        wide intervals, too wide where amounts are easily told and too narrow where they are
        not. Sample weights make the quantile a weighted one, with the new row of mean weight.
        Where fit was told of ``groups`` it is meant for a row of a new group: every group counts
        the same, and it takes as many held-out groups as it would take rows, 9 for 0.9. A single
        group may be covered far less.

        A mean over members errs less than the member by whose errors it is judged; on the other
        hand the rows that were held out also chose when its training stopped. From a hundred rows
        on the two about make up for one another; on fewer intervals are too narrow: of 16 to 60
        rows, asked for 0.8, they held 0.72 to 0.76. Nothing of this is proved: for intervals
        which move with the fold's model (CV+) Barber et al. prove a coverage of
        2 * coverage - 1 at least, up to a term that vanishes. With ``X_val`` all members are
        judged together.

        References
        ----------
        Barber et al. 2021, "Predictive inference with the jackknife+", sections 1.1 and 3.

        Lei et al. 2018, "Distribution-Free Predictive Inference for Regression", algorithm 2,
        for its finite-sample quantile.

        Lee et al. 2023, "Distribution-Free Inference with Hierarchical Data", for new groups.

        Examples
        --------
        >>> import numpy as np
        >>> from sk_mtl import MultiTaskRegressor
        >>> rng = np.random.default_rng(0)
        >>> X = rng.normal(size=(400, 3))
        >>> Y = np.column_stack([X[:, 0], X[:, 0] + X[:, 1]]) + rng.normal(size=(400, 2))
        >>> model = MultiTaskRegressor(n_members=5, early_stopping=True, random_state=0)
        >>> lower, upper = model.fit(X[:300], Y[:300]).predict_interval(X[300:], coverage=0.8)
        >>> inside = (lower <= Y[300:]) & (Y[300:] <= upper)
        >>> bool(0.7 < inside.mean() < 0.9)
        True
        """
        check_is_fitted(self)
        margins = _margins(self, coverage, "predict_interval", classes=False)
        found, dtype = self._outcomes(X)
        shape = (len(found[0]), self.n_tasks_)
        lower, upper = np.full(shape, np.nan, dtype), np.full(shape, np.nan, dtype)
        for t, margin in margins.items():
            task = self._tasks[t]
            centre = found[t].astype(np.float64)
            lower[:, t], upper[:, t] = task.decode(centre - margin), task.decode(centre + margin)
            lower[:, t] = np.maximum(lower[:, t], self._task_losses[t].lowest)
        return (lower[:, 0], upper[:, 0]) if self._one_d else (lower, upper)


class SetMixin:
    """``predict_set`` for estimators with classification tasks."""

    @available_if(_has_classes)
    def predict_set(self: Any, X: Any, coverage: float = 0.9) -> Any:
        """Predict sets of classes that hold the label with a given probability, task by task.

        A class is in the set if it is as probable as the true class was in that share of the
        rows held out for early stopping, by the members that did not see them. So it needs such
        rows: set ``early_stopping=True``, with five members or more all rows are held out once
        but for the few that are left over, or pass ``X_val`` and ``y_val``.

        Parameters
        ----------
        X : array-like or frame of shape (n_samples, n_features)
            Features.
        coverage : float, default=0.9
            Share of labels that shall lie in their sets, between 0 and 1.

        Returns
        -------
        sets : ndarray of bool of shape (n_samples, n_classes) or list of such arrays
            Whether a class is in the set. A list with one array a task for two-dimensional
            training labels, None for a regression task; columns in the order of ``classes_``.
            The most probable class is always in. All classes are, with a warning, for tasks
            with too few held-out labels to tell: 0.9 takes 9 of them, 0.99 takes 99.

        Raises
        ------
        ValueError
            If nothing was held out, or ``coverage`` is not between 0 and 1.

        Notes
        -----
        Coverage is meant over rows like those of the training table, drawn at random, and over
        each task's labelled rows; not class by class: a rare class may be missed more often.
        Where fit was told of ``groups``, a row of a new one is meant.
        Where more labels than asked for are predicted right, coverage is their share; and as the
        mean over members is judged by single ones, it is a point or so above what was asked for,
        but below it on fewer than a hundred rows.
        Of all sets of one coverage these hold the fewest classes on average.

        References
        ----------
        Sadinle et al. 2019, "Least Ambiguous Set-Valued Classifiers With Bounded Error Levels",
        section 2 and equation 6.

        Examples
        --------
        >>> import numpy as np
        >>> from sk_mtl import MultiTaskClassifier
        >>> rng = np.random.default_rng(0)
        >>> X = rng.normal(size=(400, 3))
        >>> y = np.where(X[:, 0] + rng.normal(size=400) > 0, "late", "on time")
        >>> model = MultiTaskClassifier(n_members=5, early_stopping=True, random_state=0)
        >>> model.fit(X, y).predict_set([[4.0, 0.0, 0.0], [0.0, 0.0, 0.0]], coverage=0.8)
        array([[ True, False],
               [ True,  True]])
        """
        check_is_fitted(self)
        margins = _margins(self, coverage, "predict_set", classes=True)
        found, _ = self._outcomes(X)
        sets: list[Array | None] = [None] * self.n_tasks_
        for t, margin in margins.items():
            p = found[t][:, : self._tasks[t].n_classes].astype(np.float64)
            chosen = 1.0 - p <= margin
            chosen[np.arange(len(p)), p.argmax(axis=1)] = True
            sets[t] = chosen
        return sets[0] if self._one_d else sets


def spread(est: Any, X: Any) -> Array:
    """Return the standard deviation of amounts over the members of an estimator.

    Parameters
    ----------
    est : BaseMultiTask
        Fitted.
    X : array-like or frame of shape (n_samples, n_features)
        Features.

    Returns
    -------
    ndarray of shape (n_samples,) or (n_samples, n_tasks)
        In the units of the labels; NaN for classification tasks.

    Raises
    ------
    ValueError
        If there is one member only.
    """
    check_is_fitted(est)
    if len(est._nets) < 2:
        raise ValueError(
            f"Got return_std=True with n_members={est.n_members}, expected members that may "
            "disagree. Set n_members=8."
        )
    by_net, dtype = est._outcomes_by_net(X)
    std = np.full((len(by_net[0][0]), est.n_tasks_), np.nan, dtype)
    for t, task in enumerate(est._tasks):
        if not task.is_classification:
            amounts = np.array([found[t] for found in by_net], np.float64)
            std[:, t] = amounts.std(axis=0) * task.scale
    return std[:, 0] if est._one_d else std


# Quantiles ------------------------------------------------------------------------------------


def _margins(est: Any, coverage: float, method: str, *, classes: bool) -> dict[int, float]:
    """Return how far off a task's predictions are at most, in the given share of rows."""
    if isinstance(coverage, bool) or not isinstance(coverage, Real) or not 0 < coverage < 1:
        raise ValueError(
            f"Got coverage={coverage!r}, expected a number between 0 and 1. Pass 0.9, for instance."
        )
    held = getattr(est, "_out_of_fold", None)
    if held is None:
        raise ValueError(
            f"Got a call of {method} after a fit that held no rows out, expected some to judge "
            "predictions by. Fit with early_stopping=True, with n_members=5 or more to hold out "
            "every row once, or pass X_val and y_val."
        )
    margins = {
        t: held[t].quantile(float(coverage))
        for t, task in enumerate(est._tasks)
        if task.is_classification is classes
    }
    _warn_of_few(est, margins, held, float(coverage))
    return margins


def _warn_of_few(
    est: Any, margins: dict[int, float], held: Sequence[Scores], coverage: float
) -> None:
    """Warn of tasks for which too few labels were held out to tell."""
    few = [t for t, margin in margins.items() if np.isinf(margin) and est._tasks[t].n_classes != 1]
    if few:
        grouped = held[few[0]].n_groups is not None
        counts = {est.task_names_[t]: held[t].n_units for t in few[:5]}
        needed = ceil(coverage / (1 - coverage) * (1 - 1e-12))
        what = "groups with labels" if grouped else "labels"
        remedy = (
            "fit on more groups, with n_members=5 or more, of which all hold out others"
            if grouped
            else "pass X_val and y_val with more labels"
        )
        warn(
            f"Got too few held-out {what} in {len(few)} of {est.n_tasks_} tasks ({counts}) for "
            f"coverage={coverage}, expected at least {needed}: all values are possible. Ask for "
            f"less, or {remedy}."
        )
