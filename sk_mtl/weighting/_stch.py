"""Smooth Tchebycheff scalarisation."""

from __future__ import annotations

from numbers import Real

import torch
from torch import Tensor, nn

from sk_mtl._support import Interval
from sk_mtl.weighting._base import Balance, Weighting


class STCH(Weighting):
    """Follows the largest weighted loss, smoothly: mu * log(sum(exp(w L / mu))).

    The user's ``task_weights`` w, which add up to 1 here, are a preference that can reach every
    point of the front: the solution has w L alike, as far as the front allows it.

    Parameters
    ----------
    mu : float, default=0.1
        Smoothing. The smaller it is, the more the largest weighted loss counts alone.

    References
    ----------
    Lin et al. 2024, "Smooth Tchebycheff Scalarization for Multi-Objective Optimization",
    equation 5, with the ideal point 0.

    Examples
    --------
    >>> import torch
    >>> from sk_mtl.weighting import STCH
    >>> STCH(mu=0.1).build(torch.ones(2))(torch.tensor([0.6, 0.4])).round(decimals=2)
    tensor([0.3700, 0.1300])
    """

    uses_task_weights = True
    stackable = ("mu",)
    _parameter_constraints = {"mu": [Interval(Real, 0, None, closed="neither")]}

    def __init__(self, mu: float = 0.1) -> None:
        self.mu = mu

    def build(self, task_weights: Tensor) -> nn.Module:
        """Return the module; see :class:`Weighting`."""
        return _STCH(self.mu, task_weights)


class _STCH(Balance):
    mu: float | Tensor
    preference: Tensor

    def __init__(self, mu: float | Tensor, task_weights: Tensor) -> None:
        super().__init__()
        self.hold("mu", mu)
        preference = task_weights / task_weights.sum(-1, keepdim=True)
        self.register_buffer("preference", preference, persistent=False)

    def forward(
        self, losses: Tensor, gradients: Tensor | None = None, present: Tensor | None = None
    ) -> Tensor:
        exponent = self.preference * losses / self.mu
        if present is not None:
            exponent = torch.where(present, exponent, -torch.inf)
            exponent = torch.where(present.any(-1, keepdim=True), exponent, 0.0)
        return self.preference * exponent.softmax(dim=-1)
