"""An epoch of our estimator, of hand-written torch loops, of skorch and of scikit-learn's MLP.

10,000 rows, 50 features, 8 binary tasks, hidden layers (128, 64), float32, Adam; batches of 32,
200 and 1024. All train the same network on the same rows, shuffled in every epoch.

An epoch is timed inside a fit, from the end of one epoch to the end of the next, by the same
stamps for everyone (a skorch callback; a line in the hand-written loops; an override of the
method that scikit-learn's MLP calls at the end of every epoch). What a fit does before and after
its epochs is left out, and a median over epochs is steadier than the difference of two fits.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
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
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from skorch import NeuralNet
from skorch.callbacks import Callback
from torch import nn

from sk_mtl import MultiTaskClassifier

N_TASKS = 8
HIDDEN = (128, 64)
OURS = "sk_mtl"
# What is promised: (contender, batch size) -> highest ratio of our time to theirs.
TARGETS = {
    ("torch loop", 32): 1.15,
    ("torch loop", 200): 1.15,
    ("torch loop", 1024): 1.15,
    ("skorch + DataLoader", 200): 0.40,
    ("sklearn MLP", 200): 1.0,
    ("sklearn MLP", 1024): 1.0,
}


class EpochClock(Callback):
    """Stamps the end of every epoch of a skorch net."""

    def __init__(self, laps: Laps) -> None:
        self.laps = laps

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        """Stamp."""
        self.laps.tick()


class ClockedMLP(MLPClassifier):
    """scikit-learn's MLP that stamps the end of every epoch."""

    laps: Laps

    def _update_no_improvement_count(self, *args: Any, **kwargs: Any) -> None:
        super()._update_no_improvement_count(*args, **kwargs)
        self.laps.tick()


def network(n_features: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(n_features, HIDDEN[0]),
        nn.ReLU(),
        nn.Linear(HIDDEN[0], HIDDEN[1]),
        nn.ReLU(),
        nn.Linear(HIDDEN[1], N_TASKS),
    )


def torch_loop(X: Any, Y: Any, batch_size: int, epochs: int, **adam: Any) -> tuple[Cost, float]:
    """Train as one writes it by hand: rows shuffled, tensors sliced, the loss summed up."""
    torch.manual_seed(0)
    X, Y = torch.from_numpy(X), torch.from_numpy(Y)
    net = network(X.shape[1])
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, **adam)
    criterion = nn.BCEWithLogitsLoss()
    laps = Laps()
    for _ in range(epochs):
        total = 0.0
        for rows in torch.randperm(len(X)).split(batch_size):
            optimizer.zero_grad()
            loss = criterion(net(X[rows]), Y[rows])
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows)
        laps.tick()
    return laps.cost(), total / len(X)


def ours(X: Any, Y: Any, batch_size: int, epochs: int) -> tuple[Cost, float]:
    laps = Laps()
    model = MultiTaskClassifier(
        hidden_layer_sizes=HIDDEN,
        batch_size=batch_size,
        max_iter=epochs,
        early_stopping=False,
        n_iter_no_change=epochs + 1,
        random_state=0,
        callbacks=[EpochClock(laps)],
        **ONE_NETWORK,
    ).fit(X, Y)
    assert model.n_iter_ == epochs
    return laps.cost(), model.loss_curve_[-1]


def skorch_net(X: Any, Y: Any, batch_size: int, epochs: int) -> tuple[Cost, float]:
    torch.manual_seed(0)
    laps = Laps()
    net = NeuralNet(
        network,
        module__n_features=X.shape[1],
        criterion=nn.BCEWithLogitsLoss,
        optimizer=torch.optim.Adam,
        lr=1e-3,
        batch_size=batch_size,
        max_epochs=epochs,
        iterator_train__shuffle=True,
        train_split=None,
        verbose=0,
        callbacks=[EpochClock(laps)],
    ).fit(X, Y)
    return laps.cost(), net.history[-1, "train_loss"]


def sklearn_mlp(X: Any, Y: Any, batch_size: int, epochs: int) -> tuple[Cost, float]:
    mlp = ClockedMLP(
        HIDDEN,
        batch_size=batch_size,
        max_iter=epochs,
        n_iter_no_change=epochs + 1,
        random_state=0,
    )
    mlp.laps = Laps()
    mlp.fit(X, Y.astype(int))
    assert mlp.coefs_[0].dtype == X.dtype
    return mlp.laps.cost(), mlp.loss_curve_[-1] / N_TASKS  # it adds the tasks up


def contenders(
    X: Any, Y: Any, batch_size: int, epochs: int, losses: dict[str, float]
) -> dict[str, Callable[[], Cost]]:
    """Return everyone by name; each leaves the loss of its last epoch in ``losses``."""
    fits: dict[str, Callable[[], tuple[Cost, float]]] = {
        OURS: lambda: ours(X, Y, batch_size, epochs),
        "torch loop": lambda: torch_loop(X, Y, batch_size, epochs),
        "torch loop, fused Adam": lambda: torch_loop(X, Y, batch_size, epochs, fused=True),
        "skorch + DataLoader": lambda: skorch_net(X, Y, batch_size, epochs),
        "sklearn MLP": lambda: sklearn_mlp(X, Y, batch_size, epochs),
    }

    def run(name: str) -> Cost:
        cost, losses[name] = fits[name]()
        return cost

    return {name: partial(run, name) for name in fits}


def main() -> None:
    options = arguments(__doc__, repeats=9)
    use_threads(options.threads)
    warnings.simplefilter("ignore", ConvergenceWarning)
    n_rows, batches, epochs = 10_000, [32, 200, 1024], 4
    if options.quick:
        n_rows, batches, epochs = 400, [200], 2
    X, Y = binary_tasks(n_rows, 50, N_TASKS)
    settings = {"n_rows": n_rows, "n_features": 50, "n_tasks": N_TASKS, "hidden": HIDDEN}
    report = Report("epoch", options, settings | {"epochs_a_fit": epochs})
    for batch_size in batches:
        losses: dict[str, float] = {}
        runs = contenders(X, Y, batch_size, epochs, losses)
        samples = interleaved(runs, options.repeats)
        case = f"batch {batch_size}"
        report.add(case, samples, last_loss=losses)
        for name in runs:
            if name != OURS:
                report.ratio(case, OURS, name, TARGETS.get((name, batch_size)))
    report.finish()


if __name__ == "__main__":
    main()
