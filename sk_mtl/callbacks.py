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
    without, it is the training loss. Where each task has a best epoch of its own, training goes on
    as long as any of them improves, and the common weights are the best in the mean.

    Parameters
    ----------
    task_names : sequence of str
        The tasks to watch, as they are named in the history.
    validation : bool
        Whether there are validation data. The best weights are then restored at the end of
        training, whether or not patience ran out.
    rule : {"mean", "worst", "each"}, default="mean"
        How the tasks' relative losses become one number, or that each is watched for itself.
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
    task_epochs_ : dict of str to int
        The best epoch of every task that is watched for itself.
    improved_ : list of str
        Those of them that the last epoch was the best for.
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
        self._lowest = np.full(len(self.task_names), np.inf)
        self.task_epochs_: dict[str, int] = {}
        self.improved_: list[str] = []

    def watch(self, epoch: dict[str, Any], number: int) -> bool:
        """Take in what was recorded of an epoch; return whether its weights are the best."""
        relative = self._relative(epoch)
        loss = float(relative.max() if self.rule == "worst" else relative.mean())
        self._n_seen += 1
        settling = self._n_seen <= self.settled and not np.isnan(loss)
        gains = self.watches_each and self._watch_each(relative, number)
        if settling:
            self.best_loss_, self.best_epoch_ = loss, number
            return True
        stale = loss > self.best_loss_ - self.tol and not gains
        self._n_stale = self._n_stale + 1 if stale else 0
        self.stopped_ = bool(self._n_stale >= self.patience or np.isnan(loss))
        if not (loss < self.best_loss_ or self.best_epoch_ == 0):
            return False
        self.best_loss_, self.best_epoch_ = loss, number
        return True

    @property
    def watches_each(self) -> bool:
        """Whether tasks have best epochs of their own."""
        return self.rule == "each" and self.validation and len(self.task_names) > 1

    def _watch_each(self, relative: NDArray[np.float64], number: int) -> bool:
        """Note the tasks that an epoch is the best for; return whether one gains enough."""
        # where one task's loss is no number, the others' weights are not to be had without its own
        better = (relative < self._lowest) & ~np.isnan(relative).any()
        gains = bool((relative <= self._lowest - self.tol).any())
        self._lowest = np.where(better, relative, self._lowest)
        self.improved_ = [self.task_names[t] for t in np.flatnonzero(better).tolist()]
        self.task_epochs_ |= dict.fromkeys(self.improved_, number)
        return gains

    def on_train_begin(self, net: Any, **kwargs: Any) -> None:
        """Forget earlier fits."""
        self.begin()
        self._best_state: dict[str, torch.Tensor] | None = None
        self._own_states: dict[str, dict[str, torch.Tensor]] = {}

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        """Compare this epoch with the best one."""
        is_best = self.watch(net.history[-1], len(net.history))
        if self.validation and (is_best or self.improved_):
            state = copy.deepcopy(net.module_.state_dict())
            self._best_state = state if is_best else self._best_state
            self._own_states |= dict.fromkeys(self.improved_, state)
        if self.stopped_:
            raise StopTraining

    def on_train_end(self, net: Any, **kwargs: Any) -> None:
        """Go back to the best weights."""
        if self._best_state is None:
            return
        net.module_.load_state_dict(self._best_state)
        tasks = self.tasks_by_epoch(net.task_names)
        states = [self._own_states[net.task_names[own[0]]] for own in tasks]
        net.module_.keep_own_epochs(tasks, lambda network, k: network.load_state_dict(states[k]))
        self._best_state, self._own_states = None, {}

    def tasks_by_epoch(self, names: Sequence[str]) -> list[tuple[int, ...]]:
        """Return the tasks, of these names, whose best epochs are not the common one."""
        others = sorted(set(self.task_epochs_.values()) - {self.best_epoch_})
        epochs = [self.task_epochs_.get(name) for name in names]
        return [tuple(t for t, epoch in enumerate(epochs) if epoch == own) for own in others]

    def _relative(self, epoch: dict[str, Any]) -> NDArray[np.float64]:
        """Return the losses watched, relative to the first ones."""
        if not self.validation:
            return np.array([epoch["train_loss"]], dtype=float)
        losses = np.array([epoch[f"valid_loss_{name}"] for name in self.task_names])
        if self._start is None:
            self._start = np.where(losses > 0, losses, 1.0)
        with np.errstate(invalid="ignore"):  # infinite from the start
            relative: NDArray[np.float64] = losses / self._start
        return relative


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
