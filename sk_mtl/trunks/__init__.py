"""Architectures between the features and the heads.

``TRUNKS`` is the only registration. To add one, write a file with a :class:`Trunk` subclass and
a line here; the contract tests pick it up.
"""

from sk_mtl.trunks._adatt import AdaTT
from sk_mtl.trunks._attention import AttentionGate
from sk_mtl.trunks._base import Trunk, TrunkSpec
from sk_mtl.trunks._cross_stitch import CrossStitch
from sk_mtl.trunks._dselect_k import DSelectK
from sk_mtl.trunks._mmoe import MMoE
from sk_mtl.trunks._ple import PLE
from sk_mtl.trunks._shared_bottom import SharedBottom
from sk_mtl.trunks._single_task import SingleTask
from sk_mtl.trunks._soft_sharing import SoftSharing

TRUNKS: dict[str, type[Trunk]] = {
    "shared_bottom": SharedBottom,
    "mmoe": MMoE,
    "ple": PLE,
    "cross_stitch": CrossStitch,
    "dselect_k": DSelectK,
    "attention": AttentionGate,
    "adatt": AdaTT,
    "single_task": SingleTask,
    "soft_sharing": SoftSharing,
}

__all__ = [
    "PLE",
    "TRUNKS",
    "AdaTT",
    "AttentionGate",
    "CrossStitch",
    "DSelectK",
    "MMoE",
    "SharedBottom",
    "SingleTask",
    "SoftSharing",
    "Trunk",
    "TrunkSpec",
]
