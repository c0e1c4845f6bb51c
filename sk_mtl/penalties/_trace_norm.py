"""The trace norm of the heads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sk_mtl.penalties._base import STRENGTH, Penalty, Relation, rebuilt, root_of_products

SMOOTH = 1e-4  # of the largest singular value: below it the norm turns into a square


class TraceNorm(Penalty):
    """Heads that lie in a space of few dimensions: strength / n times the sum of singular values.

    A is (W W')^(-1/2), renewed after every epoch; there is none in the first one.

    Parameters
    ----------
    strength : float, default=0.03
        What the trace norm of W over the number of tasks is multiplied by.

    References
    ----------
    Argyriou et al. 2008, "Convex Multi-Task Feature Learning", equations 6 and 11 (alternating
    minimisation); Pong et al. 2010, "Trace Norm Regularization: Reformulations, Algorithms, and
    Multi-task Learning", equation 1.

    Examples
    --------
    >>> import torch
    >>> from sk_mtl.penalties import TraceNorm
    >>> relation = TraceNorm(strength=1.0).build(torch.zeros(2, 2), [0, 1])
    >>> heads = torch.tensor([[3.0, 0.0], [0.0, 2.0]])
    >>> relation.renew(heads)
    >>> relation.slope(heads).round(decimals=4)  # the norm's slope: one in each direction
    tensor([[1., 0.],
            [0., 1.]])
    """

    _parameter_constraints = STRENGTH

    def __init__(self, strength: float = 0.03) -> None:
        self.strength = strength

    def build(self, like: Tensor, tasks: Sequence[int]) -> nn.Module:
        """Return the module; see :class:`Penalty`."""
        return _TraceNorm(self.strength, torch.zeros_like(like))


class _TraceNorm(Relation):
    def renew(self, heads: Tensor) -> None:
        values, vectors = root_of_products(heads)
        largest = values.amax(-1, keepdim=True)
        inverse = 1.0 / values.clamp(min=SMOOTH * largest)
        self.form.copy_(rebuilt(torch.where(largest > 0, inverse, 0.0), vectors))
