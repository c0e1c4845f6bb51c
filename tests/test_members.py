"""Members: several networks of one estimator, held out in turn, trained as one, averaged."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, KFold
from skorch.callbacks import Callback

import sk_mtl.training
from sk_mtl import (
    MultiTaskClassifier,
    MultiTaskEstimator,
    MultiTaskRegressor,
    VectorizedGridSearchCV,
)
from sk_mtl._support import SingleClassWarning
from sk_mtl.estimators import _ensemble as ensemble
from sk_mtl.estimators._ensemble import finish, plan_networks
from sk_mtl.estimators._folds import deal, leave_labels, n_folds_for
from sk_mtl.estimators._run import train

rng = np.random.default_rng(0)
N = 160
X = rng.normal(size=(N, 4))
R = np.column_stack([X[:, 0] + X[:, 1], np.sin(2 * X[:, 0]), X[:, 2]]) + 0.1 * rng.normal(
    size=(N, 3)
)
R[::4, 1] = np.nan
C = np.column_stack([X[:, 0] > 0, X[:, 1] > 0.5]).astype(float)
C[::5, 0] = np.nan
MIXED = np.column_stack([C[:, 0], R[:, 0]])
SMALL = {
    "hidden_layer_sizes": (8,),
    "learning_rate_init": 0.02,
    "batch_size": 32,
    "max_iter": 12,
    "dtype": "float64",
    "random_state": 0,
    "scaling": "robust",
}


def fold(rows, y, number, n_folds, seed):
    return leave_labels(deal(rows, y, n_folds, seed)[:, number], rows, ~np.isnan(y))


pytestmark = pytest.mark.filterwarnings(
    "ignore:Stochastic Optimizer:sklearn.exceptions.ConvergenceWarning"
)


def reg(**kw):
    return MultiTaskRegressor(**{**SMALL, "n_members": 5, **kw})


def clf(**kw):
    return MultiTaskClassifier(**{**SMALL, "n_members": 5, **kw})


def mixed(**kw):
    tasks = ["classification", "regression"]
    return MultiTaskEstimator(tasks=tasks, **{**SMALL, "n_members": 5, **kw})


CASES = {"regressor": (reg, R), "classifier": (clf, C), "mixed": (mixed, MIXED)}


def separately(model, Y):
    """The same members, each trained by itself."""
    model = clone(model)
    networks = plan_networks(model._session(X, Y))
    for session, plan in networks:
        train(session, plan)
    finish(networks[0][0], networks)
    return [session.est for session, _ in networks]


# What is trained --------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("trunk", ["shared_bottom", "mmoe", "single_task"])
def test_members_equal_separate_fits_with_the_same_folds(case, trunk):
    make, Y = CASES[case]
    model = make(trunk=trunk, dropout=0.1, embedding="piecewise_linear", linear_path=True)
    model.fit(X, Y)
    for member, alone in zip(model.estimators_, separately(model, Y), strict=True):
        assert member.n_iter_ == alone.n_iter_
        ours, theirs = member._outcomes(X)[0], alone._outcomes(X)[0]
        for a, b in zip(ours, theirs, strict=True):
            assert_allclose(a, b, rtol=1e-9, atol=1e-10)


def test_members_are_trained_as_one_stack(monkeypatch):
    sizes = []
    original = ensemble.train_stack
    monkeypatch.setattr(
        "sk_mtl.estimators._ensemble.train_stack",
        lambda sessions, plans: sizes.append(len(sessions)) or original(sessions, plans),
    )
    reg(n_members=6).fit(X, R)
    assert sizes == [6]


def test_every_member_stops_by_a_fold_of_its_own():
    networks = plan_networks(reg()._session(X, R))
    held = [plan.valid.rows.numpy() for _, plan in networks]
    learned = [plan.train.rows.numpy() for _, plan in networks]
    assert_array_equal(np.sort(np.concatenate(held)), np.arange(N))  # each row once
    for mine, others in zip(held, learned, strict=True):
        assert_array_equal(np.sort(np.concatenate([mine, others])), np.arange(N))
    assert all(plan.stopping.validation for _, plan in networks)
    one = reg(n_members=1)._session(X, R).plan()  # negative control: nothing is held out
    assert one.valid is None


@pytest.mark.parametrize(
    ("n_members", "fraction", "n_folds"),
    [
        (2, 0.1, 10),
        (4, 0.1, 10),
        (5, 0.1, 5),
        (8, 0.1, 8),
        (16, 0.1, 10),
        (8, 0.25, 4),
        (3, 0.9, 2),
        (8, 0.15, 6),
    ],
)
def test_folds_are_as_many_as_members_where_these_are_enough(n_members, fraction, n_folds):
    assert n_folds_for(n_members, fraction, n_rows=100) == n_folds


def test_no_fold_is_a_single_row():
    assert [n_folds_for(3, 0.1, n) for n in (2, 5, 16, 19, 20)] == [2, 2, 8, 9, 10]
    model = reg(n_members=3, batch_size="auto").fit(X[:19], R[:19])
    assert np.isfinite(model.validation_scores_).all()


def test_folds_are_equal_in_size_and_share_out_rare_classes_and_gaps():
    y = np.zeros((104, 2))
    y[:10, 0] = 1.0  # rare
    y[50:80, 1] = np.nan
    parts = [fold(np.arange(104), y, m, 5, seed=3) for m in range(5)]
    assert [len(part) for part in parts] == [20] * 5
    assert len(np.unique(np.concatenate(parts))) == 100  # four are left over
    parts = [fold(np.arange(100), y, m, 5, seed=3) for m in range(5)]
    assert [int(y[part, 0].sum()) for part in parts] == [2] * 5
    assert {int(np.isnan(y[part, 1]).sum()) for part in parts} <= {5, 6, 7}
    again = fold(np.arange(100), y, 2, 5, seed=3)
    assert_array_equal(parts[2], again)
    assert not np.array_equal(again, fold(np.arange(100), y, 2, 5, seed=4))


def test_a_task_keeps_a_label_for_training():
    y = np.full((100, 2), np.nan)
    y[:, 0] = np.arange(100)
    y[7, 1] = 1.0
    held = [fold(np.arange(100), y, m, 5, seed=0) for m in range(5)]
    assert not any(7 in part for part in held)


def test_few_rows_are_all_learned_from():
    networks = plan_networks(reg(batch_size="auto")._session(X[:15], R[:15]))
    assert all(plan.valid is None and len(plan.train) == 15 for _, plan in networks)
    asked = plan_networks(reg(early_stopping=True, batch_size=8)._session(X[:15], R[:15]))
    assert all(len(plan.valid) == 3 for _, plan in asked)
    never = plan_networks(reg(early_stopping=False)._session(X, R))
    assert all(plan.valid is None for _, plan in never)


def test_given_validation_rows_serve_all_members():
    networks = plan_networks(reg()._session(X[:120], R[:120], X_val=X[120:], y_val=R[120:]))
    assert all(len(plan.valid) == 40 and len(plan.train) == 120 for _, plan in networks)


def test_weights_of_zero_and_rows_without_labels_are_in_no_fold():
    Y, weight = R.copy(), np.ones(N)
    Y[3], weight[5] = np.nan, 0.0
    networks = plan_networks(reg()._session(X, Y, weight))
    seen = np.concatenate([plan.valid.rows.numpy() for _, plan in networks])
    assert not {3, 5} & set(seen.tolist())


# What is predicted ------------------------------------------------------------------------------


def test_amounts_are_averaged_and_so_are_probabilities():
    amounts = reg().fit(X, R)
    by_hand = np.mean([m.predict(X) for m in amounts.estimators_], axis=0)
    assert_allclose(amounts.predict(X), by_hand, rtol=1e-12)
    classes = clf().fit(X, C)
    for t in range(2):
        shares = np.mean([m.predict_proba(X)[t] for m in classes.estimators_], axis=0)
        assert_allclose(classes.predict_proba(X)[t], shares, rtol=1e-12)
        assert_array_equal(classes.predict(X)[:, t], classes.classes_[t][shares.argmax(1)])


@pytest.mark.parametrize("n_classes", [2, 3])
def test_probabilities_add_up_to_one_in_the_precision_of_x(n_classes):
    labels = np.digitize(X[:, :1] + X[:, 1:2], [-0.5, 0.5][: n_classes - 1])
    model = clf(dtype="float32").fit(X, np.hstack([labels, C[:, 1:]]))
    p = model.predict_proba(X)[0]
    assert p.dtype == np.float64
    assert_allclose(p.sum(axis=1), 1.0, rtol=1e-15)
    within = model._outcomes(X)[0][0]  # negative control: what is computed in single precision
    assert within.dtype == np.float32
    assert not np.allclose(within.astype(np.float64).sum(axis=1), 1.0, rtol=0, atol=1e-15)
    assert_allclose(p, within, atol=3e-7)


def test_members_differ_and_their_mean_is_better():
    model = reg(max_iter=60, n_iter_no_change=60).fit(X[:110], R[:110])
    alone = [m.score(X[110:], R[110:]) for m in model.estimators_]
    assert len(set(alone)) == 5
    assert model.score(X[110:], R[110:]) > np.mean(alone)


def test_features_of_all_members_stand_side_by_side():
    model = reg().fit(X, R)
    assert_allclose(model.transform(X), np.hstack([m.transform(X) for m in model.estimators_]))
    assert len(model.get_feature_names_out()) == 5 * 8


def test_one_seed_gives_one_model_and_another_another():
    first, again, other = reg().fit(X, R), reg().fit(X, R), reg(random_state=1).fit(X, R)
    assert_array_equal(first.predict(X), again.predict(X))
    assert not np.array_equal(first.predict(X), other.predict(X))


def test_curves_are_means_over_members_still_training():
    model = reg(max_iter=40, n_iter_no_change=2, learning_rate_init=0.1).fit(X, R)
    lengths = [m.n_iter_ for m in model.estimators_]
    assert len(set(lengths)) > 1 and model.n_iter_ == max(lengths)
    last = [m.loss_curve_[-1] for m in model.estimators_ if m.n_iter_ == model.n_iter_]
    assert model.loss_curve_[-1] == pytest.approx(np.mean(last))
    assert model.loss_curve_[0] == pytest.approx(
        np.mean([m.loss_curve_[0] for m in model.estimators_])
    )
    assert model.validation_task_loss_curves_.shape == (model.n_iter_, 3)


# The rest of the contract ---------------------------------------------------------------------


def test_pickles_and_clones():
    model = clf().fit(X, C)
    again = pickle.loads(pickle.dumps(model))
    assert_array_equal(again.predict_proba(X)[1], model.predict_proba(X)[1])
    assert not hasattr(clone(model), "estimators_")


def test_another_number_of_members_leaves_nothing_behind():
    model = reg(n_members=2).fit(X, R)
    assert not hasattr(model, "net_")
    model.set_params(n_members=1).fit(X, R)
    assert not hasattr(model, "estimators_")
    assert_array_equal(model.predict(X), reg(n_members=1).fit(X, R).predict(X))


@pytest.mark.parametrize(
    "kw", [{"weighting": "pcgrad"}, {"callbacks": [Callback()]}, {"verbose": True}]
)
def test_what_follows_one_network_trains_members_one_by_one(kw, capsys):
    model = reg(n_members=3, max_iter=3, **kw).fit(X, R)
    assert len(model.estimators_) == 3 and model.n_iter_ == 3
    if "callbacks" in kw:
        assert_allclose(model.predict(X), reg(n_members=3, max_iter=3).fit(X, R).predict(X))
    capsys.readouterr()


def test_partial_fit_trains_every_member_an_epoch_a_call():
    model = reg(n_members=3)
    for _ in range(3):
        model.partial_fit(X, R)
    assert [m.n_iter_ for m in model.estimators_] == [3, 3, 3]
    assert len({m.loss_curve_[-1] for m in model.estimators_}) == 3


def test_warm_start_goes_on():
    model = reg(warm_start=True, n_members=3).fit(X, R)
    before = [m.n_iter_ for m in model.estimators_]
    model.fit(X, R)
    assert [m.n_iter_ for m in model.estimators_] == [2 * n for n in before]
    with pytest.raises(ValueError, match="Got n_members=2 to continue 3 networks"):
        model.set_params(n_members=2).fit(X, R)
    assert len(model.estimators_) == 3


def test_a_failing_call_leaves_the_members_as_they_were():
    model = reg(n_members=3).partial_fit(X, R)
    before = model.predict(X)
    with pytest.raises(ValueError, match=r"class_weight|y with 2 columns"):
        model.partial_fit(X, R[:, :2])
    assert_array_equal(model.predict(X), before)


def test_search_as_one_stack_equals_gridsearchcv():
    grid = {"alpha": [1e-4, 1.0], "task_weights": [[1, 1, 1], [1, 5, 1]]}
    cv = KFold(3)
    ours = VectorizedGridSearchCV(reg(), grid, cv=cv).fit(X, R)
    theirs = GridSearchCV(reg(), grid, cv=cv).fit(X, R)
    for key in ("mean_test_score", "std_test_score"):
        assert_allclose(ours.cv_results_[key], theirs.cv_results_[key], rtol=1e-9)
    assert ours.search_report_["trained"] == ["stacked"] * 4
    assert_allclose(ours.predict(X), theirs.predict(X), rtol=1e-9)


def test_search_over_the_number_of_members():
    search = VectorizedGridSearchCV(reg(), {"n_members": [1, 3]}, cv=KFold(2)).fit(X, R)
    theirs = GridSearchCV(reg(), {"n_members": [1, 3]}, cv=KFold(2)).fit(X, R)
    assert_allclose(
        search.cv_results_["mean_test_score"], theirs.cv_results_["mean_test_score"], rtol=1e-9
    )


@pytest.mark.filterwarnings("default::sklearn.exceptions.ConvergenceWarning")
def test_one_warning_for_all_members():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        reg(max_iter=2, batch_size=500).fit(X, R)
    assert [w.category for w in caught] == [UserWarning, ConvergenceWarning]
    assert "in 5 of 5 members" in str(caught[1].message)


def test_interrupt_keeps_the_members_so_far(monkeypatch):
    batches = []

    def interrupted(*args, **kwargs):
        batches.append(1)
        if len(batches) == 8:  # five an epoch: the user's Ctrl-C in the second member's
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    original = sk_mtl.training.backpropagate
    monkeypatch.setattr(sk_mtl.training, "backpropagate", interrupted)
    with pytest.warns(UserWarning, match="keeps 2 of 4 members"):
        model = reg(n_members=4, max_iter=1, callbacks=[Callback()]).fit(X, R)
    assert len(model.estimators_) == 2
    assert np.isfinite(model.predict(X)).all()


def test_divergence_is_told_once():
    with pytest.warns(ConvergenceWarning, match="diverged in [1-5] of 5 members"):
        reg(learning_rate_init=30.0, solver="sgd", scaling=None, embedding=None).fit(X, R)


@pytest.mark.parametrize("value", [0, -1, 1.5, None])
def test_bad_numbers_of_members(value):
    with pytest.raises(ValueError, match="n_members"):
        reg(n_members=value).fit(X, R)


# What "auto" means -----------------------------------------------------------------------------


def autos(n_rows, n_members=5, **params):
    """A session, and the plan of its first network, with all that can be left to the estimator."""
    rows = np.resize(np.arange(N), n_rows)
    model = MultiTaskRegressor(n_members=n_members, random_state=0, **params)
    return plan_networks(model._session(X[rows], R[rows]))[0]


def test_from_16_rows_on_members_take_small_batches_and_soon_single_precision():
    for n_rows, batch_size, patience, dtype in [
        (16, 4, 100, np.float64),
        (63, 13, 100, np.float64),
        (64, 13, 100, np.float32),
        (160, 32, 100, np.float32),
        (1600, 40, 13, np.float32),
        (20_000, 256, 8, np.float32),
    ]:
        session, plan = autos(n_rows)
        assert (plan.batch_size, session.dtype) == (batch_size, dtype)
        assert (session.dropout, plan.stopping.patience) == (0.1, patience)
        assert plan.valid is not None
    for few in (autos(15), autos(160, n_members=1)):  # as one network: exact
        session, plan = few
        assert (plan.batch_size, session.dtype) == (min(200, len(plan.train)), np.float64)
        assert (session.dropout, plan.stopping.patience) == (0.0, 10)
        assert plan.valid is None


def rotates(X, y, sample_weight=None):
    model = MultiTaskEstimator(tasks=["regression"], n_members=5, random_state=0)
    return model._session(X, y, sample_weight).rotates


def test_of_few_rows_those_that_are_alike_count_once():
    rng = np.random.default_rng(0)
    numbers, y = rng.normal(size=(16, 2)), rng.normal(size=16)
    numbers[3, 0] = np.nan
    copies = np.repeat(np.arange(15), 4)
    assert rotates(numbers, y)
    assert not rotates(numbers[copies], y[copies])
    assert rotates(numbers[np.resize(copies, 64)], y[np.resize(copies, 64)])  # not looked at


def test_zeros_and_gaps_are_alike_whatever_their_signs():
    y, numbers = np.tile(np.arange(15.0), 2), np.zeros((30, 2))
    numbers[:15, 1] = np.nan
    numbers[15:] = -numbers[:15]
    assert not rotates(numbers, y)
    stored = sparse.csr_array((np.zeros(15), np.arange(15), np.arange(31).clip(0, 15)), (30, 15))
    assert stored.nnz == 15
    assert not rotates(stored, y)


def test_labels_that_are_all_the_same_teach_nothing():
    tasks = ["classification", "regression"]
    constant, amounts = np.ones(40), np.where(np.arange(40) < 6, R[:40, 0], np.nan)
    model = MultiTaskEstimator(tasks=tasks, n_members=5, random_state=0)
    with pytest.warns(SingleClassWarning):
        assert not model._session(X[:40], np.column_stack([constant, amounts])).rotates
    constant[0] = 0.0
    assert model._session(X[:40], np.column_stack([constant, amounts])).rotates


def test_rows_are_alike_in_all_that_is_learned_from():
    y, same = np.arange(16.0), np.zeros((16, 1))
    assert rotates(same, y)
    assert not rotates(same, np.append(y[:15], 0.0))
    assert not rotates(same, np.append(y[:15], np.nan))  # no label, nothing to learn
    assert not rotates(same, y, sample_weight=(y > 0).astype(float))
    words = pd.DataFrame({"word": [*"abcd"] * 4, "number": np.arange(16) // 4})
    assert rotates(words, np.zeros(16))
    assert not rotates(words.replace("d", "a"), np.zeros(16))
    assert rotates(sparse.eye_array(16, format="csr"), np.zeros(16))
    assert not rotates(sparse.csr_array((16, 3)), np.zeros(16))


def test_what_is_given_is_what_is_taken():
    session, plan = autos(160, dtype="float64", batch_size=50, early_stopping=False)
    assert (plan.batch_size, session.dtype, plan.valid) == (50, np.float64, None)
