"""Reading X: every container gives the same table, and what cannot be read is said plainly."""

from __future__ import annotations

import datetime
import decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.ensemble import HistGradientBoostingRegressor

from sk_mtl.columns import Columns, admissible_dtypes, read_table, to_tensor, torch_dtype

NAN = np.nan
AUTO = admissible_dtypes("auto")


class Estimator(BaseEstimator):
    """Something that remembers the columns of its X."""


def read(X, categorical_features="from_dtype", dtypes=AUTO, estimator=None, reset=True):
    return read_table(
        estimator or Estimator(),
        X,
        reset=reset,
        categorical_features=categorical_features,
        dtypes=dtypes,
    )


def decoded(raw):
    return [column.decoded().tolist() for column in raw.categories]


AGE, CITY, GOLD, RANK = [30.0, NAN, 50.0], ["Rome", "Oslo", None], [True, False, True], [1, 2, 3]
NUMBERS = np.array([[30, 1, 1], [NAN, 0, 2], [50, 1, 3]])


def shop():
    return {"age": AGE, "city": CITY, "gold": GOLD, "rank": RANK}


# Containers ----------------------------------------------------------------------------------

FRAMES = {
    "pandas": lambda: pd.DataFrame(shop()),
    "pandas objects": lambda: pd.DataFrame(shop()).astype(object),
    "pandas category": lambda: pd.DataFrame(shop()).astype({"city": "category"}),
    "pandas string": lambda: pd.DataFrame(shop()).astype({"city": "string[python]"}),
    "pandas nullable": lambda: pd.DataFrame(shop()).convert_dtypes(),
    "pandas of arrow": lambda: pd.DataFrame(shop()).convert_dtypes(dtype_backend="pyarrow"),
    "polars": lambda: pl.DataFrame(shop(), strict=False).fill_nan(None),
    "polars categorical": lambda: pl.DataFrame(shop()).with_columns(
        pl.col("city").cast(pl.Categorical)
    ),
    "polars enum": lambda: pl.DataFrame(shop()).with_columns(
        pl.col("city").cast(pl.Enum(["Bonn", "Oslo", "Rome"]))
    ),
    "pyarrow": lambda: pa.table({**shop(), "age": [30.0, None, 50.0]}),
    "pyarrow dictionary": lambda: pa.table(
        {**shop(), "city": pa.array(CITY).dictionary_encode(), "age": [30.0, None, 50.0]}
    ),
}
ARRAYS = {
    "objects": lambda: np.array(list(zip(*shop().values(), strict=True)), dtype=object),
    "lists": lambda: [list(row) for row in zip(*shop().values(), strict=True)],
}


@pytest.mark.parametrize("name", FRAMES)
def test_frames_are_read_alike(name):
    estimator = Estimator()
    raw = read(FRAMES[name](), estimator=estimator)
    assert np.array_equal(raw.numbers, NUMBERS, equal_nan=True)
    assert raw.numbers.dtype == np.float64 and raw.numbers.flags.c_contiguous
    assert decoded(raw) == [CITY]
    assert raw.column_names == ["age", "city", "gold", "rank"]
    assert estimator.is_categorical_.tolist() == [False, True, False, False]
    assert estimator.n_features_in_ == 4


@pytest.mark.parametrize("name", FRAMES)
@pytest.mark.parametrize("given", [["city"], [1], np.array([False, True, False, False])])
def test_categories_are_named_counted_or_masked(name, given):
    raw = read(FRAMES[name](), given)
    assert np.array_equal(raw.numbers, NUMBERS, equal_nan=True)
    assert decoded(raw) == [CITY]


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("given", [[1], (False, True, False, False)])
def test_arrays_are_read_as_frames_are(name, given):
    raw = read(ARRAYS[name](), given)
    assert np.array_equal(raw.numbers, NUMBERS, equal_nan=True)
    assert decoded(raw) == [CITY]
    assert raw.column_names == ["x0", "x1", "x2", "x3"]


def test_numbers_beside_strings_in_lists_stay_numbers():
    raw = read([[1, "a", True], [2, "b", False]], [0, 1])
    assert decoded(raw) == [[1, 2], ["a", "b"]] and raw.numbers.tolist() == [[1], [0]]


@pytest.mark.parametrize("name", FRAMES)
def test_frames_are_encoded_alike(name):
    raw, reference = read(FRAMES[name]()), read(FRAMES["pandas"]())
    columns = Columns(min_frequency=1).fit(reference)
    assert np.array_equal(columns.transform(raw), columns.transform(reference))
    assert repr(Columns(min_frequency=1).fit(raw).categories) == repr(columns.categories)


def test_histogram_boosting_finds_the_same_categories():
    frame = pd.DataFrame({"a": pd.Categorical(list("abab")), "b": [1, 0, 1, 0], "c": [True] * 4})
    theirs = HistGradientBoostingRegressor(categorical_features="from_dtype", max_iter=1)
    theirs.fit(frame, range(4))
    ours = Estimator()
    read(frame, estimator=ours)
    assert ours.is_categorical_.tolist() == theirs.is_categorical_.tolist()


# Numbers only --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("given", ["from_dtype", None, [], [False, False, False]])
def test_an_array_of_numbers_is_itself(dtype, given):
    X, estimator = NUMBERS.astype(dtype), Estimator()
    assert read(X, given, estimator=estimator).numbers is X
    assert estimator.is_categorical_ is None


def test_types_of_numbers_are_kept_or_changed_as_asked():
    X = NUMBERS.astype(np.float32)
    assert read(X, dtypes=admissible_dtypes("float64")).dtype == np.float64
    assert read(NUMBERS, dtypes=admissible_dtypes("float32")).dtype == np.float32
    assert read(np.nan_to_num(NUMBERS).astype(int)).dtype == np.float64
    frame = pd.DataFrame({"a": np.float32([1, 2]), "b": ["x", "y"]})
    assert read(frame).dtype == np.float32
    assert read(frame[["b"]], dtypes=admissible_dtypes("float32")).numbers.shape == (2, 0)


@pytest.mark.parametrize(
    "X",
    [
        NUMBERS.tolist(),
        np.asfortranarray(NUMBERS),
        NUMBERS.astype(object),
        np.where(np.isnan(NUMBERS), None, NUMBERS),
        np.ma.masked_array(np.nan_to_num(NUMBERS, nan=-1), np.isnan(NUMBERS)),
        np.ma.masked_array(np.nan_to_num(NUMBERS, nan=-1).astype(int), np.isnan(NUMBERS)),
        torch.from_numpy(NUMBERS),
        pl.DataFrame(NUMBERS),
        pd.DataFrame(NUMBERS).astype("Float64"),
        pd.DataFrame(NUMBERS, dtype=object).replace(np.nan, pd.NA),
        pd.DataFrame({0: [30, None, 50], 1: [decimal.Decimal(i) for i in (1, 0, 1)], 2: RANK}),
        pd.DataFrame({0: pd.Categorical([30, None, 50]), 1: GOLD, 2: ["1", "2", "3"]}),
    ],
    ids=lambda X: type(X).__name__,
)
def test_numbers_of_any_container_are_read_alike(X):
    raw = read(X, None)
    assert np.array_equal(raw.numbers, NUMBERS, equal_nan=True) and not raw.categories


def test_read_only_memory_and_frames_can_be_encoded():
    frame = pd.DataFrame(NUMBERS)
    assert to_tensor(Columns().fit(read(frame)).transform(read(frame))).dtype == torch.float32
    assert torch_dtype(read(frame).dtype) == torch.float64


@pytest.mark.parametrize("kind", ["csr", "csc", "coo"])
def test_sparse_tables_are_read_as_csr(kind):
    X = np.nan_to_num(NUMBERS)
    raw = read(sparse.coo_array(X).asformat(kind))
    assert raw.is_sparse and raw.numbers.format == "csr"
    assert np.array_equal(raw.numbers.toarray(), X)
    assert raw.take([2, 0]).numbers.toarray().tolist() == X[[2, 0]].tolist()


def test_a_frame_of_sparse_columns_stays_sparse():
    frame = pd.DataFrame.sparse.from_spmatrix(sparse.csr_array(np.nan_to_num(NUMBERS)))
    assert read(frame).is_sparse


# What are categories -------------------------------------------------------------------------


def test_dtypes_say_what_is_a_category():
    frame = pd.DataFrame(
        {
            "string": list("ab"),
            "category": pd.Categorical([1, 2]),
            "object": np.array(["a", None], dtype=object),
            "numbers": np.array([1, None], dtype=object),
            "booleans": np.array([True, None], dtype=object),
            "nothing": np.array([None, None], dtype=object),
            "sparse": pd.arrays.SparseArray([0.0, 1.0]),
        }
    )
    estimator = Estimator()
    raw = read(frame, estimator=estimator)
    assert estimator.is_categorical_.tolist() == [True] * 3 + [False] * 4
    assert np.array_equal(raw.numbers, [[1, 1, NAN, 0], [NAN, NAN, NAN, 1]], equal_nan=True)


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame])
def test_a_frame_may_hold_categories_only(make):
    raw = read(make({"a": ["x", "y", None], "b": ["u", "u", "v"]}))
    assert len(raw) == 3 and raw.numbers.shape == (3, 0)
    encoded = Columns(min_frequency=1).fit(raw).transform(raw)
    assert encoded.tolist() == [[1, 1], [2, 1], [0, 2]]


def test_a_polars_column_of_nothing_is_numbers():
    raw = read(pl.DataFrame({"a": [None, None], "b": ["x", "y"]}))
    assert np.isnan(raw.numbers).all() and decoded(raw) == [["x", "y"]]


@pytest.mark.parametrize("dtype", [float, np.int16, bool, "U3", "S3", object, "M8[D]"])
def test_columns_of_any_array_can_be_categories(dtype):
    column = np.array([1, 0, 1], dtype="M8[D]" if dtype == "M8[D]" else None).astype(dtype)
    raw = read(np.column_stack([column, column]), [0, 1])
    assert raw.numbers.shape == (3, 0)
    assert [found.codes[0] == found.codes[2] != found.codes[1] for found in raw.categories] == [
        True,
        True,
    ]


def test_dates_and_other_values_can_be_named_as_categories():
    day = datetime.date(2020, 1, 1)
    for frame in (pd.DataFrame({"a": [day, None]}), pl.DataFrame({"a": [day, None]})):
        assert decoded(read(frame, ["a"])) == [[day, None]]
    frame = pd.DataFrame({"a": pd.to_datetime(["2020-01-01", None])})
    assert decoded(read(frame, ["a"])) == [[pd.Timestamp("2020-01-01"), None]]


# Later tables --------------------------------------------------------------------------------


def test_later_tables_have_the_same_categories_whatever_they_hold():
    estimator = Estimator()
    columns = Columns(min_frequency=1).fit(read(FRAMES["pandas"](), estimator=estimator))
    later = pd.DataFrame({"age": [1, 2], "city": [NAN, NAN], "gold": [0, 1], "rank": [None, None]})
    raw = read(later, None, estimator=estimator, reset=False)
    assert decoded(raw) == [[None, None]]
    assert np.array_equal(raw.numbers, [[1, 0, NAN], [2, 1, NAN]], equal_nan=True)
    assert columns.transform(raw)[:, columns.layout.codes].tolist() == [[0], [0]]
    new = FRAMES["polars"]().with_columns(city=pl.lit("Rom"))
    raw = read(new, estimator=estimator, reset=False)
    assert columns.transform(raw)[:, columns.layout.codes].tolist() == [[0], [0], [0]]


def test_categories_of_a_later_frame_need_not_have_the_same_codes():
    estimator = Estimator()
    first = pd.DataFrame({"a": pd.Categorical(list("aabb"))})
    columns = Columns(min_frequency=1).fit(read(first, estimator=estimator))
    later = pd.DataFrame({"a": pd.Categorical(list("ba"), categories=list("zba"))})
    raw = read(later, estimator=estimator, reset=False)
    assert columns.transform(raw)[:, 0].tolist() == [2, 1]


def test_arrays_may_follow_frames_by_position():
    estimator = Estimator()
    read(FRAMES["pandas"](), estimator=estimator)
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        raw = read(ARRAYS["objects"](), estimator=estimator, reset=False)
    assert decoded(raw) == [CITY]


# Bad input -----------------------------------------------------------------------------------


def fail(X, message, given="from_dtype", error=ValueError):
    with pytest.raises(error, match=message):
        read(X, given)


TEXT = r"Got strings such as '(Rome|Oslo)' in column {0}, expected numbers. Pass .*=\[{0}\]"


@pytest.mark.parametrize("name", FRAMES)
def test_strings_of_a_frame_that_are_not_named_are_refused(name):
    fail(FRAMES[name](), TEXT.format("'city'"), given=["rank"])
    fail(FRAMES[name](), TEXT.format("'city'"), given=None)


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("given", ["from_dtype", None, [3]])
def test_strings_of_an_array_that_are_not_named_are_refused(name, given):
    fail(ARRAYS[name](), TEXT.format(1), given=given)


def test_strings_in_a_later_table_are_refused_where_numbers_were():
    estimator = Estimator()
    read(FRAMES["pandas"](), estimator=estimator)
    frame = FRAMES["pandas"]().assign(age=["30", "about 40", "50"])
    with pytest.raises(ValueError, match="Got strings such as 'about 40' in column 'age'"):
        read(frame, estimator=estimator, reset=False)


@pytest.mark.parametrize(
    ("X", "message", "error"),
    [
        (pd.DataFrame({"a": [1, "?", 3]}), "Got strings beside numbers in column 'a'", ValueError),
        (pd.DataFrame({"a": [1, [2]]}), "Got values of type 'list' in column 'a'", TypeError),
        (pl.DataFrame({"a": [[1], [2]]}), "in column 'a', expected numbers or strings", TypeError),
        (pd.DataFrame({"a": pd.to_datetime(["2020-01-01"])}), "Got dates .* in column", ValueError),
        (pl.DataFrame({"a": [datetime.date(2020, 1, 1)]}), r"Got dates \(dtype Date\)", ValueError),
        (pd.DataFrame({"a": pd.period_range("2020", periods=1)}), "Got dates", ValueError),
        (pd.DataFrame({"a": [1 + 1j], "b": ["x"]}), "Complex data not supported", ValueError),
        (pd.DataFrame({"a": [1.0], 1: [2.0]}), "Feature names are only supported", TypeError),
        (FRAMES["pandas"]().iloc[:0], r"Found array with 0 sample\(s\) \(shape=\(0, 4\)\)", None),
        (pd.DataFrame({"a": ["x"], "b": [np.inf]}), "^Input X contains infinity", ValueError),
        (pd.DataFrame({"a": [-np.inf]}), "^Input X contains infinity", ValueError),
        (pd.DataFrame(index=range(3)), r"Found array with 0 feature\(s\)", ValueError),
        (pd.Series([1.0]), "Expected a 2-dimensional container", ValueError),
        (pl.Series([1.0]), "Expected a 2-dimensional container", ValueError),
        (np.array([[{}, 1]]), r"argument must be .* string.* number", TypeError),
        (sparse.csr_array([[NAN, 1]]), "^Input X contains NaN: got missing cells in a", ValueError),
        (sparse.csr_array([[np.inf, 1]]), "^Input X contains infinity", ValueError),
    ],
)
def test_bad_tables_are_refused(X, message, error):
    fail(X, message, error=error or ValueError)


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.ones(3), "^Expected 2D array, got 1D array instead"),
        (np.ones((1, 2, 3)), "^Found array with dim 3"),
        (np.ones((0, 3)), r"^Found array with 0 sample\(s\)"),
        (np.ones((2, 2)) + 1j, "^Complex data not supported"),
        (np.array([[np.inf, 1]]), "^Input X contains infinity: got it in column 0"),
        (np.array([[1, np.inf]]), "^Input X contains infinity"),
        (sparse.eye_array(3), r"^Got a sparse X .* with 1 columns of categories"),
    ],
)
def test_bad_arrays_are_refused_with_categories_too(X, message):
    fail(X, message, given=[0])


def test_a_category_that_cannot_be_told_from_others_is_refused():
    fail(pd.DataFrame({"a": [[1]]}), "Got values in column 'a' that cannot be", ["a"], TypeError)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["citi"], r"Got 'citi' in categorical_features, expected columns.* Did you mean 'city'\?"),
        ("city", r"Got categorical_features='city', expected .* Write .*=\['city'\]"),
        ([True], "Got categorical_features as a mask of 1 columns, expected .* the 4 columns of X"),
        ([4], "Got the index 4 in categorical_features, expected one from 0 to 3"),
        ([-1], "Got the index -1 in categorical_features"),
        ([1.5], "Got 1.5 in categorical_features, expected 'from_dtype', None, names"),
        (1, "Got categorical_features=1, expected 'from_dtype', None, names"),
    ],
)
def test_categorical_features_are_checked(given, message):
    fail(FRAMES["pandas"](), message, given=given)


def test_names_need_a_frame():
    fail(np.ones((2, 2)), "Got the name 'a' in categorical_features for an X without", ["a"])


def test_later_tables_are_checked_as_scikit_learn_does():
    estimator = Estimator()
    read(FRAMES["pandas"](), estimator=estimator)
    later = FRAMES["pandas"]()
    for X, message in {
        "order": (later[["city", "age", "gold", "rank"]], "must be in the same order"),
        "name": (later.rename(columns={"age": "years"}), "Feature names unseen at fit time"),
        "fewer": (later[["age", "city"]], "Feature names seen at fit time, yet now missing"),
    }.values():
        with pytest.raises(ValueError, match=message):
            read(X, estimator=estimator, reset=False)
    estimator = Estimator()
    read(NUMBERS, estimator=estimator)
    with pytest.raises(ValueError, match="X has 2 features, but Estimator is expecting 3 features"):
        read(NUMBERS[:, :2], estimator=estimator, reset=False)
    estimator = Estimator()
    read(ARRAYS["objects"](), [1], estimator=estimator)
    with pytest.raises(ValueError, match="X has 3 features, but Estimator is expecting 4 features"):
        read(ARRAYS["objects"]()[:, :3], estimator=estimator, reset=False)
