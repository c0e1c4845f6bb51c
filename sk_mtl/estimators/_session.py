"""One training of an estimator: its data on the device, its net, and what is kept of it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from skorch.callbacks import Callback

from sk_mtl._support import (
    has_sklearn_callbacks,
    open_callback_context,
    resolve_recipe,
    warn,
)
from sk_mtl.batches import TaskData
from sk_mtl.callbacks import EpochReport, SklearnEpochs, TaskStopping
from sk_mtl.columns import DTYPES, to_tensor
from sk_mtl.estimators._architecture import architecture, check_same_architecture
from sk_mtl.estimators._labels import (
    Labels,
    class_factors,
    encode_labels,
    resolve_class_weight,
    resolve_task_weights,
    weigh_labels,
)
from sk_mtl.estimators._optimizer import (
    check_finite,
    hand_over,
    hand_over_rates,
    optimizer_arguments,
)
from sk_mtl.network import MultiTaskNetwork, build_network, group_tasks
from sk_mtl.objective import Objective
from sk_mtl.targets import Targets
from sk_mtl.tasks import check_numbers
from sk_mtl.training import MultiTaskNet
from sk_mtl.trunks import TRUNKS, Trunk
from sk_mtl.weighting import WEIGHTINGS, Weighting

OWN_CALLBACKS = ("epoch_report", "sklearn_epochs", "task_stopping")
AUTO_EARLY_STOPPING_ROWS = 10_000  # as in scikit-learn's HistGradientBoosting


class Session:
    """Train an estimator whose tasks are known.

    Parameters
    ----------
    estimator : BaseMultiTask
        Gives the parameters and tasks, and takes the fitted attributes.
    X : ndarray of shape (n_samples, n_features)
        Validated features.
    targets : Targets
        Labels, in the order of the tasks.
    weight : ndarray of shape (n_samples, 1 or n_tasks) or None
        Checked sample weights.
    given : tuple of (X, y)
        Both as the user gave them, for scikit-learn's callbacks.
    continued : bool
        Whether to go on with the network trained so far.
    incremental : bool, default=False
        Whether these are rows of many to come: one epoch is trained.
    """

    def __init__(
        self,
        estimator: Any,
        X: NDArray[Any],
        targets: Targets,
        weight: NDArray[Any] | None,
        *,
        given: tuple[Any, Any],
        continued: bool,
        incremental: bool = False,
    ) -> None:
        self.est, self.X, self.given = estimator, X, given
        self.continued, self.incremental = continued, incremental
        self.device = estimator._resolved_device()
        self.dtype = _compute_dtype(estimator.dtype, X, self.device)
        if continued:
            self.dtype = DTYPES[str(estimator._torch_dtype).removeprefix("torch.")]
        y = self._encode(targets)
        # The training labels say what is balanced, for the validation rows too.
        self.class_factors = class_factors(self._class_rules(), estimator._tasks, y, weight)
        self.labels = weigh_labels(y, weight, self.class_factors)
        self.valid: TaskData | None = None

    def _class_rules(self) -> list[Any]:
        """Return the rule of class weights of every task."""
        est = self.est
        rules = resolve_class_weight(
            getattr(est, "class_weight", None), est._tasks, one_d=est._one_d
        )
        if self.incremental and "balanced" in rules:
            raise ValueError(
                "Got class_weight='balanced' in partial_fit, expected weights by class: one batch "
                "does not tell how frequent the classes are. Pass dicts of weights by class "
                "(sklearn.utils.class_weight.compute_class_weight finds them), or use fit."
            )
        return rules

    def _encode(self, targets: Targets) -> NDArray[Any]:
        est, aligned = self.est, self.est._aligned(targets)
        for task, column, loss in zip(est._tasks, aligned.columns, est._task_losses, strict=True):
            if not task.is_classification:
                check_numbers(column, task.name)
                loss.check_targets(column.observed.astype(np.float64), task.name)
        return encode_labels(aligned, est._tasks, self.dtype)

    def add_validation(
        self, X: NDArray[Any], targets: Targets, weight: NDArray[Any] | None
    ) -> None:
        """Use these rows for validation."""
        labels = weigh_labels(self._encode(targets), weight, self.class_factors)
        if np.isnan(labels.y).all():
            raise ValueError(
                "Got y_val without any label, expected at least one to validate on. Pass rows "
                "with labels, or no validation set."
            )
        self.valid = self._data(X, labels, None)

    def _data(self, X: NDArray[Any], labels: Labels, rows: NDArray[np.intp] | None) -> TaskData:
        """Return encoded rows as tensors on the device."""
        y = self._without_constant_tasks(labels.y)
        return TaskData(
            to_tensor(X.astype(self.dtype, copy=False)),
            torch.from_numpy(y),
            None if labels.weight is None else to_tensor(labels.weight),
            None if rows is None else torch.from_numpy(rows),
        ).to(self.device)

    def _without_constant_tasks(self, y: NDArray[Any]) -> NDArray[Any]:
        """Hide the labels of tasks with a single class: there is nothing to learn from them."""
        constant = [t for t, task in enumerate(self.est._tasks) if task.n_classes == 1]
        if constant:
            y = y.copy()
            y[:, constant] = np.nan
        return y

    # The run ------------------------------------------------------------------------------

    def train(self) -> None:
        """Train, and set the estimator's fitted attributes."""
        est = self.est
        rows = self.labels.useful_rows()
        if rows is not None and not len(rows):
            raise ValueError(
                "Got no label that counts: all are missing or weigh nothing, expected at least "
                "one. Leave this batch out."
            )
        n_rows = len(self.X) if rows is None else len(rows)
        train_rows, stop_early = rows, self._stops_early(n_rows)
        if stop_early and self.valid is None:
            train_rows, valid_rows = self._split(rows)
            self.valid = self._data(self.X, self.labels, valid_rows)
        train = self._data(self.X, self.labels, train_rows)
        network, trunk = self._network()
        stopping = self._stopping(stop_early)
        callbacks = self._callbacks(stopping)
        net = self._net(network, trunk, callbacks, train)
        net.initialize()
        if self.continued:
            net.history.extend(est.net_.history)
            if self.incremental:
                hand_over(est.net_, net)
            hand_over_rates(est.net_, net)
        est.net_ = net
        if self.tells_sklearn:
            self._open_sklearn_callbacks()
        net.partial_fit(
            train, None, valid=self.valid, epochs=1 if self.incremental else est.max_iter
        )
        self._finish(net, stopping)

    def _stops_early(self, n_rows: int) -> bool:
        if self.incremental:
            return False
        if self.est.early_stopping == "auto":
            return self.valid is not None or n_rows > AUTO_EARLY_STOPPING_ROWS
        return bool(self.est.early_stopping)

    def _split(self, rows: NDArray[np.intp] | None) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Set validation rows aside; a task keeps at least one label for training."""
        rows = np.arange(len(self.X)) if rows is None else rows
        n_valid = round(self.est.validation_fraction * len(rows))
        order = np.random.default_rng(self.est._seeds[3]).permutation(rows)
        valid, train = order[:n_valid], order[n_valid:]
        observed = ~np.isnan(self.labels.y)
        for t in np.flatnonzero(~observed[train].any(axis=0)) if len(train) else ():
            needed = valid[observed[valid, t]][:1]
            train = np.concatenate([train, needed])
            valid = np.setdiff1d(valid, needed)
        if not len(train) or not len(valid):
            raise ValueError(
                f"Got validation_fraction={self.est.validation_fraction} of {len(rows)} rows, "
                f"which leaves {len(valid)} for validation and {len(train)} for training, "
                "expected at least one each. Set early_stopping=False, or pass X_val and y_val."
            )
        return np.sort(train), np.sort(valid)

    # The net ------------------------------------------------------------------------------

    def _network(self) -> tuple[MultiTaskNetwork, Trunk]:
        """Return a copy of the network trained so far, or a new one."""
        est = self.est
        trunk: Trunk = resolve_recipe(est.trunk, TRUNKS, Trunk, "trunk")
        shape = architecture(est)
        if self.continued:
            check_same_architecture(est._architecture, shape)
            return copy.deepcopy(est.net_.module_), trunk
        network = build_network(
            trunk,
            group_tasks(est._tasks, est._task_losses),
            n_inputs=self.X.shape[1],
            n_tasks=est.n_tasks_,
            hidden_layer_sizes=shape["hidden_layer_sizes"][1],
            head_hidden_layer_sizes=shape["head_hidden_layer_sizes"][1],
            activation=est.activation,
            dropout=est.dropout,
            seeds=[tuple(est._seeds[:3])],
            dtype=torch.from_numpy(np.zeros(0, self.dtype)).dtype,
        )
        est._architecture = shape
        return network, trunk

    def _net(
        self, network: MultiTaskNetwork, trunk: Trunk, callbacks: list[Any], train: TaskData
    ) -> MultiTaskNet:
        """Return the skorch net, not yet initialised."""
        est = self.est
        weighting: Weighting = resolve_recipe(
            est.weighting,
            WEIGHTINGS,
            Weighting,
            "weighting",
        )
        if est.task_weights is not None and not weighting.uses_task_weights:
            raise ValueError(
                f"Got task_weights={est.task_weights!r} with weighting={est.weighting!r}, which "
                "has no use for them, expected None. Use weighting='static'."
            )
        weights = torch.from_numpy(
            resolve_task_weights(est.task_weights, est.task_names_).astype(self.dtype)
        )
        objective = Objective(
            network.groups,
            est.n_tasks_,
            weighting.build(weights),
            weights,
            needs=weighting.needs,
            private=trunk.private,
        )
        batch_size = self._batch_size(len(train))
        return MultiTaskNet(
            network,
            objective,
            task_names=est.task_names_,
            decay=self._decay(train, batch_size, private=trunk.private),
            shuffle=est._shuffle if est.shuffle else None,
            device=self.device,
            lr=est.learning_rate_init,
            batch_size=batch_size,
            callbacks=callbacks,
            verbose=0,
            train_split=None,
            **optimizer_arguments(est, self.device),
        )

    def _batch_size(self, n_rows: int) -> int:
        batch_size: int | str = self.est.batch_size
        if isinstance(batch_size, str):
            return min(200, n_rows)
        if batch_size > n_rows:
            warn(
                f"Got batch_size={batch_size}, expected at most the number of training rows, "
                f"{n_rows}. It is going to be clipped. Use batch_size='auto' to silence this."
            )
        return min(batch_size, n_rows)

    def _decay(self, train: TaskData, batch_size: int, *, private: bool) -> float | torch.Tensor:
        """Return the L2 penalty a batch: as in scikit-learn's MLP, over the batch's weight.

        Of tasks that share nothing each has its own, as if it were alone.
        """
        labels = self.labels
        if train.rows is not None:
            rows = train.rows.cpu().numpy()
            weight = None if labels.weight is None else labels.weight[rows]
            labels = Labels(labels.y[rows], weight)
        mass = labels.masses() / len(train) * batch_size
        if not private:
            return float(self.est.alpha / mass.mean())
        return torch.from_numpy((self.est.alpha / np.where(mass > 0, mass, 1.0)).astype(self.dtype))

    def _stopping(self, stop_early: bool) -> TaskStopping:
        est = self.est
        names = list(est.task_names_)
        if est.stopping_tasks is not None:
            names = [_task_name(task, est.task_names_) for task in est.stopping_tasks]
            if not names:
                raise ValueError(
                    "Got stopping_tasks=[], expected at least one task. Pass None to watch all."
                )
        if stop_early:
            assert self.valid is not None
            labelled = (~self.valid.y.isnan()).any(0).cpu().numpy()
            seen = [n for n, has in zip(est.task_names_, labelled, strict=True) if has]
            names = [n for n in names if n in seen] or seen or list(est.task_names_)
        return TaskStopping(
            names,
            validation=stop_early,
            rule=est.stopping_rule,
            tol=est.tol,
            patience=est.n_iter_no_change,
        )

    # Callbacks ----------------------------------------------------------------------------

    def _callbacks(self, stopping: TaskStopping) -> list[Any]:
        """Return copies of the user's callbacks, and ours, which run after them."""
        est = self.est
        _check_callbacks(est.callbacks or [])
        # scikit-learn's callbacks follow a fit from its beginning to its end
        self.tells_sklearn = not self.incremental and has_sklearn_callbacks(est)
        self.user_callbacks = copy.deepcopy(list(est.callbacks or []))
        own: list[Any] = list(self.user_callbacks)
        if est.verbose:
            own.append(("epoch_report", EpochReport(est.task_names_)))
        if self.tells_sklearn:
            own.append(("sklearn_epochs", SklearnEpochs(self._begin_epoch, self._end_epoch)))
        own.append(("task_stopping", stopping))
        return own

    def _open_sklearn_callbacks(self) -> None:
        """Tell scikit-learn's callbacks that the fit begins."""
        X, y = self.given
        self._context = open_callback_context(self.est, self.est.max_iter)
        self._context.call_on_fit_task_begin(estimator=self.est, X=X, y=y)

    def _begin_epoch(self) -> Any:
        X, y = self.given
        context = self._context.subcontext(task_name="epoch")
        context.call_on_fit_task_begin(estimator=self.est, X=X, y=y)
        return context

    def _end_epoch(self, context: Any) -> bool:
        X, y = self.given
        return bool(
            context.call_on_fit_task_end(
                estimator=self.est, X=X, y=y, reconstruction_attributes=self._fitted_so_far
            )
        )

    def _fitted_so_far(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self.est).items() if k not in self.est.get_params(deep=False)}

    # Afterwards ---------------------------------------------------------------------------

    def _finish(self, net: MultiTaskNet, stopping: TaskStopping) -> None:
        """Set the fitted attributes; warn where training ended early or too early."""
        est = self.est
        last = "train_loss" if self.valid is None else "valid_score"
        if len(net.history) and last not in net.history[-1]:
            del net.history[-1]  # an epoch that was interrupted
        check_finite(net)
        net.forget_training_data()
        net.callbacks = self.user_callbacks
        net.callbacks_ = [(name, c) for name, c in net.callbacks_ if name not in OWN_CALLBACKS]
        self._set_curves(list(net.history))
        est.best_loss_, est.best_iter_ = stopping.best_loss_, stopping.best_epoch_
        if est.n_iter_ and not stopping.validation:  # also over the calls before this one
            est.best_loss_ = min(est.loss_curve_)
            est.best_iter_ = est.loss_curve_.index(est.best_loss_) + 1
        one_row = net.features(to_tensor(self.X[:1].astype(self.dtype)))
        est._n_features_transformed = (
            one_row.size
        )  # the tasks' side by side, where each has its own
        if self.tells_sklearn:
            self._end_epoch(self._context)
        if net.interrupted_:
            which = "best" if stopping.validation and est.best_iter_ else "last"
            warn(
                f"Training interrupted by user after {est.n_iter_} epochs; the estimator is "
                f"fitted and keeps the {which} weights so far."
            )
        elif est.n_iter_ and not np.isfinite(est.loss_curve_[-1]):
            warn(
                f"Training diverged in epoch {est.n_iter_}; the estimator keeps the weights of "
                f"epoch {est.best_iter_}. Scale X, or lower learning_rate_init.",
                ConvergenceWarning,
            )
        elif not self.incremental and not net.stopped_by_callback_:
            warn(
                f"Stochastic Optimizer: Maximum iterations ({est.max_iter}) reached and the "
                "optimization hasn't converged yet. Raise max_iter, learning_rate_init or tol.",
                ConvergenceWarning,
            )

    def _set_curves(self, history: list[Any]) -> None:
        """Set the losses of all epochs; those of earlier calls are not read once more."""
        est, start = self.est, self.est.n_iter_ if self.continued else 0
        new = history[start:]
        validated = all("valid_loss" in epoch for epoch in new)
        if not start:
            validated &= bool(new)
            est.loss_curve_, est.validation_scores_ = [], []
            est.task_loss_curves_ = est.validation_task_loss_curves_ = self._curves([], "")
        est.n_iter_ = len(history)
        est.loss_curve_ = est.loss_curve_ + [epoch["train_loss"] for epoch in new]
        est.task_loss_curves_ = np.concatenate(
            [est.task_loss_curves_, self._curves(new, "train_loss")]
        )
        if validated and est.validation_scores_ is not None:
            est.validation_scores_ = est.validation_scores_ + [e["valid_score"] for e in new]
            est.validation_task_loss_curves_ = np.concatenate(
                [est.validation_task_loss_curves_, self._curves(new, "valid_loss")]
            )
        else:
            est.validation_scores_ = est.validation_task_loss_curves_ = None

    def _curves(self, epochs: list[Any], prefix: str) -> NDArray[np.float64]:
        names = self.est.task_names_
        return np.array([[e[f"{prefix}_{n}"] for n in names] for e in epochs]).reshape(
            -1, len(names)
        )


def _compute_dtype(dtype: str, X: NDArray[Any], device: torch.device) -> Any:
    """Return the numpy type to compute in."""
    if device.type == "mps":  # Apple's GPUs have no float64
        return np.float32
    return X.dtype.type if dtype == "auto" else DTYPES[dtype]


def _task_name(task: Any, names: list[str]) -> str:
    """Return a task's name from its name or index."""
    if task in names:
        return str(task)
    if isinstance(task, (int, np.integer)) and -len(names) <= task < len(names):
        return names[task]
    raise ValueError(
        f"Got the task {task!r} in stopping_tasks, expected names or indices of {names}. Pass None "
        "to watch all."
    )


def _check_callbacks(callbacks: Sequence[Any]) -> None:
    """Raise where something is no skorch callback, nor a pair of a name and one."""
    for entry in callbacks:
        callback = entry[1] if isinstance(entry, tuple) and len(entry) == 2 else entry
        if not isinstance(callback, Callback):
            raise TypeError(
                f"Got {entry!r} in callbacks, expected objects of skorch's callbacks, or pairs of "
                "a name and one. scikit-learn's own go to set_callbacks."
            )
