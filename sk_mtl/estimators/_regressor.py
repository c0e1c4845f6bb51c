"""Several regression tasks at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from sklearn.base import RegressorMixin

from sk_mtl.estimators._base import BaseMultiTask
from sk_mtl.estimators._docs import document
from sk_mtl.estimators._mixins import ScoreMixin
from sk_mtl.estimators._uncertainty import IntervalMixin
from sk_mtl.targets import Targets


@document("regressor")
class MultiTaskRegressor(ScoreMixin, RegressorMixin, IntervalMixin, BaseMultiTask):
    """Neural network for several regression tasks on one table.

    Targets are standardised per task over their labelled training rows, so that no task
    dominates by its unit; predictions are in the original units. Labels may be missing for
    some tasks.

    Parameters
    ----------
    {parameters}

    Attributes
    ----------
    {attributes}

    See Also
    --------
    MultiTaskClassifier : For classes.
    MultiTaskEstimator : For classes and amounts together.

    Examples
    --------
    >>> import numpy as np
    >>> from sk_mtl import MultiTaskRegressor
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(200, 5))
    >>> Y = np.column_stack([X[:, 0], X[:, 0] + X[:, 1]]) + 0.3 * rng.normal(size=(200, 2))
    >>> Y[:, 1] *= 1000  # units do not matter
    >>> Y[::3, 1] = np.nan  # a third of the second task's labels is missing
    >>> reg = MultiTaskRegressor(random_state=0).fit(X, Y)
    >>> reg.predict(X[:3]).shape
    (3, 2)
    >>> reg.score(X, Y) > 0.9
    True
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        name: constraints
        for name, constraints in BaseMultiTask._parameter_constraints.items()
        if name not in ("class_weight", "calibrate")
    }

    def __init__(
        self,
        trunk: Any = "shared_bottom",
        *,
        categorical_features: Any = "from_dtype",
        scaling: str | None = "robust",
        embedding: Any = "piecewise_linear",
        input_scale_rate: float = 6.0,
        linear_path: bool = True,
        hidden_layer_sizes: Any = (256, 128),
        head_hidden_layer_sizes: Any = (),
        activation: str = "relu",
        dropout: float | str = "auto",
        loss: Any = None,
        task_dependencies: Any = None,
        task_weights: Any = None,
        weighting: Any = "static",
        penalty: Any = None,
        n_members: int = 8,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate_init: float = 0.002,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        ema_decay: float = 0.99,
        max_iter: int = 256,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 0.0001,
        verbose: bool = False,
        warm_start: bool = False,
        early_stopping: bool | str = "auto",
        validation_fraction: float = 0.1,
        n_iter_no_change: float | str = "auto",
        stopping_tasks: Any = None,
        stopping_rule: str = "mean",
        dtype: str = "auto",
        device: Any = "cpu",
        callbacks: Any = None,
    ) -> None:
        self.trunk = trunk
        self.categorical_features = categorical_features
        self.scaling = scaling
        self.embedding = embedding
        self.input_scale_rate = input_scale_rate
        self.linear_path = linear_path
        self.hidden_layer_sizes = hidden_layer_sizes
        self.head_hidden_layer_sizes = head_hidden_layer_sizes
        self.activation = activation
        self.dropout = dropout
        self.loss = loss
        self.task_dependencies = task_dependencies
        self.task_weights = task_weights
        self.weighting = weighting
        self.penalty = penalty
        self.n_members = n_members
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.ema_decay = ema_decay
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.stopping_tasks = stopping_tasks
        self.stopping_rule = stopping_rule
        self.dtype = dtype
        self.device = device
        self.callbacks = callbacks

    def _kinds(self, targets: Targets, names: Sequence[str]) -> list[str]:
        return ["regression"] * len(names)
