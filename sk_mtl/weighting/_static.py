"""Fixed weights, given by the user."""

from __future__ import annotations

from torch import Tensor, nn

from sk_mtl.weighting._base import ConstantWeights, Weighting


class Static(Weighting):
    """The user's ``task_weights``, unchanged throughout: L = sum(w L) / sum(w).

    Examples
    --------
    >>> import torch
    >>> from sk_mtl.weighting import Static
    >>> Static().build(torch.tensor([2.0, 1.0]))(torch.tensor([0.3, 0.9]))
    tensor([2., 1.])
    """

    uses_task_weights = True

    def build(self, task_weights: Tensor) -> nn.Module:
        """Return the module; see :class:`Weighting`."""
        return ConstantWeights(task_weights)
