"""Equal weights."""

from __future__ import annotations

from torch import Tensor, nn

from sk_mtl.weighting._base import ConstantWeights, Weighting


class Uniform(Weighting):
    """Every task counts the same; ``task_weights`` are refused.

    Examples
    --------
    >>> import torch
    >>> from sk_mtl.weighting import Uniform
    >>> Uniform().build(torch.tensor([1.0, 1.0]))(torch.tensor([0.3, 0.9]))
    tensor([1., 1.])
    """

    def build(self, task_weights: Tensor) -> nn.Module:
        """Return the module; see :class:`Weighting`."""
        return ConstantWeights(task_weights.new_ones(task_weights.shape))
