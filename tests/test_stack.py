"""A stack seen as its networks: which tensors hold them, who may stay, what is refused."""

from __future__ import annotations

import copy
import re

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.model_selection import GridSearchCV, KFold
from skorch.callbacks import LRScheduler
from stacks import (
    Built,
    estimator,
    fit_alone,
    fit_stack,
    network_of,
    raw,
    rows_of,
    table,
)
from torch import nn
from torch.testing import assert_close

from sk_mtl import VectorizedGridSearchCV
from sk_mtl.layers import Dropout
from sk_mtl.losses import Huber, RegressionLoss
from sk_mtl.stack import NetworkStack, NotStackableError
from sk_mtl.trunks import TRUNKS
from sk_mtl.weighting import Weighting

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

every_trunk = pytest.mark.parametrize("trunk", TRUNKS)

SEEDS = [3, 1, 4, 1]


def stack_of(trunk, seeds=SEEDS, **params):
    """A stack of networks, which begin as each would alone."""
    network = network_of(trunk, seeds, stack=(len(seeds),), **params)
    first = params | {"dropout": np.ravel(params.get("dropout", 0.0))[0]}
    alone = network_of(trunk, seeds[:1], **first)
    return NetworkStack(network, alone, len(seeds), rows_of(3)[0])


def outputs(network, X, place=None):
    return [out if place is None else out[place] for out in network(X)]


# Which tensors hold networks ----------------------------------------------------------------


@every_trunk
def test_every_parameter_holds_one_part_a_network(trunk):
    stack = stack_of(trunk)
    for place, seed in enumerate(SEEDS):
        alone = dict(network_of(trunk, [seed]).named_parameters())
        assert set(alone) == set(stack.tensors)
        for name, parameter in alone.items():
            assert torch.equal(stack.tensors[name][place], parameter)
    assert not torch.equal(stack.tensors["heads.0.output.weight"][0], parameter)


class Counting(nn.Module):
    """A trunk with a memory of its own a network, and a constant that all share."""

    def __init__(self, spec):
        super().__init__()
        self.mlp = spec.mlp(spec.n_inputs)
        self.n_outputs = self.mlp.n_outputs
        self.register_buffer("seen", torch.zeros(*spec.draws.stack, 1, 1, dtype=spec.draws.dtype))
        self.register_buffer("unit", torch.ones(1, dtype=spec.draws.dtype))

    def forward(self, x):
        h = self.mlp(x)
        if self.training:
            self.seen += h.detach().mean((-2, -1), keepdim=True)
        return (h - self.seen) * self.unit


def test_buffers_of_a_network_are_its_own_and_constants_are_shared():
    stack = stack_of(Built(Counting))
    assert "trunk.seen" in stack.tensors
    assert "trunk.unit" not in stack.tensors
    assert not any("tasks" in name or "source" in name for name in stack.tensors)
    stack.keep(torch.tensor([2]))
    assert stack.network.trunk.seen.shape == (1, 1, 1)
    assert stack.network.trunk.unit.shape == (1,)


def test_a_memory_a_network_is_trained_as_alone():
    X, Y = table()
    models = [estimator(trunk=Built(Counting), random_state=i) for i in (0, 0, 1)]
    data = [(X, Y, {})] * 3
    alone, (together, errors) = fit_alone(models, data), fit_stack(models, data)
    assert errors == [None] * 3
    for a, b in zip(alone, together, strict=True):
        assert_allclose(raw(b, X), raw(a, X), rtol=0, atol=1e-12)
        assert_allclose(b.net_.module_.trunk.seen, a.net_.module_.trunk.seen, atol=1e-12)
        assert b.net_.module_.trunk.seen.item() != 0


# Who stays ----------------------------------------------------------------------------------


@every_trunk
@pytest.mark.parametrize("places", [[0], [3, 1], [1, 2, 3]], ids=str)
def test_who_stays_computes_what_it_did(trunk, places):
    stack, (X, _) = stack_of(trunk), rows_of(8)
    parameters = list(stack.network.parameters())
    stack.network(X)[0].sum().backward()
    stack.keep(torch.tensor(places))
    # The parameters stay the same objects, which the optimiser knows.
    assert all(a is b for a, b in zip(parameters, stack.network.parameters(), strict=True))
    assert all(p.grad is None for p in parameters)
    for place, was in enumerate(places):
        alone = network_of(trunk, [SEEDS[was]])
        for ours, theirs in zip(outputs(stack.network, X, place), alone(X), strict=True):
            assert_close(ours, theirs, rtol=0, atol=1e-14)
    stack.network(X)[1].square().sum().backward()
    assert all(p.grad is None or p.grad.shape == p.shape for p in parameters)
    assert {len(p) for p in parameters} == {len(places)}


@every_trunk
@pytest.mark.parametrize("rates", [0.3, [0.3, 0.0, 0.5, 0.5]], ids=["a rate", "rates"])
def test_who_stays_goes_on_with_its_masks(trunk, rates):
    stack, (X, _) = stack_of(trunk, dropout=rates), rows_of(8)
    stack.network(X)
    stack.keep(torch.tensor([1, 3]))
    every = np.broadcast_to(rates, 4)
    for _ in range(2):
        together = stack.network(X)
    for place, was in enumerate([1, 3]):
        alone = network_of(trunk, [SEEDS[was]], dropout=float(every[was]))
        for _ in range(3):  # the third pass, as in the stack
            expected = alone(X)
        for ours, theirs in zip(together, expected, strict=True):
            assert_close(ours[place], theirs, rtol=0, atol=1e-14)


def test_masks_of_are_copies_of_the_networks_own_streams():
    stack, (X, _) = stack_of("shared_bottom", dropout=[0.2, 0.2, 0.4, 0.2]), rows_of(8)
    stack.network(X)
    alone = network_of("shared_bottom", [SEEDS[2]], dropout=0.4)
    alone(X)
    own = {n: m.streams[0] for n, m in alone.named_modules() if isinstance(m, Dropout)}
    assert set(stack.masks_of(2)) == set(own) and len(own) == 5  # two in the trunk, one a group
    for _ in range(2):  # the second time, after numbers were drawn from the copies
        for name, stream in stack.masks_of(2).items():
            assert stream.seed == own[name].seed
            assert torch.equal(stream.generator().get_state(), own[name].generator().get_state())
            torch.rand(5, generator=stream.generator())


def test_copies_are_renewed_for_the_networks_named_only():
    stack = stack_of("mmoe")
    copies = stack.copy()
    before = copy.deepcopy(copies)
    with torch.no_grad():
        for tensor in stack.tensors.values():
            tensor += 1.0
    assert all(torch.equal(copies[name], before[name]) for name in copies)  # no views
    stack.copy_into(copies, torch.tensor([3, 1]))
    for name, tensor in copies.items():
        assert torch.equal(tensor[[0, 2]], before[name][[0, 2]])
        assert torch.equal(tensor[[1, 3]], before[name][[1, 3]] + 1.0)
        assert not tensor.requires_grad


# What is refused ----------------------------------------------------------------------------


class PlainLinear(nn.Module):
    """Torch's own layer, which knows no stack."""

    def __init__(self, spec):
        super().__init__()
        self.layer = nn.Linear(spec.n_inputs, 4, dtype=spec.draws.dtype)
        with torch.no_grad():
            self.layer.weight.copy_(torch.linspace(-1, 1, 4 * spec.n_inputs).view(4, -1))
            self.layer.bias.zero_()
        self.n_outputs = 4

    def forward(self, x):
        return self.layer(x).tanh()


class Extra(nn.Module):
    """Has a tensor in a stack that it lacks alone."""

    def __init__(self, spec):
        super().__init__()
        self.mlp = spec.mlp(spec.n_inputs)
        self.n_outputs = self.mlp.n_outputs
        if spec.draws.stack:
            self.register_buffer("extra", torch.zeros(2))

    def forward(self, x):
        return self.mlp(x)


class OverTheStack(nn.Module):
    """Centres what the networks of a stack have in common: the mean over its first axis."""

    def __init__(self, spec):
        super().__init__()
        self.mlp = spec.mlp(spec.n_inputs)
        self.n_outputs = self.mlp.n_outputs
        self.stacked = bool(spec.draws.stack)

    def forward(self, x):
        h = self.mlp(x)
        return (h + h.mean(0, keepdim=True)) / 2 if self.stacked else h


class OverTheRows(OverTheStack):
    """The mean over the first axis, which is that of the rows in one network alone."""

    def forward(self, x):
        h = self.mlp(x)
        return h - h.mean(0)


class Running(OverTheStack):
    """Centres a batch as batch normalisation does: by running means outside training."""

    def __init__(self, spec):
        super().__init__(spec)
        self.register_buffer("mean", torch.zeros(self.n_outputs, dtype=spec.draws.dtype))

    def forward(self, x):
        h = self.mlp(x)
        if not self.training:
            return h - self.mean
        mean = h.detach().flatten(0, -2).mean(0)
        self.mean.lerp_(mean, 0.1)
        return h - mean


class ThreeAxes(OverTheStack):
    """Knows one network only, and fails for more axes."""

    def forward(self, x):
        rows, width = self.mlp(x).shape
        return self.mlp(x).view(rows, width)


class Ticking(OverTheStack):
    """Counts its passes in a buffer that knows no stack."""

    def __init__(self, spec):
        super().__init__(spec)
        self.register_buffer("passes", torch.zeros(1, dtype=spec.draws.dtype))

    def forward(self, x):
        if self.training:
            self.passes += 1
        return self.mlp(x)


class LikeTheFirst(OverTheStack):
    """Gives all networks of a stack the features of the first."""

    def forward(self, x):
        h = self.mlp(x)
        return h[:1].expand_as(h) if self.stacked else h


REFUSED = {
    "a layer without stack axes": (PlainLinear, r"'trunk.layer.weight' of shape \(4, 3\) in a"),
    "a tensor more": (Extra, r"'trunk.extra' of shape \(2,\) in a stack of 4"),
    "a mean over the stack": (OverTheStack, "computes something else with stack axes"),
    "a mean over the first axis": (OverTheRows, "computes something else with stack axes"),
    "the features of the first": (LikeTheFirst, "computes something else with stack axes"),
    "running means": (Running, "computes something else with stack axes"),
    "a memory that all share": (Ticking, "would share a buffer that moves"),
    "a failure": (ThreeAxes, "The network fails with stack axes: too many values to unpack"),
}


@pytest.mark.parametrize(("module", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_trunks_that_are_not_written_for_stacks_are_refused(module, message):
    with pytest.raises(NotStackableError, match=message):
        stack_of(Built(module))


def test_a_refusal_says_what_was_expected():
    with pytest.raises(NotStackableError) as error:
        stack_of(Built(PlainLinear))
    assert str(error.value) == (
        "Got 'trunk.layer.weight' of shape (4, 3) in a stack of 4 networks, expected the stack's "
        "size in front of the shape that it has alone."
    )


def test_a_mean_over_the_stack_is_refused_though_all_networks_begin_equal():
    """As in a search over task weights, where all candidates have one ``random_state``."""
    with pytest.raises(NotStackableError):
        stack_of(Built(OverTheStack), [3, 3, 3, 3])


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("module", [None, Counting, OverTheStack, Ticking])
def test_the_comparison_leaves_the_networks_as_they_were(training, module):
    trunk = "ple" if module is None else Built(module)
    network = network_of(trunk, SEEDS, stack=(4,), dropout=0.5).train(training)
    alone = network_of(trunk, SEEDS[:1], dropout=0.5).train(training)
    before, random = copy.deepcopy((network, alone)), torch.get_rng_state()
    refused = False
    try:
        NetworkStack(network, alone, 4, rows_of(3)[0])
    except NotStackableError:
        refused = True
    assert refused is (module in (OverTheStack, Ticking))
    assert torch.equal(torch.get_rng_state(), random)
    for now, was in zip((network, alone), before, strict=True):
        assert all(part.training is training for part in now.modules())
        tensors = [*was.named_parameters(), *was.named_buffers()]
        found = dict(now.named_parameters()) | dict(now.named_buffers())
        assert all(torch.equal(found[name], tensor) for name, tensor in tensors)
        assert all(p.grad is None for p in now.parameters())
        for dropout in (m for m in now.modules() if isinstance(m, Dropout)):
            for stream in dropout.streams:  # no mask was drawn
                fresh = torch.Generator().manual_seed(stream.seed)
                assert torch.equal(stream.generator().get_state(), fresh.get_state())


# What a search makes of it ------------------------------------------------------------------


class Forgetful(RegressionLoss):
    """A loss written for one network: it fails where there are more axes than two."""

    def elementwise(self, raw, target):
        tasks, rows, _ = raw.shape
        return (raw.view(tasks, rows) - target).square()


class Counter(nn.Module):
    """Weights that fade; the count is one number, whatever the stack."""

    def __init__(self, weights):
        super().__init__()
        self.register_buffer("weights", weights)
        self.register_buffer("n_steps", torch.tensor(0.0))

    def forward(self, losses, gradients=None, present=None):
        self.n_steps += 1
        return self.weights + losses / self.n_steps


class Fading(Weighting):
    def build(self, task_weights):
        return Counter(task_weights)


class Together(nn.Module):
    def forward(self, losses, gradients=None, present=None):
        return losses + losses.mean()  # over the tasks of one network, or over those of all


class OverAll(Weighting):
    """Weights by how a loss compares with the mean loss, forgetting the stack axes."""

    def build(self, task_weights):
        return Together()


FALLS_BACK = {
    "torch's own layer": (
        {"trunk": Built(PlainLinear)},
        r"NotStackableError in a stack: Got 'trunk.layer.weight' of shape \(4, 4\) in a stack",
    ),
    "a mean over the first axis": (
        {"trunk": Built(OverTheRows)},
        "NotStackableError in a stack: The network computes something else with stack axes",
    ),
    "a loss for one network": (
        {"loss": [None, Forgetful(), None]},
        "ValueError in a stack: too many values to unpack",
    ),
    "a weighting whose memory is not one a network": (
        {"weighting": Fading()},
        "RuntimeError in a stack: index_select",
    ),
}


def searches(model, grid):
    """Both searches, fitted."""
    X, Y = table(80)
    options = {"cv": KFold(2), "refit": False, "error_score": "raise"}
    return [
        search(model, grid, **options).fit(X, Y)
        for search in (GridSearchCV, VectorizedGridSearchCV)
    ]


@pytest.mark.parametrize(("params", "reason"), FALLS_BACK.values(), ids=FALLS_BACK.keys())
def test_a_search_trains_one_by_one_what_cannot_be_stacked(params, reason):
    grid = {"learning_rate_init": [0.01, 0.03, 0.1], "max_iter": [2, 4]}
    slow, fast = searches(estimator(**params), grid)
    assert fast.search_report_["trained"] == ["alone"] * 6
    for said in fast.search_report_["reason"]:
        assert re.match(reason, said)
    for f in range(2):
        key = f"split{f}_test_score"
        assert_allclose(fast.cv_results_[key], slow.cv_results_[key], rtol=0, atol=0)
    assert len(set(slow.cv_results_["mean_test_score"])) == 6  # there is something to compare


def test_a_trunk_of_ones_own_that_is_written_for_stacks_is_stacked():
    """The other way round: what falls back above does so for its reason alone."""
    grid = {"learning_rate_init": [0.01, 0.03, 0.1], "max_iter": [2, 4]}
    slow, fast = searches(estimator(trunk=Built(Counting)), grid)
    assert fast.search_report_["trained"] == ["stacked"] * 6
    assert fast.search_report_["reason"] == [""] * 6
    for f in range(2):
        key = f"split{f}_test_score"
        assert_allclose(fast.cv_results_[key], slow.cv_results_[key], rtol=0, atol=1e-9)


@pytest.mark.parametrize("part", ["loss", "callbacks"])
def test_a_search_needs_no_parameter_that_can_be_pickled(part):
    """scikit-learn's own does not either, with one worker."""

    class Local(Huber):
        pass

    fading = LRScheduler(torch.optim.lr_scheduler.LambdaLR, lr_lambda=lambda epoch: 0.9**epoch)
    params = {"loss": [None, Local(), None]} if part == "loss" else {"callbacks": [fading]}
    slow, fast = searches(estimator(**params), {"learning_rate_init": [0.01, 0.1]})
    key = "split0_test_score"
    assert_allclose(fast.cv_results_[key], slow.cv_results_[key], rtol=0, atol=1e-9)


def test_a_weighting_that_mixes_networks_is_trained_one_by_one():
    slow, fast = searches(
        estimator(weighting=OverAll()), {"learning_rate_init": [0.01, 0.1], "max_iter": [3, 6]}
    )
    assert (
        fast.search_report_["reason"]
        == ["NotStackableError in a stack: The weighting gives other weights with stack axes."] * 4
    )
    key = "split0_test_score"
    assert_allclose(fast.cv_results_[key], slow.cv_results_[key], rtol=0, atol=0)


def test_a_search_over_equal_seeds_does_not_mix_networks():
    slow, fast = searches(
        estimator(trunk=Built(OverTheStack)), {"task_weights": [[1, 1, 1], [1, 5, 0]]}
    )
    assert fast.search_report_["trained"] == ["alone"] * 2
    key = "split0_test_score"
    assert_allclose(fast.cv_results_[key], slow.cv_results_[key], rtol=0, atol=0)
