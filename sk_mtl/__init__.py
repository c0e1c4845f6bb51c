"""Multi-task learning as scikit-learn estimators."""

from sk_mtl._version import __version__
from sk_mtl.estimators import MultiTaskClassifier, MultiTaskEstimator, MultiTaskRegressor
from sk_mtl.model_selection import VectorizedGridSearchCV, VectorizedRandomizedSearchCV

__all__ = [
    "MultiTaskClassifier",
    "MultiTaskEstimator",
    "MultiTaskRegressor",
    "VectorizedGridSearchCV",
    "VectorizedRandomizedSearchCV",
    "__version__",
]
