"""Weightings by the gradients of the shared part: each against a reference.

The references are slow loops, scipy's solvers, and torchjd, which adds gradients up where ours
is their mean.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import minimize
from torch import nn
from torchjd import aggregation

from sk_mtl.weighting import (
    MGDA,
    WEIGHTINGS,
    AlignedMTL,
    CAGrad,
    ConFIG,
    ExcessMTL,
    FairGrad,
    GradDrop,
    GradNorm,
    GradVac,
    NashMTL,
    PCGrad,
)
from sk_mtl.weighting._solvers import (
    RIDGE,
    conflict_averse,
    length,
    power_balance,
    simplex_quadratic,
)
from sk_mtl.weighting._streams import Orders


def jacobians(n, n_tasks=3, n_parameters=5, seed=0):
    """Gradients of tasks at scales of their own; some of them conflict."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(n, n_tasks, n_parameters, generator=generator, dtype=torch.float64)
    return drawn * torch.logspace(-0.5, 0.5, n_tasks, dtype=torch.float64).unsqueeze(-1)


def build(recipe, n_tasks=3, task_weights=None, seed=0):
    given = torch.ones(n_tasks) if task_weights is None else torch.tensor(task_weights)
    balance = recipe.build(given.double())
    balance.seed([seed])
    return balance


def direction(balance, jacobian):
    """What the shared part moves along."""
    weights = balance(torch.ones(len(jacobian)).double(), jacobian @ jacobian.mT)
    return (weights @ jacobian).numpy()


# Solvers ------------------------------------------------------------------------------------


def problems(n_problems):
    """Inner products of 2 to 6 gradients, linearly dependent or equal in part, and a pull."""
    rng = np.random.default_rng(0)
    for i in range(n_problems):
        n = int(rng.integers(2, 7))
        J = rng.normal(size=(n, int(rng.integers(1, 8)))) * 10 ** rng.uniform(-1, 1, size=(n, 1))
        if i % 4 == 0:
            J[0] = J[-1]
        yield J @ J.T, J @ J.T @ rng.normal(size=n) * (i % 2)


def by_slsqp(value, n):
    """The least value on the simplex, of a function that gives its slope too."""
    found = minimize(
        value,
        np.full(n, 1 / n),
        jac=True,
        bounds=[(0, 1)] * n,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like},
        method="SLSQP",
        options={"ftol": 1e-12, "maxiter": 300},
    )
    return found.fun


def is_stationary(w, slope, scale):
    """Karush, Kuhn and Tucker: no task has a lower slope than those inside."""
    return slope.min() >= (w @ slope) - 1e-8 * scale


def test_simplex_quadratic_finds_the_least_value():
    n_wrong = 0
    for G, p in problems(200):
        scale = np.trace(G) / len(G)
        w = simplex_quadratic(G, p)
        assert (w >= 0).all()
        assert_allclose(w.sum(), 1.0, rtol=1e-9)
        assert is_stationary(w, G @ w + p, scale)

        def value(w, p=p, G=G):
            return w @ G @ w / 2 + p @ w, G @ w + p

        assert value(w)[0] <= by_slsqp(value, len(G)) + 1e-7 * scale
        equal = np.full(len(G), 1 / len(G))
        n_wrong += not is_stationary(equal, G @ equal + p, scale)
    assert n_wrong > 180  # negative control


@pytest.mark.parametrize("c", [0.1, 0.5, 2.0])
def test_conflict_averse_finds_the_least_value(c):
    n_wrong = 0
    for G, _ in problems(40):
        mean = np.full(len(G), 1 / len(G))
        p, r = G @ mean, c * length(mean, G)
        w = conflict_averse(G, mean, c)
        assert (w >= 0).all()
        assert_allclose(w.sum(), 1.0, rtol=1e-9)

        def value(w, p=p, r=r, G=G):
            norm = length(w, G)
            return p @ w + r * norm, p + r * G @ w / max(norm, 1e-12)

        assert value(w)[0] <= by_slsqp(value, len(G)) + 1e-6 * np.trace(G)
        by_mgda = simplex_quadratic(G, np.zeros(len(G)))
        n_wrong += value(by_mgda)[0] > value(w)[0] + 1e-6 * np.trace(G)
    assert n_wrong > 10  # negative control


@pytest.mark.parametrize("c", [0.1, 0.4, 0.9])
def test_conflict_averse_solves_a_few_systems(c, monkeypatch):
    """As little as MGDA where all tasks count; it does not creep up on the last digits."""
    solve, solved = np.linalg.solve, []
    monkeypatch.setattr(np.linalg, "solve", lambda *args: solved.append(1) or solve(*args))
    rng, counts, mean = np.random.default_rng(0), [], np.full(8, 1 / 8)
    for _ in range(300):
        g = rng.normal(size=(8, 40)) * rng.uniform(0.5, 1.0, size=(8, 1)) + rng.normal(size=40) / 5
        solved.clear()
        conflict_averse(g @ g.T, mean, c)
        counts.append(len(solved))
    assert np.mean(counts) < 6 and max(counts) < 25


def test_mgda_ends_where_rounding_leaves_no_best_point(monkeypatch):
    """Of eight gradients that depend on three, in single precision; as short as it gets."""
    solve, solved = np.linalg.solve, []
    monkeypatch.setattr(np.linalg, "solve", lambda *args: solved.append(1) or solve(*args))
    rng = np.random.default_rng(0)
    for _ in range(30):
        g = (rng.normal(size=(8, 3)) @ rng.normal(size=(3, 5000))).astype(np.float32)
        solved.clear()
        w = simplex_quadratic((g @ g.T).astype(np.float64), np.zeros(8))
        assert len(solved) < 20
        assert w.min() >= 0 and abs(w.sum() - 1) < 1e-9
        exact = g.astype(np.float64)
        best = simplex_quadratic(exact @ exact.T, np.zeros(8))
        longest = np.linalg.norm(exact, axis=1).max()
        assert np.linalg.norm(w @ exact) < np.linalg.norm(best @ exact) + 1e-3 * longest


@pytest.mark.parametrize("power", [0.2, 1.0, 2.0, 10.0])
def test_power_balance_solves_its_equation(power):
    """With the ridge that makes dependent gradients solvable; unless all tasks are at odds."""
    n_solved = 0
    for G, _ in problems(100):
        w = power_balance(G, power)
        assert (w > 0).all()
        shortest = length(simplex_quadratic(G, np.zeros(len(G))), G)
        if shortest > 1e-3 * np.diag(G).min() ** 0.5:
            n_solved += 1
            ridged = G + RIDGE * np.diag(np.diag(G))
            assert_allclose((ridged @ w) * w ** (1 / power), 1.0, rtol=1e-6)
        else:  # no direction helps all: the sum is next to nothing
            assert length(w / w.sum(), G) < 1e-3 * np.diag(G).max() ** 0.5
    assert 30 < n_solved < 100


# Surgery: PCGrad, GradVac, GradDrop ---------------------------------------------------------


def surgery(jacobian, orders, *, against="original"):
    """Algorithm 1 of Yu et al. on vectors, by these orders of the other tasks; the mean."""
    g = jacobian.numpy()
    changed = g.copy()
    for i, others in enumerate(orders):
        for j in others:
            other = g[j] if against == "original" else changed[j]
            if changed[i] @ other < 0:
                changed[i] = changed[i] - changed[i] @ other / (other @ other) * other
    return changed.mean(axis=0)


def test_pcgrad_is_its_algorithm():
    twin, ours = Orders(), build(PCGrad(), 4, seed=3)
    twin.seed([3])
    n_wrong = 0
    for jacobian in jacobians(20, 4):
        orders = twin.of_others(4)
        found = direction(ours, jacobian)
        assert_allclose(found, surgery(jacobian, orders), rtol=1e-9, atol=1e-12)
        n_wrong += not np.allclose(found, surgery(jacobian, orders, against="changed"))
    assert n_wrong > 10  # negative control: against gradients that were projected themselves


def test_orders_are_of_all_the_others_and_vary():
    orders = Orders()
    orders.seed([0])
    drawn = [orders.of_others(4) for _ in range(600)]
    for i in range(4):
        seen, counts = np.unique([o[i] for o in drawn], axis=0, return_counts=True)
        assert_array_equal(np.sort(seen, axis=1), [sorted({0, 1, 2, 3} - {i})] * 6)
        assert counts.min() > 60 and counts.max() < 140  # each of 6 orders about 100 times


def test_pcgrad_by_hand():
    # g1 = (1, 0), g2 = (-1, 1): g1.g2 = -1; g1 + g2 / 2 = (1/2, 1/2), g2 + g1 = (0, 1)
    jacobian = torch.tensor([[1.0, 0.0], [-1.0, 1.0]], dtype=torch.float64)
    assert_allclose(direction(build(PCGrad(), 2), jacobian), [0.25, 0.75])


@pytest.mark.parametrize("name", ["pcgrad", "cagrad", "upgrad", "dualproj", "gradvac", "graddrop"])
def test_gradients_that_agree(name):
    """Without a conflict surgery is the mean; CAGrad still favours the task that gains least."""
    jacobian = jacobians(1)[0].abs()
    balance = build(WEIGHTINGS[name]())
    if name == "graddrop":
        found = balance(torch.ones(3), jacobian).numpy()
    else:
        found = direction(balance, jacobian)
    if name == "cagrad":  # negative control
        assert np.abs(found - jacobian.mean(0).numpy()).max() > 0.01
    else:
        assert_allclose(found, jacobian.mean(0), rtol=1e-9)


def test_pcgrad_and_gradvac_are_those_of_torchjd_for_two_tasks():
    """Of two tasks there is one order; torchjd adds gradients up."""
    surgeon, vaccine = aggregation.PCGradWeighting(), aggregation.GradVacWeighting(beta=0.3)
    ours, other = build(GradVac(beta=0.3), 2), build(GradVac(beta=0.1), 2)
    n_wrong = 0
    for jacobian in jacobians(30, 2):
        losses, gramian = torch.ones(2), jacobian @ jacobian.mT
        assert_allclose(build(PCGrad(), 2)(losses, gramian), surgeon(gramian) / 2, rtol=1e-10)
        found, expected = ours(losses, gramian), vaccine(gramian) / 2
        assert_allclose(found, expected, rtol=1e-6)
        n_wrong += not np.allclose(other(losses, gramian), expected, rtol=1e-6)
    assert n_wrong > 10  # negative control


def test_gradvac_turns_gradients_until_they_agree_as_usual():
    """Cosines are brought up to their average; PCGrad would leave them at 0."""
    balance = build(GradVac(beta=0.0), 2)
    balance.usual.fill_(0.5)
    g = np.array([[1.0, 0.0], [-1.0, 2.0]])
    a = balance(torch.ones(2), torch.from_numpy(g @ g.T)).numpy() * 2 - 1  # what each got
    for i, j in ((0, 1), (1, 0)):
        turned = g[i] + a[j] * g[j]
        cosine = turned @ g[j] / np.linalg.norm(turned) / np.linalg.norm(g[j])
        assert_allclose(cosine, 0.5, rtol=1e-9)
    g = torch.tensor([[1.0, 0.1], [1.0, 0.0]])  # cosines above the average are let be
    assert_allclose(balance(torch.ones(2), g @ g.T), 0.5)


def test_graddrop_is_that_of_torchjd():
    """With the same uniform numbers; torchjd adds up."""
    theirs, ours, other = aggregation.GradDrop(), build(GradDrop(), seed=5), build(GradDrop(), 3)
    torch.manual_seed(5)
    for jacobian in jacobians(10, n_parameters=20):
        found = ours(torch.ones(3), jacobian)
        assert_allclose(found, theirs(jacobian) / 3, rtol=1e-12)
        assert not torch.equal(other(torch.ones(3), jacobian), found)  # other numbers


def test_graddrop_draws_signs_by_the_odds_of_the_gradients():
    """Of 3 and -1 the sign is positive three times in four (equation 1)."""
    balance = build(GradDrop(), 2)
    jacobian = torch.tensor([[3.0], [-1.0]], dtype=torch.float64).expand(2, 4000)
    found = balance(torch.ones(2), jacobian)
    assert set(found.tolist()) == {1.5, -0.5}  # the mean of what is kept
    assert_allclose((found > 0).double().mean(), 0.75, atol=0.02)


# Shortest, fairest, most averse: MGDA, FairGrad, Nash-MTL, CAGrad ---------------------------


def test_mgda_is_the_shortest_vector_of_the_hull():
    frank_wolfe = aggregation.MGDAWeighting(epsilon=1e-9, max_iters=1000)
    n_wrong = 0
    for jacobian in jacobians(20, 4):
        gramian = jacobian @ jacobian.mT
        d = direction(build(MGDA(), 4), jacobian)
        theirs = (frank_wolfe(gramian) @ jacobian).numpy()
        assert d @ d <= theirs @ theirs * (1 + 1e-9)
        assert_allclose(d, theirs, atol=0.05)  # Frank-Wolfe's steps converge slowly
        products = jacobian.numpy() @ d  # every task improves, those in the hull by |d|^2
        assert products.min() >= d @ d * (1 - 1e-7)
        n_wrong += (jacobian.numpy() @ jacobian.numpy().mean(axis=0)).min() < 0
    assert n_wrong > 3  # negative control: by the mean some task gets worse


def test_mgda_and_nash_by_hand():
    # Orthogonal gradients of squares 4 and 1: w1 * 4 = w2 * 1 for both, and shares 1/5, 4/5;
    # the fair ones of Nash have 4 w1 = 1 / w1: 1/2 and 1, that is 1/3 and 2/3.
    gramian = torch.diag(torch.tensor([4.0, 1.0], dtype=torch.float64))
    assert_allclose(build(MGDA(), 2)(torch.ones(2), gramian), [0.2, 0.8], rtol=1e-9)
    assert_allclose(build(NashMTL(), 2)(torch.ones(2), gramian), [1 / 3, 2 / 3], rtol=1e-9)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_fairgrad_solves_its_equation_as_torchjd_does(alpha):
    theirs = aggregation.FairGradWeighting(alpha=alpha)
    for jacobian in jacobians(10):
        gramian = jacobian @ jacobian.mT
        w = build(FairGrad(alpha=alpha))(torch.ones(3), gramian)
        assert_allclose(w.sum(), 1.0, rtol=1e-12)
        balance = (gramian @ w) * w ** (1 / alpha)  # equal for all tasks, up to scale
        assert_allclose(balance / balance.mean(), 1.0, rtol=1e-8)
        expected = theirs(gramian)
        assert_allclose(w, expected / expected.sum(), rtol=1e-4)
        nash = build(NashMTL())(torch.ones(3), gramian)
        assert np.allclose(w, nash) == (alpha == 1.0)


@pytest.mark.parametrize("c", [0.2, 0.8])
def test_cagrad_is_the_best_direction_near_the_mean(c):
    """Equation 1 of Liu et al.: on the ball's boundary, and no other does more for the worst."""
    rng = np.random.default_rng(0)
    for jacobian in jacobians(10, 4):
        g = jacobian.numpy()
        mean, d = g.mean(axis=0), direction(build(CAGrad(c=c), 4), jacobian)
        radius = c * np.linalg.norm(mean)
        assert_allclose(np.linalg.norm(d - mean), radius, rtol=1e-9)
        others = rng.normal(size=(500, 5))
        others *= radius * rng.random((500, 1)) ** 0.2 / np.linalg.norm(others, axis=1)[:, None]
        assert (g @ d).min() >= ((mean + others) @ g.T).min(axis=1).max()
        found = minimize(  # the same problem for d, not for weights
            lambda x: -x[-1],
            [*mean, (g @ mean).min()],
            constraints=[
                {"type": "ineq", "fun": lambda x, g=g: g @ x[:-1] - x[-1]},
                {
                    "type": "ineq",
                    "fun": lambda x, m=mean, r=radius: r**2 - ((x[:-1] - m) ** 2).sum(),
                },
            ],
            method="SLSQP",
            options={"ftol": 1e-12, "maxiter": 300},
        )
        assert_allclose((g @ d).min(), found.x[-1], rtol=1e-4, atol=1e-6)


def test_cagrad_goes_from_the_mean_to_mgda():
    for jacobian in jacobians(10):
        assert_allclose(direction(build(CAGrad(c=0)), jacobian), jacobian.mean(0), rtol=1e-12)
        far, shortest = (direction(build(r), jacobian) for r in (CAGrad(c=1e4), MGDA()))
        cosine = far @ shortest / np.linalg.norm(far) / np.linalg.norm(shortest)
        assert cosine > 1 - 1e-5


def test_cagrad_goes_on_to_the_least_mean_loss_where_tasks_are_at_odds():
    """Theorem 3.2: for c < 1 the only fixed points are those of the mean loss."""
    jacobian = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    # The third task can gain, and the others lose nothing: 1/3 and up to half of that on top.
    right, up = direction(build(CAGrad(c=0.5)), jacobian)
    assert abs(right) < 1e-9
    assert 1 / 6 - 1e-9 <= up <= 1 / 2 + 1e-9


# Alike in all tasks: IMTL-G, Aligned-MTL, ConFIG --------------------------------------------


def closed_form(jacobian):
    """Equation 6 of Liu et al. 2021: alpha = g_1 U' (D U')^-1, for tasks 2, 3, ..."""
    g = jacobian.numpy()
    u = g / np.linalg.norm(g, axis=1, keepdims=True)
    D, U = g[0] - g[1:], u[0] - u[1:]
    alpha = g[0] @ U.T @ np.linalg.inv(D @ U.T)
    return np.array([1 - alpha.sum(), *alpha])


@pytest.mark.parametrize("name", ["imtl_g", "config"])
def test_every_unit_gradient_has_an_equal_part(name):
    for jacobian in jacobians(10):
        units = (jacobian / jacobian.norm(dim=1, keepdim=True)).numpy()
        parts = units @ direction(build(WEIGHTINGS[name]()), jacobian)
        assert_allclose(parts, parts[0], rtol=1e-6)
        mean = units @ jacobian.mean(0).numpy()  # negative control
        assert np.ptp(mean) > 0.01


def test_imtl_g_has_a_closed_form():
    for jacobian in jacobians(10):
        found = build(WEIGHTINGS["imtl_g"]())(torch.ones(3), jacobian @ jacobian.mT)
        assert_allclose(found, closed_form(jacobian), rtol=1e-6)


def test_config_is_that_of_torchjd():
    """Whose length is that of the sum, and which takes parts that unit gradients are to have."""
    for parts in ([1.0, 1.0, 1.0], [1.0, 2.0, 4.0]):
        theirs = aggregation.ConFIG(torch.tensor(parts, dtype=torch.float64))
        for jacobian in jacobians(10):
            found = direction(build(ConFIG(), task_weights=parts), jacobian)
            assert_allclose(found, theirs(jacobian) / 3, rtol=1e-8)
    assert not np.allclose(found, direction(build(ConFIG()), jacobian))  # negative control


@pytest.mark.parametrize("scale_mode", ["min", "median", "rmse"])
def test_aligned_gradients_have_a_condition_number_of_1(scale_mode):
    """Column t of the balance matrix is found by all weight on task t."""
    modes = {"min": np.min, "median": lambda v: np.sort(v)[1], "rmse": np.mean}
    for jacobian in jacobians(5):
        gramian = (jacobian @ jacobian.mT).numpy()
        recipe = AlignedMTL(scale_mode=scale_mode)
        balances = [build(recipe, task_weights=row) for row in np.eye(3).tolist()]
        B = np.stack([b(torch.ones(3), torch.from_numpy(gramian)).numpy() for b in balances], 1)
        aligned = B @ gramian @ B  # inner products of the aligned gradients
        size = modes[scale_mode](np.linalg.eigvalsh(gramian))
        assert_allclose(aligned, size * np.eye(3), rtol=1e-8, atol=1e-10)
        assert np.linalg.cond(gramian) > 2  # negative control
        mean = build(recipe)(torch.ones(3), torch.from_numpy(gramian))
        assert_allclose(mean, B.mean(axis=1), rtol=1e-9)


# By the past: GradNorm, ExcessMTL -----------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.0, 1.5])
def test_gradnorm_is_its_equations(alpha):
    """On quadratics, by the gradient of L_grad over the weights, the target held constant."""
    steep, ends = torch.tensor([0.1, 1.0, 3.0]).double(), torch.randn(3, 4, dtype=torch.float64)
    theta = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    w = nn.Parameter(torch.ones(3, dtype=torch.float64))
    adam = torch.optim.Adam([w], lr=0.05)
    ours, other = (build(GradNorm(alpha=a, learning_rate=0.05)) for a in (alpha, 1.5 - alpha))
    first = None
    for _ in range(15):
        losses = steep * (theta - ends).square().sum(dim=1) / 2
        first = losses.detach() if first is None else first
        rows = [torch.autograd.grad(w[t] * losses[t], theta, create_graph=True) for t in range(3)]
        norms = torch.stack([row.norm() for (row,) in rows])
        rate = losses.detach() / first
        target = norms.detach().mean() * (rate / rate.mean()) ** alpha
        jacobian = torch.stack([row for (row,) in rows]).detach() / w.detach().unsqueeze(-1)
        used = ours(losses.detach(), jacobian @ jacobian.mT)
        other(losses.detach(), jacobian @ jacobian.mT)
        assert_allclose(used, w.detach(), rtol=1e-9)
        adam.zero_grad()
        (norms - target).abs().sum().backward(inputs=[w])  # equation 2
        adam.step()
        w.data.mul_(3 / w.data.sum())
        with torch.no_grad():
            theta -= 0.1 * used @ jacobian
    assert (ours.weights.value - other.weights.value).abs().max() > 1e-3  # negative control


def test_gradnorm_makes_norms_alike():
    gramian = torch.diag(torch.tensor([0.25, 1.0, 4.0], dtype=torch.float64))
    balance = build(GradNorm(alpha=0.0, learning_rate=0.01))
    for _ in range(500):
        weights = balance(torch.ones(3).double(), gramian)
    assert_allclose(weights * gramian.diagonal().sqrt(), 6 / 7, atol=0.05)  # w = 12/7, 6/7, 3/7
    assert_allclose(weights.sum(), 3.0)


def test_excess_mtl_is_that_of_torchjd():
    for step_size in (0.1, 1.0):
        theirs = aggregation.ExcessMTLWeighting(robust_step_size=step_size)
        ours, other = build(ExcessMTL(step_size=step_size)), build(ExcessMTL(step_size=0.5))
        for jacobian in 0.1 * jacobians(10):
            found = ours(torch.ones(3).double(), jacobian)
            assert_allclose(found, theirs(jacobian), rtol=1e-9)
        assert not np.allclose(other(torch.ones(3).double(), jacobian), found)


# Units --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "sees"),
    [("nash_mtl", False), ("imtl_g", False), ("config", False)]
    + [(n, True) for n in ("fairgrad", "mgda", "pcgrad", "cagrad", "aligned_mtl", "upgrad")],
)
def test_whose_direction_depends_on_the_units_of_a_loss(name, sees):
    """Whose does not is what the papers claim; the others are the negative controls."""
    moved = []
    for jacobian in jacobians(10, 2):
        one, other = (
            direction(build(WEIGHTINGS[name](), 2), jacobian * torch.tensor([[u], [1.0]]).double())
            for u in (1.0, 5.0)
        )
        moved.append(1 - one @ other / np.linalg.norm(one) / np.linalg.norm(other))
    assert (max(moved) > 1e-3) == sees
    assert sees or max(moved) < 1e-9
