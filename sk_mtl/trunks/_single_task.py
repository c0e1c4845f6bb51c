"""One private network a task."""

from __future__ import annotations

from torch import nn

from sk_mtl.trunks._base import Trunk, TrunkSpec


class SingleTask(Trunk):
    """A private perceptron a task, all trained side by side in one stacked pass.

    The baseline that sharing has to beat: the same as one estimator a task with the same
    ``random_state``, at a fraction of the time. ``task_weights`` scale each task's own
    gradient, so they change little here; a weight of 0 leaves the task untrained.

    Examples
    --------
    >>> from sk_mtl import MultiTaskRegressor
    >>> from sk_mtl.trunks import SingleTask
    >>> model = MultiTaskRegressor(trunk=SingleTask(), hidden_layer_sizes=(64, 32))
    """

    private = True

    def build(self, spec: TrunkSpec) -> nn.Module:
        """Return the module; see :class:`Trunk`."""
        return spec.mlp(spec.n_inputs, parallel=spec.n_tasks, tie=True)
