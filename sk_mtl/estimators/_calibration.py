"""Temperature scaling: probabilities that mean what they say, task by task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from sk_mtl.cascades._recipes import bound_probabilities

COLDEST, HOTTEST = 1 / 20, 20.0  # beyond them hardly a probability changes any more
TINIEST = 1e-45  # where single precision ends: a probability of zero is at most this


def fit_temperature(
    p: NDArray[Any], codes: NDArray[np.intp], weight: NDArray[Any] | None = None
) -> float:
    """Return the temperature that makes the labels most likely.

    Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 9: probabilities become
    softmax(z / T), here with z = log p, which differs from the network's outputs by a constant a
    row. The negative log-likelihood is convex in 1 / T, so that its slope has one root.

    Where few labels are all predicted right, the likelihood would grow for ever as T shrinks.
    Hence one more row is thought of whose label may be any class, its outputs those of the
    average row; of n rows it moves T by about 1 / n.

    Parameters
    ----------
    p : ndarray of shape (n_rows, n_classes)
        Probabilities of rows that the network was not trained on.
    codes : ndarray of int of shape (n_rows,)
        Their classes.
    weight : ndarray of shape (n_rows,) or None, default=None
        Weights of the rows, of which only ratios matter.

    Returns
    -------
    float
        Between 1 / 20 and 20; 1 without rows, or if all classes are equally probable.
    """
    if not len(p):
        return 1.0
    z = np.log(np.maximum(p.astype(np.float64), TINIEST))
    z -= z.max(axis=1, keepdims=True)
    share = np.full(len(z), 1 / len(z)) if weight is None else weight / weight.sum()
    n_rows = 1 / (share**2).sum()  # as many rows of equal weight say as much (Kish)
    of_label = z[np.arange(len(z)), codes]
    reached = share @ (n_rows * of_label + z.mean(axis=1)) / (n_rows + 1)

    def slope(coldness: float) -> float:
        q = np.exp(coldness * z)
        expected = (q * z).sum(axis=1) / q.sum(axis=1)
        return float(share @ expected - reached)

    low, high = slope(1 / HOTTEST), slope(1 / COLDEST)
    if low == high:
        return 1.0
    if low >= 0:
        return HOTTEST
    if high <= 0:
        return COLDEST
    return float(1 / brentq(slope, 1 / HOTTEST, 1 / COLDEST, xtol=1e-12))


def tempered(p: NDArray[Any], temperature: float) -> NDArray[Any]:
    """Return softmax(log p / T), in double precision, where classes keep their order.

    Parameters
    ----------
    p : ndarray of shape (n_rows, n_classes)
        Probabilities.
    temperature : float
        T; above 1 it makes them more equal.

    Returns
    -------
    ndarray of shape (n_rows, n_classes)
        Probabilities.
    """
    with np.errstate(divide="ignore"):
        z = np.log(p.astype(np.float64)) / temperature
    q = np.exp(z - z.max(axis=1, keepdims=True))
    return np.asarray(q / q.sum(axis=1, keepdims=True))


def calibrated(found: Sequence[NDArray[Any]], est: Any) -> list[NDArray[Any]]:
    """Return the outcomes of an estimator at its temperatures; as they are, if it has none.

    In a funnel a child whose temperature lifts it above its parent is as probable as the parent:
    labels stay as they were, since neither passes one half by it.

    Parameters
    ----------
    found : sequence of ndarray
        A task each: probabilities of shape ``(n_rows, n_classes)``, or amounts.
    est : BaseMultiTask
        Fitted.

    Returns
    -------
    list of ndarray
        Likewise.
    """
    temperatures = getattr(est, "temperatures_", None)
    if temperatures is None:
        return list(found)
    result = [
        tempered(each, temperature) if task.n_classes > 1 else each
        for each, task, temperature in zip(found, est._tasks, temperatures, strict=True)
    ]
    bound_probabilities(result, est._links)
    return result
