"""What an estimator has once its net is trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from sk_mtl._support import warn
from sk_mtl.callbacks import TaskStopping
from sk_mtl.columns import to_tensor
from sk_mtl.estimators._optimizer import check_finite
from sk_mtl.estimators._session import Session
from sk_mtl.objective import related_tasks
from sk_mtl.steps import related_heads
from sk_mtl.training import MultiTaskNet


def set_fitted(
    session: Session, net: MultiTaskNet, stopping: TaskStopping, tell: Callable[[], None]
) -> None:
    """Set the fitted attributes, tell the callbacks; warn where training ended early or too early.

    Raises
    ------
    ValueError
        If the weights that are kept are not finite.
    """
    est = session.est
    check_finite(net)
    net.forget_training_data()
    _set_curves(est, list(net.history), continued=session.continued)
    est.best_loss_, est.best_iter_ = stopping.best_loss_, stopping.best_epoch_
    if est.n_iter_ and not stopping.validation:  # also over the calls before this one
        est.best_loss_ = min(est.loss_curve_)
        est.best_iter_ = est.loss_curve_.index(est.best_loss_) + 1
    _set_relations(est, net)
    one_row = net.features(to_tensor(session.X[:1]))
    est._n_features_transformed = one_row.size  # the tasks' side by side, where each has its own
    tell()
    if session.member is None:  # members are warned of together
        _warn_of_the_end(session, net, stopping)


def _warn_of_the_end(session: Session, net: MultiTaskNet, stopping: TaskStopping) -> None:
    """Warn where training ended by an accident, or too early."""
    est = session.est
    if net.interrupted_:
        which = "best" if stopping.validation and est.best_iter_ else "last"
        warn(
            f"Training interrupted by user after {est.n_iter_} epochs; the estimator is "
            f"fitted and keeps the {which} weights so far."
        )
    elif est.n_iter_ and not np.isfinite(est.loss_curve_[-1]):
        warn(
            f"Training diverged in epoch {est.n_iter_}; the estimator keeps the weights of "
            f"epoch {est.best_iter_}. Scale X, or lower learning_rate_init.",
            ConvergenceWarning,
        )
    elif not session.incremental and not net.stopped_by_callback_:
        warn(
            f"Stochastic Optimizer: Maximum iterations ({est.max_iter}) reached and the "
            "optimization hasn't converged yet. Raise max_iter, learning_rate_init or tol.",
            ConvergenceWarning,
        )


def _set_curves(est: Any, history: list[Any], *, continued: bool) -> None:
    """Set the losses of all epochs; those of earlier calls are not read once more."""
    start = est.n_iter_ if continued else 0
    new = history[start:]
    validated = all("valid_loss" in epoch for epoch in new)
    if not start:
        validated &= bool(new)
        est.loss_curve_, est.validation_scores_ = [], []
        est.task_loss_curves_ = est.validation_task_loss_curves_ = _curves(est, [], "")
    est.n_iter_ = len(history)
    est.loss_curve_ = est.loss_curve_ + [epoch["train_loss"] for epoch in new]
    est.task_loss_curves_ = np.concatenate([est.task_loss_curves_, _curves(est, new, "train_loss")])
    if validated and est.validation_scores_ is not None:
        est.validation_scores_ = est.validation_scores_ + [e["valid_score"] for e in new]
        est.validation_task_loss_curves_ = np.concatenate(
            [est.validation_task_loss_curves_, _curves(est, new, "valid_loss")]
        )
    else:
        est.validation_scores_ = est.validation_task_loss_curves_ = None


def _set_relations(est: Any, net: MultiTaskNet) -> None:
    """Set how tasks covary where a penalty tells; NaN for those that it does not relate."""
    for name in ("task_covariance_", "task_correlation_"):
        est.__dict__.pop(name, None)  # of an earlier fit
    relation: Any = net.criterion_.relation
    if not hasattr(relation, "covariance"):
        return
    found = relation.covariance(related_heads(net.module_))
    tasks = related_tasks(net.module_.groups)
    covariance = np.full((est.n_tasks_, est.n_tasks_), np.nan)
    covariance[np.ix_(tasks, tasks)] = found.cpu().numpy()
    scale = np.sqrt(np.diag(covariance))
    est.task_covariance_ = covariance
    with np.errstate(invalid="ignore", divide="ignore"):
        est.task_correlation_ = covariance / np.outer(scale, scale)


def _curves(est: Any, epochs: list[Any], prefix: str) -> NDArray[np.float64]:
    names = est.task_names_
    return np.array([[e[f"{prefix}_{n}"] for n in names] for e in epochs]).reshape(-1, len(names))
