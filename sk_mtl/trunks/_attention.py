"""Attention from the tasks to shared experts."""

from __future__ import annotations

import math
from numbers import Integral

import torch
from torch import Tensor, nn

from sk_mtl._support import Interval, StrOptions
from sk_mtl.layers import Draws, mix
from sk_mtl.trunks._base import Trunk, TrunkSpec


class AttentionGate(Trunk):
    """Experts that all tasks share, mixed by attention from a learned query a task.

    The gates of :class:`MMoE` weigh experts by the input; attention weighs them by what they
    have to say about it. Each of several attention heads mixes another part of the experts'
    outputs. Every expert has the estimator's ``hidden_layer_sizes``.

    Parameters
    ----------
    n_experts : int, default=8
        Number of experts.
    n_heads : int, default=2
        Number of attention heads; where it does not divide the width of the last hidden layer,
        heads are rounded up.
    query : {"task", "input"}, default="task"
        What a task asks the experts: the same for every sample, or a linear map of the input.

    Notes
    -----
    Keys and values are linear maps of the experts' outputs, the same for all experts. There are
    no residual connections and no normalisation.

    References
    ----------
    Vaswani et al. 2017, "Attention Is All You Need", equation 1 and section 3.2.2, for
    attention. Learned queries over a set are the seeds of Lee et al. 2019, "Set Transformer: A
    Framework for Attention-based Permutation-Invariant Neural Networks", section 3.2, here one
    a task over the set of experts. No paper that we know of defines just this trunk.

    Examples
    --------
    >>> from sk_mtl import MultiTaskRegressor
    >>> from sk_mtl.trunks import AttentionGate
    >>> model = MultiTaskRegressor(
    ...     trunk=AttentionGate(n_experts=4, query="input"), hidden_layer_sizes=(64, 32)
    ... )
    """

    _parameter_constraints = {
        "n_experts": [Interval(Integral, 1, None, closed="left")],
        "n_heads": [Interval(Integral, 1, None, closed="left")],
        "query": [StrOptions({"task", "input"})],
    }

    def __init__(self, n_experts: int = 8, n_heads: int = 2, query: str = "task") -> None:
        self.n_experts = n_experts
        self.n_heads = n_heads
        self.query = query

    def build(self, spec: TrunkSpec) -> nn.Module:
        """Return the module; see :class:`Trunk`."""
        spec.require_hidden_layers(self)
        return _Attention(spec, self.n_experts, self.n_heads, self.query)


class _Attention(nn.Module):
    def __init__(self, spec: TrunkSpec, n_experts: int, n_heads: int, query: str) -> None:
        super().__init__()
        self.experts = spec.mlp(spec.n_inputs, parallel=n_experts)
        self.n_experts, self.n_tasks, self.n_heads = n_experts, spec.n_tasks, n_heads
        self.n_outputs = self.experts.n_outputs
        self.width = -(-self.n_outputs // n_heads)  # of a head
        width = n_heads * self.width
        self.keys = _Projection(self.n_outputs, width, spec.draws)
        self.values = _Projection(self.n_outputs, width, spec.draws)
        self.output = _Projection(width, self.n_outputs, spec.draws)
        if query == "input":
            self.ask = spec.gate(spec.n_inputs, width, parallel=spec.n_tasks)
        else:
            # Of variance 1, so that tasks begin with mixtures of their own. In one row, as
            # biases are: the penalty takes two axes for the weights of a layer.
            queries = spec.draws.uniform((spec.n_tasks * width,), math.sqrt(3.0))
            self.queries = nn.Parameter(queries)
        self.by_input = query == "input"

    def forward(self, x: Tensor) -> Tensor:
        experts = self.experts(x).flatten(-3, -2)  # (*stack, expert * batch, d)
        keys, values = self._by_head(self.keys(experts)), self._by_head(self.values(experts))
        weights = self._weights(x, keys)  # (*stack, head, batch, task, expert)
        heads = mix(weights, values)  # (*stack, head, task, batch, width)
        rows = heads.movedim(-4, -2).flatten(-2).flatten(-3, -2)  # (*stack, task * batch, ...)
        outputs: Tensor = self.output(rows)  # Concat(head_1, ..., head_h) W^O
        return outputs.view(*rows.shape[:-2], self.n_tasks, -1, self.n_outputs)

    def _by_head(self, rows: Tensor) -> Tensor:
        """Return ``(*stack, expert * batch, head * width)`` as (head, expert, batch, width)."""
        split: Tensor = rows.unflatten(-1, (self.n_heads, -1)).unflatten(-3, (self.n_experts, -1))
        return split.movedim(-2, -4)

    def _weights(self, x: Tensor, keys: Tensor) -> Tensor:
        """Return softmax(Q K^T / sqrt(width)), eq. 1 of Vaswani et al., in the order of mix."""
        scale = 1 / math.sqrt(self.width)
        if self.by_input:
            queries = self.ask(x).unflatten(-1, (self.n_heads, -1))  # (*stack, task, batch, ...)
            queries = queries.movedim(-2, -4).transpose(-3, -2)  # (*stack, head, batch, task, .)
            scores = keys.transpose(-3, -2) @ queries.mT  # (*stack, head, batch, expert, task)
            weights: Tensor = (scale * scores).softmax(-2).mT
            return weights
        queries = self.queries.unflatten(-1, (self.n_heads, self.n_tasks, self.width))
        scores = queries @ keys.flatten(-3, -2).mT  # (*stack, head, task, expert * batch)
        weights = (scale * scores).unflatten(-1, (self.n_experts, -1)).softmax(-2)
        return weights.movedim(-1, -3).contiguous()


class _Projection(nn.Module):
    """A linear map without bias; one of the keys would move all scores of a query alike."""

    def __init__(self, n_inputs: int, n_outputs: int, draws: Draws) -> None:
        super().__init__()
        bound = math.sqrt(6.0 / (n_inputs + n_outputs))  # Glorot and Bengio 2010, eq. 16
        self.weight = nn.Parameter(draws.uniform((n_outputs, n_inputs), bound))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(*stack, row, n_inputs)`` to ``(*stack, row, n_outputs)``."""
        return torch.matmul(x, self.weight.mT)
