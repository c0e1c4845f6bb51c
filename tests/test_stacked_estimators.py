"""Estimators that are trained as one stack are those that their own ``fit`` would have made."""

from __future__ import annotations

import copy
import pickle
import warnings
from math import inf

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from plain import plain
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from skorch.callbacks import GradientNormClipping
from stacks import estimator, fit_alone, fit_stack, open_stack, raw, table, weights
from torch import nn

from sk_mtl import MultiTaskClassifier, MultiTaskRegressor, training
from sk_mtl._support import Stream
from sk_mtl.callbacks import TaskStopping
from sk_mtl.estimators import _stacking as stacking
from sk_mtl.losses import Focal, Huber, Quantile, RegressionLoss
from sk_mtl.stack import NetworkStack
from sk_mtl.stacked_training import MemberSteps
from sk_mtl.trunks import TRUNKS, MMoE
from sk_mtl.weighting import Weighting

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

every_trunk = pytest.mark.parametrize("trunk", TRUNKS)
stops_early = pytest.mark.parametrize("early", [False, True], ids=["", "early stopping"])

NAN = float("nan")


def folds_of(n_folds=2, *, missing=True, weighted=True):
    """Training rows of equally large folds: pairs of X and y, and the parameters of fit."""
    X, Y = table(missing=missing)
    w = np.random.default_rng(2).uniform(0.5, 2.0, size=Y.shape)
    rows = [np.delete(np.arange(100), np.arange(f, 100, n_folds + 1)) for f in range(n_folds)]
    size = min(map(len, rows))
    rows = [r[:size] for r in rows]
    return [(X[r], Y[r], {"sample_weight": w[r]} if weighted else {}) for r in rows]


def assert_same_fit(ours, theirs, X, *, atol=1e-10):
    """Outputs, curves, epochs and scores."""
    assert_allclose(raw(ours, X), raw(theirs, X), rtol=0, atol=atol)
    assert ours.n_iter_ == theirs.n_iter_
    assert ours.best_iter_ == theirs.best_iter_
    assert_allclose(ours.best_loss_, theirs.best_loss_, rtol=0, atol=atol)
    assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=0, atol=atol)
    assert_allclose(ours.task_loss_curves_, theirs.task_loss_curves_, rtol=0, atol=atol)
    for name in ("validation_scores_", "validation_task_loss_curves_"):
        a, b = getattr(ours, name), getattr(theirs, name)
        assert (a is None) == (b is None)
        if a is not None:
            assert_allclose(a, b, rtol=0, atol=atol)


def compare(models, data, *, atol=1e-10):
    """Train models in a stack and alone; return both."""
    alone, (together, errors) = fit_alone(models, data), fit_stack(models, data)
    assert errors == [None] * len(models)
    for ours, theirs, (X, _, _) in zip(together, alone, data, strict=True):
        assert_same_fit(ours, theirs, X, atol=atol)
    return together, alone


def candidates_on_folds(base, candidates, folds):
    models = [clone(base).set_params(**c) for _ in folds for c in candidates]
    return models, [fold for fold in folds for _ in candidates]


# What may differ from network to network ------------------------------------------------------

DIFFER = {
    "task weights": [{"task_weights": w} for w in ([1, 1, 1], [1, 2, 3], [0, 1, 5])],
    "learning rates": [{"learning_rate_init": r} for r in (1e-3, 1e-2, 0.1)],
    "penalties": [{"alpha": a} for a in (0.0, 1e-2, 10.0)],
    "dropout rates": [{"dropout": p} for p in (0.0, 0.2, 0.5)],
    "seeds": [{"random_state": s} for s in (0, 1, 2)],
    "seeds, with dropout": [{"random_state": s, "dropout": 0.2} for s in (0, 1, 2)],
    "epochs": [{"max_iter": n} for n in (2, 5, 1)],
    "patience": [{"max_iter": 12, "n_iter_no_change": n, "tol": 0.02} for n in (1, 2, inf)],
    "tolerance": [{"max_iter": 12, "n_iter_no_change": 2, "tol": t} for t in (0.0, 0.05, 1.0)],
    "stopping rules": [
        {"max_iter": 12, "learning_rate_init": 0.05, "n_iter_no_change": 2, **rule}
        for rule in (
            {"stopping_rule": "worst"},
            {"stopping_rule": "mean"},
            {"stopping_tasks": ["task2"]},
            {"stopping_tasks": [0, 1]},
        )
    ],
    "own epochs": [
        {"max_iter": 9, "learning_rate_init": rate, "stopping_rule": "each", **tasks}
        for rate, tasks in (
            (0.05, {}),
            (0.04, {"stopping_tasks": ["task2"]}),
            (0.03, {"stopping_tasks": [0, 1]}),
        )
    ],
    "numbers of losses": [
        {"loss": [Focal(gamma=g), Huber(delta=d), Quantile(quantile=q)]}
        for g, d, q in ((0.0, 1.0, 0.5), (2.0, 0.3, 0.9), (1.0, 0.1, 0.1))
    ],
}
EVERYTHING = [
    {"task_weights": [1, 2, 3], "learning_rate_init": 1e-3, "alpha": 0.1},
    {"dropout": 0.3, "random_state": 7, "max_iter": 7, "loss": [Focal(0.5), Huber(), Quantile()]},
    {"learning_rate_init": 0.1, "n_iter_no_change": 1, "tol": 0.1, "max_iter": 9},
    {
        "stopping_rule": "worst",
        "stopping_tasks": [1],
        "dropout": 0.3,
        "loss": [Focal(3.0), Huber(0.2), Quantile(0.9)],
        "max_iter": 8,
    },
    {"random_state": 7, "max_iter": 2},
]


@stops_early
@pytest.mark.parametrize("what", DIFFER)
def test_networks_that_differ_are_trained_as_alone(what, early):
    """Two folds, labels missing, a weight a cell, several batches with an odd last one."""
    base = estimator(early_stopping=early, validation_fraction=0.2)
    models, data = candidates_on_folds(base, DIFFER[what], folds_of())
    together, _ = compare(models, data)
    # Negative control: the candidates differ, and so do the folds.
    X = data[0][0]
    outputs = [raw(model, X) for model in together]
    n = len(DIFFER[what])
    apart = [np.abs(outputs[0] - other).max() for other in outputs[1:n]]
    if what != "stopping rules":
        assert min(apart) > 1e-5
    else:  # they speak of validation rows, and of when to go back to
        assert (max(apart) > 1e-5) == early
    assert min(np.abs(a - b).max() for a, b in zip(outputs[:n], outputs[n:], strict=True)) > 1e-5


@stops_early
@every_trunk
def test_everything_may_differ_at_once(trunk, early, monkeypatch):
    """The networks end at different epochs, and the stack becomes smaller."""
    sizes, keep = [], NetworkStack.keep
    monkeypatch.setattr(
        NetworkStack, "keep", lambda stack, index: (sizes.append(len(index)), keep(stack, index))
    )
    base = estimator(
        trunk,
        head_hidden_layer_sizes=(4,),
        early_stopping=early,
        loss=[Focal(), Huber(), Quantile()],
    )
    together, _ = compare(*candidates_on_folds(base, EVERYTHING, folds_of()))
    assert len({model.n_iter_ for model in together}) >= 4
    assert len(sizes) >= 2 and sizes == sorted(sizes, reverse=True) and sizes[0] < 10


BASES = {
    "two classes, one task": plain(MultiTaskClassifier),
    "classifier": plain(MultiTaskClassifier),
    "regressor": plain(MultiTaskRegressor),
    "one amount": plain(MultiTaskRegressor),
    "float32": estimator(dtype="float32"),
    "sgd": estimator(solver="sgd"),
    "sgd without momentum": estimator(solver="sgd", momentum=0.0),
    "no shuffling": estimator(shuffle=False),
    "full batch": estimator(batch_size="auto"),
    "no hidden layers": estimator(hidden_layer_sizes=()),
    "heads with layers, another activation": estimator(
        head_hidden_layer_sizes=(4, 3), activation="silu"
    ),
    "experts": estimator(MMoE(n_experts=3)),
    "uniform": estimator(weighting="uniform"),
    "clipped": estimator(callbacks=[GradientNormClipping(0.05)]),
    "clipped by the largest": estimator(callbacks=[("clip", GradientNormClipping(0.01, inf))]),
    "balanced classes": estimator(class_weight={"task0": "balanced"}),
}


@pytest.mark.parametrize("name", BASES)
def test_every_setting_of_an_estimator_is_trained_as_alone(name):
    base = clone(BASES[name])
    if not hasattr(base, "tasks"):
        base.set_params(hidden_layer_sizes=(6, 5), batch_size=32, max_iter=5)
    base.set_params(early_stopping=True, random_state=0)
    candidates = [
        {"learning_rate_init": 1e-3, "dropout": 0.1},
        {"learning_rate_init": 1e-2, "alpha": 1.0},
        {"learning_rate_init": 1e-2, "random_state": 5, "max_iter": 3},
    ]
    pick = {
        "two classes, one task": lambda Y: (Y[:, 1] > 0).astype(int),
        "classifier": lambda Y: (Y[:, 1:] > [0, 500]).astype(int),
        "regressor": lambda Y: Y[:, 1:],
        "one amount": lambda Y: Y[:, 2],
    }.get(name, lambda Y: Y)
    folds = [
        (X, pick(np.nan_to_num(Y) if name in ("two classes, one task", "one amount") else Y), {})
        for X, Y, _ in folds_of()
    ]
    models, data = candidates_on_folds(base, candidates, folds)
    together, _ = compare(models, data, atol=2e-4 if name == "float32" else 1e-10)
    if name == "float32":
        assert next(together[0].net_.module_.parameters()).dtype == torch.float32
    outputs = [raw(model, data[0][0]) for model in together[:3]]
    assert min(np.abs(outputs[0] - other).max() for other in outputs[1:]) > 1e-3


def test_validation_rows_of_ones_own_are_used_as_alone():
    X, Y = table(missing=True)
    fit_params = {"X_val": X[70:], "y_val": Y[70:], "sample_weight_val": np.arange(1.0, 34.0)}
    data = [(X[:70], Y[:70], fit_params)] * 3
    models = [estimator(learning_rate_init=r, max_iter=8) for r in (0.01, 0.1, 0.3)]
    together, _ = compare(models, data)
    assert all(model.validation_scores_ is not None for model in together)
    assert any(model.best_iter_ < model.n_iter_ for model in together)


@pytest.mark.parametrize("weighted", [False, True])
def test_validation_rows_are_read_in_parts_as_alone(weighted, monkeypatch):
    """As large tables are; the scores are those of all rows together."""
    monkeypatch.setattr(training, "ROWS_AT_ONCE", 1)  # a stack reads no more than a batch
    base = estimator(early_stopping=True, validation_fraction=0.5, batch_size=10)
    models, data = candidates_on_folds(
        base, [{"alpha": 0.0}, {"alpha": 1.0}], folds_of(weighted=weighted)
    )
    compare(models, data)


def test_a_fold_without_missing_labels_beside_one_with_some():
    X, Y = table()
    gaps = Y.copy()
    gaps[::4, 1] = NAN
    models = [estimator(random_state=s) for s in (0, 1, 0, 1)]
    compare(models, [(X, Y, {})] * 2 + [(X, gaps, {})] * 2)


def test_labels_that_are_missing_for_whole_batches():
    X, Y = table()
    Y[:90, 0] = NAN  # the rows are not shuffled: two batches lack the task
    base = estimator("single_task", shuffle=False)
    models = [clone(base).set_params(learning_rate_init=r) for r in (0.01, 0.1)]
    together, _ = compare(models, [(X, Y, {})] * 2)
    assert np.isfinite(together[0].task_loss_curves_).all()


def test_many_batches_are_added_up_as_alone():
    """More than the totals of an epoch keep at a time."""
    X, Y = table(300, missing=True)
    models = [estimator(batch_size=2, max_iter=2, learning_rate_init=r) for r in (1e-3, 1e-2)]
    compare(models, [(X, Y, {})] * 2)


# What an estimator then has -------------------------------------------------------------------


def same(a, b):
    """Whether two values of fitted attributes say the same."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and np.allclose(a, b, equal_nan=True)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, Stream):
        states = [s.generator().get_state() for s in (a, b)]
        return a.seed == b.seed and torch.equal(*states)
    if isinstance(a, float):
        return a == pytest.approx(b, abs=1e-10, nan_ok=True)
    if hasattr(a, "__dict__") and not isinstance(a, (type, torch.dtype)):
        return same(vars(a), vars(b))
    return bool(a == b)


SETTINGS = {
    "amounts and classes": {},
    "early stopping": {"early_stopping": True, "dropout": 0.1},
    "private": {"trunk": "single_task"},
    "clipping": {"callbacks": [("clip", GradientNormClipping(0.1))], "shuffle": False},
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_attribute_that_fit_sets_is_set(setting):
    """To the same values; of the net, what only the loop itself needs is left out."""
    base = estimator(**SETTINGS[setting])
    models = [clone(base).set_params(learning_rate_init=r) for r in (0.01, 0.1)]
    together, alone = compare(models, folds_of(2, weighted=False))
    for ours, theirs in zip(together, alone, strict=True):
        ours_has, theirs_has = vars(ours).copy(), vars(theirs).copy()
        net, other = ours_has.pop("net_"), theirs_has.pop("net_")
        del theirs_has["_out_of_fold"]  # comes after the training, of all members together
        assert set(ours_has) == set(theirs_has)
        different = {k for k in ours_has if not same(ours_has[k], theirs_has[k])}
        assert different == set()
        assert set(vars(other)) - set(vars(net)) == {"_hooks", "_watched", "_lowest"}
        assert set(vars(net)) <= set(vars(other))
        assert not net.module_.training and not net.criterion_.training
        assert type(net.history) is type(other.history)
        assert [list(epoch) for epoch in net.history] == [list(epoch) for epoch in other.history]
        for one, two in zip(net.history, other.history, strict=True):
            assert same({**one, "dur": 0.0}, {**two, "dur": 0.0})
        assert [type(c) for _, c in net.callbacks_] == [type(c) for _, c in other.callbacks_]
        assert [name for name, _ in net.callbacks_] == [name for name, _ in other.callbacks_]
        assert (net.interrupted_, net.stopped_by_callback_) == (False, False)
        ours_named, theirs_named = (dict(n.module_.named_parameters()) for n in (net, other))
        assert list(ours_named) == list(theirs_named)
        optimised = [p for group in net.optimizer_.param_groups for p in group["params"]]
        assert {id(p) for p in optimised} == {id(p) for p in ours_named.values()}
        assert same(net.optimizer_.defaults, other.optimizer_.defaults)


def test_nothing_of_one_estimator_belongs_to_another():
    X, Y = table()
    models = [estimator(learning_rate_init=r) for r in (0.01, 0.1)]
    (first, second), _ = fit_stack(models, [(X, Y, {})] * 2)
    before = raw(second, X)
    with torch.no_grad():
        for parameter in first.net_.module_.parameters():
            parameter.zero_()
    first.loss_curve_.clear()
    first.partial_fit(X, Y)
    assert_array_equal(raw(second, X), before)
    assert len(second.loss_curve_) == 5


@stops_early
def test_a_stacked_estimator_can_be_pickled_and_copied(early):
    X, Y = table()
    base = estimator(early_stopping=early, dropout=0.2, warm_start=True)
    models = [clone(base).set_params(random_state=s) for s in (0, 1)]
    together, alone = compare(models, [(X, Y, {})] * 2)
    for ours, theirs in zip(together, alone, strict=True):
        for other in (pickle.loads(pickle.dumps(ours)), copy.deepcopy(ours)):
            assert_array_equal(other.predict(X), ours.predict(X))
            other.fit(X, Y)
            assert_same_fit(other, copy.deepcopy(theirs).fit(X, Y), X)
        # No tensor of the stack is carried along, and no memory of its optimiser.
        assert len(pickle.dumps(ours)) < len(pickle.dumps(theirs))


# Going on -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trunk", "early"),
    [("shared_bottom", False), ("shared_bottom", True), ("mmoe", False), ("ple", True),
     ("single_task", False)],
)  # fmt: skip
def test_warm_start_goes_on_as_after_a_fit_alone(trunk, early):
    """Order of rows and dropout masks go on where each network stopped; a fit has a new optimiser.

    The networks share a stream of masks, or a source of rows, and end at different epochs.
    """
    base = estimator(trunk, warm_start=True, dropout=0.2, early_stopping=early)
    models = [
        clone(base).set_params(**c)
        for c in ({"max_iter": 4}, {"max_iter": 2}, {"random_state": 3}, {"dropout": 0.0})
    ]
    X, Y = table(missing=True)
    data = [(X, Y, {})] * 4
    together, alone = compare(models, data)
    for ours, theirs in zip(together, alone, strict=True):
        again = copy.deepcopy(ours)
        again._shuffle = Stream(again._shuffle.seed)  # negative control: from the beginning
        assert_same_fit(ours.fit(X, Y), theirs.fit(X, Y), X)
        again.fit(X, Y)
        assert np.abs(raw(again, X) - raw(ours, X)).max() > 1e-6


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_partial_fit_goes_on_without_the_optimisers_memory(solver):
    """A stack does not hand it on: as after a fit alone whose memory was emptied."""
    base = estimator(solver=solver, dropout=0.2)
    models = [clone(base).set_params(learning_rate_init=r) for r in (0.01, 0.1)]
    X, Y = table(missing=True)
    together, alone = compare(models, [(X, Y, {})] * 2)
    for ours, theirs in zip(together, alone, strict=True):
        emptied = copy.deepcopy(theirs)
        emptied.net_.optimizer_.state.clear()
        for model in (ours, theirs, emptied):
            model.partial_fit(X, Y)
            model.partial_fit(X, Y)
        assert_same_fit(ours, emptied, X)
        assert np.abs(raw(ours, X) - raw(theirs, X)).max() > 1e-4


class Momentum(nn.Module):
    """Weights that follow the losses slowly, a memory of every network's own."""

    def __init__(self, task_weights):
        super().__init__()
        self.register_buffer("followed", torch.ones_like(task_weights))

    def forward(self, losses, gradients=None, present=None):
        self.followed.lerp_(losses, 0.2)
        return self.followed


class Following(Weighting):
    def build(self, task_weights):
        return Momentum(task_weights)


@every_trunk
def test_a_weighting_with_a_memory_is_trained_as_alone(trunk):
    candidates = [{"max_iter": 5}, {"max_iter": 2}, {"learning_rate_init": 0.1}, {"max_iter": 1}]
    base = estimator(trunk, weighting=Following())
    models, data = candidates_on_folds(base, candidates, folds_of(missing=False))
    together, alone = compare(models, data)
    for ours, theirs in zip(together, alone, strict=True):
        for name in ours.task_names_:
            assert_allclose(
                ours.net_.history[:, f"weight_{name}"], theirs.net_.history[:, f"weight_{name}"]
            )


def test_the_memory_of_a_weighting_is_not_handed_on_either():
    X, Y = table()
    models = [estimator(weighting=Following(), max_iter=n) for n in (3, 4)]
    together, alone = compare(models, [(X, Y, {})] * 2)
    for ours, theirs in zip(together, alone, strict=True):
        assert (ours.net_.criterion_.balance.followed == 1).all()
        assert (theirs.net_.criterion_.balance.followed != 1).all()


# Accidents ------------------------------------------------------------------------------------


@stops_early
@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_an_estimator_that_diverges_harms_no_other(solver, early):
    """To the last bit, as long as no more than the one in five leaves the stack."""
    wild = 1e6 if solver == "adam" else 1e300
    rates = [[0.01, 0.001, 0.02, 0.1, 0.03], [0.01, 0.001, wild, 0.1, 0.03]]
    base = estimator(solver=solver, early_stopping=early, dropout=0.1)
    data = folds_of(1) * 5
    (sane, none), (lost, errors) = (
        fit_stack([clone(base).set_params(learning_rate_init=r) for r in each], data)
        for each in rates
    )
    assert none == [None] * 5
    for i in (0, 1, 3, 4):
        assert errors[i] is None
        a, b = weights(sane[i]), weights(lost[i])
        assert all(torch.equal(a[name], b[name]) for name in a)
        assert sane[i].loss_curve_ == lost[i].loss_curve_
        assert sane[i].validation_scores_ == lost[i].validation_scores_
    X, Y, fit_params = data[0]
    alone = clone(base).set_params(learning_rate_init=wild)
    if solver == "adam":  # weights are large, but numbers
        assert errors[2] is None
        assert lost[2].n_iter_ == alone.fit(X, Y, **fit_params).n_iter_
        assert not max(lost[2].loss_curve_) < 1e3
        return
    with pytest.raises(ValueError, match="not finite after epoch 1") as error:
        alone.fit(X, Y, **fit_params)
    assert str(error.value) == str(errors[2])


def test_what_a_fit_would_warn_of_is_warned_of():
    X, Y = table()
    models = [
        estimator(max_iter=2),
        estimator(max_iter=50, tol=1.0, n_iter_no_change=2),
        estimator(max_iter=3),
    ]
    said = []
    for train in (fit_stack, fit_alone):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            train(models, [(X, Y, {})] * 3)
        said.append([str(w.message) for w in caught if w.category is ConvergenceWarning])
    assert said[0] == said[1]
    assert [text.split(")")[0] for text in said[0]] == [
        "Stochastic Optimizer: Maximum iterations (2",
        "Stochastic Optimizer: Maximum iterations (3",
    ]


def test_an_interrupt_leaves_fitted_estimators(monkeypatch):
    X, Y = table()
    models = [estimator(max_iter=1), estimator(max_iter=9), estimator(max_iter=9, random_state=1)]
    step, calls = MemberSteps.step, []

    def interrupted(steps):
        calls.append(1)
        if len(calls) == 4 * 2 + 1:  # four steps an epoch
            raise KeyboardInterrupt
        step(steps)

    monkeypatch.setattr(MemberSteps, "step", interrupted)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        together, errors = fit_stack(models, [(X, Y, {})] * 3)
    assert errors == [None] * 3
    assert [model.n_iter_ for model in together] == [1, 2, 2]
    assert [model.net_.interrupted_ for model in together] == [False, True, True]
    said = [str(w.message) for w in caught if "interrupted" in str(w.message)]
    text = "Training interrupted by user after 2 epochs; the estimator is fitted and keeps the last"
    assert said == [f"{text} weights so far."] * 2
    for model, until in zip(together, (1, 2, 2), strict=True):
        assert_same_fit(model, clone(model).set_params(max_iter=until).fit(X, Y), X)


class Tempered(RegressionLoss):
    """A loss of one's own with a stackable number that its predictions need, too."""

    stackable = ("scale",)

    def __init__(self, scale=1.0):
        self.scale = scale

    def elementwise(self, raw, target):
        return (raw.squeeze(-1) * self.scale - target).square()

    def to_prediction(self, raw):
        return raw.squeeze(-1) * self.scale


@stops_early
def test_a_stackable_number_may_matter_to_predictions(early):
    X, Y = table()
    models = [estimator(loss=[None, Tempered(s), None], early_stopping=early) for s in (1.0, 3.0)]
    compare(models, [(X, Y, {})] * 2)


# Who can be stacked with whom -----------------------------------------------------------------

SAME = {
    **{what: candidates[:2] for what, candidates in DIFFER.items()},
    "how a parameter is written": [
        {"hidden_layer_sizes": [6, 5], "trunk": "mmoe"},
        {"hidden_layer_sizes": (6, 5), "trunk": MMoE()},
    ],
    "bounds of clipping": [{"callbacks": [GradientNormClipping(b)]} for b in (0.1, 5.0)],
}
OTHER = {
    "widths": {"hidden_layer_sizes": (6, 4)},
    "widths of heads": {"head_hidden_layer_sizes": (3,)},
    "activation": {"activation": "tanh"},
    "trunk": {"trunk": "ple"},
    "experts": {"trunk": MMoE(n_experts=2)},
    "a loss": {"loss": [None, "huber", None]},
    "batches": {"batch_size": 16},
    "solver": {"solver": "sgd"},
    "shuffling": {"shuffle": False},
    "type": {"dtype": "float32"},
    "validation": {"early_stopping": True},
    "weighting": {"weighting": "uniform"},
    "clipping": {"callbacks": [GradientNormClipping(1.0)]},
}


def forms(models, data):
    sessions, plans = open_stack(models, data)
    return [stacking.form(s, p) for s, p in zip(sessions, plans, strict=True)]


@pytest.mark.parametrize("what", SAME)
def test_networks_of_one_form_may_differ_in(what):
    models = [estimator(**params) for params in SAME[what]]
    assert len(set(forms(models, folds_of(1) * len(models)))) == 1


@pytest.mark.parametrize("what", OTHER)
def test_networks_are_of_other_forms_by(what):
    models = [estimator(), estimator(**OTHER[what])]
    assert len(set(forms(models, folds_of(1) * 2))) == 2
    assert len({stacking.likely_form(model) for model in models}) == 2


def test_networks_are_of_other_forms_by_their_data():
    X, Y = table()
    w = np.linspace(1, 2, len(X))
    data = {
        "as it is": (X, Y, {}),
        "a row less": (X[:-1], Y[:-1], {}),
        "weights": (X, Y, {"sample_weight": w}),
        "weights a task": (X, Y, {"sample_weight": np.column_stack([w] * 3)}),
        "a column less": (X[:, :-1], Y, {}),
    }
    assert len(set(forms([estimator()] * 5, list(data.values())))) == 5
    assert len(set(forms([estimator()] * 2, [(X, Y, {}), (2 * X, Y + 1, {})]))) == 1


def test_the_orders_of_two_norms_do_not_go_together():
    models = [estimator(callbacks=[GradientNormClipping(1.0, p)]) for p in (1, 2)]
    assert len(set(forms(models, folds_of(1) * 2))) == 2


class NeedsGradients(Following):
    needs = "gramian"


ALONE = {
    "weighting=NeedsGradients() needs gradients of one network": {"weighting": NeedsGradients()},
    "verbose reports every epoch of one fit": {"verbose": True},
    "callbacks follow one fit": {"callbacks": [TaskStopping(["task0"], False)]},
    "callbacks follow one fit ": {"callbacks": [GradientNormClipping(1), GradientNormClipping(2)]},
}


@pytest.mark.parametrize("reason", ALONE)
def test_what_follows_one_fit_is_trained_alone(reason):
    (session,), (plan,) = open_stack([estimator(**ALONE[reason])], folds_of(1))
    assert stacking.why_alone(session, plan) == reason.strip()


# How many ---------------------------------------------------------------------------------------


def size(**params):
    X, Y = table(600)
    (session,), (plan,) = open_stack([estimator(**params)], [(X, Y, {})])
    before = session.est._shuffle.generator().get_state()
    found = stacking.size_of_stacks(session, plan)
    assert torch.equal(before, session.est._shuffle.generator().get_state())  # nothing was drawn
    return found


@every_trunk
def test_wider_networks_and_larger_batches_make_smaller_stacks(trunk):
    widths = [size(trunk=trunk, hidden_layer_sizes=(n, n)) for n in (4, 16, 64)]
    batches = [size(trunk=trunk, batch_size=n, dropout=0.1) for n in (8, 32, 128)]
    for found in (widths, batches):
        sizes, n_bytes = zip(*found, strict=True)
        assert sizes[0] > sizes[1] > sizes[2] >= stacking.SMALLEST_STACK == 8
        assert n_bytes[0] < n_bytes[1] < n_bytes[2]


def test_a_stack_of_wide_networks_has_fewer_until_one_is_alone():
    sizes, n_bytes = zip(
        *[size(hidden_layer_sizes=(n,) * 3) for n in (100, 300, 450, 1200)], strict=True
    )
    assert sizes[0] == stacking.SMALLEST_STACK == 8
    assert 8 > sizes[1] > sizes[2] > sizes[3] == 1
    for n_networks, n in zip(sizes[:3], n_bytes, strict=False):
        assert n_networks * n <= stacking.MOST_BYTES
