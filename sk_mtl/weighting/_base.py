"""What a weighting is."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from sk_mtl._support import Recipe

Needs = Literal["losses", "gramian", "jacobian"]


class Weighting(Recipe):
    """A way of balancing tasks: says how much each task counts in a step.

    Subclass it, say what it ``needs`` and write ``build``. The module that ``build`` returns is
    called once a batch, as ``module(losses, gradients, present)``, and gives one weight a task,
    ``(*stack, n_tasks)``. Its parameters and buffers are its own: the main optimiser never touches
    them. They have the stack axes in front, so that networks which are done can leave the stack;
    what it remembers must be one of them.

    ``losses`` are the detached task losses ``(*stack, n_tasks)``. ``gradients`` are what it needs,
    see below, or None. ``present`` is a mask of shape ``(*stack, n_tasks)`` of the tasks that have
    labels in the batch, or None where all have. What is said of absent tasks means nothing: their
    losses and gradients are zero because there are none. Methods that would take them at their
    word (a row of zeros is the shortest vector of any set) must leave them out.

    A module may have the methods of :class:`Balance`; the training loop calls those that it has.

    Attributes
    ----------
    needs : {"losses", "gramian", "jacobian"}
        Whether it wants, besides the losses, the gradients of the task losses with respect to the
        shared parameters ``(n_tasks, n_parameters)``, or their inner products
        ``(n_tasks, n_tasks)``. Gradients are for one network, without stack axes.
    of : {"parameters", "features"}
        What gradients are taken of. "features" puts those that tasks share, of the rows of the
        batch, in place of the shared parameters: ``(n_tasks, batch * d)``. The sum of w times them,
        or the direction, then goes back through the trunk.
    weighs : {"loss", "gradient", "direction"}
        What its weights are of. "loss": the training loop normalises them over the tasks present,
        L = sum(w L) / sum(w), so that they say nothing of the learning rate. "gradient": the shared
        parameters move along the sum of w times the gradients as they are; the heads, over which
        tasks cannot conflict, follow L by the user's weights. "direction": the module gives
        no weights but that sum itself, ``(n_parameters,)``.
    per_parameter : bool
        Whether it remembers numbers for every shared parameter. It cannot see features instead,
        which are of other rows in every batch.
    uses_task_weights : bool
        Whether the user's ``task_weights`` have a meaning for it.
    stacks : bool
        Whether its module can be built for a stack of networks; if it needs no gradients.
    """

    needs: ClassVar[Needs] = "losses"
    weighs: ClassVar[Literal["loss", "gradient", "direction"]] = "loss"
    of: ClassVar[Literal["parameters", "features"]] = "parameters"
    per_parameter: ClassVar[bool] = False
    uses_task_weights: ClassVar[bool] = False
    stacks: ClassVar[bool] = True

    def settles_after(self, levels: Sequence[int]) -> int:
        """Return how many epochs have to pass before it can be said that training is done."""
        return 0

    @abstractmethod
    def build(self, task_weights: Tensor) -> nn.Module:
        """Return the module, for the user's weights of shape ``(*stack, n_tasks)``."""


class Balance(nn.Module):
    """A module with all that the training loop may call: nothing happens unless overridden."""

    looks_back: bool = False

    def hold(self, name: str, number: float | Tensor) -> None:
        """Keep a setting; in a stack it may be a tensor, of which networks that leave take part."""
        if isinstance(number, Tensor):
            self.register_buffer(name, number, persistent=False)
        else:
            setattr(self, name, number)

    def know_tasks(self, losses: Sequence[Any], levels: Sequence[int]) -> None:
        """Learn the loss of every task, and how many tasks stand above it in a cascade."""

    def seed(self, seeds: Sequence[int]) -> None:
        """Begin the streams of random numbers, one seed a network of the stack."""

    def look_back(self, losses: Tensor, present: Tensor | None) -> None:
        """See the task losses of the batch again, after the step; only if ``looks_back``."""

    def end_epoch(self, losses: Tensor) -> None:
        """See the mean task losses of an epoch; NaN for tasks without labels."""


class ConstantWeights(Balance):
    """Gives the same weights in every step."""

    weights: Tensor

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.register_buffer("weights", weights, persistent=False)  # a setting, not a memory

    def forward(
        self, losses: Tensor, gradients: Tensor | None = None, present: Tensor | None = None
    ) -> Tensor:
        """Return the weights, whatever the losses."""
        return self.weights


def over_present(values: Tensor, present: Tensor | None) -> Tensor:
    """Return values of absent tasks as zero."""
    return values if present is None else torch.where(present, values, 0.0)
