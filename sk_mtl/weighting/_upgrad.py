"""Unconflicting projection of gradients."""

from __future__ import annotations

from torch import Tensor, nn

from sk_mtl.weighting._gramian import GramianWeighting
from sk_mtl.weighting._torchjd import ByPreference


class UPGrad(GramianWeighting):
    """Every gradient projected onto what no task's gradient points against, then their mean.

    So no task gets worse, and a task with a larger gradient keeps more of a say than by
    :class:`MGDA`. Computed by torchjd; needs ``pip install 'sk-mtl[surgery]'``. The user's
    ``task_weights`` are those of the mean.

    References
    ----------
    Quinton and Rey 2024, "Jacobian Descent For Multi-Objective Optimization", section 3.1.

    Examples
    --------
    >>> import torch
    >>> from sk_mtl.weighting import UPGrad
    >>> gradients = torch.tensor([[1.0, 0.0], [-1.0, 1.0]])
    >>> UPGrad().build(torch.ones(2))(torch.ones(2), gradients @ gradients.T).round(decimals=2)
    tensor([1.0000, 0.7500])
    """

    uses_task_weights = True

    def build(self, task_weights: Tensor) -> nn.Module:
        """Return the module; see :class:`Weighting`."""
        return ByPreference("UPGradWeighting", task_weights)
