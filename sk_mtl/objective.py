"""What training minimises: one loss a task over its labelled samples, and their weighted sum."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sk_mtl.network import HeadGroup
from sk_mtl.penalties import Penalty
from sk_mtl.weighting import ConstantWeights, Weighting


class Objective(nn.Module):
    """Task losses, and the weights of L = sum(w_t L_t) / sum(w_t) over the tasks present.

    Parameters
    ----------
    groups : sequence of HeadGroup
        Which tasks each raw output serves, and their loss.
    n_tasks : int
        Number of tasks.
    balance : nn.Module
        Built by a :class:`~sk_mtl.weighting.Weighting`.
    user_weights : Tensor of shape (*stack, n_tasks)
        The user's task weights, by which validation losses are averaged.
    needs : {"losses", "gramian", "jacobian"}, default="losses"
        What ``balance`` is called with.
    weighs : {"loss", "gradient", "direction"}, default="loss"
        What its weights are of.
    of : {"parameters", "features"}, default="parameters"
        With respect to what shared part the gradients are that it sees.
    private : bool, default=False
        Multiply L by the number of tasks, so that networks which share nothing are trained as
        if each were alone.
    relation : nn.Module or None, default=None
        Built by a :class:`~sk_mtl.penalties.Penalty`: pulls at the heads of related tasks.
    """

    user_weights: Tensor
    order: Tensor

    def __init__(
        self,
        groups: Sequence[HeadGroup],
        n_tasks: int,
        balance: nn.Module,
        user_weights: Tensor,
        *,
        needs: str = "losses",
        weighs: str = "loss",
        of: str = "parameters",
        private: bool = False,
        relation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.losses = [group.loss for group in groups]
        self.balance = balance
        self.relation = relation
        self.register_buffer("user_weights", user_weights)
        self.n_tasks = n_tasks
        self.needs, self.weighs, self.of = needs, weighs, of
        self.looks_back = bool(getattr(balance, "looks_back", False))
        self.private = private
        self._known: tuple[Tensor, Tensor] | None = None
        # Indices lie on the device, so that selecting by them makes no batch wait for a copy.
        self.single = len(groups) == 1
        order = torch.tensor([t for group in groups for t in group.tasks])
        self.register_buffer("order", order.argsort(), persistent=False)
        for g, group in enumerate(groups):
            self.register_buffer(f"members{g}", torch.tensor(group.tasks), persistent=False)

    def task_losses(
        self, raw: Sequence[Tensor], target: Tensor, weight: Tensor | None, *, complete: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return every task's mean loss over its labelled samples, and the mass behind it.

        Parameters
        ----------
        raw : sequence of Tensor
            The network's outputs.
        target : Tensor of shape (*stack, batch, n_tasks)
            Encoded targets, NaN where the label is missing; stacked networks may share them.
        weight : Tensor of shape (*stack, batch, 1 or n_tasks) or None
            Sample weights.
        complete : bool
            Whether no label is missing, which saves the work of selecting.

        Returns
        -------
        losses : Tensor of shape (*stack, n_tasks)
            0 for a task without a label in the batch.
        mass : Tensor of shape (*stack, n_tasks) or None
            Sum of the weights of each task's labelled samples, with the stack axes of the
            targets; None if every cell counts as 1.
        """
        if self.single:
            w = None if weight is None else weight.mT
            return _masked_mean(self.losses[0], raw[0], target.mT, w, complete)
        parts, masses = [], []
        for g, (loss, output) in enumerate(zip(self.losses, raw, strict=True)):
            members: Tensor = getattr(self, f"members{g}")
            w = weight
            if w is not None and w.shape[-1] != 1:
                w = w.index_select(-1, members)
            y = target.index_select(-1, members)
            part, mass = _masked_mean(loss, output, y.mT, None if w is None else w.mT, complete)
            parts.append(part)
            masses.append(mass)
        losses = torch.cat(parts, dim=-1).index_select(-1, self.order)
        if complete and weight is None:
            return losses, None
        mass = torch.cat([m for m in masses if m is not None], dim=-1)
        return losses, mass.index_select(-1, self.order)

    def weigh(self, losses: Tensor, gradients: Tensor | None, mass: Tensor | None) -> Tensor:
        """Return the weights, or the direction, given which tasks are present.

        A copy, unless they are constant: a weighting may update its own tensor in every step.
        """
        weights: Tensor = self.balance(losses, gradients, None if mass is None else mass > 0)
        return weights if isinstance(self.balance, ConstantWeights) else weights.detach().clone()

    def look_back(self, losses: Tensor, mass: Tensor | None) -> None:
        """Show the weighting the losses of a batch again, after the step."""
        self.balance.look_back(losses, None if mass is None else mass > 0)  # type: ignore[operator]

    def end_epoch(self, losses: Tensor, mass: Tensor) -> None:
        """Show the weighting the mean task losses of an epoch, if it wants to see them."""
        if hasattr(self.balance, "end_epoch"):
            self.balance.end_epoch(torch.where(mass > 0, losses, torch.nan))  # type: ignore[operator]

    def keep(self, index: Tensor) -> None:
        """Let all networks of the stack but those of the given indices go."""
        memory = [self.user_weights, *self.balance.parameters(), *self.balance.buffers()]
        memory += [] if self.relation is None else self.relation.buffers()
        for tensor in {id(t): t for t in memory}.values():
            tensor.data = tensor.data.index_select(0, index)
        for loss in self.losses:
            for name in loss.stackable:
                if isinstance(value := getattr(loss, name), Tensor):
                    setattr(loss, name, value.index_select(0, index))
        self._known = None

    def normalised(self, weights: Tensor, mass: Tensor | None) -> Tensor:
        """Return the weights of L: they add up to one over the tasks present in the batch.

        The gradient of L is that of the task losses with these as its seeds.
        """
        if mass is None and self._known is not None and self._known[0] is weights:
            return self._known[1]
        present = weights if mass is None else torch.where(mass > 0, weights, 0.0)
        # Private networks do not notice which others have labels in the batch.
        total = (weights if self.private else present).sum(-1, keepdim=True)
        share = present / torch.where(total > 0, total, 1.0)
        if self.private:
            share = share * self.n_tasks
        if mass is None:  # weights that never change are normalised once
            self._known = (weights, share)
        return share


def make_objective(
    weighting: Weighting,
    groups: Sequence[HeadGroup],
    user_weights: Tensor,
    *,
    seeds: Sequence[int],
    private: bool,
    levels: Sequence[int] | None = None,
    penalty: Penalty | None = None,
) -> Objective:
    """Return what a network minimises, or a stack of them.

    Parameters
    ----------
    weighting : Weighting
        How tasks are balanced.
    groups : sequence of HeadGroup
        See :class:`Objective`.
    user_weights : Tensor of shape (*stack, n_tasks)
        See :class:`Objective`.
    seeds : sequence of int
        For the weighting's random numbers, one a network.
    private : bool
        See :class:`Objective`.
    levels : sequence of int or None, default=None
        How many tasks stand above each in a cascade; None where there is none.
    penalty : Penalty or None, default=None
        On the heads of related tasks.
    """
    balance = weighting.build(user_weights)
    if hasattr(balance, "know_tasks"):
        of = {t: group.loss for group in groups for t in group.tasks}
        depth = [0] * len(of) if levels is None else levels
        balance.know_tasks([of[t] for t in sorted(of)], depth)  # type: ignore[operator]
    if hasattr(balance, "seed"):
        balance.seed(seeds)  # type: ignore[operator]
    relation = None
    if penalty is not None:
        tasks = related_tasks(groups)
        like = user_weights.new_zeros(*user_weights.shape[:-1], len(tasks), len(tasks))
        relation = penalty.build(like, tasks)
    return Objective(
        groups,
        user_weights.shape[-1],
        balance,
        user_weights,
        needs=weighting.needs,
        weighs=weighting.weighs,
        of=weighting.of,
        private=private,
        relation=relation,
    )


def related_tasks(groups: Sequence[HeadGroup]) -> list[int]:
    """Return the tasks whose heads have one output each, in the order of the heads."""
    return [t for group in groups if group.n_outputs == 1 for t in group.tasks]


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
    """Return accuracy or R2 of every task, as scikit-learn does.

    NaN for a task without labels, and R2 of a single row.

    Parameters
    ----------
    groups : sequence of HeadGroup
        Which tasks each raw output serves.
    raw : sequence of Tensor
        Outputs, ``(*stack, tasks of the group, n_rows, n_outputs)`` each.
    target : Tensor of shape (*stack, n_rows, n_tasks)
        Encoded targets, NaN where the label is missing.
    weight : Tensor of shape (*stack, n_rows, 1 or n_tasks) or None
        Sample weights.

    Returns
    -------
    scores : Tensor of shape (*stack, n_tasks)
        1 is perfect.
    """
    observed = ~target.isnan()
    share = observed.to(target.dtype) if weight is None else observed * weight
    y = torch.where(observed, target, 0.0)
    scores = target.new_empty(*raw[0].shape[:-3], target.shape[-1])
    for group, output in zip(groups, raw, strict=True):
        tasks = list(group.tasks)
        w, prediction = share[..., tasks].mT, group.loss.to_prediction(output)
        truth = y[..., tasks].mT
        if "regression" not in group.loss.kinds:
            hit = (prediction.argmax(-1) == truth).to(w.dtype)
            scores[..., tasks] = (hit * w).sum(-1) / w.sum(-1)
            continue
        mean = (truth * w).sum(-1, keepdim=True) / w.sum(-1, keepdim=True)
        spread = (w * (truth - mean).square()).sum(-1)
        residual = (w * (truth - prediction).square()).sum(-1)
        r2 = 1.0 - residual / torch.where(spread > 0, spread, 1.0)
        r2 = torch.where(spread > 0, r2, (residual == 0).to(r2.dtype))  # a constant target
        scores[..., tasks] = torch.where((w > 0).sum(-1) > 1, r2, torch.nan)
    return scores
