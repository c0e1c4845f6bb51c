"""Which rows are held out for validation, and whether: a share of them, or a fold a member."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.utils.validation import column_or_1d

from sk_mtl.columns import RawTable
from sk_mtl.targets import Targets, is_missing

Rows = NDArray[np.intp]
FEWEST_FOLDS = 5
# From here on members hold out rows in turn, which loses no label, and take small batches. On fewer
# rows training is exact: a row of weight 2 is a row twice.
FEWEST_DISTINCT = 16
# From here on rows are not looked at one by one, and members that rotate compute in single
# precision: on fewer, double costs next to nothing.
PLENTY = 64


def useful_rows(targets: Targets, weight: NDArray[Any] | None, learned: list[bool]) -> Rows:
    """Return the rows that have a label which weighs something and says something.

    Parameters
    ----------
    targets : Targets
        Labels, in the order of the tasks.
    weight : ndarray of shape (n_samples, 1 or n_tasks) or None
        Sample weights.
    learned : list of bool
        Whether the labels of a task differ.
    """
    there = ~np.column_stack([column.missing for column in targets.columns])
    if weight is not None:
        there &= weight > 0
    there &= learned
    return np.flatnonzero(there.any(axis=1))


def can_rotate(raw: RawTable, targets: Targets, rows: Rows) -> bool:
    """Return whether rows are enough for each of several members to hold some out.

    Of few rows only those count that differ: what a copy has taught says nothing of new rows.
    """
    return len(rows) >= PLENTY or _n_distinct(raw, targets, rows) >= FEWEST_DISTINCT


def _n_distinct(raw: RawTable, targets: Targets, rows: Rows) -> int:
    """Return how many of the rows differ, in a feature or in a label."""
    some = raw.take(rows)
    codes = [column.codes for column in some.categories]
    labels = [
        [None if gap else value for value, gap in zip(c.values[rows], c.missing[rows], strict=True)]
        for c in targets.columns
    ]
    return len(set(zip(_cells(some.numbers), *codes, *labels, strict=True)))


def _cells(numbers: Any) -> Iterator[tuple[bytes, ...]]:
    """Yield the numbers of every row as bytes; zeros, and gaps, are all the same."""
    if not sparse.issparse(numbers):
        plain = np.where(np.isnan(numbers), np.nan, numbers + 0.0)
        yield from ((row.tobytes(),) for row in plain)
        return
    numbers = numbers.copy()
    numbers.sum_duplicates()
    numbers.eliminate_zeros()
    for start, end in pairwise(numbers.indptr):
        yield numbers.indices[start:end].tobytes(), numbers.data[start:end].tobytes()


def n_folds_for(n_members: int, fraction: float, n_rows: int) -> int:
    """Return into how many folds members cut the rows, to hold out one each.

    Five members or more have a fold each, so that every row is held out once; but folds hold the
    validation fraction of the rows at least. Fewer members would learn from too few rows that way.
    On few rows no fold has less than two, which R2 needs.
    """
    n_folds = max(int(1 / fraction + 1e-9), 2)
    n_folds = n_members if FEWEST_FOLDS <= n_members < n_folds else n_folds
    return min(n_folds, max(n_rows // 2, 2))


def share(rows: Rows, fraction: float, seed: int) -> Rows:
    """Return a share of the rows, at random.

    Parameters
    ----------
    rows : ndarray of int
        Rows to choose from.
    fraction : float
        Share to hold out.
    seed : int
        Of the choice.
    """
    order = np.random.default_rng(seed).permutation(rows)
    return order[: round(fraction * len(rows))]


def read_groups(groups: Any, n_rows: int) -> Rows:
    """Return the group of every row as a number.

    Raises
    ------
    ValueError
        If there is not one a row, one is missing, or all rows are of one group.
    """
    values = np.asarray(groups, dtype=object) if isinstance(groups, list) else groups
    values = column_or_1d(values)
    if len(values) != n_rows:
        raise ValueError(f"Got groups of length {len(values)}, expected {n_rows}: one a row.")
    missing = np.zeros(n_rows, dtype=bool)
    if values.dtype.kind in "fmM":
        missing = values != values
    elif values.dtype.kind == "O":
        missing = np.array([is_missing(value) for value in values])
    if missing.any():
        raise ValueError(
            f"Got groups with {int(missing.sum())} missing values, expected none. Give each row "
            "that belongs to no other a group of its own."
        )
    try:
        known, codes = np.unique(values, return_inverse=True)
    except TypeError:
        kinds = sorted({type(value).__name__ for value in values})
        raise ValueError(
            f"Got groups of mixed types {kinds}, expected one. Convert them, for instance to "
            "strings."
        ) from None
    if len(known) < 2:
        raise ValueError(
            f"Got the group {str(known[0])!r} in every row, expected at least two groups: whole "
            "ones are held out. Leave groups out."
        )
    return codes.astype(np.intp)


def share_of_groups(rows: Rows, groups: Rows, fraction: float, seed: int) -> Rows:
    """Return the rows of some groups, at random, as long as they fit into a share of the rows.

    Where none fits it is the smallest.

    Parameters
    ----------
    rows : ndarray of int
        Rows to choose from, of two groups at least.
    groups : ndarray of int of shape (n_rows_of_table,)
        The group of every row.
    fraction : float
        Share to hold out.
    seed : int
        Of the choice.
    """
    known, _, sizes = _several(groups[rows])
    room = fraction * len(rows)
    held: list[int] = []
    for group in np.random.default_rng(seed).permutation(len(known)):
        if sizes[group] <= room and len(held) < len(known) - 1:
            held.append(group)
            room -= sizes[group]
    return rows[np.isin(groups[rows], known[held or [int(sizes.argmin())]])]


def deal_groups(rows: Rows, groups: Rows, n_folds: int, seed: int) -> list[Rows]:
    """Return folds of whole groups, of sizes as equal as can be had in one go.

    The largest group goes first, each to the fold that has fewest rows so far; groups of one size
    in random order.

    Parameters
    ----------
    rows : ndarray of int
        Rows to deal.
    groups : ndarray of int of shape (n_rows_of_table,)
        The group of every row.
    n_folds : int
        How many; at most as many as groups.
    seed : int
        Of the order.
    """
    known, which, sizes = _several(groups[rows])
    random = np.random.default_rng(seed)
    order = random.permutation(len(known))
    order = order[np.argsort(-sizes[order], kind="stable")]
    fold_of_group, filled = np.zeros(len(known), dtype=np.intp), np.zeros(n_folds, dtype=np.intp)
    for group in order:
        fold = filled.argmin()
        fold_of_group[group] = fold
        filled[fold] += sizes[group]
    # Few members hold out the first folds only, which shall not be those of the largest groups.
    return [rows[fold_of_group[which] == fold] for fold in random.permutation(n_folds)]


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


def _several(groups: Rows) -> tuple[Rows, Rows, Rows]:
    """Return the groups, which each row is of, and their sizes; raise if there is only one."""
    known, which, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if len(known) < 2:
        raise ValueError(
            "Got labels in the rows of a single group, expected two groups or more that have some: "
            "whole ones are held out. Leave groups out."
        )
    return known, which, sizes


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
