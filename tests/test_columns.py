"""Columns of numbers: scaled, clipped, filled and flagged, alike for weights and for sparse X."""

from __future__ import annotations

import copy
import pickle
import tracemalloc

import numpy as np
import pytest
from scipy import sparse
from sklearn.preprocessing import RobustScaler, StandardScaler

from sk_mtl.columns import Coded, Columns, Layout, RawTable, to_tensor
from sk_mtl.columns._numbers import LIMIT
from sk_mtl.columns._statistics import QUARTILES, summarise, summarise_sparse

NAN = np.nan
rng = np.random.default_rng(0)


def encode(X, dtype=np.float64, weight=None, at=None, **params):
    """Learn from X, and encode it or other rows."""
    columns = Columns(**params).fit(RawTable(X), weight)
    return columns.transform(RawTable(X if at is None else at), dtype)


def column(*cells):
    return np.array(cells, dtype=float)[:, None]


def clip(z):
    return z / np.sqrt(1 + (z / 3) ** 2)


def messy(n=101, p=6):
    """Heavy tails, ties, gaps, a constant, and many zeros."""
    X = np.random.default_rng(1).standard_t(2, size=(n, p))
    X[:, 1] = np.round(X[:, 1])
    X[:, 2][X[:, 2] < 1] = 0
    X[::5, 3] = NAN
    X[:, 4] = 7
    return X


# Worked by hand ------------------------------------------------------------------------------


def test_robust_scaling_worked_by_hand():
    # Of 0, 1, ..., 8 the quartiles are 2, 4 and 6: (x - 4) / 4 lies from -1 to 1.
    z = np.arange(-4, 5) / 4
    assert np.allclose(encode(np.arange(9.0)[:, None])[:, 0], z / np.sqrt(1 + z**2 / 9))


def test_where_the_quartiles_are_equal_half_the_range_counts():
    # Eight zeros and one 10: the interquartile range is 0, the range 10, so 10 becomes 2.
    z = encode(column(*[0] * 8, 10))[:, 0]
    assert np.allclose(z, [0] * 8 + [2 / np.sqrt(1 + 4 / 9)])


def test_standard_scaling_is_scikit_learns():
    X = messy()[:, [0, 1, 2]]
    assert np.allclose(encode(X, scaling="standard"), StandardScaler().fit_transform(X))


def test_robust_scaling_is_scikit_learns_and_clipped():
    X = messy(n=401)[:, [0]]  # with 4k + 1 rows all definitions of quartiles agree
    assert np.allclose(encode(X), clip(RobustScaler().fit_transform(X)))
    assert not np.allclose(encode(X), RobustScaler().fit_transform(X))


def test_gaps_get_the_median_and_a_flag():
    # Observed are 1, 2, 3 and 4: quartiles 1.5, 2.5 and 3.5.
    z = encode(column(1, 2, NAN, 3, 4))
    assert np.allclose(z[:, 0], clip(np.array([-0.75, -0.25, 0, 0.25, 0.75])))
    assert z[:, 1].tolist() == [0, 0, 1, 0, 0]


def test_without_scaling_gaps_get_the_median_in_the_users_units():
    X = column(1, 2, NAN, 30)
    assert encode(X, scaling=None).tolist() == [[1, 0], [2, 0], [2, 1], [30, 0]]


def test_without_scaling_later_gaps_are_filled_too():
    assert encode(column(1, 2, 30), at=column(NAN), scaling=None).tolist() == [[2]]


def test_with_standard_scaling_gaps_get_the_mean():
    assert encode(column(0, 0, NAN, 3), scaling="standard")[2].tolist() == [0, 1]


# Columns that say little ---------------------------------------------------------------------


@pytest.mark.parametrize("scaling", ["robust", "standard"])
@pytest.mark.parametrize("cells", [(7, 7, 7), (0.1, 0.1, 0.1), (1e308,) * 3, (5, NAN, 5)])
def test_a_constant_column_is_zeros_whatever_comes_later(scaling, cells):
    later = column(7, 1e308, -1e308, NAN)
    z = encode(column(*cells), at=later, scaling=scaling)
    assert z[:, 0].tolist() == [0, 0, 0, 0]


def test_a_column_without_a_value_is_zeros_without_a_flag():
    columns = Columns().fit(RawTable(np.column_stack([[NAN] * 4, [1, 2, 3, 4]])))
    assert columns.layout == Layout(2)
    later = columns.transform(RawTable(np.array([[5.0, 2.5], [NAN, 2.5]])))
    assert later.tolist() == [[0, 0], [0, 0]]


def test_a_column_may_be_missing_altogether_later_on():
    X = np.column_stack([column(1, 2, NAN, 4), column(5, 6, 7, 8)])
    z = encode(X, at=np.full((3, 2), NAN))
    assert z.tolist() == [[0, 0, 1]] * 3  # two medians, and the flag of the one that had gaps


def test_integers_of_few_values_stay_numbers():
    assert Columns().fit(RawTable(rng.integers(0, 3, (50, 2)) * 1.0)).layout == Layout(2)


# Tails ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("huge", [1e9, 1e25, 1e200, 1.7e308])
def test_any_finite_number_stays_between_the_bounds(dtype, huge):
    z = encode(column(*range(9)), dtype, at=column(huge, -huge))[:, 0]
    assert np.allclose(z, [3, -3])  # the naive z / sqrt(1 + z * z / 9) gives 0 for 1e200


@pytest.mark.parametrize("size", [1e-310, 1e-200, 1e200, 1.7e308])
@pytest.mark.parametrize("scaling", ["robust", "standard"])
def test_columns_of_any_size_are_scaled_alike(size, scaling):
    X = np.linspace(-1, 1, 9)[:, None]
    assert np.allclose(encode(X * size, scaling=scaling), encode(X, scaling=scaling), rtol=1e-6)


def test_a_range_that_overflows_does_not_make_a_column_constant():
    assert (np.abs(encode(column(-1.7e308, -1.7e308, 1.7e308, 1.7e308))) > 0.4).all()


def test_standard_scaling_is_cut_where_squares_could_overflow():
    assert encode(column(0, 1), at=column(1e300), scaling="standard").item() == LIMIT


def test_encoding_keeps_the_order_of_numbers():
    X = np.sort(messy()[:, [0]], axis=0)
    assert (np.diff(encode(X)[:, 0]) > 0).all()


# Quantiles and weights -----------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 50, 99])
def test_quartiles_are_numpys(n):
    X = np.round(rng.normal(size=(n, 4)), 1)
    expected = np.quantile(X, QUARTILES, axis=0, method="averaged_inverted_cdf")
    assert np.allclose(summarise(X, None).quartiles, expected)
    assert np.allclose(summarise_sparse(sparse.csr_array(X), None).quartiles, expected)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("scaling", ["robust", "standard", None])
@pytest.mark.parametrize("centred", [True, False])
def test_weight_2_is_the_row_twice_and_weight_0_no_row(seed, scaling, centred):
    X, random = messy(n=40), np.random.default_rng(seed)
    weight = random.integers(0, 4, len(X))
    X[weight == 0, 5] = NAN  # gaps that do not count give no flag
    repeated = Columns(scaling, centred=centred).fit(RawTable(np.repeat(X, weight, axis=0)))
    weighted = Columns(scaling, centred=centred).fit(RawTable(X), weight)
    assert weighted.layout == repeated.layout == Layout(6, 1)
    pair = [columns.transform(RawTable(X), np.float64) for columns in (weighted, repeated)]
    assert np.allclose(*pair, rtol=1e-12, atol=1e-14)
    ignored = Columns(scaling, centred=centred).fit(RawTable(X))
    if scaling == "standard":  # the control: rows that count alike give something else
        other = ignored.transform(RawTable(X), np.float64)[:, [0]]
        assert not np.allclose(pair[0][:, [0]], other)


@pytest.mark.parametrize("unit", [1e-9, 0.1, 1 / 3, 1e6])
def test_the_unit_of_weights_does_not_matter(unit):
    X, weight = messy(), rng.integers(0, 4, 101)
    assert np.allclose(encode(X, weight=weight * unit), encode(X, weight=weight), atol=1e-14)


def test_equal_weights_are_no_weights():
    assert np.array_equal(encode(messy(), weight=np.full(101, 0.3)), encode(messy()))


def test_rows_in_any_order_teach_the_same():
    X, order = messy(), rng.permutation(101)
    weight = rng.random(101)
    pair = [encode(X, at=X, weight=weight), encode(X[order], at=X, weight=weight[order])]
    assert np.allclose(*pair, rtol=1e-12)


# Sparse X ------------------------------------------------------------------------------------


def counts(n=60, p=30):
    """A table of mostly zeros, some columns full, one empty, one constant, one far from 0."""
    random = np.random.default_rng(2)
    X = random.poisson(0.3, size=(n, p)) * random.normal(1, 2, size=(n, p))
    X[:, :5] = np.round(random.normal(size=(n, 5)), 1)
    X[:, 5], X[:, 6], X[:, 7] = 0, 3, 1000 + random.normal(size=n)
    X[:20, 8] = 0
    X[20:, 8] = -random.random(n - 20)
    return X


@pytest.mark.parametrize("scaling", ["robust", "standard", None])
@pytest.mark.parametrize("weights", ["none", "whole", "any"])
def test_sparse_equals_dense_without_centres(scaling, weights):
    X = counts()
    weight = {"none": None, "whole": rng.integers(0, 3, 60), "any": rng.random(60)}[weights]
    encoded = encode(sparse.csr_array(X), weight=weight, scaling=scaling)
    assert sparse.issparse(encoded) and encoded.format == "csr"
    expected = encode(X, weight=weight, scaling=scaling, centred=False)
    assert np.allclose(encoded.toarray(), expected, rtol=1e-9, atol=1e-12)


def test_sparse_equals_dense_where_medians_are_0():
    X = counts()
    at_0 = np.median(X, axis=0) == 0
    pair = encode(sparse.csr_array(X)).toarray(), encode(X)
    assert 10 < at_0.sum() < 30
    assert np.allclose(pair[0][:, at_0], pair[1][:, at_0])
    assert not np.allclose(pair[0][:, ~at_0], pair[1][:, ~at_0])


def test_without_a_centre_a_column_far_from_0_keeps_its_differences():
    encoded = encode(counts(), centred=False)[:, 7]  # 1000 and a little
    assert 0.9 < encoded.min() < encoded.max() <= 1 / np.sqrt(1 + 1 / 9)
    assert clip(1000.0) > 2.99  # the control: divided by its range it would sit at the bound
    assert np.allclose(encode(counts(), centred=False, scaling="standard")[:, 7], 1, atol=0.01)


def test_what_is_stored_how_does_not_matter():
    X = counts()
    plain = sparse.csr_array(X)
    with_zeros = sparse.csr_array(np.where(X == 0, 5.0, X))
    with_zeros.data[(X == 0).ravel()] = 0
    coo = sparse.coo_array(plain)
    halves = sparse.csr_array(  # every cell in two parts, which csr keeps apart
        (np.repeat(plain.data / 2, 2), np.repeat(plain.indices, 2), plain.indptr * 2),
        shape=plain.shape,
    )
    before = halves.nnz
    expected = encode(plain).toarray()
    for table in (with_zeros, coo.tocsr(), halves, sparse.csr_matrix(X)):
        assert np.allclose(encode(table).toarray(), expected)
    assert halves.nnz == before, "the user's matrix was changed"


def test_fitted_sparse_and_applied_dense_and_the_other_way_round():
    X = counts()
    from_sparse = Columns().fit(RawTable(sparse.csr_array(X)))
    dense = from_sparse.transform(RawTable(X), np.float64)
    both = from_sparse.transform(RawTable(sparse.csr_array(X)), np.float64)
    assert np.allclose(dense, both.toarray())
    from_dense = Columns().fit(RawTable(X))
    densified = from_dense.transform(RawTable(sparse.csr_array(X)), np.float64)
    assert np.array_equal(densified, from_dense.transform(RawTable(X), np.float64))


def test_a_centre_would_make_sparse_tables_dense():
    with pytest.raises(ValueError, match="Got centred=True with a sparse X, expected 'auto'"):
        Columns(centred=True).fit(RawTable(sparse.csr_array(counts())))


# Types, memory, state ------------------------------------------------------------------------


@pytest.mark.parametrize("given", [np.float32, np.float64])
@pytest.mark.parametrize("asked", [np.float32, np.float64])
def test_the_type_is_what_was_asked_for(given, asked):
    X = messy().astype(given)
    encoded = encode(X, asked)
    assert encoded.dtype == asked and encoded.flags.c_contiguous
    assert np.allclose(encoded, encode(X.astype(np.float64)), atol=1e-5)
    assert encode(sparse.csr_array(counts().astype(given)), asked).dtype == asked


def test_rows_are_encoded_one_by_one_as_all_together():
    columns, X = Columns().fit(RawTable(messy())), messy()
    together = columns.transform(RawTable(X), np.float64)
    one_by_one = [columns.transform(RawTable(X[i : i + 1]), np.float64)[0] for i in range(len(X))]
    assert np.array_equal(together, one_by_one)


def test_what_needs_no_encoding_is_not_copied():
    X = rng.normal(size=(20, 3))
    assert encode(X, scaling=None) is X
    assert encode(X, np.float32, scaling=None) is not X


@pytest.mark.parametrize("scaling", ["robust", "standard", None])
def test_the_users_table_is_not_changed(scaling):
    X = messy()
    X.flags.writeable = False
    before = X.copy()
    encode(X, scaling=scaling)
    encode(X, scaling=scaling, weight=rng.integers(0, 2, 101))
    S = sparse.csr_array(counts())
    data = S.data.copy()
    S.data.flags.writeable = False
    encode(S, scaling=scaling)
    assert np.array_equal(X, before, equal_nan=True) and np.array_equal(S.data, data)


def test_encoding_takes_little_more_memory_than_its_result():
    X = rng.normal(size=(200_000, 20))
    columns = Columns().fit(RawTable(X))
    tracemalloc.start()
    encoded = columns.transform(RawTable(X), np.float32)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < encoded.nbytes + 8e6 < 2 * X.nbytes


def test_a_sparse_table_is_never_dense():
    S = sparse.random_array((5_000, 20_000), density=1e-4, format="csr", rng=1)
    tracemalloc.start()
    encode(S)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6  # dense: 800 MB


def test_columns_are_pickled_copied_and_printed():
    raw = RawTable(messy(), (Coded.of(np.arange(101) % 2, ["a", "b"]),), np.arange(7) == 0)
    columns = Columns().fit(raw)
    expected = columns.transform(raw)
    for other in (pickle.loads(pickle.dumps(columns)), copy.deepcopy(columns)):
        assert np.array_equal(other.transform(raw), expected)
        assert repr(other) == repr(columns)
    assert repr(columns).endswith("-> Layout(n_numbers=6, n_flags=1, cardinalities=(3,))")
    assert repr(Columns("standard")).startswith("Columns(scaling='standard', centred='auto'")
    assert repr(columns.numbers) == "Numbers(6 columns, scaling='robust': 1 constant, 1 with gaps)"
    assert repr(raw) == "RawTable(101 rows: float64 numbers in 6 columns, categories in 1)"
    assert to_tensor(expected).shape == (101, columns.layout.width)


def test_names_say_what_every_encoded_column_is():
    mask = np.array([False, True, False])
    names = np.array(["age", "city", "income"], dtype=object)
    X = np.array([[1.0, NAN], [2, 3], [3, 4]])
    raw = RawTable(X, (Coded.of(np.zeros(3), ["Rome"]),), mask, names)
    columns = Columns().fit(raw)
    assert columns.names == ["age", "income", "income_missing", "city"]
    assert len(columns.names) == columns.layout.width
    assert Columns().fit(RawTable(X)).names == ["x0", "x1", "x1_missing"]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"scaling": "minmax"}, "Got scaling='minmax', expected 'robust', 'standard' or None"),
        ({"centred": "no"}, "Got centred='no', expected True, False or 'auto'"),
        ({"min_frequency": -1}, "Got min_frequency=-1, expected a number of rows, at least 0"),
        ({"max_categories": 0}, "Got max_categories=0, expected a whole number from 1 on"),
    ],
)
def test_parameters_are_checked(params, message):
    with pytest.raises(ValueError, match=message):
        Columns(**params).fit(RawTable(messy()))


@pytest.mark.parametrize("weight", [[1, 1], [-1] + [1] * 100, [0] * 101, [NAN] * 101])
def test_weights_are_checked(weight):
    with pytest.raises(ValueError, match=r"Got weights of shape .*, expected one a row"):
        Columns().fit(RawTable(messy()), np.array(weight))


def test_a_table_of_other_columns_is_refused():
    with pytest.raises(ValueError, match="expected 6 columns of numbers and 0 of categories"):
        Columns().fit(RawTable(messy())).transform(RawTable(messy()[:, :4]))
