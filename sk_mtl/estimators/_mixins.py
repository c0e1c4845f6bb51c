"""Methods that some of the estimators have."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.utils.metaestimators import available_if

from sk_mtl._support import warn
from sk_mtl.metrics import mean_score
from sk_mtl.targets import read_targets


def _has_classes(estimator: Any) -> bool:
    """Whether some task of the estimator is, or may turn out to be, a classification task."""
    return not estimator.__sklearn_is_fitted__() or hasattr(estimator, "classes_")


class ProbabilityMixin:
    """``predict_proba`` and ``predict_log_proba`` for estimators with classification tasks."""

    @available_if(_has_classes)
    def predict_proba(self: Any, X: Any) -> Any:
        """Predict class probabilities.

        Parameters
        ----------
        X : array-like or frame of shape (n_samples, n_features)
            Features.

        Returns
        -------
        p : ndarray of shape (n_samples, n_classes) or list of such arrays
            A list with one array a task for two-dimensional training labels, None for a
            regression task; columns in the order of ``classes_``.
        """
        columns = self._probabilities(X)
        return columns[0] if self._one_d else columns

    @available_if(_has_classes)
    def predict_log_proba(self: Any, X: Any) -> Any:
        """Predict the logarithm of class probabilities.

        Parameters
        ----------
        X : array-like or frame of shape (n_samples, n_features)
            Features.

        Returns
        -------
        log_p : ndarray of shape (n_samples, n_classes) or list of such arrays
            As ``predict_proba``.
        """
        p = self.predict_proba(X)
        with np.errstate(divide="ignore"):
            if isinstance(p, list):
                return [None if each is None else np.log(each) for each in p]
            return np.log(p)


class ScoreMixin:
    """``score`` that skips missing labels; it must precede scikit-learn's mixins."""

    def score(self: Any, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the mean over tasks of accuracy (classes) or R2 (amounts).

        Parameters
        ----------
        X : array-like or frame of shape (n_samples, n_features)
            Features.
        y : array-like or frame of shape (n_samples,) or (n_samples, n_tasks)
            True labels; missing ones are skipped. A frame is matched by its column names.
        sample_weight : array-like of shape (n_samples,) or (n_samples, n_tasks), default=None
            Weights of rows, or of rows and tasks.

        Returns
        -------
        score : float
            1 is perfect. A task without labels is left out, and R2 where only one row has one.
        """
        score = mean_score(self, X, y, sample_weight=sample_weight)
        if np.isnan(score):
            if all(column.missing.all() for column in read_targets(y).columns):
                raise ValueError(
                    "Got y without any label: all of them are missing, expected at least one to "
                    "score. Score on rows with labels."
                )
            warn(
                "Got a single labelled row in every task, or weights of zero, expected two rows "
                "for R2. The score is NaN.",
                UndefinedMetricWarning,
            )
        return score
