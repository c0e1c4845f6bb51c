"""Squared error."""

from __future__ import annotations

from torch import Tensor

from sk_mtl.losses._base import RegressionLoss


class SquaredError(RegressionLoss):
    """Half the squared error, as in scikit-learn's MLPRegressor; predicts the mean.

    Examples
    --------
    >>> import torch
    >>> from sk_mtl.losses import SquaredError
    >>> SquaredError().elementwise(torch.tensor([[3.0]]), torch.tensor([1.0]))
    tensor([2.])
    """

    mixes_linear = True

    def elementwise(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return (raw - target)^2 / 2."""
        return (raw.squeeze(-1) - target).square() * 0.5
