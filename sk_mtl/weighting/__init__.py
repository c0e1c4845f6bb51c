"""Ways of balancing tasks.

``WEIGHTINGS`` is the only registration. To add one, write a file with a :class:`Weighting`
subclass and a line here; the contract tests pick it up.
"""

from typing import Any

from sk_mtl._support import resolve_recipe
from sk_mtl.weighting._aligned_mtl import AlignedMTL
from sk_mtl.weighting._base import Balance, ConstantWeights, Weighting
from sk_mtl.weighting._by_level import ByLevel
from sk_mtl.weighting._cagrad import CAGrad
from sk_mtl.weighting._config import ConFIG
from sk_mtl.weighting._dualproj import DualProj
from sk_mtl.weighting._dwa import DWA
from sk_mtl.weighting._excess_mtl import ExcessMTL
from sk_mtl.weighting._fairgrad import FairGrad
from sk_mtl.weighting._famo import FAMO
from sk_mtl.weighting._geometric_mean import GeometricMean
from sk_mtl.weighting._graddrop import GradDrop
from sk_mtl.weighting._gradnorm import GradNorm
from sk_mtl.weighting._gradvac import GradVac
from sk_mtl.weighting._imtl_g import IMTLG
from sk_mtl.weighting._imtl_l import IMTLL
from sk_mtl.weighting._mgda import MGDA
from sk_mtl.weighting._nash_mtl import NashMTL
from sk_mtl.weighting._pcgrad import PCGrad
from sk_mtl.weighting._random import Random
from sk_mtl.weighting._representation_gradients import RepresentationGradients
from sk_mtl.weighting._static import Static
from sk_mtl.weighting._stch import STCH
from sk_mtl.weighting._torchjd import from_torchjd, is_torchjd
from sk_mtl.weighting._uncertainty import Uncertainty
from sk_mtl.weighting._uniform import Uniform
from sk_mtl.weighting._upgrad import UPGrad

WEIGHTINGS: dict[str, type[Weighting]] = {
    "static": Static,
    "uniform": Uniform,
    "by_level": ByLevel,
    # by the losses
    "uncertainty": Uncertainty,
    "dwa": DWA,
    "random": Random,
    "geometric_mean": GeometricMean,
    "stch": STCH,
    "famo": FAMO,
    "imtl_l": IMTLL,
    # by the gradients of the shared part
    "gradnorm": GradNorm,
    "pcgrad": PCGrad,
    "gradvac": GradVac,
    "cagrad": CAGrad,
    "mgda": MGDA,
    "imtl_g": IMTLG,
    "aligned_mtl": AlignedMTL,
    "graddrop": GradDrop,
    "nash_mtl": NashMTL,
    "fairgrad": FairGrad,
    "upgrad": UPGrad,
    "dualproj": DualProj,
    "config": ConFIG,
    "excess_mtl": ExcessMTL,
    # by those of the shared features
    "representation_gradients": RepresentationGradients,
}


def resolve_weighting(value: Any) -> Weighting:
    """Return the weighting that a name, a recipe or an object of torchjd's stands for."""
    if is_torchjd(value):
        return from_torchjd(value)
    found: Weighting = resolve_recipe(value, WEIGHTINGS, Weighting, "weighting")
    return found


__all__ = [
    "DWA",
    "FAMO",
    "IMTLG",
    "IMTLL",
    "MGDA",
    "STCH",
    "WEIGHTINGS",
    "AlignedMTL",
    "Balance",
    "ByLevel",
    "CAGrad",
    "ConFIG",
    "ConstantWeights",
    "DualProj",
    "ExcessMTL",
    "FairGrad",
    "GeometricMean",
    "GradDrop",
    "GradNorm",
    "GradVac",
    "NashMTL",
    "PCGrad",
    "Random",
    "RepresentationGradients",
    "Static",
    "UPGrad",
    "Uncertainty",
    "Uniform",
    "Weighting",
]
