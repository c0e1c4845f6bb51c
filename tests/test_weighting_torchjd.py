"""Weightings that users bring, torchjd's objects and their own; what the loop does with any."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import joblib
import numpy as np
import pytest
import torch
from fakes import Recorder
from numpy.testing import assert_allclose, assert_array_equal
from plain import plain
from searches import check_equal, mixed
from sklearn.base import clone
from sklearn.model_selection import KFold
from skorch.callbacks import Callback
from torch import nn
from torchjd import aggregation, linalg, scalarization
from torchjd.autojac import jac_to_grad, mtl_backward

from sk_mtl import MultiTaskEstimator
from sk_mtl.losses import SquaredError
from sk_mtl.network import build_network, group_tasks
from sk_mtl.objective import make_objective
from sk_mtl.steps import backpropagate
from sk_mtl.tasks import Task
from sk_mtl.trunks import SharedBottom
from sk_mtl.weighting import WEIGHTINGS, Balance, Weighting
from sk_mtl.weighting._torchjd import from_torchjd, is_torchjd

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

NAN = float("nan")


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


# torchjd's ----------------------------------------------------------------------------------

WEIGHTS = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
ARGUMENTS = {  # of those that need some, for three tasks
    "COSMOS": {"lambda_": 0.1, "weights": WEIGHTS},
    "Constant": {"weights": WEIGHTS},
    "ConstantWeighting": {"weights": WEIGHTS},
    "CRMOGMWeighting": {"weighting": aggregation.MGDAWeighting()},
    "FAMO": {"shape": 3},
    "FairGrad": {"alpha": 1.0},
    "FairGradWeighting": {"alpha": 1.0},
    "Krum": {"n_byzantine": 0},
    "KrumWeighting": {"n_byzantine": 0},
    "PBI": {"theta": 1.0, "weights": WEIGHTS},
    "STCH": {"mu": 0.1},
    "TrimmedMean": {"trim_number": 1},
}
ABSTRACT = {"Scalarizer", "Aggregator", "Weighting", "WeightedAggregator"}
ABSTRACT |= {"GramianWeightedAggregator"}
NEED_MORE = {"CAGrad", "CAGradWeighting", "NashMTL"}  # packages that are not among ours
LEARN = {"IMTLL", "UW"}  # parameters of their own
OBJECTS = [
    pytest.param(
        getattr(module, name)(**ARGUMENTS.get(name, {})),
        id=f"{module.__name__.split('.')[-1]} {name}",
    )
    for module in (scalarization, aggregation)
    for name in module.__all__
    if name not in ABSTRACT | NEED_MORE | LEARN
]


@pytest.mark.usefixtures("no_global_rng")
@pytest.mark.parametrize("method", OBJECTS)
def test_every_object_of_torchjd_trains(method):
    """Each fit begins with a copy, so that a second one finds the same."""
    X, Y = table()
    before = joblib.hash(method)
    model = estimator(weighting=method, max_iter=5).fit(X, Y)
    assert np.isfinite(parameters(model)).all()
    assert model.loss_curve_[-1] < model.loss_curve_[0]
    assert_array_equal(parameters(clone(model).fit(X, Y)), parameters(model))
    assert joblib.hash(method) == before
    restored = pickle.loads(pickle.dumps(model))
    assert_array_equal(restored.predict(X), model.predict(X))
    assert_array_equal(parameters(restored.partial_fit(X, Y)), parameters(model.partial_fit(X, Y)))


def network_of(n_tasks, widths, n_inputs, activation="tanh"):
    groups = group_tasks(
        [Task(f"t{t}", "regression") for t in range(n_tasks)], [SquaredError()] * n_tasks
    )
    network = build_network(
        SharedBottom(),
        groups,
        n_inputs=n_inputs,
        n_tasks=n_tasks,
        hidden_layer_sizes=widths,
        head_hidden_layer_sizes=(),
        activation=activation,
        dropout=0.0,
        seeds=[(0, 0, 0)],
        dtype=torch.float64,
    )
    return network, groups


def gradients(network, weighting, groups, given, X, y, complete=True):
    """The gradients of one step, over the trunk, and what else a step returns."""
    objective = make_objective(weighting, groups, given, seeds=[0], private=False)
    batch = ({"X": X, "sample_weight": None}, y)
    step = backpropagate(network, objective, batch, complete=complete)
    return torch.cat([p.grad.flatten() for p in network.trunk.parameters()]), step


DETERMINISTIC = ["AlignedMTL", "ConFIG", "Constant", "DualProj", "IMTLG", "Krum", "MGDA", "Mean"]
DETERMINISTIC += ["PCD", "Sum", "TrimmedMean", "UPGrad", "FairGrad", "ExcessMTL"]


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_a_step_has_the_gradients_of_torchjd(name):
    """Over the shared part, by its own backward pass."""
    method = getattr(aggregation, name)(**ARGUMENTS.get(name, {}))
    generator = torch.Generator().manual_seed(1)
    X, y = torch.randn(20, 7, generator=generator, dtype=torch.float64).split([4, 3], dim=1)
    network, groups = network_of(3, (6, 5), 4)
    y[:, 0], y[:, 1] = 10 * X[:, 0], -30 * X[:, 0]
    for parameter in network.heads.parameters():
        parameter.data[1] = parameter.data[0]  # so that their gradients are at odds
    features = network.trunk(X)
    (raw,) = network.heads_of(features.unsqueeze(-3).expand(3, -1, -1))
    losses = [((raw[t, :, 0] - y[:, t]) ** 2).mean() / 2 for t in range(3)]
    shared = list(network.trunk.parameters())
    mtl_backward(
        losses,
        features=features,
        tasks_params=[[]] * 3,
        shared_params=shared,
        retain_graph=True,
    )
    jac_to_grad(shared, copy.deepcopy(method))
    theirs = torch.cat([p.grad.flatten() for p in shared])
    ours, _ = gradients(network, from_torchjd(method), groups, torch.ones(3).double(), X, y)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    network.zero_grad()
    mean = torch.ones(3).double() / 3  # negative control
    other, _ = gradients(network, WEIGHTINGS["static"](), groups, mean, X, y)
    assert torch.allclose(other, theirs, rtol=1e-3) == (name == "Mean")


SHAPED = ["COSMOS", "Constant", "FAMO", "PBI"]


@pytest.mark.parametrize(
    "name", ["GeometricMean", "Mean", "STCH", "Sum", "MGDA", "ConFIG", "IMTLG"]
)
def test_an_absent_task_is_not_shown_to_torchjd(name):
    """As if the object had been called for the tasks present alone."""
    module = aggregation if hasattr(aggregation, name) else scalarization
    weighting = from_torchjd(getattr(module, name)(**ARGUMENTS.get(name, {})))
    here = torch.tensor([True, False, True])
    jacobian = torch.randn(3, 5, dtype=torch.float64) * here.unsqueeze(1)
    losses = torch.tensor([0.5, 0.0, 2.0], dtype=torch.float64)

    def called(losses, jacobian, present):
        balance = weighting.build(torch.ones_like(losses))
        seen = jacobian if weighting.needs != "gramian" else jacobian @ jacobian.mT
        return balance(losses, seen, present)

    found, expected = called(losses, jacobian, here), called(losses[here], jacobian[here], None)
    if weighting.weighs != "direction":
        assert found[1] == 0
        found = found[here]
    assert_allclose(found, expected, rtol=1e-12)
    nobody = called(0 * losses, 0 * jacobian, torch.zeros(3, dtype=torch.bool))
    assert not nobody.any()


def test_a_trunk_may_have_as_many_parameters_as_there_are_tasks():
    jacobian, here = torch.eye(3, dtype=torch.float64), torch.tensor([True, False, True])
    balance = from_torchjd(aggregation.ConFIG()).build(torch.ones(3))
    assert balance(torch.ones(3).double(), jacobian, here).shape == (3,)


@pytest.mark.parametrize("name", SHAPED)
def test_objects_for_so_many_tasks_refuse_batches_without_one(name):
    """Rather than take the weight of another task."""
    X, Y = table()
    Y[:32, 0] = np.nan  # the first of three batches
    method = getattr(scalarization, name)(**ARGUMENTS[name])
    with pytest.raises(ValueError, match="shape"):
        estimator(weighting=method, shuffle=False).fit(X, Y)


@pytest.mark.parametrize("name", sorted(LEARN))
def test_objects_with_parameters_learn_them_or_are_refused(name):
    """Equal weights without end would be none of these methods."""
    model = estimator(weighting=getattr(scalarization, name)(3))
    try:
        model.fit(*table())
    except TypeError as error:
        assert "parameters" in str(error)
        return
    (learned,) = model.net_.criterion_.balance._method[0].parameters()
    assert learned.abs().min() > 0


def test_objects_of_torchjd_are_searched_one_by_one():
    model = mixed(weighting=scalarization.STCH(mu=0.1), max_iter=2)
    ours, _ = check_equal(model, {"alpha": [0, 1]}, trained="alone", cv=KFold(2))
    assert all("balances one network" in reason for reason in ours.search_report_["reason"])


def test_what_is_none_of_torchjds_weightings_is_refused():
    X, Y = table()
    with pytest.raises(TypeError, match=r"Got weighting=.*expected a Scalarizer, a Weighting or"):
        from_torchjd(linalg.QuadprogProjector())
    for wrong in (linalg.QuadprogProjector(), nn.Linear(2, 2), 3):
        with pytest.raises(TypeError, match="weighting"):
            estimator(weighting=wrong).fit(X, Y)
    with pytest.raises(TypeError, match=r"Got the class MGDA as weighting.*MGDA\(\)"):
        estimator(weighting=aggregation.MGDA).fit(X, Y)
    with pytest.raises(ValueError, match="no use for them"):
        estimator(weighting=aggregation.MGDA(), task_weights=[1, 2, 3]).fit(X, Y)


class Mine(aggregation.Aggregator):
    """A user's class derived from torchjd's."""

    def forward(self, matrix):
        return matrix.sum(dim=0)


def test_a_class_derived_from_torchjds_is_one_of_its():
    mine, theirs = (estimator(weighting=w).fit(*table()) for w in (Mine(), aggregation.Sum()))
    assert_array_equal(parameters(mine), parameters(theirs))


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_our_own_weightings_do_without_torchjd(name, monkeypatch):
    for module in [m for m in sys.modules if m.split(".")[0] == "torchjd"]:
        monkeypatch.setitem(sys.modules, module, None)
    estimator(weighting=name, max_iter=1).fit(*table())
    with pytest.raises(ImportError):  # negative control
        estimator(weighting=aggregation.MGDA(), max_iter=1).fit(*table())


def test_to_ask_whether_something_is_torchjds_imports_nothing():
    assert is_torchjd(aggregation.MGDA()) and not is_torchjd(WEIGHTINGS["mgda"]())
    code = (
        "import sys; from sk_mtl.weighting import MGDA; "
        "from sk_mtl.weighting._torchjd import is_torchjd; "
        "assert not is_torchjd(MGDA()) and not is_torchjd('mgda'); "
        "assert 'torchjd' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# In the loop: what weights are of -----------------------------------------------------------


class Fixed(Weighting):
    """Says the same whatever it sees; of what, a subclass says."""

    needs = "gramian"

    def __init__(self, values):
        self.values = values

    def build(self, task_weights):
        return _Fixed(torch.tensor(self.values).to(task_weights))


class _Fixed(Balance):
    def __init__(self, values):
        super().__init__()
        self.register_buffer("values", values)

    def forward(self, losses, gradients, present):
        return self.values


class OfGradients(Fixed):
    weighs = "gradient"


class ADirection(Fixed):
    weighs = "direction"


@pytest.mark.parametrize(
    ("recipe", "trunk", "heads", "recorded"),
    [
        # sum(w g) / sum(w) = 3/8 (2, 1) + 5/8 (-6, -3), and heads 3/8 (2, 1), 5/8 (6, 3)
        (Fixed([0.3, 0.5]), (-3.0, -1.5), (0.75, 3.75, 0.375, 1.875), [0.3, 0.5]),
        # sum(w g) = 0.3 (2, 1) + 0.5 (-6, -3), and heads by the user's 1/4 and 3/4
        (OfGradients([0.3, 0.5]), (-2.4, -1.2), (0.5, 4.5, 0.25, 2.25), [0.3, 0.5]),
        (ADirection([7.0, 9.0]), (7.0, 9.0), (0.5, 4.5, 0.25, 2.25), [1.0, 3.0]),
    ],
    ids=["loss", "gradient", "direction"],
)
def test_what_weights_are_of(recipe, trunk, heads, recorded):
    """h = x, twice a prediction of it by c = 1 and -1; the row x = 2 with targets 1 and -5.

    Errors are 2 - 1 = 1 and -2 + 5 = 3. Over the trunk's slope and intercept the gradients are
    error * c * (x, 1): (2, 1) and (-6, -3). Over a head's they are error * (h, 1): (2, 1), (6, 3).
    """
    network, groups = network_of(2, (1,), 1, activation="identity")
    (slope, intercept), (c, d) = network.trunk.parameters(), network.heads.parameters()
    for parameter, value in ((slope, [1.0]), (intercept, [0.0]), (c, [1.0, -1.0]), (d, [0.0, 0.0])):
        parameter.data = torch.tensor(value, dtype=torch.float64).view_as(parameter)
    given = torch.tensor([1.0, 3.0], dtype=torch.float64)
    objective = make_objective(recipe, groups, given, seeds=[0], private=False)
    X, y = torch.tensor([[2.0]]).double(), torch.tensor([[1.0, -5.0]]).double()
    batch = ({"X": X, "sample_weight": None}, y)
    losses, weights, _, _ = backpropagate(network, objective, batch, complete=True)
    assert losses.tolist() == [0.5, 4.5]
    assert_allclose(torch.cat([slope.grad.flatten(), intercept.grad.flatten()]), trunk)
    assert_allclose(torch.cat([c.grad.flatten(), d.grad.flatten()]), heads)
    assert_allclose(weights, recorded)


def private_networks(weighting, gaps):
    """Parameters of networks that share nothing, by plain gradient descent."""
    X, Y = table()
    Y = np.nan_to_num(Y)
    if gaps:
        Y[:32, 0] = np.nan  # the first of three batches
    model = estimator(trunk="single_task", weighting=weighting, solver="sgd", shuffle=False)
    return parameters(model.fit(X, Y))


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("name", ["pcgrad", "dualproj", "graddrop"])
def test_networks_that_share_nothing_have_nothing_to_balance(name, gaps):
    """Their gradients never conflict: each is trained as if it were alone."""
    expected = private_networks("static", gaps)
    assert_allclose(private_networks(name, gaps), expected, rtol=0, atol=1e-6)
    assert np.abs(private_networks("mgda", gaps) - expected).max() > 1e-3  # negative control


# A user's own -------------------------------------------------------------------------------


class _Proportional(nn.Module):
    """The larger a task's running loss, the more it counts."""

    def __init__(self, n_tasks, decay):
        super().__init__()
        self.decay = decay
        self.log_scale = nn.Parameter(torch.zeros(n_tasks))  # the main optimiser must not see it
        self.register_buffer("mean", torch.zeros(n_tasks))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def forward(self, losses, gradients, present):
        self.steps += 1
        self.mean.mul_(self.decay).add_(losses, alpha=1 - self.decay)
        return self.mean


class Proportional(Weighting):
    def __init__(self, decay=0.0):
        self.decay = decay

    def build(self, task_weights):
        return _Proportional(task_weights.shape[-1], self.decay).to(task_weights)


def test_a_users_weighting_needs_no_registration():
    X, Y = table()
    Y = np.nan_to_num(Y)
    model = estimator(weighting=Proportional(), batch_size=80, callbacks=[Recorder()], alpha=0.0)
    model.fit(X, Y)
    # One batch an epoch: the weights in the history are the task losses themselves.
    weights = np.array([model.net_.history[:, f"weight_{t}"] for t in model.task_names_]).T
    assert_allclose(weights, model.task_loss_curves_, rtol=1e-12)
    curves = model.task_loss_curves_
    # The loss reported goes by the user's weights: with those of a step it would not compare.
    assert_allclose(model.loss_curve_, curves.mean(1), rtol=1e-12)
    optimised = {id(p) for g in model.net_.optimizer_.param_groups for p in g["params"]}
    assert id(model.net_.criterion_.balance.log_scale) not in optimised
    assert not model.net_.criterion_.balance.log_scale.any()
    uniform = estimator(batch_size=80, alpha=0.0).fit(X, Y)
    assert np.abs(parameters(model) - parameters(uniform)).max() > 1e-4


def test_weights_that_change_in_every_batch_are_averaged_over_the_epoch():
    X, Y = table()
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


def test_a_weightings_state_starts_anew_in_fit_and_lives_on_in_partial_fit():
    X, Y = table()
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
