"""Weightings by the losses: each against a reference, in stacks, and in the loop.

torchjd's scalarizers are the references: what they say of a loss is their slope at it.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats
from searches import X, Y, check_equal, mixed
from sklearn.model_selection import KFold
from stacks import GROUPS
from torch import nn
from torchjd import scalarization

from sk_mtl._support import stack_recipes
from sk_mtl.losses import AbsoluteError, LogLoss, Quantile, SquaredError
from sk_mtl.objective import make_objective
from sk_mtl.weighting import (
    DWA,
    FAMO,
    IMTLL,
    STCH,
    WEIGHTINGS,
    Balance,
    ByLevel,
    GeometricMean,
    Random,
    Uncertainty,
    Weighting,
)
from sk_mtl.weighting._adam import Adam

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

NAN = float("nan")


def of(*values):
    return torch.tensor(values, dtype=torch.float64)


def losses_of(n_steps, n_tasks=3, seed=0):
    """Task losses of many steps, of scales that differ by a hundred."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(n_steps, n_tasks, generator=generator, dtype=torch.float64)
    return (drawn + 0.1) * torch.logspace(-1, 1, n_tasks, dtype=torch.float64)


def build(recipe, n_tasks=3):
    return recipe.build(torch.ones(n_tasks, dtype=torch.float64))


def slopes(scalarizer, losses):
    at = losses.clone().requires_grad_()
    return torch.autograd.grad(scalarizer(at), at)[0]


def shares(weights):
    return weights / weights.sum(-1, keepdim=True)


# Adam ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adam_is_that_of_torch(weight_decay):
    start, slope = of(0.5, -2.0, 0.0), losses_of(20) - 1.0
    parameter = nn.Parameter(start.clone())
    theirs = torch.optim.Adam([parameter], lr=0.03, weight_decay=weight_decay)
    ours, other = Adam(start), Adam(start)
    for gradient in slope:
        parameter.grad = gradient
        theirs.step()
        ours.step(gradient, 0.03, None, weight_decay)
        other.step(gradient, 0.03, None, weight_decay + 0.1)
        assert_allclose(ours.value, parameter.detach(), rtol=1e-13, atol=1e-15)
    assert (other.value - ours.value).abs().min() > 1e-4  # negative control


def test_adam_takes_no_step_for_an_absent_task():
    """As one optimiser a task, called when the task is there."""
    start, slope = of(0.5, -2.0, 0.0), losses_of(20) - 1.0
    here = torch.rand(20, 3, generator=torch.Generator().manual_seed(1)) < 0.6
    parameters = [nn.Parameter(start[t : t + 1].clone()) for t in range(3)]
    theirs = [torch.optim.Adam([p], lr=0.03) for p in parameters]
    ours, careless = Adam(start), Adam(start)
    for gradient, present in zip(slope, here, strict=True):
        for t in present.nonzero().flatten():
            parameters[t].grad = gradient[t : t + 1]
            theirs[t].step()
        gradient = torch.where(present, gradient, 0.0)
        ours.step(gradient, 0.03, present)
        careless.step(gradient, 0.03, None)
        assert_allclose(ours.value, torch.cat(parameters).detach(), rtol=1e-13, atol=1e-15)
    # Negative control: a gradient of zero is a step all the same, by the moments.
    assert (careless.value - ours.value).abs().max() > 1e-3


# Learned scales: uncertainty and IMTL-L -----------------------------------------------------


def test_uncertainty_is_learned_with_the_network():
    """As torchjd's log-variances in an optimiser of their own, beside the network's.

    Theirs is sum(exp(-s) L + s) / 2, ours sum(exp(-s) L + s / 2): squared errors are halves here,
    so that 2 L is what theirs is to be given.
    """
    theirs = scalarization.UW(3).double()
    optimizer = torch.optim.Adam(theirs.parameters(), lr=0.05)
    ours = build(Uncertainty(learning_rate=0.05))
    for losses in losses_of(30):
        at = (2 * losses).requires_grad_()
        optimizer.zero_grad()
        theirs(at).backward()
        assert_allclose(ours(losses), 2 * at.grad, rtol=1e-12)
        optimizer.step()
    assert_allclose(ours.log_variance.value, theirs.log_var.detach(), rtol=1e-12)
    assert ours.log_variance.value.abs().min() > 0.1


def test_uncertainty_by_hand():
    """s begins at 0, and Adam's first step is its rate, down the slope a - exp(-s) L."""
    ours = build(Uncertainty(learning_rate=0.5), 2)
    assert ours(of(2.0, 0.1)).tolist() == [1, 1]
    # 1/2 - 2 < 0 raises s to 0.5, 1/2 - 0.1 > 0 lowers it: exp(-0.5) = 0.6065, exp(0.5) = 1.6487
    assert_allclose(ours(of(2.0, 0.1)), [0.60653066, 1.64872127], rtol=1e-7)


def test_uncertainty_knows_the_likelihood_of_each_loss():
    """Halved squares and classification have s / 2, absolute errors (Laplace's) the whole s."""
    ours = build(Uncertainty(learning_rate=0.5), 4)
    ours.know_tasks([SquaredError(), LogLoss(), AbsoluteError(), Quantile()], [0] * 4)
    ours(of(0.7, 0.7, 0.7, 0.7))
    # 1/2 - 0.7 < 0 raises s, 1 - 0.7 > 0 lowers it
    assert_allclose(ours.log_variance.value, [0.5, 0.5, -0.5, -0.5], rtol=1e-6)


@pytest.mark.parametrize(
    ("recipe", "level"), [(Uncertainty(learning_rate=0.1), 0.5), (IMTLL(learning_rate=0.1), 1.0)]
)
def test_learned_scales_make_all_losses_alike(recipe, level):
    """In equilibrium, whatever the losses' scales; not from the beginning."""
    losses = of(0.01, 1.0, 30.0)
    ours = build(recipe)
    assert_allclose(ours(losses), 1.0)
    for _ in range(800):
        weights = ours(losses)
    assert_allclose(weights * losses, level, rtol=1e-3)


def test_imtl_l_is_learned_with_the_network():
    theirs = scalarization.IMTLL(3).double()
    optimizer = torch.optim.Adam(theirs.parameters(), lr=0.05)
    ours = build(IMTLL(learning_rate=0.05))
    for losses in losses_of(30):
        at = losses.clone().requires_grad_()
        optimizer.zero_grad()
        theirs(at).backward()
        assert_allclose(ours(losses), at.grad, rtol=1e-12)
        optimizer.step()
    uncertain = build(Uncertainty(learning_rate=0.05))  # negative control
    for losses in losses_of(30):
        uncertain(losses)
    assert (ours.log_scale.value + uncertain.log_variance.value).abs().max() > 0.1


# By epochs: DWA -----------------------------------------------------------------------------


def test_dwa_by_hand():
    ours = build(DWA(temperature=2.0), 2)
    equal = of(0.5, 0.5)
    assert_array_equal(ours(of(1.0, 9.0)), equal)
    ours.end_epoch(of(1.0, 2.0))
    assert_array_equal(ours(of(1.0, 9.0)), equal)  # for two epochs
    ours.end_epoch(of(0.5, 2.0))
    # ratios 1/2 and 1: exp(0.25) / (exp(0.25) + exp(0.5)) = 1 / (1 + exp(0.25)) = 0.4378
    assert_allclose(ours(of(1.0, 9.0)), [0.43782350, 0.56217650], rtol=1e-7)


def test_dwa_is_that_of_torchjd():
    theirs, ours = scalarization.DWA(temperature=0.7), build(DWA(temperature=0.7))
    hotter = build(DWA(temperature=1.4))
    for epoch in range(5):
        batches = losses_of(4, seed=epoch)
        for losses in batches:
            assert_allclose(shares(ours(losses)), shares(slopes(theirs, losses)), rtol=1e-12)
        theirs.step()
        for balance in (ours, hotter):
            balance.end_epoch(batches.mean(0))
    assert (ours(losses) - hotter(losses)).abs().max() > 0.01  # negative control


def test_dwa_remembers_the_last_two_epochs_in_which_a_task_had_labels():
    gaps, without = build(DWA(), 2), build(DWA(), 2)
    for mean in ((4.0, 4.0), (2.0, NAN), (1.0, 3.0)):
        gaps.end_epoch(of(*mean))
    for mean in ((2.0, 4.0), (1.0, 3.0)):
        without.end_epoch(of(*mean))
    assert_array_equal(gaps(of(1.0, 1.0)), without(of(1.0, 1.0)))


def test_levels_begin_one_after_the_other():
    ours = ByLevel(n_epochs=2).build(of(3.0, 1.0, 4.0))
    ours.know_tasks([None] * 3, [1, 0, 2])
    begun = []
    for _ in range(6):
        begun.append(ours(of(1.0, 1.0, 1.0)).tolist())
        ours.end_epoch(of(1.0, NAN, 1.0))  # counted for all tasks
    first, second, third = [0, 1, 0], [3, 1, 0], [3, 1, 4]
    assert begun == [first, first, second, second, third, third]
    flat = ByLevel().build(of(3.0, 1.0, 4.0))  # without dependencies all begin at once
    assert flat(of(1.0, 1.0, 1.0)).tolist() == [3, 1, 4]


# At once: random, the geometric mean, STCH --------------------------------------------------


def drawn(n_draws, n_tasks=3):
    ours = build(Random(), n_tasks)
    ours.seed([0])
    return torch.stack([ours(torch.ones(n_tasks).double()) for _ in range(n_draws)]).numpy()


def test_random_weights_are_the_softmax_of_normal_numbers():
    """So log(w_i / w_j) is a difference of two normal numbers, for every pair of tasks."""
    weights = drawn(2000)
    assert_allclose(weights.sum(axis=1), 1.0, rtol=1e-12)
    assert len(np.unique(weights)) == weights.size  # new ones in every step
    normal = stats.norm(scale=2**0.5).cdf
    for i, j in ((0, 1), (1, 2), (2, 0)):
        assert stats.kstest(np.log(weights[:, i] / weights[:, j]), normal).pvalue > 0.01
    uniform = np.random.default_rng(0).dirichlet(np.ones(3), 2000)  # negative control
    assert stats.kstest(np.log(uniform[:, 0] / uniform[:, 1]), normal).pvalue < 1e-3


def test_random_weights_do_not_depend_on_the_losses():
    one, other = build(Random()), build(Random())
    for balance in (one, other):
        balance.seed([4])
    assert torch.equal(one(of(1.0, 2.0, 3.0)), other(of(9.0, 0.1, 0.2)))


def test_geometric_mean_by_hand_and_by_torchjd():
    """The slope of (L1 L2)^(1/2) is half the mean over L: over shares, 1 / L."""
    ours = build(GeometricMean())
    assert ours(of(2.0, 0.5, 4.0)).tolist() == [0.5, 2.0, 0.25]
    for losses in losses_of(5):
        theirs = slopes(scalarization.GeometricMean(), losses)
        assert_allclose(shares(ours(losses)), shares(theirs), rtol=1e-12)
        assert_allclose(theirs * losses, scalarization.GeometricMean()(losses) / 3, rtol=1e-12)
    assert ours(of(0.0, 1.0, 1.0)).isfinite().all()  # a loss that is zero


def scaled_pulls(recipe, factor):
    """What each task's gradient counts, when the first task's loss is in other units."""
    losses, units = of(0.3, 0.2, 0.4), of(factor, 1.0, 1.0)
    pulls = build(recipe)(losses * units) * losses * units  # gradients scale as losses do
    return shares(pulls)


def test_the_geometric_mean_does_not_see_units():
    assert_allclose(scaled_pulls(GeometricMean(), 7.0), scaled_pulls(GeometricMean(), 1.0))
    for other in (STCH(), Uncertainty()):  # negative controls; the latter learns them in time
        assert (scaled_pulls(other, 7.0) - scaled_pulls(other, 1.0)).abs().max() > 0.1


@pytest.mark.parametrize("mu", [0.01, 1.0])
def test_stch_is_that_of_torchjd(mu):
    given = of(3.0, 1.0, 4.0)
    ours = STCH(mu=mu).build(given)
    theirs = scalarization.STCH(mu, weights=given / 8)
    linear = scalarization.Constant(given / 8)
    for losses in losses_of(5):
        assert_allclose(ours(losses), slopes(theirs, losses), rtol=1e-10, atol=1e-300)
        assert (ours(losses) - slopes(linear, losses)).abs().max() > 0.01  # negative control


def test_stch_by_hand():
    # w = 1/2, w L / mu = 3 and 2: the softmax is 0.7311 and 0.2689, times 1/2
    assert_allclose(build(STCH(mu=0.1), 2)(of(0.6, 0.4)), [0.36552929, 0.13447071], rtol=1e-7)


def test_stch_is_the_largest_of_the_weighted_losses_that_are_there():
    """The preference stays what it is among all tasks: mu keeps its meaning."""
    given, here = of(3.0, 1.0, 4.0), torch.tensor([True, False, True])
    losses = of(0.5, 0.0, 0.3)
    theirs = scalarization.STCH(0.2, weights=of(3.0, 4.0) / 8)
    expected = slopes(theirs, of(0.5, 0.3))
    assert_allclose(STCH(mu=0.2).build(given)(losses, None, here)[here], expected, rtol=1e-12)
    sharp = STCH(mu=1e-4).build(given)(losses, None, here)
    assert_allclose(sharp, of(3.0, 0.0, 0.0) / 8, atol=1e-12)


# By what a step made of them: FAMO ----------------------------------------------------------


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_famo_is_that_of_torchjd(weight_decay):
    theirs = scalarization.FAMO(3, lr=0.1, weight_decay=weight_decay).double()
    ours = build(FAMO(learning_rate=0.1, weight_decay=weight_decay))
    still = build(FAMO())
    for before, after in zip(losses_of(20), losses_of(20, seed=1), strict=True):
        weights = ours(before)
        assert_allclose(shares(weights), slopes(theirs, before) / slopes(theirs, before).sum())
        theirs.update(after)
        ours.look_back(after, None)
    assert_allclose(ours.logits.value, theirs._w.detach(), rtol=1e-10)
    # Negative control: without a look back the logits stay where they were.
    assert (shares(still(before)) - shares(weights)).abs().max() > 0.05


def test_famo_by_hand():
    ours = build(FAMO(learning_rate=0.5, weight_decay=0.0), 2)
    assert_allclose(ours(of(1.0, 0.5)), [0.5, 1.0], rtol=1e-7)  # softmax(0, 0) over the losses
    ours.look_back(of(1.0, 0.25), None)
    # gains 0 and log 2: the slope is 1/2 (0 - log(2) / 2) < 0 and > 0; Adam's first step is 0.5
    # up and down: softmax(0.5, -0.5) = 0.7311, 0.2689
    assert_allclose(ours(of(1.0, 1.0)), [0.73105858, 0.26894142], rtol=1e-6)


# In a stack ---------------------------------------------------------------------------------

NUMBERS = {
    "uncertainty": [{"learning_rate": r} for r in (0.1, 0.2, 0.01, 0.2)],
    "dwa": [{"temperature": t} for t in (0.5, 1.0, 2.0, 1.0)],
    "random": [{}] * 4,
    "geometric_mean": [{}] * 4,
    "stch": [{"mu": m} for m in (0.1, 0.01, 1.0, 0.1)],
    "famo": [{"learning_rate": r, "weight_decay": r / 7} for r in (0.1, 0.2, 0.01, 0.2)],
    "imtl_l": [{"learning_rate": r} for r in (0.1, 0.2, 0.01, 0.2)],
    "by_level": [{"n_epochs": 1}] * 4,
    "static": [{}] * 4,
    "uniform": [{}] * 4,
}


LEVELS = [0, 1, 2, 1]  # of a cascade


def test_every_weighting_by_losses_is_stacked_below():
    assert set(NUMBERS) == {n for n, w in WEIGHTINGS.items() if w.needs == "losses"}


def epochs(objective, places, n_epochs, *, like, seed):
    """Return the weights of two steps an epoch, as the networks at these places see them."""
    generator = torch.Generator().manual_seed(seed)
    given = []
    for _ in range(n_epochs):
        for _ in range(2):
            losses = torch.rand(4, 4, generator=generator, dtype=like)[places] + 0.1
            mass = (torch.rand(4, 4, generator=generator)[places] < 0.8) * 5.0
            losses = torch.where(mass > 0, losses, 0.0)
            given.append(torch.where(mass > 0, objective.weigh(losses, None, mass), 0.0))
            if objective.looks_back:
                objective.look_back(losses**1.5, mass)
        objective.end_epoch(losses, mass)
    return torch.stack(given, dim=-2)


@pytest.mark.parametrize("name", NUMBERS)
def test_stacked_weights_are_those_of_networks_alone(name):
    """Also once a network has left, and where two share their stream of random numbers."""
    float64, seeds = torch.float64, [3, 5, 3, 7]
    recipes = [WEIGHTINGS[name](**numbers) for numbers in NUMBERS[name]]
    given = torch.rand(4, 4, dtype=float64) + 0.5
    together = make_objective(
        stack_recipes(recipes, 1, float64, torch.device("cpu")),
        GROUPS,
        given.clone(),
        seeds=seeds,
        private=False,
        levels=LEVELS,
    )
    before = epochs(together, slice(None), 3, like=float64, seed=0)
    together.keep(torch.tensor([1, 2, 3]))
    after = epochs(together, slice(1, None), 3, like=float64, seed=1)
    pairs = zip(recipes, given, seeds, strict=True)
    objectives = [
        make_objective(recipe, GROUPS, weights, seeds=[seed], private=False, levels=LEVELS)
        for recipe, weights, seed in pairs
    ]
    for i, alone in enumerate(objectives):
        expected = epochs(alone, i, 3, like=float64, seed=0)
        assert_allclose(before[i], expected, rtol=0, atol=1e-10)
    for i, alone in enumerate(objectives[1:]):
        expected = epochs(alone, i + 1, 3, like=float64, seed=1)
        assert_allclose(after[i], expected, rtol=0, atol=1e-10)
    if name != "uniform":  # negative control: the networks are not all alike
        assert (after[0] - after[1]).abs().max() > 1e-3


@pytest.mark.parametrize("name", [n for n in NUMBERS if n not in ("static", "uniform", "by_level")])
def test_a_search_over_a_weightings_numbers_trains_one_stack(name):
    numbers = WEIGHTINGS[name].stackable
    grid = {f"weighting__{n}": [0.02, 0.5] for n in numbers} | {"random_state": [0, 1]}
    ours, _ = check_equal(mixed(weighting=WEIGHTINGS[name]()), grid, cv=KFold(2))
    assert len(set(ours.search_report_["stack_size"])) == 1
    scores = ours.cv_results_["mean_test_score"]
    assert len(set(scores)) == len(scores)  # negative control: the numbers do something


@pytest.mark.parametrize("name", [n for n, w in WEIGHTINGS.items() if w.needs != "losses"])
def test_a_weighting_by_gradients_is_searched_one_by_one(name):
    model = mixed(weighting=name, max_iter=1)
    ours, _ = check_equal(model, {"alpha": [0, 1]}, trained="alone", cv=KFold(2))
    assert set(ours.search_report_["reason"]) == {
        f"weighting='{name}' needs gradients of one network"
    }


# In the loop --------------------------------------------------------------------------------


class Watching(Weighting):
    """Equal weights, and a diary of what the loop shows."""

    def build(self, task_weights):
        return _Watching()


class _Watching(Balance):
    looks_back = True

    def __init__(self):
        super().__init__()
        self.before, self.after, self.epochs, self.present = [], [], [], []

    def forward(self, losses, gradients, present):
        self.before.append(losses.tolist())
        self.present.append(None if present is None else present.tolist())
        return torch.ones_like(losses)

    def look_back(self, losses, present):
        self.after.append(losses.tolist())

    def end_epoch(self, losses):
        self.epochs.append(losses.tolist())


def test_a_look_back_sees_the_same_batch_after_the_step():
    """One batch an epoch: what is seen after a step is what the next one begins with."""
    model = mixed(weighting=Watching(), batch_size=103, shuffle=False).fit(X, Y)
    diary = model.net_.criterion_.balance
    assert len(diary.before) == len(diary.after) == 5
    assert_allclose(diary.after[:-1], diary.before[1:], rtol=1e-12)
    assert np.abs(np.subtract(diary.after, diary.before)).min() > 0  # negative control


def test_the_end_of_an_epoch_shows_its_means():
    """By the labelled rows of all batches; NaN for a task without any."""
    labels = Y.copy()
    labels[30:, 0] = labels[:30, 1] = NAN
    rows = ~np.isnan(labels).all(axis=1)  # others are left out
    labels = labels[rows]
    model = mixed(weighting=Watching(), shuffle=False).fit(X[rows], labels)
    diary = model.net_.criterion_.balance
    mass = np.array([(~np.isnan(labels[i : i + 30])).sum(axis=0) for i in range(0, rows.sum(), 30)])
    assert diary.present == (mass > 0).tolist() * 5
    before = np.reshape(diary.before, (5, *mass.shape))  # (epoch, batch, task)
    assert_allclose(diary.epochs, (before * mass).sum(axis=1) / mass.sum(axis=0), rtol=1e-12)
    assert np.abs(diary.epochs - before.mean(axis=1)).max() > 0.1  # negative control
    model.net_.criterion_.end_epoch(torch.ones(3), torch.tensor([5.0, 0.0, 2.0]))
    assert_array_equal(diary.epochs[-1], [1.0, NAN, 1.0])


@pytest.mark.parametrize("name", NUMBERS)
def test_the_history_of_weights_is_not_drowned_by_absent_tasks(name):
    labels = Y.copy()
    labels[:30, 0] = NAN  # the first of the batches
    model = mixed(weighting=name, shuffle=False).fit(X, labels)
    recorded = [model.net_.history[:, f"weight_{t}"] for t in model.task_names_]
    assert np.abs(recorded).max() < 100
