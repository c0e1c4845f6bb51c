"""A table and one split of its rows: who is fitted on it, what that costs, and how it is judged.

Nothing here knows ``sk_mtl`` but :func:`estimator`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _peers import SEED, Peer, area, calibration_error, one_less_rrmse, squares
from _processes import cpu_seconds
from _tables import Table, read_whole
from sklearn.model_selection import GroupKFold, KFold, StratifiedKFold

N_FOLDS = 5
FIXED: dict[str, Any] = {"random_state": SEED}  # all that a user sets of ours


class TooSlow(Exception):
    """A contender would take longer for a cell than it may.

    Parameters
    ----------
    seconds : float
        What all its tasks would take.
    done : str
        What that was estimated from.
    """

    def __init__(self, seconds: float, done: str) -> None:
        super().__init__(f"about {seconds:.0f} s, {done}")
        self.seconds = seconds


@dataclass(frozen=True)
class Cell:
    """A table and one way of splitting its rows.

    Attributes
    ----------
    case : str
        Name of the table, and of the split where it is a published one.
    table : Table
        The table.
    fold : int
        Which of its folds is tested.
    train, test : ndarray
        Rows of both sides.
    protocol : str
        "folds" for ours, else whose split it is.
    """

    case: str
    table: Table
    fold: int
    train: Any
    test: Any
    protocol: str = "folds"

    def tasks(self) -> list[int]:
        """Return the tasks that have labels on both sides: the others cannot be judged."""
        labelled = self.table.Y.notna().to_numpy()
        both = labelled[self.train].any(axis=0) & labelled[self.test].any(axis=0)
        return [int(task) for task in np.flatnonzero(both)]

    def known_by(self) -> str:
        """Return a text that differs where the table or the split does."""
        rows = np.asarray(self.test, dtype="<i8").tobytes()
        return f"{self.table.sha256[:16]} {hashlib.sha256(rows).hexdigest()[:16]}"


def split(case: str, table: Table, folds: Sequence[int]) -> Iterator[Cell]:
    """Yield the cells of a table: whole groups, a share of every disjoint task, or any rows."""
    shuffled: dict[str, Any] = {"n_splits": N_FOLDS, "shuffle": True, "random_state": SEED}
    if table.groups is not None:
        parts = GroupKFold(**shuffled).split(table.X, groups=table.groups)
    elif table.task_of_row is not None:
        parts = StratifiedKFold(**shuffled).split(table.X, table.task_of_row)
    else:
        parts = KFold(**shuffled).split(table.X)
    for fold, (train, test) in enumerate(parts):
        if fold in folds:
            yield Cell(case, table, fold, train, test)


def tiny() -> Cell:
    """Return a cell that every contender can fit, for what only a first fit costs."""
    x = np.arange(40.0)
    X, Y = pd.DataFrame({"a": x % 7, "b": x % 3}), pd.DataFrame({"amount": x})
    table = Table(X, Y, ["regression"], [], task_of_row=np.zeros(len(x)))
    return Cell("tiny", table, 0, np.arange(30), np.arange(30, 40))


# Published splits ----------------------------------------------------------------------------

MTR = ("atp1d", "edm", "enb", "jura", "oes97", "scpf", "sf2", "slump", "wq")
MOLECULES = ("tox21", "clintox", "toxcast")
HELD_OUT = {"mtr/rf1": 4108}  # the first rows train, the rest is tested
HALVES = ("census_income_kdd",)  # what papers train on is not in the file, only what they test on


def published(folder: Path, names: Sequence[str] | None, folds: Sequence[int]) -> Iterator[Cell]:
    """Yield the cells of splits that others have published results for, of all rows.

    Molecules: the parts of the file's index and scaffold split, the second one tested, as in
    DeepChem's table. Multi-target regression: ten folds, or the first rows against the rest.
    Census income: one half against the other.

    Parameters
    ----------
    folder : Path
        Where the tables are.
    names : sequence of str or None
        Tables, None for all of them.
    folds : sequence of int
        Which of the ten folds.
    """
    for name in [f"mtr/{name}" for name in MTR] + [*HELD_OUT, *MOLECULES, *HALVES]:
        if not (folder / name / "meta.json").exists() or (names is not None and name not in names):
            continue
        table = read_whole(folder, name, 10**9)
        rows = np.arange(len(table.X))
        if name in MOLECULES:
            for way in ("index", "scaffold"):
                part = table.extra[f"split_{way}"].to_numpy()
                train, test = rows[part == 0], rows[part == 1]
                yield Cell(f"{name}, {way} split", table, 0, train, test, "DeepChem")
        elif name in HELD_OUT:
            train, test = rows[: HELD_OUT[name]], rows[HELD_OUT[name] :]
            yield Cell(f"{name}, first rows train", table, 0, train, test, "Mulan")
        elif name in HALVES:
            train, test = next(iter(KFold(2, shuffle=True, random_state=1).split(rows)))
            yield Cell(f"{name}, halves", table, 0, train, test, "MMoE")
        else:
            parts = KFold(10, shuffle=True, random_state=1).split(rows)
            for fold, (train, test) in enumerate(parts):
                if fold in folds:
                    yield Cell(f"{name}, ten folds", table, fold, train, test, "Mulan")


# Fits ----------------------------------------------------------------------------------------

# Of every task that can be judged: (classes, probabilities), or amounts.
Predictions = dict[int, Any]
Cost = list[float]  # seconds of all CPUs, of fit and of predict


def timed(step: Callable[[], Any]) -> tuple[Any, float]:
    """Return what a step returns, and the seconds of all CPUs that it took."""
    start = cpu_seconds()
    found = step()
    return found, cpu_seconds() - start


def run_peer(
    peer: Peer | OneTask, cell: Cell, threads: int, limit: float
) -> tuple[Predictions, Cost]:
    """Fit one model a task, on the training rows that have its label.

    Raises
    ------
    TooSlow
        If all tasks would take more than ``limit`` seconds, by those that are done.
    """
    X, categorical = peer.frame(cell.table.X, cell.table.categorical)
    X_train, X_test = X.iloc[cell.train], X.iloc[cell.test]
    predictions, cost, tasks = {}, [0.0, 0.0], cell.tasks()
    for n_done, task in enumerate(tasks, start=1):
        y = cell.table.Y.iloc[cell.train, task]
        rows = y.notna().to_numpy()
        labelled = X_train[rows], y[rows].to_numpy()
        model = peer.model(cell.table.kinds[task], categorical, threads)
        predictions[task], seconds = one_task(model, cell.table.kinds[task], *labelled, X_test)
        cost = [total + new for total, new in zip(cost, seconds, strict=True)]
        estimate = sum(cost) / n_done * len(tasks)
        if estimate > limit:
            raise TooSlow(estimate, f"{n_done} of {len(tasks)} tasks were fitted")
    return predictions, cost


def one_task(model: Any, kind: str, X: Any, y: Any, X_test: Any) -> tuple[Any, Cost]:
    """Fit a model to one task; return its predictions and what they cost."""
    classes, codes = np.unique(y, return_inverse=True)
    if len(classes) == 1:  # most refuse to learn a constant
        if kind == "classification":
            return (classes, np.ones((len(X_test), 1))), [0.0, 0.0]
        return np.full(len(X_test), float(y[0])), [0.0, 0.0]
    if kind == "classification":
        fitted, fit = timed(lambda: model.fit(X, codes))  # some want them to be 0, 1, ...
        p, predict = timed(lambda: np.asarray(fitted.predict_proba(X_test)))
        return (classes, p), [fit, predict]
    fitted, fit = timed(lambda: model.fit(X, y.astype(float)))
    found, predict = timed(lambda: np.asarray(fitted.predict(X_test), dtype=float).reshape(-1))
    return found, [fit, predict]


def run_peer_of_all(peer: Peer, cell: Cell, threads: int) -> tuple[Predictions, Cost]:
    """Fit one model to all tasks, which are amounts without gaps."""
    X, categorical = peer.frame(cell.table.X, cell.table.categorical)
    Y = cell.table.Y.to_numpy(dtype=float)
    model = peer.model("regression", categorical, threads)
    fitted, fit = timed(lambda: model.fit(X.iloc[cell.train], Y[cell.train]))
    found, predict = timed(lambda: np.asarray(fitted.predict(X.iloc[cell.test]), dtype=float))
    return {task: found[:, task] for task in cell.tasks()}, [fit, predict]


@dataclass(frozen=True)
class OneTask:
    """Ours as a peer of itself: an estimator a task, on the rows that have its label.

    Attributes
    ----------
    parameters : mapping
        Those that are not the defaults.
    """

    parameters: Mapping[str, Any]

    def frame(self, X: Any, categorical: list[str]) -> tuple[Any, list[str]]:
        """Return features as they come."""
        return X, categorical

    def model(self, kind: str, categorical: list[str], threads: int) -> Any:
        """Return an estimator that is not fitted."""
        return estimator([kind], self.parameters)


def run_pooled(peer: Peer, cell: Cell, threads: int) -> tuple[Predictions, Cost]:
    """Fit one model to the rows of all tasks, which are disjoint; the task is one more category."""
    column = "which task"
    table = cell.table
    task_of_row = pd.Categorical(table.task_of_row)
    X, categorical = peer.frame(
        table.X.assign(**{column: task_of_row}), [*table.categorical, column]
    )
    y = table.Y.sum(axis=1).to_numpy()  # a label a row
    model = peer.model("regression", categorical, threads)
    fitted, fit = timed(lambda: model.fit(X.iloc[cell.train], y[cell.train]))
    found, predict = timed(lambda: np.asarray(fitted.predict(X.iloc[cell.test]), dtype=float))
    return dict.fromkeys(cell.tasks(), found), [fit, predict]


def estimator(kinds: Sequence[str], parameters: Mapping[str, Any]) -> Any:
    """Return the estimator of ours for the kinds of tasks, not fitted."""
    from sk_mtl import MultiTaskClassifier, MultiTaskEstimator, MultiTaskRegressor

    if set(kinds) == {"classification"}:
        return MultiTaskClassifier(**FIXED, **parameters)
    if set(kinds) == {"regression"}:
        return MultiTaskRegressor(**FIXED, **parameters)
    return MultiTaskEstimator(tasks=list(kinds), **FIXED, **parameters)


def fitted_ours(
    parameters: Mapping[str, Any], cell: Cell, *, told_groups: bool = False
) -> tuple[Any, float]:
    """Fit one model to all tasks, on the frame as it comes; return it and what that cost.

    Parameters
    ----------
    parameters : mapping
        Those that are not the defaults.
    cell : Cell
        Gives the rows.
    told_groups : bool, default=False
        Whether fit is told which rows belong together, where the table says so.
    """
    table, tasks = cell.table, cell.tasks()
    kinds = [table.kinds[task] for task in tasks]
    X, Y = table.X.iloc[cell.train], table.Y.iloc[cell.train, tasks]
    if len(tasks) == 1:  # a column alone is one-dimensional, and may have no gaps
        Y = Y.iloc[:, 0].dropna()
        X = X.loc[Y.index]
    more = {}
    if told_groups and table.groups is not None:
        more["groups"] = pd.Series(np.asarray(table.groups), table.X.index).loc[X.index]
    model = estimator(kinds, parameters)
    return timed(lambda: model.fit(X, Y, **more))


def run_ours(parameters: Mapping[str, Any], cell: Cell) -> tuple[Predictions, Cost]:
    """Fit one model to all tasks, and predict them."""
    table, tasks = cell.table, cell.tasks()
    kinds = [table.kinds[task] for task in tasks]
    X_test = table.X.iloc[cell.test]
    fitted, fit = fitted_ours(parameters, cell)
    p: Any = None
    cost = 0.0
    if "classification" in kinds:
        p, cost = timed(lambda: fitted.predict_proba(X_test))
    amounts, more = np.empty(0), 0.0
    if "regression" in kinds:
        amounts, more = timed(lambda: np.asarray(fitted.predict(X_test)))
    predictions: Predictions = {}
    for column, (task, kind) in enumerate(zip(tasks, kinds, strict=True)):
        if kind == "classification":
            one = (fitted.classes_, p) if len(tasks) == 1 else (fitted.classes_[column], p[column])
            predictions[task] = tuple(map(np.asarray, one))
        else:
            predictions[task] = amounts.reshape(len(X_test), -1)[:, column].astype(float)
    return predictions, [fit, cost + more]


# Scores --------------------------------------------------------------------------------------


def judged(cell: Cell, predictions: Predictions) -> dict[str, Any]:
    """Return what is kept of predictions.

    Returns
    -------
    judged : dict
        ``score``, the mean over tasks; ``task_scores``; ``squares`` of amounts, summed over rows:
        errors and those of the training mean; ``calibration``, of classes.
    """
    scores, sums, calibration = {}, {}, {}
    for task, found in predictions.items():
        y = cell.table.Y.iloc[:, task]
        name, truth = str(y.name), y.iloc[cell.test]
        rows = truth.notna().to_numpy()
        truth = truth[rows].to_numpy()
        if cell.table.kinds[task] == "classification":
            classes, p = found
            scores[name] = rounded(area(truth, classes, p[rows]))
            calibration[name] = rounded(calibration_error(truth, classes, p[rows]))
        else:
            mean = float(y.iloc[cell.train].mean())
            pair = squares(truth.astype(float), found[rows], mean)
            scores[name] = rounded(one_less_rrmse(*pair))
            sums[name] = [float(f"{value:.7g}") for value in pair]
    known = [score for score in scores.values() if score is not None]
    return {
        "score": rounded(float(np.mean(known))) if known else None,
        "task_scores": scores,
        "squares": sums,
        "calibration": calibration,
    }


def rounded(value: float | None) -> float | None:
    """Return a score with the digits that say something; None for what is no number."""
    return round(value, 6) if value is not None and np.isfinite(value) else None
