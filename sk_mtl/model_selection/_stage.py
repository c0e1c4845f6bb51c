"""The rows of one fold, through the steps that stand before the estimator in a pipeline."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from traceback import format_exception
from typing import Any

from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.pipeline import Pipeline

from sk_mtl._support import check_method_params, safe_split

Indices = NDArray[Any]


@dataclass(frozen=True)
class Data:
    """All rows of a search.

    Attributes
    ----------
    X, y : array-likes
        Features and labels.
    fit_params, score_params : dict
        Parameters of ``fit`` and of the scorer, for all rows where they have one value a row.
    """

    X: Any
    y: Any
    fit_params: dict[str, Any]
    score_params: dict[str, Any]


@dataclass
class Stage:
    """What the last step of a pipeline is fitted and scored on, for one fold.

    Attributes
    ----------
    X_fit, y_fit, X_test, y_test : array-likes
        Rows of the fold; X after the steps before.
    X_raw, y_train, X_test_raw : array-likes
        Rows before them, for scorers that want the whole pipeline.
    fit_params : dict
        What the last step's ``fit`` is given.
    score_train, score_test : dict
        What the scorer is given.
    pipeline : Pipeline or None
        The steps before, fitted; the last one stands for any.
    error : Exception or None
        What a step failed of.
    """

    X_fit: Any
    y_fit: Any
    X_test: Any
    y_test: Any
    X_raw: Any
    y_train: Any
    X_test_raw: Any
    fit_params: dict[str, Any] = field(default_factory=dict)
    score_train: dict[str, Any] = field(default_factory=dict)
    score_test: dict[str, Any] = field(default_factory=dict)
    pipeline: Pipeline | None = None
    error: Exception | None = None

    def __getstate__(self) -> dict[str, Any]:
        if self.error is None:
            return vars(self)
        # Not every exception can be unpickled; in another process its text has to do.
        told = RuntimeError("".join(format_exception(self.error)))
        return {**vars(self), "error": told}

    def whole(self, final: Any) -> Any:
        """Return the fitted pipeline with this last step; without steps before, the step."""
        if self.pipeline is None:
            return final
        whole = copy.copy(self.pipeline)
        whole.steps = [*self.pipeline.steps[:-1], (self.pipeline.steps[-1][0], final)]
        return whole


class _Recorder(BaseEstimator):
    """Takes the place of the last step and keeps what its ``fit`` would have been given."""

    def __init__(self, final: Any = None) -> None:
        self.final = final

    def fit(self, X: Any, y: Any = None, **params: Any) -> _Recorder:
        """Keep the arguments."""
        self.given_ = X, y, params
        return self

    def get_metadata_routing(self) -> Any:
        """Ask of metadata routing what the last step asks."""
        return self.final.get_metadata_routing()


def last_step(estimator: Any) -> Any:
    """Return the last step of a pipeline, or the estimator itself."""
    return estimator.steps[-1][1] if isinstance(estimator, Pipeline) else estimator


def step_params(estimator: Any, params: dict[str, Any]) -> dict[str, Any]:
    """Return those of a candidate's parameters that matter to the steps before the last."""
    if not isinstance(estimator, Pipeline):
        return {}
    name = estimator.steps[-1][0]
    return {k: v for k, v in params.items() if k.split("__", 1)[0] != name}


def stage_fold(
    estimator: Any, params: dict[str, Any], data: Data, train: Indices, test: Indices
) -> Stage:
    """Cut a fold, and fit the steps before the last one of a pipeline on its training rows.

    Parameters
    ----------
    estimator : estimator
        A pipeline or any other; it is cloned.
    params : dict
        Parameters of the steps, see :func:`step_params`.
    data : Data
        All rows.
    train, test : ndarray of int
        The fold.
    """
    X, y = data.X, data.y
    own = check_method_params(X, params=data.fit_params, indices=train)
    X_train, y_train = safe_split(estimator, X, y, train)
    X_test, y_test = safe_split(estimator, X, y, test, train)
    stage = Stage(X_train, y_train, X_test, y_test, X_train, y_train, X_test, own)
    stage.score_train = check_method_params(X, params=data.score_params, indices=train)
    stage.score_test = check_method_params(X, params=data.score_params, indices=test)
    if not isinstance(estimator, Pipeline):
        return stage
    pipeline = clone(estimator).set_params(**clone(params, safe=False))
    name, final = pipeline.steps[-1]
    recorder = _Recorder(final)
    pipeline.steps[-1] = (name, recorder)
    stage.pipeline = pipeline
    try:
        pipeline.fit(X_train, y_train, **own)
        stage.X_fit, stage.y_fit, stage.fit_params = recorder.given_
        if len(pipeline.steps) > 1:
            stage.X_test = pipeline[:-1].transform(X_test)
    except Exception as error:
        stage.error = error
    return stage
