"""Unconflicting projection of gradients."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from sk_mtl.weighting._gramian import Array, GramianBalance, GramianWeighting
from sk_mtl.weighting._solvers import dual_cone_projections


class UPGrad(GramianWeighting):
    """Every gradient projected onto what no task's gradient points against, then their mean.

    So no task gets worse, and a task with a larger gradient keeps more of a say than by
    :class:`MGDA`. Solved exactly, for all tasks at once. The user's ``task_weights`` are those of
    the mean.

    References
    ----------
    Quinton and Rey 2024, "Jacobian Descent For Multi-Objective Optimization", section 3.1.

    Examples
    --------
    >>> import torch
    >>> from sk_mtl.weighting import UPGrad
    >>> gradients = torch.tensor([[1.0, 0.0], [-1.0, 1.0]])
    >>> UPGrad().build(torch.ones(2))(torch.ones(2), gradients @ gradients.T)
    tensor([1.0000, 0.7500])
    """

    uses_task_weights = True

    def build(self, task_weights: Tensor) -> nn.Module:
        """Return the module; see :class:`Weighting`."""
        return _UPGrad(task_weights)


class _UPGrad(GramianBalance):
    def weights(self, gramian: Array, preference: Array, tasks: NDArray[np.intp]) -> Array:
        each = dual_cone_projections(gramian, np.diag(preference), self.resolution)
        total: Array = each.sum(axis=0)
        return total
