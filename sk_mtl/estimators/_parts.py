"""The parts that an estimator names and trains by, checked in view of its tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from sk_mtl._support import resolve_recipe
from sk_mtl.batches import TaskData
from sk_mtl.callbacks import TaskStopping
from sk_mtl.estimators._labels import resolve_task_weights
from sk_mtl.penalties import PENALTIES, Penalty
from sk_mtl.trunks import Trunk
from sk_mtl.weighting import WEIGHTINGS, Weighting, resolve_weighting


def weighting_of(est: Any, dtype: Any) -> tuple[Weighting, torch.Tensor]:
    """Return how tasks are weighed, and the user's weights or ones, in a type of numpy's."""
    weighting = resolve_weighting(est.weighting)
    if est.task_weights is not None and not weighting.uses_task_weights:
        raise ValueError(
            f"Got task_weights={est.task_weights!r} with weighting={est.weighting!r}, which "
            "has no use for them, expected None: it finds the weights itself. Use "
            f"weighting='static', or one that takes a preference: {_taking_preference()}."
        )
    links = est._links
    if links is not None and links.flows and weighting.needs != "losses":
        raise ValueError(
            f"Got weighting={est.weighting!r} with task_dependencies in which a task's loss "
            "reaches others' heads, expected a weighting by losses: it takes the tasks' "
            "gradients apart. Use OutputCascade(..., backpropagate=False)."
        )
    weights = resolve_task_weights(est.task_weights, est.task_names_).astype(dtype)
    return weighting, torch.from_numpy(weights)


def penalty_of(
    est: Any, trunk: Trunk, shape: dict[str, tuple[str, Any]], warn: Callable[[str], None]
) -> Penalty | None:
    """Return the penalty on related heads; raise where these cannot be compared.

    Parameters
    ----------
    est : BaseMultiTask
        Its tasks are known.
    trunk : Trunk
        What the heads read.
    shape : dict
        See :func:`~sk_mtl.estimators._architecture.architecture`.
    warn : callable
        Says what is unusual.
    """
    if est.penalty is None:
        return None
    penalty: Penalty = resolve_recipe(est.penalty, PENALTIES, Penalty, "penalty")
    apart = [task.name for task in est._tasks if task.n_classes > 2]
    if len(est._tasks) - len(apart) < 2:
        raise ValueError(
            f"Got penalty={est.penalty!r}, expected at least two tasks of amounts or two "
            "classes to relate. Set penalty=None."
        )
    if trunk.private or shape["head_hidden_layer_sizes"][1]:
        raise ValueError(
            f"Got penalty={est.penalty!r} with trunk={est.trunk!r} and "
            f"head_hidden_layer_sizes={est.head_hidden_layer_sizes!r}, expected heads that "
            "read what tasks share, so that they can be compared. Use a trunk that is shared, "
            "and heads without hidden layers."
        )
    lonely = [task.name for task in est._tasks if task.n_classes == 1]
    if lonely:
        warn(
            f"Got penalty={est.penalty!r} with {len(lonely)} tasks of a single class "
            f"({lonely[:5]}): nothing trains their heads but the others'. Leave them out."
        )
    if apart:
        warn(
            f"Got penalty={est.penalty!r} with {len(apart)} tasks of more than two classes "
            f"({apart[:5]}): their heads have more outputs and are not related to others."
        )
    return penalty.aligned(est.task_names_)


def stopping_of(
    est: Any,
    valid: TaskData | None,
    weighting: Weighting,
    task_weights: torch.Tensor,
    patience: float,
) -> TaskStopping:
    """Return when training ends: by these validation rows, or by the training loss."""
    if est.stopping_rule == "each" and est._links is not None:
        raise ValueError(
            "Got stopping_rule='each' with task_dependencies, expected 'mean' or 'worst': tasks "
            "that read each other's outputs share a best epoch. Leave one of the two out."
        )
    names = list(est.task_names_)
    if est.stopping_tasks is not None:
        names = [_task_name(task, est.task_names_) for task in est.stopping_tasks]
        if not names:
            raise ValueError(
                "Got stopping_tasks=[], expected at least one task. Pass None to watch all."
            )
    if valid is not None:
        labelled = (~valid.y.isnan()).any(0).cpu().numpy()
        seen = [n for n, has in zip(est.task_names_, labelled, strict=True) if has]
        names = [n for n in names if n in seen] or seen or list(est.task_names_)
    if est.stopping_rule == "each":  # what nobody learns drifts, and would seem to improve
        learned = [n for n, w in zip(est.task_names_, task_weights.tolist(), strict=True) if w]
        names = [n for n in names if n in learned] or names
    return TaskStopping(
        names,
        validation=valid is not None,
        rule=est.stopping_rule,
        tol=est.tol,
        patience=patience,
        settled=weighting.settles_after(est._links.levels) if est._links else 0,
    )


def _taking_preference() -> list[str]:
    """Return the names of the weightings for which the user's task weights are a preference."""
    return [n for n, w in WEIGHTINGS.items() if w.uses_task_weights and n != "static"]


def _task_name(task: Any, names: list[str]) -> str:
    """Return a task's name from its name or index."""
    if task in names:
        return str(task)
    if isinstance(task, (int, np.integer)) and -len(names) <= task < len(names):
        return names[task]
    raise ValueError(
        f"Got the task {task!r} in stopping_tasks, expected names or indices of {names}. Pass None "
        "to watch all."
    )
