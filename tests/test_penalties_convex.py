"""Penalties on the heads of linear models: convex problems, whose solutions are known.

And what a covariance learns of coefficients that were drawn with a known correlation.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from numpy.testing import assert_allclose
from plain import plain
from scipy.optimize import minimize

from sk_mtl import MultiTaskRegressor
from sk_mtl.penalties import Covariance, Graph, TraceNorm

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

SIMILARITY = np.array([[0, 2, 0], [2, 0, 1], [0, 1, 0]], dtype=float)


def linear(penalty, X, Y, *, max_iter=400, alpha=0.0, rate=0.2):
    """A linear model for every task, fitted by full batches."""
    return plain(
        MultiTaskRegressor,
        hidden_layer_sizes=(),
        penalty=penalty,
        solver="sgd",
        learning_rate_init=rate,
        alpha=alpha,
        batch_size=len(X),
        max_iter=max_iter,
        tol=0.0,
        n_iter_no_change=max_iter,
        random_state=0,
    ).fit(X, Y)


def table(seed=0, n_rows=40):
    """Five features, and three tasks of different size, two of them alike."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_rows, 5)) + 0.5
    W = rng.normal(size=(3, 5))
    W[1] = W[0] + 0.2 * W[1]
    return X, (X @ W.T + rng.normal(size=(n_rows, 3))) * [1.0, 10.0, 0.1] + [0, 50, 0]


X, Y = table()
XC = X - X.mean(axis=0)  # the intercepts are free
YC = (Y - Y.mean(axis=0)) / Y.std(axis=0)  # as the estimator standardises them


def loss(W):
    """The mean over tasks of half the mean squared error."""
    return ((YC - XC @ W.T) ** 2).mean() / 2


def loss_slope(W):
    return -(YC - XC @ W.T).T @ XC / YC.size


def coefficients(model):
    return model.net_.module_.heads[0].output.weight.detach().numpy()[:, 0]


def trace_norm(W):
    """The sum of singular values, and its slope."""
    U, s, V = np.linalg.svd(W, full_matrices=False)
    return s.sum(), U @ V


def norm_term(W, strength):
    norm, slope = trace_norm(W)
    return strength * norm, strength * slope


def half_squared_norm_term(W, strength):
    norm, slope = trace_norm(W)
    return strength / 2 * norm**2, strength * norm * slope


def graph_term(W, strength):
    laplacian = np.diag(SIMILARITY.sum(axis=0)) - SIMILARITY
    return strength / 2 * np.trace(W.T @ laplacian @ W), strength * laplacian @ W


# Where the solution has a singular value of 0, a step of finite size leaves a small one, and the
# covariance's ridge holds it: there the objective is less exact.
PROBLEMS = [  # penalty, its term, strength of that, learning rate, tolerance of the objective
    (Covariance, half_squared_norm_term, 0.02, 0.05, 1e-5),
    (Covariance, half_squared_norm_term, 0.1, 0.02, 2e-3),
    (TraceNorm, norm_term, 0.01, 0.2, 1e-6),
    (TraceNorm, norm_term, 0.05, 0.2, 1e-6),
    (partial(Graph, SIMILARITY), graph_term, 0.1, 0.2, 1e-6),
    (partial(Graph, SIMILARITY), graph_term, 1.0, 0.05, 1e-6),
]


@pytest.mark.parametrize(("penalty", "term", "strength", "rate", "tolerance"), PROBLEMS)
def test_training_ends_where_scipy_ends(penalty, term, strength, rate, tolerance):
    """Alternating between heads and relations minimises the convex problem of the heads alone."""

    def objective(numbers):
        W = numbers.reshape(3, 5)
        added, slope = term(W, strength)
        return loss(W) + added, (loss_slope(W) + slope).ravel()

    # A penalty is a mean over the 3 tasks, and the squared norm is over 3 besides.
    of_term = 9 if penalty is Covariance else 3
    start = np.random.default_rng(1).normal(size=15)
    found = minimize(objective, start, jac=True, options={"gtol": 1e-9, "maxiter": 5000})
    W = coefficients(linear(penalty(of_term * strength), X, Y, rate=rate))
    assert objective(W.ravel())[0] == pytest.approx(found.fun, rel=tolerance)
    assert_allclose(W, found.x.reshape(3, 5), rtol=0, atol=5e-3 * np.abs(W).max())
    for other in (penalty(2 * of_term * strength), None):  # negative controls
        apart = objective(coefficients(linear(other, X, Y, rate=rate)).ravel())[0] - found.fun
        assert apart > 5 * tolerance * found.fun


@pytest.mark.parametrize("strength", [0.03, 3.0])
def test_a_graph_is_a_linear_system(strength):
    """X'X w_t / (nT) + strength sum_s L_ts w_s = X'y_t / (nT), solved for all tasks at once."""
    laplacian = np.diag(SIMILARITY.sum(axis=0)) - SIMILARITY
    system = np.kron(np.eye(3), XC.T @ XC / YC.size) + strength * np.kron(laplacian, np.eye(5))
    exact = np.linalg.solve(system, (YC.T @ XC / YC.size).ravel()).reshape(3, 5)
    model = linear(Graph(SIMILARITY, 3 * strength), X, Y, rate=0.05, max_iter=1000)
    assert_allclose(coefficients(model), exact, rtol=0, atol=1e-8)
    predicted = (XC @ exact.T) * Y.std(axis=0) + Y.mean(axis=0)
    assert_allclose(model.predict(X), predicted, rtol=1e-6)


def test_trace_norm_leaves_few_dimensions():
    """Against proximal gradients: singular values less a threshold, or 0 (Pong et al. 2010)."""
    strength = 0.15
    W, step = np.zeros((3, 5)), YC.size / np.linalg.norm(XC, 2) ** 2
    for _ in range(3000):
        U, s, V = np.linalg.svd(W - step * loss_slope(W), full_matrices=False)
        W = U @ np.diag(np.maximum(s - step * strength, 0)) @ V
    assert np.linalg.matrix_rank(W) == 2
    found = coefficients(linear(TraceNorm(3 * strength), X, Y, rate=0.01))
    assert_allclose(found, W, rtol=0, atol=1e-2 * np.abs(W).max())
    singular = np.linalg.svd(found, compute_uv=False)
    assert singular[2] < 5e-3 * singular[0]
    free = np.linalg.svd(coefficients(linear(None, X, Y)), compute_uv=False)  # negative control
    assert free[2] > 0.05 * free[0]


# What a covariance learns -------------------------------------------------------------------

SIDE = np.array([1.0, 1.0, -1.0, 1.0, -1.0, -1.0])
PLANTED = 0.9 * np.outer(SIDE, SIDE) + 0.1 * np.eye(6)  # tasks of one side alike, others opposed
PAIRS = ~np.eye(6, dtype=bool)


def drawn(seed, n_rows=25, n_features=20):
    """Few rows for many coefficients, which were drawn with a known correlation; rows to test."""
    rng = np.random.default_rng(seed)
    W = np.linalg.cholesky(PLANTED) @ rng.normal(size=(6, n_features)) / n_features**0.5
    X = rng.normal(size=(n_rows + 500, n_features))
    Y = X @ W.T + 0.5 * rng.normal(size=(n_rows + 500, 6))
    return X[:n_rows], Y[:n_rows], X[n_rows:], Y[n_rows:]


def signs_found(correlation):
    return (np.sign(correlation) == np.sign(PLANTED))[PAIRS].all()


def test_a_covariance_recovers_correlations_with_their_signs():
    """Of ten tables; and predicts better than without, or than any L2 penalty does."""
    options = {"max_iter": 80, "rate": 0.2}
    signs, errors, scores = [], [], []
    for seed in range(10):
        X, Y, X_test, Y_test = drawn(seed)
        model = linear(Covariance(1.0), X, Y, **options)
        ridges = [linear(None, X, Y, alpha=alpha, **options) for alpha in (0.0, 3.0, 6.0)]
        found = [model.task_correlation_, np.corrcoef(coefficients(ridges[0]))]
        signs.append([signs_found(each) for each in found])
        errors.append([np.abs(each - PLANTED)[PAIRS].mean() for each in found])
        scores.append([m.score(X_test, Y_test) for m in (model, *ridges)])
    ours, separate = np.sum(signs, axis=0)
    assert ours >= 9
    assert separate <= 7  # negative control: what separate fits tell
    ours, separate = np.mean(errors, axis=0)
    assert ours < 0.25  # the root in the closed form makes correlations smaller
    assert separate > 1.5 * ours
    penalised, none, *ridge = np.mean(scores, axis=0)
    assert penalised > none + 0.3
    assert penalised > max(ridge) + 0.03


def test_tasks_that_have_nothing_in_common_are_not_related():
    """Negative control: of independent coefficients it does not find what was planted above."""
    correlations = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        X = rng.normal(size=(200, 40))
        Y = X @ rng.normal(size=(40, 4)) + rng.normal(size=(200, 4))
        found = linear(Covariance(0.5), X, Y, max_iter=100).task_correlation_
        correlations.append(np.abs(found[np.triu_indices(4, 1)]).mean())
    assert np.mean(correlations) < 0.15
