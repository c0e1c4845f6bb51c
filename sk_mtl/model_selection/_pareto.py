"""The front of a table of scores, one row a candidate and one column a task, higher is better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sk_mtl._support import did_you_mean, warn
from sk_mtl.model_selection._weights import read_names

Table = NDArray[np.float64]

RHO = 1e-6  # of the augmented distance; far above rounding, far below a preference that counts
PREFIX = "mean_test_"
AVERAGES = ("mean", "score")


def non_dominated(scores: ArrayLike) -> NDArray[np.bool_]:
    """Find the points that no other point beats: the Pareto front.

    A point is beaten by another that is at least as good in every task and better in one.

    Parameters
    ----------
    scores : array-like of shape (n_points, n_tasks)
        Scores, higher is better.

    Returns
    -------
    ndarray of bool of shape (n_points,)
        Whether each point is on the front. Of equal points all are. A point with a NaN is not,
        and beats no other.

    Raises
    ------
    ValueError
        If the scores are not a table of numbers.

    See Also
    --------
    hypervolume : How much a front covers.
    knee_index : One point of the front.

    Notes
    -----
    Points are visited from the largest to the smallest in lexicographic order: none can be
    beaten by a later one, so each that is left is on the front, and removes those that it beats
    [1]_. The time is that of n_points times front points comparisons, the memory that of the
    table.

    References
    ----------
    .. [1] H. T. Kung, F. Luccio, F. P. Preparata, "On Finding the Maxima of a Set of Vectors",
       Journal of the ACM 22(4), 1975, 469-476. :doi:`10.1145/321906.321910`

    Examples
    --------
    >>> from sk_mtl.model_selection import non_dominated
    >>> non_dominated([[0.9, 0.1], [0.5, 0.5], [0.4, 0.5], [0.1, 0.9]]).tolist()
    [True, True, False, True]
    """
    table = _read_scores(scores)
    on_front = np.zeros(len(table), dtype=np.bool_)
    order = np.lexsort(table.T[::-1])[::-1]
    order = order[~np.isnan(table[order]).any(axis=1)]
    while len(order):
        best, later = table[order[0]], table[order[1:]]
        on_front[order[0]] = True
        beaten = (later <= best).all(axis=1) & (later < best).any(axis=1)
        order = order[1:][~beaten]
    return on_front


def hypervolume(scores: ArrayLike, reference: ArrayLike) -> float:
    """Compute the volume that points dominate above a reference point.

    The larger it is, the better a front is as a whole: closer to the best scores, and without
    gaps. Two fronts can be compared if the reference is the same. Also called the S-metric or
    the size of the space covered [1]_.

    Parameters
    ----------
    scores : array-like of shape (n_points, n_tasks)
        Scores, higher is better.
    reference : array-like of shape (n_tasks,)
        A score for each task that is just not worth anything, such as that of a baseline.

    Returns
    -------
    float
        The volume, exact up to rounding. Points with a NaN, and points that are not above the
        reference in every task, add nothing. Infinite if a point that adds something is.

    Raises
    ------
    ValueError
        If the scores are not a table of numbers, or the reference is not one finite number a
        task.

    See Also
    --------
    non_dominated : The points that add something.

    Notes
    -----
    The exclusive volumes of the points are summed [2]_: that of a point is its own box less what
    later points cover of it. Points are sorted by the last task, the lowest score first. All
    that later points cover of a box then reaches up to its top in that task, which leaves a
    volume with one task fewer; with two tasks left it is a sum of strips. The time grows no
    faster than n ** (n_tasks - 1) * log(n) in the number n of points on the front: hundreds of
    points are quick with four tasks, some dozens with eight.

    References
    ----------
    .. [1] E. Zitzler, L. Thiele, "Multiobjective Evolutionary Algorithms: A Comparative Case
       Study and the Strength Pareto Approach", IEEE Transactions on Evolutionary Computation
       3(4), 1999, 257-271. :doi:`10.1109/4235.797969`
    .. [2] L. While, L. Bradstreet, L. Barone, "A Fast Way of Calculating Exact Hypervolumes",
       IEEE Transactions on Evolutionary Computation 16(1), 2012, 86-95.
       :doi:`10.1109/TEVC.2010.2077298`

    Examples
    --------
    >>> from sk_mtl.model_selection import hypervolume
    >>> hypervolume([[3, 1], [2, 2], [1, 3]], reference=[0, 0])
    6.0
    """
    table = _read_scores(scores)
    floor = _read_per_task(reference, table.shape[1], "reference")
    if not np.isfinite(floor).all():
        raise ValueError(
            f"Got reference={reference!r}, expected finite numbers. Pass a score for each task "
            "that is not worth anything."
        )
    above = table[(table > floor).all(axis=1)] - floor
    if np.isinf(above).any():
        return float("inf")
    return _volume(_front(above))


def knee_index(scores: ArrayLike) -> int:
    """Choose the point of the front that is closest to the best of all tasks at once.

    Parameters
    ----------
    scores : array-like of shape (n_points, n_tasks)
        Scores, higher is better. Rows that are not finite are left out.

    Returns
    -------
    int
        Row of the point; the first of those that tie. It is always on the front.

    Raises
    ------
    ValueError
        If the scores are not a table of numbers, or no row is finite.

    See Also
    --------
    Knee : The same for ``refit=`` of a search.
    closest_to_preference : The same where tasks are not equally important.

    Notes
    -----
    The ideal point has the best score of each task. Over the front, each task is scaled to
    [0, 1] from its worst to its best score, and the point with the least Euclidean distance to
    the ideal point is chosen: compromise programming with p = 2 [1]_ [2]_. A task that is
    constant over the front has no say. Units do not matter, nor do points that are not on the
    front.

    Knees are also defined as the point farthest from the plane through the best points of each
    task [3]_. With two tasks this is the largest sum of scaled scores, which goes to an end
    of a front that bends inwards. With more tasks the plane is not defined where a point is the
    best of two tasks, which is common among few candidates, and points may lie on either side
    of it. The distance to the ideal point needs no plane.

    The worst score on the front sets a task's scale. A candidate that leaves a task untrained may
    be on the front, and if its score is far below all others, these hardly differ once scaled.
    Keep such candidates out (``task_weight_grid(..., minimum=1)``).

    References
    ----------
    .. [1] P. L. Yu, "A Class of Solutions for Group Decision Problems", Management Science
       19(8), 1973, 936-946. :doi:`10.1287/mnsc.19.8.936`
    .. [2] M. Zeleny, "Compromise Programming", in J. L. Cochrane, M. Zeleny (eds.), Multiple
       Criteria Decision Making, University of South Carolina Press, 1973, 262-301.
    .. [3] I. Das, "On Characterizing the 'Knee' of the Pareto Curve Based on Normal-Boundary
       Intersection", Structural Optimization 18, 1999, 107-115. :doi:`10.1007/BF01195985`

    Examples
    --------
    >>> from sk_mtl.model_selection import knee_index
    >>> knee_index([[0.90, 0.60], [0.88, 0.78], [0.70, 0.80]])
    1
    """
    rows, lost = _losses_on_front(_read_scores(scores))
    return int(rows[np.square(lost).sum(axis=1).argmin()])


def closest_to_preference(scores: ArrayLike, preference: ArrayLike) -> int:
    """Choose the point of the front that suits the importance given to each task.

    Parameters
    ----------
    scores : array-like of shape (n_points, n_tasks)
        Scores, higher is better. Rows that are not finite are left out.
    preference : array-like of shape (n_tasks,)
        Importance of each task, at least 0 and not 0 for all. Only ratios matter. A task of 0
        decides between points that tie otherwise, and nothing else.

    Returns
    -------
    int
        Row of the point; the first of those that tie. It is always on the front.

    Raises
    ------
    ValueError
        If the scores are not a table of numbers, no row is finite, or the preference is not
        valid.

    See Also
    --------
    knee_index : All tasks alike, Euclidean distance.

    Notes
    -----
    A task's loss d is what a point lacks to the best score, over the task's range on the front:
    0 for its best point there, 1 for its worst. With preferences w of sum 1, the point is chosen
    that minimises the augmented weighted Tchebycheff distance to the ideal point [1]_::

        max(w * d) + rho * sum(d),  rho = 1e-6

    The largest weighted loss counts; a preference of 2 against 1 means that half the loss weighs
    as much. The small term decides ties. Preferences below some 1e-5 of the sum are
    drowned in it. As with :func:`knee_index`, the worst score on the front sets a task's scale.

    References
    ----------
    .. [1] R. E. Steuer, E.-U. Choo, "An Interactive Weighted Tchebycheff Procedure for Multiple
       Objective Programming", Mathematical Programming 26, 1983, 326-344.
       :doi:`10.1007/BF02591870`

    Examples
    --------
    >>> from sk_mtl.model_selection import closest_to_preference
    >>> scores = [[0.9, 0.1], [0.8, 0.5], [0.5, 0.8], [0.1, 0.9]]
    >>> closest_to_preference(scores, [3, 1]), closest_to_preference(scores, [1, 3])
    (1, 2)
    """
    table = _read_scores(scores)
    weights = _read_per_task(preference, table.shape[1], "preference")
    total = weights.sum()
    if not np.isfinite(total) or (weights < 0).any() or total == 0:
        raise ValueError(
            f"Got preference={preference!r}, expected finite numbers >= 0, not all of them zero. "
            "Only their ratios matter."
        )
    rows, lost = _losses_on_front(table)
    distance = (weights / total * lost).max(axis=1) + RHO * lost.sum(axis=1)
    return int(rows[distance.argmin()])


class Knee:
    """Choose the candidate of a search at the knee of the front, as ``refit=Knee()``.

    The search has to score every task (``scoring=make_multi_task_scorer()``). The candidate is
    that of :func:`knee_index` on the mean test scores.

    Parameters
    ----------
    tasks : sequence of str or None, default=None
        Names of the scores that count. None takes all but ``"mean"``, which
        ``make_multi_task_scorer`` adds, and ``"score"``.

    Attributes
    ----------
    tasks : tuple of str or None
        Names of the scores that count.

    Raises
    ------
    ValueError
        If ``tasks`` are not names; when called, if the results have no such scores, or no
        candidate has all of them.

    Warns
    -----
    UserWarning
        When called, if no candidate has a finite score of a task, as where a fold lacks a class.
        The task is left out.

    See Also
    --------
    knee_index : The rule.
    sk_mtl.metrics.make_multi_task_scorer : Scores of every task.

    Examples
    --------
    >>> from sk_mtl.model_selection import Knee
    >>> results = {
    ...     "mean_test_default": [0.90, 0.88, 0.70],
    ...     "mean_test_churn": [0.60, 0.78, 0.80],
    ...     "mean_test_mean": [0.75, 0.83, 0.75],
    ... }
    >>> Knee()(results)
    1
    >>> Knee(["churn"])(results)
    2
    """

    def __init__(self, tasks: Sequence[str] | None = None) -> None:
        self.tasks = None if tasks is None else tuple(read_names(tasks, "tasks"))

    def __call__(self, cv_results: Mapping[str, Any]) -> int:
        """Return the position of the candidate.

        Parameters
        ----------
        cv_results : dict
            The ``cv_results_`` of a search.

        Returns
        -------
        int
            The position, as ``best_index_``.
        """
        names = self._names(cv_results)
        scores = np.column_stack(
            [np.asarray(cv_results[PREFIX + name], dtype=np.float64) for name in names]
        )
        undefined = ~np.isfinite(scores).any(axis=0)
        if undefined.any() and not undefined.all():
            missing = [names[t] for t in np.flatnonzero(undefined)]
            warn(
                f"Got no finite score of {missing} for any candidate, expected scores of every "
                "task. They do not count. Use folds that spread the classes "
                "(sk_mtl.model_selection.MultiTaskStratifiedKFold)."
            )
            scores = scores[:, ~undefined]
        return knee_index(scores)

    def _names(self, cv_results: Mapping[str, Any]) -> list[str]:
        """Return the names of the scores that count."""
        found = [key.removeprefix(PREFIX) for key in cv_results if key.startswith(PREFIX)]
        tasks = [name for name in found if name not in AVERAGES]
        if self.tasks is None:
            if not tasks:
                raise ValueError(
                    f"Got results with {found or 'no scores'}, expected the scores of every task. "
                    "Pass scoring=make_multi_task_scorer() to the search."
                )
            return tasks
        self.check_names(found)
        return list(self.tasks)

    def check_names(self, found: Sequence[str]) -> None:
        """Raise where a task is not among the names of scores that there are."""
        unknown = [name for name in self.tasks or () if name not in found]
        if unknown:
            hint = did_you_mean(unknown[0], list(found))
            raise ValueError(
                f"Got results without scores of {unknown}, expected those of "
                f"{list(self.tasks or ())} among {list(found)}."
                + (hint or " Pass scoring=make_multi_task_scorer() to the search, or other tasks.")
            )

    def __eq__(self, other: object) -> bool:
        return self.tasks == other.tasks if isinstance(other, Knee) else NotImplemented

    def __hash__(self) -> int:
        return hash((Knee, self.tasks))

    def __repr__(self) -> str:
        return "Knee()" if self.tasks is None else f"Knee({list(self.tasks)})"


def _read_scores(scores: ArrayLike) -> Table:
    """Return scores as a table of shape (n_points, n_tasks), or raise."""
    table = _as_floats(scores, "scores")
    if table.ndim != 2 or not table.shape[1]:
        raise ValueError(
            f"Got scores of shape {table.shape}, expected (n_points, n_tasks). Pass one row a "
            "point and one column a task."
        )
    return table


def _read_per_task(values: ArrayLike, n_tasks: int, what: str) -> Table:
    """Return one number a task, or raise."""
    numbers = _as_floats(values, what)
    if numbers.shape != (n_tasks,):
        raise ValueError(
            f"Got {what} of shape {numbers.shape}, expected ({n_tasks},). Pass one number a task."
        )
    return numbers


def _as_floats(values: ArrayLike, what: str) -> Table:
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"Got {what}={values!r}, expected numbers. Pass an array.") from None


def _front(table: Table) -> Table:
    """Return the distinct points of the front."""
    return np.unique(table[non_dominated(table)], axis=0)


def _volume(points: Table) -> float:
    """Return the volume between the origin and positive points."""
    n_tasks = points.shape[1]
    if not len(points) or n_tasks == 1:
        return float(points.max(initial=0.0))
    if n_tasks == 2:
        first, second = points[np.argsort(-points[:, 0])].T
        widths = first - np.append(first[1:], 0.0)
        return float(widths @ np.maximum.accumulate(second))
    points = points[np.lexsort(points.T)]  # by the last task; others make the order unique
    total = 0.0
    for i, point in enumerate(points):
        base, height = point[:-1], point[-1]
        covered = np.minimum(points[i + 1 :, :-1], base)
        if n_tasks > 3:  # strips need no front
            covered = _front(covered)
        total += height * (float(base.prod()) - _volume(covered))
    return total


def _losses_on_front(table: Table) -> tuple[NDArray[np.intp], Table]:
    """Return the rows of the front, and what each lacks to the best: 0 best, 1 worst there."""
    rows = np.flatnonzero(np.isfinite(table).all(axis=1))
    rows = rows[non_dominated(table[rows])]
    if not len(rows):
        raise ValueError(
            f"Got {len(table)} candidates, none with a finite score for every task, expected at "
            "least one. Look for fits that failed, and for folds that lack a class "
            "(sk_mtl.model_selection.MultiTaskStratifiedKFold)."
        )
    front = table[rows]
    best, worst = front.max(axis=0), front.min(axis=0)
    span = np.where(best > worst, best - worst, 1.0)
    return rows, (best - front) / span
