"""Cross-stitch networks."""

from __future__ import annotations

from numbers import Real

import torch
from torch import Tensor, nn

from sk_mtl._support import Interval
from sk_mtl.layers import Draws, StackedMLP, combine
from sk_mtl.trunks._base import Trunk, TrunkSpec


class CrossStitch(Trunk):
    """A perceptron a task, whose features are exchanged after every hidden layer.

    For a few tasks of which it is not known how much, and at which depth, they have in common:
    a small matrix a layer learns it. Every perceptron has the estimator's
    ``hidden_layer_sizes``; without hidden layers nothing is there to be exchanged, and the model
    is linear.

    Parameters
    ----------
    initial_sharing : float, default=0.1
        How much of each task's features comes from the other tasks when training begins, spread
        evenly over them; the rest comes from the task itself. 0 starts from separate networks.
        Without effect where there is only one task.

    Notes
    -----
    The paper's networks are pre-trained a task each, and its stitches learn faster than the
    rest; here all start from random values and have one learning rate. The L2 penalty leaves
    the stitches alone: it would pull the features of all tasks to zero.

    References
    ----------
    Misra et al. 2016, "Cross-stitch Networks for Multi-task Learning", equation 1.

    Examples
    --------
    >>> from sk_mtl import MultiTaskRegressor
    >>> from sk_mtl.trunks import CrossStitch
    >>> model = MultiTaskRegressor(
    ...     trunk=CrossStitch(initial_sharing=0.2), hidden_layer_sizes=(64, 32)
    ... )
    """

    _parameter_constraints = {"initial_sharing": [Interval(Real, 0, 1, closed="both")]}

    def __init__(self, initial_sharing: float = 0.1) -> None:
        self.initial_sharing = initial_sharing

    def build(self, spec: TrunkSpec) -> nn.Module:
        """Return the module; see :class:`Trunk`."""
        towers = spec.mlp(spec.n_inputs, parallel=spec.n_tasks)
        return _CrossStitch(towers, spec.n_tasks, self.initial_sharing, spec.draws)


class _CrossStitch(nn.Module):
    def __init__(self, towers: StackedMLP, n_tasks: int, sharing: float, draws: Draws) -> None:
        super().__init__()
        self.towers = towers
        self.stitches = nn.ModuleList(_Stitch(n_tasks, sharing, draws) for _ in towers.layers)
        self.n_outputs = towers.n_outputs

    def forward(self, x: Tensor) -> Tensor:
        for depth, stitch in enumerate(self.stitches):
            x = stitch(self.towers.hidden(depth, x))
        return x  # (*stack, task, batch, d)


class _Stitch(nn.Module):
    """What every task reads of every task's features."""

    def __init__(self, n_tasks: int, sharing: float, draws: Draws) -> None:
        super().__init__()
        self.n_tasks = n_tasks
        own, others = (1.0, 0.0) if n_tasks == 1 else (1 - sharing, sharing / (n_tasks - 1))
        alpha = torch.full((n_tasks, n_tasks), others, dtype=draws.dtype).fill_diagonal_(own)
        # In one row, as scales are: the penalty takes two axes for the weights of a layer.
        self.alpha = nn.Parameter(alpha.flatten().repeat(*draws.stack, 1).contiguous())

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(*stack, task, batch, d)`` to the same shape."""
        alpha = self.alpha.unflatten(-1, (self.n_tasks, self.n_tasks))
        return combine(alpha, features)  # x~_t = sum_s alpha_ts x_s, eq. 1
