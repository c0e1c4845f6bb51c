"""Classification and regression tasks together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from sklearn.utils import ClassifierTags

from sk_mtl._support import InferredTaskTypesWarning, StrOptions, warn
from sk_mtl.estimators._base import BaseMultiTask
from sk_mtl.estimators._docs import document
from sk_mtl.estimators._mixins import ProbabilityMixin, ScoreMixin
from sk_mtl.estimators._uncertainty import IntervalMixin, SetMixin
from sk_mtl.targets import Targets
from sk_mtl.tasks import by_task, infer_kinds

KINDS = ("classification", "regression")


@document("mixed")
class MultiTaskEstimator(ScoreMixin, ProbabilityMixin, IntervalMixin, SetMixin, BaseMultiTask):
    """Neural network for classification and regression tasks on one table.

    To scikit-learn it is neither a classifier nor a regressor, so ``cv=5`` means plain folds
    everywhere, and missing labels pass.

    Parameters
    ----------
    tasks : "auto", list or dict, default="auto"
        Type of every task, "classification" or "regression", in the order of the columns or by
        task name. "auto" takes strings, booleans, at most 20 distinct whole numbers and those of
        a categorical type for classes and other numbers for amounts, and warns where whole
        numbers leave a doubt; ``task_types_`` says what was taken.
    {parameters}

    Attributes
    ----------
    {attributes}

    See Also
    --------
    MultiTaskClassifier : For classes only.
    MultiTaskRegressor : For amounts only.

    Examples
    --------
    >>> import numpy as np
    >>> from sk_mtl import MultiTaskEstimator
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(200, 5))
    >>> Y = np.empty((200, 2), dtype=object)
    >>> Y[:, 0] = np.where(X[:, 0] > 0, "late", "on time")
    >>> Y[:, 1] = X[:, 0] + X[:, 1] + rng.normal(size=200)
    >>> Y[::3, 0] = None  # a third of the first task's labels is missing
    >>> model = MultiTaskEstimator(random_state=0).fit(X, Y)
    >>> model.task_types_
    ['binary', 'regression']
    >>> model.predict(X[:1])[0, 0] in ("late", "on time")
    True
    >>> [None if p is None else p.shape for p in model.predict_proba(X[:3])]
    [(3, 2), None]
    """

    _needs_classes = False
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "tasks": [StrOptions({"auto"}), list, tuple, dict],
        **BaseMultiTask._parameter_constraints,
    }

    def __init__(
        self,
        trunk: Any = "shared_bottom",
        *,
        tasks: Any = "auto",
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
        calibrate: bool = False,
        class_weight: Any = None,
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
        self.tasks = tasks
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
        self.calibrate = calibrate
        self.class_weight = class_weight
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
        if self.tasks != "auto":
            kinds = by_task(self.tasks, names, "tasks")
            for name, kind in zip(names, kinds, strict=True):
                if kind is None:
                    raise ValueError(
                        f"Got no type for task {name!r} in tasks={self.tasks!r}, expected one for "
                        "each. Add 'classification' or 'regression'."
                    )
                if kind not in KINDS:
                    raise ValueError(
                        f"Got the type {kind!r} for task {name!r} in tasks, expected "
                        "'classification' or 'regression' for every task."
                    )
            return kinds
        kinds, doubtful = infer_kinds(targets)
        if doubtful:
            listed = {names[t]: kinds[t] for t in doubtful[:5]}
            warn(
                f"Whole numbers in {len(doubtful)} of {len(names)} tasks may be classes or "
                f"amounts; tasks='auto' took {listed}. Pass tasks= to decide.",
                InferredTaskTypesWarning,
            )
        return kinds

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        # scikit-learn's checks with sparse X read it of whatever predicts probabilities
        tags.classifier_tags = ClassifierTags()
        return tags
