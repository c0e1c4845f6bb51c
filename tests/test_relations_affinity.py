"""Which tasks help which: each measure against a slow, obvious computation of it."""

from __future__ import annotations

import copy
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from plain import plain
from planted import contested, planted
from sklearn.base import clone
from sklearn.metrics import accuracy_score, log_loss, r2_score
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import Callback
from stacks import NAN, estimator, plain_losses, table, weights

from sk_mtl import MultiTaskClassifier, MultiTaskRegressor, VectorizedGridSearchCV
from sk_mtl.estimators import _ensemble as ensemble
from sk_mtl.metrics import make_task_scorer
from sk_mtl.relations import _runs, task_affinity
from sk_mtl.relations._cosines import Watched
from sk_mtl.relations._groups import group_by_affinity
from sk_mtl.relations._lookahead import Lookahead
from sk_mtl.trunks import TRUNKS
from sk_mtl.weighting import WEIGHTINGS, Weighting

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

HELD_TOGETHER = "soft_sharing"  # by a penalty: its tasks have no parameter in common
SHARING = [n for n, trunk in TRUNKS.items() if not trunk.private and n != HELD_TOGETHER]
WEIGHT = np.random.default_rng(1).uniform(0.5, 2.0, size=(103, 3))


def gappy():
    """A table of which some batches of eight rows have no label of the first task."""
    X, Y = table(missing=True)
    Y[20:, 0] = NAN
    return X, Y


class Slow(Callback):
    """Does the obvious with the network, before every step, task by task."""

    def on_train_begin(self, net, **kwargs):
        self.found = []

    def on_batch_begin(self, net, batch=None, training=False, **kwargs):
        if training:
            inputs, y = batch
            self.found.append(self.look(net, inputs["X"], y, inputs["sample_weight"]))

    def mean(self):
        return np.nanmean(self.found, axis=0)


def gradient_of(loss, network):
    return torch.autograd.grad(loss, list(network.trunk.parameters()), retain_graph=True)


class SlowCosines(Slow):
    def look(self, net, X, y, weight):
        losses = plain_losses(net.module_, X, y, weight)
        rows = [
            None
            if loss is None
            else torch.cat([g.flatten() for g in gradient_of(loss, net.module_)])
            for loss in losses
        ]
        cosines = np.full((len(rows), len(rows)), NAN)
        for i, a in enumerate(rows):
            for j, b in enumerate(rows):
                if a is not None and b is not None:
                    cosines[i, j] = (a @ b / (a.norm() * b.norm())).item()
        return cosines


class SlowLookahead(Slow):
    """Copies the network, takes the step, and looks."""

    def look(self, net, X, y, weight):
        before = plain_losses(net.module_, X, y, weight)
        found = np.full((len(before), len(before)), NAN)
        for i, loss in enumerate(before):
            if loss is None:
                continue
            ahead = copy.deepcopy(net.module_)
            with torch.no_grad():
                pairs = zip(ahead.trunk.parameters(), gradient_of(loss, net.module_), strict=True)
                for parameter, slope in pairs:
                    parameter -= net.lr * slope
            after = plain_losses(ahead, X, y, weight)
            for j, (old, new) in enumerate(zip(before, after, strict=True)):
                if old is not None:
                    found[i, j] = 1.0 - (new / old).item()
        return found


def watched_by(callback, model, X, Y, **params):
    """Return the callback after a fit of the model."""
    fitted = clone(model).set_params(callbacks=[callback]).fit(X, Y, **params)
    return fitted.net_.callbacks[0]


# Gradients ------------------------------------------------------------------------------------


@pytest.mark.parametrize("trunk", SHARING)
def test_gradient_is_the_mean_cosine_of_gradients_taken_one_by_one(trunk):
    X, Y = gappy()
    model = estimator(trunk, batch_size=8, max_iter=2)
    slow = watched_by(SlowCosines(), model, X, Y, sample_weight=WEIGHT)
    assert np.isnan(slow.found).any()  # some batches lack a task
    expected = slow.mean()
    found = task_affinity(model, X, Y, params={"sample_weight": WEIGHT})
    assert_allclose(found, expected, rtol=0, atol=1e-10)
    assert np.abs(found.to_numpy() - np.eye(3)).max() > 1e-4
    # Negative control: a batch without a task's labels is left out, not counted as zero.
    assert np.abs(np.nan_to_num(slow.found).mean(axis=0) - expected).max() > 0.01


def test_the_cosine_is_taken_batch_by_batch():
    """Negative control: the cosine of the mean gradients is something else."""
    X, Y = table()
    model = estimator(max_iter=2)
    found = task_affinity(model, X, Y)
    whole = task_affinity(clone(model).set_params(batch_size=103, shuffle=False), X, Y)
    assert np.abs(found - whole).to_numpy().max() > 0.01


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_training_goes_on_as_if_nobody_watched(weighting):
    """Whatever the weighting needs and remembers: the weights end where they would have ended."""
    X, Y = table()
    model = estimator(weighting=weighting, max_iter=3)
    try:
        alone = clone(model).fit(X, Y)
    except ImportError as error:
        pytest.skip(str(error))
    watched = clone(model).set_params(weighting=Watched(weighting)).fit(X, Y)
    for name, tensor in weights(alone).items():
        assert_allclose(weights(watched)[name], tensor, rtol=0, atol=1e-8, err_msg=name)


class Last(Weighting):
    """Learns the last task only."""

    def build(self, task_weights):
        return _Last(task_weights)


class _Last(torch.nn.Module):
    def __init__(self, like):
        super().__init__()
        self.register_buffer("weights", torch.eye(len(like), dtype=like.dtype)[-1])

    def forward(self, losses, gradients=None, present=None):
        return self.weights


def test_what_is_watched_is_the_training_by_the_users_weighting():
    """Negative control: gradients are taken along another way if the weighting is another one."""
    X, Y = table()
    by_all, by_last = (
        task_affinity(estimator(weighting=w, max_iter=20), X, Y) for w in ("static", Last())
    )
    assert np.abs(by_all - by_last).to_numpy().max() > 0.01


def test_a_task_without_a_gradient_is_left_out():
    """A task whose weights are zero has no direction, so no cosine."""
    cosines = Watched().build(torch.ones(3, dtype=torch.float64))
    gramian = torch.tensor([[4.0, 0.0, -2.0], [0.0, 0.0, 0.0], [-2.0, 0.0, 4.0]])
    cosines(torch.ones(3), gramian.double(), None)
    assert cosines.total.tolist() == [[1.0, 0.0, -0.5], [0.0, 0.0, 0.0], [-0.5, 0.0, 1.0]]
    assert cosines.count.tolist() == [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 0.0, 1.0]]


# Lookahead ------------------------------------------------------------------------------------


@pytest.mark.parametrize("trunk", SHARING)
def test_lookahead_is_what_a_copy_of_the_network_does_after_the_step(trunk):
    X, Y = gappy()
    model = estimator(trunk, batch_size=8, max_iter=2)
    slow = watched_by(SlowLookahead(), model, X, Y, sample_weight=WEIGHT)
    expected = slow.mean()
    every = {"every": 1, "params": {"sample_weight": WEIGHT}}
    found = task_affinity(model, X, Y, "lookahead", **every)
    assert_allclose(found, expected, rtol=0, atol=1e-10)
    # Negative control: which task steps and which is looked at are not the same.
    assert np.abs(expected - expected.T).max() > 1e-5


def test_every_other_batch():
    X, Y = table()
    model = estimator(max_iter=3)
    slow = watched_by(SlowLookahead(), model, X, Y)
    found = task_affinity(model, X, Y, "lookahead", every=3)
    assert_allclose(found, np.mean(slow.found[::3], axis=0), rtol=0, atol=1e-10)
    assert np.abs(found - slow.mean()).to_numpy().max() > 1e-6


def test_looking_ahead_leaves_the_training_alone():
    """Also the masks of dropout, which are drawn from a stream."""
    X, Y = gappy()
    model = estimator(dropout=0.3, head_hidden_layer_sizes=(3,))
    alone = clone(model).fit(X, Y)
    looked = clone(model).set_params(callbacks=[Lookahead(2)]).fit(X, Y)
    for name, tensor in weights(alone).items():
        assert_array_equal(weights(looked)[name], tensor, err_msg=name)


# Transfer -------------------------------------------------------------------------------------


def transfer_by_hand(model, X, Y, folds, metrics, restricted=lambda tasks: {}, **fit_params):
    """Fit every pair and every task alone, one after the other."""
    n_tasks, of_folds = Y.shape[1], []
    for train, test in folds.split(X):

        def scores(*tasks, train=train, test=test):
            y = Y[:, tasks[0]] if len(tasks) == 1 else Y[:, list(tasks)]
            own = {k: v[train][:, list(tasks)] for k, v in fit_params.items()}
            own = {k: v if len(tasks) > 1 else v[:, 0] for k, v in own.items()}
            fitted = clone(model).set_params(**restricted(tasks)).fit(X[train], y[train], **own)
            predicted = fitted.predict(X[test]).reshape(len(test), -1)
            found = []
            for k, t in enumerate(tasks):
                seen = ~np.isnan(Y[test, t])
                found.append(metrics[t](Y[test, t][seen], predicted[seen, k]))
            return found

        alone = [scores(t)[0] for t in range(n_tasks)]
        gains = np.zeros((n_tasks, n_tasks))
        for i in range(n_tasks):
            for j in range(n_tasks):
                if i != j:
                    pair = sorted((i, j))  # in the order of the columns
                    gains[i, j] = scores(*pair)[pair.index(j)] - alone[j]
        of_folds.append(gains)
    return np.mean(of_folds, axis=0)


def test_transfer_is_the_gain_of_separate_fits():
    """Tasks of different kinds, gaps, weights of cells, parameters a task."""
    X, Y = table(missing=True)
    model = estimator(max_iter=4, task_weights=[1.0, 2.0, 3.0], loss=[None, "huber", None])
    folds, metrics = KFold(3), [accuracy_score, r2_score, r2_score]

    def restricted(tasks):
        return {
            "tasks": [model.tasks[t] for t in tasks],
            "loss": [model.loss[t] for t in tasks],
            "task_weights": None if len(tasks) == 1 else [model.task_weights[t] for t in tasks],
        }

    weight = {"sample_weight": WEIGHT}
    found = task_affinity(model, X, Y, "transfer", cv=folds, params=weight)
    expected = transfer_by_hand(model, X, Y, folds, metrics, restricted, **weight)
    assert_allclose(found, expected, rtol=0, atol=1e-9)
    assert np.abs(expected - expected.T).max() > 0.01  # what i brings to j, not j to i
    unweighted = task_affinity(model, X, Y, "transfer", cv=folds)
    assert np.abs(unweighted - expected).to_numpy().max() > 1e-4  # negative control


def test_networks_of_one_form_are_trained_as_a_stack(monkeypatch):
    sizes = []

    def train_stack(sessions, plans):
        sizes.append(len(sessions))
        return original(sessions, plans)

    original = ensemble.train_stack
    monkeypatch.setattr(ensemble, "train_stack", train_stack)
    X, Y = planted(0, n_rows=60)
    task_affinity(
        contested(batch_size=20, max_iter=2, random_state=0), X, Y, "transfer", cv=KFold(3)
    )
    assert sizes == [6 * 3, 15 * 3]  # all tasks alone on all folds; all pairs


def test_transfer_by_a_metric_of_its_own_for_each_task():
    X, _ = table()
    Y = pd.DataFrame(np.column_stack([X[:, 0] > 0, X[:, 1] > 0, X[:, 2] > 0]).astype(float))
    Y.columns = ["a", "b", "c"]
    model = plain(MultiTaskClassifier, hidden_layer_sizes=(4,), max_iter=4, random_state=0)
    scoring = {"b": "neg_log_loss", "classification": "roc_auc"}
    found = task_affinity(model, X, Y, "transfer", cv=KFold(3), scoring=scoring)

    def gain(train, test):
        alone = clone(model).fit(X[train], Y["b"].iloc[train]).predict_proba(X[test])
        pair = clone(model).fit(X[train], Y[["a", "b"]].iloc[train]).predict_proba(X[test])[1]
        truth = Y["b"].iloc[test]
        return log_loss(truth, alone) - log_loss(truth, pair)

    by_hand = np.mean([gain(train, test) for train, test in KFold(3).split(X)])
    assert_allclose(found.loc["a", "b"], by_hand, rtol=0, atol=1e-9)
    scoring["task1"] = scoring.pop("b")
    by_position = task_affinity(model, X, Y.to_numpy(), "transfer", cv=KFold(3), scoring=scoring)
    assert_array_equal(found, by_position)


BACKENDS = [pytest.param("loky", marks=pytest.mark.slow), "threading"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_transfer_in_parallel_is_the_same(backend):
    from joblib import parallel_config

    X, Y = planted(0, n_rows=60, sizes=(2, 1))
    model = contested(batch_size=20, max_iter=3, random_state=0)
    options = {"method": "transfer", "cv": 3, "random_state": 0}
    with parallel_config(backend):
        found = task_affinity(model, X, Y, n_jobs=2, **options)
    assert_allclose(found, task_affinity(model, X, Y, **options), rtol=0, atol=1e-9)


# All of them ----------------------------------------------------------------------------------

every_method = pytest.mark.parametrize("method", ["gradient", "lookahead", "transfer"])


@every_method
def test_the_frame_is_square_and_named(method):
    X, Y = planted(0, n_rows=60)
    names = list("abcdef")
    model = contested(batch_size=20, max_iter=2, random_state=0)
    found = task_affinity(model, X, pd.DataFrame(Y, columns=names), method, random_state=0)
    assert list(found.index) == list(found.columns) == names
    diagonal = np.diag(found)
    if method == "lookahead":
        assert (diagonal > 0).all()  # a small step for a task lowers its own loss
    else:
        assert_array_equal(diagonal, np.full(6, 1.0 if method == "gradient" else 0.0))
    assert_array_equal(found, task_affinity(model, X, Y, method, random_state=0))


@every_method
def test_through_a_pipeline(method):
    """The steps before see the training rows only, as in a fit of the pipeline."""
    X, Y = planted(0, n_rows=60)
    model = contested(batch_size=20, max_iter=2, random_state=0)
    piped = make_pipeline(StandardScaler(), model)
    found = task_affinity(piped, 5 * X + 3, Y, method, cv=KFold(3))
    assert (
        np.abs(found - task_affinity(model, 5 * X + 3, Y, method, cv=KFold(3))).to_numpy().max() > 0
    )
    if method != "transfer":
        scaled = StandardScaler().fit_transform(5 * X + 3)
        assert_allclose(found, task_affinity(model, scaled, Y, method), rtol=0, atol=1e-12)


@every_method
@pytest.mark.usefixtures("no_global_rng")
def test_seeds(method):
    """An estimator without a seed gets one; the estimator itself is left as it was."""
    X, Y = planted(0, n_rows=60, sizes=(2, 1))
    model = contested(batch_size=20, max_iter=2)
    first, again, other = (
        task_affinity(model, X, Y, method, random_state=seed).to_numpy() for seed in (0, 0, 1)
    )
    assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0
    assert model.random_state is None
    assert model.callbacks is None
    assert model.weighting == "static"


def test_without_pandas_an_array(monkeypatch):
    X, Y = planted(0, n_rows=60)
    model = contested(batch_size=20, max_iter=2, random_state=0)
    expected = task_affinity(model, X, Y)
    monkeypatch.setitem(sys.modules, "pandas", None)
    found = task_affinity(model, X, Y)
    assert type(found) is np.ndarray
    assert_array_equal(found, expected)


def test_tasks_that_never_meet_have_no_affinity():
    X, Y = planted(0, n_rows=60, sizes=(2, 1))
    Y[:30, 0], Y[30:, 1] = NAN, NAN
    model = contested(max_iter=2, random_state=0, batch_size=30, shuffle=False)
    for method in ("gradient", "lookahead"):
        found = task_affinity(model, X, Y, method, every=1).to_numpy()
        assert_array_equal(np.isnan(found), [[0, 1, 0], [1, 0, 0], [0, 0, 0]])


@pytest.mark.parametrize(
    ("model", "options", "error", "said"),
    [
        (
            plain(MultiTaskRegressor),
            {"method": "cosine"},
            ValueError,
            r"Got method='cosine', expected",
        ),
        (
            plain(MultiTaskRegressor),
            {"every": 0},
            ValueError,
            r"Got every=0, expected a whole number",
        ),
        (
            plain(MultiTaskRegressor, "single_task"),
            {},
            ValueError,
            r"whose tasks share nothing, expected",
        ),
        (
            plain(MultiTaskRegressor, hidden_layer_sizes=()),
            {},
            ValueError,
            "no shared parameter",
        ),
        (StandardScaler(), {}, TypeError, "Got StandardScaler, expected a multi-task estimator"),
        (
            VectorizedGridSearchCV(plain(MultiTaskRegressor), {}),
            {},
            TypeError,
            "Pass the estimator itself, not a search",
        ),
        (
            plain(MultiTaskRegressor),
            {"method": "transfer", "scoring": make_task_scorer(task=0)},
            ValueError,
            "expected one of all tasks",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(model, options, error, said):
    X, Y = planted(0, n_rows=60)
    with pytest.raises(error, match=said):
        task_affinity(model, X, Y, **options)


@pytest.mark.parametrize("method", ["gradient", "lookahead"])
def test_tasks_without_a_parameter_in_common_are_refused(method):
    """Instead of zeros, which would say that they neither help nor conflict."""
    X, Y = planted(0, n_rows=60)
    model = contested(batch_size=20, max_iter=2, trunk=HELD_TOGETHER)
    with pytest.raises(ValueError, match=r"expected shared parameters\. Use method='transfer'"):
        task_affinity(model, X, Y, method)
    found = task_affinity(model, X, Y, "transfer", cv=2, random_state=0).to_numpy()
    assert np.abs(found).max() > 0


@pytest.mark.parametrize("method", ["lookahead", "transfer"])
def test_tasks_that_depend_on_tasks_are_refused(method):
    X, Y = planted(0, n_rows=60)
    model = contested(task_dependencies={"task1": "task0"})
    with pytest.raises(ValueError, match=r"Got task_dependencies=.*expected None: a task cannot"):
        task_affinity(model, X, Y, method)


def test_one_task_is_refused():
    X, Y = planted(0, n_rows=60)
    with pytest.raises(ValueError, match="Got a single task, expected at least two"):
        task_affinity(contested(), X, Y[:, 0])


def test_an_interrupt_is_not_taken_for_a_result(monkeypatch):
    def run_chunk(chunk):
        return []

    monkeypatch.setattr(_runs, "run_chunk", run_chunk)
    X, Y = planted(0, n_rows=60)
    with pytest.raises(KeyboardInterrupt):
        task_affinity(contested(), X, Y, "transfer")


# Planted structure ----------------------------------------------------------------------------


def recovered(method, seed):
    X, Y = planted(seed)
    model = contested(hidden_layer_sizes=(4,), random_state=seed)
    found = task_affinity(model, X, Y, method, random_state=0)
    return group_by_affinity(found.to_numpy(), "auto") == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["gradient", "lookahead", "transfer"])
def test_planted_groups_are_found_in_nine_of_ten_seeds(method):
    """Without being told how many there are."""
    assert sum(recovered(method, seed) for seed in range(10)) >= 9


def test_tasks_of_one_group_are_left_together():
    """Negative control: where nothing conflicts, there is one group."""
    for seed in range(3):
        X, Y = planted(seed, sizes=(4, 0))
        found = task_affinity(contested(random_state=seed), X, Y)
        assert group_by_affinity(found.to_numpy(), "auto") == [[0, 1, 2, 3]]
