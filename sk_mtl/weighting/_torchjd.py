"""The one file that knows torchjd: its objects as weightings."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sk_mtl._support import fingerprint
from sk_mtl.weighting._base import Balance, Weighting
from sk_mtl.weighting._streams import Streams


def is_torchjd(value: Any) -> bool:
    """Whether an object is one of torchjd's, or of a class derived from one; imports nothing."""
    return any(base.__module__.split(".")[0] == "torchjd" for base in type(value).__mro__)


def learned(method: Any) -> bool:
    """Whether an object wants an optimiser to train its parameters; FAMO trains its own."""
    return not hasattr(method, "update") and any(True for _ in method.parameters())


def from_torchjd(method: Any) -> Weighting:
    """Return a weighting that balances by an object of torchjd's.

    Parameters
    ----------
    method : Scalarizer, Weighting or Aggregator of torchjd
        Used as it is; every fit begins with a copy.

    Raises
    ------
    TypeError
        If it is something else.
    """
    from torchjd.aggregation import (
        Aggregator,
        CRMOGMWeighting,
        GramianWeightedAggregator,
        MoDoWeighting,
        SDMGradWeighting,
        WeightedAggregator,
    )
    from torchjd.aggregation import Weighting as TheirWeighting
    from torchjd.aggregation._weighting_bases import _GramianWeighting
    from torchjd.scalarization import Scalarizer

    if isinstance(method, Scalarizer) and learned(method):
        raise TypeError(
            f"Got weighting={method!r}, expected an object without parameters of its own: they are "
            "not trained here. Use weighting='uncertainty' or 'imtl_l'."
        )
    if isinstance(method, Scalarizer):
        return ByScalarizer(method)
    if isinstance(method, GramianWeightedAggregator):
        return ByGramian(method.gramian_weighting)
    of_products = (_GramianWeighting, MoDoWeighting, SDMGradWeighting)  # of two batches, those
    inner = method.weighting if isinstance(method, CRMOGMWeighting) else method
    if isinstance(inner, of_products):
        return ByGramian(method)
    if isinstance(method, WeightedAggregator):
        return ByJacobian(method.weighting)
    if isinstance(method, TheirWeighting):
        return ByJacobian(method)
    if isinstance(method, Aggregator):
        return ByDirection(method)
    raise TypeError(
        f"Got weighting={method!r}, expected a Scalarizer, a Weighting or an Aggregator of torchjd."
    )


class _ByTorchjd(Weighting):
    """A weighting by an object of torchjd's.

    Parameters
    ----------
    method : object
        Of torchjd.
    """

    stacks = False

    def __init__(self, method: Any) -> None:
        self.method = method

    def build(self, task_weights: Tensor) -> nn.Module:
        """Return the module; see :class:`Weighting`."""
        return TorchjdBalance(copy.deepcopy(self.method), self.needs, self.weighs == "direction")


class ByScalarizer(_ByTorchjd):
    """Weights are the slopes of a scalarizer at the losses."""


class ByGramian(_ByTorchjd):
    """Weights from the inner products of the gradients."""

    needs = "gramian"
    weighs = "gradient"


class ByJacobian(_ByTorchjd):
    """Weights from the gradients."""

    needs = "jacobian"
    weighs = "gradient"

    @property
    def per_parameter(self) -> bool:  # type: ignore[override]
        """Whether it is, or has within, the one method of theirs that does."""
        from torchjd.aggregation import ExcessMTLWeighting

        return any(isinstance(part, ExcessMTLWeighting) for part in self.method.modules())


class ByDirection(_ByTorchjd):
    """A direction from the gradients."""

    needs = "jacobian"
    weighs = "direction"


class TorchjdBalance(Balance):
    """Calls an object of torchjd's for the tasks present, with random numbers of our own.

    Parameters
    ----------
    method : object
        Of torchjd; what it remembers is pickled and handed on with the module.
    needs : {"losses", "gramian", "jacobian"}
        What it is called with.
    gives_direction : bool
        Whether it gives a direction rather than weights.
    """

    def __init__(self, method: Any, needs: str, gives_direction: bool) -> None:
        super().__init__()
        # In a list, as most of it is no tensor and `state_dict` would lose it.
        self._method = [method]
        self._given = fingerprint(copy.deepcopy(method))
        self._of_losses, self._gives_direction = needs == "losses", gives_direction
        self._of_products = needs == "gramian"
        self.streams = Streams()
        self.looks_back = hasattr(method, "update")
        self._at_epochs_end = hasattr(method, "step") and self._of_losses

    def seed(self, seeds: Sequence[int]) -> None:
        """Begin the stream of random numbers; see :class:`Balance`."""
        self.streams.seed(seeds)

    def forward(
        self, losses: Tensor, gradients: Tensor | None = None, present: Tensor | None = None
    ) -> Tensor:
        """Return weights or a direction; absent tasks are not shown to the method."""
        tasks = None if present is None or bool(present.all()) else present.nonzero().squeeze(1)
        given = losses if self._of_losses else gradients
        assert given is not None
        if tasks is not None:
            self._check_forgets()
            given = given[tasks]
            if self._of_products:
                given = given[:, tasks]
        if not len(given):
            return torch.zeros_like(gradients[0] if self._gives_direction else losses)  # type: ignore[index]
        found = self._call(given.detach())
        if self._gives_direction:
            return found
        if tasks is None:
            return found
        return torch.zeros_like(losses).index_copy(0, tasks, found)

    def _check_forgets(self) -> None:
        """Raise where what the method remembers is of a number of tasks, and some are absent."""
        if hasattr(self._method[0], "reset"):  # torchjd's Stateful
            raise ValueError(
                f"Got a batch without labels of some tasks, with weighting={self._method[0]!r}, "
                "which remembers a number for every task in order; expected labels of all. Use "
                "a weighting by name, such as 'gradvac' or 'famo', or larger batches."
            )

    def _call(self, given: Tensor) -> Tensor:
        method = self._method[0].to(given.device)
        seed = int(torch.randint(2**62, (), generator=self.streams.streams[0].generator()))
        devices = [given.device] if given.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):  # its methods draw from the global stream
            torch.manual_seed(seed)
            if not self._of_losses:
                return method(given).detach()  # type: ignore[no-any-return]
            with torch.enable_grad():
                at = given.clone().requires_grad_()
                (slopes,) = torch.autograd.grad(method(at), at)
            return slopes

    def look_back(self, losses: Tensor, present: Tensor | None) -> None:
        """Show the losses after the step; see :class:`Balance`."""
        self._method[0].update(losses if present is None else losses[present])

    def end_epoch(self, losses: Tensor) -> None:
        """Tell that an epoch has ended; see :class:`Balance`."""
        if self._at_epochs_end:
            self._method[0].step()

    def get_extra_state(self) -> Any:
        """Return what the method remembers, for ``state_dict``."""
        return self._given, copy.deepcopy(self._method[0])

    def set_extra_state(self, state: Any) -> None:
        """Go on with what a method of before remembers, if it was given as this one."""
        if state[0] == self._given:
            self._method = [copy.deepcopy(state[1])]
