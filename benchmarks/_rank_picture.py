"""The picture of mean ranks, with bars over those whose difference may be chance (Demsar 2006)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.stats import studentized_range


def critical_difference(n_contenders: int, n_tables: int, level: float = 0.05) -> float:
    """Return by how much mean ranks must differ (Nemenyi's test, Demsar 2006)."""
    q = studentized_range.ppf(1 - level, n_contenders, np.inf) / math.sqrt(2)
    return float(q * math.sqrt(n_contenders * (n_contenders + 1) / (6 * n_tables)))


def cliques(ranks: Sequence[float], difference: float) -> list[tuple[int, int]]:
    """Return first and last of every run of sorted ranks that do not differ, no run in another."""
    found: list[tuple[int, int]] = []
    for first, low in enumerate(ranks):
        last = max(i for i, rank in enumerate(ranks) if rank - low <= difference)
        if last > first and (not found or last > found[-1][1]):
            found.append((first, last))
    return found


def picture(ranks: Mapping[str, float], n_tables: int, path: Path) -> bool:
    """Draw mean ranks, with bars over those that do not differ; False without matplotlib."""
    try:
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError:
        return False
    names = sorted(ranks, key=lambda name: ranks[name])
    values = [ranks[name] for name in names]
    difference = critical_difference(len(names), n_tables)
    bars = cliques(values, difference)
    figure = Figure(figsize=(7, 1.2 + 0.28 * len(names)))
    FigureCanvasSVG(figure)
    ax = figure.subplots()
    ax.scatter(values, range(len(names)), color="black", zorder=3)
    for place, name in enumerate(names):
        ax.annotate(
            f"{name}  {values[place]:.2f}",
            (values[place], place),
            (6, -3),
            textcoords="offset points",
            fontsize=8,
        )
    for number, (first, last) in enumerate(bars):
        at = min(values) - 0.15 * (number + 1)
        ax.plot([at, at], [first, last], color="tab:red", linewidth=3)
    ax.set_xlabel(f"mean rank over {n_tables} tables; critical difference {difference:.2f} (bars)")
    ax.set_xlim(min(values) - 0.15 * (len(bars) + 1), max(values) + 2.5)
    ax.set_yticks([])
    ax.invert_yaxis()
    ax.spines[["left", "right", "top"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    figure.savefig(path.with_suffix(".png"), bbox_inches="tight", dpi=110)
    return True
