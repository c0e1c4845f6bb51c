"""Many networks of one form as one module: which of its tensors hold them, some of them, one."""

from __future__ import annotations

import copy
from collections.abc import Mapping

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
        """Compare the first network, and the last, with themselves alone.

        In evaluation and in training. All but the first are changed for it: networks of equal
        seeds begin equal, so that their mean, say, would be what each of them is.
        """
        before, modes = self.copy(), (self.network.training, template.training)
        alone = dict(template.named_parameters()) | dict(template.named_buffers())
        alone_before = {name: tensor.detach().clone() for name, tensor in alone.items()}
        shared = [b for b in self.network.buffers() if not any(b is t for t in self._held)]
        shared_before = [b.clone() for b in shared]
        try:
            for tensor in self.tensors.values():
                tensor.data[1:] *= 1.5
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                for training in (False, True):
                    self._set_modes(template, training)
                    self._compare(template, rows, 0)
                load_tensors(one_of(self.tensors, -1), template)
                self._compare(template, rows, -1)
            if not all(torch.equal(b, c) for b, c in zip(shared, shared_before, strict=True)):
                raise NotStackableError("The networks of a stack would share a buffer that moves.")
        except (RuntimeError, IndexError) as error:
            raise NotStackableError(f"The network fails with stack axes: {error}") from error
        finally:
            for name, tensor in self.tensors.items():
                tensor.data.copy_(before[name])
            for buffer, value in zip(shared, shared_before, strict=True):
                buffer.copy_(value)
            load_tensors(alone_before, template)
            self.network.train(modes[0])
            template.train(modes[1])

    def _set_modes(self, template: MultiTaskNetwork, training: bool) -> None:
        """Set both to training or evaluation; no mask is drawn."""
        for network in (self.network, template):
            network.train(training)
            for module in network.modules():
                if isinstance(module, Dropout):
                    module.eval()

    def _compare(self, template: MultiTaskNetwork, rows: Tensor, place: int) -> None:
        """Raise where the network at a place does not compute what it computes alone."""
        try:
            together, alone = self.network(rows), template(rows)
        except ValueError as error:
            raise NotStackableError(f"The network fails with stack axes: {error}") from error
        for a, b in zip(together, alone, strict=True):
            if a.shape[1:] != b.shape or not torch.allclose(a[place], b, rtol=1e-3, atol=1e-4):
                raise NotStackableError("The network computes something else with stack axes.")

    @property
    def _held(self) -> list[Tensor]:
        return list(self.tensors.values())

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


def one_of(tensors: Mapping[str, Tensor], place: int) -> dict[str, Tensor]:
    """Return copies of what tensors hold of the network at a place."""
    return {name: tensor[place].detach().clone() for name, tensor in tensors.items()}


def load_tensors(values: Mapping[str, Tensor], network: nn.Module) -> None:
    """Copy values into the parameters and buffers of these names."""
    own = dict(network.named_parameters()) | dict(network.named_buffers())
    for name, value in values.items():
        own[name].data.copy_(value)


def check_weighting(stacked: nn.Module, alone: nn.Module, like: Tensor) -> None:
    """Raise where a weighting gives the first network of a stack other weights than alone.

    Parameters
    ----------
    stacked, alone : nn.Module
        Built by a weighting, for the stack and for its first network; copies are called.
    like : Tensor of shape (n_networks, n_tasks)
        Task losses are drawn in this form.
    """
    stacked, alone = copy.deepcopy(stacked), copy.deepcopy(alone)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        for _ in range(4):  # from the second time on with what it remembers
            losses = torch.rand(like.shape, generator=generator).to(like) + 0.5
            together, one = stacked(losses, None, None), alone(losses[0], None, None)
            if together.shape != losses.shape or not torch.allclose(together[0], one, rtol=1e-4):
                raise NotStackableError("The weighting gives other weights with stack axes.")
            for module, seen in ((stacked, losses), (alone, losses[0])):
                if getattr(module, "looks_back", False):
                    module.look_back(seen * seen, None)  # type: ignore[operator]
                if hasattr(module, "end_epoch"):
                    module.end_epoch(seen)  # type: ignore[operator]
