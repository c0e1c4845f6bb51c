"""Frames straight into fit: columns of categories, gaps, unseen values, whatever made the frame."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import polars as pl
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from plain import plain
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.model_selection import GridSearchCV, KFold, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from sk_mtl import (
    MultiTaskClassifier,
    MultiTaskEstimator,
    MultiTaskRegressor,
    VectorizedGridSearchCV,
)
from sk_mtl.trunks import TRUNKS

N = 240
COLOURS = {"red": 0.0, "green": 2.0, "blue": -1.0, "grey": 1.0}
EFFECT = np.random.default_rng(9).normal(size=20)  # of twenty towns
pytestmark = pytest.mark.filterwarnings(
    "ignore:Stochastic Optimizer:sklearn.exceptions.ConvergenceWarning"
)


def made(n=N, seed=0):
    """A frame of numbers with gaps, strings, categories, booleans; and two labels."""
    rng = np.random.default_rng(seed)
    colour, town = rng.choice(list(COLOURS), size=n), rng.integers(0, 20, size=n)
    age, old = rng.normal(40, 10, size=n), rng.random(n) < 0.5
    wage = (age - 40) / 10 + [COLOURS[c] for c in colour] + EFFECT[town] + old
    wage += 0.1 * rng.normal(size=n)
    X = pd.DataFrame(
        {
            "colour": colour,
            "age": np.where(rng.random(n) < 0.1, np.nan, age),
            "town": pd.Categorical([f"town {t}" for t in town]),
            "old": old,
        }
    )
    return X, pd.DataFrame({"wage": wage, "rich": (wage > wage.mean()).astype(int)})


X, Y = made()
X_NEW, Y_NEW = made(1000, seed=1)
W, W_NEW = (labels[["wage"]].assign(half=-labels["wage"] / 2) for labels in (Y, Y_NEW))
SMALL = {
    "hidden_layer_sizes": (16,),
    "learning_rate_init": 0.02,
    "batch_size": 32,
    "max_iter": 40,
    "random_state": 0,
    "scaling": "robust",
}


def reg(**params):
    return plain(MultiTaskRegressor, **(SMALL | params))


def clf(**params):
    return plain(MultiTaskClassifier, **(SMALL | params))


def mix(**params):
    tasks = {"wage": "regression", "rich": "classification"}
    return plain(MultiTaskEstimator, tasks=tasks, **(SMALL | params))


# They count --------------------------------------------------------------------------------------


@pytest.mark.parametrize("embedding", [None, "piecewise_linear", "periodic"])
def test_a_frame_goes_straight_into_fit(embedding):
    model = mix(embedding=embedding).fit(X, Y)
    assert model.is_categorical_.tolist() == [True, False, True, False]
    assert model.feature_names_in_.tolist() == ["colour", "age", "town", "old"]
    assert model.score(X_NEW, Y_NEW) > 0.85
    numbers = X.drop(columns=["colour", "town"]), X_NEW.drop(columns=["colour", "town"])
    alone = mix(embedding=embedding).fit(numbers[0], Y)  # negative control
    assert alone.score(numbers[1], Y_NEW) < 0.7


def test_with_default_parameters():
    model = MultiTaskRegressor(random_state=0, max_iter=60).fit(X, W)
    assert model.score(X_NEW, W_NEW) > 0.9


def test_as_good_as_one_hot_columns_of_scikit_learn():
    encoded = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore", sparse_output=False), ["colour", "town"]),
        remainder="passthrough",
    )
    theirs = make_pipeline(encoded, reg()).fit(X, W).score(X_NEW, W_NEW)
    assert reg().fit(X, W).score(X_NEW, W_NEW) > theirs - 0.05


@pytest.mark.parametrize("trunk", TRUNKS)
def test_every_trunk_reads_them(trunk):
    model = reg(trunk=trunk, max_iter=25).fit(X, W)
    assert model.predict(X_NEW).shape == (1000, 2)
    assert model.score(X_NEW, W_NEW) > 0.4


def test_the_order_and_the_names_of_categories_mean_nothing():
    other = X.assign(town=X["town"].cat.reorder_categories(sorted(X["town"].cat.categories)[::-1]))
    expected = reg().fit(X, Y["wage"]).predict(X_NEW)
    assert_array_equal(reg().fit(other, Y["wage"]).predict(X_NEW), expected)
    strings = X.assign(town=X["town"].astype(str))
    assert_array_equal(reg().fit(strings, Y["wage"]).predict(X_NEW), expected)


def test_indices_names_and_masks_say_the_same():
    array = X.assign(colour=X["colour"].astype("category").cat.codes, town=X["town"].cat.codes)
    array = array.to_numpy(float)
    by_index = reg(categorical_features=[0, 2]).fit(array, Y["wage"])
    by_mask = reg(categorical_features=[True, False, True, False]).fit(array, Y["wage"])
    assert_array_equal(by_mask.predict(array), by_index.predict(array))
    by_name = reg(categorical_features=["colour", "town"]).fit(
        pd.DataFrame(array, columns=list(X)), Y["wage"]
    )
    assert_array_equal(by_name.predict(pd.DataFrame(array, columns=list(X))),
                       by_index.predict(array))  # fmt: skip
    numbers = reg().fit(array, Y["wage"])  # negative control: codes as numbers
    assert not np.allclose(numbers.predict(array), by_index.predict(array), rtol=1e-2)


# What comes later --------------------------------------------------------------------------------


def test_a_category_never_seen_is_as_one_that_is_missing():
    model = reg().fit(X, Y["wage"])
    rows = X_NEW[:5]
    unseen = rows.assign(colour="mauve", town="nowhere")
    missing = rows.assign(colour=None, town=None)
    assert_array_equal(model.predict(unseen), model.predict(missing))
    assert np.isfinite(model.predict(unseen)).all()
    assert not np.allclose(model.predict(unseen), model.predict(rows), rtol=1e-2)


def test_rows_whose_town_is_unknown_are_told_from_the_rest():
    """Code 0 has weights that were trained where some rows of training had it."""
    gaps = X.assign(town=X["town"].where(np.arange(N) % 3 > 0))
    model = reg(n_members=5).fit(gaps, Y["wage"])
    lost = X_NEW.assign(town=None)
    residual = Y_NEW["wage"] - model.predict(lost)
    assert abs(residual.mean()) < 0.5
    assert residual.var() < 1.6 * EFFECT.var()


@pytest.mark.parametrize("column", list(X))
def test_a_column_without_any_value_at_predict(column):
    model = reg().fit(X, Y["wage"])
    empty = X_NEW.assign(**{column: None if column in ("colour", "town") else np.nan})
    found = model.predict(empty)
    assert np.isfinite(found).all()
    assert not np.allclose(found, model.predict(X_NEW), rtol=1e-2)


@pytest.mark.parametrize("column", ["colour", "age"])
def test_a_column_without_any_value_at_fit(column):
    value = None if column == "colour" else np.nan
    empty = X.assign(**{column: value})
    model = reg().fit(empty, Y["wage"])
    assert np.isfinite(model.predict(empty)).all()
    if column == "age":  # whatever it holds later says nothing
        assert_array_equal(model.predict(X.assign(age=7.0)), model.predict(empty))


def test_rare_categories_are_one():
    rare = X.astype({"town": str})
    rare.loc[[0, 1, 2, 3, 4], "town"] = ["a", "b", "c", "d", "e"]
    model = reg().fit(rare, Y["wage"])
    rows = X_NEW[:5].astype({"town": str})
    found = [model.predict(rows.assign(town=name)) for name in "abcde"]
    assert all(np.array_equal(found[0], other) for other in found)


# Whatever made the frame -------------------------------------------------------------------------


def test_pandas_equals_polars():
    theirs = pl.from_pandas(X), pl.from_pandas(X_NEW)
    for params in ({}, {"n_members": 3, "embedding": "piecewise_linear", "linear_path": True}):
        ours = mix(**params).fit(X, Y)
        other = mix(**params).fit(theirs[0], pl.from_pandas(Y))
        assert other.is_categorical_.tolist() == ours.is_categorical_.tolist()
        for a, b in zip(ours._outcomes(X_NEW)[0], other._outcomes(theirs[1])[0], strict=True):
            assert_array_equal(a, b)
        assert_array_equal(ours.predict(theirs[1]), other.predict(X_NEW))


@pytest.mark.parametrize("dtype", ["category", "string", "object"])
def test_every_dtype_of_strings(dtype):
    expected = reg().fit(X, Y["wage"]).predict(X_NEW)
    model = reg().fit(X.astype({"colour": dtype}), Y["wage"])
    assert_array_equal(model.predict(X_NEW.astype({"colour": dtype})), expected)
    assert_array_equal(model.predict(X_NEW), expected)  # and of another later on


# Beside scikit-learn -----------------------------------------------------------------------------


@pytest.mark.parametrize("n_members", [1, 3])
def test_cross_validation_and_searches(n_members):
    model = reg(n_members=n_members, max_iter=15)
    scores = cross_val_score(model, X, W, cv=KFold(3))
    assert scores.shape == (3,) and scores.min() > 0.4
    assert cross_val_predict(model, X, W, cv=KFold(3)).shape == (N, 2)
    grid = {"alpha": [1e-4, 1.0], "hidden_layer_sizes": [(8,), (16,)]}
    ours = VectorizedGridSearchCV(model, grid, cv=KFold(3)).fit(X, W)
    theirs = GridSearchCV(model, grid, cv=KFold(3)).fit(X, W)
    for key in ("mean_test_score", "std_test_score"):
        assert_allclose(ours.cv_results_[key], theirs.cv_results_[key], rtol=1e-4, atol=1e-6)
    assert_allclose(ours.predict(X_NEW), theirs.predict(X_NEW), rtol=1e-3, atol=1e-4)


def test_folds_whose_categories_differ_are_stacked_by_form():
    """A town that one fold lacks makes its network narrower: such folds train apart."""
    frame = X.assign(town=[f"town {i // 12}" for i in range(N)])  # in blocks, as the folds are
    search = VectorizedGridSearchCV(reg(max_iter=5), {"alpha": [0.1, 1.0]}, cv=KFold(3))
    theirs = GridSearchCV(reg(max_iter=5), {"alpha": [0.1, 1.0]}, cv=KFold(3))
    ours, theirs = search.fit(frame, W), theirs.fit(frame, W)
    assert_allclose(
        ours.cv_results_["mean_test_score"], theirs.cv_results_["mean_test_score"], rtol=1e-4
    )


def test_a_frame_through_the_rest_of_the_contract():
    model = clf(n_members=2).fit(X, Y["rich"])
    again = pickle.loads(pickle.dumps(model))
    assert_array_equal(again.predict_proba(X_NEW), model.predict_proba(X_NEW))
    assert clone(model).fit(X, Y["rich"]).score(X_NEW, Y_NEW["rich"]) > 0.8
    assert model.transform(X_NEW).shape == (1000, len(model.get_feature_names_out()))
    validated = clf().fit(X, Y["rich"], X_val=X_NEW, y_val=Y_NEW["rich"])
    assert len(validated.validation_scores_) == validated.n_iter_
    online = clf(scaling=None)
    for rows in (slice(0, 120), slice(120, None)):
        online.partial_fit(X[rows], Y["rich"][rows], classes=[0, 1])
    assert online.predict(X_NEW).shape == (1000,)
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(X_NEW.rename(columns={"town": "city"}))


def test_weights_repeat_rows_of_frames():
    times = np.random.default_rng(0).integers(0, 3, size=60)
    small = {"dtype": "float64", "batch_size": 10_000, "max_iter": 5, "early_stopping": False}
    small |= {"embedding": "piecewise_linear"}
    repeated = np.arange(60).repeat(times)
    with pytest.warns(UserWarning, match="Got batch_size"):
        weighted = reg(**small).fit(X[:60], Y["wage"][:60], sample_weight=times)
    with pytest.warns(UserWarning, match="Got batch_size"):
        other = reg(**small).fit(X.iloc[repeated], Y["wage"].iloc[repeated])
    assert_allclose(weighted.predict(X_NEW), other.predict(X_NEW), rtol=1e-7)
