"""Which estimators are of this package, as searches and relations ask."""

from __future__ import annotations

from typing import Any

from sk_mtl.estimators._base import BaseMultiTask
from sk_mtl.estimators._mixins import ScoreMixin


def why_not_ours(estimator: Any) -> str | None:
    """Return why this is none of the estimators that can be stacked; None if it is one."""
    name = type(estimator).__name__
    if not isinstance(estimator, BaseMultiTask):
        return f"{name} is no multi-task estimator of this package"
    if type(estimator).fit is not BaseMultiTask.fit:
        return f"{name} has a fit of its own"
    return None


def scores_by_mean(estimator: Any) -> bool:
    """Whether an estimator's ``score`` is the mean over its tasks."""
    return getattr(type(estimator), "score", None) is ScoreMixin.score
