"""What a loss is."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sk_mtl._support import Recipe


class Loss(Recipe):
    """Turns raw outputs and encoded targets into one number a sample and task.

    Subclass it, set ``kinds`` and write ``elementwise`` and ``to_prediction``; an object of the
    subclass can then be passed as ``loss=``. Every function must work over any leading axes,
    since tasks and stacked networks are evaluated together, and losses should be non-negative,
    since early stopping compares each with its first value.

    Attributes
    ----------
    kinds : frozenset of str
        Task types that the loss fits: "binary", "multiclass", "regression".
    standardizes : bool
        Whether regression targets are standardised per task before the loss sees them.
    lowest : float
        Least amount that there can be, in the task's own units; intervals go no lower.
    mixes_linear : bool
        Whether linear models, of least squared error or log loss, predict what raw outputs do.
    likelihood_exponent : float
        The a of the likelihood that the loss stands for once it is weighted, -log p = w L - a
        log w: 1/2 for half the squared error, 1 for absolute errors.
    """

    kinds: ClassVar[frozenset[str]] = frozenset()
    standardizes: ClassVar[bool] = True
    lowest: ClassVar[float] = -math.inf
    mixes_linear: ClassVar[bool] = False
    likelihood_exponent: ClassVar[float] = 0.5

    def n_outputs(self, n_classes: int) -> int:
        """Return how many raw outputs a task needs.

        Parameters
        ----------
        n_classes : int
            Number of classes; 0 for a regression task.
        """
        return n_classes if n_classes > 2 else 1

    def check_targets(self, values: NDArray[np.float64], task: str) -> None:
        """Raise ``ValueError`` where the loss is not defined for these regression targets."""

    @abstractmethod
    def elementwise(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return the loss of every sample.

        Shape: raw ``(..., batch, n_outputs)``, target ``(..., batch)`` -> ``(..., batch)``.
        """

    @abstractmethod
    def to_prediction(self, raw: Tensor) -> Tensor:
        """Return class probabilities ``(..., batch, n_classes)`` or values ``(..., batch)``."""


class RegressionLoss(Loss):
    """A loss whose raw output is the prediction itself."""

    kinds = frozenset({"regression"})

    def to_prediction(self, raw: Tensor) -> Tensor:
        """Return the values as they are."""
        return raw.squeeze(-1)
