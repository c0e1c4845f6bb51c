"""Periodic embedding of numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sk_mtl._support import Interval
from sk_mtl.embeddings._base import Embedding, Prepared, check_forms, initial
from sk_mtl.layers import Draws, affine

if TYPE_CHECKING:
    from sk_mtl.columns import Layout


class Periodic(Embedding):
    """Every number as waves of learned frequencies, mixed by a layer of its own column.

    For targets that change quickly along a column. It learns more than
    :class:`PiecewiseLinear`, and asks for more rows and time.

    Parameters
    ----------
    n_frequencies : int, default=16
        Waves a column; each gives a sine and a cosine.
    sigma : float, default=0.1
        Standard deviation of the initial frequencies, in periods a unit of the scaled number.
        What matters most: try 0.01 to 10.
    n_outputs : int, default=8
        Features that a column becomes.
    lite : bool, default=False
        Mix the waves of all columns by one layer.

    References
    ----------
    Gorishniy et al. 2022, "On Embeddings for Numerical Features in Tabular Deep Learning",
    equation 2 and section 3.4 (there PLR); Gorishniy et al. 2024, "TabR: Tabular Deep Learning
    Meets Nearest Neighbors in 2023" for the lite one.

    Examples
    --------
    >>> from sk_mtl.embeddings import Periodic
    >>> Periodic(sigma=0.5)
    Periodic(sigma=0.5)
    """

    _parameter_constraints = {
        "n_frequencies": [Interval(Integral, 1, None, closed="left")],
        "sigma": [Interval(Real, 0, None, closed="neither")],
        "n_outputs": [Interval(Integral, 1, None, closed="left")],
        "lite": ["boolean"],
    }

    def __init__(
        self,
        n_frequencies: int = 16,
        sigma: float = 0.1,
        n_outputs: int = 8,
        lite: bool = False,
    ) -> None:
        self.n_frequencies = n_frequencies
        self.sigma = sigma
        self.n_outputs = n_outputs
        self.lite = lite

    def build(
        self, prepared: Sequence[Prepared], layout: Layout, draws: Draws, parallel: int | None
    ) -> nn.Module:
        """Return the module; see :class:`Embedding`."""
        check_forms(prepared, draws)
        n, k, d = layout.n_numbers, self.n_frequencies, self.n_outputs
        frequency = draws.normal((n, k), self.sigma)
        n_layers = 1 if self.lite else n
        bound = math.sqrt(6.0 / (2 * k + d))  # Glorot and Bengio 2010, eq. 16, a layer
        weight = draws.uniform((n_layers * d, 2 * k), bound)
        return _Periodic(initial(frequency, parallel), initial(weight, parallel), d, lite=self.lite)


class _Periodic(nn.Module):
    """Shape: ``(*stack, batch, width)`` -> ``(*stack[, task], batch, n_outputs)``.

    Parameters of the columns' layers are held as one matrix, as other layers' are.
    """

    def __init__(
        self, frequency: nn.Parameter, weight: nn.Parameter, n_outputs: int, *, lite: bool
    ) -> None:
        super().__init__()
        self.frequency = frequency  # (*stack[, task], n, k)
        self.weight = weight  # (*stack[, task], n * d, 2 k), or (..., d, 2 k)
        self.bias = nn.Parameter(torch.zeros_like(weight[..., 0]))
        self.n_numbers, self.width, self.lite = frequency.shape[-2], n_outputs, lite
        self.n_outputs = self.n_numbers * n_outputs

    def forward(self, x: Tensor) -> Tensor:
        numbers = x[..., : self.n_numbers]
        if 2 < x.dim() < self.weight.dim():  # every task reads the same numbers
            numbers = numbers.unsqueeze(-3)
        angle = 2 * math.pi * self.frequency.unsqueeze(-2)  # (*side, n, 1, k)
        angle = angle * numbers.mT.unsqueeze(-1)  # (*side, n, batch, k)
        waves = torch.cat([angle.sin(), angle.cos()], -1)  # eq. 2
        if self.lite:
            out = affine(waves.flatten(-3, -2), self.weight, self.bias)
            out = out.unflatten(-2, waves.shape[-3:-1])
        else:
            per_column = (self.n_numbers, self.width)
            out = affine(
                waves, self.weight.unflatten(-2, per_column), self.bias.unflatten(-1, per_column)
            )
        return out.relu().transpose(-3, -2).flatten(-2)  # (*side, batch, n * d)
