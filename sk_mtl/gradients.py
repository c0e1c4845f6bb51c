"""The gradient of every task's loss with respect to what tasks share, in one pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sk_mtl.network import MultiTaskNetwork

TaskLosses = Callable[[Sequence[Tensor]], tuple[Tensor, Tensor | None]]
# Task losses, their mass, the raw outputs; all detached.
Seen = tuple[Tensor, Tensor | None, tuple[Tensor, ...]]


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
    seen, cotangents = _through_heads(network, X, features, task_losses)
    if network.has_task_axis(features):  # task t's loss reaches row t of the features alone
        index = torch.arange(network.n_tasks, device=X.device)
        seeds = cotangents.new_zeros(network.n_tasks, *cotangents.shape)
        seeds[index, index] = cotangents
        cotangents = seeds
    jacobian = cotangents.new_zeros(network.n_tasks, 0)  # a trunk without parameters
    if parameters := list(network.trunk.parameters()):
        rows = torch.autograd.grad(
            features, parameters, cotangents, is_grads_batched=True, materialize_grads=True
        )
        jacobian = torch.cat([row.flatten(1) for row in rows], dim=1)
    return *seen, jacobian


def feature_jacobian(
    network: MultiTaskNetwork, X: Tensor, task_losses: TaskLosses
) -> tuple[Tensor, Tensor | None, tuple[Tensor, ...], Tensor, Tensor]:
    """Return what :func:`task_jacobian` does, with the Jacobian over the features of the batch.

    No pass goes through the trunk: :func:`set_gradients` takes the direction through it.

    Parameters
    ----------
    network : MultiTaskNetwork
        One network, without stack axes, whose tasks see the same features.
    X, task_losses
        As above.

    Returns
    -------
    losses, mass, outputs
        As above.
    jacobian : Tensor of shape (n_tasks, batch * d)
        Row by row of the features.
    features : Tensor of shape (batch, d)
        What the trunk made of X, still attached to it.

    Raises
    ------
    ValueError
        If the trunk gives every task features of its own.
    """
    features = network.trunk(X)
    if network.has_task_axis(features):
        raise ValueError(
            f"Got features of shape {tuple(features.shape)} from the trunk, a representation a "
            "task, with a weighting by the gradients of the one that all tasks share, expected "
            "(batch, width). Use trunk='shared_bottom', or one of your own without a task axis; "
            "or a weighting by the gradients of the parameters, such as 'mgda' or 'pcgrad'."
        )
    seen, cotangents = _through_heads(network, X, features, task_losses)
    return *seen, cotangents.flatten(1), features


def _through_heads(
    network: MultiTaskNetwork, X: Tensor, features: Tensor, task_losses: TaskLosses
) -> tuple[Seen, Tensor]:
    """Go to the losses and back; return what was seen, and the cotangents ``(task, batch, d)``."""
    own = network.has_task_axis(features)
    copies = features if own else features.unsqueeze(-3).expand(network.n_tasks, -1, -1)
    leaf = copies.detach().requires_grad_()  # (task, batch, d)
    outputs = network.outputs(X, leaf)
    losses, mass = task_losses(outputs)
    losses.backward(torch.ones_like(losses))
    cotangents = leaf.grad
    assert cotangents is not None
    return (losses.detach(), mass, tuple(o.detach() for o in outputs)), cotangents


def set_gradients(
    network: MultiTaskNetwork, direction: Tensor, share: Tensor, features: Tensor | None = None
) -> None:
    """Set the gradients of a step, given what the Jacobian's function left behind.

    Parameters
    ----------
    network : MultiTaskNetwork
        The network of the Jacobian.
    direction : Tensor of shape (n_shared_parameters,) or (batch * d,)
        Gradient of the trunk or of the features, such as ``share @ jacobian``.
    share : Tensor of shape (n_tasks,)
        By what each task's own gradient of its head is scaled.
    features : Tensor of shape (batch, d) or None, default=None
        Where the direction is that of :func:`feature_jacobian`, the features that it gave.
    """
    if features is None:
        start = 0
        for parameter in network.trunk.parameters():
            stop = start + parameter.numel()
            parameter.grad = direction[start:stop].view_as(parameter)
            start = stop
    elif features.requires_grad:  # else a trunk without parameters
        features.backward(direction.view_as(features))
    for head in network.heads:
        own = share.index_select(-1, head.tasks)  # type: ignore[arg-type]
        for parameter in head.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(own.view(-1, *[1] * (parameter.dim() - 1)))
