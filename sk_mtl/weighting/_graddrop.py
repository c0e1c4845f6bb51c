"""Gradient sign dropout."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sk_mtl.weighting._base import Balance, Weighting
from sk_mtl.weighting._streams import Streams


class GradDrop(Weighting):
    """For every shared parameter one sign is drawn, and gradients of the other sign are dropped.

    The sign is drawn with the odds of the gradients: where all agree, all are kept. The mean over
    the tasks present is what the parameter moves along.

    References
    ----------
    Chen et al. 2020, "Just Pick a Sign: Optimizing Deep Multitask Models with Gradient Sign
    Dropout", algorithm 1 (on the parameters' gradients, which are added up there).

    Examples
    --------
    >>> import torch
    >>> from sk_mtl.weighting import GradDrop
    >>> balance = GradDrop().build(torch.ones(2))
    >>> balance.seed([0])
    >>> balance(torch.ones(2), torch.tensor([[4.0, 2.0], [4.0, -2.0]])).tolist()
    [4.0, -1.0]
    """

    needs = "jacobian"
    weighs = "direction"

    def build(self, task_weights: Tensor) -> nn.Module:
        """Return the module; see :class:`Weighting`."""
        return _GradDrop()


class _GradDrop(Balance):
    def __init__(self) -> None:
        super().__init__()
        self.streams = Streams()

    def seed(self, seeds: Sequence[int]) -> None:
        self.streams.seed(seeds)

    def forward(self, losses: Tensor, gradients: Tensor, present: Tensor | None = None) -> Tensor:
        total, size = gradients.sum(0), gradients.abs().sum(0)
        purity = 0.5 * (1.0 + total / torch.where(size > 0, size, 1.0))  # equation 1
        sign = torch.where(self.streams.uniform(purity) < purity, 1.0, -1.0)
        kept = (gradients * sign).clamp(min=0.0).sum(0) * sign
        n_present = len(gradients) if present is None else present.sum().clamp(min=1)
        return kept / n_present
