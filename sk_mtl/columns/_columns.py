"""What is learned of the columns of a training table, and the table of floats it makes of X."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sk_mtl._support import as_counts, warn
from sk_mtl.columns._categories import Categories
from sk_mtl.columns._numbers import SCALINGS, Numbers
from sk_mtl.columns._raw import RawTable, column_names


@dataclass(frozen=True)
class Layout:
    """What the columns of an encoded table are, from left to right.

    Parameters
    ----------
    n_numbers : int
        Scaled numbers, their gaps filled.
    n_flags : int, default=0
        0/1 flags of cells that were missing, one for each number that had gaps in training.
    cardinalities : tuple of int, default=()
        One column of codes a category, ``0, ..., cardinality - 1``, held as floats. Code 0 is a
        cell that is missing, or a value never seen; it need not occur in the training table.

    Examples
    --------
    >>> from sk_mtl.columns import Layout
    >>> layout = Layout(3, 1, (4, 2))
    >>> layout.width, layout.numbers, layout.flags, layout.codes
    (6, slice(0, 3, None), slice(3, 4, None), slice(4, 6, None))
    """

    n_numbers: int
    n_flags: int = 0
    cardinalities: tuple[int, ...] = ()

    @property
    def width(self) -> int:
        """Columns of the encoded table."""
        return self.n_numbers + self.n_flags + len(self.cardinalities)

    @property
    def numbers(self) -> slice:
        """Where the numbers are."""
        return slice(0, self.n_numbers)

    @property
    def flags(self) -> slice:
        """Where the flags are."""
        return slice(self.n_numbers, self.n_numbers + self.n_flags)

    @property
    def codes(self) -> slice:
        """Where the codes of categories are."""
        return slice(self.n_numbers + self.n_flags, self.width)


class Columns:
    """Scale, fill and encode the columns of a table, as learned from a training table.

    Numbers are moved and scaled, those that are missing filled with the column's centre and
    flagged; categories become codes. Rows of weight 0 do not exist, and a row of weight 2 counts
    as two rows. Integers of few values stay numbers. A constant column stays, as zeros, whatever
    it holds later on, and so does one without a single value in training; no flag is kept for
    that one, as it would be constant too. A cell that is missing at predict time, in a column
    without gaps in training, is filled and not flagged.

    Parameters
    ----------
    scaling : {"robust", "standard", None}, default="robust"
        "robust" subtracts the median, divides by the interquartile range (where that is 0, by
        half the range), and clips smoothly to (-3, 3) by ``z / sqrt(1 + (z / 3)**2)``. "standard"
        subtracts the mean and divides by the standard deviation. With None numbers are passed on
        as they are, constant ones too, and gaps filled with the median.
    centred : bool or "auto", default="auto"
        Whether to subtract a centre; "auto" does so unless the table is sparse. Without it a
        column whose median is 0 is scaled as with it; for "robust" any other is divided by its
        largest absolute value instead, and "standard" divides by the root mean square, so that
        what is common to all rows does not swamp what differs.
    min_frequency : int or float, default=3
        Categories met less often are joined in one code, "infrequent". Weights that are whole
        numbers count as repetitions; any others are scaled to a mean of 1 first.
    max_categories : int, default=1024
        Categories of a column with a code of their own at most: the most frequent, in doubt the
        first in their order. The others are infrequent, too.

    Attributes
    ----------
    layout : Layout
        What the columns of an encoded table are.
    numbers : Numbers
        What was learned of the numbers: ``fill``, ``shift``, ``scale`` and ``flagged``.
    categories : tuple of Categories
        What was learned of each column of categories: ``kept``, ``n_infrequent``, ``code_names``.
    is_sparse : bool
        Whether the training table was sparse.

    Notes
    -----
    Quantiles are those of numpy's method "averaged_inverted_cdf", which weights and repetitions
    leave alike. A sparse table is never made dense: its quantiles count the zeros that are not
    stored, and it equals the dense table of equal numbers with ``centred=False``, or with a
    centre wherever that is 0.

    References
    ----------
    Holzmüller et al. 2024, "Better by Default: Strong Pre-Tuned MLPs and Boosted Trees on Tabular
    Data", section 3 and appendix A: robust scaling and smooth clipping.

    Examples
    --------
    >>> import numpy as np
    >>> from sk_mtl.columns import Columns, RawTable
    >>> raw = RawTable(np.array([[1.0, 7.0], [2.0, 7.0], [np.nan, 7.0], [4.0, 7.0]]))
    >>> columns = Columns().fit(raw)
    >>> columns.layout
    Layout(n_numbers=2, n_flags=1, cardinalities=())
    >>> columns.names
    ['x0', 'x1', 'x0_missing']
    >>> columns.transform(raw, np.float32)[2]
    array([0., 0., 1.], dtype=float32)
    """

    layout: Layout
    numbers: Numbers
    categories: tuple[Categories, ...]
    is_sparse: bool

    def __init__(
        self,
        scaling: str | None = "robust",
        *,
        centred: bool | str = "auto",
        min_frequency: float = 3,
        max_categories: int = 1024,
    ) -> None:
        self.scaling = scaling
        self.centred = centred
        self.min_frequency = min_frequency
        self.max_categories = max_categories

    def __repr__(self) -> str:
        given = (
            f"scaling={self.scaling!r}, centred={self.centred!r}, "
            f"min_frequency={self.min_frequency!r}, max_categories={self.max_categories!r}"
        )
        return f"Columns({given})" + (f" -> {self.layout}" if hasattr(self, "layout") else "")

    def fit(self, raw: RawTable, weight: NDArray[Any] | None = None) -> Columns:
        """Learn from a training table.

        Parameters
        ----------
        raw : RawTable
            Training rows.
        weight : ndarray of shape (n_samples,), default=None
            Weights of the rows, none negative.

        Returns
        -------
        self : Columns

        Raises
        ------
        ValueError
            If a parameter is not admissible, or the weights are not one a row with one above 0.
        """
        self._check_parameters()
        weight = _check_weight(weight, len(raw))
        if raw.is_sparse and self.centred is True:
            raise ValueError(
                "Got centred=True with a sparse X, expected 'auto' or False: to subtract a centre "
                "would make it dense. Pass a dense X, or centred='auto'."
            )
        centred = not raw.is_sparse if self.centred == "auto" else bool(self.centred)
        self.is_sparse = raw.is_sparse
        self.numbers = Numbers.of(raw.numbers, weight, self.scaling, centred=centred)
        counted = as_counts(weight)
        self.categories = tuple(
            Categories.of(column, counted, self.min_frequency, self.max_categories)
            for column in raw.categories
        )
        self._user_names, self._is_categorical = raw.names, raw.is_categorical
        self.layout = Layout(
            len(self.numbers),
            len(self.numbers.flagged),
            tuple(column.cardinality for column in self.categories),
        )
        self._warn_of_pooled()
        return self

    def transform(self, raw: RawTable, dtype: Any = np.float32) -> Any:
        """Return the encoded table.

        Parameters
        ----------
        raw : RawTable
            Rows with the columns of the training table.
        dtype : numpy dtype, default=float32
            Type of the encoded numbers. They are computed in float64 and rounded once.

        Returns
        -------
        encoded : ndarray or csr_array of shape (n_samples, layout.width)
            CSR if the training table and this one are sparse, an array otherwise. With
            ``scaling=None`` it may be the table's own memory, so nothing may write to it.

        Raises
        ------
        ValueError
            If the table has not the columns of the training table.
        """
        layout, numbers = self.layout, raw.numbers
        if (numbers.shape[1], len(raw.categories)) != (layout.n_numbers, len(self.categories)):
            raise ValueError(
                f"Got {raw!r}, expected {layout.n_numbers} columns of numbers and "
                f"{len(self.categories)} of categories. Read it with reset=False."
            )
        if self.is_sparse and raw.is_sparse:
            return self.numbers.encode_sparse(numbers, dtype)
        alone = layout.width == layout.n_numbers and numbers.dtype == dtype
        if alone and self.numbers.passes(numbers):
            return numbers
        out = np.empty((len(raw), layout.width), dtype=dtype)
        self.numbers.encode(numbers, out)
        for j, (found, column) in enumerate(zip(self.categories, raw.categories, strict=True)):
            out[:, layout.codes.start + j] = found.encode(column)
        return out

    @property
    def names(self) -> list[str]:
        """Name of every encoded column: ``age``, then ``age_missing``, then ``city``."""
        n_features = len(self.numbers) + len(self.categories)
        users = column_names(self._user_names, n_features)
        chosen = np.zeros(n_features, dtype=bool)
        if self._is_categorical is not None:
            chosen = self._is_categorical
        numbers = [name for name, is_one in zip(users, chosen, strict=True) if not is_one]
        flags = [f"{numbers[j]}_missing" for j in self.numbers.flagged]
        return [*numbers, *flags, *(users[j] for j in np.flatnonzero(chosen))]

    def _check_parameters(self) -> None:
        if self.scaling not in SCALINGS:
            raise ValueError(
                f"Got scaling={self.scaling!r}, expected 'robust', 'standard' or None."
            )
        if not (isinstance(self.centred, bool) or self.centred == "auto"):
            raise ValueError(f"Got centred={self.centred!r}, expected True, False or 'auto'.")
        if not (isinstance(self.min_frequency, Real) and self.min_frequency >= 0):
            raise ValueError(
                f"Got min_frequency={self.min_frequency!r}, expected a number of rows, at least 0."
            )
        if not (isinstance(self.max_categories, Integral) and self.max_categories >= 1):
            raise ValueError(
                f"Got max_categories={self.max_categories!r}, expected a whole number from 1 on."
            )

    def _warn_of_pooled(self) -> None:
        """Warn of columns whose categories are all infrequent: nothing is told by them."""
        pooled = [found.n_infrequent > 1 and not found.kept for found in self.categories]
        if any(pooled):
            codes = self.names[self.layout.codes]
            names = [name for name, is_one in zip(codes, pooled, strict=True) if is_one]
            columns = "1 column" if len(names) == 1 else f"{len(names)} columns"
            warn(
                f"Got {columns} ({names[:5]}) in which no category occurs {self.min_frequency} "
                "times, expected some that do: all are joined in one. Drop what only names rows, "
                "or join categories that are alike."
            )


def _check_weight(weight: NDArray[Any] | None, n_rows: int) -> NDArray[np.float64] | None:
    """Return weights in float64, or None."""
    if weight is None:
        return None
    weight = np.asarray(weight, dtype=np.float64)
    if weight.shape != (n_rows,) or not (weight >= 0).all() or not weight.any():
        raise ValueError(
            f"Got weights of shape {weight.shape} for {n_rows} rows, expected one a row, none "
            "negative and some above 0."
        )
    return weight
