"""The input side as a whole: numbers, flags and categories, in stacks and for private tasks."""

from __future__ import annotations

import io
import math
import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from stacks import Built, network_of
from torch import nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from sk_mtl.columns import Layout
from sk_mtl.embeddings import (
    EMBEDDINGS,
    Embedding,
    Linear,
    Periodic,
    PiecewiseLinear,
    build_inputs,
    prepare_inputs,
)
from sk_mtl.layers import Draws
from sk_mtl.stack import NetworkStack

LAYOUT = Layout(3, 2, (3, 40, 2, 12, 8, 9))
NUMBERS = Layout(3, 2)
EVERY = [None, *EMBEDDINGS]

every_embedding = pytest.mark.parametrize("embedding", EVERY, ids=str)
every_form = pytest.mark.parametrize("parallel", [None, 4], ids=["shared", "private"])


def table(layout=LAYOUT, n_rows=60, seed=0):
    rng = np.random.default_rng(seed)
    numbers = rng.normal(size=(n_rows, layout.n_numbers))
    flags = rng.integers(0, 2, (n_rows, layout.n_flags))
    codes = [rng.integers(0, n, n_rows) for n in layout.cardinalities]
    return np.column_stack([numbers, flags, *codes]).astype(float)


def recipe_of(embedding):
    return EMBEDDINGS[embedding]() if isinstance(embedding, str) else embedding


def inputs_of(embedding, tables, *, layout=LAYOUT, stack=None, parallel=None, dtype=torch.float64):
    """The input side of one network, or of a stack with a table and a seed each."""
    recipe = recipe_of(embedding)
    seeds = range(len(tables)) if stack is None else range(math.prod(stack))
    draws = Draws(seeds, stack or (), dtype)
    prepared = [prepare_inputs(recipe, X, layout) for X in tables]
    return build_inputs(recipe, prepared, layout, draws, parallel)


def alone(embedding, X, seed, **params):
    recipe = recipe_of(embedding)
    draws = Draws([seed], (), torch.float64)
    return build_inputs(recipe, [prepare_inputs(recipe, X, LAYOUT)], LAYOUT, draws, **params)


# One network --------------------------------------------------------------------------------


def by_cell(module, row, layout=LAYOUT, width=8):
    """What the trunk reads of one row, category by category; numbers as they are."""
    first = layout.n_numbers + layout.n_flags
    out, one_hot, vectors, n_rows = list(row[:first]), [], [], 0
    for code, n in zip(row[first:].astype(int), layout.cardinalities, strict=True):
        if n <= width:
            one_hot += [float(code == c) for c in range(1, n)]
        else:
            vectors += module.entities.weight[n_rows + code].tolist()
            n_rows += n
    return out + one_hot + vectors


def test_every_cell_of_a_table():
    X = table()
    module = inputs_of(None, [X])
    assert module.n_outputs == 5 + (2 + 1 + 7) + 3 * 8
    expected = torch.tensor([by_cell(module, row) for row in X], dtype=torch.float64)
    assert_close(module(torch.from_numpy(X)), expected, rtol=0, atol=0)
    # Negative control: another category is something else.
    X[:, -1] = (X[:, -1] + 1) % 9
    assert (module(torch.from_numpy(X)) - expected).abs().max() > 0.01


@pytest.mark.parametrize("embedding", ["piecewise_linear", "periodic"])
def test_an_embedding_stands_in_the_place_of_the_numbers(embedding):
    X = torch.from_numpy(table())
    module, plain = inputs_of(embedding, [table()]), inputs_of(None, [table()])
    n = module.numbers.n_outputs
    assert module.n_outputs == n + plain.n_outputs - 3
    assert_close(module(X)[:, :n], module.numbers(X), rtol=0, atol=0)
    rest = plain(X)[:, 3 : 3 + 2 + 10]  # flags and one-hot codes
    assert_close(module(X)[:, n : n + 12], rest, rtol=0, atol=0)


def test_a_category_that_was_never_seen_is_nothing():
    """Code 0 brings no weights that training may not have reached."""
    module = inputs_of(None, [table()])
    x = torch.zeros(1, LAYOUT.width, dtype=torch.float64)
    assert not module(x).any()
    assert module(x + 1).count_nonzero() == 5 + 3 + 3 * 8


def test_vectors_of_categories_start_as_long_as_one_hot_codes():
    module = inputs_of(None, [table()], layout=Layout(1, 0, (5000,)))
    lengths = module.entities.weight[1:].square().sum(-1)
    assert_close(lengths.mean().item(), 1.0, rtol=0.05, atol=0)


@pytest.mark.parametrize("embedding", [None, Linear()], ids=str)
@pytest.mark.parametrize("layout", [Layout(3), NUMBERS, Layout(0, 2)], ids=str)
def test_nothing_to_do_is_nothing(embedding, layout):
    assert inputs_of(embedding, [table(layout)], layout=layout) is None


@every_embedding
def test_a_table_of_categories_only(embedding):
    layout = Layout(0, 0, (1, 3, 20))
    X = table(layout)
    module = inputs_of(embedding, [X], layout=layout)
    assert module(torch.from_numpy(X)).shape == (60, 1 + 2 + 8) == (60, module.n_outputs)


@every_embedding
def test_columns_of_one_kind_of_category(embedding):
    for cardinalities in ((4, 5), (30, 50)):
        layout = Layout(2, 0, cardinalities)
        X = table(layout)
        module = inputs_of(embedding, [X], layout=layout)
        assert module(torch.from_numpy(X)).shape == (60, module.n_outputs)


@every_embedding
@every_form
def test_it_is_saved_and_copied(embedding, parallel):
    X = table()
    module, x = inputs_of(embedding, [X], parallel=parallel), torch.from_numpy(X)
    assert torch.equal(pickle.loads(pickle.dumps(module))(x), module(x))
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    other = inputs_of(embedding, [table(seed=1)], parallel=parallel)
    for parameter in other.parameters():
        nn.init.zeros_(parameter)
    other.load_state_dict(torch.load(file))
    assert torch.equal(other(x), module(x))


# Stacks and private tasks -------------------------------------------------------------------


@every_embedding
@every_form
@pytest.mark.parametrize("shared_table", [True, False])
@pytest.mark.parametrize("stack", [(3,), (1,), (2, 2)], ids=str)
def test_a_stack_equals_its_networks(stack, shared_table, parallel, embedding):
    """Values, and gradients of what is learned."""
    n = math.prod(stack)
    tables = [table(seed=i) for i in range(n)]  # folds: bins differ
    module = inputs_of(embedding, tables, stack=stack, parallel=parallel)
    rows = np.stack([tables[0]] * n if shared_table else tables)
    x = torch.from_numpy(tables[0] if shared_table else rows.reshape(*stack, *rows.shape[1:]))
    out = module(x)
    side = () if parallel is None else (parallel,)
    assert out.shape == (*stack, *side, 60, module.n_outputs)
    seeds = torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(0))
    (out * seeds).sum().backward()
    for i in range(n):
        one = alone(embedding, tables[i], i, parallel=parallel)
        own = one(torch.from_numpy(rows[i]))
        assert_close(out.flatten(0, len(stack) - 1)[i], own, rtol=0, atol=1e-12)
        (own * seeds.flatten(0, len(stack) - 1)[i]).sum().backward()
        for together, apart in zip(module.parameters(), one.parameters(), strict=True):
            assert together.shape == (*stack, *apart.shape)
            grad = together.grad.flatten(0, len(stack) - 1)[i]
            assert_close(grad, apart.grad, rtol=0, atol=1e-11)
            assert apart.grad.abs().max() > 1e-3
    if n > 1:  # Negative control: networks differ.
        assert (out.flatten(0, len(stack) - 1)[0] - out.flatten(0, len(stack) - 1)[1]).any()


@every_embedding
def test_private_tasks_begin_alike_and_learn_alone(embedding):
    X = torch.from_numpy(table())
    private, shared = inputs_of(embedding, [table()], parallel=4), inputs_of(embedding, [table()])
    out = private(X)
    assert_close(out, shared(X).expand(4, -1, -1), rtol=0, atol=1e-12)
    out[2].sum().backward()
    for parameter in private.parameters():
        assert parameter.shape[0] == 4
        assert parameter.grad.flatten(1).any(-1).tolist() == [False, False, True, False]


def test_private_tasks_without_anything_to_learn_read_the_same():
    layout = Layout(3, 2, (4, 5))
    X = table(layout)
    module = inputs_of("piecewise_linear", [X], layout=layout, parallel=4)
    assert module(torch.from_numpy(X)).dim() == 2 and not list(module.parameters())


@every_embedding
@every_form
def test_many_directions_are_pulled_back_at_once(embedding, parallel):
    """As weightings by gradients do it: one batched vector-Jacobian product."""
    X = torch.from_numpy(table())
    module = inputs_of(embedding, [table()], parallel=parallel)
    out = module(X)
    seeds = torch.randn(3, *out.shape, dtype=out.dtype)
    parameters = list(module.parameters())
    batched = torch.autograd.grad(out, parameters, seeds, is_grads_batched=True, retain_graph=True)
    for i, seed in enumerate(seeds):
        one = torch.autograd.grad(out, parameters, seed, retain_graph=True)
        for many, single in zip(batched, one, strict=True):
            assert_close(many[i], single, rtol=0, atol=1e-11)


@every_embedding
@every_form
def test_float32_starts_from_the_same_place(embedding, parallel):
    X = table().astype(np.float32)
    narrow = inputs_of(embedding, [X], parallel=parallel, dtype=torch.float32)(torch.from_numpy(X))
    wide = inputs_of(embedding, [X], parallel=parallel)(torch.from_numpy(X).double())
    assert narrow.dtype == torch.float32
    assert_close(narrow.double(), wide, rtol=1e-4, atol=1e-5)


class _WithInputs(nn.Module):
    """A trunk behind an input side, each network with bins of its own table."""

    def __init__(self, spec, embedding, private):
        super().__init__()
        recipe, parallel = recipe_of(embedding), spec.n_tasks if private else None
        prepared = [prepare_inputs(recipe, table(seed=seed), LAYOUT) for seed in spec.draws.seeds]
        self.inputs = build_inputs(recipe, prepared, LAYOUT, spec.draws, parallel)
        self.mlp = spec.mlp(self.inputs.n_outputs, parallel=parallel, tie=private)
        self.n_outputs = self.mlp.n_outputs

    def forward(self, x):
        return self.mlp(self.inputs(x))


@every_embedding
@pytest.mark.parametrize("private", [False, True], ids=["shared", "private"])
def test_a_stack_of_networks_holds_one_input_side_a_network(embedding, private):
    """As the checks of stacked training see it."""
    trunk = Built(lambda spec: _WithInputs(spec, embedding, private))
    rows = torch.from_numpy(table(n_rows=6))
    stack = NetworkStack(network_of(trunk, [0, 1, 2], stack=(3,)), network_of(trunk, [0]), 3, rows)
    stack.keep(torch.tensor([2, 1]))
    for place, seed in enumerate((2, 1)):
        kept, one = stack.network(rows), network_of(trunk, [seed])(rows)
        for together, apart in zip(kept, one, strict=True):
            assert_close(together[place], apart, rtol=0, atol=1e-12)


# Speed --------------------------------------------------------------------------------------


class Operators(TorchDispatchMode):
    """Counts the operators of ATen; refuses those that wait for the device."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().removeprefix("aten::")
        assert not name.startswith(("_local_scalar_dense", "nonzero", "lift_fresh")), name
        self.count += func.namespace == "aten"
        return func(*args, **(kwargs or {}))


def operators(embedding, n_columns, n_tasks=None, n_members=3):
    """Operators of a pass, forward and back."""
    layout = Layout(n_columns, 1, (3,) * n_columns + (30,) * n_columns)
    tables = [table(layout, seed=i) for i in range(n_members)]
    module = inputs_of(embedding, tables, layout=layout, stack=(n_members,), parallel=n_tasks)
    x = torch.from_numpy(np.stack(tables))
    module(x).sum().backward()
    with Operators() as counter:
        module(x).sum().backward()
    return counter.count


@every_embedding
@every_form
def test_a_pass_costs_the_same_for_few_and_many_columns_and_networks(embedding, parallel):
    few = operators(embedding, 2, parallel)
    assert operators(embedding, 17, parallel) == few
    assert operators(embedding, 2, parallel, n_members=9) == few
    if parallel is not None:
        assert operators(embedding, 2, 11) == few


class OneByOne(Embedding):
    """A user's embedding that goes over the columns in turn."""

    def build(self, prepared, layout, draws, parallel):
        module = nn.Module()
        module.n_outputs = 2 * layout.n_numbers
        module.forward = lambda x: torch.cat(
            [torch.cat([c.sin(), c.cos()], -1) for c in x[..., : layout.n_numbers].split(1, -1)], -1
        )
        return module


def test_a_users_embedding_and_the_count_can_grow():
    """Negative control of the count; and no registration is needed."""
    assert operators(OneByOne(), 17) > operators(OneByOne(), 2)
    X = torch.from_numpy(table())
    out = inputs_of(OneByOne(), [table()])(X)
    assert_close(out[:, :2], torch.stack([X[:, 0].sin(), X[:, 0].cos()], 1))


# Recipes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_recipes_are_cloned_and_checked(name):
    recipe = EMBEDDINGS[name]()
    recipe.validate()
    assert clone(recipe).get_params() == recipe.get_params()
    for parameter in recipe.get_params():
        with pytest.raises(ValueError, match=f"The '{parameter}' parameter of"):
            EMBEDDINGS[name](**{parameter: -1}).validate()


@pytest.mark.parametrize("recipe", [PiecewiseLinear(n_bins=4), Periodic(lite=True)], ids=str)
def test_what_was_prepared_can_be_pickled(recipe):
    prepared = prepare_inputs(recipe, table(), LAYOUT)
    again = pickle.loads(pickle.dumps(prepared))
    assert again.equals(prepared) and hash(again.form) == hash(prepared.form)
    other = prepare_inputs(recipe, table(seed=1), LAYOUT)
    assert other.equals(prepared) == isinstance(recipe, Periodic)
