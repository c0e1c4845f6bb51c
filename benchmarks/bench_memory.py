"""Peak memory of a fit on 1,000,000 x 50 float32 with 8 tasks.

Every case runs in a fresh process. The process imports everything and fits a tiny model first, so
that code and thread pools are not counted; it notes its resident memory, makes the data, fits for
one epoch, and reads the highest resident memory that it ever had. The difference is divided by
the size of X; the user's own X and Y are in it.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

from _harness import (
    ONE_NETWORK,
    Report,
    arguments,
    binary_tasks,
    clocked,
    seconds,
    table,
    use_threads,
)

N_FEATURES, N_TASKS, TARGET = 50, 8, 2.2
CASES: dict[str, dict[str, Any]] = {
    "fit, no validation": {"early_stopping": False},
    "fit, early_stopping='auto'": {"early_stopping": "auto"},
    "fit, a tenth of the labels missing": {"early_stopping": False, "missing": 0.1},
    "fit, the data alone": {"fit": False},
}


def resident() -> int:
    """Return the bytes of memory that the process holds now, or held at most without /proc."""
    return _status("VmRSS") or peak()


def peak() -> int:
    """Return the most bytes that the process ever held."""
    held = _status("VmHWM")  # ru_maxrss would count the parent from which we were forked
    if held:
        return held
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _status(field: str) -> int:
    path = Path("/proc/self/status")
    lines = path.read_text(encoding="ascii").splitlines() if path.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field)), 0)


def child(n_rows: int, threads: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Measure one case in this process."""
    import numpy as np

    from sk_mtl import MultiTaskClassifier

    use_threads(threads)
    warnings.simplefilter("ignore")
    settings = dict(settings)
    fitted, missing = settings.pop("fit", True), settings.pop("missing", 0.0)

    def model() -> MultiTaskClassifier:
        return MultiTaskClassifier(
            hidden_layer_sizes=(128, 64),
            max_iter=1,
            random_state=0,
            **ONE_NETWORK,
            **settings,
        )

    X, Y = binary_tasks(400, N_FEATURES, N_TASKS)
    model().fit(X, Y)
    before = resident()
    X, Y = binary_tasks(n_rows, N_FEATURES, N_TASKS)
    if missing:
        rng = np.random.default_rng(0)
        for column in Y.T:
            column[rng.integers(0, n_rows, int(missing * n_rows))] = np.nan
    cost = clocked(lambda: model().fit(X, Y)) if fitted else clocked(lambda: None)
    used = peak() - before
    return {"bytes": used, "x_bytes": X.nbytes, "y_bytes": Y.nbytes, "wall": cost.wall}


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(child(int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4]))))
        return
    options = arguments(__doc__, repeats=1)
    n_rows = 20_000 if options.quick else 1_000_000
    settings = {"n_rows": n_rows, "n_features": N_FEATURES, "n_tasks": N_TASKS}
    report = Report("memory", options, settings)
    cells = [["case", "peak", "of X", "target", "", "fit"]]
    for case, how in list(CASES.items())[: 1 if options.quick else None]:
        measured = max(
            (_measure(n_rows, options.threads, how) for _ in range(options.repeats)),
            key=lambda m: m["bytes"],
        )
        share = measured["bytes"] / measured["x_bytes"]
        target = None if how.get("fit") is False else TARGET
        met = None if target is None else share <= target
        row = {"case": case, "contender": "sk_mtl", "multiple_of_x": share}
        report.content["rows"].append(row | {"target": target, "met": met} | measured)
        cells.append(
            [
                case,
                f"{measured['bytes'] / 2**20:.0f} MiB",
                f"{share:.2f}",
                "" if target is None else f"<= {target}",
                {None: "", True: "met", False: "MISSED"}[met],
                seconds(measured["wall"]),
            ]
        )
    report.finish(table(cells))


def _measure(n_rows: int, threads: int, how: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", str(n_rows), str(threads), json.dumps(how)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


if __name__ == "__main__":
    main()
