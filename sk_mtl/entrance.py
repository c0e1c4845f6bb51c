"""A trunk with what stands before it."""

from __future__ import annotations

from torch import Tensor, nn

from sk_mtl.embeddings import Inputs


class Entrance(nn.Module):
    """A trunk that reads embedded inputs.

    All that is learned here counts as shared by the tasks, unless the trunk is private.

    Parameters
    ----------
    inputs : Inputs
        What is made of the encoded table.
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

    def __init__(self, inputs: Inputs, trunk: nn.Module) -> None:
        super().__init__()
        self.inputs, self.trunk = inputs, trunk
        self.n_outputs = int(trunk.n_outputs)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Return what the heads read."""
        features: Tensor = self.trunk(self.inputs(x))
        return features


class PenalisedEntrance(Entrance):
    """One whose trunk adds something to the loss."""

    def penalty(self) -> Tensor:
        """Return what is added, one number a network."""
        added: Tensor = self.trunk.penalty()  # type: ignore[operator]
        return added


def enter(inputs: Inputs | None, trunk: nn.Module) -> nn.Module:
    """Return the trunk with what stands before it; the trunk itself, if nothing does."""
    if inputs is None:
        return trunk
    return (PenalisedEntrance if hasattr(trunk, "penalty") else Entrance)(inputs, trunk)
