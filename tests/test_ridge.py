"""Ridge regressions of all tasks: against scikit-learn's, with the strength that GCV chooses."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import minimize
from scipy.special import expit, softmax
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.metrics import log_loss, roc_auc_score

from sk_mtl import ridge
from sk_mtl.ridge import (
    LEAST_SHARE,
    STRENGTHS,
    fit_linear_models,
    n_label_patterns,
    share_of_linear,
    work,
)

NAN = np.nan


def amounts(n=120, d=6, noise=1.0, seed=0):
    """A table on which every column matters, with an intercept and columns that are related."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)) @ (np.eye(d) + 0.3 * rng.normal(size=(d, d))) + rng.normal(size=d)
    return X, X @ rng.normal(size=d) + 3.0 + noise * rng.normal(size=n)


def classes(n=300, d=4, n_classes=2, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    scores = 1.5 * X @ rng.normal(size=(d, n_classes)) + rng.gumbel(size=(n, n_classes))
    return X, scores.argmax(1).astype(float)


def fit(X, *columns, n_classes=None, weight=None, n_scaled=0):
    """Fit linear models; weights may be one-dimensional."""
    y = np.column_stack(columns)
    weight = None if weight is None else np.reshape(weight, (len(X), -1))
    return fit_linear_models(X, y, n_classes or [0] * y.shape[1], weight, n_scaled)


def strengths_of(X):
    """The penalties tried, in units of Ridge's alpha."""
    centred = X - X.mean(0)
    return STRENGTHS * (centred**2).sum() / X.shape[1]


def gcv(X, y, strength):
    """Golub, Heath and Wahba's equation 1.4, by the hat matrix, intercept included."""
    n = len(X)
    centred = X - X.mean(0)
    hat = centred @ np.linalg.solve(centred.T @ centred + strength * np.eye(X.shape[1]), centred.T)
    hat += 1 / n
    return np.sum((y - hat @ y) ** 2) / n / (1 - np.trace(hat) / n) ** 2


# Amounts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [0.01, 1.0, 30.0])
@pytest.mark.parametrize(("n", "d"), [(120, 6), (30, 25), (20, 50)])
def test_amounts_are_ridge_of_the_strength_with_least_gcv_error(n, d, noise):
    X, y = amounts(n, d, noise)
    tried = strengths_of(X)
    # where as many directions as rows are left free, the error is nothing by nothing
    errors = [gcv(X, y, s) if _freedom(X, s) < 0.999 * n else np.inf for s in tried]
    best = int(np.argmin(errors))
    theirs = Ridge(alpha=tried[best], solver="svd").fit(X, y)
    ours = fit(X, y)
    assert_allclose(ours.coef[0], theirs.coef_, rtol=1e-6, atol=1e-9)
    assert_allclose(ours.intercept, theirs.intercept_, rtol=1e-6)
    # Negative control: one step aside is another model.
    beside = Ridge(alpha=tried[best - 1 if best else 1]).fit(X, y)
    assert not np.allclose(ours.coef[0], beside.coef_, rtol=1e-6, atol=1e-9)


def _freedom(X, strength):
    values = np.linalg.svd(X - X.mean(0), compute_uv=False) ** 2
    return (values / (values + strength)).sum() + 1


def test_about_as_ridgecv():
    """Whose error is by leaving one row out, not by GCV."""
    X, y = amounts(noise=4.0)
    theirs = RidgeCV(alphas=strengths_of(X)).fit(X, y)
    ours = fit(X, y)
    ratio = ours.coef[0] / theirs.coef_
    assert_allclose(ratio, 1.0, atol=0.1)


def test_fewer_rows_than_columns_equal_the_same_through_the_columns_products(monkeypatch):
    """The two routes: a column of zeros less, or more, decides which is taken."""
    X, y = amounts(20, 19, noise=2.0)
    by_columns = fit(X, y)
    wide = np.hstack([X, np.zeros((20, 2))])
    by_rows = fit(wide, y, n_scaled=0)
    # the mean variance of columns, by which penalties are told, is less with two that are empty
    shift = np.log10(21 / 19)
    monkeypatch.setattr(ridge, "STRENGTHS", STRENGTHS * 10**shift)
    by_rows = fit(wide, y)
    assert_allclose(by_rows.coef[0, :19], by_columns.coef[0], rtol=1e-7, atol=1e-10)
    assert_array_equal(by_rows.coef[0, 19:], 0.0)


def test_rows_in_parts_equal_rows_in_one(monkeypatch):
    X, y = amounts(100)
    at_once = fit(X, y)
    monkeypatch.setattr(ridge, "ROWS_AT_ONCE", 7)
    in_parts = fit(X, y)
    assert_allclose(in_parts.coef, at_once.coef, rtol=1e-9)
    assert_allclose(in_parts.intercept, at_once.intercept, rtol=1e-9)


def test_scaled_columns_do_not_know_their_units():
    X, y = amounts(60, noise=10.0)
    units = 10.0 ** np.arange(-3, 3)
    ours, other = fit(X, y, n_scaled=6), fit(X * units, y, n_scaled=6)
    assert_allclose(other.coef * units, ours.coef, rtol=1e-7)
    unscaled = fit(X * units, y)  # negative control
    assert not np.allclose(unscaled.coef * units, ours.coef, rtol=1e-2)


def test_single_precision_is_read_as_double():
    X, y = amounts()
    X = X.astype(np.float32)
    assert_array_equal(fit(X, y).coef, fit(X.astype(np.float64), y).coef)
    assert fit(X, y).coef.dtype == np.float64


# Weights and missing labels --------------------------------------------------------------------


@pytest.mark.parametrize("n_classes", [0, 2, 3])
@pytest.mark.parametrize(("n", "d"), [(80, 4), (15, 40)])
def test_a_row_of_weight_two_is_a_row_twice_and_one_of_none_is_absent(n, d, n_classes):
    X, y = classes(n, d, n_classes) if n_classes else amounts(n, d)
    times = np.random.default_rng(1).integers(0, 4, size=n)
    times[0], times[1] = 3, 0
    weighted = fit(X, y, n_classes=[n_classes], weight=times)
    repeated = fit(X.repeat(times, axis=0), y.repeat(times), n_classes=[n_classes])
    assert_allclose(weighted.coef, repeated.coef, rtol=1e-5, atol=1e-7)
    assert_allclose(weighted.intercept, repeated.intercept, rtol=1e-5, atol=1e-7)
    unweighted = fit(X, y, n_classes=[n_classes])  # negative control
    assert not np.allclose(unweighted.coef, weighted.coef, rtol=1e-3)


def test_weights_that_are_no_counts_have_a_mean_of_one():
    X, y = amounts()
    weight = np.random.default_rng(1).uniform(0.1, 1.0, size=len(X))
    by_mean = fit(X, y, weight=weight / weight.mean())
    small = fit(X, y, weight=weight * 1e-3)
    assert_allclose(small.coef, by_mean.coef, rtol=1e-8)


def test_a_task_learns_from_its_own_rows():
    X, y = amounts()
    other = -2 * y + X[:, 0]
    known, weight = np.arange(len(X)) % 3 > 0, np.ones((len(X), 3))
    weight[::2, 2] = 2.0
    gaps = np.where(known, other, NAN)
    together = fit(X, y, gaps, y, weight=weight)
    assert together.tasks == (0, 1, 2)
    alone = [fit(X, y), fit(X[known], other[known]), fit(X, y, weight=weight[:, 2])]
    assert_allclose(together.coef, np.vstack([m.coef for m in alone]), rtol=1e-10)
    assert_allclose(together.intercept, np.hstack([m.intercept for m in alone]), rtol=1e-10)
    assert not np.allclose(together.coef[0], together.coef[2], rtol=1e-3)


@pytest.mark.parametrize(
    ("y", "n_classes"),
    [
        (np.full(50, NAN), 0),
        (np.r_[3.0, np.full(49, NAN)], 0),  # one label
        (np.full(50, 7.0), 0),
        (np.ones(50), 2),
        (np.zeros(50), 3),
        (np.full(50, NAN), 3),
    ],
)
def test_without_labels_that_vary_the_model_is_nothing(y, n_classes):
    X, _ = amounts(50)
    model = fit(X, y, n_classes=[n_classes])
    n_outputs = max(n_classes, 1) if n_classes != 2 else 1
    assert_array_equal(model.coef, np.zeros((n_outputs, 6)))
    assert_array_equal(model.intercept, np.zeros(n_outputs))
    assert model.tasks == (0,) * n_outputs


@pytest.mark.parametrize("d", [0, 3])
def test_columns_that_do_not_vary_say_nothing(d):
    y = np.arange(20.0)
    model = fit(np.full((20, d), 5.0), y, n_scaled=d)
    assert_array_equal(model.coef, np.zeros((1, d)))
    X = np.column_stack([np.full(20, 5.0), y])
    model = fit(X, y, n_scaled=2)
    assert model.coef[0, 0] == 0.0
    assert_allclose(model.coef[0, 1], 1.0, rtol=1e-2)


def test_patterns_and_work():
    y = np.array([[1.0, NAN, 2.0, NAN], [1.0, 1.0, 1.0, 1.0]])
    assert n_label_patterns(y, None) == 2
    assert n_label_patterns(y, np.array([[1.0], [2.0]])) == 2
    assert n_label_patterns(y, np.array([[1.0, 1, 2, 1], [1.0, 1, 1, 3]])) == 4
    assert work(10, 1000, 2) == work(1000, 10, 2) == 2 * work(10, 1000, 1)


# Classes ---------------------------------------------------------------------------------------


def test_two_classes_become_log_odds():
    X, y = classes()
    model = fit(X, y, n_classes=[2])
    assert model.coef.shape == (1, 4) and model.tasks == (0,)
    raw = X @ model.coef[0] + model.intercept[0]
    assert roc_auc_score(y, raw) > 0.8  # of the second class, not of the first
    p = expit(raw)
    assert p.mean() == pytest.approx(y.mean(), abs=0.02)
    assert log_loss(y, p) < log_loss(y, np.full(len(y), y.mean())) - 0.1
    # Slope and shift are those of a logistic regression on the scores.
    scores = X @ model.coef[0]
    found = minimize(
        lambda b: log_loss(y, expit(scores * b[0] + b[1])), [1.0, 0.0], method="BFGS"
    ).x
    assert found[0] == pytest.approx(1.0, abs=0.1)
    assert found[1] == pytest.approx(model.intercept[0], abs=0.05)


def test_more_classes_become_log_odds_of_one_slope():
    X, y = classes(n_classes=3)
    model = fit(X, y, n_classes=[3])
    assert model.coef.shape == (3, 4) and model.tasks == (0, 0, 0)
    regressed = fit(X, *(y == c for c in range(3)))
    slopes = model.coef / regressed.coef
    # Of the indicators each has its own strength, of the classes they have one.
    assert_allclose(slopes, slopes.mean(), rtol=0.1)
    p = softmax(X @ model.coef.T + model.intercept, axis=1)
    frequencies = np.bincount(y.astype(int)) / len(y)
    assert_allclose(p.mean(0), frequencies, atol=0.03)
    assert log_loss(y, p) < log_loss(y, np.tile(frequencies, (len(y), 1))) - 0.1


def test_log_odds_are_a_logistic_fit_of_the_scores():
    """By another optimiser, with the prior that the code tells of."""
    rng = np.random.default_rng(0)
    scores = rng.normal(2.0, 3.0, size=(200, 1))
    y = (rng.random((200, 1)) < expit(0.8 * scores - 1)).astype(float)
    w = rng.integers(1, 4, size=200).astype(float)
    slope, shift = ridge._log_odds(scores, y, w)
    centre = np.average(scores[:, 0], weights=w)
    spread = np.sqrt(np.average((scores[:, 0] - centre) ** 2, weights=w))
    share = np.average(y[:, 0], weights=w)

    def loss(b):
        raw = b[0] * scores[:, 0] + b[1]
        z = b[1] + b[0] * centre - np.log(share / (1 - share))
        value = w @ (np.logaddexp(0, raw) - y[:, 0] * raw)
        return value + 0.5 * ridge.WEAK * (b[0] * spread) ** 2 + 0.5 * z**2

    found = minimize(loss, [0.0, 0.0], method="BFGS", options={"gtol": 1e-6}).x
    assert_allclose([slope, *shift], found, rtol=1e-3, atol=1e-3)
    assert found[0] == pytest.approx(0.8, abs=0.2)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_scores_that_say_nothing_or_mislead_leave_the_frequencies(n_classes):
    rng = np.random.default_rng(0)
    y = rng.choice(n_classes, size=400, p=[0.7, 0.3] if n_classes == 2 else [0.6, 0.3, 0.1])
    response = ridge._responses(y.astype(float), n_classes)
    slope, shift = ridge._log_odds(-response + 0.1 * rng.normal(size=response.shape), response,
                                   np.ones(400))  # fmt: skip
    assert slope == 0.0
    p = expit(shift) if n_classes == 2 else softmax(shift)
    assert_allclose(p, response.mean(0), rtol=1e-6)


def test_classes_that_are_apart_have_finite_log_odds():
    X = np.r_[np.linspace(-2, -1, 20), np.linspace(1, 2, 20)][:, None]
    y = (X[:, 0] > 0).astype(float)
    model = fit(X, y, n_classes=[2])
    raw = X @ model.coef[0] + model.intercept[0]
    assert np.isfinite(raw).all() and ((raw > 0) == (y > 0)).all()
    assert abs(raw).max() < 50


# How much of them is taken ----------------------------------------------------------------------


def outputs(n_classes=0, n=200, seed=0):
    """Raw outputs that are right, wrong ones, and targets."""
    rng = np.random.default_rng(seed)
    if not n_classes:
        y = rng.normal(size=n)
        return y[:, None], rng.normal(size=(n, 1)), y
    y = rng.integers(0, n_classes, size=n).astype(float)
    response = ridge._responses(y, n_classes)
    return 8.0 * response - 4.0, 4.0 * rng.normal(size=response.shape), y


@pytest.mark.parametrize("n_classes", [0, 2, 3])
def test_the_better_of_the_two_is_taken(n_classes):
    right, wrong, y = outputs(n_classes)
    w = np.ones(len(y))
    assert share_of_linear(right, wrong, y, w, n_classes) == 0.0
    assert share_of_linear(wrong, right, y, w, n_classes) == pytest.approx(1.0, abs=0.02)
    assert share_of_linear(right, right, y, w, n_classes) == 0.0  # no better, so not at all


def test_equally_good_ones_are_mixed():
    rng = np.random.default_rng(0)
    y = rng.normal(size=4000)
    one, other = (y[:, None] + rng.normal(size=(4000, 1)) for _ in range(2))
    share = share_of_linear(one, other, y, np.ones(4000), 0)
    assert share == pytest.approx((0.5 - LEAST_SHARE) / (1 - LEAST_SHARE), abs=0.03)


@pytest.mark.parametrize("n_classes", [0, 2, 3])
@pytest.mark.parametrize("seed", range(5))
def test_shares_are_from_0_to_1(n_classes, seed):
    rng = np.random.default_rng(seed)
    _, one, y = outputs(n_classes, 20, seed)
    other = 100 * rng.normal(size=one.shape)
    for pair in ((one, other), (other, one)):
        assert 0.0 <= share_of_linear(*pair, y, rng.random(20), n_classes) <= 1.0


def test_weights_of_rows_count_and_none_at_all_is_no_share():
    right, wrong, y = outputs()
    half = np.r_[np.ones(100), np.zeros(100)]
    mixed = np.vstack([right[:100], wrong[100:]])
    other = np.vstack([wrong[:100], right[100:]])
    assert share_of_linear(mixed, other, y, half, 0) == 0.0
    assert share_of_linear(mixed, other, y, half[::-1], 0) > 0.95
    assert share_of_linear(wrong, right, y, np.zeros(200), 0) == 0.0


def test_few_rows_say_little():
    """The prior of a row: one row that speaks for linear models does not carry them."""
    y = np.array([1.0])
    share = share_of_linear(np.zeros((1, 1)), np.ones((1, 1)), y, np.ones(1), 0)
    assert share == pytest.approx((0.5 - LEAST_SHARE) / (1 - LEAST_SHARE), abs=1e-3)
