"""The search behind both classes: scikit-learn's bookkeeping around stacks of networks."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.base import clone, is_classifier
from sklearn.model_selection import check_cv
from sklearn.utils import indexable

from sk_mtl._support import (
    check_method_params,
    fit_context,
    has_sklearn_callbacks,
    insert_error_scores,
    open_callback_context,
    report_failed_fits,
    undo_on_error,
    warn,
    with_callbacks,
)
from sk_mtl.model_selection._chunks import Schedule
from sk_mtl.model_selection._front import FrontMixin
from sk_mtl.model_selection._jobs import Outcome
from sk_mtl.model_selection._scoring import Scoring
from sk_mtl.model_selection._stage import Data
from sk_mtl.model_selection._validation import make_cv
from sk_mtl.targets import read_targets


class StackedSearchMixin(FrontMixin):
    """``fit`` of a search of scikit-learn's that trains stacks; it must precede its class."""

    def _candidates(self) -> list[dict[str, Any]]:
        """Return the parameters to try."""
        raise NotImplementedError

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
        routed = self._get_routed_params_for_fit(check_method_params(X, params=params))
        folds = self._folds(X, y, routed.splitter.split)
        candidates = self._candidates()
        tell_end = self._tell_begin(X, y)
        base = clone(self.estimator)
        scoring = Scoring(scorers, self.return_train_score, self.error_score, self.verbose)
        data = Data(X, y, routed.estimator.fit, routed.scorer.score)
        schedule = Schedule(base, data, folds, candidates, scoring, self.max_stack, self.n_jobs)
        if self.verbose > 0:
            print(
                f"Fitting {len(folds)} folds for each of {len(candidates)} candidates, "
                f"totalling {len(folds) * len(candidates)} fits"
            )
        outcomes, interrupted = schedule.run(self.pre_dispatch)
        self._check_any(outcomes, len(folds) * len(candidates), interrupted)
        results = self._results(outcomes, candidates, folds)
        self._set_task_scores(outcomes, len(candidates), len(folds))
        self.search_report_ = _report(schedule, outcomes)
        self._choose(results, refit_metric)
        if self.refit:
            self._refit(base, X, y, routed.estimator.fit)
        self.scorer_ = getattr(scorers, "_scorers", scorers)
        self.cv_results_ = results
        tell_end()
        return self

    def _folds(self: Any, X: Any, y: Any, params: Mapping[str, Any]) -> list[tuple[Any, Any]]:
        """Return training and test rows of every fold."""
        cv = self.cv
        if (cv is None or isinstance(cv, (int, np.integer))) and _has_gaps(y):
            cv = make_cv(cv, self.estimator)
        cv = check_cv(cv, y, classifier=cv is self.cv and is_classifier(self.estimator))
        self.n_splits_ = cv.get_n_splits(X, y, **params)
        folds = list(cv.split(X, y, **params))
        if len(folds) != self.n_splits_:
            raise ValueError(
                "cv.split and cv.get_n_splits return inconsistent results. Expected "
                f"{self.n_splits_} splits, got {len(folds)}"
            )
        return folds

    def _tell_begin(self: Any, X: Any, y: Any) -> Any:
        """Tell scikit-learn's callbacks that the search begins; return what tells its end."""
        if not has_sklearn_callbacks(self):
            return lambda: None
        context = open_callback_context(self, 1)
        context.call_on_fit_task_begin(estimator=self, X=X, y=y)
        return lambda: context.call_on_fit_task_end(estimator=self, X=X, y=y)

    def _check_any(self: Any, outcomes: Sequence[Outcome], n_jobs: int, interrupted: bool) -> None:
        """Raise where nothing was fitted; warn of fits that failed, and of an interrupt."""
        if interrupted and not outcomes:
            raise KeyboardInterrupt
        if not outcomes:
            raise ValueError(
                "No fits were performed. Was the CV iterator empty? Were there no candidates?"
            )
        report_failed_fits([outcome.result for outcome in outcomes], self.error_score)
        if interrupted:
            warn(
                f"Search interrupted by user after {len(outcomes)} of {n_jobs} fits; those under "
                "way were scored as they stood. Candidates that lack a fold have NaN."
            )

    def _results(
        self: Any,
        outcomes: Sequence[Outcome],
        candidates: list[dict[str, Any]],
        folds: Sequence[Any],
    ) -> dict[str, Any]:
        """Return ``cv_results_``, by scikit-learn's own bookkeeping."""
        found = {(o.candidate, o.fold): o.result for o in outcomes}
        known = [o.result for o in outcomes]
        if callable(self.scoring):  # names are only known from what it returned
            insert_error_scores(known, self.error_score)
        first = known[0]
        absent: dict[str, Any] = {"fit_time": np.nan, "score_time": np.nan, "n_test_samples": 0}
        for key in ("test_scores", "train_scores"):
            if key in first:
                named = isinstance(first[key], dict)
                absent[key] = dict.fromkeys(first[key], np.nan) if named else np.nan
        places = [(c, f) for c in range(len(candidates)) for f in range(len(folds))]
        out = [found.get(place, absent) for place in places]
        self.multimetric_ = isinstance(first["test_scores"], dict)
        if callable(self.scoring) and self.multimetric_:
            self._check_refit_for_multimetric(first["test_scores"])
        results: dict[str, Any] = self._format_results(candidates, len(folds), out)
        return results

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


def _report(schedule: Schedule, outcomes: Sequence[Outcome]) -> dict[str, list[Any]]:
    """Return how every candidate was trained."""
    n = len(schedule.candidates)
    n_bytes = [0] * n
    for group in schedule.groups:
        for c in group.candidates:
            n_bytes[c] = group.n_bytes
    sizes, reasons = [0] * n, [""] * n
    for outcome in outcomes:
        sizes[outcome.candidate] = max(sizes[outcome.candidate], outcome.stack_size)
        reasons[outcome.candidate] = reasons[outcome.candidate] or outcome.reason
    trained = ["stacked" if s > 1 else "alone" if s else "not at all" for s in sizes]
    return {"trained": trained, "stack_size": sizes, "network_bytes": n_bytes, "reason": reasons}
