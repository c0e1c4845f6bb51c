"""What sharing gains, by the results of ``bench_quality``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from _harness import seconds
from _quality_rows import ALONE, common_cells, interval, rows_of
from _ranking import markdown

RELATED = 3  # tasks from which on sharing is judged


def relative_gain(mine: Mapping[str, Any], alone: Mapping[str, Any]) -> float | None:
    """Return the mean gain over tasks, in parts of the measure without sharing (Delta m).

    Classes are measured by the area under the ROC curve, amounts by RRMSE, which shall be small.
    """
    gains = []
    for task, score in mine["task_scores"].items():
        other = alone["task_scores"].get(task)
        if score is None or other is None:
            continue
        unit = 1.0 - other if task in alone["squares"] else other
        if unit > 0:
            gains.append((score - other) / unit)
    return float(np.mean(gains)) if gains else None


def sharing(content: Mapping[str, Any]) -> str:
    """Return what sharing gains over a network a task, and over a fit a task, table by table."""
    sentences, gains = [], {}
    for name in ALONE:
        found, cost = gains_over(content, name)
        if found:
            gains[name] = found
            sentences.append(
                f"Mean relative gain over `{name}` on {len(found)} tables with {RELATED} or more "
                f"tasks: {mean_of(list(found.values()))}. CPU of fits: {seconds(cost[0])} against "
                f"{seconds(cost[1])}."
            )
    if not gains:
        return ""
    cases = {case: gain for found in reversed(gains.values()) for case, gain in found.items()}
    if len(cases) > max(len(found) for found in gains.values()):
        sentences.append(
            f"Over the first of them that a table has, on {len(cases)} tables: "
            f"{mean_of(list(cases.values()))}."
        )
    lines = [
        [case, *(f"{found[case]:+.2%}" if case in found else "" for found in gains.values())]
        for case in sorted(cases, key=lambda case: -cases[case])
    ]
    head = ["table", *(f"over {name}" for name in gains)]
    return "\n\n".join([*sentences, markdown(head, lines)])


def mean_of(gains: Sequence[float]) -> str:
    """Return a mean gain with its interval, as a text."""
    low_high = interval(gains)
    shown = "" if low_high is None else f", 95 % {low_high[0]:+.2%} to {low_high[1]:+.2%}"
    return f"{np.mean(gains):+.2%}{shown}"


def gains_over(content: Mapping[str, Any], name: str) -> tuple[dict[str, float], list[float]]:
    """Return the gain over what shares nothing on tables of several tasks, the mean over folds.

    Returns
    -------
    gains : dict
        Of each table.
    cost : list of float
        CPU seconds of ours and of the other on the same cells.
    """
    rows, ours = rows_of(content), content["settings"]["ours"]
    gains: dict[str, list[float]] = {}
    cost = [0.0, 0.0]
    for case, fold in common_cells(rows, [ours, name]):
        mine, alone = rows[case, fold, ours], rows[case, fold, name]
        gain = relative_gain(mine, alone)
        if len(mine["task_scores"]) >= RELATED and gain is not None:
            gains.setdefault(case, []).append(gain)
            cost = [cost[0] + mine["fit_cpu"], cost[1] + alone["fit_cpu"]]
    return {case: float(np.mean(values)) for case, values in gains.items()}, cost
