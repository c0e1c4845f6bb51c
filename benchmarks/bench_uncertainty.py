"""How sure ours is: whether probabilities mean what they say, and whether intervals hold labels.

Probabilities: expected calibration error (15 bins of equal width) and log loss on five folds, of
ours with and without ``calibrate=True`` and of CatBoost with 500 rounds, a model a task.
Intervals: ``predict_interval`` and ``predict_set`` of the defaults at a coverage of 0.9, on 20
random splits of three quarters to train and one to test, by whole groups where a table has them.
The tables are not part of the project: ``--data`` (or the environment's SK_MTL_DATA) names their
folder. ``--quick`` makes a small one up. The file is written after every cell, as by
``bench_quality``.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from _cells import N_FOLDS, Cell, Cost, Predictions, fitted_ours, judged, rounded, split, timed
from _harness import use_threads
from _measuring import (
    MOST_ROWS,
    Contender,
    Outcome,
    cheapest_first,
    measure,
    names_of_tables,
    options_of_all,
    tables_of,
    tried,
)
from _peers import PEERS, SEED
from _results_file import File, head_of
from _tables import Table, made_up
from _uncertainty_report import write_report
from numpy.typing import NDArray
from sklearn.model_selection import GroupShuffleSplit, ShuffleSplit, StratifiedShuffleSplit

Array = NDArray[Any]

NAME = "uncertainty"
TABLES = ("support2", "thyroid", "tox21")  # whose probabilities are judged, unless others are named
N_SPLITS, N_QUICK = 20, 2
COVERAGE = 0.9
SPLITS = "splits"  # the protocol of cells whose intervals are judged
KEPT = ("calibration", "log_loss", "coverage", "width", "set_coverage", "set_size")  # by task
TINIEST = float(np.finfo(np.float32).eps)  # the least probability: a logarithm has to be finite

OURS, CALIBRATED, PEER = "sk_mtl", "sk_mtl_calibrated", "catboost_500"
QUICK: dict[str, Any] = {"hidden_layer_sizes": (4,), "max_iter": 2}
QUICK_PEER = "extra_trees"


# Cells ---------------------------------------------------------------------------------------


def random_splits(case: str, table: Table, wanted: Sequence[int]) -> Iterator[Cell]:
    """Yield splits of a quarter to test: of the groups, of every disjoint task, or of the rows."""
    shuffled: dict[str, Any] = {"n_splits": max(wanted) + 1, "test_size": 0.25}
    shuffled["random_state"] = SEED
    if table.groups is not None:
        parts = GroupShuffleSplit(**shuffled).split(table.X, groups=table.groups)
    elif table.task_of_row is not None:
        parts = StratifiedShuffleSplit(**shuffled).split(table.X, table.task_of_row)
    else:
        parts = ShuffleSplit(**shuffled).split(table.X)
    for number, (train, test) in enumerate(parts):
        if number in wanted:  # a split is the same, whatever others there are
            yield Cell(case, table, number, np.sort(train), np.sort(test), SPLITS)


def is_covered(table: Table) -> bool:
    """Return whether intervals or sets say something: of amounts, or of more than two classes."""
    n_classes = [table.Y[name].nunique() for name in table.Y]
    return any(
        kind == "regression" or n > 2 for kind, n in zip(table.kinds, n_classes, strict=True)
    )


def with_classes(table: Table) -> Table:
    """Return a table without its amounts, for who has a model a task anyway."""
    tasks = [task for task, kind in enumerate(table.kinds) if kind == "classification"]
    return replace(table, Y=table.Y.iloc[:, tasks], kinds=[table.kinds[task] for task in tasks])


def contenders(asked: Sequence[str] | None, quick: bool) -> dict[str, Contender]:
    """Return those who are asked for, all of them by default: ours, calibrated and not, a peer."""
    small = QUICK if quick else {}
    everyone = [
        Contender(OURS, None, small),
        Contender(CALIBRATED, None, small | {"calibrate": True}),
        Contender(QUICK_PEER if quick else PEER, PEERS[QUICK_PEER if quick else PEER], {}),
    ]
    found = {contender.name: contender for contender in everyone}
    unknown = [name for name in asked or () if name not in found]
    if unknown:
        raise SystemExit(
            f"Got contender {unknown[0]!r}, expected one of {list(found)}. Choose one."
        )
    return {name: contender for name, contender in found.items() if name in (asked or found)}


def pairs_of(
    tables: Mapping[str, Table], options: argparse.Namespace
) -> list[tuple[Cell, Contender]]:
    """Return who is measured on what; all tables have their first split before any has a second."""
    everyone = contenders(options.contender, options.quick)
    n_folds, n_splits = (N_QUICK, N_QUICK) if options.quick else (N_FOLDS, N_SPLITS)
    pairs = []
    for case, table in tables.items():
        wanted = options.table or options.quick or case in TABLES
        if options.only != "coverage" and wanted and "classification" in table.kinds:
            cells = split(case, table, options.folds or range(n_folds))
            pairs += [(cell, who) for cell in cells for who in everyone.values()]
        if options.only != "calibration" and OURS in everyone and is_covered(table):
            cells = random_splits(case, table, options.folds or range(n_splits))
            pairs += [(cell, everyone[OURS]) for cell in cells]
    return sorted(pairs, key=lambda pair: pair[0].fold)


# Probabilities -------------------------------------------------------------------------------


def log_loss(y: Any, classes: Array, p: Array) -> float:
    """Return the mean of -log of the probability of the true class.

    Parameters
    ----------
    y : array of shape (n,)
        True classes.
    classes : array of shape (n_classes,)
        Classes of the columns of ``p``.
    p : array of shape (n, n_classes)
        Probabilities. A class without a column has probability 0; none counts as less than the
        precision of single numbers.
    """
    column = {c: i for i, c in enumerate(np.asarray(classes).tolist())}
    true = [p[row, column[c]] if c in column else 0.0 for row, c in enumerate(np.asarray(y))]
    return float(-np.mean(np.log(np.maximum(true, TINIEST))))


def judged_probabilities(cell: Cell, predictions: Predictions) -> dict[str, Any]:
    """Return ``calibration`` and ``log_loss`` of the tasks with classes."""
    kinds = cell.table.kinds
    found = {t: each for t, each in predictions.items() if kinds[t] == "classification"}
    losses = {}
    for task, (classes, p) in found.items():
        y = cell.table.Y.iloc[:, task]
        truth = y.iloc[cell.test]
        rows = truth.notna().to_numpy()
        losses[str(y.name)] = rounded(log_loss(truth[rows].to_numpy(), classes, p[rows]))
    return {"calibration": judged(cell, found)["calibration"], "log_loss": losses}


# Intervals -----------------------------------------------------------------------------------


def judged_intervals(cell: Cell, intervals: Mapping[int, tuple[Array, Array]]) -> dict[str, Any]:
    """Return how many labels lie in their intervals, and how wide these are.

    Parameters
    ----------
    cell : Cell
        Of which rows.
    intervals : mapping of int to (ndarray, ndarray)
        Lower and upper ends by task, for the tested rows.

    Returns
    -------
    judged : dict
        ``coverage`` and ``width`` by task; the width is the mean, in standard deviations of all
        labels of the table, None where it is infinite.
    """
    inside, width = {}, {}
    for task, (lower, upper) in intervals.items():
        y = cell.table.Y.iloc[:, task].astype(float)
        truth, name = y.iloc[cell.test].to_numpy(), str(y.name)
        rows = ~np.isnan(truth)
        held = (lower <= truth) & (truth <= upper)
        std = float(y.std(ddof=0))
        inside[name] = rounded(float(held[rows].mean()))
        wide = float((upper - lower)[rows].mean())
        width[name] = rounded(wide / std) if std > 0 else None
    return {"coverage": inside, "width": width}


def judged_sets(cell: Cell, sets: Mapping[int, tuple[Array, Array]]) -> dict[str, Any]:
    """Return how many labels lie in their sets, and how large these are.

    Parameters
    ----------
    cell : Cell
        Of which rows.
    sets : mapping of int to (ndarray, ndarray)
        Classes, and whether they are in the set of a tested row, by task.

    Returns
    -------
    judged : dict
        ``set_coverage`` and ``set_size`` by task. A class that no training row had is in no set.
    """
    inside, size = {}, {}
    for task, (classes, chosen) in sets.items():
        y = cell.table.Y.iloc[:, task]
        truth, name = y.iloc[cell.test], str(y.name)
        rows = truth.notna().to_numpy()
        is_it = truth[rows].to_numpy()[:, None] == np.asarray(classes)
        inside[name] = rounded(float((is_it & chosen[rows]).any(axis=1).mean()))
        size[name] = rounded(float(chosen[rows].sum(axis=1).mean()))
    return {"set_coverage": inside, "set_size": size}


def ends_and_sets(
    model: Any, cell: Cell, coverage: float
) -> tuple[dict[int, Any], dict[int, Any], float]:
    """Return intervals and sets of a fitted model by task, and the seconds that they took."""
    X, tasks, seconds = cell.table.X.iloc[cell.test], cell.tasks(), 0.0
    kinds = [cell.table.kinds[task] for task in tasks]
    intervals, sets = {}, {}
    if "regression" in kinds:
        ends, seconds = timed(lambda: model.predict_interval(X, coverage=coverage))
        lower, upper = (np.asarray(end, dtype=float).reshape(len(X), -1) for end in ends)
        for column, task in enumerate(tasks):
            if kinds[column] == "regression":
                intervals[task] = lower[:, column], upper[:, column]
    if "classification" in kinds:
        found, more = timed(lambda: model.predict_set(X, coverage=coverage))
        seconds += more
        classes = model.classes_
        if len(tasks) == 1:
            found, classes = [found], [classes]
        for column, task in enumerate(tasks):
            if kinds[column] == "classification":
                sets[task] = classes[column], found[column]
    return intervals, sets, seconds


def covered(contender: Contender, cell: Cell) -> tuple[dict[str, Any], Cost]:
    """Fit a contender of ours, and return what its intervals and sets hold."""
    model, fit = fitted_ours(contender.parameters, cell, told_groups=True)
    intervals, sets, predict = ends_and_sets(model, cell, COVERAGE)
    return judged_intervals(cell, intervals) | judged_sets(cell, sets), [fit, predict]


# The whole -----------------------------------------------------------------------------------


def attempt(contender: Contender, cell: Cell, options: argparse.Namespace) -> Outcome:
    """Return "rows" and a row, or "skipped" and the reason why there is none."""
    nothing: dict[str, Any] = {key: {} for key in KEPT}

    def step() -> tuple[dict[str, Any], Cost]:
        if cell.protocol == SPLITS:
            found, cost = covered(contender, cell)
        else:
            part = cell
            if contender.peer is not None:
                part = replace(cell, table=with_classes(cell.table))
            limit = options.max_seconds_per_fit
            predictions, cost = contender.run(part, options.threads, limit)
            found = judged_probabilities(part, predictions)
        return nothing | found, cost

    return tried(step, cell, options.threads)


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = options_of_all(__doc__)
    add = parser.add_argument
    add("--table", action="append", help="of the folder (default: all, or those of the README)")
    add("--only", choices=("calibration", "coverage"), help="measure one of the two")
    add("--contender", action="append", help="a name (default: all)")
    options = parser.parse_args(argv)
    if options.data is None and not (options.quick or options.report):
        parser.error(
            "Got no folder of tables, expected one. Pass --data FOLDER or set SK_MTL_DATA."
        )
    return options


def read_all(options: argparse.Namespace) -> dict[str, Table]:
    """Return the tables that are asked for, the cheapest first."""
    if options.data is not None and options.only == "calibration" and not options.table:
        known = names_of_tables(Path(options.data))  # the others need not be read
        options.table = [name for name in TABLES if name in known]
    return cheapest_first(tables_of(options), options.most_rows)


def settings(quick: bool) -> dict[str, Any]:
    """Return what the report has to know."""
    return {
        "most_rows": MOST_ROWS,
        "folds": N_FOLDS,
        "splits": N_SPLITS,
        "coverage": COVERAGE,
        "ours": OURS,
        "calibrated": CALIBRATED,
        "peer": QUICK_PEER if quick else PEER,
    }


def main(argv: Sequence[str] | None = None) -> None:
    options = arguments(sys.argv[1:] if argv is None else argv)
    use_threads(options.threads)
    logging.disable(logging.INFO)  # one of them says much
    tables = {} if options.report else read_all(options)
    head = head_of(NAME, options.quick, options.threads, settings(options.quick), tables)
    for name, table in tables.items():
        head["settings"]["tables"][name]["by_group"] = table.groups is not None
    file = File(options.output / f"{NAME}.json", head)
    (warm_up,) = split("tiny", made_up(as_it_comes=True), [0])
    measure(file, pairs_of(tables, options), options, attempt, warm_up)
    print(write_report(file.read(), options.output))


if __name__ == "__main__":
    main()
