"""The rows of the results of ``bench_quality``: who has which, and scores of whole tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from _peers import one_less_rrmse
from scipy.stats import t

Rows = dict[tuple[str, int, str], dict[str, Any]]  # by table, fold and contender

POOLED = ("mtr/sf1", "mtr/sf2", "mtr/andro")  # folds of theirs have amounts that hardly vary
ALONE = ("single_task", "one_a_task")  # what shares nothing: one network of networks, many fits
CONFIDENCE = 0.95


def rows_of(content: Mapping[str, Any], protocols: Sequence[str] = ("folds",)) -> Rows:
    """Return the rows of a protocol by place; those without any score are none."""
    return {
        (row["case"], row["fold"], row["contender"]): row
        for row in content["rows"]
        if row.get("protocol", "folds") in protocols and row["score"] is not None
    }


def common_cells(rows: Rows, names: Sequence[str]) -> list[tuple[str, int]]:
    """Return the (table, fold) that all of the names have."""
    of = [{(case, fold) for case, fold, name in rows if name == wanted} for wanted in names]
    return sorted(set.intersection(*of))


def scores_of(rows: Rows, name: str, cells: Sequence[tuple[str, int]]) -> dict[str, float]:
    """Return a contender's score of every table."""
    by_table: dict[str, list[dict[str, Any]]] = {}
    for case, fold in cells:
        by_table.setdefault(case, []).append(rows[case, fold, name])
    return {case: table_score(case, found) for case, found in by_table.items()}


def table_score(case: str, rows: Sequence[Mapping[str, Any]]) -> float:
    """Return the mean over folds; of some tables, over tasks, with squares summed over folds."""
    if case not in POOLED:
        return float(np.mean([row["score"] for row in rows]))
    tasks = {task for row in rows for task in row["squares"]}
    sums = [np.sum([row["squares"][t] for row in rows if t in row["squares"]], 0) for t in tasks]
    scores = [one_less_rrmse(*map(float, pair)) for pair in sums]
    return float(np.mean([score for score in scores if score is not None]))


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return Student's interval of a mean; None for one value."""
    if len(values) < 2:
        return None
    half = t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * np.std(values, ddof=1)
    half /= math.sqrt(len(values))
    return float(np.mean(values) - half), float(np.mean(values) + half)
