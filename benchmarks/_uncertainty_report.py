"""What the results of ``bench_uncertainty`` say, as tables of markdown.

A table counts by the mean over tasks, then over folds or splits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _harness import seconds
from _quality_report import common_cells, left_out, made_by
from _ranking import markdown

FARTHEST = 0.02  # from the coverage asked for, in the mean over tasks and splits
DIGITS = 6  # what comes behind is rounding
MOST_NAMED = 12  # tasks in a cell of a table
Row = Mapping[str, Any]


def write_report(content: Mapping[str, Any], folder: Path) -> str:
    """Write ``uncertainty.md`` beside the results; return the text."""
    report = text(content)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "uncertainty.md").write_text(report + "\n", encoding="utf-8")
    return report


def text(content: Mapping[str, Any]) -> str:
    """Return the report as markdown."""
    sections = {
        "Probabilities": probabilities(content),
        "Intervals": intervals(content),
        "Sets": sets(content),
        "Left out": left_out(content),
    }
    parts = [f"## {title}\n\n{section}" for title, section in sections.items() if section]
    return "\n\n".join([heading(content), *parts])


def heading(content: Mapping[str, Any]) -> str:
    """Return what was measured, with what, on what."""
    packages = ", ".join(f"{name} {found}" for name, found in content["versions"].items())
    machine = content["machine"]
    lines = ["# How sure it is"]
    if content["quick"]:
        lines.append("Quick: a smoke test, its numbers mean nothing.")
    lines.append(
        f"{machine['cpu']}, {machine['cores']} cores, {content['threads']} thread. {packages}."
    )
    return "\n\n".join([*lines, *made_by(content)])


def verdict(met: bool) -> str:
    """Return how a bar is said to be met or not."""
    return "met" if met else "MISSED"


def by_table(content: Mapping[str, Any], key: str) -> dict[str, list[Row]]:
    """Return the rows that have something under a key, by table and in the order of splits."""
    rows = sorted((row for row in content["rows"] if row[key]), key=lambda row: row["fold"])
    places = list(content["settings"]["tables"])
    cases = {row["case"] for row in rows}
    ordered = sorted(cases, key=lambda c: (places.index(c) if c in places else len(places), c))
    return {case: [row for row in rows if row["case"] == case] for case in ordered}


def over_tasks(row: Row, key: str) -> float:
    """Return the mean over tasks; NaN where none has a number."""
    known = [value for value in row[key].values() if value is not None]
    return float(np.mean(known)) if known else float("nan")


def over_rows(rows: Sequence[Row], key: str) -> float:
    """Return the mean over tasks, then over rows; those without any number do not count."""
    means = np.array([over_tasks(row, key) for row in rows])
    return float(means[~np.isnan(means)].mean()) if (~np.isnan(means)).any() else float("nan")


def by_task(rows: Sequence[Row], key: str) -> dict[str, float]:
    """Return the mean over rows, of every task."""
    names = dict.fromkeys(name for row in rows for name in row[key])
    values = {name: [row[key].get(name) for row in rows] for name in names}
    known = {name: [v for v in found if v is not None] for name, found in values.items()}
    return {name: float(np.mean(found)) for name, found in known.items() if found}


# Sections ------------------------------------------------------------------------------------


def probabilities(content: Mapping[str, Any]) -> str:
    """Return calibration errors and log losses, on the folds that all of a table have."""
    settings, lines, verdicts = content["settings"], [], []
    calibrated, peer = settings["calibrated"], settings["peer"]
    for case, found in by_table(content, "calibration").items():
        rows = {(row["case"], row["fold"], row["contender"]): dict(row) for row in found}
        measured = {row["contender"] for row in found}
        names = [n for n in (calibrated, settings["ours"], peer) if n in measured]
        folds = [fold for _, fold in common_cells(rows, names)]
        if not folds:
            continue
        mine = {n: [rows[case, fold, n] for fold in folds] for n in names}
        line = [case, str(len(folds)), str(len(mine[names[0]][0]["calibration"]))]
        line += [
            f"{over_rows(mine[name], key):.4f}" if name in mine else ""
            for key in ("calibration", "log_loss")
            for name in (calibrated, settings["ours"], peer)
        ]
        said = ""
        if calibrated in mine and peer in mine:
            errors = [over_rows(mine[name], "calibration") for name in (calibrated, peer)]
            verdicts.append(round(errors[0] - errors[1], DIGITS) <= 0)
            said = verdict(verdicts[-1])
        lines.append([*line, said])
    if not lines:
        return ""
    head = ["table", "folds", "tasks", "error, calibrated", "plain", peer]
    head += ["log loss, calibrated", "plain", peer, f"error at most that of {peer}"]
    return (
        "Expected calibration error (15 bins of equal width, of the class that is predicted) and "
        "log loss: the mean over the tasks with classes, then over folds. `calibrate=True` is to "
        f"err no more than {peer}: met on {sum(verdicts)} of {len(verdicts)} tables."
        f"\n\n{markdown(head, lines)}"
    )


def intervals(content: Mapping[str, Any]) -> str:
    """Return how many labels lie in their intervals, and where these are too few or too many."""
    settings, lines = content["settings"], []
    asked, verdicts, by_rows = settings["coverage"], [], []
    for case, rows in by_table(content, "coverage").items():
        mean = over_rows(rows, "coverage")
        tasks = by_task(rows, "coverage")
        outside = {name: share for name, share in tasks.items() if is_far(share, asked)}
        grouped = settings["tables"].get(case, {}).get("by_group", False)
        verdicts.append(not is_far(mean, asked))
        if not grouped:
            by_rows.append(verdicts[-1])
        spread = np.std([over_tasks(row, "coverage") for row in rows])
        line = [case, str(len(rows)), "groups" if grouped else "rows", str(len(tasks))]
        line += [f"{mean:.3f}", f"{spread:.3f}", wide(rows)]
        line += [seconds(float(np.mean([row["fit_cpu"] for row in rows])))]
        lines.append([*line, verdict(verdicts[-1]), named(outside)])
    if not lines:
        return ""
    head = ["table", "splits", "of", "tasks", "coverage", "sd over splits", "width"]
    head += ["CPU of a fit", f"within {FARTHEST}", "single tasks that are not"]
    return (
        f"`predict_interval(X, coverage={asked})` of the defaults: labels in their intervals, the "
        "mean over tasks, then over random splits of three quarters to train; the width is in "
        f"standard deviations of the label. To be within {FARTHEST} of {asked}: met on "
        f"{sum(verdicts)} of {len(verdicts)} tables, on {sum(by_rows)} of the {len(by_rows)} whose "
        "rows are split one by one. Where whole groups are tested, `fit` is told of them; of few "
        f"groups none need be like the next.\n\n{markdown(head, lines)}"
    )


def sets(content: Mapping[str, Any]) -> str:
    """Return how many labels lie in their sets of classes, and how large these are, by task."""
    lines = []
    for case, rows in by_table(content, "set_coverage").items():
        shares, sizes = by_task(rows, "set_coverage"), by_task(rows, "set_size")
        for name, share in shares.items():
            n_splits = sum(name in row["set_coverage"] for row in rows)
            lines.append([case, name, str(n_splits), f"{share:.3f}", f"{sizes[name]:.2f}"])
    if not lines:
        return ""
    head = ["table", "task", "splits", "coverage", "classes in a set"]
    return (
        f"`predict_set(X, coverage={content['settings']['coverage']})` on the same splits. A set "
        "has the predicted class at least: where more labels than asked for are predicted right, "
        f"coverage is their share.\n\n{markdown(head, lines)}"
    )


def wide(rows: Sequence[Row]) -> str:
    """Return the mean width of intervals, and how many tasks of a split have endless ones."""
    values = [width for row in rows for width in row["width"].values()]
    shown = [] if values.count(None) == len(values) else [f"{over_rows(rows, 'width'):.2f}"]
    return ", ".join([*shown, *([f"{values.count(None)} endless"] if None in values else [])])


def is_far(share: float, asked: float) -> bool:
    """Return whether a coverage is too far from what was asked for."""
    return round(abs(share - asked) - FARTHEST, DIGITS) > 0


def named(tasks: Mapping[str, float]) -> str:
    """Return tasks with their coverage, the first ones by name."""
    shown = [f"{name} {share:.3f}" for name, share in list(tasks.items())[:MOST_NAMED]]
    more = len(tasks) - len(shown)
    return ", ".join([*shown, *([f"and {more} more"] if more else [])])
