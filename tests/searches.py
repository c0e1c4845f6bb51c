"""Helpers of the tests of searches: a small table, small estimators, and the two searches."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from plain import plain
from sklearn.base import clone
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from sk_mtl import (
    MultiTaskClassifier,
    MultiTaskEstimator,
    MultiTaskRegressor,
    VectorizedGridSearchCV,
)

N = 103  # five folds of unequal sizes
FOLDS = KFold(3)
TASKS = ["classification", "regression", "regression"]
GRID = {"alpha": [1e-4, 0.3], "learning_rate_init": [1e-3, 0.05]}
PIPE_GRID = {f"mtl__{name}": values for name, values in GRID.items()}

SMALL = {
    "hidden_layer_sizes": (6, 5),
    "learning_rate_init": 0.02,
    "batch_size": 30,  # several batches, the last one smaller
    "max_iter": 5,
    "random_state": 0,
}

_rng = np.random.default_rng(0)
X = _rng.normal(size=(N, 4))
AMOUNTS = X @ _rng.normal(size=(4, 3)) * [1.0, 1.0, 50.0] + _rng.normal(size=(N, 3))
CLASSES = np.column_stack([AMOUNTS[:, 0] > 0, AMOUNTS[:, 1] > 1, np.digitize(X[:, 2], [-0.5, 0.5])])
CLASSES = CLASSES.astype(int)
MIXED = np.column_stack([CLASSES[:, 0], AMOUNTS[:, 1:]])
WEIGHT = _rng.uniform(0.5, 2.0, size=(N, 3))
_gaps = _rng.uniform(size=(N, 3)) < 0.15


some_fail = pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.FitFailedWarning",
    "ignore:One or more of the (test|train) scores",
    "ignore:Scoring failed",
)


def with_gaps(Y):
    """Labels of which some are missing."""
    return np.where(_gaps, np.nan, Y)


LABELS = {
    "classifier": with_gaps(CLASSES),
    "regressor": with_gaps(AMOUNTS),
    "mixed": with_gaps(MIXED),
}
Y = LABELS["mixed"]


def classifier(**params):
    return plain(MultiTaskClassifier, **(SMALL | params))


def regressor(**params):
    return plain(MultiTaskRegressor, **(SMALL | params))


def mixed(**params):
    return plain(MultiTaskEstimator, **(SMALL | {"tasks": TASKS} | params))


def pipe(scale=None, **params):
    return Pipeline([("scale", scale or StandardScaler()), ("mtl", mixed(**params))])


MODELS = {"classifier": classifier, "regressor": regressor, "mixed": mixed}


def grid_search(model, grid, X=X, Y=Y, fit_params=None, **options):
    """Return a fitted search of ours."""
    options = {"cv": FOLDS} | options
    return VectorizedGridSearchCV(model, grid, **options).fit(X, Y, **(fit_params or {}))


def loop(model, grid, X=X, Y=Y, fit_params=None, **options):
    """Return a fitted search of scikit-learn's."""
    options = {"cv": FOLDS} | options
    return GridSearchCV(model, grid, **options).fit(X, Y, **(fit_params or {}))


def check_equal(model, grid, X=X, Y=Y, fit_params=None, *, trained="stacked", **options):
    """Return both searches, after a check that they found the same.

    Parameters
    ----------
    trained : str or list of str, default="stacked"
        How our search is to have trained the candidates: so that no loop is held against itself.
    """
    ours = grid_search(model, grid, X, Y, fit_params, **options)
    how = ours.search_report_["trained"]
    assert how == ([trained] * len(how) if isinstance(trained, str) else trained)
    theirs = loop(model, grid, X, Y, fit_params, **options)
    assert_same_search(ours, theirs, X)
    return ours, theirs


def assert_same_results(ours, theirs, *, atol=1e-9):
    """The same columns with the same numbers in them; seconds apart."""
    assert list(ours) == list(theirs)
    for name, column in theirs.items():
        assert len(ours[name]) == len(column)
        if name == "params" or name.startswith("param_"):
            assert str(ours[name]) == str(column)
        elif name.startswith("rank_"):
            assert_array_equal(ours[name], column, err_msg=name)
        elif name.endswith("_time"):
            assert np.isfinite(ours[name]).all()
        else:
            assert_allclose(ours[name], column, rtol=0, atol=atol, err_msg=name)


def assert_same_search(ours, theirs, X=None, *, atol=1e-9):
    """The same results, choice and fitted estimator."""
    assert_same_results(ours.cv_results_, theirs.cv_results_, atol=atol)
    for name in ("n_splits_", "multimetric_", "best_index_"):
        assert getattr(ours, name, None) == getattr(theirs, name, None), name
    assert str(getattr(ours, "best_params_", None)) == str(getattr(theirs, "best_params_", None))
    if hasattr(theirs, "best_score_"):
        assert_allclose(ours.best_score_, theirs.best_score_, rtol=0, atol=atol)
    if X is not None and theirs.refit:
        predicted = [search.best_estimator_.predict(X) for search in (ours, theirs)]
        assert_array_equal(*predicted)  # both by the estimator's own fit


def task_scores_by_hand(search, model, X=X, Y=Y, folds=FOLDS):
    """Mean over folds of accuracy or R2 of every task, one fit after the other."""
    table = []
    for params in search.cv_results_["params"]:
        of_folds = []
        for train, test in folds.split(X):
            fitted = clone(model).set_params(**params).fit(X[train], Y[train])
            predicted, scores = fitted.predict(X[test]), []
            for t in range(Y.shape[1]):
                seen = ~np.isnan(Y[test, t])
                metric = r2_score if fitted.classes_[t] is None else accuracy_score
                scores.append(metric(Y[test, t][seen], predicted[seen, t]))
            of_folds.append(scores)
        table.append(np.mean(of_folds, axis=0))
    return np.array(table)


def fitted_names(search):
    """Names of the fitted attributes."""
    return {name for name in vars(search) if name.endswith("_") and not name.startswith("_")}


def refit_fails():
    """Folds that leave the last row out, in which all rows cannot be fitted on."""
    broken = X.copy()
    broken[-1] = np.inf
    rows = np.arange(N - 1)
    return broken, [(rows[:60], rows[60:]), (rows[40:], rows[:40])]
