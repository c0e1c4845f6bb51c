"""Clusters of tasks that are learned."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

import torch
from torch import Tensor, nn

from sk_mtl._support import Interval
from sk_mtl.penalties._base import STRENGTH, Penalty, Relation, root_of_products


class Cluster(Penalty):
    """Heads are drawn to the centres of a few clusters, found with them.

    Strength / 2 times their squared distances from the centres, the clusters relaxed: A is what
    is left of the identity without the ``n_clusters`` leading eigenvectors of W W', renewed after
    every epoch; there is none in the first one.

    Parameters
    ----------
    n_clusters : int, default=2
        Number of clusters; fewer than tasks.
    strength : float, default=0.1
        What the penalty, a mean over the tasks, is multiplied by.

    References
    ----------
    Zhou et al. 2011, "Clustered Multi-Task Learning Via Alternating Structure Optimization",
    equations 4 and 5 (spectral relaxation of k-means).

    Examples
    --------
    >>> import torch
    >>> from sk_mtl.penalties import Cluster
    >>> relation = Cluster(n_clusters=1, strength=1.0).build(torch.zeros(2, 2), [0, 1])
    >>> heads = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    >>> relation.renew(heads)
    >>> relation.slope(heads)  # the first task is a cluster of its own
    tensor([[0., 0.],
            [0., 1.]])
    """

    _parameter_constraints = {
        "n_clusters": [Interval(Integral, 1, None, closed="left")],
        **STRENGTH,
    }

    def __init__(self, n_clusters: int = 2, strength: float = 0.1) -> None:
        self.n_clusters = n_clusters
        self.strength = strength

    def build(self, like: Tensor, tasks: Sequence[int]) -> nn.Module:
        """Return the module; see :class:`Penalty`."""
        if self.n_clusters >= len(tasks):
            raise ValueError(
                f"Got n_clusters={self.n_clusters} for {len(tasks)} tasks, expected fewer clusters "
                "than tasks. With one for each nothing is shared."
            )
        return _Cluster(self.strength, torch.zeros_like(like), self.n_clusters)


class _Cluster(Relation):
    def __init__(self, strength: float | Tensor, form: Tensor, n_clusters: int) -> None:
        super().__init__(strength, form)
        self.n_clusters = n_clusters

    def renew(self, heads: Tensor) -> None:
        vectors = root_of_products(heads)[1][..., : -self.n_clusters]  # all but the leading ones
        self.form.copy_(vectors @ vectors.mT)
