"""Arrays as tensors, and the types of their numbers."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from sk_mtl.columns._sparse_rows import SparseRows

DTYPES: dict[str, Any] = {"float32": np.float32, "float64": np.float64}


def admissible_dtypes(dtype: str) -> Any:
    """Return the ``dtype`` argument of scikit-learn's validation.

    Parameters
    ----------
    dtype : {"auto", "float32", "float64"}
        Type to compute in.

    Returns
    -------
    dtypes : dtype or list of dtypes
        Types that are kept; others become the first.
    """
    return [np.float64, np.float32] if dtype == "auto" else DTYPES[dtype]


def to_tensor(X: Any) -> Tensor:
    """Return an array as a tensor, sharing its memory wherever torch can.

    A sparse matrix becomes rows that are made dense as they are read.

    Read-only memory (every pandas 3 frame, every memory map) is copied: torch has no read-only
    tensors. Nothing in the network writes to its input, so the user's X is never changed.

    Parameters
    ----------
    X : ndarray or sparse matrix of shape (n_rows, n_columns)
        An encoded table.

    Returns
    -------
    X : Tensor or SparseRows
        The same numbers.
    """
    if sparse.issparse(X):
        return cast("Tensor", SparseRows(X))  # stands where a tensor may stand
    if not X.flags.writeable or any(step < 0 for step in X.strides):
        X = X.copy()
    return torch.from_numpy(X)


def torch_dtype(dtype: Any) -> torch.dtype:
    """Return torch's type of the same numbers as numpy's.

    Parameters
    ----------
    dtype : numpy dtype
        Type of numbers.

    Returns
    -------
    dtype : torch.dtype
    """
    return torch.from_numpy(np.zeros(0, dtype)).dtype
