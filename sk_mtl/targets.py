"""Read the user's Y, whatever holds it, into one column a task with its missing labels marked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

MISSING_TYPE_NAMES = {"NAType", "NaTType"}  # pandas' scalars, without importing pandas


@dataclass(frozen=True)
class Column:
    """The labels of one task: values, where they are missing, and if their type says classes."""

    values: NDArray[Any]
    missing: NDArray[np.bool_]
    is_categorical: bool = False

    @property
    def observed(self) -> NDArray[Any]:
        """The labels that are there."""
        return self.values[~self.missing]

    @property
    def is_numeric(self) -> bool:
        """Whether the labels are booleans or numbers."""
        return self.values.dtype.kind in "biuf"


@dataclass(frozen=True)
class Targets:
    """Y as columns.

    ``names`` is None where the container has no column names; ``one_d`` says that predictions
    are to be one-dimensional too; ``column_vector`` that Y had one column nevertheless.
    """

    columns: list[Column]
    names: list[str] | None
    one_d: bool
    column_vector: bool = False

    @property
    def n_samples(self) -> int:
        """Number of rows."""
        return len(self.columns[0].values)

    @property
    def task_names(self) -> list[str]:
        """Names of the tasks: the columns', else ``task0``, ``task1``, ..."""
        return self.names or default_names(len(self))

    def __len__(self) -> int:
        return len(self.columns)


def default_names(n_tasks: int) -> list[str]:
    """Return the names of tasks whose container has none."""
    return [f"task{t}" for t in range(n_tasks)]


def read_targets(y: Any) -> Targets:
    """Return the columns of ``y``.

    Parameters
    ----------
    y : array-like, frame or series of shape (n_samples,) or (n_samples, n_tasks)
        Labels; NaN, None, pandas' NA, NaT and masked cells are missing.

    Returns
    -------
    Targets
        One column a task.

    Raises
    ------
    ValueError
        If y is None, sparse, structured, three-dimensional, empty, a set of dates, or holds
        infinite numbers or labels of mixed types in one column.
    """
    if y is None:
        raise ValueError(
            "This estimator requires y to be passed, but the target y is None. "
            "Pass labels of shape (n_samples,) or (n_samples, n_tasks)."
        )
    if sparse.issparse(y):
        raise ValueError(
            f"Got a sparse y ({type(y).__name__}), expected a dense one: a sparse matrix cannot "
            "say which labels are missing. Pass y.toarray()."
        )
    raw, names, n_axes = _split_columns(y)
    names = _check_names(names)
    if not raw:
        raise ValueError("Got y with 0 columns, expected at least one task.")
    labels = names or default_names(len(raw))
    columns = [_read_column(column, name) for column, name in zip(raw, labels, strict=True)]
    one_d = len(raw) == 1
    return Targets(columns, names, one_d, column_vector=one_d and n_axes == 2)


def _check_names(names: list[Any] | None) -> list[str] | None:
    """Return column names as strings, or None where there are none but positions."""
    if names is None or all(name == position for position, name in enumerate(names)):
        return None
    names = [str(name) for name in names]
    doubles = sorted({name for name in names if names.count(name) > 1})
    if doubles:
        raise ValueError(
            f"Got y with repeated column names {doubles}, expected one column a task. Rename them."
        )
    return list(names)


def as_frame(table: Any) -> Any:
    """Return a pyarrow table as a pandas frame, and anything else as it is; no lazy frame."""
    if hasattr(table, "collect") and not hasattr(table, "__array__"):
        raise ValueError(
            f"Got a {type(table).__name__}, which has no cells yet, expected a table that has. "
            "Pass what its collect() returns."
        )
    is_arrow = hasattr(table, "to_pandas") and not hasattr(table, "get_column")
    return table.to_pandas() if is_arrow and not hasattr(table, "iloc") else table


def _split_columns(y: Any) -> tuple[list[Any], list[Any] | None, int]:
    """Return the columns of y as their container gives them, their names, and y's axes."""
    y = as_frame(y)
    if hasattr(y, "iloc"):  # pandas
        if y.ndim == 1:
            return [y], None, 1
        return [y.iloc[:, t] for t in range(y.shape[1])], list(y.columns), 2
    if hasattr(y, "get_column"):  # a polars frame
        return [y.get_column(name) for name in y.columns], list(y.columns), 2
    if hasattr(y, "is_null"):  # a polars series
        return [y], None, 1
    if not isinstance(y, np.ndarray):
        y = y.detach().cpu().numpy() if hasattr(y, "detach") else _as_array(y)
    if y.dtype.names is not None:
        raise ValueError(
            f"Got y as a structured array with fields {list(y.dtype.names)}, expected one array "
            "of shape (n_samples, n_tasks). Pass pandas.DataFrame(y)."
        )
    if y.ndim not in (1, 2):
        raise ValueError(
            f"Got y of shape {y.shape}, expected (n_samples,) or (n_samples, n_tasks). "
            "y should be a 1d or 2d array."
        )
    return ([y] if y.ndim == 1 else [y[:, t] for t in range(y.shape[1])]), None, y.ndim


def _as_array(y: Any) -> NDArray[Any]:
    """Convert nested lists; columns of one type keep it, the others stay objects."""
    array = y if hasattr(y, "__array__") else np.asarray(y, dtype=object)
    array = np.asarray(array)
    if array.dtype != object or array.ndim == 0:
        return array
    simple = {type(v) for v in array.ravel()}
    if simple == {bool} or simple == {str} or simple <= {int, float, np.float64, np.int64}:
        return np.asarray(array.tolist())
    return array


def _read_column(column: Any, name: str) -> Column:
    """Return one task's labels with a mask."""
    if isinstance(column, np.ma.MaskedArray):
        mask, data = np.ma.getmaskarray(column), np.array(column.data)
        if data.dtype.kind in "fO":  # what is behind the mask is not even looked at
            data[mask] = np.nan
        inner = _read_column(data, name)
        return Column(inner.values, inner.missing | mask)
    array = _column_array(column)
    kind = array.dtype.kind
    if kind in "mM":
        raise ValueError(
            f"Got dates (dtype {array.dtype}) as labels of task {name!r}, expected classes or "
            "numbers. Convert them to numbers first."
        )
    if kind in "fc":
        if kind == "c":
            raise ValueError(
                f"Got complex numbers as labels of task {name!r}: Complex data not supported. "
                "Pass real labels."
            )
        missing = np.isnan(array)
        _refuse_infinite(array, name)
        return Column(array, missing)
    if kind == "O":
        found = _read_objects(array, name)
        named = str(getattr(column, "dtype", "")) == "category"  # pandas'
        return replace(found, is_categorical=named)
    return Column(array, np.zeros(len(array), dtype=bool))


def _column_array(column: Any) -> NDArray[Any]:
    """Return a column as a numpy array; missing labels are NaN, None or NA afterwards."""
    if isinstance(column, np.ndarray):
        return column
    if hasattr(column, "iloc"):  # pandas: extension types go through objects
        plain = isinstance(column.dtype, np.dtype)
        return np.asarray(column.to_numpy() if plain else column.to_numpy(dtype=object))
    if column.null_count():  # polars with nulls: lists keep None and do not turn ints to floats
        return np.array([*column.to_list(), None], dtype=object)[:-1]
    return np.asarray(column.to_numpy())


def is_missing(value: Any) -> bool:
    """Whether one cell stands for nothing: None, NaN, pandas' NA and NaT, numpy's NaT."""
    if value is None or type(value).__name__ in MISSING_TYPE_NAMES:
        return True
    may_be = isinstance(value, (float, np.floating, np.datetime64, np.timedelta64))
    return may_be and bool(value != value)


def _read_objects(array: NDArray[Any], name: str) -> Column:
    """Read an object column: numbers become numbers, strings stay objects."""
    missing = np.fromiter((is_missing(v) for v in array), dtype=bool, count=len(array))
    observed = array[~missing]
    is_text = {isinstance(v, str) for v in observed}
    if is_text == {True}:
        return Column(array, missing)
    if is_text == {True, False}:
        kinds = sorted({type(v).__name__ for v in observed})
        raise ValueError(
            f"Got labels of mixed types {kinds} in task {name!r}, expected one type a task. "
            "Convert them, for instance to strings."
        )
    try:
        numbers = np.asarray(observed.tolist())
    except ValueError:
        numbers = observed
    if len(observed) and (numbers.dtype.kind not in "biuf" or numbers.ndim != 1):
        kinds = sorted({type(v).__name__ for v in observed})
        raise ValueError(
            f"Got labels of type {kinds} in task {name!r}, expected numbers, booleans or strings. "
            "Convert them first."
        )
    values = np.zeros(len(array), dtype=numbers.dtype if len(observed) else np.float64)
    values[~missing] = numbers
    if values.dtype.kind == "f":
        _refuse_infinite(values, name)
        values[missing] = np.nan
    return Column(values, missing)


def _refuse_infinite(values: NDArray[Any], name: str) -> None:
    if np.isinf(values).any():
        row = int(np.flatnonzero(np.isinf(values))[0])
        raise ValueError(
            f"Input y contains infinity: got {values[row]} in task {name!r}, row {row}, expected "
            "finite labels. Use NaN for a label that is missing."
        )
