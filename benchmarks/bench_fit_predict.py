"""One multi-task model against one scikit-learn MLP a task: fit, predict one row, a million rows.

8 binary tasks, 50 features, hidden layers (128, 64), batches of 200, the same number of epochs,
float32. "1 sklearn MLP" is the multilabel MLP that holds all tasks; "8 sklearn MLPs" are what one
fits, and asks one after the other, where tasks are kept apart. A fit is a whole call, with checks
and set-up. The latency is that of one call with one row.
"""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import numpy as np
from _harness import ONE_NETWORK, Report, arguments, binary_tasks, clocked, interleaved, use_threads
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

from sk_mtl import MultiTaskClassifier

N_TASKS, HIDDEN, BATCH = 8, (128, 64), 200
OURS, JOINT, APART = "sk_mtl", "1 sklearn MLP", "8 sklearn MLPs"


class Apart:
    """One MLP a task, under one roof.

    Parameters
    ----------
    epochs : int
        How long each is trained.
    """

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def fit(self, X: Any, Y: Any) -> Apart:
        """Fit an MLP to every column of Y."""
        self.models_ = [mlp(self.epochs).fit(X, y) for y in Y.T]
        return self

    def predict(self, X: Any) -> Any:
        """Predict with each."""
        return np.column_stack([model.predict(X) for model in self.models_])

    def predict_proba(self, X: Any) -> Any:
        """Predict probabilities with each."""
        return [model.predict_proba(X) for model in self.models_]

    def score(self, X: Any, Y: Any) -> float:
        """Return the mean accuracy over tasks."""
        return float(np.mean(self.predict(X) == Y))


class Joint(MLPClassifier):
    """The multilabel MLP, scored as the others are."""

    def score(self, X: Any, Y: Any) -> float:
        """Return the mean accuracy over tasks; scikit-learn's wants all tasks right at once."""
        return float(np.mean(self.predict(X) == Y))


def mlp(epochs: int, kind: type[MLPClassifier] = MLPClassifier) -> MLPClassifier:
    return kind(
        HIDDEN,
        batch_size=BATCH,
        max_iter=epochs,
        n_iter_no_change=epochs + 1,
        random_state=0,
    )


def ours(epochs: int) -> MultiTaskClassifier:
    return MultiTaskClassifier(
        hidden_layer_sizes=HIDDEN,
        batch_size=BATCH,
        max_iter=epochs,
        n_iter_no_change=epochs + 1,
        early_stopping=False,
        random_state=0,
        **ONE_NETWORK,
    )


def main() -> None:
    options = arguments(__doc__, repeats=5)
    use_threads(options.threads)
    warnings.simplefilter("ignore", ConvergenceWarning)
    n_rows, n_many, epochs, number = 10_000, 1_000_000, 5, 200
    if options.quick:
        n_rows, n_many, epochs, number = 400, 2_000, 2, 2
    settings = {"n_rows": n_rows, "n_tasks": N_TASKS, "hidden": HIDDEN, "epochs": epochs}
    report = Report("fit_predict", options, settings | {"many_rows": n_many})
    X, Y = binary_tasks(n_rows, 50, N_TASKS)
    Y = Y.astype(int)
    train, test = slice(0, n_rows * 4 // 5), slice(n_rows * 4 // 5, None)

    models = {OURS: ours(epochs), JOINT: mlp(epochs, Joint), APART: Apart(epochs)}
    fits = {
        name: partial(clocked, partial(model.fit, X[train], Y[train]))
        for name, model in models.items()
    }
    samples = interleaved(fits, options.repeats)
    scores = {name: model.score(X[test], Y[test]) for name, model in models.items()}
    report.add("fit", samples, accuracy=scores)

    one, many = X[:1].copy(), binary_tasks(n_many, 50, N_TASKS, seed=1)[0]
    for case, rows, method, calls in (
        ("predict 1 row", one, "predict", number),
        ("predict_proba 1 row", one, "predict_proba", number),
        (f"predict {n_many} rows", many, "predict", 1),
    ):
        runs = {
            name: partial(clocked, partial(getattr(model, method), rows), calls)
            for name, model in models.items()
        }
        rounds = options.repeats if calls > 1 else min(3, options.repeats)
        report.add(case, interleaved(runs, rounds))
    for case in ("fit", "predict 1 row", "predict_proba 1 row", f"predict {n_many} rows"):
        for against in (JOINT, APART):
            report.ratio(case, OURS, against)
    report.finish()


if __name__ == "__main__":
    main()
