"""What stands between the heads of tasks that depend on one another."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sk_mtl.cascades._recipes import Links


class ParentOutputs(nn.Module):
    """Lays what is predicted of parents beside the features that the heads of children read.

    Parameters
    ----------
    links : Links
        The tasks' dependencies.
    groups : sequence of (sequence of int, int, bool)
        The tasks, the raw outputs of each, and whether they are of classes, a group of heads, in
        the order in which the groups are evaluated: parents first.
    """

    def __init__(self, links: Links, groups: Sequence[tuple[Sequence[int], int, bool]]) -> None:
        super().__init__()
        self.flows = links.flows
        self._classes = [of_classes for _, _, of_classes in groups]
        self.widths: list[int] = []
        columns: dict[int, list[int]] = {}
        for g, (tasks, n_outputs, _) in enumerate(groups):
            read = [[c for p in links.parents[t] for c in columns[p]] for t in tasks]
            self.widths.append(len(read[0]))
            index = torch.tensor([c for row in read for c in row], dtype=torch.long)
            self.register_buffer(f"columns{g}", index, persistent=False)
            start = sum(len(c) for c in columns.values())
            for i, t in enumerate(tasks):
                columns[t] = list(range(start + i * n_outputs, start + (i + 1) * n_outputs))

    def beside(self, g: int, features: Tensor, raw: Sequence[Tensor], n_tasks: int) -> Tensor:
        """Return what the heads of a group read.

        Parameters
        ----------
        g : int
            The group.
        features : Tensor of shape (*stack[, task], batch, d)
            Of its tasks.
        raw : sequence of Tensor
            Raw outputs of the groups before it, ``(*stack, tasks of the group, batch, n_outputs)``.
        n_tasks : int
            How many tasks the group has.

        Returns
        -------
        Tensor of shape (*stack, task, batch, d + n_parent_outputs)
            The features as they are, for a group whose tasks have no parents.
        """
        if not self.widths[g]:
            return features
        index: Tensor = getattr(self, f"columns{g}")
        seen = torch.cat([_columns(r, c) for r, c in zip(raw, self._classes, strict=False)], dim=-1)
        if not self.flows:
            seen = seen.detach()
        own = seen.index_select(-1, index).unflatten(-1, (n_tasks, -1)).movedim(-2, -3)
        if features.dim() < own.dim():
            features = features.unsqueeze(-3).expand(*own.shape[:-1], -1)
        return torch.cat([features, own], dim=-1)


def _columns(raw: Tensor, of_classes: bool) -> Tensor:
    """Return predictions of a group, ``(*stack, batch, task * n_outputs)``."""
    if of_classes:
        raw = raw.sigmoid() if raw.shape[-1] == 1 else raw.softmax(dim=-1)
    return raw.movedim(-3, -2).flatten(-2)


class FunnelOutputs(nn.Module):
    """Turns logits given the parent into logits of the product along the way.

    Parameters
    ----------
    links : Links
        The tasks' dependencies.
    groups : sequence of sequence of int
        The tasks of each group of heads.
    """

    along: Tensor
    is_child: Tensor

    def __init__(self, links: Links, groups: Sequence[Sequence[int]]) -> None:
        super().__init__()
        linked = {t for t, over in enumerate(links.parents) if over}
        linked |= {p for over in links.parents for p in over}
        self.inside = [g for g, group in enumerate(groups) if linked & {*group}]
        members = [t for g in self.inside for t in groups[g]]
        self._sizes = [len(groups[g]) for g in self.inside]
        place = {t: i for i, t in enumerate(members)}
        above = [place[links.parents[t][0]] if links.parents[t] else place[t] for t in members]
        along = torch.eye(len(members))
        for i in sorted(range(len(members)), key=lambda i: links.levels[members[i]]):
            if above[i] != i:
                along[i] += along[above[i]]
        child = torch.tensor([bool(links.parents[t]) for t in members])
        self.register_buffer("along", along, persistent=False)
        self.register_buffer("is_child", child.unsqueeze(-1), persistent=False)

    def forward(self, raw: Sequence[Tensor]) -> list[Tensor]:
        """Return the raw outputs of all groups, those of children as logits of the product."""
        logits = torch.cat([raw[g].squeeze(-1) for g in self.inside], dim=-2)  # (*stack, t, batch)
        tiny = torch.finfo(logits.dtype).tiny
        log_p = (self.along.to(logits.dtype) @ F.logsigmoid(logits)).clamp(max=-tiny)
        product = torch.where(self.is_child, log_p - torch.log(-torch.expm1(log_p)), logits)
        found = list(raw)
        for g, part in zip(self.inside, product.split(self._sizes, dim=-2), strict=True):
            found[g] = part.unsqueeze(-1)
        return found
