"""X as a tensor."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

DTYPES: dict[str, Any] = {"float32": np.float32, "float64": np.float64}


def admissible_dtypes(dtype: str) -> Any:
    """Return the ``dtype`` argument of scikit-learn's validation: the first is the fallback."""
    return [np.float64, np.float32] if dtype == "auto" else DTYPES[dtype]


def to_tensor(X: NDArray[Any]) -> Tensor:
    """Return an array as a tensor, sharing its memory wherever torch can.

    Read-only memory (every pandas 3 frame, every memory map) is copied: torch has no read-only
    tensors. Nothing in the network writes to its input, so the user's X is never changed.
    """
    if not X.flags.writeable or any(step < 0 for step in X.strides):
        X = X.copy()
    return torch.from_numpy(X)


def torch_dtype(dtype: Any) -> torch.dtype:
    """Return torch's type of the same numbers as numpy's."""
    return torch.from_numpy(np.zeros(0, dtype)).dtype
