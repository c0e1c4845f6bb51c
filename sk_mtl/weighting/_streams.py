"""Random numbers of a weighting: streams of its own, one a network of a stack."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sk_mtl._support import Stream


class Streams(nn.Module):
    """Streams of random numbers; networks of one seed share theirs, as they would draw the same.

    Parameters
    ----------
    stack : tuple of int, default=()
        Sizes of the stack axes.
    """

    source: Tensor

    def __init__(self, stack: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.streams = [Stream(0)]
        # Which network draws from which; it is no memory of the stream.
        self.register_buffer("source", torch.zeros(stack, dtype=torch.long), persistent=False)

    def seed(self, seeds: Sequence[int]) -> None:
        """Begin anew, with one seed a network."""
        distinct = list(dict.fromkeys(seeds))
        self.streams = [Stream(seed) for seed in distinct]
        source = torch.tensor([distinct.index(seed) for seed in seeds])
        self.source = source.view(self.source.shape).to(self.source.device)

    def normal(self, like: Tensor) -> Tensor:
        """Draw normal numbers, one a task and network."""
        return self._draw(torch.randn, like)

    def uniform(self, like: Tensor) -> Tensor:
        """Draw numbers between 0 and 1, one a task and network."""
        return self._draw(torch.rand, like)

    def _draw(self, draw: Any, like: Tensor) -> Tensor:
        n = like.shape[-1] if self.source.dim() else like.shape
        drawn = [
            draw(n, generator=s.generator(like.device), dtype=like.dtype, device=like.device)
            for s in self.streams
        ]
        if not self.source.dim():
            (alone,) = drawn
            return alone  # type: ignore[no-any-return]
        spread: Tensor = torch.stack(drawn)[self.source]
        return spread

    def get_extra_state(self) -> list[dict[str, Any]]:
        """Return where the streams stand, for ``state_dict``."""
        return [stream.__getstate__() for stream in self.streams]

    def set_extra_state(self, state: list[dict[str, Any]]) -> None:
        """Go on where streams of before stood."""
        for stream, before in zip(self.streams, state, strict=True):
            stream.__setstate__(before)


class Orders(Streams):
    """Orders in which every task looks at all others, drawn on the CPU for one network."""

    def of_others(self, n_tasks: int) -> NDArray[np.intp]:
        """Return, row by row, the other tasks in an order, shape ``(n_tasks, n_tasks - 1)``."""
        drawn = torch.rand(n_tasks, n_tasks, generator=self.streams[0].generator()).numpy()
        np.fill_diagonal(drawn, 2.0)  # a task itself comes last
        return drawn.argsort(axis=1)[:, :-1]
