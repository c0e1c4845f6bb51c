"""What training minimises: one loss a task over its labelled samples, and their weighted sum."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sk_mtl.network import HeadGroup
from sk_mtl.weighting import ConstantWeights


class Objective(nn.Module):
    """Task losses, and the weights of L = sum(w_t L_t) / sum(w_t) over the tasks present.

    Parameters
    ----------
    groups : sequence of HeadGroup
        Which tasks each raw output serves, and their loss.
    n_tasks : int
        Number of tasks.
    balance : nn.Module
        Built by a :class:`~sk_mtl.weighting.Weighting`: what it needs -> ``(*stack, n_tasks)``.
    user_weights : Tensor of shape (*stack, n_tasks)
        The user's task weights, by which validation losses are averaged.
    needs : {"losses", "jacobian"}, default="losses"
        What ``balance`` is called with.
    private : bool, default=False
        Multiply L by the number of tasks, so that networks which share nothing are trained as
        if each were alone.
    """

    user_weights: Tensor

    def __init__(
        self,
        groups: Sequence[HeadGroup],
        n_tasks: int,
        balance: nn.Module,
        user_weights: Tensor,
        *,
        needs: str = "losses",
        private: bool = False,
    ) -> None:
        super().__init__()
        self.losses = [group.loss for group in groups]
        self.balance = balance
        self.register_buffer("user_weights", user_weights)
        self.n_tasks = n_tasks
        self.needs = needs
        self.private = private
        self._known: tuple[Tensor, Tensor] | None = None
        self.members: list[Tensor | None] = [
            None if len(group.tasks) == n_tasks else torch.tensor(group.tasks) for group in groups
        ]
        order = [t for group in groups for t in group.tasks]
        self.order = None if len(groups) == 1 else torch.tensor(order).argsort()

    def _apply(self, fn: object, recurse: bool = True) -> Objective:
        """Move the index tensors along (they are no buffers: casts must not touch them)."""
        super()._apply(fn, recurse)
        self._known = None
        self.members = [None if m is None else fn(m) for m in self.members]  # type: ignore[operator]
        self.order = None if self.order is None else fn(self.order)  # type: ignore[operator]
        return self

    def task_losses(
        self, raw: Sequence[Tensor], target: Tensor, weight: Tensor | None, *, complete: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return every task's mean loss over its labelled samples, and the mass behind it.

        Parameters
        ----------
        raw : sequence of Tensor
            The network's outputs.
        target : Tensor of shape (batch, n_tasks)
            Encoded targets, NaN where the label is missing.
        weight : Tensor of shape (batch, 1 or n_tasks) or None
            Sample weights.
        complete : bool
            Whether no label is missing, which saves the work of selecting.

        Returns
        -------
        losses : Tensor of shape (*stack, n_tasks)
            0 for a task without a label in the batch.
        mass : Tensor of shape (n_tasks,) or None
            Sum of the weights of each task's labelled samples; None if every cell counts as 1.
        """
        parts, masses = [], []
        for loss, output, members in zip(self.losses, raw, self.members, strict=True):
            y = target if members is None else target.index_select(-1, members)
            w = weight
            if w is not None and members is not None and w.shape[-1] != 1:
                w = w.index_select(-1, members)
            part, mass = _masked_mean(loss, output, y.mT, None if w is None else w.mT, complete)
            parts.append(part)
            masses.append(mass)
        if self.order is None:
            return parts[0], masses[0]
        losses = torch.cat(parts, dim=-1).index_select(-1, self.order)
        if complete and weight is None:
            return losses, None
        return losses, torch.cat([m for m in masses if m is not None]).index_select(-1, self.order)

    def weigh(self, statistic: Tensor) -> Tensor:
        """Return the weights for what the weighting needs.

        A copy, unless they are constant: a weighting may update its own tensor in every step.
        """
        weights: Tensor = self.balance(statistic)
        return weights if isinstance(self.balance, ConstantWeights) else weights.detach().clone()

    def normalised(self, weights: Tensor, mass: Tensor | None) -> Tensor:
        """Return the weights of L: they add up to one over the tasks present in the batch.

        The gradient of L is that of the task losses with these as its seeds.
        """
        if mass is None and self._known is not None and self._known[0] is weights:
            return self._known[1]
        present = weights if mass is None else weights * (mass > 0)
        # Private networks do not notice which others have labels in the batch.
        total = (weights if self.private else present).sum(-1, keepdim=True)
        share = present / torch.where(total > 0, total, 1.0)
        if self.private:
            share = share * self.n_tasks
        if mass is None:  # weights that never change are normalised once
            self._known = (weights, share)
        return share


def _masked_mean(
    loss: object, raw: Tensor, target: Tensor, weight: Tensor | None, complete: bool
) -> tuple[Tensor, Tensor | None]:
    """Return the mean loss over labelled samples and their total weight.

    Shape: raw ``(*stack, task, batch, n_outputs)``, target and weight ``(task, batch)``.
    """
    if complete:
        each = loss.elementwise(raw, target)  # type: ignore[attr-defined]
        if weight is None:
            return each.mean(-1), None
        weight = weight.expand(target.shape)
        mass = weight.sum(-1)
        return (each * weight).sum(-1) / mass, mass
    observed = ~target.isnan()
    # Select before the loss and after it: NaN, or infinity, times zero is still NaN, also in the
    # gradient (exp(raw) of a row without a count may overflow).
    raw = torch.where(observed.unsqueeze(-1), raw, 0.0)
    safe = torch.where(observed, target, 0.0)
    each = loss.elementwise(raw, safe)  # type: ignore[attr-defined]
    each = torch.where(observed, each, 0.0)
    share = observed.to(each.dtype) if weight is None else observed * weight
    mass = share.sum(-1)
    total = (each * share).sum(-1)
    return total / torch.where(mass > 0, mass, 1.0), mass


def encoded_scores(
    groups: Sequence[HeadGroup],
    raw: Sequence[Tensor],
    target: Tensor,
    weight: Tensor | None,
) -> Tensor:
    """Return accuracy or R2 of every task, NaN for a task without labels.

    Parameters
    ----------
    groups : sequence of HeadGroup
        Which tasks each raw output serves.
    raw : sequence of Tensor
        Outputs of one network, ``(tasks of the group, n_rows, n_outputs)`` each.
    target : Tensor of shape (n_rows, n_tasks)
        Encoded targets, NaN where the label is missing.
    weight : Tensor of shape (n_rows, 1 or n_tasks) or None
        Sample weights.
    """
    observed = ~target.isnan()
    share = observed.to(target.dtype) if weight is None else observed * weight
    y = torch.where(observed, target, 0.0)
    scores = target.new_empty(target.shape[-1])
    for group, output in zip(groups, raw, strict=True):
        tasks = list(group.tasks)
        w, prediction = share[:, tasks].mT, group.loss.to_prediction(output)
        truth = y[:, tasks].mT
        if "regression" not in group.loss.kinds:
            hit = (prediction.argmax(-1) == truth).to(w.dtype)
            scores[tasks] = (hit * w).sum(-1) / w.sum(-1)
            continue
        mean = (truth * w).sum(-1, keepdim=True) / w.sum(-1, keepdim=True)
        spread = (w * (truth - mean).square()).sum(-1)
        scores[tasks] = 1.0 - (w * (truth - prediction).square()).sum(-1) / spread
    return scores
