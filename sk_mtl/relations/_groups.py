"""Groups of tasks by their affinity."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import average, cut_tree
from scipy.spatial.distance import squareform


def group_by_affinity(affinity: NDArray[np.float64], n_groups: int | str) -> list[list[int]]:
    """Return groups of tasks, each in ascending order, by their first tasks.

    The two groups with the highest mean affinity between their tasks are joined, again and again
    (average linkage), until there are ``n_groups``; or, for "auto", as :func:`count_groups` says.

    Parameters
    ----------
    affinity : ndarray of shape (n_tasks, n_tasks)
        Both directions are averaged; the diagonal is not read. NaN counts as zero.
    n_groups : int or "auto"
        How many.
    """
    n_tasks = len(affinity)
    if n_tasks == 1 or n_groups == 1:
        return [list(range(n_tasks))]
    both = np.nan_to_num(affinity + affinity.T) / 2
    np.fill_diagonal(both, -np.inf)
    distance = both.max() - both
    np.fill_diagonal(distance, 0.0)
    tree = average(squareform(distance, checks=False))
    if n_groups == "auto":
        n_groups = count_groups(both.max() - tree[:, 2])
    labels = cut_tree(tree, n_clusters=n_groups).ravel()
    groups: dict[int, list[int]] = {}
    for task, label in enumerate(labels.tolist()):
        groups.setdefault(label, []).append(task)
    return list(groups.values())


def count_groups(joined_at: NDArray[np.float64]) -> int:
    """Return at how many groups to end, given the affinities at which groups are joined.

    At one, if none is below zero. Otherwise before the affinity falls the most: to a value below
    zero, from the one before it, at first from zero. What is measured scatters around zero for
    tasks that neither help nor hurt, so the sign alone would keep them apart by chance.

    Parameters
    ----------
    joined_at : ndarray of shape (n_tasks - 1,)
        In descending order.
    """
    before = np.concatenate([[max(joined_at[0], 0.0)], joined_at[:-1]])
    falls = np.where(joined_at < 0, before - joined_at, 0.0)
    if not falls.any():
        return 1
    return len(joined_at) + 1 - int(falls.argmax())
