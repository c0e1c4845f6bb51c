"""What every benchmark leans on: fair clocks, interleaved repeats, ratios, a table and a file.

Nothing here knows ``sk_mtl``. Imports of numpy, torch and friends wait until they are needed, so
that the import benchmark can use this module too.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("sk-mtl", "numpy", "scipy", "scikit-learn", "torch", "skorch")
PACKAGES += ("torch-rechub", "torchjd")  # what some are measured against
# With these parameters ours is one plain network, as that which it is measured against.
ONE_NETWORK: dict[str, Any] = {
    "scaling": None,
    "embedding": None,
    "input_scale_rate": 0.0,
    "linear_path": False,
    "dropout": 0.0,
    "n_members": 1,
    "ema_decay": 0.0,
    "learning_rate_init": 0.001,
}


@dataclass(frozen=True)
class Cost:
    """Seconds that something took: by the clock on the wall, and of the process on its CPUs."""

    wall: float
    cpu: float

    def per(self, n: int) -> Cost:
        """Return the cost of one of ``n`` equal parts."""
        return Cost(self.wall / n, self.cpu / n)


def clocked(function: Callable[[], Any], number: int = 1) -> Cost:
    """Return the cost of one call, the mean over ``number`` calls in a row."""
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(number):
        function()
    return Cost(time.perf_counter() - wall, time.process_time() - cpu).per(number)


class Laps:
    """Stamps at the end of every epoch; a lap is the time from one stamp to the next.

    The first epoch and whatever precedes it (checks, allocation, building the network) lie
    before the first stamp and count for nobody.
    """

    def __init__(self) -> None:
        self.stamps: list[tuple[float, float]] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> Laps:
        """Return itself: an estimator copies its callbacks, and we read the stamps here."""
        return self

    def tick(self) -> None:
        """Stamp the end of an epoch."""
        self.stamps.append((time.perf_counter(), time.process_time()))

    def cost(self) -> Cost:
        """Return the median lap."""
        pairs = list(zip(self.stamps, self.stamps[1:], strict=False))
        if not pairs:
            raise RuntimeError(
                f"Got {len(self.stamps)} stamps, expected at least 2: nobody called tick()."
            )
        return Cost(
            statistics.median(b[0] - a[0] for a, b in pairs),
            statistics.median(b[1] - a[1] for a, b in pairs),
        )


def interleaved(
    contenders: Mapping[str, Callable[[], Cost]], repeats: int, warmup: int = 1
) -> dict[str, list[Cost]]:
    """Measure A B C, A B C, ...: what else the machine does then meets all of them alike.

    Parameters
    ----------
    contenders : mapping of str to callable
        Each does its work once and returns what it cost.
    repeats : int
        Rounds that count.
    warmup : int, default=1
        Rounds before them that do not.

    Returns
    -------
    samples : dict of str to list of Cost
        One cost a round.
    """
    samples: dict[str, list[Cost]] = {name: [] for name in contenders}
    for round_ in range(warmup + repeats):
        for name, contender in contenders.items():
            cost = contender()
            if round_ >= warmup:
                samples[name].append(cost)
    return samples


class Report:
    """Collects rows and ratios of one benchmark, prints them, writes them as JSON.

    Parameters
    ----------
    name : str
        Stem of the file.
    options : argparse.Namespace
        From :func:`arguments`.
    settings : mapping
        Sizes and the like, kept beside the numbers.
    """

    def __init__(self, name: str, options: argparse.Namespace, settings: Mapping[str, Any]) -> None:
        self.name, self.options = name, options
        self.content: dict[str, Any] = {
            "benchmark": name,
            "quick": options.quick,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            "versions": versions(),
            "threads": options.threads,
            "settings": dict(settings),
            "rows": [],
            "ratios": [],
            "skipped": [],
        }
        self._samples: dict[tuple[str, str], list[Cost]] = {}

    def add(
        self, case: str, samples: Mapping[str, Sequence[Cost]], **extra: Mapping[str, Any]
    ) -> None:
        """Add the samples of all contenders of a case.

        Parameters
        ----------
        case : str
            What was measured.
        samples : mapping of str to sequence of Cost
            From :func:`interleaved`.
        **extra : mapping of str to value
            More about each contender, such as the training loss that it reached.
        """
        for contender, costs in samples.items():
            self._samples[case, contender] = list(costs)
            row = {"case": case, "contender": contender, "repeats": len(costs)}
            for clock in ("wall", "cpu"):
                row[clock] = spread([getattr(cost, clock) for cost in costs])
            row |= {key: values[contender] for key, values in extra.items()}
            self.content["rows"].append(row)

    def ratio(self, case: str, ours: str, against: str, target: float | None = None) -> None:
        """Compare two contenders of a case; a target is reported, never asserted."""
        a, b = self._samples[case, ours], self._samples[case, against]
        entry: dict[str, Any] = {"case": case, "ours": ours, "against": against}
        for clock in ("wall", "cpu"):
            mine, theirs = ([getattr(cost, clock) for cost in costs] for costs in (a, b))
            entry[clock] = _quotient(statistics.median(mine), statistics.median(theirs))
            pairs = [_quotient(m, t) for m, t in zip(mine, theirs, strict=True)]
            entry[f"{clock}_pairwise"] = statistics.median(pairs)
        # With one thread CPU time is what the work costs, whoever else is on the machine.
        clock = "cpu" if self.options.threads == 1 else "wall"
        entry |= {"target": target, "judged_by": f"{clock}_pairwise"}
        entry["met"] = None if target is None else entry[f"{clock}_pairwise"] <= target
        self.content["ratios"].append(entry)

    def skip(self, contender: str, reason: str) -> None:
        """Say why a contender is not there."""
        self.content["skipped"].append({"contender": contender, "reason": reason})

    def finish(self, rows: str | None = None) -> None:
        """Print the tables and write the file.

        Parameters
        ----------
        rows : str or None, default=None
            A table of the rows, for benchmarks whose rows are no times.
        """
        print(self._heading())
        print(rows or table(_row_cells(self.content["rows"])))
        if self.content["ratios"]:
            print()
            print(table(_ratio_cells(self.content["ratios"])))
        for skipped in self.content["skipped"]:
            print(f"skipped {skipped['contender']}: {skipped['reason']}")
        self.options.output.mkdir(parents=True, exist_ok=True)
        path = self.options.output / f"{self.name}.json"
        path.write_text(json.dumps(self.content, indent=1) + "\n", encoding="utf-8")
        print(f"\nwritten to {path}")

    def _heading(self) -> str:
        packages = ", ".join(f"{k} {v}" for k, v in self.content["versions"].items())
        cpu = self.content["machine"]
        quick = " (quick: a smoke test, its numbers mean nothing)" if self.options.quick else ""
        return (
            f"{self.name}{quick}\n{packages}\n{cpu['cpu']}, {cpu['cores']} cores, "
            f"{self.options.threads} thread(s)\n"
        )


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, smallest and largest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def _quotient(a: float, b: float) -> float:
    return a / b if b > 0 else float("nan")


def seconds(value: float) -> str:
    """Return a time with a fitting unit."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if abs(value) >= scale or unit == "µs":
            return f"{value / scale:.3g} {unit}"
    raise AssertionError


def table(cells: Sequence[Sequence[str]]) -> str:
    """Return rows of cells as aligned text, the first row underlined."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def _row_cells(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    known = ("case", "contender", "repeats", "wall", "cpu")
    extra = [key for key in rows[0] if key not in known] if rows else []
    cells = [["case", "contender", "wall", "min-max", "CPU", "min-max", *extra]]
    for row in rows:
        line = [row["case"], row["contender"]]
        for clock in ("wall", "cpu"):
            s = row[clock]
            line += [seconds(s["median"]), f"{seconds(s['min'])} - {seconds(s['max'])}"]
        cells.append(line + [_cell(row.get(key)) for key in extra])
    return cells


def _ratio_cells(ratios: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    cells = [["case", "ratio", "CPU", "pairwise", "wall", "pairwise", "target", ""]]
    for r in ratios:
        clocks = ("cpu", "cpu_pairwise", "wall", "wall_pairwise")
        target = "" if r["target"] is None else f"<= {r['target']:.2f}"
        verdict = {None: "", True: "met", False: "MISSED"}[r["met"]]
        numbers = [f"{r[clock]:.2f}" for clock in clocks]
        cells.append([r["case"], f"{r['ours']} / {r['against']}", *numbers, target, verdict])
    return cells


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)


def machine() -> dict[str, Any]:
    """Return what the numbers were measured on; no host name."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip()
            for line in info.read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ]
        cpu = names[0] if names else cpu
    return {"cpu": cpu, "cores": os.cpu_count(), "system": platform.system()}


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that take part."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def arguments(
    description: str | None, *, repeats: int, argv: Sequence[str] | None = None
) -> argparse.Namespace:
    """Read the command line that all benchmarks share.

    Parameters
    ----------
    description : str or None
        The script's docstring; its first line is shown by ``--help``.
    repeats : int
        Rounds unless the user asks for another number; ``--quick`` makes it one.
    argv : sequence of str or None, default=None
        Arguments; None for those of the process.
    """
    parser = argparse.ArgumentParser(description=(description or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run?")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch and BLAS")
    parser.add_argument("--repeats", type=int, default=None, help=f"rounds (default {repeats})")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for the JSON file")
    options = parser.parse_args(sys.argv[1:] if argv is None else argv)
    if options.repeats is None:
        options.repeats = 1 if options.quick else repeats
    return options


def use_threads(n: int) -> None:
    """Give torch, BLAS and OpenMP that many threads, for the rest of the process."""
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(n)
    threadpool_limits(limits=n)  # stays in force until undone


def binary_tasks(n_rows: int, n_features: int, n_tasks: int, seed: int = 0) -> tuple[Any, Any]:
    """Return float32 X and float32 Y of 0 and 1: related tasks with some noise.

    Y is made block by block: the memory benchmark wants no temporary array of any size.
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n_rows, n_features), dtype=np.float32)
    slopes = rng.standard_normal((n_features, n_tasks)) + rng.standard_normal((n_features, 1))
    Y = np.empty((n_rows, n_tasks), dtype=np.float32)
    for start in range(0, n_rows, 10_000):
        block = X[start : start + 10_000] @ slopes.astype(np.float32)
        noise = rng.standard_normal(block.shape, dtype=np.float32)
        Y[start : start + 10_000] = block + n_features**0.5 / 2 * noise > 0
    return X, Y
