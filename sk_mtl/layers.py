"""Linear layers and perceptrons that stand side by side in one tensor.

Axes are counted from the right: ``(*stack, parallel, batch, feature)``. ``parallel`` holds
tasks or experts, ``stack`` holds whole networks (members, candidates, folds). The number of
operators of a pass depends on neither.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

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


def affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return x Wᵀ + b over any leading axes, by the shortest route that torch has."""
    if weight.dim() == 2:
        return F.linear(x, weight, bias)
    if weight.dim() == 3 and x.dim() == 3 and x.shape[0] == weight.shape[0]:
        return torch.baddbmm(bias.unsqueeze(-2), x, weight.mT)
    return x @ weight.mT + bias.unsqueeze(-2)


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
    ) -> None:
        super().__init__()
        self.parallel = parallel
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
        weight, bias = self.weight, self.bias
        if self.parallel is None or x.dim() == weight.dim():
            return affine(x, weight, bias)
        if weight.dim() == 3 and weight.shape[-2] == 1:  # the usual heads: one wide product
            return torch.addmm(bias, weight.squeeze(-2), x.mT).unsqueeze(-1)
        return affine(
            x.unsqueeze(-3).expand(*[-1] * (x.dim() - 2), self.parallel, -1, -1), weight, bias
        )

    def fan_out(self, x: Tensor) -> Tensor:
        """Apply the layers to one input, as one wide product.

        Shape: ``(*stack, batch, n_inputs)`` -> ``(*stack, batch, parallel, n_outputs)``.
        """
        *stack, parallel, n_outputs, n_inputs = self.weight.shape
        weight = self.weight.view(*stack, parallel * n_outputs, n_inputs)
        wide = affine(x, weight, self.bias.view(*stack, parallel * n_outputs))
        return wide.view(*wide.shape[:-1], parallel, n_outputs)


class Dropout(nn.Module):
    """Inverted dropout from a stream of its own.

    Parameters
    ----------
    p : float
        Share of units that are set to zero while training.
    seed : int
        Seed of the stream.
    n_axes : int
        How many axes, from the right, get masks of their own; the axes before share them, so
        that stacked networks see the masks that each would see alone.
    """

    def __init__(self, p: float, seed: int, n_axes: int) -> None:
        super().__init__()
        self.p = p
        self.n_axes = n_axes
        self.stream = Stream(seed)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` with units dropped while training, unchanged otherwise."""
        if not self.training or self.p == 0:
            return x
        keep = torch.empty(x.shape[-self.n_axes :], dtype=x.dtype, device=x.device)
        keep.bernoulli_(1.0 - self.p, generator=self.stream.generator(x.device))
        return x * keep.div_(1.0 - self.p)


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
    dropout : float, default=0.0
        Share of units dropped after every layer.
    seed : int, default=0
        Seed of the dropout masks.
    parallel : int or None, default=None
        Number of perceptrons side by side.
    tie : bool, default=False
        Give all of them the same initial values and the same dropout masks.

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
        dropout: float = 0.0,
        seed: int = 0,
        parallel: int | None = None,
        tie: bool = False,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.layers = nn.ModuleList()
        self.dropouts = nn.ModuleList()
        n_axes = 2 if parallel is None or tie else 3
        for depth, width in enumerate(hidden_layer_sizes):
            self.layers.append(StackedLinear(n_inputs, width, draws, parallel=parallel, tie=tie))
            if dropout > 0:
                self.dropouts.append(Dropout(dropout, seed + depth, n_axes))
            n_inputs = width
        self.n_outputs = n_inputs

    def forward(self, x: Tensor) -> Tensor:
        """Apply all layers; shapes as in :class:`StackedLinear`."""
        activation = ACTIVATIONS[self.activation]
        for depth, layer in enumerate(self.layers):
            x = activation(layer(x))
            if self.dropouts:
                x = self.dropouts[depth](x)
        return x


def gate_weights(gates: StackedLinear, x: Tensor) -> Tensor:
    """Return the softmax of parallel gates, in the order that :func:`mix` reads.

    Shape: ``(*stack[, task], batch, n_inputs)`` -> ``(*stack, batch, task, expert)``.
    """
    shared = x.dim() < gates.weight.dim()
    logits: Tensor = gates.fan_out(x).transpose(-3, -2) if shared else gates(x)
    # over the last but one axis: torch's softmax is slow over a last axis as short as this
    weights = logits.mT.softmax(-2)  # (*stack, task, expert, batch)
    return weights.movedim(-1, -3).contiguous()  # strided, each sample would be copied alone


def mix(gates: Tensor, experts: Tensor) -> Tensor:
    """Return every task's mixture of experts that all tasks share.

    Shape: gates ``(*stack, batch, task, expert)``, experts ``(*stack, expert, batch, d)`` ->
    ``(*stack, task, batch, d)``. One small product a sample, so that no (task, expert, batch, d)
    tensor is ever made.
    """
    per_sample = gates @ experts.transpose(-3, -2)  # (*stack, batch, task, d)
    return per_sample.transpose(-3, -2)
