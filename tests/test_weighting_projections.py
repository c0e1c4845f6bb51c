"""UPGrad and DualProj: projections onto what no task's gradient points against.

The references are scipy's non-negative least squares on the gradients themselves, and torchjd.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import nnls
from torchjd import aggregation, linalg

from sk_mtl.weighting import DualProj, UPGrad
from sk_mtl.weighting._solvers import dual_cone_projections

EXACT = 1e-15  # the inner products of these tests are of doubles


def jacobians(n, n_tasks=3, n_parameters=5, seed=0):
    """Gradients of tasks at scales of their own; some of them conflict."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(n, n_tasks, n_parameters, generator=generator, dtype=torch.float64)
    return drawn * torch.logspace(-0.5, 0.5, n_tasks, dtype=torch.float64).unsqueeze(-1)


def weights_of(recipe, jacobian, task_weights=None):
    given = torch.ones(len(jacobian)) if task_weights is None else torch.tensor(task_weights)
    balance = recipe.build(given.to(jacobian))
    return balance(torch.ones(len(jacobian)).to(jacobian), jacobian @ jacobian.mT)


def direction(recipe, jacobian, task_weights=None):
    """What the shared part moves along."""
    return (weights_of(recipe, jacobian, task_weights) @ jacobian).numpy()


def onto_the_dual_cone(vector, g):
    """The nearest vector that no gradient points against: vector + g' l, with l >= 0."""
    multipliers, _ = nnls(g.T, -vector)
    return vector + multipliers @ g


# The solver ---------------------------------------------------------------------------------


def problems(n_problems, seed=0):
    """Gradients of 2 to 12 tasks: dependent, equal, opposed, none at all, of any lengths."""
    rng = np.random.default_rng(seed)
    for i in range(n_problems):
        n = 2 + i % 11
        g = rng.normal(size=(n, int(rng.integers(1, 16)))) * 10 ** rng.uniform(-2, 2, (n, 1))
        if i % 4 < 2:
            g[0] = g[-1] if i % 4 else -g[-1]
        if i % 5 == 0:
            g[n // 2] = 0.0
        yield g


def test_every_projection_is_that_of_nonnegative_least_squares():
    n_moved = 0
    for g in problems(220):
        n = len(g)
        found = dual_cone_projections(g @ g.T, np.eye(n), n * EXACT)
        assert (found >= np.eye(n)).all()
        for row, vector in zip(found @ g, g, strict=True):
            size = np.linalg.norm(vector)
            assert_allclose(row, onto_the_dual_cone(vector, g), rtol=0, atol=1e-5 * size + 1e-12)
        n_moved += np.abs(found - np.eye(n)).max() > 1e-3
    assert n_moved > 150  # negative control: most gradients are in conflict


def test_all_rows_at_once_are_each_alone():
    """Whatever the other rows are, and in whatever units."""
    for g in problems(44, seed=1):
        n = len(g)
        G, starts = g @ g.T, np.random.default_rng(0).random((3, n))
        together = dual_cone_projections(G, starts, n * EXACT)
        for row, start in zip(together, starts, strict=True):
            (alone,) = dual_cone_projections(G, start[None], n * EXACT)
            assert_allclose(row @ g, alone @ g, rtol=0, atol=1e-9 * np.abs(g).max())
            (scaled,) = dual_cone_projections(100.0 * G, 1e-3 * start[None], n * EXACT)
            assert_allclose(scaled @ g, 1e-3 * alone @ g, rtol=0, atol=1e-12 * np.abs(g).max())


def test_without_a_conflict_nothing_is_solved(monkeypatch):
    starts = np.random.default_rng(0).random((4, 5))
    gramian = np.ones((5, 5)) + np.eye(5)
    monkeypatch.setattr(np.linalg, "solve", None)
    monkeypatch.setattr(np.linalg, "eigh", None)
    assert_array_equal(dual_cone_projections(gramian, starts, EXACT), starts)
    gramian[0, 1] = gramian[1, 0] = -1.0  # negative control
    with pytest.raises(TypeError):
        dual_cone_projections(gramian, np.eye(5), EXACT)


@pytest.mark.parametrize(("n", "rank"), [(30, 10), (40, 12), (50, 20), (50, 60)])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_many_gradients_that_depend_on_each_other(n, rank, dtype):
    """No task gets worse, and no nearer vector exists by more than what rounding hides."""
    rng = np.random.default_rng(n)
    resolution = n * float(np.finfo(dtype).eps)
    for _ in range(3):
        g = (rng.normal(size=(n, rank)) @ rng.normal(size=(rank, 200))).astype(dtype)
        g /= np.linalg.norm(g, axis=1, keepdims=True)
        gramian = (g @ g.T).astype(np.float64)
        (found,) = dual_cone_projections(gramian, np.full((1, n), 1 / n), resolution)
        g = g.astype(np.float64)
        vector = g.mean(axis=0)
        nearest = onto_the_dual_cone(vector, g)
        allowed = 1e-5 if dtype is np.float64 else 0.05
        assert np.linalg.norm(found @ g - nearest) < allowed * np.linalg.norm(vector)
        assert (g @ vector).min() < -0.01 * np.linalg.norm(vector), "negative control"


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_dependent_gradients_in_single_precision(rank):
    """Inner products of 5,000 rounded numbers: their matrix may have negative eigenvalues."""
    rng = np.random.default_rng(0)
    n_indefinite = 0
    for _ in range(10):
        g = (rng.normal(size=(8, rank)) @ rng.normal(size=(rank, 5000))).astype(np.float32)
        jacobian = torch.from_numpy(g)
        n_indefinite += np.linalg.eigvalsh((jacobian @ jacobian.mT).double())[0] < 0
        for recipe in (UPGrad(), DualProj()):
            weights = weights_of(recipe, jacobian).double()
            assert weights.isfinite().all() and weights.max() < 1e3
            found = (weights @ jacobian.double()).numpy()
            units = g / np.linalg.norm(g, axis=1, keepdims=True)
            assert (units @ found).min() > -2e-3 * np.linalg.norm(g, axis=1).mean()
    assert n_indefinite > 5  # negative control: there is something to be careful with


def test_what_is_below_the_resolution_is_not_leaned_on():
    """Two gradients at odds but for 1e-5, which a third points against: 5e4 of each undo it."""
    g = np.array([[1.0, 1e-5], [-1.0, 1e-5], [0.0, -1.0]])
    rounded, exact = (dual_cone_projections(g @ g.T, np.eye(3), r)[2] for r in (1e-6, EXACT))
    assert rounded.max() < 20
    assert_allclose(exact, [5e4, 5e4, 1.0], rtol=1e-2)


# The weightings -----------------------------------------------------------------------------


def test_projections_by_hand():
    # Of g1 = (1, 0) and g2 = (-1, 1): g1 + g2 / 2 and g2 + g1, (1/2, 1/2) and (0, 1); their mean.
    jacobian = torch.tensor([[1.0, 0.0], [-1.0, 1.0]], dtype=torch.float64)
    assert_allclose(weights_of(UPGrad(), jacobian), [1.0, 0.75], rtol=1e-9)
    # The mean of g1 and (-3, 1) is (-1, 1/2), against g1; by as much of that as it is, (0, 1/2).
    jacobian[1, 0] = -3.0
    assert_allclose(weights_of(DualProj(), jacobian), [1.5, 0.5], rtol=1e-9)


@pytest.mark.parametrize("share", [[1.0, 1.0, 1.0], [1.0, 2.0, 5.0], [0.0, 1.0, 3.0]], ids=str)
def test_projections_are_those_of_nonnegative_least_squares(share):
    """The user's weights are those of the mean: after the projections, or before the only one."""
    for jacobian in jacobians(10):
        g, mean = jacobian.numpy(), np.array(share) / sum(share)
        dualproj = onto_the_dual_cone(mean @ g, g)
        assert_allclose(direction(DualProj(), jacobian, share), dualproj, rtol=0, atol=1e-9)
        each = [w * onto_the_dual_cone(row, g) for w, row in zip(mean, g, strict=True)]
        upgrad = np.sum(each, axis=0)
        assert_allclose(direction(UPGrad(), jacobian, share), upgrad, rtol=0, atol=1e-9)
    assert np.abs(upgrad - dualproj).max() > 0.01  # negative control


@pytest.mark.parametrize("ours", [UPGrad(), DualProj()], ids=["UPGrad", "DualProj"])
def test_projections_are_those_of_torchjd(ours):
    projector = linalg.QuadprogProjector(norm_eps=0.0, reg_eps=1e-12)
    theirs = getattr(aggregation, f"{type(ours).__name__}Weighting")
    for n_tasks in (2, 5, 8):
        share = torch.arange(1.0, 1.0 + n_tasks, dtype=torch.float64)
        method = theirs(pref_vector=share / share.sum(), projector=projector)
        for jacobian in jacobians(10, n_tasks, 20):
            found = weights_of(ours, jacobian, share.tolist())
            assert_allclose(found, method(jacobian @ jacobian.mT), rtol=1e-6, atol=1e-9)


def test_projections_hurt_no_task():
    by_mean = []
    for jacobian in jacobians(20):
        units = jacobian / jacobian.norm(dim=1, keepdim=True)
        for recipe in (UPGrad(), DualProj()):
            assert (units.numpy() @ direction(recipe, units)).min() > -1e-9
        by_mean.append((units @ units.mean(0)).min())
    assert min(by_mean) < -0.03  # negative control
