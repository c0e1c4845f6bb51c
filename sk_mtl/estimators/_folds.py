"""Which rows are held out for validation: a share of them, or a fold a member."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.intp]
FEWEST_FOLDS = 5


def n_folds_for(n_members: int, fraction: float) -> int:
    """Return into how many folds members cut the rows, to hold out one each.

    Five members or more have a fold each, so that every row is held out once; but folds hold the
    validation fraction of the rows at least. Fewer members would learn from too few rows that way.
    """
    n_folds = max(int(1 / fraction + 1e-9), 2)
    return n_members if FEWEST_FOLDS <= n_members < n_folds else n_folds


def share(rows: Rows, labelled: NDArray[np.bool_], fraction: float, seed: int) -> Rows:
    """Return a share of the rows, at random.

    Parameters
    ----------
    rows : ndarray of int
        Rows to choose from.
    labelled : ndarray of bool of shape (n_rows_of_table, n_tasks)
        Which labels there are: a task keeps at least one for training.
    fraction : float
        Share to hold out.
    seed : int
        Of the choice.
    """
    order = np.random.default_rng(seed).permutation(rows)
    return leave_labels(order[: round(fraction * len(rows))], rows, labelled)


def deal(rows: Rows, y: NDArray[np.floating], n_folds: int, seed: int) -> NDArray[np.intp]:
    """Return folds of the rows that are of equal size and alike, as columns.

    Rows are sorted by their classes, that of the task with the rarest class first, then by which
    labels are missing, then by their amounts; of every ``n_folds`` neighbours each goes to another
    fold. The few rows left over, taken at random, are in none.

    Parameters
    ----------
    rows : ndarray of int
        Rows to deal.
    y : ndarray of shape (n_rows_of_table, n_tasks)
        Encoded labels, NaN where missing. Codes of classes are told from amounts by being few.
    n_folds : int
        How many.
    seed : int
        Of the choice.
    """
    random = np.random.default_rng(seed)
    n_each = len(rows) // n_folds
    order = random.permutation(rows)[: n_each * n_folds]
    order = order[np.lexsort(_keys(y[order]))]
    dealt: NDArray[np.intp] = random.permuted(order.reshape(n_each, n_folds), axis=1)
    return dealt


def _keys(y: NDArray[np.floating]) -> list[NDArray[np.floating]]:
    """Return what rows are sorted by, the most important last, as numpy's lexsort reads them."""
    few, amounts = [], np.zeros(len(y))
    for column in y.T:
        values, counts = np.unique(column[~np.isnan(column)], return_counts=True)
        if 1 < len(values) <= 20:
            few.append((counts.min(), np.nan_to_num(column, nan=-1.0)))
        else:
            amounts += np.nan_to_num(column, nan=0.0)
    codes = [column for _, column in sorted(few, key=lambda each: each[0], reverse=True)]
    missing = [m.astype(float) for m in np.isnan(y).T if m.any()]
    return [amounts, *missing, *codes]


def leave_labels(held: Rows, rows: Rows, labelled: NDArray[np.bool_]) -> Rows:
    """Return the rows to hold out without those that tasks need for training.

    Parameters
    ----------
    held : ndarray of int
        Rows to hold out.
    rows : ndarray of int
        All rows.
    labelled : ndarray of bool of shape (n_rows_of_table, n_tasks)
        Which labels there are: a task keeps at least one for training.
    """
    train = np.setdiff1d(rows, held)
    for t in np.flatnonzero(~labelled[train].any(axis=0)) if len(train) else ():
        held = np.setdiff1d(held, held[labelled[held, t]][:1])
    return np.sort(held)
