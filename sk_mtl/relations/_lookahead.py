"""What a step for one task would do to the losses of the others."""

from __future__ import annotations

from typing import Any

import torch
from skorch.callbacks import Callback
from torch import Tensor
from torch.func import functional_call, vmap

from sk_mtl.gradients import task_jacobian
from sk_mtl.network import MultiTaskNetwork
from sk_mtl.objective import Objective


class Lookahead(Callback):
    """Looks ahead from every k-th training batch; training itself is left alone.

    Parameters
    ----------
    every : int, default=10
        From one look to the next, in batches.

    Attributes
    ----------
    total_, count_ : Tensor of shape (n_tasks, n_tasks)
        Sum of the affinities, and how many there were.
    """

    reads_history_only = True

    def __init__(self, every: int = 10) -> None:
        self.every = every

    def on_train_begin(self, net: Any, **kwargs: Any) -> None:
        """Begin anew."""
        self._n_batches = 0
        self.total_ = net.criterion_.user_weights.new_zeros(2 * [net.criterion_.n_tasks])
        self.count_ = torch.zeros_like(self.total_)

    def on_batch_begin(
        self, net: Any, batch: Any = None, training: bool = False, **kwargs: Any
    ) -> None:
        """Look ahead from the weights before the step."""
        if not training:
            return
        if self._n_batches % self.every == 0:
            rate = net.optimizer_.param_groups[0]["lr"]
            affinity, seen = lookahead(net.module_, net.criterion_, batch, rate)
            self.total_ += affinity
            self.count_ += seen
        self._n_batches += 1


def lookahead(
    network: MultiTaskNetwork, objective: Objective, batch: Any, learning_rate: float
) -> tuple[Tensor, Tensor]:
    """Return the affinities of one batch, and which of them are defined (the others are zero).

    The step is one of plain gradient descent on the shared part. Dropout is off, so that no
    random number is drawn that training would miss.

    Parameters
    ----------
    network : MultiTaskNetwork
        One network; the gradients of its heads are lost.
    objective : Objective
        Gives the task losses.
    batch : tuple of (dict, Tensor)
        Inputs and targets.
    learning_rate : float
        Length of the step.

    Returns
    -------
    affinity, seen : Tensor of shape (n_tasks, n_tasks)
        Row i is of the step for task i, column j of task j's loss.
    """
    inputs, y = batch

    def losses_of(raw: Any) -> tuple[Tensor, Tensor | None]:
        return objective.task_losses(raw, y, inputs["sample_weight"], complete=False)

    mode = network.training
    network.train(False)
    before, mass, _, jacobian = task_jacobian(network, inputs["X"], losses_of)
    stepped, start = {}, 0
    for name, parameter in network.trunk.named_parameters():
        stop = start + parameter.numel()
        slope = jacobian[:, start:stop].view(-1, *parameter.shape)
        stepped[f"trunk.{name}"] = parameter.detach() - learning_rate * slope  # (step, *shape)
        start = stop
    with torch.no_grad():
        raw = vmap(lambda trunk: functional_call(network, trunk, (inputs["X"],)))(stepped)
        after, _ = losses_of(raw)  # (step, task)
    network.train(mode)
    assert mass is not None
    present = mass > 0
    seen = present.unsqueeze(-1) & present & (before > 0)
    # Fifty et al. 2021, eq. 1
    affinity = 1.0 - after / torch.where(before > 0, before, 1.0)
    return torch.where(seen, affinity, 0.0), seen.to(affinity.dtype)
