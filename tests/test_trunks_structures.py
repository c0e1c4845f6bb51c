"""Cross-stitch, attention and AdaTT against slow copies of their papers; the order of tasks.

What all trunks keep is tested in ``test_trunks``, DSelect-k in ``test_trunks_dselect_k``.
"""

from __future__ import annotations

import math

import pytest
import torch
from test_trunks import X, assert_same_function, build, linear, perceptron, randn
from torch import nn
from torch.testing import assert_close

from sk_mtl.layers import Draws, combine
from sk_mtl.trunks import (
    AdaTT,
    AttentionGate,
    CrossStitch,
    DSelectK,
    MMoE,
    TrunkSpec,
)

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def changed(trunk, scale=1.0):
    """Move what starts at zero, at one or all alike; return the trunk."""
    with torch.no_grad():
        for i, (name, parameter) in enumerate(trunk.named_parameters()):
            if name.endswith(("bias", "alpha", "native", "logits")) or "gate.linear" in name:
                parameter.add_(scale * randn(*parameter.shape, seed=i))
    return trunk


def tiny(recipe, n_tasks=2):
    """One input, one hidden unit, no activation: numbers that can be worked out by hand."""
    return recipe.build(
        TrunkSpec(
            n_inputs=1,
            n_tasks=n_tasks,
            hidden_layer_sizes=(1,),
            activation="identity",
            dropout=0.0,
            draws=Draws([0], (), torch.float64),
        )
    )


def put(parameter, *values):
    with torch.no_grad():
        parameter.copy_(torch.tensor(values, dtype=parameter.dtype).view_as(parameter))


def copied(parameter, *shape):
    return nn.Parameter(parameter.detach().clone().view(*shape))


ROW = torch.tensor([[3.0]], dtype=torch.float64)


# One set of weights for all samples ---------------------------------------------------------


@pytest.mark.parametrize("features_first", [False, True])
@pytest.mark.parametrize("stack", [(), (2,), (2, 3)], ids=str)
def test_combine_is_a_sum_over_parallel_features(stack, features_first):
    weights, x = randn(*stack, 4, 3), randn(*stack, 3, 6, 5, seed=1)
    if features_first:
        x = x.mT.contiguous().mT
    combined = combine(weights, x)
    assert_close(combined, torch.einsum("...ts,...sbd->...tbd", weights, x), rtol=0, atol=1e-14)
    assert (combined.stride(-1) == 1) != features_first  # it lies as x does


# Cross-stitch -------------------------------------------------------------------------------


class SlowCrossStitch(nn.Module):
    """Misra et al. 2016, eq. 1, for any number of tasks: x~_t = sum_s alpha_ts x_s."""

    def __init__(self, trunk, n_tasks):
        super().__init__()
        self.n_tasks = n_tasks
        self.layers = nn.ModuleList(
            nn.ModuleList(linear(layer, t) for t in range(n_tasks)) for layer in trunk.towers.layers
        )
        alphas = [copied(stitch.alpha, n_tasks, n_tasks) for stitch in trunk.stitches]
        self.alphas = nn.ParameterList(alphas)

    def forward(self, x):
        tasks = [x] * self.n_tasks
        for layers, alpha in zip(self.layers, self.alphas, strict=True):
            hidden = [torch.tanh(layer(task)) for layer, task in zip(layers, tasks, strict=True)]
            tasks = [
                sum(alpha[t, s] * hidden[s] for s in range(self.n_tasks))
                for t in range(self.n_tasks)
            ]
        return torch.stack(tasks)


@pytest.mark.parametrize("n_tasks", [1, 2, 5])
@pytest.mark.parametrize("hidden", [(6,), (7, 6), (4, 5, 6)], ids=str)
def test_cross_stitch_is_the_papers(n_tasks, hidden):
    trunk = changed(build(CrossStitch(), n_tasks=n_tasks, hidden=hidden))
    slow = SlowCrossStitch(trunk, n_tasks)
    assert_same_function(trunk, slow)
    if n_tasks > 1:  # negative control: who gives and who takes exchanged
        put(slow.alphas[0], *slow.alphas[0].T.flatten().tolist())
        assert (trunk(X) - slow(X)).abs().max() > 0.01


def test_cross_stitch_by_hand():
    """Units of 2 * 3 and 10 * 3; 0.9 * 6 + 0.1 * 30 and 0.1 * 6 + 0.9 * 30."""
    trunk = tiny(CrossStitch())
    put(trunk.towers.layers[0].weight, 2.0, 10.0)
    assert trunk(ROW).flatten().tolist() == pytest.approx([8.4, 27.6], abs=1e-13)


@pytest.mark.parametrize("n_tasks", [1, 2, 4])
def test_stitches_begin_near_the_identity(n_tasks):
    for stitch in build(CrossStitch(0.3), n_tasks=n_tasks).stitches:
        alpha = stitch.alpha.detach().view(n_tasks, n_tasks)
        assert_close(alpha.sum(-1), torch.ones(n_tasks).double())  # averages of the tasks
        if n_tasks > 1:
            assert_close(alpha.diagonal(), torch.full((n_tasks,), 0.7).double())
            assert alpha[0, 1] == alpha[1, 0] == 0.3 / (n_tasks - 1)


def test_without_sharing_cross_stitch_begins_as_separate_towers():
    def separate(trunk):
        return torch.stack([perceptron(trunk.towers, t)(X) for t in range(3)])

    trunk = build(CrossStitch(initial_sharing=0.0))
    assert_close(trunk(X), separate(trunk), rtol=0, atol=1e-14)
    trunk(X)[0].square().sum().backward()
    slopes = trunk.towers.layers[0].weight.grad
    assert slopes[0].any() and not slopes[1:].any()
    sharing = build(CrossStitch(initial_sharing=0.1))  # negative control
    assert (sharing(X) - separate(sharing)).abs().max() > 0.01


# Attention ----------------------------------------------------------------------------------


class SlowAttention(nn.Module):
    """Vaswani et al. 2017, eq. 1 and section 3.2.2, one task, sample and head at a time."""

    def __init__(self, trunk, recipe, n_tasks):
        super().__init__()
        self.n_heads, self.width = recipe.n_heads, trunk.width
        self.experts = nn.ModuleList(perceptron(trunk.experts, i) for i in range(recipe.n_experts))
        self.keys, self.values, self.output = (
            copied(p.weight, *p.weight.shape) for p in (trunk.keys, trunk.values, trunk.output)
        )
        if recipe.query == "input":
            self.ask = nn.ModuleList(linear(trunk.ask, t) for t in range(n_tasks))
        else:
            queries = trunk.queries.detach().view(self.n_heads, n_tasks, self.width)
            self.queries = nn.Parameter(queries.transpose(0, 1).flatten(1))

    def queries_of(self, x):
        if hasattr(self, "ask"):
            return [ask(x) for ask in self.ask]
        return [query.expand(len(x), -1) for query in self.queries]

    def forward(self, x):
        experts = torch.stack([expert(x) for expert in self.experts])  # (expert, batch, d)
        tasks = []
        for queries in self.queries_of(x):
            rows = []
            for row, query in enumerate(queries):
                heads = []
                for h in range(self.n_heads):
                    part = slice(h * self.width, (h + 1) * self.width)
                    keys = experts[:, row] @ self.keys[part].T
                    values = experts[:, row] @ self.values[part].T
                    scores = keys @ query[part] / self.width**0.5
                    heads.append(torch.softmax(scores, 0) @ values)
                rows.append(self.output @ torch.cat(heads))
            tasks.append(torch.stack(rows))
        return torch.stack(tasks)


@pytest.mark.parametrize("query", ["task", "input"])
@pytest.mark.parametrize(("n_experts", "n_heads", "n_tasks"), [(4, 2, 3), (3, 4, 2), (2, 1, 1)])
def test_attention_is_the_papers(n_experts, n_heads, n_tasks, query):
    recipe = AttentionGate(n_experts, n_heads=n_heads, query=query)
    trunk = changed(build(recipe, n_tasks=n_tasks))
    slow = SlowAttention(trunk, recipe, n_tasks)
    assert_same_function(trunk, slow)
    slow.keys.data.neg_()  # negative control
    assert (trunk(X) - slow(X)).abs().max() > 0.01


def test_attention_is_torchs():
    trunk = build(AttentionGate(n_experts=5, n_heads=2))
    theirs = nn.MultiheadAttention(6, 2, bias=False, batch_first=True, dtype=torch.float64)
    asked = trunk.queries.detach().view(2, 3, 3).transpose(0, 1).flatten(1)  # (task, 6)
    with torch.no_grad():
        projections = [torch.eye(6).double(), trunk.keys.weight, trunk.values.weight]
        theirs.in_proj_weight.copy_(torch.cat(projections))
        theirs.out_proj.weight.copy_(trunk.output.weight)
    experts = trunk.experts(X).transpose(0, 1)  # (batch, expert, d)
    expected, _ = theirs(asked.expand(len(X), -1, -1), experts, experts)
    assert_close(trunk(X), expected.transpose(0, 1), rtol=0, atol=1e-12)


def test_attention_by_hand():
    """Experts say 1 and 3. Asked with log(3) / 2, their scores differ by log(3): 1 to 3."""
    trunk = tiny(AttentionGate(n_experts=2, n_heads=1))
    put(trunk.experts.layers[0].weight, 1 / 3, 1.0)
    for projection in (trunk.keys, trunk.values, trunk.output):
        put(projection.weight, 1.0)
    put(trunk.queries, math.log(3) / 2, 0.0)
    expected = [0.25 * 1 + 0.75 * 3, 0.5 * 1 + 0.5 * 3]
    assert trunk(ROW).flatten().tolist() == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize("query", ["task", "input"])
def test_the_order_of_experts_does_not_matter_to_attention(query):
    """Nothing but their outputs tells experts apart, unlike under the gates of MMoE."""

    def apart(recipe):
        trunk = build(recipe)
        before = trunk(X).detach()
        with torch.no_grad():
            for parameter in trunk.experts.parameters():
                parameter.copy_(parameter[[2, 0, 3, 1]])
        return (trunk(X) - before).abs().max()

    assert apart(AttentionGate(n_experts=4, query=query)) < 1e-14
    assert apart(MMoE(n_experts=4)) > 0.01  # negative control


# AdaTT --------------------------------------------------------------------------------------


class SlowAdaTT(nn.Module):
    """Li et al. 2023, unit by unit: f_t = AllExpertGF_t + NativeExpertLF_t.

    AllExpertGF mixes all experts of the level by the softmax of a linear map of what the unit
    reads; NativeExpertLF combines the unit's own experts linearly, with a weight of 1 where each
    unit has one only. The shared experts are one more unit, which the last level leaves out.
    """

    def __init__(self, trunk, recipe, n_tasks):
        super().__init__()
        counts = [recipe.n_task_experts] * n_tasks
        counts += [recipe.n_shared_experts] if recipe.n_shared_experts else []
        self.counts, self.n_tasks = counts, n_tasks
        self.starts = [sum(counts[:u]) for u in range(len(counts))]
        self.experts = nn.ModuleList(
            nn.ModuleList(perceptron(level.experts, i) for i in range(sum(counts)))
            for level in trunk.levels
        )
        self.gates = nn.ModuleList(
            nn.ModuleList(linear(level.gates, u) for u in range(len(level.gates.weight)))
            for level in trunk.levels
        )
        natives = [level.native for level in trunk.levels if level.native is not None]
        self.natives = nn.ParameterList(copied(native, -1) for native in natives)

    def forward(self, x):
        reads = [x] * len(self.counts)
        for level, (experts, gates) in enumerate(zip(self.experts, self.gates, strict=True)):
            unit_of = [u for u, count in enumerate(self.counts) for _ in range(count)]
            out = [experts[e](reads[unit]) for e, unit in enumerate(unit_of)]
            fused = []
            for u, gate in enumerate(gates):
                g = torch.softmax(gate(reads[u]), dim=1)
                everyone = sum(g[:, [e]] * out[e] for e in range(len(out)))
                own = range(self.starts[u], self.starts[u] + self.counts[u])
                native = sum(
                    (self.natives[level][e] if self.natives else 1.0) * out[e] for e in own
                )
                fused.append(everyone + native)
            reads = fused
        return torch.stack(reads)


@pytest.mark.parametrize("n_levels", [1, 2, 3])
@pytest.mark.parametrize(
    ("n_own", "n_shared", "n_tasks"),
    [(1, 1, 3), (1, 0, 2), (2, 0, 3), (2, 3, 2), (1, 2, 2), (3, 1, 1)],
)
def test_adatt_is_the_papers(n_levels, n_own, n_shared, n_tasks):
    recipe = AdaTT(n_levels, n_own, n_shared)
    trunk = changed(build(recipe, n_tasks=n_tasks))
    slow = SlowAdaTT(trunk, recipe, n_tasks)
    assert len(slow.gates[-1]) == n_tasks  # the last level has no shared unit
    assert_same_function(trunk, slow)
    slow.gates[0][0].weight.data.neg_()  # negative control
    assert (trunk(X) - slow(X)).abs().max() > 0.01


def test_adatt_by_hand():
    """Native experts say 6 and 30; even gates add 18 to each."""
    trunk = tiny(AdaTT(n_levels=1, n_shared_experts=0))
    (level,) = trunk.levels
    put(level.experts.layers[0].weight, 2.0, 10.0)
    put(level.gates.weight, 0.0, 0.0, 0.0, 0.0)
    assert trunk(ROW).flatten().tolist() == pytest.approx([24.0, 48.0], abs=1e-13)


@pytest.mark.parametrize("n_shared", [0, 2])
def test_without_gates_adatt_is_native_experts_only(n_shared, monkeypatch):
    """Each task a network of its own: a combination of its experts, level upon level."""
    trunk = changed(build(AdaTT(2, n_task_experts=2, n_shared_experts=n_shared)))
    with_gates = trunk(X)
    monkeypatch.setattr(
        "sk_mtl.trunks._adatt.gate_weights",
        lambda gates, x: torch.zeros(len(X), *gates.bias.shape, dtype=X.dtype),
    )
    for t in range(3):
        own = X
        for level in trunk.levels:
            first, second = level.native[2 * t : 2 * t + 2]
            experts = [perceptron(level.experts, 2 * t + i)(own) for i in range(2)]
            own = first * experts[0] + second * experts[1]
        assert_close(trunk(X)[t], own, rtol=0, atol=1e-13)
    assert (with_gates - trunk(X)).abs().max() > 0.01  # negative control


# Tasks have no order ------------------------------------------------------------------------

ORDER = [2, 0, 3, 1]


def permuted(name, parameter, recipe):
    """Return what a parameter is when tasks 2, 0, 3, 1 take the places of tasks 0, 1, 2, 3."""
    n_own = getattr(recipe, "n_task_experts", 1)
    order = torch.tensor(ORDER)
    if name.startswith(("towers.", "gate.linear.", "ask.")):
        return parameter[order]
    if name.endswith(".alpha"):
        return parameter.view(4, 4)[order][:, order].flatten()
    if name == "gate.logits":
        return parameter.view(4, -1)[order].flatten()
    if name == "queries":
        return parameter.view(recipe.n_heads, 4, -1)[:, order].flatten()
    if name.startswith("levels."):
        own = (n_own * order.unsqueeze(-1) + torch.arange(n_own)).flatten()
        experts = torch.cat([own, torch.arange(4 * n_own, 4 * n_own + recipe.n_shared_experts)])
        if name.endswith(".native"):
            return parameter[experts[: len(parameter)]]
        if ".experts." in name:
            return parameter[experts]
        units = torch.cat([order, torch.arange(4, len(parameter))])
        return parameter[units][:, experts]
    return parameter  # shared by all tasks


@pytest.mark.parametrize(
    "recipe",
    [
        CrossStitch(),
        DSelectK(n_experts=4),
        DSelectK(n_experts=5, gate="static"),
        AttentionGate(n_experts=3),
        AttentionGate(n_experts=3, query="input"),
        AdaTT(),
        AdaTT(n_task_experts=2, n_shared_experts=3),
        AdaTT(n_levels=1, n_task_experts=3, n_shared_experts=0),
    ],
    ids=repr,
)
def test_other_places_of_tasks_are_other_places_of_outputs(recipe):
    trunk = changed(build(recipe, n_tasks=4))
    before = trunk(X).detach()
    own = 0
    with torch.no_grad():
        for name, parameter in trunk.named_parameters():
            value = permuted(name, parameter, recipe)
            own += not torch.equal(value, parameter)
            parameter.copy_(value)
    assert own > 0
    assert_close(trunk(X), before[ORDER], rtol=0, atol=1e-13)
    assert (trunk(X) - before).abs().max() > 1e-3  # negative control: tasks differ
