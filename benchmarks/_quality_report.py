"""What the results of ``bench_quality`` say: tables of markdown and a picture.

A table counts once, by its mean score over the folds that all who are compared have.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _harness import seconds
from _peers import PEERS
from _quality_rows import ALONE, Rows, common_cells, interval, rows_of, scores_of, table_score
from _rank_picture import picture
from _ranking import DIGITS, compare, markdown
from _sharing_report import sharing

BEHIND = 0.02  # a table where we are further behind the best peer needs a word
SHARE = 0.75  # of the tables of ours that somebody has who is compared with all others
PUBLISHED = {
    # DeepChem's README, commit 3f2475b, 2017: 1024 bits only, where our columns are more.
    "tox21, index split": {"XGBoost": 0.753, "multi-task net": 0.763, "graph conv": 0.798},
    "tox21, scaffold split": {"XGBoost": 0.703, "multi-task net": 0.703, "graph conv": 0.732},
    "clintox, index split": {"XGBoost": 0.890, "multi-task net": 0.830, "graph conv": 0.860},
    "clintox, scaffold split": {"XGBoost": 0.850, "multi-task net": 0.828, "graph conv": 0.900},
    "toxcast, index split": {"XGBoost": 0.621, "multi-task net": 0.678, "graph conv": 0.720},
    "toxcast, scaffold split": {"XGBoost": 0.587, "multi-task net": 0.617, "graph conv": 0.638},
    # Ma et al. (2018), of 199,523 other rows: 0.941, 0.9926 and 0.886, from memory.
    "census_income_kdd, halves": {"MMoE": 0.940},
}
# 1 - aRRMSE of Mulan's tables, on the same ten folds: bagged trees, random forest, ridge.
MULAN = {
    "atp1d": (0.634, 0.598, 0.587),
    "edm": (0.314, 0.349, 0.170),
    "enb": (0.881, 0.888, 0.689),
    "jura": (0.434, 0.429, 0.411),
    "oes97": (0.510, 0.487, 0.541),
    "scpf": (0.113, 0.128, 0.167),
    "sf2": (-1.740, -1.196, -0.856),
    "slump": (0.361, 0.304, 0.337),
    "wq": (0.089, 0.101, 0.048),
}
for _name, _scores in MULAN.items():
    _known = dict(zip(("bagged trees", "random forest", "ridge"), _scores, strict=True))
    PUBLISHED[f"mtr/{_name}, ten folds"] = _known
_known = {"bagged trees": 0.289, "random forest": 0.069, "ridge": 0.269}
PUBLISHED["mtr/rf1, first rows train"] = _known


def write_report(content: Mapping[str, Any], folder: Path) -> str:
    """Write ``quality.md`` and the picture beside the results; return the text."""
    report = text(content)
    main = comparison(content)
    if main is not None and len(main["summary"]) > 2 and len(main["tables"]) > 1:
        ranks = {entry["contender"]: entry["mean_rank"] for entry in main["summary"]}
        if picture(ranks, len(main["tables"]), folder / "quality.svg"):
            report += "\n\n![Mean ranks and their critical difference](quality.svg)"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "quality.md").write_text(report + "\n", encoding="utf-8")
    return report


def text(content: Mapping[str, Any]) -> str:
    """Return the report as markdown."""
    sections, main = {}, comparison(content)
    if main is not None:
        sections["All at once"] = f"{described(main)}\n\n{per_table(main)}"
        for name in main["others"]:
            alone = comparison(content, name)
            sections[f"On the cells of {name}"] = "" if alone is None else described(alone)
        sections[f"Each with {main['baseline']}"] = one_by_one(content, main["baseline"])
    sections |= {
        "Where ours is behind": behind(content),
        "Sharing": sharing(content),
        "Ingredients": ingredients(content),
        "Spending more or less": spending(content),
        "Calibration": calibration(content),
        "Published splits": published_splits(content),
        "Left out": left_out(content),
    }
    parts = [f"## {title}\n\n{section}" for title, section in sections.items() if section]
    return "\n\n".join([heading(content), *parts])


def heading(content: Mapping[str, Any]) -> str:
    """Return what was measured, with what, on what."""
    cpu = content["machine"]["cpu"]
    lines = [
        "# How well it predicts",
        f"{cpu}, {content['threads']} thread. Score of a task: area under the ROC curve of "
        "classes, 1 - RRMSE of amounts; of a table: the mean over tasks, then over folds.",
    ]
    return "\n\n".join([*lines, *made_by(content)])


def made_by(content: Mapping[str, Any]) -> list[str]:
    """Return who was measured in what version, and a warning where ours was in several."""
    found = {row["contender"]: row["made_by"] for row in content["rows"]}
    code = {str(row["code"]) for row in content["rows"] if row.get("code")}
    lines = [markdown(["contender", "made by"], sorted([k, f"`{v}`"] for k, v in found.items()))]
    if len(code) > 1:
        lines.append(f"**Ours was measured with {len(code)} states of the code.** Pass --renew.")
    return lines


# Comparisons ---------------------------------------------------------------------------------


def comparison(content: Mapping[str, Any], also: str | None = None) -> dict[str, Any] | None:
    """Compare contenders over the cells that all of them have.

    Parameters
    ----------
    content : mapping
        Of the file.
    also : str or None, default=None
        Of those who lack tables or share nothing: who is compared with the others on the cells
        that it has.

    Returns
    -------
    comparison : dict or None
        ``summary`` (an entry a contender, the best rank first), ``tables`` and ``scores`` (by
        contender and table), ``cells``, ``others`` (who lacks many tables, or shares nothing) and
        ``dropped`` (the tables that others lack, and who); None without rows.
    """
    rows = rows_of(content)
    names = ordered({name for _, _, name in rows}, content)
    names = [name for name in names if name not in variants(content)]
    if not names:
        return None
    ours = content["settings"]["ours"]
    # Before ours is measured, peers are compared with one another.
    rivals = [name for name in names if name not in ALONE] or names
    baseline = ours if ours in names else rivals[0]
    tables = {n: {case for case, _, name in rows if name == n} for n in names}
    enough = SHARE * len(tables[baseline])
    complete = [n for n in rivals if len(tables[n] & tables[baseline]) >= enough]
    others = [name for name in names if name not in complete]
    compared = complete if also is None else [*complete, also]
    lacking = {c: [n for n in complete if c not in tables[n]] for c in sorted(tables[baseline])}
    cells = common_cells(rows, compared)
    if not cells:
        return None
    return {
        "summary": summary(rows, compared, cells, baseline),
        "scores": {name: scores_of(rows, name, cells) for name in compared},
        "tables": list(dict.fromkeys(case for case, _ in cells)),
        "cells": cells,
        "others": others,
        "dropped": {case: who for case, who in lacking.items() if who},
        "baseline": baseline,
    }


def ordered(names: Iterable[str], content: Mapping[str, Any]) -> list[str]:
    """Return names with ours first, then as the peers are listed."""
    places = [content["settings"]["ours"], *ALONE, *variants(content), *PEERS]
    return sorted(names, key=lambda n: (places.index(n) if n in places else len(places), n))


def variants(content: Mapping[str, Any]) -> list[str]:
    """Return those of ours that are not compared with peers: ablations, and what costs differ."""
    found = [*content["settings"]["ablations"], *content["settings"].get("spending", {})]
    return [n for n in dict.fromkeys(found) if n not in (content["settings"]["ours"], *ALONE)]


def summary(
    rows: Rows, names: Sequence[str], cells: Sequence[tuple[str, int]], baseline: str
) -> list[dict[str, Any]]:
    """Return what is to be said of every contender: ranks, wins, scores, seconds, differences."""
    scores = {name: scores_of(rows, name, cells) for name in names}
    best = {c: max(round(scores[n][c], DIGITS) for n in names) for c in scores[baseline]}
    entries = compare(scores, baseline)
    for entry in entries:
        name = entry["contender"]
        mine = [rows[case, fold, name] for case, fold in cells]
        differences = [scores[name][case] - scores[baseline][case] for case in best]
        entry |= {
            "wins": sum(round(scores[name][case], DIGITS) == top for case, top in best.items()),
            "mean_score": float(np.mean(list(scores[name].values()))),
            "interval": interval(differences) if name != baseline else None,
            "fit_cpu": sum(row["fit_cpu"] for row in mine),
            "predict_cpu": sum(row["predict_cpu"] for row in mine),
        }
    return entries


# Their tables --------------------------------------------------------------------------------


def described(found: Mapping[str, Any]) -> str:
    """Return a comparison as a table."""
    head = ["contender", "rank", "wins", "score", "CPU of fits", "of predictions"]
    head += [f"difference to {found['baseline']}", "95 %", "median", "better", "worse", "p, Holm"]
    lines = []
    for entry in found["summary"]:
        cells = [entry["contender"], f"{entry['mean_rank']:.2f}", str(entry["wins"])]
        cells += [f"{entry['mean_score']:.4f}", seconds(entry["fit_cpu"])]
        cells += [seconds(entry["predict_cpu"])]
        if entry["contender"] == found["baseline"]:
            lines.append([*cells, *[""] * 6])
            continue
        low_high = entry["interval"]
        cells += [f"{entry['difference']:+.4f}"]
        cells += ["" if low_high is None else f"{low_high[0]:+.4f} to {low_high[1]:+.4f}"]
        cells += [f"{entry['median_difference']:+.4f}", str(entry["better"]), str(entry["worse"])]
        lines.append([*cells, f"{entry['p_adjusted']:.3f}"])
    said = f"{len(found['tables'])} tables, {len(found['cells'])} cells (table, fold)."
    if found["dropped"]:
        lacking = [f"{case} ({', '.join(who)})" for case, who in found["dropped"].items()]
        said += f" Without tables that somebody lacks: {', '.join(lacking)}."
    return f"{said}\n\n{markdown(head, lines)}"


def per_table(found: Mapping[str, Any]) -> str:
    """Return the scores of every table, the best in bold."""
    names = [entry["contender"] for entry in found["summary"]]
    lines = []
    for case in found["tables"]:
        scores = [found["scores"][name][case] for name in names]
        top = max(scores)
        n_folds = sum(table == case for table, _ in found["cells"])
        shown = [f"**{s:.4f}**" if round(top - s, DIGITS) <= 0 else f"{s:.4f}" for s in scores]
        lines.append([case, str(n_folds), *shown])
    return markdown(["table", "folds", *names], lines)


def one_by_one(content: Mapping[str, Any], baseline: str) -> str:
    """Return how every contender differs from one, on all cells that the two share."""
    rows = rows_of(content)
    names = {name for _, _, name in rows} - {baseline, *variants(content)}
    lines = []
    for name in ordered(names, content):
        cells = common_cells(rows, [baseline, name])
        if not cells:
            continue
        found = {e["contender"]: e for e in summary(rows, [baseline, name], cells, baseline)}
        entry, base = found[name], found[baseline]
        low_high = entry["interval"] or (math.nan, math.nan)
        line = [name, str(entry["tables"]), str(len(cells)), f"{entry['mean_score']:.4f}"]
        line += [f"{entry['difference']:+.4f}", f"{low_high[0]:+.4f} to {low_high[1]:+.4f}"]
        line += [str(entry["better"]), str(entry["worse"]), f"{entry['p']:.3f}"]
        total, other = (e["fit_cpu"] + e["predict_cpu"] for e in (entry, base))
        lines.append([*line, f"{seconds(total)} / {seconds(other)}"])
    head = ["contender", "tables", "cells", "score", "difference", "95 %", "better", "worse", "p"]
    return markdown([*head, "CPU / that of ours"], lines) if lines else ""


def pairs(
    content: Mapping[str, Any], name: str, other: str, protocols: Sequence[str] = ("folds",)
) -> dict[str, tuple[float, float]]:
    """Return the scores of two contenders on every table that they share, on the same folds."""
    rows = rows_of(content, protocols)
    cells = common_cells(rows, [name, other])
    mine, theirs = (scores_of(rows, who, cells) for who in (name, other))
    return {case: (mine[case], theirs[case]) for case in mine}


def behind(content: Mapping[str, Any]) -> str:
    """Return the tables where ours is too far behind the best peer."""
    ours = content["settings"]["ours"]
    if all(row["contender"] != ours for row in content["rows"]):
        return "Ours has not been measured."
    worst: dict[str, tuple[float, str, float, float]] = {}
    for peer in PEERS:
        for case, (mine, theirs) in pairs(content, ours, peer).items():
            entry = (theirs - mine, peer, mine, theirs)
            worst[case] = max(worst.get(case, entry), entry)
    lines = [
        [case, f"{mine:.4f}", peer, f"{theirs:.4f}", f"{gap:+.4f}"]
        for case, (gap, peer, mine, theirs) in sorted(worst.items(), key=lambda i: -i[1][0])
        if gap > BEHIND
    ]
    if not lines:
        return f"On no table by more than {BEHIND}."
    head = ["table", "ours", "best peer", "its score", "difference"]
    return f"By more than {BEHIND}, on the folds that both have:\n\n{markdown(head, lines)}"


def ingredients(content: Mapping[str, Any]) -> str:
    """Return what every ablation changes, on the cells that it shares with ours."""
    rows, ours = rows_of(content), content["settings"]["ours"]
    lines = []
    for name in content["settings"]["ablations"]:
        cells = common_cells(rows, [ours, name])
        if cells:
            _, entry = sorted(summary(rows, [ours, name], cells, ours), key=is_not(ours))
            of_ours = sum(rows[case, fold, ours]["fit_cpu"] for case, fold in cells)
            low_high = entry["interval"] or (math.nan, math.nan)
            line = [name, str(entry["tables"]), f"{entry['difference']:+.4f}"]
            line += [f"{low_high[0]:+.4f} to {low_high[1]:+.4f}", str(entry["better"])]
            lines.append([*line, str(entry["worse"]), f"{entry['fit_cpu'] / of_ours:.2f}"])
    head = ["ours with", "tables", "difference", "95 %", "better", "worse", "CPU, ours 1"]
    return markdown(head, lines) if lines else ""


def spending(content: Mapping[str, Any]) -> str:
    """Return what the fits of a setting cost, and its score, beside ours on the same folds.

    On tables where any of those that are measured for this alone has been.
    """
    rows, ours = rows_of(content), content["settings"]["ours"]
    settings = content["settings"].get("spending", {})
    alone = set(settings) - {ours, *ALONE, *content["settings"]["ablations"]}
    lines = []
    for case in dict.fromkeys(case for case, _, name in rows if name in alone):
        for name, parameters in settings.items():
            folds = [f for c, f in common_cells(rows, [ours, name]) if c == case]
            if not folds:
                continue
            mine, base = ([rows[case, f, n] for f in folds] for n in (name, ours))
            cost, of_ours = ([row["fit_cpu"] for row in found] for found in (mine, base))
            score, other = (table_score(case, found) for found in (mine, base))
            given = ", ".join(f"{key}={value!r}" for key, value in parameters.items())
            line = [case, f"`{given}`" if given else "the defaults"]
            line += [", ".join(f"{value:.1f}" for value in cost)]
            line += [f"{sum(cost) / sum(of_ours):.2f}"]
            lines.append([*line, f"{score:.4f}", f"{score - other:+.4f}"])
    if not lines:
        return ""
    head = ["table", "setting", "CPU seconds of a fit, by fold", "ours 1", "score", "difference"]
    return markdown(head, lines)


def is_not(name: str) -> Any:
    """Return a key that puts a contender first."""
    return lambda entry: entry["contender"] != name


def calibration(content: Mapping[str, Any]) -> str:
    """Return the expected calibration errors of ours and of CatBoost, of tables with classes."""
    rows, ours = rows_of(content), content["settings"]["ours"]
    lines = []
    cells = [
        cell
        for cell in common_cells(rows, [ours, "catboost_500"])
        if all(rows[(*cell, name)].get("calibration") for name in (ours, "catboost_500"))
    ]
    for case in dict.fromkeys(case for case, _ in cells):
        folds = [fold for table, fold in cells if table == case]
        errors = [
            np.mean([np.mean(list(rows[case, f, n]["calibration"].values())) for f in folds])
            for n in (ours, "catboost_500")
        ]
        lines.append([case, str(len(folds)), *(f"{error:.4f}" for error in errors)])
    return markdown(["calibration error", "folds", ours, "catboost_500"], lines) if lines else ""


def published_splits(content: Mapping[str, Any]) -> str:
    """Return scores on the splits that others have published results for, beside theirs."""
    rows = rows_of(content, ("DeepChem", "Mulan", "MMoE"))
    names = ordered({name for _, _, name in rows}, content)
    lines = []
    for case in dict.fromkeys(case for case, _, _ in rows):
        cells = {n: [(c, f) for c, f, name in rows if c == case and name == n] for n in names}
        shown = []
        for name in names:
            found = scores_of(rows, name, cells[name]).get(case)
            shown.append("" if found is None else f"{found:.4f} ({len(cells[name])})")
        others = PUBLISHED.get(case, {})
        said = ", ".join(f"{name} {score:.3f}" for name, score in others.items())
        lines.append([case, said, *shown])
    if not lines:
        return ""
    return (
        "All rows. Molecules: trained on the first part, tested on the second; DeepChem has 1024 "
        "bits only, our columns descriptors too. Amounts: 1 - aRRMSE. Census: their 199,523 rows "
        "to learn from are not ours. The number of folds is in brackets."
        f"\n\n{markdown(['split', 'published', *names], lines)}"
    )


def left_out(content: Mapping[str, Any]) -> str:
    """Return who has no row where, and why."""
    by_reason: dict[tuple[str, str, str], list[int]] = {}
    for skip in content["skipped"]:
        key = (skip["contender"], skip["case"], skip["reason"])
        by_reason.setdefault(key, []).append(skip["fold"])
    lines = [
        [name, case, " ".join(map(str, sorted(folds))), reason]
        for (name, case, reason), folds in sorted(by_reason.items())
    ]
    return markdown(["contender", "table", "folds", "why"], lines) if lines else "Nobody."
