"""What a trunk is, and what it is built from."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from torch import nn

from sk_mtl._support import Recipe
from sk_mtl.layers import Draws, StackedLinear, StackedMLP, shifted


@dataclass
class TrunkSpec:
    """What the estimator asks of a trunk.

    Attributes
    ----------
    n_inputs : int
        Number of encoded features.
    n_tasks : int
        Number of tasks.
    hidden_layer_sizes : tuple of int
        Widths of the hidden layers of every perceptron in the trunk.
    activation : str
        Name of the activation.
    dropout : float or sequence of float
        Share of units dropped after every hidden layer; one for all, or one a stacked network.
    draws : Draws
        Where initial values come from; holds the stack axes.
    seed : int or sequence of int
        Seed of the dropout masks; likewise.
    """

    n_inputs: int
    n_tasks: int
    hidden_layer_sizes: tuple[int, ...]
    activation: str
    dropout: float | Sequence[float]
    draws: Draws
    seed: int | Sequence[int] = 0
    _n_built: int = field(default=0, init=False)

    def mlp(self, n_inputs: int, *, parallel: int | None = None, tie: bool = False) -> StackedMLP:
        """Return hidden layers as the estimator asks for them, ``parallel`` side by side."""
        self._n_built += 1
        return StackedMLP(
            n_inputs,
            self.hidden_layer_sizes,
            self.draws,
            activation=self.activation,
            dropout=self.dropout,
            seed=shifted(self.seed, 1000 * self._n_built),  # masks of its own
            parallel=parallel,
            tie=tie,
            by_rows=parallel is not None and not tie,
        )

    def gate(self, n_inputs: int, n_outputs: int, *, parallel: int | None = None) -> StackedLinear:
        """Return the linear layer under a gate's softmax."""
        return StackedLinear(n_inputs, n_outputs, self.draws, parallel=parallel)

    def require_hidden_layers(self, trunk: Trunk) -> None:
        """Raise where there is nothing that experts could be made of."""
        if not self.hidden_layer_sizes:
            raise ValueError(
                f"Got hidden_layer_sizes=() with trunk {trunk!r}, expected at least one layer: "
                "its experts are made of them. Use trunk='shared_bottom' for a linear model."
            )


class Trunk(Recipe):
    """An architecture: what stands between the features and the heads of the tasks.

    Subclass it and write ``build``; an object of the subclass can then be passed as ``trunk=``.
    The module that ``build`` returns has an attribute ``n_outputs`` and maps
    ``(*stack, batch, n_inputs)`` to ``(*stack, task, batch, n_outputs)``, or, if all tasks see
    the same representation, to ``(*stack, batch, n_outputs)``. Initial values come from
    ``spec.draws``, and nothing may loop over tasks or experts in ``forward``. If the module has a
    method ``penalty``, what it returns, one number a network, is added to the loss.

    Attributes
    ----------
    private : bool
        Whether tasks share no parameter: every weight matrix is then one of a stack, a task
        each, and every bias a row. Their losses are added, not averaged, and their heads start
        from the same values, so that every task is trained as if it were alone.
    """

    private: ClassVar[bool] = False

    @abstractmethod
    def build(self, spec: TrunkSpec) -> nn.Module:
        """Return the trunk's module."""
