"""The whole network: a trunk, and the heads of all tasks as few stacked layers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import joblib
import torch
from torch import Tensor, nn

from sk_mtl.cascades._modules import FunnelOutputs, ParentOutputs
from sk_mtl.cascades._recipes import Links
from sk_mtl.columns import Layout
from sk_mtl.embeddings import Embedding, Prepared, build_inputs
from sk_mtl.entrance import InputScales, enter
from sk_mtl.layers import Draws, StackedLinear, StackedMLP, shifted
from sk_mtl.linear_path import LinearPath
from sk_mtl.losses import Loss
from sk_mtl.own_epochs import OwnEpochs
from sk_mtl.tasks import Task
from sk_mtl.trunks import Trunk, TrunkSpec


@dataclass(frozen=True)
class HeadGroup:
    """Tasks whose heads and losses have the same form, so that one tensor holds them all.

    Attributes
    ----------
    tasks : tuple of int
        Their indices, in ascending order.
    loss : Loss
        Their loss.
    n_outputs : int
        Raw outputs of each.
    level : int
        How many tasks stand above them, one over the other, whose outputs their heads read.
    """

    tasks: tuple[int, ...]
    loss: Loss
    n_outputs: int
    level: int = 0


def group_tasks(
    tasks: Sequence[Task], losses: Sequence[Loss], links: Links | None = None
) -> list[HeadGroup]:
    """Put tasks with equal losses (and loss parameters) and equal widths together.

    Tasks of different widths get heads of their own width: nothing is padded. Where heads read the
    outputs of parents, they also have to read equally many, and parents come first.
    """
    widths = [loss.n_outputs(task.n_classes) for task, loss in zip(tasks, losses, strict=True)]
    groups: dict[tuple[type, str | None, int, int, int], list[int]] = {}
    for t, loss in enumerate(losses):
        level, read = 0, 0
        if links is not None and links.kind == "outputs":
            level, read = links.levels[t], sum(widths[p] for p in links.parents[t])
        form = (type(loss), joblib.hash(loss.get_params()), widths[t], level, read)
        groups.setdefault(form, []).append(t)
    found = [
        HeadGroup(tuple(members), losses[members[0]], width, level)
        for (_, _, width, level, _), members in groups.items()
    ]
    return sorted(found, key=lambda group: group.level)


class Heads(nn.Module):
    """The heads of one group: optional hidden layers, then a linear output, a task.

    Parameters
    ----------
    tower : StackedMLP
        Hidden layers.
    output : StackedLinear
        Output layer.
    tasks : sequence of int
        The group's tasks.

    Notes
    -----
    Shape: ``(*stack[, task], batch, n_inputs)`` -> ``(*stack, task, batch, n_outputs)``.
    """

    tasks: Tensor

    def __init__(self, tower: StackedMLP, output: StackedLinear, tasks: Sequence[int]) -> None:
        super().__init__()
        self.tower = tower
        self.output = output
        # Lies on the device, so that selecting by it makes no batch wait for a copy.
        self.register_buffer("tasks", torch.tensor(tasks), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Return the raw outputs of the group's tasks."""
        if self.tower.layers:
            features = self.tower(features)
        raw: Tensor = self.output(features)
        return raw


class MultiTaskNetwork(nn.Module):
    """Trunk and heads.

    Parameters
    ----------
    trunk : nn.Module
        Built by a :class:`Trunk`.
    heads : list of Heads
        One a group.
    groups : list of HeadGroup
        Which tasks each of them serves.
    n_tasks : int
        Number of tasks.
    links : Links or None, default=None
        The tasks' dependencies.
    """

    def __init__(
        self,
        trunk: nn.Module,
        heads: Sequence[Heads],
        groups: Sequence[HeadGroup],
        n_tasks: int,
        links: Links | None = None,
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.heads = nn.ModuleList(heads)
        self.groups = list(groups)
        self.n_tasks = n_tasks
        self.own_epochs: OwnEpochs | None = None  # once the network is trained
        self.linear: LinearPath | None = None  # mixed in after that
        self.parent_outputs = self.funnel = None
        if links is not None and links.kind == "outputs":
            forms = [(g.tasks, g.n_outputs, _of_classes(g.loss)) for g in groups]
            self.parent_outputs = ParentOutputs(links, forms)
        elif links is not None:
            self.funnel = FunnelOutputs(links, [g.tasks for g in groups])

    def forward(self, X: Tensor) -> tuple[Tensor, ...]:
        """Return raw outputs ``(*stack, tasks of the group, batch, n_outputs)``, one a group."""
        return self.outputs(X, self.trunk(X))

    def outputs(self, X: Tensor, features: Tensor) -> tuple[Tensor, ...]:
        """Return the raw outputs for rows and what the trunk makes of them."""
        raw = self.heads_of(features)
        if self.own_epochs is not None:
            raw = self.own_epochs(X, raw)
        return raw if self.linear is None else self.linear(X, raw)

    def keep_own_epochs(
        self,
        tasks: Sequence[Collection[int]],
        load: Callable[[MultiTaskNetwork, int], object],
    ) -> None:
        """Let tasks be predicted by other weights than the network's own, as long as it rests.

        Parameters
        ----------
        tasks : sequence of collection of int
            Those that have the same other weights.
        load : callable
            Gives the k-th such weights to a copy of the network.
        """
        if tasks:
            networks = [copy.deepcopy(self) for _ in tasks]
            for k, network in enumerate(networks):
                load(network, k)
            own = OwnEpochs(networks, tasks, [group.tasks for group in self.groups])
            self.own_epochs = own.to(next(self.parameters()).device)

    def rest_no_longer(self, *, absorb: bool) -> None:
        """Leave the network alone with its own weights, which go on learning.

        Parameters
        ----------
        absorb : bool
            Whether the heads are to take over the network's share beside linear models, which
            stay; else these go, too.
        """
        self.own_epochs = None
        if self.linear is not None and absorb:
            self.linear.absorb(self)
        elif not absorb:
            self.linear = None

    def heads_of(self, features: Tensor) -> tuple[Tensor, ...]:
        """Return the raw outputs for features ``(*stack[, task], batch, d)``."""
        raw: list[Tensor] = []
        for g, head in enumerate(self.heads):
            own = self._select(features, head.tasks)  # type: ignore[arg-type]
            if self.parent_outputs is not None:
                own = self.parent_outputs.beside(g, own, raw, len(self.groups[g].tasks))
            raw.append(head(own))
        return tuple(raw if self.funnel is None else self.funnel(raw))

    def has_task_axis(self, features: Tensor) -> bool:
        """Return whether the trunk gives every task a representation of its own."""
        output: StackedLinear = self.heads[0].output  # type: ignore[assignment]
        return features.dim() == output.weight.dim()

    def _select(self, features: Tensor, tasks: Tensor) -> Tensor:
        """Return the features of a group's tasks; shared features serve every group."""
        if not self.has_task_axis(features):
            return features
        if features.shape[-3] != self.n_tasks:
            raise ValueError(
                f"Got features of shape {tuple(features.shape)} from the trunk, expected "
                f"{self.n_tasks} on the task axis (third from the right), or no such axis where "
                "all tasks see the same. Squeeze it."
            )
        if len(tasks) == self.n_tasks:
            return features
        return features.index_select(-3, tasks)


_INPUTS = 2**32  # from here on lie the seeds of embeddings; those of trunks are below


def _of_classes(loss: Loss) -> bool:
    return "regression" not in loss.kinds


def build_network(
    trunk: Trunk,
    groups: Sequence[HeadGroup],
    *,
    n_inputs: int,
    n_tasks: int,
    hidden_layer_sizes: Sequence[int],
    head_hidden_layer_sizes: Sequence[int],
    activation: str,
    dropout: float | Sequence[float],
    seeds: Sequence[tuple[int, int, int]],
    dtype: torch.dtype,
    stack: tuple[int, ...] = (),
    links: Links | None = None,
    embedding: Embedding | None = None,
    prepared: Sequence[Prepared] | None = None,
    layout: Layout | None = None,
    input_scale_rate: float = 0.0,
) -> MultiTaskNetwork:
    """Build a network, or a stack of networks of one form.

    Parameters
    ----------
    trunk : Trunk
        The architecture.
    groups : sequence of HeadGroup
        See :func:`group_tasks`.
    n_inputs, n_tasks : int
        Sizes.
    hidden_layer_sizes, head_hidden_layer_sizes, activation, dropout
        As in the estimators; ``dropout`` may be one a network of the stack.
    seeds : sequence of (int, int, int)
        For every network of the stack: seeds of the trunk's initial values, the heads' initial
        values, and the dropout masks.
    dtype : torch.dtype
        Type of parameters and inputs.
    stack : tuple of int, default=()
        Sizes of the stack axes; empty for one network.
    links : Links or None, default=None
        The tasks' dependencies, as ``groups`` were made with.
    embedding : Embedding or None, default=None
        What numbers become before the trunk reads them.
    prepared : sequence of Prepared or None, default=None
        What the embedding knows of the training table, one a network.
    layout : Layout or None, default=None
        What the columns of the table are; None for ``n_inputs`` numbers.
    input_scale_rate : float, default=0.0
        As in the estimators.

    Returns
    -------
    MultiTaskNetwork
        On the CPU, in training mode.
    """
    masks = [s[2] for s in seeds]
    at_entrance = Draws([s[0] + _INPUTS for s in seeds], stack, dtype)
    own = n_tasks if trunk.private else None
    inputs = build_inputs(
        embedding,
        prepared or [Prepared()] * len(seeds),
        layout or Layout(n_inputs),
        at_entrance,
        own,
    )
    if inputs is not None:
        n_inputs = inputs.to(dtype).n_outputs
    scales = InputScales(n_inputs, input_scale_rate, at_entrance, own) if input_scale_rate else None
    spec = TrunkSpec(
        n_inputs=n_inputs,
        n_tasks=n_tasks,
        hidden_layer_sizes=tuple(hidden_layer_sizes),
        activation=activation,
        dropout=dropout,
        draws=Draws([s[0] for s in seeds], stack, dtype),
        seed=masks,
    )
    body = enter(inputs, scales, trunk.build(spec).to(dtype))
    head_draws = Draws([s[1] for s in seeds], stack, dtype)
    network = MultiTaskNetwork(body, [], groups, n_tasks, links)
    for g, group in enumerate(groups):
        # Private networks start each head from the same bits, as separate fits would.
        draws = head_draws.restarted() if trunk.private else head_draws
        beside = 0 if network.parent_outputs is None else network.parent_outputs.widths[g]
        n_heads = len(group.tasks)
        tower = StackedMLP(
            int(body.n_outputs) + beside,  # type: ignore[arg-type]
            head_hidden_layer_sizes,
            draws,
            activation=activation,
            dropout=dropout,
            seed=shifted(masks, 500 + (0 if trunk.private else 10 * g)),
            parallel=n_heads,
            tie=trunk.private,
        )
        output = StackedLinear(
            tower.n_outputs, group.n_outputs, draws, parallel=n_heads, tie=trunk.private
        )
        network.heads.append(Heads(tower, output, group.tasks))
    return network
