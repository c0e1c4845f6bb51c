"""Tasks that depend on tasks: who reads whose output, and in which order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from sk_mtl._support import Recipe
from sk_mtl.tasks import Task


@dataclass(frozen=True)
class Links:
    """The dependencies of a network's tasks, by their positions.

    Attributes
    ----------
    parents : tuple of tuple of int
        Those of every task.
    levels : tuple of int
        How many tasks stand one above the other over each.
    kind : {"outputs", "funnel"}
        What a child takes from its parents.
    flows : bool
        Whether a child's loss reaches its parents.
    """

    parents: tuple[tuple[int, ...], ...]
    levels: tuple[int, ...]
    kind: Literal["outputs", "funnel"]
    flows: bool


class Cascade(Recipe):
    """Dependencies among tasks: a mapping from the name of a task to those of its parents."""

    kind: ClassVar[Literal["outputs", "funnel"]]
    _parameter_constraints: dict[str, list[Any]] = {"parents": [dict]}

    parents: Mapping[str, Any]
    flows: bool

    def link(self, tasks: Sequence[Task]) -> Links:
        """Return the dependencies by position.

        Raises
        ------
        ValueError
            If a name is unknown, or tasks depend on each other in a circle.
        """
        self.validate()
        names = [task.name for task in tasks]
        parents: list[tuple[int, ...]] = [() for _ in names]
        for child, given in self.parents.items():
            if not isinstance(given, (str, list, tuple)):
                raise TypeError(
                    f"Got {given!r} as what task {child!r} depends on, expected a name or a list "
                    "of names."
                )
            several = [given] if isinstance(given, str) else list(given)
            unknown = [name for name in [child, *several] if name not in names]
            if unknown:
                raise ValueError(
                    f"Got {unknown} in task_dependencies, expected some of the tasks {names}. "
                    "Map the name of each task that depends on others to their names."
                )
            if len(set(several)) < len(several):
                raise ValueError(
                    f"Got {several} as what task {child!r} depends on, expected each once."
                )
            parents[names.index(child)] = tuple(names.index(name) for name in several)
        return Links(tuple(parents), _levels(parents, names), self.kind, self.flows)


def _levels(parents: Sequence[Sequence[int]], names: Sequence[str]) -> tuple[int, ...]:
    """Return the level of every task: one below its lowest parent."""
    levels: dict[int, int] = {}
    while len(levels) < len(names):
        ready = [
            t for t in range(len(names)) if t not in levels and set(parents[t]) <= levels.keys()
        ]
        if not ready:
            left = {t for t in range(len(names)) if t not in levels}
            while ends := left - {p for t in left for p in parents[t]}:
                left -= ends  # below the circle, not in it
            circle = [names[t] for t in sorted(left)]
            raise ValueError(
                f"Got task_dependencies in which {circle} depend on one another in a circle, "
                "expected an order. Leave one of them out."
            )
        for t in ready:
            levels[t] = 1 + max((levels[p] for p in parents[t]), default=-1)
    return tuple(levels[t] for t in range(len(names)))


class OutputCascade(Cascade):
    """A task's head reads, beside the features, what the network predicts of its parents.

    Probabilities of classes, and amounts as the network has them: standardised, or a logarithm for
    the Poisson loss. A dict as ``task_dependencies`` means this.

    Parameters
    ----------
    parents : dict of str to str or list of str
        What each dependent task depends on, by name; several levels are possible, circles not.
    backpropagate : bool, default=False
        Whether a child's loss also trains its parents' heads, through what it reads of them.

    Examples
    --------
    >>> from sk_mtl import MultiTaskClassifier
    >>> from sk_mtl.cascades import OutputCascade
    >>> chain = OutputCascade({"default": ["late"]}, backpropagate=True)
    >>> model = MultiTaskClassifier(task_dependencies=chain)
    """

    kind = "outputs"
    _parameter_constraints: dict[str, list[Any]] = {
        **Cascade._parameter_constraints,
        "backpropagate": ["boolean"],
    }

    def __init__(self, parents: Any, backpropagate: bool = False) -> None:
        self.parents = parents
        self.backpropagate = backpropagate

    @property
    def flows(self) -> bool:  # type: ignore[override]
        """Whether a child's loss reaches its parents."""
        return self.backpropagate


class Funnel(Cascade):
    """Two-class tasks of which one can only be positive where its parent is: click, then buy.

    A child's head gives its probability given the parent; what is predicted, and trained over all
    rows, is the product along the way. So p(child) <= p(parent) for every row, and a child that
    is rare learns from all of them. Of a task's two classes, sorted, the
    second is the positive one. Where a parent's label is negative, the child's is too: it
    may be missing there, and anything else is an error.

    Parameters
    ----------
    parents : dict of str to str
        The one task that each dependent task depends on; several levels are possible.

    References
    ----------
    Ma et al. 2018, "Entire Space Multi-Task Model: An Effective Approach for Estimating
    Post-Click Conversion Rate", equations 1 and 4.

    Examples
    --------
    >>> from sk_mtl import MultiTaskClassifier
    >>> from sk_mtl.cascades import Funnel
    >>> model = MultiTaskClassifier(task_dependencies=Funnel({"buy": "click"}))
    """

    kind = "funnel"
    flows = True

    def __init__(self, parents: Any) -> None:
        self.parents = parents

    def link(self, tasks: Sequence[Task]) -> Links:
        """Return the dependencies by position; see :class:`Cascade`."""
        links = super().link(tasks)
        for task, parents in zip(tasks, links.parents, strict=True):
            if len(parents) > 1:
                raise ValueError(
                    f"Got {len(parents)} tasks over {task.name!r} in a Funnel, expected one: its "
                    "probability is a product along one way. Use OutputCascade."
                )
            for one in [task, *(tasks[p] for p in parents)] if parents else ():
                if one.kind != "binary":
                    raise ValueError(
                        f"Got the {one.kind} task {one.name!r} in a Funnel, expected tasks of two "
                        "classes. Use OutputCascade."
                    )
                if one.n_classes == 1 and one.classes[0] != 0:  # type: ignore[index]
                    raise ValueError(
                        f"Got the single class {one.classes.tolist()[0]!r} in task "  # type: ignore[union-attr]
                        f"{one.name!r} of a Funnel, expected two, or 0 alone: where it is negative "
                        "cannot be told. Label the negative rows too."
                    )
        return links


def complete_labels(y: NDArray[Any], links: Links | None, tasks: Sequence[Task]) -> NDArray[Any]:
    """Return labels in which a funnel's children are negative where their parents are.

    Parameters
    ----------
    y : ndarray of shape (n_samples, n_tasks)
        Encoded labels, NaN where missing.
    links : Links or None
        The tasks' dependencies.
    tasks : sequence of Task
        The tasks.

    Returns
    -------
    ndarray of shape (n_samples, n_tasks)
        A copy, where something is to be completed.

    Raises
    ------
    ValueError
        If a child is positive where its parent is negative.
    """
    if links is None or links.kind != "funnel":
        return y
    y = y.copy()
    for child in np.argsort(links.levels, kind="stable"):
        for parent in links.parents[child]:
            below = y[:, parent] == 0
            wrong = int((y[below, child] == 1).sum())
            if wrong:
                yes, no = (np.atleast_1d(tasks[t].classes).tolist() for t in (child, parent))
                raise ValueError(
                    f"Got {wrong} rows in which {tasks[child].name!r} is positive ({yes[-1]!r}) "
                    f"and {tasks[parent].name!r} is not ({no[0]!r}), expected none in a Funnel. "
                    "Correct them, or use OutputCascade."
                )
            y[below, child] = 0
    return y


def bound_probabilities(found: Sequence[NDArray[Any]], links: Links | None) -> None:
    """Keep p(child) <= p(parent) to the last bit, in place: a sigmoid rounds either way.

    Parameters
    ----------
    found : sequence of ndarray
        What is predicted of every task; of those in a funnel ``(n_rows, 2)``.
    links : Links or None
        The tasks' dependencies.
    """
    if links is None or links.kind != "funnel":
        return
    for child in np.argsort(links.levels, kind="stable"):
        for parent in links.parents[child]:
            (no, yes), (no_above, yes_above) = found[child].T, found[parent].T
            np.maximum(no, no_above, out=no)
            np.minimum(yes, yes_above, out=yes)


def resolve_cascade(value: Any, tasks: Sequence[Task]) -> Links | None:
    """Return the tasks' dependencies from the parameter ``task_dependencies``.

    Parameters
    ----------
    value : dict, Cascade or None
        The parameter.
    tasks : sequence of Task
        The tasks.

    Returns
    -------
    Links or None
        None if no task depends on another.

    Raises
    ------
    ValueError, TypeError
        If they are not admissible; see :meth:`Cascade.link`.
    """
    if value is None:
        return None
    cascade = OutputCascade(value) if isinstance(value, dict) else value
    if not isinstance(cascade, Cascade):
        raise TypeError(
            f"Got task_dependencies={value!r}, expected None, a dict from task names to names, or "
            "an object of sk_mtl.cascades."
        )
    links = cascade.link(tasks)
    return links if any(links.parents) else None
