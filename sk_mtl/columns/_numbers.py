"""Numbers on one scale, their gaps filled and flagged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from sk_mtl.columns._statistics import Floats, Summary, summarise, summarise_sparse

SCALINGS = ("robust", "standard", None)
CHUNK = 2**16  # numbers encoded at a time, which the processor's cache holds
BOUND = 3.0  # of smooth clipping
LIMIT = 1e9  # scaled numbers are cut here, so that none overflows; smooth clipping is flat before


@dataclass(frozen=True, eq=False)
class Numbers:
    """What is learned of columns of numbers: ``(x - shift) / scale``, and then clipped.

    Attributes
    ----------
    fill : ndarray of shape (n_numbers,)
        What a missing cell is filled with, in the user's units; 0 where none was observed.
    shift : ndarray of shape (n_numbers,)
        What is subtracted.
    scale : ndarray of shape (n_numbers,)
        What is divided by; infinite for a constant column, which becomes zeros.
    flagged : ndarray of int of shape (n_flags,)
        Columns whose missing cells are flagged: with gaps in training, and not nothing else.
    scaling : {"robust", "standard", None}
        How the numbers are scaled; "robust" clips them.
    """

    fill: Floats
    shift: Floats
    scale: Floats
    flagged: NDArray[np.intp]
    scaling: str | None

    def __len__(self) -> int:
        return len(self.fill)

    def __repr__(self) -> str:
        constant = int(np.isinf(self.scale).sum())
        return (
            f"Numbers({len(self)} columns, scaling={self.scaling!r}: {constant} constant, "
            f"{len(self.flagged)} with gaps)"
        )

    @classmethod
    def of(
        cls, X: Any, weight: NDArray[Any] | None, scaling: str | None, *, centred: bool
    ) -> Numbers:
        """Learn from the numbers of a training table, an array or CSR."""
        found = (summarise_sparse if sparse.issparse(X) else summarise)(X, weight)
        fill = found.mean if scaling == "standard" else found.quartiles[1].copy()
        scale = np.ones(len(fill)) if scaling is None else _spreads(found, scaling, centred)
        moved = centred and scaling is not None
        shift = fill.copy() if moved else np.zeros(len(fill))
        flagged = np.flatnonzero(found.has_gaps & ~found.is_empty)
        return cls(fill, shift, scale, flagged, scaling)

    def encode(self, X: Any, out: NDArray[Any]) -> None:
        """Write scaled numbers and then flags into the first columns of an array."""
        n_numbers = len(self)
        last = n_numbers + len(self.flagged)
        constant = np.isinf(self.scale)
        filled = self.fill[None].copy()
        self._scale(filled, self.shift, self.scale)
        step = max(1, CHUNK // max(n_numbers, 1))
        for start in range(0, len(out), step):
            rows = slice(start, start + step)
            z = X[rows].toarray() if sparse.issparse(X) else X[rows]
            z = np.array(z, dtype=np.float64)
            self._refuse_huge(z, out.dtype)
            gaps = np.isnan(z)
            out[rows, n_numbers:last] = gaps[:, self.flagged]
            self._scale(z, self.shift, self.scale)
            np.copyto(z, filled, where=gaps | constant)
            out[rows, :n_numbers] = z

    def encode_sparse(self, X: Any, dtype: Any) -> Any:
        """Return a CSR matrix of scaled numbers; those that are not stored remain 0."""
        if not X.has_canonical_format:  # a cell in two parts can only be clipped as a whole
            X = X.copy()
            X.sum_duplicates()
        data = X.data.astype(np.float64)
        self._refuse_huge(data, dtype)
        self._scale(data, 0.0, self.scale[X.indices])
        encoded = sparse.csr_array((data.astype(dtype), X.indices, X.indptr), shape=X.shape)
        encoded.has_canonical_format = True
        return encoded

    def passes(self, X: Any) -> bool:
        """Whether these numbers are encoded as they are."""
        if self.scaling is not None or len(self.flagged) or sparse.issparse(X):
            return False
        self._refuse_huge(X, X.dtype)
        return not np.isnan(X).any()

    def _refuse_huge(self, z: Any, dtype: Any) -> None:
        """Raise where numbers that nobody scales are too large to be computed with."""
        if self.scaling is not None or not z.size:
            return
        most = float(np.finfo(dtype).max / 4)  # so that differences are finite, too
        found = float(np.fmax(np.fmax.reduce(z, axis=None), -np.fmin.reduce(z, axis=None)))
        if found > most:
            raise ValueError(
                f"Got numbers as large as {found:.3g} in X with scaling=None, expected at most "
                f"{most:.2g} in {np.dtype(dtype)}. Set scaling='robust', or scale X."
            )

    def _scale(self, z: Floats, shift: Floats | float, scale: Floats) -> None:
        """Scale numbers in place."""
        if self.scaling is None:
            return
        with np.errstate(over="ignore", invalid="ignore"):
            z -= shift
            z /= scale
        np.clip(z, -LIMIT, LIMIT, out=z)
        if self.scaling == "robust":
            slope = z / BOUND
            slope *= slope
            slope += 1
            np.sqrt(slope, out=slope)
            z /= slope


def _spreads(found: Summary, scaling: str, centred: bool) -> Floats:
    """Return what columns are divided by."""
    if scaling == "standard":
        spread = found.deviation if centred else np.hypot(found.mean, found.deviation)
    else:
        lower, median, upper = found.quartiles
        with np.errstate(over="ignore"):
            spread = upper - lower
        spread = np.where(spread == 0, 0.5 * found.high - 0.5 * found.low, spread)
        if not centred:
            spread = np.where(median == 0, spread, np.maximum(-found.low, found.high))
    spread = np.minimum(spread, np.finfo(np.float64).max)
    return np.where(found.low == found.high, np.inf, spread)
