"""What training beside another task gains a task on rows that were left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sk_mtl.metrics._scorers import MultiTaskScorer
from sk_mtl.model_selection._jobs import Chunk
from sk_mtl.model_selection._scoring import Scoring
from sk_mtl.model_selection._stage import Data, Stage, stage_fold
from sk_mtl.relations._parts import (
    fit_params_of,
    plain_labels,
    restricted,
    select_tasks,
    without_names,
)
from sk_mtl.relations._runs import ScorerOfSome, train_and_score

SINGLE, PAIR = 0, 1


def transfer(
    estimator: Any,
    data: Data,
    names: Sequence[str],
    folds: Sequence[tuple[Any, Any]],
    scorer: MultiTaskScorer,
    n_jobs: int | None,
) -> NDArray[np.float64]:
    """Return the mean gain of task j from being trained with task i alone, at [i, j].

    Networks of one form, whichever their tasks and folds, are trained as stacks.
    """
    n_tasks = len(names)
    sets = [*((t,) for t in range(n_tasks)), *combinations(range(n_tasks), 2)]
    data = _without_names(data, names)
    whole = [stage_fold(estimator, {}, data, train, test) for train, test in folds]
    for stage in whole:
        if stage.error is not None:
            raise stage.error
    jobs, stages = [], {}
    for place, tasks in enumerate(sets):
        params = restricted(estimator, names, tasks)
        kind = SINGLE if len(tasks) == 1 else PAIR
        for fold, stage in enumerate(whole):
            number = place * len(folds) + fold
            stages[number, ()] = _of(stage, names, tasks)
            jobs.append((kind, number, params))
    chunk = Chunk(
        estimator,
        data,
        {},
        jobs,
        Scoring(ScorerOfSome(scorer, names), False, "raise", 0),
        1,
        stages,
    )
    outcomes = train_and_score(chunk, n_jobs)
    scores = np.full((len(sets), len(folds), 2), np.nan)
    for outcome in outcomes:
        place, fold = divmod(outcome.fold, len(folds))
        own = list(outcome.task_scores.values())
        scores[place, fold, : len(own)] = own
    gains = np.zeros((n_tasks, n_tasks))
    alone = scores[:n_tasks, :, 0]  # (task, fold)
    for place, (i, j) in enumerate(sets[n_tasks:], start=n_tasks):
        gains[i, j] = _mean(scores[place, :, 1] - alone[j])
        gains[j, i] = _mean(scores[place, :, 0] - alone[i])
    return gains


def _without_names(data: Data, names: Sequence[str]) -> Data:
    """Return the rows with labels that have no names: networks of a stack share their tasks'."""
    params = {name: without_names(name, value, names) for name, value in data.fit_params.items()}
    return replace(data, y=plain_labels(data.y), fit_params=params)


def _of(stage: Stage, names: Sequence[str], tasks: Sequence[int]) -> Stage:
    """Return a fold for some of the tasks."""
    return replace(
        stage,
        y_fit=select_tasks(stage.y_fit, tasks),
        y_train=select_tasks(stage.y_train, tasks),
        y_test=select_tasks(stage.y_test, tasks),
        fit_params=fit_params_of(stage.fit_params, names, tasks),
        score_test={"tasks": tasks},
    )


def _mean(values: NDArray[np.float64]) -> float:
    """Return the mean over the folds that define a score, NaN if none does."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")
