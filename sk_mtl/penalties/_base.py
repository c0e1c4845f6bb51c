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

    Added to the loss, a mean over the tasks, is strength / (2 n) * tr(W' A W), W having the heads
    of the n related tasks in its rows, and A saying how they are related. Some penalties learn A:
    then it is renewed in closed form after every epoch, and training alternates between W and A.
    Subclass it and write ``build``.
    """

    stackable = ("strength",)

    strength: float | Tensor

    def aligned(self, names: Sequence[str]) -> Penalty:
        """Return the same for tasks of these names; raise where it is of others."""
        return self

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
    learned : bool, default=True
        Whether A is a memory, which a training that goes on takes over, or a setting.
    """

    strength: float | Tensor
    form: Tensor

    def __init__(self, strength: float | Tensor, form: Tensor, learned: bool = True) -> None:
        super().__init__()
        if isinstance(strength, Tensor):  # networks that leave a stack take their part of it
            self.register_buffer("strength", strength, persistent=False)
        else:
            self.strength = strength
        self.register_buffer("form", form.clone(), persistent=learned)

    def slope(self, heads: Tensor) -> Tensor:
        """Return n times the penalty's gradient, of the shape ``(*stack, n_related, d)`` of W."""
        return self.strength * (self.form @ heads)

    def renew(self, heads: Tensor) -> None:
        """Renew A by the heads at the end of an epoch."""


def root_of_products(heads: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues and eigenvectors of (W W')^(1/2); NaN where a network has diverged."""
    products = heads @ heads.mT
    fine = products.isfinite().all(dim=-1, keepdim=True).all(dim=-2, keepdim=True)
    values, vectors = torch.linalg.eigh(torch.where(fine, products, 0.0))
    roots = torch.where(fine.squeeze(-1), values.clamp(min=0.0).sqrt(), torch.nan)
    return roots, torch.where(fine, vectors, torch.nan)


def rebuilt(values: Tensor, vectors: Tensor) -> Tensor:
    """Return the symmetric matrix of these eigenvalues and eigenvectors."""
    return (vectors * values.unsqueeze(-2)) @ vectors.mT
