"""Moving averages of the weights: by hand, exchanged, in stacks, and in what an estimator keeps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from plain import plain
from stacks import estimator, fit_alone, fit_stack, table, weights
from torch import nn

from sk_mtl import MultiTaskClassifier, MultiTaskRegressor
from sk_mtl.averages import WARM_UP, Averages

rng = np.random.default_rng(0)
X = rng.normal(size=(80, 3))
R = np.column_stack([X[:, 0] + X[:, 1], np.abs(X[:, 2])]) + 0.1 * rng.normal(size=(80, 2))
pytestmark = pytest.mark.filterwarnings(
    "ignore:Stochastic Optimizer:sklearn.exceptions.ConvergenceWarning"
)


def parameters(*shapes):
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(s, generator=generator, dtype=torch.double)) for s in shapes]


def step(weights, n):
    """Something that changes weights in place, as an optimiser does."""
    with torch.no_grad():
        for i, w in enumerate(weights):
            w.mul_(0.9).add_(torch.sin(torch.arange(w.numel()).view(w.shape) + n + i))


def by_hand(start, steps, decay):
    """The average of a list of weights, after one step each."""
    average = start.clone()
    for n, weight in enumerate(steps, start=1):
        share = min(decay, n / (n + WARM_UP))
        average = share * average + (1 - share) * weight
    return average


# By hand ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("decay", [0.3, 0.9, 0.99])
def test_averages_are_those_of_a_loop(decay):
    weights = parameters((3, 2), (4,))
    averages = Averages(weights, decay)
    start, steps = [w.detach().clone() for w in weights], []
    for n in range(40):
        step(weights, n)
        averages.update()
        steps.append([w.detach().clone() for w in weights])
    averages.exchange(averaged=True)
    for i, weight in enumerate(weights):
        expected = by_hand(start[i], [each[i] for each in steps], decay)
        assert_allclose(weight.detach(), expected, rtol=1e-12)
        assert not np.allclose(weight.detach(), steps[-1][i], rtol=1e-3)  # negative control


def test_the_first_steps_leave_the_start_behind():
    """Without the warm-up a tenth of it would be there for 230 steps with a decay of 0.99."""
    (weight,) = weights = parameters((1,))
    averages = Averages(weights, 0.99)
    with torch.no_grad():
        weight.fill_(1.0)
    averages.others[0].fill_(0.0)
    for _ in range(50):
        averages.update()
    averages.exchange(averaged=True)
    assert float(weight.detach()) > 0.999
    assert 1 - 0.99**50 < 0.4  # negative control


def test_exchanging_twice_changes_nothing():
    weights = parameters((3, 2), (4,))
    averages = Averages(weights, 0.5)
    step(weights, 0)
    averages.update()
    trained = [w.detach().clone() for w in weights]
    averages.exchange(averaged=True)
    averaged = [w.detach().clone() for w in weights]
    averages.exchange(averaged=True)  # already there
    assert all(torch.equal(a, w) for a, w in zip(averaged, weights, strict=True))
    averages.exchange(averaged=False)
    assert all(torch.equal(t, w) for t, w in zip(trained, weights, strict=True))
    assert not torch.equal(averaged[0], trained[0])
    averages.exchange(averaged=True)
    assert all(torch.equal(a, w) for a, w in zip(averaged, weights, strict=True))


def test_a_decay_of_zero_is_off():
    weights = parameters((3, 2))
    averages = Averages(weights, 0.0)
    before = weights[0].data_ptr()
    step(weights, 0)
    averages.update()
    averages.exchange(averaged=True)
    assert averages.others == [] and weights[0].data_ptr() == before


def test_keep_leaves_the_networks_of_the_indices():
    weights = parameters((4, 3, 2), (4, 5))
    averages = Averages(weights, 0.9)
    step(weights, 0)
    averages.update()
    before = [other.clone() for other in averages.others]
    averages.keep(torch.tensor([3, 1]))
    for other, old in zip(averages.others, before, strict=True):
        assert torch.equal(other, old[[3, 1]])


def test_tensors_that_are_not_trained_are_not_shared():
    """An average must not be the weight itself, nor change with it."""
    weights = parameters((2, 2))
    averages = Averages(weights, 0.9)
    before = averages.others[0].clone()
    step(weights, 0)
    assert torch.equal(averages.others[0], before)


# In an estimator -------------------------------------------------------------------------------


def reg(**params):
    small = {
        "hidden_layer_sizes": (6,),
        "learning_rate_init": 0.02,
        "batch_size": 20,
        "max_iter": 8,
        "dtype": "float64",
        "random_state": 0,
    }
    return plain(MultiTaskRegressor, **(small | params))


class Record:
    """Keep the trained weights after every step of a fit."""

    def __init__(self, monkeypatch):
        self.start, self.steps = None, []
        update = Averages.update

        def recorded(averages):
            if not self.steps:
                self.start = [other.clone() for other in averages.others]
            self.steps.append([p.detach().clone() for p in averages.parameters])
            update(averages)

        monkeypatch.setattr(Averages, "update", recorded)

    def average(self, decay, n_steps=None):
        of = zip(*self.steps[:n_steps], strict=True)
        return [by_hand(a, list(own), decay) for a, own in zip(self.start, of, strict=True)]


def test_an_estimator_predicts_with_the_average_of_its_steps(monkeypatch):
    record = Record(monkeypatch)
    model = reg(ema_decay=0.9).fit(X, R)
    assert len(record.steps) == 8 * 4
    own = [p.detach() for p in model.net_.module_.parameters()]
    for ours, expected in zip(own, record.average(0.9), strict=True):
        assert_allclose(ours, expected, rtol=1e-10, atol=1e-13)
    last = record.steps[-1]
    assert not all(np.allclose(a, b, rtol=1e-3) for a, b in zip(own, last, strict=True))


@pytest.mark.parametrize("best", [2, 5])
def test_best_weights_of_early_stopping_are_averages(best, monkeypatch):
    record = Record(monkeypatch)
    X_val, R_val = X[60:], R[60:]
    model = reg(ema_decay=0.9, n_iter_no_change=1, max_iter=best)
    model.fit(X[:60], R[:60], X_val=X_val, y_val=R_val)
    n_epochs = model.best_iter_
    own = [p.detach() for p in model.net_.module_.parameters()]
    for ours, expected in zip(own, record.average(0.9, 3 * n_epochs), strict=True):
        assert_allclose(ours, expected, rtol=1e-10, atol=1e-13)
    # and validated by them: what it predicts has the score that was best
    errors = ((model.predict(X_val) - R_val) / R[:60].std(0)) ** 2
    by_task = model.validation_task_loss_curves_[n_epochs - 1]
    assert_allclose(by_task, 0.5 * errors.mean(0), rtol=1e-10)


def test_training_itself_does_not_see_the_averages():
    """The steps are the same with and without."""
    found = []
    for decay in (0.9, 0.0):
        with pytest.MonkeyPatch.context() as patch:
            record = Record(patch)
            reg(ema_decay=decay).fit(X, R, X_val=X[:9], y_val=R[:9])
            found.append(record.steps)
    assert len(found[0]) == len(found[1]) == 8 * 4
    for p, q in zip(found[0][-1], found[1][-1], strict=True):
        assert_array_equal(p, q)


@pytest.mark.parametrize("early", [False, True])
def test_a_decay_of_zero_is_off_bit_for_bit(early):
    found = {d: reg(ema_decay=d, early_stopping=early).fit(X, R).predict(X) for d in (0.0, 0.5)}
    with pytest.MonkeyPatch.context() as patch:
        for name in ("update", "exchange", "keep"):
            patch.setattr(Averages, name, lambda *args, **kwargs: None)
        without = reg(ema_decay=0.0, early_stopping=early).fit(X, R).predict(X)
    assert_array_equal(found[0.0], without)
    assert not np.array_equal(found[0.5], without)


@pytest.mark.parametrize("trunk", ["shared_bottom", "mmoe", "single_task"])
@pytest.mark.parametrize("early", [False, True])
def test_a_stack_is_as_separate_networks(trunk, early):
    models = [
        estimator(trunk, ema_decay=0.9, early_stopping=early, max_iter=12, alpha=a, tol=0.01,
                  n_iter_no_change=2, random_state=s)
        for s, a in enumerate([1e-4, 1.0, 10.0])
    ]  # fmt: skip
    features, labels = table()
    data = [(features, labels, {})] * 3
    (stacked, errors), alone = fit_stack(models, data), fit_alone(models, data)
    assert errors == [None] * 3
    assert len({model.n_iter_ for model in alone}) > 1  # some leave the stack before others
    for ours, theirs in zip(stacked, alone, strict=True):
        assert ours.n_iter_ == theirs.n_iter_
        own, other = weights(ours), weights(theirs)
        for name in other:
            assert_allclose(own[name], other[name], rtol=1e-9, atol=1e-10)


def test_partial_fit_takes_no_average():
    """Calls are steps of one training, whose average would begin anew with every call."""
    averaged, last = reg(ema_decay=0.9), reg(ema_decay=0.0)
    for _ in range(3):
        averaged.partial_fit(X, R)
        last.partial_fit(X, R)
    assert_array_equal(averaged.predict(X), last.predict(X))


def test_a_fitted_estimator_holds_no_second_copy_of_its_weights():
    model = reg(ema_decay=0.9).fit(X, R)
    assert model.net_._averages.others == []


def test_an_interrupted_fit_keeps_averages(monkeypatch):
    record = Record(monkeypatch)
    whole = Averages.update

    def interrupted(averages):
        whole(averages)
        if len(record.steps) == 10:
            raise KeyboardInterrupt

    monkeypatch.setattr(Averages, "update", interrupted)
    with pytest.warns(UserWarning, match="interrupted by user"):
        model = reg(ema_decay=0.9).fit(X, R)
    own = model.net_.module_.parameters()
    for ours, expected in zip(own, record.average(0.9), strict=True):
        assert_allclose(ours.detach(), expected, rtol=1e-10, atol=1e-13)


def test_averages_help_where_steps_are_noisy():
    noisy = np.random.default_rng(1).normal(size=(400, 6))
    y = (noisy[:, 0] + np.random.default_rng(2).logistic(size=400) > 0).astype(int)
    losses = []
    for decay in (0.0, 0.99):
        model = plain(MultiTaskClassifier, hidden_layer_sizes=(32,), learning_rate_init=0.03,
                      batch_size=8, max_iter=10, ema_decay=decay, random_state=0)  # fmt: skip
        p = model.fit(noisy[:200], y[:200]).predict_proba(noisy[200:])
        losses.append(-np.log(p[np.arange(200), y[200:]]).mean())
    assert losses[1] < losses[0] - 0.05


@pytest.mark.parametrize("decay", [-0.1, 1.0, 2, "0.5", None])
def test_bad_decays(decay):
    with pytest.raises(ValueError, match="'ema_decay' parameter of MultiTaskRegressor must be"):
        reg(ema_decay=decay).fit(X, R)
