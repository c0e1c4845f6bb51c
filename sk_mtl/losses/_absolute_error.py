"""Absolute error."""

from __future__ import annotations

from torch import Tensor

from sk_mtl.losses._base import RegressionLoss


class AbsoluteError(RegressionLoss):
    """Absolute error; predicts the median.

    Examples
    --------
    >>> import torch
    >>> from sk_mtl.losses import AbsoluteError
    >>> AbsoluteError().elementwise(torch.tensor([[3.0]]), torch.tensor([1.0]))
    tensor([2.])
    """

    likelihood_exponent = 1.0  # Laplace

    def elementwise(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return |raw - target|."""
        return (raw.squeeze(-1) - target).abs()
