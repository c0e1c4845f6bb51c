"""Estimators of tasks that depend on others: training, searches, copies, levels."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from chains import NAN, both_ways, every_trunk, model_of, shop, slow_outputs
from numpy.testing import assert_allclose, assert_array_equal
from plain import plain
from searches import check_equal, grid_search, mixed
from sklearn.base import clone
from stacks import estimator, fit_alone, fit_stack, open_stack, plain_loss, raw, table, weights

from sk_mtl import MultiTaskClassifier
from sk_mtl.cascades import OutputCascade
from sk_mtl.estimators import _stacking as stacking
from sk_mtl.estimators._run import build
from sk_mtl.weighting import ByLevel

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

CHAIN = {"task1": "task0", "task2": ["task0", "task1"]}

# One step after the other -------------------------------------------------------------------


@every_trunk
@both_ways
def test_steps_of_descent_with_missing_labels_of_parents(trunk, flows):
    """Four steps by hand, on rows of which half lack the label of the parent."""
    X, Y = table()
    Y[::2, 0] = NAN
    Y[::5, 1] = NAN
    step = {"solver": "sgd", "momentum": 0.0, "alpha": 0.0, "learning_rate_init": 0.1}
    model = estimator(
        trunk,
        task_dependencies=OutputCascade(CHAIN, flows),
        batch_size=len(X),
        max_iter=4,
        activation="tanh",
        **step,
    )
    (session,), (plan,) = open_stack([model], [(X, Y, {})])
    network, est = build([session], [plan], stack=()), session.est
    inputs, target = torch.from_numpy(X), plan.train.y
    private = plan.trunk.private
    for _ in range(4):
        network.zero_grad()
        slow = slow_outputs(network, est._links, est._tasks, inputs)
        loss = plain_loss(_Given(network, slow), inputs, target, [1, 1, 1], private=private)
        if hasattr(network.trunk, "penalty"):
            loss = loss + network.trunk.penalty()
        loss.backward()
        with torch.no_grad():
            for p in network.parameters():
                p -= 0.1 * p.grad
    by_hand = torch.cat([out.flatten() for out in network(inputs)]).detach().numpy()
    model.fit(X, Y)
    assert_allclose(raw(model, X), by_hand, rtol=0, atol=1e-10)
    other = clone(model).set_params(task_dependencies=OutputCascade(CHAIN, not flows)).fit(X, Y)
    assert np.abs(raw(other, X) - by_hand).max() > 1e-6  # negative control


class _Given:
    """Outputs a task, as a network would give them a group."""

    def __init__(self, network, outputs):
        self.groups = network.groups
        self.outputs = outputs

    def __call__(self, X):
        return tuple(torch.stack([self.outputs[t] for t in g.tasks]) for g in self.groups)


def test_parents_that_share_nothing_do_not_notice_their_children():
    """To the last bit; with a gradient that flows back they do."""
    X, Y = table()
    of_parent = [
        estimator("single_task", task_dependencies=d).fit(X, Y).predict_proba(X)[0]
        for d in (None, CHAIN, OutputCascade(CHAIN, backpropagate=True))
    ]
    assert_array_equal(of_parent[0], of_parent[1])
    assert np.abs(of_parent[2] - of_parent[0]).max() > 1e-4


def planted(seed, n_rows=1000):
    """A parent behind a wave, and a child that is its negation on half of the rows.

    The child is labelled on 60 rows only: too few to find the wave from.
    """
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_rows, 4))
    parent = np.sin(3 * X[:, 0]) + X[:, 1] > 0
    child = parent ^ (X[:, 2] > 0)
    Y = np.column_stack([parent, child]).astype(float)
    Y[60:, 1] = NAN
    return X, Y, child


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_child_that_follows_from_its_parent_is_learned_better(seed):
    """Each task has one hidden layer of its own; exclusive or takes that, and the wave another."""
    X, Y, _ = planted(seed)
    X_new, _, child = planted(100 + seed, 2000)

    def accuracy(dependencies):
        model = plain(
            MultiTaskClassifier,
            hidden_layer_sizes=(),
            head_hidden_layer_sizes=(16,),
            learning_rate_init=0.03,
            max_iter=100,
            task_dependencies=dependencies,
            random_state=seed,
        )
        return (model.fit(X, Y).predict(X_new)[:, 1] == child).mean()

    apart, linked = accuracy(None), accuracy({"task1": "task0"})
    assert apart > 0.6  # a fair opponent: it has learned something
    assert linked > apart + 0.05


@every_trunk
@both_ways
def test_training_in_a_stack_is_training_alone(trunk, flows):
    X, Y = table(missing=True)
    cascade = OutputCascade(CHAIN, flows)
    models = [
        estimator(trunk, task_dependencies=cascade, random_state=s, alpha=a, dropout=0.1)
        for s, a in ((0, 0.0), (1, 0.1), (2, 0.0))
    ]
    data = [(X, Y, {})] * 3
    together, errors = fit_stack(models, data)
    assert errors == [None] * 3
    alone = fit_alone(models, data)
    for ours, theirs in zip(together, alone, strict=True):
        assert_allclose(raw(ours, X), raw(theirs, X), rtol=0, atol=1e-10)
        assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=0, atol=1e-10)
    assert np.abs(raw(together[0], X) - raw(alone[1], X)).max() > 1e-3  # negative control


def test_networks_of_other_dependencies_are_of_another_form():
    """Also where their heads have the same sizes and levels."""
    X, Y = table()
    links = [
        {"task1": "task0", "task2": "task0"},
        OutputCascade({"task1": "task0", "task2": "task0"}, backpropagate=True),
        {"task1": "task0", "task2": "task1"},
        {"task2": "task0", "task1": "task2"},
        None,
    ]
    models = [estimator(task_dependencies=d) for d in [*links, OutputCascade(links[0])]]
    sessions, plans = open_stack(models, [(X, Y, {})] * 6)
    forms = [stacking.form(s, p) for s, p in zip(sessions, plans, strict=True)]
    assert len(set(forms)) == 5
    assert forms[0] == forms[5]  # the same said in two ways


@pytest.mark.parametrize("trunk", ["shared_bottom", "mmoe", "single_task"])
def test_a_search_over_dependencies_is_scikit_learns(trunk):
    dependencies = [None, {"task1": "task0"}, CHAIN, OutputCascade(CHAIN, backpropagate=True)]
    grid = {"task_dependencies": dependencies, "alpha": [0.0, 0.3]}
    ours, _ = check_equal(mixed(trunk=trunk), grid)
    scores = np.reshape(ours.cv_results_["mean_test_score"], (2, 4))  # alpha, dependencies
    assert len(np.unique(scores.round(9))) > 6  # they matter
    assert max(ours.search_report_["stack_size"]) >= 4  # alphas and folds, side by side


def test_a_cascade_is_searched_by_its_parameter():
    model = mixed(task_dependencies=OutputCascade(CHAIN))
    ours, _ = check_equal(model, {"task_dependencies__backpropagate": [False, True]})
    assert np.ptp(ours.cv_results_["mean_test_score"]) > 0


# Continued, copied --------------------------------------------------------------------------


def test_training_does_not_go_on_with_other_dependencies():
    X, Y = table()
    model = estimator(task_dependencies={"task1": "task0"}, warm_start=True).fit(X, Y)
    before = raw(model, X)
    for other in (None, CHAIN, OutputCascade({"task1": "task0"}, backpropagate=True)):
        model.set_params(task_dependencies=other)
        for go_on in (model.fit, model.partial_fit):
            with pytest.raises(ValueError) as error:
                go_on(X, Y)
            assert str(error.value) == (
                f"Got task_dependencies={other!r} to continue a network with "
                "task_dependencies={'task1': 'task0'}, expected the same. Set warm_start=False, "
                "or clone the estimator."
            )
    assert_array_equal(raw(model, X), before)
    model.set_params(task_dependencies=OutputCascade({"task1": ["task0"]}))  # means the same
    assert np.abs(raw(model.fit(X, Y), X) - before).max() > 1e-4


def test_epochs_one_by_one_are_a_fit():
    X, Y = table()
    whole = estimator(task_dependencies=CHAIN, max_iter=3, tol=0.0).fit(X, Y)
    piecewise = estimator(task_dependencies=CHAIN)
    for _ in range(3):
        piecewise.partial_fit(X, Y)
    assert_array_equal(raw(piecewise, X), raw(whole, X))


def test_copies_predict_and_go_on_alike():
    X, Y = table()
    model = estimator(task_dependencies=OutputCascade(CHAIN, True), warm_start=True).fit(X, Y)
    copy = pickle.loads(pickle.dumps(model))
    assert_array_equal(raw(copy, X), raw(model, X))
    assert_array_equal(raw(copy.fit(X, Y), X), raw(model.fit(X, Y), X))
    unfitted = clone(model)
    assert not hasattr(unfitted, "net_")
    assert repr(unfitted.task_dependencies) == repr(model.task_dependencies)
    assert unfitted.task_dependencies is not model.task_dependencies


# Weightings by gradients --------------------------------------------------------------------

REFUSED = (
    "Got weighting={!r} with task_dependencies in which a task's loss reaches others' heads, "
    "expected a weighting by losses: it takes the tasks' gradients apart. Use "
    "OutputCascade(..., backpropagate=False)."
)


@pytest.mark.parametrize("weighting", ["pcgrad", "upgrad", "mgda"])
def test_weightings_by_gradients_need_tasks_that_can_be_taken_apart(weighting):
    X, Y = table()
    model = estimator(task_dependencies=CHAIN, weighting=weighting).fit(X, Y)
    assert model.loss_curve_[-1] < model.loss_curve_[0]
    flowing = OutputCascade(CHAIN, backpropagate=True)
    rows, bought, _ = shop()
    refused = [
        (estimator(task_dependencies=flowing, weighting=weighting), X, Y),
        (model_of(weighting=weighting), rows, bought),  # a funnel
    ]
    for other, *data in refused:
        with pytest.raises(ValueError) as error:
            other.fit(*data)
        assert str(error.value) == REFUSED.format(weighting)
        by_losses = other.set_params(weighting="uncertainty").fit(*data)
        assert by_losses.loss_curve_[-1] < by_losses.loss_curve_[0]


# Level by level -----------------------------------------------------------------------------


def by_level(n_epochs=2, **params):
    weighting = ByLevel(n_epochs)
    return estimator(task_dependencies=CHAIN, weighting=weighting, tol=0.0, **params)


def weights_of(model):
    """The task weights of every epoch, from the history."""
    names = [f"weight_{name}" for name in model.task_names_]
    return [[epoch[name] for name in names] for epoch in model.net_.history]


def test_levels_begin_one_after_the_other():
    X, Y = table()
    model = by_level(max_iter=6).fit(X, Y)
    assert weights_of(model) == [[1, 0, 0]] * 2 + [[1, 1, 0]] * 2 + [[1, 1, 1]] * 2
    preferred = by_level(max_iter=6, task_weights=[3.0, 1.0, 2.0]).fit(X, Y)
    assert weights_of(preferred) == [[3, 0, 0]] * 2 + [[3, 1, 0]] * 2 + [[3, 1, 2]] * 2


def test_a_head_rests_until_its_level_begins():
    X, Y = table()
    start, rested, begun = (
        weights(by_level(max_iter=n, alpha=0.0, learning_rate_init=lr).fit(X, Y))
        for n, lr in ((1, 1e-12), (4, 0.01), (5, 0.01))
    )
    last = {name for name in start if name.startswith("heads.2.")}  # the head of task2
    assert last
    assert all((start[name] - rested[name]).abs().max() < 1e-9 for name in last)
    assert all((start[name] - begun[name]).abs().max() > 1e-4 for name in last)


def test_without_dependencies_levels_are_static():
    X, Y = table(missing=True)
    models = [
        estimator(weighting=w, task_weights=[1, 2, 3]).fit(X, Y) for w in ("by_level", "static")
    ]
    assert_array_equal(raw(models[0], X), raw(models[1], X))
    linked = estimator(weighting="by_level", task_weights=[1, 2, 3], task_dependencies=CHAIN)
    assert np.abs(raw(linked.fit(X, Y), X) - raw(models[1], X)).max() > 1e-3  # negative control


def test_levels_count_on_over_partial_fit_and_begin_anew_in_clones_and_fits():
    X, Y = table()
    model = by_level()
    for _ in range(3):
        model.partial_fit(X, Y)
    assert weights_of(model) == [[1, 0, 0]] * 2 + [[1, 1, 0]]
    copy = pickle.loads(pickle.dumps(model))
    for each in (model, copy):
        each.partial_fit(X, Y).partial_fit(X, Y)
        assert weights_of(each)[-2:] == [[1, 1, 0], [1, 1, 1]]
    assert_array_equal(raw(model, X), raw(copy, X))
    assert weights_of(clone(model).set_params(max_iter=1).fit(X, Y)) == [[1, 0, 0]]
    assert weights_of(model.set_params(max_iter=1).fit(X, Y)) == [[1, 0, 0]]


def test_levels_in_a_stack_are_levels_alone():
    X, Y = table(missing=True)
    models = [by_level(max_iter=6, random_state=s, task_weights=w) for s, w in enumerate(WEIGHTS)]
    data = [(X, Y, {})] * len(WEIGHTS)
    together, errors = fit_stack(models, data)
    assert errors == [None] * len(WEIGHTS)
    for ours, theirs in zip(together, fit_alone(models, data), strict=True):
        assert weights_of(ours) == weights_of(theirs)
        assert_allclose(raw(ours, X), raw(theirs, X), rtol=0, atol=1e-10)
    assert weights_of(together[0]) != weights_of(together[1])


WEIGHTS = [None, [1, 2, 3], [5, 0, 1]]


def test_epochs_of_levels_are_searched():
    X, Y = table()
    weightings = [ByLevel(1), ByLevel(4), "static"]
    model = by_level(max_iter=5, tasks=["classification", "regression", "regression"])
    found = grid_search(model, {"weighting": weightings, "alpha": [0, 0.1]}, X, Y)
    assert set(found.search_report_["trained"]) == {"stacked"}
    assert len(np.unique(np.round(found.cv_results_["mean_test_score"], 9))) == 6


def test_training_does_not_end_before_the_last_level_began():
    X, Y = table()
    impatient = {"tol": 0.1, "n_iter_no_change": 2, "max_iter": 60}
    for stops_early in (False, True):
        model = by_level(10, early_stopping=stops_early).set_params(**impatient).fit(X, Y)
        assert weights_of(model)[-1] == [1, 1, 1]
        assert 20 <= model.best_iter_ <= model.n_iter_ < 60
    at_once = estimator(task_dependencies=CHAIN, **impatient).fit(X, Y)  # negative control
    assert at_once.n_iter_ < 20


def test_weighting_by_level_in_a_funnel():
    X, Y, _ = shop()
    model = model_of(weighting="by_level", max_iter=21, tol=0.0).fit(X, Y)
    used = [[epoch[f"weight_{name}"] for name in Y] for epoch in model.net_.history]
    assert used == [[1, 0, 0]] * 10 + [[1, 1, 0]] * 10 + [[1, 1, 1]]
