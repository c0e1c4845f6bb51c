"""The user's table as it was read: numbers with gaps, and categories as codes of what was found."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from sk_mtl.targets import is_missing


def column_names(names: NDArray[Any] | None, n: int) -> list[str]:
    """Return the names of n columns, ``x0, x1, ...`` where they have none."""
    return [f"x{i}" for i in range(n)] if names is None else [str(name) for name in names]


@dataclass(frozen=True, eq=False)
class Coded:
    """One column of categories: for each row the position of its value, -1 where it is missing.

    Values that compare equal, as 1 and 1.0 do, are one value. Not every value need occur, and
    their order means nothing.

    Attributes
    ----------
    codes : ndarray of int of shape (n_samples,)
        Positions among the values.
    values : list
        What the column holds.
    """

    codes: NDArray[np.intp]
    values: list[Any]

    def __len__(self) -> int:
        return len(self.codes)

    @classmethod
    def of(cls, codes: NDArray[Any], values: Iterable[Any]) -> Coded:
        """Return a column whose equal values are joined and whose missing ones have no code.

        Parameters
        ----------
        codes : ndarray of int of shape (n_samples,)
            Positions among the values; negative for a missing cell.
        values : iterable
            Hashable values, as Python or numpy has them.
        """
        distinct: dict[Any, int] = {}
        table = [
            -1 if is_missing(v) else distinct.setdefault(_plain(v), len(distinct)) for v in values
        ]
        codes = np.maximum(np.asarray(codes, dtype=np.intp), -1)
        if table != list(range(len(table))):
            codes = np.array([*table, -1], dtype=np.intp)[codes]  # position -1 is the last
        return cls(codes, list(distinct))

    def take(self, rows: Any) -> Coded:
        """Return some of the rows."""
        return Coded(self.codes[rows], self.values)

    def decoded(self) -> NDArray[Any]:
        """Return the values as an object array of shape (n_samples,); None where missing."""
        table = np.empty(len(self.values) + 1, dtype=object)
        table[:-1] = self.values
        return table[self.codes]


def _plain(value: Any) -> Any:
    """Return a numpy scalar as Python's own type, whose order and hash are plain."""
    return value.item() if isinstance(value, (np.number, np.bool_, np.str_)) else value


@dataclass(frozen=True, eq=False)
class RawTable:
    """X as it was read: numbers and categories apart, each in the user's order.

    Attributes
    ----------
    numbers : ndarray or csr_array of shape (n_samples, n_numbers), float32 or float64
        NaN is a missing cell; a sparse matrix has none. Where X holds numbers only, this is the
        validated array itself, which may share the user's memory: nothing may write to it.
    categories : tuple of Coded
        One a column of categories.
    is_categorical : ndarray of bool of shape (n_features_in,) or None
        Which of the user's columns are categories; None where none is.
    names : ndarray of str of shape (n_features_in,) or None
        The user's column names, if X has any.
    """

    numbers: Any
    categories: tuple[Coded, ...] = ()
    is_categorical: NDArray[np.bool_] | None = None
    names: NDArray[Any] | None = None

    def __len__(self) -> int:
        return int(self.numbers.shape[0])

    def __repr__(self) -> str:
        what = "sparse " if self.is_sparse else ""
        return (
            f"RawTable({len(self)} rows: {what}{self.dtype} numbers in {self.numbers.shape[1]} "
            f"columns, categories in {len(self.categories)})"
        )

    @property
    def is_sparse(self) -> bool:
        """Whether the numbers are a CSR matrix."""
        return bool(sparse.issparse(self.numbers))

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the numbers."""
        dtype: np.dtype[Any] = self.numbers.dtype
        return dtype

    @property
    def column_names(self) -> list[str]:
        """Names of the user's columns, ``x0, x1, ...`` where they have none."""
        return column_names(self.names, int(self.numbers.shape[1]) + len(self.categories))

    def take(self, rows: Any) -> RawTable:
        """Return some of the rows: indices or a mask."""
        categories = tuple(column.take(rows) for column in self.categories)
        return RawTable(self.numbers[rows], categories, self.is_categorical, self.names)
