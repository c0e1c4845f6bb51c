"""What is measured cell by cell, and until when: who, on which tables, what the file lacks."""

from __future__ import annotations

import argparse
import hashlib
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from _cells import (
    Cell,
    Cost,
    OneTask,
    Predictions,
    TooSlow,
    run_ours,
    run_peer,
    run_peer_of_all,
    run_pooled,
)
from _harness import RESULTS
from _peers import Peer
from _results_file import File, is_same, place
from _tables import Table, made_up, read_whole

MOST_ROWS = 10_000
LEFT_OUT = ("toxcast", "qm8")  # nothing was chosen by these
Outcome = tuple[str, dict[str, Any]]  # "rows" and a row, "skipped" and why there is none


# Contenders ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Contender:
    """Somebody who is measured: a peer, or ours with some parameters, of all tasks or of each."""

    name: str
    peer: Peer | None
    parameters: Mapping[str, Any]
    one_a_task: bool = False

    def known_by(self) -> dict[str, Any]:
        """Return ``made_by``, what results hang on, None if not installed; and ours' ``code``."""
        if self.peer is not None:
            return {"made_by": self.peer.made_by()}
        found = f"sk-mtl {own('version')}, torch {version('torch')} {dict(self.parameters)}"
        found += " one a task" * self.one_a_task
        return {"made_by": found, "code": own("code")}

    def run(self, cell: Cell, threads: int, limit: float) -> tuple[Predictions, Cost]:
        """Return predictions, and the seconds of fit and predict."""
        if self.one_a_task:
            return run_peer(OneTask(self.parameters), cell, threads, limit)
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


# Measuring -----------------------------------------------------------------------------------


def measure(
    file: File,
    pairs: Sequence[tuple[Cell, Contender]],
    options: argparse.Namespace,
    attempt: Callable[[Contender, Cell, argparse.Namespace], Outcome],
    warm_up: Cell,
) -> None:
    """Measure what the file does not have, one after the other, until the time is up.

    Parameters
    ----------
    file : File
        What there is, and where what is found is put.
    pairs : sequence of (Cell, Contender)
        Who may be measured on what.
    options : argparse.Namespace
        From :func:`options_of_all`.
    attempt : callable
        Measures one: (contender, cell, options) -> ("rows", row) or ("skipped", reason).
    warm_up : Cell
        What everyone is fitted to before it counts: what is imported late is no cost of a fit.
    """
    start, content = time.perf_counter(), file.read()
    slow = known_costs(content)
    warm: set[str] = set()
    for cell, contender, key in missing(content, pairs, options):
        if time.perf_counter() - start > options.budget:
            print(f"stopped after {options.budget:.0f} s, as asked for", flush=True)
            return
        before = slow.get((cell.case, contender.name, cell.protocol), {})
        kind, entry = "skipped", dict[str, Any]()
        if key["made_by"] is None:
            entry = {"reason": "not installed"}
        elif is_too_slow(before, key, options.max_seconds_per_fit):
            entry = {k: before[k] for k in ("reason", "seconds")}
        else:
            if contender.name not in warm:
                attempt(contender, warm_up, options)
                warm.add(contender.name)
            kind, entry = attempt(contender, cell, options)
        where = {"case": cell.case, "fold": cell.fold, "contender": contender.name}
        entry = where | key | {"protocol": cell.protocol} | entry
        file.add(kind, entry)
        slow |= known_costs({"rows": [], "skipped": [], kind: [entry]})
        told = [cell.case, cell.fold, contender.name]
        told += [] if cell.protocol == "folds" else [cell.protocol]
        told += [entry.get("reason", entry.get("score", ""))]
        print(*told, f"{entry['fit_cpu']} s" if kind == "rows" else "", flush=True)


def missing(
    content: Mapping[str, Any],
    pairs: Iterable[tuple[Cell, Contender]],
    options: argparse.Namespace,
) -> Iterator[tuple[Cell, Contender, dict[str, Any]]]:
    """Yield what there is no row of, and by what its row will be known.

    Rows of contenders that are not installed here stay as they are.
    """
    rows = {place(row): row for row in content["rows"]}
    for cell, contender in pairs:
        row = rows.get((cell.case, cell.fold, contender.name, cell.protocol))
        key = contender.known_by() | {"cell": cell.known_by()}
        kept = row is not None and contender.name not in options.again
        absent = key["made_by"] is None
        if not (kept and (absent or is_same(row or {}, key, options.renew))):
            yield cell, contender, key


def known_costs(content: Mapping[str, Any]) -> dict[tuple[str, ...], dict[str, Any]]:
    """Return what a fold of a table has cost or would have: by table, contender and protocol."""
    costs = {}
    for row in content["rows"]:
        total = row["fit_cpu"] + row["predict_cpu"]
        reason = f"too slow: fold {row['fold']} took {total:.0f} s"
        found = {"made_by": row["made_by"], "seconds": total, "reason": reason}
        costs[row["case"], row["contender"], row.get("protocol", "folds")] = found
    skips = [skip for skip in content["skipped"] if "seconds" in skip]
    return costs | {(s["case"], s["contender"], s.get("protocol", "folds")): s for s in skips}


def is_too_slow(before: Mapping[str, Any], key: Mapping[str, Any], limit: float) -> bool:
    """Return whether another fold has shown that a contender would take too long."""
    return bool(before.get("made_by") == key["made_by"] and before["seconds"] > limit)


def tried(step: Callable[[], tuple[dict[str, Any], Cost]], cell: Cell, threads: int) -> Outcome:
    """Return "rows" and a row, or "skipped" and the reason why there is none.

    Parameters
    ----------
    step : callable
        Returns what it found, and the seconds of fit and predict.
    cell : Cell
        On which.
    threads : int
        With how many.
    """
    start = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found, cost = step()
    except TooSlow as error:
        return "skipped", {"reason": f"too slow: {error}", "seconds": round(error.seconds)}
    except Exception as error:  # one that fails shall not stop the others
        text = str(error).strip().split("\n")[0][:300]
        return "skipped", {"reason": f"{type(error).__name__}: {text}"}
    return "rows", {
        **found,
        "fit_cpu": round(cost[0], 3),
        "predict_cpu": round(cost[1], 3),
        "wall": round(time.perf_counter() - start, 3),
        "n_train": len(cell.train),
        "n_test": len(cell.test),
        "threads": threads,
    }


# The command line ----------------------------------------------------------------------------


def options_of_all(description: str | None) -> argparse.ArgumentParser:
    """Return a parser of what all benchmarks that are measured cell by cell can be asked."""
    parser = argparse.ArgumentParser(description=(description or "").split("\n")[0])
    add = parser.add_argument
    add("--quick", action="store_true", help="a made-up table: does it run?")
    add("--data", type=Path, default=os.environ.get("SK_MTL_DATA"), help="folder of tables")
    add("--again", action="append", default=[], help="measure this contender again")
    add("--renew", action="store_true", help="measure again what other code of ours gave")
    add("--folds", type=int, nargs="+", help="which, from 0 on (default: all)")
    add("--threads", type=int, default=1, help="of every contender")
    add("--budget", type=float, default=float("inf"), help="seconds; what is begun is finished")
    add("--max-seconds-per-fit", type=float, default=float("inf"), help="of all tasks of a cell")
    add("--most-rows", type=int, default=MOST_ROWS, help="leave larger tables out")
    add("--report", action="store_true", help="measure nothing")
    add("--output", type=Path, default=RESULTS, help="folder of the file and the report")
    return parser


def names_of_tables(folder: Path) -> list[str]:
    """Return the tables of a folder, also of folders in it, without those that are left out."""
    found = sorted(path.parent.relative_to(folder).as_posix() for path in folder.rglob("meta.json"))
    return [name for name in found if name not in LEFT_OUT]


def tables_of(options: argparse.Namespace) -> dict[str, Table]:
    """Return the tables of the folder that are asked for, as they come."""
    if options.quick:
        return {"made up": made_up(as_it_comes=True)}
    if options.data is None:
        return {}
    folder = Path(options.data)
    names = options.table or names_of_tables(folder)
    return {name: read_whole(folder, name, MOST_ROWS) for name in names}


def cheapest_first(tables: Mapping[str, Table], most_rows: int) -> dict[str, Table]:
    """Return tables by their size, without those that have too many rows."""
    small = {name: table for name, table in tables.items() if len(table.X) <= most_rows}
    return dict(sorted(small.items(), key=lambda item: item[1].X.size * item[1].Y.shape[1]))
