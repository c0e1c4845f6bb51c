"""Small optimisation problems over the weights of tasks, solved to the last digits.

They have a few unknowns, so what counts is to call few operators. All arrays are of doubles.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

Array = NDArray[np.float64]
RIDGE = 1e-12  # of the mean of the diagonal: gradients of tasks may be linearly dependent
MOST_STEPS = 100


def length(weights: Array, gramian: Array) -> float:
    """Return the norm of the gradients' sum by these weights."""
    return math.sqrt(max(float(weights @ gramian @ weights), 0.0))


def simplex_quadratic(gramian: Array, pull: Array, guess: NDArray[np.bool_] | None = None) -> Array:
    """Return the w on the simplex (w >= 0, sum(w) = 1) that minimises w'Gw / 2 + p'w.

    An active-set method. To begin with, whoever is negative at the best point leaves, until none
    is. Then tasks enter one by one, the steepest first, and leave where the way to the best point
    of those inside would make them negative.

    Parameters
    ----------
    gramian : ndarray of shape (n, n)
        G, positive semi-definite and not zero.
    pull : ndarray of shape (n,)
        p. With zeros, the weights of the shortest vector in the convex hull of the gradients.
    guess : ndarray of bool, shape (n,), default=None
        Tasks that may be those inside in the end. None begins with all.
    """
    n = len(gramian)
    scale = np.trace(gramian) / n
    G, p = gramian / scale + RIDGE * np.eye(n), pull / scale
    inside = np.ones(n, dtype=bool) if guess is None else guess
    w = _best_inside(G, p, inside)
    while (w < 0).any():
        inside = inside & (w > 0)
        w = _best_inside(G, p, inside)
    lowest = np.inf
    for _ in range(MOST_STEPS):
        slope = G @ w + p
        value = float(w @ (slope + p))
        done, entering = _is_best(slope, inside)
        if done or not value < lowest:  # what is rounded may have no best point
            break
        lowest = value
        inside = inside | (np.arange(n) == entering)
        w = _walk_inside(G, p, w, inside)
    return w


def _is_best(slope: Array, inside: NDArray[np.bool_]) -> tuple[bool, int]:
    """Return whether no task outside would lower the sum by entering, and which does most."""
    price = slope[inside].mean()  # equal for all inside
    entering = int(np.where(inside, np.inf, slope).argmin())
    return bool(inside.all() or slope[entering] >= price - 1e-12 * (1.0 + abs(price))), entering


def _best_inside(G: Array, p: Array, inside: NDArray[np.bool_]) -> Array:
    """Return the best point whose other entries are zero and that adds up to 1, of any sign."""
    among = G[np.ix_(inside, inside)]
    ones = np.ones(len(among))
    solved = np.linalg.solve(among, np.stack([ones, p[inside]], axis=1))
    price = (1.0 + solved[:, 1].sum()) / solved[:, 0].sum()
    w = np.zeros(len(p))
    w[inside] = price * solved[:, 0] - solved[:, 1]
    return w


def _walk_inside(G: Array, p: Array, w: Array, inside: NDArray[np.bool_]) -> Array:
    """Go from w to the best point inside; who becomes negative on the way leaves (in place)."""
    while True:
        best = _best_inside(G, p, inside)
        negative = inside & (best < 0)
        if not negative.any():
            return best
        share = np.full(len(w), np.inf)
        share[negative] = w[negative] / (w[negative] - best[negative])
        leaving = int(share.argmin())
        w = w + share[leaving] * (best - w)
        w[leaving], inside[leaving] = 0.0, False


def conflict_averse(gramian: Array, preference: Array, radius: float) -> Array:
    """Return the w on the simplex that minimises p'w + r |g_w|, g_w being the mixture by w.

    p are the inner products with the mean gradient g_0, and r is ``radius`` times its norm
    (equation 4 of Liu et al. 2021). Were |g_w| known to be s r, it would be a quadratic problem:
    w(s) minimises w'Gw / 2 + s p'w. So s is sought at which that is true.

    Parameters
    ----------
    gramian : ndarray of shape (n, n)
        G, positive semi-definite and not zero.
    preference : ndarray of shape (n,)
        Weights of g_0.
    radius : float
        c, above 0.
    """
    pull = gramian @ preference
    r = radius * length(preference, gramian)
    if not r > 0:
        return simplex_quadratic(gramian, np.zeros_like(pull))
    n, size = len(pull), float(np.trace(gramian)) / len(pull)
    G, start = gramian + RIDGE * size * np.eye(n), size**0.5 / r
    inside = np.ones(n, dtype=bool)
    for _ in range(n):  # mostly enough: whoever is negative leaves
        s, w = _scaled_inside(G, pull, r, inside, start)
        if not (w < 0).any():
            break
        inside = inside & (w > 0)
    if _is_close(length(w, gramian) / r, s) and _is_best(G @ w + s * pull, inside)[0]:
        return w
    low, high = 0.0, np.inf
    for _ in range(MOST_STEPS):
        w = simplex_quadratic(gramian, s * pull, inside)
        found = length(w, gramian) / r
        if _is_close(found, s):
            break
        low, high = (s, high) if found > s else (low, s)
        inside = w > 0
        s, _ = _scaled_inside(G, pull, r, inside, 0.0)
        if not low < s < high:
            s = 2.0 * low if np.isinf(high) else (low + high) / 2
    return w


def _is_close(found: float, wanted: float) -> bool:
    """Whether they differ by no more than the ridge makes of it; unless all is but the ridge."""
    return abs(found - wanted) <= 1e-9 * wanted


def _scaled_inside(
    G: Array, pull: Array, r: float, inside: NDArray[np.bool_], otherwise: float
) -> tuple[float, Array]:
    """Return the s that is right with these tasks inside, if any is, and w(s), of any sign."""
    among, p, w = G[np.ix_(inside, inside)], pull[inside], np.zeros(len(pull))
    solved = np.linalg.solve(among, np.stack([np.ones(len(p)), p], axis=1))
    mass, slant, steep = solved[:, 0].sum(), solved[:, 1].sum(), p @ solved[:, 1]
    # |g_w|^2 = 1 / mass + s^2 (steep - slant^2 / mass) is to be s^2 r^2.
    room = r * r - steep + slant * slant / mass
    s = float(mass * room) ** -0.5 if room > 0 and mass > 0 else otherwise
    w[inside] = (1.0 + s * slant) / mass * solved[:, 0] - s * solved[:, 1]
    return s, w


def power_balance(gramian: Array, power: float) -> Array:
    """Return the w > 0 with G w = w^(-1/power), by damped Newton steps.

    It is where the convex w'Gw / 2 - sum(phi(w)) is least, phi' being w^(-1/power).

    Parameters
    ----------
    gramian : ndarray of shape (n, n)
        G, positive semi-definite with a positive diagonal.
    power : float
        Above 0.
    """
    n, order = len(gramian), 1.0 / power
    G = gramian + RIDGE * np.diag(np.diag(gramian))
    # Were the gradients orthogonal, all unknowns in these units would be 1.
    unit = np.diag(G) ** (-1.0 / (1.0 + order))
    scaled, gain = unit[:, None] * G * unit, unit ** (1.0 - order)
    x = np.ones(n)
    for _ in range(MOST_STEPS):
        slope = scaled @ x - gain * x**-order
        curved = scaled + np.diag(order * gain * x ** (-order - 1.0))
        step = np.linalg.solve(curved, -slope)
        decrement = -slope @ step
        # Self-concordance (Nesterov and Nemirovskii 1994): this length keeps x positive.
        relative = np.abs(step / x).max()
        x = x + step / (1.0 + relative if relative > 0.25 else 1.0)
        if decrement < 1e-24 * n:
            break
    weights: Array = unit * x
    return weights


def dual_cone_projections(gramian: Array, starts: Array, resolution: float) -> Array:
    """Return, for every row u of ``starts``, the w >= u that minimises w'Gw.

    It is the mixture by u, projected onto what no gradient points against. With G = R'R, what is
    added to u is the non-negative x for which Rx is nearest to -Ru.

    Parameters
    ----------
    gramian : ndarray of shape (n, n)
        G, positive semi-definite.
    starts : ndarray of shape (n_rows, n)
        At least 0.
    resolution : float
        Up to which the entries of G are known, relative to the gradients' lengths.
    """
    lengths = np.sqrt(np.diag(gramian))
    lengths[lengths == 0] = 1.0  # such a task conflicts with none
    G = gramian / lengths / lengths[:, None]
    u = starts * lengths
    if (u @ G >= 0).all():
        return starts
    # What is rounded, or linearly dependent, may have curvatures that are zero or less.
    values, vectors = np.linalg.eigh(G)
    root = (vectors * np.sqrt(np.maximum(values, max(resolution, RIDGE)))).T
    added = [nnls(root, -(root @ row), maxiter=MOST_STEPS * len(G))[0] for row in u]
    return starts + np.stack(added) / lengths
