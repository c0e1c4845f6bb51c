"""The best weights so far of the networks of a stack: of each as a whole, and for single tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from sk_mtl.stack import NetworkStack, one_of

State = dict[str, Tensor]


class BestWeights:
    """Copies of the tensors of a stack, of which each network's are renewed when it was better.

    Parameters
    ----------
    stack : NetworkStack
        The networks.
    tasks : iterable of int
        Those that have a best epoch of their own in some network.
    """

    def __init__(self, stack: NetworkStack, tasks: Iterable[int] = ()) -> None:
        self._copies: dict[int | None, State] = {key: stack.copy() for key in (None, *tasks)}

    def renew(self, stack: NetworkStack, places: Mapping[int | None, Sequence[int]]) -> None:
        """Copy the networks at these places as they are now: by task, or None for the whole."""
        for key, some in places.items():
            copies = self._copies[key]
            like = next(iter(copies.values()))
            stack.copy_into(copies, torch.tensor(some, device=like.device))

    def of(self, place: int, task: int | None = None) -> State:
        """Return the best weights of the network at a place, of all or for a task."""
        return one_of(self._copies[task], place)

    def keep(self, index: Tensor) -> None:
        """Let all networks but those of the given indices go."""
        for copies in self._copies.values():
            for name, tensor in copies.items():
                copies[name] = tensor.index_select(0, index)
