"""Fair resource allocation among tasks."""

from __future__ import annotations

from numbers import Real

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from sk_mtl._support import Interval
from sk_mtl.weighting._gramian import Array, GramianBalance, GramianWeighting
from sk_mtl.weighting._solvers import power_balance


class FairGrad(GramianWeighting):
    """Every task's progress by a fair share: G w = w^(-1/alpha), then w made to add up to 1.

    Parameters
    ----------
    alpha : float, default=2.0
        What is fair: near 0 the sum of progress counts, 1 is :class:`NashMTL`, large values favour
        the task with the least progress.

    References
    ----------
    Ban and Ji 2024, "Fair Resource Allocation in Multi-Task Learning", equation 4. Only the ratios
    of the weights are theirs: raw ones grow as gradients shrink.

    Examples
    --------
    >>> import torch
    >>> from sk_mtl.weighting import FairGrad
    >>> gradients = torch.tensor([[4.0, 0.0], [0.0, 1.0]])
    >>> FairGrad(alpha=1.0).build(torch.ones(2))(torch.ones(2), gradients @ gradients.T)
    tensor([0.2000, 0.8000])
    """

    _parameter_constraints = {"alpha": [Interval(Real, 0, None, closed="neither")]}

    def __init__(self, alpha: float = 2.0) -> None:
        self.alpha = alpha

    def build(self, task_weights: Tensor) -> nn.Module:
        """Return the module; see :class:`Weighting`."""
        return FairShares(self.alpha, task_weights)


class FairShares(GramianBalance):
    """Weights with G w = w^(-1/alpha), up to their sum.

    Parameters
    ----------
    alpha : float
        See :class:`FairGrad`.
    task_weights : Tensor of shape (n_tasks,)
        The user's.
    """

    def __init__(self, alpha: float, task_weights: Tensor) -> None:
        super().__init__(task_weights)
        self.alpha = alpha

    def weights(self, gramian: Array, preference: Array, tasks: NDArray[np.intp]) -> Array:
        """Return the weights; see :class:`GramianBalance`."""
        # A task without a gradient has nothing to bargain for.
        weights, some = np.zeros(len(tasks)), np.diag(gramian) > 0
        weights[some] = power_balance(gramian[np.ix_(some, some)], self.alpha)
        total: Array = weights / weights.sum()
        return total
