"""Multi-task learning as a bargaining game."""

from __future__ import annotations

from torch import Tensor, nn

from sk_mtl.weighting._fairgrad import FairShares
from sk_mtl.weighting._gramian import GramianWeighting


class NashMTL(GramianWeighting):
    """The Nash bargaining solution: every task gains alike from what it wants, G w = 1 / w.

    Invariant to the scale of each loss. The weights are made to add up to 1: raw ones would give
    steps of one length throughout, however flat the losses have become.

    References
    ----------
    Navon et al. 2022, "Multi-Task Learning as a Bargaining Game", claim 3.1. Solved exactly, by
    Newton steps on a convex problem, not by a sequence of approximations.

    Examples
    --------
    >>> import torch
    >>> from sk_mtl.weighting import NashMTL
    >>> gradients = torch.tensor([[4.0, 0.0], [0.0, 1.0]])
    >>> NashMTL().build(torch.ones(2))(torch.ones(2), gradients @ gradients.T)
    tensor([0.2000, 0.8000])
    """

    def build(self, task_weights: Tensor) -> nn.Module:
        """Return the module; see :class:`Weighting`."""
        return FairShares(1.0, task_weights)
