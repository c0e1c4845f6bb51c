"""Temperatures make probabilities mean what they say, and change no label."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.base import clone

from sk_mtl import MultiTaskClassifier, MultiTaskEstimator
from sk_mtl.cascades import Funnel
from sk_mtl.estimators._calibration import COLDEST, fit_temperature, tempered
from sk_mtl.estimators._out_of_fold import _HeldOut

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def drawn(n_rows=3000, n_classes=3, seed=0):
    """Logits, and labels that are distributed as they say."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n_rows, n_classes)) * 2
    u = rng.random((n_rows, 1))
    return z, (softmax(z, axis=1).cumsum(axis=1) < u).sum(axis=1)


def loss(p, codes, temperature, weight=None):
    """Guo et al. 2017, eq. 9, with one more row whose label may be any class."""
    weight = np.ones(len(p)) if weight is None else weight
    weight = weight / weight.sum()
    log_q = log_softmax(np.log(p) / temperature, axis=1)
    n_rows = 1 / (weight**2).sum()
    return -weight @ (n_rows * log_q[np.arange(len(p)), codes] + log_q.mean(axis=1))


# The temperature ------------------------------------------------------------------------------


@pytest.mark.parametrize("n_classes", [2, 3, 7])
@pytest.mark.parametrize("factor", [0.3, 1.0, 4.0])
def test_the_temperature_undoes_a_factor_of_the_logits(n_classes, factor):
    z, codes = drawn(n_classes=n_classes)
    found = fit_temperature(softmax(factor * z, axis=1), codes)
    assert found == pytest.approx(factor, rel=0.1)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_temperature_is_the_optimum_that_a_slow_search_finds(weighted):
    z, codes = drawn(200)
    p = softmax(3 * z, axis=1)
    weight = np.random.default_rng(1).gamma(1.0, size=200) if weighted else None
    found = fit_temperature(p, codes, weight)
    slow = minimize_scalar(
        lambda t: loss(p, codes, t, weight), bounds=(0.1, 20), method="bounded"
    ).x
    assert found == pytest.approx(slow, rel=1e-4)
    grid = np.geomspace(0.1, 20, 400)
    assert loss(p, codes, found, weight) <= min(loss(p, codes, t, weight) for t in grid)
    assert found != pytest.approx(fit_temperature(p, codes, 1 + np.arange(200.0)), rel=1e-3)


def test_only_ratios_of_weights_matter_and_rows_of_no_weight_do_not_count():
    z, codes = drawn(100)
    p = softmax(3 * z, axis=1)
    equal = fit_temperature(p, codes, np.full(100, 7.0))
    assert equal == pytest.approx(fit_temperature(p, codes))
    half = np.repeat([1.0, 0.0], 50)
    assert fit_temperature(p, codes, half) == pytest.approx(fit_temperature(p[:50], codes[:50]))
    assert equal != pytest.approx(fit_temperature(p[:50], codes[:50]), rel=1e-3)


def test_few_labels_all_predicted_right_do_not_make_them_certain():
    p, codes = np.tile([0.8, 0.2], (20, 1)), np.zeros(20, int)
    found = tempered(p, fit_temperature(p, codes))[0, 1]
    # One more row of either class: the log-odds are log(20.5 / 0.5).
    assert found == pytest.approx(0.5 / 21, rel=1e-4)
    assert tempered(p, COLDEST)[0, 1] < 1e-9  # where the likelihood alone would have gone


def test_probabilities_of_zero_equal_ones_and_no_rows_are_survived():
    p = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.4]], np.float32)
    assert np.isfinite(fit_temperature(p, np.array([0, 0, 1])))
    assert_array_equal(tempered(p, 2.0)[0], [1.0, 0.0])
    assert fit_temperature(np.full((4, 2), 0.5), np.array([0, 0, 0, 1])) == 1.0
    assert fit_temperature(p[:0], np.array([], int)) == 1.0


@pytest.mark.parametrize("temperature", [0.05, 0.7, 1.3, 20.0])
def test_no_temperature_changes_the_order_of_classes(temperature):
    p = softmax(drawn(500)[0], axis=1).astype(np.float32)
    p[0] = [0.5 - 6e-8, 0.5, 6e-8]  # the nearest that single precision can tell apart
    q = tempered(p, temperature)
    assert_array_equal(q.argmax(axis=1), p.argmax(axis=1))
    assert_allclose(q.sum(axis=1), 1.0)
    assert_allclose(q, softmax(np.log(p.astype(float)) / temperature, axis=1), atol=1e-12)


def test_a_mean_over_members_is_given_less_heat_than_each_of_them():
    """Members that differ by chance are too sure, each alone; their mean is less so."""
    z, codes = drawn(20_000, 2)
    rng = np.random.default_rng(1)
    members = np.array([softmax(z + 1.5 * rng.normal(size=z.shape), axis=1) for _ in range(8)])
    seen = [(members[1], members[1:].mean(axis=0))]
    held = _HeldOut([members[0]], seen, codes[:, None] * 1.0, None, [None], 0, None)
    alone = fit_temperature(members[0], codes)
    best = fit_temperature(members.mean(axis=0), codes)
    assert alone > 1.1 * best  # the negative control: what heat a single member takes
    assert held.temperature(0) == pytest.approx(best, rel=0.04)


@pytest.mark.parametrize(
    ("n_labels", "compared"), [(9, None), (10, False), (499, False), (500, True)]
)
def test_on_few_labels_members_that_know_them_by_heart_are_not_asked(n_labels, compared):
    z, codes = drawn(n_labels, 2)
    p, by_heart = softmax(2.0 * z, axis=1), np.eye(2)[codes] * 0.98 + 0.01
    seen = [(softmax(z, axis=1), by_heart)]
    held = _HeldOut([p], seen, codes[:, None] * 1.0, None, [None], 0, None)
    alone = None if compared is None else pytest.approx(fit_temperature(p, codes))
    assert (held.temperature(0) == alone) == (not compared)


# In an estimator ------------------------------------------------------------------------------


def table(n_rows=240, seed=0):
    """Two classes as strings, three classes with gaps, an amount."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_rows, 4))
    noise = rng.normal(size=(n_rows, 2))
    Y = np.empty((n_rows, 3), dtype=object)
    Y[:, 0] = np.where(X[:, 0] + noise[:, 0] > 0, "late", "on time")
    Y[:, 1] = np.digitize(X[:, 1] + noise[:, 1], [-0.7, 0.7])
    Y[::3, 1] = None
    Y[:, 2] = X[:, 2]
    return X, Y


TASKS = ["classification", "classification", "regression"]


QUICK = {
    "n_members": 1,
    "scaling": None,
    "embedding": None,
    "input_scale_rate": 0.0,
    "linear_path": False,
    "hidden_layer_sizes": (50,),
    "dropout": 0.0,
    "ema_decay": 0.0,
    "learning_rate_init": 0.03,
    "max_iter": 20,
    "random_state": 0,
}


def quick(kind, **parameters):
    return kind(**{**QUICK, **parameters})


def mixed(**parameters):
    return quick(MultiTaskEstimator, **{"tasks": TASKS, **parameters})


@pytest.mark.parametrize("n_members", [1, 3])
def test_with_a_validation_set_temperatures_are_those_of_what_is_predicted_of_it(n_members):
    (X, Y), (X_val, Y_val) = table(), table(150, seed=1)
    plain = mixed(n_members=n_members).fit(X, Y, X_val=X_val, y_val=Y_val)
    model = mixed(n_members=n_members, calibrate=True).fit(X, Y, X_val=X_val, y_val=Y_val)
    before, after = plain.predict_proba(X_val), model.predict_proba(X_val)
    for t in (0, 1):
        rows = np.array([label is not None for label in Y_val[:, t]])
        codes = np.searchsorted(model.classes_[t], Y_val[rows, t].astype(model.classes_[t].dtype))
        expected = fit_temperature(before[t][rows], codes)
        assert model.temperatures_[t] == pytest.approx(expected, rel=1e-6)
        assert abs(expected - 1) > 0.01  # else nothing would be shown
        assert_allclose(after[t], tempered(before[t], expected), rtol=1e-5)
    assert np.isnan(model.temperatures_[2])
    assert after[2] is None
    assert_array_equal(model.predict(X_val), plain.predict(X_val))
    assert not hasattr(plain, "temperatures_")


def test_members_in_turn_calibrate_their_mean():
    X, Y = table()
    plain = mixed(n_members=5, early_stopping=True).fit(X, Y)
    model = mixed(n_members=5, early_stopping=True, calibrate=True).fit(X, Y)
    for t in (0, 1):
        p, temperature = plain.predict_proba(X)[t], model.temperatures_[t]
        assert 0.3 < temperature < 3
        assert_allclose(model.predict_proba(X)[t], tempered(p, temperature), rtol=1e-5)
    assert_array_equal(model.predict(X), plain.predict(X))
    assert not any(hasattr(member, "temperatures_") for member in model.estimators_)


def test_weights_of_samples_count_and_those_of_classes_do_not():
    (X, Y), (X_val, Y_val) = table(), table(150, seed=1)
    y, y_val = (each[:, 0].astype(str) for each in (Y, Y_val))
    weight = np.random.default_rng(0).integers(0, 3, size=150).astype(float)
    given = {"X_val": X_val, "y_val": y_val, "sample_weight_val": weight}
    settings = {"class_weight": {"late": 5.0}}
    plain = quick(MultiTaskClassifier, **settings).fit(X, y, **given)
    model = quick(MultiTaskClassifier, calibrate=True, **settings).fit(X, y, **given)
    p, codes = plain.predict_proba(X_val), np.searchsorted(plain.classes_, y_val)
    expected = fit_temperature(p, codes, weight)
    assert model.temperatures_ == pytest.approx([expected], rel=1e-5)
    assert expected != pytest.approx(fit_temperature(p, codes), rel=1e-3)


def test_a_funnel_stays_one_and_keeps_its_labels():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 3))
    click = (X[:, 0] + rng.normal(size=300) > 0).astype(int)
    Y = np.column_stack([click, click * (X[:, 1] + rng.normal(size=300) > -0.5)])
    settings = {"task_dependencies": Funnel({"task1": "task0"})}
    given = {"X_val": X[200:], "y_val": Y[200:]}
    plain = quick(MultiTaskClassifier, **settings).fit(X[:200], Y[:200], **given)
    model = quick(MultiTaskClassifier, calibrate=True, **settings).fit(X[:200], Y[:200], **given)
    for temperatures in (model.temperatures_, np.array([0.5, 3.0])):
        model.temperatures_ = temperatures
        above, below = (p[:, 1] for p in model.predict_proba(X))
        assert (below <= above).all()
        assert_array_equal(model.predict(X), plain.predict(X))
    above, below = (
        tempered(p, T)[:, 1] for p, T in zip(plain.predict_proba(X), (0.5, 3.0), strict=True)
    )
    assert (below > above).any()  # the negative control: without the bound


def test_tasks_without_held_out_labels_keep_their_probabilities_and_are_warned_of():
    (X, Y), (X_val, Y_val) = table(), table(150, seed=1)
    Y_val[:, 1] = None
    with pytest.warns(
        UserWarning, match=r"than 10 held-out labels in 1 of 3 tasks \(\['task1'\]\)"
    ):
        model = mixed(calibrate=True).fit(X, Y, X_val=X_val, y_val=Y_val)
    assert model.temperatures_[1] == 1.0
    assert model.temperatures_[0] != 1.0
    with pytest.warns(
        UserWarning, match=r"calibrate=True and fewer than 10 held-out labels in 2 of"
    ):
        model = mixed(calibrate=True).fit(X, Y)
    assert_array_equal(model.temperatures_, [1.0, 1.0, np.nan])


@pytest.mark.filterwarnings("ignore::sk_mtl._support.SingleClassWarning")
def test_a_task_of_a_single_class_needs_no_temperature():
    X, Y = table()
    Y[:, 0] = "late"
    model = mixed(calibrate=True, early_stopping=True).fit(X, Y)  # no other warning
    assert model.temperatures_[0] == 1.0
    assert_array_equal(model.predict_proba(X)[0], np.ones((len(X), 1)))


def test_temperatures_are_cloned_away_pickled_and_forgotten_by_the_next_fit():
    X, Y = table()
    model = mixed(calibrate=True, early_stopping=True).fit(X, Y)
    copy = pickle.loads(pickle.dumps(model))
    assert_array_equal(copy.predict_proba(X)[0], model.predict_proba(X)[0])
    assert clone(model).calibrate is True
    assert not hasattr(clone(model), "temperatures_")
    model.set_params(calibrate=False).fit(X, Y)
    assert not hasattr(model, "temperatures_")
