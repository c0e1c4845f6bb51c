"""Fit and score many candidates on folds: stacks of networks where they can be stacked."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from traceback import format_exception
from typing import Any

import numpy as np
from sklearn.base import clone

from sk_mtl._support import fingerprint
from sk_mtl.estimators import _stacking as stacking
from sk_mtl.estimators._ensemble import (
    form_of,
    plan_networks,
    train_together,
    why_one_by_one,
)
from sk_mtl.estimators._ours import why_not_ours
from sk_mtl.model_selection._scoring import Scoring
from sk_mtl.model_selection._stage import Data, Stage, last_step, stage_fold, step_params


@dataclass
class Job:
    """One candidate on one fold, and what became of it.

    Attributes
    ----------
    candidate, fold : int
        Positions.
    params : dict
        The candidate's parameters.
    stage : Stage
        The fold's rows.
    estimator : estimator
        The last step, with these parameters.
    untouched : estimator
        The same, from which no random number was drawn.
    session : Session or None
        Its data, if it is one of ours.
    networks : list of (Session, Plan)
        How its network is trained, or each of its members.
    error : Exception or None
        What its fit failed of.
    reason : str
        Why it was trained alone; empty if it was stacked.
    stack_size : int
        Networks that were trained with it, itself included.
    fit_time : float
        Its share of the seconds of the stack.
    interrupted : bool
        Whether the user ended its training.
    """

    candidate: int
    fold: int
    params: dict[str, Any]
    stage: Stage
    estimator: Any
    untouched: Any = None
    session: Any = None
    networks: Any = None
    error: Exception | None = None
    reason: str = ""
    stack_size: int = 1
    fit_time: float = 0.0
    interrupted: bool = False


@dataclass
class Chunk:
    """Candidates on folds that are trained by one call.

    Attributes
    ----------
    estimator : estimator
        What is searched; cloned for every fit.
    data : Data
        All rows.
    folds : dict of int to (ndarray, ndarray)
        Training and test rows.
    jobs : list of (int, int, dict)
        Candidate, fold and parameters.
    stages : dict
        Folds that were staged before, by fold and the hash of the steps' parameters.
    scoring : Scoring
        How to score.
    max_stack : int
        Most networks to stack.
    """

    estimator: Any
    data: Data
    folds: dict[int, tuple[Any, Any]]
    jobs: list[tuple[int, int, dict[str, Any]]]
    scoring: Scoring
    max_stack: int
    stages: dict[tuple[int, Any], Stage] = field(default_factory=dict)


@dataclass
class Outcome:
    """What a search keeps of a job.

    Attributes
    ----------
    candidate, fold : int
        Positions.
    result : dict
        As scikit-learn's searches read it.
    task_scores : dict of str to float
        Scores of the tasks on the test rows.
    reason : str
        See :class:`Job`.
    stack_size : int
        See :class:`Job`.
    interrupted : bool
        See :class:`Job`.
    """

    candidate: int
    fold: int
    result: dict[str, Any]
    task_scores: dict[str, float]
    reason: str
    stack_size: int
    interrupted: bool


def run_chunk(chunk: Chunk) -> list[Outcome]:
    """Fit and score the jobs of a chunk; a KeyboardInterrupt ends it with those scored."""
    outcomes: list[Outcome] = []
    try:
        for jobs in together(_prepare(chunk), chunk.max_stack):
            fit_jobs(jobs)
            for job in jobs:
                outcomes.append(_score(job, chunk.scoring))
                job.session = job.networks = job.estimator = None  # frees the network
            if any(outcome.interrupted for outcome in outcomes):
                break
    except KeyboardInterrupt:
        if not outcomes:
            raise
        outcomes[-1].interrupted = True
    return outcomes


def open_job(
    chunk: Chunk, candidate: int, fold: int, params: dict[str, Any], sessions: dict[Any, Any]
) -> Job:
    """Return a job, its data encoded and its parameters checked; ``sessions`` are shared."""
    whole = clone(chunk.estimator).set_params(**clone(params, safe=False))
    before = step_params(chunk.estimator, params)
    place = (fold, fingerprint(before))
    if place not in chunk.stages:
        chunk.stages[place] = stage_fold(chunk.estimator, before, chunk.data, *chunk.folds[fold])
    final = last_step(whole)
    untouched = final if isinstance(final, (str, type(None))) else clone(final)
    job = Job(candidate, fold, params, chunk.stages[place], final, untouched)
    job.error = job.stage.error
    if job.error is not None:
        return job
    job.reason = why_not_ours(job.estimator) or ""
    if job.reason:
        return job
    start = time.perf_counter()
    try:
        job.session = stacking.open_session(
            job.estimator, job.stage.X_fit, job.stage.y_fit, job.stage.fit_params,
            sessions, place,
        )  # fmt: skip
        job.networks = plan_networks(job.session)
        job.reason = why_one_by_one(job.session, job.networks) or ""
    except Exception as error:
        job.error = error
    job.fit_time = time.perf_counter() - start
    return job


def _prepare(chunk: Chunk) -> list[Job]:
    """Open all jobs; where errors are to be raised, before any network is trained."""
    sessions: dict[Any, Any] = {}
    jobs = [open_job(chunk, *job, sessions) for job in chunk.jobs]
    for job in jobs:
        if job.error is not None and chunk.scoring.error_score == "raise":
            raise_error(job)
        if chunk.max_stack == 1 and not job.reason and job.error is None:
            job.reason = "max_stack is 1"
    return jobs


def raise_error(job: Job) -> None:
    """Raise what a job failed of."""
    assert job.error is not None
    raise job.error


def together(jobs: Sequence[Job], max_stack: int) -> list[list[Job]]:
    """Return the jobs in groups that can be trained together."""
    groups: dict[Any, list[Job]] = {}
    for job in jobs:
        if job.error is not None or job.reason:
            groups[object()] = [job]
        else:
            groups.setdefault(form_of(job.networks), []).append(job)
    return [
        [group[i] for i in part]
        for group in groups.values()
        for part in np.array_split(np.arange(len(group)), _n_stacks(group, max_stack))
    ]


def _n_stacks(jobs: Sequence[Job], max_stack: int) -> int:
    """Return into how many stacks jobs of one form are cut; all members of a job are in one."""
    n_members = max(len(jobs[0].networks or ()), 1)
    return -(-len(jobs) // max(max_stack // n_members, 1))


def fit_jobs(jobs: Sequence[Job]) -> None:
    """Train jobs of one form, as one stack if it is possible; errors are kept in the jobs."""
    start = time.perf_counter()
    if len(jobs) > 1:
        try:
            errors = train_together([j.networks for j in jobs], [j.session for j in jobs])
        except Exception as error:  # a part of the user's own may not work on stack axes
            for job in jobs:
                job.reason = f"{type(error).__name__} in a stack: {error}"
                _fit_alone(job)
        else:
            for job, failure in zip(jobs, errors, strict=True):
                job.error, job.stack_size = failure, len(jobs) * len(job.networks)
    else:
        _fit_alone(jobs[0])
    seconds = (time.perf_counter() - start) / len(jobs)
    for job in jobs:
        job.fit_time += seconds
        nets = getattr(job.estimator, "_nets", [])
        job.interrupted = any(getattr(net, "interrupted_", False) for net in nets)


def _fit_alone(job: Job) -> None:
    """Fit an estimator by its own ``fit``."""
    if job.error is not None:
        return
    job.reason = job.reason or "no other candidate or fold has its form"
    stage = job.stage
    estimator = job.untouched
    try:
        estimator.fit(stage.X_fit, stage.y_fit, **stage.fit_params)
    except Exception as error:
        job.error = error
    job.estimator = estimator


def _score(job: Job, scoring: Scoring) -> Outcome:
    """Score a fitted job as scikit-learn would."""
    error = job.error
    if error is not None and scoring.error_score == "raise":
        raise_error(job)
    said = None if error is None else "".join(format_exception(error))
    result, task_scores = scoring(job.stage, job.estimator, said)
    result["fit_time"] = job.fit_time
    if scoring.verbose > 1:
        params = ", ".join(f"{name}={value}" for name, value in sorted(job.params.items()))
        took = job.fit_time + result["score_time"]
        print(f"[CV] END {params}; score={result['test_scores']} total time={took:.1f}s")
    return Outcome(
        job.candidate,
        job.fold,
        result,
        task_scores,
        job.reason,
        job.stack_size,
        job.interrupted,
    )
