"""Did sharing help: scores against separate fits, intervals against hand-worked numbers."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest
from joblib import parallel_config
from numpy.testing import assert_allclose, assert_array_equal
from plain import plain
from planted import contested, planted
from scipy import stats
from sklearn.base import clone
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import KFold, RepeatedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from stacks import NAN, estimator, table

from sk_mtl import MultiTaskClassifier, MultiTaskRegressor
from sk_mtl.estimators import _ensemble as ensemble
from sk_mtl.metrics import make_multi_task_scorer, make_task_scorer, task_scores
from sk_mtl.model_selection import MultiTaskStratifiedKFold
from sk_mtl.relations import TaskGrouper, multi_task_gain
from sk_mtl.relations._gain import summarise, without_sharing
from sk_mtl.relations._statistics import corrected_interval, unit_of

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

NO_LOSS = np.array([False, False])


def scores_by_hand(model, X, Y, folds, **fit_params):
    """Fit fold by fold, one after the other."""
    found = []
    for train, test in folds:
        own = {k: v[train] for k, v in fit_params.items()}
        fitted = clone(model).fit(X[train], Y[train], **own)
        found.append(list(task_scores(fitted, X[test], Y[test]).values()))
    return np.array(found)


# The statistics -------------------------------------------------------------------------------


def test_interval_by_hand():
    """Differences 1 to 5: mean 3, variance 2.5; (1/5 + 1/4) 2.5 = 1.125; t(0.975, 4) = 2.776."""
    low, high = corrected_interval(np.array([1.0, 2.0, 3.0, 4.0, 5.0]), 0.25, 0.95)
    reach = 2.7764451 * 1.0606602
    assert_allclose([low, high], [3 - reach, 3 + reach], rtol=0, atol=1e-6)
    # Negative control: the plain t-test, for which folds would be independent, is far narrower.
    plain = stats.t.interval(0.95, 4, loc=3, scale=np.sqrt(2.5 / 5))
    assert plain[1] - plain[0] < 0.7 * (high - low)


def test_interval_leaves_out_folds_without_a_score():
    known = np.array([1.0, 2.0, 4.0])
    with_gap = corrected_interval(np.array([1.0, NAN, 2.0, 4.0]), 0.5, 0.9)
    assert with_gap == corrected_interval(known, 0.5, 0.9)
    assert np.isnan(corrected_interval(known[:1], 0.5, 0.9)).all()


def test_mean_relative_gain_by_hand():
    """Accuracy 0.8 -> 0.88 is +10 %, a squared error of 2 -> 1.5 (negative as a score) +25 %."""
    alone = np.array([[0.7, -3.0], [0.9, -1.0]])
    shared = np.array([[0.78, -2.0], [0.98, -1.0]])
    found = summarise(shared, alone, 0.25, 0.95, np.array([False, True]), ["a", "b"])
    assert_allclose(found.relative_gain, [0.1, 0.25])
    assert_allclose(found.mean_relative_gain, 0.175)
    # A fold's part: (0.08 / 0.8 + 1 / 2) / 2 = 0.3 and (0.08 / 0.8 + 0) / 2 = 0.05.
    reach = stats.t.ppf(0.975, 1) * np.sqrt((1 / 2 + 0.25) * np.var([0.3, 0.05], ddof=1))
    assert_allclose(found.mean_relative_gain_interval, [0.175 - reach, 0.175 + reach])
    assert_allclose(found.gain, [0.08, 0.5])


def test_no_relative_gain_over_nothing():
    """R2 of -0.1 -> 0.1 is no gain of -200 %, and the mean over the other tasks is not Delta_m."""
    alone, shared = np.array([[-0.1, 0.5], [-0.1, 0.5]]), np.array([[0.1, 0.6], [0.1, 0.6]])
    found = summarise(shared, alone, 0.25, 0.95, NO_LOSS, ["a", "b"])
    assert_array_equal(np.isnan(found.relative_gain), [True, False])
    assert np.isnan([found.mean_relative_gain, *found.mean_relative_gain_interval]).all()
    assert "No relative gain is defined for 'a', nor a mean" in str(found)
    assert "(Delta_m): undefined" in str(found)
    assert_allclose(found.gain, [0.2, 0.1])
    of_losses = unit_of(np.array([-2.0, 0.0, 0.5]), np.array([True, True, True]))
    assert_array_equal(of_losses, [2.0, NAN, NAN])


def test_a_fold_without_a_score_of_one_task_counts_for_the_others():
    alone = np.array([[0.5, 0.5], [NAN, 0.5], [0.5, 0.5]])
    shared = alone + np.array([[0.1, 0.1], [0.1, 0.4], [0.1, 0.1]])
    found = summarise(shared, alone, 0.25, 0.95, NO_LOSS, ["a", "b"])
    assert_allclose(found.gain, [0.1, 0.2])
    assert_allclose(found.mean_relative_gain, (0.2 + 0.4) / 2)


# The fits -------------------------------------------------------------------------------------


@pytest.mark.parametrize("trunk", ["shared_bottom", "mmoe"])
def test_scores_are_those_of_separate_fits(trunk):
    X, Y = table(missing=True)
    model = estimator(trunk, max_iter=4)
    weight = {"sample_weight": np.random.default_rng(1).uniform(0.5, 2.0, size=Y.shape)}
    folds = list(KFold(3).split(X))
    found = multi_task_gain(model, X, Y, cv=KFold(3), params=weight)
    shared = scores_by_hand(model, X, Y, folds, **weight)
    alone = scores_by_hand(clone(model).set_params(trunk="single_task"), X, Y, folds, **weight)
    assert_allclose(found.fold_scores, shared, rtol=0, atol=1e-9)
    assert_allclose(found.single_task_fold_scores, alone, rtol=0, atol=1e-9)
    assert_allclose(found.gain, (shared - alone).mean(axis=0), rtol=0, atol=1e-9)
    ratio = np.mean([len(test) / len(train) for train, test in folds])
    expected = [corrected_interval(d, ratio, 0.95) for d in (shared - alone).T]
    assert_allclose(found.gain_interval, expected, rtol=0, atol=1e-9)
    assert np.abs(shared - alone).max() > 0.01  # the two are not one


def test_without_sharing_each_task_is_trained_as_if_it_were_alone():
    """Whatever weights or weighting the tasks have among each other."""
    X, Y = table()
    # so that the rows a batch are the same, and each would stop at the same epoch
    model = estimator(weighting="random", max_iter=3, tol=0.0)
    twin = without_sharing(model).fit(X, Y)
    for t, kind in enumerate(model.tasks):
        alone = clone(model).set_params(trunk="shared_bottom", weighting="static", tasks=[kind])
        expected = alone.fit(X, Y[:, t]).predict(X).astype(float)
        assert_allclose(twin.predict(X)[:, t].astype(float), expected, rtol=0, atol=1e-8)
    tied = estimator(
        penalty="trace_norm", task_dependencies={"task1": "task0"}, max_iter=3, tol=0.0
    )
    assert_array_equal(without_sharing(tied).fit(X, Y).predict(X), twin.predict(X))
    weighted = without_sharing(estimator(task_weights=[5, 1, 0], max_iter=3, tol=0.0)).fit(X, Y)
    assert_array_equal(weighted.predict(X), twin.predict(X))


def test_folds_and_repeats_train_as_two_stacks(monkeypatch):
    sizes = []

    def train_stack(sessions, plans):
        sizes.append(len(sessions))
        return original(sessions, plans)

    original = ensemble.train_stack
    monkeypatch.setattr(ensemble, "train_stack", train_stack)
    X, Y = planted(0, n_rows=60)
    model = contested(batch_size=20, max_iter=2)
    multi_task_gain(model, X, Y, cv=3, n_repeats=4, random_state=0)
    assert sizes == [12, 12]


def test_default_folds_are_stratified_and_shuffled_anew():
    X, Y = table(missing=True)
    model = estimator(max_iter=2)
    found = multi_task_gain(model, X, Y, cv=3, n_repeats=2, random_state=0)
    random = np.random.RandomState(0)
    folds = [
        fold
        for seed in random.randint(2**31 - 1, size=2)
        for fold in MultiTaskStratifiedKFold(3, random_state=int(seed)).split(X, Y)
    ]
    assert_allclose(found.fold_scores, scores_by_hand(model, X, Y, folds), rtol=0, atol=1e-9)
    assert len(multi_task_gain(model, X, Y, random_state=0).fold_scores) == 25


@pytest.mark.usefixtures("no_global_rng")
def test_an_estimator_without_a_seed_has_one_a_repeat_and_its_twin_the_same():
    X, Y = planted(0, n_rows=60, sizes=(1, 1))
    rows = np.arange(60)
    same = [(rows[:40], rows[40:])] * 2
    model = contested(batch_size=20, max_iter=2)
    again = [multi_task_gain(model, X, Y, cv=same, random_state=0) for _ in range(2)]
    assert_array_equal(again[0].fold_scores, again[1].fold_scores)
    assert_array_equal(again[0].fold_scores[0], again[0].fold_scores[1])  # one repeat: one seed
    repeated = multi_task_gain(model, X, Y, cv=2, n_repeats=2, random_state=1)
    fixed = multi_task_gain(
        clone(model).set_params(random_state=3), X, Y, cv=2, n_repeats=2, random_state=1
    )
    assert np.abs(repeated.fold_scores - fixed.fold_scores).max() > 0
    assert model.random_state is None


def test_scoring():
    X, Y = table()
    model = estimator(max_iter=2)
    options = {"cv": MultiTaskStratifiedKFold(3, shuffle=False)}
    by_dict = {"classification": "neg_log_loss", "task1": "neg_mean_squared_error"}
    found = multi_task_gain(model, X, Y, scoring=by_dict, **options)
    assert (found.scores[:2] < 0).all()
    assert_allclose(found.relative_gain[:2], found.gain[:2] / -found.single_task_scores[:2])
    named = multi_task_gain(model, X, Y, scoring=make_multi_task_scorer(by_dict), **options)
    assert_array_equal(found.fold_scores, named.fold_scores)
    classes = plain(MultiTaskClassifier, hidden_layer_sizes=(4,), max_iter=2, random_state=0)
    labels = (X[:, :3] > 0).astype(int)
    by_name = multi_task_gain(classes, X, labels, scoring="roc_auc", **options)
    default = multi_task_gain(classes, X, labels, **options)
    assert np.abs(by_name.scores - default.scores).max() > 0.01


def test_through_a_pipeline_and_groups():
    X, Y = planted(0, n_rows=60)
    model = contested(batch_size=20, max_iter=3, random_state=0)
    folds = list(KFold(3).split(X))
    piped = make_pipeline(StandardScaler(), TaskGrouper(model, n_groups=2))
    found = multi_task_gain(piped, 5 * X, Y, cv=folds)
    assert_allclose(found.fold_scores, scores_by_hand(piped, 5 * X, Y, folds), rtol=0, atol=1e-9)
    single = make_pipeline(StandardScaler(), clone(model).set_params(trunk="single_task"))
    alone = scores_by_hand(single, 5 * X, Y, folds)
    assert_allclose(found.single_task_fold_scores, alone, rtol=0, atol=1e-9)
    assert found.described == "trunk='shared_bottom' in groups"


def test_in_parallel_it_is_the_same():
    X, Y = planted(0, n_rows=60)
    piped = make_pipeline(StandardScaler(), contested(batch_size=20, max_iter=2))
    for model in (piped, piped[-1]):
        options = {"cv": 3, "n_repeats": 2, "random_state": 0}
        with parallel_config("threading"):
            one, two = (multi_task_gain(model, X, Y, n_jobs=n, **options) for n in (None, 2))
        assert_allclose(one.fold_scores, two.fold_scores, rtol=0, atol=1e-9)


# What is said ---------------------------------------------------------------------------------


def hand_made():
    """Helps, hurts, cannot be told, has no score."""
    alone = np.full((3, 4), 0.5)
    alone[1:, 3] = NAN
    scatter = np.array([[0.01, -0.01, 0.01, 0.0], [0.0, 0.0, -0.01, 0.0], [-0.01, 0.01, 0.0, 0.0]])
    shared = alone + np.array([0.1, -0.1, 0.0, 0.1]) + scatter
    return summarise(shared, alone, 0.25, 0.95, np.zeros(4, bool), ["up", "down", "flat", "rare"])


def test_words_and_remedies():
    found = hand_made()
    assert found.verdicts == ["helps", "hurts", "cannot be told", "has no score"]
    said = str(found)
    assert "Sharing helps 'up'." in said
    assert "Sharing hurts 'down'. Remedies: a trunk in which tasks may part (trunk='mmoe'" in said
    for remedy in ("'ple'", "TaskGrouper", "weighting", "task_weights"):
        assert remedy in said
    assert "cannot be told whether sharing helps or hurts 'flat'" in said
    assert "too few folds with a score of 'rare'" in said
    assert repr(found).endswith("1 helps, 1 hurts, 1 cannot be told, 1 has no score)")


def test_several_tasks_are_listed_and_what_is_not_so_is_not_said():
    alone = np.full((3, 3), 0.5)
    shared = alone + 0.1 + np.array([[0.01], [0.0], [-0.01]])
    said = str(summarise(shared, alone, 0.25, 0.95, np.zeros(3, bool), ["a", "b", "c"]))
    assert "Sharing helps 'a', 'b' and 'c'." in said
    assert "Remedies" not in said
    assert "cannot" not in said
    assert "+20.0%" in said
    assert "undefined" not in said


def test_as_a_frame(monkeypatch):
    found = hand_made()
    frame = found.to_frame()
    assert list(frame.index) == found.task_names
    assert_array_equal(frame["gain_low"], found.gain_interval[:, 0])
    assert frame.loc["down", "verdict"] == "hurts"
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="Got a call of to_frame without pandas"):
        found.to_frame()


def test_names_of_a_frame():
    X, Y = planted(0, n_rows=60, sizes=(1, 1))
    model = contested(batch_size=20, max_iter=2, random_state=0)
    found = multi_task_gain(model, X, pd.DataFrame(Y, columns=["one", "two"]), cv=KFold(2))
    assert found.task_names == ["one", "two"]


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        (
            plain(MultiTaskRegressor, "single_task"),
            {},
            "whose tasks share nothing, expected one that",
        ),
        (plain(MultiTaskRegressor, hidden_layer_sizes=()), {}, "which leaves no shared parameter"),
        (
            plain(MultiTaskRegressor),
            {"confidence": 95},
            "Got confidence=95, expected a number between",
        ),
        (plain(MultiTaskRegressor), {"n_repeats": 0}, "Got n_repeats=0, expected a whole number"),
        (
            plain(MultiTaskRegressor),
            {"n_repeats": 2, "cv": RepeatedKFold()},
            "whose folds are taken as they are, expected a number of folds",
        ),
        (
            plain(MultiTaskRegressor),
            {"scoring": make_task_scorer(task=0)},
            "expected one of all tasks",
        ),
        (plain(MultiTaskRegressor, alpha=-1), {}, "The 'alpha' parameter"),
    ],
)
def test_what_cannot_be_compared_is_refused(model, options, said):
    X, Y = planted(0, n_rows=60)
    with pytest.raises(ValueError, match=said):
        multi_task_gain(model, X, Y, **options)


# Planted structure ----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_sharing_hurts_a_contested_network_and_no_longer_where_tasks_may_part(seed):
    """Two tasks against five for room that serves one kind: the two lose, until they may part."""
    X, Y = planted(seed, sizes=(2, 5))

    def verdicts(model):
        found = multi_task_gain(model, X, Y, n_repeats=2, random_state=0)
        return found.verdicts, found.mean_relative_gain_interval

    shared, interval = verdicts(contested())
    assert shared[:2] == ["hurts", "hurts"]
    assert interval[1] < 0
    for model in (contested(trunk="mmoe"), contested(trunk="ple"), TaskGrouper(contested())):
        parted, interval = verdicts(model)
        assert "hurts" not in parted
        assert interval[1] > 0


def test_sharing_helps_tasks_that_see_the_same_through_noise():
    """Many features, much noise, one signal."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 40))
    Y = X[:, :1] + rng.normal(size=(300, 8))
    model = plain(
        MultiTaskRegressor, hidden_layer_sizes=(8,), learning_rate_init=0.02, max_iter=100
    )
    found = multi_task_gain(model.set_params(tol=0.0), X, Y, cv=4, n_repeats=3, random_state=0)
    assert found.verdicts == ["helps"] * 8


def test_the_gain_of_nothing_cannot_be_told():
    """Negative control: tasks with room enough and rows enough do not gain, and are not told to."""
    X, Y = planted(0, sizes=(2, 2), noise=0.5)
    found = multi_task_gain(
        contested(hidden_layer_sizes=(40,)), X, Y, cv=4, n_repeats=2, random_state=0
    )
    assert found.verdicts.count("cannot be told") >= 3


def test_accuracy_and_r2_are_what_is_scored():
    X, Y = table()
    model = estimator(max_iter=3)
    train, test = np.arange(70), np.arange(70, 103)
    found = multi_task_gain(model, X, Y, cv=[(train, test)] * 2)
    predicted = clone(model).fit(X[train], Y[train]).predict(X[test])
    expected = [accuracy_score(Y[test, 0], predicted[:, 0].astype(float))]
    expected += [r2_score(Y[test, t], predicted[:, t]) for t in (1, 2)]
    assert_allclose(found.scores, expected, rtol=0, atol=1e-9)
