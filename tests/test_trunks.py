"""Trunks: the contract that all keep, and each against a slow copy of its paper.

Every test of the first part loops over ``TRUNKS``: a new entry inherits them.
"""

from __future__ import annotations

import pickle
from numbers import Real

import numpy as np
import pytest
import torch
from plain import plain
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, KFold
from torch import nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from sk_mtl import MultiTaskRegressor
from sk_mtl._support import Interval
from sk_mtl.layers import Draws
from sk_mtl.trunks import (
    PLE,
    TRUNKS,
    AdaTT,
    AttentionGate,
    CrossStitch,
    DSelectK,
    MMoE,
    SharedBottom,
    SingleTask,
    Trunk,
    TrunkSpec,
)

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

RECIPES = [
    *[cls() for cls in TRUNKS.values()],
    MMoE(n_experts=1),
    PLE(n_levels=2),
    PLE(n_levels=3, n_shared_experts=1, n_task_experts=3),
    CrossStitch(initial_sharing=0.5),
    DSelectK(gate="static"),
    DSelectK(n_experts=5, k=1, gamma=3.0),
    AttentionGate(query="input", n_heads=4),
    AdaTT(n_levels=1, n_task_experts=2, n_shared_experts=0),
    AdaTT(n_levels=3, n_task_experts=2, n_shared_experts=3),
]
every_trunk = pytest.mark.parametrize("recipe", RECIPES, ids=repr)
every_stack = pytest.mark.parametrize("stack", [(), (2, 3)], ids=str)


def build(recipe, *, seeds=(0,), stack=(), n_tasks=3, hidden=(7, 6), dropout=0.0, mask_seed=0):
    """Build a trunk over 5 features in float64."""
    return recipe.build(
        TrunkSpec(
            n_inputs=5,
            n_tasks=n_tasks,
            hidden_layer_sizes=hidden,
            activation="tanh",
            dropout=dropout,
            draws=Draws(list(seeds), stack, torch.float64),
            seed=mask_seed,
        )
    )


def randn(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


X = randn(11, 5)


class CountOperators(TorchDispatchMode):
    """Counts the operators that run, those of the backward pass included."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


# The contract -------------------------------------------------------------------------------


@every_trunk
def test_recipes_hold_hyper_parameters_only(recipe):
    copy = clone(recipe)
    assert copy.get_params() == recipe.get_params()
    assert repr(copy) == repr(recipe)
    build(recipe)
    assert vars(recipe) == recipe.get_params(deep=False)  # building leaves nothing behind
    recipe.validate()


@every_trunk
@every_stack
@pytest.mark.parametrize("n_tasks", [1, 3])
def test_the_output_has_one_representation_a_task_or_one_for_all(recipe, stack, n_tasks):
    trunk = build(recipe, seeds=range(6) if stack else [0], stack=stack, n_tasks=n_tasks)
    features = trunk(X)
    assert trunk.n_outputs == 6
    assert features.shape in ((*stack, 11, 6), (*stack, n_tasks, 11, 6))


@every_trunk
def test_rows_do_not_see_each_other(recipe):
    trunk = build(recipe)
    for rows in (slice(4, 6), slice(7, 8)):
        assert_close(trunk(X)[..., rows, :], trunk(X[rows]), rtol=0, atol=1e-14)


def loss_of(trunk, stack=()):
    """A loss a network in which every output of every task counts differently."""
    out = trunk(X)
    if out.dim() == len(stack) + 2:
        out = out.unsqueeze(-3)  # all tasks read the same
    return (out * randn(3, 11, 6, seed=1) + out.square()).sum((-3, -2, -1))


@every_trunk
def test_the_gradient_reaches_every_parameter(recipe):
    trunk = build(recipe)
    loss_of(trunk).backward()
    idle = [n for n, p in trunk.named_parameters() if p.grad is None or not p.grad.any()]
    if isinstance(recipe, MMoE) and recipe.n_experts == 1:
        assert idle == ["gates.weight", "gates.bias"]  # the softmax of one gate is 1
    else:
        assert idle == []


def train(trunk, stack=(), steps=20):
    optimizer = torch.optim.Adam(trunk.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(trunk, stack).sum().backward()
        optimizer.step()


@every_trunk
def test_a_stack_equals_separate_networks(recipe):
    seeds, stack = range(20, 26), (2, 3)
    stacked = build(recipe, seeds=seeds, stack=stack)
    separate = [build(recipe, seeds=[seed]) for seed in seeds]

    def largest_difference(what):
        """Compare every network of the stack with its own."""
        return max(
            (ours.flatten(0, 1)[i] - theirs).abs().max().item()
            for i, network in enumerate(separate)
            for ours, theirs in zip(what(stacked), what(network), strict=True)
        )

    assert largest_difference(lambda net: list(net.parameters())) == 0
    assert largest_difference(lambda net: [net(X)]) < 1e-12
    loss_of(stacked, stack).sum().backward()
    for net in separate:
        loss_of(net).backward()
    assert largest_difference(lambda net: [p.grad for p in net.parameters()]) < 1e-12
    start = stacked(X).detach()
    train(stacked, stack)
    for net in separate:
        train(net)
    assert largest_difference(lambda net: list(net.parameters())) < 1e-10
    # Negative controls: training moved the networks, and they differ from each other.
    assert (stacked(X) - start).abs().max() > 0.01
    separate.reverse()
    assert largest_difference(lambda net: list(net.parameters())) > 0.01


@every_trunk
def test_a_stack_takes_one_input_for_all_networks_or_one_each(recipe):
    trunk = build(recipe, seeds=range(6), stack=(2, 3))
    assert_close(trunk(X.expand(2, 3, 11, 5)), trunk(X), rtol=0, atol=1e-14)
    own = randn(2, 3, 11, 5, seed=3)
    assert_close(trunk(own)[1, 2], trunk(own[1, 2])[1, 2], rtol=0, atol=1e-14)


@every_trunk
def test_the_same_seed_gives_the_same_bits(recipe):
    first, again, other = (build(recipe, seeds=[s]) for s in (1, 1, 2))
    assert torch.equal(first(X), again(X))
    assert not torch.equal(first(X), other(X))


@every_trunk
def test_dropout_has_its_own_stream(recipe):
    before = torch.get_rng_state()
    trunk = build(recipe, dropout=0.5, mask_seed=1)
    first, second = trunk(X), trunk(X)
    assert not torch.equal(first, second)
    again = build(recipe, dropout=0.5, mask_seed=1)
    assert torch.equal(again(X), first)
    restored = pickle.loads(pickle.dumps(again))
    assert torch.equal(restored(X), second)
    other = build(recipe, dropout=0.5, mask_seed=2)
    assert not torch.equal(other(X), first)
    assert torch.equal(trunk.eval()(X), build(recipe)(X))
    assert torch.equal(torch.get_rng_state(), before)


def operators(recipe, **kwargs):
    """Operators of a forward and a backward pass."""
    trunk = build(recipe, **kwargs)
    with CountOperators() as counter:
        trunk(X).square().sum().backward()
    return counter.count


@every_trunk
def test_the_number_of_operators_does_not_depend_on_sizes(recipe):
    assert operators(recipe, n_tasks=2) == operators(recipe, n_tasks=16)
    few = operators(recipe, seeds=range(2), stack=(2,))
    assert few == operators(recipe, seeds=range(16), stack=(16,))
    for name in recipe.get_params():
        if name.endswith("experts"):
            few, many = (clone(recipe).set_params(**{name: n}) for n in (2, 16))
            assert operators(few) == operators(many), name


def test_the_operator_count_sees_a_loop():
    class Loop(nn.Module):
        def __init__(self, n):
            super().__init__()
            self.experts = nn.ModuleList(nn.Linear(5, 4).double() for _ in range(n))

        def forward(self, x):
            return torch.stack([expert(x) for expert in self.experts])

    class LoopTrunk(Trunk):
        def __init__(self, n_experts=2):
            self.n_experts = n_experts

        def build(self, spec):
            return Loop(self.n_experts)

    assert operators(LoopTrunk(16)) > 4 * operators(LoopTrunk(2))


@every_trunk
def test_only_private_trunks_share_nothing(recipe):
    trunk = build(recipe)
    features = trunk(X)
    if features.dim() == 2:
        features = features.expand(3, -1, -1)  # all tasks read the same
    slopes = [
        torch.autograd.grad(features[t].square().sum(), list(trunk.parameters()), retain_graph=True)
        for t in range(3)
    ]
    shared = [((a != 0) & (b != 0) & (c != 0)).any() for a, b, c in zip(*slopes, strict=True)]
    pulled = hasattr(trunk, "penalty")  # what is not shared may be held together
    assert any(shared) != (recipe.private or pulled)
    if recipe.private:  # a task's parameters are a slice of their own of every tensor
        for per_task in zip(*slopes, strict=True):
            for task, slope in enumerate(per_task):
                assert slope[task].any() and not slope[[t for t in range(3) if t != task]].any()


@every_trunk
@pytest.mark.usefixtures("no_global_rng")
def test_one_task_trains(recipe):
    rng = np.random.default_rng(0)
    data = rng.normal(size=(60, 3))
    model = plain(
        MultiTaskRegressor,
        recipe,
        hidden_layer_sizes=(16,),
        dropout=0.02,
        learning_rate_init=0.02,
        random_state=0,
    )
    assert model.fit(data, data[:, 0] - data[:, 1]).score(data, data[:, 0] - data[:, 1]) > 0.9


def perceptron(stacked, index):
    """One of the stacked perceptrons as a sequence of torch layers."""
    return nn.Sequential(
        *[module for layer in stacked.layers for module in (linear(layer, index), nn.Tanh())]
    )


def linear(ours, index=...):
    weight, bias = ours.weight[index], ours.bias[index]
    layer = nn.Linear(weight.shape[-1], weight.shape[-2]).double()
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer


# Shared bottom and single task --------------------------------------------------------------


def test_shared_bottom_is_one_perceptron():
    trunk = build(SharedBottom())
    assert_close(trunk(X), perceptron(trunk, ...)(X), rtol=0, atol=1e-14)


@pytest.mark.parametrize("cls", [SharedBottom, SingleTask, CrossStitch])
def test_without_hidden_layers_the_features_pass_through(cls):
    trunk = build(cls(), hidden=())
    assert torch.equal(trunk(X), X)
    assert trunk.n_outputs == 5


@pytest.mark.parametrize("recipe", [MMoE(), PLE(), DSelectK(), AttentionGate(), AdaTT()], ids=repr)
def test_experts_need_hidden_layers(recipe):
    with pytest.raises(ValueError, match="expected at least one layer: its experts are made of"):
        build(recipe, hidden=())


def test_single_task_is_one_perceptron_a_task():
    together, alone = build(SingleTask(), seeds=[4]), build(SharedBottom(), seeds=[4])
    assert_close(together(X), alone(X).expand(3, -1, -1), rtol=0, atol=1e-14)
    train(together)
    perceptrons = [perceptron(together, task) for task in range(3)]
    assert_close(together(X), torch.stack([p(X) for p in perceptrons]), rtol=0, atol=1e-14)
    assert (together(X)[0] - together(X)[1]).abs().max() > 0.01


# Multi-gate mixture of experts --------------------------------------------------------------


def perturb_biases(trunk):
    """Make biases count: they start at zero."""
    with torch.no_grad():
        for i, (name, parameter) in enumerate(trunk.named_parameters()):
            if name.endswith("bias"):
                parameter.copy_(randn(*parameter.shape, seed=i))


def assert_same_function(fast, slow):
    """Equal outputs, and equal gradients of the input: all that a network is."""
    x = X.clone().requires_grad_()
    assert_close(fast(x), slow(x), rtol=0, atol=1e-12)
    slopes = [torch.autograd.grad(net(x).pow(3).sum(), x) for net in (fast, slow)]
    assert_close(*slopes, rtol=0, atol=1e-11)
    assert sum(p.numel() for p in fast.parameters()) == sum(p.numel() for p in slow.parameters())


class SlowMMoE(nn.Module):
    """Ma et al. 2018: f^k(x) = sum_i g^k(x)_i f_i(x) (eq. 6), g^k = softmax(W_gk x) (eq. 7)."""

    def __init__(self, trunk, n_experts, n_tasks):
        super().__init__()
        self.experts = nn.ModuleList(perceptron(trunk.experts, i) for i in range(n_experts))
        self.gates = nn.ModuleList(linear(trunk.gates, k) for k in range(n_tasks))

    def forward(self, x):
        tasks = []
        for gate in self.gates:
            g = torch.softmax(gate(x), dim=1)
            tasks.append(sum(g[:, [i]] * expert(x) for i, expert in enumerate(self.experts)))
        return torch.stack(tasks)


@pytest.mark.parametrize(("n_experts", "n_tasks"), [(4, 3), (2, 5), (1, 2), (3, 1)])
def test_mmoe_is_the_papers(n_experts, n_tasks):
    trunk = build(MMoE(n_experts), n_tasks=n_tasks)
    perturb_biases(trunk)
    slow = SlowMMoE(trunk, n_experts, n_tasks)
    assert_same_function(trunk, slow)
    if n_experts > 1:  # negative control: another expert in the place of one
        slow.experts[0] = slow.experts[1]
        assert (trunk(X) - slow(X)).abs().max() > 0.01


def test_mmoe_with_one_expert_is_a_shared_bottom():
    shared = build(SharedBottom())(X)
    assert_close(build(MMoE(1))(X), shared.expand(3, -1, -1), rtol=0, atol=1e-14)
    rng = np.random.default_rng(0)
    data = rng.normal(size=(50, 4))
    Y = data @ rng.normal(size=(4, 2))
    predictions = [
        plain(MultiTaskRegressor, trunk, hidden_layer_sizes=(8,), max_iter=20, random_state=0)
        .fit(data, Y)
        .predict(data)
        for trunk in (MMoE(1), SharedBottom(), MMoE(2))
    ]
    np.testing.assert_allclose(predictions[0], predictions[1], rtol=0, atol=1e-10)
    assert np.abs(predictions[0] - predictions[2]).max() > 1e-3


# Progressive layered extraction -------------------------------------------------------------


class SlowPLE(nn.Module):
    """Tang et al. 2020, sections 4.1 and 4.2, expert by expert and task by task.

    A task's gate reads that task's input and mixes its own experts and the shared ones; the
    shared gate reads the shared input and mixes all experts. The last level has no shared gate.
    """

    def __init__(self, trunk, n_shared, n_own, n_tasks):
        super().__init__()
        self.levels = nn.ModuleList()
        for level in trunk.levels:
            parts = {
                "shared": nn.ModuleList(
                    perceptron(level.shared_experts, i) for i in range(n_shared)
                ),
                "own": nn.ModuleList(
                    nn.ModuleList(
                        perceptron(level.own_experts, k * n_own + i) for i in range(n_own)
                    )
                    for k in range(n_tasks)
                ),
                "gates": nn.ModuleList(linear(level.task_gates, k) for k in range(n_tasks)),
            }
            if level.shared_gate is not None:
                parts["shared_gate"] = linear(level.shared_gate)
            self.levels.append(nn.ModuleDict(parts))

    def forward(self, x):
        tasks, shared = [x] * len(self.levels[0]["gates"]), x
        for level in self.levels:
            common = [expert(shared) for expert in level["shared"]]
            own = [[e(tasks[k]) for e in experts] for k, experts in enumerate(level["own"])]
            mixed = []
            for k, gate in enumerate(level["gates"]):
                g = torch.softmax(gate(tasks[k]), dim=1)
                mixed.append(sum(g[:, [i]] * e for i, e in enumerate(own[k] + common)))
            if "shared_gate" in level:
                g = torch.softmax(level["shared_gate"](shared), dim=1)
                everyone = [e for experts in own for e in experts] + common
                shared = sum(g[:, [i]] * e for i, e in enumerate(everyone))
            tasks = mixed
        return torch.stack(tasks)


@pytest.mark.parametrize("n_levels", [1, 2, 3])
@pytest.mark.parametrize(
    ("n_shared", "n_own", "n_tasks"), [(2, 2, 3), (3, 1, 2), (1, 4, 2), (2, 3, 1)]
)
def test_ple_is_the_papers(n_levels, n_shared, n_own, n_tasks):
    trunk = build(PLE(n_levels, n_shared, n_own), n_tasks=n_tasks)
    perturb_biases(trunk)
    slow = SlowPLE(trunk, n_shared, n_own, n_tasks)
    assert_same_function(trunk, slow)


def test_ple_is_not_what_it_would_be_with_other_gates():
    """Negative control: the slow copy notices when two tasks' gates are exchanged."""
    trunk = build(PLE(n_levels=2))
    slow = SlowPLE(trunk, 2, 2, 3)
    gates = slow.levels[0]["gates"]
    gates[0], gates[1] = gates[1], gates[0]
    assert (trunk(X) - slow(X)).abs().max() > 0.01


def test_only_the_levels_below_the_last_have_a_shared_gate():
    is_last = [level.shared_gate is None for level in build(PLE(n_levels=3)).levels]
    assert is_last == [False, False, True]


# A user's own trunk -------------------------------------------------------------------------


class _Scaled(nn.Module):
    def __init__(self, mlp, factor):
        super().__init__()
        self.mlp, self.factor = mlp, factor
        self.n_outputs = mlp.n_outputs

    def forward(self, x):
        return self.factor * self.mlp(x)


class Scaled(Trunk):
    """A shared bottom whose output is scaled; registered nowhere."""

    _parameter_constraints = {"factor": [Interval(Real, 0, None, closed="neither")]}

    def __init__(self, factor=1.0):
        self.factor = factor

    def build(self, spec):
        return _Scaled(spec.mlp(spec.n_inputs), self.factor)


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 3))
    Y = np.column_stack([features[:, 0], features[:, 1] - features[:, 2]])
    Y[::7, 1] = np.nan
    return features, Y


def test_a_users_trunk_needs_no_registration(table):
    features, Y = table
    model = plain(
        MultiTaskRegressor,
        Scaled(),
        hidden_layer_sizes=(8,),
        learning_rate_init=0.01,
        max_iter=30,
        random_state=0,
    )
    search = GridSearchCV(
        model, {"trunk__factor": [1e-9, 2.0]}, cv=KFold(2), error_score="raise"
    ).fit(features, Y)
    assert search.best_params_ == {"trunk__factor": 2.0}  # next to nothing passes the other
    usual = clone(model).set_params(trunk="shared_bottom").fit(features, Y)
    assert np.array_equal(clone(model).fit(features, Y).predict(features), usual.predict(features))


def test_a_users_trunk_is_checked_as_ours_are(table):
    model = plain(MultiTaskRegressor, Scaled(factor=-1.0))
    with pytest.raises(ValueError, match="'factor' parameter of Scaled must be a float"):
        model.fit(*table)


def test_trunks_can_be_searched_by_name_and_by_size(table):
    features, Y = table
    model = plain(MultiTaskRegressor, hidden_layer_sizes=(8,), max_iter=5, random_state=0)
    grid = [{"trunk": list(TRUNKS)}, {"trunk": [MMoE()], "trunk__n_experts": [1, 3]}]
    search = GridSearchCV(model, grid, cv=KFold(2), error_score="raise").fit(features, Y)
    scores = search.cv_results_["mean_test_score"]
    assert np.isfinite(scores).all()
    assert scores[-2] == pytest.approx(scores[0], abs=1e-10)  # one expert is a shared bottom
    assert abs(scores[-1] - scores[-2]) > 1e-6
