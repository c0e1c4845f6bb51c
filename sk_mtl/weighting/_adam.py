"""Adam on one number a task, where tasks may be absent and networks leave a stack."""

from __future__ import annotations

import torch
from torch import Tensor, nn

BETAS, EPSILON = (0.9, 0.999), 1e-8


class Adam(nn.Module):
    """A number a task, moved by Adam (Kingma and Ba 2015, algorithm 1).

    A task that is absent from a batch keeps its number and its moments, and counts no step. All
    that is remembered has the stack axes in front, which torch's own optimiser has not.

    Parameters
    ----------
    value : Tensor of shape (*stack, n_tasks)
        Where it begins.
    """

    value: Tensor
    mean: Tensor
    square: Tensor
    steps: Tensor

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.register_buffer("value", value.clone())
        for name in ("mean", "square", "steps"):
            self.register_buffer(name, torch.zeros_like(value))

    @torch.no_grad()
    def step(
        self,
        gradient: Tensor,
        learning_rate: float | Tensor,
        present: Tensor | None,
        weight_decay: float | Tensor = 0.0,
    ) -> None:
        """Take one step down a gradient, of the tasks present.

        Parameters
        ----------
        gradient : Tensor of shape (*stack, n_tasks)
            Of what is minimised.
        learning_rate, weight_decay : float, or Tensor of shape (*stack, 1)
            As of ``torch.optim.Adam``.
        present : Tensor of bool, shape (*stack, n_tasks), or None
            Which tasks have labels in the batch; None for all.
        """
        gradient = gradient + weight_decay * self.value
        steps = self.steps + 1
        mean = BETAS[0] * self.mean + (1 - BETAS[0]) * gradient
        square = BETAS[1] * self.square + (1 - BETAS[1]) * gradient * gradient
        root = (square / (1 - BETAS[1] ** steps)).sqrt() + EPSILON
        value = self.value - learning_rate * mean / (1 - BETAS[0] ** steps) / root
        new = {"value": value, "mean": mean, "square": square, "steps": steps}
        for name, tensor in new.items():
            old = getattr(self, name)
            old.copy_(tensor if present is None else torch.where(present, tensor, old))
