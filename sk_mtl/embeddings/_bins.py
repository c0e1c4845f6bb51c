"""Where the bins of a column begin and end."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Floats = NDArray[np.float64]


def stored(X: Any, j: int, weight: Floats) -> tuple[NDArray[Any], Floats]:
    """Return the values of a column, and their weights; the zeros of a CSC array as one value."""
    if not sparse.issparse(X):
        return X[:, j], weight
    place = slice(X.indptr[j], X.indptr[j + 1])
    values, own = X.data[place], weight[X.indices[place]]
    if len(values) == X.shape[0]:
        return values, own
    return np.append(values, values.dtype.type(0)), np.append(own, weight.sum() - own.sum())


def dense(X: Any, j: int) -> NDArray[Any]:
    """Return a column of an array or of a CSC array."""
    column: NDArray[Any] = X[:, [j]].toarray()[:, 0] if sparse.issparse(X) else X[:, j]
    return column


def distinct_values(column: NDArray[Any], weight: Floats) -> tuple[Floats, Floats]:
    """Return the distinct values of a column in ascending order, and the weight of each.

    Neighbours that differ by rounding only are one value: a bin between them would be noise.
    """
    values, place = np.unique(column, return_inverse=True)
    mass: Floats = np.bincount(place.ravel(), weight).astype(np.float64)
    if len(values) > 1:
        rounding = 8 * np.finfo(column.dtype).eps * np.abs(values[[0, -1]]).max()
        starts = np.flatnonzero(np.diff(values, prepend=-np.inf) > rounding)
        values, mass = values[starts], np.add.reduceat(mass, starts)
    return values.astype(np.float64), mass


def quantile_edges(values: Floats, mass: Floats, n_bins: int) -> Floats:
    """Return the edges of at most ``n_bins`` bins that hold about equally much.

    Edges are values of the column. Between two neighbouring values lies half of the weight of
    each, and a bin ends where its share of the whole is reached. What lies between two values
    counts as one bin's share at most, so that a value that many rows have takes one edge, and
    leaves the other bins to the rest; equal quantiles would only be merged. So the number of bins
    is ``min(n_bins, n_values - 1)``: folds of one table rarely differ in it.

    Parameters
    ----------
    values : ndarray of shape (n_values,)
        Distinct, in ascending order.
    mass : ndarray of shape (n_values,)
        Weight of each.
    n_bins : int
        How many bins there may be.

    Returns
    -------
    ndarray of shape (min(n_bins, n_values - 1) + 1,)
    """
    between = (mass[1:] + mass[:-1]) / 2
    if len(between) <= n_bins:
        return values
    largest = np.sort(between)[::-1][:n_bins]
    # with the r largest as bins of their own, each of the others gets this share
    rest = between.sum() - np.concatenate([[0.0], np.cumsum(largest[:-1])])
    shares = rest / np.arange(n_bins, 0, -1)
    share = shares[np.argmax(largest <= shares * (1 + 1e-9))]
    reached = np.cumsum(np.minimum(between, share))
    # a little less, so that rounding of the sum never decides
    inner = np.searchsorted(reached, share * (np.arange(1, n_bins) - 1e-9)) + 1
    edges: Floats = values[np.unique([0, *np.minimum(inner, len(values) - 1), len(values) - 1])]
    return edges


def target_edges(
    column: NDArray[Any], values: Floats, weight: Floats, targets: Floats, n_bins: int
) -> Floats:
    """Return the edges at which a regression tree of one column splits it.

    Parameters
    ----------
    column : ndarray of shape (n_rows,)
        The column.
    values : ndarray of shape (n_values,)
        Its distinct values.
    weight : ndarray of shape (n_rows,)
        Weights of the rows.
    targets : ndarray of shape (n_rows, n_targets)
        From :func:`comparable_targets`.
    n_bins : int
        How many bins there may be.

    Returns
    -------
    ndarray of shape (n_edges,)
        At most ``n_bins + 1``.
    """
    if len(values) - 1 <= n_bins:
        return values
    from sklearn.tree import DecisionTreeRegressor  # takes long to import, and few need it

    # a share of the weight, not a number of rows: a row of weight 2 is a row twice
    tree = DecisionTreeRegressor(
        max_leaf_nodes=max(n_bins, 2), min_weight_fraction_leaf=0.25 / n_bins, random_state=0
    )
    nodes = tree.fit(column[:, None], targets, sample_weight=weight).tree_
    splits = nodes.threshold[nodes.children_left >= 0]
    splits = splits[(splits > values[0]) & (splits < values[-1])]
    return np.unique(np.concatenate([values[[0, -1]], splits]))


def comparable_targets(y: NDArray[Any], weight: Floats) -> Floats:
    """Return targets of equal spread for one tree; a missing one is a mean one, which says nothing.

    Shape: ``(n_rows, n_targets)`` in and out.
    """
    known = ~np.isnan(y)
    w = weight[:, None] * known
    total = np.maximum(w.sum(axis=0), np.finfo(np.float64).tiny)
    centred = np.where(known, y, 0.0)
    centred = np.where(known, centred - (w * centred).sum(axis=0) / total, 0.0)
    spread = np.sqrt((w * centred**2).sum(axis=0) / total)
    return np.asarray(centred / np.where(spread > 0, spread, 1.0))
