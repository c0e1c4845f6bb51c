"""Weightings: the contract that all keep, and what task weights mean to a whole training.

Every test of the first part loops over ``WEIGHTINGS``: a new entry inherits them.
"""

from __future__ import annotations

import pickle
import typing

import numpy as np
import pytest
import torch
from fakes import Recorder
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, KFold
from skorch.callbacks import Callback
from torch import nn

from sk_mtl import MultiTaskEstimator, MultiTaskRegressor
from sk_mtl.trunks import TRUNKS
from sk_mtl.weighting import WEIGHTINGS, Static, Uniform, Weighting
from sk_mtl.weighting._base import Needs

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

every_weighting = pytest.mark.parametrize("name", WEIGHTINGS)


@pytest.fixture(scope="module")
def table():
    """Three tasks on 80 rows: a class, two amounts, some labels missing."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 4))
    Y = np.column_stack([X[:, 0] > 0, X[:, 1] - X[:, 2], 50 * X[:, 2] + 100])
    Y[::5, 1] = Y[2::7, 0] = np.nan
    return X, Y


def estimator(**params):
    defaults = {
        "tasks": ["classification", "regression", "regression"],
        "hidden_layer_sizes": (6,),
        "batch_size": 32,
        "learning_rate_init": 0.01,
        "max_iter": 10,
        "random_state": 0,
    }
    return MultiTaskEstimator(**(defaults | params))


def parameters(fitted):
    return torch.cat([p.detach().flatten() for p in fitted.net_.module_.parameters()]).numpy()


# The contract -------------------------------------------------------------------------------


def statistic(needs, n_tasks=4, stack=()):
    """What a weighting is called with."""
    shape = (n_tasks, 10) if needs == "jacobian" else (*stack, n_tasks)
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.1


@every_weighting
def test_recipes_hold_hyper_parameters_only(name):
    recipe = WEIGHTINGS[name]()
    recipe.validate()
    assert repr(clone(recipe)) == repr(recipe)
    assert recipe.needs in typing.get_args(Needs)
    recipe.build(torch.ones(3))
    assert vars(recipe) == recipe.get_params(deep=False)


@every_weighting
@pytest.mark.parametrize("stack", [(), (2, 3)], ids=str)
def test_there_is_one_weight_a_task_finite_and_not_negative(name, stack):
    recipe = WEIGHTINGS[name]()
    if stack and recipe.needs != "losses":
        pytest.skip("a Jacobian belongs to one network")
    weights = recipe.build(torch.rand(*stack, 4, dtype=torch.float64))(
        statistic(recipe.needs, stack=stack)
    )
    assert weights.shape == (*stack, 4)
    assert weights.dtype == torch.float64
    assert weights.isfinite().all() and (weights >= 0).all() and weights.any()
    assert not weights.requires_grad


@every_weighting
def test_tasks_can_be_permuted(name):
    recipe, order = WEIGHTINGS[name](), torch.tensor([2, 0, 3, 1])
    given = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    seen = statistic(recipe.needs)
    straight, permuted = recipe.build(given)(seen), recipe.build(given[order])(seen[order])
    assert_allclose(permuted, straight[order], rtol=1e-10)


@every_weighting
def test_every_weighting_trains_and_records_its_weights(name, table):
    model = estimator(weighting=name).fit(*table)
    assert model.loss_curve_[-1] < model.loss_curve_[0]
    for task in model.task_names_:
        weights = model.net_.history[:, f"weight_{task}"]
        assert len(weights) == model.n_iter_
        assert np.isfinite(weights).all()
    assert_array_equal(parameters(clone(model).fit(*table)), parameters(model))
    restored = pickle.loads(pickle.dumps(model))
    assert_array_equal(restored.predict(table[0]), model.predict(table[0]))


@every_weighting
def test_the_optimiser_never_touches_a_weightings_state(name, table):
    check_state_is_its_own(estimator(weighting=name).fit(*table))


def check_state_is_its_own(model):
    optimised = {id(p) for g in model.net_.optimizer_.param_groups for p in g["params"]}
    assert optimised == {id(p) for p in model.net_.module_.parameters()}
    assert not optimised & {id(p) for p in model.net_.criterion_.parameters()}


# Static and uniform -------------------------------------------------------------------------


def test_static_gives_the_users_weights_and_uniform_equal_ones():
    given, losses = torch.tensor([2.0, 0.0, 5.0]), torch.tensor([9.0, 1.0, 4.0])
    assert Static().build(given)(losses).tolist() == [2, 0, 5]
    assert Uniform().build(given)(losses).tolist() == [1, 1, 1]


def test_uniform_has_no_use_for_task_weights(table):
    with pytest.raises(ValueError, match="has no use for them, expected None"):
        estimator(weighting="uniform", task_weights=[1, 2, 3]).fit(*table)


@pytest.mark.parametrize("trunk", TRUNKS)
def test_equal_weights_are_uniform_and_only_ratios_matter(trunk, table):
    def fitted(**params):
        return parameters(estimator(trunk=trunk, alpha=0.1, **params).fit(*table))

    uniform = fitted(weighting="uniform")
    for w in (1.0, 0.5, 0.3, 7.0):
        assert_allclose(fitted(task_weights=[w, w, w]), uniform, rtol=0, atol=1e-12)
    assert_array_equal(fitted(), uniform)
    given = fitted(task_weights=[1, 2, 4])
    assert_array_equal(fitted(task_weights=[4, 8, 16]), given)
    assert_allclose(fitted(task_weights=[0.1, 0.2, 0.4]), given, rtol=0, atol=1e-12)
    by_name = {"task0": 1, "task1": 2, "task2": 4}
    assert_array_equal(fitted(task_weights=by_name), given)
    moved = np.abs(given - uniform).max()
    if trunk == "single_task":  # nothing is shared, and Adam takes no notice of a scale
        assert moved < 1e-5
    else:  # negative control: ratios do matter
        assert moved > 1e-3


def test_history_holds_the_weights(table):
    model = estimator(task_weights=[1, 0.5, 4]).fit(*table)
    for task, weight in zip(model.task_names_, [1, 0.5, 4], strict=True):
        assert model.net_.history[:, f"weight_{task}"] == [weight] * 10


def test_the_training_loss_is_the_weighted_mean_of_the_task_losses(table):
    model = estimator(task_weights=[1, 0.5, 4]).fit(*table)
    expected = model.task_loss_curves_ @ [1, 0.5, 4] / 5.5
    assert_allclose(model.loss_curve_, expected, rtol=1e-12)


def test_callbacks_that_watch_batches_are_told_the_same_loss(table):
    X, Y = table
    model = estimator(task_weights=[1, 0.5, 4], batch_size=80, callbacks=[Losses()]).fit(X, Y)
    (told,) = model.net_.callbacks
    assert_allclose(told.losses, model.loss_curve_, rtol=1e-12)


class Losses(Callback):
    def initialize(self):
        self.losses = []
        return self

    def on_batch_end(self, net, training, loss, **kwargs):
        self.losses.append(float(loss))


@pytest.mark.parametrize("solver", ["adam", "sgd"])
@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_a_weight_of_zero_leaves_the_head_at_its_initial_values(solver, alpha, table):
    X, Y = table
    model = MultiTaskRegressor(
        task_weights=[1, 0],
        head_hidden_layer_sizes=(3,),
        hidden_layer_sizes=(6,),
        solver=solver,
        alpha=alpha,
        batch_size=32,
        max_iter=5,
        random_state=0,
        callbacks=[Recorder()],
    ).fit(X, Y[:, 1:])
    (recorder,) = model.net_.callbacks
    start, end = recorder.states[0], recorder.states[-1]
    heads = [name for name in start if name.startswith("heads")]
    assert len(heads) == 4
    for name in heads:
        assert torch.equal(start[name][1], end[name][1])
        assert not torch.equal(start[name][0], end[name][0])


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_a_weight_of_zero_leaves_a_private_network_untrained(alpha, table):
    X, Y = table
    model = estimator(
        trunk="single_task", task_weights=[0, 2, 1], alpha=alpha, callbacks=[Recorder()]
    ).fit(X, Y)
    (recorder,) = model.net_.callbacks
    start, end = recorder.states[0], recorder.states[-1]
    for name in start:
        if name.startswith("trunk"):
            assert torch.equal(start[name][0], end[name][0])
            assert not torch.equal(start[name][1], end[name][1])
    assert torch.equal(start["heads.0.output.weight"], end["heads.0.output.weight"])


def test_all_weight_on_one_task_is_that_task_alone(table):
    X, Y = table
    Y = X @ [[1.0, 0.0], [2.0, 1.0], [0.0, 3.0], [-1.0, 1.0]]
    model = MultiTaskRegressor(hidden_layer_sizes=(6,), alpha=0.1, max_iter=10, random_state=0)

    def predicted(weights):
        return clone(model).set_params(task_weights=weights).fit(X, Y).predict(X)[:, 0]

    alone = clone(model).fit(X, Y[:, 0]).predict(X)
    assert_allclose(predicted([1, 0]), alone, rtol=0, atol=1e-10)
    assert np.abs(predicted([1, 1]) - alone).max() > 1e-3


def test_task_weights_can_be_searched(table):
    X, Y = table
    grid = {"task_weights": [None, {"task0": 5.0}, [0, 1, 1]]}
    search = GridSearchCV(estimator(), grid, cv=KFold(2), error_score="raise").fit(X, Y)
    assert len(set(search.cv_results_["mean_test_score"])) == 3


# A user's own -------------------------------------------------------------------------------


class _Proportional(nn.Module):
    """The larger a task's running loss, the more it counts."""

    def __init__(self, n_tasks, decay):
        super().__init__()
        self.decay = decay
        self.log_scale = nn.Parameter(torch.zeros(n_tasks))  # the main optimiser must not see it
        self.register_buffer("mean", torch.zeros(n_tasks))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def forward(self, losses, present):
        self.steps += 1
        self.mean.mul_(self.decay).add_(losses, alpha=1 - self.decay)
        return self.mean


class Proportional(Weighting):
    def __init__(self, decay=0.0):
        self.decay = decay

    def build(self, task_weights):
        return _Proportional(task_weights.shape[-1], self.decay).to(task_weights)


def test_a_users_weighting_needs_no_registration(table):
    X, Y = table
    Y = np.nan_to_num(Y)
    model = estimator(weighting=Proportional(), batch_size=80, callbacks=[Recorder()], alpha=0.0)
    model.fit(X, Y)
    # One batch an epoch: the weights in the history are the task losses themselves.
    weights = np.array([model.net_.history[:, f"weight_{t}"] for t in model.task_names_]).T
    assert_allclose(weights, model.task_loss_curves_, rtol=1e-12)
    curves = model.task_loss_curves_
    # The loss reported goes by the user's weights: with those of a step it would not compare.
    assert_allclose(model.loss_curve_, curves.mean(1), rtol=1e-12)
    check_state_is_its_own(model)
    assert not model.net_.criterion_.balance.log_scale.any()
    uniform = estimator(batch_size=80, alpha=0.0).fit(X, Y)
    assert np.abs(parameters(model) - parameters(uniform)).max() > 1e-4


def test_weights_that_change_in_every_batch_are_averaged_over_the_epoch(table):
    X, Y = table
    model = estimator(weighting=Proportional(), callbacks=[Seen()]).fit(X, np.nan_to_num(Y))
    (seen,) = model.net_.callbacks
    recorded = [model.net_.history[:, f"weight_{t}"] for t in model.task_names_]
    by_epoch = np.array(seen.weights).reshape(10, 3, 3)  # (epoch, batch, task)
    assert_allclose(np.array(recorded).T, by_epoch.mean(axis=1), rtol=1e-12)


class Seen(Callback):
    def initialize(self):
        self.weights = []
        return self

    def on_batch_end(self, net, **kwargs):
        self.weights.append(net.criterion_.balance.mean.tolist())


def test_a_weightings_state_starts_anew_in_fit_and_lives_on_in_partial_fit(table):
    X, Y = table
    model = estimator(weighting=Proportional(decay=0.9))
    steps = [model.fit(X, Y).net_.criterion_.balance.steps.item() for _ in range(2)]
    assert steps == [30, 30]
    restored = pickle.loads(pickle.dumps(model))
    assert restored.net_.criterion_.balance.steps.item() == 30
    assert_array_equal(restored.net_.criterion_.balance.mean, model.net_.criterion_.balance.mean)
    incremental = estimator(weighting=Proportional(decay=0.9))
    for expected in (3, 6, 9):
        incremental.partial_fit(X, Y)
        assert incremental.net_.criterion_.balance.steps.item() == expected
