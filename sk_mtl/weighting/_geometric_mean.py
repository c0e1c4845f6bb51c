"""The geometric mean of the losses."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sk_mtl.weighting._base import Balance, Weighting, over_present


class GeometricMean(Weighting):
    """Follows the geometric mean of the losses, whatever their scales: weights are 1 / L.

    References
    ----------
    Chennupati et al. 2019, "MultiNet++: Multi-Stream Feature Aggregation and Geometric Loss
    Strategy for Multi-Task Learning", equation 3.

    Examples
    --------
    >>> import torch
    >>> from sk_mtl.weighting import GeometricMean
    >>> GeometricMean().build(torch.ones(2))(torch.tensor([2.0, 0.5]))
    tensor([0.5000, 2.0000])
    """

    def build(self, task_weights: Tensor) -> nn.Module:
        """Return the module; see :class:`Weighting`."""
        return _GeometricMean()


class _GeometricMean(Balance):
    def forward(
        self, losses: Tensor, gradients: Tensor | None = None, present: Tensor | None = None
    ) -> Tensor:
        # The gradient of log(mean); a loss of zero has no more to gain.
        weights = losses.clamp(min=torch.finfo(losses.dtype).tiny ** 0.5).reciprocal()
        return over_present(weights, present)
