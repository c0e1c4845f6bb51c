"""Folds and out-of-fold predictions for tasks with missing labels."""

from sk_mtl.model_selection._split import MultiTaskStratifiedKFold
from sk_mtl.model_selection._validation import cross_val_predict

__all__ = ["MultiTaskStratifiedKFold", "cross_val_predict"]
