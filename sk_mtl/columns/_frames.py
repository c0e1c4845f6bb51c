"""Columns of pandas and polars frames, without importing either."""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sk_mtl.columns._raw import Coded
from sk_mtl.targets import is_missing

POLARS_TEXT = {"String", "Categorical", "Enum"}


def is_frame(X: Any) -> bool:
    """Whether X is a pandas or a polars frame."""
    two_d = getattr(X, "ndim", 2) == 2
    return two_d and (hasattr(X, "iloc") or hasattr(X, "get_column")) and hasattr(X, "columns")


def column_at(X: Any, position: int) -> Any:
    """Return one column of a frame."""
    return X.iloc[:, position] if hasattr(X, "iloc") else X.to_series(position)


def some_columns(X: Any, positions: list[int]) -> Any:
    """Return a frame of some of the columns."""
    return X.iloc[:, positions] if hasattr(X, "iloc") else X[:, positions]


def kind_of(dtype: Any) -> str:
    """Return what a type says: "numbers", "sparse", "complex", "dates", "categories" or "objects".

    "sparse" are numbers, too, and "categories" include strings.
    """
    if hasattr(dtype, "base_type"):  # polars
        name = dtype.base_type().__name__
        if name in POLARS_TEXT:
            return "categories"
        if dtype.is_temporal():
            return "dates"
        return "numbers" if dtype.is_numeric() or name in {"Boolean", "Null"} else "objects"
    if dtype.kind == "c":
        return "complex"
    if dtype.kind in "biuf":
        return "sparse" if dtype.name.startswith("Sparse") else "numbers"
    if dtype.kind in "mM" or dtype.name.startswith("period"):
        return "dates"
    is_text = dtype.kind == "U" or dtype.name == "string" or getattr(dtype, "type", None) is str
    return "categories" if is_text or dtype.name.startswith(("category", "dict")) else "objects"


def objects_hold(column: Any) -> str:
    """Return what the cells of an object column are: as ``kind_of``, or "both", or a type."""
    try:
        found = code(column).values  # without those that are missing
    except TypeError:  # a list, for instance
        found = cells(column)
    types = set(map(type, found)) - {type(None)}
    text = {t for t in types if issubclass(t, str)}
    numeric = {t for t in types if issubclass(t, (numbers.Number, np.number, np.bool_))}
    other = types - text - numeric
    if other:
        return f"values of type {min(t.__name__ for t in other)!r}"
    if text:
        return "both" if numeric else "categories"
    return "numbers"


def cells(column: Any) -> list[Any]:
    """Return the cells of a column as Python objects."""
    if hasattr(column, "to_list"):
        return list(column.to_list())
    return list(np.asarray(column).tolist())


def code(column: Any) -> Coded:
    """Return a column, of a frame or an array, as codes of the values found there."""
    if hasattr(column, "factorize"):  # pandas
        if hasattr(column, "cat"):
            return Coded.of(column.cat.codes.to_numpy(), column.cat.categories.tolist())
        codes, values = column.factorize()
        return Coded.of(codes, values.tolist())
    if isinstance(column, np.ndarray) and column.dtype.kind in "biuf":
        distinct, codes = np.unique(column, return_inverse=True)
        return Coded.of(codes, distinct.tolist())
    given, positions = cells(column), _Positions()
    # The loop and the lookup run in C: 30 ns a cell.
    codes = np.fromiter(map(positions.__getitem__, given), dtype=np.intp, count=len(given))
    return Coded.of(codes, positions)


class _Positions(dict[Any, int]):
    """Values in the order in which they were first asked for."""

    def __missing__(self, value: Any) -> int:
        position = self[value] = len(self)
        return position


def as_floats(column: Any) -> NDArray[np.float64]:
    """Return numbers that are held as objects or categories; missing cells are NaN.

    Raises
    ------
    ValueError, TypeError
        As ``float`` does where a cell is no number.
    """
    found = code(column)
    values = np.array([*map(float, found.values), np.nan])
    return np.asarray(values[found.codes])


def first_text(column: Any) -> str | None:
    """Return the first string of a column that is no number, or None."""
    for value in code(column).values:
        if isinstance(value, str) and not is_missing(value):
            try:
                float(value)
            except ValueError:
                return value
    return None
