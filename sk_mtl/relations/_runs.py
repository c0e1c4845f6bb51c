"""Train and score many networks that differ in their tasks, folds or trunks, as few stacks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import joblib
import numpy as np
from sklearn.utils.parallel import Parallel, delayed

from sk_mtl.estimators._stacking import size_of_stacks
from sk_mtl.metrics import make_multi_task_scorer
from sk_mtl.metrics._rules import as_scorer, choose_metric
from sk_mtl.metrics._scorers import MultiTaskScorer, TaskScorer
from sk_mtl.model_selection._jobs import (
    Chunk,
    Job,
    Outcome,
    fit_jobs,
    open_job,
    raise_error,
    run_chunk,
    together,
)
from sk_mtl.views import task_names


def resolve_scoring(scoring: Any) -> MultiTaskScorer:
    """Return a scorer of every task for what a user gave as ``scoring``."""
    if isinstance(scoring, MultiTaskScorer):
        return MultiTaskScorer(scoring.metric, False, scoring.undefined)
    if isinstance(scoring, TaskScorer):
        raise ValueError(
            f"Got scoring={scoring!r}, expected one of all tasks. Use "
            "sk_mtl.metrics.make_multi_task_scorer."
        )
    scorer: MultiTaskScorer = make_multi_task_scorer(scoring, average=False)
    return scorer


def is_loss(scorer: MultiTaskScorer, task: str, kind: str) -> bool:
    """Whether a task's scores are losses, made negative so that higher is better."""
    return getattr(as_scorer(choose_metric(scorer.metric, task, kind)), "_sign", 1) < 0


class ScorerOfSome:
    """Scores a network of some of the tasks; called with their positions among all.

    Parameters
    ----------
    scorer : MultiTaskScorer
        Its metrics may be given by the names of all tasks.
    names : list of str
        All tasks.
    """

    def __init__(self, scorer: MultiTaskScorer, names: Sequence[str]) -> None:
        self.scorer, self.names = scorer, list(names)

    def __call__(self, estimator: Any, X: Any, Y: Any, *, tasks: Sequence[int]) -> dict[str, float]:
        """Return the scores by the names that the estimator has for the tasks."""
        scorer = self.scorer
        if isinstance(scorer.metric, Mapping):
            own = {k: v for k, v in scorer.metric.items() if k not in self.names}
            for name, t in zip(task_names(estimator), tasks, strict=True):
                if self.names[t] in scorer.metric:
                    own[name] = scorer.metric[self.names[t]]
            scorer = MultiTaskScorer(own, False, scorer.undefined)
        return scorer(estimator, X, Y)


def train_and_score(chunk: Chunk, n_jobs: int | None) -> list[Outcome]:
    """Return what became of a chunk's jobs, in their order, trained in stacks side by side.

    Jobs of one candidate differ in their rows, tasks and seeds only, and come one after another.
    ``chunk.max_stack`` is not read: stacks are sized as those of a search.
    """
    parts = list(_parts(chunk, joblib.effective_n_jobs(n_jobs)))
    found = Parallel(n_jobs=n_jobs)(delayed(run_chunk)(part) for part in parts)
    outcomes: list[Outcome] = [outcome for part in found for outcome in part]
    if len(outcomes) < len(chunk.jobs) or any(o.interrupted for o in outcomes):
        raise KeyboardInterrupt  # a table with gaps would be taken for the whole
    places = {(o.candidate, o.fold): o for o in outcomes}
    return [places[candidate, fold] for candidate, fold, _ in chunk.jobs]


def _parts(chunk: Chunk, n_workers: int) -> Iterable[Chunk]:
    """Yield the jobs in equal parts, each about a stack; each worker gets as many."""
    for _, same in groupby(chunk.jobs, key=lambda job: job[0]):
        jobs = list(same)
        size = _stack_size(chunk, jobs[0])
        n_parts = -(-len(jobs) // size)
        n_parts = min(-(-n_parts // n_workers) * n_workers, len(jobs))
        for part in np.array_split(np.arange(len(jobs)), n_parts):
            own = [jobs[i] for i in part]
            used = {fold for _, fold, _ in own}
            folds = {fold: rows for fold, rows in chunk.folds.items() if fold in used}
            stages = {place: s for place, s in chunk.stages.items() if place[0] in used}
            yield replace(chunk, jobs=own, folds=folds, stages=stages, max_stack=size)


def _stack_size(chunk: Chunk, first: tuple[int, int, dict[str, Any]]) -> int:
    """Return how many networks like that of a job to stack."""
    return _size(open_job(replace(chunk, stages=dict(chunk.stages)), *first, {}))


def _size(job: Job) -> int:
    """Return how many networks like that of an open job to stack."""
    if job.reason or job.error is not None:
        return 1
    return size_of_stacks(*job.networks[0])[0]


def fit_together(chunk: Chunk) -> list[Any]:
    """Return the fitted estimators of a chunk's jobs.

    Those of one form are trained as a stack.
    """
    sessions: dict[Any, Any] = {}
    jobs = [open_job(chunk, *job, sessions) for job in chunk.jobs]
    _raise_first(jobs)
    for group in together(jobs, _size(jobs[0])):
        fit_jobs(group)
        _raise_first(group)
    return [job.stage.whole(job.estimator) for job in jobs]


def _raise_first(jobs: Sequence[Job]) -> None:
    """Raise where a job failed, or the user interrupted it."""
    for job in jobs:
        if job.error is not None:
            raise_error(job)
        if job.interrupted:
            raise KeyboardInterrupt
