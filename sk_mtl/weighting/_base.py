"""What a weighting is."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal

from torch import Tensor, nn

from sk_mtl._support import Recipe

Needs = Literal["losses", "gramian", "jacobian"]


class Weighting(Recipe):
    """A way of balancing tasks: says how much each task's loss counts in a step.

    Subclass it, say what it ``needs`` and write ``build``. The module that ``build`` returns is
    called once a batch, as ``module(statistic, present)``, and gives one non-negative weight a
    task, ``(*stack, n_tasks)``; the training loop normalises them over the tasks present and
    ignores the others. Its parameters and buffers are its own: the main optimiser never touches
    them. They have the stack axes in front, so that networks which are done can leave the stack;
    what it remembers must be one of them.

    ``present`` is a mask of shape ``(*stack, n_tasks)`` of the tasks that have labels in the
    batch, or None where all have. What ``statistic`` says of absent tasks means nothing: their
    losses and gradients are zero because there are none. Methods that would take them at their
    word (a row of zeros is the shortest vector of any set) must leave them out.

    Attributes
    ----------
    needs : {"losses", "gramian", "jacobian"}
        The statistic: the detached task losses ``(*stack, n_tasks)``; the gradients of the task
        losses with respect to the shared parameters ``(n_tasks, n_parameters)``; or their inner
        products ``(n_tasks, n_tasks)``. Gradients are for one network, without stack axes.
    uses_task_weights : bool
        Whether the user's ``task_weights`` have a meaning for it.
    """

    needs: ClassVar[Needs] = "losses"
    uses_task_weights: ClassVar[bool] = False

    @abstractmethod
    def build(self, task_weights: Tensor) -> nn.Module:
        """Return the module, for the user's weights of shape ``(*stack, n_tasks)``."""


class ConstantWeights(nn.Module):
    """Gives the same weights in every step."""

    weights: Tensor

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.register_buffer("weights", weights, persistent=False)  # a setting, not a memory

    def forward(self, statistic: Tensor, present: Tensor | None = None) -> Tensor:
        """Return the weights, whatever the statistic."""
        return self.weights
