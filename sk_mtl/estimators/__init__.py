"""The estimators."""

from sk_mtl.estimators._classifier import MultiTaskClassifier
from sk_mtl.estimators._mixed import MultiTaskEstimator
from sk_mtl.estimators._regressor import MultiTaskRegressor

__all__ = ["MultiTaskClassifier", "MultiTaskEstimator", "MultiTaskRegressor"]
