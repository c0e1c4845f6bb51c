"""Fast adaptive multitask optimisation."""

from __future__ import annotations

from numbers import Real

import torch
from torch import Tensor, nn

from sk_mtl._support import Interval
from sk_mtl.weighting._adam import Adam
from sk_mtl.weighting._base import Balance, Weighting

EPSILON = 1e-8


class FAMO(Weighting):
    """All losses are to fall at the same relative rate, seen by what each step made of them.

    Every batch is evaluated once more after its step, which costs more than half a step.

    Parameters
    ----------
    learning_rate : float, default=0.025
        Of the logits of the weights, by Adam. They begin at 0.
    weight_decay : float, default=0.001
        Pull of the logits towards 0.

    References
    ----------
    Liu et al. 2023, "FAMO: Fast Adaptive Multitask Optimization", algorithm 1 and equation 9.

    Examples
    --------
    >>> import torch
    >>> from sk_mtl.weighting import FAMO
    >>> balance = FAMO(learning_rate=0.5).build(torch.ones(2))
    >>> balance(torch.tensor([1.0, 1.0]))
    tensor([0.5000, 0.5000])
    >>> balance.look_back(torch.tensor([1.0, 0.5]), None)  # the step helped the second task only
    >>> balance(torch.tensor([1.0, 1.0])).round(decimals=2)
    tensor([0.7300, 0.2700])
    """

    stackable = ("learning_rate", "weight_decay")
    _parameter_constraints = {
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
    }

    def __init__(self, learning_rate: float = 0.025, weight_decay: float = 0.001) -> None:
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay

    def build(self, task_weights: Tensor) -> nn.Module:
        """Return the module; see :class:`Weighting`."""
        return _FAMO(self.learning_rate, self.weight_decay, task_weights)


class _FAMO(Balance):
    looks_back = True
    learning_rate: float | Tensor
    weight_decay: float | Tensor
    seen: Tensor

    def __init__(
        self, learning_rate: float | Tensor, weight_decay: float | Tensor, like: Tensor
    ) -> None:
        super().__init__()
        self.hold("learning_rate", learning_rate)
        self.hold("weight_decay", weight_decay)
        self.logits = Adam(torch.zeros_like(like))
        self.register_buffer("seen", torch.zeros_like(like))

    def forward(
        self, losses: Tensor, gradients: Tensor | None = None, present: Tensor | None = None
    ) -> Tensor:
        self.seen.copy_(losses.clamp(min=0.0))
        return _shares(self.logits.value, present) / (self.seen + EPSILON)

    def look_back(self, losses: Tensor, present: Tensor | None) -> None:
        gain = torch.log(self.seen + EPSILON) - torch.log(losses.clamp(min=0.0) + EPSILON)
        shares = _shares(self.logits.value, present)
        slope = shares * (gain - (shares * gain).sum(-1, keepdim=True))
        self.logits.step(slope, self.learning_rate, present, self.weight_decay)


def _shares(logits: Tensor, present: Tensor | None) -> Tensor:
    """Return the softmax over the tasks present."""
    if present is not None:
        logits = torch.where(present, logits, torch.finfo(logits.dtype).min)
    return logits.softmax(dim=-1)
