"""What weightings remember: of which tasks, for how long; and what callbacks are told."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from plain import plain
from skorch.callbacks import Callback
from torchjd import aggregation, scalarization

from sk_mtl import MultiTaskClassifier, MultiTaskRegressor
from sk_mtl._support import SingleClassWarning

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

_rng = np.random.default_rng(0)
X = _rng.normal(size=(60, 4))
Y = X[:, :3] + 0.1 * _rng.normal(size=(60, 3))
GAPS = Y.copy()
GAPS[:20, 0] = np.nan  # the first of three batches has no label of the first task


def model(cls=MultiTaskRegressor, **params):
    defaults = {"hidden_layer_sizes": (5,), "batch_size": 20, "max_iter": 3, "random_state": 0}
    return plain(cls, **(defaults | {"shuffle": False} | params))


def weights(fitted):
    return fitted.net_.module_.trunk.layers[0].weight.detach().numpy()


@pytest.mark.parametrize("method", [scalarization.DWA(), aggregation.GradVac()])
def test_what_remembers_tasks_in_order_wants_all_of_them(method):
    """Else the state of one task would be used for another, without a word."""
    with pytest.raises(
        ValueError, match="Got a batch without labels of some tasks, with weighting"
    ):
        model(weighting=method).fit(X, GAPS)
    model(weighting=method).fit(X, Y)
    model(weighting=aggregation.MGDA()).fit(X, GAPS)  # remembers nothing


def test_another_object_begins_anew_and_the_same_goes_on():
    def continued(second):
        fitted = model(weighting=scalarization.Sum()).partial_fit(X, Y)
        return weights(fitted.set_params(weighting=second).partial_fit(X, Y))

    skewed = scalarization.Constant(weights=torch.tensor([9.0, 1.0, 1.0]).double())
    assert_array_equal(continued(scalarization.Sum()), continued(scalarization.Mean()))
    assert np.abs(continued(skewed) - continued(scalarization.Sum())).max() > 1e-6


def test_callbacks_are_told_the_loss_by_the_users_weights():
    """Weights of gradients may be negative, or say nothing of the loss at all."""

    class Diary(Callback):
        def __init__(self):
            self.seen = []

        def on_batch_end(self, net, training, loss, **kwargs):
            self.seen.append(float(loss))

    told = {}
    for name in ("static", "mgda"):
        fitted = model(weighting=name, max_iter=1, batch_size=60, callbacks=[Diary()]).fit(X, Y)
        told[name] = fitted.net_.callbacks_[0][1].seen
    assert told["mgda"] == pytest.approx(told["static"], rel=1e-12)  # before the first step
    used = fitted.net_.history[-1]
    by_mgda = sum(used[f"weight_task{t}"] * used[f"train_loss_task{t}"] for t in range(3))
    assert abs(by_mgda - told["mgda"][0]) > 1e-4  # negative control


@pytest.mark.filterwarnings("ignore::sk_mtl._support.SingleClassWarning")
def test_a_penalty_tells_of_tasks_that_nothing_trains():
    labels = np.column_stack([Y[:, 0] > 0, Y[:, 1] > 0, np.zeros(60)]).astype(int)
    with pytest.warns(UserWarning, match=r"with 1 tasks of a single class \(\['task2'\]\)") as seen:
        model(MultiTaskClassifier, penalty="graph").fit(X, labels)
    assert any(w.category is UserWarning for w in seen)
    assert not any(w.category is SingleClassWarning for w in seen if "penalty" in str(w.message))
