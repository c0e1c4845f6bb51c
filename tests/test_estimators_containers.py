"""What holds X and Y, and what comes back: values, names and dtypes, whatever the container."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from plain import plain
from sklearn.base import clone

from sk_mtl import MultiTaskClassifier, MultiTaskEstimator, MultiTaskRegressor
from sk_mtl.metrics import mean_score
from sk_mtl.targets import read_targets
from sk_mtl.tasks import Task

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore::sk_mtl._support.InferredTaskTypesWarning"),
]

N = 40
rng = np.random.default_rng(0)
X = rng.normal(size=(N, 3))
Y = np.column_stack([X[:, 0] > 0, np.digitize(X[:, 1], [-0.5, 0.5])]).astype(int)
R = X[:, :2] @ [[1.0, 0.5], [0.5, -1.0]]
NAMES = ["buy", "size"]
WORDS = np.array(["no", "yes"])[Y[:, 0]]
GONE = np.arange(N) % 4 == 1  # rows without a label for task 1
NAN = np.nan
SMALL = {"hidden_layer_sizes": (5,), "max_iter": 3, "random_state": 0}


def clf(**params):
    return plain(MultiTaskClassifier, **{**SMALL, **params})


def reg(**params):
    return plain(MultiTaskRegressor, **{**SMALL, **params})


def mix(**params):
    return plain(MultiTaskEstimator, **{**SMALL, **params})


def probabilities(model, X=X):
    return np.hstack(model.predict_proba(X))


def read_only(array):
    array = array.copy()
    array.setflags(write=False)
    return array


# X --------------------------------------------------------------------------------------------

FRAME = pd.DataFrame(X, columns=list("abc"))
CONTAINERS_OF_X = {
    "list": X.tolist(),
    "fortran": np.asfortranarray(X),
    "read-only": read_only(X),
    "strided": np.repeat(X, 2, axis=0)[::2],
    "reversed": X[::-1].copy()[::-1],
    "big-endian": X.astype(">f8"),
    "objects": X.astype(object),
    "tensor": torch.from_numpy(X),
    "pandas": FRAME,
    "pandas Float64": FRAME.astype("Float64"),
    "polars": pl.DataFrame(X, schema=list("abc")),
    "pyarrow": pa.table({"a": X[:, 0], "b": X[:, 1], "c": X[:, 2]}),
}


@pytest.mark.parametrize("name", CONTAINERS_OF_X)
def test_container_of_x_does_not_matter(name):
    held = CONTAINERS_OF_X[name]
    model, plain = clf().fit(held, Y), clf().fit(X, Y)
    assert np.array_equal(probabilities(model, held), probabilities(plain))
    named = name in ("pandas", "pandas Float64", "polars", "pyarrow")
    assert hasattr(model, "feature_names_in_") == named
    assert not hasattr(plain, "feature_names_in_")
    if named:
        assert model.feature_names_in_.tolist() == ["a", "b", "c"]


def test_x_is_left_as_it_was():
    for dtype in (np.float32, np.float64):
        given = X.astype(dtype)
        before = given.copy()
        clf(activation="relu").fit(given, Y).transform(given)
        assert np.array_equal(given, before)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_computes_in_the_type_of_x(dtype):
    x = X.astype(dtype)
    model, mixed = clf().fit(x, Y), mix().fit(x, R)
    assert next(model.net_.module_.parameters()).numpy(force=True).dtype == dtype
    assert model.predict_proba(x)[0].dtype == dtype
    assert model.transform(x).dtype == dtype
    assert mixed.predict(x).dtype == dtype
    # results have the type of the X that is asked about
    assert mixed.predict(X).dtype == np.float64
    assert mixed.predict(X.astype(np.float32)).dtype == np.float32


def test_type_can_be_set():
    short = X.astype(np.float32)
    assert reg(dtype="float64").fit(short, R)._torch_dtype == torch.float64
    assert reg(dtype="float32").fit(X, R)._torch_dtype == torch.float32
    assert np.array_equal(reg(dtype="float32").fit(X, R).predict(X), reg().fit(short, R).predict(X))
    integers = np.round(10 * X).astype(int)
    assert reg().fit(integers, R).predict(integers).dtype == np.float64


def test_large_amounts_survive_single_precision():
    """1e9 + noise differs only after float32's last digit: Y is standardised before the cast."""
    y = 1e9 + R[:, 0]
    near, far = reg().fit(X.astype(np.float32), R[:, 0]), reg().fit(X.astype(np.float32), y)
    np.testing.assert_allclose(far.loss_curve_, near.loss_curve_, rtol=1e-3)


def test_amounts_are_decoded_in_double_precision():
    """1e6 + 0.1 has no digit after the point in single precision but on 1/16."""
    task = Task("amount", "regression", mean=1e6 + 0.1, scale=3.0)
    values = np.array([0.5, -1.0], dtype=np.float32)
    assert task.decode(values).tolist() == [0.5 * 3.0 + (1e6 + 0.1), -3.0 + (1e6 + 0.1)]


# Y --------------------------------------------------------------------------------------------

CONTAINERS_OF_Y = {
    "list": Y.tolist(),
    "tuples": [tuple(row) for row in Y.tolist()],
    "fortran": np.asfortranarray(Y),
    "read-only": read_only(Y),
    "floats": Y.astype(float),
    "int8": Y.astype(np.int8),
    "objects": Y.astype(object),
    "tensor": torch.from_numpy(Y),
    "pandas": pd.DataFrame(Y, columns=NAMES),
    "pandas Int64": pd.DataFrame(Y, columns=NAMES).astype("Int64"),
    "pandas category": pd.DataFrame(Y, columns=NAMES).astype("category"),
    "polars": pl.DataFrame(Y, schema=NAMES),
    "pyarrow": pa.table({"buy": Y[:, 0], "size": Y[:, 1]}),
}


@pytest.mark.parametrize("name", CONTAINERS_OF_Y)
def test_container_of_y_does_not_matter(name):
    held = CONTAINERS_OF_Y[name]
    model, plain = clf().fit(X, held), clf().fit(X, Y)
    assert np.array_equal(probabilities(model), probabilities(plain))
    assert model.score(X, held) == plain.score(X, Y)
    assert [c.tolist() for c in model.classes_] == [[0, 1], [0, 1, 2]]
    assert all(c.dtype.kind == "i" for c in model.classes_)
    assert model.predict(X).dtype.kind == "i"
    named = any(part in name for part in ("pandas", "polars", "pyarrow"))
    assert model.task_names_ == (NAMES if named else ["task0", "task1"])


def with_gaps(value):
    """Y as nested lists with ``value`` in place of some labels of task 1."""
    return [[int(a), value if gone else int(b)] for (a, b), gone in zip(Y, GONE, strict=True)]


GAPPED = pd.DataFrame(with_gaps(None), columns=NAMES)
CONTAINERS_WITH_GAPS = {
    "NaN": np.array(with_gaps(NAN)),
    "list of NaN": with_gaps(NAN),
    "list of None": with_gaps(None),
    "objects with None": np.array(with_gaps(None), dtype=object),
    "objects with NA": np.array(with_gaps(pd.NA), dtype=object),
    "objects with NaT": np.array(with_gaps(pd.NaT), dtype=object),
    "masked": np.ma.masked_array(Y, np.column_stack([GONE & False, GONE])),
    "pandas": GAPPED.astype(float),
    "pandas Int64": GAPPED.astype("Int64"),
    "pandas category": GAPPED.astype(float).astype("category"),
    "polars": pl.DataFrame(with_gaps(None), schema=NAMES, orient="row"),
    "pyarrow": pa.table({"buy": Y[:, 0], "size": pa.array([r[1] for r in with_gaps(None)])}),
    "tensor": torch.tensor(with_gaps(NAN)),
}


@pytest.mark.parametrize("name", CONTAINERS_WITH_GAPS)
def test_container_of_missing_labels_does_not_matter(name):
    held = CONTAINERS_WITH_GAPS[name]
    expected = clf().fit(X, np.array(with_gaps(NAN)))
    model = clf().fit(X, held)
    missing = [column.missing for column in read_targets(held).columns]
    assert np.array_equal(missing, [GONE & False, GONE])
    assert np.array_equal(probabilities(model), probabilities(expected))
    assert not np.array_equal(probabilities(model), probabilities(clf().fit(X, Y)))
    assert model.score(X, held) == expected.score(X, np.array(with_gaps(NAN)))
    # floats only because of NaN: the classes are whole numbers again
    assert all(c.dtype.kind == "i" for c in model.classes_)
    assert model.predict(X).dtype.kind == "i"


WORDS_WITH_GAPS = [None if gone else word for word, gone in zip(WORDS.tolist(), GONE, strict=True)]
CONTAINERS_OF_WORDS = {
    "list": WORDS_WITH_GAPS,
    "objects": np.array(WORDS_WITH_GAPS, dtype=object),
    "pandas": pd.Series(WORDS_WITH_GAPS),
    "pandas string": pd.Series(WORDS_WITH_GAPS, dtype="string"),
    "pandas category": pd.Series(WORDS_WITH_GAPS, dtype="category"),
    "polars": pl.Series(WORDS_WITH_GAPS),
    "polars category": pl.Series(WORDS_WITH_GAPS, dtype=pl.Categorical),
}


@pytest.mark.parametrize("name", CONTAINERS_OF_WORDS)
def test_container_of_words_does_not_matter(name):
    held = CONTAINERS_OF_WORDS[name]
    model = clf().fit(X, held)
    expected = clf().fit(X, np.where(GONE, NAN, Y[:, 0]))
    assert np.array_equal(model.predict_proba(X), expected.predict_proba(X))
    assert model.classes_.tolist() == ["no", "yes"]
    assert set(model.predict(X)) <= {"no", "yes"}
    assert model.score(X, held) == model.score(X, np.array(WORDS_WITH_GAPS, dtype=object))


@pytest.mark.parametrize(
    "held",
    [
        pd.Series(Y[:, 0] > 0, dtype="boolean").mask(GONE),
        pl.Series([None if g else bool(v) for g, v in zip(GONE, Y[:, 0], strict=True)]),
        [None if g else bool(v) for g, v in zip(GONE, Y[:, 0], strict=True)],
    ],
    ids=["pandas", "polars", "list"],
)
def test_booleans(held):
    model = clf().fit(X, held)
    assert model.classes_.tolist() == [False, True]
    assert model.predict(X).dtype == bool
    expected = clf().fit(X, np.where(GONE, NAN, Y[:, 0]))
    assert np.array_equal(model.predict_proba(X), expected.predict_proba(X))


def test_missing_amounts():
    y = np.where(np.column_stack([GONE & False, GONE]), NAN, R)
    expected = reg().fit(X, y).predict(X)
    frame = pd.DataFrame(y, columns=NAMES)
    for held in (frame, frame.astype("Float64"), pl.from_pandas(frame), y.astype(object)):
        assert np.array_equal(reg().fit(X, held).predict(X), expected)


# What comes back ------------------------------------------------------------------------------

COLUMNS = {
    "int": Y[:, 1],
    "bool": Y[:, 0] > 0,
    "id": 2**53 + 1 + 2 * Y[:, 0],  # no double holds it
    "float": R[:, 0],
    "word": WORDS,
    "object": WORDS.astype(object),
}
TYPES = [  # the types of two tasks, and of their predictions together
    ("int", "int", "i"),
    ("bool", "bool", "b"),
    ("bool", "int", "i"),
    ("int", "float", "f"),
    ("bool", "float", "f"),
    ("id", "int", "i"),
    ("id", "float", "O"),
    ("word", "word", "U"),
    ("object", "object", "O"),
    ("word", "int", "O"),
    ("float", "word", "O"),
]


@pytest.mark.parametrize(("first", "second", "kind"), TYPES)
def test_type_of_predictions(first, second, kind):
    columns = [COLUMNS[first], COLUMNS[second]]
    y = pd.DataFrame({"a": columns[0], "b": columns[1]})
    if first == second:
        y = np.column_stack(columns)
    kinds = [("regression" if c == "float" else "classification") for c in (first, second)]
    predicted = mix(tasks=kinds).fit(X, y).predict(X)
    assert predicted.shape == (N, 2)
    assert predicted.dtype.kind == kind
    for t, task in enumerate((first, second)):
        if task != "float":
            assert set(predicted[:, t].tolist()) <= set(COLUMNS[task].tolist())


def test_mixed_table_of_words_and_numbers():
    y = np.empty((N, 3), dtype=object)
    y[:, 0], y[:, 1], y[:, 2] = WORDS, R[:, 0], Y[:, 1]
    y[::4, 0] = None
    y[1::4, 1] = NAN
    model = mix(tasks={"task2": "classification", "task0": "classification", "task1": "regression"})
    model.fit(X, y)
    assert model.task_types_ == ["binary", "regression", "multiclass"]
    assert [None if c is None else c.tolist() for c in model.classes_] == [
        ["no", "yes"],
        None,
        [0, 1, 2],
    ]
    first = model.predict(X)[0]
    assert isinstance(first[0], str)
    assert isinstance(first[1], float)
    assert isinstance(first[2], int)
    assert [None if p is None else p.shape for p in model.predict_log_proba(X)] == [
        (N, 2),
        None,
        (N, 3),
    ]


def test_one_d_and_column_vector():
    flat = clf().fit(X, Y[:, 1])
    with pytest.warns(UserWarning, match="A column-vector y was passed when a 1d array was expect"):
        column = clf().fit(X, Y[:, [1]])
    for model in (flat, column):
        assert model.predict(X).shape == (N,)
        assert model.predict_proba(X).shape == (N, 3)
        assert model.decision_function(X).shape == (N, 3)
        assert model.classes_.tolist() == [0, 1, 2]
        assert model.task_names_ == ["task0"]
    assert np.array_equal(flat.predict_proba(X), column.predict_proba(X))
    assert reg().fit(X, R[:, 0]).predict(X).shape == (N,)


def test_decision_function_ranks_as_the_probabilities():
    binary, several = clf().fit(X, Y[:, 0]), clf().fit(X, Y[:, 1])
    log_odds = binary.decision_function(X)
    assert log_odds.shape == (N,)
    np.testing.assert_allclose(1 / (1 + np.exp(-log_odds)), binary.predict_proba(X)[:, 1])
    scores = np.exp(several.decision_function(X))
    np.testing.assert_allclose(
        scores / scores.sum(1, keepdims=True), several.predict_proba(X), rtol=1e-10
    )
    assert not hasattr(clf().fit(X, Y), "decision_function")
    assert not hasattr(reg().fit(X, R[:, 0]), "decision_function")


def test_probabilities_belong_to_the_classes():
    model = clf(max_iter=100, learning_rate_init=0.05).fit(X, Y)
    for t, (p, log_p) in enumerate(
        zip(model.predict_proba(X), model.predict_log_proba(X), strict=True)
    ):
        np.testing.assert_allclose(p.sum(1), 1)
        np.testing.assert_array_equal(np.log(p), log_p)
        assert np.array_equal(model.classes_[t][p.argmax(1)], model.predict(X)[:, t])
    assert model.score(X, Y) > 0.9


@pytest.mark.parametrize("n_rows", [1, 2, 7])
def test_rows_are_predicted_one_by_one_as_together(n_rows):
    model = mix().fit(X, np.column_stack([Y[:, 0], R[:, 0]]))
    np.testing.assert_allclose(model.predict(X[:n_rows]), model.predict(X)[:n_rows], atol=1e-12)
    assert model.predict_proba(X[:n_rows])[0].shape == (n_rows, 2)


def test_chunks_of_a_long_table_fit_together():
    long = np.tile(X, (500, 1))  # more rows than are evaluated together
    model = clf().fit(X, Y)
    tiled = np.tile(probabilities(model), (500, 1))
    np.testing.assert_allclose(probabilities(model, long), tiled, atol=1e-12)
    assert model.transform(long).shape == (len(long), 5)


# Names ----------------------------------------------------------------------------------------


def test_columns_are_matched_by_name():
    y = pd.DataFrame(Y, columns=NAMES)
    model = clf(max_iter=100, learning_rate_init=0.05).fit(X, y)
    assert model.score(X, y[["size", "buy"]]) == model.score(X, y)
    assert model.score(X, pl.from_pandas(y[["size", "buy"]])) == model.score(X, y)
    assert model.score(X, Y) == model.score(X, y)  # an array is taken in order
    assert model.score(X, Y[:, ::-1]) < model.score(X, y)  # negative control
    unnamed = clf().fit(X, Y)  # nothing to match by
    assert unnamed.score(X, y) == unnamed.score(X, Y)


@pytest.mark.parametrize("names", [[10, 20], [("a", 1), ("a", 2)]], ids=str)
def test_column_names_that_are_no_strings_are_names_all_the_same(names):
    """Only 0, 1, 2, ... are positions: they are what a frame without names has."""
    y = pd.DataFrame(Y)
    y.columns = pd.Index(names, tupleize_cols=False)
    model = clf(max_iter=100, learning_rate_init=0.05).fit(X, y)
    assert model.task_names_ == [str(name) for name in names]
    assert model.score(X, y.iloc[:, ::-1]) == model.score(X, y)
    weighted = clone(model).set_params(task_weights={str(names[0]): 3}).fit(X, y)
    assert not np.array_equal(probabilities(weighted), probabilities(model))
    plain = clf().fit(X, pd.DataFrame(Y))
    assert plain.task_names_ == ["task0", "task1"]


def test_validation_labels_and_weights_are_matched_by_name():
    y = pd.DataFrame(Y, columns=NAMES)
    weight = pd.DataFrame(rng.uniform(0.5, 2, size=Y.shape), columns=NAMES)
    turned = ["size", "buy"]
    straight = clf().fit(X, y, weight, X_val=X, y_val=y, sample_weight_val=weight)
    other = clf().fit(
        X, y, weight[turned], X_val=X, y_val=y[turned], sample_weight_val=weight[turned]
    )
    assert straight.validation_scores_ == other.validation_scores_
    assert np.array_equal(probabilities(straight), probabilities(other))
    assert straight.score(X, y, weight) == straight.score(X, y, weight[turned])


def test_scores_match_columns_as_the_estimator_does():
    """By name after a fit on a frame, whatever the names; by position after one on an array."""
    y = pd.DataFrame(Y, columns=["task0", "task1"])
    named, unnamed = clf().fit(X, y), clf().fit(X, Y)
    other = y.set_axis(NAMES, axis=1)
    for score in (lambda model, y: model.score(X, y), lambda model, y: mean_score(model, X, y)):
        with pytest.raises(ValueError, match=r"expected \['task0', 'task1'\]"):
            score(named, other)
        assert score(named, y.iloc[:, ::-1]) == score(named, Y)
        assert score(unnamed, other) == score(unnamed, Y)


@pytest.mark.parametrize("held", [pl.from_pandas, pa.Table.from_pandas], ids=["polars", "pyarrow"])
def test_frames_of_weights_are_matched_by_name(held):
    y = pd.DataFrame(Y, columns=NAMES)
    cells = pd.DataFrame(np.random.default_rng(1).uniform(size=Y.shape), columns=NAMES)
    turned = held(cells[["size", "buy"]])
    model = clf().fit(X, y, turned)
    assert np.array_equal(probabilities(model), probabilities(clf().fit(X, y, cells)))
    assert model.score(X, y, turned) == model.score(X, y, cells) != model.score(X, y)
    assert mean_score(model, X, y, sample_weight=turned) == model.score(X, y, cells)


def test_names_that_are_no_strings_are_not_used():
    model = clf().fit(X, pd.DataFrame(Y))
    assert model.task_names_ == ["task0", "task1"]


def test_history_has_every_task_by_name():
    y = pd.DataFrame(Y, columns=NAMES)
    model = clf(task_weights={"size": 3}).fit(X, y, X_val=X, y_val=y)
    epoch = model.net_.history[-1]
    for name in NAMES:
        assert {f"train_loss_{name}", f"valid_loss_{name}", f"weight_{name}"} <= set(epoch)
    assert (epoch["weight_buy"], epoch["weight_size"]) == (1, 3)
    assert model.task_loss_curves_[-1].tolist() == [epoch[f"train_loss_{n}"] for n in NAMES]
    assert model.validation_task_loss_curves_[-1].tolist() == [
        epoch[f"valid_loss_{n}"] for n in NAMES
    ]
    expected = (epoch["train_loss_buy"] + 3 * epoch["train_loss_size"]) / 4
    assert model.loss_curve_[-1] == pytest.approx(expected)


# transform ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("trunk", "copies"), [("shared_bottom", 1), ("mmoe", 2), ("ple", 2)])
def test_transform_and_its_names(trunk, copies):
    model = clf(trunk=trunk).fit(FRAME, Y)
    z, names = model.transform(FRAME), model.get_feature_names_out()
    assert z.shape == (N, 5 * copies)
    assert names.tolist() == [f"multitaskclassifier{i}" for i in range(5 * copies)]
    assert np.array_equal(clf(trunk=trunk).fit_transform(FRAME, Y), z)
    for library, cls in [("pandas", pd.DataFrame), ("polars", pl.DataFrame)]:
        table = clf(trunk=trunk).set_output(transform=library).fit(FRAME, Y).transform(FRAME)
        assert isinstance(table, cls)
        assert list(table.columns) == names.tolist()
        assert np.array_equal(np.asarray(table), z)


def test_transform_never_returns_the_users_memory():
    x = X.copy()
    z = clf(hidden_layer_sizes=()).fit(x, Y).transform(x)
    assert np.array_equal(z, x)  # a trunk without layers
    assert not np.shares_memory(z, x)


def test_heads_read_what_transform_gives():
    """Without hidden layers in the heads, raw scores are linear in the representation."""
    model = reg().fit(X, R)
    head = model.net_.module_.heads[0].output
    weight, bias = head.weight.numpy(force=True)[:, 0], head.bias.numpy(force=True)[:, 0]
    standardised = model.transform(X) @ weight.T + bias
    np.testing.assert_allclose(standardised * R.std(0) + R.mean(0), model.predict(X), atol=1e-12)


@pytest.mark.filterwarnings("error::sk_mtl._support.InferredTaskTypesWarning")
def test_a_categorical_type_says_that_labels_are_classes():
    codes = np.arange(N) % 25
    few, many = pd.Categorical(codes % 5), pd.Categorical(codes)
    model = mix().fit(X, pd.DataFrame({"few": few, "many": many, "amount": X[:, 0]}))
    assert model.task_types_ == ["multiclass", "multiclass", "regression"]
    steps = pd.Series(pd.Categorical(codes % 5 + 0.5))
    assert mix().fit(X, steps).task_types_ == ["regression"], "classes are no fractions"
    plain_numbers = pd.DataFrame({"many": codes, "amount": X[:, 0]})
    assert mix().fit(X, plain_numbers).task_types_ == ["regression", "regression"]


def test_gaps_of_pandas_in_an_array_of_objects():
    whole = np.where(np.arange(N) % 7, X[:, 0].round(), np.nan)
    frame = pd.DataFrame({"a": pd.array(whole, dtype="Int64"), "b": X[:, 1]})
    objects = frame.to_numpy()
    assert pd.NA in objects[:, 0].tolist()
    model = mix().fit(objects, X[:, 0])
    same = mix().fit(np.column_stack([whole, X[:, 1]]), X[:, 0])
    np.testing.assert_array_equal(
        model.predict(objects), same.predict(np.column_stack([whole, X[:, 1]]))
    )
    for gap in (pd.NaT, np.datetime64("NaT"), np.timedelta64("NaT"), None):
        cells = [[gap if np.isnan(a) else a, b] for a, b in zip(whole, X[:, 1], strict=True)]
        again = mix().fit(np.array(cells, dtype=object), X[:, 0])
        np.testing.assert_array_equal(again.predict(objects), model.predict(objects))
