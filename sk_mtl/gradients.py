"""The gradient of every task's loss with respect to the shared parameters, in one pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sk_mtl.network import MultiTaskNetwork

TaskLosses = Callable[[Sequence[Tensor]], tuple[Tensor, Tensor | None]]


def task_jacobian(
    network: MultiTaskNetwork, X: Tensor, task_losses: TaskLosses
) -> tuple[Tensor, Tensor | None, tuple[Tensor, ...], Tensor]:
    """Return task losses, their mass, the raw outputs, and the Jacobian over the trunk.

    Each task's loss depends on its own copy of the features only, so one backward pass through
    the heads gives the cotangents of all tasks, and one batched vector-Jacobian product takes
    them through the trunk: no pass is repeated a task. The heads' gradients, each of its own
    task's loss, are left in ``.grad``.

    Parameters
    ----------
    network : MultiTaskNetwork
        One network, without stack axes.
    X : Tensor of shape (batch, n_features)
        Encoded features.
    task_losses : callable
        Raw outputs -> (losses of shape (n_tasks,), their mass or None).

    Returns
    -------
    losses : Tensor of shape (n_tasks,)
        Detached.
    mass : Tensor of shape (n_tasks,) or None
        As ``task_losses`` gave it.
    outputs : tuple of Tensor
        Raw outputs, detached.
    jacobian : Tensor of shape (n_tasks, n_shared_parameters)
        Parameters in the order of ``network.trunk.parameters()``.
    """
    features = network.trunk(X)
    own = network.has_task_axis(features)
    copies = features if own else features.unsqueeze(-3).expand(network.n_tasks, -1, -1)
    leaf = copies.detach().requires_grad_()  # (task, batch, d)
    outputs = network.outputs(X, leaf)
    losses, mass = task_losses(outputs)
    losses.backward(torch.ones_like(losses))
    cotangents = leaf.grad
    assert cotangents is not None
    if own:  # task t's loss reaches row t of the features alone
        index = torch.arange(network.n_tasks, device=X.device)
        seeds = cotangents.new_zeros(network.n_tasks, *cotangents.shape)
        seeds[index, index] = cotangents
        cotangents = seeds
    jacobian = losses.new_zeros(network.n_tasks, 0)  # a trunk without parameters
    if parameters := list(network.trunk.parameters()):
        rows = torch.autograd.grad(
            features, parameters, cotangents, is_grads_batched=True, materialize_grads=True
        )
        jacobian = torch.cat([row.flatten(1) for row in rows], dim=1)
    return losses.detach(), mass, tuple(o.detach() for o in outputs), jacobian


def set_gradients(network: MultiTaskNetwork, direction: Tensor, share: Tensor) -> None:
    """Set the gradients of a step, given what :func:`task_jacobian` left behind.

    Parameters
    ----------
    network : MultiTaskNetwork
        The network of the Jacobian.
    direction : Tensor of shape (n_shared_parameters,)
        Gradient of the trunk, such as ``share @ jacobian``.
    share : Tensor of shape (n_tasks,)
        By what each task's own gradient of its head is scaled.
    """
    start = 0
    for parameter in network.trunk.parameters():
        stop = start + parameter.numel()
        parameter.grad = direction[start:stop].view_as(parameter)
        start = stop
    for head in network.heads:
        own = share.index_select(-1, head.tasks)  # type: ignore[arg-type]
        for parameter in head.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(own.view(-1, *[1] * (parameter.dim() - 1)))
