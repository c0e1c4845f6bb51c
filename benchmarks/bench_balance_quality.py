"""How well every weighting and every trunk predicts, on tables with several tasks.

Every weighting on a shared bottom and every trunk under static weights, with the same folds,
seeds, network and early stopping on every table: area under the ROC curve of classes and R2 of
amounts, averaged over the tasks. Nothing is tuned for anyone.

The tables are not part of the project: ``--data`` (or the environment's SK_MTL_DATA) names their
folder. ``--quick`` makes a small one up. The file is written after every table, and what it has
is not trained again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _harness import ONE_NETWORK, RESULTS, Report, seconds, use_threads
from _ranking import compare, markdown
from _tables import FARTHEST, Table, made_up, preprocessing, read
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import Pipeline

from sk_mtl import MultiTaskEstimator, VectorizedGridSearchCV
from sk_mtl.metrics import make_multi_task_scorer
from sk_mtl.model_selection import MultiTaskStratifiedKFold
from sk_mtl.trunks import TRUNKS
from sk_mtl.weighting import WEIGHTINGS

NAME = "balance_quality"
TABLES = (
    "census_income_kdd",
    "mlc_yeast",
    "mtr/wq",
    "qm8",
    "student",
    "support2",
    "thyroid",
    "tox21",
)
MOST_ROWS, MOST_TASKS, N_FOLDS = 3000, 12, 5
# What is compared, and with what: the parameter and the contender that stands for "nothing done".
FAMILIES = {"weighting": (WEIGHTINGS, "static"), "trunk": (TRUNKS, "shared_bottom")}
METRICS = {"classification": "roc_auc_ovr", "regression": "r2"}
NETWORK: dict[str, Any] = {
    "hidden_layer_sizes": (64, 32),
    "early_stopping": True,
    "dtype": "float32",
    "random_state": 0,
}
QUICK_NETWORK = {"hidden_layer_sizes": (4,), "max_iter": 2, "random_state": 0}


def available(report: Report) -> dict[str, list[str]]:
    """Return the contenders of every family; say which need what is not installed."""
    found: dict[str, list[str]] = {family: list(names) for family, (names, _) in FAMILIES.items()}
    for key, weighting in WEIGHTINGS.items():
        try:
            weighting().build(torch.ones(2))
        except ImportError as error:
            report.skip(key, str(error))
            found["weighting"].remove(key)
    return found


def pipeline(table: Table, network: Mapping[str, Any]) -> Pipeline:
    """Return the model, not fitted: what a user would write for a table."""
    mtl = MultiTaskEstimator(tasks=table.kinds, **{**ONE_NETWORK, "max_iter": 200, **network})
    return Pipeline([("columns", preprocessing(table)), ("mtl", mtl)])


def measure(
    table: Table,
    grid: Mapping[str, Sequence[str]],
    network: Mapping[str, Any],
    n_folds: int,
    n_jobs: int,
) -> Iterator[dict[str, Any]]:
    """Train contenders on every fold of a table; yield a row for each.

    Parameters
    ----------
    table : Table
        The table.
    grid : mapping of str to sequence of str
        Contenders by family.
    network : mapping
        Parameters of the estimator.
    n_folds, n_jobs : int
        Folds, and processes.
    """
    search = VectorizedGridSearchCV(
        pipeline(table, network),
        [{f"mtl__{family}": list(names)} for family, names in grid.items() if names],
        scoring=make_multi_task_scorer(METRICS),
        cv=MultiTaskStratifiedKFold(n_folds, tasks=table.kinds, random_state=0),
        n_jobs=n_jobs,
        refit=False,
    )
    with warnings.catch_warnings():
        # A search that is interrupted returns what it has: half a table, which is not for the file.
        warnings.filterwarnings("error", message="Search interrupted by user")
        search.fit(table.X, table.Y)
    results = search.cv_results_
    for c, params in enumerate(results["params"]):
        ((parameter, contender),) = params.items()
        folds = [results[f"split{fold}_test_mean"][c] for fold in range(n_folds)]
        tasks = zip(search.task_names_, search.task_scores_[c], strict=True)
        yield {
            "family": parameter.removeprefix("mtl__"),
            "contender": contender,
            # One that failed on a fold has no score: the others would be judged by all.
            "score": number(np.mean(folds)),
            "fold_scores": [number(score) for score in folds],
            "task_scores": {name: number(score) for name, score in tasks},
            "fit_seconds": number(results["mean_fit_time"][c]),
            "trained": search.search_report_["trained"][c],
        }


def number(value: Any) -> float | None:
    """Return a number that JSON knows; None for NaN."""
    return float(value) if np.isfinite(value) else None


# The file ---------------------------------------------------------------------------------


def keep(report: Report, path: Path, again: Sequence[str], tables_again: Sequence[str]) -> None:
    """Take over the rows of a file that were got from the same tables in the same way.

    Tables that are not asked for stay too; of those in ``tables_again`` nothing does, and nothing
    of the contenders in ``again``.
    """
    if not path.exists():
        return
    old, new = json.loads(path.read_text(encoding="utf-8")), report.content
    before, settings = old["settings"], new["settings"]
    differ = [key for key in ("quick", "versions") if old[key] != new[key]]
    differ += [key for key in settings if key != "tables" and before[key] != settings[key]]
    if differ:
        print(f"{path} is of another run ({', '.join(differ)} differ): all is trained anew")
        return
    tables = before["tables"] | settings["tables"]
    same = {name for name, facts in before["tables"].items() if tables[name] == facts}
    settings["tables"] = tables
    known = [row for row in old["rows"] if row["case"] in same.difference(tables_again)]
    new["rows"] += [row for row in known if row["contender"] not in again]


def missing(report: Report, table: str, wanted: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Return the contenders that have no row of a table."""
    rows = report.content["rows"]
    there = {(row["family"], row["contender"]) for row in rows if row["case"] == table}
    return {
        family: [name for name in names if (family, name) not in there]
        for family, names in wanted.items()
    }


def summarise(report: Report, wanted: Mapping[str, list[str]]) -> list[dict[str, Any]]:
    """Compare the contenders of every family, over the tables that all of them have."""
    scores = {
        (row["family"], row["contender"], row["case"]): row["score"]
        for row in report.content["rows"]
    }
    entries = []
    for family, names in wanted.items():
        tables = [
            table
            for table in report.content["settings"]["tables"]
            if all((family, name, table) in scores for name in names)
        ]
        if tables:
            by_name = {name: {t: scores[family, name, t] for t in tables} for name in names}
            found = compare(by_name, FAMILIES[family][1])
            entries += [{"family": family, **entry} for entry in found]
    return entries


def save(report: Report, path: Path, wanted: Mapping[str, list[str]]) -> None:
    """Write what there is, in the order of the tables: the next run goes on from here."""
    tables = list(report.content["settings"]["tables"])
    contenders = [(family, name) for family, names in wanted.items() for name in names]
    rows = report.content["rows"]
    rows[:] = [row for row in rows if (row["family"], row["contender"]) in contenders]
    rows.sort(
        key=lambda row: (
            tables.index(row["case"]),
            contenders.index((row["family"], row["contender"])),
        )
    )
    report.content["summary"] = summarise(report, wanted)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report.content, indent=1) + "\n", encoding="utf-8")


def text(report: Report) -> str:
    """Return the tables with the baselines' scores, and the summaries, as markdown."""
    content = report.content
    baselines = {family: baseline for family, (_, baseline) in FAMILIES.items()}
    scores = {
        row["case"]: row["score"]
        for row in content["rows"]
        if row["contender"] == baselines["weighting"]
    }
    head = ["table", "rows", "features", "tasks", "missing labels", "score"]
    lines = []
    for name, facts in content["settings"]["tables"].items():
        n_tasks = facts["n_classification_tasks"] + facts["n_regression_tasks"]
        gaps = f"{facts['missing_labels']:.0%}"
        cells = [str(n) for n in (facts["n_rows"], facts["n_features"], n_tasks)]
        lines.append([name, *cells, gaps, shown(scores.get(name))])
    parts = [markdown(head, lines)]
    for family, baseline in baselines.items():
        head = [family, "rank", f"difference to {baseline}", "median", "better", "worse", "p"]
        lines = []
        for entry in content["summary"]:
            if entry["family"] == family:
                cells = [shown(entry[key], "+.4f") for key in ("difference", "median_difference")]
                cells += [str(entry["better"]), str(entry["worse"])]
                cells += [shown(entry[key], ".3f") for key in ("p", "p_adjusted")]
                lines.append([entry["contender"], f"{entry['mean_rank']:.1f}", *cells])
        parts.append(markdown([*head, "p, Holm"], lines))
    return "\n\n".join(parts)


def shown(value: float | None, form: str = ".4f") -> str:
    """Return a number as text, nothing for None."""
    return "" if value is None else format(value, form)


# The whole --------------------------------------------------------------------------------


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a made-up table: does it run?")
    parser.add_argument("--data", type=Path, default=os.environ.get("SK_MTL_DATA"), help="tables")
    parser.add_argument("--table", action="append", help="a table of it (default: eight)")
    parser.add_argument("--threads", type=int, default=None, help="workers (default: all cores)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the file")
    parser.add_argument("--fresh", action="store_true", help="train again what the file has")
    parser.add_argument("--again", action="append", default=[], help="train this contender again")
    options = parser.parse_args(argv)
    if options.data is None and not options.quick:
        parser.error(
            "Got no folder of tables, expected one. Pass --data FOLDER or set SK_MTL_DATA."
        )
    if options.threads is None:  # starting workers takes longer than anything that is quick
        options.threads = 1 if options.quick else os.cpu_count() or 1
    return options


def main(argv: Sequence[str] | None = None) -> None:
    options = arguments(sys.argv[1:] if argv is None else argv)
    warnings.simplefilter("ignore", ConvergenceWarning)
    use_threads(1)
    network, n_folds = (QUICK_NETWORK, 2) if options.quick else (NETWORK, N_FOLDS)
    tables = {"made up": made_up()} if options.quick else {}
    for name in () if options.quick else options.table or TABLES:
        tables[name] = read(Path(options.data), name, MOST_ROWS, MOST_TASKS)
    settings = {
        "network": {key: list(v) if isinstance(v, tuple) else v for key, v in network.items()},
        "folds": n_folds,
        "metrics": METRICS,
        "numbers_cut_at": FARTHEST,
        "tables": {name: table.facts() for name, table in tables.items()},
    }
    report = Report(NAME, options, settings)
    path = options.output / f"{NAME}.json"
    wanted = available(report)
    keep(report, path, options.again, list(tables) if options.fresh else [])
    for name, table in tables.items():
        start = time.perf_counter()
        grid = missing(report, name, wanted)
        if any(grid.values()):
            found = measure(table, grid, network, n_folds, options.threads)
            report.content["rows"] += [{"case": name, **row} for row in found]
            save(report, path, wanted)
            print(f"{name}: {seconds(time.perf_counter() - start)}", flush=True)
    save(report, path, wanted)
    report.finish(text(report))


if __name__ == "__main__":
    main()
