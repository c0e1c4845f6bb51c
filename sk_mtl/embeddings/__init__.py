"""What stands between the encoded table and the trunk.

``EMBEDDINGS`` is the only registration. To add one, write a file with an :class:`Embedding`
subclass and a line here; the contract tests pick it up.
"""

from sk_mtl.embeddings._base import Embedding, Prepared
from sk_mtl.embeddings._inputs import Inputs, build_inputs, prepare_inputs
from sk_mtl.embeddings._linear import Linear
from sk_mtl.embeddings._periodic import Periodic
from sk_mtl.embeddings._piecewise_linear import PiecewiseLinear

EMBEDDINGS: dict[str, type[Embedding]] = {
    "linear": Linear,
    "piecewise_linear": PiecewiseLinear,
    "periodic": Periodic,
}

__all__ = [
    "EMBEDDINGS",
    "Embedding",
    "Inputs",
    "Linear",
    "Periodic",
    "PiecewiseLinear",
    "Prepared",
    "build_inputs",
    "prepare_inputs",
]
