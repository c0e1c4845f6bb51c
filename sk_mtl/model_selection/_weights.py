"""Task weights worth trying: an even lattice for a grid, a distribution for a random search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from itertools import combinations
from math import comb
from numbers import Integral
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_random_state

from sk_mtl.targets import default_names
from sk_mtl.tasks import by_task

MAX_POINTS = 1_000_000
BOUNDS = (1e-6, 1e6)  # of a concentration; beyond them draws are corners, or all the same

Number = TypeVar("Number", int, float)


def task_weight_grid(
    tasks: int | Sequence[str], resolution: int, *, minimum: int = 0
) -> list[dict[str, int]] | list[tuple[int, ...]]:
    """List task weights that are spread evenly, for a grid search.

    Only ratios of task weights matter, so weights of one sum are all there is to try: the points
    of a simplex. The grid takes every way of dealing out ``resolution`` whole units over the
    tasks [1]_. No two points have the same ratios.

    Parameters
    ----------
    tasks : int or sequence of str
        Number of tasks, or their names.
    resolution : int
        Sum of the weights of each point, at least 1. The more, the finer the grid.
    minimum : int, default=0
        Smallest weight of a task. With 0 the grid has corners and edges that leave tasks
        untrained; with 1 every task is trained in every point.

    Returns
    -------
    list of dict or list of tuple
        The points: ``{"default": 1, "churn": 3}`` for named tasks, ``(1, 3)`` for a number of
        tasks. In ascending order of the first task's weight, then of the second's, and so on.

    Raises
    ------
    ValueError
        If an argument is not valid, the units do not suffice for ``minimum``, or there are more
        than a million points.

    See Also
    --------
    TaskWeightDistribution : Random weights, for many tasks.

    Notes
    -----
    With T tasks there are C(resolution - T * minimum + T - 1, T - 1) points. They become many
    with the number of tasks; at a resolution of 10:

    ======= == == === ===== ======
    T       2  3  4   6     8
    points  11 66 286 3,003 19,448
    ======= == == === ===== ======

    References
    ----------
    .. [1] I. Das, J. E. Dennis, "Normal-Boundary Intersection: A New Method for Generating the
       Pareto Surface in Nonlinear Multicriteria Optimization Problems", SIAM Journal on
       Optimization 8(3), 1998, 631-657. :doi:`10.1137/S1052623496307510`

    Examples
    --------
    >>> from sk_mtl.model_selection import task_weight_grid
    >>> task_weight_grid(2, 4)
    [(0, 4), (1, 3), (2, 2), (3, 1), (4, 0)]
    >>> task_weight_grid(["default", "churn"], 4, minimum=1)
    [{'default': 1, 'churn': 3}, {'default': 2, 'churn': 2}, {'default': 3, 'churn': 1}]
    """
    n_tasks, names = _read_tasks(tasks)
    _check_whole(resolution, "resolution", 1)
    _check_whole(minimum, "minimum", 0)
    free = int(resolution) - n_tasks * int(minimum)
    if free < 0:
        raise ValueError(
            f"Got resolution={resolution} for {n_tasks} tasks with minimum={minimum}, expected at "
            f"least {n_tasks * minimum}. Raise the resolution or lower the minimum."
        )
    n_points = comb(free + n_tasks - 1, n_tasks - 1)
    if n_points > MAX_POINTS:
        raise ValueError(
            f"Got resolution={resolution} for {n_tasks} tasks, which makes {n_points:,} points, "
            f"expected at most {MAX_POINTS:,}. Lower the resolution or use TaskWeightDistribution."
        )
    # Units in a row, with T - 1 bars between them: what lies between two bars is one task's.
    end = free + n_tasks - 1
    points = [
        tuple(
            right - left - 1 + int(minimum)
            for left, right in zip((-1, *bars), (*bars, end), strict=True)
        )
        for bars in combinations(range(end), n_tasks - 1)
    ]
    return points if names is None else [_by_name(point, names) for point in points]


class TaskWeightDistribution:
    """Random task weights that sum to 1, for a random search.

    A Dirichlet distribution [1]_. Give it as the distribution of ``task_weights`` to
    ``RandomizedSearchCV`` or to anything else that draws with ``ParameterSampler``.

    Parameters
    ----------
    tasks : int or sequence of str
        Number of tasks, or their names.
    concentration : float, sequence of float or dict, default=1.0
        How close draws are to their mean, from 1e-6 to 1e6; one number, or one a task, as a
        sequence or as a dict by task name (1 for those it leaves out). 1 draws uniformly among
        all ratios, more draws balanced weights, less draws weights that favour few tasks. A task
        with twice the concentration has twice the weight on average.
    decimals : int, default=3
        Digits after the point, 1 to 12. A weight that rounds to 0 leaves its task untrained; with
        more digits that is rarer.

    Attributes
    ----------
    tasks : int or tuple of str
        Number or names of the tasks.
    concentration : tuple of float
        One a task.
    decimals : int
        Digits after the point.

    Raises
    ------
    ValueError
        If an argument is not valid.

    See Also
    --------
    task_weight_grid : An even grid, for few tasks.

    Notes
    -----
    Weights are rounded by largest remainders: all are rounded down, and the units left over go
    one each to the tasks that lost most. As printed, they sum to 1 exactly.

    Two distributions are equal if they have the same tasks, concentrations and decimals.

    References
    ----------
    .. [1] L. Devroye, "Non-Uniform Random Variate Generation", Springer, 1986, chapters IX
       (gamma) and XI (Dirichlet). :doi:`10.1007/978-1-4613-8643-8`

    Examples
    --------
    >>> from sk_mtl.model_selection import TaskWeightDistribution
    >>> weights = TaskWeightDistribution(["default", "churn"], concentration=2.0)
    >>> weights
    TaskWeightDistribution(['default', 'churn'], concentration=2.0)
    >>> draw = weights.rvs(random_state=0)
    >>> list(draw), round(sum(draw.values()), 9)
    (['default', 'churn'], 1.0)
    """

    def __init__(
        self,
        tasks: int | Sequence[str],
        concentration: float | Sequence[float] | Mapping[str, float] = 1.0,
        *,
        decimals: int = 3,
    ) -> None:
        n_tasks, names = _read_tasks(tasks)
        _check_whole(decimals, "decimals", 1, 12)
        self.tasks = n_tasks if names is None else tuple(names)
        self.concentration = _read_concentration(
            concentration, default_names(n_tasks) if names is None else names
        )
        self.decimals = int(decimals)

    def rvs(
        self, size: int | None = None, random_state: int | np.random.RandomState | None = None
    ) -> Any:
        """Draw task weights.

        Parameters
        ----------
        size : int or None, default=None
            Number of draws in a list. None gives a single draw, not in a list.
        random_state : int, RandomState instance or None, default=None
            Seed or state of the draws. None is numpy's global state.

        Returns
        -------
        dict, tuple or list
            A draw is a dict of floats by name for named tasks, a tuple of floats for a number of
            tasks. A list of ``size`` draws where ``size`` is given, the same as so many single
            draws.
        """
        if size is not None:
            _check_whole(size, "size", 0)
        rng = check_random_state(random_state)
        draws = [self._draw(rng) for _ in range(1 if size is None else int(size))]
        return draws[0] if size is None else draws

    def _draw(self, rng: np.random.RandomState) -> dict[str, float] | tuple[float, ...]:
        units = _largest_remainders(_draw_dirichlet(self.concentration, rng), 10**self.decimals)
        weights = tuple(unit / 10**self.decimals for unit in units.tolist())
        return weights if isinstance(self.tasks, int) else _by_name(weights, self.tasks)

    def _key(self) -> tuple[Any, ...]:
        return self.tasks, self.concentration, self.decimals

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TaskWeightDistribution):
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        if isinstance(self.tasks, int):
            parts, each = [repr(self.tasks)], repr(self.concentration)
        else:
            parts, each = [repr(list(self.tasks))], repr(_by_name(self.concentration, self.tasks))
        first = self.concentration[0]
        if any(one != first for one in self.concentration):
            parts.append(f"concentration={each}")
        elif first != 1.0:
            parts.append(f"concentration={first}")
        if self.decimals != 3:
            parts.append(f"decimals={self.decimals}")
        return f"TaskWeightDistribution({', '.join(parts)})"


def read_names(names: Any, what: str) -> list[str]:
    """Return task names as a list, or raise."""
    listed = None if isinstance(names, (str, Mapping, Set)) else _as_list(names)
    if not listed or not all(isinstance(name, str) and name for name in listed):
        raise ValueError(
            f"Got {what}={names!r}, expected task names. Pass a list of at least one string."
        )
    if len(set(listed)) < len(listed):
        twice = sorted({name for name in listed if listed.count(name) > 1})
        raise ValueError(
            f"Got {what}={listed!r} with {twice} more than once, expected distinct names. "
            "Rename or drop them."
        )
    return [str(name) for name in listed]


def _as_list(values: Any) -> list[Any] | None:
    """Return what can be iterated over as a list, anything else as None."""
    try:
        return list(values)
    except TypeError:
        return None


def _read_tasks(tasks: Any) -> tuple[int, list[str] | None]:
    """Return the number of tasks, and their names where they were given."""
    if isinstance(tasks, Integral):
        _check_whole(tasks, "tasks", 1)
        return int(tasks), None
    names = read_names(tasks, "tasks")
    return len(names), names


def _check_whole(value: Any, what: str, low: int, high: int | None = None) -> None:
    """Raise unless the value is a whole number within the bounds."""
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or value < low or (high is not None and value > high):
        span = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"Got {what}={value!r}, expected a whole number {span}. Pass an int.")


def _read_concentration(given: Any, names: Sequence[str]) -> tuple[float, ...]:
    """Return one concentration a task."""
    values = _as_list(given)
    each = [given] * len(names)
    if values is not None and not isinstance(given, str):
        each = by_task(
            given if isinstance(given, Mapping) else values, names, "concentration", default=1.0
        )
    try:
        numbers = tuple(float(one) for one in each)
    except (TypeError, ValueError):
        numbers = ()
    if not numbers or not all(BOUNDS[0] <= one <= BOUNDS[1] for one in numbers):
        raise ValueError(
            f"Got concentration={given!r}, expected numbers from {BOUNDS[0]:g} to {BOUNDS[1]:g}. "
            "Pass one number or one a task; 1 draws uniformly."
        )
    return numbers


def _by_name(values: tuple[Number, ...], names: Sequence[str]) -> dict[str, Number]:
    return dict(zip(names, values, strict=True))


def _draw_dirichlet(
    concentration: Sequence[float], rng: np.random.RandomState
) -> NDArray[np.float64]:
    """Return positive shares of sum 1: gamma variates divided by their sum.

    A gamma variate of shape a is one of shape a + 1 times U^(1/a), U being uniform. Taken in
    logarithms, it does not underflow for small a, where ``rng.dirichlet`` returns NaN.
    """
    shape = np.asarray(concentration)
    logs = np.log(rng.standard_gamma(shape + 1)) - rng.standard_exponential(len(shape)) / shape
    shares = np.exp(logs - logs.max())
    return np.asarray(shares / shares.sum())


def _largest_remainders(shares: NDArray[np.float64], n_units: int) -> NDArray[np.int64]:
    """Return whole numbers of sum ``n_units``, in proportion to shares of sum 1."""
    exact = shares * n_units
    units = np.floor(exact).astype(np.int64)
    lost_most = np.argsort(units - exact, kind="stable")
    units[lost_most[: n_units - units.sum()]] += 1
    return units
