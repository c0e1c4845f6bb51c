"""Dual projection of the mean gradient."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from sk_mtl.weighting._gramian import Array, GramianBalance, GramianWeighting
from sk_mtl.weighting._solvers import dual_cone_projections


class DualProj(GramianWeighting):
    """The mean gradient projected onto what no task's gradient points against.

    Solved exactly. The user's ``task_weights`` are those of the mean.

    References
    ----------
    Lopez-Paz and Ranzato 2017, "Gradient Episodic Memory for Continual Learning", equation 11.

    Examples
    --------
    >>> import torch
    >>> from sk_mtl.weighting import DualProj
    >>> gradients = torch.tensor([[1.0, 0.0], [-3.0, 1.0]])
    >>> DualProj().build(torch.ones(2))(torch.ones(2), gradients @ gradients.T)
    tensor([1.5000, 0.5000])
    """

    uses_task_weights = True

    def build(self, task_weights: Tensor) -> nn.Module:
        """Return the module; see :class:`Weighting`."""
        return _DualProj(task_weights)


class _DualProj(GramianBalance):
    def weights(self, gramian: Array, preference: Array, tasks: NDArray[np.intp]) -> Array:
        (projected,) = dual_cone_projections(gramian, preference[None], self.resolution)
        found: Array = projected
        return found
