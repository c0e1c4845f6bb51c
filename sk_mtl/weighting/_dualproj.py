"""Dual projection of the mean gradient."""

from __future__ import annotations

from torch import Tensor, nn

from sk_mtl.weighting._gramian import GramianWeighting
from sk_mtl.weighting._torchjd import ByPreference


class DualProj(GramianWeighting):
    """The mean gradient projected onto what no task's gradient points against.

    Computed by torchjd; needs ``pip install 'sk-mtl[surgery]'``. The user's ``task_weights`` are
    those of the mean.

    References
    ----------
    Lopez-Paz and Ranzato 2017, "Gradient Episodic Memory for Continual Learning", equation 11.

    Examples
    --------
    >>> import torch
    >>> from sk_mtl.weighting import DualProj
    >>> gradients = torch.tensor([[1.0, 0.0], [-3.0, 1.0]])
    >>> DualProj().build(torch.ones(2))(torch.ones(2), gradients @ gradients.T).round(decimals=2)
    tensor([1.5000, 0.5000])
    """

    uses_task_weights = True

    def build(self, task_weights: Tensor) -> nn.Module:
        """Return the module; see :class:`Weighting`."""
        return ByPreference("DualProjWeighting", task_weights)
