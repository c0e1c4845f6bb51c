"""Conflict-free inverse gradients."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from sk_mtl.weighting._gramian import Array, GramianBalance, GramianWeighting


class ConFIG(GramianWeighting):
    """Along what every task's unit gradient has the same positive part in, as far as they allow.

    As long as the gradients' parts in it are together. The user's ``task_weights`` are the parts
    that the unit gradients are to have.

    References
    ----------
    Liu et al. 2025, "ConFIG: Towards Conflict-free Training of Physics Informed Neural Networks",
    equations 2 to 4 (whose length is that of the sum; ours that of the mean).

    Examples
    --------
    >>> import torch
    >>> from sk_mtl.weighting import ConFIG
    >>> gradients = torch.tensor([[4.0, 0.0], [0.0, 1.0]])
    >>> ConFIG().build(torch.ones(2))(torch.ones(2), gradients @ gradients.T)
    tensor([0.3125, 1.2500])
    """

    uses_task_weights = True

    def build(self, task_weights: Tensor) -> nn.Module:
        """Return the module; see :class:`Weighting`."""
        return _ConFIG(task_weights)


class _ConFIG(GramianBalance):
    def weights(self, gramian: Array, preference: Array, tasks: NDArray[np.intp]) -> Array:
        lengths = np.sqrt(np.diag(gramian))
        inverse = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0)
        # The pseudo-inverse of the unit gradients is their transpose times that of their cosines.
        cosines = inverse[:, None] * gramian * inverse
        inverted = np.linalg.pinv(cosines, rcond=self.resolution, hermitian=True)
        mix = inverse * (inverted @ preference)
        products = gramian @ mix
        square = mix @ products
        if not square > 0:
            return np.zeros(len(tasks))
        weights: Array = products.sum() / len(tasks) / square * mix
        return weights
