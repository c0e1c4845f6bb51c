"""Helpers of several test files: multi-task estimators without a network, a recording callback."""

from __future__ import annotations

import copy

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.utils.validation import validate_data
from skorch.callbacks import Callback

from sk_mtl.targets import read_targets
from sk_mtl.tasks import as_labels, infer_kinds


class LinearTasks(BaseEstimator):
    """Mixed tasks; the public behaviour of MultiTaskEstimator, fitted in milliseconds."""

    def __init__(self, C=1.0):
        self.C = C

    def fit(self, X, y, sample_weight=None):
        X = validate_data(self, X)
        targets = read_targets(y)
        kinds = infer_kinds(targets)[0]
        self._one_d = targets.one_d
        self.task_names_ = targets.task_names
        weights = np.ones(len(X)) if sample_weight is None else np.asarray(sample_weight)
        weights = np.broadcast_to(weights.reshape(len(X), -1), (len(X), len(targets)))
        self.models_ = []
        for t, (column, kind) in enumerate(zip(targets.columns, kinds, strict=True)):
            if column.missing.all():
                raise ValueError(f"Got no label at all for task {self.task_names_[t]!r}.")
            rows = ~column.missing
            is_class = kind == "classification"
            model = LogisticRegression(C=self.C) if is_class else LinearRegression()
            labels = as_labels(column.observed) if is_class else column.observed
            self.models_.append(model.fit(X[rows], labels, weights[rows, t]))
        classes = [getattr(model, "classes_", None) for model in self.models_]
        self.classes_ = classes[0] if targets.one_d else classes
        return self

    def predict(self, X):
        X = validate_data(self, X, reset=False)
        columns = [model.predict(X) for model in self.models_]
        if self._one_d:
            return columns[0]
        mixed = len({c.dtype.kind in "OU" for c in columns}) > 1
        table = np.empty((len(X), len(columns)), dtype=object) if mixed else None
        if table is None:
            return np.column_stack(columns)
        for t, column in enumerate(columns):
            table[:, t] = column
        return table

    def predict_proba(self, X):
        X = validate_data(self, X, reset=False)
        parts = [m.predict_proba(X) if hasattr(m, "classes_") else None for m in self.models_]
        return parts[0] if self._one_d else parts

    def predict_log_proba(self, X):
        parts = self.predict_proba(X)
        if self._one_d:
            return np.log(parts)
        return [None if p is None else np.log(p) for p in parts]

    def transform(self, X):
        return validate_data(self, X, reset=False) * 2.0

    def score(self, X, y, sample_weight=None):
        return 0.0


class LinearClassifiers(ClassifierMixin, LinearTasks):
    """The same, tagged as a classifier, as MultiTaskClassifier is."""


class LinearRegressions(RegressorMixin, LinearTasks):
    """The same, tagged as a regressor, as MultiTaskRegressor is."""


class Recorder(Callback):
    """Keeps the parameters after every step; those before the first under 0."""

    def initialize(self):
        self.states = []
        return self

    def on_train_begin(self, net, **kwargs):
        self.states.append(copy.deepcopy(net.module_.state_dict()))

    def on_batch_end(self, net, training, **kwargs):
        if training:
            self.states.append(copy.deepcopy(net.module_.state_dict()))
