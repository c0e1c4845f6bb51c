"""Cut the candidates and folds of a search into stacks, and train these in parallel."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import joblib
import numpy as np
from joblib.parallel import get_active_backend
from sklearn.base import clone
from sklearn.utils.parallel import Parallel, delayed

from sk_mtl._support import fingerprint
from sk_mtl.estimators import _stacking as stacking
from sk_mtl.estimators._ours import why_not_ours
from sk_mtl.model_selection._jobs import Chunk, Outcome, open_job, run_chunk
from sk_mtl.model_selection._scoring import Scoring
from sk_mtl.model_selection._stage import Data, Stage, last_step, stage_fold, step_params

Params = dict[str, Any]


@dataclass
class Group:
    """Candidates that can probably be stacked.

    Attributes
    ----------
    candidates : list of int
        Positions.
    size : int
        Most networks in one of their stacks.
    n_bytes : int
        What one network takes; 0 if it is not known.
    n_members : int
        Networks of a candidate's estimator.
    """

    candidates: list[int]
    size: int = 1
    n_bytes: int = 0
    n_members: int = 1


@dataclass
class Schedule:
    """The jobs of a search, and how they are spread.

    Attributes
    ----------
    estimator : estimator
        What is searched.
    data : Data
        All rows.
    folds : list of (ndarray, ndarray)
        Training and test rows.
    candidates : list of dict
        Parameters to try.
    scoring : Scoring
        How to score.
    max_stack : "auto" or int
        Most networks in a stack.
    n_jobs : int or None
        Number of stacks trained at a time.
    """

    estimator: Any
    data: Data
    folds: Sequence[tuple[Any, Any]]
    candidates: Sequence[Params]
    scoring: Scoring
    max_stack: int | str
    n_jobs: int | None
    groups: list[Group] = field(default_factory=list)
    _stages: dict[tuple[int, Any], Stage] = field(default_factory=dict)

    def run(self, pre_dispatch: int | str) -> tuple[list[Outcome], bool]:
        """Return what became of the jobs, and whether the user interrupted them."""
        self.groups = self._group()
        backend = get_active_backend()[0]
        lazily = getattr(backend, "supports_return_generator", False)
        parallel = Parallel(
            n_jobs=self.n_jobs,
            pre_dispatch=pre_dispatch,
            return_as="generator_unordered" if lazily else "list",
        )
        chunks: Iterable[Chunk] = self._chunks()
        if joblib.effective_n_jobs(self.n_jobs) > 1:
            chunks = list(chunks)  # joblib's threads would fit a pipeline's steps, and lose errors
        outcomes: list[Outcome] = []
        try:
            for part in parallel(delayed(run_chunk)(chunk) for chunk in chunks):
                outcomes += part
                if any(outcome.interrupted for outcome in part):
                    return outcomes, True
        except KeyboardInterrupt:
            return outcomes, True
        return outcomes, False

    def _group(self) -> list[Group]:
        """Put candidates together that differ in stackable parameters only."""
        groups: dict[Any, Group] = {}
        for c, params in enumerate(self.candidates):
            final = last_step(clone(self.estimator).set_params(**clone(params, safe=False)))
            alone = why_not_ours(final)
            form = None if alone else stacking.likely_form(final)
            groups.setdefault(form, Group([])).candidates.append(c)
        for group in groups.values():
            self._measure(group)
        return list(groups.values())

    def _measure(self, group: Group) -> None:
        """Find out how many networks of a group to stack, and what one of them takes."""
        for fold, c in product(range(len(self.folds)), group.candidates):
            # the first may be one that cannot be trained, or on which nothing can
            chunk = self._chunk([(c, fold, self.candidates[c])], 1)
            job = open_job(chunk, c, fold, self.candidates[c], {})
            if job.reason:
                break
            if job.error is None:
                try:
                    size, group.n_bytes = stacking.size_of_stacks(*job.networks[0])
                except Exception:  # a part that cannot be built: its fit will say why
                    return
                group.size = size if self.max_stack == "auto" else int(self.max_stack)
                group.n_members = len(job.networks)
                return

    def _chunks(self) -> Iterator[Chunk]:
        """Yield the jobs fold by fold, in equal parts; each worker gets as many."""
        n_workers = joblib.effective_n_jobs(self.n_jobs)
        for group in self.groups:
            jobs = [
                (c, f, self.candidates[c]) for f in range(len(self.folds)) for c in group.candidates
            ]
            if not jobs:
                return
            n_parts = -(-len(jobs) // max(group.size // group.n_members, 1))
            n_parts = min(-(-n_parts // n_workers) * n_workers, len(jobs))
            for part in np.array_split(np.arange(len(jobs)), n_parts):
                yield self._chunk([jobs[i] for i in part], group.size)

    def _chunk(self, jobs: list[tuple[int, int, Params]], max_stack: int) -> Chunk:
        used = sorted({fold for _, fold, _ in jobs})
        chunk = Chunk(
            self.estimator,
            self.data,
            {fold: self.folds[fold] for fold in used},
            jobs,
            self.scoring,
            max_stack,
        )
        chunk.stages = self._staged(jobs)
        return chunk

    def _staged(self, jobs: list[tuple[int, int, Params]]) -> dict[tuple[int, Any], Stage]:
        """Return the folds of a pipeline's jobs: its first steps are fitted here, once a fold.

        Rows of a bare estimator are cut where they are needed, which costs less than to send
        them there.
        """
        stages = {}
        for _, fold, params in jobs:
            before = step_params(self.estimator, params)
            place = (fold, fingerprint(before))
            if hasattr(self.estimator, "steps") and place not in self._stages:
                self._stages[place] = stage_fold(
                    self.estimator, before, self.data, *self.folds[fold]
                )
            if place in self._stages:
                stages[place] = self._stages[place]
                error = stages[place].error
                if error is not None and self.scoring.error_score == "raise":
                    raise error  # here: a worker may not be able to send it back
        return stages


def report(schedule: Schedule, outcomes: Sequence[Outcome]) -> dict[str, list[Any]]:
    """Return how every candidate was trained."""
    n = len(schedule.candidates)
    n_bytes = [0] * n
    for group in schedule.groups:
        for c in group.candidates:
            n_bytes[c] = group.n_bytes
    sizes, reasons = [0] * n, [""] * n
    for outcome in outcomes:
        sizes[outcome.candidate] = max(sizes[outcome.candidate], outcome.stack_size)
        if outcome.stack_size == 1:
            reasons[outcome.candidate] = reasons[outcome.candidate] or outcome.reason
    trained = ["stacked" if s > 1 else "alone" if s else "not at all" for s in sizes]
    return {"trained": trained, "stack_size": sizes, "network_bytes": n_bytes, "reason": reasons}
