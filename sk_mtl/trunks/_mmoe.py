"""Multi-gate mixture of experts."""

from __future__ import annotations

from numbers import Integral

from torch import Tensor, nn

from sk_mtl._support import Interval
from sk_mtl.layers import StackedLinear, StackedMLP, gate_weights, mix
from sk_mtl.trunks._base import Trunk, TrunkSpec


class MMoE(Trunk):
    """Experts that all tasks share, and a gate a task that mixes them.

    For tasks that agree in part: each picks what helps it. Every expert has the estimator's
    ``hidden_layer_sizes``.

    Parameters
    ----------
    n_experts : int, default=8
        Number of experts. 1 is a shared bottom.

    References
    ----------
    Ma et al. 2018, "Modeling Task Relationships in Multi-task Learning with Multi-gate
    Mixture-of-Experts", equations 6 and 7.

    Examples
    --------
    >>> from sk_mtl import MultiTaskRegressor
    >>> from sk_mtl.trunks import MMoE
    >>> model = MultiTaskRegressor(trunk=MMoE(n_experts=4), hidden_layer_sizes=(64, 32))
    >>> model.set_params(trunk__n_experts=6).trunk
    MMoE(n_experts=6)
    """

    _parameter_constraints = {"n_experts": [Interval(Integral, 1, None, closed="left")]}

    def __init__(self, n_experts: int = 8) -> None:
        self.n_experts = n_experts

    def build(self, spec: TrunkSpec) -> nn.Module:
        """Return the module; see :class:`Trunk`."""
        spec.require_hidden_layers(self)
        experts = spec.mlp(spec.n_inputs, parallel=self.n_experts)
        gates = spec.gate(spec.n_inputs, self.n_experts, parallel=spec.n_tasks)
        return _MMoE(experts, gates)


class _MMoE(nn.Module):
    def __init__(self, experts: StackedMLP, gates: StackedLinear) -> None:
        super().__init__()
        self.experts = experts
        self.gates = gates
        self.n_outputs = experts.n_outputs

    def forward(self, x: Tensor) -> Tensor:
        experts = self.experts(x)  # (*stack, expert, batch, d)
        gates = gate_weights(self.gates, x)  # (*stack, batch, task, expert), eq. 7
        return mix(gates, experts)  # (*stack, task, batch, d), eq. 6
