"""The data of one training of an estimator, encoded, and the plan of how to train on it."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from sk_mtl._support import fingerprint, resolve_recipe, warn
from sk_mtl.batches import TaskData
from sk_mtl.callbacks import TaskStopping
from sk_mtl.cascades._recipes import complete_labels
from sk_mtl.columns import DTYPES, RawTable, to_tensor
from sk_mtl.embeddings import EMBEDDINGS, Embedding, Prepared, prepare_inputs
from sk_mtl.estimators._architecture import architecture
from sk_mtl.estimators._folds import (
    PLENTY,
    can_rotate,
    deal,
    deal_groups,
    leave_labels,
    n_folds_for,
    share,
    share_of_groups,
    useful_rows,
)
from sk_mtl.estimators._labels import (
    Labels,
    class_factors,
    encode_labels,
    indicators,
    resolve_class_weight,
    weigh_labels,
)
from sk_mtl.estimators._parts import penalty_of, stopping_of, weighting_of
from sk_mtl.penalties import Penalty
from sk_mtl.targets import Targets
from sk_mtl.tasks import check_numbers
from sk_mtl.trunks import TRUNKS, Trunk
from sk_mtl.weighting import Weighting

AUTO_EARLY_STOPPING_ROWS = 10_000  # as in scikit-learn's HistGradientBoosting
AUTO_DROPOUT = 0.1
PATIENT_STEPS, FEWEST_PATIENT = 400, 8
STEPS_AN_EPOCH, FEWEST_A_BATCH, MOST_A_BATCH = 32, 32, 256
FEWEST_STEPS = 4  # an epoch: of fewer, those until a network may stop would take too many epochs


@dataclass(frozen=True)
class Plan:
    """How an estimator is trained, every parameter resolved in view of the data.

    Attributes
    ----------
    train, valid : TaskData
        Training and validation rows; the latter may be None.
    trunk, weighting : Recipe
        The parts that were named.
    embedding, penalty : Recipe or None
        Likewise.
    prepared : Prepared
        What the embedding knows of the training table.
    shape : dict
        See :func:`~sk_mtl.estimators._architecture.architecture`.
    task_weights : Tensor of shape (n_tasks,)
        The user's, or ones.
    batch_size : int
        Rows a batch.
    decay : float or Tensor of shape (n_tasks,)
        L2 penalty a batch; one a task, where tasks share nothing.
    stopping : TaskStopping
        When training ends.
    """

    train: TaskData
    valid: TaskData | None
    trunk: Trunk
    embedding: Embedding | None
    prepared: Prepared
    weighting: Weighting
    penalty: Penalty | None
    shape: dict[str, tuple[str, Any]]
    task_weights: torch.Tensor
    batch_size: int
    decay: float | torch.Tensor
    stopping: TaskStopping


class Session:
    """The data of one training of an estimator whose tasks are known.

    Parameters
    ----------
    estimator : BaseMultiTask
        Gives the parameters and tasks, and takes the fitted attributes.
    raw : RawTable
        Features as they were read.
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
    groups : ndarray of int of shape (n_samples,) or None, default=None
        Rows of one group are held out together.
    """

    def __init__(
        self,
        estimator: Any,
        raw: RawTable,
        targets: Targets,
        weight: NDArray[Any] | None,
        *,
        given: tuple[Any, Any],
        continued: bool,
        incremental: bool = False,
        groups: NDArray[np.intp] | None = None,
    ) -> None:
        self.est, self.given, self.groups = estimator, given, groups
        self.continued, self.incremental = continued, incremental
        self.device = estimator._resolved_device()
        self.rotates, given_dtype = False, raw.dtype.type
        if estimator.n_members > 1 and not incremental:
            aligned = estimator._aligned(targets)
            learned = [task.n_classes != 1 for task in estimator._tasks]
            useful = useful_rows(aligned, weight, learned)
            self.rotates = can_rotate(raw, aligned, useful)
            given_dtype = np.float32 if len(useful) >= PLENTY else given_dtype
        self.dtype = _compute_dtype(estimator.dtype, given_dtype, self.device)
        if continued:
            self.dtype = DTYPES[str(estimator._torch_dtype).removeprefix("torch.")]
        self.X = estimator._columns.transform(raw, self.dtype)
        self.row_weight = row_weights(weight)
        y = self._encode(targets)
        # The training labels say what is balanced, for the validation rows too.
        self.class_factors = class_factors(self._class_rules(), estimator._tasks, y, weight)
        self.labels = weigh_labels(y, weight, self.class_factors)
        self.rows = self.labels.useful_rows()
        self.valid: TaskData | None = None
        self.member: int | None = None  # which of several, that hold out rows in turn
        self.n_members = 1
        self._split_seed = estimator._seeds[3]
        self.tables: dict[Any, Any] = {}

    def sibling(self, estimator: Any) -> Session:
        """Return a session on the same data for an estimator that encodes them alike."""
        other = copy.copy(self)
        other.est = estimator
        other._split_seed = estimator._seeds[3]
        return other

    def of_member(self, number: int, estimator: Any) -> Session:
        """Return the session of one of several members, an estimator of one network."""
        other = copy.copy(self)  # one split of the rows for all members
        other.est, other.member = estimator, number
        other.n_members = self.est.n_members
        return other

    def _warn(self, message: str) -> None:
        """Warn, once for all members."""
        if not self.member:
            warn(message)

    @property
    def dropout(self) -> float:
        """Share of hidden units that are dropped while training."""
        rate: float | str = self.est.dropout
        if isinstance(rate, str):
            return AUTO_DROPOUT if self.rotates else 0.0
        return rate

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
        y = encode_labels(aligned, est._tasks, self.dtype)
        return complete_labels(y, est._links, est._tasks)

    def add_validation(self, raw: RawTable, targets: Targets, weight: NDArray[Any] | None) -> None:
        """Use these rows for validation."""
        labels = weigh_labels(self._encode(targets), weight, self.class_factors)
        if np.isnan(labels.y).all():
            raise ValueError(
                "Got y_val without any label, expected at least one to validate on. Pass rows "
                "with labels, or no validation set."
            )
        self.valid = self._data(self.est._columns.transform(raw, self.dtype), labels)

    def _data(self, X: NDArray[Any], labels: Labels) -> TaskData:
        """Return encoded rows as tensors on the device."""
        y = self.without_constant_tasks(labels.y)
        return TaskData(
            to_tensor(X),
            torch.from_numpy(y),
            None if labels.weight is None else to_tensor(labels.weight),
        ).to(self.device)

    def without_constant_tasks(self, y: NDArray[Any]) -> NDArray[Any]:
        """Hide the labels of tasks with a single class: there is nothing to learn from them."""
        constant = [t for t, task in enumerate(self.est._tasks) if task.n_classes == 1]
        if constant:
            y = y.copy()
            y[:, constant] = np.nan
        return y

    # The plan -----------------------------------------------------------------------------

    def plan(self) -> Plan:
        """Resolve the parameters; raise where one is not admissible."""
        est = self.est
        if self.rows is not None and not len(self.rows):
            raise ValueError(
                "Got no label that counts: all are missing or weigh nothing, expected at least "
                "one. Leave this batch out."
            )
        stop_early = self._stops_early(self.X.shape[0] if self.rows is None else len(self.rows))
        train, valid, masses = self._split_tables(stop_early)
        trunk: Trunk = resolve_recipe(est.trunk, TRUNKS, Trunk, "trunk")
        shape = architecture(est)
        weighting, weights = weighting_of(est, self.dtype)
        batch_size = self._batch_size(len(train))
        patience = self._patience(-(-len(train) // batch_size))
        return Plan(
            train,
            valid,
            trunk,
            *self._embedding(train.rows),
            weighting,
            penalty_of(est, trunk, shape, self._warn),
            shape,
            weights,
            batch_size,
            self._decay(masses / len(train) * batch_size, private=trunk.private),
            stopping_of(est, valid if stop_early else None, weighting, weights, patience),
        )

    def _split_tables(
        self, stop_early: bool
    ) -> tuple[TaskData, TaskData | None, NDArray[np.float64]]:
        """Return training rows, validation rows, and the weight of every task's labels.

        Estimators that differ in other parameters than those of the split share the tables.
        """
        splits = stop_early and self.valid is None
        key = (self._split_seed, self.est.validation_fraction, self._fold()) if splits else None
        if key not in self.tables:
            train_rows, valid = self.rows, self.valid
            if splits:
                train_rows, valid_rows = self._split(self.rows)
                valid = self._subset(valid_rows)
            self.tables[key] = self._subset(train_rows), valid, self._masses(train_rows)
        found: tuple[TaskData, TaskData | None, NDArray[np.float64]] = self.tables[key]
        return found

    def _subset(self, rows: NDArray[np.intp] | None) -> TaskData:
        """Return a set of some of the rows: one table on the device serves all."""
        if "all" not in self.tables:
            self.tables["all"] = self._data(self.X, self.labels)
        whole: TaskData = self.tables["all"]
        return whole if rows is None else whole.subset(torch.from_numpy(rows).to(self.device))

    def _stops_early(self, n_rows: int) -> bool:
        if self.incremental:
            return False
        if self.est.early_stopping == "auto":
            return self.valid is not None or self.rotates or n_rows > AUTO_EARLY_STOPPING_ROWS
        return bool(self.est.early_stopping)

    def _split(self, rows: NDArray[np.intp] | None) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Set validation rows aside; a task keeps at least one label for training."""
        rows = np.arange(self.X.shape[0]) if rows is None else rows
        valid = leave_labels(self._held_out(rows), rows, ~np.isnan(self.labels.y))
        train = np.setdiff1d(rows, valid)
        if not len(train) or not len(valid):
            raise ValueError(
                f"Got validation_fraction={self.est.validation_fraction} of {len(rows)} rows, "
                f"which leaves {len(valid)} for validation and {len(train)} for training, "
                "expected at least one each. Set early_stopping=False, or pass X_val and y_val."
            )
        return train, valid

    def _held_out(self, rows: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return a share of the rows, or a member's fold of them."""
        fraction, seed = self.est.validation_fraction, self._split_seed
        if self.member is None:
            if self.groups is None:
                return share(rows, fraction, seed)
            return share_of_groups(rows, self.groups, fraction, seed)
        number, n_folds = self._fold()
        key = ("folds", seed, n_folds)  # dealt once for all members
        if key not in self.tables:
            if self.groups is None:
                self.tables[key] = deal(rows, self.labels.y, n_folds, seed).T
            else:
                self.tables[key] = deal_groups(rows, self.groups, n_folds, seed)
        fold: NDArray[np.intp] = self.tables[key][number]
        return fold

    def _fold(self) -> tuple[int, int]:
        """Return which fold of the rows is held out, and of how many; (0, 1) if none is."""
        if self.member is None:
            return 0, 1
        n_rows = self.X.shape[0] if self.rows is None else len(self.rows)
        n_folds = n_folds_for(self.n_members, self.est.validation_fraction, n_rows)
        if self.groups is not None:
            with_labels = self.groups if self.rows is None else self.groups[self.rows]
            n_folds = min(n_folds, len(np.unique(with_labels)))
        return self.member % n_folds, n_folds

    def _masses(self, rows: NDArray[np.intp] | None) -> NDArray[np.float64]:
        """Return the total weight of every task's training labels."""
        labels = self.labels
        if rows is not None:
            weight = None if labels.weight is None else labels.weight[rows]
            labels = Labels(labels.y[rows], weight)
        return labels.masses()

    def _embedding(self, train: torch.Tensor | None) -> tuple[Embedding | None, Prepared]:
        """Return the embedding of numbers, and what it has seen of the table.

        It sees the rows that members hold out too, unless it sees labels: then training rows
        only. Networks that have the same embedding share what it has seen. Numbers of a sparse
        table, most of them zero, enter as they are.
        """
        if self.est.embedding is None or sparse.issparse(self.X):
            return None, Prepared()
        embedding: Embedding = resolve_recipe(
            self.est.embedding, EMBEDDINGS, Embedding, "embedding"
        )
        X, y, weight, seen = self.X, None, self.row_weight, None
        if embedding.sees_targets:
            rows = np.arange(X.shape[0]) if train is None else train.cpu().numpy()
            X, weight = X[rows], None if weight is None else weight[rows]
            y = indicators(self.without_constant_tasks(self.labels.y)[rows], self.est._tasks)
            seen = rows.tobytes()
        key = ("embedding", fingerprint((type(embedding), embedding.get_params())), seen)
        if key not in self.tables:
            self.tables[key] = prepare_inputs(embedding, X, self.est._columns.layout, weight, y)
        return embedding, self.tables[key]

    def _batch_size(self, n_rows: int) -> int:
        batch_size: int | str = self.est.batch_size
        if isinstance(batch_size, str):
            if self.rotates:
                of_many = min(max(n_rows // STEPS_AN_EPOCH, FEWEST_A_BATCH), MOST_A_BATCH)
                return min(of_many, -(-n_rows // FEWEST_STEPS))
            return min(200, n_rows)
        if batch_size > n_rows:
            self._warn(
                f"Got batch_size={batch_size}, expected at most the number of training rows, "
                f"{n_rows}. It is going to be clipped. Use batch_size='auto' to silence this."
            )
        return min(batch_size, n_rows)

    def _decay(self, mass: NDArray[np.float64], *, private: bool) -> float | torch.Tensor:
        """Return the L2 penalty a batch: as in scikit-learn's MLP, over the batch's weight.

        Of tasks that share nothing each has its own, as if it were alone.
        """
        if not private:
            return float(self.est.alpha / mass.mean())
        return torch.from_numpy((self.est.alpha / np.where(mass > 0, mass, 1.0)).astype(self.dtype))

    def _patience(self, n_steps: int) -> float:
        """Return epochs without improvement, where an epoch has so many steps."""
        patience: float | str = self.est.n_iter_no_change
        if not isinstance(patience, str):
            return patience
        return max(-(-PATIENT_STEPS // n_steps), FEWEST_PATIENT) if self.rotates else 10


def row_weights(weight: NDArray[Any] | None) -> NDArray[Any] | None:
    """Return one weight a row: that of the task for which it weighs most."""
    return None if weight is None else weight.max(axis=1)


def _compute_dtype(dtype: str, given: Any, device: torch.device) -> Any:
    """Return the numpy type to compute in."""
    if device.type == "mps":  # Apple's GPUs have no float64
        return np.float32
    return given if dtype == "auto" else DTYPES[dtype]
