"""Small optimisation problems over the weights of tasks, solved to the last digits.

They have a few unknowns, so what counts is to call few operators. All arrays are of doubles.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
RIDGE = 1e-12  # of the mean of the diagonal: gradients of tasks may be linearly dependent
MOST_STEPS = 100


def length(weights: Array, gramian: Array) -> float:
    """Return the norm of the gradients' sum by these weights."""
    return math.sqrt(max(float(weights @ gramian @ weights), 0.0))


def simplex_quadratic(gramian: Array, pull: Array, guess: NDArray[np.bool_] | None = None) -> Array:
    """Return the w on the simplex (w >= 0, sum(w) = 1) that minimises w'Gw / 2 + p'w.

    An active-set method: tasks enter one by one, the steepest first, and leave where the way to
    the best point of those inside would make them negative.

    Parameters
    ----------
    gramian : ndarray of shape (n, n)
        G, positive semi-definite and not zero.
    pull : ndarray of shape (n,)
        p. With zeros, the weights of the shortest vector in the convex hull of the gradients.
    guess : ndarray of bool, shape (n,), default=None
        Tasks that may be those inside in the end: tried first. None tries all.
    """
    n = len(gramian)
    scale = np.trace(gramian) / n
    G, p = gramian / scale + RIDGE * np.eye(n), pull / scale
    inside = np.ones(n, dtype=bool) if guess is None else guess
    w = _best_inside(G, p, inside)
    if (w >= 0).all() and _is_best(G @ w + p, inside)[0]:
        return w
    w, inside = np.zeros(n), np.zeros(n, dtype=bool)
    first = int((np.diag(G) / 2 + p).argmin())
    w[first], inside[first] = 1.0, True
    for _ in range(MOST_STEPS):
        done, entering = _is_best(G @ w + p, inside)
        if done:
            break
        inside[entering] = True
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
    low, high, s = 0.0, np.inf, float(np.trace(gramian) / len(pull)) ** 0.5 / r
    guess = None
    for _ in range(MOST_STEPS):
        w = simplex_quadratic(gramian, s * pull, guess)
        found = length(w, gramian) / r
        if abs(found - s) <= 1e-12 * s:
            break
        low, high = (s, high) if found > s else (low, s)
        guess = w > 0
        s = _next_guess(gramian, pull, r, guess, low, high)
    return w


def _next_guess(
    gramian: Array, pull: Array, r: float, inside: NDArray[np.bool_], low: float, high: float
) -> float:
    """Return the s that would be right with these tasks inside; the middle if it is not between."""
    G = gramian[np.ix_(inside, inside)]
    G = G + RIDGE * np.trace(G) / len(G) * np.eye(len(G))
    p = pull[inside]
    solved = np.linalg.solve(G, np.stack([np.ones(len(p)), p], axis=1))
    mass, slant, steep = solved[:, 0].sum(), solved[:, 1].sum(), p @ solved[:, 1]
    # |g_w|^2 = 1 / mass + s^2 (steep - slant^2 / mass) is to be s^2 r^2.
    room = r * r - steep + slant * slant / mass
    guess = (1.0 / (mass * room)) ** 0.5 if room > 0 else np.inf
    if low < guess < high:
        return float(guess)
    return 2.0 * low if np.isinf(high) else (low + high) / 2


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
