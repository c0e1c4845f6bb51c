"""Hard parameter sharing."""

from __future__ import annotations

from torch import nn

from sk_mtl.trunks._base import Trunk, TrunkSpec


class SharedBottom(Trunk):
    """One perceptron for all tasks.

    The cheapest trunk, and the best where tasks are related. Without hidden layers the model is
    linear.

    References
    ----------
    Caruana 1997, "Multitask Learning".

    Examples
    --------
    >>> from sk_mtl import MultiTaskRegressor
    >>> from sk_mtl.trunks import SharedBottom
    >>> model = MultiTaskRegressor(trunk=SharedBottom(), hidden_layer_sizes=(64, 32))
    """

    def build(self, spec: TrunkSpec) -> nn.Module:
        """Return the module; see :class:`Trunk`."""
        return spec.mlp(spec.n_inputs)
