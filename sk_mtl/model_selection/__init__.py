"""Searches that train as one network, folds, and out-of-fold predictions for many tasks."""

from sk_mtl.model_selection._pareto import (
    Knee,
    closest_to_preference,
    hypervolume,
    knee_index,
    non_dominated,
)
from sk_mtl.model_selection._search import (
    VectorizedGridSearchCV,
    VectorizedHalvingGridSearchCV,
    VectorizedRandomizedSearchCV,
)
from sk_mtl.model_selection._split import MultiTaskStratifiedKFold
from sk_mtl.model_selection._validation import cross_val_predict
from sk_mtl.model_selection._weights import TaskWeightDistribution, task_weight_grid

__all__ = [
    "Knee",
    "MultiTaskStratifiedKFold",
    "TaskWeightDistribution",
    "VectorizedGridSearchCV",
    "VectorizedHalvingGridSearchCV",
    "VectorizedRandomizedSearchCV",
    "closest_to_preference",
    "cross_val_predict",
    "hypervolume",
    "knee_index",
    "non_dominated",
    "task_weight_grid",
]
