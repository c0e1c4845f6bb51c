"""Methods that some of the estimators have."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_consistent_length, check_is_fitted

from sk_mtl.estimators._decode import mean_score
from sk_mtl.targets import read_targets


def _has_classes(estimator: Any) -> bool:
    """Whether some task of the estimator is, or may turn out to be, a classification task."""
    return not hasattr(estimator, "net_") or hasattr(estimator, "classes_")


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
            1 is perfect. A task without labels is left out.
        """
        check_is_fitted(self)
        targets = self._aligned(read_targets(y))
        columns = self._predict_columns(X)
        check_consistent_length(columns[0], targets.columns[0].values)
        weight = self._weights(sample_weight, len(columns[0]), np.float64)
        return mean_score(self._tasks, targets, columns, weight)
