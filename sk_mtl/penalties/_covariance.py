"""Task covariance that is learned."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sk_mtl.penalties._base import STRENGTH, Penalty, Relation, rebuilt, root_of_products

RIDGE = 1e-3  # of the mean eigenvalue: directions in which no task has anything stay open


class Covariance(Penalty):
    """Heads are drawn towards each other as far as they covary, or away where they oppose.

    A is the inverse of n times the tasks' covariance, which begins as that of unrelated tasks and
    is renewed after every epoch as (W W')^(1/2) / tr((W W')^(1/2)). For given heads that is the
    best one of trace 1; tr(W' A W) then is the squared trace norm of W over n. The fitted estimator
    has ``task_covariance_`` and ``task_correlation_``, of its final heads. The root makes
    correlations smaller than those of the heads: a cosine of 0.8 gives 0.5. Small steps (a low
    learning rate) are needed where W has few dimensions: A is large in the others.

    Parameters
    ----------
    strength : float, default=0.1
        What the penalty, a mean over the tasks, is multiplied by.

    References
    ----------
    Zhang and Yeung 2010, "A Convex Formulation for Learning Task Relationships in Multi-Task
    Learning", equations 8 and 11.

    Examples
    --------
    >>> import torch
    >>> from sk_mtl.penalties import Covariance
    >>> relation = Covariance().build(torch.zeros(2, 2), [0, 1])
    >>> heads = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    >>> relation.covariance(heads).round(decimals=4)
    tensor([[0.7500, 0.0000],
            [0.0000, 0.2500]])
    """

    _parameter_constraints = STRENGTH

    def __init__(self, strength: float = 0.1) -> None:
        self.strength = strength

    def build(self, like: Tensor, tasks: Sequence[int]) -> nn.Module:
        """Return the module; see :class:`Penalty`."""
        unrelated = torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)
        return _Covariance(self.strength, unrelated.expand_as(like))


class _Covariance(Relation):
    def renew(self, heads: Tensor) -> None:
        values, vectors = _of_trace_one(heads)
        self.form.copy_(rebuilt(1.0 / (values.shape[-1] * values + RIDGE), vectors))

    def covariance(self, heads: Tensor) -> Tensor:
        """Return the tasks' covariance, by their heads."""
        return rebuilt(*_of_trace_one(heads))


def _of_trace_one(heads: Tensor) -> tuple[Tensor, Tensor]:
    values, vectors = root_of_products(heads)
    trace = values.sum(-1, keepdim=True)
    even = torch.full_like(values, 1.0 / values.shape[-1])
    return torch.where(trace > 0, values / torch.where(trace > 0, trace, 1.0), even), vectors
