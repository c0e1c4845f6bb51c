"""A stack trains each of its networks as a plain loop of torch would train it alone."""

from __future__ import annotations

import copy
from functools import partial
from math import inf

import numpy as np
import pytest
import torch
from stacks import (
    NAMES,
    network_of,
    objective_of,
    plain_loss,
    plain_losses,
    plain_penalty,
    recipe_of,
    rows_of,
)
from torch import nn
from torch.testing import assert_close

from sk_mtl._support import Stream
from sk_mtl.batches import Batches, StackedBatches, TaskData
from sk_mtl.callbacks import TaskStopping
from sk_mtl.footprint import footprint
from sk_mtl.objective import Objective
from sk_mtl.stack import NetworkStack
from sk_mtl.stacked_training import (
    Clipping,
    Member,
    MemberSteps,
    Source,
    StackedTraining,
)
from sk_mtl.trunks import TRUNKS

every_trunk = pytest.mark.parametrize("trunk", TRUNKS)

SOLVERS = {
    "adam": partial(torch.optim.Adam, fused=True),
    "adam, not fused": torch.optim.Adam,
    "sgd": partial(torch.optim.SGD, momentum=0.9, nesterov=True, fused=True),
    "sgd without nesterov": partial(torch.optim.SGD, momentum=0.5),
    "sgd without momentum": torch.optim.SGD,
}


def randn(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# One optimiser for many learning rates ------------------------------------------------------

SHAPES = [(5, 2, 3), (5, 4), (5, 2, 2, 3)]  # of a stack of five
RATES = [1e-3, 0.5, 1e-2, 3.0, 0.1]


def parameters_of_five():
    return [nn.Parameter(randn(*shape, seed=10 + i)) for i, shape in enumerate(SHAPES)]


def set_gradients(parameters, places, step):
    for i, parameter in enumerate(parameters):
        parameter.grad = randn(*SHAPES[i], seed=100 * step + i)[places]


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("rates", [RATES, [0.1] * 5], ids=["rates", "one rate"])
def test_each_network_steps_at_its_own_rate(solver, rates):
    """As torch's optimiser on the part of each network; three of five leave after four steps."""
    parameters = parameters_of_five()
    alone = [[nn.Parameter(p[i].detach().clone()) for p in parameters] for i in range(5)]
    steps = MemberSteps(parameters, rates, SOLVERS[solver])
    optimizers = [SOLVERS[solver](alone[i], lr=rates[i]) for i in range(5)]
    places = [0, 1, 2, 3, 4]
    for step in range(8):
        if step == 4:
            places = [3, 1]
            index = torch.tensor(places)
            for parameter in parameters:  # as NetworkStack.keep does
                parameter.grad = None
                parameter.data = parameter.data.index_select(0, index)
            steps.keep(index)
        set_gradients(parameters, places, step)
        steps.step()
        for i in places:
            set_gradients(alone[i], i, step)
            optimizers[i].step()
    for place, i in enumerate(places):
        for ours, theirs in zip(parameters, alone[i], strict=True):
            assert_close(ours[place], theirs, rtol=0, atol=1e-13)
    # Negative control: at another's rate, or with another's memory, it would be elsewhere.
    wrong = [nn.Parameter(p[1].detach().clone()) for p in parameters_of_five()]
    other = SOLVERS[solver](wrong, lr=RATES[2])
    for step in range(8):
        set_gradients(wrong, 1, step)
        other.step()
    assert (wrong[0] - parameters[0][1]).abs().max() > 1e-3


def test_equal_rates_need_no_shadow():
    parameters = parameters_of_five()
    steps = MemberSteps(parameters, [0.1] * 5, SOLVERS["adam"])
    assert steps.rates is None
    assert all(a is b for a, b in zip(steps.moved, parameters, strict=True))


def test_what_has_no_gradient_does_not_move():
    parameters = parameters_of_five()
    before = parameters[1].detach().clone()
    steps = MemberSteps(parameters, RATES, SOLVERS["sgd"])
    for step in range(3):
        set_gradients(parameters, slice(None), step)
        parameters[1].grad = None
        steps.step()
    assert torch.equal(parameters[1], before)
    assert not torch.equal(parameters[0], parameters_of_five()[0])


@pytest.mark.parametrize("solver", ["adam", "sgd"])
@pytest.mark.parametrize("bad", [inf, torch.nan])
def test_a_bad_gradient_stays_with_its_network_to_the_last_bit(solver, bad):
    found = []
    for value in (1.0, bad):
        parameters = parameters_of_five()
        steps = MemberSteps(parameters, RATES, SOLVERS[solver])
        for step in range(4):
            set_gradients(parameters, slice(None), step)
            for parameter in parameters:
                parameter.grad[2] *= value
            steps.step()
        found.append([p.detach() for p in parameters])
    for sane, wild in zip(*found, strict=True):
        others = [0, 1, 3, 4]
        assert torch.equal(sane[others], wild[others])
        assert not wild[2].isfinite().any()


# Clipping -----------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [1.0, 2.0, inf])
def test_clipping_is_torchs_own_for_each_network(order):
    parameters = [*parameters_of_five(), nn.Parameter(torch.zeros(5, 2, dtype=torch.float64))]
    set_gradients(parameters[:3], slice(None), 0)  # the last has none
    scales = torch.tensor([1.0, 1e-3, 1e4, 1.0, 0.0], dtype=torch.float64)
    for parameter in parameters[:3]:
        parameter.grad *= scales.view(-1, *[1] * (parameter.dim() - 1))
    before = [p.grad.clone() for p in parameters[:3]]
    bounds = [(0.5, order), (0.5, order), (2.0, order), None, (1.0, order)]
    Clipping(bounds, parameters[0]).apply(parameters)
    for i, bound in enumerate(bounds):
        alone = [nn.Parameter(p[i].detach().clone()) for p in parameters]
        for parameter, gradient in zip(alone[:3], before, strict=True):
            parameter.grad = gradient[i].clone()
        if bound is not None:
            nn.utils.clip_grad_norm_(alone, *bound)
        for ours, theirs in zip(parameters[:3], alone[:3], strict=True):
            assert_close(ours.grad[i], theirs.grad, rtol=1e-14, atol=0)
    assert parameters[3].grad is None
    changed = [not torch.equal(parameters[0].grad[i], before[0][i]) for i in range(5)]
    assert changed == [True, False, True, False, False]


def test_clipping_without_bounds_reads_nothing():
    parameters = parameters_of_five()
    set_gradients(parameters, slice(None), 0)
    before = [p.grad.clone() for p in parameters]
    clipping = Clipping([None] * 5, parameters[0])
    assert clipping.order is None
    clipping.apply(parameters)
    assert all(torch.equal(p.grad, b) for p, b in zip(parameters, before, strict=True))


def test_clipping_a_bad_gradient_leaves_the_others_alone():
    found = []
    for value in (1.0, torch.nan):
        parameters = parameters_of_five()
        set_gradients(parameters, slice(None), 0)
        parameters[0].grad[2, 0] *= value
        Clipping([(0.1, 2.0)] * 5, parameters[0]).apply(parameters)
        found.append([p.grad for p in parameters])
    for sane, wild in zip(*found, strict=True):
        assert torch.equal(sane[[0, 1, 3, 4]], wild[[0, 1, 3, 4]])
        assert wild[2].isnan().all()  # as clip_grad_norm_ leaves it


# Batches of several sources -----------------------------------------------------------------


def sets_of(kind):
    """Sources of 23 rows each: of one table, of several, or two of one."""
    tables = [TaskData(*rows_of(30, seed=s), torch.rand(30, 1)) for s in range(3)]
    rows = [torch.randperm(30, generator=torch.Generator().manual_seed(s))[:23] for s in range(3)]
    whole = [TaskData(*rows_of(23, seed=s), torch.rand(23, 1)) for s in range(3)]
    return {
        "whole tables": whole,
        "parts of tables": [t.subset(r) for t, r in zip(tables, rows, strict=True)],
        "one table, other rows": [tables[0].subset(r) for r in rows],
        "two tables": [tables[1].subset(rows[0]), whole[0], tables[1].subset(rows[2])],
        "one source": [tables[0].subset(rows[1])],
    }[kind]


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("batch_size", [8, 23], ids=["batches", "full batch"])
@pytest.mark.parametrize(
    "kind",
    ["whole tables", "parts of tables", "one table, other rows", "two tables", "one source"],
)
def test_each_network_reads_the_batches_of_its_source(kind, batch_size, shuffle):
    sets = sets_of(kind)
    of = [0] * 4 if len(sets) == 1 else [2, 0, 1, 0]

    def batches():
        streams = [Stream(s) if shuffle else None for s in range(len(sets))]
        return [Batches(d, batch_size, s) for d, s in zip(sets, streams, strict=True)]

    stacked, alone = StackedBatches(batches(), of), batches()
    epochs = []
    for _ in range(2):
        expected = [list(source) for source in alone]
        together = list(stacked)
        assert len(together) == len(expected[0]) == -(-23 // batch_size)
        for k, (inputs, y) in enumerate(together):
            assert y.dim() == (2 if len(sets) == 1 else 3)
            for place, source in enumerate(of):
                theirs, labels = expected[source][k]
                for key, value in theirs.items():
                    ours = inputs[key] if len(sets) == 1 else inputs[key][place]
                    assert torch.equal(ours, value)
                ours = y if len(sets) == 1 else y[place]
                assert torch.equal(ours.nan_to_num(-9), labels.nan_to_num(-9))
        epochs.append(together[0][1].nan_to_num(-9))
    moved = shuffle and batch_size < 23
    assert torch.equal(*epochs) != moved  # a new order every epoch, where there is one


def test_a_stack_is_complete_if_every_source_is():
    full, holes = (TaskData(*rows_of(9, missing=missing)) for missing in (False, True))
    assert StackedBatches([Batches(full, 4), Batches(full, 4)], [0, 1]).complete
    assert not StackedBatches([Batches(full, 4), Batches(holes, 4)], [0, 1]).complete


# Whole trainings ----------------------------------------------------------------------------

BATCH = 16
TABLES = {0: 0, 1: 1, 2: 2}  # source -> seed of its table
N_TRAIN, N_VALID = 41, 23
MEMBERS = [  # seed, source, epochs, task weights, penalty
    (7, 0, 5, [1.0, 1.0, 1.0, 1.0], 0.1),
    (7, 0, 2, [1.0, 2.0, 0.5, 3.0], 0.0),
    (8, 1, 5, [0.0, 1.0, 0.0, 4.0], 2.0),
    (7, 2, 1, [1.0, 0.0, 1.0, 1.0], 0.1),
    (9, 1, 3, [2.0, 1.0, 1.0, 1.0], 0.5),
]
EPOCHS = [epochs for _, _, epochs, _, _ in MEMBERS]


def source_of(seed, *, validation=False):
    X, y = rows_of(N_TRAIN + N_VALID, seed=seed)
    train = TaskData(X[:N_TRAIN], y[:N_TRAIN])
    return Source(train, TaskData(X[N_TRAIN:], y[N_TRAIN:]) if validation else None, Stream(seed))


def stacked(
    trunk="shared_bottom",
    members=MEMBERS,
    *,
    solver="adam",
    rates=(0.01,) * 5,
    clips=(None,) * 5,
    validation=False,
    dropout=0.0,
    epochs=EPOCHS,
    patience=inf,
    tol=0.0,
):
    """A training of several networks, not yet run."""
    seeds = [m[0] for m in members]
    decay = [m[4] for m in members]
    if recipe_of(trunk).private:
        decay = [[d] * 4 for d in decay]
    return StackedTraining(
        network_of(trunk, seeds, stack=(len(seeds),), dropout=dropout),
        network_of(trunk, seeds[:1], dropout=dropout),
        objective_of(trunk, [m[3] for m in members]),
        [source_of(seed, validation=validation) for seed in TABLES.values()],
        [
            Member(m[1], rate, n, TaskStopping(NAMES, validation, tol=tol, patience=patience), clip)
            for m, rate, clip, n in zip(members, rates, clips, epochs, strict=True)
        ],
        task_names=NAMES,
        batch_size=BATCH,
        decay=torch.tensor(decay, dtype=torch.float64),
        make_optimizer=SOLVERS[solver],
    )


class Plain:
    """The same for one of them, written as a loop of torch."""

    def __init__(self, trunk, member, *, solver, rate, clip, validation=False, dropout=0.0):
        self.seed, self.source, _, self.weights, self.decay = member
        self.private = recipe_of(trunk).private
        self.network = network_of(trunk, [self.seed], dropout=dropout)
        self.optimizer = SOLVERS[solver](self.network.parameters(), lr=rate)
        self.clip = clip
        X, y = rows_of(N_TRAIN + N_VALID, seed=TABLES[self.source])
        self.X, self.y = X[:N_TRAIN], y[:N_TRAIN]
        self.valid = (X[N_TRAIN:], y[N_TRAIN:]) if validation else None
        self.shuffle = torch.Generator().manual_seed(TABLES[self.source])
        self.curve, self.task_curve, self.valid_curve, self.states = [], [], [], []

    def run(self, epochs):
        for _ in range(epochs):
            self.epoch()
        return self

    def epoch(self):
        sums, mass = np.zeros(4), np.zeros(4)
        for rows in torch.randperm(N_TRAIN, generator=self.shuffle).split(BATCH):
            X, y = self.X[rows], self.y[rows]
            before = copy.deepcopy(self.network)  # which draws the same masks once more
            losses = plain_losses(before, X, y)
            for t, loss in enumerate(losses):
                n = int((~y[:, t].isnan()).sum())
                sums[t] += 0 if loss is None else n * loss.item()
                mass[t] += n
            self.optimizer.zero_grad()
            loss = plain_loss(self.network, X, y, self.weights, private=self.private)
            decay = [self.decay] * 4 if self.private else self.decay
            penalty = plain_penalty(self.network, self.weights, decay, private=self.private)
            (loss + penalty).backward()
            if self.clip is not None:
                nn.utils.clip_grad_norm_(self.network.parameters(), *self.clip)
            self.optimizer.step()
        means = sums / mass
        times = 4 if self.private else 1
        self.task_curve.append(means)
        self.curve.append(np.average(means, weights=self.weights) * times)
        if self.valid is not None:
            self.network.eval()
            with torch.no_grad():
                losses = plain_losses(self.network, *self.valid)
            self.network.train()
            self.valid_curve.append([loss.item() for loss in losses])
        self.states.append(copy.deepcopy(self.network.state_dict()))


def assert_same(state, network_state, *, atol=5e-12):
    named = {name: value for name, value in network_state.items() if name in state}
    assert set(named) == set(state)
    for name, value in named.items():
        assert_close(state[name], value, rtol=0, atol=atol)


def difference(state, other):
    return max((state[name] - other[name]).abs().max().item() for name in state)


RATES_OF_FIVE = (0.01, 0.003, 0.05, 0.02, 0.001)
VARIANTS = {
    "equal rates": {},
    "rates": {"rates": RATES_OF_FIVE},
    "sgd": {"solver": "sgd", "rates": RATES_OF_FIVE},
    "clipped": {"clips": [(0.05, 2.0), (0.5, 2.0), None, (0.1, 2.0), (1.0, 2.0)]},
    "clipped by the largest": {"solver": "sgd", "clips": [(0.01, inf)] * 5},
    "clipped by the sum": {"rates": RATES_OF_FIVE, "clips": [(0.3, 1.0)] * 5},
    "dropout": {"dropout": 0.3, "rates": RATES_OF_FIVE},
}


CASES = [
    (trunk, variant)
    for trunk in TRUNKS
    for variant in (VARIANTS if trunk == "shared_bottom" else ["rates", "clipped", "dropout"])
]


@pytest.mark.parametrize(("trunk", "variant"), CASES, ids=["-".join(case) for case in CASES])
def test_a_stack_of_networks_is_a_plain_loop_for_each(trunk, variant, monkeypatch):
    """Three sources, other penalties and task weights, and an end of its own for each."""
    options = {"solver": "adam", "rates": (0.01,) * 5, "clips": (None,) * 5, "dropout": 0.0}
    options |= VARIANTS[variant]
    sizes = record_sizes(monkeypatch)
    trained = stacked(trunk, **options).run()
    assert sizes == [3, 2]  # of five networks, the others left after two and three epochs
    for i, member in enumerate(MEMBERS):
        choice = {"rate": options["rates"][i], "clip": options["clips"][i]}
        same = {"solver": options["solver"], "dropout": options["dropout"]}
        plain = Plain(trunk, member, **choice, **same).run(EPOCHS[i])
        assert_same(trained[i].state, plain.states[-1])
        history = trained[i].history
        assert [epoch["epoch"] for epoch in history] == list(range(1, EPOCHS[i] + 1))
        found = [epoch["train_loss"] for epoch in history]
        np.testing.assert_allclose(found, plain.curve, rtol=0, atol=1e-12)
        by_task = [[epoch[f"train_loss_{name}"] for name in NAMES] for epoch in history]
        np.testing.assert_allclose(by_task, plain.task_curve, rtol=0, atol=1e-12)
        assert history[0]["train_batch_count"] == 3
        assert [history[0][f"weight_{name}"] for name in NAMES] == member[3]
        assert torch.equal(trained[i].shuffle.generator().get_state(), plain.shuffle.get_state())
        assert not trained[i].interrupted
    assert difference(trained[0].state, trained[1].state) > 1e-3  # negative control
    assert difference(trained[4].state, trained[2].state) > 1e-3


def record_sizes(monkeypatch):
    """Return a list that takes the size of a stack whenever networks leave it."""
    sizes, keep = [], NetworkStack.keep

    def recorded(stack, index):
        sizes.append(len(index))
        keep(stack, index)

    monkeypatch.setattr(NetworkStack, "keep", recorded)
    return sizes


@every_trunk
def test_the_weights_of_the_best_epoch_are_kept(trunk):
    """By the relative validation losses of a plain loop; the last epoch is not the best."""
    options = {"solver": "adam", "validation": True, "dropout": 0.1}
    rates = (0.1, 0.02, 0.2, 0.01, 0.05)
    epochs = [8, 6, 8, 2, 3]
    trained = stacked(trunk, rates=rates, epochs=epochs, **options).run()
    best = []
    for i, member in enumerate(MEMBERS):
        plain = Plain(trunk, member, rate=rates[i], clip=None, **options).run(epochs[i])
        curve = np.array(plain.valid_curve)
        found = [[e[f"valid_loss_{name}"] for name in NAMES] for e in trained[i].history]
        np.testing.assert_allclose(found, curve, rtol=0, atol=1e-11)
        best.append((curve / curve[0]).mean(axis=1).argmin())
        assert_same(trained[i].state, plain.states[best[-1]], atol=1e-11)
    assert any(b + 1 < n for b, n in zip(best, epochs, strict=True))
    assert len(set(best)) > 2


def test_a_network_ends_by_its_own_rule():
    """Patience, tolerance and the last epoch differ from network to network."""
    training = stacked(rates=(0.1, 0.02, 0.2, 0.01, 0.05), epochs=[25, 25, 25, 25, 7])
    for member, patience, tol in zip(training.members, [1, 3, 2, 2, 9], [0, 0, 0.05, 1, 0],
                                     strict=True):  # fmt: skip
        member.stopping.patience, member.stopping.tol = patience, tol
    trained = training.run()
    ends = []
    for i, member in enumerate(MEMBERS):
        rule = training.members[i]
        plain = Plain("shared_bottom", member, solver="adam", rate=rule.learning_rate, clip=None)
        lowest, stale = inf, 0
        while stale < rule.stopping.patience and len(plain.curve) < rule.max_iter:
            plain.epoch()
            loss = plain.curve[-1]
            stale = stale + 1 if loss > lowest - rule.stopping.tol else 0
            lowest = min(lowest, loss)
        assert len(trained[i].history) == len(plain.curve)
        assert rule.stopping.stopped_ == (stale >= rule.stopping.patience)
        assert_same(trained[i].state, plain.states[-1], atol=1e-11)
        ends.append(len(plain.curve))
    assert len(set(ends)) > 3 and ends[4] == 7


def test_what_is_taken_is_no_view_of_the_stack():
    training = stacked()
    trained = training.run()
    before = [copy.deepcopy(t.state) for t in trained]
    for tensor in training.stack.tensors.values():
        tensor.data.fill_(9.0)
    for t, state in zip(trained, before, strict=True):
        assert difference(t.state, state) == 0
        assert not any(value.requires_grad for value in t.state.values())


def test_a_network_of_its_own_takes_weights_and_masks():
    trained = stacked(dropout=0.4).run()
    other = network_of("shared_bottom", [99], dropout=0.4)
    trained[1].load_into(other)
    plain = Plain("shared_bottom", MEMBERS[1], solver="adam", rate=0.01, clip=None, dropout=0.4)
    plain.run(EPOCHS[1])
    X = rows_of(9)[0]
    for _ in range(2):  # in training: the next masks
        for ours, theirs in zip(other(X), plain.network(X), strict=True):
            assert_close(ours, theirs, rtol=0, atol=1e-12)


# Accidents ----------------------------------------------------------------------------------


def interrupt(monkeypatch, owner, method, call, *, first=False):
    """Let the user interrupt a call of a method, after it or before it has begun."""
    original, calls = getattr(owner, method), []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if first and len(calls) == call:
            raise KeyboardInterrupt
        result = original(*args, **kwargs)
        if len(calls) == call:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(owner, method, interrupted)


def plain_steps(member, n_steps):
    """The weights after some steps of an epoch that was begun."""
    plain = Plain("shared_bottom", member, solver="adam", rate=0.01, clip=None).run(n_steps // 3)
    step = plain.optimizer.step
    left = n_steps % 3

    def until(*args):
        nonlocal left
        if left == 0:
            raise KeyboardInterrupt
        left -= 1
        return step(*args)

    plain.optimizer.step = until
    with pytest.raises(KeyboardInterrupt):
        plain.epoch()
    return plain


@pytest.mark.parametrize("n_steps", [2, 3, 8], ids=str)
def test_an_interrupt_keeps_the_weights_so_far(n_steps, monkeypatch):
    """Of the step that was done last; those that had ended are not affected."""
    interrupt(monkeypatch, MemberSteps, "step", n_steps)
    trained = stacked().run()
    whole = n_steps // 3 if n_steps % 3 else n_steps // 3 - 1  # the epoch was not recorded
    for i, member in enumerate(MEMBERS):
        ended = EPOCHS[i] <= whole
        assert trained[i].interrupted is not ended
        assert len(trained[i].history) == min(whole, EPOCHS[i])
        if ended:
            plain = Plain("shared_bottom", member, solver="adam", rate=0.01, clip=None)
            state, shuffle = plain.run(EPOCHS[i]).states[-1], plain.shuffle
        else:
            plain = plain_steps(member, n_steps)
            state, shuffle = plain.network.state_dict(), plain.shuffle
        assert_same(trained[i].state, state)
        if n_steps % 3:  # else the reference has begun one more epoch
            assert torch.equal(trained[i].shuffle.generator().get_state(), shuffle.get_state())


def test_an_interrupt_keeps_the_best_weights_so_far(monkeypatch):
    rates = (0.1, 0.02, 0.2, 0.01, 0.05)
    options = {"rates": rates, "validation": True, "epochs": [8] * 5}
    with monkeypatch.context() as patch:
        interrupt(patch, MemberSteps, "step", 3 * 6 + 1)
        trained = stacked(**options).run()
    for i, member in enumerate(MEMBERS):
        plain = Plain("shared_bottom", member, solver="adam", rate=rates[i], clip=None,
                      validation=True).run(6)  # fmt: skip
        curve = np.array(plain.valid_curve)
        best = (curve / curve[0]).mean(axis=1).argmin()
        assert_same(trained[i].state, plain.states[best], atol=1e-11)
        assert trained[i].interrupted
        assert len(trained[i].history) == 6


def test_an_interrupt_in_the_first_epoch_keeps_the_last_weights(monkeypatch):
    interrupt(monkeypatch, MemberSteps, "step", 2)
    trained = stacked(validation=True).run()
    for i, member in enumerate(MEMBERS):
        assert_same(trained[i].state, plain_steps(member, 2).network.state_dict())


@pytest.mark.parametrize(
    ("owner", "first", "validation"),
    [
        (NetworkStack, True, False),
        (NetworkStack, False, False),
        (MemberSteps, False, False),
        (Objective, False, True),
    ],
    ids=["before", "after", "before the steps", "before the best ones"],
)
def test_an_interrupt_while_networks_leave_mixes_none_up(owner, first, validation, monkeypatch):
    """Nobody is given the weights of another, though places and tensors do not match then."""
    expected = stacked(validation=validation, epochs=[2] * 5).run()
    interrupt(monkeypatch, owner, "keep", 1, first=first)
    members = [*MEMBERS[1:2], *MEMBERS[3:], MEMBERS[0], MEMBERS[2]]  # the first ones leave first
    order = [MEMBERS.index(m) for m in members]
    trained = stacked(members=members, validation=validation, epochs=[2, 1, 2, 5, 5]).run()
    assert [len(t.history) for t in trained] == [2, 1, 2, 2, 2]
    for t, i in zip(trained, order, strict=True):
        if i != 3:
            assert_same(t.state, expected[i].state)


@pytest.mark.parametrize("solver", ["adam", "sgd"])
@every_trunk
def test_a_network_that_diverges_leaves_the_others_bits_alone(trunk, solver):
    """It stays until too few are left, so that the shapes of all products are the same."""
    wild_rate = 1e6 if solver == "adam" else 1e300  # weights grow by the rate, or by its powers
    rates = {"sane": RATES_OF_FIVE, "wild": (0.01, 0.003, wild_rate, 0.02, 0.001)}
    found = {
        kind: stacked(trunk, solver=solver, rates=r, dropout=0.2, epochs=[4] * 5).run()
        for kind, r in rates.items()
    }
    lost = found["wild"][2].history
    assert not lost[-1]["train_loss"] < 1e3
    if solver == "sgd":
        assert len(lost) == 1  # it is done as soon as its loss is no number
    for i in (0, 1, 3, 4):
        sane, wild = found["sane"][i], found["wild"][i]
        assert difference(sane.state, wild.state) == 0
        for a, b in zip(sane.history, wild.history, strict=True):
            assert {k: v for k, v in a.items() if k != "dur"} == {
                k: v for k, v in b.items() if k != "dur"
            }
        for name, stream in sane.masks.items():
            other = wild.masks[name]
            assert torch.equal(stream.generator().get_state(), other.generator().get_state())
    assert not difference(found["sane"][2].state, found["wild"][2].state) < 1


@pytest.mark.parametrize("epochs", [[4, 1, 1, 1, 1], [4, 4, 1, 2, 3]], ids=str)
@every_trunk
def test_when_others_leave_changes_no_more_than_the_last_bits(trunk, epochs):
    """Smaller products may be summed in another order; the streams of numbers are the same."""
    stay = stacked(trunk, dropout=0.2, epochs=[4] * 5).run()[0]
    left = stacked(trunk, dropout=0.2, epochs=epochs).run()[0]
    assert difference(stay.state, left.state) < 1e-13
    for name, stream in stay.masks.items():
        other = left.masks[name]
        assert torch.equal(stream.generator().get_state(), other.generator().get_state())
    assert torch.equal(stay.shuffle.generator().get_state(), left.shuffle.generator().get_state())


# Memory -------------------------------------------------------------------------------------


def measured(trunk, *, n_rows=32):
    network, objective = network_of(trunk, [0]), objective_of(trunk, [1.0, 1.0, 1.0, 1.0])
    X, y = rows_of(n_rows)
    return footprint(network, objective, ({"X": X, "sample_weight": None}, y)), network


@every_trunk
def test_a_footprint_is_weights_and_what_a_batch_keeps(trunk):
    """So many bytes a row; without rows five times the weights, and a few numbers a task."""
    sizes = {n: measured(trunk, n_rows=n)[0].touched for n in (32, 64, 96)}
    a_row = (sizes[64] - sizes[32]) // 32
    assert sizes[96] - sizes[64] == 32 * a_row
    network = measured(trunk)[1]
    weights = 8 * sum(p.numel() for p in network.parameters())
    assert 0 <= sizes[32] - 32 * a_row - 5 * weights < 200
    towers = {"shared_bottom": 1, "single_task": 4, "soft_sharing": 4}.get(trunk, 8)
    hidden = (5 + 4) * towers + 4 * 3
    assert a_row > 8 * hidden  # the way back needs the output of every hidden unit


def test_a_footprint_leaves_the_networks_parameters_alone():
    before = network_of("ple", [0]).state_dict()
    _, network = measured("ple")
    assert all(torch.equal(network.state_dict()[name], value) for name, value in before.items())
