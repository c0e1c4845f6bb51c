"""What an embedding of numbers is, and what it knows of the training table."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sk_mtl._support import Recipe
from sk_mtl.layers import Draws

if TYPE_CHECKING:
    from sk_mtl.columns import Layout


@dataclass(frozen=True, eq=False)
class Prepared:
    """What an embedding took from a training table.

    Attributes
    ----------
    form : hashable
        What networks must have in common to train as one stack.
    arrays : mapping of str to ndarray
        What may differ between them; of equal shapes where forms are equal.
    """

    form: Hashable = ()
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def equals(self, other: Prepared) -> bool:
        """Return whether two networks may share what was prepared."""
        if self is other:
            return True
        return self.form == other.form and all(
            np.array_equal(array, other.arrays[name]) for name, array in self.arrays.items()
        )


class Embedding(Recipe):
    """How numbers enter the network.

    Subclass it and write ``build``, and ``prepare`` where the training table has to be seen; an
    object of the subclass can then be passed as ``embedding=``. The encoded table holds scaled
    numbers first (``layout.n_numbers`` columns without gaps), which an embedding may read; what
    follows is not its own.

    The module that ``build`` returns has an attribute ``n_outputs`` and maps
    ``(*stack, batch, width)``, or a table ``(batch, width)`` that the networks of a stack share,
    to ``(*stack, batch, n_outputs)``. What it learns has the stack axes in front, then a task
    axis where ``parallel`` is given; the output then has that axis too,
    ``(*stack, task, batch, n_outputs)``. Nothing may loop over columns in ``forward``.
    """

    @property
    def sees_targets(self) -> bool:
        """Whether ``prepare`` is to be given ``y``; rows held out by a network are not then."""
        return False

    def prepare(
        self,
        X: Any,
        layout: Layout,
        weight: NDArray[Any] | None = None,
        y: NDArray[Any] | None = None,
    ) -> Prepared:
        """Look at the training table once.

        Parameters
        ----------
        X : ndarray or CSR array of shape (n_rows, layout.width)
            The encoded table: rows for training only.
        layout : Layout
            What its columns are.
        weight : ndarray of shape (n_rows,) or None, default=None
            Weights of the rows: a row of weight 2 is a row twice, one of weight 0 is none.
        y : ndarray of shape (n_rows, n_targets) or None, default=None
            Encoded targets, NaN where missing; for embeddings that look at them.

        Returns
        -------
        Prepared
        """
        return Prepared()

    @abstractmethod
    def build(
        self, prepared: Sequence[Prepared], layout: Layout, draws: Draws, parallel: int | None
    ) -> nn.Module:
        """Return the module.

        Parameters
        ----------
        prepared : sequence of Prepared
            One a network of the stack, all of one form; a single one for an empty stack.
        layout : Layout
            What the columns of the table are.
        draws : Draws
            Where initial values come from; holds the stack axes.
        parallel : int or None
            Number of tasks that learn an embedding each, from the same initial values; ``None``
            where they share one.

        Returns
        -------
        nn.Module
        """


def check_forms(prepared: Sequence[Prepared], draws: Draws) -> None:
    """Raise where networks cannot stand side by side."""
    if len(prepared) != len(draws.seeds):
        raise ValueError(
            f"Got {len(prepared)} prepared tables for a stack of {len(draws.seeds)} networks, "
            "expected one a network."
        )
    if any(p.form != prepared[0].form for p in prepared):
        raise ValueError(
            "Got prepared tables of different forms for one stack, expected equal ones. "
            "Train networks of different forms apart."
        )


def stacked_array(prepared: Sequence[Prepared], name: str, draws: Draws) -> Tensor:
    """Return what was prepared as one tensor, ``(*shape)`` where all agree, else with the stack."""
    arrays = [p.arrays[name] for p in prepared]
    if all(p.equals(prepared[0]) for p in prepared):
        return torch.from_numpy(np.array(arrays[0])).to(draws.dtype)
    stacked = np.stack(arrays).reshape(*draws.stack, *arrays[0].shape)
    return torch.from_numpy(stacked).to(draws.dtype)


def initial(values: Tensor, parallel: int | None) -> nn.Parameter:
    """Return a parameter ``(*stack[, parallel], a, b)`` from values ``(*stack, a, b)``.

    Tasks with an embedding each start from the same values, as they would alone.
    """
    if parallel is not None:
        values = values.unsqueeze(-3).repeat_interleave(parallel, dim=-3)
    return nn.Parameter(values)
