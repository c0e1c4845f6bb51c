"""The skorch net that trains a multi-task network: one step, one epoch, what is recorded."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from math import inf
from typing import Any

import torch
from numpy.typing import NDArray
from skorch import NeuralNet
from skorch.callbacks import Callback
from torch import Tensor

from sk_mtl._support import Stream
from sk_mtl.averages import Averages
from sk_mtl.batches import Batches, TaskData
from sk_mtl.callbacks import StopTraining
from sk_mtl.objective import encoded_scores
from sk_mtl.steps import Penalties, backpropagate, look_back
from sk_mtl.totals import EpochTotals, record

BATCH_HOOKS = ("on_batch_begin", "on_batch_end", "on_grad_computed")
ROWS_AT_ONCE = 8192  # rows evaluated together where no gradient is needed


class MultiTaskNet(NeuralNet):
    """A ``skorch.NeuralNet`` for :class:`~sk_mtl.network.MultiTaskNetwork`.

    ``module`` is the network and ``criterion`` the :class:`~sk_mtl.objective.Objective`, both
    as objects. Batches are slices of tensors that lie on the device, and nothing is read back
    from the device before the end of an epoch.

    Parameters
    ----------
    module, criterion
        As in skorch.
    task_names : sequence of str
        Names under which each task's losses and weights enter the history.
    decay : float or Tensor of shape (n_tasks,), default=0.0
        L2 penalty on the weights of linear layers, per batch; one a task, where tasks share
        nothing. A task's own layers are penalised
        in proportion to the task's share of the user's weights.
    ema_decay : float, default=0.0
        See :class:`~sk_mtl.averages.Averages`.
    shuffle : Stream or None, default=None
        Where permutations of the rows come from.
    **kwargs
        As in skorch.

    Attributes
    ----------
    interrupted_ : bool
        Whether the user interrupted the last training.
    """

    def __init__(
        self,
        module: Any,
        criterion: Any,
        *,
        task_names: Sequence[str] = (),
        decay: float | Tensor = 0.0,
        ema_decay: float = 0.0,
        shuffle: Stream | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(type(module), type(criterion), **kwargs)
        self._parts: tuple[Any, Any] | None = (module, criterion)
        self.task_names = task_names
        self.decay = decay
        self.ema_decay = ema_decay
        self.shuffle = shuffle

    # What skorch asks of a net ------------------------------------------------------------

    @property
    def _default_callbacks(self) -> list[Any]:
        return []  # losses are recorded by the epoch itself, without reading every batch

    def initialize(self) -> MultiTaskNet:
        """Move the parts to the device and make the optimiser; possible once."""
        if self._parts is None:
            raise RuntimeError(
                "Got a second initialize() of the net of an estimator, expected one: its network "
                "was built for the estimator's fit. Use the estimator's fit, or partial_fit."
            )
        super().initialize()
        self._parts = None  # a second reference would put the weights into a pickle twice
        return self

    def initialize_module(self) -> MultiTaskNet:
        """Take the network as it was built; the net's parameters keep its class only."""
        assert self._parts is not None
        self.module_ = self._parts[0]
        return self

    def initialize_criterion(self) -> MultiTaskNet:
        """Take the objective as it was built."""
        assert self._parts is not None
        self.criterion_ = self._parts[1]
        return self

    def get_all_learnable_params(self) -> Iterable[tuple[str, torch.nn.Parameter]]:
        """Yield the network's parameters; a weighting's own state is not the optimiser's."""
        return self.module_.named_parameters()  # type: ignore[no-any-return]

    def get_dataset(self, X: Any, y: Any = None) -> TaskData:
        """Return X as a :class:`TaskData`, on the net's device."""
        if not isinstance(X, TaskData):
            X = torch.as_tensor(X, dtype=next(self.module_.parameters()).dtype)
            if y is None:
                y = X.new_full((len(X), len(self.task_names)), torch.nan)
            X = TaskData(X, torch.as_tensor(y, dtype=X.dtype))
        data: TaskData = X.to(torch.device(self.device))
        return data

    def get_iterator(self, dataset: Any, training: bool = False) -> Batches:
        """Return shuffled batches for training, long ordered ones otherwise."""
        data = self.get_dataset(dataset)
        if training:
            return Batches(data, self.batch_size, self.shuffle)
        return Batches(data, max(ROWS_AT_ONCE, self.batch_size))

    def infer(self, x: Any, **fit_params: Any) -> Any:
        """Return the network's raw outputs for a batch."""
        return self.module_(x["X"] if isinstance(x, dict) else x)

    def notify(self, method_name: str, **kwargs: Any) -> None:
        """Call the callbacks, and remember whether one of them ended the training."""
        try:
            super().notify(method_name, **kwargs)
        except KeyboardInterrupt:
            self.stopped_by_callback_ = True
            raise

    # The loop -----------------------------------------------------------------------------

    def fit_loop(
        self, X: Any, y: Any = None, epochs: int | None = None, valid: Any = None, **kwargs: Any
    ) -> MultiTaskNet:
        """Train for some epochs, by batches of X, validated on ``valid``.

        Parameters
        ----------
        X : TaskData
            Training rows.
        y : None
            Not used; the targets are in X.
        epochs : int or None, default=None
            How many; None for ``max_epochs``.
        valid : TaskData or None, default=None
            Validation rows.
        **kwargs
            Ignored.
        """
        train = self.get_dataset(X)
        valid = None if valid is None else self.get_dataset(valid)
        self.interrupted_ = self.stopped_by_callback_ = False
        self._hooks = self._batch_hooks()
        self._penalty: Penalties | None = Penalties(self.module_, self.criterion_, self.decay)
        self._parameters = [p for _, p in self.get_all_learnable_params()]
        self._averages = Averages(self._parameters, self.ema_decay)
        self._watched = not all(getattr(c, "reads_history_only", False) for _, c in self.callbacks_)
        self._lowest = {
            prefix: min(
                (e[f"{prefix}_loss"] for e in self.history if f"{prefix}_loss" in e), default=inf
            )
            for prefix in ("train", "valid")
        }
        datasets = {"dataset_train": train, "dataset_valid": valid}
        try:
            for _ in range(self.max_epochs if epochs is None else epochs):
                self.notify("on_epoch_begin", **datasets)
                start = time.perf_counter()
                self._averages.exchange(averaged=False)
                self._run_epoch(train, training=True)
                self._averages.exchange(averaged=True)
                if valid is not None:
                    self._run_epoch(valid, training=False)
                if self._watched:
                    self._set_mode(training=False)  # callbacks may predict
                self.history.record("dur", time.perf_counter() - start)
                if not self.history[-1]["batches"]:
                    self.history.new_batch()  # skorch's Checkpoint looks at the last one
                self.notify("on_epoch_end", **datasets)
        except KeyboardInterrupt:
            self.interrupted_ = not self.stopped_by_callback_
            raise StopTraining from None
        finally:
            self._averages.exchange(averaged=True)
            self._set_mode(training=False)
        return self

    def _set_mode(self, *, training: bool) -> None:
        """Switch between training and evaluation; to switch costs as much as a small batch."""
        if self.module_.training is not training:
            self.module_.train(training)
            self.criterion_.train(training)

    def _batch_hooks(self) -> set[str]:
        """Return the batch hooks that some callback listens to; the others are never called."""
        hooks = {
            hook
            for hook in BATCH_HOOKS
            for _, callback in self.callbacks_
            if getattr(type(callback), hook) is not getattr(Callback, hook)
        }
        # skorch opens the history's entry of the batch at its beginning.
        return hooks | {"on_batch_begin"} if "on_batch_end" in hooks else hooks

    def _run_epoch(self, data: TaskData, *, training: bool) -> None:
        """Go through the data once and record the mean task losses."""
        self._set_mode(training=training)
        step = self._train_batch if training else self._valid_batch
        totals, kept = EpochTotals(), []
        for batch in self.get_iterator(data, training=training):
            if "on_batch_begin" in self._hooks:
                self.notify("on_batch_begin", batch=batch, training=training)
            task_losses, task_weights, mass, outputs = step(batch, data.complete)
            totals.add(task_losses, len(batch[1]) if mass is None else mass, task_weights)
            if not training:
                kept.append((outputs, batch[1], batch[0]["sample_weight"]))
            if "on_batch_end" in self._hooks:
                of_loss = self.criterion_.weighs == "loss"
                weights = task_weights if of_loss else self.criterion_.user_weights
                share = self.criterion_.normalised(weights, mass)
                self._after_batch(batch, (task_losses * share).sum(), outputs, training)
        self._record_epoch("train" if training else "valid", totals)
        if not training:
            self._record_score(kept)

    def _after_batch(self, batch: Any, loss: Tensor, outputs: Any, training: bool) -> None:
        """Serve callbacks that watch batches: they are told the loss, at the price of a sync."""
        prefix = "train" if training else "valid"
        self.history.record_batch(f"{prefix}_loss", loss.item())
        self.history.record_batch(f"{prefix}_batch_size", len(batch[1]))
        self.notify("on_batch_end", batch=batch, training=training, loss=loss, y_pred=outputs)

    def _record_epoch(self, prefix: str, totals: EpochTotals) -> None:
        """Write the epoch's losses and weights to the history: the only read-back."""
        means, mass, used = totals.means()
        if prefix == "train":
            self.criterion_.end_epoch(means, mass)
            assert self._penalty is not None
            self._penalty.end_epoch()
        # by the user's weights: those of a step may move, and losses must compare over epochs
        share = self.criterion_.normalised(self.criterion_.user_weights, mass)
        loss = float((means * share).sum())
        seen = record(
            prefix, self.task_names, loss, means.tolist(), used.tolist(), totals.n_batches
        )
        seen[f"{prefix}_loss_best"] = loss <= self._lowest[prefix]
        self._lowest[prefix] = min(loss, self._lowest[prefix])
        self.history[-1].update(seen)

    def _record_score(self, batches: list[tuple[Any, Tensor, Tensor | None]]) -> None:
        """Write the mean over tasks of accuracy or R2 on the validation rows to the history."""
        outputs, targets, weights = zip(*batches, strict=True)
        raw = [torch.cat(part, dim=-2) for part in zip(*outputs, strict=True)]
        weight = None if weights[0] is None else torch.cat(weights)
        scores = encoded_scores(self.module_.groups, raw, torch.cat(targets), weight)
        self.history.record("valid_score", float(scores.nanmean()))

    # One step -----------------------------------------------------------------------------

    def _train_batch(self, batch: Any, complete: bool) -> tuple[Tensor, Tensor, Tensor | None, Any]:
        """Take one optimiser step; return task losses, weights, mass and outputs."""
        for parameter in self._parameters:
            parameter.grad = None
        detached, weights, mass, outputs = backpropagate(
            self.module_, self.criterion_, batch, complete=complete
        )
        assert self._penalty is not None
        self._penalty.add()
        if "on_grad_computed" in self._hooks:
            self.notify(
                "on_grad_computed",
                named_parameters=list(self.get_all_learnable_params()),
                batch=batch,
                training=True,
            )
        self.optimizer_.step()
        self._averages.update()
        look_back(self.module_, self.criterion_, batch, complete=complete)
        return detached, weights, mass, outputs

    @torch.no_grad()
    def _valid_batch(self, batch: Any, complete: bool) -> tuple[Tensor, Tensor, Tensor | None, Any]:
        """Evaluate one batch; the tasks' weights are the user's, so that epochs compare."""
        x, y = batch
        outputs = self.module_(x["X"])
        losses, mass = self.criterion_.task_losses(
            outputs, y, x["sample_weight"], complete=complete
        )
        return losses, self.criterion_.user_weights, mass, outputs

    # Evaluation ---------------------------------------------------------------------------

    def raw_outputs(self, X: Tensor) -> tuple[Tensor, ...]:
        """Return the raw outputs for encoded rows, on the CPU.

        Parameters
        ----------
        X : Tensor of shape (n_rows, n_features)
            Encoded features.
        """
        return _evaluate(self.module_, X, torch.device(self.device))

    def features(self, X: Tensor) -> NDArray[Any]:
        """Return the trunk's representation, shape ``([task,] n_rows, d)``."""
        device = torch.device(self.device)
        (features,) = _evaluate(lambda rows: (self.module_.trunk(rows),), X, device)
        return features.numpy()

    def forget_training_data(self) -> None:
        """Drop what only this training needs.

        The optimiser's memory, twice the size of the weights, stays for ``partial_fit``.
        """
        self._penalty, self._parameters = None, []
        self._averages = Averages([], 0.0)
        for epoch in self.history:
            epoch.pop("batches", None)


def _evaluate(function: Any, X: Tensor, device: torch.device) -> tuple[Tensor, ...]:
    """Apply a function to chunks of rows that fit the cache; join its outputs on the CPU."""
    with torch.inference_mode():
        chunks = [function(rows.to(device)) for rows in X.split(ROWS_AT_ONCE)]
        if len(chunks) == 1:
            return tuple(out.cpu() for out in chunks[0])
        return tuple(
            torch.cat([c.cpu() for c in part], dim=-2) for part in zip(*chunks, strict=True)
        )
