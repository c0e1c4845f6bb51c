"""Poisson deviance."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sk_mtl.losses._base import RegressionLoss


class Poisson(RegressionLoss):
    """Half the Poisson deviance, for counts and rates; the raw output is the log of the mean.

    Targets stay in their own units and must be non-negative.

    References
    ----------
    McCullagh and Nelder 1989, "Generalized Linear Models", section 2.3.

    Examples
    --------
    >>> import torch
    >>> from sk_mtl.losses import Poisson
    >>> Poisson().elementwise(torch.zeros(1, 1), torch.ones(1))  # a perfect rate of 1
    tensor([0.])
    """

    standardizes = False
    lowest = 0.0

    def check_targets(self, values: NDArray[np.float64], task: str) -> None:
        """Raise where a count is negative."""
        if (values < 0).any():
            raise ValueError(
                f"Got the target {values.min()} in task {task!r}, expected non-negative values "
                "for loss 'poisson'. Use 'squared_error'."
            )

    def elementwise(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return exp(raw) - target * raw - (target - target * log(target))."""
        log_mean = raw.squeeze(-1)
        saturated = target - torch.xlogy(target, target)  # makes the best loss zero
        return log_mean.exp() - target * log_mean - saturated

    def to_prediction(self, raw: Tensor) -> Tensor:
        """Return the mean."""
        return raw.squeeze(-1).exp()
