"""A search over task weights: ours, GridSearchCV around our estimator, GridSearchCV around skorch.

5 folds, 20 features, float32, binary tasks, every epoch of every fit trained, no refit. One case
is the headline; the others change one thing of "base", but for two corners. "stacked, processes"
and both GridSearchCVs have one worker a core, each of one thread; "stacked, threads" is one
process whose torch has that many threads.

Every contender of a case has a process and workers of its own, so that none inherits another's
memory. All have imported everything and searched something tiny before a clock starts; then they
take turns. What it costs to start the workers is measured once, as "cold start".

A baseline that would take long is run with fewer candidates and its time multiplied; the file
says for every row how many fits were measured. Ours is always run in full.

Cases that the file already has, from the same machine and versions, are not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _harness import (
    ONE_NETWORK,
    RESULTS,
    Cost,
    Report,
    binary_tasks,
    interleaved,
    seconds,
    table,
    use_threads,
)
from _processes import POLL, Server, Watch
from joblib import Parallel, delayed
from joblib.externals.loky import get_reusable_executor
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, KFold
from skorch import NeuralNet
from torch import Tensor, nn
from torch.nn import functional as F

from sk_mtl import MultiTaskClassifier, VectorizedGridSearchCV

N_FEATURES, N_FOLDS, N_EXPERTS = 20, 5, 8
RATES = (3e-4, 1e-3, 3e-3, 1e-2)
STACKED, THREADED = "stacked, processes", "stacked, threads"
GRID, SKORCH = "GridSearchCV", "GridSearchCV, skorch"
CONTENDERS = (STACKED, THREADED, GRID, SKORCH)
MOST_OF_SKORCH = 24
COLD, WORKERS = "cold start", "joblib's workers"
FACTS = (
    *("fits", "measured_fits", "scaled_by", "score", "peak_bytes", "idle_bytes"),
    *("stack_size", "network_bytes", "bound_bytes"),
)


@dataclass(frozen=True)
class Case:
    """What is searched, and on which data.

    Attributes
    ----------
    candidates : int
        Candidates; each is fitted on every fold.
    rates : int
        Learning rates among them; the other candidates differ in task weights only.
    measured : int
        Candidates that the baselines are run with.
    rounds : int
        How often each contender is run.
    """

    candidates: int = 24
    n_rows: int = 5000
    n_tasks: int = 3
    hidden: tuple[int, ...] = (64, 32)
    batch_size: int = 64
    trunk: str = "shared_bottom"
    epochs: int = 6
    rates: int = 1
    measured: int = 6
    rounds: int = 2


CASES = {
    "headline": Case(candidates=96, n_tasks=4, epochs=30, measured=96, rounds=1),
    "base": Case(),
    "96 candidates": Case(candidates=96),
    "4 learning rates": Case(rates=4, measured=8),
    "1000 rows": Case(n_rows=1000, measured=24),
    "20000 rows": Case(n_rows=20_000, epochs=3),
    "8 tasks": Case(n_tasks=8),
    "batch 256": Case(batch_size=256),
    "hidden (256, 128)": Case(hidden=(256, 128), epochs=4),
    "mmoe": Case(trunk="mmoe", epochs=4),
    "all small": Case(candidates=96, n_rows=1000, batch_size=256, measured=24),
    "all large": Case(24, 20_000, 8, (256, 128), 256, "mmoe", epochs=1, rounds=1),
}
TINY = Case(4, 120, 2, (8,), 40, epochs=2, measured=2, rounds=1)
QUICK_CASES = {"headline": TINY}


# What a user would write ------------------------------------------------------------------


class SharedBottom(nn.Module):
    """A perceptron that all tasks share, and a linear head a task.

    Parameters
    ----------
    hidden : sequence of int
        Layers of the perceptron.
    n_tasks : int
        Heads.
    """

    def __init__(self, hidden: Sequence[int], n_tasks: int) -> None:
        super().__init__()
        self.body = perceptron(hidden)
        self.heads = nn.ModuleList(nn.Linear(hidden[-1], 1) for _ in range(n_tasks))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of shape (batch, task)."""
        shared = self.body(x)
        return torch.cat([head(shared) for head in self.heads], dim=1)


class Mixture(nn.Module):
    """MMoE as it is commonly written: lists of modules, a gate and a linear head a task.

    Parameters
    ----------
    hidden : sequence of int
        Layers of an expert.
    n_tasks : int
        Gates and heads.
    """

    def __init__(self, hidden: Sequence[int], n_tasks: int) -> None:
        super().__init__()
        self.experts = nn.ModuleList(perceptron(hidden) for _ in range(N_EXPERTS))
        self.gates = nn.ModuleList(nn.Linear(N_FEATURES, N_EXPERTS) for _ in range(n_tasks))
        self.heads = nn.ModuleList(nn.Linear(hidden[-1], 1) for _ in range(n_tasks))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of shape (batch, task)."""
        experts = torch.stack([expert(x) for expert in self.experts], dim=1)
        logits = []
        for gate, head in zip(self.gates, self.heads, strict=True):
            mixed = torch.einsum("be,bed->bd", gate(x).softmax(dim=1), experts)
            logits.append(head(mixed))
        return torch.cat(logits, dim=1)


def perceptron(hidden: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n_in, n_out in zip((N_FEATURES, *hidden), hidden, strict=False):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*layers)


class WeightedNet(NeuralNet):
    """A skorch net whose loss is the weighted sum of the tasks' losses.

    Parameters
    ----------
    *args, **kwargs
        As of ``NeuralNet``.
    task_weights : sequence of float or None, default=None
        One a task; None for ones.
    """

    def __init__(self, *args: Any, task_weights: Any = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.task_weights = task_weights

    def get_loss(self, y_pred: Any, y_true: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Return the loss of a batch."""
        losses = F.binary_cross_entropy_with_logits(y_pred, y_true, reduction="none").mean(dim=0)
        return losses.sum() if self.task_weights is None else losses @ Tensor(self.task_weights)


def mean_accuracy(net: NeuralNet, X: Any, Y: Any) -> float:
    """Return the accuracy, averaged over tasks."""
    return float(np.mean((net.predict(X) > 0) == Y))


# The searches -----------------------------------------------------------------------------


def weights_of(case: Case) -> list[tuple[float, ...]]:
    """Return the task weights of a case; they add up to about one."""
    draws = np.random.default_rng(1).dirichlet(
        np.ones(case.n_tasks), size=case.candidates // case.rates
    )
    return [tuple(row) for row in draws.round(3).tolist()]


def ours(case: Case) -> MultiTaskClassifier:
    return MultiTaskClassifier(
        case.trunk,
        hidden_layer_sizes=case.hidden,
        batch_size=case.batch_size,
        max_iter=case.epochs,
        tol=0.0,
        n_iter_no_change=case.epochs + 1,
        early_stopping=False,
        random_state=0,
        **ONE_NETWORK,
    )


def skorch_net(case: Case) -> WeightedNet:
    return WeightedNet(
        SharedBottom if case.trunk == "shared_bottom" else Mixture,
        module__hidden=case.hidden,
        module__n_tasks=case.n_tasks,
        criterion=nn.BCEWithLogitsLoss,  # skorch wants one; get_loss does its work
        predict_nonlinearity=None,
        optimizer=torch.optim.Adam,
        lr=1e-3,
        batch_size=case.batch_size,
        max_epochs=case.epochs,
        iterator_train__shuffle=True,
        train_split=None,
        verbose=0,
    )


def search_of(contender: str, case: Case, candidates: int, n_jobs: int) -> GridSearchCV:
    """Return a search that was not run yet, over the first candidates of a case."""
    grid: dict[str, Any] = {"task_weights": weights_of(case)[: candidates // case.rates]}
    if case.rates > 1:
        name = "lr" if contender == SKORCH else "learning_rate_init"
        grid[name] = RATES[: case.rates]
    options: dict[str, Any] = {"cv": KFold(N_FOLDS), "refit": False, "error_score": "raise"}
    if contender == SKORCH:
        return GridSearchCV(skorch_net(case), grid, scoring=mean_accuracy, n_jobs=n_jobs, **options)
    if contender == GRID:
        return GridSearchCV(ours(case), grid, n_jobs=n_jobs, **options)
    jobs = n_jobs if contender == STACKED else None
    return VectorizedGridSearchCV(ours(case), grid, n_jobs=jobs, **options)


def data_of(contender: str, case: Case) -> tuple[Any, Any]:
    X, Y = binary_tasks(case.n_rows, N_FEATURES, case.n_tasks)
    return X, Y if contender == SKORCH else Y.astype(int)


def facts_of(search: GridSearchCV, case: Case) -> dict[str, Any]:
    """Return what a search that was run says of itself.

    The score is the mean over the candidates that all contenders were run with: it shows that
    they did the same.
    """
    results = search.cv_results_
    fewest = min(case.measured, MOST_OF_SKORCH)
    common = set(weights_of(case)[: fewest // case.rates])
    scores = zip(results["params"], results["mean_test_score"], strict=True)
    facts: dict[str, Any] = dict.fromkeys(FACTS)
    facts["fits"] = case.candidates * N_FOLDS
    facts["measured_fits"] = len(results["params"]) * N_FOLDS
    facts["scaled_by"] = facts["fits"] / facts["measured_fits"]
    facts["score"] = float(np.mean([s for p, s in scores if p["task_weights"] in common]))
    report = getattr(search, "search_report_", None)
    if report is not None:
        facts["stack_size"] = max(report["stack_size"])
        facts["network_bytes"] = max(report["network_bytes"])
        each = zip(report["stack_size"], report["network_bytes"], strict=True)
        workers = search.n_jobs or 1
        facts["bound_bytes"] = workers * max(size * n_bytes for size, n_bytes in each)
    return facts


# One process a contender ------------------------------------------------------------------


def warm_up(n_jobs: int) -> int:
    """Start joblib's workers unless they live, have them import this; return torch's threads."""
    seen: dict[int, int] = {}
    while len(seen) < n_jobs:
        parallel = Parallel(n_jobs=n_jobs, batch_size=1, pre_dispatch="all")
        seen = dict(parallel(delayed(_report_in)() for _ in range(2 * n_jobs)))
    return max(seen.values())


def _report_in() -> tuple[int, int]:
    time.sleep(0.1)  # or one worker could do them all
    return os.getpid(), torch.get_num_threads()


def command(contender: str, case: Case, n_jobs: int) -> list[str]:
    """Return what starts the process of a contender."""
    return [sys.executable, __file__, "--serve", json.dumps([contender, asdict(case), n_jobs])]


def serve(contender: str, case: Case, n_jobs: int) -> None:
    """Run a search for every line that comes in; answer each with a line of JSON."""
    replies, sys.stdout = sys.stdout, sys.stderr
    warnings.simplefilter("ignore", ConvergenceWarning)
    use_threads(n_jobs)
    answer: dict[str, Any] = {}
    has_workers = contender != THREADED and n_jobs > 1
    if has_workers:
        with Watch() as watch:
            answer["threads"] = warm_up(n_jobs)
        answer["cost"] = asdict(watch.cost)
    tiny = replace(TINY, trunk=case.trunk)
    search_of(contender, tiny, tiny.candidates, n_jobs).fit(*data_of(contender, tiny))
    candidates = case.measured if contender in (GRID, SKORCH) else case.candidates
    if contender == SKORCH:  # by far the slowest
        candidates = min(candidates, MOST_OF_SKORCH)
    X, Y = data_of(contender, case)
    print(json.dumps(answer), file=replies, flush=True)
    for _ in sys.stdin:
        search = search_of(contender, case, candidates, n_jobs)
        if has_workers:
            warm_up(n_jobs)  # idle ones end after five minutes
        with Watch() as watch:
            search.fit(X, Y)
        memory = {"peak_bytes": watch.peak or None, "idle_bytes": watch.idle or None}
        answer = {"cost": asdict(watch.cost), "facts": facts_of(search, case) | memory}
        print(json.dumps(answer), file=replies, flush=True)
    if has_workers:  # to wait for their own ends takes seconds
        get_reusable_executor(reuse=True).shutdown(kill_workers=True)


def measure(report: Report, key: str, case: Case, n_jobs: int, rounds: int) -> None:
    """Add a case to the report."""
    facts: dict[str, dict[str, Any]] = {}

    def run(name: str) -> Cost:
        found = servers[name].ask()
        # Memory is that of the first run: later ones start with what it did not give back.
        facts.setdefault(name, found["facts"])
        return scaled(Cost(**found["cost"]), found["facts"]["scaled_by"])

    with ExitStack() as stack:
        servers = {
            name: stack.enter_context(Server(name, command(name, case, n_jobs)))
            for name in CONTENDERS
        }
        for server in servers.values():
            server.answer()
        runs = {name: partial(run, name) for name in CONTENDERS}
        samples = interleaved(runs, rounds, warmup=0)
        for server in servers.values():
            server.dismiss()
    report.add(key, samples, **{fact: {n: facts[n][fact] for n in CONTENDERS} for fact in FACTS})
    for name in (STACKED, THREADED):
        for against in (GRID, SKORCH):
            report.ratio(key, name, against)


def scaled(cost: Cost, factor: float) -> Cost:
    """Return the cost of that many times the fits."""
    return Cost(cost.wall * factor, cost.cpu * factor)


def measure_cold_start(report: Report, n_jobs: int) -> None:
    """Add what it costs to start the workers, and to import everything there."""
    if n_jobs == 1:
        report.skip(COLD, "one worker is the process itself")
        return
    with Server(WORKERS, command(GRID, TINY, n_jobs)) as server:
        found = server.answer()
    report.content["settings"]["threads_of_a_worker"] = found["threads"]
    nothing = {fact: {WORKERS: None} for fact in FACTS}
    report.add(COLD, {WORKERS: [Cost(**found["cost"])]}, **nothing)


# The whole --------------------------------------------------------------------------------


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line: the harness's, and which cases to run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run?")
    parser.add_argument(
        "--threads", type=int, default=None, help="workers, or threads (default: all cores)"
    )
    parser.add_argument("--repeats", type=int, default=None, help="rounds (default: 1 or 2)")
    parser.add_argument("--output", "--out", type=Path, default=RESULTS, help="folder of the file")
    parser.add_argument("--only", action="append", choices=[*CASES, COLD], help="run this case")
    parser.add_argument("--fresh", action="store_true", help="measure again what the file has")
    options = parser.parse_args(argv)
    if options.threads is None:  # starting workers takes longer than anything that is quick
        options.threads = 1 if options.quick else os.cpu_count() or 1
    return options


def keep(report: Report, path: Path, cases: Mapping[str, Case], again: Sequence[str]) -> list[str]:
    """Put the cases that a file has into the report, and return them.

    A case is taken over if it was measured here, by the same machine and versions, and as it is
    defined now; not those that are to be measured again.
    """
    if not path.exists():
        return []
    old = json.loads(path.read_text(encoding="utf-8"))
    for key in ("quick", "machine", "versions", "threads"):
        if old[key] != report.content[key]:
            print(f"{path} is of another run ({key} differ): all is measured anew")
            return []
    settings, before = report.content["settings"], old["settings"]
    same = [key for key in cases if before["cases"].get(key) == settings["cases"][key]]
    there = {row["case"] for row in old["rows"]}
    kept = [key for key in [*same, COLD] if key in there and key not in again]
    if COLD in kept:
        settings["threads_of_a_worker"] = before["threads_of_a_worker"]
    for part in ("rows", "ratios"):
        report.content[part] += [entry for entry in old[part] if entry["case"] in kept]
    return kept


def save(report: Report, path: Path, order: Sequence[str]) -> None:
    """Write the cases that are there: the next run goes on from here."""
    for part in ("rows", "ratios"):
        report.content[part].sort(key=lambda entry: order.index(entry["case"]))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report.content, indent=1) + "\n", encoding="utf-8")


def cells(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return the table of all rows; a time with a star was multiplied."""
    head = ["case", "contender", "wall", "min-max", "CPU", "fits", "memory", "of it for this"]
    lines = [[*head, "a stack", "score"]]
    for row in rows:
        wall, star = row["wall"], " *" if (row["scaled_by"] or 1) > 1 else ""
        times = [seconds(wall["median"]) + star, f"{seconds(wall['min'])} - {seconds(wall['max'])}"]
        line = [row["case"], row["contender"], *times, seconds(row["cpu"]["median"]) + star]
        line.append("" if row["fits"] is None else f"{row['measured_fits']} of {row['fits']}")
        line += [mib(row["peak_bytes"]), mib(row["peak_bytes"], row["idle_bytes"])]
        size, network = row["stack_size"], row["network_bytes"]
        line.append("" if size is None else f"{size} x {mib(network)}")
        line.append("" if row["score"] is None else f"{row['score']:.4f}")
        lines.append(line)
    return lines


def mib(n_bytes: int | None, less: int | None = 0) -> str:
    """Return megabytes; nothing where they are not known."""
    return "" if n_bytes is None or less is None else f"{(n_bytes - less) / 2**20:.3g} MiB"


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["--serve"]:
        contender, case, n_jobs = json.loads(argv[1])
        serve(contender, Case(**case | {"hidden": tuple(case["hidden"])}), n_jobs)
        return
    options = arguments(argv)
    cases = QUICK_CASES if options.quick else CASES
    settings = {
        "folds": N_FOLDS,
        "n_features": N_FEATURES,
        "experts": N_EXPERTS,
        "learning_rates": list(RATES),
        "seconds_between_looks_at_memory": POLL,
        "cases": {key: asdict(case) | {"hidden": [*case.hidden]} for key, case in cases.items()},
    }
    report = Report("search", options, settings)
    path = options.output / "search.json"
    wanted = [key for key in [*cases, COLD] if not options.only or key in options.only]
    done = keep(report, path, cases, again=wanted if options.fresh else [])
    for key in wanted:
        if key in done:
            continue
        start = time.perf_counter()
        if key == COLD:
            measure_cold_start(report, options.threads)
        else:
            case = cases[key]
            measure(report, key, case, options.threads, options.repeats or case.rounds)
        save(report, path, [*cases, COLD])
        print(f"{key}: {seconds(time.perf_counter() - start)}", flush=True)
    report.finish(table(cells(report.content["rows"])))


if __name__ == "__main__":
    import bench_search  # under its own name, so that workers import its parts from there

    bench_search.main()
