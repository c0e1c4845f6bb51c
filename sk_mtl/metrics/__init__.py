"""Scores and scorers of multi-task predictions: missing labels are skipped, tasks have names."""

from sk_mtl.metrics._scorers import make_multi_task_scorer, make_task_scorer
from sk_mtl.metrics._scores import mean_score, task_scores

__all__ = [
    "make_multi_task_scorer",
    "make_task_scorer",
    "mean_score",
    "task_scores",
]
