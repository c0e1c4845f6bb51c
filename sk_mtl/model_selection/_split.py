"""Folds that spread the classes, the amounts and the missing labels of every task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from numbers import Integral
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import BaseCrossValidator
from sklearn.utils import check_random_state

from sk_mtl.targets import Column, Targets, read_targets
from sk_mtl.tasks import by_task, check_numbers, infer_kinds

Kind = Literal["classification", "regression"]


class MultiTaskStratifiedKFold(BaseCrossValidator):
    """K folds stratified over all tasks at once, for labels with gaps too.

    Every fold gets its share of each task's classes, of each task's amounts (binned by
    quantiles) and of each task's missing labels. For ``cv=`` anywhere in scikit-learn, where a
    number of folds is refused as soon as a label is missing.

    Parameters
    ----------
    n_splits : int, default=5
        Number of folds, at least 2.
    n_bins : int, default=5
        Number of quantile bins of a regression task.
    shuffle : bool, default=True
        Whether to draw the rows in random order. Otherwise folds depend on the order of rows
        alone and equal rows go to the folds in turn.
    random_state : int, RandomState instance or None, default=None
        Seed of the shuffle. An int gives the same folds at each call; used only when
        ``shuffle=True``.
    tasks : "auto", dict or list, default="auto"
        ``"classification"`` or ``"regression"`` for each task, as a list or as a dict by task
        name (``"task0"``, ... without column names); what a dict leaves out is inferred.
        ``"auto"`` bins numbers with fractions and whole numbers of more than 20 distinct values.

    See Also
    --------
    cross_val_predict : Out-of-fold predictions that keep missing labels missing.
    sklearn.model_selection.StratifiedKFold : Its counterpart for one task without gaps.

    Notes
    -----
    Iterative stratification [1]_: the level (a class, a bin, or missing) with the fewest rows
    left is dealt out first, each row to the fold with the fewest rows of that level. Ties, where
    the paper takes the fold with most room, go to the fold that lacks the row's other levels
    most. Folds differ by at most one row. A class with fewer rows than folds is absent from some
    test folds, and a class of one row from one training fold.

    References
    ----------
    .. [1] K. Sechidis, G. Tsoumakas, I. Vlahavas, "On the Stratification of Multi-label Data",
       ECML PKDD 2011, LNCS 6913, 145-158. :doi:`10.1007/978-3-642-23808-6_10`

    Examples
    --------
    >>> import numpy as np
    >>> from sk_mtl.model_selection import MultiTaskStratifiedKFold
    >>> Y = np.array([[0, 1], [0, np.nan], [1, 1], [1, np.nan]] * 3)
    >>> folds = MultiTaskStratifiedKFold(n_splits=3, random_state=0)
    >>> for train, test in folds.split(np.zeros((12, 1)), Y):
    ...     print(Y[test, 0].sum(), np.isnan(Y[test, 1]).sum())
    2.0 2
    2.0 2
    2.0 2
    """

    def __init__(
        self,
        n_splits: int = 5,
        *,
        n_bins: int = 5,
        shuffle: bool = True,
        random_state: int | np.random.RandomState | None = None,
        tasks: Literal["auto"] | Mapping[str, Kind] | Sequence[Kind] = "auto",
    ) -> None:
        for name, value in (("n_splits", n_splits), ("n_bins", n_bins)):
            if not isinstance(value, Integral) or isinstance(value, bool) or value < 2:
                raise ValueError(
                    f"Got {name}={value!r}, expected a whole number of at least 2. Leave it out "
                    "for 5."
                )
        if not isinstance(shuffle, bool):
            raise TypeError(f"Got shuffle={shuffle!r}, expected True or False. Pass one of them.")
        if not shuffle and random_state is not None:
            raise ValueError(
                f"Got random_state={random_state!r} with shuffle=False, where it has no effect, "
                "expected None. Leave it out or set shuffle=True."
            )
        self.n_splits = n_splits
        self.n_bins = n_bins
        self.shuffle = shuffle
        self.random_state = random_state
        self.tasks = tasks

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """Return the number of folds.

        Parameters
        ----------
        X, y, groups : object
            Ignored.

        Returns
        -------
        int
            Number of folds.
        """
        return int(self.n_splits)

    def split(
        self, X: Any, y: Any = None, groups: Any = None
    ) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
        """Generate the rows of the training and test sets.

        Parameters
        ----------
        X : array-like or frame of shape (n_samples, n_features)
            Rows; only their number matters.
        y : array-like or frame of shape (n_samples,) or (n_samples, n_tasks)
            Labels; NaN, None and NA are missing.
        groups : None
            Not supported: groups and strata cannot both be kept. Use ``GroupKFold``.

        Yields
        ------
        train, test : ndarray of int
            Rows of one training set and one test set. Every row is in one test set.
        """
        if groups is not None:
            raise ValueError(
                "Got groups, expected None: MultiTaskStratifiedKFold would tear them apart. "
                "Use sklearn.model_selection.GroupKFold."
            )
        yield from super().split(X, y)

    def _iter_test_masks(
        self, X: Any = None, y: Any = None, groups: Any = None
    ) -> Iterator[NDArray[np.bool_]]:
        if y is None:
            raise ValueError(
                "Got y=None, expected the labels to stratify by. Pass y, or use KFold."
            )
        targets = read_targets(y)
        if self.n_splits > targets.n_samples:
            raise ValueError(
                f"Got n_splits={self.n_splits} for {targets.n_samples} rows, expected no more "
                f"folds than rows. Pass n_splits={targets.n_samples} at most."
            )
        n = targets.n_samples
        order = check_random_state(self.random_state).permutation(n) if self.shuffle else None
        levels = _encode(targets, self._is_binned(targets), self.n_bins)
        fold_of_row = _deal(levels, self.n_splits, np.arange(n) if order is None else order)
        for fold in range(self.n_splits):
            yield fold_of_row == fold

    def _is_binned(self, targets: Targets) -> list[bool]:
        """Return which tasks are stratified by quantile bins."""
        kinds = infer_kinds(targets)[0]
        if isinstance(self.tasks, str):
            if self.tasks != "auto":
                raise ValueError(
                    f"Got tasks={self.tasks!r}, expected 'auto', or a kind for each task. Pass "
                    "them in a list or in a dict by task name."
                )
            return [kind == "regression" for kind in kinds]
        names = targets.task_names
        given = by_task(self.tasks, names, "tasks")
        kinds = [kind if own is None else own for own, kind in zip(given, kinds, strict=True)]
        for name, kind, column in zip(names, kinds, targets.columns, strict=True):
            if kind not in ("classification", "regression"):
                raise ValueError(
                    f"Got kind {kind!r} for task {name!r}, expected 'classification' or "
                    "'regression'. Pass one of them."
                )
            if kind == "regression":
                check_numbers(column, name)
        return [kind == "regression" for kind in kinds]


def _encode(targets: Targets, binned: list[bool], n_bins: int) -> NDArray[np.intp]:
    """Return one column a task that numbers its levels; no two tasks share a number."""
    columns, start = [], 0
    for column, is_binned in zip(targets.columns, binned, strict=True):
        values, codes = np.unique(_levels(column, n_bins if is_binned else 0), return_inverse=True)
        columns.append(codes + start)
        start += len(values)
    return np.column_stack(columns)


def _levels(column: Column, n_bins: int) -> NDArray[np.intp]:
    """Return each row's class or quantile bin; -1 where the label is missing."""
    levels = np.full(len(column.values), -1, dtype=np.intp)
    observed = column.observed
    if len(observed) == 0:
        return levels
    if n_bins:
        edges = np.quantile(observed.astype(np.float64), np.linspace(0, 1, n_bins + 1)[1:-1])
        levels[~column.missing] = np.searchsorted(edges, observed, side="right")
    else:
        levels[~column.missing] = np.unique(observed, return_inverse=True)[1]
    return levels


def _deal(levels: NDArray[np.intp], n_splits: int, order: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return each row's fold, so that the folds share every level evenly.

    Parameters
    ----------
    levels : ndarray of shape (n_samples, n_tasks)
        Level of every cell, numbered over all tasks.
    n_splits : int
        Number of folds.
    order : ndarray of shape (n_samples,)
        Order in which rows of one level are dealt out.

    Returns
    -------
    ndarray of shape (n_samples,)
        Fold of every row.
    """
    n, n_tasks = levels.shape
    # One more level that all rows share: it evens out the sizes of the folds.
    levels = np.column_stack([levels, np.full(n, levels.max() + 1)])
    size = np.bincount(levels.ravel())
    rarity = (1 / size)[levels][:, :, None] / (n_tasks + 2)  # their sum over a row's levels
    room = np.full(n_splits, n // n_splits)  # times counts stays below 1
    room[: n % n_splits] += 1
    dealt = np.zeros((len(size), n_splits))
    fold_of_row = np.full(n, -1)
    left = size.astype(np.float64)
    rows_of_level = _rows_by_level(levels[:, :-1], order)
    while np.isfinite(left[:-1]).any():
        level = int(np.argmin(left[:-1]))
        rows = rows_of_level[level]
        rows = rows[fold_of_row[rows] < 0]
        for row in rows:
            own = levels[row]
            # NOTE[DIFF] ties go to the fold poorest in the row's other levels, rare ones first.
            cost = dealt[level] + (dealt[own] * rarity[row]).sum(axis=0)
            cost[room == 0] = np.inf
            fold = cost.argmin()
            fold_of_row[row] = fold
            dealt[own, fold] += 1
            room[fold] -= 1
        np.subtract.at(left, levels[rows].ravel(), 1)
        left[level] = np.inf
        left[left == 0] = np.inf
    return fold_of_row


def _rows_by_level(levels: NDArray[np.intp], order: NDArray[np.intp]) -> list[NDArray[np.intp]]:
    """Return the rows of every level, in the given order."""
    rows: list[NDArray[np.intp]] = []
    for column in levels[order].T:
        by_level = np.argsort(column, kind="stable")
        starts = np.flatnonzero(np.diff(column[by_level])) + 1
        rows += np.split(order[by_level], starts)
    return rows
