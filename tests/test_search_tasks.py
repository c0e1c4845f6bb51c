"""What a search tells of its candidates: scores, tasks, the front, and how they were trained."""

from __future__ import annotations

import io
import pickle
import warnings
from contextlib import redirect_stdout

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from searches import (
    AMOUNTS,
    CLASSES,
    GRID,
    LABELS,
    WEIGHT,
    N,
    X,
    Y,
    assert_same_results,
    check_equal,
    grid_search,
    loop,
    mixed,
    pipe,
    regressor,
    some_fail,
    task_scores_by_hand,
)
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from sk_mtl.metrics import make_multi_task_scorer, make_task_scorer
from sk_mtl.model_selection import Knee, closest_to_preference, hypervolume, non_dominated
from sk_mtl.stacked_training import StackedTraining

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


# Scores ---------------------------------------------------------------------------------------


def spread(model, X, y):
    """A scorer of the user's own, of several numbers."""
    return {"width": float(np.ptp(model.predict(X)[:, 1])), "epochs": float(model.n_iter_)}


SCORES = {
    "a name": {"scoring": "neg_mean_squared_error"},
    "names": {"scoring": ["r2", "neg_mean_absolute_error"], "refit": "r2"},
    "a dict": {
        "scoring": {"one": make_task_scorer(task=0), "two": make_task_scorer("r2", task="task1")},
        "refit": "two",
    },
    "every task": {"scoring": make_multi_task_scorer(), "refit": "mean"},
    "tasks apart": {"scoring": make_multi_task_scorer(average=False), "refit": "task2"},
    "a function": {"scoring": lambda model, X, y: float(model.predict(X).std() + X.mean())},
    "a function of several": {"scoring": spread, "refit": "width"},
    "a rule": {
        "scoring": make_multi_task_scorer(),
        "refit": lambda results: int(results["mean_test_task1"].argmin()),
    },
}


@pytest.mark.parametrize("name", SCORES)
def test_scoring(name):
    model, labels = regressor(), AMOUNTS
    ours, theirs = check_equal(model, GRID, X, labels, return_train_score=True, **SCORES[name])
    assert ours.task_scores_.shape == (4, 3)
    assert type(ours.scorer_) is type(theirs.scorer_)
    if not callable(ours.refit):
        assert ours.score(X, labels) == theirs.score(X, labels)


@some_fail
def test_a_scorer_that_fails_has_error_score():
    def choosy(model, X, y):
        if model.alpha > 0.1:
            raise ZeroDivisionError("too much")
        return 1.0

    ours, theirs = (search(mixed(), GRID, scoring=choosy) for search in (grid_search, loop))
    assert_same_results(ours.cv_results_, theirs.cv_results_)
    assert np.isnan(ours.cv_results_["mean_test_score"]).tolist() == [False, False, True, True]
    assert ours.best_index_ == theirs.best_index_
    with pytest.raises(ZeroDivisionError, match="too much"):
        grid_search(mixed(), GRID, scoring=choosy, error_score="raise")


@some_fail
@pytest.mark.parametrize("scoring", ["r2", {"one": "r2", "two": make_task_scorer(task=0)}])
def test_a_metric_that_knows_no_gaps(scoring):
    labels, refit = LABELS["regressor"], isinstance(scoring, dict) and "two"
    options = {"scoring": scoring, "refit": refit}
    ours, theirs = (s(regressor(), GRID, X, labels, **options) for s in (grid_search, loop))
    assert_same_results(ours.cv_results_, theirs.cv_results_)
    assert np.isfinite(ours.task_scores_).all()


def test_several_scores_need_a_choice():
    with pytest.raises(ValueError, match="For multi-metric scoring, the parameter refit must be"):
        grid_search(mixed(), GRID, scoring=make_multi_task_scorer())
    with pytest.raises(ValueError, match="For multi-metric scoring"):
        grid_search(regressor(), GRID, X, AMOUNTS, scoring=["r2"])


# Tasks ----------------------------------------------------------------------------------------


def test_scores_of_tasks_are_means_over_folds():
    search = grid_search(mixed(), GRID)
    by_hand = task_scores_by_hand(search, mixed())
    assert_allclose(search.task_scores_, by_hand, rtol=0, atol=1e-9)
    assert_allclose(search.cv_results_["mean_test_score"], by_hand.mean(axis=1), atol=1e-9)
    assert search.task_names_ == ["task0", "task1", "task2"]
    assert_array_equal(search.pareto_front_, np.flatnonzero(non_dominated(by_hand)))


def test_scores_of_tasks_are_those_of_the_scoring_if_it_names_them():
    metric = {"regression": "neg_mean_absolute_error"}
    scoring = make_multi_task_scorer(metric)
    search = grid_search(mixed(), GRID, scoring=scoring, refit="mean")
    for t, name in enumerate(search.task_names_):
        assert_array_equal(search.task_scores_[:, t], search.cv_results_[f"mean_test_{name}"])
    assert (search.task_scores_[:, 1:] < 0).all()


def test_what_a_fold_leaves_undefined_counts_for_no_candidate():
    """One labelled row gives no R2: such a fold is left out of that task's mean."""
    labels = np.column_stack([CLASSES[:, 0], AMOUNTS[:, 1:]])
    labels[:35, 1] = np.nan  # the rows that the first fold leaves out, but one
    labels[3, 1] = 1.0
    search = grid_search(mixed(), GRID, X, labels)
    scoring = make_multi_task_scorer(average=False)
    with pytest.warns(UserWarning, match="One or more of the test scores"):
        table = loop(mixed(), GRID, X, labels, scoring=scoring, refit=lambda r: 0).cv_results_
    folds = np.column_stack([table[f"split{fold}_test_task1"] for fold in range(3)])
    assert np.isnan(folds).tolist() == [[True, False, False]] * 4
    assert_allclose(search.task_scores_[:, 1], folds[:, 1:].mean(axis=1), atol=1e-9)


def front_of(n):
    """A search whose candidates trade one task against another."""
    weights = [[1 - share, share, 0.2] for share in np.linspace(0.02, 0.98, n)]
    return grid_search(mixed(learning_rate_init=0.05), {"task_weights": weights}, refit=Knee())


def test_the_front_its_knee_and_a_choice_on_it():
    search = front_of(6)
    scores = search.task_scores_
    for c in range(6):  # by the definition
        beaten = ((scores >= scores[c]).all(axis=1) & (scores > scores[c]).any(axis=1)).any()
        assert beaten == (c not in search.pareto_front_)
    assert search.best_index_ in search.pareto_front_
    assert not hasattr(search, "best_score_")  # as of scikit-learn's, where a rule chooses
    for wanted in ([1, 1, 1], [1, 0, 0], [0, 3, 1]):
        assert search.select(wanted) == closest_to_preference(scores, wanted)
    assert search.select({"task1": 1}) == search.select([0, 1, 0]) == scores[:, 1].argmax()
    front, worst = scores[search.pareto_front_], scores.min(axis=0)
    assert search.hypervolume() == hypervolume(front, worst)
    assert search.hypervolume([-1, -2, -3]) == hypervolume(front, [-1, -2, -3])
    assert search.hypervolume({"task2": -3, "task0": -1, "task1": -2}) == hypervolume(
        front, [-1, -2, -3]
    )


def test_the_knee_equals_that_of_scikit_learns_search():
    weights = {"task_weights": [[1 - share, share, 0.2] for share in (0.02, 0.4, 0.6, 0.98)]}
    theirs = loop(mixed(), weights, scoring=make_multi_task_scorer(), refit=Knee())
    assert grid_search(mixed(), weights, refit=Knee()).best_index_ == theirs.best_index_


def test_a_rule_is_shown_scores_of_tasks_that_the_results_lack():
    seen = []
    search = grid_search(mixed(), GRID, refit=lambda results: seen.append(results) or 2)
    shown = set(seen[0]) - set(search.cv_results_)
    assert shown == {"mean_test_task0", "mean_test_task1", "mean_test_task2"}
    assert_array_equal(seen[0]["mean_test_task1"], search.task_scores_[:, 1])
    assert search.best_index_ == 2
    assert search.best_params_ == search.cv_results_["params"][2]


def test_the_score_where_a_rule_chose_among_several():
    scoring = make_multi_task_scorer()
    search = grid_search(mixed(), GRID, scoring=scoring, refit=Knee())
    assert search.score(X, Y) == search.best_estimator_.score(X, Y)
    named = grid_search(mixed(), GRID, scoring=scoring, refit="task1")
    assert named.score(X, Y) == scoring(named, X, Y)["task1"]


def test_a_knee_of_no_task_is_refused_before_any_network_is_trained(monkeypatch):
    monkeypatch.setattr(StackedTraining, "run", None)
    for scoring in (None, make_multi_task_scorer()):
        with pytest.raises(ValueError, match=r"Got results without scores of \['task7'\]"):
            grid_search(mixed(), GRID, refit=Knee(["task0", "task7"]), scoring=scoring)


BAD_CHOICES = [
    ({"spends": 1}, "Got preference for unknown task 'spends'"),
    ({"task0": -1}, r"Got preference=\[-1, 0.0, 0.0\], expected finite numbers >= 0"),
    ([1, 2], r"Got preference of shape \(2,\), expected \(3,\)"),
    ({}, "not all of them zero"),
]


@pytest.fixture(scope="module")
def fitted():
    """A fitted search; tests do not change it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return grid_search(pipe(), {"mtl__task_weights": [[1, 0.1, 0.1], [0.1, 1, 1], None]})


def test_choices_that_are_refused(fitted):
    for wanted, message in BAD_CHOICES:
        with pytest.raises(ValueError, match=message):
            fitted.select(wanted)
    for positions in ([3], [-1], ["task0"], [0.5], [[0]], True, [True, False]):
        with pytest.raises(ValueError, match=r"expected positions from 0 to 2\. Take them from"):
            fitted.fit_candidates(X, Y, positions)
    fresh = clone(fitted)
    for call in (lambda: fresh.select([1, 1, 1]), fresh.hypervolume):
        with pytest.raises(NotFittedError):
            call()
    with pytest.raises(NotFittedError):
        fresh.fit_candidates(X, Y)


def test_the_networks_of_the_front(fitted):
    """As one stack, each as its own ``fit`` would make it; no two share a step."""
    models = fitted.fit_candidates(X, Y, range(3), mtl__sample_weight=WEIGHT)
    for model, params in zip(models, fitted.cv_results_["params"], strict=True):
        alone = clone(fitted.estimator).set_params(**params).fit(X, Y, mtl__sample_weight=WEIGHT)
        assert_allclose(model.predict(X), alone.predict(X), rtol=0, atol=1e-8)
        assert model["mtl"].n_iter_ == alone["mtl"].n_iter_
        assert_array_equal(pickle.loads(pickle.dumps(model)).predict(X), model.predict(X))
    assert len({id(model["scale"]) for model in models}) == 3
    assert len(fitted.fit_candidates(X, Y)) == len(fitted.pareto_front_)
    assert len(fitted.fit_candidates(X, Y, np.int64(1))) == 1
    assert fitted.fit_candidates(X, Y, []) == []
    (masked,) = fitted.fit_candidates(X, Y, [False, True, False], mtl__sample_weight=WEIGHT)
    assert_allclose(masked.predict(X), models[1].predict(X), rtol=0, atol=1e-8)


def test_the_networks_of_the_front_are_trained_side_by_side(fitted, monkeypatch):
    sizes = []
    run = StackedTraining.run
    monkeypatch.setattr(
        StackedTraining, "run", lambda self: sizes.append(len(self.members)) or run(self)
    )
    fitted.fit_candidates(X, Y, [0, 1, 2])
    assert sizes == [3]


def test_candidates_that_fail_are_raised(fitted):
    with pytest.raises(ValueError, match="contains infinity"):
        fitted.fit_candidates(np.where(X > 1, np.inf, X), Y)


# The report -----------------------------------------------------------------------------------


def test_the_report_tells_of_every_candidate():
    grid = [{"alpha": [0, 1]}, {"trunk": ["mmoe"], "verbose": [True]}, {"hidden_layer_sizes": [60]}]
    with redirect_stdout(io.StringIO()):
        report = grid_search(mixed(), grid, cv=[(np.arange(60), np.arange(60, N))]).search_report_
    assert list(report) == ["trained", "stack_size", "network_bytes", "reason"]
    assert report["trained"] == ["stacked", "stacked", "alone", "alone"]
    assert report["stack_size"] == [2, 2, 1, 1]
    assert report["reason"] == [
        "",
        "",
        "verbose reports every epoch of one fit",
        "no other candidate or fold has its form",
    ]
    small, same, unknown, wide = report["network_bytes"]
    assert wide > small == same > 8 * (4 * 6 + 6 * 5)  # four of every weight, in double precision
    assert unknown == 0


@some_fail
def test_a_bad_candidate_that_comes_first_keeps_no_other_from_the_stack():
    search = grid_search(mixed(), {"alpha": [-1, 0, 1]})
    assert search.search_report_["trained"] == ["alone", "stacked", "stacked"]


@some_fail
def test_the_report_does_not_call_failures_small_stacks():
    report = grid_search(mixed(), {"trunk": ["nothing", "mmoe"], "alpha": [0, 1]}).search_report_
    assert report["trained"] == ["alone", "stacked"] * 2
    assert "max_stack is 1" not in report["reason"]
