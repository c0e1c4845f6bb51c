"""One batch: the gradients of the losses and of the penalty, alone and in a stack."""

from __future__ import annotations

import pytest
import torch
from stacks import (
    Built,
    network_of,
    objective_of,
    plain_loss,
    plain_penalty,
    recipe_of,
    rows_of,
)
from torch import nn
from torch.testing import assert_close

from sk_mtl.batches import TaskData
from sk_mtl.objective import Objective
from sk_mtl.steps import Penalties, backpropagate
from sk_mtl.trunks import TRUNKS
from sk_mtl.weighting import ConstantWeights

every_trunk = pytest.mark.parametrize("trunk", TRUNKS)

TASK_WEIGHTS = [[1.0, 1.0, 1.0, 1.0], [1.0, 2.0, 0.5, 3.0], [0.0, 1.0, 0.0, 4.0]]
SEEDS = [4, 5, 4]


def gradients(network):
    return {name: p.grad for name, p in network.named_parameters()}


def clear(network, value=None):
    for parameter in network.parameters():
        parameter.grad = None if value is None else torch.full_like(parameter, value)


# The losses ---------------------------------------------------------------------------------


class Weighs(Objective):
    """Constant weights of a weighting that says that it needs more than losses."""

    def __init__(self, trunk, weights, needs):
        plain = objective_of(trunk, weights)
        private = recipe_of(trunk).private
        super().__init__(
            network_of(trunk, [0]).groups,
            4,
            ConstantWeights(plain.user_weights),
            plain.user_weights,
            needs=needs,
            private=private,
        )


@every_trunk
@pytest.mark.parametrize("needs", ["losses", "gramian", "jacobian"])
@pytest.mark.parametrize("weighted", [False, True])
def test_gradients_are_those_of_the_weighted_sum_whatever_the_weighting_needs(
    trunk, needs, weighted
):
    network = network_of(trunk, [0])
    X, y = rows_of(20)
    y[:, 2] = torch.nan  # a task without labels in the batch
    w = torch.rand(20, 4, dtype=torch.float64) + 0.5 if weighted else None
    used = TASK_WEIGHTS[1]
    backpropagate(network, Weighs(trunk, used, needs), ({"X": X, "sample_weight": w}, y),
                  complete=False)  # fmt: skip
    found = gradients(network)
    clear(network)
    private = recipe_of(trunk).private
    plain_loss(network, X, y, used, private=private, sample_weight=w).backward()
    for name, parameter in network.named_parameters():
        expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        got = torch.zeros_like(parameter) if found[name] is None else found[name]
        assert_close(got, expected, rtol=0, atol=1e-14)
    plain = {name: g.clone() for name, g in gradients(network).items() if g is not None}
    clear(network)
    plain_loss(network, X, y, TASK_WEIGHTS[0], private=private, sample_weight=w).backward()
    assert any((network.get_parameter(n).grad - g).abs().max() > 1e-4 for n, g in plain.items())


@every_trunk
@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("reads", ["one batch for all", "a batch each"])
def test_a_step_of_a_stack_is_one_step_a_network(trunk, missing, reads):
    """Losses, weights, mass and gradients."""
    stacked = network_of(trunk, SEEDS, stack=(3,))
    seeds = [0, 0, 0] if reads == "one batch for all" else [0, 1, 2]
    tables = [rows_of(20, seed=s, missing=missing) for s in seeds]
    if reads == "one batch for all":
        batch = {"X": tables[0][0], "sample_weight": None}, tables[0][1]
    else:
        X, y = (torch.stack(part) for part in zip(*tables, strict=True))
        batch = {"X": X, "sample_weight": None}, y
    together = backpropagate(
        stacked, objective_of(trunk, TASK_WEIGHTS), batch, complete=not missing
    )
    for i, (X, y) in enumerate(tables):
        alone = network_of(trunk, [SEEDS[i]])
        losses, weights, mass, outputs = backpropagate(
            alone,
            objective_of(trunk, TASK_WEIGHTS[i]),
            ({"X": X, "sample_weight": None}, y),
            complete=not missing,
        )
        assert_close(together[0][i], losses, rtol=0, atol=1e-13)
        assert_close(together[1][i], weights, rtol=0, atol=0)
        if missing:
            assert_close(together[2].expand(3, 4)[i], mass, rtol=0, atol=0)
        else:
            assert together[2] is mass is None
        for ours, theirs in zip(together[3], outputs, strict=True):
            assert_close(ours[i], theirs, rtol=0, atol=1e-13)
        for name, parameter in alone.named_parameters():
            assert_close(gradients(stacked)[name][i], parameter.grad, rtol=0, atol=1e-13)
    # Negative control: another network's gradients are others.
    name = "heads.1.output.weight"
    assert (gradients(stacked)[name][0] - gradients(stacked)[name][1]).abs().max() > 1e-4


def test_sample_weights_a_network_reach_their_network():
    tables = [rows_of(20, seed=s) for s in (0, 1, 2)]
    w = torch.rand(3, 20, 1, dtype=torch.float64) + 0.5
    stacked = network_of("mmoe", SEEDS, stack=(3,))
    X, y = (torch.stack(part) for part in zip(*tables, strict=True))
    backpropagate(
        stacked,
        objective_of("mmoe", TASK_WEIGHTS),
        ({"X": X, "sample_weight": w}, y),
        complete=False,
    )
    for i, (X, y) in enumerate(tables):
        alone = network_of("mmoe", [SEEDS[i]])
        plain_loss(alone, X, y, TASK_WEIGHTS[i], sample_weight=w[i]).backward()
        for name, parameter in alone.named_parameters():
            assert_close(gradients(stacked)[name][i], parameter.grad, rtol=0, atol=1e-13)


def test_the_batch_of_a_data_set_is_what_a_step_reads():
    X, y = rows_of(20)
    data = TaskData(X, y)
    network = network_of("shared_bottom", [0])
    backpropagate(network, objective_of("shared_bottom", TASK_WEIGHTS[1]), data[:7], complete=False)
    found = gradients(network)
    clear(network)
    plain_loss(network, X[:7], y[:7], TASK_WEIGHTS[1]).backward()
    for name, parameter in network.named_parameters():
        assert_close(found[name], parameter.grad, rtol=0, atol=1e-14)


# The penalty --------------------------------------------------------------------------------

DECAYS = {"shared": [0.3, 0.0, 2.0], "private": [[0.1, 0.2, 0.3, 0.4], [0.0] * 4, [3.0, 2, 1, 0]]}


def decays_of(trunk):
    return DECAYS["private" if recipe_of(trunk).private else "shared"]


def slope(trunk, seed, task_weights, decay):
    """The gradient of the penalty of one network, by autograd from its formula."""
    network = network_of(trunk, [seed])
    plain_penalty(network, task_weights, decay, private=recipe_of(trunk).private).backward()
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad
        for name, p in network.named_parameters()
    }


@every_trunk
def test_the_penalty_of_one_network_has_the_slope_of_its_formula(trunk):
    network, decay = network_of(trunk, [4]), decays_of(trunk)[0]
    if recipe_of(trunk).private:
        decay = torch.tensor(decay, dtype=torch.float64)
    clear(network, 1.0)
    Penalties(network, objective_of(trunk, TASK_WEIGHTS[1]), decay).add()
    expected = slope(trunk, 4, TASK_WEIGHTS[1], decay)
    for name, gradient in gradients(network).items():
        assert_close(gradient - 1.0, expected[name], rtol=0, atol=1e-14)
        assert name.endswith("weight") or not expected[name].any()
    even = slope(trunk, 4, TASK_WEIGHTS[0], decay)  # negative control
    assert max((even[n] - expected[n]).abs().max().item() for n in even) > 1e-3


@every_trunk
def test_the_penalty_of_a_stack_is_one_a_network(trunk):
    stacked, decays = network_of(trunk, SEEDS, stack=(3,)), decays_of(trunk)
    clear(stacked, 0.0)
    objective = objective_of(trunk, TASK_WEIGHTS)
    Penalties(stacked, objective, torch.tensor(decays, dtype=torch.float64)).add()
    for i, decay in enumerate(decays):
        expected = slope(trunk, SEEDS[i], TASK_WEIGHTS[i], decay)
        for name, gradient in gradients(stacked).items():
            assert_close(gradient[i], expected[name], rtol=0, atol=1e-14)
    # The second network has no penalty, the others have one on every weight of the trunk.
    for name, gradient in gradients(stacked).items():
        assert not gradient[1].any()
        if name.startswith("trunk") and name.endswith("weight"):
            assert gradient[0].any() and gradient[2].any()


def test_a_task_that_weighs_nothing_has_a_free_head():
    stacked = network_of("shared_bottom", SEEDS, stack=(3,))
    clear(stacked, 0.0)
    decay = torch.ones(3, dtype=torch.float64)
    Penalties(stacked, objective_of("shared_bottom", TASK_WEIGHTS), decay).add()
    free = stacked.heads[0].output.weight.grad  # of the first task, of weight 0 in the third
    assert free[0].any() and free[1].any() and not free[2].any()


@pytest.mark.parametrize("decay", [0.0, torch.zeros(3, dtype=torch.float64)], ids=["one", "stack"])
def test_no_penalty_costs_nothing(decay):
    stack, seeds = ((3,), SEEDS) if isinstance(decay, torch.Tensor) else (None, [0])
    weights = TASK_WEIGHTS if stack else TASK_WEIGHTS[0]
    network = network_of("ple", seeds, stack=stack)
    penalty = Penalties(network, objective_of("ple", weights), decay)
    clear(network, 1.0)
    penalty.add()
    assert all((p.grad == 1.0).all() for p in network.parameters())
    assert penalty._pulled == []


def test_what_took_no_part_in_a_step_is_not_pulled():
    network = network_of("shared_bottom", [0])
    penalty = Penalties(network, objective_of("shared_bottom", TASK_WEIGHTS[0]), 0.5)
    clear(network, 0.0)
    left = network.heads[1].output.weight
    left.grad = None
    penalty.add()
    assert left.grad is None
    assert network.heads[0].output.weight.grad.any()


class Scaled(nn.Module):
    """A perceptron whose outputs are scaled, unit by unit, as by a norm."""

    def __init__(self, spec):
        super().__init__()
        self.mlp = spec.mlp(spec.n_inputs)
        self.n_outputs = self.mlp.n_outputs
        shape = (*spec.draws.stack, self.n_outputs)
        self.scale = nn.Parameter(torch.ones(shape, dtype=spec.draws.dtype))

    def forward(self, x):
        return self.mlp(x) * self.scale.unsqueeze(-2)


@pytest.mark.parametrize("stack", [None, (3,)], ids=["one", "stack"])
def test_the_scales_of_a_norm_are_left_alone(stack):
    """They are vectors a network, also where the stack gives them a second axis."""
    trunk = Built(Scaled)
    network = network_of(trunk, SEEDS if stack else [0], stack=stack)
    clear(network, 0.0)
    decay = torch.ones(3, dtype=torch.float64) if stack else 1.0
    Penalties(network, objective_of(trunk, TASK_WEIGHTS if stack else TASK_WEIGHTS[0]), decay).add()
    assert not network.trunk.scale.grad.any()
    assert all(layer.weight.grad.any() for layer in network.trunk.mlp.layers)
    assert not any(layer.bias.grad.any() for layer in network.trunk.mlp.layers)
