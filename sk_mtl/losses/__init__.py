"""Losses: raw outputs and encoded targets to one number a sample and task.

``LOSSES`` is the only registration. To add one, write a file with a :class:`Loss` subclass and
a line here; the contract tests pick it up.
"""

from sk_mtl.losses._absolute_error import AbsoluteError
from sk_mtl.losses._base import Loss, RegressionLoss
from sk_mtl.losses._focal import Focal
from sk_mtl.losses._huber import Huber
from sk_mtl.losses._log_loss import LogLoss
from sk_mtl.losses._poisson import Poisson
from sk_mtl.losses._quantile import Quantile
from sk_mtl.losses._squared_error import SquaredError

LOSSES: dict[str, type[Loss]] = {
    "log_loss": LogLoss,
    "focal": Focal,
    "squared_error": SquaredError,
    "absolute_error": AbsoluteError,
    "huber": Huber,
    "poisson": Poisson,
    "quantile": Quantile,
}

__all__ = [
    "LOSSES",
    "AbsoluteError",
    "Focal",
    "Huber",
    "LogLoss",
    "Loss",
    "Poisson",
    "Quantile",
    "RegressionLoss",
    "SquaredError",
]
