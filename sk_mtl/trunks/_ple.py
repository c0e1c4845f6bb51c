"""Progressive layered extraction."""

from __future__ import annotations

from numbers import Integral

from torch import Tensor, nn

from sk_mtl._support import Interval
from sk_mtl.layers import gate_weights, mix
from sk_mtl.trunks._base import Trunk, TrunkSpec


class PLE(Trunk):
    """Shared experts and experts of each task's own, level upon level.

    For tasks that conflict: what is common and what is private are kept apart from the start.
    At every level a task's gate mixes its own experts with the shared ones; below the last
    level a shared gate mixes all experts for the next level's shared ones. Every expert has the
    estimator's ``hidden_layer_sizes``.

    Parameters
    ----------
    n_levels : int, default=1
        Number of levels; 1 is CGC, customized gate control.
    n_shared_experts : int, default=2
        Shared experts a level.
    n_task_experts : int, default=2
        Experts of its own that each task has a level.

    References
    ----------
    Tang et al. 2020, "Progressive Layered Extraction (PLE): A Novel Multi-Task Learning Model
    for Personalized Recommendations", sections 4.1 and 4.2.

    Examples
    --------
    >>> from sk_mtl import MultiTaskRegressor
    >>> from sk_mtl.trunks import PLE
    >>> model = MultiTaskRegressor(trunk=PLE(n_levels=2), hidden_layer_sizes=(32,))
    """

    _parameter_constraints = {
        "n_levels": [Interval(Integral, 1, None, closed="left")],
        "n_shared_experts": [Interval(Integral, 1, None, closed="left")],
        "n_task_experts": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self, n_levels: int = 1, n_shared_experts: int = 2, n_task_experts: int = 2
    ) -> None:
        self.n_levels = n_levels
        self.n_shared_experts = n_shared_experts
        self.n_task_experts = n_task_experts

    def build(self, spec: TrunkSpec) -> nn.Module:
        """Return the module; see :class:`Trunk`."""
        spec.require_hidden_layers(self)
        return _PLE(spec, self.n_levels, self.n_shared_experts, self.n_task_experts)


class _PLE(nn.Module):
    def __init__(self, spec: TrunkSpec, n_levels: int, n_shared: int, n_own: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList()
        width = spec.n_inputs
        for level in range(n_levels):
            extraction = _Extraction(spec, width, n_shared, n_own, last=level == n_levels - 1)
            self.levels.append(extraction)
            width = extraction.n_outputs
        self.n_outputs = width

    def forward(self, x: Tensor) -> Tensor:
        tasks = shared = x  # (*stack, batch, in)
        for level in self.levels:
            tasks, shared = level(tasks, shared)
        return tasks  # (*stack, task, batch, d)


class _Extraction(nn.Module):
    """One level: experts, a gate a task, and a shared gate unless it is the last."""

    def __init__(
        self, spec: TrunkSpec, n_inputs: int, n_shared: int, n_own: int, *, last: bool
    ) -> None:
        super().__init__()
        self.n_tasks, self.n_own = spec.n_tasks, n_own
        self.shared_experts = spec.mlp(n_inputs, parallel=n_shared)
        self.own_experts = spec.mlp(n_inputs, parallel=spec.n_tasks * n_own)
        self.task_gates = spec.gate(n_inputs, n_own + n_shared, parallel=spec.n_tasks)
        n_all = spec.n_tasks * n_own + n_shared
        self.shared_gate = None if last else spec.gate(n_inputs, n_all)
        self.n_outputs = self.own_experts.n_outputs

    def forward(self, tasks: Tensor, shared: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``(*stack[, task], batch, in)`` and ``(*stack, batch, in)`` one level up."""
        common = self.shared_experts(shared)  # (*stack, n_shared, batch, d)
        per_expert = tasks
        if tasks is not shared:  # the experts of a task all read the task's representation
            per_expert = tasks.repeat_interleave(self.n_own, dim=-3)
        own = self.own_experts(per_expert)  # (*stack, task * n_own, batch, d)
        # Each task's gate reads the task's input and weighs its own experts, then the shared.
        gates = gate_weights(self.task_gates, tasks)  # (*stack, batch, task, n_own + n_shared)
        own_gates, common_gates = gates.split([self.n_own, common.shape[-3]], dim=-1)
        by_task = own.unflatten(-3, (self.n_tasks, self.n_own))  # (*stack, task, n_own, batch, d)
        weights = own_gates.movedim(-3, -1).unsqueeze(-1)  # (*stack, task, n_own, batch, 1)
        outputs = (weights * by_task).sum(-3) + mix(common_gates, common)
        if self.shared_gate is None:
            return outputs, shared
        everyone = self.shared_gate(shared).softmax(-1)  # (*stack, batch, all)
        own_share, common_share = everyone.split([own.shape[-3], common.shape[-3]], dim=-1)
        mixed = mix(own_share.unsqueeze(-2), own) + mix(common_share.unsqueeze(-2), common)
        return outputs, mixed.squeeze(-3)  # the second: (*stack, batch, d)
