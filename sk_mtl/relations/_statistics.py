"""How sure a mean difference over folds is, and gains relative to a baseline."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats


def corrected_interval(
    differences: NDArray[np.float64], test_to_train: float, confidence: float
) -> tuple[float, float]:
    """Return the confidence interval of a mean over the folds of repeated cross-validation.

    Folds share most of their training rows, so their differences are no independent draws, and
    their variance over the number of folds J would be far too small. The corrected resampled
    t-test takes (1/J + n_test/n_train) in the place of 1/J (Nadeau and Bengio 2003).

    Parameters
    ----------
    differences : ndarray of shape (n_folds,)
        NaN where a fold defines none.
    test_to_train : float
        Test rows over training rows, n_test/n_train.
    confidence : float
        Between 0 and 1.

    Returns
    -------
    low, high : float
        NaN with fewer than two folds.
    """
    known = differences[~np.isnan(differences)]
    n_folds = len(known)
    if n_folds < 2:
        return np.nan, np.nan
    spread = np.sqrt((1 / n_folds + test_to_train) * known.var(ddof=1))
    reach = float(stats.t.ppf((1 + confidence) / 2, n_folds - 1) * spread)
    middle = float(known.mean())
    return middle - reach, middle + reach


def mean_over_folds(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return means over the folds, the first axis, that define a value; NaN if none does."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        means: NDArray[np.float64] = np.where(known, values, 0.0).sum(axis=0) / known.sum(axis=0)
    return means


def unit_of(baseline: NDArray[np.float64], is_loss: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return by what a task's gain is divided to be relative to its score without sharing.

    Scores that are losses are negative here, so that higher is better for every task: with their
    absolute value for the unit the sign is that of Maninis et al. 2019, equation 4. NaN where
    the score has no such unit: a score (R2, say) of zero or below, or a loss of zero.
    """
    size = np.where(is_loss, -baseline, baseline)
    return np.where(size > 0, size, np.nan)
