"""Sums over the batches of an epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

FLUSH_EVERY = 128


class EpochTotals:
    """Task losses, their mass and the tasks' weights, added up over batches.

    Batches are kept and added up together now and then: to add each one costs operators in
    every step, and to keep them all leaves a small tensor a step, which tears holes into the
    heap. Nothing is read back from the device.
    """

    def __init__(self) -> None:
        self.n_batches = 0
        self._kept: list[tuple[Tensor, Tensor | int, Tensor]] = []
        self._sums: tuple[Tensor, Tensor, Tensor] | None = None

    def add(self, losses: Tensor, mass: Tensor | int, weights: Tensor) -> None:
        """Take in one batch.

        Parameters
        ----------
        losses : Tensor of shape (*stack, n_tasks)
            Mean loss of each task in the batch.
        mass : Tensor of shape (*stack, n_tasks) or int
            Weight behind each mean, or the number of rows where all count alike.
        weights : Tensor of shape (*stack, n_tasks)
            What the tasks counted in the step.
        """
        self.n_batches += 1
        self._kept.append((losses, mass, weights))
        if len(self._kept) == FLUSH_EVERY:
            self._flush()

    def means(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return each task's mean loss over the epoch, its mass, and its mean weight."""
        if self._kept:
            self._flush()
        assert self._sums is not None
        losses, mass, weights = self._sums
        return losses / torch.where(mass > 0, mass, 1.0), mass, weights / self.n_batches

    def _flush(self) -> None:
        losses, masses, weights = zip(*self._kept, strict=True)
        self._kept = []
        table = torch.stack(losses)  # (kept, *stack, task): a new axis in front, soon summed
        if isinstance(masses[0], Tensor):
            mass = torch.stack([m.expand_as(table[0]) for m in masses])
        else:
            mass = table.new_tensor(masses).view(-1, *[1] * (table.dim() - 1)).expand_as(table)
        new = ((table * mass).sum(0), mass.sum(0), torch.stack(weights).sum(0))
        if self._sums is not None:
            new = tuple(a + b for a, b in zip(self._sums, new, strict=True))  # type: ignore[assignment]
        self._sums = new


def record(
    prefix: str,
    names: Sequence[str],
    loss: float,
    means: Sequence[float],
    used: Sequence[float],
    n_batches: int,
) -> dict[str, Any]:
    """Return what the history says of an epoch.

    Parameters
    ----------
    prefix : {"train", "valid"}
        On which rows.
    names : sequence of str
        The tasks.
    loss : float
        Their weighted mean loss.
    means, used : sequence of float
        Each task's mean loss and mean weight.
    n_batches : int
        Number of batches.
    """
    seen: dict[str, Any] = {f"{prefix}_loss": loss, f"{prefix}_batch_count": n_batches}
    seen.update({f"{prefix}_loss_{n}": v for n, v in zip(names, means, strict=True)})
    if prefix == "train":
        seen.update({f"weight_{n}": v for n, v in zip(names, used, strict=True)})
    return seen
