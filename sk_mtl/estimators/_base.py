"""What the three estimators share: validate, encode, build, train, read out."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.exceptions import DataConversionWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_consistent_length, check_is_fitted
from torch import nn

from sk_mtl._support import (
    CallbackSupportMixin,
    HasMethods,
    Interval,
    SingleClassWarning,
    Stream,
    StrOptions,
    check_device,
    fit_context,
    spawn_seeds,
    undo_on_error,
    warn,
    with_callbacks,
)
from sk_mtl.cascades._recipes import resolve_cascade
from sk_mtl.columns import (
    DTYPES,
    Columns,
    RawTable,
    admissible_dtypes,
    read_table,
    to_tensor,
)
from sk_mtl.estimators._calibration import calibrated
from sk_mtl.estimators._decode import join, mean_outcomes, outcomes, predictions, probabilities
from sk_mtl.estimators._describe import (
    check_same_classes,
    describe_tasks,
    resolve_losses,
    spread_classes,
)
from sk_mtl.estimators._ensemble import fit_networks
from sk_mtl.estimators._folds import read_groups
from sk_mtl.estimators._session import Session, row_weights
from sk_mtl.layers import ACTIVATIONS
from sk_mtl.targets import Targets, read_targets
from sk_mtl.tasks import Task, align, check_has_labels, read_weights


class BaseMultiTask(
    CallbackSupportMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    BaseEstimator,
):
    """Base of the multi-task estimators; not for direct use."""

    task_names_: list[str]
    _tasks: list[Task]
    _shuffle: Stream
    _needs_classes: ClassVar[bool] = True
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "trunk": [str, HasMethods(["build"]), type],
        "categorical_features": ["array-like", StrOptions({"from_dtype"}), None],
        "scaling": [StrOptions({"robust", "standard"}), None],
        "embedding": [str, HasMethods(["build"]), type, None],
        "input_scale_rate": [Interval(Real, 0, None, closed="left")],
        "linear_path": ["boolean"],
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "head_hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions(set(ACTIVATIONS))],
        "dropout": [StrOptions({"auto"}), Interval(Real, 0, 1, closed="left")],
        "loss": [str, HasMethods(["elementwise"]), type, list, tuple, dict, None],
        "task_dependencies": [dict, HasMethods(["link"]), None],
        "task_weights": ["array-like", dict, None],
        "weighting": [str, HasMethods(["build"]), nn.Module, type],
        "penalty": [str, HasMethods(["build"]), type, None],
        "n_members": [Interval(Integral, 1, None, closed="left")],
        "calibrate": ["boolean"],
        "class_weight": [StrOptions({"balanced"}), dict, list, tuple, None],
        "solver": [StrOptions({"adam", "sgd"})],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "momentum": [Interval(Real, 0, 1, closed="both")],
        "nesterovs_momentum": ["boolean"],
        "ema_decay": [Interval(Real, 0, 1, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "shuffle": ["boolean"],
        "random_state": ["random_state"],
        "tol": [Interval(Real, 0, None, closed="left")],
        "verbose": ["verbose"],
        "warm_start": ["boolean"],
        "early_stopping": [StrOptions({"auto"}), "boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": [StrOptions({"auto"}), Interval(Real, 1, None, closed="both")],
        "stopping_tasks": ["array-like", None],
        "stopping_rule": [StrOptions({"mean", "worst", "each"})],
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
        groups: Any = None,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
    ) -> Any:
        """Train on a table.

        Parameters
        ----------
        X : array-like or frame of shape (n_samples, n_features)
            Features: numbers, none infinite; of a frame also categories. Cells may be missing. A
            sparse matrix of numbers is not made dense as a whole.
        y : array-like or frame of shape (n_samples,) or (n_samples, n_tasks)
            Labels; NaN, None and pandas' NA are missing ones.
        sample_weight : array-like of shape (n_samples,) or (n_samples, n_tasks), default=None
            Weights of rows, or of rows and tasks.
        groups : array-like of shape (n_samples,), default=None
            Whose row each is: of which patient, day or customer. Rows of one group are held out
            together wherever rows are held out (but for one that a task needs to have a label to
            learn from), so that early stopping, the share of the linear path, temperatures and
            intervals are those for groups that were never seen. Members whose folds differ in
            size train one after the other. Not with X_val. Searches and cross-validation hand
            it on with ``set_fit_request(groups=True)`` and metadata routing enabled.
        X_val, y_val, sample_weight_val : array-likes, default=None
            Validation rows for early stopping, instead of a share of the training rows. In a
            Pipeline they reach the estimator as they are: scikit-learn transforms them only
            with ``Pipeline(..., transform_input=["X_val"])`` and metadata routing enabled.

        Returns
        -------
        self : object
            Fitted estimator.

        Raises
        ------
        ValueError
            If the data, or a parameter in view of the data, are not admissible.
        """
        fit_networks(self._session(X, y, sample_weight, groups, X_val, y_val, sample_weight_val))
        return self

    def _session(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        groups: Any = None,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
    ) -> Session:
        """Read and encode the data of a ``fit``."""
        continued = self.warm_start and self.__sklearn_is_fitted__()
        given = (X, y)
        _check_validation_set(X_val, y_val, sample_weight_val)
        if groups is not None and X_val is not None:
            raise ValueError(
                "Got groups with X_val, expected one of them: no row of X is held out then. Leave "
                "one out."
            )
        raw, targets = self._read(X, y, reset=not continued)
        weight = self._begin(raw, targets, sample_weight, continued=continued)
        of_rows = None if groups is None else read_groups(groups, len(raw))
        session = Session(
            self, raw, targets, weight, given=given, continued=continued, groups=of_rows
        )
        if X_val is not None:
            raw_val, targets_val = self._read(X_val, y_val, reset=False)
            session.add_validation(
                raw_val, targets_val, self._weights(sample_weight_val, len(raw_val), raw_val.dtype)
            )
        return session

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
            regression task, or ``tasks="auto"`` has to tell its type: that is taken from there.
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
            As in ``fit``; also if ``early_stopping=True`` or a ``class_weight`` is "balanced",
            if classes are needed and missing, or if a label is none of them.
        """
        if self.early_stopping is True:
            raise ValueError(
                "Got early_stopping=True in partial_fit, expected False or 'auto': there is no "
                "validation set from call to call. Use fit."
            )
        continued, given = self.__sklearn_is_fitted__(), (X, y)
        raw, targets = self._read(X, y, reset=not continued)
        weight = self._begin(
            raw, targets, sample_weight, continued=continued, classes=classes, incremental=True
        )
        fit_networks(
            Session(self, raw, targets, weight, given=given, continued=continued, incremental=True)
        )
        return self

    def _read(self, X: Any, y: Any, *, reset: bool) -> tuple[RawTable, Targets]:
        """Validate X and read Y as columns, of as many rows."""
        targets = read_targets(y)
        raw = self._validated(X, reset=reset)
        check_consistent_length(raw.numbers, targets.columns[0].values)
        return raw, targets

    def _validated(self, X: Any, *, reset: bool) -> RawTable:
        return read_table(
            self,
            X,
            reset=reset,
            categorical_features=self.categorical_features,
            dtypes=admissible_dtypes(self.dtype if reset else "auto"),
        )

    def _encoded(self, X: Any) -> tuple[torch.Tensor, Any]:
        """Return X as the network reads it, and X's type, in which results are given."""
        check_is_fitted(self)
        raw = self._validated(X, reset=False)
        dtype = DTYPES[str(self._torch_dtype).removeprefix("torch.")]
        return to_tensor(self._columns.transform(raw, dtype)), raw.dtype.type

    def _begin(
        self,
        raw: RawTable,
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
            weight = self._weights(sample_weight, len(raw), raw.dtype)
            if not incremental:
                check_has_labels(targets, self.task_names_, weight)
            check_same_classes(classes, self._tasks)
            self._shuffle = deepcopy(self._shuffle)  # a call that fails shall not advance it
            return weight
        if targets.column_vector:
            warn(
                "A column-vector y was passed when a 1d array was expected. Predictions will be "
                "one-dimensional. Pass y.ravel() to silence this.",
                DataConversionWarning,
            )
        names = targets.task_names
        self.task_names_, self._has_names = list(names), targets.names is not None
        weight = self._weights(sample_weight, len(raw), raw.dtype)
        if not incremental:
            check_has_labels(targets, names, weight)
        kinds = self._kinds(targets, names)
        if classes is not None:
            known = spread_classes(classes, kinds, names)
        elif incremental and self._needs_classes and "classification" in kinds:
            raise ValueError(
                "classes must be passed on the first call to partial_fit: got None, expected all "
                "classes of every classification task. Pass an array of them, or one a task."
            )
        else:
            known = [None] * len(names)
        self._task_losses = resolve_losses(self.loss, kinds, names)
        self._tasks = describe_tasks(targets, kinds, self._task_losses, weight, known)
        self._links = resolve_cascade(self.task_dependencies, self._tasks)
        self._columns = Columns(self.scaling).fit(raw, row_weights(weight))
        self._one_d = targets.one_d
        self.task_types_ = [task.kind for task in self._tasks]
        self.n_tasks_ = len(names)
        self._set_classes()
        self._draw_seeds()
        return weight

    def _draw_seeds(self) -> None:
        """Take a seed for each source of random numbers of a fit."""
        random = check_random_state(self.random_state)
        seeds = spawn_seeds(int(random.randint(2**31 - 1)), 6)
        self._seeds, self._shuffle, self._member_seed = seeds[:4], Stream(seeds[4]), seeds[5]

    def _aligned(self, targets: Targets) -> Targets:
        """Return the columns in the order of the tasks."""
        return align(targets, self.task_names_, had_names=self._has_names)

    def _weights(self, sample_weight: Any, n_rows: int, dtype: Any) -> NDArray[Any] | None:
        """Return sample weights, their columns in the order of the tasks."""
        return read_weights(
            sample_weight, n_rows, self.task_names_, dtype, had_names=self._has_names
        )

    def _kinds(self, targets: Targets, names: Sequence[str]) -> list[str]:
        """Return "classification" or "regression" a task."""
        raise NotImplementedError

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

    @property
    def _nets(self) -> list[Any]:
        """The trained nets: one, or one a member."""
        if hasattr(self, "estimators_"):
            return [member.net_ for member in self.estimators_]
        return [self.net_]

    def _outcomes_by_net(self, X: Any) -> tuple[list[list[NDArray[Any]]], Any]:
        """Return what each task's loss reads in the outputs of every net, and the type of X."""
        rows, dtype = self._encoded(X)
        by_net = [
            outcomes(net.module_.groups, net.raw_outputs(rows), self._links) for net in self._nets
        ]
        return by_net, dtype

    def _outcomes(self, X: Any) -> tuple[list[NDArray[Any]], Any]:
        """Return what each task's loss reads in the outputs, and the type of results, X's.

        Of several members it is the mean: of probabilities, which are then calibrated, and of
        amounts.
        """
        by_net, dtype = self._outcomes_by_net(X)
        return calibrated(mean_outcomes(by_net), self), dtype

    def predict(self, X: Any) -> NDArray[Any]:
        """Predict labels, in the classes and units of the training labels.

        Parameters
        ----------
        X : array-like or frame of shape (n_samples, n_features)
            Features.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_tasks)
            One-dimensional if the training labels were. Numbers have the tasks' common type,
            amounts that of X; strings beside numbers make an object array.
        """
        return join(self._predict_columns(X), one_d=getattr(self, "_one_d", False))

    def _predict_columns(self, X: Any) -> list[NDArray[Any]]:
        found, dtype = self._outcomes(X)
        return predictions(found, self._tasks, dtype)

    def _probabilities(self, X: Any) -> list[NDArray[Any] | None]:
        found, dtype = self._outcomes(X)
        return probabilities(found, self._tasks, dtype)

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
            single_task), theirs side by side, in the order of the tasks. Of several members,
            those of all stand side by side.
        """
        rows, dtype = self._encoded(X)
        flat = np.hstack(
            [
                part
                for features in (net.features(rows) for net in self._nets)
                for part in (features if features.ndim == 3 else [features])
            ]
        )
        return flat.astype(dtype)  # a trunk of no layers hands on X itself

    @property
    def _n_features_out(self) -> int:
        """Width of ``transform``, for ``get_feature_names_out``."""
        return int(self._n_features_transformed)

    @property
    def _torch_dtype(self) -> torch.dtype:
        dtype: torch.dtype = next(self._nets[0].module_.parameters()).dtype
        return dtype

    def _resolved_device(self) -> torch.device:
        return check_device(self.device)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "net_") or hasattr(self, "estimators_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.sparse = True
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
