"""A sparse table whose rows become dense when they are read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

CHUNK_BYTES = 2**26  # what is made dense at once where rows are read in order


class SparseRows:
    """A CSR matrix that stands where a tensor of shape (n_rows, n_columns) may stand.

    It stays on the CPU, and rows that are asked for go to its device: the table is never dense as
    a whole.

    Parameters
    ----------
    matrix : csr_array of shape (n_rows, n_columns)
        The table.
    device : str or torch.device, default="cpu"
        Where rows go.
    """

    def __init__(self, matrix: Any, device: torch.device | str = "cpu") -> None:
        self.matrix = matrix
        self.device = torch.device(device)
        self.shape = tuple(matrix.shape)

    def __len__(self) -> int:
        return int(self.shape[0])

    @property
    def dtype(self) -> torch.dtype:
        """Type of the numbers."""
        return torch.from_numpy(np.zeros(0, self.matrix.dtype)).dtype

    def to(self, device: torch.device | str) -> SparseRows:
        """Return the same table, whose rows go to another device."""
        return SparseRows(self.matrix, device)

    def __getitem__(self, rows: Any) -> Tensor:
        """Return rows, dense: a slice, or a tensor of indices."""
        if isinstance(rows, Tensor):
            rows = rows.cpu().numpy()
        return torch.from_numpy(self.matrix[rows].toarray()).to(self.device)

    def index_select(self, dim: int, rows: Tensor) -> Tensor:
        """Return the rows of these indices, dense, as torch's ``index_select``."""
        if dim != 0:
            raise ValueError(f"Got dim={dim}, expected 0: rows are looked up. Pass 0.")
        return self[rows]

    def split(self, n_rows: int) -> Iterator[Tensor]:
        """Yield all rows in order, dense, so many at a time or fewer where they are wide."""
        n_bytes = self.shape[1] * self.matrix.dtype.itemsize
        n_rows = min(n_rows, max(CHUNK_BYTES // max(n_bytes, 1), 1))
        for start in range(0, len(self), n_rows):
            yield self[start : start + n_rows]
