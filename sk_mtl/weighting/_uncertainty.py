"""Uncertainty weighting."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from sk_mtl._support import Interval
from sk_mtl.weighting._adam import Adam
from sk_mtl.weighting._base import Balance, Weighting


class Uncertainty(Weighting):
    """Each loss by the inverse of a variance that is learned: noisy tasks count less.

    Minimises, over the log-variances s as over the network, sum(exp(-s) L + a s), where a = 1/2
    for squared errors (of which ours are halves) and for classification, and 1 for absolute
    errors: the negative logarithms of a Gaussian, a scaled softmax and a Laplace likelihood. In
    equilibrium each task's exp(-s) L is its a.

    Parameters
    ----------
    learning_rate : float, default=0.01
        Of the log-variances, by Adam. They begin at 0.

    References
    ----------
    Kendall et al. 2018, "Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry
    and Semantics", equations 7 and 10.

    Examples
    --------
    >>> import torch
    >>> from sk_mtl.weighting import Uncertainty
    >>> balance = Uncertainty(learning_rate=0.5).build(torch.ones(2))
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
        return _Uncertainty(self.learning_rate, task_weights)


class _Uncertainty(Balance):
    learning_rate: float | Tensor
    exponent: Tensor

    def __init__(self, learning_rate: float | Tensor, like: Tensor) -> None:
        super().__init__()
        self.hold("learning_rate", learning_rate)
        self.log_variance = Adam(torch.zeros_like(like))
        self.register_buffer("exponent", torch.full_like(like, 0.5), persistent=False)

    def know_tasks(self, losses: Sequence[Any], levels: Sequence[int]) -> None:
        exponents = [loss.likelihood_exponent for loss in losses]
        self.exponent = self.exponent.new_tensor(exponents).expand_as(self.exponent).clone()

    def forward(
        self, losses: Tensor, gradients: Tensor | None = None, present: Tensor | None = None
    ) -> Tensor:
        precision = torch.exp(-self.log_variance.value)
        self.log_variance.step(self.exponent - precision * losses, self.learning_rate, present)
        return precision
