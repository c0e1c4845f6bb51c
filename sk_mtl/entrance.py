"""A trunk with what stands before it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sk_mtl.embeddings import Inputs
from sk_mtl.layers import Draws


class InputScales(nn.Module):
    """A learned factor for every input, which starts at one.

    A network that has to make all of a layer's weights small to leave an input out learns slowly
    to do so; a single factor is learned fast. It is written as 1 + rate * gain, so that a step of
    Adam changes it by ``rate`` times the learning rate.

    Parameters
    ----------
    n_inputs : int
        Number of inputs.
    rate : float
        How many times as fast as other weights the factors learn.
    draws : Draws
        Holds the stack axes.
    parallel : int or None
        Number of tasks, where each has factors of its own.

    Notes
    -----
    Shape: ``(*stack[, task], batch, n_inputs)``, or a table ``(batch, n_inputs)`` for all networks
    of a stack, -> ``(*stack[, task], batch, n_inputs)``.

    References
    ----------
    Holzmüller et al. 2024, "Better by Default: Strong Pre-Tuned MLPs and Boosted Trees on Tabular
    Data", section 3.2 (scaling layer, and its learning rate of six times that of the others).
    """

    def __init__(self, n_inputs: int, rate: float, draws: Draws, parallel: int | None) -> None:
        super().__init__()
        side = () if parallel is None else (parallel,)
        self.rate = rate
        self.gain = nn.Parameter(torch.zeros(*draws.stack, *side, n_inputs, dtype=draws.dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Multiply every input by its factor."""
        factors = (1 + self.rate * self.gain).unsqueeze(-2)
        if 2 < x.dim() < factors.dim():  # a network's table, which all of its tasks read
            x = x.unsqueeze(-3)
        return x * factors


class Entrance(nn.Module):
    """A trunk that reads embedded and scaled inputs.

    All that is learned here counts as shared by the tasks, unless the trunk is private.

    Parameters
    ----------
    inputs : Inputs or None
        What is made of the encoded table; None for the table as it is.
    scales : InputScales or None
        What they are multiplied by.
    trunk : nn.Module
        Built by a :class:`~sk_mtl.trunks.Trunk` for that many inputs.

    Attributes
    ----------
    n_outputs : int
        Width of the output.

    Notes
    -----
    Shape: ``(*stack, batch, width)`` -> ``(*stack[, task], batch, n_outputs)``.
    """

    def __init__(self, inputs: Inputs | None, scales: InputScales | None, trunk: nn.Module) -> None:
        super().__init__()
        self.inputs, self.scales, self.trunk = inputs, scales, trunk
        self.n_outputs = int(trunk.n_outputs)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Return what the heads read."""
        if self.inputs is not None:
            x = self.inputs(x)
        if self.scales is not None:
            x = self.scales(x)
        features: Tensor = self.trunk(x)
        return features


class PenalisedEntrance(Entrance):
    """One whose trunk adds something to the loss."""

    def penalty(self) -> Tensor:
        """Return what is added, one number a network."""
        added: Tensor = self.trunk.penalty()  # type: ignore[operator]
        return added


def enter(inputs: Inputs | None, scales: InputScales | None, trunk: nn.Module) -> nn.Module:
    """Return the trunk with what stands before it; the trunk itself, if nothing does."""
    if inputs is None and scales is None:
        return trunk
    made = PenalisedEntrance if hasattr(trunk, "penalty") else Entrance
    return made(inputs, scales, trunk)
