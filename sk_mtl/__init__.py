"""Multi-task learning as scikit-learn estimators."""

from sk_mtl._version import __version__
from sk_mtl.estimators import MultiTaskClassifier, MultiTaskEstimator, MultiTaskRegressor
from sk_mtl.model_selection import VectorizedGridSearchCV, VectorizedRandomizedSearchCV
from sk_mtl.relations import TaskGrouper

__all__ = [
    "MultiTaskClassifier",
    "MultiTaskEstimator",
    "MultiTaskRegressor",
    "TaskGrouper",
    "VectorizedGridSearchCV",
    "VectorizedRandomizedSearchCV",
    "__version__",
]
