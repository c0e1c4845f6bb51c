"""A search that trains stacks finds what scikit-learn's search finds, fit by fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from joblib import parallel_config
from numpy.testing import assert_allclose, assert_array_equal
from plain import plain
from scipy.stats import dirichlet, loguniform
from searches import (
    AMOUNTS,
    CLASSES,
    FOLDS,
    GRID,
    LABELS,
    MODELS,
    SMALL,
    WEIGHT,
    N,
    X,
    Y,
    assert_same_search,
    check_equal,
    classifier,
    grid_search,
    loop,
    mixed,
    regressor,
    some_fail,
)
from sklearn.base import clone
from sklearn.exceptions import FitFailedWarning
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import (
    GroupKFold,
    HalvingGridSearchCV,
    KFold,
    RandomizedSearchCV,
    ShuffleSplit,
    StratifiedKFold,
    TimeSeriesSplit,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import EpochTimer, GradientNormClipping, LRScheduler
from torch import nn

from sk_mtl import MultiTaskRegressor, VectorizedRandomizedSearchCV
from sk_mtl.losses import Focal, Huber, Quantile
from sk_mtl.metrics import make_multi_task_scorer
from sk_mtl.model_selection import (
    MultiTaskStratifiedKFold,
    TaskWeightDistribution,
    VectorizedHalvingGridSearchCV,
)
from sk_mtl.stacked_training import MemberSteps, StackedTraining
from sk_mtl.trunks import TRUNKS, MMoE, Trunk
from sk_mtl.weighting import Weighting

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

# Every trunk, every estimator -----------------------------------------------------------------

every_trunk = pytest.mark.parametrize("trunk", TRUNKS)


@every_trunk
@pytest.mark.parametrize("kind", MODELS)
def test_twelve_candidates_on_five_unequal_folds(kind, trunk):
    """With gaps, weights, dropout and none, each network stopping when its own time has come."""
    model = MODELS[kind](trunk=trunk, early_stopping=True, n_iter_no_change=1, max_iter=4)
    grid = {
        "dropout": [0.0, 0.2],
        "learning_rate_init": [0.005, 0.05],
        "task_weights": [[1, 1, 1], [1, 2, 3], [5, 0, 1]],
    }
    ours, _ = check_equal(model, grid, X, LABELS[kind], {"sample_weight": WEIGHT}, cv=KFold(5))
    assert min(ours.search_report_["stack_size"]) > 12  # folds are stacked, too
    assert len(set(ours.cv_results_["mean_test_score"].round(6))) > 4


@every_trunk
def test_without_early_stopping_gaps_and_weights(trunk):
    grid = {"alpha": [0.0, 0.1], "task_weights": [None, [5, 0, 1]]}
    ours, _ = check_equal(regressor(trunk=trunk), grid, X, AMOUNTS, cv=KFold(5))
    assert set(ours.search_report_["stack_size"]) == {12}  # three folds of 82 rows, two of 83


def test_networks_of_a_stack_stop_at_epochs_of_their_own():
    """The epochs that each took and keeps, as scores."""
    model = mixed(early_stopping=True, n_iter_no_change=1, max_iter=8)
    grid = {"dropout": [0.0, 0.2], "learning_rate_init": [0.005, 0.05, 0.2]}
    scoring = {
        "taken": lambda model, X, y: float(model.n_iter_),
        "kept": lambda model, X, y: float(model.best_iter_),
    }
    ours, _ = check_equal(model, grid, scoring=scoring, refit="kept")
    for name in scoring:
        epochs = [ours.cv_results_[f"split{fold}_test_{name}"] for fold in range(3)]
        assert len(np.unique(epochs)) > 3


class TestTheComparisonCanFail:
    """Negative controls: each of these makes the two searches differ."""

    def test_for_another_seed(self):
        ours, theirs = grid_search(mixed(), GRID), loop(mixed(random_state=1), GRID)
        with pytest.raises(AssertionError):
            assert_same_search(ours, theirs)

    def test_for_one_network_with_the_learning_rate_of_another(self, monkeypatch):
        def init(self, parameters, rates, make_optimizer):
            start(self, parameters, [rates[1], *rates[1:]], make_optimizer)

        start = MemberSteps.__init__
        monkeypatch.setattr(MemberSteps, "__init__", init)
        with pytest.raises(AssertionError):
            check_equal(mixed(), GRID)

    def test_for_networks_that_share_their_order_of_rows(self, monkeypatch):
        def init(self, network, template, objective, sources, members, **options):
            start(
                self, network, template, objective, [sources[0]] * len(sources), members, **options
            )

        start = StackedTraining.__init__
        monkeypatch.setattr(StackedTraining, "__init__", init)
        with pytest.raises(AssertionError):
            check_equal(mixed(), {"random_state": [0, 1]})

    def test_for_a_step_too_few(self, monkeypatch):
        def run_epoch(self):
            if self.epoch < 4:
                run(self)
            else:
                self.active = []

        run = StackedTraining._run_epoch
        monkeypatch.setattr(StackedTraining, "_run_epoch", run_epoch)
        with pytest.raises((AssertionError, KeyError, ValueError)):
            check_equal(mixed(), GRID)


# What networks of one stack may differ in -----------------------------------------------------

clip = GradientNormClipping

STACKED = {
    "task weights": (mixed(), {"task_weights": [None, [0, 1, 2], [3, 2, 1]]}),
    "task weights by name": (mixed(), {"task_weights": [{"task0": 5}, {"task1": 2, "task2": 0}]}),
    "learning rates": (mixed(), {"learning_rate_init": [1e-3, 1e-2, 1e-1]}),
    "learning rates of sgd": (mixed(solver="sgd"), {"learning_rate_init": [1e-2, 1e-1]}),
    "penalties": (mixed(), {"alpha": [0, 1e-2, 1]}),
    "penalties of tasks apart": (mixed(trunk="single_task"), {"alpha": [0, 1e-2, 1]}),
    "dropout": (mixed(), {"dropout": [0, 0.2, 0.5]}),
    "seeds": (mixed(dropout=0.2, early_stopping=True), {"random_state": [0, 1, 2]}),
    "a loss's number": (classifier(loss=Focal()), {"loss__gamma": [0.0, 1.0, 3.0]}),
    "numbers of a task's loss": (
        regressor(loss=["squared_error", Huber(), Quantile()]),
        {"loss": [["squared_error", Huber(d), Quantile(q)] for d, q in [(0.5, 0.2), (2.0, 0.8)]]},
    ),
    "epochs": (mixed(), {"max_iter": [1, 3, 8]}),
    "patience": (
        mixed(max_iter=8, early_stopping=True),
        {"tol": [0, 0.1], "n_iter_no_change": [1, 3], "stopping_rule": ["mean", "worst"]},
    ),
    "tasks that stop": (
        mixed(max_iter=8, early_stopping=True, n_iter_no_change=1),
        {"stopping_tasks": [None, ["task0"], [1, 2]]},
    ),
    "a bound on gradients": (mixed(callbacks=[("clip", clip(0.05))]), GRID),
    "rows in order": (mixed(shuffle=False), GRID),
    "one batch": (mixed(batch_size="auto"), GRID),
    "warm start": (mixed(warm_start=True), GRID),
    "a seed as an object": (mixed(random_state=np.random.RandomState(3)), GRID),
}


@pytest.mark.parametrize("name", STACKED)
def test_side_by_side(name):
    model, grid = STACKED[name]
    kind = type(model).__name__.removeprefix("MultiTask").lower()
    ours, _ = check_equal(model, grid, X, LABELS.get(kind, Y))
    assert set(ours.search_report_["reason"]) == {""}
    found = ours.cv_results_
    scores = np.column_stack([found[f"split{fold}_test_score"] for fold in range(3)])
    assert len(np.unique(scores, axis=0)) > 1  # what they differ in matters


GROUPED = {
    "widths": (mixed(), {"hidden_layer_sizes": [(4,), (6, 5)]}, 2),
    "depths of heads": (mixed(), {"head_hidden_layer_sizes": [(), (3,), (3, 2)]}, 3),
    "activations": (mixed(), {"activation": ["relu", "tanh"]}, 2),
    "batches": (mixed(), {"batch_size": [25, 30, "auto"]}, 3),
    "experts": (mixed(trunk=MMoE()), {"trunk__n_experts": [2, 3]}, 2),
    "trunks": (mixed(), {"trunk": ["shared_bottom", MMoE(n_experts=2)]}, 2),
    "solvers": (mixed(), {"solver": ["sgd", "adam"]}, 2),
    "momentum": (mixed(solver="sgd"), {"momentum": [0.5, 0.9]}, 2),
    "class weights": (classifier(), {"class_weight": [None, "balanced"]}, 2),
    "kinds of losses": (regressor(), {"loss": ["huber", "absolute_error"]}, 2),
    "shares of validation": (mixed(early_stopping=True), {"validation_fraction": [0.1, 0.3]}, 2),
    "own epochs": (
        mixed(max_iter=8, early_stopping=True),
        {"stopping_rule": ["mean", "each"]},
        2,
    ),
    "bounds on gradients": (
        mixed(),
        {"callbacks": [None, [clip(0.1)], [clip(0.5)], [clip(0.1, gradient_clip_norm_type=1)]]},
        4,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GROUPED)
def test_group_by_group(name):
    """Each group is a stack of its own: two candidates and the two folds of as many rows."""
    model, grid, n_groups = GROUPED[name]
    kind = type(model).__name__.removeprefix("MultiTask").lower()
    labels = {"classifier": CLASSES, "regressor": AMOUNTS}.get(kind, Y)
    ours, _ = check_equal(model, grid | {"alpha": [0, 0.3]}, X, labels)
    sizes = ours.search_report_["stack_size"]
    assert len(sizes) == 2 * n_groups
    assert max(sizes) <= 6


def test_a_list_of_grids():
    grid = [{"alpha": [0, 1]}, {"trunk": [MMoE()], "trunk__n_experts": [2, 3]}, {"dropout": [0.3]}]
    ours, _ = check_equal(mixed(), grid)
    assert np.ma.is_masked(ours.cv_results_["param_trunk__n_experts"])


def test_an_empty_grid_is_one_candidate():
    check_equal(mixed(), {})


# What is trained alone ------------------------------------------------------------------------


class Drawn(Weighting):
    """Weights by the tasks' gradients: those of larger gradients count less."""

    needs = "gramian"
    uses_task_weights = True

    def build(self, task_weights):
        return _Drawn()


class _Drawn(nn.Module):
    def forward(self, losses, statistic, present=None):
        return statistic.diagonal(dim1=-2, dim2=-1).clamp(min=1e-6).rsqrt()


class Flat(Trunk):
    """A trunk that knows of no stack axes."""

    def build(self, spec):
        return _Flat(spec.n_inputs, spec.seed) if hasattr(spec, "seed") else _Flat(spec.n_inputs, 0)


class _Flat(nn.Module):
    def __init__(self, n_inputs, seed):
        super().__init__()
        weight = torch.from_numpy(np.random.default_rng(seed).normal(size=(3, n_inputs)))
        self.linear = nn.Linear(n_inputs, 3, dtype=torch.float64)
        self.linear.weight.data = weight
        self.linear.bias.data.zero_()
        self.n_outputs = 3

    def forward(self, x):
        return self.linear(x)


ALONE = {
    "a weighting by gradients": (mixed(weighting=Drawn()), "needs gradients of one network"),
    "a callback": (mixed(callbacks=[EpochTimer()]), "callbacks follow one fit"),
    "two callbacks": (mixed(callbacks=[clip(1.0), clip(0.1)]), "callbacks follow one fit"),
    "reports": (mixed(verbose=True), "verbose reports every epoch of one fit"),
    "no stack axes": (mixed(trunk=Flat()), "NotStackableError in a stack"),
}


@pytest.mark.parametrize("name", ALONE)
def test_one_by_one_and_why(name, capsys):
    model, reason = ALONE[name]
    ours, _ = check_equal(model, {"alpha": [0, 1]}, trained="alone")
    assert all(reason in each for each in ours.search_report_["reason"])
    assert ours.search_report_["stack_size"] == [1, 1]
    capsys.readouterr()


@pytest.mark.parametrize("model", [LogisticRegression(), make_pipeline(StandardScaler(), Ridge())])
def test_other_estimators_are_searched_one_by_one(model):
    final = model if isinstance(model, LogisticRegression) else model[-1]
    name = "C" if final is model else "ridge__alpha"
    labels = CLASSES[:, 0] if final is model else AMOUNTS
    ours, _ = check_equal(
        model, {name: [0.1, 1.0]}, X, labels, trained="alone", cv=3, return_train_score=True
    )
    reason = f"{type(final).__name__} is no multi-task estimator of this package"
    assert ours.search_report_["reason"] == [reason] * 2
    assert ours.task_scores_.shape == (2, 1 if final is model else 3)


class Squashed(MultiTaskRegressor):
    """A user's own ``fit`` and ``predict`` around ours."""

    def fit(self, X, y, sample_weight=None):
        return super().fit(np.tanh(X), y, sample_weight)

    def predict(self, X):
        return super().predict(np.tanh(X))


class Shifted(MultiTaskRegressor):
    """A user's own ``predict``."""

    def predict(self, X):
        return super().predict(X) + 1.0


class Distant(MultiTaskRegressor):
    """A user's own ``score``."""

    def score(self, X, y, sample_weight=None):
        return -float(np.nanmean(np.abs(self.predict(X) - y)))


def test_a_subclass_with_a_predict_of_its_own():
    check_equal(plain(Shifted, **SMALL), GRID, X, LABELS["regressor"])


def test_a_subclass_with_a_fit_of_its_own():
    ours = grid_search(plain(Squashed, **SMALL), GRID, X, AMOUNTS)
    assert_same_search(ours, loop(plain(Squashed, **SMALL), GRID, X, AMOUNTS))


def test_a_subclass_with_a_score_of_its_own():
    ours = grid_search(plain(Distant, **SMALL), GRID, X, AMOUNTS)
    assert_same_search(ours, loop(plain(Distant, **SMALL), GRID, X, AMOUNTS))


@pytest.mark.parametrize(
    ("params", "options"),
    [
        ({}, {"max_stack": 1}),
        ({"verbose": True}, {}),
        ({}, {"cv": ShuffleSplit(1, random_state=0)}),
    ],
    ids=["max_stack", "verbose", "one fit"],
)
def test_a_seed_as_an_object_where_nothing_is_stacked(params, options, capsys):
    model = mixed(random_state=np.random.RandomState(3), **params)
    ours = grid_search(model, {"alpha": [0.1]}, **options)
    options.pop("max_stack", None)
    assert_same_search(ours, loop(model, {"alpha": [0.1]}, **options))


def test_callbacks_with_a_function_defined_in_place():
    slower = LRScheduler(policy="LambdaLR", lr_lambda=lambda epoch: 0.9**epoch)
    check_equal(mixed(callbacks=[slower]), {"alpha": [0, 1]}, trained="alone")


# Folds ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cv",
    [
        KFold(3, shuffle=True, random_state=1),
        TimeSeriesSplit(3, test_size=15),
        ShuffleSplit(3, random_state=0, train_size=0.5),
        MultiTaskStratifiedKFold(3, random_state=0),
        [(np.arange(60), np.arange(60, N)), (np.arange(43, N), np.arange(43))],
        [(np.arange(N) < 60, np.arange(N) >= 60)],
        [(list(range(90)), [95]), (list(range(90)), [96, 97])],
    ],
    ids=lambda cv: type(cv).__name__,
)
def test_any_folds(cv):
    check_equal(mixed(), GRID, X, with_labels(Y, [95, 96, 97]), cv=cv)


def with_labels(Y, rows):
    """Labels without gaps in some rows."""
    Y = Y.copy()
    Y[rows] = np.column_stack([CLASSES[rows, 0], AMOUNTS[rows, 1:]])
    return Y


def test_groups():
    groups = np.arange(N) % 7
    ours, _ = check_equal(mixed(), GRID, fit_params={"groups": groups}, cv=GroupKFold(3))
    assert ours.n_splits_ == 3


@pytest.mark.parametrize("cv", [None, 4, np.int64(3)])
def test_a_number_of_folds_without_gaps(cv):
    check_equal(mixed(), GRID, X, np.column_stack([CLASSES[:, 0], AMOUNTS[:, 1:]]), cv=cv)
    check_equal(classifier(), GRID, X, CLASSES[:, 0], cv=cv)  # stratified, as one task is


@pytest.mark.parametrize("kind", ["classifier", "mixed"])
def test_a_number_of_folds_with_gaps_stands_for_folds_that_allow_them(kind):
    labels = LABELS[kind]
    ours = grid_search(MODELS[kind](), GRID, X, labels, cv=4)
    theirs = loop(MODELS[kind](), GRID, X, labels, cv=MultiTaskStratifiedKFold(4, shuffle=False))
    assert_same_search(ours, theirs, X)
    with_none = np.where(np.isnan(labels), None, labels.astype(object))
    if kind == "mixed":  # a classifier's classes would be other objects
        assert_same_search(grid_search(MODELS[kind](), GRID, X, with_none, cv=4), theirs)


def test_a_number_of_folds_with_gaps_for_a_regressor():
    ours = grid_search(regressor(), GRID, X, LABELS["regressor"], cv=4)
    assert_same_search(ours, loop(regressor(), GRID, X, LABELS["regressor"], cv=KFold(4)), X)


@pytest.mark.filterwarnings("ignore::sk_mtl._support.SingleClassWarning")
def test_folds_that_lack_a_class_are_stacks_of_their_own():
    labels = CLASSES.copy()
    labels[:, 2] = np.where(np.arange(N) < 30, labels[:, 2], 0)  # the first fold leaves one class
    ours, _ = check_equal(classifier(), GRID, X, labels)
    assert set(ours.search_report_["stack_size"]) == {8}  # the other two; the first has 4


@some_fail
def test_a_fold_without_labels_of_a_task():
    """It cannot be trained on; the other folds are stacked all the same."""
    labels = Y.copy()
    labels[FOLDS_OF_THREE[0], 1] = np.nan
    ours = grid_search(mixed(), GRID, X, labels)
    theirs = loop(mixed(), GRID, X, labels)
    assert ours.search_report_["trained"] == ["stacked"] * 4
    for fold in range(3):
        name = f"split{fold}_test_score"
        assert_allclose(ours.cv_results_[name], theirs.cv_results_[name], atol=1e-9, rtol=0)
    assert np.isnan(ours.cv_results_["split0_test_score"]).all()
    assert np.isnan(ours.cv_results_["mean_test_score"]).all()


FOLDS_OF_THREE = [train for train, _ in FOLDS.split(X)]


# Weights of rows ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "weight",
    [None, WEIGHT, WEIGHT[:, 0], np.where(WEIGHT > 1, 1.0, 0.0), np.arange(N) % 3 > 0],
    ids=["none", "cells", "rows", "cells left out", "rows left out"],
)
def test_weights(weight):
    ours, _ = check_equal(mixed(), GRID, fit_params={"sample_weight": weight})
    if weight is not None:  # negative control: they matter
        plain = grid_search(mixed(), GRID)
        with pytest.raises(AssertionError):
            assert_same_search(plain, ours)


def test_a_validation_set_of_the_users_own():
    given = {"X_val": X[:20], "y_val": Y[:20], "sample_weight_val": WEIGHT[:20]}
    given["sample_weight"] = WEIGHT
    check_equal(mixed(n_iter_no_change=1), GRID, fit_params=given)


# Chunks and workers ---------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000])
def test_stacks_of_any_size_score_the_same(size):
    auto = grid_search(mixed(dropout=0.1), GRID, cv=KFold(5))
    other = grid_search(mixed(dropout=0.1), GRID, cv=KFold(5), max_stack=size)
    assert_same_search(other, auto, X)
    sizes = other.search_report_["stack_size"]
    assert max(sizes) <= size
    assert max(auto.search_report_["stack_size"]) == 12  # three folds of 82 rows
    if size == 1:
        assert set(other.search_report_["reason"]) == {"max_stack is 1"}


@pytest.mark.parametrize("backend", ["loky", "threading", "sequential"])
def test_two_workers_score_as_one(backend):
    one = grid_search(mixed(dropout=0.1), GRID)
    with parallel_config(backend):
        two = grid_search(mixed(dropout=0.1), GRID, n_jobs=2)
    assert_same_search(two, one, X)
    assert two.search_report_["trained"] == ["stacked"] * 4


def test_the_number_of_workers_from_the_context():
    with parallel_config("threading", n_jobs=2):
        two = grid_search(mixed(), GRID, pre_dispatch=1)
    assert_same_search(two, grid_search(mixed(), GRID), X)


def test_the_global_random_state_is_left_alone(no_global_rng):
    grid_search(mixed(dropout=0.2, early_stopping=True), GRID)


def test_a_search_that_is_fitted_again_finds_the_same():
    search = grid_search(mixed(dropout=0.2), GRID)
    again = clone(search).fit(X, Y)
    assert_same_search(again, search, X, atol=0)
    assert_same_search(search.fit(X, Y), again, X, atol=0)


def test_single_precision():
    """The same but for rounding, of which training makes more than it was."""
    X32, Y32 = X.astype(np.float32), Y.astype(np.float32)
    ours, theirs = grid_search(mixed(), GRID, X32, Y32), loop(mixed(), GRID, X32, Y32)
    assert ours.search_report_["trained"] == ["stacked"] * 4
    assert_same_search(ours, theirs, atol=1e-3)
    check_equal(mixed(dtype="float64"), GRID, X32, Y)


# Random search and successive halving ---------------------------------------------------------


@pytest.mark.parametrize("weights", [dirichlet([1, 1, 1]), TaskWeightDistribution(3)])
def test_random_search(weights):
    draws = {
        "task_weights": weights,
        "alpha": loguniform(1e-5, 1),
        "learning_rate_init": [0.005, 0.05],
    }
    options = {"n_iter": 5, "cv": FOLDS, "random_state": 0}
    ours = VectorizedRandomizedSearchCV(mixed(), draws, **options).fit(X, Y)
    assert_same_search(ours, RandomizedSearchCV(mixed(), draws, **options).fit(X, Y), X)
    assert ours.search_report_["trained"] == ["stacked"] * 5
    other = clone(ours).set_params(random_state=1).fit(X, Y)  # negative control
    with pytest.raises(AssertionError):
        assert_same_search(other, ours)


HALVING = [
    (mixed(), {"resource": "max_iter", "max_resources": 9, "cv": FOLDS}, ""),
    (mixed(batch_size="auto"), {"min_resources": 30, "random_state": 0, "cv": FOLDS}, ""),
    (
        make_pipeline(StandardScaler(), mixed()),
        {"resource": "multitaskestimator__max_iter", "max_resources": 6, "min_resources": 2},
        "multitaskestimator__",
    ),
]


@pytest.mark.parametrize(("model", "options", "prefix"), HALVING, ids=["epochs", "rows", "pipe"])
def test_successive_halving(model, options, prefix):
    grid = {f"{prefix}alpha": [1e-4, 0.1, 1], f"{prefix}learning_rate_init": [1e-3, 0.05]}
    options = {"cv": FOLDS} | options
    ours = VectorizedHalvingGridSearchCV(model, grid, **options).fit(X, Y)
    theirs = HalvingGridSearchCV(model, grid, **options).fit(X, Y)
    assert_same_search(ours, theirs, X)
    for name in vars(theirs):
        if name.startswith(("n_", "min_", "max_")):
            assert getattr(ours, name) == getattr(theirs, name), name
    assert set(ours.search_report_["trained"]) == {"stacked"}
    n = len(ours.cv_results_["params"])
    assert ours.task_scores_.shape == (n, 3)
    assert [len(column) for column in ours.search_report_.values()] == [n] * 4


def test_halving_by_several_scores_is_refused(monkeypatch):
    monkeypatch.setattr(StackedTraining, "run", None)
    search = VectorizedHalvingGridSearchCV(
        mixed(), GRID, scoring=make_multi_task_scorer(), resource="max_iter", max_resources=4
    )
    with pytest.raises(ValueError, match="expected one that gives a number"):
        search.fit(X, Y)


# Divergence -----------------------------------------------------------------------------------


def wild_and_sane(n_others):
    """Searches of which the second candidate diverges, or does not, and the others' positions."""
    others = [0, *range(2, n_others + 1)]
    rates = np.geomspace(1e-3, 1e-2, n_others + 1)
    model = regressor(solver="sgd", max_iter=8)
    wild = {"learning_rate_init": np.where(np.arange(n_others + 1) == 1, 1e6, rates)}
    searches = [
        grid_search(model, grid, X, AMOUNTS) for grid in (wild, {"learning_rate_init": rates})
    ]
    assert all(set(each.search_report_["trained"]) == {"stacked"} for each in searches)
    return *searches, others


@some_fail
def test_a_network_that_diverges_leaves_the_bits_of_others_as_they_were():
    wild, sane, others = wild_and_sane(n_others=4)  # the stack keeps its size
    for name in [*(f"split{fold}_test_score" for fold in range(3)), "mean_test_score"]:
        assert_array_equal(wild.cv_results_[name][others], sane.cv_results_[name][others])
        assert np.isnan(wild.cv_results_[name]).tolist() == [False, True, False, False, False]
    assert_array_equal(wild.task_scores_[others], sane.task_scores_[others])
    assert np.isnan(wild.task_scores_[1]).all()
    assert 1 not in wild.pareto_front_
    assert wild.best_index_ == sane.best_index_


@some_fail
def test_those_that_go_on_in_a_smaller_stack_differ_by_rounding():
    """Its kernels add in another order; so do those of a stack in which others are done early."""
    wild, sane, others = wild_and_sane(n_others=2)
    for name in (f"split{fold}_test_score" for fold in range(3)):
        ours, theirs = (search.cv_results_[name][others] for search in (wild, sane))
        assert_allclose(ours, theirs, rtol=0, atol=1e-12)


def test_a_network_that_diverges_has_error_score_and_a_warning():
    rates = {"learning_rate_init": [1e-3, 1e6]}
    model = regressor(solver="sgd", max_iter=8)
    with pytest.warns(FitFailedWarning, match="3 fits failed out of a total of 6") as said:
        found = grid_search(model, rates, X, AMOUNTS, error_score=-7.0).cv_results_
    assert any("weights that are not finite" in str(warning.message) for warning in said)
    assert found["mean_test_score"][1] == -7.0
    assert found["rank_test_score"].tolist() == [1, 2]
    with pytest.raises(ValueError, match="Got weights that are not finite after epoch"):
        grid_search(model, rates, X, AMOUNTS, error_score="raise")


# More containers ------------------------------------------------------------------------------


def test_one_task():
    for model, labels in ((classifier(), CLASSES[:, 2]), (regressor(), AMOUNTS[:, 2])):
        ours, _ = check_equal(model, GRID, X, labels, cv=StratifiedKFold(3) if model is None else 3)
        assert ours.predict(X).ndim == 1
        assert ours.task_names_ == ["task0"]
