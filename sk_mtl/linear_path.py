"""Linear models of all tasks, mixed into what a network predicts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sk_mtl.batches import TaskData
from sk_mtl.columns import BOUND, Layout
from sk_mtl.embeddings import Inputs
from sk_mtl.embeddings._inputs import OneHot
from sk_mtl.ridge import LinearModels

MOST_CATEGORIES = 64  # of a column that linear models read
NEAREST = 1e-4  # to the bound: numbers are read as far as 300 interquartile ranges


class LinearInputs(nn.Module):
    """What linear models read of an encoded table.

    Numbers, flags, and one-hot categories of columns that have at most 64. Where numbers were
    clipped they are also read as they were before: what is linear in them is not in what clipping
    makes of them. Both together may turn anywhere beyond the rows that they were fitted to, so that
    numbers are read no further beyond these than these reach.

    Parameters
    ----------
    layout : Layout
        What the columns of the encoded table are.
    clipped : bool
        Whether numbers were clipped.
    dtype : torch.dtype
        Type of the table.

    Attributes
    ----------
    n_features : int
        Width of the output; 0 where no column is read.
    n_scaled : int
        How many of the outputs, from the left, are numbers.
    """

    lowest: Tensor
    highest: Tensor

    def __init__(self, layout: Layout, clipped: bool, dtype: torch.dtype) -> None:
        super().__init__()
        first = layout.n_numbers + layout.n_flags
        few = [(c, n) for c, n in enumerate(layout.cardinalities, first) if n <= MOST_CATEGORIES]
        self.plain: nn.Module | None = None
        if first or few:
            self.plain = Inputs(None, slice(0, first), OneHot(few, dtype) if few else None)
        self.n_clipped = layout.n_numbers if clipped else 0
        self.n_scaled = layout.n_numbers + self.n_clipped
        self.n_features = self.n_clipped + (self.plain.n_outputs if self.plain else 0)
        self.register_buffer("lowest", torch.full((self.n_clipped,), -math.inf, dtype=dtype))
        self.register_buffer("highest", torch.full((self.n_clipped,), math.inf, dtype=dtype))

    def reach(self, X: NDArray[Any], rows: NDArray[np.intp] | None) -> None:
        """Learn from an encoded table how far numbers are to be read.

        Parameters
        ----------
        X : ndarray of shape (n_rows, width)
            The table.
        rows : ndarray of int or None
            Those that the models are fitted to, for any task, None for all.
        """
        numbers = X[:, : self.n_clipped]
        there = np.full((len(X), 1), rows is None)  # a copy of the rows could be large
        there[slice(0) if rows is None else rows] = True
        least = numbers.min(axis=0, where=there, initial=BOUND)
        most = numbers.max(axis=0, where=there, initial=-BOUND)
        ends = torch.from_numpy(np.stack([least, most])).to(self.lowest)
        lowest, highest = _before_clipping(ends)
        self.lowest.copy_(2 * lowest - highest)
        self.highest.copy_(2 * highest - lowest)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, width)`` to ``(batch, n_features)``."""
        assert self.plain is not None
        plain: Tensor = self.plain(x)
        if not self.n_clipped:
            return plain
        before = _before_clipping(x[..., : self.n_clipped])
        return torch.cat([before.clamp(self.lowest, self.highest), plain], dim=-1)


def _before_clipping(z: Tensor) -> Tensor:
    """Return numbers as they were before smooth clipping made ``z`` of them."""
    return z * (1 - (z / BOUND) ** 2).clamp(min=NEAREST).rsqrt()


class LinearPath(nn.Module):
    """Mixes linear models into the raw outputs of a network that was trained without them.

    Parameters
    ----------
    inputs : LinearInputs
        What the models read.
    models : LinearModels
        Fitted to the network's training rows.
    shares : sequence of float
        How much of them a task takes, the rest being the network's.
    groups : sequence of sequence of int
        The tasks of every raw output of the network.
    dtype : torch.dtype
        Type of the table.
    """

    def __init__(
        self,
        inputs: LinearInputs,
        models: LinearModels,
        shares: Sequence[float],
        groups: Sequence[Sequence[int]],
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.inputs = inputs
        owners = np.array(models.tasks)
        for g, tasks in enumerate(groups):
            own = [owners == t for t in tasks]
            share = torch.tensor([shares[t] for t in tasks]).view(-1, 1, 1)
            coef = torch.from_numpy(np.stack([models.coef[rows] for rows in own]))
            bias = torch.from_numpy(np.stack([models.intercept[rows] for rows in own]))
            self.register_buffer(f"coef{g}", (share * coef).to(dtype))
            self.register_buffer(f"bias{g}", (share * bias.unsqueeze(-2)).to(dtype))
            self.register_buffer(f"rest{g}", (1 - share).to(dtype))

    def forward(self, x: Tensor, raw: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return raw outputs ``(task, batch, n_outputs)`` of both."""
        features = self.inputs(x)
        return tuple(self._mixed(g, features, each) for g, each in enumerate(raw))

    def absorb(self, network: nn.Module) -> None:
        """Let the network's own output layers take over its share, so that it learns as before."""
        for g, head in enumerate(network.heads):  # type: ignore[arg-type]
            rest = getattr(self, f"rest{g}")
            head.output.weight.data.mul_(rest)
            head.output.bias.data.mul_(rest.squeeze(-1))
            rest.fill_(1.0)

    def _mixed(self, g: int, features: Tensor, raw: Tensor) -> Tensor:
        coef, bias, rest = (getattr(self, f"{name}{g}") for name in ("coef", "bias", "rest"))
        mixed: Tensor = rest * raw + features @ coef.mT + bias
        return mixed


class Features:
    """What linear models read of a set of rows, made as it is asked for.

    Parameters
    ----------
    inputs : LinearInputs
        What they read.
    data : TaskData
        The rows.
    """

    def __init__(self, inputs: LinearInputs, data: TaskData) -> None:
        self.inputs, self.data = inputs, data
        self.shape: tuple[int, ...] = (len(data), self[np.zeros(0, dtype=np.intp)].shape[1])

    def __getitem__(self, rows: Any) -> NDArray[np.float64]:
        """Return the features of the rows at some positions, in double precision."""
        index = rows
        if not isinstance(rows, slice):
            index = torch.from_numpy(rows).to(self.data.device)
        with torch.inference_mode():
            found: NDArray[np.float64] = self.inputs(self.data.features(index).cpu()).numpy()
        return found.astype(np.float64)
