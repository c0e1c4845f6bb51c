"""DSelect-k against a slow copy of its paper.

What all trunks keep is tested in ``test_trunks``.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from plain import plain
from test_trunks import X, assert_same_function, build, linear, perceptron, randn
from test_trunks_structures import changed, copied
from torch import nn
from torch.testing import assert_close

from sk_mtl import MultiTaskRegressor
from sk_mtl.layers import Draws
from sk_mtl.trunks import DSelectK, SharedBottom, TrunkSpec
from sk_mtl.trunks._dselect_k import _Selection, smooth_step

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def test_smooth_step_by_hand():
    """S(t) = -2 t^3 / gamma^3 + 3 t / (2 gamma) + 1/2 within half a gamma, of slope
    S'(t) = -6 t^2 / gamma^3 + 3 / (2 gamma); here gamma = 2."""
    t = torch.tensor([-5.0, -1.0, 0.0, 0.5, 1.0, 5.0], dtype=torch.float64, requires_grad=True)
    step = smooth_step(t, 2.0)
    assert step.tolist() == [0.0, 0.0, 0.5, 0.84375, 1.0, 1.0]
    (slope,) = torch.autograd.grad(step.sum(), t)
    assert slope.tolist() == [0.0, 0.0, 0.75, 0.5625, 0.0, 0.0]
    straight = (t / 2.0).clamp(-0.5, 0.5) + 0.5  # negative control: it is no linear step
    assert straight[3] == 0.75


@pytest.mark.parametrize("gamma", [0.3, 1.0, 7.0])
def test_smooth_step_ends_exactly(gamma):
    ends = torch.tensor([-gamma / 2, gamma / 2], dtype=torch.float64)
    assert smooth_step(ends, gamma).tolist() == [0.0, 1.0]


def slow_step(t, gamma):
    if t <= -gamma / 2:
        return 0 * t
    if t >= gamma / 2:
        return 0 * t + 1
    return -2 * t**3 / gamma**3 + 3 * t / (2 * gamma) + 0.5


def slow_weights(z, alpha, n_experts, gamma):
    """Hazimeh et al. 2021: q(alpha, Z) = sum_i softmax(alpha)_i r(z_i), where r(z)_j is the
    product of S(z_b) over the digits of j that are 1, and of 1 - S(z_b) over those that are 0.

    ``z`` holds ``(k, n_digits)``, ``alpha`` holds ``(k,)``; numbers beyond the last expert stand
    for the first ones.
    """
    k, n_digits = z.shape
    q = [torch.zeros((), dtype=z.dtype)] * n_experts
    for i in range(k):
        share = alpha[i].exp() / alpha.exp().sum()
        for number in range(2**n_digits):
            r = torch.ones((), dtype=z.dtype)
            for b in range(n_digits):
                s = slow_step(z[i, b], gamma)
                r = r * (s if (number >> b) & 1 else 1 - s)
            q[number % n_experts] = q[number % n_experts] + share * r
    return torch.stack(q)


def split_logits(logits, k):
    """The digits and the shares of one task and sample."""
    return logits[:-k].view(k, -1), logits[-k:]


class SlowDSelectK(nn.Module):
    def __init__(self, trunk, recipe, n_tasks):
        super().__init__()
        self.recipe = recipe
        self.experts = nn.ModuleList(perceptron(trunk.experts, i) for i in range(recipe.n_experts))
        if recipe.gate == "static":
            self.logits = copied(trunk.gate.logits, n_tasks, -1)
        else:
            self.linear = nn.ModuleList(linear(trunk.gate.linear, t) for t in range(n_tasks))

    def logits_of(self, x):
        if self.recipe.gate == "static":
            return [[logits] * len(x) for logits in self.logits]
        return [layer(x) for layer in self.linear]

    def forward(self, x):
        n, k, gamma = self.recipe.n_experts, self.recipe.k, self.recipe.gamma
        experts = [expert(x) for expert in self.experts]
        tasks = []
        for logits in self.logits_of(x):
            rows = []
            for row, own in enumerate(logits):
                q = slow_weights(*split_logits(own, k), n, gamma)
                rows.append(sum(q[e] * experts[e][row] for e in range(n)))
            tasks.append(torch.stack(rows))
        return torch.stack(tasks)


@pytest.mark.parametrize("gate", ["input", "static"])
@pytest.mark.parametrize(("n_experts", "k", "gamma"), [(4, 2, 1.0), (5, 3, 4.0), (2, 1, 0.5)])
def test_dselect_k_is_the_papers(n_experts, k, gamma, gate):
    recipe = DSelectK(n_experts, k=k, gate=gate, gamma=gamma)
    trunk = changed(build(recipe, n_tasks=2), scale=0.2)
    slow = SlowDSelectK(trunk, recipe, 2)
    assert_same_function(trunk, slow)
    slow.experts[0] = slow.experts[1]  # negative control
    assert (trunk(X) - slow(X)).abs().max() > 0.01


def weights_of(logits, n_experts, k, gamma=1.0):
    """Weights ``(expert,)`` of one task and sample."""
    return _Selection(n_experts, k, gamma)(logits.view(1, -1, 1)).view(-1)


def n_logits(n_experts, k):
    return k * math.ceil(math.log2(n_experts)) + k


@pytest.mark.parametrize("n_experts", range(1, 10))
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("size", [0.01, 0.3, 100.0])
def test_gate_weights_are_a_distribution_of_at_most_k(n_experts, k, size):
    """Whatever the logits; of k experts as soon as all digits are decided."""
    for seed in range(5):
        q = weights_of(size * randn(n_logits(n_experts, k), seed=seed), n_experts, k)
        assert len(q) == n_experts
        assert (q >= 0).all()
        assert q.sum() == pytest.approx(1, abs=1e-13)
        if size == 100.0:
            assert q.count_nonzero() <= k
        elif size == 0.01:  # negative control: undecided, all experts count
            assert q.count_nonzero() == n_experts


def test_a_decided_selector_takes_the_expert_of_its_number():
    """Digits from the lowest: 1, 0, 1 is five; shares of a half each."""
    logits = torch.tensor([1.0, -1, 1, -1, 1, -1, 0, 0], dtype=torch.float64)
    assert weights_of(logits, 8, 2).tolist() == [0, 0, 0.5, 0, 0, 0.5, 0, 0]
    # Of five experts, number five is the first again.
    assert weights_of(logits, 5, 2).tolist() == [0.5, 0, 0.5, 0, 0]


@pytest.mark.parametrize("n_experts", [2, 6, 8])
def test_slopes_of_the_gate_are_those_of_the_products(n_experts):
    """Also where some digits are decided, and factors of the products are zero."""
    k = 2
    logits = 0.5 * randn(n_logits(n_experts, k), seed=3)
    logits[0], logits[-k - 1] = 0.5, -2.0  # at the end of the step, and far beyond
    logits.requires_grad_()
    up = randn(n_experts, seed=4)
    fast = weights_of(logits, n_experts, k)
    slow = slow_weights(*split_logits(logits, k), n_experts, 1.0)
    assert_close(fast, slow, rtol=0, atol=1e-14)
    slopes = [torch.autograd.grad(up @ q, logits)[0] for q in (fast, slow)]
    assert_close(*slopes, rtol=0, atol=1e-12)
    assert slopes[0][0] == slopes[0][-k - 1] == 0
    assert slopes[0][-k:].any()  # negative control: the shares can still move


def test_dselect_k_of_one_expert_is_a_shared_bottom():
    trunk = build(DSelectK(n_experts=1, k=1))
    assert_close(trunk(X), build(SharedBottom())(X).expand(3, -1, -1), rtol=0, atol=1e-14)


@pytest.mark.parametrize("gate", ["input", "static"])
def test_choices_are_open_when_training_begins(gate):
    """With many inputs too: no digit is near the end of its step."""
    trunk = DSelectK(gate=gate).build(
        TrunkSpec(1000, 3, (4,), "tanh", 0.0, Draws([0], (), torch.float64))
    )
    weights = trunk.gate(randn(50, 1000))
    assert weights.min() > 0.03 and weights.max() < 0.3  # about an eighth
    for parameter in trunk.gate.parameters():  # negative control: as wide as other gates begin
        parameter.data *= 100
    assert trunk.gate(randn(50, 1000)).min() == 0


def test_a_small_gamma_makes_gates_choose():
    """The entropy term of the paper is left out, so that this is what decides."""
    rng = np.random.default_rng(0)
    data = rng.normal(size=(100, 3))
    Y = np.column_stack([data[:, 0], np.abs(data[:, 1]), data[:, 2] ** 2])

    def experts_of_each_task(gamma):
        model = plain(
            MultiTaskRegressor,
            DSelectK(n_experts=8, k=2, gate="static", gamma=gamma),
            hidden_layer_sizes=(6,),
            learning_rate_init=0.01,
            max_iter=150,
            random_state=0,
        ).fit(data, Y)
        return model.net_.module_.trunk.gate(None).count_nonzero(dim=-1)

    assert (experts_of_each_task(0.03) <= 2).all()
    assert (experts_of_each_task(10.0) == 8).all()  # negative control


def test_no_more_experts_can_be_chosen_than_there_are():
    with pytest.raises(ValueError, match=r"Got k=3 with n_experts=2, expected no more than"):
        build(DSelectK(n_experts=2, k=3))
