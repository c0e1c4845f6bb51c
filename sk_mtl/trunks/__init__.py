"""Architectures between the features and the heads.

``TRUNKS`` is the only registration. To add one, write a file with a :class:`Trunk` subclass and
a line here; the contract tests pick it up.
"""

from sk_mtl.trunks._base import Trunk, TrunkSpec
from sk_mtl.trunks._mmoe import MMoE
from sk_mtl.trunks._ple import PLE
from sk_mtl.trunks._shared_bottom import SharedBottom
from sk_mtl.trunks._single_task import SingleTask

TRUNKS: dict[str, type[Trunk]] = {
    "shared_bottom": SharedBottom,
    "mmoe": MMoE,
    "ple": PLE,
    "single_task": SingleTask,
}

__all__ = ["PLE", "TRUNKS", "MMoE", "SharedBottom", "SingleTask", "Trunk", "TrunkSpec"]
