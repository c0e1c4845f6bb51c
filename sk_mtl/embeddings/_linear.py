"""Numbers as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn

from sk_mtl.embeddings._base import Embedding, Prepared
from sk_mtl.layers import Draws

if TYPE_CHECKING:
    from sk_mtl.columns import Layout


class Linear(Embedding):
    """Numbers enter the first layer as they are scaled; the same as ``embedding=None``.

    Examples
    --------
    >>> from sk_mtl.embeddings import Linear
    >>> Linear()
    Linear()
    """

    def build(
        self, prepared: Sequence[Prepared], layout: Layout, draws: Draws, parallel: int | None
    ) -> nn.Module:
        """Return the module; see :class:`Embedding`."""
        return _Numbers(layout.n_numbers)


class _Numbers(nn.Module):
    def __init__(self, n_numbers: int) -> None:
        super().__init__()
        self.n_outputs = n_numbers

    def forward(self, x: Tensor) -> Tensor:
        return x[..., : self.n_outputs]
