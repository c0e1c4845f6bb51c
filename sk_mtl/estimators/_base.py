"""What the three estimators share: validate, encode, build, train, read out."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.exceptions import DataConversionWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_consistent_length, check_is_fitted, validate_data

from sk_mtl._support import (
    CallbackSupportMixin,
    HasMethods,
    Interval,
    SingleClassWarning,
    Stream,
    StrOptions,
    check_device,
    fit_context,
    resolve_recipe,
    spawn_seeds,
    undo_on_error,
    warn,
    with_callbacks,
)
from sk_mtl.columns import admissible_dtypes, to_tensor
from sk_mtl.estimators._decode import join, predictions, probabilities
from sk_mtl.estimators._labels import check_weights
from sk_mtl.estimators._session import Session
from sk_mtl.layers import ACTIVATIONS
from sk_mtl.losses import LOSSES, Loss
from sk_mtl.targets import Column, Targets, read_targets
from sk_mtl.tasks import (
    Task,
    align,
    by_task,
    check_has_labels,
    check_numbers,
    find_classes,
    weighted_scale,
)


class BaseMultiTask(
    CallbackSupportMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    BaseEstimator,
):
    """Base of the multi-task estimators; not for direct use."""

    task_names_: list[str]
    _default_losses: ClassVar[dict[str, str]] = {
        "binary": "log_loss",
        "multiclass": "log_loss",
        "regression": "squared_error",
    }
    _needs_classes: ClassVar[bool] = True
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "trunk": [str, HasMethods(["build"]), type],
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "head_hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions(set(ACTIVATIONS))],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "loss": [str, HasMethods(["elementwise"]), type, list, tuple, dict, None],
        "task_weights": ["array-like", dict, None],
        "weighting": [str, HasMethods(["build"]), type],
        "class_weight": [StrOptions({"balanced"}), dict, list, tuple, None],
        "solver": [StrOptions({"adam", "sgd"})],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "momentum": [Interval(Real, 0, 1, closed="both")],
        "nesterovs_momentum": ["boolean"],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "shuffle": ["boolean"],
        "random_state": ["random_state"],
        "tol": [Interval(Real, 0, None, closed="left")],
        "verbose": ["verbose"],
        "warm_start": ["boolean"],
        "early_stopping": [StrOptions({"auto"}), "boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": [Interval(Real, 1, None, closed="both")],
        "stopping_tasks": ["array-like", None],
        "stopping_rule": [StrOptions({"mean", "worst"})],
        "dtype": [StrOptions({"auto", "float32", "float64"})],
        "device": [str, torch.device],
        "callbacks": [list, tuple, None],
    }

    # Fitting ------------------------------------------------------------------------------

    @undo_on_error
    @with_callbacks
    @fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
    ) -> Any:
        """Train on a table.

        Parameters
        ----------
        X : array-like or frame of shape (n_samples, n_features)
            Features, finite numbers.
        y : array-like or frame of shape (n_samples,) or (n_samples, n_tasks)
            Labels; NaN, None and pandas' NA are missing ones.
        sample_weight : array-like of shape (n_samples,) or (n_samples, n_tasks), default=None
            Weights of rows, or of rows and tasks.
        X_val, y_val, sample_weight_val : array-likes, default=None
            Validation rows for early stopping, instead of a share of the training rows.

        Returns
        -------
        self : object
            Fitted estimator.

        Raises
        ------
        ValueError
            If the data, or a parameter in view of the data, are not admissible.
        """
        continued = self.warm_start and hasattr(self, "net_")
        given = (X, y)
        _check_validation_set(X_val, y_val, sample_weight_val)
        X, targets = self._read(X, y, reset=not continued)
        weight = self._begin(X, targets, sample_weight, continued=continued)
        session = Session(self, X, targets, weight, given=given, continued=continued)
        if X_val is not None:
            X_val, targets_val = self._read(X_val, y_val, reset=False)
            targets_val = self._aligned(targets_val)
            session.add_validation(
                X_val, targets_val, self._weights(sample_weight_val, len(X_val), X_val.dtype)
            )
        session.train()
        return self

    @undo_on_error
    @fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Any:
        """Train for one epoch on a batch of data.

        Parameters
        ----------
        X : array-like or frame of shape (n_samples, n_features)
            Features.
        y : array-like or frame of shape (n_samples,) or (n_samples, n_tasks)
            Labels. A task may lack labels in a batch, but not in the first one if it is a
            regression task: its scale is taken from there.
        classes : array-like, list of array-likes or dict, default=None
            All classes: one array for every classification task, or one a task (None for a
            regression task), or a dict by task name. A MultiTaskClassifier needs it in the
            first call; a MultiTaskEstimator takes the classes of the first batch without it.
        sample_weight : array-like of shape (n_samples,) or (n_samples, n_tasks), default=None
            Weights of rows, or of rows and tasks.

        Returns
        -------
        self : object
            Fitted estimator.

        Raises
        ------
        ValueError
            As in ``fit``; also if ``early_stopping=True``, if classes are needed and missing,
            or if a label is none of them.
        """
        if self.early_stopping is True:
            raise ValueError(
                "Got early_stopping=True in partial_fit, expected False or 'auto': there is no "
                "validation set from call to call. Use fit."
            )
        continued, given = hasattr(self, "net_"), (X, y)
        X, targets = self._read(X, y, reset=not continued)
        weight = self._begin(
            X, targets, sample_weight, continued=continued, classes=classes, incremental=True
        )
        Session(self, X, targets, weight, given=given, continued=continued).train(epochs=1)
        return self

    def _read(self, X: Any, y: Any, *, reset: bool) -> tuple[NDArray[Any], Targets]:
        """Validate X as an array and read Y as columns, of as many rows."""
        targets = read_targets(y)
        X = self._validated(X, reset=reset)
        check_consistent_length(X, targets.columns[0].values)
        return X, targets

    def _validated(self, X: Any, *, reset: bool) -> NDArray[Any]:
        if np.ma.is_masked(X):
            raise ValueError(
                "Input X contains NaN: got masked cells, expected a value in each. Fill them, for "
                "instance with X.filled(0), or impute them."
            )
        dtypes = admissible_dtypes(self.dtype if reset else "auto")
        return cast(
            "NDArray[Any]",
            validate_data(self, X, dtype=dtypes, order="C", reset=reset, accept_sparse=False),
        )

    def _begin(
        self,
        X: NDArray[Any],
        targets: Targets,
        sample_weight: Any,
        *,
        continued: bool,
        classes: Any = None,
        incremental: bool = False,
    ) -> NDArray[Any] | None:
        """Set up tasks and random streams, or check that they still fit; return the weights."""
        if continued:
            targets = self._aligned(targets)
            weight = self._weights(sample_weight, len(X), X.dtype)
            if not incremental:
                check_has_labels(targets, self.task_names_, weight)
            self._check_same_classes(classes)
            return weight
        if targets.column_vector:
            warn(
                "A column-vector y was passed when a 1d array was expected. Predictions will be "
                "one-dimensional. Pass y.ravel() to silence this.",
                DataConversionWarning,
            )
        names = targets.names or [f"task{t}" for t in range(len(targets))]
        self.task_names_, self._has_names = list(names), targets.names is not None
        weight = self._weights(sample_weight, len(X), X.dtype)
        if not incremental:
            check_has_labels(targets, names, weight)
        kinds = self._kinds(targets, names)
        given = self._given_classes(classes, kinds, names, incremental=incremental)
        losses = self._losses(kinds, names)
        self._tasks = [
            _make_task(name, kind, column, loss, _column_weight(weight, t), known)
            for t, (name, kind, column, loss, known) in enumerate(
                zip(names, kinds, targets.columns, losses, given, strict=True)
            )
        ]
        self._task_losses = losses
        self._one_d = targets.one_d
        self.task_types_ = [task.kind for task in self._tasks]
        self.n_tasks_ = len(names)
        self._set_classes()
        random = check_random_state(self.random_state)
        seeds = spawn_seeds(int(random.randint(2**31 - 1)), 5)
        self._seeds, self._shuffle = seeds[:4], Stream(seeds[4])
        return weight

    def _aligned(self, targets: Targets) -> Targets:
        """Return the columns in the order of the tasks."""
        return align(targets, self.task_names_, had_names=self._has_names)

    def _weights(self, sample_weight: Any, n_rows: int, dtype: Any) -> NDArray[Any] | None:
        """Return sample weights, their columns in the order of the tasks."""
        return check_weights(
            sample_weight, n_rows, self.task_names_, dtype, had_names=self._has_names
        )

    def _kinds(self, targets: Targets, names: Sequence[str]) -> list[str]:
        """Return "classification" or "regression" a task."""
        raise NotImplementedError

    def _given_classes(
        self, classes: Any, kinds: Sequence[str], names: Sequence[str], *, incremental: bool
    ) -> list[Any]:
        """Spread ``classes`` of partial_fit over the tasks."""
        if classes is None:
            if incremental and self._needs_classes and "classification" in kinds:
                raise ValueError(
                    "classes must be passed on the first call to partial_fit: got None, expected "
                    "all classes of every classification task."
                )
            return [None] * len(kinds)
        if isinstance(classes, (str, bytes)) or not np.iterable(classes):
            raise ValueError(
                f"Got classes={classes!r}, expected an array of them. Pass all classes, or an "
                "array a task in a list or in a dict by task name."
            )
        flat = not any(isinstance(c, (list, tuple, np.ndarray)) or c is None for c in classes)
        given: list[Any]
        if not isinstance(classes, dict) and (flat or len(names) == 1):
            given = [classes if kind == "classification" else None for kind in kinds]
        else:
            given = by_task(classes, names, "classes")
        found: list[Any] = []
        for name, kind, labels in zip(names, kinds, given, strict=True):
            if (kind == "classification") != (labels is not None and np.size(labels) > 0):
                some, no = ("all of them", "no") if kind == "classification" else ("none", "some")
                raise ValueError(f"Got {no} classes for {kind} task {name!r}, expected {some}.")
            column = None if labels is None else read_targets(labels).columns[0]
            found.append(None if column is None else find_classes(column, name))
        return found

    def _check_same_classes(self, classes: Any) -> None:
        """Raise where a later call of partial_fit names other classes than the first."""
        if classes is None:
            return
        kinds = ["classification" if t.is_classification else "regression" for t in self._tasks]
        given = self._given_classes(classes, kinds, self.task_names_, incremental=True)
        for task, found in zip(self._tasks, given, strict=True):
            if task.classes is not None and not np.array_equal(found, task.classes):
                raise ValueError(
                    f"Got classes {found.tolist()} for task {task.name!r}, expected those of the "
                    f"first call: {task.classes.tolist()}. Leave classes out after it."
                )

    def _losses(self, kinds: Sequence[str], names: Sequence[str]) -> list[Loss]:
        """Return the loss of every task, checked against the task's type."""
        given = self.loss
        if isinstance(given, (list, tuple, dict)):
            given = by_task(given, names, "loss")
        else:
            given = [given] * len(names)
        losses = []
        for value, kind, name in zip(given, kinds, names, strict=True):
            form = "binary" if kind == "classification" else "regression"
            value = self._default_losses[form] if value is None else value
            loss: Loss = resolve_recipe(value, LOSSES, Loss, "loss")
            if form not in loss.kinds:
                fitting = sorted(n for n, cls in LOSSES.items() if form in cls.kinds)
                raise ValueError(
                    f"Got loss={value!r} for {kind} task {name!r}, expected one of {fitting}. "
                    "Give each task its loss in a dict by task name."
                )
            losses.append(loss)
        return losses

    def _set_classes(self) -> None:
        """Set ``classes_`` where there are any, and warn of tasks with a single one."""
        classes = [task.classes for task in self._tasks]
        lonely = [task.name for task in self._tasks if task.n_classes == 1]
        if lonely:
            warn(
                f"Got a single class in {len(lonely)} of {len(classes)} tasks ({lonely[:5]}): they "
                "will predict it for every row. Drop them, or use folds that spread classes "
                "(sk_mtl.model_selection.MultiTaskStratifiedKFold).",
                SingleClassWarning,
            )
        self.__dict__.pop("classes_", None)  # an earlier fit may have had some
        if any(c is not None for c in classes):
            self.classes_ = classes[0] if self._one_d else classes

    # Reading out --------------------------------------------------------------------------

    def _raw(self, X: Any) -> tuple[tuple[torch.Tensor, ...], Any]:
        """Return raw outputs for X, and X's type, in which results are given."""
        check_is_fitted(self)
        X = self._validated(X, reset=False)
        return self.net_.raw_outputs(to_tensor(X).to(self._torch_dtype)), X.dtype.type

    def predict(self, X: Any) -> NDArray[Any]:
        """Predict labels, in the classes and units of the training labels.

        Parameters
        ----------
        X : array-like or frame of shape (n_samples, n_features)
            Features.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_tasks)
            One-dimensional if the training labels were. Numbers have the tasks' common type;
            strings beside numbers make an object array.
        """
        return join(self._predict_columns(X), one_d=getattr(self, "_one_d", False))

    def _predict_columns(self, X: Any) -> list[NDArray[Any]]:
        raw, dtype = self._raw(X)
        return predictions(self.net_.module_.groups, raw, self._tasks, dtype)

    def _probabilities(self, X: Any) -> list[NDArray[Any] | None]:
        raw, dtype = self._raw(X)
        return probabilities(self.net_.module_.groups, raw, self._tasks, dtype)

    def transform(self, X: Any) -> NDArray[Any]:
        """Return the representation that the heads read.

        Parameters
        ----------
        X : array-like or frame of shape (n_samples, n_features)
            Features.

        Returns
        -------
        Z : ndarray of shape (n_samples, n_outputs) or (n_samples, n_tasks * n_outputs)
            The shared representation; where the trunk gives every task its own (mmoe, ple,
            single_task), theirs side by side, in the order of the tasks.
        """
        check_is_fitted(self)
        X = self._validated(X, reset=False)
        features = self.net_.features(to_tensor(X).to(self._torch_dtype))
        flat = features if features.ndim == 2 else np.hstack(list(features))
        return cast("NDArray[Any]", flat.astype(X.dtype, copy=False))

    @property
    def _n_features_out(self) -> int:
        """Width of ``transform``, for ``get_feature_names_out``."""
        return int(self._n_features_transformed)

    @property
    def _torch_dtype(self) -> torch.dtype:
        dtype: torch.dtype = next(self.net_.module_.parameters()).dtype
        return dtype

    def _resolved_device(self) -> torch.device:
        return check_device(self.device)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "net_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.target_tags.multi_output = True
        if tags.transformer_tags is not None:
            tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _check_validation_set(X_val: Any, y_val: Any, sample_weight_val: Any) -> None:
    """Raise where a part of the validation set is missing."""
    given = {"X_val": X_val, "y_val": y_val}
    absent = [name for name, value in given.items() if value is None]
    if len(absent) == 1:
        (other,) = given.keys() - set(absent)
        raise ValueError(f"Got {other} without {absent[0]}, expected both or none. Pass both.")
    if absent and sample_weight_val is not None:
        raise ValueError(
            "Got sample_weight_val without X_val and y_val, expected all of them. Pass X_val and "
            "y_val, or leave it out."
        )


def _column_weight(weight: NDArray[Any] | None, t: int) -> NDArray[Any] | None:
    return None if weight is None else weight[:, min(t, weight.shape[1] - 1)]


def _make_task(
    name: str,
    kind: str,
    column: Column,
    loss: Loss,
    weight: NDArray[Any] | None,
    classes: NDArray[Any] | None,
) -> Task:
    """Describe a task from its training labels."""
    if kind == "classification":
        found = find_classes(column, name) if classes is None else classes
        return Task(name, "binary" if len(found) <= 2 else "multiclass", found)
    check_numbers(column, name)
    rows = ~column.missing if weight is None else ~column.missing & (weight > 0)
    if not rows.any():
        raise ValueError(
            f"Got no label at all for regression task {name!r} in the first call of partial_fit, "
            "expected some: its scale is taken from them. Begin with a batch that has labels."
        )
    if not loss.standardizes:
        return Task(name, "regression")
    values = column.values[rows].astype(np.float64)
    mean, scale = weighted_scale(values, None if weight is None else weight[rows], name)
    return Task(name, "regression", mean=mean, scale=scale)
