"""What weightings share that look at the inner products of the tasks' gradients."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sk_mtl.weighting._base import Balance, Weighting

Array = NDArray[np.float64]


class GramianWeighting(Weighting):
    """A weighting whose weights follow from the inner products of the gradients."""

    needs = "gramian"
    weighs = "gradient"


class GramianBalance(Balance):
    """Leaves absent tasks out, and computes in double precision on the CPU.

    There a handful of numbers is handled by numpy in a fraction of the time that torch takes to
    call as many operators.

    Parameters
    ----------
    task_weights : Tensor of shape (n_tasks,)
        The user's.
    """

    preference: Tensor
    resolution: float

    def __init__(self, task_weights: Tensor) -> None:
        super().__init__()
        self.register_buffer("preference", task_weights, persistent=False)

    @abstractmethod
    def weights(self, gramian: Array, preference: Array, tasks: NDArray[np.intp]) -> Array:
        """Return the weights of the tasks present.

        Parameters
        ----------
        gramian : ndarray of shape (n_present, n_present)
            Inner products.
        preference : ndarray of shape (n_present,)
            The user's weights; they add up to 1.
        tasks : ndarray of int, shape (n_present,)
            Which tasks these are.
        """

    def forward(self, losses: Tensor, gradients: Tensor, present: Tensor | None = None) -> Tensor:
        gramian = gradients.detach().cpu().double().numpy()
        preference = self.preference.cpu().double().numpy()
        n_tasks = len(gramian)
        tasks = np.arange(n_tasks) if present is None else np.flatnonzero(present.cpu().numpy())
        # Inner products are rounded in the type of the gradients: below this nothing is known.
        self.resolution = n_tasks * torch.finfo(gradients.dtype).eps
        weights = np.zeros(n_tasks)
        chosen, total = gramian[np.ix_(tasks, tasks)], preference[tasks].sum()
        if not np.isfinite(chosen).all():
            weights[tasks] = np.nan  # training diverged; its end is told elsewhere
        elif len(tasks):
            among = preference[tasks] / total if total > 0 else np.full(len(tasks), 1 / len(tasks))
            weights[tasks] = self.weights(chosen, among, tasks) if chosen.any() else among
        return torch.from_numpy(weights).to(gradients)
