"""Categories as codes: what is rare, unseen or missing, alike in any order and under weights."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.preprocessing import OrdinalEncoder

from sk_mtl.columns import Coded, Columns, RawTable
from sk_mtl.columns._frames import code

rng = np.random.default_rng(0)


def table(*columns):
    """Return a table of categories only."""
    coded = tuple(code(np.array(column, dtype=object)) for column in columns)
    n = len(coded[0])
    return RawTable(np.empty((n, 0)), coded, np.ones(len(coded), dtype=bool))


def learn(cells, weight=None, **params):
    return Columns(**params).fit(table(cells), weight)


def encode(columns, cells):
    return columns.transform(table(cells))[:, 0].tolist()


CITIES = ["Rome"] * 4 + ["Oslo"] * 3 + ["Bonn"] * 2 + ["Lima"] + [None]


def test_codes_worked_by_hand():
    columns = learn(CITIES)
    assert columns.categories[0].code_names == ["(missing)", "(infrequent)", "Oslo", "Rome"]
    assert columns.layout.cardinalities == (4,)
    assert encode(columns, CITIES) == [3] * 4 + [2] * 3 + [1] * 3 + [0]


def test_unseen_values_are_infrequent_where_there_is_such_a_code():
    assert encode(learn(CITIES), ["Paris", "Lima", "Rome", None]) == [1, 1, 3, 0]


def test_unseen_values_are_missing_where_there_is_no_such_code():
    columns = learn(["a"] * 3 + ["b"] * 3)
    assert columns.categories[0].code_names == ["(missing)", "a", "b"]
    assert encode(columns, ["c", "a", None]) == [0, 1, 0]


def test_every_kind_of_missing_is_one():
    cells = [None, float("nan"), np.nan, pd.NA, pd.NaT, np.datetime64("NaT"), "a"]
    assert encode(learn(["a"] * 3), cells) == [0] * 6 + [1]


def test_a_column_may_be_missing_altogether():
    assert encode(learn(["a"] * 3 + ["b"] * 3), [None, None]) == [0, 0]
    columns = learn([None, None, None])
    assert columns.layout.cardinalities == (1,)
    assert encode(columns, ["a", None]) == [0, 0]


@pytest.mark.parametrize("min_frequency", [1, 5, 20])
@pytest.mark.parametrize("max_categories", [3, 1024])
def test_codes_tell_apart_what_scikit_learns_encoder_does(min_frequency, max_categories):
    cells = rng.choice(list("abcdefghij"), 200, p=np.arange(1, 11) / 55).astype(object)
    columns = learn(cells, min_frequency=min_frequency, max_categories=max_categories)
    pooled = columns.categories[0].n_infrequent
    reference = OrdinalEncoder(
        min_frequency=min_frequency, max_categories=min(max_categories, 10 - pooled) + (pooled > 0)
    )
    theirs = reference.fit_transform(cells[:, None])[:, 0]  # the infrequent ones come last
    ours = np.array(encode(columns, cells))
    pairs = set(zip(ours, theirs, strict=True))
    assert len(pairs) == len(set(ours)) == len(set(theirs))
    assert columns.categories[0].cardinality == 1 + len(set(theirs))


def test_the_most_frequent_are_kept_and_in_doubt_the_first():
    columns = learn(list("ccccbbbbaaaadd"), max_categories=2, min_frequency=1)
    assert columns.categories[0].kept == ["a", "b"]
    assert columns.categories[0].n_infrequent == 2
    columns = learn(list("ccccbbbbbaaaadd"), max_categories=2, min_frequency=1)
    assert columns.categories[0].kept == ["a", "b"]
    assert learn(list("cccbbaa"), max_categories=1).categories[0].kept == ["c"]


def test_codes_do_not_depend_on_the_rows_order():
    cells = rng.choice(["b", "a", "c", None, 3, 20], 100)
    columns, other = learn(cells), learn(cells[::-1])
    assert columns.categories[0].kept == other.categories[0].kept == [3, 20, "a", "b", "c"]
    assert encode(columns, cells) == encode(other, cells)


def test_numbers_are_sorted_as_numbers_and_equal_ones_are_one():
    columns = learn([np.int64(10), 9, np.float32(100)] * 3)
    assert columns.categories[0].kept == [9, 10, 100]
    assert encode(columns, [9.0, np.int8(9), np.float32(9), "9"]) == [1, 1, 1, 0]


def test_values_of_any_type_can_be_categories():
    days = [pd.Timestamp("2020-01-02"), pd.Timestamp("2020-01-01")] * 3 + [("a", 1), ("a", "b")] * 3
    assert learn(days).layout.cardinalities == (5,)


@pytest.mark.parametrize("seed", range(5))
def test_weight_2_is_the_row_twice_and_weight_0_no_row(seed):
    random = np.random.default_rng(seed)
    cells = random.choice(["a", "b", "c", "d", "e", None], 20)
    weight = random.integers(0, 4, 20)
    weighted, repeated = learn(cells, weight), learn(np.repeat(cells, weight))
    assert repr(weighted.categories) == repr(repeated.categories)


def test_weights_count():
    cells = ["a"] * 3 + ["b"] * 3  # the control of the test above
    assert learn(cells, np.array([1, 1, 1, 1, 1, 0])).categories[0].kept == ["a"]


@pytest.mark.parametrize("unit", [1e-6, 0.3, 12.5])
def test_weights_that_are_not_whole_are_scaled_to_a_mean_of_1(unit):
    weight = np.full(11, unit)
    assert repr(learn(CITIES, weight).categories) == repr(learn(CITIES).categories)


def test_a_value_met_only_in_rows_of_weight_0_is_unseen():
    columns = learn(["a"] * 3 + ["b"] * 3, np.array([1, 1, 1, 0, 0, 0]))
    assert columns.categories[0].code_names == ["(missing)", "a"]
    assert encode(columns, ["b"]) == [0]


def test_a_column_of_names_that_all_differ_is_warned_of():
    with pytest.warns(UserWarning, match=r"Got 1 column \(\['x0'\]\) in which no category occurs"):
        columns = learn([f"row {i}" for i in range(20)])
    assert columns.categories[0].code_names == ["(missing)", "(infrequent)"]
    assert repr(columns.categories[0]) == "Categories([], n_infrequent=20)"


def test_codes_stand_behind_numbers_and_flags():
    X = np.array([[1.0, np.nan], [2, 3], [3, 4]])
    coded = (Coded.of([0, 0, 0], ["a"]), Coded.of([1, 0, -1], ["a", "b"]))
    mask = np.array([True, False, True, False])
    columns = Columns(min_frequency=1).fit(RawTable(X, coded, mask))
    layout = columns.layout
    encoded = columns.transform(RawTable(X, coded, mask))
    assert layout.cardinalities == (2, 3)
    assert encoded.shape == (3, layout.width) and encoded.dtype == np.float32
    assert encoded[:, layout.flags].tolist() == [[1], [0], [0]]
    assert encoded[:, layout.codes].tolist() == [[1, 2], [1, 1], [1, 0]]
    assert columns.names == ["x1", "x3", "x3_missing", "x0", "x2"]


def test_codes_of_a_hundred_thousand_categories_are_exact_in_float32():
    cells = np.arange(100_000).astype(str)
    columns = learn(cells, min_frequency=1, max_categories=100_000)
    assert len(set(encode(columns, cells))) == 100_000


def test_rows_are_taken_with_their_codes():
    raw = table(["a", "b", None, "a"], [1, 2, 3, None])
    part = raw.take(np.array([2, 0]))
    assert len(part) == 2
    assert [column.decoded().tolist() for column in part.categories] == [[None, "a"], [3, 1]]
    assert [column.decoded().tolist() for column in raw.take(np.arange(4) == 3).categories] == [
        ["a"],
        [None],
    ]
