"""Which tasks help which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import check_cv
from sklearn.utils import check_random_state, indexable

from sk_mtl.model_selection._split import MultiTaskStratifiedKFold
from sk_mtl.model_selection._stage import Data
from sk_mtl.relations._cosines import Watched
from sk_mtl.relations._lookahead import Lookahead
from sk_mtl.relations._parts import check_independent, check_shares, network_of, seeded
from sk_mtl.relations._runs import resolve_scoring
from sk_mtl.relations._transfer import transfer
from sk_mtl.targets import read_targets

METHODS = ("gradient", "lookahead", "transfer")
Method = Literal["gradient", "lookahead", "transfer"]


def task_affinity(
    estimator: Any,
    X: Any,
    Y: Any,
    method: Method = "gradient",
    *,
    every: int = 10,
    cv: Any = None,
    scoring: Any = None,
    n_jobs: int | None = None,
    random_state: Any = None,
    params: Mapping[str, Any] | None = None,
) -> Any:
    """Measure which tasks help which: above zero they do, below they conflict.

    Parameters
    ----------
    estimator : estimator
        A multi-task estimator whose tasks share something, or a pipeline that ends in one. It
        is cloned.
    X : array-like or frame of shape (n_samples, n_features)
        Rows.
    Y : array-like or frame of shape (n_samples, n_tasks)
        Labels; NaN, None and NA are missing.
    method : {"gradient", "lookahead", "transfer"}, default="gradient"
        What is measured.

        - ``"gradient"``: the cosine between the gradients that two tasks' losses have in the
          shared part (in the shared features, under a weighting that sees those), averaged over
          the batches of one training. Costs little more than a fit; symmetric.
        - ``"lookahead"``: by which share a step for task i, of the shared part only, lowers the
          loss of task j on the same batch [1]_, averaged over every ``every``-th batch of one
          training.
        - ``"transfer"``: by how much task j's score on rows left out rises if its network is
          trained on task i besides. The surest and the dearest: n_tasks (n_tasks + 1) / 2
          networks a fold, which are trained as stacks.
    every : int, default=10
        Batches from one look ahead to the next; only for ``method="lookahead"``.
    cv : int, splitter or iterable, default=None
        Folds; only for ``method="transfer"``. None is 5, and a number stands for
        :class:`~sk_mtl.model_selection.MultiTaskStratifiedKFold`.
    scoring : str, callable, dict or multi-task scorer, default=None
        Metrics as for :func:`~sk_mtl.metrics.make_multi_task_scorer`; only for
        ``method="transfer"``. None is accuracy for classes and R2 for amounts.
    n_jobs : int, default=None
        Number of stacks that joblib trains in parallel; only for ``method="transfer"``.
    random_state : int, RandomState instance or None, default=None
        Seed of the folds, and of the networks where the estimator has no ``random_state``.
    params : dict, default=None
        Parameters of ``fit``; those with a value for every row are cut to the fold.

    Returns
    -------
    DataFrame or ndarray of shape (n_tasks, n_tasks)
        At [i, j] what task i does for task j: a pandas frame labelled with the tasks' names;
        without pandas an array in the order of Y's columns. On the diagonal 1 for
        ``"gradient"``; what a task's own step does for it for ``"lookahead"``; 0 for
        ``"transfer"``. NaN for two tasks that had no batch in common, or no fold that defines a
        score.

    Raises
    ------
    ValueError
        If the tasks share nothing, or there is but one.

    See Also
    --------
    TaskGrouper : Groups of tasks by their affinity.
    multi_task_gain : Whether all of them together help.

    Notes
    -----
    A task takes no part in batches where it has no label. Losses are those that the estimator
    minimises, so regression tasks compare in units of their spread. For ``"lookahead"`` the
    network is evaluated without dropout, and the step is one of plain gradient descent at the
    learning rate of the estimator.

    References
    ----------
    .. [1] C. Fifty, E. Amid, Z. Zhao, T. Yu, R. Anil, C. Finn, "Efficiently Identifying Task
       Groupings for Multi-Task Learning", NeurIPS 2021, section 3.1. :arxiv:`2109.04617`

    Examples
    --------
    >>> import numpy as np
    >>> from sk_mtl import MultiTaskRegressor
    >>> from sk_mtl.relations import task_affinity
    >>> X = np.random.default_rng(0).normal(size=(100, 2))
    >>> Y = np.column_stack([X[:, 0], X[:, 0] + 0.1 * X[:, 1], X[:, 1]])
    >>> model = MultiTaskRegressor(
    ...     hidden_layer_sizes=(1,), activation="tanh", learning_rate_init=0.05, random_state=0
    ... )
    >>> affinity = np.asarray(task_affinity(model, X, Y))
    >>> bool(affinity[0, 1] > affinity[0, 2])
    True
    """
    if method not in METHODS:
        raise ValueError(f"Got method={method!r}, expected one of {list(METHODS)}.")
    if not isinstance(every, (int, np.integer)) or isinstance(every, bool) or every < 1:
        raise ValueError(f"Got every={every!r}, expected a whole number of at least 1.")
    X, Y = indexable(X, Y)
    names = read_targets(Y).task_names
    values = affinity_of(
        estimator, X, Y, method, every=every, cv=cv, scoring=scoring, n_jobs=n_jobs,
        random_state=random_state, params=params,
    )  # fmt: skip
    return as_square(values, names)


def affinity_of(
    estimator: Any,
    X: Any,
    Y: Any,
    method: Method,
    *,
    every: int = 10,
    cv: Any = None,
    scoring: Any = None,
    n_jobs: int | None = None,
    random_state: Any = None,
    params: Mapping[str, Any] | None = None,
) -> NDArray[np.float64]:
    """Return the values of :func:`task_affinity`."""
    targets = read_targets(Y)
    check_shares(estimator, len(targets))
    random = check_random_state(random_state)
    twin = seeded(estimator, random)
    params = dict(params or {})
    if method == "transfer":
        folds = list(_splitter(cv, random).split(X, Y))
        data = Data(X, Y, params, {})
        return transfer(twin, data, targets.task_names, folds, resolve_scoring(scoring), n_jobs)
    final, prefix = network_of(twin)
    twin.set_params(**{f"{prefix}n_members": 1})  # one network is watched
    if method == "gradient":
        twin.set_params(**{f"{prefix}weighting": Watched(final.weighting)})
        balance = network_of(twin.fit(X, Y, **params))[0].net_.criterion_.balance
        values = _means(balance.total, balance.count)
        np.fill_diagonal(values, 1.0)
        return _checked(values, final.trunk)
    check_independent(final, "method='lookahead'")
    given = [*(final.callbacks or ()), ("lookahead", Lookahead(every))]
    twin.set_params(**{f"{prefix}callbacks": given})
    net = network_of(twin.fit(X, Y, **params))[0].net_
    looked = dict(net.callbacks_)["lookahead"]
    return _checked(_means(looked.total_, looked.count_), final.trunk)


def _checked(values: NDArray[np.float64], trunk: Any) -> NDArray[np.float64]:
    """Return affinities; raise where all are zero because no step for a task moves another."""
    if not values[~np.eye(len(values), dtype=bool)].any():
        raise ValueError(
            f"Got trunk={trunk!r}, in which no task's gradient reaches a parameter of another, "
            "expected shared parameters. Use method='transfer'."
        )
    return values


def _means(total: Any, count: Any) -> NDArray[np.float64]:
    """Return means of sums; NaN where there is nothing to sum."""
    total, count = (tensor.double().cpu().numpy() for tensor in (total, count))
    with np.errstate(invalid="ignore"):
        means: NDArray[np.float64] = total / count
    return means


def _splitter(cv: Any, random: np.random.RandomState) -> Any:
    """Return folds; numbers stand for those that allow missing labels."""
    if cv is None or isinstance(cv, (int, np.integer)):
        return MultiTaskStratifiedKFold(
            5 if cv is None else int(cv), random_state=random.randint(2**31 - 1)
        )
    return check_cv(cv)


def as_square(values: NDArray[np.float64], names: Sequence[str]) -> Any:
    """Return a square frame labelled with the tasks; without pandas the array itself."""
    try:
        import pandas as pd
    except ImportError:
        return values
    return pd.DataFrame(values, index=list(names), columns=list(names))
