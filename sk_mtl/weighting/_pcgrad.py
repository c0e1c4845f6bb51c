"""Gradient surgery."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from sk_mtl.weighting._gramian import Array, GramianBalance, GramianWeighting
from sk_mtl.weighting._streams import Orders


class PCGrad(GramianWeighting):
    """Every gradient without what points against another task's, then the mean of them.

    Others are looked at one after the other, in an order drawn anew.

    References
    ----------
    Yu et al. 2020, "Gradient Surgery for Multi-Task Learning", algorithm 1 (which adds gradients
    up; their mean keeps the learning rate what it is without surgery).

    Examples
    --------
    >>> import torch
    >>> from sk_mtl.weighting import PCGrad
    >>> gradients = torch.tensor([[1.0, 0.0], [-1.0, 1.0]])
    >>> PCGrad().build(torch.ones(2))(torch.ones(2), gradients @ gradients.T)
    tensor([1.0000, 0.7500])
    """

    def build(self, task_weights: Tensor) -> nn.Module:
        """Return the module; see :class:`Weighting`."""
        return _PCGrad(task_weights)


class _PCGrad(GramianBalance):
    def __init__(self, task_weights: Tensor) -> None:
        super().__init__(task_weights)
        self.orders = Orders()

    def seed(self, seeds: Sequence[int]) -> None:
        self.orders.seed(seeds)

    def weights(self, gramian: Array, preference: Array, tasks: NDArray[np.intp]) -> Array:
        n = len(tasks)
        mixes, rows = np.eye(n), np.arange(n)  # row i: task i's gradient, of all tasks' gradients
        squares = np.maximum(np.diag(gramian), np.finfo(float).tiny)
        for others in self.orders.of_others(n).T:  # one other task for each task
            conflict = np.minimum((mixes * gramian[others]).sum(axis=1), 0.0)
            mixes[rows, others] -= conflict / squares[others]
        mean: Array = mixes.mean(axis=0)
        return mean
