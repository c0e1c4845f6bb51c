"""Level by level training of tasks that depend on tasks."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from sk_mtl._support import Interval
from sk_mtl.weighting._base import Balance, Weighting, over_present


class ByLevel(Weighting):
    """Tasks begin level by level: those that depend on no other first, then their children.

    Levels are those of the estimator's ``task_dependencies``; without any, all tasks begin at once.
    The user's ``task_weights`` hold among the tasks that have begun.

    Parameters
    ----------
    n_epochs : int, default=10
        Epochs from the beginning of one level to that of the next.

    Examples
    --------
    >>> import torch
    >>> from sk_mtl.weighting import ByLevel
    >>> balance = ByLevel(n_epochs=1).build(torch.ones(2))
    >>> balance.know_tasks([None, None], levels=[0, 1])
    >>> balance(torch.ones(2))
    tensor([1., 0.])
    >>> balance.end_epoch(torch.ones(2))
    >>> balance(torch.ones(2))
    tensor([1., 1.])
    """

    uses_task_weights = True
    _parameter_constraints = {"n_epochs": [Interval(Integral, 1, None, closed="left")]}

    def __init__(self, n_epochs: int = 10) -> None:
        self.n_epochs = n_epochs

    def settles_after(self, levels: Sequence[int]) -> int:
        """Return when the last level begins."""
        return self.n_epochs * max(levels)

    def build(self, task_weights: Tensor) -> nn.Module:
        """Return the module; see :class:`Weighting`."""
        return _ByLevel(self.n_epochs, task_weights)


class _ByLevel(Balance):
    preference: Tensor
    starts: Tensor
    epoch: Tensor

    def __init__(self, n_epochs: int, task_weights: Tensor) -> None:
        super().__init__()
        self.n_epochs = n_epochs
        self.register_buffer("preference", task_weights, persistent=False)
        self.register_buffer("starts", torch.zeros_like(task_weights), persistent=False)
        self.register_buffer("epoch", torch.zeros_like(task_weights))

    def know_tasks(self, losses: Sequence[Any], levels: Sequence[int]) -> None:
        starts = self.starts.new_tensor([level * self.n_epochs for level in levels])
        self.starts = starts.expand_as(self.starts).clone()

    def forward(
        self, losses: Tensor, gradients: Tensor | None = None, present: Tensor | None = None
    ) -> Tensor:
        return over_present(self.preference, self.epoch >= self.starts)

    def end_epoch(self, losses: Tensor) -> None:
        self.epoch.add_(1.0)
