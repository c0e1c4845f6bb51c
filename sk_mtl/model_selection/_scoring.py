"""Score a fitted candidate on its fold, as scikit-learn's searches do."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.utils.validation import _num_samples

from sk_mtl._support import is_sklearn_scorer, passes_through, score_fold
from sk_mtl.estimators._ours import scores_by_mean
from sk_mtl.metrics import make_multi_task_scorer
from sk_mtl.metrics._scorers import MultiTaskScorer, TaskScorer
from sk_mtl.model_selection._stage import Stage


@dataclass(frozen=True)
class Scoring:
    """How the jobs of a search are scored.

    Attributes
    ----------
    scorer : callable
        As scikit-learn's searches resolve ``scoring``.
    return_train_score : bool
        Whether training rows are scored too.
    error_score : "raise" or float
        The score of a fit that failed.
    verbose : int
        Above 1, a line is printed for every job.
    """

    scorer: Any
    return_train_score: bool
    error_score: Any
    verbose: int

    def __call__(
        self, stage: Stage, final: Any, error: str | None
    ) -> tuple[dict[str, Any], dict[str, float]]:
        """Return a result as scikit-learn reads it, and the scores of the tasks.

        Parameters
        ----------
        stage : Stage
            The fold.
        final : estimator
            The last step, fitted.
        error : str or None
            Traceback, where it could not be fitted.
        """
        result: dict[str, Any] = {
            "fit_error": error,
            "n_test_samples": _num_samples(stage.X_test_raw),
            "score_time": 0.0,
        }
        if error is not None:
            failed = self._failed()
            result["test_scores"] = failed
            if self.return_train_score:
                result["train_scores"] = failed.copy() if isinstance(failed, dict) else failed
            return result, {}
        start = time.perf_counter()
        test_scores, task_scores = self._test_scores(stage, final)
        result["test_scores"] = test_scores
        result["score_time"] = time.perf_counter() - start
        if self.return_train_score:
            result["train_scores"] = self._scores(stage, final, on_train=True)
        return result, task_scores

    def _failed(self) -> Any:
        """Return the scores of a fit that failed."""
        names = getattr(self.scorer, "_scorers", None)  # of several named scorers
        return self.error_score if names is None else dict.fromkeys(names, self.error_score)

    def _scores(self, stage: Stage, final: Any, *, on_train: bool) -> Any:
        """Call the scorer; with the last step alone where it cannot tell the difference."""
        if on_train:  # what steps make of rows to fit on need not be what they make of others
            whole, X, y, params = stage.whole(final), stage.X_raw, stage.y_train, stage.score_train
        elif not stage.score_test and _asks_for_predictions_only(self.scorer):
            whole, X, y, params = final, stage.X_test, stage.y_test, {}
        else:
            whole, X, y, params = (
                stage.whole(final), stage.X_test_raw, stage.y_test, stage.score_test
            )  # fmt: skip
        return score_fold(whole, X, y, self.scorer, params, self.error_score)

    def _test_scores(self, stage: Stage, final: Any) -> tuple[Any, dict[str, float]]:
        """Return the test scores, and those of the tasks: the former's where it has them."""
        own = passes_through(self.scorer) and scores_by_mean(final) and not stage.score_test
        by_task = _by_task(stage, final) if own else None
        if by_task:
            score = np.mean([s for s in by_task.values() if not np.isnan(s)] or [np.nan])
            if not np.isnan(score):  # an estimator's score is the mean over its tasks
                return float(score), by_task
        scores = self._scores(stage, final, on_train=False)
        if isinstance(scores, dict):
            names = getattr(final, "task_names_", None)
            if names and set(names) <= set(scores):
                return scores, {name: scores[name] for name in names}
        return scores, by_task if by_task is not None else _by_task(stage, final)


def _by_task(stage: Stage, final: Any) -> dict[str, float]:
    """Return accuracy or R2 of every task; nothing where they cannot be told."""
    weight = stage.score_test.get("sample_weight")
    scorer = make_multi_task_scorer(average=False)
    try:
        return scorer(final, stage.X_test, stage.y_test, sample_weight=weight)
    except Exception:  # other estimators may have no tasks, or predict nothing
        return {}


def _asks_for_predictions_only(scorer: Any) -> bool:
    """Whether a scorer would say of a pipeline what it says of its last step."""
    named = getattr(scorer, "_scorers", None)
    if named is not None:
        return all(_asks_for_predictions_only(each) for each in named.values())
    return isinstance(scorer, (TaskScorer, MultiTaskScorer)) or is_sklearn_scorer(scorer)
