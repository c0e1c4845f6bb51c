"""The input side of a network: numbers, flags of gaps, and categories, side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from sk_mtl.embeddings._base import Embedding, Prepared, check_forms, initial
from sk_mtl.embeddings._linear import Linear
from sk_mtl.layers import Draws

if TYPE_CHECKING:
    from sk_mtl.columns import Layout

CATEGORY_WIDTH = 8


def prepare_inputs(
    embedding: Embedding | None,
    X: Any,
    layout: Layout,
    weight: NDArray[Any] | None = None,
    y: NDArray[Any] | None = None,
) -> Prepared:
    """Let the embedding look at the training table.

    Parameters
    ----------
    embedding : Embedding or None
        What numbers become.
    X : ndarray of shape (n_rows, layout.width)
        The encoded table.
    layout : Layout
        What its columns are.
    weight, y : ndarray or None, default=None
        See :meth:`Embedding.prepare`.

    Returns
    -------
    Prepared
        Without anything in it where there is no embedding, or no number.
    """
    if embedding is None or not layout.n_numbers:
        return Prepared()
    return embedding.prepare(X, layout, weight, y)


def build_inputs(
    embedding: Embedding | None,
    prepared: Sequence[Prepared],
    layout: Layout,
    draws: Draws,
    parallel: int | None = None,
    *,
    category_width: int = CATEGORY_WIDTH,
) -> Inputs | None:
    """Return the input side of a network or of a stack, or ``None`` where the table is that.

    Parameters
    ----------
    embedding : Embedding or None
        What numbers become; ``None`` as they are.
    prepared : sequence of Prepared
        One a network, from :func:`prepare_inputs`.
    layout : Layout
        What the columns of the table are.
    draws : Draws
        Where initial values come from; holds the stack axes.
    parallel : int or None, default=None
        Number of tasks, where each learns embeddings of its own.
    category_width : int, default=8
        Width of the learned embedding of a category. Columns of at most so many categories are
        one-hot instead: the first layer learns as much of them, and they are no wider.

    Returns
    -------
    Inputs or None
    """
    check_forms(prepared, draws)
    numbers: nn.Module | None = None
    if embedding is not None and not isinstance(embedding, Linear) and layout.n_numbers:
        numbers = embedding.build(prepared, layout, draws, parallel)
    if numbers is None and not layout.cardinalities:
        return None
    first = layout.n_numbers + layout.n_flags
    few: list[tuple[int, int]] = []
    many: list[tuple[int, int]] = []
    for column, n in enumerate(layout.cardinalities, first):
        (few if n <= category_width else many).append((column, n))
    return Inputs(
        numbers,
        slice(layout.n_numbers if numbers is not None else 0, first),
        OneHot(few, draws.dtype) if few else None,
        EntityEmbedding(many, category_width, draws, parallel) if many else None,
    )


class Inputs(nn.Module):
    """Everything that the trunk reads, side by side.

    Parameters
    ----------
    numbers : nn.Module or None
        Built by an :class:`Embedding`.
    plain : slice
        Columns that enter as they are: flags of gaps, and numbers without an embedding.
    one_hot, entities : nn.Module or None
        What becomes of categories.

    Attributes
    ----------
    n_outputs : int
        Width of the output.

    Notes
    -----
    Shape: ``(*stack, batch, width)``, or ``(batch, width)`` for all networks of a stack, ->
    ``(*stack[, task], batch, n_outputs)``. The task axis is there where tasks learn embeddings
    of their own, the stack's where networks differ or read tables of their own.
    """

    def __init__(
        self,
        numbers: nn.Module | None,
        plain: slice,
        one_hot: nn.Module | None = None,
        entities: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.plain = plain
        self.numbers, self.one_hot, self.entities = numbers, one_hot, entities
        widths: list[Any] = [p.n_outputs for p in (numbers, one_hot, entities) if p is not None]
        self.n_outputs = int(plain.stop - plain.start + sum(widths))

    def forward(self, x: Tensor) -> Tensor:
        """Return what the trunk reads."""
        parts: list[Tensor] = [] if self.numbers is None else [self.numbers(x)]
        if self.plain.start < self.plain.stop:
            parts.append(x[..., self.plain])
        parts += [part(x) for part in (self.one_hot, self.entities) if part is not None]
        if len(parts) == 1:
            return parts[0]
        return torch.cat(_side_by_side(parts), dim=-1)


def _side_by_side(parts: Sequence[Tensor]) -> list[Tensor]:
    """Give all parts the axes that some of them have."""
    most = max(part.dim() for part in parts)
    # what all networks share has two axes; of others that have fewer the tasks' is missing
    parts = [part.unsqueeze(-3) if 2 < part.dim() < most else part for part in parts]
    lead = torch.broadcast_shapes(*[part.shape[:-1] for part in parts])
    return [part.expand(*lead, part.shape[-1]) for part in parts]


class OneHot(nn.Module):
    """Categories as one 0/1 column each, code 0 as none of them.

    Code 0 is what is missing, or was never seen. It need not occur in the training table, and a
    column of its own would bring weights that were never trained to the rows that have it first.

    Parameters
    ----------
    columns : sequence of (int, int)
        Where each is in the table, and its number of categories.
    dtype : torch.dtype
        Type of the table.
    """

    column: Tensor
    code: Tensor

    def __init__(self, columns: Sequence[tuple[int, int]], dtype: torch.dtype) -> None:
        super().__init__()
        pairs = [(column, code) for column, n in columns for code in range(1, max(n, 2))]
        self.n_outputs = len(pairs)
        column, code = zip(*pairs, strict=True)
        self.register_buffer("column", torch.tensor(column), persistent=False)
        self.register_buffer("code", torch.tensor(code, dtype=dtype), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(*stack, batch, width)`` to ``(*stack, batch, n_outputs)``."""
        codes = x.flatten(0, -2).index_select(1, self.column)
        hot: Tensor = (codes == self.code).to(x.dtype).unflatten(0, x.shape[:-1])
        return hot


class EntityEmbedding(nn.Module):
    """A learned vector a category.

    All columns have the same width, so that they are one table and one look-up. Vectors start
    with a length of about one, as one-hot codes have; those of code 0, which training may never
    see, as zeros.

    Parameters
    ----------
    columns : sequence of (int, int)
        Where each is in the table, and its number of categories; side by side.
    width : int
        Width of the embedding of a column.
    draws : Draws
        Where initial values come from.
    parallel : int or None
        Number of tasks that have a table each.

    References
    ----------
    Guo and Berkhahn 2016, "Entity Embeddings of Categorical Variables", section 3.
    """

    column: Tensor
    first: Tensor

    def __init__(
        self,
        columns: Sequence[tuple[int, int]],
        width: int,
        draws: Draws,
        parallel: int | None,
    ) -> None:
        super().__init__()
        column, sizes = (torch.tensor(part) for part in zip(*columns, strict=True))
        self.n_outputs = width * len(columns)
        first = sizes.cumsum(0) - sizes
        values = draws.normal((int(sizes.sum()), width), 1 / math.sqrt(width))
        values.index_fill_(-2, first, 0.0)
        self.weight = initial(values, parallel)  # (*stack[, task], n_categories, width)
        self.register_buffer("column", column, persistent=False)
        self.register_buffer("first", first, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(*stack, batch, width)`` to ``(*stack[, task], batch, n_outputs)``."""
        codes = x.flatten(0, -2).index_select(1, self.column).long() + self.first
        row = codes.unflatten(0, x.shape[:-1])
        *side, n_rows, _ = self.weight.shape
        if side:  # the tables of all networks and tasks, one under the other
            if 2 < x.dim() < self.weight.dim():
                row = row.unsqueeze(-3)
            tables = torch.arange(0, math.prod(side) * n_rows, n_rows, device=x.device)
            row = row + tables.view(*side, 1, 1)
        return F.embedding(row, self.weight.flatten(0, -2)).flatten(-2)
