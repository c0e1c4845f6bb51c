"""Multiple-gradient descent."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from sk_mtl.weighting._gramian import Array, GramianBalance, GramianWeighting
from sk_mtl.weighting._solvers import simplex_quadratic


class MGDA(GramianWeighting):
    """Along the shortest vector in the convex hull of the gradients: no task gets worse.

    Small gradients decide, so a task that is nearly learned slows all others down. Solved exactly,
    by an active-set method, not by Frank-Wolfe steps.

    References
    ----------
    Désidéri 2012, "Multiple-gradient descent algorithm (MGDA) for multiobjective optimization";
    Sener and Koltun 2018, "Multi-Task Learning as Multi-Objective Optimization", equation 3.

    Examples
    --------
    >>> import torch
    >>> from sk_mtl.weighting import MGDA
    >>> gradients = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    >>> MGDA().build(torch.ones(2))(torch.ones(2), gradients @ gradients.T)
    tensor([0.2000, 0.8000])
    """

    def build(self, task_weights: Tensor) -> nn.Module:
        """Return the module; see :class:`Weighting`."""
        return _MGDA(task_weights)


class _MGDA(GramianBalance):
    def weights(self, gramian: Array, preference: Array, tasks: NDArray[np.intp]) -> Array:
        return simplex_quadratic(gramian, np.zeros(len(tasks)))
