"""Gradient normalisation."""

from __future__ import annotations

from numbers import Real

import torch
from torch import Tensor, nn

from sk_mtl._support import Interval
from sk_mtl.weighting._adam import Adam
from sk_mtl.weighting._base import Balance, Weighting, over_present

SMALLEST = 1e-3  # a weight that became 0 or less would never be seen to recover


class GradNorm(Weighting):
    """Weights by which tasks pull on the shared part alike, and more so those that lag behind.

    The norm of task i's weighted gradient is drawn to the tasks' mean norm times r_i^alpha, where
    r_i is its loss over its first loss, relative to the tasks' mean of that. Norms are of the
    gradient over all shared parameters (the paper takes those of the last shared layer).

    Parameters
    ----------
    alpha : float, default=1.5
        Restoring rate: how strongly tasks that learn slowly are helped. 0 makes norms equal.
    learning_rate : float, default=0.025
        Of the weights, by Adam. They begin at 1 and add up to the number of tasks.

    References
    ----------
    Chen et al. 2018, "GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep
    Multitask Networks", equations 1 and 2, algorithm 1.

    Examples
    --------
    >>> import torch
    >>> from sk_mtl.weighting import GradNorm
    >>> balance = GradNorm(alpha=0.0, learning_rate=0.5).build(torch.ones(2))
    >>> gramian = torch.diag(torch.tensor([4.0, 1.0]))  # of gradients of norms 2 and 1
    >>> _ = balance(torch.ones(2), gramian)  # equal at first
    >>> balance(torch.ones(2), gramian)
    tensor([0.5000, 1.5000])
    """

    needs = "gramian"
    _parameter_constraints = {
        "alpha": [Interval(Real, 0, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
    }

    def __init__(self, alpha: float = 1.5, learning_rate: float = 0.025) -> None:
        self.alpha = alpha
        self.learning_rate = learning_rate

    def build(self, task_weights: Tensor) -> nn.Module:
        """Return the module; see :class:`Weighting`."""
        return _GradNorm(self.alpha, self.learning_rate, task_weights)


class _GradNorm(Balance):
    first: Tensor

    def __init__(self, alpha: float, learning_rate: float, like: Tensor) -> None:
        super().__init__()
        self.alpha, self.learning_rate = alpha, learning_rate
        self.weights = Adam(torch.ones_like(like))
        self.register_buffer("first", torch.full_like(like, torch.nan))

    def forward(self, losses: Tensor, gradients: Tensor, present: Tensor | None = None) -> Tensor:
        here = torch.ones_like(losses, dtype=torch.bool) if present is None else present
        self.first.copy_(torch.where(here & self.first.isnan(), losses, self.first))
        used = self.weights.value.clone()
        n_here = here.sum().clamp(min=1)
        ratio = over_present(losses / self.first, here).nan_to_num(nan=1.0, posinf=1.0)
        rate = ratio / (ratio.sum() / n_here).clamp(min=SMALLEST)
        norms = gradients.diagonal().clamp(min=0.0).sqrt()
        pulls = used * norms
        target = over_present(pulls, here).sum() / n_here * rate**self.alpha
        self.weights.step(torch.sign(pulls - target) * norms, self.learning_rate, here)
        weights = self.weights.value.clamp_(min=SMALLEST)
        # those present share among them what they had: absent tasks keep their weights
        scale = over_present(used, here).sum() / over_present(weights, here).sum().clamp(
            min=SMALLEST
        )
        weights.mul_(torch.where(here, scale, 1.0))
        return used
