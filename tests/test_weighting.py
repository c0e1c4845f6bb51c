"""Weightings: the contract that all keep, and what task weights mean to a whole training.

Every test of the first part loops over ``WEIGHTINGS``: a new entry inherits them.
"""

from __future__ import annotations

import copy
import pickle
import typing

import numpy as np
import pytest
import torch
from fakes import Recorder
from numpy.testing import assert_allclose, assert_array_equal
from plain import plain
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, KFold
from skorch.callbacks import Callback

from sk_mtl import MultiTaskEstimator, MultiTaskRegressor
from sk_mtl.trunks import TRUNKS
from sk_mtl.weighting import WEIGHTINGS, Static, Uniform
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
    return plain(MultiTaskEstimator, **(defaults | params))


def parameters(fitted):
    return torch.cat([p.detach().flatten() for p in fitted.net_.module_.parameters()]).numpy()


# The contract -------------------------------------------------------------------------------

N_TASKS, N_PARAMETERS = 4, 10


def batches(n_steps=4, stack=(), seed=0):
    """Task losses and Jacobians, as a training would show them; gradients conflict."""
    generator = torch.Generator().manual_seed(seed)
    options = {"dtype": torch.float64, "generator": generator}
    return [
        (
            torch.rand(*stack, N_TASKS, **options) + 0.1,
            torch.randn(N_TASKS, N_PARAMETERS, **options),
        )
        for _ in range(n_steps)
    ]


def built(name, task_weights=None, seed=0, **params):
    """The module of a weighting, its random numbers seeded; all weights are 1 by default."""
    given = torch.ones(N_TASKS) if task_weights is None else task_weights
    balance = WEIGHTINGS[name](**params).build(given.double())
    balance.seed([seed] * given[..., 0].numel())
    return balance


def seen_by(name, jacobian):
    """What a weighting is called with besides the losses."""
    needs = WEIGHTINGS[name].needs
    return {"losses": None, "gramian": jacobian @ jacobian.mT, "jacobian": jacobian}[needs]


def drive(name, balance, steps, present=None):
    """Return what a module says in steps, each the only one of an epoch."""
    given = []
    for losses, jacobian in steps:
        given.append(balance(losses, seen_by(name, jacobian), present).detach().clone())
        if balance.looks_back:
            balance.look_back(losses.sqrt() / 2, present)
        mean = losses if present is None else torch.where(present, losses, torch.nan)
        balance.end_epoch(mean)
    return torch.stack(given)


def effect(name, given, steps):
    """What counts of the weights: shares of the loss, or the direction of the shared part."""
    weighs = WEIGHTINGS[name].weighs
    if weighs == "loss":
        return given / given.sum(-1, keepdim=True)
    if weighs == "direction":
        return given
    return torch.stack([w @ jacobian for w, (_, jacobian) in zip(given, steps, strict=True)])


@every_weighting
def test_recipes_hold_hyper_parameters_only(name):
    recipe = WEIGHTINGS[name]()
    recipe.validate()
    assert repr(clone(recipe)) == repr(recipe) == repr(pickle.loads(pickle.dumps(recipe)))
    assert recipe.needs in typing.get_args(Needs)
    recipe.build(torch.ones(3))
    assert vars(recipe) == recipe.get_params(deep=False)


@every_weighting
@pytest.mark.parametrize("stack", [(), (2, 3)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_there_is_one_finite_weight_a_task(name, stack, dtype):
    recipe = WEIGHTINGS[name]()
    if stack and recipe.needs != "losses":
        pytest.skip("gradients belong to one network")
    balance = recipe.build(torch.rand(*stack, N_TASKS, dtype=dtype))
    balance.seed([0] * (6 if stack else 1))
    for losses, jacobian in batches(stack=stack):
        seen = seen_by(name, jacobian.to(dtype))
        given = balance(losses.to(dtype), seen, None)
        size = N_PARAMETERS if recipe.weighs == "direction" else N_TASKS
        assert given.shape == (*stack, size)
        assert given.dtype == dtype
        assert given.isfinite().all() and given.any()
        if recipe.weighs == "loss":
            assert (given >= 0).all()
        assert not given.requires_grad


@every_weighting
@pytest.mark.parametrize("case", ["all zero", "one zero", "equal", "opposed", "no parameters"])
def test_gradients_that_say_little_do_no_harm(name, case):
    _, jacobian = batches(1)[0]
    gradients = {
        "all zero": 0 * jacobian,
        "one zero": torch.cat([0 * jacobian[:1], jacobian[1:]]),
        "equal": jacobian[:1].expand(N_TASKS, -1),
        "opposed": torch.stack([jacobian[0], -jacobian[0]] * 2),
        "no parameters": jacobian[:, :0],
    }[case]
    steps = [(torch.ones(N_TASKS, dtype=torch.float64), gradients)] * 3
    given = drive(name, built(name), steps)
    assert effect(name, given, steps).isfinite().all()


@every_weighting
def test_tasks_can_be_permuted(name):
    """Two tasks where others are looked at in random orders; the softmax of noise has no tasks."""
    if name == "random":
        pytest.skip("tested by its distribution")
    order = torch.tensor([1, 0] if name in ("pcgrad", "gradvac") else [2, 0, 3, 1])
    given = torch.tensor([1.0, 2.0, 3.0, 4.0])[: len(order)]
    steps = [(losses[: len(order)], jacobian[: len(order)]) for losses, jacobian in batches()]
    moved = [(losses[order], jacobian[order]) for losses, jacobian in steps]
    straight = drive(name, built(name, given), steps)
    permuted = drive(name, built(name, given[order]), moved)
    if WEIGHTINGS[name].weighs != "direction":
        straight = straight[..., order]
    assert_allclose(permuted, straight, rtol=1e-6, atol=1e-9)


SOME = torch.tensor([True, False, True, True])


@every_weighting
@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_an_absent_task_is_left_out(name, scale):
    """As if the module had been built for the tasks present alone."""
    if name == "random":
        pytest.skip("it draws a number a task, absent or not")
    if name == "stch":
        pytest.skip("a preference is among all tasks: see test_weighting_losses.py")
    given = torch.tensor([1.0, 2.0, 3.0, 4.0])
    if not WEIGHTINGS[name].uses_task_weights:
        given = torch.ones(4)
    full = [(losses, scale * jacobian) for losses, jacobian in batches()]
    with_gap = [
        (torch.where(SOME, losses, 0.0), torch.where(SOME[:, None], jacobian, 0.0))
        for losses, jacobian in full
    ]
    alone = [(losses[SOME], jacobian[SOME]) for losses, jacobian in full]
    ours = drive(name, built(name, given), with_gap, SOME)
    expected = drive(name, built(name, given[SOME]), alone)
    if WEIGHTINGS[name].weighs == "loss":
        ours = torch.where(SOME, ours, 0.0)
    assert_allclose(
        effect(name, ours, with_gap), spread(name, effect(name, expected, alone)), rtol=1e-9
    )


def spread(name, values):
    """Shares of the tasks present, with a zero for the absent one."""
    if WEIGHTINGS[name].weighs != "loss":
        return values
    return torch.zeros(len(values), 4, dtype=values.dtype).index_copy(
        1, SOME.nonzero().squeeze(1), values
    )


def test_a_row_of_zeros_would_end_the_training_by_mgda():
    """Negative control: torchjd's takes an absent task's zeros for the shortest gradient."""
    from torchjd.aggregation import MGDAWeighting

    losses, jacobian = batches(1)[0]
    jacobian = torch.where(SOME[:, None], jacobian, 0.0)
    gramian = jacobian @ jacobian.mT
    theirs = MGDAWeighting(epsilon=1e-9, max_iters=1000)(gramian)
    assert (theirs @ jacobian).norm() < 1e-6
    ours = built("mgda")(losses, gramian, SOME)
    assert (ours @ jacobian).norm() > 0.1


@every_weighting
def test_a_batch_without_any_label_leaves_nothing_behind(name):
    nobody = torch.zeros(N_TASKS, dtype=torch.bool)
    zeros = torch.zeros(N_TASKS, dtype=torch.float64)
    balance, steps = built(name), batches()
    drive(name, balance, steps[:2])
    empty = [(zeros, torch.zeros(N_TASKS, N_PARAMETERS, dtype=torch.float64))] * 2
    assert drive(name, balance, empty, nobody).isfinite().all()
    assert drive(name, balance, steps[2:]).isfinite().all()


@every_weighting
def test_a_module_can_be_pickled_in_the_midst_of_training(name):
    steps, balance = batches(6), built(name)
    drive(name, balance, steps[:3])
    restored = pickle.loads(pickle.dumps(balance))
    assert torch.equal(drive(name, restored, steps[3:]), drive(name, balance, steps[3:]))


@every_weighting
def test_a_new_module_goes_on_by_the_state_of_an_old_one(name):
    """Sums, averages and where its random numbers stand."""
    steps, balance = batches(6), built(name)
    drive(name, balance, steps[:3])
    heir, stranger = built(name, seed=9), built(name, seed=9)
    heir.load_state_dict(copy.deepcopy(balance.state_dict()))
    expected = drive(name, balance, steps[3:])
    assert torch.equal(drive(name, heir, steps[3:]), expected)
    if balance.state_dict() and name != "by_level":  # negative control: it remembers something
        assert not torch.equal(drive(name, stranger, steps[3:]), expected)


@every_weighting
@pytest.mark.usefixtures("no_global_rng")
def test_every_weighting_trains_and_records_its_weights(name, table):
    model = estimator(weighting=name).fit(*table)
    assert model.loss_curve_[-1] < model.loss_curve_[0]
    for task in model.task_names_:
        weights = model.net_.history[:, f"weight_{task}"]
        assert len(weights) == model.n_iter_
        assert np.isfinite(weights).all()
    assert_array_equal(parameters(clone(model).fit(*table)), parameters(model))
    fitted = parameters(model)
    assert_array_equal(parameters(model.fit(*table)), fitted)  # a fit begins anew
    restored = pickle.loads(pickle.dumps(model))
    assert_array_equal(restored.predict(table[0]), model.predict(table[0]))


@every_weighting
@pytest.mark.parametrize("trunk", ["shared_bottom", "mmoe", "ple", "single_task"])
def test_every_weighting_trains_every_trunk_while_labels_are_missing(name, trunk, table):
    """The first of the batches has no label of the first task."""
    X, Y = table
    Y = np.where((np.arange(80) < 32)[:, None] & [True, False, False], np.nan, Y)
    model = estimator(trunk=trunk, weighting=name, shuffle=False, max_iter=3)
    if WEIGHTINGS[name].of == "features" and trunk != "shared_bottom":
        with pytest.raises(ValueError, match="a representation a task"):
            model.fit(X, Y)
        return
    model.fit(X, Y)
    assert np.isfinite(parameters(model)).all()
    assert model.loss_curve_[-1] < model.loss_curve_[0]


@every_weighting
def test_partial_fit_goes_on_where_it_stood(name, table):
    """Epoch by epoch, also past a pickle, as in one fit."""
    whole = estimator(weighting=name, max_iter=4, shuffle=False).fit(*table)
    model = estimator(weighting=name, shuffle=False)
    for _ in range(2):
        model.partial_fit(*table)
    restored = pickle.loads(pickle.dumps(model))
    for _ in range(2):
        model.partial_fit(*table)
        restored.partial_fit(*table)
    assert_array_equal(parameters(restored), parameters(model))
    assert_allclose(parameters(model), parameters(whole), rtol=0, atol=1e-12)


@every_weighting
def test_the_optimiser_never_touches_a_weightings_state(name, table):
    check_state_is_its_own(estimator(weighting=name).fit(*table))


def check_state_is_its_own(model):
    optimised = {id(p) for g in model.net_.optimizer_.param_groups for p in g["params"]}
    assert optimised == {id(p) for p in model.net_.module_.parameters()}
    assert not optimised & {id(p) for p in model.net_.criterion_.parameters()}


TUNED = {
    "uncertainty": {"learning_rate": [0.01, 0.5]},
    "dwa": {"temperature": [0.1, 2.0]},
    "stch": {"mu": [0.01, 1.0]},
    "famo": {"learning_rate": [0.01, 0.5]},
    "imtl_l": {"learning_rate": [0.01, 0.5]},
    "gradnorm": {"alpha": [0.0, 2.0]},
    "gradvac": {"beta": [0.01, 0.5]},
    "cagrad": {"c": [0.1, 0.9]},
    "fairgrad": {"alpha": [0.5, 2.0]},
    "excess_mtl": {"step_size": [0.01, 1.0]},
}


def test_every_weighting_with_numbers_is_tuned_below():
    numbers = {n for n, w in WEIGHTINGS.items() if w._parameter_constraints}
    # The one's parameter is a word, and the other wants tasks that depend on tasks.
    assert numbers == {*TUNED, "aligned_mtl", "by_level"}


@pytest.mark.parametrize("name", TUNED)
def test_hyper_parameters_can_be_searched(name, table):
    X, Y = table
    ((number, values),) = TUNED[name].items()
    grid = {f"weighting__{number}": values}
    model = estimator(weighting=WEIGHTINGS[name](), max_iter=5)
    search = GridSearchCV(model, grid, cv=KFold(2), error_score="raise").fit(X, Y)
    assert len(set(search.cv_results_["mean_test_score"])) == 2
    with pytest.raises(ValueError, match=f"The '{number}' parameter of"):
        clone(model).set_params(**{f"weighting__{number}": -1.0}).fit(X, Y)


@every_weighting
def test_task_weights_are_used_or_refused(name, table):
    X, Y = table
    model = estimator(weighting=name, task_weights=[1, 2, 4], max_iter=3)
    if not WEIGHTINGS[name].uses_task_weights:
        preference = "aligned_mtl|cagrad|config|dualproj|stch|upgrad"
        with pytest.raises(ValueError, match=rf"no use for them.*takes a preference.*{preference}"):
            model.fit(X, Y)
        return
    given = parameters(model.fit(X, Y))
    scaled = parameters(model.set_params(task_weights=[0.5, 1, 2]).fit(X, Y))
    assert_allclose(scaled, given, rtol=0, atol=1e-9)  # only ratios matter
    equal = parameters(model.set_params(task_weights=None).fit(X, Y))
    assert np.abs(equal - given).max() > 1e-4


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
    model = plain(
        MultiTaskRegressor,
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
    model = plain(
        MultiTaskRegressor, hidden_layer_sizes=(6,), alpha=0.1, max_iter=10, random_state=0
    )

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
