"""Helpers of the tests of relations: tables whose groups of tasks are known."""

from __future__ import annotations

import numpy as np
from plain import plain

from sk_mtl import MultiTaskRegressor


def planted(seed, *, sizes=(3, 3), noise=0.5, n_rows=300):
    """Two groups of tasks: a wave along a direction of two features each, and noise a task.

    Tasks of a group differ in their noise only, so that each helps the others. A wave takes
    three hidden units of a tanh network: with no more, two groups contend for them.
    """
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_rows, 4))
    directions = rng.normal(size=(2, 2))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    waves = [np.sin(2 * X[:, 2 * g : 2 * g + 2] @ directions[g]) for g in range(2)]
    columns = [
        (wave - wave.mean()) / wave.std() + noise * rng.normal(size=n_rows)
        for wave, size in zip(waves, sizes, strict=True)
        for _ in range(size)
    ]
    return X, np.column_stack(columns)


def contested(**params):
    """A network that has room for one of the groups."""
    defaults = {
        "hidden_layer_sizes": (3,),
        "activation": "tanh",
        "learning_rate_init": 0.02,
        "max_iter": 100,
        "batch_size": 50,
        "tol": 0.0,
    }
    return plain(MultiTaskRegressor, **(defaults | params))
