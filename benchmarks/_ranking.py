"""Contenders over several tables: ranks, differences from a baseline, and what chance would do.

A table counts once, by its mean score: tables are what one generalises over. Folds of one table
share most of their training rows, so that tests which count them as independent find too much,
and a correction for that holds within a table, not across (Demsar 2006; Nadeau and Bengio 2003).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import PermutationMethod, rankdata, wilcoxon

Array = NDArray[np.float64]

DIGITS = 4  # of a score: what comes behind is rounding in single precision
MOST_EXACT = 13  # tables for which all combinations of signs are gone through, ties or not


def compare(
    scores: Mapping[str, Mapping[str, float | None]], baseline: str
) -> list[dict[str, Any]]:
    """Return what is to be said of every contender, the best mean rank first.

    Parameters
    ----------
    scores : mapping of str to mapping of str to float or None
        By contender and table; None where it failed, which ranks last and is not compared.
    baseline : str
        The contender that others are compared with.

    Returns
    -------
    summary : list of dict
        A dict a contender: ``contender``, ``mean_rank``, ``tables`` (compared), ``difference``
        (mean over these), ``median_difference``, ``better``, ``worse`` (on how many), ``p`` and
        ``p_adjusted`` (by Holm, for all contenders). The baseline has no p.
    """
    names = list(scores)
    tables = list(scores[baseline])
    values = np.array([[scores[name][table] for table in tables] for name in names], dtype=float)
    rounded = values.round(DIGITS)
    ranks = rankdata(-np.where(np.isnan(rounded), -np.inf, rounded), axis=0).mean(axis=1)
    differences = (values - values[names.index(baseline)]).round(DIGITS)
    found = [d[~np.isnan(d)] for d in differences]
    p = {name: signed_rank_p(d) for name, d in zip(names, found, strict=True) if name != baseline}
    adjusted = dict(zip(p, holm(list(p.values())), strict=True))
    summary = [
        {
            "contender": name,
            "mean_rank": float(rank),
            "tables": len(d),
            "difference": float(d.mean()) if len(d) else None,
            "median_difference": float(np.median(d)) if len(d) else None,
            "better": int((d > 0).sum()),
            "worse": int((d < 0).sum()),
            "p": p.get(name),
            "p_adjusted": adjusted.get(name),
        }
        for name, rank, d in zip(names, ranks, found, strict=True)
    ]
    return sorted(summary, key=lambda entry: entry["mean_rank"])


def signed_rank_p(differences: Array) -> float:
    """Return Wilcoxon's two-sided p; differences of zero say nothing and are left out."""
    differing = differences[differences != 0]
    if len(differing) < 2:  # either sign of one is as likely
        return 1.0
    exact = len(differing) <= MOST_EXACT
    return float(wilcoxon(differing, method=PermutationMethod() if exact else "auto").pvalue)


def holm(p: Sequence[float]) -> list[float]:
    """Return p adjusted for having looked at all of them (Holm 1979)."""
    order = np.argsort(p)
    steps = np.asarray(p)[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return [float(value) for value in adjusted]


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table as markdown; the first column is text, the others are numbers."""
    ruler = ["---", *["--:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ruler, *rows])
