"""The search behind all classes: scikit-learn's bookkeeping around stacks of networks."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, ClassVar

import numpy as np
from sklearn.base import clone, is_classifier
from sklearn.model_selection import check_cv
from sklearn.utils import indexable

from sk_mtl._support import (
    BaseSearchCV,
    check_method_params,
    fit_context,
    has_callback_contexts,
    insert_error_scores,
    open_callback_context,
    report_failed_fits,
    undo_on_error,
    warn,
    with_callbacks,
)
from sk_mtl.estimators._ours import why_not_ours
from sk_mtl.metrics._scorers import MultiTaskScorer
from sk_mtl.model_selection._chunks import Schedule, report
from sk_mtl.model_selection._front import FrontMixin
from sk_mtl.model_selection._jobs import Outcome
from sk_mtl.model_selection._pareto import Knee
from sk_mtl.model_selection._partial import shared_folds
from sk_mtl.model_selection._scoring import Scoring
from sk_mtl.model_selection._stage import Data, last_step
from sk_mtl.model_selection._validation import make_cv
from sk_mtl.targets import read_targets


class _Interrupted(Exception):
    """The user ended a round of the search."""


@dataclass
class _Rounds:
    """What a search has evaluated so far.

    Attributes
    ----------
    candidates : list of dict
        Their parameters.
    outcomes : list of Outcome
        What became of each on each fold.
    more : dict of lists
        Further columns of ``cv_results_``.
    report : dict of lists
        See ``search_report_``.
    results : dict
        ``cv_results_``.
    folds : list of int
        By which candidates compare: all, unless the user ended the search.
    """

    candidates: list[dict[str, Any]] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    more: dict[str, list[Any]] = field(default_factory=dict)
    report: dict[str, list[Any]] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    folds: list[int] = field(default_factory=list)


class StackedSearch(FrontMixin, BaseSearchCV):
    """A search of scikit-learn's whose ``fit`` trains stacks.

    Its subclasses take from scikit-learn's own classes which candidates they evaluate: they
    come behind these among the bases, so that this ``fit`` replaces that of ``BaseSearchCV``.
    """

    _one_score: ClassVar[bool] = False

    @undo_on_error
    @with_callbacks
    @fit_context(prefer_skip_nested_validation=False)  # the estimator is not validated yet
    def fit(self: Any, X: Any, y: Any = None, **params: Any) -> Any:
        """Run the search.

        Parameters
        ----------
        X : array-like or frame of shape (n_samples, n_features)
            Features.
        y : array-like or frame of shape (n_samples,) or (n_samples, n_tasks)
            Labels; missing ones are NaN, None or NA.
        **params : dict
            Parameters of the estimator's ``fit``, of the scorer and of the splitter, as in
            scikit-learn's searches. Those with a value for every row are cut to the fold.

        Returns
        -------
        self : object
            Fitted search.
        """
        scorers, refit_metric = self._get_scorers()
        X, y = indexable(X, y)
        self._check_rules(y, scorers)
        routed = self._get_routed_params_for_fit(check_method_params(X, params=params))
        split_params = routed.splitter.split
        self._checked_cv_orig = self._checked_cv(y)
        if hasattr(BaseSearchCV, "_check_input_parameters"):  # older ones do it in their fit
            self._check_input_parameters(X=X, y=y, split_params=split_params)
        self.n_splits_ = self._checked_cv_orig.get_n_splits(X, y, **split_params)
        data = Data(X, y, routed.estimator.fit, routed.scorer.score)
        base, rounds = clone(self.estimator), _Rounds(folds=list(range(self.n_splits_)))
        scoring = Scoring(scorers, self.return_train_score, self.error_score, self.verbose)

        def evaluate(
            candidates: Any, cv: Any = None, more_results: Any = None, callback_ctx: Any = None
        ) -> dict[str, Any]:
            folds = self._folds(cv, X, y, split_params)
            schedule = Schedule(
                base, data, folds, list(candidates), scoring, self.max_stack, self.n_jobs
            )
            results: dict[str, Any] = self._evaluate(schedule, rounds, more_results or {})
            return results

        tell_end = self._search(evaluate, X, y)
        self._set_task_scores(rounds.outcomes, len(rounds.candidates), rounds.folds)
        self.search_report_ = rounds.report
        self._choose(rounds.results, refit_metric)
        if self.refit:
            self._refit(base, X, y, routed.estimator.fit)
        self.scorer_ = getattr(scorers, "_scorers", scorers)
        self.cv_results_ = rounds.results
        tell_end()
        return self

    def score(self: Any, X: Any, y: Any = None, **params: Any) -> float:
        """Return the score of the best estimator.

        Parameters
        ----------
        X : array-like or frame of shape (n_samples, n_features)
            Features.
        y : array-like or frame of shape (n_samples,) or (n_samples, n_tasks)
            Labels.
        **params : dict
            Parameters of the scorer.

        Returns
        -------
        float
            By ``scoring``, or by the estimator's own ``score`` without one. With several scores
            that which ``refit`` names; the estimator's own where ``refit`` is a callable.
        """
        if getattr(self, "multimetric_", False) and callable(self.refit):
            return float(self.best_estimator_.score(X, y, **params))
        return float(super().score(X, y, **params))

    def _check_rules(self: Any, y: Any, scorers: Any) -> None:
        """Raise where a rule cannot be followed, before anything is trained for it."""
        named = isinstance(self.scoring, MultiTaskScorer)
        if named and self._one_score:
            raise ValueError(
                f"Got scoring={self.scoring!r}, expected one that gives a number: candidates are "
                "dropped by it. Leave it out, or use make_task_scorer(task=...)."
            )
        if isinstance(self.refit, Knee) and (named or not callable(self.scoring)):
            names = read_targets(y).task_names + list(getattr(scorers, "_scorers", ["mean"]))
            self.refit.check_names(names)

    def _search(self: Any, evaluate: Any, X: Any, y: Any) -> Any:
        """Let scikit-learn's class choose what is evaluated; return what tells the end.

        Its callbacks hear of the search, not of the fits in it: these have no order.
        """
        context = None
        with contextlib.suppress(_Interrupted):
            if not has_callback_contexts(self):
                self._run_search(evaluate)
            else:
                context = open_callback_context(self, 1 + bool(self.refit))
                context.call_on_fit_task_begin(estimator=self, X=X, y=y)
                self._run_search(evaluate, callback_ctx=context)
        if context is None:
            return lambda: None
        return lambda: context.call_on_fit_task_end(estimator=self, X=X, y=y)

    def _evaluate(
        self: Any, schedule: Schedule, rounds: _Rounds, more: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Train and score candidates; return ``cv_results_`` of all so far."""
        n_fits = len(schedule.folds) * len(schedule.candidates)
        if self.verbose > 0:
            print(
                f"Fitting {len(schedule.folds)} folds for each of {len(schedule.candidates)} "
                f"candidates, totalling {n_fits} fits"
            )
        outcomes, interrupted = schedule.run(self.pre_dispatch)
        if interrupted and not outcomes and not rounds.outcomes:
            raise KeyboardInterrupt
        if not outcomes and not interrupted:
            raise ValueError(
                "No fits were performed. Was the CV iterator empty? Were there no candidates?"
            )
        done = f"{len(outcomes)} of {n_fits} fits"
        if not outcomes:  # earlier rounds have the best so far
            warn(f"Search interrupted by user after {done} of a round, which is left out.")
            raise _Interrupted
        report_failed_fits([outcome.result for outcome in outcomes], self.error_score)
        for name, column in report(schedule, outcomes).items():
            rounds.report.setdefault(name, []).extend(column)
        for outcome in outcomes:
            outcome.candidate += len(rounds.candidates)
        rounds.candidates += schedule.candidates
        rounds.outcomes += outcomes
        for name, column in more.items():
            rounds.more.setdefault(name, []).extend(column)
        if interrupted:
            rounds.folds = shared_folds(rounds.outcomes, self.n_splits_)
            warn(
                f"Search interrupted by user after {done}; those under way were scored as they "
                f"stood. Means and ranks are over folds {rounds.folds}, which most candidates "
                "have; those of candidates without them are NaN."
            )
        rounds.results = self._results(rounds)
        if interrupted:
            raise _Interrupted
        return rounds.results

    def _checked_cv(self: Any, y: Any) -> Any:
        """Return the splitter; numbers stand for folds that allow missing labels if there are."""
        cv = self.cv
        ours = why_not_ours(last_step(self.estimator)) is None
        if ours and (cv is None or isinstance(cv, (int, np.integer))) and _has_gaps(y):
            return make_cv(cv, self.estimator)
        return check_cv(cv, y, classifier=is_classifier(self.estimator))

    def _folds(
        self: Any, cv: Any, X: Any, y: Any, params: Mapping[str, Any]
    ) -> list[tuple[Any, Any]]:
        """Return training and test rows of every fold."""
        folds = list((cv or self._checked_cv_orig).split(X, y, **params))
        if len(folds) != self.n_splits_:
            raise ValueError(
                "cv.split and cv.get_n_splits return inconsistent results. Expected "
                f"{self.n_splits_} splits, got {len(folds)}"
            )
        return folds

    def _results(self: Any, rounds: _Rounds) -> dict[str, Any]:
        """Return ``cv_results_``, by scikit-learn's own bookkeeping."""
        found = {(o.candidate, o.fold): o.result for o in rounds.outcomes}
        known = [o.result for o in rounds.outcomes]
        if callable(self.scoring):  # names are only known from what it returned
            insert_error_scores(known, self.error_score)
        first = known[0]
        absent: dict[str, Any] = {**dict.fromkeys(first), "fit_time": np.nan, "score_time": np.nan}
        for key in ("test_scores", "train_scores"):
            if key in first:
                named = isinstance(first[key], dict)
                absent[key] = dict.fromkeys(first[key], np.nan) if named else np.nan
        self.multimetric_ = isinstance(first["test_scores"], dict)
        if callable(self.scoring) and self.multimetric_:
            self._check_refit_for_multimetric(first["test_scores"])

        def formatted(folds: Sequence[int]) -> dict[str, Any]:
            places = product(range(len(rounds.candidates)), folds)
            out = [found.get(place, absent) for place in places]
            made: dict[str, Any] = self._format_results(
                rounds.candidates, len(folds), out, rounds.more
            )
            return made

        results = formatted(rounds.folds)
        if len(rounds.folds) == self.n_splits_:
            return results
        with warnings.catch_warnings():  # it was just told that some are not finite
            warnings.simplefilter("ignore", UserWarning)
            whole = formatted(range(self.n_splits_))
        return {k: v if k.startswith("split") else results[k] for k, v in whole.items()}

    def _choose(self: Any, results: dict[str, Any], refit_metric: Any) -> None:
        """Set the best candidate."""
        if callable(self.scoring) and self.multimetric_:
            refit_metric = self.refit
        if not self.refit and self.multimetric_:
            return
        seen = results
        if callable(self.refit):  # it may want to know every task
            columns = zip(self.task_names_, self.task_scores_.T, strict=True)
            seen = {f"mean_test_{name}": scores for name, scores in columns} | results
        self.best_index_ = self._select_best_index(self.refit, refit_metric, seen)
        if not callable(self.refit):
            self.best_score_ = results[f"mean_test_{refit_metric}"][self.best_index_]
        self.best_params_ = results["params"][self.best_index_]

    def _refit(self: Any, base: Any, X: Any, y: Any, fit_params: Mapping[str, Any]) -> None:
        """Fit the best candidate on all rows, by its own ``fit``."""
        self.best_estimator_ = clone(base).set_params(**clone(self.best_params_, safe=False))
        start = time.time()
        self.best_estimator_.fit(X, y, **fit_params)
        self.refit_time_ = time.time() - start
        if hasattr(self.best_estimator_, "feature_names_in_"):
            self.feature_names_in_ = self.best_estimator_.feature_names_in_


def _has_gaps(y: Any) -> bool:
    """Whether some label is missing."""
    return y is not None and any(column.missing.any() for column in read_targets(y).columns)
