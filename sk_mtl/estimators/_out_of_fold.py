"""How far off an estimator is on rows that its networks were not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from sk_mtl._support import warn
from sk_mtl.batches import TaskData
from sk_mtl.estimators._calibration import COLDEST, HOTTEST, calibrated, fit_temperature
from sk_mtl.estimators._decode import mean_outcomes, outcomes
from sk_mtl.estimators._session import Plan, Session

Array = NDArray[Any]
FEWEST_LABELS = 10  # of a task: fewer say nothing of a temperature
FEWEST_COMPARED = 500  # of a task, where members that saw the labels are compared
MOST_ROWS = 20_000  # of a task: they tell a temperature to within a percent
MOST_KEPT = 1_000  # ranks of a task: the upper half of them one by one, the others in steps


@dataclass(frozen=True)
class Scores:
    """How far off one task's predictions are on rows that were held out, in ascending order.

    Attributes
    ----------
    values : ndarray of shape (n_kept,)
        One minus the probability of a label's class, or the distance of an amount from what is
        predicted, in the units in which the task is trained.
    below : ndarray of shape (n_kept,)
        How many rows have a value up to this one; a row of twice the mean weight counts as two. Of
        rows in groups, how many groups: each counts as one, with all of its rows.
    n_rows : int
        How many labelled rows there were.
    n_groups : int or None, default=None
        Of how many groups they were, if rows depend on one another.
    """

    values: Array
    below: Array
    n_rows: int
    n_groups: int | None = None

    @property
    def n_units(self) -> int:
        """How many rows, or groups of rows, do not depend on one another."""
        return self.n_rows if self.n_groups is None else self.n_groups

    @classmethod
    def of(cls, values: Array, weight: Array | None, groups: Array | None = None) -> Scores:
        """Return what is kept of the values of rows: of very many, a thousand.

        Parameters
        ----------
        values : ndarray of shape (n_rows,)
            In any order.
        weight : ndarray of shape (n_rows,) or None
            Sample weights, of which only ratios matter; in groups, those within a group.
        groups : ndarray of int of shape (n_rows,) or None, default=None
            Which rows depend on one another.
        """
        n_rows, order = len(values), np.argsort(values, kind="stable")
        share = np.ones(n_rows) if weight is None else weight
        n_groups = None
        if groups is not None:
            share, n_groups = _shares_of_groups(share, groups)
        elif weight is not None:
            share = weight / weight.mean()
        kept = np.arange(n_rows)
        if n_rows > MOST_KEPT:  # values between those kept count as the next higher one
            few = MOST_KEPT // 2
            lower = np.linspace(0, n_rows - few - 1, MOST_KEPT - few).astype(np.intp)
            kept = np.concatenate([lower, kept[-few:]])
        return cls(values[order][kept], np.cumsum(share[order])[kept], n_rows, n_groups)

    def quantile(self, coverage: float) -> float:
        """Return the least value that a new one does not exceed with the given probability.

        Of n values it is the one of rank ceil(coverage * (n + 1)), infinity if there is none;
        the new row is of mean weight. Of k groups it is that of rank coverage * (k + 1), where the
        rows of a group count as one together: what is asked for is a row of a new group.

        Parameters
        ----------
        coverage : float
            Between 0 and 1.

        Returns
        -------
        float
            The quantile.

        References
        ----------
        Tibshirani et al. 2019, "Conformal Prediction Under Covariate Shift", equation 6, for
        weights.

        Lee et al. 2023, "Distribution-Free Inference with Hierarchical Data", for groups.
        """
        enough = coverage * (self.n_units + 1) * (1 - 1e-9)  # sums of shares err
        rank = int(np.searchsorted(self.below, enough))
        return float(self.values[rank]) if rank < len(self.values) else np.inf


def _shares_of_groups(weight: Array, groups: Array) -> tuple[Array, int]:
    """Return which part of its group every row is by weight, and the number of groups."""
    known, which = np.unique(groups, return_inverse=True)
    whole = np.bincount(which, weight, minlength=len(known))
    shares: Array = weight / np.where(whole > 0, whole, 1.0)[which]
    return shares, int((whole > 0).sum())


def set_out_of_fold(est: Any, networks: Sequence[tuple[Session, Plan]]) -> None:
    """Set what an estimator knows of its errors on rows that were held out for early stopping.

    Every such row is predicted by the members that were not trained on it.

    Parameters
    ----------
    est : BaseMultiTask
        Gets ``_out_of_fold``: a list of Scores, one a task, or None where nothing was held out.
        With ``calibrate=True`` it gets ``temperatures_`` too, fitted to at most ``MOST_ROWS``
        labels a task, chosen at random by the seed of the validation split.
    networks : sequence of (Session, Plan)
        Its trained networks: ``session.est.net_`` of each.
    """
    for owner in [est, *(session.est for session, _ in networks)]:
        owner.__dict__.pop("temperatures_", None)  # of an earlier fit
        owner._out_of_fold = None
    calibrate = bool(getattr(est, "calibrate", False))
    held = _held_out(est, networks, compare=calibrate)
    if calibrate:
        est.temperatures_ = _temperatures(est, held)
    if held is not None:
        found = calibrated(held.own, est)
        est._out_of_fold = [held.scores(t, found[t]) for t in range(est.n_tasks_)]


@dataclass(frozen=True)
class _HeldOut:
    """Held-out rows, and what members predict of them.

    Attributes
    ----------
    own : list of ndarray, one a task
        Outcomes by the members that did not see the row.
    seen : list of tuple of (ndarray, ndarray), one a task, or None
        By as many of the members that did see it, and by all of those. None if there are none,
        or they were not asked.
    y : ndarray of shape (n_rows, n_tasks)
        Encoded labels, NaN where missing.
    weight : ndarray of shape (n_rows, 1 or n_tasks) or None
        Weights of samples times those of classes.
    factors : list of ndarray or None, one a task
        Weights of classes.
    seed : int
        Of the choice of rows, where there are many.
    groups : ndarray of int of shape (n_rows,) or None
        Which rows depend on one another.
    """

    own: list[Array]
    seen: list[tuple[Array, Array]] | None
    y: Array
    weight: Array | None
    factors: Sequence[Array | None]
    seed: int
    groups: Array | None

    def labelled(self, t: int, most: int | None = None) -> tuple[Array, Array, Array | None]:
        """Return the rows in which a task has a label, the labels, and their sample weights."""
        rows = np.flatnonzero(~np.isnan(self.y[:, t]))
        if most is not None and len(rows) > most:
            rows = np.random.default_rng(self.seed).choice(rows, most, replace=False)
        y = self.y[rows, t].astype(np.float64)
        if self.weight is None:
            return rows, y, None
        weight = self.weight[rows, min(t, self.weight.shape[1] - 1)].astype(np.float64)
        factor = self.factors[t]
        return rows, y, weight if factor is None else weight / factor[y.astype(np.intp)]

    def temperature(self, t: int) -> float | None:
        """Return the temperature of a task's mean over members; None with next to no labels.

        That of the held-out rows is one of few members, often of a single one, and to average
        makes probabilities more equal: the mean needs less heat. How much less is told by the
        other members, with and without averaging. They have seen the labels, but so they have
        in both cases. On few rows they know the labels by heart, and tell nothing.
        """
        rows, y, weight = self.labelled(t, MOST_ROWS)
        if len(rows) < FEWEST_LABELS:
            return None
        codes = y.astype(np.intp)
        temperature = fit_temperature(self.own[t][rows], codes, weight)
        if self.seen is not None and len(rows) >= FEWEST_COMPARED:
            few, every = (fit_temperature(p[rows], codes, weight) for p in self.seen[t])
            temperature *= every / few
        return min(max(temperature, COLDEST), HOTTEST)

    def scores(self, t: int, found: Array) -> Scores:
        """Return how far off the outcomes of a task are.

        Those of few members, often of a single one: the mean over all errs less. Yet these rows
        chose when their members stopped, and how much of the linear models they take, so that
        their members err more elsewhere. The two are left to make up for one another.
        """
        rows, y, weight = self.labelled(t)
        groups = None if self.groups is None else self.groups[rows]
        if found.ndim == 1:
            return Scores.of(np.abs(found[rows].astype(np.float64) - y), weight, groups)
        p = found[rows, y.astype(np.intp)].astype(np.float64)
        return Scores.of(1.0 - p, weight, groups)


def _temperatures(est: Any, held: _HeldOut | None) -> NDArray[np.float64]:
    """Return every task's temperature, NaN for amounts; warn where there is none to be told."""
    temperatures, without = np.full(est.n_tasks_, np.nan), []
    for t, task in enumerate(est._tasks):
        if not task.is_classification:
            continue
        found = None if held is None else held.temperature(t)
        temperatures[t] = 1.0 if found is None else found
        if found is None and task.n_classes > 1:  # a single class is certain anyway
            without.append(task.name)
    if without:
        warn(
            f"Got calibrate=True and fewer than {FEWEST_LABELS} held-out labels in {len(without)} "
            f"of {est.n_tasks_} tasks ({without[:5]}), expected more: their probabilities stay as "
            "they are. Set early_stopping=True, or pass X_val and y_val."
        )
    return temperatures


def _held_out(
    est: Any, networks: Sequence[tuple[Session, Plan]], *, compare: bool
) -> _HeldOut | None:
    """Return held-out rows and their predictions; None where no row was held out.

    Members that saw them are asked only if they are to be compared with those that did not.
    """
    nets = [session.est.net_ for session, _ in networks]
    by_set: dict[int, tuple[TaskData, list[int]]] = {}
    for number, (_, plan) in enumerate(networks):
        if plan.valid is not None:  # members of one fold share the table
            by_set.setdefault(id(plan.valid), (plan.valid, []))[1].append(number)
    if not by_set:
        return None
    parts = []
    for data, own in by_set.values():
        order = [(own[-1] + step) % len(nets) for step in range(1, len(nets))]
        others = [m for m in order if m not in own]
        others = others if compare else []
        found = {m: _predict(nets[m], data, est) for m in [*own, *others]}
        mean = mean_outcomes([found[m] for m in own])
        parts.append((mean, _by_others(len(own), [found[m] for m in others])))
    seen = None
    if any(seen_of_set for _, seen_of_set in parts):
        by_task = zip(*(seen_of_set for _, seen_of_set in parts), strict=True)
        seen = [tuple(map(np.concatenate, zip(*pairs, strict=True))) for pairs in by_task]
    session, sets = networks[0][0], [data for data, _ in by_set.values()]
    return _HeldOut(
        [np.concatenate(task) for task in zip(*(mean for mean, _ in parts), strict=True)],
        cast("list[tuple[Array, Array]] | None", seen),
        *_labels(nets[0], sets),
        session.class_factors,
        est._seeds[3],
        _groups(session, sets),
    )


def _groups(session: Session, sets: Sequence[TaskData]) -> Array | None:
    """Return the group of every row of sets, one after the other; None if fit knows of none."""
    if session.groups is None:
        return None
    rows = [data.rows.cpu().numpy() for data in sets if data.rows is not None]
    return cast("Array", session.groups[np.concatenate(rows)])


def _by_others(n_own: int, others: Sequence[list[Array]]) -> list[tuple[Array, Array]]:
    """Return the means over as many of the members that saw the rows, and over all, by task."""
    if not others:
        return []
    return list(zip(mean_outcomes(others[:n_own]), mean_outcomes(others), strict=True))


def _predict(net: Any, data: TaskData, est: Any) -> list[Array]:
    """Return the outcomes of one network."""
    groups, batches = net.module_.groups, net.get_iterator(data)
    found = [outcomes(groups, net.raw_outputs(x["X"]), est._links) for x, _ in batches]
    return [np.concatenate(task) for task in zip(*found, strict=True)]


def _labels(net: Any, sets: Sequence[TaskData]) -> tuple[Array, Array | None]:
    """Return labels and weights of sets of rows, one after the other."""
    found = [(y, x["sample_weight"]) for data in sets for x, y in net.get_iterator(data)]
    weights = [weight.cpu().numpy() for _, weight in found if weight is not None]
    y = np.concatenate([labels.cpu().numpy() for labels, _ in found])
    return y, np.concatenate(weights) if weights else None
