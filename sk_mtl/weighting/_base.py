"""What a weighting is."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal

from torch import Tensor, nn

from sk_mtl._support import Recipe

Needs = Literal["losses", "jacobian"]


class Weighting(Recipe):
    """A way of balancing tasks: says how much each task's loss counts in a step.

    Subclass it, say what it ``needs`` and write ``build``. The module that ``build`` returns is
    called once a batch and gives one non-negative weight a task; the training loop normalises
    them over the tasks that have labels in the batch. Its parameters and buffers are its own:
    the main optimiser never touches them.

    Attributes
    ----------
    needs : {"losses", "jacobian"}
        What the module is called with: the detached task losses ``(*stack, n_tasks)``, or the
        gradients of the task losses with respect to the shared parameters,
        ``(n_present_tasks, n_parameters)``, absent tasks left out.
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

    def forward(self, losses: Tensor) -> Tensor:
        """Return the weights, whatever the losses."""
        return self.weights
