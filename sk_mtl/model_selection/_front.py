"""What a search tells of its candidates task by task: the front, a choice on it, its networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone
from sklearn.utils import indexable
from sklearn.utils.validation import _num_samples, check_is_fitted

from sk_mtl.model_selection._jobs import (
    Chunk,
    Job,
    Outcome,
    fit_jobs,
    open_job,
    raise_error,
    together,
)
from sk_mtl.model_selection._pareto import closest_to_preference, hypervolume, non_dominated
from sk_mtl.model_selection._scoring import Scoring
from sk_mtl.model_selection._stage import Data
from sk_mtl.tasks import by_task


class FrontMixin:
    """Attributes and methods of a search over tasks that compete."""

    task_names_: list[str]
    task_scores_: NDArray[np.float64]
    pareto_front_: NDArray[np.intp]

    def _set_task_scores(
        self, outcomes: Sequence[Outcome], n_candidates: int, folds: Sequence[int]
    ) -> None:
        """Set the scores of the tasks on the rows that these folds leave out, and the front."""
        names = next((list(o.task_scores) for o in outcomes if o.task_scores), [])
        scores = np.full((n_candidates, len(folds), len(names)), np.nan)
        for o in outcomes:
            if o.task_scores and o.fold in folds:
                row = [o.task_scores[name] for name in names]
                scores[o.candidate, folds.index(o.fold)] = row
        # What the labels of a fold leave undefined, they leave so for every candidate.
        defined = ~np.isnan(scores).all(axis=0)  # (fold, task)
        known = np.where(defined, scores, 0.0)
        self.task_names_ = names
        with np.errstate(invalid="ignore"):
            self.task_scores_ = known.sum(axis=1) / defined.sum(axis=0)
        comparable = self.task_scores_[:, self._told()]
        self.pareto_front_ = np.flatnonzero(non_dominated(comparable) if comparable.size else ())

    def _told(self) -> NDArray[np.bool_]:
        """Return which tasks have a score of some candidate."""
        told: NDArray[np.bool_] = np.logical_not(np.isnan(self.task_scores_).all(axis=0))
        return told

    def select(self: Any, preference: Mapping[str, float] | ArrayLike) -> int:
        """Return the candidate of the front that serves a preference over the tasks best.

        Parameters
        ----------
        preference : dict or array-like of shape (n_tasks,)
            How much each task matters, by name (others count 0) or in the order of
            ``task_names_``; numbers >= 0, of which only the ratios matter.

        Returns
        -------
        int
            Its position in ``cv_results_``; see :func:`closest_to_preference` for the rule.

        Raises
        ------
        ValueError
            If a name is not a task's, a number is not admissible, or the folds define no score
            of a task that is to count.
        """
        check_is_fitted(self, "task_scores_")
        wanted: Any = preference
        if isinstance(preference, Mapping):
            wanted = by_task(preference, self.task_names_, "preference", default=0.0)
        told = self._told()
        if np.shape(wanted) != told.shape or told.all():
            return closest_to_preference(self.task_scores_, wanted)
        pairs = zip(self.task_names_, wanted, told, strict=True)
        if untold := [name for name, number, known in pairs if number and not known]:
            raise ValueError(
                f"Got a preference for {untold}, expected 0 there: no fold defines a score. Use "
                "folds that spread the classes (sk_mtl.model_selection.MultiTaskStratifiedKFold)."
            )
        return closest_to_preference(self.task_scores_[:, told], np.asarray(wanted)[told])

    def hypervolume(self: Any, reference: Mapping[str, float] | ArrayLike | None = None) -> float:
        """Return the volume that the front dominates: one number for a whole search.

        Parameters
        ----------
        reference : dict or array-like of shape (n_tasks,), default=None
            A score a task, by name or in order (of those that have any), that counts as
            worthless. None takes the worst of any candidate; two searches compare only by the
            same reference.

        Returns
        -------
        float
            See :func:`hypervolume`.
        """
        check_is_fitted(self, "task_scores_")
        scores = self.task_scores_[:, self._told()]
        floor: Any = reference
        if reference is None:
            floor = np.nanmin(scores, axis=0)
        elif isinstance(reference, Mapping):
            names = np.array(self.task_names_, dtype=object)[self._told()].tolist()
            floor = by_task(reference, names, "reference")
        return hypervolume(scores[self.pareto_front_], floor)

    def fit_candidates(
        self: Any, X: Any, y: Any, candidates: int | Sequence[int] | None = None, **fit_params: Any
    ) -> list[Any]:
        """Fit candidates on all rows, as one stack: the estimators of the front's points.

        Parameters
        ----------
        X : array-like or frame of shape (n_samples, n_features)
            Features, as a rule those of the search.
        y : array-like or frame of shape (n_samples,) or (n_samples, n_tasks)
            Labels.
        candidates : int, sequence of int, mask or None, default=None
            Positions in ``cv_results_``, or a mask over them; None for ``pareto_front_``.
        **fit_params : dict
            Parameters of the estimator's ``fit``.

        Returns
        -------
        list of estimators
            Fitted clones with the candidates' parameters, in the order of ``candidates``.

        Raises
        ------
        ValueError
            If a position is none of a candidate.
        """
        check_is_fitted(self, "task_scores_")
        positions = self._positions(candidates)
        X, y = indexable(X, y)
        rows = np.arange(_num_samples(X))
        chunk = Chunk(
            clone(self.estimator),
            Data(X, y, fit_params, {}),
            {0: (rows, rows[:1])},
            [(c, 0, self.cv_results_["params"][c]) for c in positions],
            Scoring(None, False, "raise", 0),
            max([self.search_report_["stack_size"][c] for c in positions], default=1),
        )
        sessions: dict[Any, Any] = {}
        jobs = [open_job(chunk, *job, sessions) for job in chunk.jobs]
        for group in together(jobs, chunk.max_stack):
            fit_jobs(group)
        return [_fitted(job) for job in jobs]

    def _positions(self: Any, candidates: int | Sequence[int] | None) -> list[int]:
        """Return positions of candidates as a list, or raise."""
        given = self.pareto_front_ if candidates is None else np.atleast_1d(candidates)
        n = len(self.cv_results_["params"])
        if given.dtype == bool and len(given) == n:
            given = np.flatnonzero(given)
        bad = [c for c in given.tolist() if type(c) is not int or not 0 <= c < n]
        if bad:
            raise ValueError(
                f"Got candidates {bad}, expected positions from 0 to {n - 1}. Take them from "
                "pareto_front_ or select()."
            )
        return [int(c) for c in given]


def _fitted(job: Job) -> Any:
    """Return a job's whole estimator, with steps of its own; raise where it failed."""
    if job.error is not None:
        raise_error(job)
    whole = job.stage.whole(job.estimator)
    return whole if whole is job.estimator else deepcopy(whole)
