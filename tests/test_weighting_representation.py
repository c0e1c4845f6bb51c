"""Weightings that see gradients of the shared features in place of the shared parameters."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from fakes import Recorder
from numpy.testing import assert_allclose, assert_array_equal
from plain import plain
from scipy.optimize import minimize
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, KFold
from torch import nn
from torchjd import aggregation, scalarization

from sk_mtl import MultiTaskEstimator, MultiTaskRegressor
from sk_mtl.cascades import OutputCascade
from sk_mtl.gradients import feature_jacobian
from sk_mtl.losses import LogLoss, SquaredError
from sk_mtl.network import build_network, group_tasks
from sk_mtl.objective import make_objective
from sk_mtl.steps import backpropagate
from sk_mtl.tasks import Task
from sk_mtl.trunks import TRUNKS, SharedBottom, Trunk
from sk_mtl.weighting import (
    MGDA,
    WEIGHTINGS,
    CAGrad,
    ConstantWeights,
    ExcessMTL,
    GradVac,
    RepresentationGradients,
    Weighting,
)
from sk_mtl.weighting._streams import Streams

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

WRAPPED = [
    name
    for name, w in WEIGHTINGS.items()
    if w.needs != "losses" and w.of == "parameters" and not w.per_parameter
]
TASKS = [
    Task("a", "binary", np.array([0, 1])),
    Task("b", "regression"),
    Task("c", "multiclass", np.array([0, 1, 2])),
    Task("d", "regression"),
]
LOSSES = [LogLoss(), SquaredError(), LogLoss(), SquaredError()]


def network_of(tasks, losses, widths, n_inputs, *, head=(), activation="tanh"):
    groups = group_tasks(tasks, losses)
    network = build_network(
        SharedBottom(),
        groups,
        n_inputs=n_inputs,
        n_tasks=len(tasks),
        hidden_layer_sizes=widths,
        head_hidden_layer_sizes=head,
        activation=activation,
        dropout=0.0,
        seeds=[(1, 2, 3)],
        dtype=torch.float64,
    )
    return network, groups


def four_tasks(*, absent=(), head=()):
    """A network of four tasks and a batch, in which labels are missing, of some tasks all."""
    rng = np.random.default_rng(0)
    X = torch.from_numpy(rng.normal(size=(20, 5)))
    y = np.column_stack(
        [rng.integers(0, 2, 20), rng.normal(size=20), rng.integers(0, 3, 20), rng.normal(size=20)]
    ).astype(float)
    y[:, 3] = -5.0 * y[:, 1]
    y[::3, 0] = np.nan
    y[:, list(absent)] = np.nan
    network, groups = network_of(TASKS, LOSSES, (7, 6), 5, head=head)
    for parameter in network.heads[1].parameters():
        parameter.data[1] = parameter.data[0]  # so that the amounts are at odds
    return network, groups, X, torch.from_numpy(y)


def step(network, groups, weighting, X, y, given=None, seed=0):
    """Return losses, weights and the gradients of trunk and heads after one batch."""
    given = torch.ones(y.shape[1]).double() if given is None else given
    objective = make_objective(weighting, groups, given, seeds=[seed], private=False)
    network.zero_grad()
    batch = ({"X": X, "sample_weight": None}, y)
    losses, weights, _, _ = backpropagate(network, objective, batch, complete=False)
    trunk, heads = (
        torch.cat([p.grad.flatten() for p in part.parameters()])
        for part in (network.trunk, network.heads)
    )
    return losses, weights, trunk, heads


def slowly(network, groups, X, y):
    """Features, and the gradient of every task's loss over them, one after the other."""
    given = torch.ones(y.shape[1]).double()
    objective = make_objective(WEIGHTINGS["static"](), groups, given, seeds=[0], private=False)
    features = network.trunk(X)
    raw = network.heads_of(features)
    losses, _ = objective.task_losses(raw, y, None, complete=False)
    rows = [torch.autograd.grad(loss, features, retain_graph=True)[0] for loss in losses]
    return features, torch.stack(rows).flatten(1)


def through_trunk(network, features, direction):
    rows = torch.autograd.grad(
        features, list(network.trunk.parameters()), direction.view_as(features)
    )
    return torch.cat([row.flatten() for row in rows])


def table():
    """Three tasks on 80 rows: a class, two amounts; the first of the batches lacks one."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 4))
    Y = np.column_stack([X[:, 0] > 0, X[:, 1] - X[:, 2], 50 * X[:, 2] + 100])
    Y[::5, 1] = Y[:32, 0] = np.nan
    return X, Y


def estimator(weighting="mgda", **params):
    defaults = {
        "tasks": ["classification", "regression", "regression"],
        "hidden_layer_sizes": (6,),
        "batch_size": 32,
        "learning_rate_init": 0.01,
        "max_iter": 4,
        "shuffle": False,
        "random_state": 0,
    }
    return plain(
        MultiTaskEstimator,
        weighting=RepresentationGradients(weighting),
        **(defaults | params),
    )


def parameters(fitted):
    return torch.cat([p.detach().flatten() for p in fitted.net_.module_.parameters()]).numpy()


# One step -----------------------------------------------------------------------------------


def test_a_step_by_hand():
    """h = x for the rows 1 and 0; predictions are h and -h, targets (-1, 0) and (-1, 4).

    Errors are (2, 0) and (0, -4), so gradients over h are (1, 0) and (0, 2). The shortest mixture
    is 4/5 and 1/5 of them, (4/5, 2/5): over slope and intercept (4/5, 6/5). Those gradients
    themselves are (1, 1) and (0, 2), of which the shortest mixture is the first.
    """
    network, groups = network_of(TASKS[1::2], LOSSES[1::2], (1,), 1, activation="identity")
    values = ([1.0], [0.0], [1.0, -1.0], [0.0, 0.0])
    for parameter, value in zip(network.parameters(), values, strict=True):
        parameter.data = torch.tensor(value, dtype=torch.float64).view_as(parameter)
    X, y = torch.tensor([[1.0], [0.0]]).double(), torch.tensor([[-1.0, -1.0], [0.0, 4.0]]).double()
    losses, weights, trunk, heads = step(network, groups, RepresentationGradients("mgda"), X, y)
    assert losses.tolist() == [1.0, 4.0]
    assert_allclose(weights, [0.8, 0.2], rtol=1e-9)
    assert_allclose(trunk, [0.8, 1.2], rtol=1e-9)
    assert_allclose(heads, [0.5, 0.0, 0.5, -1.0], rtol=1e-9)  # half of what each asks for
    _, weights, trunk, _ = step(network, groups, MGDA(), X, y)  # negative control
    assert_allclose(weights, [1.0, 0.0], atol=1e-9)
    assert_allclose(trunk, [1.0, 1.0], rtol=1e-9)


@pytest.mark.parametrize("head", [(), (4,)], ids=["linear head", "hidden head"])
def test_gradients_of_the_features_are_one_backward_pass_a_task(head):
    network, groups, X, y = four_tasks(head=head)
    _, expected = slowly(network, groups, X, y)
    objective = make_objective(MGDA(), groups, torch.ones(4).double(), seeds=[0], private=False)
    *_, found, features = feature_jacobian(
        network, X, lambda raw: objective.task_losses(raw, y, None, complete=False)
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-15)
    torch.testing.assert_close(features, network.trunk(X))
    assert expected.abs().amax(dim=1).min() > 1e-3  # negative control: there is something


def test_weights_of_mgda_minimise_the_norm_over_the_features():
    """MGDA-UB, against scipy."""
    network, groups, X, y = four_tasks()
    _, g = slowly(network, groups, X, y)
    gramian = (g @ g.mT).numpy()
    found = minimize(
        lambda w: (w @ gramian @ w / 2, gramian @ w),
        np.full(4, 0.25),
        jac=True,
        bounds=[(0, 1)] * 4,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        method="SLSQP",
        options={"ftol": 1e-15},
    )
    _, weights, _, _ = step(network, groups, RepresentationGradients("mgda"), X, y)
    assert_allclose(weights, found.x, atol=1e-4)
    _, other, _, _ = step(network, groups, MGDA(), X, y)  # negative control
    assert np.abs(other.numpy() - found.x).max() > 0.01


@pytest.mark.parametrize("name", WRAPPED)
def test_the_trunk_moves_along_what_the_weighting_makes_of_the_features(name):
    """And heads by their share: of the weights, or of the user's, as with parameters."""
    network, groups, X, y = four_tasks()
    recipe, users = WEIGHTINGS[name](), torch.tensor([1.0, 2.0, 3.0, 4.0]).double()
    if not recipe.uses_task_weights:
        users = torch.ones(4).double()
    features, g = slowly(network, groups, X, y)
    balance = recipe.build(users)
    balance.seed([7])
    losses = step(network, groups, recipe, X, y)[0]
    given = balance(losses, g @ g.mT if recipe.needs == "gramian" else g, None)
    if recipe.weighs == "loss":
        given, users = given / given.sum(), given
    expected = given if recipe.weighs == "direction" else given @ g
    _, _, trunk, heads = step(network, groups, RepresentationGradients(recipe), X, y, users, seed=7)
    assert_allclose(trunk, through_trunk(network, features, expected), rtol=0, atol=1e-12)
    network.zero_grad()
    static = WEIGHTINGS["static"]()
    _, _, plain_trunk, plain_heads = step(network, groups, static, X, y, users)
    assert_allclose(heads, plain_heads, rtol=0, atol=1e-12)
    if name != "gradnorm":  # negative control; its first weights are equal
        assert (trunk - plain_trunk).abs().max() > 1e-4


def test_graddrop_draws_a_sign_for_every_feature():
    """Algorithm 1 of Chen et al., by the same numbers."""
    network, groups, X, y = four_tasks()
    features, g = slowly(network, groups, X, y)
    twin = Streams()
    twin.seed([3])
    odds = (1 + g.sum(0) / g.abs().sum(0)) / 2
    positive = twin.uniform(odds) < odds
    kept = torch.where(positive, g.clamp(min=0), g.clamp(max=0)).mean(0)
    found = step(network, groups, RepresentationGradients("graddrop"), X, y, seed=3)[2]
    assert_allclose(found, through_trunk(network, features, kept), rtol=0, atol=1e-14)
    other = step(network, groups, RepresentationGradients("graddrop"), X, y, seed=4)[2]
    assert (other - found).abs().max() > 1e-4  # negative control


def test_an_absent_task_is_left_out():
    network, groups, X, y = four_tasks(absent=[1])
    features, g = slowly(network, groups, X, y)
    here = torch.tensor([0, 2, 3])
    alone = MGDA().build(torch.ones(3))(torch.ones(3), g[here] @ g[here].mT)
    _, weights, trunk, _ = step(network, groups, RepresentationGradients("mgda"), X, y)
    assert weights[1] == 0
    assert_allclose(weights[here], alone, rtol=1e-9)
    assert_allclose(trunk, through_trunk(network, features, alone @ g[here]), rtol=0, atol=1e-14)
    # Negative control: its zeros would be the shortest of all.
    shown = MGDA().build(torch.ones(4))(torch.ones(4), g @ g.mT)
    assert (shown @ g).norm() < 1e-6 < 1e-3 < trunk.norm()


# Whole trainings ----------------------------------------------------------------------------


def regressor(weighting, **params):
    defaults = {"hidden_layer_sizes": (3,), "activation": "identity", "solver": "sgd"}
    return plain(
        MultiTaskRegressor,
        weighting=weighting,
        learning_rate_init=0.05,
        max_iter=20,
        random_state=0,
        **(defaults | params),
    )


@pytest.mark.parametrize(
    "name", ["mgda", "pcgrad", "gradvac", "cagrad", "upgrad", "dualproj", "imtl_g", "nash_mtl"]
)
def test_where_the_trunk_keeps_angles_nothing_changes(name):
    """A linear layer whose rows, with a one for the intercept, are orthogonal and of one length.

    Inner products over its parameters are then those over the features, times that length.
    """
    rng = np.random.default_rng(0)
    values, vectors = np.linalg.eigh(5.0 * np.eye(5) - np.ones((5, 5)))
    X = vectors * np.sqrt(values.clip(min=0))
    Y = rng.normal(size=(5, 3)) * [1.0, 3.0, 0.3]
    of_features, of_parameters = (
        parameters(regressor(w).fit(X, Y)) for w in (RepresentationGradients(name), name)
    )
    assert_allclose(of_features, of_parameters, rtol=0, atol=1e-8)
    skewed = X * [1.0, 1.5, 1.0, 0.1, 0.5]  # negative control
    of_features, of_parameters = (
        parameters(regressor(w).fit(skewed, Y)) for w in (RepresentationGradients(name), name)
    )
    assert np.abs(of_features - of_parameters).max() > 1e-4


class AsGiven(Weighting):
    """The user's weights, by the way that goes over gradients."""

    needs = "gramian"
    uses_task_weights = True

    def build(self, task_weights):
        return ConstantWeights(task_weights)


@pytest.mark.parametrize("params", [{}, {"hidden_layer_sizes": ()}, {"alpha": 0.1}], ids=str)
def test_constant_weights_train_as_static_ones(params):
    """Also without anything that is shared, and with labels missing."""
    X, Y = table()
    ours = estimator(AsGiven(), task_weights=[1, 2, 4], **params)
    static = clone(ours).set_params(weighting="static")
    expected = parameters(static.fit(X, Y))
    assert_allclose(parameters(ours.fit(X, Y)), expected, rtol=0, atol=1e-12)
    if params.get("hidden_layer_sizes") != ():  # negative control; Adam takes no notice of a scale
        other = clone(ours).set_params(task_weights=[4, 2, 1]).fit(X, Y)
        assert np.abs(parameters(other) - expected).max() > 1e-4


@pytest.mark.usefixtures("no_global_rng")
@pytest.mark.parametrize(
    "weighting",
    [*WRAPPED, GradVac(beta=0.3), aggregation.MGDA(), aggregation.GradDrop(), aggregation.PCD()],
    ids=str,
)
def test_whatever_sees_gradients_trains(weighting):
    """It is cloned, pickled, and goes on where it stood, with what it remembers."""
    X, Y = table()
    if isinstance(weighting, aggregation.PCD):  # torchjd's memories are of all tasks
        Y = np.nan_to_num(Y)
    model = estimator(weighting).fit(X, Y)
    assert np.isfinite(parameters(model)).all()
    assert model.loss_curve_[-1] < model.loss_curve_[0]
    assert_array_equal(parameters(clone(model).fit(X, Y)), parameters(model))
    assert_array_equal(parameters(pickle.loads(pickle.dumps(model))), parameters(model))
    steps = estimator(weighting)
    for _ in range(2):
        steps.partial_fit(X, Y)
    restored = pickle.loads(pickle.dumps(steps))
    for _ in range(2):
        restored.partial_fit(X, Y)
    assert_allclose(parameters(restored), parameters(model), rtol=0, atol=1e-12)


def test_a_trunk_of_ones_own_needs_features_without_a_task_axis():
    class Doubled(Trunk):
        def build(self, spec):
            module = _Doubled()
            module.n_outputs = spec.n_inputs
            return module

    class _Doubled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.full((), 2.0))

        def forward(self, x):
            return self.scale * x

    model = estimator(trunk=Doubled(), callbacks=[Recorder()]).fit(*table())
    assert model.net_.module_.trunk.scale.item() != 2.0


def test_a_nested_number_can_be_searched():
    X, Y = table()
    grid = {"weighting__weighting__c": [0.1, 0.9]}
    model = estimator(CAGrad(), max_iter=8)
    search = GridSearchCV(model, grid, cv=KFold(2, shuffle=True), error_score="raise").fit(X, Y)
    assert len(set(search.cv_results_["mean_test_score"])) == 2
    best = search.best_estimator_.weighting
    assert best.weighting.c == search.best_params_["weighting__weighting__c"]
    with pytest.raises(ValueError, match="The 'c' parameter of CAGrad"):
        clone(model).set_params(weighting__weighting__c=-1.0).fit(X, Y)
    by_name = {"weighting__weighting": ["mgda", "pcgrad"]}
    GridSearchCV(model, by_name, cv=KFold(2, shuffle=True), error_score="raise").fit(X, Y)


def test_task_weights_are_those_of_the_weighting():
    X, Y = table()
    given, equal = (
        parameters(estimator("cagrad", task_weights=w).fit(X, Y)) for w in ([1, 2, 4], None)
    )
    assert np.abs(given - equal).max() > 1e-4
    with pytest.raises(ValueError, match="no use for them"):
        estimator("mgda", task_weights=[1, 2, 4]).fit(X, Y)


# What is refused ----------------------------------------------------------------------------


def test_by_default_it_is_mgda_and_asks_for_what_that_asks():
    assert repr(RepresentationGradients()) == "RepresentationGradients()"
    for name in ("needs", "weighs", "uses_task_weights"):
        assert getattr(RepresentationGradients, name) == getattr(MGDA, name)
        for inner in WRAPPED:
            found = getattr(RepresentationGradients(inner), name)
            assert found == getattr(WEIGHTINGS[inner], name)
    assert_array_equal(
        parameters(estimator().fit(*table())),
        parameters(estimator().set_params(weighting="representation_gradients").fit(*table())),
    )


@pytest.mark.parametrize(
    ("weighting", "message"),
    [
        ("uncertainty", r"that one sees losses. Use weighting='uncertainty' itself"),
        (scalarization.STCH(mu=1.0), r"that one sees losses. Use weighting=STCH\(.*\) itself"),
        (RepresentationGradients("pcgrad"), r"that one sees those of features"),
        ("representation_gradients", r"that one sees those of features"),
        ("excess_mtl", r"remembers no numbers for every parameter"),
        (ExcessMTL(step_size=0.1), r"Use weighting=ExcessMTL\(step_size=0.1\) itself"),
        (aggregation.ExcessMTL(), r"remembers no numbers for every parameter"),
        (
            aggregation.CRMOGMWeighting(aggregation.ExcessMTLWeighting()),
            r"remembers no numbers for every parameter",
        ),
        ("mdga", r"Got weighting='mdga', expected one of .* Did you mean 'mgda'\?"),
    ],
    ids=str,
)
def test_what_has_no_use_for_gradients_of_features_is_refused(weighting, message):
    model = estimator(weighting)
    with pytest.raises(ValueError, match=message):
        model.fit(*table())
    assert not hasattr(model, "net_")


def test_a_class_is_refused():
    with pytest.raises(TypeError, match=r"Got the class MGDA as weighting.*MGDA\(\)"):
        estimator(MGDA).fit(*table())


def test_trunks_that_give_every_task_features_of_its_own_are_refused():
    """Before the first step, with the name of what can be used."""
    X, Y = table()
    taken = []
    for trunk in TRUNKS:
        model = estimator(trunk=trunk, n_members=1)
        try:
            model.fit(X, Y)
        except ValueError as error:
            assert "Use trunk='shared_bottom', or one of your own" in str(error)
            assert "a representation a task" in str(error)
            assert not hasattr(model, "net_")
        else:
            taken.append(trunk)
    assert taken == ["shared_bottom"]


def test_tasks_that_read_others_are_refused_where_losses_flow():
    """The same rule as for gradients of parameters."""
    X, Y = table()
    flows, stands = (
        estimator(task_dependencies=OutputCascade({"task1": ["task0"]}, backpropagate=flag))
        for flag in (True, False)
    )
    with pytest.raises(ValueError, match=r"Use OutputCascade\(..., backpropagate=False\)"):
        flows.fit(X, Y)
    assert np.isfinite(parameters(stands.fit(X, Y))).all()
