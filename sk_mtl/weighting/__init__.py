"""Ways of balancing tasks.

``WEIGHTINGS`` is the only registration. To add one, write a file with a :class:`Weighting`
subclass and a line here; the contract tests pick it up.
"""

from sk_mtl.weighting._base import ConstantWeights, Weighting
from sk_mtl.weighting._static import Static
from sk_mtl.weighting._uniform import Uniform

WEIGHTINGS: dict[str, type[Weighting]] = {
    "static": Static,
    "uniform": Uniform,
}

__all__ = ["WEIGHTINGS", "ConstantWeights", "Static", "Uniform", "Weighting"]
