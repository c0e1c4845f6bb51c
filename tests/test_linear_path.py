"""Linear models mixed into trained networks: what they read, and that predictions gain by them."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from plain import plain
from scipy import sparse
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import log_loss, r2_score

from sk_mtl import (
    MultiTaskClassifier,
    MultiTaskEstimator,
    MultiTaskRegressor,
    VectorizedGridSearchCV,
)
from sk_mtl.columns import Columns, Layout, RawTable
from sk_mtl.estimators import _linear_models as linear_models
from sk_mtl.linear_path import Features, LinearInputs, LinearPath
from sk_mtl.ridge import LinearModels, fit_linear_models

NAN = np.nan
pytestmark = pytest.mark.filterwarnings(
    "ignore:Stochastic Optimizer:sklearn.exceptions.ConvergenceWarning"
)
SMALL = {
    "hidden_layer_sizes": (16,),
    "learning_rate_init": 0.01,
    "batch_size": 32,
    "max_iter": 40,
    "random_state": 0,
    "dtype": "float64",
    "scaling": "robust",
    "linear_path": True,
}


def reg(**params):
    return plain(MultiTaskRegressor, **(SMALL | {"early_stopping": True} | params))


def clf(**params):
    return plain(MultiTaskClassifier, **(SMALL | {"early_stopping": True} | params))


def linear_table(n=100, d=30, noise=1.0, n_new=1000, seed=1):
    """Amounts that are linear in a few rows of many columns; the rest is for testing."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n + n_new, d))
    Y = X @ rng.normal(size=(d, 2)) + noise * rng.normal(size=(n + n_new, 2))
    return (X[:n], Y[:n]), (X[n:], Y[n:])


def curved_table(n=600, n_new=1000, seed=0):
    """Amounts without any linear part."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(-2, 2, size=(n + n_new, 3))
    Y = np.column_stack([np.abs(X[:, 0]) * 2, np.cos(2 * X[:, 1])])
    Y += 0.1 * rng.normal(size=Y.shape)
    return (X[:n], Y[:n]), (X[n:], Y[n:])


def shares(model):
    """How much of linear models each task takes, and each member."""
    return [
        [float(1 - r) for g in range(len(net.module_.groups))
         for r in getattr(net.module_.linear, f"rest{g}").flatten()]
        for net in model._nets
    ]  # fmt: skip


def of(model):
    """What is mixed into each of its networks."""
    return [net.module_.linear for net in model._nets]


# What linear models read ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numbers_are_read_as_they_were_before_they_were_clipped(dtype):
    """Up to 300 interquartile ranges, whatever has come of them in single precision."""
    z = np.r_[-np.logspace(-3, np.log10(295), 40)[::-1], 0.0, np.logspace(-3, np.log10(295), 40)]
    clipped = z / np.sqrt(1 + (z / 3) ** 2)
    x = torch.from_numpy(clipped)[:, None].to(dtype)
    inputs = LinearInputs(Layout(1), True, dtype)
    found = inputs(x)
    assert found.shape == (81, 2) and found.dtype == dtype and inputs.n_scaled == 2
    # near the bound, one part in 2**24 of single precision is one in 1e-7 / 1e-4 of the distance
    assert_allclose(found[:, 0], z, rtol=1e-3 if dtype == torch.float32 else 1e-9)
    assert_allclose(found[:, 1], clipped, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numbers_beyond_are_bounded(dtype):
    columns = Columns().fit(RawTable(np.linspace(-1, 1, 101)[:, None]))
    far = RawTable(np.array([[-1e30], [-500.0], [500.0], [1e30]]))
    encoded = columns.transform(far, np.float32 if dtype == torch.float32 else np.float64)
    found = LinearInputs(columns.layout, True, dtype)(torch.from_numpy(encoded)).numpy()
    assert np.isfinite(found).all()
    assert_allclose(np.abs(found[:, 0]), 300, rtol=1e-4)
    assert_array_equal(np.sign(found[:, 0]), [-1, -1, 1, 1])


def test_numbers_are_read_as_far_beyond_the_rows_as_these_reach():
    """-1 to 2 of the first column: no further than -4 and 5. A row that is left out counts not."""
    z = np.array([[-1.0, 0.5], [2.0, 0.5], [9.0, -9.0]])
    encoded = z / np.sqrt(1 + (z / 3) ** 2)
    inputs = LinearInputs(Layout(2), True, torch.float64)
    inputs.reach(encoded, np.array([0, 1]))
    new = np.array([[-3.9, 0.5], [4.9, 0.7], [-7.0, 0.5], [90.0, 0.1]])
    found = inputs(torch.from_numpy(new / np.sqrt(1 + (new / 3) ** 2))).numpy()
    assert_allclose(found[:, 0], [-3.9, 4.9, -4.0, 5.0])
    assert_allclose(found[:, 1], 0.5, err_msg="it has not moved in the rows")
    inputs.reach(encoded, None)
    assert_allclose(inputs.lowest.numpy(), [-11.0, -18.5])
    assert_allclose(inputs.highest.numpy(), [19.0, 10.0])


def test_a_cell_far_away_does_not_carry_predictions_off():
    """Read clipped and unclipped, a number may turn anywhere beyond what was learned from."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 5))
    y = np.tanh(X[:, 0]) + 0.3 * rng.normal(size=300)
    model = reg().fit(X, y)
    assert max(max(each) for each in shares(model)) > 0.1
    far = np.zeros((3, 5))
    far[:, 0] = 20, 1e3, 1e9
    found = model.predict(far)
    assert np.abs(found).max() < 5
    for path in of(model):
        path.inputs.lowest.fill_(-np.inf)
        path.inputs.highest.fill_(np.inf)
    assert np.abs(model.predict(far)).max() > 20, "the negative control"
    assert_array_equal(reg().fit(X, y).predict(X), model.predict(X), "inside nothing is bounded")


def test_a_task_of_weight_zero_is_left_to_its_network():
    (X, Y), _ = linear_table()
    model = reg(task_weights=[1, 0]).fit(X, Y)
    for of_tasks in shares(model):
        assert of_tasks[0] > 0.5
        assert of_tasks[1] == 0.0


def test_what_was_scaled_comes_back():
    rng = np.random.default_rng(0)
    X = rng.standard_t(2, size=(500, 3)).astype(np.float32) * [1.0, 100.0, 1e-3] + [0, 7, 1e-2]
    columns = Columns().fit(RawTable(X))
    encoded = torch.from_numpy(columns.transform(RawTable(X), np.float32))
    found = LinearInputs(columns.layout, True, torch.float32)(encoded).numpy()
    scaled = (X - columns.numbers.shift) / columns.numbers.scale
    assert np.abs(scaled).max() > 10
    assert_allclose(found[:, :3], scaled, rtol=1e-3, atol=1e-5)
    assert_array_equal(found[:, 3:], encoded)


def test_flags_and_few_categories_are_read_and_many_are_not():
    layout = Layout(1, 1, (3, 65, 2))
    x = torch.tensor([[0.5, 1.0, 2.0, 64.0, 0.0], [1.5, 0.0, 1.0, 3.0, 1.0]])
    found = LinearInputs(layout, False, torch.float32)(x)
    # number, flag, code 1 and 2 of the first column, code 1 of the last
    assert found.tolist() == [[0.5, 1.0, 0.0, 1.0, 0.0], [1.5, 0.0, 1.0, 0.0, 1.0]]
    assert LinearInputs(layout, False, torch.float32).n_scaled == 1
    assert LinearInputs(layout, True, torch.float32)(x).shape == (2, 6)


def test_a_mixture_by_hand():
    """Tasks of unequal shares, in two groups of raw outputs."""
    rng = np.random.default_rng(0)
    inputs = LinearInputs(Layout(2), False, torch.float64)
    models = LinearModels(rng.normal(size=(4, 2)), rng.normal(size=4), (0, 1, 1, 2))
    path = LinearPath(inputs, models, [0.25, 0.5, 0.0], [[0, 2], [1]], torch.float64)
    x = rng.normal(size=(5, 2))
    raw = rng.normal(size=(2, 5, 1)), rng.normal(size=(1, 5, 2))
    found = path(torch.from_numpy(x), [torch.from_numpy(r) for r in raw])
    linear = x @ models.coef.T + models.intercept
    assert_allclose(found[0][0, :, 0], 0.75 * raw[0][0, :, 0] + 0.25 * linear[:, 0])
    assert_allclose(found[0][1], raw[0][1])
    assert_allclose(found[1][0], 0.5 * raw[1][0] + 0.5 * linear[:, 1:3])


# What is gained ---------------------------------------------------------------------------------


@pytest.mark.parametrize("n_members", [1, 5])
def test_a_linear_table_of_few_rows_is_predicted_about_as_well_as_by_ridge(n_members):
    (X, Y), (X_new, Y_new) = linear_table()
    with_it = reg(n_members=n_members).fit(X, Y)
    without = reg(n_members=n_members, linear_path=False).fit(X, Y)
    theirs = r2_score(Y_new, RidgeCV(np.logspace(-3, 3, 25)).fit(X, Y).predict(X_new))
    ours = with_it.score(X_new, Y_new)
    assert ours > without.score(X_new, Y_new) + 0.05
    # one network has held ten rows out, which do not say for sure how much to take
    assert ours > theirs - (0.06 if n_members == 1 else 0.02)
    assert all(share > 0.5 for member in shares(with_it) for share in member)


def test_with_default_parameters():
    (X, Y), (X_new, Y_new) = linear_table(seed=2)
    model = MultiTaskRegressor(random_state=0, max_iter=60)
    theirs = r2_score(Y_new, RidgeCV(np.logspace(-3, 3, 25)).fit(X, Y).predict(X_new))
    ours = clone(model).fit(X, Y).score(X_new, Y_new)
    assert ours > theirs - 0.03
    assert ours > clone(model).set_params(linear_path=False).fit(X, Y).score(X_new, Y_new)


@pytest.mark.parametrize("n_members", [1, 5])
def test_where_nothing_is_linear_nothing_is_lost(n_members):
    (X, Y), (X_new, Y_new) = curved_table()
    with_it = reg(n_members=n_members).fit(X, Y)
    without = reg(n_members=n_members, linear_path=False).fit(X, Y)
    assert with_it.score(X_new, Y_new) > without.score(X_new, Y_new) - 0.005
    assert max(max(member) for member in shares(with_it)) < 0.05
    assert RidgeCV().fit(X, Y).score(X_new, Y_new) < 0.3  # negative control


def test_tasks_take_as_much_as_serves_each():
    rng = np.random.default_rng(1)
    X = rng.normal(size=(200, 20))
    Y = np.column_stack([X.sum(1), 4 * np.abs(X[:, 0])]) + rng.normal(size=(200, 2))
    model = reg(n_members=5, max_iter=60).fit(X, Y)
    straight, bent = shares(model)[0]
    assert straight > 0.8 > 0.2 > bent
    assert shares(model) == [[straight, bent]] * 5  # of all members' held-out rows together


@pytest.mark.parametrize("n_classes", [2, 3])
def test_classes(n_classes):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1120, 30))
    scores = 0.4 * X @ rng.normal(size=(30, n_classes)) + rng.gumbel(size=(1120, n_classes))
    y = np.array(["a", "b", "c"])[scores.argmax(1)]
    train, new = slice(120), slice(120, None)

    def loss(model):
        p = model.fit(X[train], y[train]).predict_proba(X[new])
        assert_allclose(p.sum(1), 1.0)
        return log_loss(y[new], p)

    ours = clf(n_members=5)
    with_it, without = loss(ours), loss(clf(n_members=5, linear_path=False))
    theirs = loss(LogisticRegression(C=0.1))
    assert with_it < without - 0.02
    assert with_it < theirs + 0.03
    assert shares(ours)[0][0] > 0.1


def test_units_far_apart_and_outliers_come_out():
    """What clipping makes of numbers is not linear in them; what linear models read is."""
    rng = np.random.default_rng(0)
    X = rng.standard_t(1.5, size=(1200, 4)) * [1.0, 1e3, 1e-3, 1.0]
    y = X @ [1.0, 1e-3, 1e3, -1.0] + 0.1 * rng.normal(size=1200)
    model, without = (reg(linear_path=path).fit(X[:200], y[:200]) for path in (True, False))
    inside = np.abs(X[200:] / [1.0, 1e3, 1e-3, 1.0]).max(1) < 30
    ours = model.score(X[200:][inside], y[200:][inside])
    assert ours > 0.95 > without.score(X[200:][inside], y[200:][inside])


def test_categories_and_gaps_are_in_linear_models():
    rng = np.random.default_rng(0)
    city = rng.choice(list("abcdef"), size=1100)
    x = rng.normal(size=1100)
    y = x + np.array([0.0, 3.0, -2.0, 5.0, 1.0, -4.0])[[ord(c) - 97 for c in city]]
    x = np.where(rng.random(1100) < 0.2, NAN, x)
    y = y - 2 * np.isnan(x) + 0.1 * rng.normal(size=1100)
    X = pd.DataFrame({"x": x, "city": pd.Categorical(city)})
    model = reg(n_members=5, max_iter=5).fit(X[:100], y[:100])
    bound = 1 - (0.2 * 1.0 + 0.01) / y.var()  # what is missing cannot be known
    assert model.score(X[100:], y[100:]) > bound - 0.04
    assert shares(model)[0][0] > 0.5


# How it is found --------------------------------------------------------------------------------


def test_shares_are_found_on_rows_that_neither_has_learned_from(monkeypatch):
    (X, Y), _ = linear_table()
    learned, held = [], []

    def fit(features, y, *args):
        learned.append(features[:])
        return fit_linear_models(features, y, *args)

    original = linear_models._held_out

    def held_out(session, plan, inputs, models):
        held.append(Features(inputs, plan.valid)[:])
        return original(session, plan, inputs, models)

    monkeypatch.setattr(linear_models, "fit_linear_models", fit)
    monkeypatch.setattr(linear_models, "_held_out", held_out)
    reg(n_members=5).fit(X, Y)
    assert len(learned) == len(held) == 5
    for mine, others in zip(held, learned, strict=True):
        assert (len(mine), len(others)) == (20, 80)
        assert not {row.tobytes() for row in mine} & {row.tobytes() for row in others}
    assert len({row.tobytes() for rows in held for row in rows}) == 100  # each row once


def test_one_linear_model_serves_all_members_of_the_same_rows(monkeypatch):
    (X, Y), (X_new, Y_new) = linear_table(n_new=50)
    fits = []
    monkeypatch.setattr(
        linear_models,
        "fit_linear_models",
        lambda *args: fits.append(args[0].shape[0]) or fit_linear_models(*args),
    )
    reg(n_members=4).fit(X, Y, X_val=X_new, y_val=Y_new)
    assert fits == [100]


def test_linear_models_of_a_fit_are_those_of_its_training_rows():
    (X, Y), (X_new, Y_new) = linear_table(n_new=50)
    Y[::3, 1] = NAN
    weight = np.random.default_rng(0).integers(0, 3, size=100)
    model = reg(scaling=None).fit(X, Y, weight, X_val=X_new, y_val=Y_new)
    used = weight > 0
    targets = (Y[used] - [t.mean for t in model._tasks]) / [t.scale for t in model._tasks]
    expected = fit_linear_models(X[used], targets, [0, 0], weight[used, None].astype(float), 30)
    path, share = model.net_.module_.linear, np.array(shares(model)[0])
    assert (share > 0).all()
    assert_allclose(path.coef0[:, 0].numpy() / share[:, None], expected.coef, rtol=1e-6)
    assert_allclose(path.bias0[:, 0, 0].numpy() / share, expected.intercept, rtol=1e-6, atol=1e-9)


def test_missing_labels():
    (X, Y), (X_new, Y_new) = linear_table(n=140)
    rng = np.random.default_rng(0)
    Y[rng.random(Y.shape) < 0.3] = NAN
    model = reg(n_members=5).fit(X, Y)
    known = ~np.isnan(Y[:, 0])
    theirs = RidgeCV(np.logspace(-3, 3, 25)).fit(X[known], Y[known, 0]).score(X_new, Y_new[:, 0])
    assert r2_score(Y_new[:, 0], model.predict(X_new)[:, 0]) > theirs - 0.03


def test_a_task_with_hardly_any_label_or_one_class_stays_the_networks():
    (X, Y), _ = linear_table()
    few = Y.copy()
    few[2:, 1] = NAN
    assert np.isfinite(reg(n_members=5).fit(X, few).predict(X)).all()
    labels = np.column_stack([Y[:, 0] > 0, np.ones(100)]).astype(int)
    with pytest.warns(UserWarning, match="Got a single class in 1 of 2 tasks"):
        model = clf(n_members=5).fit(X, labels)
    assert (model.predict(X)[:, 1] == 1).all()


def test_mixed_tasks_and_losses_that_do_not_mix():
    (X, Y), _ = linear_table()
    labels = np.column_stack([(Y[:, 0] > 0).astype(float), Y[:, 1]])
    tasks = ["classification", "regression"]
    model = plain(MultiTaskEstimator, tasks=tasks, early_stopping=True, **SMALL).fit(X, labels)
    assert all(0 < share <= 1 for share in shares(model)[0])
    by_loss = {
        loss: max(shares(reg(loss=loss).fit(X, Y))[0]) for loss in ("huber", "squared_error")
    }
    assert min(by_loss.values()) > 0
    focal = clf(loss="focal").fit(X, labels[:, 0].astype(int))
    assert shares(focal) == [[0.0]]  # its raw outputs are not log-odds


@pytest.mark.parametrize("n_members", [1, 3])
def test_pickles_clones_and_searches(n_members):
    (X, Y), (X_new, _) = linear_table(n_new=20)
    model = reg(n_members=n_members).fit(X, Y)
    again = pickle.loads(pickle.dumps(model))
    assert_array_equal(again.predict(X_new), model.predict(X_new))
    assert_array_equal(clone(model).fit(X, Y).predict(X_new), model.predict(X_new))
    search = VectorizedGridSearchCV(reg(n_members=n_members), {"linear_path": [False, True]}, cv=3)
    search.fit(X, Y)
    assert search.best_params_ == {"linear_path": True}
    assert search.search_report_["trained"] == ["stacked"] * 2
    assert_allclose(search.predict(X_new), model.predict(X_new), rtol=1e-9)


def test_the_network_is_trained_without_linear_models():
    (X, Y), _ = linear_table()
    model, without = reg().fit(X, Y), reg(linear_path=False).fit(X, Y)
    assert model.loss_curve_ == without.loss_curve_
    assert_array_equal(model.transform(X), without.transform(X))
    assert not np.allclose(model.predict(X), without.predict(X), rtol=1e-2)


@pytest.mark.parametrize("n_members", [1, 3])
def test_training_that_goes_on_does_so_without_and_they_are_mixed_anew(n_members):
    (X, Y), _ = linear_table()
    models = [
        reg(n_members=n_members, warm_start=True, linear_path=path, max_iter=5).fit(X, Y).fit(X, Y)
        for path in (True, False)
    ]
    assert models[0].loss_curve_ == models[1].loss_curve_
    assert None not in of(models[0])
    assert not np.allclose(*[model.predict(X) for model in models], rtol=1e-2)


# Where there is none ----------------------------------------------------------------------------


def test_skipped_where_it_cannot_be():
    (X, Y), _ = linear_table()
    labels = (Y > 0).astype(int)
    assert of(reg(linear_path=False).fit(X, Y)) == [None]
    assert of(reg(early_stopping=False).fit(X, Y)) == [None]  # no row is held out
    assert (
        of(reg(early_stopping="auto", n_members=3, batch_size=8).fit(X[:15], Y[:15])) == [None] * 3
    )
    assert of(reg(n_members=3).fit(sparse.csr_array(X), Y)) == [None] * 3
    assert of(clf(task_dependencies={"task1": "task0"}).fit(X, labels)) == [None]
    assert None not in of(reg().fit(X, Y)) + of(clf().fit(X, labels))  # negative control


def test_skipped_where_it_would_take_long(monkeypatch):
    (X, Y), _ = linear_table()
    monkeypatch.setattr(linear_models, "MOST_WORK", 1e5)
    assert of(reg().fit(X, Y)) == [None]
    monkeypatch.setattr(linear_models, "MOST_WORK", 1e7)
    assert None not in of(reg().fit(X, Y))


def test_partial_fit_has_none():
    (X, Y), _ = linear_table()
    assert of(reg(early_stopping="auto").partial_fit(X, Y)) == [None]


@pytest.mark.parametrize("weighting", ["static", "pcgrad"])
def test_partial_fit_after_fit_learns_at_full_strength(weighting):
    random = np.random.default_rng(0)
    X = random.normal(size=(200, 3))
    Y = X @ random.normal(size=(3, 2)) + 0.1 * random.normal(size=(200, 2))
    model = MultiTaskRegressor(
        weighting=weighting,
        n_members=1,
        hidden_layer_sizes=(16,),
        early_stopping=True,
        max_iter=20,
        learning_rate_init=0.01,
        random_state=0,
    ).fit(X, Y)
    path = model.net_.module_.linear
    assert path is not None and float(path.rest0.max()) < 0.5  # mostly linear
    model.set_params(early_stopping="auto")
    for _ in range(150):
        model.partial_fit(X, -Y)
    assert model.score(X, -Y) > 0.7


def test_absorbing_the_share_changes_nothing_yet():
    random = np.random.default_rng(0)
    X = random.normal(size=(200, 3))
    Y = np.column_stack([X[:, 0] > 0, X[:, 1] + X[:, 2] > 0]).astype(int)
    model = MultiTaskClassifier(n_members=1, early_stopping=True, max_iter=5, random_state=0)
    model.fit(X, Y)
    before, network = model.predict_proba(X), model.net_.module_
    network.linear.absorb(network)
    assert float(network.linear.rest0.min()) == 1.0
    for a, b in zip(before, model.predict_proba(X), strict=True):
        assert np.allclose(a, b, atol=1e-6)
