"""Train a stack of networks as one, each as it would be trained alone."""

from __future__ import annotations

import copy
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from sk_mtl._support import Stream, keep_freed_memory
from sk_mtl.averages import Averages
from sk_mtl.batches import Batches, StackedBatches, TaskData
from sk_mtl.best_weights import BestWeights, State
from sk_mtl.callbacks import TaskStopping
from sk_mtl.layers import Dropout
from sk_mtl.network import MultiTaskNetwork
from sk_mtl.objective import Objective, encoded_scores
from sk_mtl.stack import NetworkStack, load_tensors, one_of
from sk_mtl.steps import Penalties, backpropagate, look_back
from sk_mtl.totals import EpochTotals, record

SHRINK_BELOW = 0.75  # the share of networks still training at which the others leave the stack

MakeOptimizer = Callable[..., torch.optim.Optimizer]


@dataclass(frozen=True)
class Source:
    """What networks read: the rows of a fold in an order.

    Attributes
    ----------
    train : TaskData
        Training rows.
    valid : TaskData or None
        Validation rows.
    shuffle : Stream or None
        Where permutations of the training rows come from.
    """

    train: TaskData
    valid: TaskData | None
    shuffle: Stream | None


@dataclass(frozen=True)
class Member:
    """How one network of a stack is trained.

    Attributes
    ----------
    source : int
        The source that it reads.
    learning_rate : float
        Its learning rate.
    max_iter : int
        Most epochs.
    stopping : TaskStopping
        When it ends, and which of its weights are kept.
    clip : tuple of (float, float) or None
        Largest norm of its gradient, and the norm's order.
    task_names : sequence of str, default=()
        For its history, where its tasks have other names than those of the stack.
    """

    source: int
    learning_rate: float
    max_iter: int
    stopping: TaskStopping
    clip: tuple[float, float] | None = None
    task_names: Sequence[str] = ()


@dataclass
class Trained:
    """What became of one network.

    Attributes
    ----------
    history : list of dict
        What was recorded of its epochs.
    state : dict of str to Tensor
        The weights that are kept.
    tasks : list of tuple of int
        Tasks whose best epochs are others.
    own_states : list of dict of str to Tensor
        The weights that are kept for them.
    shuffle : Stream or None
        The order of rows, where its training ended.
    masks : dict of str to Stream
        The dropout masks of its layers, where its training ended.
    interrupted : bool
        Whether the user ended it.
    """

    history: list[dict[str, Any]] = field(default_factory=list)
    state: State = field(default_factory=dict)
    tasks: list[tuple[int, ...]] = field(default_factory=list)
    own_states: list[State] = field(default_factory=list)
    shuffle: Stream | None = None
    masks: dict[str, Stream] = field(default_factory=dict)
    interrupted: bool = False

    def load_into(self, network: MultiTaskNetwork) -> None:
        """Give the weights and the streams of masks to a network of its own."""
        load_tensors(self.state, network)
        for name, module in network.named_modules():
            if isinstance(module, Dropout):
                module.streams = [self.masks[name]]

    def load_own_into(self, network: MultiTaskNetwork) -> None:
        """Give the tasks of other best epochs their weights, once the network rests."""
        states = self.own_states
        network.keep_own_epochs(self.tasks, lambda other, k: load_tensors(states[k], other))


class StackedTraining:
    """Train the networks of a stack in lockstep.

    A network that is done has its weights taken; when few are left, the others leave the stack.
    Without an effect on any other, one may diverge.

    Parameters
    ----------
    network, template : MultiTaskNetwork
        The stack, and one network alone; see :class:`NetworkStack`.
    objective : Objective
        What each minimises.
    sources : sequence of Source
        Of equally many rows.
    members : sequence of Member
        One a network, in the order of the stack.
    task_names : sequence of str
        For the history.
    batch_size : int
        Rows a batch.
    decay : Tensor of shape (n_networks,) or (n_networks, n_tasks)
        L2 penalty a batch.
    make_optimizer : callable
        Parameters, and ``lr``, to an optimiser whose step is the learning rate times a direction
        that does not depend on the parameters.
    ema_decay : float, default=0.0
        See :class:`~sk_mtl.averages.Averages`.
    """

    def __init__(
        self,
        network: MultiTaskNetwork,
        template: MultiTaskNetwork,
        objective: Objective,
        sources: Sequence[Source],
        members: Sequence[Member],
        *,
        task_names: Sequence[str],
        batch_size: int,
        decay: Tensor,
        make_optimizer: MakeOptimizer,
        ema_decay: float = 0.0,
    ) -> None:
        self.network, self.objective = network, objective
        self.sources, self.members = list(sources), list(members)
        self.task_names, self.batch_size = list(task_names), batch_size
        self.decay = decay
        self.stack = NetworkStack(
            network, template, len(members), sources[0].train.features(slice(3))
        )
        self.active = list(range(len(members)))  # who stands where in the stack
        self.epoch = 0
        self.trained = [Trained() for _ in members]
        self._done = [False] * len(members)
        self._leaving = False
        self._lowest = {"train": [torch.inf] * len(members), "valid": [torch.inf] * len(members)}
        rates = [member.learning_rate for member in members]
        self.steps = MemberSteps(list(network.parameters()), rates, make_optimizer)
        self.averages = Averages(list(network.parameters()), ema_decay)
        self._best: BestWeights | None = None
        if sources[0].valid is not None:
            self._best = BestWeights(self.stack, self._own_tasks())
        self._enter()

    def run(self) -> list[Trained]:
        """Train all to their ends; a KeyboardInterrupt ends them all where they stand."""
        for member in self.members:
            member.stopping.begin()
        keep_freed_memory()
        try:
            while self.active:
                self._run_epoch()
                self._close_epoch()
        except KeyboardInterrupt:
            self.averages.exchange(averaged=True)
            waiting = [i for i, done in enumerate(self._done) if not done]
            if not self._leaving:  # else they were taken before the stack was changed
                self._take(waiting)
            for i in waiting:
                self.trained[i].interrupted = True
        return self.trained

    # One epoch ----------------------------------------------------------------------------

    def _enter(self) -> None:
        """Set up what depends on who is in the stack."""
        used = sorted({self.members[i].source for i in self.active})
        of = [used.index(self.members[i].source) for i in self.active]
        chosen = [self.sources[s] for s in used]
        self._train = StackedBatches(
            [Batches(s.train, self.batch_size, s.shuffle) for s in chosen], of
        )
        self._valid = None
        if self._best is not None:
            valid = [s.valid for s in chosen if s.valid is not None]
            # More rows at a time would take more memory than a step does.
            self._valid = StackedBatches([Batches(v, self.batch_size) for v in valid], of)
        self.penalty = Penalties(self.network, self.objective, self.decay)
        self.clipping = Clipping([self.members[i].clip for i in self.active], self.decay)

    def _run_epoch(self) -> None:
        """Train for one epoch, validate, and record both."""
        start = time.perf_counter()
        self.epoch += 1
        entries: list[dict[str, Any]] = [{"epoch": self.epoch} for _ in self.active]
        parameters = list(self.network.parameters())
        self.averages.exchange(averaged=False)
        self._set_mode(training=True)
        totals = EpochTotals()
        for batch in self._train:
            for parameter in parameters:
                parameter.grad = None
            losses, weights, mass, _ = backpropagate(
                self.network, self.objective, batch, complete=self._train.complete
            )
            self.penalty.add()
            self.clipping.apply(parameters)
            self.steps.step()
            self.averages.update()
            look_back(self.network, self.objective, batch, complete=self._train.complete)
            totals.add(losses, batch[1].shape[-2] if mass is None else mass, weights)
        self._record(entries, "train", totals)
        self.averages.exchange(averaged=True)
        if self._valid is not None:
            self._validate(entries, self._valid)
        seconds = time.perf_counter() - start
        for i, entry in zip(self.active, entries, strict=True):
            if not self._done[i]:
                self.trained[i].history.append({**entry, "dur": seconds})

    def _set_mode(self, *, training: bool) -> None:
        self.network.train(training)
        self.objective.train(training)

    @torch.no_grad()
    def _validate(self, entries: list[dict[str, Any]], batches: StackedBatches) -> None:
        self._set_mode(training=False)
        totals, outputs, targets = EpochTotals(), [], []
        weights: list[Tensor] = []
        used = self.objective.user_weights
        for inputs, y in batches:
            assert inputs["X"] is not None
            raw, weight = self.network(inputs["X"]), inputs["sample_weight"]
            losses, mass = self.objective.task_losses(raw, y, weight, complete=batches.complete)
            totals.add(losses, y.shape[-2] if mass is None else mass, used)
            outputs.append(raw)
            targets.append(y)
            if weight is not None:
                weights.append(weight)
        self._record(entries, "valid", totals)
        whole = [torch.cat(part, dim=-2) for part in zip(*outputs, strict=True)]
        whole_weight = torch.cat(weights, dim=-2) if weights else None
        y = torch.cat(targets, dim=-2)
        groups = [  # with the numbers of each network's loss
            replace(group, loss=loss)
            for group, loss in zip(self.network.groups, self.objective.losses, strict=True)
        ]
        scores = encoded_scores(groups, whole, y, whole_weight).nanmean(-1)
        for entry, score in zip(entries, scores.tolist(), strict=True):
            entry["valid_score"] = score

    def _record(self, entries: list[dict[str, Any]], prefix: str, totals: EpochTotals) -> None:
        """Add the losses of an epoch to the entries of all networks."""
        means, mass, used = totals.means()
        if prefix == "train":
            self.objective.end_epoch(means, mass)
            self.penalty.end_epoch()
        share = self.objective.normalised(self.objective.user_weights, mass)
        losses = (means * share).sum(-1)
        rows = zip(losses.tolist(), means.tolist(), used.tolist(), strict=True)
        lowest = self._lowest[prefix]
        for i, entry, (loss, mean, weight) in zip(self.active, entries, rows, strict=True):
            names = self._names(i)
            entry |= record(prefix, names, loss, mean, weight, totals.n_batches)
            entry[f"{prefix}_loss_best"] = loss <= lowest[i]
            lowest[i] = min(loss, lowest[i])

    # Afterwards ---------------------------------------------------------------------------

    def _close_epoch(self) -> None:
        """Keep the best weights; take those of the networks that are done; let these go."""
        improved: defaultdict[int | None, list[int]] = defaultdict(list)
        done = []
        for place, i in enumerate(self.active):
            if self._done[i]:
                continue
            member, history = self.members[i], self.trained[i].history
            if member.stopping.watch(history[-1], len(history)):
                improved[None].append(place)
            for name in member.stopping.improved_:
                improved[self._names(i).index(name)].append(place)
            if member.stopping.stopped_ or len(history) >= member.max_iter:
                done.append(i)
        if self._best is not None and improved:
            self._best.renew(self.stack, improved)
        self._take(done)
        for i in done:
            self._done[i] = True
        left = [place for place, i in enumerate(self.active) if not self._done[i]]
        if len(left) <= SHRINK_BELOW * len(self.active):
            self._shrink(left)

    def _take(self, networks: Sequence[int]) -> None:
        """Take the weights that are kept of networks, as they are now."""
        for i in networks:
            place = self.active.index(i)
            source, trained = self.sources[self.members[i].source], self.trained[i]
            stopping = self.members[i].stopping
            # of the best epoch, unless none was seen to its end
            if self._best is not None and stopping.best_epoch_:
                trained.state = self._best.of(place)
                trained.tasks = stopping.tasks_by_epoch(self._names(i))
                trained.own_states = [self._best.of(place, own[0]) for own in trained.tasks]
            else:
                trained.state = one_of(self.stack.tensors, place)
            trained.shuffle = copy.deepcopy(source.shuffle)
            trained.masks = self.stack.masks_of(place)

    def _shrink(self, places: Sequence[int]) -> None:
        """Go on with the networks at these places only."""
        active = [self.active[place] for place in places]
        if active:
            self._take(active)  # should the user interrupt in the midst of it
            self._leaving = True
        self.active = active
        if not active:
            return
        index = self._index(places)
        self.stack.keep(index)
        self.objective.keep(index)
        self.steps.keep(index)
        self.averages.keep(index)
        self.decay = self.decay.index_select(0, index)
        if self._best is not None:
            self._best.keep(index)
        self._enter()
        self._leaving = False

    def _own_tasks(self) -> list[int]:
        """Return the tasks that have a best epoch of their own in some network."""
        own = set[int]()
        for i, member in enumerate(self.members):
            if member.stopping.watches_each:
                own |= {self._names(i).index(name) for name in member.stopping.task_names}
        return sorted(own)

    def _names(self, i: int) -> Sequence[str]:
        """Return the names of a network's tasks."""
        return self.members[i].task_names or self.task_names

    def _index(self, places: Sequence[int]) -> Tensor:
        return torch.tensor(places, device=self.decay.device)


class MemberSteps:
    """Steps of an optimiser whose learning rate differs from network to network.

    Where it does, the optimiser moves a shadow of the parameters from zero at a learning rate of
    one, and each network follows at its own: so any optimiser of torch serves whose step is
    linear in the rate.

    Parameters
    ----------
    parameters : list of Parameter
        Of the stack.
    rates : sequence of float
        Learning rate of each network.
    make_optimizer : callable
        See :class:`StackedTraining`.
    """

    def __init__(
        self,
        parameters: list[torch.nn.Parameter],
        rates: Sequence[float],
        make_optimizer: MakeOptimizer,
    ) -> None:
        self.parameters = parameters
        self.rates: Tensor | None = None
        self.moved: list[Tensor] = list(parameters)
        rate = rates[0]
        if len(set(rates)) > 1:
            like = parameters[0]
            self.rates = torch.tensor(rates, dtype=like.dtype, device=like.device)
            self.moved = [torch.zeros_like(p, requires_grad=False) for p in parameters]
            rate = 1.0
        self.optimizer = make_optimizer(self.moved, lr=rate)

    @torch.no_grad()
    def step(self) -> None:
        """Take one step."""
        if self.rates is None:
            self.optimizer.step()
            return
        for shadow, parameter in zip(self.moved, self.parameters, strict=True):
            shadow.grad = parameter.grad
        self.optimizer.step()
        for shadow, parameter in zip(self.moved, self.parameters, strict=True):
            rates = self.rates.view(-1, *[1] * (shadow.dim() - 1))
            parameter.addcmul_(shadow, rates)
            shadow.zero_()

    def keep(self, index: Tensor) -> None:
        """Let all networks but those of the given indices go."""
        if self.rates is not None:
            self.rates = self.rates.index_select(0, index)
            for shadow in self.moved:
                shadow.grad = None
                shadow.data = shadow.data.index_select(0, index)
        for state in self.optimizer.state.values():
            for name, value in state.items():
                if isinstance(value, Tensor) and value.dim():
                    state[name] = value.index_select(0, index)


class Clipping:
    """Bounds on the norm of each network's gradient, as torch's ``clip_grad_norm_``.

    Parameters
    ----------
    bounds : sequence of (float, float) or None
        Largest norm and the norm's order, a network.
    like : Tensor
        Of the type and on the device of the gradients.
    """

    def __init__(self, bounds: Sequence[tuple[float, float] | None], like: Tensor) -> None:
        given = {b for b in bounds if b is not None}
        self.order = next(iter(given))[1] if given else None
        largest = [torch.inf if b is None else b[0] for b in bounds]
        self.largest = torch.tensor(largest, dtype=like.dtype, device=like.device)

    def apply(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Scale the gradients of networks whose norm is larger than their bound."""
        if self.order is None:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        norms = [torch.linalg.vector_norm(g.flatten(1), self.order, dim=1) for g in gradients]
        norm = torch.linalg.vector_norm(torch.stack(norms), self.order, dim=0)
        factor = (self.largest / (norm + 1e-6)).clamp(max=1.0).to(norm.dtype)
        for gradient in gradients:
            gradient.mul_(factor.view(-1, *[1] * (gradient.dim() - 1)))
