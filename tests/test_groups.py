"""Groups of rows that belong together: patients, days, customers."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import sklearn
from numpy.testing import assert_array_equal
from plain import plain
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_score

from sk_mtl import MultiTaskClassifier, MultiTaskRegressor, VectorizedGridSearchCV
from sk_mtl.estimators._ensemble import plan_networks
from sk_mtl.estimators._folds import deal_groups, read_groups, share_of_groups

pytestmark = pytest.mark.filterwarnings(
    "ignore:Stochastic Optimizer:sklearn.exceptions.ConvergenceWarning"
)

rng = np.random.default_rng(0)
N = 160
SIZES = [3, 8, 13, 18, 3, 8, 13, 18, 2, 7, 12, 17, 2, 7, 12, 17]
GROUPS = rng.permutation(np.repeat(np.arange(16), SIZES))
X = rng.normal(size=(N, 3))
Y = np.column_stack([X[:, 0], X[:, 1] + GROUPS / 8])
SMALL = {"hidden_layer_sizes": (6,), "max_iter": 3, "random_state": 0}


def reg(**kw):
    return MultiTaskRegressor(**{**SMALL, "n_members": 5, **kw})


def sides(model, y=Y, **fit):
    """The training and the validation rows of every network."""
    found = []
    for _, plan in plan_networks(model._session(X, y, **fit)):
        found.append([plan.train.rows.numpy(), plan.valid.rows.numpy()])
    return found


# Folds ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_members", [1, 3, 5, 8])
def test_no_group_is_on_both_sides(n_members):
    model = reg(n_members=n_members, early_stopping=True)
    for train, valid in sides(model, groups=GROUPS):
        assert len(train) + len(valid) == N
        assert not set(GROUPS[train]) & set(GROUPS[valid])
    mixed = [set(GROUPS[train]) & set(GROUPS[valid]) for train, valid in sides(model)]
    assert all(mixed), "without groups, rows of one group are on both sides"


def test_members_hold_every_row_out_once():
    held = [valid for _, valid in sides(reg(n_members=8), groups=GROUPS)]
    assert_array_equal(np.sort(np.concatenate(held)), np.arange(N))


def test_folds_by_hand():
    """Sizes 4, 3, 3, 2 in two folds: 4 and 2, 3 and 3; which is the first is left to chance."""
    groups = np.repeat([0, 1, 2, 3], [4, 3, 3, 2])
    firsts = set()
    for seed in range(9):
        folds = [frozenset(groups[fold]) for fold in deal_groups(np.arange(12), groups, 2, seed)]
        assert set(folds) == {frozenset({0, 3}), frozenset({1, 2})}
        firsts.add(folds[0])
    assert len(firsts) == 2
    chosen = {tuple(groups[deal_groups(np.arange(12), groups, 3, s)[1]]) for s in range(9)}
    assert len(chosen) > 2, "equal groups are dealt at random"


def test_folds_are_of_the_sizes_that_sklearn_finds():
    groups = rng.integers(0, 40, size=300)
    ours = sorted(len(fold) for fold in deal_groups(np.arange(300), groups, 6, 0))
    theirs = sorted(len(t) for _, t in GroupKFold(6).split(groups, groups=groups))
    assert ours == theirs


def test_folds_are_of_the_rows_that_are_asked_for():
    rows = np.arange(0, N, 2)
    folds = deal_groups(rows, GROUPS, 4, 0)
    assert_array_equal(np.sort(np.concatenate(folds)), rows)
    held = share_of_groups(rows, GROUPS, 0.3, 0)
    assert set(held) < set(rows)


@pytest.mark.parametrize("fraction", [0.005, 0.05, 0.3, 0.9])
def test_share_is_of_the_groups_that_fit_into_it_but_one_at_least(fraction):
    rows, chosen = np.arange(N), set()
    for seed in range(10):
        held = share_of_groups(rows, GROUPS, fraction, seed)
        whole = np.isin(GROUPS, GROUPS[held])
        assert whole.sum() == len(held) < N
        assert len(held) <= fraction * N or len(held) == min(SIZES)
        assert len(held) > fraction * N - max(SIZES)
        chosen.add(tuple(held))
    assert (len(chosen) > 1) is (fraction > 0.01)


def test_share_leaves_a_large_group_for_training():
    groups = np.repeat(np.arange(11), [150, *[1] * 10])
    for seed in range(20):
        assert 0 not in groups[share_of_groups(np.arange(160), groups, 0.1, seed)]
    two = np.repeat([0, 1], [1, 9])
    assert len(share_of_groups(np.arange(10), two, 0.99, 0)) in (1, 9)


def test_fewer_groups_than_folds_are_a_fold_each():
    groups = np.arange(N) % 3
    held = [valid for _, valid in sides(reg(n_members=8), groups=groups)]
    assert all(len(set(groups[valid])) == 1 for valid in held)
    assert len({tuple(valid) for valid in held}) == 3


# What they are for ----------------------------------------------------------------------------


def test_intervals_are_those_for_new_groups():
    """Every group has a level of its own: only folds of whole groups show how far off that is."""
    random = np.random.default_rng(1)
    groups = np.repeat(np.arange(40), 10)
    level = random.normal(size=41)[groups]
    inputs = np.column_stack([np.cos(groups), np.sin(groups), random.normal(size=400)])
    y = level + 0.1 * random.normal(size=400)
    options = {"hidden_layer_sizes": (64,), "n_members": 5, "max_iter": 60, "random_state": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        knows = MultiTaskRegressor(**options).fit(inputs, y, groups=groups)
        guesses = MultiTaskRegressor(**options).fit(inputs, y)
    widths = []
    for model in (knows, guesses):
        low, high = model.predict_interval(inputs[:50], coverage=0.9)
        widths.append(np.mean(high - low))
    assert widths[0] > 1.5 * widths[1]


@pytest.mark.parametrize("labels", ["text", "numbers", "objects"])
def test_only_which_rows_are_of_one_group_counts(labels):
    named = {
        "text": np.array([f"patient {g}" for g in GROUPS]),
        "numbers": GROUPS * 10.5,
        "objects": pd.Series([f"patient {g}" for g in GROUPS], dtype=object),
    }[labels]
    codes = read_groups(named, N)
    assert len({*zip(codes, GROUPS, strict=True)}) == len(set(codes)) == 16
    model = reg().fit(X, Y, groups=named)
    assert model.predict(X).shape == Y.shape


def test_without_rows_that_are_held_out_groups_change_nothing():
    model = plain(MultiTaskRegressor, early_stopping=False, **SMALL)
    assert_array_equal(model.fit(X, Y, groups=GROUPS).predict(X), model.fit(X, Y).predict(X))


def test_a_task_keeps_a_label_to_learn_from():
    labels = Y.copy()
    labels[GROUPS != 3, 1] = np.nan
    for _, plan in plan_networks(reg(n_members=8)._session(X, labels, groups=GROUPS)):
        assert not plan.train.y.isnan().all(0).any()
    whole = [set(GROUPS[t]) & set(GROUPS[v]) for t, v in sides(reg(n_members=8), groups=GROUPS)]
    torn = [
        set(GROUPS[t]) & set(GROUPS[v]) for t, v in sides(reg(n_members=8), groups=GROUPS, y=labels)
    ]
    assert sorted(map(len, torn)) == [0] * 7 + [1], "but for the one that has them all"
    assert not any(whole)


# With scikit-learn ----------------------------------------------------------------------------


def test_they_are_routed_and_cut_as_weights_are():
    with sklearn.config_context(enable_metadata_routing=True):
        model = reg().set_fit_request(groups=True)
        scores = cross_val_score(model, X, Y, cv=GroupKFold(3), params={"groups": GROUPS})
        for (train, test), score in zip(GroupKFold(3).split(X, groups=GROUPS), scores, strict=True):
            alone = reg().fit(X[train], Y[train], groups=GROUPS[train])
            assert score == alone.score(X[test], Y[test])


def test_searches_pass_them_on():
    grid = {"alpha": [1e-4, 1.0]}
    with sklearn.config_context(enable_metadata_routing=True):
        model = reg().set_fit_request(groups=True)
        ours, theirs = (
            search(model, grid, cv=GroupKFold(3)).fit(X, Y, groups=GROUPS)
            for search in (VectorizedGridSearchCV, GridSearchCV)
        )
    for split in range(3):
        name = f"split{split}_test_score"
        np.testing.assert_allclose(ours.cv_results_[name], theirs.cv_results_[name], rtol=1e-6)


# Bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (np.zeros(N), "Got the group '0.0' in every row, expected at least two"),
        (np.arange(N - 1), f"length {N - 1}, expected {N}"),
        (np.where(np.arange(N) == 3, np.nan, 1.0 * GROUPS), "1 missing values, expected none"),
        (np.array([None, *map(str, GROUPS[1:])], dtype=object), "1 missing values"),
        (["a", np.nan, *["b"] * (N - 2)], "1 missing values"),
        (pd.Series(["a", pd.NA, *["b"] * (N - 2)], dtype="string"), "1 missing values"),
        (pd.Series(pd.to_datetime(["2020-01-01", None] * (N // 2))), f"{N // 2} missing values"),
        (["a", 1, *["b"] * (N - 2)], r"mixed types \['int', 'str'\]"),
        (np.ones((N, 2)), "1d array"),
    ],
)
def test_bad_groups_are_refused(groups, message):
    with pytest.raises(ValueError, match=message):
        reg().fit(X, Y, groups=groups)


def test_groups_and_validation_rows_are_refused():
    with pytest.raises(ValueError, match="Got groups with X_val, expected one of them"):
        reg().fit(X, Y, groups=GROUPS, X_val=X, y_val=Y)


def test_labels_of_a_single_group_are_refused():
    labels = (Y[:, :1] > 0).astype(float)
    labels = np.where(GROUPS[:, None] == 3, labels, np.nan)
    labels[:, 0][GROUPS == 3] = np.resize([0.0, 1.0], (GROUPS == 3).sum())
    with pytest.raises(ValueError, match="Got labels in the rows of a single group"):
        MultiTaskClassifier(**SMALL, n_members=1, early_stopping=True).fit(
            X, np.hstack([labels, labels]), groups=GROUPS
        )
