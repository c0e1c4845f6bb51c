"""What our users have open in the next cell: one model a task, with default parameters.

Every peer gets the frame as its users would give it: boosted trees their native categories and
gaps; linear models, forests and scikit-learn's perceptron a pipeline with one-hot columns and
medians; RealMLP and TabM the frame. Nothing here knows ``sk_mtl``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

Array = NDArray[np.float64]

MISSING = "missing"  # the category of cells that have none, for those who know only text
SEED = 0


@dataclass(frozen=True)
class Peer:
    """One of those that ours is compared with.

    Attributes
    ----------
    package, module : str
        Where it comes from.
    names : tuple of str
        Of its classifier and of its regressor.
    parameters : dict
        Where they are not the defaults, of both.
    of_classifier : dict
        The same, of the classifier alone.
    threads : str or None
        The parameter for the number of threads.
    columns : str
        "native" for the frame as it is, "named" for categories whose names are text, "text" for
        text and a list of its columns; "filled", "one_hot" and "scaled" for pipelines.
    learns : str
        "a task" for one model a task; "all tasks" for one model, of amounts without gaps; "all
        rows" for one model of disjoint tasks, with the task as one more category.
    """

    package: str
    module: str
    names: tuple[str, str]
    parameters: dict[str, Any] = field(default_factory=dict)
    of_classifier: dict[str, Any] = field(default_factory=dict)
    threads: str | None = None
    columns: str = "native"
    learns: str = "a task"

    def made_by(self) -> str | None:
        """Return by what its results are known, None where it is not installed."""
        try:
            found = f"{self.package} {version(self.package)}"
        except PackageNotFoundError:
            return None
        return f"{found} {self.names} {self.parameters} {self.of_classifier} {self.columns}"

    def model(self, kind: str, categorical: list[str], threads: int) -> Any:
        """Return a model that is not fitted."""
        parameters = dict(self.parameters)
        if kind == "classification":
            parameters |= self.of_classifier
        if self.threads:
            parameters[self.threads] = threads
        if self.columns == "text":
            parameters["cat_features"] = categorical
        name = self.names[kind == "regression"]
        model = getattr(import_module(self.module), name)(**parameters)
        if self.columns in ("filled", "one_hot", "scaled"):
            return make_pipeline(preprocessing(self.columns), model)
        return model

    def frame(self, X: Any, categorical: list[str]) -> tuple[Any, list[str]]:
        """Return features as fit and predict are given them, and which hold categories."""
        names = {column: f"column {i}" for i, column in enumerate(X.columns)}
        X = X.rename(columns=names)  # some refuse names with brackets or commas in them
        categorical = [names[column] for column in categorical]
        if self.columns == "named":  # XGBoost refuses those that are floating-point numbers
            named = {c: X[c].cat.rename_categories(str) for c in categorical}
            X = X.assign(**named)
        if self.columns == "text":
            X = X.copy()
            for column in categorical:
                X[column] = X[column].astype(object).where(X[column].notna(), MISSING).astype(str)
        return X, categorical


def preprocessing(columns: str) -> Any:
    """Return the median for gaps of numbers; categories as they are, or as columns of 0 and 1."""
    categories = make_column_selector(dtype_include="category")
    numbers = make_column_selector(dtype_exclude="category")
    fill = SimpleImputer(strategy="median", keep_empty_features=True)
    if columns == "filled":
        steps = make_column_transformer(
            (fill, numbers), ("passthrough", categories), verbose_feature_names_out=False
        )
        return steps.set_output(transform="pandas")
    one_hot = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    if columns == "scaled":
        fill = make_pipeline(fill, StandardScaler())
    return make_column_transformer((fill, numbers), (one_hot, categories))


def _both(stem: str) -> tuple[str, str]:
    return f"{stem}Classifier", f"{stem}Regressor"


SEEDED = {"random_state": SEED}
CATBOOST = {"random_seed": SEED, "verbose": False, "allow_writing_files": False}
PYTABKIT = {"random_state": SEED, "device": "cpu", "verbosity": 0}
PEERS = {
    "ridge_logistic": Peer(
        "scikit-learn",
        "sklearn.linear_model",
        ("LogisticRegression", "RidgeCV"),
        of_classifier={"max_iter": 1000},
        columns="scaled",
    ),
    "histgb": Peer("scikit-learn", "sklearn.ensemble", _both("HistGradientBoosting"), SEEDED),
    "lightgbm": Peer(
        "lightgbm", "lightgbm", _both("LGBM"), SEEDED | {"verbosity": -1}, threads="n_jobs"
    ),
    "catboost_500": Peer(
        "catboost",
        "catboost",
        _both("CatBoost"),
        CATBOOST | {"iterations": 500},
        threads="thread_count",
        columns="text",
    ),
    "random_forest": Peer(
        "scikit-learn",
        "sklearn.ensemble",
        _both("RandomForest"),
        SEEDED,
        threads="n_jobs",
        columns="one_hot",
    ),
    "extra_trees": Peer(
        "scikit-learn",
        "sklearn.ensemble",
        _both("ExtraTrees"),
        SEEDED,
        threads="n_jobs",
        columns="one_hot",
    ),
    "xgboost": Peer(
        "xgboost",
        "xgboost",
        _both("XGB"),
        SEEDED | {"enable_categorical": True},
        threads="n_jobs",
        columns="named",
    ),
    "xgboost_multi": Peer(
        "xgboost",
        "xgboost",
        ("", "XGBRegressor"),
        SEEDED | {"multi_strategy": "multi_output_tree"},
        threads="n_jobs",
        columns="one_hot",  # its trees of many outputs know no categories yet
        learns="all tasks",
    ),
    "sklearn_mlp": Peer(
        "scikit-learn", "sklearn.neural_network", _both("MLP"), SEEDED, columns="scaled"
    ),
    "catboost": Peer(
        "catboost",
        "catboost",
        _both("CatBoost"),
        CATBOOST,
        threads="thread_count",
        columns="text",
    ),
    "realmlp": Peer(
        "pytabkit",
        "pytabkit",
        _both("RealMLP_TD_"),
        PYTABKIT,
        threads="n_threads",
        columns="filled",  # it refuses gaps in numbers
    ),
    "tabm": Peer(
        "pytabkit",
        "pytabkit",
        _both("TabM_D_"),
        PYTABKIT,
        threads="n_threads",
        columns="filled",
    ),
}
POOLED = ("ridge_logistic", "histgb", "catboost_500")
PEERS |= {f"{name}_pooled": replace(PEERS[name], learns="all rows") for name in POOLED}


# Scores --------------------------------------------------------------------------------------


def area(y: Any, classes: Array, p: Array) -> float | None:
    """Return the area under the ROC curve, of more than two classes the mean, one against the rest.

    Parameters
    ----------
    y : array of shape (n,)
        True classes.
    classes : array of shape (n_classes,)
        Classes of the columns of ``p``: what the training rows had.
    p : array of shape (n, n_classes)
        Probabilities. A class without a column has probability 0.

    Returns
    -------
    score : float or None
        None where the rows are all of one class. The mean is over the classes that rows have.
    """
    seen = np.unique(y)
    if len(seen) < 2:
        return None
    columns = {c: p[:, i] for i, c in enumerate(classes.tolist())}
    nothing = np.zeros(len(y))
    if len(seen) == 2 and len(classes) <= 2:
        return float(roc_auc_score(y == seen[1], columns.get(seen.tolist()[1], nothing)))
    return float(np.mean([roc_auc_score(y == c, columns.get(c, nothing)) for c in seen.tolist()]))


def calibration_error(y: Any, classes: Array, p: Array, n_bins: int = 15) -> float:
    """Return how far confidence is from being right, the mean over rows (Guo et al. 2017).

    Rows are put into bins of equal width by the probability of the class that is predicted; a
    bin's error is the difference between the mean of these and the share of rows that are right.

    Parameters
    ----------
    y, classes, p : arrays
        As in :func:`area`.
    n_bins : int, default=15
        Number of bins.
    """
    confidence = p.max(axis=1)
    right = np.asarray(classes)[p.argmax(axis=1)] == y
    bins = np.minimum((confidence * n_bins).astype(int), n_bins - 1)
    gaps = np.bincount(bins, weights=right - confidence, minlength=n_bins)
    return float(np.abs(gaps).sum() / len(bins))


def squares(y: Array, predicted: Array, mean: float) -> tuple[float, float]:
    """Return the sums of squares of the errors, and of those of the training mean."""
    return float(np.sum((y - predicted) ** 2)), float(np.sum((y - mean) ** 2))


def one_less_rrmse(errors: float, of_mean: float) -> float | None:
    """Return 1 - RRMSE; None where the mean makes no errors."""
    return 1.0 - math.sqrt(errors / of_mean) if of_mean > 0 else None
