"""Quartiles, ends and moments of columns, alike under weights and under repeated rows.

A quantile is numpy's "averaged_inverted_cdf": the value at which the share of the weight reaches
q, and the middle between it and the next where it reaches q exactly. So it depends on shares only:
not on how often the whole table is repeated, nor on the unit of the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

QUARTILES = (0.25, 0.5, 0.75)
BLOCK = 2**22  # numbers copied at a time
SLACK = 1e-10  # of the whole weight: sums of weights that are not whole numbers are rounded

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Summary:
    """Statistics of every column over its observed cells; zeros where there is none."""

    low: Floats
    quartiles: Floats  # (3, n_columns)
    high: Floats
    mean: Floats
    deviation: Floats
    has_gaps: NDArray[np.bool_]
    is_empty: NDArray[np.bool_]

    @classmethod
    def blank(cls, n_columns: int) -> Summary:
        """Return a summary to be filled."""
        zeros = np.zeros((7, n_columns))
        no, none = np.zeros((2, n_columns), dtype=bool)
        return cls(zeros[0], zeros[1:4], zeros[4], zeros[5], zeros[6], no, none)


def summarise(X: NDArray[Any], weight: Floats | None) -> Summary:
    """Summarise the columns of an array; NaN is a missing cell.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_columns)
        Numbers; they are copied a few columns at a time.
    weight : ndarray of shape (n_samples,) or None
        Weights of the rows. A row of weight 0 does not exist.
    """
    found = Summary.blank(X.shape[1])
    rows: Any = slice(None)
    if weight is not None:
        if not weight.all():
            rows = np.flatnonzero(weight)
            weight = weight[rows]
        if weight.min() == weight.max():
            weight = None
    step = max(1, BLOCK // len(X))
    for start in range(0, X.shape[1], step):
        block = np.array(X[rows, start : start + step].T, dtype=np.float64, order="C")
        for j, column in enumerate(block, start):
            n = len(column) - int(np.count_nonzero(np.isnan(column)))
            found.has_gaps[j] = n < len(column)
            found.is_empty[j] = n == 0
            if n:
                _fill_in(found, j, column, n, weight)
    return found


def _fill_in(found: Summary, j: int, column: Floats, n: int, weight: Floats | None) -> None:
    """Summarise one column with n observed cells, whose order may be changed."""
    if weight is None:
        column.sort()  # NaN come last
        values = column[:n]
        found.quartiles[:, j] = _counted_quartiles(values)
    else:
        order = np.argsort(column)[:n]
        values, weight = column[order], weight[order]
        found.quartiles[:, j] = _weighted_quartiles(values, weight)
    found.low[j], found.high[j] = values[0], values[-1]
    size = max(-found.low[j], found.high[j]) or 1.0  # so that squares neither over- nor underflow
    values = values / size
    mean = np.average(values, weights=weight)
    values -= mean
    values *= values
    found.mean[j] = mean * size
    found.deviation[j] = np.sqrt(np.average(values, weights=weight)) * size


def _counted_quartiles(values: Floats) -> list[float]:
    """Return the quartiles of sorted values that count alike."""
    quartiles = []
    for q in QUARTILES:
        upper = int(len(values) * q)  # exact: the quartiles are
        lower = upper - 1 if upper == len(values) * q else upper
        quartiles.append(_middle(values[lower], values[upper]))
    return quartiles


def _weighted_quartiles(values: Floats, weight: Floats) -> list[float]:
    """Return the quartiles of sorted values with weights above 0."""
    reached = np.cumsum(weight)
    quartiles = []
    for q in QUARTILES:
        target, slack = q * reached[-1], SLACK * reached[-1]
        at = int(np.searchsorted(reached, target - slack))
        upper = at + int(reached[at] <= target + slack)
        quartiles.append(_middle(values[at], values[min(upper, len(values) - 1)]))
    return quartiles


def _middle(lower: Any, upper: Any) -> Any:
    """Return the mean of two numbers, exactly so where they are equal."""
    return 0.5 * lower + 0.5 * upper


# Sparse tables -------------------------------------------------------------------------------


def summarise_sparse(X: Any, weight: Floats | None) -> Summary:
    """Summarise the columns of a CSR matrix without missing cells, as if it were dense."""
    if weight is not None and not weight.all():
        rows = np.flatnonzero(weight)
        X, weight = X[rows], weight[rows]
    n, n_columns = X.shape
    X = X.tocsc()
    X.sum_duplicates()
    values = X.data.astype(np.float64)
    columns = np.repeat(np.arange(n_columns), np.diff(X.indptr))
    stored = np.ones(len(values)) if weight is None else weight[X.indices].astype(np.float64)
    total = float(n) if weight is None else float(weight.sum())
    found = Summary.blank(n_columns)
    full = np.diff(X.indptr) == n
    rest = np.where(full, 0.0, total - np.bincount(columns, stored, minlength=n_columns))
    np.minimum.at(found.low, columns, values)
    np.maximum.at(found.high, columns, values)
    _mend_ends(found, X, full)
    _fill_moments(found, columns, values, stored, rest, total)
    # Where less than a quarter of the weight is stored, all quartiles are 0.
    busy = np.flatnonzero(total - rest >= (QUARTILES[0] - SLACK) * total)
    cells = np.isin(columns, busy)
    found.quartiles[:, busy] = _quartiles_with_zeros(
        np.searchsorted(busy, columns[cells]), values[cells], stored[cells], rest[busy], total
    )
    return found


def _mend_ends(found: Summary, X: Any, full: NDArray[np.bool_]) -> None:
    """Find the ends of columns that store every cell: 0 need not lie between them."""
    for j in np.flatnonzero(full):
        values = X.data[X.indptr[j] : X.indptr[j + 1]]
        found.low[j], found.high[j] = values.min(), values.max()


def _fill_moments(
    found: Summary,
    columns: NDArray[np.intp],
    values: Floats,
    weight: Floats,
    rest: Floats,
    total: float,
) -> None:
    """Find mean and standard deviation; ``rest`` is the weight of the zeros not stored."""
    n_columns = len(found.low)
    size = np.maximum(-found.low, found.high)
    size[size == 0] = 1.0
    values = values / size[columns]
    mean = np.bincount(columns, values * weight, minlength=n_columns) / total
    squares = np.bincount(columns, (values - mean[columns]) ** 2 * weight, minlength=n_columns)
    found.mean[:] = mean * size
    found.deviation[:] = np.sqrt((squares + rest * mean**2) / total) * size


def _quartiles_with_zeros(
    columns: NDArray[np.intp], values: Floats, weight: Floats, rest: Floats, total: float
) -> Floats:
    """Return the quartiles of columns of stored values, and of zeros that are not stored."""
    n_columns = len(rest)
    extra = np.flatnonzero(rest)
    columns = np.concatenate([columns, extra])
    values = np.concatenate([values, np.zeros(len(extra))])
    weight = np.concatenate([weight, rest[extra]])
    order = np.lexsort((values, columns))
    columns, values = columns[order], values[order]
    lengths = np.bincount(columns, minlength=n_columns)
    starts = np.cumsum(lengths) - lengths
    reached = np.cumsum(weight[order])
    reached -= np.repeat(np.concatenate([[0.0], reached])[starts], lengths)
    last = starts + lengths - 1
    quartiles = np.empty((len(QUARTILES), n_columns))
    for row, q in zip(quartiles, QUARTILES, strict=True):
        target, slack = q * total, SLACK * total
        below = np.bincount(columns, reached < target - slack, minlength=n_columns)
        at = np.minimum(starts + below.astype(np.intp), last)
        upper = np.minimum(at + (reached[at] <= target + slack), last)
        row[:] = _middle(values[at], values[upper])
    return quartiles
