"""Conflict-averse gradient descent."""

from __future__ import annotations

from numbers import Real

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from sk_mtl._support import Interval
from sk_mtl.weighting._gramian import Array, GramianBalance, GramianWeighting
from sk_mtl.weighting._solvers import conflict_averse, length

SMALLEST = 1e-8  # of the shortest mixture's length over the gradients': there is no conflict left


class CAGrad(GramianWeighting):
    """Near the mean gradient, along what improves the worst task most.

    Parameters
    ----------
    c : float, default=0.4
        How far it may go from the mean gradient, in lengths of it. 0 is the mean gradient; below 1
        it converges to a minimum of the mean loss.

    References
    ----------
    Liu et al. 2021, "Conflict-Averse Gradient Descent for Multi-task Learning", algorithm 1 and
    equation 4. The user's ``task_weights`` are those of the mean gradient.

    Examples
    --------
    >>> import torch
    >>> from sk_mtl.weighting import CAGrad
    >>> gradients = torch.tensor([[2.0, 0.0], [-1.0, 1.0]])
    >>> CAGrad(c=0.5).build(torch.ones(2))(torch.ones(2), gradients @ gradients.T)
    tensor([0.5000, 0.7500])
    """

    uses_task_weights = True
    _parameter_constraints = {"c": [Interval(Real, 0, None, closed="left")]}

    def __init__(self, c: float = 0.4) -> None:
        self.c = c

    def build(self, task_weights: Tensor) -> nn.Module:
        """Return the module; see :class:`Weighting`."""
        return _CAGrad(self.c, task_weights)


class _CAGrad(GramianBalance):
    def __init__(self, c: float, task_weights: Tensor) -> None:
        super().__init__(task_weights)
        self.c = c

    def weights(self, gramian: Array, preference: Array, tasks: NDArray[np.intp]) -> Array:
        radius = self.c * length(preference, gramian)
        if radius == 0.0:
            return preference
        # A task without a gradient cannot be helped: the worst is sought among the others.
        worst, some = np.zeros(len(tasks)), np.diag(gramian) > 0
        worst[some] = conflict_averse(gramian[np.ix_(some, some)], preference[some], self.c)
        norm = length(worst, gramian)
        if norm <= SMALLEST * np.trace(gramian) ** 0.5:  # no direction helps all: on the front,
            return preference if self.c < 1 else np.zeros(len(tasks))  # along which c < 1 goes on
        mixed: Array = preference + radius / norm * worst
        return mixed
