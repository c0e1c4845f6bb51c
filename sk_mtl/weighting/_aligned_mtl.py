"""Independent components of the gradients, made of equal size."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from sk_mtl._support import StrOptions
from sk_mtl.weighting._gramian import Array, GramianBalance, GramianWeighting


class AlignedMTL(GramianWeighting):
    """The mean gradient, once the principal components of the gradients are scaled alike.

    Neither conflicts nor dominance are left then. The user's ``task_weights``
    are those of the mean.

    Parameters
    ----------
    scale_mode : {"min", "median", "rmse"}, default="min"
        Which of the components' sizes all get.

    References
    ----------
    Senushkin et al. 2023, "Independent Component Alignment for Multi-Task Learning", algorithm 1.

    Examples
    --------
    >>> import torch
    >>> from sk_mtl.weighting import AlignedMTL
    >>> gradients = torch.tensor([[4.0, 0.0], [0.0, 1.0]])
    >>> AlignedMTL().build(torch.ones(2))(torch.ones(2), gradients @ gradients.T)
    tensor([0.1250, 0.5000])
    """

    uses_task_weights = True
    _parameter_constraints = {"scale_mode": [StrOptions({"min", "median", "rmse"})]}

    def __init__(self, scale_mode: str = "min") -> None:
        self.scale_mode = scale_mode

    def build(self, task_weights: Tensor) -> nn.Module:
        """Return the module; see :class:`Weighting`."""
        return _AlignedMTL(self.scale_mode, task_weights)


class _AlignedMTL(GramianBalance):
    def __init__(self, scale_mode: str, task_weights: Tensor) -> None:
        super().__init__(task_weights)
        self.scale_mode = scale_mode

    def weights(self, gramian: Array, preference: Array, tasks: NDArray[np.intp]) -> Array:
        values, vectors = np.linalg.eigh(gramian)
        kept = values > values[-1] * self.resolution
        values, vectors = values[kept], vectors[:, kept]
        middle = values[(len(values) - 1) // 2]
        scale = {"min": values[0], "median": middle, "rmse": values.mean()}[self.scale_mode]
        weights: Array = vectors @ ((vectors.T @ preference) * np.sqrt(scale / values))
        return weights
