"""An epoch under every weighting of ours, and under torchjd's methods in a loop of its own.

10,000 rows, 50 features, 8 binary tasks, a shared bottom of hidden layers (128, 64), float32,
fused Adam; batches of 200 and 64. All train the same network on the same rows, shuffled in every
epoch, and are timed as in ``bench_epoch``. Some of the methods that look at gradients are also run
on those of the shared features (``RepresentationGradients``): "mgda of features" and so on.

torchjd's loops are what its documentation shows, written with care: for methods that look at
gradients ``mtl_backward`` with a linear head a task and the parameters named, so that it need not
look for them, and ``jac_to_grad``; for methods that look at losses its scalarizers, with one head
for all tasks. Other ways were tried and are no faster: one head under ``mtl_backward``, its
``autogram`` engine.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import Any

import torch
from _harness import (
    ONE_NETWORK,
    Cost,
    Laps,
    Report,
    arguments,
    binary_tasks,
    interleaved,
    use_threads,
)
from bench_epoch import HIDDEN, N_TASKS, EpochClock
from sklearn.exceptions import ConvergenceWarning
from torch import nn
from torch.nn import functional as F

from sk_mtl import MultiTaskClassifier
from sk_mtl.weighting import WEIGHTINGS, RepresentationGradients

N_FEATURES = 50
BASE = "static"
OF_STATIC, OF_TORCHJD = 2.5, 0.6  # what is promised, as shares, for
PROMISED = ("pcgrad", "mgda", "upgrad", "cagrad")  # with respect to parameters, and to features
# torchjd's counterparts of ours, by the names of its classes.
SCALARIZERS: dict[str, tuple[str, dict[str, Any]]] = {
    BASE: ("Mean", {}),
    "uncertainty": ("UW", {"shape": N_TASKS}),
    "dwa": ("DWA", {}),
    "random": ("Random", {}),
    "geometric_mean": ("GeometricMean", {}),
    "stch": ("STCH", {"mu": 1.0}),
    "famo": ("FAMO", {"shape": N_TASKS}),
    "imtl_l": ("IMTLL", {"shape": N_TASKS}),
}
AGGREGATORS: dict[str, tuple[str, dict[str, Any]]] = {
    "pcgrad": ("PCGrad", {}),
    "gradvac": ("GradVac", {}),
    "cagrad": ("CAGrad", {"c": 0.4}),
    "mgda": ("MGDA", {}),
    "imtl_g": ("IMTLG", {}),
    "aligned_mtl": ("AlignedMTL", {}),
    "graddrop": ("GradDrop", {}),
    "nash_mtl": ("NashMTL", {"n_tasks": N_TASKS}),
    "fairgrad": ("FairGrad", {"alpha": 2.0}),
    "upgrad": ("UPGrad", {}),
    "dualproj": ("DualProj", {}),
    "config": ("ConFIG", {}),
    "excess_mtl": ("ExcessMTL", {}),
}
Run = Callable[[Any, Any, int, int], tuple[Cost, float]]


def ours(weighting: Any, X: Any, Y: Any, batch_size: int, epochs: int) -> tuple[Cost, float]:
    """Return what an epoch costs, and the mean of the tasks' losses in the last one."""
    laps = Laps()
    model = MultiTaskClassifier(
        hidden_layer_sizes=HIDDEN,
        weighting=weighting,
        batch_size=batch_size,
        max_iter=epochs,
        early_stopping=False,
        n_iter_no_change=epochs + 1,
        random_state=0,
        callbacks=[EpochClock(laps)],
        **ONE_NETWORK,
    ).fit(X, Y)
    assert model.n_iter_ == epochs
    return laps.cost(), float(model.task_loss_curves_[-1].mean())


# What a user of torchjd would write -------------------------------------------------------


def body() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(N_FEATURES, HIDDEN[0]),
        nn.ReLU(),
        nn.Linear(HIDDEN[0], HIDDEN[1]),
        nn.ReLU(),
    )


def by_gradients(
    aggregator: Any, X: Any, Y: Any, batch_size: int, epochs: int
) -> tuple[Cost, float]:
    """Train by Jacobian descent of the shared part, each head by its task's loss."""
    from torchjd.autojac import jac_to_grad, mtl_backward

    torch.manual_seed(0)
    X, Y = torch.from_numpy(X), torch.from_numpy(Y)
    shared = body()
    heads = nn.ModuleList(nn.Linear(HIDDEN[-1], 1) for _ in range(N_TASKS))
    shared_params = list(shared.parameters())
    tasks_params = [list(head.parameters()) for head in heads]
    optimizer = torch.optim.Adam([*shared_params, *heads.parameters()], lr=1e-3, fused=True)
    criterion = nn.BCEWithLogitsLoss()
    laps = Laps()
    for _ in range(epochs):
        total = torch.zeros(())
        for rows in torch.randperm(len(X)).split(batch_size):
            features = shared(X[rows])
            pairs = zip(heads, Y[rows].T, strict=True)
            losses = [criterion(head(features).squeeze(1), y) for head, y in pairs]
            optimizer.zero_grad()
            mtl_backward(
                losses, features=features, tasks_params=tasks_params, shared_params=shared_params
            )
            jac_to_grad(shared_params, aggregator)
            optimizer.step()
            total += torch.stack(losses).detach().mean() * len(rows)
        laps.tick()
    return laps.cost(), total.item() / len(X)


def by_losses(scalarizer: Any, X: Any, Y: Any, batch_size: int, epochs: int) -> tuple[Cost, float]:
    """Train by one number made of the losses."""
    torch.manual_seed(0)
    X, Y = torch.from_numpy(X), torch.from_numpy(Y)
    net = nn.Sequential(body(), nn.Linear(HIDDEN[-1], N_TASKS))
    optimizer = torch.optim.Adam([*net.parameters(), *scalarizer.parameters()], lr=1e-3, fused=True)
    laps = Laps()

    def losses_of(rows: Any) -> Any:
        cells = F.binary_cross_entropy_with_logits(net(X[rows]), Y[rows], reduction="none")
        return cells.mean(dim=0)

    for _ in range(epochs):
        total = torch.zeros(())
        for rows in torch.randperm(len(X)).split(batch_size):
            losses = losses_of(rows)
            optimizer.zero_grad()
            scalarizer(losses).backward()
            optimizer.step()
            if hasattr(scalarizer, "update"):  # FAMO looks at the batch again
                with torch.no_grad():
                    scalarizer.update(losses_of(rows))
            total += losses.detach().mean() * len(rows)
        if hasattr(scalarizer, "step"):
            scalarizer.step()
        laps.tick()
    return laps.cost(), total.item() / len(X)


# The whole --------------------------------------------------------------------------------


def counterpart(key: str) -> tuple[str, Run] | None:
    """Return the name of torchjd's method and what trains with it; None where it has none.

    Raises
    ------
    ImportError
        If the method, or torchjd itself, needs packages that are not installed.
    """
    if key in SCALARIZERS:
        from torchjd import scalarization as family

        way, (name, parameters) = by_losses, SCALARIZERS[key]
    elif key in AGGREGATORS:
        from torchjd import aggregation as family

        way, (name, parameters) = by_gradients, AGGREGATORS[key]
    else:
        return None
    make = partial(getattr(family, name), **parameters)
    make()  # tells now what is not installed
    # A new one every fit: some remember.
    return f"torchjd {name}", lambda *data: way(make(), *data)


def of_features(key: str) -> str:
    """Return the name of a weighting where it looks at the gradients of the features."""
    return f"{key} of features"


def contenders(report: Report) -> tuple[dict[str, Run], dict[str, str]]:
    """Return everyone by name, each of ours before its counterpart, and who is whose."""
    runs: dict[str, Run] = {}
    counterparts: dict[str, str] = {}
    for key, weighting in WEIGHTINGS.items():
        if weighting.of == "features":
            continue  # it is one of those below
        mine = [key]
        runs[key] = partial(ours, key)
        if key in PROMISED:
            mine.append(of_features(key))
            runs[mine[-1]] = partial(ours, RepresentationGradients(key))
        try:
            found = counterpart(key)
        except ImportError as error:
            report.skip(f"torchjd's {key}", str(error))
            continue
        if found:
            name, runs[found[0]] = found
            counterparts |= dict.fromkeys(mine, name)
    return runs, counterparts


def add_ratios(report: Report, case: str, runs: list[str], counterparts: dict[str, str]) -> None:
    """Compare each of ours with the static weights, and with its counterpart."""
    promised = {name for key in PROMISED for name in (key, of_features(key))}
    for name in runs:
        if name in counterparts.values():
            continue
        if name != BASE:
            report.ratio(case, name, BASE, OF_STATIC if name in promised else None)
        if name in counterparts:
            target = OF_TORCHJD if name in promised else None
            report.ratio(case, name, counterparts[name], target)


def main() -> None:
    options = arguments(__doc__, repeats=5)
    use_threads(options.threads)
    warnings.simplefilter("ignore", ConvergenceWarning)
    n_rows, batches, epochs = 10_000, [200, 64], 4
    if options.quick:
        n_rows, batches, epochs = 400, [200], 2
    X, Y = binary_tasks(n_rows, N_FEATURES, N_TASKS)
    settings = {"n_rows": n_rows, "n_features": N_FEATURES, "n_tasks": N_TASKS, "hidden": HIDDEN}
    report = Report("weighting", options, settings | {"epochs_a_fit": epochs})
    runs, counterparts = contenders(report)
    if counterparts:
        report.content["versions"]["torchjd"] = version("torchjd")
    for batch_size in batches:
        losses: dict[str, float] = {}

        def measured(name: str, batch_size: int = batch_size, losses: Any = losses) -> Cost:
            cost, losses[name] = runs[name](X, Y, batch_size, epochs)
            return cost

        samples = interleaved({name: partial(measured, name) for name in runs}, options.repeats)
        case = f"batch {batch_size}"
        report.add(case, samples, last_loss=losses)
        add_ratios(report, case, list(runs), counterparts)
    report.finish()


if __name__ == "__main__":
    main()
