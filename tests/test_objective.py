"""The objective: L = sum(w_t L_t) / sum(w_t), each L_t a mean over what is labelled."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss, r2_score
from torch import nn
from torch.testing import assert_close

from sk_mtl.losses import LogLoss, RegressionLoss, SquaredError
from sk_mtl.network import HeadGroup
from sk_mtl.objective import Objective, encoded_scores
from sk_mtl.totals import EpochTotals
from sk_mtl.weighting import ConstantWeights, Static

NAN = float("nan")


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def randn(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def objective(groups, weights, **kwargs):
    weights = tensor(weights)
    return Objective(groups, weights.shape[-1], Static().build(weights), weights, **kwargs)


def squared(weights, **kwargs):
    """Regression tasks in one group; a raw output of r and a target of y lose (r - y)^2 / 2."""
    tasks = tuple(range(np.shape(weights)[-1]))
    return objective([HeadGroup(tasks, SquaredError(), 1)], weights, **kwargs)


def total(criterion, losses, mass):
    """L, as the training step takes it."""
    weights = criterion.weigh(losses, None, mass)
    return (losses * criterion.normalised(weights, mass)).sum(-1)


# Worked by hand -----------------------------------------------------------------------------
#
# Two tasks, three rows. Raw outputs are 0, so that a target of y loses y^2 / 2.
#
#            task 0            task 1
#   row 0    2 -> 2            4 -> 8
#   row 1    4 -> 8            missing
#   row 2    missing           missing
#   L_t      (2 + 8) / 2 = 5   8 / 1 = 8

RAW = (torch.zeros(2, 3, 1, dtype=torch.float64),)
TARGET = tensor([[2, 4], [4, NAN], [NAN, NAN]])


def test_task_losses_are_means_over_labelled_rows():
    losses, mass = squared([1, 1]).task_losses(RAW, TARGET, None, complete=False)
    assert losses.tolist() == [5, 8]
    assert mass.tolist() == [2, 1]


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([1, 1], 6.5),  # (5 + 8) / 2
        ([3, 1], 5.75),  # (3 * 5 + 8) / 4
        ([6, 2], 5.75),  # only ratios matter
        ([1, 0], 5.0),
        ([0, 7], 8.0),
    ],
)
def test_the_total_is_the_weighted_mean_of_the_task_losses(weights, expected):
    criterion = squared(weights)
    losses, mass = criterion.task_losses(RAW, TARGET, None, complete=False)
    assert total(criterion, losses, mass).item() == expected


def test_sample_weights_weigh_the_mean_of_each_task():
    by_row = tensor([[1], [3], [9]])
    losses, mass = squared([1, 1]).task_losses(RAW, TARGET, by_row, complete=False)
    assert losses.tolist() == [(2 + 3 * 8) / 4, 8]
    assert mass.tolist() == [4, 1]
    by_cell = tensor([[1, 5], [3, 6], [9, 7]])
    losses, mass = squared([1, 1]).task_losses(RAW, TARGET, by_cell, complete=False)
    assert losses.tolist() == [(2 + 3 * 8) / 4, 8]
    assert mass.tolist() == [4, 5]


@pytest.mark.parametrize("private", [False, True])
def test_a_task_without_a_label_in_the_batch_is_skipped(private):
    criterion = squared([1, 3], private=private)
    target = TARGET.clone()
    target[:, 1] = NAN
    losses, mass = criterion.task_losses(RAW, target, None, complete=False)
    assert losses.tolist() == [5, 0]
    shares = criterion.normalised(criterion.weigh(losses, None, mass), mass)
    # Shared: renormalised over the tasks that are there. Private: as if the other did not exist.
    assert shares.tolist() == ([0.5, 0] if private else [1, 0])


def test_a_batch_without_any_label_has_no_loss_and_no_gradient():
    raw = torch.zeros(2, 3, 1, dtype=torch.float64, requires_grad=True)
    criterion = squared([1, 1])
    losses, mass = criterion.task_losses((raw,), torch.full_like(TARGET, NAN), None, complete=False)
    loss = total(criterion, losses, mass)
    loss.backward()
    assert loss.item() == 0
    assert raw.grad.tolist() == torch.zeros(2, 3, 1).tolist()


def test_private_networks_add_their_losses():
    criterion = squared([1, 1], private=True)
    losses, mass = criterion.task_losses(RAW, TARGET, None, complete=False)
    assert total(criterion, losses, mass).item() == 5 + 8
    weighted = squared([3, 1], private=True)  # ratios only: twice sum(w L) / sum(w)
    assert total(weighted, losses, mass).item() == 2 * 5.75


class Counting(nn.Module):
    """Weights (1, 1), (2, 1), (3, 1), ...: one tensor, changed in place."""

    def __init__(self):
        super().__init__()
        self.register_buffer("weights", tensor([0, 1]))

    def forward(self, losses, gradients, present):
        self.weights[0] += 1
        return self.weights


def test_a_weighting_may_change_its_own_tensor_in_every_step():
    weights = tensor([1, 1])
    criterion = Objective([HeadGroup((0, 1), SquaredError(), 1)], 2, Counting(), weights)
    given = [criterion.weigh(tensor([0, 0]), None, None) for _ in range(3)]
    assert [w.tolist() for w in given] == [[1, 1], [2, 1], [3, 1]]
    assert [criterion.normalised(w, None).tolist()[1] for w in given] == [1 / 2, 1 / 3, 1 / 4]


# Against slow references --------------------------------------------------------------------

LAYOUT = [  # (task, its loss and width): groups are interleaved
    HeadGroup((0, 3), LogLoss(), 1),
    HeadGroup((1,), LogLoss(), 4),
    HeadGroup((2, 4), SquaredError(), 1),
]


def mixed_batch(n_rows=30, stack=(), missing=0.4):
    """Raw outputs and targets of two binary, a four-class and two regression tasks."""
    rng = np.random.default_rng(0)
    raw = tuple(
        randn(*stack, len(g.tasks), n_rows, g.n_outputs, seed=i).requires_grad_()
        for i, g in enumerate(LAYOUT)
    )
    columns = [rng.integers(2, size=n_rows), rng.integers(4, size=n_rows), rng.normal(size=n_rows)]
    columns += [rng.integers(2, size=n_rows), rng.normal(size=n_rows)]
    y = np.column_stack(columns).astype(float)
    y[rng.random(y.shape) < missing] = NAN
    return raw, torch.from_numpy(y), torch.from_numpy(rng.random(y.shape) + 0.5)


def place(task):
    """Return (group, position in it) of a task."""
    return next((g, h.tasks.index(task)) for g, h in enumerate(LAYOUT) if task in h.tasks)


def slow_loss(raw, y, weight, task):
    """Select the labelled rows of one task, one after the other, with torch's own losses."""
    group, position = place(task)
    each, mass = [], []
    for row in range(len(y)):
        if torch.isnan(y[row, task]):
            continue
        out, target = raw[group][position, row], y[row, task]
        if task in (0, 3):
            loss = torch.nn.functional.binary_cross_entropy_with_logits(out[0], target)
        elif task == 1:
            loss = torch.nn.functional.cross_entropy(out, target.long())
        else:
            loss = torch.nn.functional.mse_loss(out[0], target) / 2
        each.append(loss * weight[row, task])
        mass.append(weight[row, task])
    return sum(each) / sum(mass)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("missing", [0.0, 0.4])
def test_masked_losses_and_gradients_equal_a_loop_over_selected_rows(weighted, missing):
    raw, y, weight = mixed_batch(missing=missing)
    task_weights = [1.0, 2.0, 0.5, 0.0, 3.0]
    criterion = objective(LAYOUT, task_weights)
    losses, mass = criterion.task_losses(
        raw, y, weight if weighted else None, complete=missing == 0
    )
    ours = torch.autograd.grad(total(criterion, losses, mass), raw)
    task_weights = torch.tensor(task_weights, dtype=torch.float64)
    used = weight if weighted else torch.ones_like(weight)
    slow = torch.stack([slow_loss(raw, y, used, t) for t in range(5)])
    assert_close(losses, slow, rtol=0, atol=1e-12)
    combined = (task_weights * slow).sum() / task_weights.sum()
    expected = torch.autograd.grad(combined, raw, retain_graph=True)
    for a, b in zip(ours, expected, strict=True):
        assert_close(a, b, rtol=0, atol=1e-12)
    wrong = torch.autograd.grad(slow.mean(), raw)  # negative control: weights that are ignored
    assert (ours[0] - wrong[0]).abs().max() > 1e-3


def test_missing_labels_carry_no_gradient_at_all():
    raw, y, _ = mixed_batch()
    criterion = objective(LAYOUT, [1.0] * 5)
    losses, mass = criterion.task_losses(raw, y, None, complete=False)
    grads = torch.autograd.grad(total(criterion, losses, mass), raw)
    for task in range(5):
        group, position = place(task)
        labelled = ~y[:, task].isnan()
        slope = grads[group][position]
        assert slope.isfinite().all()
        assert not slope[~labelled].any()
        assert slope[labelled].any()


def test_what_stands_behind_a_missing_label_does_not_matter_to_the_last_bit():
    raw, y, _ = mixed_batch()
    criterion = objective(LAYOUT, [1.0] * 5)
    before, _ = criterion.task_losses(raw, y, None, complete=False)
    changed = [r.detach().clone() for r in raw]
    for task in range(5):
        group, position = place(task)
        changed[group][position, y[:, task].isnan()] = 1e6
    after, _ = criterion.task_losses(changed, y, None, complete=False)
    assert torch.equal(before, after)


def test_even_an_infinite_output_behind_a_missing_label_is_harmless():
    """NaN times zero is NaN: labels must be selected, not multiplied away."""
    raw = torch.zeros(1, 2, 1, dtype=torch.float64)
    raw[0, 1] = float("inf")
    raw.requires_grad_()
    criterion = squared([1])
    losses, _ = criterion.task_losses((raw,), tensor([[2], [NAN]]), None, complete=False)
    losses.sum().backward()
    assert losses.item() == 2
    assert raw.grad.flatten().tolist() == [-2, 0]


class GammaDeviance(RegressionLoss):
    """Infinite for a target of zero, which stands in for a missing label."""

    def elementwise(self, raw, target):
        return target / raw.squeeze(-1).exp() + raw.squeeze(-1) - target.log() - 1.0


def test_a_loss_may_be_infinite_for_what_stands_in_for_a_missing_label():
    raw = torch.zeros(1, 2, 1, dtype=torch.float64, requires_grad=True)
    criterion = objective([HeadGroup((0,), GammaDeviance(), 1)], [1])
    losses, _ = criterion.task_losses((raw,), tensor([[2], [NAN]]), None, complete=False)
    losses.sum().backward()
    assert losses.item() == pytest.approx(1 - np.log(2))
    assert raw.grad.flatten().tolist() == [-1, 0]


def test_the_short_cut_for_complete_labels_changes_nothing():
    raw, y, weight = mixed_batch(missing=0.0)
    criterion = objective(LAYOUT, [1.0, 2.0, 3.0, 4.0, 5.0])
    for w in (None, weight, weight[:, :1]):
        fast, fast_mass = criterion.task_losses(raw, y, w, complete=True)
        slow, slow_mass = criterion.task_losses(raw, y, w, complete=False)
        assert_close(fast, slow, rtol=0, atol=1e-14)
        assert_close(total(criterion, fast, fast_mass), total(criterion, slow, slow_mass))


@pytest.mark.parametrize("complete", [False, True])
def test_a_stack_of_objectives_equals_separate_ones(complete):
    raw, y, weight = mixed_batch(stack=(2, 3), missing=0.0 if complete else 0.4)
    weights = np.random.default_rng(1).random((2, 3, 5))
    stacked = objective(LAYOUT, weights)
    losses, mass = stacked.task_losses(raw, y, weight, complete=complete)
    assert losses.shape == (2, 3, 5)
    totals = total(stacked, losses, mass)
    for i, j in np.ndindex(2, 3):
        alone = objective(LAYOUT, weights[i, j])
        own, own_mass = alone.task_losses([r[i, j] for r in raw], y, weight, complete=complete)
        assert_close(losses[i, j], own, rtol=0, atol=1e-14)
        assert_close(totals[i, j], total(alone, own, own_mass), rtol=0, atol=1e-14)


def test_index_tensors_survive_casts_and_copies():
    raw, y, _ = mixed_batch()
    criterion = objective(LAYOUT, [1.0] * 5)
    expected, _ = criterion.task_losses(raw, y, None, complete=False)
    single = copy.deepcopy(criterion).float()
    losses, _ = single.task_losses([r.float() for r in raw], y.float(), None, complete=False)
    assert losses.dtype == torch.float32
    assert_close(losses.double(), expected, rtol=1e-5, atol=1e-6)


# Scores on encoded targets ------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
def test_encoded_scores_are_scikit_learns_on_labelled_rows(weighted):
    raw, y, weight = mixed_batch()
    raw = [r.detach() for r in raw]
    scores = encoded_scores(LAYOUT, raw, y, weight if weighted else None)
    for task in range(5):
        group, position = place(task)
        labelled = ~y[:, task].isnan()
        out = raw[group][position][labelled]
        truth = y[labelled, task].numpy()
        w = weight[labelled, task].numpy() if weighted else None
        if task in (0, 3):
            expected = accuracy_score(truth, out[:, 0] > 0, sample_weight=w)
        elif task == 1:
            expected = accuracy_score(truth, out.argmax(-1), sample_weight=w)
        else:
            expected = r2_score(truth, out[:, 0], sample_weight=w)
        assert scores[task].item() == pytest.approx(expected, abs=1e-12)


def test_a_task_without_labels_has_no_score():
    raw, y, _ = mixed_batch()
    y[:, [0, 2]] = NAN
    scores = encoded_scores(LAYOUT, [r.detach() for r in raw], y, None)
    assert scores.isnan().tolist() == [True, False, True, False, False]


def test_the_log_loss_of_a_task_is_scikit_learns():
    raw, y, _ = mixed_batch()
    losses, _ = objective(LAYOUT, [1.0] * 5).task_losses(raw, y, None, complete=False)
    labelled = ~y[:, 1].isnan()
    p = raw[1][0][labelled].softmax(-1).detach().numpy()
    assert losses[1].item() == pytest.approx(log_loss(y[labelled, 1], p, labels=range(4)))


# Stacks -------------------------------------------------------------------------------------


def test_targets_of_their_own_for_every_fold():
    """Candidates share the targets of a fold; every network's losses are those it has alone."""
    groups = [HeadGroup((0, 2), SquaredError(), 1), HeadGroup((1,), LogLoss(), 1)]
    weights = torch.ones(3, dtype=torch.float64)
    criterion = Objective(groups, 3, ConstantWeights(weights), weights)
    generator = torch.Generator().manual_seed(0)

    def randn(*shape):
        return torch.randn(shape, dtype=torch.float64, generator=generator)

    raw = [randn(4, 2, 2, 6, 1), randn(4, 2, 1, 6, 1)]  # (candidate, fold, task, batch, 1)
    target = randn(2, 6, 3)  # (fold, batch, task)
    target[..., 1] = (target[..., 1] > 0).to(target.dtype)
    target[0, :2, 0] = target[1, 3:, 1] = NAN
    losses, mass = criterion.task_losses(raw, target, None, complete=False)
    scores = encoded_scores(groups, raw, target, None)
    assert losses.shape == scores.shape == (4, 2, 3)
    assert mass.tolist() == [[4, 6, 6], [6, 3, 6]]
    for candidate in range(4):
        for fold in range(2):
            alone = [part[candidate, fold] for part in raw]
            one, its_mass = criterion.task_losses(alone, target[fold], None, complete=False)
            torch.testing.assert_close(losses[candidate, fold], one, rtol=0, atol=1e-14)
            assert torch.equal(its_mass, mass[fold])
            its_scores = encoded_scores(groups, alone, target[fold], None)
            torch.testing.assert_close(scores[candidate, fold], its_scores, rtol=0, atol=1e-13)


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize("n_batches", [3, 200])
def test_totals_of_an_epoch(n_batches, complete):
    """Means over batches by hand, for 3 networks: as many as there are batches in one case."""
    generator = torch.Generator().manual_seed(0)
    losses = torch.rand(n_batches, 3, 2, dtype=torch.float64, generator=generator)
    mass = torch.randint(0, 5, (n_batches, 2), generator=generator).double()
    if complete:
        mass = (mass[:, :1] + 1).expand(-1, 2)
    totals = EpochTotals()
    for batch in range(n_batches):
        of_batch = int(mass[batch, 0]) if complete else mass[batch]
        totals.add(losses[batch], of_batch, torch.full((3, 2), float(batch)))
    means, total, weights = totals.means()
    by_hand = (losses * mass[:, None]).sum(0) / mass.sum(0)
    torch.testing.assert_close(means, by_hand, rtol=0, atol=1e-13)
    assert torch.equal(total, mass.sum(0).expand(3, 2))
    assert weights.unique().item() == (n_batches - 1) / 2
    assert totals.n_batches == n_batches
    assert (by_hand - losses.mean(0)).abs().max() > 1e-3  # negative control: mass matters


def test_scores_of_a_constant_target_are_scikit_learns():
    group = [HeadGroup((0, 1, 2), SquaredError(), 1)]
    target = tensor([[1, 1, 0.5], [1, 1, NAN], [1, 1, NAN]])
    raw = tensor([[[1], [1], [1]], [[1], [1], [2]], [[0], [0], [0]]])
    scores = encoded_scores(group, [raw], target, None)
    assert scores[:2].tolist() == [1.0, 0.0]  # exact, and not
    assert scores[2].isnan()  # a single row has no R2
