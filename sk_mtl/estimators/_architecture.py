"""The parameters that shape the network: they cannot change when its training goes on."""

from __future__ import annotations

from typing import Any

import numpy as np

from sk_mtl._support import resolve_recipe
from sk_mtl.cascades._recipes import resolve_cascade
from sk_mtl.embeddings import EMBEDDINGS, Embedding
from sk_mtl.estimators._describe import kinds_of, resolve_losses
from sk_mtl.trunks import TRUNKS, Trunk


def architecture(estimator: Any) -> dict[str, tuple[str, Any]]:
    """Return every such parameter of an estimator: as it was given, and what it means."""
    est = estimator
    meaning = {
        "trunk": resolve_recipe(est.trunk, TRUNKS, Trunk, "trunk"),
        "embedding": est.embedding
        and resolve_recipe(est.embedding, EMBEDDINGS, Embedding, "embedding"),
        "input_scale_rate": est.input_scale_rate,
        "categorical_features": est.categorical_features,
        "scaling": est.scaling,
        "hidden_layer_sizes": layer_sizes(est.hidden_layer_sizes, "hidden_layer_sizes"),
        "head_hidden_layer_sizes": layer_sizes(
            est.head_hidden_layer_sizes, "head_hidden_layer_sizes"
        ),
        "activation": est.activation,
        "dropout": est.dropout,
        "task_dependencies": resolve_cascade(est.task_dependencies, est._tasks),
        "loss": resolve_losses(est.loss, kinds_of(est._tasks), est.task_names_),
    }
    return {name: (repr(getattr(est, name)), plain(value)) for name, value in meaning.items()}


def check_same_architecture(
    old: dict[str, tuple[str, Any]], new: dict[str, tuple[str, Any]]
) -> None:
    """Raise where a parameter no longer means what it meant when the network was built."""
    for name, (given, meaning) in new.items():
        if meaning != old[name][1]:
            raise ValueError(
                f"Got {name}={given} to continue a network with {name}={old[name][0]}, expected "
                "the same. Set warm_start=False, or clone the estimator."
            )


def layer_sizes(value: Any, what: str) -> tuple[int, ...]:
    """Return layer sizes as a tuple of positive ints."""
    try:
        sizes = np.atleast_1d(np.asarray(value)) if np.size(value) else np.zeros(0, dtype=int)
    except ValueError:  # nested, of unequal lengths
        sizes = np.zeros((0, 0))
    if sizes.ndim != 1 or sizes.dtype.kind not in "iu" or (sizes < 1).any():
        raise ValueError(f"Got {what}={value!r}, expected positive ints. Pass one a layer.")
    return tuple(int(s) for s in sizes)


def plain(value: Any) -> Any:
    """Return what can be compared: a recipe as its class and parameters, sequences as tuples."""
    if hasattr(value, "get_params"):
        parameters = value.get_params(deep=False)
        return type(value), {name: plain(each) for name, each in parameters.items()}
    if isinstance(value, np.ndarray):
        value = value.tolist()
    return tuple(plain(each) for each in value) if isinstance(value, (list, tuple)) else value
