"""Many networks of one form as one module: which of its tensors hold them, some of them, one."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from sk_mtl._support import Stream
from sk_mtl.layers import Dropout
from sk_mtl.network import MultiTaskNetwork


class NotStackableError(ValueError):
    """A part was not written for stack axes, so networks with it train one by one."""


class NetworkStack:
    """A network with one stack axis, seen as the networks that it holds.

    Parameters
    ----------
    network : MultiTaskNetwork
        Built with ``stack=(n_networks,)``.
    template : MultiTaskNetwork
        One network of the same form, built alone from the seeds of the first.
    n_networks : int
        How many the stack holds.
    rows : Tensor of shape (n_rows, n_features)
        A few rows to try both on.

    Raises
    ------
    NotStackableError
        If some tensor of the network does not hold one part a network, or the first network
        does not compute what it computes alone: then its trunk ignores the stack axes.
    """

    def __init__(
        self, network: MultiTaskNetwork, template: MultiTaskNetwork, n_networks: int, rows: Tensor
    ) -> None:
        self.network = network
        self.dropouts = [m for m in network.modules() if isinstance(m, Dropout)]
        structure = {id(d.source) for d in self.dropouts}
        alone = dict(template.named_parameters()) | dict(template.named_buffers())
        self.tensors: dict[str, Tensor] = {}
        for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
            if id(tensor) in structure:
                continue
            if name in alone and tensor.shape == (n_networks, *alone[name].shape):
                self.tensors[name] = tensor
            elif isinstance(tensor, nn.Parameter) or name not in alone:
                raise NotStackableError(
                    f"Got {name!r} of shape {tuple(tensor.shape)} in a stack of {n_networks} "
                    "networks, expected the stack's size in front of the shape that it has alone."
                )
        self._check_first(template, rows)

    def _check_first(self, template: MultiTaskNetwork, rows: Tensor) -> None:
        """Compare the first network with itself alone."""
        modes = self.network.training, template.training
        self.network.eval()
        template.eval()
        try:
            with torch.no_grad():
                together, alone = self.network(rows), template(rows)
            same = all(
                a.shape[1:] == b.shape and torch.allclose(a[0], b, rtol=1e-3, atol=1e-4)
                for a, b in zip(together, alone, strict=True)
            )
        except (RuntimeError, ValueError, IndexError) as error:
            raise NotStackableError(f"The network fails with stack axes: {error}") from error
        finally:
            self.network.train(modes[0])
            template.train(modes[1])
        if not same:
            raise NotStackableError("The network computes something else with stack axes.")

    def keep(self, index: Tensor) -> None:
        """Let all networks but those of the given indices go."""
        for tensor in self.tensors.values():
            tensor.grad = None
            tensor.data = tensor.data.index_select(0, index)
        for dropout in self.dropouts:
            dropout.source = dropout.source.index_select(0, index)

    def copy(self) -> dict[str, Tensor]:
        """Return a copy of the tensors of all networks."""
        return {name: tensor.detach().clone() for name, tensor in self.tensors.items()}

    def copy_into(self, copies: dict[str, Tensor], index: Tensor) -> None:
        """Renew the copies of the networks of the given indices."""
        for name, tensor in self.tensors.items():
            copies[name].index_copy_(0, index, tensor.detach().index_select(0, index))

    def masks_of(self, place: int) -> dict[str, Stream]:
        """Return copies of the streams of dropout masks of the network at a place, by layer."""
        return {
            name: copy.deepcopy(module.streams[int(module.source[place])])
            for name, module in self.network.named_modules()
            if isinstance(module, Dropout)
        }
