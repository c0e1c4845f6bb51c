"""Piecewise-linear encoding: equation 1, and where bins begin and end."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.tree import DecisionTreeRegressor
from torch.testing import assert_close

from sk_mtl import MultiTaskRegressor
from sk_mtl.columns import Layout
from sk_mtl.embeddings import PiecewiseLinear, Prepared
from sk_mtl.estimators._ensemble import plan_networks
from sk_mtl.layers import Draws


@pytest.fixture(autouse=True)
def _few_rows(request, monkeypatch):
    """Small tables serve to check everything but the rule of how many rows a bin asks for."""
    if "rows_a_bin" not in request.node.name:
        monkeypatch.setattr("sk_mtl.embeddings._piecewise_linear.ROWS_A_BIN", 1)


@pytest.mark.parametrize(
    ("n_rows", "n_bins"), [(30, 3), (99, 3), (100, 4), (399, 15), (400, 16), (900, 16)]
)
def test_rows_a_bin_limit_how_many_there_are(n_rows, n_bins):
    X = np.random.default_rng(0).normal(size=(n_rows, 2))
    assert prepare(X).form == (n_bins, n_bins)
    twice = prepare(X, weight=np.full(n_rows, 2.0)).form  # whole weights are repetitions
    assert twice == prepare(np.repeat(X, 2, axis=0)).form
    assert prepare(X, weight=np.full(n_rows, 1e-3)).form == (n_bins, n_bins)


def draws(n=None, dtype=torch.float64):
    return Draws(range(n or 1), () if n is None else (n,), dtype)


def prepare(X, weight=None, y=None, **params):
    return PiecewiseLinear(**params).prepare(X, Layout(X.shape[1]), weight, y)


def encoder(X, **params):
    """The module of a table, fitted on it alone."""
    return build([prepare(X, **params)])


def build(prepared, n=None, dtype=torch.float64, keep_numbers=True):
    layout, recipe = Layout(len(prepared[0].form)), PiecewiseLinear(keep_numbers=keep_numbers)
    return recipe.build(prepared, layout, draws(n, dtype), None)


def encode(X, rows=None, keep_numbers=False, **params):
    """What becomes of rows: bins alone, unless numbers are kept beside them."""
    module = build([prepare(X, **params)], keep_numbers=keep_numbers)
    return module(torch.from_numpy(X if rows is None else rows)).numpy()


def cell(x, edges):
    """Equation 1 of Gorishniy et al. 2022, whose outer bins end a width beyond the edges."""
    n_bins, out = len(edges) - 1, []
    for t in range(1, n_bins + 1):
        low, high = edges[t - 1], edges[t]
        if x < low and t > 1:
            out.append(0.0)
        elif x >= high and t < n_bins:
            out.append(1.0)
        else:
            through = (x - low) / (high - low)
            out.append(through if n_bins == 1 else min(max(through, -1.0), 2.0))
    return out


def edges_of(prepared):
    """The edges of every column, from what was prepared."""
    edges, start = [], 0
    for n in prepared.form:
        left = prepared.arrays["left"][start : start + n]
        slope = prepared.arrays["slope"][start : start + n]
        edges.append(np.append(left, left[-1] + 1 / slope[-1]))
        start += n
    return edges


def mixed_table(n_rows=200, seed=0):
    """A continuous column, small integers, two values, a constant, and one that is mostly zero."""
    rng = np.random.default_rng(seed)
    mostly_zero = np.where(rng.random(n_rows) < 0.9, 0.0, rng.exponential(size=n_rows))
    small, two = np.arange(n_rows) % 5, np.arange(n_rows) % 2
    return np.column_stack(
        [rng.normal(size=n_rows), small, 3.0 * two, np.full(n_rows, 2.0), mostly_zero]
    )


# Equation 1 ---------------------------------------------------------------------------------


def test_a_hand_worked_case():
    """Five rows, two bins: edges 0, 2, 10 (two of the four steps between rows in each)."""
    X = np.array([[0.0], [1.0], [2.0], [6.0], [10.0]])
    assert_array_equal(edges_of(prepare(X, n_bins=2))[0], [0, 2, 10])
    rows = np.array([[-1.0], [0.0], [1.0], [2.0], [6.0], [12.0]])
    expected = [[-0.5, 0], [0, 0], [0.5, 0], [1, 0], [1, 0.5], [1, 1.25]]
    assert_array_equal(encode(X, rows, n_bins=2), expected)


@pytest.mark.parametrize("n_bins", [1, 2, 7, 16])
def test_every_cell_is_equation_1(n_bins):
    X = mixed_table()[:, [0, 1, 2, 4]]
    rows = np.concatenate([X, 2 * X - 1])  # inside and outside of the edges
    # with one bin only, columns enter as they are; two values have one bin anyway
    if n_bins == 1:
        assert_allclose(encode(X, rows, n_bins=1), rows / [1, 1, 3, 1], atol=1e-12)
        return
    edges = edges_of(prepare(X, n_bins=n_bins))
    expected = [[v for x, e in zip(row, edges, strict=True) for v in cell(x, e)] for row in rows]
    assert_allclose(encode(X, rows, n_bins=n_bins), expected, rtol=0, atol=1e-10)
    # Negative control: edges of other bins give something else.
    edges[0] = edges[0] + 0.1
    shifted = [[v for x, e in zip(row, edges, strict=True) for v in cell(x, e)] for row in rows]
    assert np.abs(encode(X, rows, n_bins=n_bins) - shifted).max() > 0.01


def test_outer_bins_go_on_for_their_width_and_the_others_stop():
    X = np.linspace(0, 1, 33)[:, None]
    below, low, high, above = encode(X, np.array([[-10.0], [-0.2], [1.2], [11.0]]), n_bins=4)
    assert_allclose(low, [-0.8, 0, 0, 0], atol=1e-12)
    assert_allclose(high, [1, 1, 1, 1.8], atol=1e-12)
    assert_array_equal(below, [-1, 0, 0, 0])
    assert_array_equal(above, [1, 1, 1, 2])


def test_the_only_bin_of_a_column_goes_on_without_end():
    two = np.array([[0.0], [3.0], [3.0]])
    assert_allclose(encode(two, np.array([[-300.0], [600.0]]), n_bins=4), [[-100.0], [200.0]])


@pytest.mark.parametrize("n_bins", [2, 7])
def test_numbers_stand_after_the_bins_of_all_columns(n_bins):
    """Of columns of several bins, and with no end; others are as they are anyway."""
    X = mixed_table()
    rows = np.concatenate([X, 100 * X - 1])
    with_numbers = encode(X, rows, n_bins=n_bins, keep_numbers=True)
    bins = encode(X, rows, n_bins=n_bins)
    assert_array_equal(with_numbers[:, : bins.shape[1]], bins)
    assert_array_equal(with_numbers[:, bins.shape[1] :], rows[:, [0, 1, 4]])
    assert PiecewiseLinear().keep_numbers
    # where there is no room for bins, nothing is there twice
    assert_array_equal(encode(X, n_bins=1, keep_numbers=True), encode(X, n_bins=1))


def test_kept_numbers_of_a_hand_worked_case():
    X = np.array([[0.0], [1.0], [2.0], [6.0], [10.0]])
    rows = np.array([[-1.0], [1.0], [6.0], [30.0]])
    expected = [[-0.5, 0, -1], [0.5, 0, 1], [1, 0.5, 6], [1, 2, 30]]
    assert_array_equal(encode(X, rows, n_bins=2, keep_numbers=True), expected)


# Where bins end -----------------------------------------------------------------------------


@pytest.mark.parametrize("n_bins", [3, 8, 16])
@pytest.mark.parametrize("n_rows", [50, 129, 1000])
def test_edges_are_quantiles(n_rows, n_bins):
    x = np.random.default_rng(n_rows).lognormal(size=n_rows)
    expected = np.quantile(x, np.linspace(0, 1, n_bins + 1), method="higher")
    assert_allclose(edges_of(prepare(x[:, None], n_bins=n_bins))[0], expected, rtol=1e-9)


def test_few_values_have_a_bin_between_neighbours():
    X = np.repeat([-1.0, 0.0, 5.0, 7.0], [1, 50, 3, 1])[:, None]
    assert_allclose(edges_of(prepare(X))[0], [-1, 0, 5, 7])
    assert_array_equal(np.unique(encode(X)), [0, 1])


def test_two_values_are_one_01_column_and_a_constant_says_nothing():
    X = mixed_table()[:, [2, 3]]
    assert prepare(X).form == (1, 1)
    assert_array_equal(encode(X), np.column_stack([X[:, 0] / 3, np.zeros(len(X))]))
    assert_array_equal(encode(X, np.array([[1.5, 99.0]])), [[0.5, 0.0]])


def test_a_frequent_value_takes_one_edge_and_leaves_the_others_to_the_rest():
    """Plain quantiles fall together there."""
    x = mixed_table(1000)[:, 4]
    (edges,) = edges_of(prepare(x[:, None], n_bins=10))
    assert len(edges) == 11 and (np.diff(edges) > 0).all()
    inner = np.histogram(x, edges[1:])[0]  # what is above the frequent value
    assert inner.max() - inner.min() <= 2
    assert len(np.unique(np.quantile(x, np.linspace(0, 1, 11)))) < 4


def test_values_that_differ_by_rounding_are_one():
    X = np.array([[0.1 + 0.2], [0.3], [1.0], [1.0 - 1e-16], [2.0]])
    (edges,) = edges_of(prepare(X))
    assert_allclose(edges, [0.3, 1, 2])


def test_the_number_of_bins_does_not_change_from_fold_to_fold():
    """So that folds train as one stack."""
    X = mixed_table(300)
    folds = [np.delete(X, np.arange(i, 300, 10), axis=0) for i in range(10)]
    assert len({prepare(fold).form for fold in folds}) == 1
    assert not np.array_equal(*(prepare(fold).arrays["left"] for fold in folds[:2]))


@pytest.mark.parametrize(
    ("max_features", "n_bins"), [(1000, 16), (48, 16), (47, 15), (10, 3), (6, 2), (5, 1), (1, 1)]
)
def test_the_width_is_bounded(max_features, n_bins):
    X = np.random.default_rng(0).normal(size=(100, 4))
    X[:, 3] = X[:, 3] > 0  # no column that bins are needed for
    prepared = prepare(X, max_features=max_features)
    assert prepared.form == (n_bins, n_bins, n_bins, 1)
    if n_bins == 1:  # as they are
        assert_array_equal(build([prepared])(torch.from_numpy(X)), X)


@pytest.mark.parametrize("bins", ["quantile", "target"])
def test_a_row_of_weight_2_is_a_row_twice_and_of_weight_0_none(bins):
    X, rng = mixed_table(120), np.random.default_rng(1)
    y = np.column_stack([X[:, 0] ** 2, X[:, 1] > 2])
    y[rng.random(y.shape) < 0.2] = np.nan
    for top in (2, 3, 5):
        weight = rng.integers(0, top, len(X)).astype(float)
        times = weight.astype(int)
        weighted = prepare(X, weight, y, bins=bins)
        repeated = prepare(X.repeat(times, axis=0), None, y.repeat(times, axis=0), bins=bins)
        assert repeated.form == weighted.form
        for name, array in repeated.arrays.items():
            assert_array_equal(array, weighted.arrays[name])
    # Negative control: weights matter.
    assert not prepare(X, None, y, bins=bins).equals(weighted)


def test_the_scale_of_weights_does_not_matter():
    X, weight = mixed_table(120), np.random.default_rng(1).integers(0, 3, 120) / 1.0
    for scale in (1 / 3, 0.7, 1e-8):
        assert prepare(X, weight).equals(prepare(X, scale * weight))
        even = np.random.default_rng(2).random((161, 1))  # ten steps a bin, as sums of weights
        assert prepare(even).equals(prepare(even, np.full(161, scale)))


@pytest.mark.parametrize("bins", ["quantile", "target"])
def test_a_sparse_table_has_the_bins_of_a_dense_one(bins):
    X = mixed_table(150)
    X[:, 0] = np.where(np.arange(150) % 3 == 0, 0.0, X[:, 0])
    y = X[:, [0]] ** 2
    for weight in (None, np.random.default_rng(0).integers(0, 3, 150).astype(float)):
        of_sparse = prepare(sparse.csr_array(X), weight, y, bins=bins)
        assert of_sparse.equals(prepare(X, weight, y, bins=bins))
    assert not of_sparse.equals(prepare(X, None, y, bins=bins))  # negative control


# Bins from targets --------------------------------------------------------------------------


def test_target_bins_end_where_a_tree_splits():
    rng = np.random.default_rng(0)
    x = rng.random(400)
    y = np.digitize(x, [0.3, 0.5, 0.9]).astype(float)[:, None]
    (edges,) = edges_of(prepare(x[:, None], None, y, bins="target", n_bins=4))
    assert_allclose(edges[1:-1], [0.3, 0.5, 0.9], atol=0.02)
    tree = DecisionTreeRegressor(max_leaf_nodes=4).fit(x[:, None], y).tree_
    assert_allclose(edges[1:-1], np.sort(tree.threshold[tree.children_left >= 0]), rtol=1e-9)
    (quantiles,) = edges_of(prepare(x[:, None], n_bins=4))
    assert np.abs(quantiles - edges).max() > 0.05


def test_target_bins_see_every_target_and_no_missing_label():
    x = np.linspace(0, 1, 401)
    y = np.column_stack([x > 0.3, 1000.0 * (x > 0.8)]).astype(float)
    hidden = y.copy()
    hidden[::2, 0] = np.nan
    for targets in (y, hidden):
        (edges,) = edges_of(prepare(x[:, None], None, targets, bins="target", n_bins=3))
        assert_allclose(edges, [0, 0.3, 0.8, 1], atol=0.01)


def test_target_bins_weigh_targets_alike_and_a_missing_label_as_nothing():
    x = np.linspace(0, 1, 401)
    two_agree = np.column_stack([x > 0.3, x > 0.3, 1000.0 * (x > 0.6)]).astype(float)
    half_known = 100.0 + np.where(x > 0.6, np.nan, x > 0.3)[:, None]
    for y in (two_agree, half_known):
        (edges,) = edges_of(prepare(x[:, None], None, y, bins="target", n_bins=2))
        assert_allclose(edges, [0, 0.3, 1], atol=0.01)


def test_target_bins_need_targets():
    with pytest.raises(ValueError, match=r"Got no targets, expected them for bins='target'"):
        prepare(mixed_table(), bins="target")


# The module ---------------------------------------------------------------------------------


@pytest.mark.parametrize("shared_rows", [True, False])
def test_a_stack_encodes_as_its_networks_do_alone(shared_rows):
    tables = [mixed_table(seed=i) for i in range(3)]
    prepared = [prepare(X) for X in tables]
    stack = build(prepared, 3)
    assert stack.left.shape == (3, 1, stack.n_outputs)
    rows = torch.from_numpy(tables[0] if shared_rows else np.stack(tables))
    together = stack(rows)
    for i, p in enumerate(prepared):
        alone = build([p])(rows if shared_rows else rows[i])
        assert_close(together[i], alone, rtol=0, atol=1e-12)
    assert (together[0] - together[1]).abs().max() > 0.1


def test_networks_with_the_same_edges_share_them():
    X = mixed_table()
    prepared = prepare(X)
    for same in ([prepared] * 3, [prepare(X) for _ in range(3)]):
        stack = build(same, 3)
        assert stack.left.shape == (1, stack.n_outputs)
        rows = torch.from_numpy(X)
        assert stack(rows).dim() == 2  # nor are shared rows encoded three times
        assert torch.equal(stack(rows.expand(3, -1, -1)), stack(rows).expand(3, -1, -1))


def test_networks_of_different_forms_do_not_stack():
    one, other = Prepared((2,), {}), Prepared((3,), {})
    with pytest.raises(ValueError, match=r"Got prepared tables of different forms for one stack"):
        build([one, other], 2)
    with pytest.raises(ValueError, match=r"Got 1 prepared tables for a stack of 2 networks"):
        build([one], 2)


def test_float32_finds_the_same_bins_and_encodes_as_closely_as_it_can():
    X = mixed_table().astype(np.float32)
    X[:, 0] += 1000  # bins that are narrow beside the values
    narrow = build([prepare(X)], dtype=torch.float32)(torch.from_numpy(X))
    wide = build([prepare(X)])(torch.from_numpy(X).double())
    assert narrow.dtype == torch.float32 and wide.dtype == torch.float64
    assert_close(narrow.double(), wide, rtol=0, atol=1e-6)


def test_gradients_reach_the_table():
    module = encoder(mixed_table())
    x = torch.from_numpy(mixed_table(6, seed=9) + 0.01).requires_grad_()
    assert torch.autograd.gradcheck(module, (x,))


def test_the_table_is_not_written_to():
    X = mixed_table()
    before = X.copy()
    encode(X)
    assert_array_equal(X, before)


def test_bins_by_targets_never_see_the_labels_that_a_member_holds_out(monkeypatch):
    seen = []
    original = PiecewiseLinear.prepare

    def watched(self, X, layout, weight=None, y=None):
        seen.append(None if y is None else y[:, 0].copy())
        return original(self, X, layout, weight, y)

    monkeypatch.setattr(PiecewiseLinear, "prepare", watched)
    random = np.random.default_rng(0)
    X = random.normal(size=(200, 2))
    y = np.arange(200.0)  # a label tells its row
    model = MultiTaskRegressor(
        embedding=PiecewiseLinear(n_bins=4, bins="target"), n_members=5, max_iter=1, random_state=0
    )
    networks = plan_networks(model._session(X, y))
    assert len(seen) == 5
    for labels, (_, plan) in zip(seen, networks, strict=True):
        held = plan.valid.y[:, 0].numpy()
        assert len(labels) == 160 and not set(labels.tolist()) & set(held.tolist())
    seen.clear()
    plan_networks(model.set_params(embedding="piecewise_linear")._session(X, y))
    assert seen == [None]  # the control: quantiles see no label, once for all members
