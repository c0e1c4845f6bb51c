"""What a penalty on the heads of related tasks is."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from sk_mtl._support import Interval, Recipe

STRENGTH: dict[str, list[Any]] = {"strength": [Interval(Real, 0, None, closed="left")]}


class Penalty(Recipe):
    """Draws the heads of related tasks towards each other.

    Added to the loss is strength / 2 * tr(W' A W), W having a task's head in each row, and A
    saying how tasks are related. Some penalties learn A: then it is renewed in closed form after
    every epoch, and training alternates between W and A. Subclass it and write ``build``.
    """

    stackable = ("strength",)

    strength: float | Tensor

    @abstractmethod
    def build(self, like: Tensor, tasks: Sequence[int]) -> nn.Module:
        """Return a :class:`Relation`.

        Parameters
        ----------
        like : Tensor of shape (*stack, n_related, n_related)
            Of the size, type and place of A.
        tasks : sequence of int
            The tasks of its rows, in their order.
        """


class Relation(nn.Module):
    """How tasks are related, and how strongly that counts.

    Parameters
    ----------
    strength : float, or Tensor of shape (*stack, 1, 1)
        How strongly.
    form : Tensor of shape (*stack, n_related, n_related)
        A, to begin with.
    """

    strength: float | Tensor
    form: Tensor

    def __init__(self, strength: float | Tensor, form: Tensor) -> None:
        super().__init__()
        if isinstance(strength, Tensor):  # networks that leave a stack take their part of it
            self.register_buffer("strength", strength, persistent=False)
        else:
            self.strength = strength
        self.register_buffer("form", form.clone())

    def slope(self, heads: Tensor) -> Tensor:
        """Return the gradient of the penalty, of the shape ``(*stack, n_related, d)`` of W."""
        return self.strength * (self.form @ heads)

    def renew(self, heads: Tensor) -> None:
        """Renew A by the heads at the end of an epoch."""


def root_of_products(heads: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues and eigenvectors of (W W')^(1/2)."""
    values, vectors = torch.linalg.eigh(heads @ heads.mT)
    return values.clamp(min=0.0).sqrt(), vectors


def rebuilt(values: Tensor, vectors: Tensor) -> Tensor:
    """Return the symmetric matrix of these eigenvalues and eigenvectors."""
    return (vectors * values.unsqueeze(-2)) @ vectors.mT
