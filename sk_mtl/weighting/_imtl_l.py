"""Impartial multi-task learning by the losses."""

from __future__ import annotations

from numbers import Real

import torch
from torch import Tensor, nn

from sk_mtl._support import Interval
from sk_mtl.weighting._adam import Adam
from sk_mtl.weighting._base import Balance, Weighting


class IMTLL(Weighting):
    """Each loss by a scale that is learned, so that all scaled losses become alike.

    Minimises, over the scales s as over the network, sum(exp(s) L - s): in equilibrium every
    exp(s) L is 1.

    Parameters
    ----------
    learning_rate : float, default=0.01
        Of the scales, by Adam. They begin at 0.

    References
    ----------
    Liu et al. 2021, "Towards Impartial Multi-task Learning", equation 5 (loss balance).

    Examples
    --------
    >>> import torch
    >>> from sk_mtl.weighting import IMTLL
    >>> balance = IMTLL(learning_rate=0.5).build(torch.ones(2))
    >>> _ = balance(torch.tensor([2.0, 0.1]))  # equal at first
    >>> balance(torch.tensor([2.0, 0.1])).round(decimals=2)
    tensor([0.6100, 1.6500])
    """

    stackable = ("learning_rate",)
    _parameter_constraints = {"learning_rate": [Interval(Real, 0, None, closed="neither")]}

    def __init__(self, learning_rate: float = 0.01) -> None:
        self.learning_rate = learning_rate

    def build(self, task_weights: Tensor) -> nn.Module:
        """Return the module; see :class:`Weighting`."""
        return _IMTLL(self.learning_rate, task_weights)


class _IMTLL(Balance):
    learning_rate: float | Tensor

    def __init__(self, learning_rate: float | Tensor, like: Tensor) -> None:
        super().__init__()
        self.hold("learning_rate", learning_rate)
        self.log_scale = Adam(torch.zeros_like(like))

    def forward(
        self, losses: Tensor, gradients: Tensor | None = None, present: Tensor | None = None
    ) -> Tensor:
        scale = torch.exp(self.log_scale.value)
        self.log_scale.step(scale * losses - 1.0, self.learning_rate, present)
        return scale
