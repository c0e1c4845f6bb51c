"""Towers that are held together."""

from __future__ import annotations

from numbers import Real

from torch import Tensor, nn

from sk_mtl._support import Interval
from sk_mtl.layers import StackedMLP
from sk_mtl.trunks._base import Trunk, TrunkSpec


class SoftSharing(Trunk):
    """A tower for every task, drawn to the tasks' mean tower.

    Between a network for every task and one for all: the weights may differ as far as the data ask
    for it. Towers begin alike.

    Parameters
    ----------
    strength : float, default=0.01
        Half of it times the squared distance of all towers from their mean is added to the loss.
        A strong pull slows learning with Adam: give it more epochs.

    References
    ----------
    Duong et al. 2015, "Low Resource Dependency Parsing: Cross-lingual Parameter Sharing in a
    Neural Network Parser", equation 4, between every tower and the mean; Evgeniou and Pontil 2004,
    "Regularized Multi-Task Learning", for linear models.

    Examples
    --------
    >>> from sk_mtl import MultiTaskRegressor
    >>> from sk_mtl.trunks import SoftSharing
    >>> model = MultiTaskRegressor(trunk=SoftSharing(strength=0.1), hidden_layer_sizes=(64, 32))
    """

    _parameter_constraints = {"strength": [Interval(Real, 0, None, closed="left")]}

    def __init__(self, strength: float = 0.01) -> None:
        self.strength = strength

    def build(self, spec: TrunkSpec) -> nn.Module:
        """Return the module; see :class:`Trunk`."""
        spec.require_hidden_layers(self)
        towers = spec.mlp(spec.n_inputs, parallel=spec.n_tasks, tie=True)
        return _SoftSharing(towers, self.strength, len(spec.draws.stack))


class _SoftSharing(nn.Module):
    def __init__(self, towers: StackedMLP, strength: float, n_stack: int) -> None:
        super().__init__()
        self.towers, self.strength, self._n_stack = towers, strength, n_stack
        self.n_outputs = towers.n_outputs

    def forward(self, x: Tensor) -> Tensor:
        towers: Tensor = self.towers(x)
        return towers

    def penalty(self) -> Tensor:
        """Return what is added to the loss, one number a network."""
        total: Tensor | float = 0.0
        for parameter in self.parameters():
            by_task = parameter.flatten(self._n_stack + 1)  # (*stack, task, numbers)
            apart = by_task - by_task.mean(dim=-2, keepdim=True)
            total = total + apart.square().sum(dim=(-2, -1))
        assert isinstance(total, Tensor)
        return 0.5 * self.strength * total
