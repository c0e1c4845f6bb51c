"""Import time of sk_mtl, beside that of what it stands on.

Each import runs in a Python process of its own, which prints how long it took; the interpreter's
start is not counted. What we add is the difference of the two: it holds our own modules and the
parts of scikit-learn, scipy and torch that only we ask for (listed under ``added`` in the JSON).
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial

from _harness import Cost, Report, arguments, interleaved

OURS, BASE = "import sk_mtl", "import torch, sklearn, skorch"
CHILD = """
import json, sys, time
before = set(sys.modules)
wall, cpu = time.perf_counter(), time.process_time()
{statement}
cost = [time.perf_counter() - wall, time.process_time() - cpu]
print(json.dumps({{"cost": cost, "modules": sorted(set(sys.modules) - before)}}))
"""


def child(statement: str) -> tuple[Cost, set[str]]:
    """Return what the statement costs in a fresh process, and the modules it brings."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD.format(statement=statement)],
        check=True,
        capture_output=True,
        text=True,
    )
    answer = json.loads(done.stdout)
    return Cost(*answer["cost"]), set(answer["modules"])


def main() -> None:
    options = arguments(__doc__, repeats=9)
    report = Report("import", options, {})
    modules: dict[str, set[str]] = {}

    def run(name: str) -> Cost:
        cost, modules[name] = child(name)
        return cost

    runs = {name: partial(run, name) for name in (OURS, BASE)}
    samples = interleaved(runs, options.repeats, warmup=0 if options.quick else 1)
    added = [
        Cost(ours.wall - base.wall, ours.cpu - base.cpu)
        for ours, base in zip(samples[OURS], samples[BASE], strict=True)
    ]
    counts = {name: len(found) for name, found in modules.items()}
    extra = modules[OURS] - modules[BASE]
    report.add(
        "import",
        samples | {"added by us": added},
        modules=counts | {"added by us": len(extra)},
    )
    report.ratio("import", OURS, BASE)
    packages = sorted({".".join(name.split(".")[:2]) for name in extra})
    report.content["added"] = packages
    report.finish()
    print(f"added: {', '.join(packages[:12])}{', ...' if len(packages) > 12 else ''}")


if __name__ == "__main__":
    main()
