"""Several classification tasks at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from sk_mtl.estimators._base import BaseMultiTask
from sk_mtl.estimators._decode import probabilities
from sk_mtl.estimators._docs import document
from sk_mtl.estimators._mixins import ProbabilityMixin, ScoreMixin
from sk_mtl.estimators._uncertainty import SetMixin
from sk_mtl.targets import Targets


def _fitted_on_one_task(estimator: Any) -> bool:
    """Whether raw scores can be given as scikit-learn expects them: one array."""
    return getattr(estimator, "_one_d", True)


@document("classifier")
class MultiTaskClassifier(ScoreMixin, ClassifierMixin, ProbabilityMixin, SetMixin, BaseMultiTask):
    """Neural network for several classification tasks on one table.

    Tasks may have different numbers of classes, and labels may be missing for some of them.
    For one task it is an ordinary classifier.

    Parameters
    ----------
    {parameters}

    Attributes
    ----------
    {attributes}

    See Also
    --------
    MultiTaskRegressor : For amounts.
    MultiTaskEstimator : For classes and amounts together.

    Notes
    -----
    scikit-learn's ``cross_val_score(cv=5)`` and ``GridSearchCV(cv=5)`` refuse missing labels of
    classifiers before the estimator is asked. Pass a splitter object, such as ``KFold(5)`` or
    :class:`sk_mtl.model_selection.MultiTaskStratifiedKFold`.

    Examples
    --------
    >>> import numpy as np
    >>> from sk_mtl import MultiTaskClassifier
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(200, 5))
    >>> told = X[:, :2] + 0.3 * rng.normal(size=(200, 2))
    >>> Y = np.column_stack([told[:, 0] > 0, told.sum(axis=1) > 0]).astype(float)
    >>> Y[::3, 1] = np.nan  # a third of the second task's labels is missing
    >>> clf = MultiTaskClassifier(random_state=0).fit(X, Y)
    >>> clf.predict(X[:3]).shape
    (3, 2)
    >>> [p.shape for p in clf.predict_proba(X[:3])]
    [(3, 2), (3, 2)]
    >>> clf.score(X, Y) > 0.8
    True
    """

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
        return ["classification"] * len(names)

    @available_if(_fitted_on_one_task)
    def decision_function(self, X: Any) -> NDArray[Any]:
        """Return raw scores; only for one-dimensional y.

        Parameters
        ----------
        X : array-like or frame of shape (n_samples, n_features)
            Features.

        Returns
        -------
        scores : ndarray of shape (n_samples,) or (n_samples, n_classes)
            The log-odds of the second of two classes, or a score for each of more classes.
        """
        check_is_fitted(self)
        if len(self._nets) > 1 or self.calibrate:
            return self._log_odds(X)
        rows, dtype = self._encoded(X)
        # (row, output) of the one task; probabilities that round to 1 still differ in these
        scores: NDArray[Any] = self.net_.raw_outputs(rows)[0][0].numpy().astype(dtype)
        if self._tasks[0].n_classes == 1:
            return np.zeros(len(scores), dtype=dtype)
        return scores[:, 0] if scores.shape[1] == 1 else scores

    def _log_odds(self, X: Any) -> NDArray[Any]:
        """Return what ``decision_function`` returns, from the probabilities."""
        found, dtype = self._outcomes(X)
        p = probabilities(found, self._tasks, dtype)[0]
        assert p is not None
        tiny = np.finfo(p.dtype).tiny
        if p.shape[1] == 1:
            return np.zeros(len(p), dtype=dtype)
        log_p = np.log(np.maximum(p, tiny)).astype(dtype)
        scores: NDArray[Any] = log_p[:, 1] - log_p[:, 0] if p.shape[1] == 2 else log_p
        return scores

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags
