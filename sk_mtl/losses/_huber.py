"""Huber loss."""

from __future__ import annotations

from numbers import Real

import torch
from torch import Tensor
from torch.nn import functional as F

from sk_mtl._support import Interval
from sk_mtl.losses._base import RegressionLoss


class Huber(RegressionLoss):
    """Squared error near the target, absolute error beyond ``delta``.

    Parameters
    ----------
    delta : float, default=1.0
        Where the loss turns linear, in standard deviations of the task's training targets.

    References
    ----------
    Huber 1964, "Robust Estimation of a Location Parameter".

    Examples
    --------
    >>> import torch
    >>> from sk_mtl.losses import Huber
    >>> Huber(delta=1.0).elementwise(torch.tensor([[3.0]]), torch.tensor([1.0]))
    tensor([1.5000])
    """

    mixes_linear = True

    stackable = ("delta",)
    _parameter_constraints = {"delta": [Interval(Real, 0, None, closed="neither")]}

    def __init__(self, delta: float = 1.0) -> None:
        self.delta = delta

    def elementwise(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return r^2 / 2 where |r| < delta, else delta * (|r| - delta / 2)."""
        prediction, target = raw.squeeze(-1), target.expand(raw.shape[:-1])
        if isinstance(self.delta, Tensor):  # torch's kernel knows one delta only
            distance = (prediction - target).abs()
            near = 0.5 * distance.square()
            return torch.where(
                distance < self.delta, near, self.delta * (distance - 0.5 * self.delta)
            )
        return F.huber_loss(prediction, target, reduction="none", delta=self.delta)
