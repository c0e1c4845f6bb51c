"""Independent components of the gradients, made of equal size."""

from __future__ import annotations

from torch import Tensor, nn

from sk_mtl._support import StrOptions
from sk_mtl.weighting._gramian import GramianWeighting
from sk_mtl.weighting._torchjd import ByPreference


class AlignedMTL(GramianWeighting):
    """The mean gradient, once the principal components of the gradients are scaled alike.

    Neither conflicts nor dominance are left then. Computed by torchjd. The user's ``task_weights``
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
        return ByPreference("AlignedMTLWeighting", task_weights, scale_mode=self.scale_mode)
