"""One network for each group of tasks that help one another."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn import get_config
from sklearn.base import BaseEstimator
from sklearn.utils import Tags, check_random_state, get_tags, indexable
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping, process_routing
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import _num_samples, check_is_fitted

from sk_mtl._support import HasMethods, Interval, StrOptions, fit_context, undo_on_error
from sk_mtl.estimators._decode import join
from sk_mtl.estimators._mixins import ScoreMixin
from sk_mtl.model_selection._jobs import Chunk
from sk_mtl.model_selection._scoring import Scoring
from sk_mtl.model_selection._stage import Data, stage_fold
from sk_mtl.relations._affinity import METHODS, affinity_of, as_square
from sk_mtl.relations._groups import group_by_affinity
from sk_mtl.relations._parts import (
    fit_params_of,
    restricted,
    seeded,
    select_tasks,
)
from sk_mtl.relations._runs import fit_together
from sk_mtl.targets import read_targets
from sk_mtl.views import task_classes


def _gives_probabilities(grouper: TaskGrouper) -> bool:
    """Whether the networks have probabilities."""
    each = getattr(grouper, "estimators_", [grouper.estimator])
    return any(hasattr(estimator, "predict_proba") for estimator in each)


class TaskGrouper(ScoreMixin, BaseEstimator):
    """Put tasks that help one another into groups, and train one network a group.

    To its user it is one estimator for all tasks, in the order of Y's columns.

    Parameters
    ----------
    estimator : estimator
        A multi-task estimator, or a pipeline that ends in one. What it is given for each task
        (task weights, losses, types, class weights, tasks to watch) is restricted to the group.
    n_groups : int or "auto", default="auto"
        Number of groups. Groups with the highest mean affinity between their tasks are joined
        first; "auto" ends before that affinity falls the most to a value below zero. So it makes
        one group if none conflict, and one a task if all do.
    affinity : {"gradient", "lookahead", "transfer"} or array-like or frame, default="gradient"
        What groups are made by: a method of :func:`task_affinity`, measured on the training rows,
        or affinities known beforehand, of shape (n_tasks, n_tasks). A frame is read by the names
        of the tasks.
    n_jobs : int, default=None
        Number of stacks that joblib trains in parallel for ``affinity="transfer"``.
    random_state : int, RandomState instance or None, default=None
        Seed of the affinity's folds, and of the networks where the estimator has no
        ``random_state``.

    Attributes
    ----------
    groups_ : list of list of str
        Names of the tasks of each group.
    affinity_ : DataFrame or ndarray of shape (n_tasks, n_tasks)
        What the groups were made by, as :func:`task_affinity` returns it.
    estimators_ : list of estimators
        One fitted estimator a group. There tasks are numbered from "task0" if Y has no column
        names, and in a group of one.
    task_names_ : list of str
        The tasks, in the order of Y's columns.
    n_tasks_ : int
        Their number.
    classes_ : ndarray or list of ndarray
        Classes, as those of the estimator; None for a regression task. Without classification
        tasks there is no such attribute.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Their names, if X had some.

    See Also
    --------
    task_affinity : Which tasks help which.
    multi_task_gain : Whether it was worth it.

    Notes
    -----
    Groups are joined by average linkage over the affinities of both directions. A task is in one
    group; in [1]_ it may be trained in several and is predicted by one of them.

    References
    ----------
    .. [1] C. Fifty, E. Amid, Z. Zhao, T. Yu, R. Anil, C. Finn, "Efficiently Identifying Task
       Groupings for Multi-Task Learning", NeurIPS 2021. :arxiv:`2109.04617`

    Examples
    --------
    >>> import numpy as np
    >>> from sk_mtl import MultiTaskRegressor
    >>> from sk_mtl.relations import TaskGrouper
    >>> X = np.random.default_rng(0).normal(size=(100, 2))
    >>> Y = np.column_stack([X[:, 0], X[:, 1], X[:, 0] + 0.1 * X[:, 1], X[:, 1]])
    >>> model = MultiTaskRegressor(
    ...     n_members=1, embedding=None, hidden_layer_sizes=(1,), activation="tanh",
    ...     learning_rate_init=0.05, random_state=0,
    ... )
    >>> grouper = TaskGrouper(model, n_groups=2).fit(X, Y)
    >>> grouper.groups_
    [['task0', 'task2'], ['task1', 'task3']]
    >>> grouper.predict(X).shape
    (100, 4)
    """

    _groups_tasks = True
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "estimator": [HasMethods(["fit", "predict"])],
        "n_groups": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "affinity": [StrOptions(set(METHODS)), "array-like"],
        "n_jobs": [Integral, None],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        estimator: Any,
        *,
        n_groups: int | str = "auto",
        affinity: Any = "gradient",
        n_jobs: int | None = None,
        random_state: Any = None,
    ) -> None:
        self.estimator = estimator
        self.n_groups = n_groups
        self.affinity = affinity
        self.n_jobs = n_jobs
        self.random_state = random_state

    @undo_on_error
    @fit_context(prefer_skip_nested_validation=False)
    def fit(self, X: Any, y: Any, **params: Any) -> TaskGrouper:
        """Find the groups, and train a network for each.

        Parameters
        ----------
        X : array-like or frame of shape (n_samples, n_features)
            Features.
        y : array-like or frame of shape (n_samples,) or (n_samples, n_tasks)
            Labels; NaN, None and NA are missing.
        **params : dict
            Parameters of the estimator's ``fit``. Those with a column a task are restricted to
            the groups.

        Returns
        -------
        self : object
            Fitted estimator.

        Raises
        ------
        ValueError
            If there are fewer tasks than groups, affinities do not match the tasks, or something
            that the estimator was given cannot be restricted to some tasks.
        """
        X, y = indexable(X, y)
        targets = read_targets(y)
        names = targets.task_names
        if not isinstance(self.n_groups, str) and self.n_groups > len(names):
            raise ValueError(
                f"Got n_groups={self.n_groups} for {len(names)} tasks, expected no more groups "
                "than tasks. Use n_groups='auto'."
            )
        if get_config()["enable_metadata_routing"]:
            params = dict(process_routing(self, "fit", **params).estimator.fit)
        random = check_random_state(self.random_state)
        base = seeded(self.estimator, random)
        for task in range(len(names)):  # before any work is lost
            restricted(base, names, [task])
        affinity = self._affinity(base, X, y, names, params, random)
        groups = group_by_affinity(affinity, self.n_groups)
        self.estimators_ = _fit_groups(base, X, y, names, groups, params)
        self._places = [(g, k) for g, group in enumerate(groups) for k in range(len(group))]
        self._order = np.argsort([task for group in groups for task in group])
        self.affinity_ = as_square(affinity, names)
        self.groups_ = [[names[task] for task in group] for group in groups]
        self.task_names_, self.n_tasks_ = names, len(names)
        self._one_d, self._has_names = targets.one_d, targets.names is not None
        self._describe()
        return self

    def _affinity(
        self, base: Any, X: Any, y: Any, names: Sequence[str], params: Any, random: Any
    ) -> NDArray[np.float64]:
        """Return the affinities: measured, or those that were given."""
        if len(names) == 1:
            return np.ones((1, 1))
        if isinstance(self.affinity, str):
            return affinity_of(
                base, X, y, self.affinity,  # type: ignore[arg-type]
                n_jobs=self.n_jobs, random_state=random, params=params,
            )  # fmt: skip
        given = self.affinity
        if hasattr(given, "loc") and set(given.columns) == set(given.index) == set(names):
            given = given.loc[names, names]
        values = np.asarray(given, dtype=np.float64)
        if values.shape != (len(names), len(names)):
            raise ValueError(
                f"Got affinity of shape {values.shape}, expected {(len(names), len(names))}: one "
                f"row and one column for each of {list(names)}."
            )
        return values

    def _describe(self) -> None:
        """Set what is read off the networks."""
        first = self.estimators_[0]
        self.n_features_in_ = first.n_features_in_
        for name in ("feature_names_in_", "classes_"):
            self.__dict__.pop(name, None)  # of an earlier fit
        if hasattr(first, "feature_names_in_"):
            self.feature_names_in_ = first.feature_names_in_
        classes = self._in_order([c for each in self.estimators_ for c in task_classes(each)])
        if any(c is not None for c in classes):
            self.classes_ = classes[0] if self._one_d else classes

    def _in_order(self, grouped: Sequence[Any]) -> list[Any]:
        """Return what is listed group by group in the order of the tasks."""
        return [grouped[place] for place in self._order]

    # Reading out --------------------------------------------------------------------------

    def predict(self, X: Any) -> NDArray[Any]:
        """Predict labels, in the classes and units of the training labels.

        Parameters
        ----------
        X : array-like or frame of shape (n_samples, n_features)
            Features.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_tasks)
            As the estimator's own, for all tasks.
        """
        check_is_fitted(self)
        columns = [c for each in self.estimators_ for c in _columns(each, X)]
        return join(self._in_order(columns), one_d=self._one_d)

    @available_if(_gives_probabilities)
    def predict_proba(self, X: Any) -> Any:
        """Predict class probabilities.

        Parameters
        ----------
        X : array-like or frame of shape (n_samples, n_features)
            Features.

        Returns
        -------
        p : ndarray of shape (n_samples, n_classes) or list of such arrays
            One array a task, None for a regression task; a single array for 1-D ``y``.
        """
        return self._probabilities("predict_proba", X)

    @available_if(_gives_probabilities)
    def predict_log_proba(self, X: Any) -> Any:
        """Predict the logarithm of class probabilities.

        Parameters
        ----------
        X : array-like or frame of shape (n_samples, n_features)
            Features.

        Returns
        -------
        log_p : ndarray of shape (n_samples, n_classes) or list of such arrays
            As ``predict_proba``.
        """
        return self._probabilities("predict_log_proba", X)

    def _probabilities(self, method: str, X: Any) -> Any:
        check_is_fitted(self)
        found: list[Any] = []
        for estimator in self.estimators_:
            has = hasattr(estimator, method)  # a group of amounts has none
            each = getattr(estimator, method)(X) if has else [None] * len(task_classes(estimator))
            found += each if isinstance(each, list) else [each]
        found = self._in_order(found)
        return found[0] if self._one_d else found

    # What scikit-learn asks ---------------------------------------------------------------

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "estimators_")

    def get_metadata_routing(self) -> MetadataRouter:
        """Return what metadata routing hands on to the estimator's ``fit``.

        Returns
        -------
        MetadataRouter
            The requests of the estimator.
        """
        mapping = MethodMapping().add(caller="fit", callee="fit")
        return MetadataRouter(owner="TaskGrouper").add(
            estimator=self.estimator, method_mapping=mapping
        )

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        inner = get_tags(self.estimator)
        for name in ("estimator_type", "target_tags", "classifier_tags", "regressor_tags",
                     "input_tags"):  # fmt: skip
            setattr(tags, name, deepcopy(getattr(inner, name)))
        return tags


def _fit_groups(
    base: Any,
    X: Any,
    y: Any,
    names: Sequence[str],
    groups: Sequence[Sequence[int]],
    params: dict[str, Any],
) -> list[Any]:
    """Return one fitted estimator a group."""
    rows, jobs, stages = np.arange(_num_samples(X)), [], {}
    for g, tasks in enumerate(groups):
        own = Data(X, select_tasks(y, tasks), fit_params_of(params, names, tasks), {})
        stages[g, ()] = stage_fold(base, {}, own, rows, rows[:1])
        jobs.append((0, g, restricted(base, names, tasks)))
    scoring = Scoring(None, False, "raise", 0)
    return fit_together(Chunk(base, Data(X, y, params, {}), {}, jobs, scoring, 1, stages))


def _columns(estimator: Any, X: Any) -> list[NDArray[Any]]:
    """Return the predictions of each task in its own type."""
    table = np.asarray(estimator.predict(X))
    columns = []
    for column, classes in zip(
        table.reshape(len(table), -1).T, task_classes(estimator), strict=True
    ):
        if classes is not None:
            columns.append(column.astype(classes.dtype, copy=False))
        else:
            columns.append(column.astype(np.float64) if column.dtype == object else column)
    return columns
