"""Multi-task learning as scikit-learn estimators."""

from sk_mtl._version import __version__
from sk_mtl.estimators import MultiTaskClassifier, MultiTaskEstimator, MultiTaskRegressor

__all__ = ["MultiTaskClassifier", "MultiTaskEstimator", "MultiTaskRegressor", "__version__"]
