"""Penalties on the heads of related tasks.

``PENALTIES`` is the only registration. To add one, write a file with a :class:`Penalty` subclass
and a line here; the contract tests pick it up.
"""

from sk_mtl.penalties._base import Penalty, Relation
from sk_mtl.penalties._cluster import Cluster
from sk_mtl.penalties._covariance import Covariance
from sk_mtl.penalties._graph import Graph
from sk_mtl.penalties._trace_norm import TraceNorm

PENALTIES: dict[str, type[Penalty]] = {
    "covariance": Covariance,
    "trace_norm": TraceNorm,
    "graph": Graph,
    "cluster": Cluster,
}

__all__ = ["PENALTIES", "Cluster", "Covariance", "Graph", "Penalty", "Relation", "TraceNorm"]
