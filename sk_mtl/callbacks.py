"""skorch callbacks that every fit uses: when to stop, which weights to keep, what to report."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from skorch.callbacks import Callback

MAX_TASKS_SHOWN = 8


class StopTraining(KeyboardInterrupt):
    """Raised by a callback to end training; skorch ends quietly on a KeyboardInterrupt."""


class TaskStopping(Callback):
    """Stop when the tasks no longer improve, and keep the best weights.

    With validation data the loss watched is the mean (or the worst) over tasks of each task's
    validation loss relative to its first value, so that no task dominates by its units;
    without, it is the training loss.

    Parameters
    ----------
    task_names : sequence of str
        The tasks to watch, as they are named in the history.
    validation : bool
        Whether there are validation data. The best weights are then restored at the end of
        training, whether or not patience ran out.
    rule : {"mean", "worst"}, default="mean"
        How the tasks' relative losses become one number.
    tol : float, default=1e-4
        An epoch that lowers the loss by less than this counts as no improvement.
    patience : int or float, default=10
        Epochs without improvement before training stops.
    settled : int, default=0
        The last of these epochs is the best so far, whatever its loss: not all tasks have begun.

    Attributes
    ----------
    best_loss_ : float
        Lowest value of the loss watched.
    best_epoch_ : int
        The epoch, counted from 1, of ``best_loss_``.
    stopped_ : bool
        Whether patience ran out.
    """

    reads_history_only = True

    def __init__(
        self,
        task_names: Sequence[str],
        validation: bool,
        rule: str = "mean",
        tol: float = 1e-4,
        patience: float = 10,
        settled: int = 0,
    ) -> None:
        self.task_names = task_names
        self.validation = validation
        self.rule = rule
        self.tol = tol
        self.patience = patience
        self.settled = settled

    def begin(self) -> None:
        """Forget earlier fits."""
        self.best_loss_ = np.inf
        self.best_epoch_ = 0
        self.stopped_ = False
        self._n_stale = self._n_seen = 0
        self._start: NDArray[np.float64] | None = None

    def watch(self, epoch: dict[str, Any], number: int) -> bool:
        """Take in what was recorded of an epoch; return whether its weights are the best."""
        loss = self._watched(epoch)
        self._n_seen += 1
        if self._n_seen <= self.settled and not np.isnan(loss):
            self.best_loss_, self.best_epoch_ = loss, number
            return True
        self._n_stale = self._n_stale + 1 if loss > self.best_loss_ - self.tol else 0
        self.stopped_ = bool(self._n_stale >= self.patience or np.isnan(loss))
        if not (loss < self.best_loss_ or self.best_epoch_ == 0):
            return False
        self.best_loss_, self.best_epoch_ = loss, number
        return True

    def on_train_begin(self, net: Any, **kwargs: Any) -> None:
        """Forget earlier fits."""
        self.begin()
        self._best_state: dict[str, torch.Tensor] | None = None

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        """Compare this epoch with the best one."""
        if self.watch(net.history[-1], len(net.history)) and self.validation:
            self._best_state = copy.deepcopy(net.module_.state_dict())
        if self.stopped_:
            raise StopTraining

    def on_train_end(self, net: Any, **kwargs: Any) -> None:
        """Go back to the best weights."""
        if self._best_state is not None:
            net.module_.load_state_dict(self._best_state)
            self._best_state = None

    def _watched(self, epoch: dict[str, Any]) -> float:
        if not self.validation:
            return float(epoch["train_loss"])
        losses = np.array([epoch[f"valid_loss_{name}"] for name in self.task_names])
        if self._start is None:
            self._start = np.where(losses > 0, losses, 1.0)
        with np.errstate(invalid="ignore"):  # infinite from the start
            relative = losses / self._start
        return float(relative.max() if self.rule == "worst" else relative.mean())


class EpochReport(Callback):
    """Print one line an epoch, with the losses of the first tasks.

    Parameters
    ----------
    task_names : sequence of str
        The tasks to list.
    """

    reads_history_only = True

    def __init__(self, task_names: Sequence[str]) -> None:
        self.task_names = task_names

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        """Print the epoch's losses."""
        epoch = net.history[-1]
        said = f"epoch {len(net.history)}: train loss {epoch['train_loss']:.4g}"
        kind = "train"
        if "valid_loss" in epoch:
            kind = "valid"
            said += f", valid loss {epoch['valid_loss']:.4g}"
        shown = self.task_names[:MAX_TASKS_SHOWN]
        each = [f"{name} {epoch[f'{kind}_loss_{name}']:.4g}" for name in shown]
        if len(shown) < len(self.task_names):
            each.append("...")
        print(f"{said} ({kind} loss by task: {', '.join(each)})")


class SklearnEpochs(Callback):
    """Tell scikit-learn's own callbacks about every epoch.

    Parameters
    ----------
    begin : callable
        Called before an epoch; returns what ``end`` is to be given.
    end : callable
        Called after an epoch; returns whether training is to stop.
    """

    def __init__(self, begin: Callable[[], Any], end: Callable[[Any], bool]) -> None:
        self.begin = begin
        self.end = end

    def on_epoch_begin(self, net: Any, **kwargs: Any) -> None:
        """Open the epoch."""
        self.context_ = self.begin()

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        """Close the epoch; end training where a callback asks for it."""
        if self.end(self.context_):
            raise StopTraining
