"""A moving average of the weights, which is what predicts in the end."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

WARM_UP = 10  # steps over which the average forgets faster, so that it leaves the start behind


class Averages:
    """Exponential moving averages of parameters, exchanged with them to validate and to predict.

    Parameters
    ----------
    parameters : sequence of nn.Parameter
        What is trained, of one network or a stack.
    decay : float
        Share of the average that a step leaves, in [0, 1); 0 keeps the last weights.

    References
    ----------
    Polyak and Juditsky 1992, "Acceleration of Stochastic Approximation by Averaging"; Izmailov et
    al. 2018, "Averaging Weights Leads to Wider Optima and Better Generalization".
    """

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        self.parameters, self.decay = list(parameters), decay
        self.n_steps = 0
        self.others: list[Tensor] = []  # averages while training, else the weights of the last step
        self.exchanged = False
        if decay:
            self.others = [p.detach().clone() for p in parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights of a step in."""
        if not self.others:
            return
        self.n_steps += 1
        decay = min(self.decay, self.n_steps / (self.n_steps + WARM_UP))
        torch._foreach_lerp_(self.others, [p.data for p in self.parameters], 1 - decay)

    def exchange(self, *, averaged: bool) -> None:
        """Put the averages into the network, or the weights that are trained."""
        if averaged is self.exchanged or not self.others:
            return
        self.exchanged = averaged
        for i, parameter in enumerate(self.parameters):
            self.others[i], parameter.data = parameter.data, self.others[i]

    def keep(self, index: Tensor) -> None:
        """Let all networks of a stack but those of the given indices go."""
        self.others = [other.index_select(0, index) for other in self.others]
