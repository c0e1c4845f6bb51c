"""Linear layers and perceptrons that stand side by side in one tensor.

Axes are counted from the right: ``(*stack, parallel, batch, feature)``. ``parallel`` holds
tasks or experts, ``stack`` holds whole networks (members, candidates, folds). The number of
operators of a pass depends on neither.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sk_mtl._support import Stream

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "logistic": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "gelu": F.gelu,
    "silu": F.silu,
}


class Draws:
    """Random initial values, one stream a stacked network.

    Each network of the stack draws from its own seed, so that it starts from the bits from
    which it would start alone.

    Parameters
    ----------
    seeds : sequence of int
        One seed a network of the stack; a single one for an empty stack.
    stack : tuple of int, default=()
        Sizes of the stack axes.
    dtype : torch.dtype, default=torch.float32
        Type of the values.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        stack: tuple[int, ...] = (),
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if len(seeds) != math.prod(stack):
            raise ValueError(
                f"Got {len(seeds)} seeds for a stack of shape {stack}, expected "
                f"{math.prod(stack)}: one a network."
            )
        self.seeds = list(seeds)
        self.stack = tuple(stack)
        self.dtype = dtype
        self._generators = [torch.Generator().manual_seed(s) for s in self.seeds]

    def restarted(self) -> Draws:
        """Return the same draws, from their beginning."""
        return Draws(self.seeds, self.stack, self.dtype)

    def uniform(self, shape: Sequence[int], bound: float) -> Tensor:
        """Draw from U(-bound, bound): shape ``(*stack, *shape)``.

        In float64, then rounded: a network starts from the same place in either type.
        """
        values = [
            torch.empty(*shape, dtype=torch.float64).uniform_(-bound, bound, generator=g)
            for g in self._generators
        ]
        return torch.stack(values).reshape(*self.stack, *shape).to(self.dtype)

    def normal(self, shape: Sequence[int], std: float) -> Tensor:
        """Draw from N(0, std²): shape ``(*stack, *shape)``, rounded as :meth:`uniform` is."""
        values = [
            torch.empty(*shape, dtype=torch.float64).normal_(0.0, std, generator=g)
            for g in self._generators
        ]
        return torch.stack(values).reshape(*self.stack, *shape).to(self.dtype)


def affine(x: Tensor, weight: Tensor, bias: Tensor, *, by_rows: bool = False) -> Tensor:
    """Return x Wᵀ + b, by as few and as wide products as torch has.

    Outputs lie in memory as x does: row by row, or with the features before the batch. Were a
    layer to change that, its neighbours' activations and gradients would be read against the
    grain. Only a table that all layers share goes over to features first, as one wide product.

    Parameters
    ----------
    x : Tensor of shape (*stack[, *parallel], batch, n_inputs) or (batch, n_inputs)
        What each layer reads, or each network's parallel layers, or all.
    weight : Tensor of shape (*stack, *parallel, n_outputs, n_inputs)
        Weights.
    bias : Tensor of shape (*stack, *parallel, n_outputs)
        Biases.
    by_rows : bool, default=False
        Keep each layer's rows together where x is shared, as :func:`mix` reads them.

    Returns
    -------
    Tensor of shape (*stack, *parallel, batch, n_outputs)
    """
    if weight.dim() == 2:
        return F.linear(x, weight, bias)
    *side, n_outputs, n_inputs = weight.shape
    if x.dim() < weight.dim() and by_rows:
        if x.dim() > 2:
            x = x.unsqueeze(-3).expand(*side, -1, -1)
        else:  # read as it lies, by every layer
            return _products(x.expand(math.prod(side), -1, -1), weight, bias)
    if x.dim() == weight.dim():
        return _products(x, weight, bias)
    if x.dim() == 2:
        rows = torch.addmm(bias.view(-1, 1), weight.view(-1, n_inputs), x.mT)
        return rows.view(*weight.shape[:-1], -1).mT
    stack, parallel = x.shape[:-2], weight.shape[x.dim() - 2 : -2]
    wide = _products(x, weight.view(*stack, -1, n_inputs), bias.view(*stack, -1))
    n_batch = x.shape[-2]
    if wide.stride(-1) == 1:
        return wide.view(*stack, n_batch, *parallel, n_outputs).movedim(len(stack), -2)
    return wide.mT.view(*stack, *parallel, n_outputs, n_batch).mT


def _products(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return x Wᵀ + b for layers that read an input each, laid as x is."""
    side = weight.shape[:-2]
    if x.shape[:-2] != side and x.dim() == weight.dim():  # an axis of 1 is read by all
        x = x.expand(*side, -1, -1)
    if weight.dim() > 3 or x.dim() != weight.dim():
        x = x.reshape(-1, *x.shape[-2:])
        weight, bias = weight.flatten(0, -3), bias.flatten(0, -2)
    if x.stride(-1) == 1:
        out = torch.baddbmm(bias.unsqueeze(-2), x, weight.mT)
    else:
        out = torch.baddbmm(bias.unsqueeze(-1), weight, x.mT).mT
    return out if len(side) == 1 else out.unflatten(0, side)


class StackedLinear(nn.Module):
    """Many linear layers as one batched product.

    Parameters
    ----------
    n_inputs, n_outputs : int
        Width of every layer.
    draws : Draws
        Where the initial values come from (Glorot uniform weights, zero biases).
    parallel : int or None, default=None
        Number of layers side by side; ``None`` for a single one without that axis.
    tie : bool, default=False
        Start all parallel layers from the same values.
    by_rows : bool, default=False
        Lay the outputs in memory as :func:`mix` reads them.

    Notes
    -----
    Shape: input ``(*stack, batch, n_inputs)``, which all parallel layers read, or
    ``(*stack, parallel, batch, n_inputs)``; a table ``(batch, n_inputs)`` is read by every
    network of the stack. Output ``(*stack[, parallel], batch, n_outputs)``.
    """

    def __init__(
        self,
        n_inputs: int,
        n_outputs: int,
        draws: Draws,
        *,
        parallel: int | None = None,
        tie: bool = False,
        by_rows: bool = False,
    ) -> None:
        super().__init__()
        self.parallel = parallel
        self.by_rows = by_rows
        side = () if parallel is None else (parallel,)
        bound = math.sqrt(6.0 / (n_inputs + n_outputs))  # Glorot and Bengio 2010, eq. 16
        shape = (n_outputs, n_inputs)
        if tie and parallel is not None:
            weight = draws.uniform((1, *shape), bound).repeat_interleave(parallel, dim=-3)
        else:
            weight = draws.uniform((*side, *shape), bound)
        self.weight = nn.Parameter(weight)  # (*stack[, parallel], out, in)
        self.bias = nn.Parameter(torch.zeros(*draws.stack, *side, n_outputs, dtype=draws.dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layers; see the class for shapes."""
        return affine(x, self.weight, self.bias, by_rows=self.by_rows)


class Dropout(nn.Module):
    """Inverted dropout from streams of its own.

    Networks of a stack that have the same rate and the same seed share their masks, as they
    would draw the same ones alone; each of the others draws from its own stream.

    Parameters
    ----------
    p : float or sequence of float
        Share of units that are set to zero while training; one for all, or one a network.
    seed : int or sequence of int
        Seed of the stream; one for all, or one a network.
    n_axes : int
        How many axes, from the right, get masks of their own; the axes between them and the
        stack share them.
    stack : tuple of int, default=()
        Sizes of the stack axes. Only needed where rates or seeds differ.
    """

    source: Tensor

    def __init__(
        self,
        p: float | Sequence[float],
        seed: int | Sequence[int],
        n_axes: int,
        stack: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        n_networks = math.prod(stack)
        pairs = list(zip(_spread(p, n_networks), _spread(seed, n_networks), strict=True))
        distinct = list(dict.fromkeys(pairs))
        self.n_axes, self.n_stack = n_axes, len(stack)
        self.rates = [rate for rate, _ in distinct]
        self.streams = [Stream(seed) for _, seed in distinct]
        source = torch.tensor([distinct.index(pair) for pair in pairs])
        self.register_buffer("source", source, persistent=False)  # lies on the device

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` with units dropped while training, unchanged otherwise."""
        if not self.training or not any(self.rates):
            return x
        if len(self.streams) == 1:
            return x * self._mask(0, x)
        masks = torch.stack([self._mask(i, x) for i in range(len(self.streams))])
        own = masks.index_select(0, self.source)
        stack, shared = x.shape[: self.n_stack], x.dim() - self.n_stack - self.n_axes
        return x * own.view(*stack, *[1] * shared, *own.shape[1:])

    def _mask(self, i: int, x: Tensor) -> Tensor:
        """Draw the masks of one stream, which lie in memory as ``x`` does."""
        rate, shape = self.rates[i], x.shape[-self.n_axes :]
        if rate == 0:
            return x.new_ones(shape)
        keep = torch.empty(shape, dtype=x.dtype, device=x.device)
        keep.bernoulli_(1.0 - rate, generator=self.streams[i].generator(x.device))
        keep.div_(1.0 - rate)
        return keep if x.stride(-1) == 1 or len(self.streams) > 1 else keep.mT.contiguous().mT


def shifted(seed: int | Sequence[int], by: int) -> int | list[int]:
    """Return a seed, or one a network, for another part of it."""
    return [s + by for s in seed] if isinstance(seed, Sequence) else seed + by


def _spread(value: Any, n: int) -> list[Any]:
    """Return one value a network."""
    return list(value) if isinstance(value, Sequence) else [value] * n


class StackedMLP(nn.Module):
    """Perceptrons side by side: linear, activation, dropout, for every hidden layer.

    Parameters
    ----------
    n_inputs : int
        Width of the input.
    hidden_layer_sizes : sequence of int
        Widths of the layers; every one is followed by the activation.
    draws : Draws
        Where the initial values come from.
    activation : str, default="relu"
        A name of :data:`ACTIVATIONS`.
    dropout : float or sequence of float, default=0.0
        Share of units dropped after every layer; one for all, or one a network of the stack.
    seed : int or sequence of int, default=0
        Seed of the dropout masks; likewise.
    parallel : int or None, default=None
        Number of perceptrons side by side.
    tie : bool, default=False
        Give all of them the same initial values and the same dropout masks.
    by_rows : bool, default=False
        Lay the outputs in memory as :func:`mix` reads them.

    Attributes
    ----------
    n_outputs : int
        Width of the output: the last layer's, or ``n_inputs`` without any.
    """

    def __init__(
        self,
        n_inputs: int,
        hidden_layer_sizes: Sequence[int],
        draws: Draws,
        *,
        activation: str = "relu",
        dropout: float | Sequence[float] = 0.0,
        seed: int | Sequence[int] = 0,
        parallel: int | None = None,
        tie: bool = False,
        by_rows: bool = False,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.layers = nn.ModuleList()
        self.dropouts = nn.ModuleList()
        n_axes = 2 if parallel is None or tie else 3
        for depth, width in enumerate(hidden_layer_sizes):
            self.layers.append(
                StackedLinear(n_inputs, width, draws, parallel=parallel, tie=tie, by_rows=by_rows)
            )
            if np.any(dropout):
                self.dropouts.append(Dropout(dropout, shifted(seed, depth), n_axes, draws.stack))
            n_inputs = width
        self.n_outputs = n_inputs

    def forward(self, x: Tensor) -> Tensor:
        """Apply all layers; shapes as in :class:`StackedLinear`."""
        for depth in range(len(self.layers)):
            x = self.hidden(depth, x)
        return x

    def hidden(self, depth: int, x: Tensor) -> Tensor:
        """Apply one of the layers."""
        x = ACTIVATIONS[self.activation](self.layers[depth](x))
        return self.dropouts[depth](x) if self.dropouts else x


def gate_weights(gates: StackedLinear, x: Tensor) -> Tensor:
    """Return the softmax of parallel gates, in the order that :func:`mix` reads.

    Shape: ``(*stack[, task], batch, n_inputs)`` -> ``(*stack, batch, task, expert)``.
    """
    # over the last but one axis: torch's softmax is slow over a last axis as short as this
    weights: Tensor = gates(x).mT.softmax(-2)  # (*stack, task, expert, batch)
    return weights.movedim(-1, -3).contiguous()  # strided, each sample would be copied alone


def mix(gates: Tensor, experts: Tensor) -> Tensor:
    """Return every task's mixture of experts that all tasks share.

    Shape: gates ``(*stack, batch, task, expert)``, experts ``(*stack, expert, batch, d)`` ->
    ``(*stack, task, batch, d)``. One small product a sample, so that no (task, expert, batch, d)
    tensor is ever made.
    """
    per_sample = gates @ experts.transpose(-3, -2)  # (*stack, batch, task, d)
    return per_sample.transpose(-3, -2)


def combine(weights: Tensor, x: Tensor) -> Tensor:
    """Return linear combinations of parallel features, with the same weights for every sample.

    Shape: weights ``(*stack, out, parallel)``, x ``(*stack, parallel, batch, d)`` ->
    ``(*stack, out, batch, d)``, which lies in memory as x does.
    """
    lies = x if x.stride(-1) == 1 else x.mT
    combined: Tensor = (weights @ lies.flatten(-2)).unflatten(-1, lies.shape[-2:])
    return combined if lies is x else combined.mT
