"""Gradient vaccine."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sk_mtl._support import Interval
from sk_mtl.weighting._gramian import Array, GramianBalance, GramianWeighting
from sk_mtl.weighting._streams import Orders

SMALLEST = 1e-8


class GradVac(GramianWeighting):
    """Turns gradients towards each other until they agree as much as they usually do.

    Every gradient gets as much of another task's as brings their cosine up to its moving average;
    then the mean of them. Where that average is 0 this is :class:`PCGrad`.

    Parameters
    ----------
    beta : float, default=0.01
        How fast the average cosine of two tasks follows the one of a batch.

    References
    ----------
    Wang et al. 2021, "Gradient Vaccine: Investigating and Improving Multi-task Optimization in
    Massively Multilingual Models", equations 2 and 3, algorithm 1 (which adds gradients up).

    Examples
    --------
    >>> import torch
    >>> from sk_mtl.weighting import GradVac
    >>> gradients = torch.tensor([[1.0, 0.0], [-1.0, 1.0]])
    >>> GradVac().build(torch.ones(2))(torch.ones(2), gradients @ gradients.T)
    tensor([1.0000, 0.7500])
    """

    _parameter_constraints = {"beta": [Interval(Real, 0, 1, closed="left")]}

    def __init__(self, beta: float = 0.01) -> None:
        self.beta = beta

    def build(self, task_weights: Tensor) -> nn.Module:
        """Return the module; see :class:`Weighting`."""
        return _GradVac(self.beta, task_weights)


class _GradVac(GramianBalance):
    usual: Tensor

    def __init__(self, beta: float, task_weights: Tensor) -> None:
        super().__init__(task_weights)
        self.beta = beta
        self.orders = Orders()
        n = len(task_weights)
        self.register_buffer("usual", task_weights.new_zeros(n, n))  # cosines

    def seed(self, seeds: Sequence[int]) -> None:
        self.orders.seed(seeds)

    def weights(self, gramian: Array, preference: Array, tasks: NDArray[np.intp]) -> Array:
        n = len(tasks)
        mixes, rows = np.eye(n), np.arange(n)
        lengths = np.sqrt(np.maximum(np.diag(gramian), np.finfo(float).tiny))
        usual = self.usual.cpu().double().numpy()[np.ix_(tasks, tasks)]
        for others in self.orders.of_others(n).T:
            products = mixes @ gramian
            length = np.sqrt(np.maximum((products * mixes).sum(axis=1), 0.0))
            other, wanted = lengths[others], usual[rows, others]
            cosine = products[rows, others] / np.maximum(length * other, np.finfo(float).tiny)
            cosine = np.clip(cosine, -1.0, 1.0)
            sine, wanted_sine = np.sqrt(1.0 - cosine**2), np.sqrt(1.0 - wanted**2)
            added = length * (wanted * sine - cosine * wanted_sine)  # equation 2
            added = added / np.maximum(other * wanted_sine, SMALLEST * other)
            mixes[rows, others] += np.where(cosine < wanted, added, 0.0)
            usual[rows, others] += self.beta * (cosine - wanted)  # equation 3
        index = torch.from_numpy(tasks).to(self.usual.device)
        self.usual[index[:, None], index] = torch.from_numpy(usual).to(self.usual)
        mean: Array = mixes.mean(axis=0)
        return mean
