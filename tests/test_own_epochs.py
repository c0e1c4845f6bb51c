"""stopping_rule="each": every task is predicted by the weights of its own best epoch."""

from __future__ import annotations

import pickle
from math import inf

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from plain import plain
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from skorch.callbacks import EpochTimer

from sk_mtl import MultiTaskClassifier, MultiTaskEstimator, MultiTaskRegressor
from sk_mtl.callbacks import TaskStopping
from sk_mtl.network import MultiTaskNetwork
from sk_mtl.own_epochs import OwnEpochs
from sk_mtl.trunks import TRUNKS

N = 160
rng = np.random.default_rng(0)
X = rng.normal(size=(N, 6))
# one that is learned soon and overfitted then, one that takes long, one between
AMOUNTS = np.column_stack(
    [
        X[:, 0] + 2 * rng.normal(size=N),
        np.sin(2 * X[:, 1]) * X[:, 2],
        X[:, 3] ** 2 + rng.normal(size=N),
    ]
)
LABELS = {
    MultiTaskRegressor: AMOUNTS,
    MultiTaskClassifier: np.greater(AMOUNTS, np.median(AMOUNTS, axis=0)).astype(int),
    MultiTaskEstimator: np.column_stack([AMOUNTS[:, :2], AMOUNTS[:, 2] > 1]),
}
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
LONG = {"max_iter": 25, "n_iter_no_change": inf, "learning_rate_init": 0.02, "batch_size": 40}


def make(cls=MultiTaskRegressor, **params):
    """Estimators that have seen all tasks' best epochs, whichever they watch."""
    given = {"early_stopping": True, "random_state": 0, "dtype": "float64", **LONG}
    if cls is MultiTaskEstimator:
        given["tasks"] = ["regression", "regression", "classification"]
    return plain(cls, **{**given, **params})


def columns(model, rows=X):
    """What a fitted estimator says of every task: amounts, and probabilities of classes."""
    if isinstance(model, MultiTaskRegressor):
        return list(model.predict(rows).T)
    if isinstance(model, MultiTaskClassifier):
        return model.predict_proba(rows)
    return [*model.predict(rows)[:, :2].T, model.predict_proba(rows)[2]]


# Equal to estimators that watch a task each ---------------------------------------------------


@pytest.mark.parametrize("cls", LABELS)
@pytest.mark.parametrize(
    "params",
    [{}, {"n_members": 4}, {"n_members": 4, "linear_path": True, "ema_decay": 0.9}],
    ids=["one network", "members", "members with a linear path"],
)
def test_each_task_is_predicted_as_if_only_it_was_watched(cls, params):
    y = LABELS[cls]
    each = columns(make(cls, stopping_rule="each", **params).fit(X, y))
    mean = columns(make(cls, **params).fit(X, y))
    alone = [columns(make(cls, stopping_tasks=[t], **params).fit(X, y)) for t in range(3)]
    for t in range(3):
        assert_allclose(each[t], alone[t][t], rtol=1e-9)
    # Negative controls: the mean over tasks chooses other epochs, and so does another task.
    assert any(np.abs(each[k] - mean[k]).max() > 1e-3 for k in range(3))
    assert any(np.abs(each[k] - alone[0][k]).max() > 1e-3 for k in range(3))


@pytest.mark.parametrize("trunk", TRUNKS)
def test_every_trunk_can(trunk):
    params = {"trunk": trunk, "max_iter": 10, "hidden_layer_sizes": (8,)}
    each = make(stopping_rule="each", **params).fit(X, AMOUNTS)
    for t in range(3):
        alone = make(stopping_tasks=[t], **params).fit(X, AMOUNTS)
        assert_allclose(each.predict(X)[:, t], alone.predict(X)[:, t], rtol=1e-9)


def test_tasks_that_are_not_watched_follow_the_others():
    each = make(stopping_rule="each", stopping_tasks=[0, 1]).fit(X, AMOUNTS)
    mean = make(stopping_tasks=[0, 1]).fit(X, AMOUNTS)
    assert each.best_iter_ == mean.best_iter_
    assert_allclose(each.predict(X)[:, 2], mean.predict(X)[:, 2], rtol=1e-9)
    assert not np.allclose(each.predict(X)[:, :2], mean.predict(X)[:, :2])


def test_one_task_has_one_best_epoch():
    each = make(stopping_rule="each").fit(X, AMOUNTS[:, 0])
    assert each.net_.module_.own_epochs is None
    assert_array_equal(each.predict(X), make().fit(X, AMOUNTS[:, 0]).predict(X))


def test_networks_are_as_many_as_best_epochs():
    model = make(stopping_rule="each").fit(X, AMOUNTS)
    best = model.validation_task_loss_curves_.argmin(axis=0) + 1
    others = set(best) - {model.best_iter_}
    own = model.net_.module_.own_epochs
    assert len(own.networks) == len(others) > 0
    assert not any(p.requires_grad for p in own.parameters())


# When training ends ---------------------------------------------------------------------------


def ends(rule, losses, patience=2, tol=0.0):
    """After how many epochs of these losses (a row an epoch) training stops, and what is known."""
    stopping = TaskStopping(["a", "b"], validation=True, rule=rule, tol=tol, patience=patience)
    stopping.begin()
    for number, (a, b) in enumerate(losses, start=1):
        stopping.watch({"valid_loss_a": a, "valid_loss_b": b}, number)
        if stopping.stopped_:
            return number, stopping
    return None, stopping


# a is learned at once and overfitted, b falls slowly: the mean is lowest at the second epoch
LOSSES = [(1, 1), (0.4, 0.95), (0.6, 0.9), (0.8, 0.85), (0.8, 0.8), (0.9, 0.81), (0.9, 0.81)]


def test_a_hand_worked_case():
    stopped, mean = ends("mean", LOSSES)
    assert (stopped, mean.best_epoch_, mean.task_epochs_) == (4, 2, {})
    stopped, each = ends("each", LOSSES)
    assert (stopped, each.best_epoch_, each.task_epochs_) == (7, 2, {"a": 2, "b": 5})
    assert each.best_loss_ == mean.best_loss_ == pytest.approx(0.675)
    assert each.tasks_by_epoch(["a", "b"]) == [(1,)]
    assert each.tasks_by_epoch(["c", "b", "a"]) == [(1,)]
    assert mean.tasks_by_epoch(["a", "b"]) == []


def test_small_gains_do_not_go_on_but_count():
    stopped, each = ends("each", LOSSES, tol=0.2)
    assert (stopped, each.task_epochs_) == (4, {"a": 2, "b": 4})


def test_without_validation_the_rule_says_nothing():
    stopping = TaskStopping(["a", "b"], validation=False, rule="each", patience=2)
    stopping.begin()
    assert [stopping.watch({"train_loss": v}, i) for i, v in enumerate([2, 1, 3], 1)] == [
        True,
        True,
        False,
    ]
    assert stopping.task_epochs_ == {} and not stopping.watches_each


def test_a_task_whose_loss_is_no_number_keeps_its_best_epoch():
    stopping = TaskStopping(["a", "b"], validation=True, rule="each")
    stopping.begin()
    for number, b in enumerate((1.0, 0.5, np.nan), start=1):
        stopping.watch({"valid_loss_a": 1.0, "valid_loss_b": b}, number)
    assert stopping.stopped_ and stopping.task_epochs_ == {"a": 1, "b": 2}


def test_an_epoch_that_ends_training_is_no_tasks_best():
    """Its weights are no numbers, or soon will be, for the other task as well."""
    stopping = TaskStopping(["a", "b"], validation=True, rule="each")
    stopping.begin()
    for number, (a, b) in enumerate([(1.0, 1.0), (0.9, 0.8), (np.nan, 0.5)], start=1):
        stopping.watch({"valid_loss_a": a, "valid_loss_b": b}, number)
    assert stopping.stopped_ and stopping.task_epochs_ == {"a": 2, "b": 2}


def test_what_diverges_warns_as_under_the_mean():
    """A task's own weights are those of an epoch in which all were finite."""
    y = LABELS[MultiTaskEstimator]
    model = make(
        MultiTaskEstimator,
        stopping_rule="each",
        trunk="single_task",
        solver="sgd",
        learning_rate_init=0.7,
        dtype="float32",
    )
    with pytest.warns(ConvergenceWarning, match="diverged in epoch 3"):
        model.fit(1.0 * X, y)
    assert np.isfinite(model.predict(X)).all()


def test_tasks_of_weight_0_do_not_keep_training_going():
    noise = np.random.default_rng(1).normal(size=(N, 8))
    y = np.column_stack([X[:, 0], noise])
    params = {"task_weights": [1] + 8 * [0], "max_iter": 200, "n_iter_no_change": 5, "tol": 0.0}
    each = make(stopping_rule="each", **params).fit(X, y)
    alone = make(stopping_tasks=[0], **params).fit(X, y)
    assert each.n_iter_ == alone.n_iter_ < 200
    assert_allclose(each.predict(X), alone.predict(X), rtol=1e-9)
    # Negative control: with a weight they are watched.
    learned = make(stopping_rule="each", **params | {"task_weights": None}).fit(X, y)
    assert learned.n_iter_ != alone.n_iter_


# Around it ------------------------------------------------------------------------------------


def test_raw_outputs_are_put_into_their_places():
    class Constant(torch.nn.Module):
        def __init__(self, value):
            super().__init__()
            self.value = value

        def forward(self, X):
            return torch.full((2, len(X), 1), self.value), torch.full((1, len(X), 3), self.value)

    own = OwnEpochs([Constant(1.0), Constant(2.0)], [(0,), (1, 2)], [(0, 2), (1,)])
    first, second = own(torch.zeros(4, 5), Constant(0.0)(torch.zeros(4, 5)))
    assert_array_equal(first[:, :, 0], [[1.0] * 4, [2.0] * 4])
    assert (second == 2).all()


def test_they_are_where_the_network_is():
    network = make(max_iter=1).fit(X, AMOUNTS).net_.module_.to("meta")
    network.keep_own_epochs([(0,)], lambda other, k: None)
    rows = torch.zeros(4, 6, device="meta", dtype=torch.float64)
    assert network(rows)[0].shape == (3, 4, 1)


@pytest.mark.parametrize("n_members", [1, 4])
def test_going_on_starts_from_the_common_weights(n_members):
    """For all tasks, as it would under the mean."""
    each, mean = (
        make(stopping_rule=rule, n_members=n_members).fit(X, AMOUNTS) for rule in ("each", "mean")
    )
    assert not np.allclose(each.predict(X), mean.predict(X))
    for model in (each, mean):
        model.set_params(early_stopping="auto").partial_fit(X, AMOUNTS)
    assert_allclose(each.predict(X), mean.predict(X), rtol=1e-9)


def test_a_warm_start_keeps_best_epochs_anew():
    model = make(stopping_rule="each", warm_start=True, max_iter=5).fit(X, AMOUNTS)
    before = model.predict(X)
    model.fit(X, AMOUNTS)
    assert model.n_iter_ == 10
    assert not np.allclose(model.predict(X), before)
    assert isinstance(model.net_.module_.own_epochs, OwnEpochs)
    for network in model.net_.module_.own_epochs.networks:
        assert isinstance(network, MultiTaskNetwork) and network.own_epochs is None


def test_pickled_cloned_and_asked_how_sure_it_is():
    model = make(stopping_rule="each", n_members=5, linear_path=True).fit(X, AMOUNTS)
    again = pickle.loads(pickle.dumps(model))
    assert_array_equal(again.predict(X), model.predict(X))
    assert clone(model).get_params()["stopping_rule"] == "each"
    low, high = model.predict_interval(X, coverage=0.8)
    inside = ((low <= AMOUNTS) & (high >= AMOUNTS)).mean(axis=0)
    assert (inside > 0.7).all()
    spread = model.predict(X, return_std=True)[1]
    assert (spread > 0).all()


def test_members_trained_one_by_one_are_those_of_the_stack():
    """What is held out is predicted by the same weights, too."""
    stacked = make(stopping_rule="each", n_members=4, linear_path=True).fit(X, AMOUNTS)
    alone = make(stopping_rule="each", n_members=4, linear_path=True, callbacks=[EpochTimer()]).fit(
        X, AMOUNTS
    )
    assert_allclose(alone.predict(X), stacked.predict(X), rtol=1e-8)
    assert_allclose(alone.predict_interval(X), stacked.predict_interval(X), rtol=1e-8)


def test_it_pays_where_one_task_takes_longer_than_another():
    """Validation losses are those of own best epochs, lower for every task than in common."""
    model = make(stopping_rule="each").fit(X, AMOUNTS)
    curves = model.validation_task_loss_curves_
    common, own = curves[model.best_iter_ - 1], curves.min(axis=0)
    assert (own <= common).all() and (own < 0.98 * common).any()


def test_tasks_that_read_each_others_outputs_share_an_epoch():
    model = make(stopping_rule="each", task_dependencies={"task1": "task0"})
    with pytest.raises(ValueError, match=r"Got stopping_rule='each' with task_dependencies"):
        model.fit(X, AMOUNTS)


def test_without_rows_held_out_it_is_the_mean():
    with pytest.warns(ConvergenceWarning):
        each = make(stopping_rule="each", early_stopping=False).fit(X, AMOUNTS)
    mean = make(early_stopping=False).fit(X, AMOUNTS)
    assert_array_equal(each.predict(X), mean.predict(X))
