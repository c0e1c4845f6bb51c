"""One network a group of tasks: which groups, what each is given, and what comes back."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import polars as pl
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from plain import plain
from planted import contested, planted
from sklearn import config_context
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from stacks import NAN, estimator, table

from sk_mtl import MultiTaskClassifier, MultiTaskEstimator, MultiTaskRegressor
from sk_mtl.estimators import _ensemble as ensemble
from sk_mtl.metrics import task_scores
from sk_mtl.penalties import Graph
from sk_mtl.relations import TaskGrouper, task_affinity
from sk_mtl.relations._groups import count_groups, group_by_affinity
from sk_mtl.weighting import Weighting

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
]

# Tasks 0 and 2 help one another, and so do 1 and 3.
CHECKED = np.array(
    [[1.0, -0.5, 0.8, -0.4], [-0.5, 1.0, -0.3, 0.6], [0.8, -0.3, 1.0, -0.2], [-0.4, 0.6, -0.2, 1.0]]
)
ALTERNATING = [[0, 2], [1, 3]]


def four_tasks(**params):
    """Two classes, an amount, three classes, an amount; gaps; a model with something a task."""
    X, Y = table(missing=True)
    rng = np.random.default_rng(2)
    kinds = np.array(["low", "mid", "high"], dtype=object)[np.digitize(X[:, 2], [-0.4, 0.4])]
    frame = pd.DataFrame({"late": Y[:, 0], "cost": Y[:, 1], "kind": kinds, "time": Y[:, 2]})
    frame.loc[rng.random(len(X)) < 0.2, "kind"] = None
    defaults = {
        "tasks": {name: KINDS[name] for name in frame},
        "loss": {"cost": "huber", "late": "focal"},
        "class_weight": {"kind": "balanced"},
        "task_weights": {"late": 3.0, "time": 2.0},
        "stopping_tasks": ["time", -3],
    }
    return X, frame, estimator(**(defaults | params))


KINDS = {
    "late": "classification",
    "cost": "regression",
    "kind": "classification",
    "time": "regression",
}


# Groups ---------------------------------------------------------------------------------------


def test_average_linkage_by_hand():
    """0 and 1 first (0.9); 2 has 0.6 on average with them, 3 only 0.55 with 2: 2 joins them."""
    affinity = np.array(
        [[1, 0.9, 0.5, -0.9], [0.9, 1, 0.7, -0.9], [0.5, 0.7, 1, 0.55], [-0.9, -0.9, 0.55, 1]]
    )
    assert group_by_affinity(affinity, 3) == [[0, 1], [2], [3]]
    assert group_by_affinity(affinity, 2) == [[0, 1, 2], [3]]
    assert group_by_affinity(affinity, 1) == [[0, 1, 2, 3]]
    assert group_by_affinity(affinity, 4) == [[0], [1], [2], [3]]
    # Negative control: the last joining is at (-0.9 - 0.9 + 0.55) / 3 < 0; its best pair is not.
    assert group_by_affinity(affinity, "auto") == [[0, 1, 2], [3]]


def test_both_directions_count():
    one_way = np.array([[0, 0.9, 0.5], [0.0, 0, 0.2], [0.6, 0.2, 0]])
    assert group_by_affinity(one_way, 2) == [[0, 2], [1]]  # 0.55 on average, against 0.45
    assert group_by_affinity(one_way.T, 2) == [[0, 2], [1]]


@pytest.mark.parametrize(
    ("joined_at", "n_groups"),
    [
        ([0.9, 0.5, 0.1], 1),  # all help one another, more or less
        ([0.9, 0.5, -0.1], 2),
        ([-0.3, -0.4, -0.5], 4),  # from zero, the fall is largest to the first
        ([0.02, -0.01, -0.02, -0.3], 2),  # about zero by chance, then a conflict
        ([0.5, -0.3, -0.9], 3),  # 0.8 down to -0.3, then 0.6
        ([0.0, 0.0, 0.0], 1),
    ],
)
def test_the_number_of_groups(joined_at, n_groups):
    assert count_groups(np.array(joined_at)) == n_groups


def test_positive_affinities_make_one_group_and_negative_ones_none():
    assert group_by_affinity(np.full((4, 4), 0.1), "auto") == [[0, 1, 2, 3]]
    assert group_by_affinity(np.full((4, 4), -0.1), "auto") == [[0], [1], [2], [3]]
    assert group_by_affinity(np.full((3, 3), NAN), "auto") == [[0, 1, 2]]
    assert group_by_affinity(CHECKED, "auto") == ALTERNATING


def test_labels_of_tasks_do_not_matter():
    """A permutation of the tasks permutes the groups."""
    order = [3, 0, 2, 1]
    groups = group_by_affinity(CHECKED[np.ix_(order, order)], "auto")
    assert sorted(sorted(order[t] for t in group) for group in groups) == ALTERNATING


# Networks -------------------------------------------------------------------------------------


def test_each_group_is_trained_by_what_it_was_given_for_its_tasks():
    X, Y, model = four_tasks()
    grouper = TaskGrouper(model, affinity=CHECKED, n_groups=2).fit(X, Y)
    assert grouper.groups_ == [["late", "kind"], ["cost", "time"]]
    first = clone(model).set_params(
        tasks=["classification", "classification"],
        loss=["focal", None],
        class_weight=[None, "balanced"],
        task_weights=[3.0, 1.0],
        stopping_tasks=None,
    )
    second = clone(model).set_params(
        tasks=["regression", "regression"],
        loss=["huber", None],
        class_weight=None,
        task_weights=[1.0, 2.0],
        stopping_tasks=["time", "cost"],
    )
    first.fit(X, Y[["late", "kind"]])
    second.fit(X, Y[["cost", "time"]])
    expected = np.empty((len(X), 4), dtype=object)
    expected[:, [0, 2]], expected[:, [1, 3]] = first.predict(X), second.predict(X)
    found = grouper.predict(X)
    assert_array_equal(found[:, [0, 2]], expected[:, [0, 2]])
    assert_allclose(found[:, [1, 3]].astype(float), expected[:, [1, 3]].astype(float), atol=1e-9)
    probabilities = grouper.predict_proba(X)
    assert [None if p is None else p.shape[1] for p in probabilities] == [2, None, 3, None]
    assert_allclose(probabilities[2], first.predict_proba(X)[1], rtol=0, atol=1e-9)
    assert_allclose(grouper.predict_log_proba(X)[0], np.log(probabilities[0]), atol=1e-9)
    assert [None if c is None else c.tolist() for c in grouper.classes_] == [
        [0, 1], None, ["high", "low", "mid"], None,
    ]  # fmt: skip
    # Negative control: without what was given for the tasks, something else is learned.
    plain = clone(second).set_params(loss=None, task_weights=None).fit(X, Y[["cost", "time"]])
    assert np.abs(plain.predict(X) - second.predict(X)).max() > 0.01


@pytest.mark.parametrize(
    "container", [np.asarray, pd.DataFrame, pl.DataFrame, lambda Y: Y.tolist()]
)
@pytest.mark.parametrize("groups", [ALTERNATING, [[0, 2], [1], [3]]], ids=["pairs", "and alone"])
def test_containers(container, groups):
    X, Y = planted(0, n_rows=60, sizes=(2, 2))
    model = contested(batch_size=20, max_iter=3, random_state=0)
    found = TaskGrouper(model, affinity=CHECKED, n_groups=len(groups)).fit(X, container(Y))
    assert [len(group) for group in found.groups_] == [len(group) for group in groups]
    for g, tasks in enumerate(groups):
        tasks = tasks if len(tasks) > 1 else tasks[0]
        expected = clone(model).fit(X, Y[:, tasks]).predict(X)
        assert_allclose(found.estimators_[g].predict(X), expected, rtol=0, atol=1e-9)
        assert_allclose(found.predict(X)[:, tasks], expected, rtol=0, atol=1e-9)


def test_a_group_of_one_is_an_ordinary_estimator():
    X, Y, model = four_tasks(class_weight=None)
    conflict = np.full((4, 4), -1.0)
    found = TaskGrouper(model, affinity=conflict).fit(X, Y)
    assert found.groups_ == [["late"], ["cost"], ["kind"], ["time"]]
    own = {"tasks": ["regression"], "loss": ["huber"], "task_weights": None, "stopping_tasks": None}
    expected = clone(model).set_params(**own).fit(X, Y["cost"]).predict(X)
    assert_allclose(found.predict(X)[:, 1].astype(float), expected, rtol=0, atol=1e-9)


def test_a_penalty_between_heads_stays_where_there_are_some():
    X, Y = planted(0, n_rows=60, sizes=(2, 1))
    model = contested(batch_size=20, max_iter=3, random_state=0, penalty="trace_norm")
    affinity = np.array([[1, 1, -1], [1, 1, -1], [-1, -1, 1.0]])
    found = TaskGrouper(model, affinity=affinity).fit(X, Y)
    assert [each.penalty for each in found.estimators_] == ["trace_norm", None]
    expected = clone(model).fit(X, Y[:, :2]).predict(X)
    assert_allclose(found.predict(X)[:, :2], expected, rtol=0, atol=1e-9)


def test_weights_of_cells_and_validation_labels_go_with_their_tasks():
    X, Y = planted(0, n_rows=80, sizes=(2, 2))
    weight = np.random.default_rng(0).uniform(0.5, 2.0, size=Y.shape)
    model = contested(batch_size=20, max_iter=4, random_state=0)
    given = {"X_val": X[60:], "y_val": Y[60:], "sample_weight_val": weight[60:]}
    grouper = TaskGrouper(model, affinity=CHECKED)
    found = grouper.fit(X[:60], Y[:60], sample_weight=weight[:60], **given)
    for g, tasks in enumerate(ALTERNATING):
        own = {"X_val": X[60:], "y_val": Y[60:, tasks], "sample_weight_val": weight[60:, tasks]}
        expected = clone(model).fit(X[:60], Y[:60, tasks], weight[:60, tasks], **own)
        assert_allclose(found.estimators_[g].predict(X), expected.predict(X), rtol=0, atol=1e-9)
    names = list("abcd")
    frames = {
        "sample_weight": pd.DataFrame(weight[:60], columns=names)[["d", "a", "c", "b"]],
        "X_val": X[60:],
        "y_val": pd.DataFrame(Y[60:], columns=names)[["d", "a", "c", "b"]],
        "sample_weight_val": weight[60:],
    }
    by_name = clone(grouper).fit(X[:60], pd.DataFrame(Y[:60], columns=names), **frames)
    assert_allclose(by_name.predict(X), found.predict(X), rtol=0, atol=1e-9)


def test_groups_of_one_form_are_trained_as_a_stack(monkeypatch):
    sizes = []

    def train_stack(sessions, plans):
        sizes.append(len(sessions))
        return original(sessions, plans)

    original = ensemble.train_stack
    monkeypatch.setattr(ensemble, "train_stack", train_stack)
    X, Y = planted(0, n_rows=60, sizes=(2, 2))
    TaskGrouper(contested(batch_size=20, max_iter=2), affinity=CHECKED).fit(X, Y)
    assert sizes == [2]


def test_groups_are_made_by_the_affinity_of_the_training_rows():
    X, Y = planted(0, n_rows=100)
    model = contested(batch_size=20, max_iter=10, random_state=0)
    for method in ("gradient", "lookahead", "transfer"):
        found = TaskGrouper(model, affinity=method, random_state=0).fit(X, Y)
        expected = task_affinity(model, X, Y, method, random_state=0)
        assert_array_equal(found.affinity_, expected)
        groups = group_by_affinity(expected.to_numpy(), "auto")
        assert found.groups_ == [[f"task{t}" for t in group] for group in groups]


def test_a_frame_of_affinities_is_read_by_name():
    X, Y = planted(0, n_rows=60, sizes=(2, 2))
    names = list("abcd")
    affinity = pd.DataFrame(CHECKED, index=names, columns=names).loc[["d", "a", "c", "b"]]
    model = contested(batch_size=20, max_iter=2)
    found = TaskGrouper(model, affinity=affinity).fit(X, pd.DataFrame(Y, columns=names))
    assert found.groups_ == [["a", "c"], ["b", "d"]]


def test_one_task_is_one_group():
    X, Y = planted(0, n_rows=60)
    model = contested(batch_size=20, max_iter=2, random_state=0)
    found = TaskGrouper(model).fit(X, Y[:, 0])
    assert found.groups_ == [["task0"]]
    assert_array_equal(found.predict(X), clone(model).fit(X, Y[:, 0]).predict(X))


# scikit-learn ---------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::sk_mtl._support.SingleClassWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.DataConversionWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks(
    [
        TaskGrouper(plain(MultiTaskClassifier, max_iter=60)),
        TaskGrouper(plain(MultiTaskRegressor, max_iter=60)),
    ]
)
def test_scikit_learn_check(estimator, check):
    check(estimator)


def test_it_is_what_its_estimator_is():
    assert is_classifier(TaskGrouper(plain(MultiTaskClassifier)))
    assert is_regressor(TaskGrouper(plain(MultiTaskRegressor)))
    mixed = TaskGrouper(plain(MultiTaskEstimator))
    assert not is_classifier(mixed)
    assert not is_regressor(mixed)
    assert not hasattr(TaskGrouper(plain(MultiTaskRegressor)), "predict_proba")
    assert hasattr(mixed, "predict_proba")


def test_inside_of_searches_pipelines_and_copies():
    X, Y = planted(0, n_rows=60)
    grouper = TaskGrouper(contested(batch_size=20, max_iter=3, random_state=0), n_groups=2)
    scores = cross_val_score(grouper, X, Y, cv=KFold(3))
    train, test = next(KFold(3).split(X))
    first = clone(grouper).fit(X[train], Y[train])
    assert scores[0] == first.score(X[test], Y[test])
    assert_allclose(scores[0], np.mean(list(task_scores(first, X[test], Y[test]).values())))
    grid = {"n_groups": [1, 3], "estimator__hidden_layer_sizes": [(2,), (4,)]}
    search = GridSearchCV(grouper, grid, cv=KFold(2)).fit(X, Y)
    assert len(search.best_estimator_.groups_) == search.best_params_["n_groups"]
    again = pickle.loads(pickle.dumps(first))
    assert_array_equal(again.predict(X), first.predict(X))
    inner = TaskGrouper(make_pipeline(StandardScaler(), grouper.estimator), n_groups=2)
    outer = make_pipeline(StandardScaler(), grouper)
    found = inner.fit(5 * X, Y)
    assert_allclose(found.predict(5 * X), outer.fit(5 * X, Y).predict(5 * X), rtol=0, atol=1e-9)
    assert all(hasattr(each, "steps") for each in found.estimators_)


def test_metadata_routing_hands_weights_on():
    X, Y = planted(0, n_rows=60, sizes=(2, 2))
    weight = np.random.default_rng(0).uniform(0.5, 2.0, size=60)
    model = contested(batch_size=20, max_iter=3, random_state=0)
    expected = TaskGrouper(model, affinity=CHECKED).fit(X, Y, sample_weight=weight).predict(X)
    with config_context(enable_metadata_routing=True):
        asked = clone(model).set_fit_request(sample_weight=True)
        found = TaskGrouper(asked, affinity=CHECKED).fit(X, Y, sample_weight=weight)
    assert_array_equal(found.predict(X), expected)
    unweighted = TaskGrouper(model, affinity=CHECKED).fit(X, Y).predict(X)
    assert np.abs(unweighted - expected).max() > 1e-3


@pytest.mark.usefixtures("no_global_rng")
def test_seeds():
    X, Y = planted(0, n_rows=60)
    grouper = TaskGrouper(contested(batch_size=20, max_iter=3), random_state=0)
    first, again = (clone(grouper).fit(X, Y).predict(X) for _ in range(2))
    assert_array_equal(first, again)
    other = clone(grouper).set_params(random_state=1).fit(X, Y).predict(X)
    assert np.abs(first - other).max() > 0.01


class ByName(Weighting):
    def __init__(self, shares=None):
        self.shares = shares

    def build(self, task_weights):
        raise AssertionError("it was to be refused before")


@pytest.mark.parametrize(
    ("options", "params", "error", "said"),
    [
        ({"n_groups": 7}, {}, ValueError, "Got n_groups=7 for 6 tasks, expected no more groups"),
        ({"n_groups": 0}, {}, ValueError, "The 'n_groups' parameter of TaskGrouper"),
        ({"affinity": "cosine"}, {}, ValueError, "The 'affinity' parameter of TaskGrouper"),
        ({"affinity": np.eye(3)}, {}, ValueError, r"Got affinity of shape \(3, 3\), expected"),
        ({}, {"trunk": "single_task"}, ValueError, "whose tasks share nothing"),
        ({}, {"weighting": ByName({"task1": 2.0})}, ValueError, "with shares by task, expected"),
        (
            {},
            {"penalty": Graph(similarity=np.ones((6, 6)))},
            ValueError,
            "with similarity by task, expected none",
        ),
        (
            {},
            {"task_dependencies": {"task1": "task0"}},
            ValueError,
            "for a part of the tasks, expected None",
        ),
        ({}, {"task_weights": [1, 2]}, ValueError, "Got task_weights of length 2, expected 6"),
    ],
)
def test_what_cannot_be_grouped_is_refused_and_leaves_nothing(options, params, error, said):
    X, Y = planted(0, n_rows=60)
    grouper = TaskGrouper(contested(**params), **options)
    with pytest.raises(error, match=said):
        grouper.fit(X, Y)
    assert not [name for name in vars(grouper) if name.endswith("_")]
    with pytest.raises(NotFittedError):
        grouper.predict(X)


def test_other_estimators_are_refused():
    from sklearn.linear_model import Ridge

    with pytest.raises(TypeError, match="Got Ridge, expected a multi-task estimator of this pack"):
        TaskGrouper(Ridge()).fit(*planted(0, n_rows=60))


# Planted structure ----------------------------------------------------------------------------


@pytest.mark.slow
def test_planted_groups_are_found_in_nine_of_ten_seeds():
    found = [
        TaskGrouper(contested(random_state=seed)).fit(*planted(seed)).groups_ for seed in range(10)
    ]
    truth = [["task0", "task1", "task2"], ["task3", "task4", "task5"]]
    assert sum(groups == truth for groups in found) >= 9
