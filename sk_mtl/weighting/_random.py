"""Random weights."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from sk_mtl.weighting._base import Balance, Weighting
from sk_mtl.weighting._streams import Streams


class Random(Weighting):
    """Weights drawn anew in every step: the softmax of normal numbers.

    The test that every clever weighting should pass: to be better than this one.

    References
    ----------
    Lin et al. 2022, "Reasonable Effectiveness of Random Weighting: A Litmus Test for Multi-Task
    Learning", algorithm 2.

    Examples
    --------
    >>> import torch
    >>> from sk_mtl.weighting import Random
    >>> balance = Random().build(torch.ones(3))
    >>> balance.seed([0])
    >>> float(balance(torch.ones(3)).sum())
    1.0
    """

    def build(self, task_weights: Tensor) -> nn.Module:
        """Return the module; see :class:`Weighting`."""
        return _Random(task_weights.shape[:-1])


class _Random(Balance):
    def __init__(self, stack: tuple[int, ...]) -> None:
        super().__init__()
        self.streams = Streams(stack)

    def seed(self, seeds: Sequence[int]) -> None:
        self.streams.seed(seeds)

    def forward(
        self, losses: Tensor, gradients: Tensor | None = None, present: Tensor | None = None
    ) -> Tensor:
        return self.streams.normal(losses).softmax(dim=-1)
