"""The gradients of one batch: of the task losses, and of all that pulls beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sk_mtl.gradients import feature_jacobian, set_gradients, task_jacobian
from sk_mtl.network import MultiTaskNetwork
from sk_mtl.objective import Objective


def backpropagate(
    network: MultiTaskNetwork, objective: Objective, batch: Any, *, complete: bool
) -> tuple[Tensor, Tensor, Tensor | None, Any]:
    """Set the gradients of a batch, by the way that the weighting needs.

    Parameters
    ----------
    network : MultiTaskNetwork
        One network, or a stack where the weighting needs no more than losses.
    objective : Objective
        What is minimised.
    batch : tuple of (dict, Tensor)
        As :meth:`~sk_mtl.batches.TaskData.select` returns it.
    complete : bool
        Whether no label is missing.

    Returns
    -------
    losses, weights : Tensor of shape (*stack, n_tasks)
        Detached.
    mass : Tensor or None
        See :meth:`Objective.task_losses`.
    outputs : tuple of Tensor
        Raw outputs.
    """
    inputs, y = batch
    way = _by_losses if objective.needs == "losses" else _by_gradients
    return way(network, objective, inputs["X"], y, inputs["sample_weight"], complete)


def _by_losses(
    network: Any, objective: Any, X: Tensor, y: Tensor, weight: Tensor | None, complete: bool
) -> tuple[Tensor, Tensor, Tensor | None, Any]:
    """Set gradients where the weights depend on the losses alone: one backward pass."""
    outputs = network(X)
    losses, mass = objective.task_losses(outputs, y, weight, complete=complete)
    detached = losses.detach()
    weights = objective.weigh(detached, None, mass)
    losses.backward(objective.normalised(weights, mass))  # seeds: dL / dL_t
    return detached, weights, mass, outputs


def _by_gradients(
    network: Any, objective: Any, X: Tensor, y: Tensor, weight: Tensor | None, complete: bool
) -> tuple[Tensor, Tensor, Tensor | None, Any]:
    """Set gradients where the weights depend on the tasks' gradients of the shared part."""

    def task_losses(raw: Sequence[Tensor]) -> Any:
        return objective.task_losses(raw, y, weight, complete=complete)

    features = None
    if objective.of == "features":
        losses, mass, outputs, jacobian, features = feature_jacobian(network, X, task_losses)
    else:
        losses, mass, outputs, jacobian = task_jacobian(network, X, task_losses)
    gradients = jacobian @ jacobian.mT if objective.needs == "gramian" else jacobian
    given = objective.weigh(losses, gradients, mass)
    weights = given if objective.weighs == "loss" else objective.user_weights
    share = objective.normalised(weights, mass)
    if objective.weighs == "loss":
        direction = share @ jacobian
    else:
        direction, weights = _along(objective, given, jacobian, weights, share)
    set_gradients(network, direction, share, features)
    return losses, weights, mass, outputs


def _along(
    objective: Any, given: Tensor, jacobian: Tensor, users: Tensor, share: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the direction of what tasks share, and the weights to be recorded."""
    # Private networks are trained as if each were alone: their shares add up to how many there are.
    scale = share.sum() if objective.private else 1
    if objective.weighs == "direction":
        return scale * given, users
    # Rows of absent tasks are zero, so whatever a weighting says of them has no effect.
    return scale * (given @ jacobian), given


@torch.no_grad()
def look_back(network: Any, objective: Objective, batch: Any, *, complete: bool) -> None:
    """Show a weighting that asks for it what the step made of the losses of its batch."""
    if objective.looks_back:
        inputs, y = batch
        raw = network(inputs["X"])
        losses, mass = objective.task_losses(raw, y, inputs["sample_weight"], complete=complete)
        objective.look_back(losses, mass)


class Penalties:
    """What pulls at the weights beside the losses.

    The L2 penalty on the weights of linear layers (biases, scales of norms and factors of
    inputs are left alone); a
    penalty on the heads of related tasks; and what a trunk asks for with a method ``penalty``,
    which gives one number a network.

    Parameters
    ----------
    network : MultiTaskNetwork
        One network or a stack.
    objective : Objective
        A task's own layers are penalised in proportion to its share of the user's weights.
    decay : float, or Tensor of shape (*stack,) or (*stack, n_tasks)
        L2 penalty a batch; one a task, where tasks share nothing.
    """

    def __init__(
        self, network: MultiTaskNetwork, objective: Objective, decay: float | Tensor
    ) -> None:
        self._pulled: list[tuple[nn.Parameter, float | Tensor]] = []
        self._relation: Any = objective.relation
        self._trunk = network.trunk if hasattr(network.trunk, "penalty") else None
        self._network = network
        shares = objective.normalised(objective.user_weights, None)  # (*stack, task)
        rates = torch.as_tensor(decay, dtype=shares.dtype, device=shares.device)
        if not rates.any():
            return
        n_stack = shares.dim() - 1
        a_task = (rates if rates.dim() > n_stack else rates.unsqueeze(-1)) * shares
        a_layer = a_task[..., None, None]  # (*stack, task, 1, 1)
        for name, parameter in network.trunk.named_parameters():
            if not _is_matrix(name, parameter, n_stack):
                continue
            rate: float | Tensor = a_layer
            if not objective.private:
                rate = rates.view(*rates.shape, *[1] * (parameter.dim() - n_stack))
                rate = rate if rates.dim() else float(rates)
            self._pulled.append((parameter, rate))
        for head in network.heads:
            in_head = a_layer.index_select(-3, head.tasks)  # type: ignore[arg-type]
            for name, parameter in head.named_parameters():
                if _is_matrix(name, parameter, n_stack):
                    self._pulled.append((parameter, in_head))

    def add(self) -> None:
        """Add their slopes to the gradients."""
        if self._relation is not None:
            self._add_relation()
        if self._trunk is not None:
            _add_slope_of(self._trunk)
        for parameter, rate in self._pulled:
            if parameter.grad is None:
                continue
            if isinstance(rate, float):
                parameter.grad.add_(parameter.data, alpha=rate)
            else:
                parameter.grad.addcmul_(parameter.data, rate)

    def end_epoch(self) -> None:
        """Renew what is learned of the tasks' relations."""
        if self._relation is not None:
            self._relation.renew(related_heads(self._network))

    def _add_relation(self) -> None:
        heads, layers = related_heads(self._network), _comparable(self._network)
        slope = self._relation.slope(heads) / heads.shape[-2]  # a mean over tasks, as the loss is
        parts = slope.split([layer.shape[-3] for layer in layers], dim=-2)
        for layer, part in zip(layers, parts, strict=True):
            if layer.grad is not None:
                layer.grad[..., 0, : heads.shape[-1]] += part


def related_heads(network: MultiTaskNetwork) -> Tensor:
    """Return what the heads of related tasks make of the features, ``(*stack, n_related, d)``."""
    width = int(network.trunk.n_outputs)  # type: ignore[arg-type]
    return torch.cat([layer.detach()[..., 0, :width] for layer in _comparable(network)], dim=-2)


def _comparable(network: MultiTaskNetwork) -> list[Tensor]:
    """Return the output weights of the heads of one output each."""
    return [
        head.output.weight  # type: ignore[union-attr,misc]
        for head, group in zip(network.heads, network.groups, strict=True)
        if group.n_outputs == 1
    ]


def _add_slope_of(trunk: Any) -> None:
    """Add the slope of what a trunk adds to the loss."""
    parameters = [p for p in trunk.parameters() if p.grad is not None]
    if not parameters:  # a trunk that is frozen
        return
    with torch.enable_grad():
        total = trunk.penalty().sum()
    slopes = torch.autograd.grad(total, parameters, materialize_grads=True)
    for parameter, slope in zip(parameters, slopes, strict=True):
        parameter.grad += slope


def _is_matrix(name: str, parameter: nn.Parameter, n_stack: int) -> bool:
    """Whether a parameter is the weights of linear layers: no bias, no factor of an input."""
    if name.rsplit(".", 1)[-1] == "bias" or name == "scales.gain":
        return False
    return parameter.dim() - n_stack >= 2
