"""Impartial multi-task learning by the gradients."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from sk_mtl.weighting._gramian import Array, GramianBalance, GramianWeighting


class IMTLG(GramianWeighting):
    """Along what every task's unit gradient has the same part in.

    Weights add up to 1 and may be negative, where a task would gain more than the others.

    References
    ----------
    Liu et al. 2021, "Towards Impartial Multi-task Learning", equation 4 (gradient balance).

    Examples
    --------
    >>> import torch
    >>> from sk_mtl.weighting import IMTLG
    >>> gradients = torch.tensor([[4.0, 0.0], [0.0, 1.0]])
    >>> IMTLG().build(torch.ones(2))(torch.ones(2), gradients @ gradients.T)
    tensor([0.2000, 0.8000])
    """

    def build(self, task_weights: Tensor) -> nn.Module:
        """Return the module; see :class:`Weighting`."""
        return _IMTLG(task_weights)


class _IMTLG(GramianBalance):
    def weights(self, gramian: Array, preference: Array, tasks: NDArray[np.intp]) -> Array:
        lengths = np.sqrt(np.diag(gramian))
        found = np.linalg.pinv(gramian, rcond=self.resolution, hermitian=True) @ lengths
        total = found.sum()
        weights: Array = found / total if abs(total) > 1e-12 else np.zeros(len(tasks))
        return weights
