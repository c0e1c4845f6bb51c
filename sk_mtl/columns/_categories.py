"""Categories as codes: missing, infrequent, and one for each that is met often enough."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sk_mtl.columns._raw import Coded

MISSING, INFREQUENT = "(missing)", "(infrequent)"


@dataclass(frozen=True, eq=False)
class Categories:
    """The codes of one column: 0 missing, then infrequent if any was, then the kept ones.

    A value never seen in training is infrequent where there is such a code, missing otherwise.

    Attributes
    ----------
    kept : list
        Values with a code of their own, sorted, so that codes do not depend on the rows' order.
    n_infrequent : int
        Values joined in the code "infrequent", which is there if they are not none.
    """

    kept: list[Any]
    n_infrequent: int = 0

    def __repr__(self) -> str:
        more = ", ..." if len(self.kept) > 5 else ""
        shown = ", ".join(map(repr, self.kept[:5])) + more
        return f"Categories([{shown}], n_infrequent={self.n_infrequent})"

    @property
    def has_infrequent(self) -> bool:
        """Whether there is a code for infrequent values."""
        return self.n_infrequent > 0

    @property
    def cardinality(self) -> int:
        """How many codes there are."""
        return len(self.code_names)

    @property
    def code_names(self) -> list[str]:
        """What each code stands for."""
        pooled = [INFREQUENT] if self.has_infrequent else []
        return [MISSING, *pooled, *map(str, self.kept)]

    @classmethod
    def of(
        cls,
        column: Coded,
        weight: NDArray[Any] | None,
        min_frequency: float,
        max_categories: int,
    ) -> Categories:
        """Learn from a column of the training table; weights count as repetitions."""
        here = column.codes >= 0
        counts = np.bincount(
            column.codes[here],
            None if weight is None else weight[here],
            minlength=len(column.values),
        )
        present = np.flatnonzero(counts > 0)
        values = sorted((column.values[i] for i in present), key=_order)
        frequency = dict(zip(column.values, counts.tolist(), strict=True))
        enough = min_frequency * (1 - 1e-9)  # sums of weights are rounded
        kept = [value for value in values if frequency[value] >= enough]
        if len(kept) > max_categories:  # sorting is stable: of equally frequent ones, the first
            kept = sorted(kept, key=lambda value: -frequency[value])[:max_categories]
            kept = sorted(kept, key=_order)
        return cls(kept, len(values) - len(kept))

    def encode(self, column: Coded) -> NDArray[np.intp]:
        """Return the codes of a column, of shape (n_samples,)."""
        first = 1 + self.has_infrequent
        known = {value: code for code, value in enumerate(self.kept, first)}
        table = [known.get(value, first - 1) for value in column.values]
        return np.array([*table, 0], dtype=np.intp)[column.codes]  # position -1 is the last


def _order(value: Any) -> tuple[str, Any]:
    """Return a key that sorts numbers and strings as such, and anything else by how it reads."""
    if isinstance(value, (bool, int, float)):
        return "", value
    return type(value).__name__, value if isinstance(value, str) else repr(value)
