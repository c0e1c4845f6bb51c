"""Periodic embedding: equation 2 and the layers of the columns, against a loop over columns."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from sk_mtl.columns import Layout
from sk_mtl.embeddings import Periodic, Prepared
from sk_mtl.layers import Draws

every_kind = pytest.mark.parametrize("lite", [False, True], ids=["own layers", "lite"])


def randn(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def module_of(seeds=(0,), stack=(), parallel=None, n_numbers=3, dtype=torch.float64, **params):
    """A module with biases, as it has after some training."""
    recipe = Periodic(**({"n_frequencies": 4, "sigma": 0.5, "n_outputs": 2} | params))
    draws = Draws(seeds, stack, dtype)
    module = recipe.build([Prepared()] * len(seeds), Layout(n_numbers), draws, parallel)
    with torch.no_grad():
        module.bias += 0.1
    return module


def by_loop(module, x):
    """One network: column by column."""
    columns = []
    for j in range(module.n_numbers):
        own = slice(0, module.width) if module.lite else slice(j * module.width, None)
        weight, bias = module.weight[own][: module.width], module.bias[own][: module.width]
        angle = 2 * math.pi * module.frequency[j] * x[:, [j]]
        columns.append(F.linear(torch.cat([angle.sin(), angle.cos()], 1), weight, bias).relu())
    return torch.cat(columns, 1)


@every_kind
def test_one_network_is_a_loop_over_columns(lite):
    module, x = module_of(lite=lite), randn(7, 5)  # what follows the numbers is not read
    assert module.n_outputs == 6
    assert_close(module(x), by_loop(module, x), rtol=0, atol=1e-12)
    # Negative control: each column has its own frequencies.
    assert (module(x[:, [1, 0, 2]]) - module(x)[:, [2, 3, 0, 1, 4, 5]]).abs().max() > 0.01


@every_kind
@pytest.mark.parametrize("shared_rows", [True, False])
@pytest.mark.parametrize("stack", [(3,), (2, 2)], ids=str)
def test_a_stack_computes_what_its_networks_do_alone(stack, shared_rows, lite):
    seeds = range(5, 5 + math.prod(stack))
    module = module_of(seeds, stack, lite=lite)
    x = randn(6, 3) if shared_rows else randn(*stack, 6, 3)
    together = module(x)
    assert together.shape == (*stack, 6, 6)
    rows = x.expand(*stack, 6, 3).reshape(-1, 6, 3)
    for seed, own, out in zip(seeds, rows, together.reshape(-1, 6, 6), strict=True):
        assert_close(out, module_of([seed], lite=lite)(own), rtol=0, atol=1e-12)
    assert (together[0] - together[1]).abs().max() > 0.01


@every_kind
@pytest.mark.parametrize("shared_rows", [True, False])
@pytest.mark.parametrize("stack", [(), (3,)], ids=str)
def test_tasks_with_an_embedding_each_begin_alike_and_learn_alone(stack, shared_rows, lite):
    seeds = range(max(1, math.prod(stack)))
    module = module_of(seeds, stack, parallel=4, lite=lite)
    together = module_of(seeds, stack, lite=lite)
    x = randn(6, 3) if shared_rows else randn(*stack, 6, 3)
    out = module(x)
    assert out.shape == (*stack, 4, 6, 6)
    assert_close(out, together(x).unsqueeze(-3).expand_as(out), rtol=0, atol=1e-12)
    out[..., 1, :, :].sum().backward()
    for parameter in module.parameters():
        of_task = parameter.grad.flatten(len(stack) + 1).abs().sum(-1)  # (*stack, task)
        assert (of_task > 0).tolist() == torch.tensor([0, 1, 0, 0]).bool().expand_as(
            of_task
        ).tolist()


def test_normal_values_are_those_of_each_network_alone_in_either_type():
    stacked = Draws(range(7, 13), (2, 3), torch.float64).normal((4, 5), 0.3)
    alone = [Draws([7 + i], (), torch.float64).normal((4, 5), 0.3) for i in range(6)]
    assert_close(stacked, torch.stack(alone).reshape(2, 3, 4, 5), rtol=0, atol=0)
    narrow = Draws(range(7, 13), (2, 3), torch.float32).normal((4, 5), 0.3)
    assert torch.equal(narrow, stacked.float())
    assert not torch.equal(stacked[0, 0], stacked[1, 2])


def test_frequencies_are_normal_of_deviation_sigma():
    module = module_of(n_numbers=300, n_frequencies=50, sigma=0.3)
    assert_close(module.frequency.std().item(), 0.3, rtol=0.02, atol=0)
    assert abs(module.frequency.mean().item()) < 0.01


@every_kind
def test_gradients(lite):
    module, x = module_of(lite=lite, sigma=0.2), randn(3, 3).requires_grad_()
    parameters = [p.detach().clone().requires_grad_() for p in module.parameters()]
    names = [name for name, _ in module.named_parameters()]

    def outputs(x, *values):
        return torch.func.functional_call(module, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(outputs, (x, *parameters))


@every_kind
def test_float32_starts_from_the_same_place(lite):
    x = randn(6, 3)
    narrow = module_of(lite=lite, dtype=torch.float32)(x.float())
    assert narrow.dtype == torch.float32
    assert_close(narrow.double(), module_of(lite=lite)(x), rtol=1e-4, atol=1e-5)
