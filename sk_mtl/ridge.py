"""Ridge regressions of all tasks on one table, as strong as each task asks for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, logsumexp, softmax

from sk_mtl._support import as_counts

Floats = NDArray[np.float64]
STRENGTHS = np.logspace(-4, 4, 25)  # penalties tried, relative to the mean variance of the columns
MOST_WORK = 2e11  # multiplications beyond which linear models are left out; some seconds
ROWS_AT_ONCE = 4096
LEAST_SHARE = 0.25
WEAK = 0.02  # of the prior on the slope of log-odds


@dataclass(frozen=True)
class LinearModels:
    """Linear models of all tasks' raw outputs, one below the other.

    Attributes
    ----------
    coef : ndarray of shape (n_outputs, n_features)
        Of every task as many rows as it has raw outputs.
    intercept : ndarray of shape (n_outputs,)
        Likewise.
    tasks : tuple of int
        The task of every output.
    """

    coef: Floats
    intercept: Floats
    tasks: tuple[int, ...]


def work(n_rows: int, n_features: int, n_fits: int) -> float:
    """Return about how many multiplications so many fits take."""
    least, most = sorted((n_rows, n_features))
    return float(n_fits * least**2 * (most + 10 * least))


def n_label_patterns(y: NDArray[np.floating], weight: NDArray[np.floating] | None) -> int:
    """Return how many different sets of rows, and weights of them, tasks have: each is a fit."""
    seen = ~np.isnan(y) * (1.0 if weight is None else weight)
    return len({column.tobytes() for column in seen.T})


def fit_linear_models(
    X: Rows,
    y: NDArray[np.floating],
    n_classes: Sequence[int],
    weight: NDArray[np.floating] | None = None,
    n_scaled: int = 0,
) -> LinearModels:
    """Fit one ridge regression a raw output.

    Amounts are regressed on directly. Of classes the indicators are, and the scores become
    log-odds by a logistic regression on them alone (Platt scaling), with a slope of its own for two
    classes, and one for all of more. The strength of each task's penalty has the least generalised
    cross-validation error; a row of weight 2 is a row twice throughout.

    Parameters
    ----------
    X : ndarray, or another table of rows, of shape (n_rows, n_features)
        Features, finite.
    y : ndarray of shape (n_rows, n_tasks)
        Encoded targets, NaN where missing.
    n_classes : sequence of int
        Of every task; 0 for amounts.
    weight : ndarray of shape (n_rows, 1 or n_tasks) or None, default=None
        Weights of the rows.
    n_scaled : int, default=0
        How many columns, from the left, are divided by their standard deviation first.

    Returns
    -------
    LinearModels
        A task without labels has a model of zeros, and so has one whose labels do not vary.

    References
    ----------
    Golub, Heath and Wahba 1979, "Generalized Cross-Validation as a Method for Choosing a Good
    Ridge Parameter", equation 1.4.
    """
    n_tasks = y.shape[1]
    weights = np.broadcast_to(np.ones((1, 1)) if weight is None else weight, y.shape)
    used = ~np.isnan(y) & (weights > 0)
    coefs: list[Floats] = [np.zeros((0, 0))] * n_tasks
    intercepts: list[Floats] = [np.zeros(0)] * n_tasks
    patterns: dict[bytes, list[int]] = {}
    for t in range(n_tasks):
        patterns.setdefault(used[:, t].tobytes() + weights[:, t].tobytes(), []).append(t)
    for tasks in patterns.values():
        rows = np.flatnonzero(used[:, tasks[0]])
        w = np.asarray(weights[rows, tasks[0]], np.float64)
        wanted = [_responses(y[rows, t], n_classes[t]) for t in tasks]
        system = _System(X, rows, as_counts(w), n_scaled)
        for t, response in zip(tasks, wanted, strict=True):
            coefs[t], intercepts[t] = system.solve(response, n_classes[t])
    owners = tuple(t for t, own in enumerate(intercepts) for _ in own)
    return LinearModels(np.vstack(coefs), np.concatenate(intercepts), owners)


def _responses(y: NDArray[np.floating], n_classes: int) -> Floats:
    """Return what is regressed on, ``(n_rows, n_outputs)``."""
    if n_classes <= 2:
        return np.asarray(y[:, None], np.float64)
    return np.asarray(y[:, None] == np.arange(n_classes), np.float64)


class Rows(Protocol):
    """A table whose rows are looked up."""

    shape: tuple[int, ...]

    def __getitem__(self, rows: Any) -> NDArray[np.floating]:
        """Return rows, by their positions."""


class _System:
    """The normal equations of one set of rows, diagonalised once for all strengths.

    Parameters
    ----------
    X : ndarray of shape (n_rows_of_table, n_features)
        Features.
    rows : ndarray of int
        The rows used.
    w : ndarray of shape (n_rows,)
        Their weights.
    n_scaled : int
        How many columns are divided by their standard deviation.
    """

    def __init__(self, X: Rows, rows: NDArray[np.intp], w: Floats, n_scaled: int) -> None:
        self.X, self.rows, self.w = X, rows, w
        self.total = w.sum()
        d = X.shape[1]
        self.scale = np.ones(d)
        if not len(rows) or not d:
            self.values, self.vectors, self.centre = np.zeros(0), np.zeros((d, 0)), np.zeros(d)
            return
        self.centre = self._sum(w[:, None])[:, 0] / self.total
        self._set_scale(n_scaled)
        if len(rows) < d:  # the rows' products are fewer than the columns'
            scaled = (X[rows].astype(np.float64) - self.centre) / self.scale
            scaled *= np.sqrt(w)[:, None]
            values, left = eigh(scaled @ scaled.T)
            kept = values > max(values[-1], 0.0) * 1e-10
            self.values = values[kept]
            self.vectors = scaled.T @ left[:, kept] / np.sqrt(self.values)
        else:
            gram = np.zeros((d, d))
            for part, v in self._chunks():
                part /= self.scale
                gram += part.T @ (part * v[:, None])
            values, vectors = eigh(gram)
            kept = values > max(values[-1], 0.0) * 1e-10
            self.values, self.vectors = values[kept], vectors[:, kept]

    def _set_scale(self, n_scaled: int) -> None:
        squares = np.zeros(len(self.scale))
        for part, v in self._chunks():
            squares += v @ part**2
        spread = np.sqrt(squares / self.total)[:n_scaled]
        self.scale[:n_scaled] = np.where(spread > 1e-12, spread, np.inf)

    def solve(self, response: Floats, n_classes: int) -> tuple[Floats, Floats]:
        """Return coefficients ``(n_outputs, n_features)`` and intercepts of one task."""
        n_outputs, d = response.shape[1], self.X.shape[1]
        zero = np.zeros((n_outputs, d)), np.zeros(n_outputs)
        if len(self.rows) < 2 or not len(self.values):
            return zero
        mean = self.w @ response / self.total
        centred = response - mean
        moments = self._sum(self.w[:, None] * centred, centred=True) / self.scale[:, None]
        rotated = self.vectors.T @ moments
        power = float((self.w[:, None] * centred**2).sum())
        if power <= 1e-12 * self.total:
            return zero
        strength, freedom = self._strength(rotated, power)
        shrunk = rotated / (self.values + strength)[:, None]
        coef = (self.vectors @ shrunk).T / self.scale
        intercept = mean - coef @ self.centre
        if not n_classes:
            return coef, intercept
        fitted = self._predict(coef) + intercept
        # what each row's prediction would be without it, were all of equal leverage
        ahead = response - (response - fitted) / max(1.0 - freedom / self.total, 1e-3)
        slope, shift = _log_odds(ahead, response, self.w)
        return slope * coef, slope * intercept + shift

    def _strength(self, rotated: Floats, power: float) -> tuple[float, float]:
        """Return the penalty of least error, and the degrees of freedom that it leaves."""
        strengths = STRENGTHS * self.values.sum() / len(self.centre)
        shares = self.values / (self.values + strengths[:, None])  # (strength, direction)
        explained = (rotated**2).sum(1) / self.values
        residual = power - ((2 * shares - shares**2) * explained).sum(1)
        freedom = shares.sum(1) + 1.0  # and the intercept
        left = 1.0 - freedom / self.total
        error = np.where(left > 1e-3, residual / np.maximum(left, 1e-3) ** 2, np.inf)
        best = int(np.argmin(error))
        if not np.isfinite(error[best]):
            best = len(strengths) - 1
        return float(strengths[best]), float(freedom[best])

    def _chunks(self) -> Iterator[tuple[Floats, Floats]]:
        """Yield centred rows and their weights, some at a time."""
        for start in range(0, len(self.rows), ROWS_AT_ONCE):
            rows = self.rows[start : start + ROWS_AT_ONCE]
            yield self.X[rows].astype(np.float64) - self.centre, self.w[start : start + len(rows)]

    def _sum(self, factors: Floats, *, centred: bool = False) -> Floats:
        """Return the rows' sum, times factors ``(n_rows, k)``: ``(n_features, k)``."""
        total = np.zeros((self.X.shape[1], factors.shape[1]))
        for start in range(0, len(self.rows), ROWS_AT_ONCE):
            rows = self.rows[start : start + ROWS_AT_ONCE]
            total += self.X[rows].T.astype(np.float64) @ factors[start : start + len(rows)]
        if centred:  # factors then add up to nothing, but for rounding
            total -= np.outer(self.centre, factors.sum(0))
        return total

    def _predict(self, coef: Floats) -> Floats:
        parts = [
            self.X[self.rows[start : start + ROWS_AT_ONCE]].astype(np.float64) @ coef.T
            for start in range(0, len(self.rows), ROWS_AT_ONCE)
        ]
        return np.concatenate(parts)


def _log_odds(scores: Floats, response: Floats, w: Floats) -> tuple[float, Floats]:
    """Return slope and shifts that make log-odds of scores ``(n_rows, n_outputs)``.

    Where scores say nothing the slope is zero, and the shifts are the classes' log-odds. A weak
    prior on the slope keeps it finite where classes are apart.
    """
    binary = scores.shape[1] == 1
    centre = np.average(scores, axis=0, weights=w)
    scale = np.sqrt(np.average((scores - centre) ** 2, axis=0, weights=w).mean()) + 1e-12
    z = (scores - centre) / scale
    share = np.clip(np.average(response, axis=0, weights=w), 1e-6, 1 - 1e-6)
    start = np.log(share / (1 - share)) if binary else np.log(share / share.sum())

    def loss(parameters: Floats) -> tuple[float, Floats]:
        raw = parameters[0] * z + parameters[1:]
        value = float(w @ _log_losses(raw, response))
        weighted = w[:, None] * _slopes(raw, response)
        slopes = np.concatenate([[(weighted * z).sum()], weighted.sum(0)])
        off = parameters - np.concatenate([[0.0], start])
        prior = strength * off
        return value + 0.5 * float(prior @ off), slopes + prior

    strength = np.concatenate([[WEAK], np.ones(len(start))])
    found = minimize(loss, np.concatenate([[0.0], start]), jac=True, method="L-BFGS-B").x
    slope = max(float(found[0]), 0.0) / scale  # scores that mislead say nothing
    return slope, (found[1:] if slope else start) - slope * centre


def share_of_linear(
    network: Floats,
    linear: Floats,
    y: NDArray[np.floating],
    weight: NDArray[np.floating],
    n_classes: int,
) -> float:
    """Return the share of a linear model in its mean with a network that predicts a task best.

    Both have predicted rows that they have not learned from. The squared error of amounts is
    least, or the log loss of classes, with a prior worth one row that the network stands alone.
    Rows are predicted by one member, but later on by the mean of all, which errs less: a share of a
    quarter is none therefore, and what is above it is stretched to the whole.

    Parameters
    ----------
    network, linear : ndarray of shape (n_rows, n_outputs)
        Raw outputs of either.
    y : ndarray of shape (n_rows,)
        Encoded targets, none missing.
    weight : ndarray of shape (n_rows,)
        Weights of the rows.
    n_classes : int
        Number of classes; 0 for amounts.

    References
    ----------
    Breiman 1996, "Stacked Regressions", section 2.
    """
    network, linear, w = (np.asarray(a, np.float64) for a in (network, linear, weight))
    if not w.sum():
        return 0.0
    w = as_counts(w)
    response, apart = _responses(y, n_classes), linear - network

    def losses(share: float) -> Floats:
        raw = network + share * apart
        if n_classes:
            return _log_losses(raw, response)
        return 0.5 * (raw - response)[:, 0] ** 2

    found = minimize_scalar(
        lambda share: float(w @ losses(share)) + 0.5 * share**2, bounds=(0.0, 1.0), method="bounded"
    )
    return max(float(found.x) - LEAST_SHARE, 0.0) / (1.0 - LEAST_SHARE)


def _log_losses(raw: Floats, response: Floats) -> Floats:
    """Return the log loss of every row."""
    if raw.shape[1] == 1:
        return np.asarray((np.logaddexp(0.0, raw) - response * raw)[:, 0])
    return np.asarray(logsumexp(raw, axis=1) - (raw * response).sum(1))


def _slopes(raw: Floats, response: Floats) -> Floats:
    """Return the slope of every row's log loss."""
    return np.asarray((expit(raw) if raw.shape[1] == 1 else softmax(raw, axis=1)) - response)
