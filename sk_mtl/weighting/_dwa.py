"""Dynamic weight average."""

from __future__ import annotations

from numbers import Real

import torch
from torch import Tensor, nn

from sk_mtl._support import Interval
from sk_mtl.weighting._base import Balance, Weighting


class DWA(Weighting):
    """Tasks whose loss falls slowly count more: by the ratio of their last two epochs' losses.

    Parameters
    ----------
    temperature : float, default=2.0
        The larger it is, the more alike are the weights. They are equal for two epochs.

    References
    ----------
    Liu et al. 2019, "End-to-End Multi-Task Learning with Attention", equation 7.

    Examples
    --------
    >>> import torch
    >>> from sk_mtl.weighting import DWA
    >>> balance = DWA().build(torch.ones(2))
    >>> balance.end_epoch(torch.tensor([1.0, 1.0]))
    >>> balance.end_epoch(torch.tensor([1.0, 0.5]))  # the second task has halved its loss
    >>> balance(torch.tensor([1.0, 0.5])).round(decimals=2)
    tensor([0.5600, 0.4400])
    """

    stackable = ("temperature",)
    _parameter_constraints = {"temperature": [Interval(Real, 0, None, closed="neither")]}

    def __init__(self, temperature: float = 2.0) -> None:
        self.temperature = temperature

    def build(self, task_weights: Tensor) -> nn.Module:
        """Return the module; see :class:`Weighting`."""
        return _DWA(self.temperature, task_weights)


class _DWA(Balance):
    temperature: float | Tensor
    last: Tensor
    before: Tensor

    def __init__(self, temperature: float | Tensor, like: Tensor) -> None:
        super().__init__()
        self.hold("temperature", temperature)
        for name in ("last", "before"):
            self.register_buffer(name, torch.full_like(like, torch.nan))

    def forward(
        self, losses: Tensor, gradients: Tensor | None = None, present: Tensor | None = None
    ) -> Tensor:
        rate = self.last / self.before
        return torch.softmax(torch.where(rate.isfinite(), rate, 1.0) / self.temperature, dim=-1)

    def end_epoch(self, losses: Tensor) -> None:
        known = ~losses.isnan()
        self.before.copy_(torch.where(known, self.last, self.before))
        self.last.copy_(torch.where(known, losses, self.last))
