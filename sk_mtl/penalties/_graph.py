"""A given similarity of the tasks."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sk_mtl.penalties._base import STRENGTH, Penalty, Relation


class Graph(Penalty):
    """Heads of similar tasks are drawn together: strength / (2 n) * sum of s_ij |w_i - w_j|^2.

    The sum is over pairs of tasks; A is the Laplacian of the similarities.

    Parameters
    ----------
    similarity : array-like or frame of shape (n_tasks, n_tasks) or None, default=None
        How similar tasks are, numbers >= 0, symmetric; the diagonal does not matter. A pandas frame
        is read by the tasks' names, an array in their order. None takes 1 / n for all pairs: heads
        are drawn to their mean.
    strength : float, default=0.1
        What the penalty, a mean over the tasks, is multiplied by.

    References
    ----------
    Evgeniou et al. 2005, "Learning Multiple Tasks with Kernel Methods", equation 19; with None
    Evgeniou and Pontil 2004, "Regularized Multi-Task Learning".

    Examples
    --------
    >>> import torch
    >>> from sk_mtl.penalties import Graph
    >>> relation = Graph([[0, 2], [2, 0]], strength=1.0).build(torch.zeros(2, 2), [0, 1])
    >>> relation.slope(torch.tensor([[3.0], [1.0]]))
    tensor([[ 4.],
            [-4.]])
    """

    _parameter_constraints = {"similarity": ["array-like", None], **STRENGTH}

    def __init__(self, similarity: Any = None, strength: float = 0.1) -> None:
        self.similarity = similarity
        self.strength = strength

    def aligned(self, names: Sequence[str]) -> Penalty:
        """Return the same, checked, its rows and columns in the order of the tasks."""
        if self.similarity is None:
            return self
        given = self.similarity
        if hasattr(given, "loc") and {*given.columns} == {*names} == {*given.index}:
            given = given.loc[list(names), list(names)]  # a frame by the tasks' names
        aligned = copy.copy(self)
        aligned.similarity = _checked(given, len(names))
        return aligned

    def build(self, like: Tensor, tasks: Sequence[int]) -> nn.Module:
        """Return the module; see :class:`Penalty`."""
        n = like.shape[-1]
        similarity = np.full((n, n), 1.0 / n)
        if self.similarity is not None:
            similarity = np.array(self.similarity, dtype=np.float64)[np.ix_(tasks, tasks)]
        np.fill_diagonal(similarity, 0.0)
        laplacian = np.diag(similarity.sum(axis=1)) - similarity
        form = torch.from_numpy(laplacian).to(like).expand_as(like)
        return Relation(self.strength, form, learned=False)


def _checked(similarity: Any, n_tasks: int) -> Any:
    """Return similarities as an array; raise where they are none."""
    found = np.array(similarity, dtype=np.float64)
    if found.shape != (n_tasks, n_tasks):
        raise ValueError(
            f"Got a similarity of shape {found.shape}, expected {(n_tasks, n_tasks)}: a row and a "
            "column a task, in their order, or a frame with their names."
        )
    if not np.isfinite(found).all() or (found < 0).any() or not np.allclose(found, found.T):
        raise ValueError(
            "Got a similarity that is not symmetric, or has numbers below 0 or not finite, "
            "expected finite numbers >= 0. Use (S + S.T) / 2, clipped at 0."
        )
    return found
