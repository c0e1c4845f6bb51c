"""How many bytes a network of a stack takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sk_mtl.network import MultiTaskNetwork
from sk_mtl.objective import Objective
from sk_mtl.steps import backpropagate


@dataclass(frozen=True)
class Footprint:
    """What one network of a stack takes, in bytes.

    Attributes
    ----------
    touched : int
        By a step: weights, gradients, two moments of the optimiser, the average of the weights,
        and what the forward pass keeps.
    held : int
        At most, from its first step until it is scored: also the best weights so far, the steps of
        a learning rate of its own, the weights as they are taken and as its estimator has them;
        the way back through what the forward pass keeps, with what operators need in passing; its
        batches, and the outputs of all validation rows.
    """

    touched: int
    held: int


def footprint(
    network: MultiTaskNetwork,
    objective: Objective,
    batch: Any,
    n_valid: int = 0,
    n_own_epochs: int = 0,
) -> Footprint:
    """Return what one network takes, measured by taking its gradients on a batch.

    Parameters
    ----------
    network : MultiTaskNetwork
        Without stack axes.
    objective : Objective
        What it minimises.
    batch : tuple
        Inputs and targets.
    n_valid : int, default=0
        Number of validation rows.
    n_own_epochs : int, default=0
        How many tasks have best epochs of their own.
    """
    given = [t for t in (*batch[0].values(), batch[1]) if t is not None]
    own = {p.data_ptr(): p.numel() * p.element_size() for p in network.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    shared = {t.untyped_storage().data_ptr() for t in given}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        backpropagate(network, objective, batch, complete=False)
    activations = sum(n for where, n in kept.items() if where not in own and where not in shared)
    weights = sum(own.values())
    outputs = sum(len(group.tasks) * group.n_outputs for group in network.groups)
    predicted = n_valid * (outputs + batch[1].shape[-1]) * batch[1].element_size()
    # Three of what is read and predicted: as found, as put together, as spread over the stack.
    # Of best epochs: in the stack, as they are taken, and as the estimator has them.
    held = (
        (9 + 3 * n_own_epochs) * weights
        + 3 * activations
        + 3 * (sum(t.nbytes for t in given) + predicted)
    )
    return Footprint(5 * weights + activations, held)
