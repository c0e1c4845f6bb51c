"""Intervals and sets hold the labels as often as they say, task by task."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from sk_mtl import MultiTaskClassifier, MultiTaskEstimator, MultiTaskRegressor
from sk_mtl.estimators._ensemble import plan_networks
from sk_mtl.estimators._folds import deal
from sk_mtl.estimators._out_of_fold import Scores
from sk_mtl.views import TaskView

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

QUICK = {
    "n_members": 1,
    "scaling": None,
    "embedding": None,
    "input_scale_rate": 0.0,
    "linear_path": False,
    "hidden_layer_sizes": (),
    "dropout": 0.0,
    "ema_decay": 0.0,
    "learning_rate_init": 0.05,
    "max_iter": 30,
    "random_state": 0,
}


def amounts(n_rows, seed=0, n_tasks=2):
    """Amounts of noise 1, 2, ...; the first task lacks a third of its labels."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_rows, 3))
    Y = X[:, :1] + rng.normal(size=(n_rows, n_tasks)) * np.arange(1, n_tasks + 1)
    Y[rng.random(n_rows) < 1 / 3, 0] = np.nan
    return X, Y


def mixed_table(n_rows, seed=0):
    """Three classes as strings, two as numbers with gaps, an amount."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_rows, 3))
    noise = rng.normal(size=(n_rows, 3))
    size = np.array(["s", "m", "xl"])[np.digitize(X[:, 0] + noise[:, 0], [-0.5, 0.5])]
    buys = (X[:, 1] + noise[:, 1] > 0).astype(float)
    buys[rng.random(n_rows) < 0.25] = np.nan
    return X, pd.DataFrame({"size": size, "buys": buys, "wage": X[:, 2] + noise[:, 2]})


def quick(kind, **parameters):
    return kind(**{**QUICK, **parameters})


def mixed(**parameters):
    tasks = ["classification", "classification", "regression"]
    return quick(MultiTaskEstimator, **{"tasks": tasks, **parameters})


def share_inside(interval, Y):
    (lower, upper), known = interval, ~np.isnan(Y)
    return ((lower <= Y) & (upper >= Y) & known).sum(axis=0) / known.sum(axis=0)


def conformal_quantile(values, weight, coverage):
    return Scores.of(values, weight).quantile(coverage)


# The quantile ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "coverage", "rank"),
    [
        (9, 0.9, 9),  # 0.9 * 10 = 9
        (10, 0.9, 10),  # 0.9 * 11 = 9.9
        (19, 0.9, 18),  # 0.9 * 20 = 18
        (9, 0.8, 8),
        (99, 0.99, 99),
        (1, 0.5, 1),
    ],
)
def test_the_quantile_has_the_rank_of_one_more_row(n, coverage, rank):
    values = np.random.default_rng(0).permutation(np.arange(1.0, n + 1))
    assert conformal_quantile(values, None, coverage) == rank
    assert conformal_quantile(values, np.full(n, 0.3), coverage) == rank


@pytest.mark.parametrize("n", [0, 1, 8])
def test_too_few_values_tell_nothing(n):
    assert conformal_quantile(np.ones(n), None, 0.9) == np.inf


def test_weights_count_as_shares_of_the_whole():
    values, weight = np.array([3.0, 1.0, 2.0, 4.0]), np.array([1.0, 4.0, 0.0, 3.0])
    # Weights up to 1, 2, 3, 4: 4, 4, 5, 8; the new row weighs 2, so all weigh 10.
    found = [conformal_quantile(values, weight, c) for c in (0.3, 0.4, 0.5, 0.6, 0.8, 0.81)]
    assert found == [1.0, 1.0, 3.0, 4.0, 4.0, np.inf]


def test_a_new_value_lies_below_the_quantile_as_often_as_asked_for():
    """On average over both: exactly ceil(0.8 * 13) / 13 = 11 / 13 for twelve values."""
    rng = np.random.default_rng(0)
    draws = rng.exponential(size=(2000, 13))
    inside = [
        new <= conformal_quantile(values, None, 0.8)
        for values, new in zip(draws[:, :12], draws[:, 12], strict=True)
    ]
    assert np.mean(inside) == pytest.approx(11 / 13, abs=0.03)
    plain = [
        new <= np.quantile(values, 0.8)
        for values, new in zip(draws[:, :12], draws[:, 12], strict=True)
    ]
    assert np.mean(plain) < 0.8  # the negative control: without the new row it falls short


# Intervals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_members", [1, 3])
def test_with_a_validation_set_intervals_reach_as_far_as_its_errors(n_members):
    (X, Y), (X_val, Y_val) = amounts(100), amounts(60, seed=1)
    model = quick(MultiTaskRegressor, n_members=n_members).fit(X, Y, X_val=X_val, y_val=Y_val)
    lower, upper = model.predict_interval(X, coverage=0.8)
    errors = np.abs(model.predict(X_val) - Y_val)
    for t in (0, 1):
        known = np.sort(errors[~np.isnan(errors[:, t]), t])
        margin = known[int(np.ceil(0.8 * (len(known) + 1))) - 1]
        assert_allclose(upper[:, t] - model.predict(X)[:, t], margin)
        assert_allclose(model.predict(X)[:, t] - lower[:, t], margin)


def test_members_in_turn_judge_the_rows_that_they_did_not_see():
    """Each by its own error."""
    X, Y = amounts(60)
    y = Y[:, 1]
    model = quick(MultiTaskRegressor, n_members=5, dtype="float64").fit(X, y)
    encoded, expected = ((y - y.mean()) / y.std())[:, None], []
    by_member = np.array([member.predict(X) for member in model.estimators_])
    for m in range(5):
        rows = deal(np.arange(60), encoded, 5, model._seeds[3])[:, m]
        expected.append(np.abs(by_member[m, rows] - y[rows]))
    found = model._out_of_fold[0].values * y.std()
    assert len(found) == 60
    assert_allclose(np.sort(found), np.sort(np.concatenate(expected)), atol=1e-9)
    of_all = np.sort(np.abs(by_member.mean(axis=0) - y))
    assert found.mean() > 1.01 * of_all.mean(), "negative control"


@pytest.mark.parametrize("settings", [{"n_members": 5}, {"validation_fraction": 0.3}])
def test_intervals_cover_as_much_as_asked_for(settings):
    X_new, Y_new = amounts(2000, seed=99)
    found = []
    for seed in range(20):
        X, Y = amounts(150, seed=seed)
        model = quick(MultiTaskRegressor, early_stopping=True, **settings).fit(X, Y)
        found.append(share_inside(model.predict_interval(X_new, coverage=0.8), Y_new))
    assert np.mean(found, axis=0) == pytest.approx([0.8, 0.8], abs=0.04)


def test_coverage_is_over_all_rows_not_row_by_row():
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, size=(2400, 1))
    y = X[:, 0] + rng.normal(size=2400) * np.where(X[:, 0] > 0, 2.0, 0.2)
    model = quick(MultiTaskRegressor, early_stopping=True, n_members=5).fit(X[:800], y[:800])
    lower, upper = model.predict_interval(X[800:], coverage=0.8)
    inside, noisy = (lower <= y[800:]) & (y[800:] <= upper), X[800:, 0] > 0
    assert inside.mean() == pytest.approx(0.8, abs=0.05)
    assert inside[noisy].mean() < 0.7
    assert inside[~noisy].mean() > 0.9


def test_intervals_look_like_predictions():
    X, Y = mixed_table(120)
    model = mixed(early_stopping=True).fit(X.astype(np.float32), Y)
    lower, upper = model.predict_interval(X[:7].astype(np.float32), coverage=0.5)
    assert lower.shape == upper.shape == (7, 3)
    assert lower.dtype == upper.dtype == np.float32
    assert np.isnan(lower[:, :2]).all()
    assert np.isnan(upper[:, :2]).all()
    assert (lower[:, 2] < upper[:, 2]).all()
    one = quick(MultiTaskRegressor, early_stopping=True).fit(X, Y["wage"])
    lower, upper = one.predict_interval(X[:7], coverage=0.5)
    assert lower.shape == upper.shape == (7,)
    assert_allclose((lower + upper) / 2, one.predict(X[:7]))


def test_intervals_are_in_the_units_of_the_labels():
    X, Y = amounts(90)
    settings = {"early_stopping": True, "n_members": 5}
    metres = quick(MultiTaskRegressor, **settings).fit(X, Y).predict_interval(X)
    cm = quick(MultiTaskRegressor, **settings).fit(X, 100 * Y + 7).predict_interval(X)
    assert_allclose(cm, 100 * np.array(metres) + 7, rtol=1e-6)


def test_rows_of_no_weight_count_as_rows_without_a_label():
    (X, Y), (X_val, Y_val) = amounts(90), amounts(90, seed=1)
    weight = np.ones(Y_val.shape)
    weight[:30, 1] = 0
    without = np.where(weight == 0, np.nan, Y_val)
    given = {"y_val": Y_val, "X_val": X_val, "sample_weight_val": weight}
    model = quick(MultiTaskRegressor)
    weighted = model.fit(X, Y, **given).predict_interval(X)
    missing = model.fit(X, Y, X_val=X_val, y_val=without).predict_interval(X)
    assert_allclose(weighted, missing)
    plain = model.fit(X, Y, X_val=X_val, y_val=Y_val).predict_interval(X)
    assert not np.allclose(plain, missing)


def test_few_labels_give_infinite_intervals_and_all_classes_with_a_warning():
    (X, Y), (X_val, Y_val) = mixed_table(100), mixed_table(40, seed=1)
    Y_val.loc[8:, "wage"] = np.nan
    Y_val["buys"] = np.nan
    model = mixed().fit(X, Y, X_val=X_val, y_val=Y_val)
    with pytest.warns(UserWarning, match=r"1 of 3 tasks \(\{'wage': 8\}\).* at least 9: all"):
        lower, upper = model.predict_interval(X[:3])
    assert_array_equal([lower[:, 2], upper[:, 2]], [[-np.inf] * 3, [np.inf] * 3])
    with pytest.warns(UserWarning, match=r"1 of 3 tasks \(\{'buys': 0\}\)"):
        sets = model.predict_set(X[:3])
    assert sets[1].all()
    assert not sets[0].all()
    assert np.isfinite(model.predict_interval(X[:3], coverage=0.8)[0][:, 2]).all()


def test_of_very_many_values_a_thousand_are_kept_and_err_to_the_safe_side():
    values = np.random.default_rng(0).permutation(50_000.0 - np.arange(50_000))
    scores = Scores.of(values, None)
    assert len(scores.values) == len(scores.below) == 1000
    for coverage in (0.1, 0.5, 0.9):
        rank = np.ceil(coverage * 50_001)
        assert rank <= scores.quantile(coverage) <= rank + 100
    assert scores.quantile(0.995) == np.ceil(0.995 * 50_001)
    assert scores.quantile(0.99999) == np.inf


def test_intervals_of_counts_begin_at_zero():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 3))
    Y = np.column_stack([rng.poisson(np.exp(0.5 * X[:, 0])), X[:, 1]]).astype(float)
    loss = ["poisson", "squared_error"]
    model = quick(MultiTaskRegressor, n_members=5, early_stopping=True, loss=loss).fit(X, Y)
    (lower, upper), margin = model.predict_interval(X), model._out_of_fold[0].quantile(0.9)
    assert_allclose(lower[:, 0], np.maximum(model.predict(X)[:, 0] - margin, 0.0))
    assert (lower[:, 0] == 0.0).any()
    assert (upper > lower).all()
    assert lower[:, 1].min() < 0


# Groups ---------------------------------------------------------------------------------------


def test_groups_count_the_same_and_a_new_one_is_one_more():
    values, groups = np.arange(1.0, 9), np.array([7, 3, 3, 7, 7, 7, 5, 5])
    known = Scores.of(values, None, groups)
    assert (known.n_rows, known.n_groups) == (8, 3)
    assert_allclose(known.below, np.array([1, 3, 5, 6, 7, 8, 10, 12]) / 4)
    found = [known.quantile(c) for c in (0.05, 0.25, 0.5, 0.55, 0.75)]
    assert found == [1.0, 3.0, 6.0, 7.0, 8.0]  # up to 0.2, 1, 2, 2.2 and 3 groups of 4
    assert known.quantile(0.76) == np.inf
    weight = np.array([0.0, 2.0, 6.0, 3.0, 0.0, 0.0, 0.0, 0.0])
    weighed = Scores.of(values, weight, groups)
    assert weighed.n_groups == 2  # nothing of the third weighs anything
    assert_allclose(weighed.below, [0, 0.25, 1, 2, 2, 2, 2, 2])
    alone = Scores.of(values, None, np.arange(8))  # every row a group of its own
    shares = np.arange(1, 20) / 20
    assert [alone.quantile(c) for c in shares] == [
        Scores.of(values, None).quantile(c) for c in shares
    ]


def test_sums_of_many_shares_reach_the_number_of_groups():
    rng = np.random.default_rng(0)
    for n_groups in (9, 19, 99):
        groups = np.append(rng.integers(0, n_groups, 50_000), np.arange(n_groups))
        scores = Scores.of(rng.normal(size=len(groups)), rng.random(len(groups)) + 0.1, groups)
        assert np.isfinite(scores.quantile(n_groups / (n_groups + 1)))
        assert np.isinf(scores.quantile(n_groups / (n_groups + 1) + 1e-6))


@pytest.mark.parametrize("sizes", ["equal", "few are large"])
def test_a_row_of_a_new_group_is_inside_as_often_as_asked_for(sizes):
    """Errors that rows of a group share, and that are small in large groups."""
    rng = np.random.default_rng(0)
    size = np.full(11, 20) if sizes == "equal" else np.array([200, 200, *[5] * 9])
    inside = {"groups": [], "rows": []}
    for _ in range(1000):
        n = rng.permutation(size)
        errors = [np.abs(3 * rng.normal() + rng.normal(size=m)) / m for m in n]
        values, groups = np.concatenate(errors[:10]), np.repeat(np.arange(10), n[:10])
        inside["groups"].append(
            np.mean(errors[10] <= Scores.of(values, None, groups).quantile(0.8))
        )
        inside["rows"].append(np.mean(errors[10] <= Scores.of(values, None).quantile(0.8)))
    assert 0.79 < np.mean(inside["groups"]) < 0.87
    assert np.mean(inside["rows"]) < 0.78, "the negative control"


@pytest.mark.parametrize("n_members", [1, 5])
def test_fit_knows_of_which_group_every_held_out_label_is(n_members):
    (X, Y), rng = mixed_table(160), np.random.default_rng(3)
    groups = rng.integers(0, 25, len(X))  # of several sizes, one among the other
    Y.loc[groups < 8, "buys"] = np.nan
    model = mixed(n_members=n_members, early_stopping=True).fit(X, Y, groups=groups)
    held = np.ones(len(X), dtype=bool)
    if n_members == 1:
        ((_, plan),) = plan_networks(model._session(X, Y, groups=groups))
        held = np.isin(np.arange(len(X)), plan.valid.rows.numpy())
    for t, name in enumerate(Y):
        rows = held & Y[name].notna().to_numpy()
        assert model._out_of_fold[t].n_groups == len(np.unique(groups[rows])), name
    if n_members == 1:
        return
    # The amounts' errors by hand: of five members each row is held out by one.
    error = np.empty(len(X))
    for net, (_, plan) in zip(
        model._nets, plan_networks(model._session(X, Y, groups=groups)), strict=True
    ):
        rows = plan.valid.rows.numpy()
        with torch.no_grad():
            raw = net.module_(plan.valid.X)
        amount = raw[[2 in group.tasks for group in net.module_.groups].index(True)]
        error[rows] = np.abs(amount.squeeze().numpy() - plan.valid.y[:, 2].numpy())
    expected = Scores.of(error, None, groups)
    assert_allclose(model._out_of_fold[2].values, expected.values, rtol=1e-5)
    assert_allclose(model._out_of_fold[2].below, expected.below, rtol=1e-5)


def test_few_groups_are_said_to_be_few():
    X, Y = mixed_table(160)
    groups = np.arange(160) % 12
    Y.loc[groups >= 8, ["buys", "wage"]] = np.nan
    model = mixed(n_members=5, early_stopping=True).fit(X, Y, groups=groups)
    said = (
        r"held-out groups with labels in 1 of 3 tasks \(\{'wage': 8\}\).*least 9.* on more groups"
    )
    with pytest.warns(UserWarning, match=said):
        upper = model.predict_interval(X[:3])[1]
    assert np.isinf(upper[:, 2]).all()
    with pytest.warns(UserWarning, match=r"\{'buys': 8\}"):
        sets = model.predict_set(X)
    assert sets[1].all()
    assert not sets[0].all()
    assert np.isfinite(model.predict_interval(X[:3], coverage=0.8)[1][:, 2]).all()


# Sets -----------------------------------------------------------------------------------------


def test_with_a_validation_set_sets_hold_what_is_as_probable_as_its_labels():
    (X, Y), (X_val, Y_val) = mixed_table(100), mixed_table(60, seed=1)
    model = mixed().fit(X, Y, X_val=X_val, y_val=Y_val)
    sets = model.predict_set(X, coverage=0.7)
    assert sets[2] is None
    for t, name in enumerate(("size", "buys")):
        known = Y_val[name].notna().to_numpy()
        p_val, p = (model.predict_proba(rows)[t] for rows in (X_val[known], X))
        codes = np.searchsorted(model.classes_[t], Y_val[name][known])
        of_label = np.sort(p_val[np.arange(len(codes)), codes])[::-1]
        least = of_label[int(np.ceil(0.7 * (len(codes) + 1))) - 1]
        expected = (p >= least) | (p == p.max(axis=1, keepdims=True))
        assert sets[t].dtype == bool
        assert_array_equal(sets[t], expected)


@pytest.mark.parametrize("calibrate", [False, True])
def test_sets_cover_as_much_as_asked_for(calibrate):
    X_new, Y_new = mixed_table(2000, seed=99)
    settings = {"early_stopping": True, "n_members": 5, "calibrate": calibrate}
    found = []
    for seed in range(6):
        model = mixed(**settings).fit(*mixed_table(150, seed=seed))
        sets = model.predict_set(X_new, coverage=0.85)
        for t, name in enumerate(("size", "buys")):
            known = np.flatnonzero(Y_new[name].notna())
            codes = np.searchsorted(model.classes_[t], Y_new[name].iloc[known])
            found.append(sets[t][known, codes].mean())
    assert np.mean(found) == pytest.approx(0.85, abs=0.03)


def test_sets_grow_with_coverage_around_the_most_probable_class():
    X, Y = mixed_table(150)
    model = quick(MultiTaskClassifier, early_stopping=True, n_members=5).fit(X, Y["size"])
    small, large = (model.predict_set(X, coverage=c) for c in (0.05, 0.9))
    assert small.shape == (150, 3)
    assert (small <= large).all()
    assert large.sum() > small.sum()
    best = np.searchsorted(model.classes_, model.predict(X))
    assert small[np.arange(150), best].all()
    assert (small.sum(axis=1) == 1).any()


@pytest.mark.filterwarnings("ignore::sk_mtl._support.SingleClassWarning")
def test_a_task_of_a_single_class_has_that_class():
    X, Y = mixed_table(120)
    Y["size"] = "m"
    sets = mixed(early_stopping=True).fit(X, Y).predict_set(X[:4])
    assert_array_equal(sets[0], np.ones((4, 1), bool))


# Spread ---------------------------------------------------------------------------------------


def test_the_spread_is_that_of_the_members():
    X, Y = mixed_table(120)
    model = mixed(n_members=3).fit(X, Y)
    y, std = model.predict(X[:5], return_std=True)
    assert_array_equal(y, model.predict(X[:5]))
    assert np.isnan(std[:, :2]).all()
    by_member = [member.predict(X[:5])[:, 2].astype(float) for member in model.estimators_]
    assert_allclose(std[:, 2], np.std(by_member, axis=0))
    assert (std[:, 2] > 0).all()
    one = quick(MultiTaskRegressor, n_members=2).fit(X, Y["wage"])
    assert one.predict(X, return_std=True)[1].shape == (120,)


# Around them ----------------------------------------------------------------------------------


def test_nothing_held_out_or_compared_is_an_error_with_a_way_out():
    X, Y = mixed_table(120)
    model = mixed().fit(X, Y)
    for method in (model.predict_interval, model.predict_set):
        with pytest.raises(ValueError, match=r"held no rows out, expected .* early_stopping=True"):
            method(X)
    with pytest.raises(ValueError, match=r"Got return_std=True with n_members=1, expected"):
        model.predict(X, return_std=True)


@pytest.mark.parametrize("coverage", [0, 1, 1.5, -0.1, np.nan, "0.9", True, None])
def test_coverage_is_a_share(coverage):
    X, Y = mixed_table(120)
    model = mixed(early_stopping=True).fit(X, Y)
    for method in (model.predict_interval, model.predict_set):
        with pytest.raises(ValueError, match="expected a number between 0 and 1"):
            method(X, coverage=coverage)


def test_estimators_have_what_their_tasks_allow():
    X, Y = mixed_table(120)
    assert not hasattr(MultiTaskClassifier(), "predict_interval")
    assert not hasattr(MultiTaskRegressor(), "predict_set")
    for method in ("predict_interval", "predict_set"):
        with pytest.raises(NotFittedError):
            getattr(MultiTaskEstimator(), method)(X)
    classes = mixed(tasks=["classification"] * 2).fit(X, Y[["size", "buys"]])
    assert not hasattr(classes, "predict_interval")
    values = mixed(tasks=["regression"]).fit(X, Y["wage"])
    assert not hasattr(values, "predict_set")


def test_training_on_forgets_what_was_held_out():
    X, Y = amounts(120)
    model = quick(MultiTaskRegressor, early_stopping=True).fit(X, Y)
    model.set_params(early_stopping=False).partial_fit(X, Y)
    with pytest.raises(ValueError, match="held no rows out"):
        model.predict_interval(X)


def test_intervals_and_sets_survive_a_pickle_and_not_a_clone():
    X, Y = mixed_table(120)
    model = mixed(early_stopping=True, n_members=5).fit(X, Y)
    copy = pickle.loads(pickle.dumps(model))
    assert_array_equal(copy.predict_interval(X), model.predict_interval(X))
    assert_array_equal(copy.predict_set(X)[0], model.predict_set(X)[0])
    assert not hasattr(clone(model), "_out_of_fold")


def test_a_view_shows_those_of_its_task():
    X, Y = mixed_table(120)
    model = mixed(early_stopping=True, n_members=5).fit(X, Y)
    wage, size = TaskView(model, "wage"), TaskView(model, "size")
    upper = wage.predict_interval(X, coverage=0.7)[1]
    assert_array_equal(upper, model.predict_interval(X, coverage=0.7)[1][:, 2])
    assert_array_equal(size.predict_set(X, coverage=0.7), model.predict_set(X, coverage=0.7)[0])
    assert not hasattr(size, "predict_interval")
    assert not hasattr(wage, "predict_set")
