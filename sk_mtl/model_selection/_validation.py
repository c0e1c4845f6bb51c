"""Out-of-fold predictions of a multi-task estimator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn import get_config
from sklearn.base import clone, is_regressor
from sklearn.exceptions import UnsetMetadataPassedError
from sklearn.model_selection import KFold, check_cv
from sklearn.utils import indexable
from sklearn.utils.metadata_routing import (
    MetadataRouter,
    MethodMapping,
    process_routing,
)
from sklearn.utils.parallel import Parallel, delayed

from sk_mtl._support import check_method_params, safe_indexing
from sk_mtl.model_selection._split import MultiTaskStratifiedKFold
from sk_mtl.targets import Column, Targets, read_targets
from sk_mtl.tasks import as_labels
from sk_mtl.views import task_classes

Method = Literal["predict", "predict_proba", "predict_log_proba", "transform"]
METHODS = ("predict", "predict_proba", "predict_log_proba", "transform")
Classes = list[NDArray[Any] | None]


def cross_val_predict(
    estimator: Any,
    X: Any,
    y: Any,
    *,
    groups: ArrayLike | None = None,
    cv: Any = None,
    n_jobs: int | None = None,
    verbose: int = 0,
    params: Mapping[str, Any] | None = None,
    pre_dispatch: int | str = "2*n_jobs",
    method: Method = "predict",
) -> Any:
    """Predict every row by an estimator that did not see it.

    scikit-learn's function of the same name turns missing labels into one more class before it
    fits, under ``method="predict_proba"``. Here they reach the estimator as they are.

    Parameters
    ----------
    estimator : estimator
        A multi-task estimator, or a pipeline or search that ends in one. It is cloned for every
        fold.
    X : array-like or frame of shape (n_samples, n_features)
        Rows.
    y : array-like or frame of shape (n_samples,) or (n_samples, n_tasks)
        Labels; NaN, None and NA are missing.
    groups : array-like of shape (n_samples,), default=None
        Groups of rows for a group splitter. With metadata routing pass them in ``params``.
    cv : int, splitter or iterable of (train, test), default=None
        Folds. Every row has to be in one test set. A number, or None for 5, stands for
        :class:`MultiTaskStratifiedKFold` without shuffling, for a regressor for ``KFold``.
    n_jobs : int, default=None
        Number of folds fitted in parallel; None is 1, -1 all processors.
    verbose : int, default=0
        Verbosity of joblib.
    params : dict, default=None
        Parameters of ``fit``; those with a value for every row are cut to the fold. With
        metadata routing also those of the splitter.
    pre_dispatch : int or str, default="2*n_jobs"
        Number of folds handed to joblib at a time.
    method : {"predict", "predict_proba", "predict_log_proba", "transform"}, default="predict"
        Method to call on the rows left out.

    Returns
    -------
    ndarray or list of ndarray
        What the method returns for all rows: an array with a row for every row of X, or for the
        probabilities of 2-D ``y`` a list with one array a task, None for a regression task.
        Classes are those of all labels, sorted; one that the training rows of a fold lack has
        probability 0 (log-probability -inf) there.

    Raises
    ------
    ValueError
        If a row is in no test set or in several, or the method is not one of those above.

    See Also
    --------
    MultiTaskStratifiedKFold : Folds that spread the labels of all tasks.
    sk_mtl.metrics.task_scores : Scores that skip missing labels.

    Notes
    -----
    The columns of ``transform`` come from another network in every fold and do not mean the same
    from fold to fold.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.ensemble import RandomForestClassifier
    >>> from sk_mtl.model_selection import cross_val_predict
    >>> X = np.arange(12.0).reshape(-1, 1) % 4
    >>> Y = np.hstack([X > 1, X // 2 + X // 3]).astype(int)
    >>> forest = RandomForestClassifier(n_estimators=5, random_state=0)
    >>> probabilities = cross_val_predict(forest, X, Y, cv=3, method="predict_proba")
    >>> [p.shape for p in probabilities]
    [(12, 2), (12, 3)]
    """
    if method not in METHODS:
        raise ValueError(f"Got method={method!r}, expected one of {list(METHODS)}.")
    X, y = indexable(X, y)
    targets = read_targets(y)
    fit_params, split_params = _route(estimator, cv, groups, dict(params or {}))
    splits = list(make_cv(cv, estimator).split(X, y, **split_params))
    rows = _check_partition([test for _, test in splits], targets.n_samples)
    parallel = Parallel(n_jobs=n_jobs, verbose=verbose, pre_dispatch=pre_dispatch)
    folds = parallel(
        delayed(_fit_and_predict)(clone(estimator), X, y, train, test, fit_params, method)
        for train, test in splits
    )
    predictions = [fold[0] for fold in folds]
    if method in ("predict", "transform"):
        return np.concatenate([np.asarray(p) for p in predictions])[rows]
    fill = 0.0 if method == "predict_proba" else -np.inf
    joined = _join(predictions, [fold[1] for fold in folds], targets, fill, rows)
    return joined if isinstance(predictions[0], (list, tuple)) else joined[0]


def make_cv(cv: Any, estimator: Any) -> Any:
    """Return a splitter; a number means folds that allow missing labels."""
    if cv is None or isinstance(cv, (int, np.integer)):
        n_splits = 5 if cv is None else int(cv)
        if is_regressor(estimator):
            return KFold(n_splits)
        return MultiTaskStratifiedKFold(n_splits, shuffle=False)
    return check_cv(cv)


def _route(
    estimator: Any, cv: Any, groups: Any, params: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the parameters of ``fit`` and of ``split``."""
    if not get_config()["enable_metadata_routing"]:
        return params, {"groups": groups}
    if groups is not None:
        raise ValueError(
            "Got groups with metadata routing enabled, expected them in params. "
            "Pass params={'groups': groups}."
        )
    router = (
        MetadataRouter(owner="cross_val_predict")
        .add(splitter=cv, method_mapping=MethodMapping().add(caller="fit", callee="split"))
        .add(estimator=estimator, method_mapping=MethodMapping().add(caller="fit", callee="fit"))
    )
    try:
        routed = process_routing(router, "fit", **params)
    except UnsetMetadataPassedError as error:
        raise UnsetMetadataPassedError(
            message=str(error).replace("cross_val_predict.fit", "cross_val_predict"),
            unrequested_params=error.unrequested_params,
            routed_params=error.routed_params,
        ) from error
    return routed.estimator.fit, routed.splitter.split


def _check_partition(tests: list[NDArray[np.intp]], n_samples: int) -> NDArray[np.intp]:
    """Return where each row's prediction lies once the folds are concatenated."""
    order = np.concatenate(tests)
    times = np.bincount(order, minlength=n_samples)
    if len(times) != n_samples or (times != 1).any():
        raise ValueError(
            f"Got folds with {int((times == 0).sum())} rows in no test set and "
            f"{int((times > 1).sum())} in several, expected each of {n_samples} rows in one: "
            "cross_val_predict only works for partitions. Use MultiTaskStratifiedKFold, KFold or "
            "GroupKFold."
        )
    return np.argsort(order)


def _fit_and_predict(
    estimator: Any,
    X: Any,
    y: Any,
    train: NDArray[np.intp],
    test: NDArray[np.intp],
    fit_params: dict[str, Any],
    method: str,
) -> tuple[Any, Classes]:
    """Fit one fold; return its predictions and the classes of its columns."""
    params = check_method_params(X, params=fit_params, indices=train)
    estimator.fit(safe_indexing(X, train), safe_indexing(y, train), **params)
    return getattr(estimator, method)(safe_indexing(X, test)), task_classes(estimator)


def _join(
    predictions: list[Any],
    classes: list[Classes],
    targets: Targets,
    fill: float,
    rows: NDArray[np.intp],
) -> Classes:
    """Return one array a task over all rows, with a column for every class of any fold."""
    joined: Classes = []
    for t, column in enumerate(targets.columns):
        known = [c for fold in classes if (c := fold[t]) is not None]
        parts = [p[t] if isinstance(p, (list, tuple)) else p for p in predictions]
        if not known or parts[0] is None:
            joined.append(None)
            continue
        every = _all_classes(known, column)
        widened = [_widen(p, c, every, fill) for p, c in zip(parts, known, strict=True)]
        joined.append(np.concatenate(widened)[rows])
    return joined


def _all_classes(known: list[NDArray[Any]], column: Column) -> NDArray[Any]:
    """Return the sorted classes of all folds and of all labels, in the estimator's own type."""
    of_folds = np.unique(np.concatenate(known))
    labels = np.unique(as_labels(column.observed))
    unseen = labels[~np.isin(labels, of_folds)]
    return np.unique(np.concatenate([of_folds, unseen.astype(of_folds.dtype)]))


def _widen(
    part: NDArray[Any], classes: NDArray[Any], every: NDArray[Any], fill: float
) -> NDArray[Any]:
    """Return a fold's columns at the places of their classes among all classes."""
    part = np.asarray(part)
    if len(classes) == len(every):
        return part
    wide = np.full((len(part), len(every)), fill, dtype=part.dtype)
    wide[:, np.searchsorted(every, classes)] = part
    return wide
