"""The same scores as scorer objects, for ``scoring=`` anywhere in scikit-learn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

from numpy.typing import ArrayLike
from sklearn import get_config
from sklearn.utils.metadata_routing import MetadataRequest

from sk_mtl.metrics._rules import (
    Metric,
    Undefined,
    check_metric,
    check_undefined,
    knows_weights,
)
from sk_mtl.metrics._scores import mean_defined, score_tasks
from sk_mtl.views import task_index


class _Scorer:
    """What both scorers share: scikit-learn asks them about ``sample_weight`` and routes it."""

    _maker: ClassVar[str]
    _request: MetadataRequest | None = None

    def __init__(self, metric: Metric | Mapping[str, Metric] | None, undefined: Undefined) -> None:
        for one in self._each(metric):
            if isinstance(one, _Scorer):
                raise TypeError(
                    f"Got the scorer {one!r} as a metric, expected a metric. Pass its metric."
                )
            check_metric(one)
        check_undefined(undefined)
        self.metric = metric
        self.undefined = undefined

    @staticmethod
    def _each(metric: Metric | Mapping[str, Metric] | None) -> list[Metric | None]:
        return list(metric.values()) if isinstance(metric, Mapping) else [metric]

    def _accept_sample_weight(self) -> bool:
        """Whether a metric takes sample weights; the default metrics do."""
        return any(one is None or knows_weights(one) for one in self._each(self.metric))

    def set_score_request(self, *, sample_weight: bool | str | None) -> Self:
        """Say whether metadata routing hands ``sample_weight`` to the scorer.

        Parameters
        ----------
        sample_weight : bool, str or None
            True asks for it, False goes without, None raises if it is given, a string is the
            name under which it is given.

        Returns
        -------
        self
            The scorer.
        """
        if not get_config()["enable_metadata_routing"]:
            raise RuntimeError(
                "Got set_score_request without metadata routing, expected it enabled. "
                "Call sklearn.set_config(enable_metadata_routing=True) first."
            )
        self._request = MetadataRequest(owner=self)
        self._request.score.add_request(param="sample_weight", alias=sample_weight)
        return self

    def get_metadata_routing(self) -> MetadataRequest:
        """Return what the scorer asks of metadata routing.

        Returns
        -------
        MetadataRequest
            The requests; ``sample_weight`` has to be requested or refused before it is given.
        """
        if self._request is not None:
            return self._request
        request = MetadataRequest(owner=self)
        if self._accept_sample_weight():
            request.score.add_request(param="sample_weight", alias=None)
        return request

    def _routing_repr(self) -> str:
        return repr(self)

    def _describe(self, **options: Any) -> str:
        """Return the call that made the scorer, without what is at its default."""
        parts = [_metric_repr(self.metric), *(f"{k}={v!r}" for k, v in options.items())]
        if self.undefined != "nan":
            parts.append(f"undefined={self.undefined!r}")
        return f"{self._maker}({', '.join(parts)})"


class TaskScorer(_Scorer):
    """Scorer of one task; made by :func:`make_task_scorer`, which says what each argument is."""

    _maker = "make_task_scorer"

    def __init__(self, metric: Metric | None, task: str | int, undefined: Undefined) -> None:
        super().__init__(metric, undefined)
        self.task = task

    def __call__(
        self, estimator: Any, X: Any, Y: Any, sample_weight: ArrayLike | None = None
    ) -> float:
        """Return the task's score.

        Parameters
        ----------
        estimator : estimator
            A fitted multi-task estimator, or a fitted pipeline or search that ends in one.
        X : array-like or frame of shape (n_samples, n_features)
            Rows.
        Y : array-like or frame of shape (n_samples,) or (n_samples, n_tasks)
            Labels of all tasks.
        sample_weight : array-like of shape (n_samples,) or (n_samples, n_tasks), default=None
            Weights of rows or cells.

        Returns
        -------
        float
            The score, higher is better.
        """
        scores = score_tasks(
            estimator,
            X,
            Y,
            metric=self.metric,
            sample_weight=sample_weight,
            undefined=self.undefined,
            tasks=[self.task],
        )
        (score,) = scores.values()
        return score

    def __repr__(self) -> str:
        return self._describe(task=self.task)


class MultiTaskScorer(_Scorer):
    """Scorer of every task; made by :func:`make_multi_task_scorer`, which says more."""

    _maker = "make_multi_task_scorer"

    def __init__(
        self,
        metric: Metric | Mapping[str, Metric] | None,
        average: bool | Sequence[str],
        undefined: Undefined,
    ) -> None:
        super().__init__(metric, undefined)
        if isinstance(average, str) or not (isinstance(average, bool) or len(average)):
            raise ValueError(
                f"Got average={average!r}, expected True, False or a list of task names. Leave it "
                "out for the mean over all tasks."
            )
        self.average = average

    def __call__(
        self, estimator: Any, X: Any, Y: Any, sample_weight: ArrayLike | None = None
    ) -> dict[str, float]:
        """Return the scores by task name, and their mean as ``"mean"``.

        Parameters
        ----------
        estimator : estimator
            A fitted multi-task estimator, or a fitted pipeline or search that ends in one.
        X : array-like or frame of shape (n_samples, n_features)
            Rows.
        Y : array-like or frame of shape (n_samples,) or (n_samples, n_tasks)
            Labels of all tasks.
        sample_weight : array-like of shape (n_samples,) or (n_samples, n_tasks), default=None
            Weights of rows or cells.

        Returns
        -------
        dict of str to float
            The scores, higher is better.
        """
        scores = score_tasks(
            estimator,
            X,
            Y,
            metric=self.metric,
            sample_weight=sample_weight,
            undefined=self.undefined,
        )
        if self.average is False:
            return scores
        names = list(scores)
        if "mean" in names:
            raise ValueError(
                "Got a task named 'mean', expected another name beside the mean over tasks. "
                "Rename the task or pass average=False."
            )
        tasks = names if self.average is True else list(self.average)
        counted = [scores[names[task_index(names, task)]] for task in tasks]
        return {**scores, "mean": mean_defined(counted)}

    def __repr__(self) -> str:
        return self._describe(**({} if self.average is True else {"average": self.average}))


def make_task_scorer(
    metric: Metric | None = None, *, task: str | int, undefined: Undefined = "nan"
) -> TaskScorer:
    """Make a scorer of one task.

    The metric sees the task's labelled rows and a single-task view of the estimator, so every
    metric of scikit-learn can be used whatever the other tasks are.

    Parameters
    ----------
    metric : str or callable, default=None
        One of scikit-learn's scorer names (``"roc_auc"``, ``"neg_log_loss"``), a scorer made
        with ``make_scorer``, or a function ``metric(y_true, y_pred)`` where higher is better.
        Default: accuracy for classification, R² for regression.
    task : str or int
        The task's name or position.
    undefined : {"nan", "raise"} or float, default="nan"
        The score where the labels of a fold do not define the metric: no label at all, one class
        for ``"roc_auc"``, one row for ``"r2"``. Labels alone decide, so all candidates of a
        search share it. A fold of NaN makes every candidate's mean NaN, and the search cannot
        choose: spread the classes over the folds
        (:class:`sk_mtl.model_selection.MultiTaskStratifiedKFold`), or give a number here.

    Returns
    -------
    scorer : callable
        ``scorer(estimator, X, Y, sample_weight=None)`` returns a float.

    See Also
    --------
    make_multi_task_scorer : All tasks at once.

    Examples
    --------
    >>> from sk_mtl.metrics import make_task_scorer
    >>> make_task_scorer("neg_log_loss", task="e401k")
    make_task_scorer('neg_log_loss', task='e401k')
    """
    return TaskScorer(metric, task, undefined)


def make_multi_task_scorer(
    metric: Metric | Mapping[str, Metric] | None = None,
    *,
    average: bool | Sequence[str] = True,
    undefined: Undefined = "nan",
) -> MultiTaskScorer:
    """Make a scorer of every task, for ``cross_validate`` and the ``*SearchCV`` classes.

    Their results then hold ``test_<task>`` (``mean_test_<task>``) for every task, and
    ``test_mean``; ``GridSearchCV(refit="mean")`` selects by the mean, ``refit="<task>"`` by a
    task. Tools that want a single number (successive halving, learning curves, sequential
    feature selection) take :func:`make_task_scorer` instead.

    Parameters
    ----------
    metric : str, callable or dict, default=None
        One metric for all tasks, or a dict of metrics by task name, by kind of task
        (``{"classification": "roc_auc", "regression": "r2"}``) or both; a task's own entry comes
        first. Default, also of tasks that a dict leaves out: accuracy for classification, R² for
        regression.
    average : bool or list of str, default=True
        Whether to add the mean over all tasks, or over those named, as ``"mean"``. A task whose
        score is NaN does not count.
    undefined : {"nan", "raise"} or float, default="nan"
        The score where the labels of a fold do not define the metric.

    Returns
    -------
    scorer : callable
        ``scorer(estimator, X, Y, sample_weight=None)`` returns a dict.

    See Also
    --------
    make_task_scorer : One task, as a number.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.ensemble import RandomForestClassifier
    >>> from sklearn.model_selection import cross_validate
    >>> from sk_mtl.metrics import make_multi_task_scorer
    >>> X = np.arange(12.0).reshape(-1, 1) % 4
    >>> Y = np.hstack([X > 1, X > 2])
    >>> forest = RandomForestClassifier(n_estimators=20, random_state=0)
    >>> results = cross_validate(forest, X, Y, cv=3, scoring=make_multi_task_scorer())
    >>> sorted(name for name in results if name.startswith("test"))
    ['test_mean', 'test_task0', 'test_task1']
    """
    return MultiTaskScorer(metric, average, undefined)


def _metric_repr(metric: Any) -> str:
    """Return functions by their name; scorers and strings show themselves."""
    if isinstance(metric, Mapping):
        return "{" + ", ".join(f"{k!r}: {_metric_repr(m)}" for k, m in metric.items()) + "}"
    return str(getattr(metric, "__name__", repr(metric)))
