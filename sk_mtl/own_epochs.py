"""Tasks that are predicted by the weights of their own best epochs."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn


class OwnEpochs(nn.Module):
    """Puts the raw outputs of networks of other epochs in the place of those of their tasks.

    Parameters
    ----------
    networks : sequence of nn.Module
        The network that they are put into, with the weights that it had at other epochs.
    tasks : sequence of collection of int
        Which tasks each of them predicts; the others are left to the network itself.
    groups : sequence of sequence of int
        The tasks of every raw output.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        tasks: Sequence[Collection[int]],
        groups: Sequence[Sequence[int]],
    ) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks).requires_grad_(False).eval()
        for k, own in enumerate(tasks):
            for g, group in enumerate(groups):
                places = [place for place, task in enumerate(group) if task in own]
                self.register_buffer(f"places{k}_{g}", torch.tensor(places, dtype=torch.long))

    def forward(self, X: Tensor, raw: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return raw outputs ``(task, batch, n_outputs)``, one a group."""
        mixed = list(raw)
        for k, network in enumerate(self.networks):
            for g, other in enumerate(network(X)):
                places = getattr(self, f"places{k}_{g}")
                if len(places):
                    mixed[g] = mixed[g].index_copy(-3, places, other.index_select(-3, places))
        return tuple(mixed)
