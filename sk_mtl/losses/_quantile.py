"""Quantile loss."""

from __future__ import annotations

from numbers import Real

import torch
from torch import Tensor

from sk_mtl._support import Interval
from sk_mtl.losses._base import RegressionLoss


class Quantile(RegressionLoss):
    """Pinball loss; predicts a quantile.

    Parameters
    ----------
    quantile : float, default=0.5
        Which one, between 0 and 1.

    References
    ----------
    Koenker and Bassett 1978, "Regression Quantiles".

    Examples
    --------
    >>> import torch
    >>> from sk_mtl.losses import Quantile
    >>> Quantile(quantile=0.9).elementwise(torch.tensor([[1.0]]), torch.tensor([3.0]))
    tensor([1.8000])
    """

    likelihood_exponent = 1.0  # asymmetric Laplace
    stackable = ("quantile",)
    _parameter_constraints = {"quantile": [Interval(Real, 0, 1, closed="neither")]}

    def __init__(self, quantile: float = 0.5) -> None:
        self.quantile = quantile

    def elementwise(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return q * e above the prediction and (q - 1) * e below it."""
        error = target - raw.squeeze(-1)
        return torch.maximum(self.quantile * error, (self.quantile - 1.0) * error)
