"""Weights by excess risk."""

from __future__ import annotations

from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from sk_mtl._support import Interval
from sk_mtl.weighting._base import Balance, Weighting, over_present

EPSILON = 1e-7


class ExcessMTL(Weighting):
    """Tasks that are far from what they can reach count more; noise that cannot be learned, not.

    How far a task is from its optimum is estimated by its gradient and the sum of its squares so
    far, relative to that of its first batch; the weights are moved up by it, multiplicatively.

    Parameters
    ----------
    step_size : float, default=0.01
        How fast the weights move. With 1 a task may have all the weight after a few epochs.

    References
    ----------
    He et al. 2024, "Robust Multi-Task Learning with Excess Risks", algorithm 1 and equation 5.
    The diagonal of the Hessian is that of Adagrad, over the shared parameters.

    Examples
    --------
    >>> import torch
    >>> from sk_mtl.weighting import ExcessMTL
    >>> balance = ExcessMTL(step_size=1.0).build(torch.ones(2))
    >>> gradients = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    >>> _ = balance(torch.ones(2), gradients)  # the first batch sets the measure
    >>> balance(torch.ones(2), gradients * torch.tensor([[1.0], [0.1]])).round(decimals=2)
    tensor([0.4200, 0.5800])
    """

    needs = "jacobian"
    weighs = "gradient"
    per_parameter = True
    _parameter_constraints = {"step_size": [Interval(Real, 0, None, closed="neither")]}

    def __init__(self, step_size: float = 0.01) -> None:
        self.step_size = step_size

    def build(self, task_weights: Tensor) -> nn.Module:
        """Return the module; see :class:`Weighting`."""
        return _ExcessMTL(self.step_size, task_weights)


class _ExcessMTL(Balance):
    logits: Tensor
    first: Tensor
    squares: Tensor

    def __init__(self, step_size: float, like: Tensor) -> None:
        super().__init__()
        self.step_size = step_size
        self.register_buffer("logits", torch.zeros_like(like))
        self.register_buffer("first", torch.full_like(like, torch.nan))
        self.register_buffer("squares", like.new_zeros(len(like), 0))  # sized by the first batch

    def _load_from_state_dict(self, state: Any, prefix: str, *args: Any) -> None:
        self.squares = torch.zeros_like(state[f"{prefix}squares"])  # else of another size
        super()._load_from_state_dict(state, prefix, *args)

    def forward(self, losses: Tensor, gradients: Tensor, present: Tensor | None = None) -> Tensor:
        here = torch.ones_like(losses, dtype=torch.bool) if present is None else present
        if not self.squares.shape[1]:
            self.squares = torch.zeros_like(gradients)
        square = gradients.square()
        self.squares.add_(square)
        excess = (square / (self.squares + EPSILON).sqrt()).sum(dim=1)
        new = here & self.first.isnan()
        self.first.copy_(torch.where(new, excess, self.first))
        # torchjd's reading of the algorithm: the first batch counts as it is
        relative = torch.where(new, excess, excess / (self.first + EPSILON))
        self.logits.add_(torch.where(here, self.step_size * relative, 0.0))
        lowest = torch.finfo(self.logits.dtype).min  # not infinity: there may be no task at all
        return over_present(torch.where(here, self.logits, lowest).softmax(dim=0), here)
