"""Adaptive task-to-task fusion."""

from __future__ import annotations

from numbers import Integral

import torch
from torch import Tensor, nn

from sk_mtl._support import Interval
from sk_mtl.layers import gate_weights, mix
from sk_mtl.trunks._base import Trunk, TrunkSpec


class AdaTT(Trunk):
    """Experts of each task's own, and a residual beside the mixture of everybody's.

    For tasks of which some help one another: at every level a task adds a learned combination
    of its own (native) experts, the same for every sample, to a gated mixture of the experts of
    all tasks. Shared experts form a unit like a task's. Every expert has the estimator's
    ``hidden_layer_sizes``.

    Parameters
    ----------
    n_levels : int, default=2
        Number of levels.
    n_task_experts : int, default=1
        Native experts that each task has a level.
    n_shared_experts : int, default=1
        Shared experts a level; 0 is the paper's AdaTT-sp.

    Notes
    -----
    Where every unit has one expert only, it enters the residual as it is; else its weights are
    learned, from values drawn as in the authors' code. The last level has no shared unit, as
    nothing would read it.

    References
    ----------
    Li et al. 2023, "AdaTT: Adaptive Task-to-Task Fusion Network for Multitask Learning in
    Recommendations", section 3: AllExpertGF and NativeExpertLF.

    Examples
    --------
    >>> from sk_mtl import MultiTaskRegressor
    >>> from sk_mtl.trunks import AdaTT
    >>> model = MultiTaskRegressor(trunk=AdaTT(n_task_experts=2), hidden_layer_sizes=(32,))
    """

    _parameter_constraints = {
        "n_levels": [Interval(Integral, 1, None, closed="left")],
        "n_task_experts": [Interval(Integral, 1, None, closed="left")],
        "n_shared_experts": [Interval(Integral, 0, None, closed="left")],
    }

    def __init__(
        self, n_levels: int = 2, n_task_experts: int = 1, n_shared_experts: int = 1
    ) -> None:
        self.n_levels = n_levels
        self.n_task_experts = n_task_experts
        self.n_shared_experts = n_shared_experts

    def build(self, spec: TrunkSpec) -> nn.Module:
        """Return the module; see :class:`Trunk`."""
        spec.require_hidden_layers(self)
        return _AdaTT(spec, self.n_levels, self.n_task_experts, self.n_shared_experts)


class _AdaTT(nn.Module):
    def __init__(self, spec: TrunkSpec, n_levels: int, n_own: int, n_shared: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList()
        width = spec.n_inputs
        for level in range(n_levels):
            fusion = _Fusion(
                spec, width, n_own, n_shared, first=level == 0, last=level == n_levels - 1
            )
            self.levels.append(fusion)
            width = fusion.n_outputs
        self.n_outputs = width

    def forward(self, x: Tensor) -> Tensor:
        for level in self.levels:
            x = level(x)
        return x  # (*stack, task, batch, d)


class _Fusion(nn.Module):
    """One level: a unit a task, and one of the shared experts unless it is the last."""

    unit_of: Tensor
    places: Tensor

    def __init__(
        self, spec: TrunkSpec, n_inputs: int, n_own: int, n_shared: int, *, first: bool, last: bool
    ) -> None:
        super().__init__()
        self.first = first
        n_own_experts = spec.n_tasks * n_own
        self.n_experts = n_own_experts + n_shared  # the shared ones stand last
        self.n_units = spec.n_tasks + (n_shared > 0 and not last)
        self.experts = spec.mlp(n_inputs, parallel=self.n_experts)
        self.gates = spec.gate(n_inputs, self.n_experts, parallel=self.n_units)
        self.n_outputs = self.experts.n_outputs
        unit_of = torch.arange(self.n_experts) // n_own
        unit_of[n_own_experts:] = spec.n_tasks
        n_native = n_own_experts if self.n_units == spec.n_tasks else self.n_experts
        places = unit_of[:n_native] * self.n_experts + torch.arange(n_native)
        self.register_buffer("unit_of", unit_of, persistent=False)
        self.register_buffer("places", places, persistent=False)
        native = torch.ones(*spec.draws.stack, n_native, dtype=spec.draws.dtype)
        if learned := max(n_own, n_shared) > 1:  # an only expert counts as it is
            native[..., :n_own_experts] = spec.draws.uniform((n_own_experts,), n_own**-0.5)
            if n_native > n_own_experts:
                native[..., n_own_experts:] = spec.draws.uniform((n_shared,), n_shared**-0.5)
        self.native = nn.Parameter(native) if learned else None

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(*stack, unit, batch, in)``, at the first level ``(*stack, batch, in)``, up."""
        asks, reads = x, x
        if not self.first:
            asks = x.narrow(-3, 0, self.n_units)  # the last level has no shared unit
            reads = x.index_select(-3, self.unit_of)
        experts = self.experts(reads)  # (*stack, expert, batch, d)
        gates = gate_weights(self.gates, asks)  # (*stack, batch, unit, expert): AllExpertGF
        # NativeExpertLF adds to the weights of a unit's own experts, so that one product does both
        return mix(gates + self._native_weights(gates).unsqueeze(-3), experts)

    def _native_weights(self, like: Tensor) -> Tensor:
        """Return ``([*stack,] unit, expert)``: zero but for a unit's own experts."""
        native = like.new_ones(len(self.places)) if self.native is None else self.native
        nothing = native.new_zeros(*native.shape[:-1], self.n_units * self.n_experts)
        weights = nothing.index_copy(-1, self.places, native)
        return weights.view(*native.shape[:-1], self.n_units, self.n_experts)
