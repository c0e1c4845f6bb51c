"""Piecewise-linear encoding of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor, nn

from sk_mtl._support import Interval, StrOptions, as_counts
from sk_mtl.embeddings._base import Embedding, Prepared, check_forms, stacked_array
from sk_mtl.embeddings._bins import (
    comparable_targets,
    dense,
    distinct_values,
    quantile_edges,
    stored,
    target_edges,
)
from sk_mtl.layers import Draws

if TYPE_CHECKING:
    from sk_mtl.columns import Layout


# On few rows every bend is one more thing to overfit.
FEWEST_BINS, ROWS_A_BIN = 3, 25
REACH = 1.0  # widths that the outer bins go on


class PiecewiseLinear(Embedding):
    r"""Every number as how far it has come through each bin of its column.

    A bin :math:`[b_{t-1}, b_t)` gives 0 below it, 1 above it, and
    :math:`(x - b_{t-1}) / (b_t - b_{t-1})` inside; the first and the last go on beyond the edges,
    as far again as they are wide (the only bin of a column without end). The first layer then sees
    a column as a function with a bend at every edge, where the plain number gives it a straight
    line. The plain number stays beside the bins, for what is straight, and for rows beyond them.
    Nothing is learned here, so it costs little.

    Parameters
    ----------
    n_bins : int, default=16
        Bins a column at most, and at most one for 25 rows, or 3; sample weights count as so many
        rows where all are whole numbers. A column of fewer distinct values has one between any two
        neighbours; one of two values stays a single 0/1 column.
    max_features : int, default=1024
        How wide the encoding may become: columns of more than two values get
        ``max_features // n_columns`` bins each where that is less than ``n_bins``, and enter as
        they are, with one feature each, where it is less than 2. Kept numbers are not counted.
    bins : {"quantile", "target"}, default="quantile"
        Whether a column's bins hold equally many training rows, or end where a regression tree of
        that column alone, for all targets, would split it.
    keep_numbers : bool, default=True
        Whether a column of several bins is there as it is, too, after the bins of all columns. Bins
        are free of scale, numbers are not: with ``scaling=None``, scale them or do without.

    Notes
    -----
    NOTE[DIFF]: in the paper the outer bins go on without end. They are narrow where rows are dense,
    and a number beyond all training rows would soon count many times as much as any of these.

    NOTE[DIFF]: where many rows have the same value, equal quantiles fall together, and the paper
    merges them; here the other bins are laid anew over the rest of the column. The paper's trees
    have one target; here one tree has all of them, scaled to equal spread, with the mean in the
    place of missing labels. The paper keeps no numbers.

    References
    ----------
    Gorishniy et al. 2022, "On Embeddings for Numerical Features in Tabular Deep Learning",
    equation 1 and sections 3.2.1 and 3.2.2.

    Examples
    --------
    >>> from sk_mtl.embeddings import PiecewiseLinear
    >>> PiecewiseLinear(n_bins=8)
    PiecewiseLinear(n_bins=8)
    """

    _parameter_constraints = {
        "n_bins": [Interval(Integral, 1, None, closed="left")],
        "max_features": [Interval(Integral, 1, None, closed="left")],
        "bins": [StrOptions({"quantile", "target"})],
        "keep_numbers": ["boolean"],
    }

    def __init__(
        self,
        n_bins: int = 16,
        max_features: int = 1024,
        bins: str = "quantile",
        keep_numbers: bool = True,
    ) -> None:
        self.n_bins = n_bins
        self.max_features = max_features
        self.bins = bins
        self.keep_numbers = keep_numbers

    @property
    def sees_targets(self) -> bool:
        """Whether bins end where targets change."""
        return bool(self.bins == "target")

    def prepare(
        self,
        X: Any,
        layout: Layout,
        weight: NDArray[Any] | None = None,
        y: NDArray[Any] | None = None,
    ) -> Prepared:
        """Find the bins of every column; see :class:`Embedding`."""
        if self.bins == "target" and y is None:
            raise ValueError("Got no targets, expected them for bins='target'. Pass y.")
        w = np.ones(X.shape[0]) if weight is None else np.asarray(weight, np.float64)
        rows, numbers = w > 0, X[:, : layout.n_numbers]
        if not rows.all():
            numbers, w, y = numbers[rows], w[rows], None if y is None else y[rows]
        targets = comparable_targets(y, w) if self.bins == "target" and y is not None else None
        numbers = numbers.tocsc() if sparse.issparse(numbers) else numbers
        columns = [distinct_values(*stored(numbers, j, w)) for j in range(layout.n_numbers)]
        n_wide = sum(len(values) > 2 for values, _ in columns)
        n_bins = min(self.n_bins, max(1, self.max_features // max(n_wide, 1)))
        n_bins = min(n_bins, max(FEWEST_BINS, round(as_counts(w).sum()) // ROWS_A_BIN))
        left, slope = [], []
        for j, (values, mass) in enumerate(columns):
            if len(values) > 2 and n_bins == 1:  # no room for bins: as it is
                edges = np.array([0.0, 1.0])
            elif len(values) > 2 and targets is not None:
                edges = target_edges(dense(numbers, j), values, w, targets, n_bins)
            else:
                edges = quantile_edges(values, mass, n_bins)
            if len(edges) > 1:
                left.append(edges[:-1])
                slope.append(1.0 / np.diff(edges))
            else:  # a constant says nothing, whatever it may be in rows to come
                left.append(edges)
                slope.append(np.zeros(1))
        arrays = {
            "left": np.concatenate([*left, np.zeros(0)]),
            "slope": np.concatenate([*slope, np.zeros(0)]),
        }
        return Prepared(tuple(len(part) for part in left), arrays)

    def build(
        self, prepared: Sequence[Prepared], layout: Layout, draws: Draws, parallel: int | None
    ) -> nn.Module:
        """Return the module; see :class:`Embedding`."""
        check_forms(prepared, draws)
        left, slope = (stacked_array(prepared, name, draws) for name in ("left", "slope"))
        n_bins = prepared[0].form
        assert isinstance(n_bins, tuple)
        kept = [c for c, n in enumerate(n_bins) if n > 1] if self.keep_numbers else []
        return _PiecewiseLinear(n_bins, left, slope, kept)


class _PiecewiseLinear(nn.Module):
    """Shape: ``(*stack, batch, width)`` -> ``(*stack, batch, n_outputs)``."""

    column: Tensor
    left: Tensor
    slope: Tensor
    lowest: Tensor
    highest: Tensor

    def __init__(
        self, n_bins: tuple[int, ...], left: Tensor, slope: Tensor, kept: Sequence[int]
    ) -> None:
        super().__init__()
        counts = torch.tensor(n_bins, dtype=torch.long)
        last = counts.cumsum(0) - 1
        beyond = torch.where(counts > 1, REACH, torch.inf).to(left.dtype)
        lowest = torch.zeros(left.shape[-1], dtype=left.dtype)
        highest = torch.ones_like(lowest)
        lowest[last - counts + 1] = -beyond  # the first bin goes on below,
        highest[last] = 1 + beyond  # the last one above
        column = torch.arange(len(n_bins)).repeat_interleave(counts)
        # a kept number is one more bin, from 0 to 1 and without end
        endless = torch.full((len(kept),), torch.inf, dtype=left.dtype)
        numbers = torch.zeros(*left.shape[:-1], len(kept), dtype=left.dtype)
        left, slope = torch.cat([left, numbers], -1), torch.cat([slope, numbers + 1], -1)
        self.n_outputs = left.shape[-1]
        self.register_buffer("left", left.unsqueeze(-2))  # (*stack, 1, n_outputs)
        self.register_buffer("slope", slope.unsqueeze(-2))
        for name, structure in (
            ("column", torch.cat([column, torch.tensor(kept, dtype=torch.long)])),
            ("lowest", torch.cat([lowest, -endless])),
            ("highest", torch.cat([highest, endless])),
        ):
            self.register_buffer(name, structure, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        # of a matrix, for torch selects columns of more axes one number at a time
        own: Tensor = x.flatten(0, -2).index_select(1, self.column).unflatten(0, x.shape[:-1])
        # first the difference, which is exact nearby: bins may be as narrow as the type allows
        through: Tensor = (own - self.left).mul_(self.slope)
        return through.clamp_(self.lowest, self.highest)  # eq. 1
