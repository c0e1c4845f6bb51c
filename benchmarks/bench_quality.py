"""How well ours predicts with default parameters, beside what a user would pick instead.

Every table as it comes, five folds, every contender: area under the ROC curve of classes and
1 - RRMSE of amounts, task by task, and the CPU seconds of fit and predict. The tables are not
part of the project: ``--data`` (or the environment's SK_MTL_DATA) names their folder. ``--quick``
makes a small one up. The file is written after every cell (table, fold, contender), and what it
has is not measured again; several runs may share it, also of Pythons with other packages.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from _cells import (
    N_FOLDS,
    Cell,
    Cost,
    Predictions,
    TooSlow,
    judged,
    published,
    run_ours,
    run_peer,
    run_peer_of_all,
    run_pooled,
    split,
    tiny,
)
from _harness import RESULTS, machine, use_threads, versions
from _peers import PEERS, Peer
from _quality_report import write_report
from _tables import Table, from_openml, made_up, read_whole

NAME = "quality"
MOST_ROWS = 10_000
LEFT_OUT = ("toxcast", "qm8")  # nothing was chosen by these
# Ours, by the parameters that are not the defaults. The others are compared with the first.
OURS: dict[str, dict[str, Any]] = {
    "sk_mtl": {},
    "single_task": {"trunk": "single_task"},
}
# One ingredient less, or another one, each.
ABLATIONS: dict[str, dict[str, Any]] = {  # each ingredient off, or another in its place
    "one_network": {"n_members": 1, "early_stopping": True, "dtype": "float32"},
    "no_embedding": {"embedding": None},
    "periodic": {"embedding": "periodic"},
    "no_linear_path": {"linear_path": False},
    "no_averaging": {"ema_decay": 0.0},
    "no_dropout": {"dropout": 0.0},
    "standard_scaling": {"scaling": "standard"},
    "half_width": {"hidden_layer_sizes": (128, 64)},
}

QUICK: dict[str, Any] = {"hidden_layer_sizes": (4,), "max_iter": 2}
QUICK_PEERS = ("ridge_logistic", "extra_trees")


# Contenders ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Contender:
    """Somebody who is measured: a peer, or ours with some parameters."""

    name: str
    peer: Peer | None
    parameters: Mapping[str, Any]

    def known_by(self) -> dict[str, Any]:
        """Return ``made_by``, what results hang on, None if not installed; and ours' ``code``."""
        if self.peer is not None:
            return {"made_by": self.peer.made_by()}
        found = f"sk-mtl {own('version')}, torch {version('torch')} {dict(self.parameters)}"
        return {"made_by": found, "code": own("code")}

    def run(self, cell: Cell, threads: int, limit: float) -> tuple[Predictions, Cost]:
        """Return predictions, and the seconds of fit and predict."""
        if self.peer is None:
            return run_ours(self.parameters, cell)
        if self.peer.learns == "all tasks":
            return run_peer_of_all(self.peer, cell, threads)
        if self.peer.learns == "all rows":
            return run_pooled(self.peer, cell, threads)
        return run_peer(self.peer, cell, threads, limit)

    def suits(self, table: Table) -> bool:
        """Return whether it can learn the tasks of a table."""
        if self.peer is None or self.peer.learns == "a task":
            return True
        if self.peer.learns == "all rows":
            return table.task_of_row is not None
        return set(table.kinds) == {"regression"} and not table.Y.isna().to_numpy().any()


@cache
def own(what: str) -> str:
    """Return the version of ours, or a short text that differs where its code does."""
    import sk_mtl

    if what == "version":
        return str(sk_mtl.__version__)
    folder = Path(sk_mtl.__file__).parent
    files = sorted(path for path in folder.rglob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]


def contenders(quick: bool) -> dict[str, Contender]:
    """Return all who can be measured, ours first."""
    small = QUICK if quick else {}
    mine = OURS | ABLATIONS
    found = {name: Contender(name, None, small | more) for name, more in mine.items()}
    names = QUICK_PEERS if quick else tuple(PEERS)
    return found | {name: Contender(name, PEERS[name], {}) for name in names}


def chosen(asked: Sequence[str] | None, everyone: Mapping[str, Contender]) -> list[Contender]:
    """Return those who are asked for: by name, or "ours", "ablations", "peers"."""
    groups = {
        "ours": list(OURS),
        "ablations": list(ABLATIONS),
        "peers": [name for name, contender in everyone.items() if contender.peer],
    }
    names = [n for name in asked or ("ours", "peers") for n in groups.get(name, [name])]
    unknown = [name for name in names if name not in everyone]
    if unknown:
        raise SystemExit(
            f"Got contender {unknown[0]!r}, expected one of {[*groups, *everyone]}. Choose one."
        )
    return [everyone[name] for name in names]


# The file ------------------------------------------------------------------------------------


class File:
    """The file of results: several runs may write to it, every cell as soon as it is measured.

    Parameters
    ----------
    path : Path
        Where it is.
    head : mapping
        What it says besides rows: of the last run that wrote, but for the tables of all.
    """

    def __init__(self, path: Path, head: Mapping[str, Any]) -> None:
        self.path, self.head = path, dict(head)

    def read(self) -> dict[str, Any]:
        """Return what it has; empty lists where it is not there yet, or quick and we are not."""
        if self.path.exists():
            content: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
            if content["quick"] == self.head["quick"]:
                return content
        return {**self.head, "rows": [], "ratios": [], "skipped": []}

    def add(self, kind: str, entry: Mapping[str, Any]) -> None:
        """Put a row, or the reason why there is none, in the place of what was there."""
        with self._alone():
            content = self.read()
            for other in ("rows", "skipped"):
                content[other] = [old for old in content[other] if place(old) != place(entry)]
            content[kind].append(dict(entry))
            tables = content["settings"]["tables"] | self.head["settings"]["tables"]
            content |= self.head | {"settings": self.head["settings"] | {"tables": tables}}
            self._write(content)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)  # which also unlocks it

    def _write(self, content: Mapping[str, Any]) -> None:
        parts = []
        for key, value in content.items():
            if isinstance(value, list) and value:  # an entry a line: people read it too
                inside = ",\n".join(json.dumps(entry) for entry in value)
                parts.append(f"{json.dumps(key)}: [\n{inside}\n]")
            else:
                parts.append(f"{json.dumps(key)}: {json.dumps(value, indent=1)}")
        new = self.path.with_suffix(".new")
        new.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")
        new.replace(self.path)  # whoever reads meanwhile sees the old or the new one


def place(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return where in the file an entry belongs."""
    return entry["case"], entry["fold"], entry["contender"]


# Measuring -----------------------------------------------------------------------------------


def measure(
    file: File, cells: Sequence[Cell], wanted: Sequence[Contender], options: argparse.Namespace
) -> None:
    """Measure what the file does not have, cell by cell, until the time is up."""
    start, content = time.perf_counter(), file.read()
    slow = known_costs(content)
    warm: set[str] = set()
    for cell, contender, key in missing(content, cells, wanted, options):
        if time.perf_counter() - start > options.budget:
            print(f"stopped after {options.budget:.0f} s, as asked for", flush=True)
            return
        before = slow.get((cell.case, contender.name), {})
        if key["made_by"] is None:
            kind, entry = "skipped", {"reason": "not installed"}
        elif is_too_slow(before, key, options.max_seconds_per_fit):
            kind, entry = "skipped", {k: before[k] for k in ("reason", "seconds")}
        else:
            if contender.name not in warm:  # what is imported late is no cost of a fit
                attempt(contender, tiny(), options)
                warm.add(contender.name)
            kind, entry = attempt(contender, cell, options)
        where = {"case": cell.case, "fold": cell.fold, "contender": contender.name}
        entry = where | key | {"protocol": cell.protocol} | entry
        file.add(kind, entry)
        slow |= known_costs({"rows": [], "skipped": [], kind: [entry]})
        told = entry.get("score", entry.get("reason"))
        seconds = f"{entry['fit_cpu']} s" if kind == "rows" else ""
        print(cell.case, cell.fold, contender.name, told, seconds, flush=True)


def missing(
    content: Mapping[str, Any],
    cells: Sequence[Cell],
    wanted: Sequence[Contender],
    options: argparse.Namespace,
) -> Iterator[tuple[Cell, Contender, dict[str, Any]]]:
    """Yield what there is no row of, and by what its row will be known.

    Rows of contenders that are not installed here stay as they are.
    """
    rows = {place(row): row for row in content["rows"]}
    for cell in cells:
        for contender in wanted:
            row = rows.get((cell.case, cell.fold, contender.name))
            key = contender.known_by() | {"cell": cell.known_by()}
            kept = row is not None and contender.name not in options.again
            if kept and (key["made_by"] is None or is_same(row, key, options.renew)):
                continue
            if contender.suits(cell.table):
                yield cell, contender, key


def is_same(row: Mapping[str, Any], key: Mapping[str, Any], renew: bool) -> bool:
    """Return whether a row was got in the same way; the code counts only if ``renew``."""
    return all(row.get(k) == value for k, value in key.items() if renew or k != "code")


def known_costs(content: Mapping[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """Return what a fold of a table has cost or would have, by table and contender."""
    costs = {}
    for row in content["rows"]:
        total = row["fit_cpu"] + row["predict_cpu"]
        reason = f"too slow: fold {row['fold']} took {total:.0f} s"
        found = {"made_by": row["made_by"], "seconds": total, "reason": reason}
        costs[row["case"], row["contender"]] = found
    skips = [skip for skip in content["skipped"] if "seconds" in skip]
    return costs | {(skip["case"], skip["contender"]): skip for skip in skips}


def is_too_slow(before: Mapping[str, Any], key: Mapping[str, Any], limit: float) -> bool:
    """Return whether another fold has shown that a contender would take too long."""
    return before.get("made_by") == key["made_by"] and before["seconds"] > limit


def attempt(
    contender: Contender, cell: Cell, options: argparse.Namespace
) -> tuple[str, dict[str, Any]]:
    """Return "rows" and a row, or "skipped" and the reason why there is none."""
    start = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            predictions, cost = contender.run(cell, options.threads, options.max_seconds_per_fit)
    except TooSlow as error:
        return "skipped", {"reason": f"too slow: {error}", "seconds": round(error.seconds)}
    except Exception as error:  # one that fails shall not stop the others
        text = str(error).strip().split("\n")[0][:300]
        return "skipped", {"reason": f"{type(error).__name__}: {text}"}
    return "rows", {
        **judged(cell, predictions),
        "fit_cpu": round(cost[0], 3),
        "predict_cpu": round(cost[1], 3),
        "wall": round(time.perf_counter() - start, 3),
        "n_train": len(cell.train),
        "n_test": len(cell.test),
        "threads": options.threads,
    }


# The whole -----------------------------------------------------------------------------------


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--quick", action="store_true", help="a made-up table: does it run?")
    add("--data", type=Path, default=os.environ.get("SK_MTL_DATA"), help="folder of tables")
    add("--table", action="append", help="a table of it (default: all)")
    add("--openml", type=int, nargs="+", default=[], help="data sets of openml.org, by number")
    add("--published", action="store_true", help="the splits that others published results for")
    add("--contender", action="append", help="a name, ours, ablations or peers")
    add("--again", action="append", default=[], help="measure this one again")
    add("--renew", action="store_true", help="measure again what other code of ours gave")
    add("--folds", type=int, nargs="+", help="which, from 0 on (default: all)")
    add("--threads", type=int, default=1, help="of every contender")
    add("--budget", type=float, default=float("inf"), help="seconds; what is begun is finished")
    add("--max-seconds-per-fit", type=float, default=float("inf"), help="of all tasks of a cell")
    add("--most-rows", type=int, default=MOST_ROWS, help="leave larger tables out")
    add("--report", action="store_true", help="measure nothing")
    add("--output", type=Path, default=RESULTS, help="folder of the file and the report")
    options = parser.parse_args(argv)
    if options.data is None and not (options.quick or options.openml or options.report):
        parser.error(
            "Got no folder of tables, expected one. Pass --data FOLDER or set SK_MTL_DATA."
        )
    return options


def names_of_tables(folder: Path) -> list[str]:
    """Return the tables of a folder, also of folders in it, without those that are left out."""
    found = sorted(path.parent.relative_to(folder).as_posix() for path in folder.rglob("meta.json"))
    return [name for name in found if name not in LEFT_OUT]


def read_all(options: argparse.Namespace) -> dict[str, Table]:
    """Return the tables that are asked for, the cheapest first."""
    if options.quick:
        return {"made up": made_up(as_it_comes=True)}
    tables = {f"openml {number}": from_openml(number, MOST_ROWS) for number in options.openml}
    if options.data is not None:
        folder = Path(options.data)
        for name in options.table or names_of_tables(folder):
            tables[name] = read_whole(folder, name, MOST_ROWS)
    tables = {name: t for name, t in tables.items() if len(t.X) <= options.most_rows}
    return dict(sorted(tables.items(), key=lambda item: item[1].X.size * item[1].Y.shape[1]))


def main(argv: Sequence[str] | None = None) -> None:
    options = arguments(sys.argv[1:] if argv is None else argv)
    use_threads(options.threads)
    logging.disable(logging.INFO)  # one of them says much
    wanted = chosen(options.contender, contenders(options.quick))
    tables, cells = {}, []
    if not options.report:
        if options.published:
            folds = options.folds or range(10)
            cells = list(published(Path(options.data), options.table, folds))
        else:
            folds, tables = options.folds or range(N_FOLDS), read_all(options)
            cells = [cell for name, t in tables.items() for cell in split(name, t, folds)]
    head = {
        "benchmark": NAME,
        "quick": options.quick,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
        "threads": options.threads,
        "settings": {
            "most_rows": MOST_ROWS,
            "folds": N_FOLDS,
            "ours": next(iter(OURS)),
            "ablations": list(ABLATIONS),
            "tables": {name: table.facts() for name, table in tables.items()},
        },
    }
    file = File(options.output / f"{NAME}.json", head)
    # The cheapest table first, and all tables before the next fold: what there is can be read.
    measure(file, sorted(cells, key=lambda cell: cell.fold), wanted, options)
    content = file.read()
    content["settings"] |= {k: v for k, v in head["settings"].items() if k != "tables"}
    print(write_report(content, options.output))


if __name__ == "__main__":
    main()
