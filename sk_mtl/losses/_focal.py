"""Focal loss."""

from __future__ import annotations

from numbers import Real

from torch import Tensor

from sk_mtl._support import Interval
from sk_mtl.losses._log_loss import LogLoss


class Focal(LogLoss):
    """Cross-entropy that fades on samples which are already easy: (1 - p)^gamma * -log p.

    Parameters
    ----------
    gamma : float, default=2.0
        How fast easy samples fade; 0 is the log loss.

    Notes
    -----
    It ranks rare classes better than it calibrates: probabilities are pulled to the middle.

    References
    ----------
    Lin et al. 2017, "Focal Loss for Dense Object Detection", equation 4 (without alpha:
    ``class_weight`` does that).

    Examples
    --------
    >>> import torch
    >>> from sk_mtl.losses import Focal
    >>> Focal(gamma=2.0).elementwise(torch.zeros(1, 1), torch.ones(1))  # 0.25 * log 2
    tensor([0.1733])
    """

    mixes_linear = False

    stackable = ("gamma",)
    _parameter_constraints = {"gamma": [Interval(Real, 0, None, closed="left")]}

    def __init__(self, gamma: float = 2.0) -> None:
        self.gamma = gamma

    def elementwise(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return (1 - p)^gamma * -log p."""
        nll = super().elementwise(raw, target)
        # 1 - p = -expm1(-nll), exact for small nll; the floor keeps the power's slope finite.
        miss = (-(-nll).expm1()).clamp_min(1e-12)
        return miss.pow(self.gamma) * nll
