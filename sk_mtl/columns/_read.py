"""Read X: scikit-learn's validation, and which of its columns are categories."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.utils import check_array
from sklearn.utils.validation import validate_data

from sk_mtl._support import did_you_mean
from sk_mtl.columns._frames import (
    as_floats,
    code,
    column_at,
    first_text,
    is_frame,
    kind_of,
    objects_hold,
    some_columns,
)
from sk_mtl.columns._raw import Coded, RawTable
from sk_mtl.targets import as_frame, is_missing

ADMISSIBLE = "'from_dtype', None, names, indices or a mask of columns"


def read_table(
    estimator: Any,
    X: Any,
    *,
    reset: bool,
    categorical_features: Any = "from_dtype",
    dtypes: Any = (np.float64, np.float32),
) -> RawTable:
    """Validate X for an estimator, and take numbers and categories apart.

    Missing cells are NaN, None, pandas' NA, NaT and masked ones; infinite ones are errors. Names
    and number of columns are checked, and with ``reset`` remembered, by scikit-learn's
    ``validate_data``; ``reset`` sets ``is_categorical_``, too: a mask of columns, or None.

    Parameters
    ----------
    estimator : estimator
        Takes ``n_features_in_``, ``feature_names_in_`` and ``is_categorical_``.
    X : array-like, frame or sparse matrix of shape (n_samples, n_features)
        Features.
    reset : bool
        Whether these are the first training rows; if not, columns are what they were then.
    categorical_features : "from_dtype", None or array-like, default="from_dtype"
        Which columns are categories: those of a frame that hold strings or are of a categorical
        dtype; none; or names of a frame's columns, indices or a mask of X's. Booleans are
        numbers, as they are in an array, and so are objects that are all numbers. Strings in an
        array are categories only where they are named. Unused unless ``reset``.
    dtypes : dtype or list of dtypes, default=(numpy.float64, numpy.float32)
        Types of numbers that are kept; others become the first.

    Returns
    -------
    raw : RawTable
        Its numbers are the validated array itself where X has no category.

    Raises
    ------
    ValueError
        If X, or ``categorical_features`` in view of it, is not admissible.
    TypeError
        If a cell is neither a number nor a string.
    """
    X = _without_na(_unmasked(as_frame(X)))
    dtypes = list(dtypes) if isinstance(dtypes, tuple) else dtypes
    if is_frame(X) and not isinstance(X, np.ndarray):
        raw = _read_frame(estimator, X, reset, categorical_features, dtypes)
    else:
        raw = _read_array(estimator, X, reset, categorical_features, dtypes)
    if raw.is_sparse and np.isnan(raw.numbers.data).any():
        raise ValueError(
            "Input X contains NaN: got missing cells in a sparse matrix, expected a number in "
            "each that is stored. Impute them, or pass X.toarray()."
        )
    return raw


def _unmasked(X: Any) -> Any:
    """Return a masked array with NaN in place of what is masked."""
    if not isinstance(X, np.ma.MaskedArray):
        return X
    if not np.ma.is_masked(X):
        return X.data
    kept = {"f": X.dtype, "c": X.dtype, "b": np.float64, "i": np.float64, "u": np.float64}
    filled: Any = np.ma.filled(X.astype(kept.get(X.dtype.kind, object)), np.nan)
    return filled


def _without_na(X: Any) -> Any:
    """Return an array of objects with NaN in place of what stands for nothing."""
    if not (isinstance(X, np.ndarray) and X.dtype == object and X.ndim):
        return X
    is_na = np.frompyfunc(is_missing, 1, 1)(X).astype(bool)
    return np.where(is_na, np.nan, X) if is_na.any() else X


def _finish(
    estimator: Any, numbers: Any, categories: Sequence[Coded], mask: NDArray[np.bool_] | None
) -> RawTable:
    names = getattr(estimator, "feature_names_in_", None)
    return RawTable(numbers, tuple(categories), mask, names)


# Arrays and sparse matrices ------------------------------------------------------------------


def _read_array(estimator: Any, X: Any, reset: bool, given: Any, dtypes: Any) -> RawTable:
    if reset:
        estimator.is_categorical_ = _array_mask(given, X)
    mask = getattr(estimator, "is_categorical_", None)
    if mask is None:
        return _finish(estimator, _numbers_only(estimator, X, reset, dtypes), (), None)
    if sparse.issparse(X):
        raise ValueError(
            f"Got a sparse X ({type(X).__name__}) with {int(mask.sum())} columns of categories, "
            "expected a dense one. Pass X.toarray() or a frame."
        )
    if not hasattr(X, "__array__"):
        X = np.asarray(X, dtype=object)  # numbers beside strings shall not become strings
    X = validate_data(estimator, X, dtype=None, ensure_all_finite=False, reset=reset)
    chosen = np.flatnonzero(mask)
    numbers = _checked(estimator, X[:, ~mask], dtypes, names=np.flatnonzero(~mask).tolist())
    return _finish(estimator, numbers, [_code(X[:, j], int(j)) for j in chosen], mask)


def _array_mask(given: Any, X: Any) -> NDArray[np.bool_] | None:
    """Return which columns of an array are categories; None where none is."""
    if given is None or _is_from_dtype(given):
        return None
    shape = X.shape if hasattr(X, "shape") else np.asarray(X, dtype=object).shape
    if len(shape) != 2:
        return None  # scikit-learn says what is wrong with X
    mask = _mask(given, shape[1], None)
    return mask if mask.any() else None


def _numbers_only(estimator: Any, X: Any, reset: bool, dtypes: Any) -> Any:
    """Return X validated as numbers, the array itself if it is one of them."""
    try:
        return validate_data(
            estimator,
            X,
            dtype=dtypes,
            order="C",
            reset=reset,
            accept_sparse="csr",
            ensure_all_finite="allow-nan",
        )
    except (ValueError, TypeError) as error:
        _explain_text(X, None, error)
        raise


def _checked(estimator: Any, X: Any, dtypes: Any, names: Sequence[Any]) -> NDArray[Any]:
    """Return X, these columns of a table, as an array of numbers."""
    if not len(names):
        return np.empty((X.shape[0], 0), dtype=dtypes[0] if isinstance(dtypes, list) else dtypes)
    try:
        return np.asarray(
            check_array(
                X,
                dtype=dtypes,
                order="C",
                ensure_all_finite="allow-nan",
                estimator=estimator,
                input_name="X",
            )
        )
    except (ValueError, TypeError) as error:
        _explain_text(X, names, error)
        raise


def _explain_text(X: Any, names: Sequence[Any] | None, error: Exception) -> None:
    """Raise an error of our own if X could not become numbers because of strings."""
    if "could not convert string" not in str(error):
        return
    X = np.asarray(X, dtype=object)
    for j in range(X.shape[1]):
        text = first_text(X[:, j])
        if text is not None:
            _refuse_text(text, j if names is None else names[j], error)


def _refuse_text(text: str, name: Any, error: Exception | None = None) -> None:
    raise ValueError(
        f"Got strings such as {text!r} in column {name!r}, expected numbers. Pass "
        f"categorical_features=[{name!r}] if they are categories (with from_dtype a frame's "
        "columns of strings are), or convert them."
    ) from error


def _code(column: Any, name: Any) -> Coded:
    """Return a column as codes; values that are lists or infinite are refused."""
    try:
        found = code(column)
    except TypeError as error:
        raise TypeError(
            f"Got values in column {name!r} that cannot be told apart ({error}), expected numbers "
            "or strings. Convert them."
        ) from error
    if any(isinstance(v, float) and np.isinf(v) for v in found.values):
        raise ValueError(
            f"Input X contains infinity: got it in column {name!r}, expected categories. Use NaN "
            "for a cell that is missing."
        )
    return found


# Frames --------------------------------------------------------------------------------------


def _read_frame(estimator: Any, X: Any, reset: bool, given: Any, dtypes: Any) -> RawTable:
    if 0 in X.shape:
        check_array(np.empty(X.shape), estimator=estimator)  # raises
    kinds = [kind_of(dtype) for dtype in X.dtypes]
    names = list(X.columns)
    doubles = [name for name, n in Counter(names).items() if n > 1]
    if doubles:
        raise ValueError(
            f"Got X with repeated column names {doubles}, expected one column a name. Rename them."
        )
    if reset:
        found = _frame_mask(given, X, kinds, names)
        estimator.is_categorical_ = found if found.any() else None
    mask: NDArray[np.bool_] | None = getattr(estimator, "is_categorical_", None)
    if mask is None and set(kinds) <= {"numbers", "sparse"}:
        return _finish(estimator, _numbers_only(estimator, X, reset, dtypes), (), None)
    validate_data(estimator, X, skip_check_array=True, reset=reset)
    chosen = np.zeros(len(names), dtype=bool) if mask is None else mask
    numbers = _frame_numbers(estimator, X, np.flatnonzero(~chosen), kinds, dtypes)
    coded = [_code(column_at(X, int(j)), names[j]) for j in np.flatnonzero(chosen)]
    return _finish(estimator, numbers, coded, mask)


def _frame_mask(given: Any, X: Any, kinds: list[str], names: list[Any]) -> NDArray[np.bool_]:
    """Return which columns of a frame are categories."""
    if given is None:
        return np.zeros(len(names), dtype=bool)
    if not _is_from_dtype(given):
        return _mask(given, len(names), names)
    is_one = []
    for j, (kind, name) in enumerate(zip(kinds, names, strict=True)):
        found = objects_hold(column_at(X, j)) if kind == "objects" else kind
        if found == "both":
            raise ValueError(
                f"Got strings beside numbers in column {name!r}, expected one or the other. "
                "Convert it, or name the categories in categorical_features."
            )
        if found not in ("numbers", "sparse", "complex", "categories", "dates"):
            raise TypeError(
                f"Got {found} in column {name!r}, expected numbers or strings. Convert them, or "
                "name the categories in categorical_features."
            )
        is_one.append(found == "categories")
    return np.array(is_one, dtype=bool)


def _frame_numbers(
    estimator: Any,
    X: Any,
    positions: NDArray[np.intp],
    kinds: list[str],
    dtypes: Any,
) -> NDArray[Any]:
    """Return some columns of a frame as an array of numbers."""
    names = list(X.columns)
    plain = [int(j) for j in positions if kinds[j] == "numbers"]
    # Without columns polars has no rows, either.
    some = some_columns(X, plain) if plain else np.empty((len(X), 0))
    block = _checked(estimator, some, dtypes, [names[j] for j in plain])
    if len(plain) == len(positions):
        return block
    together = np.empty((len(X), len(positions)), dtype=np.float64)
    is_plain = np.isin(positions, plain)
    together[:, is_plain] = block
    for at in np.flatnonzero(~is_plain):
        j = int(positions[at])
        together[:, at] = _floats(column_at(X, j), names[j], kinds[j])
    return _checked(estimator, together, dtypes, [names[j] for j in positions])


def _floats(column: Any, name: Any, kind: str) -> NDArray[np.float64]:
    """Return a column that is not numbers by its type as numbers."""
    if kind == "dates":
        raise ValueError(
            f"Got dates (dtype {column.dtype}) in column {name!r}, expected numbers or "
            "categories. Convert them to numbers, for instance to days since a date."
        )
    if kind == "complex":
        raise ValueError(
            f"Complex data not supported: got column {name!r} of dtype {column.dtype}, expected "
            "real numbers. Take their real parts, or moduli."
        )
    try:
        return np.asarray(column, dtype=np.float64) if kind == "sparse" else as_floats(column)
    except (ValueError, TypeError) as error:
        text = first_text(column) if isinstance(error, ValueError) else None
        if text is not None:
            _refuse_text(text, name, error)
        raise TypeError(
            f"Got values in column {name!r} that are no numbers ({error}), expected numbers. "
            "Convert them, or name the column in categorical_features."
        ) from error


# Which columns are categories ----------------------------------------------------------------


def _is_from_dtype(given: Any) -> bool:
    return isinstance(given, str) and given == "from_dtype"


def _mask(given: Any, n_features: int, names: list[Any] | None) -> NDArray[np.bool_]:
    """Return the mask meant by names, indices or a mask."""
    if isinstance(given, str) or np.ndim(given) != 1:
        raise ValueError(
            f"Got categorical_features={given!r}, expected {ADMISSIBLE}. "
            f"Write categorical_features=[{given!r}] for one column."
        )
    asked = list(given)
    mask = np.zeros(n_features, dtype=bool)
    if asked and all(isinstance(i, (bool, np.bool_)) for i in asked):
        if len(asked) != n_features:
            raise ValueError(
                f"Got categorical_features as a mask of {len(asked)} columns, expected one value "
                f"for each of the {n_features} columns of X."
            )
        return np.array(asked, dtype=bool)
    for one in asked:
        mask |= _where(one, n_features, names)
    return mask


def _where(one: Any, n_features: int, names: list[Any] | None) -> NDArray[np.bool_]:
    """Return which columns have this name or index."""
    if isinstance(one, str):
        if names is None:
            raise ValueError(
                f"Got the name {one!r} in categorical_features for an X without column names, "
                "expected indices or a mask. Pass them, or a frame."
            )
        if one not in names:
            hint = did_you_mean(one, [str(name) for name in names])
            raise ValueError(
                f"Got {one!r} in categorical_features, expected columns of X: "
                f"{names[:10]}{'...' if len(names) > 10 else ''}.{hint}"
            )
        return np.array([name == one for name in names])
    if isinstance(one, (int, np.integer)) and not isinstance(one, bool):
        if not 0 <= one < n_features:
            raise ValueError(
                f"Got the index {one} in categorical_features, expected one from 0 to "
                f"{n_features - 1}. X has {n_features} columns."
            )
        return np.asarray(np.arange(n_features) == one)
    raise ValueError(f"Got {one!r} in categorical_features, expected {ADMISSIBLE}.")
