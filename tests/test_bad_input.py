"""Bad input: what is refused, and the exact words.

One table. Our own messages say what was got, what was expected and what to do; where
scikit-learn's validation speaks first, its words are left as its users know them.
"""

from __future__ import annotations

import datetime
import re

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from plain import plain
from scipy import sparse
from skorch.callbacks import Callback, EarlyStopping

from sk_mtl import MultiTaskClassifier, MultiTaskEstimator, MultiTaskRegressor
from sk_mtl._support import SingleClassWarning
from sk_mtl.losses import Focal, Huber, Quantile
from sk_mtl.metrics import make_task_scorer, task_scores
from sk_mtl.model_selection import MultiTaskStratifiedKFold
from sk_mtl.trunks import PLE, TRUNKS, MMoE
from sk_mtl.weighting import WEIGHTINGS, Uniform

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore::sk_mtl._support.SingleClassWarning"),
]

N = 40
rng = np.random.default_rng(0)
X = rng.normal(size=(N, 3))
Y = (X[:, :2] > 0).astype(int)  # two binary tasks
Y3 = np.column_stack([Y[:, 0], np.digitize(X[:, 1], [-0.5, 0.5])])  # two and three classes
R = np.round(X[:, :2], 1)  # two amounts
MIXED = np.column_stack([Y[:, 0], R[:, 0]])
ONES = np.ones(N)
ALL = slice(None)


def clf(**params):
    return plain(MultiTaskClassifier, **{"hidden_layer_sizes": (4,), "max_iter": 2, **params})


def reg(**params):
    return plain(MultiTaskRegressor, **{"hidden_layer_sizes": (4,), "max_iter": 2, **params})


def mix(**params):
    return plain(MultiTaskEstimator, **{"hidden_layer_sizes": (4,), "max_iter": 2, **params})


def put(array, where, value):
    """Return a copy with some cells replaced."""
    array = np.array(array, dtype=object if isinstance(value, str) else float)
    array[where] = value
    return array


def frame(array, *names):
    return pd.DataFrame(array, columns=list(names))


def then(first, second):
    """Return the second call, made on what the first returns."""
    return lambda: second(first())


def fitted():
    return clf().fit(X, Y)


def started():
    return clf().partial_fit(X, Y, classes=[0, 1])


def warm(y=Y, cls=clf):
    return cls(warm_start=True).fit(X, y)


CASES: dict[str, tuple] = {}


def bad(name, call, message, error=ValueError):
    """Add a case; a message that begins with "^" is a regular expression."""
    assert name not in CASES
    CASES[name] = (call, message, error)


def invalid(name, call, message):
    """Add a case that scikit-learn's check of parameters refuses."""
    bad(name, call, "^The '" + message, ValueError)


# X --------------------------------------------------------------------------------------------
bad("X 1-D", lambda: clf().fit(X[:, 0], Y), "^Expected 2D array, got 1D array instead")
bad("X 3-D", lambda: clf().fit(X[None], Y), "^Found array with dim 3, while dim <= 2 is required")
bad("X empty", lambda: clf().fit(X[:0], Y[:0]), r"^Found array with 0 sample\(s\)")
bad("X without columns", lambda: clf().fit(X[:, :0], Y), r"^Found array with 0 feature\(s\)")
bad("X infinite", lambda: clf().fit(put(X, (0, 0), np.inf), Y), "^Input X contains infinity")
TEXT = (
    "Got strings such as 'red' in column {}, expected numbers. Pass categorical_features=[{}] if "
    "they are categories (with from_dtype a frame's columns of strings are), or convert them."
)
bad("X strings", lambda: clf().fit(put(X, (ALL, 1), "red"), Y), TEXT.format(1, 1))
bad(
    "X strings in a frame",
    lambda: clf(categorical_features=None).fit(frame(X, "a", "b", "c").assign(b="red"), Y),
    TEXT.format("'b'", "'b'"),
)
bad(
    "X strings beside numbers",
    lambda: clf().fit(frame(put(X, (0, 1), "red"), "a", "b", "c"), Y),
    "Got strings beside numbers in column 'b', expected one or the other. Convert it, or name the "
    "categories in categorical_features.",
)
bad(
    "X dates",
    lambda: clf().fit(frame(X, "a", "b", "c").assign(b=pd.Timestamp("2026-01-01")), Y),
    "^Got dates \\(dtype datetime64\\[\\w+\\]\\) in column 'b', expected numbers or categories",
)
bad("X complex", lambda: clf().fit(X + 1j, Y), "^Complex data not supported")
bad(
    "X sparse, NaN",
    lambda: clf().fit(sparse.csr_array(put(X, (0, 0), np.nan)), Y),
    "Input X contains NaN: got missing cells in a sparse matrix, expected a number in each that is "
    "stored. Impute them, or pass X.toarray().",
)
bad(
    "X sparse, infinite",
    lambda: clf().fit(sparse.csr_array(put(X, (0, 0), np.inf)), Y),
    "^Input X contains infinity",
)
bad(
    "X sparse, with categories",
    lambda: clf(categorical_features=[0]).fit(sparse.csr_array(X), Y),
    "Got a sparse X (csr_array) with 1 columns of categories, expected a dense one. Pass "
    "X.toarray() or a frame.",
)
bad(
    "X complex in a frame",
    lambda: clf().fit(frame(X, "a", "b", "c").assign(b=1j), Y),
    "Complex data not supported: got column 'b' of dtype complex128, expected real numbers. Take "
    "their real parts, or moduli.",
)
bad(
    "X too large for its type",
    lambda: clf(scaling=None, n_members=2).fit(
        put(np.tile(X, (2, 1)), (0, 0), -1e39), np.tile(Y, (2, 1))
    ),
    "Got numbers as large as 1e+39 in X with scaling=None, expected at most 8.5e+37 in float32. "
    "Set scaling='robust', or scale X.",
)
bad(
    "X too large at predict",
    lambda: clf(scaling=None).fit(X, Y).predict(put(X, (0, 0), 1e308)),
    "Got numbers as large as 1e+308 in X with scaling=None, expected at most 4.5e+307 in "
    "float64. Set scaling='robust', or scale X.",
)
bad(
    "X too large and sparse",
    lambda: clf(scaling=None).fit(sparse.csr_array(put(X, (0, 0), 1e308)), Y),
    "Got numbers as large as 1e+308 in X with scaling=None, expected at most 4.5e+307 in "
    "float64. Set scaling='robust', or scale X.",
)
bad(
    "X without axes",
    lambda: clf().fit(np.array(None, dtype=object), [1]),
    "^Expected 2D array, got scalar array instead",
)
bad(
    "X columns twice",
    lambda: clf().fit(frame(X, "a", "a", "b"), Y),
    "Got X with repeated column names ['a'], expected one column a name. Rename them.",
)
bad(
    "X columns twice at predict",
    lambda: clf().fit(frame(X, "a", "b", "c"), Y).predict(frame(X, "a", "a", "b")),
    "Got X with repeated column names ['a'], expected one column a name. Rename them.",
)
bad(
    "X column names of two types",
    lambda: clf().fit(frame(X, "a", 1, "b"), Y),
    "^Feature names are only supported if all input features have string names",
    TypeError,
)
bad(
    "rows of X and Y",
    lambda: clf().fit(X[:-1], Y),
    "Found input variables with inconsistent numbers of samples: [39, 40]",
)

# Y --------------------------------------------------------------------------------------------
SHAPES = "expected (n_samples,) or (n_samples, n_tasks). y should be a 1d or 2d array."
bad("Y 3-D", lambda: clf().fit(X, Y[:, :, None]), f"Got y of shape (40, 2, 1), {SHAPES}")
bad("Y scalar", lambda: clf().fit(X, 3), f"Got y of shape (), {SHAPES}")
bad(
    "Y without columns",
    lambda: clf().fit(X, np.empty((N, 0))),
    "Got y with 0 columns, expected at least one task.",
)
bad(
    "Y None",
    lambda: clf().fit(X, None),
    "This estimator requires y to be passed, but the target y is None. Pass labels of shape "
    "(n_samples,) or (n_samples, n_tasks).",
)
bad(
    "Y infinite",
    lambda: reg().fit(X, put(R, (2, 1), np.inf)),
    "Input y contains infinity: got inf in task 'task1', row 2, expected finite labels. Use NaN "
    "for a label that is missing.",
)
bad(
    "Y infinite among objects",
    lambda: reg().fit(X, put(R, (2, 1), -np.inf).astype(object)),
    "Input y contains infinity: got -inf in task 'task1', row 2, expected finite labels. Use NaN "
    "for a label that is missing.",
)
bad(
    "Y overflows",
    lambda: reg().fit(X, put(R, (0, 0), 1e300)),
    "Got targets up to 1e+300 in task 'task0', expected a finite variance. Divide them by a "
    "constant.",
)
EMPTY = (
    "Got no label at all for task '{}', expected at least one. Drop the task, or use folds that "
    "spread its labels (sk_mtl.model_selection.MultiTaskStratifiedKFold)."
)
bad(
    "a task without labels",
    lambda: clf().fit(X, put(Y, (ALL, 1), np.nan)),
    EMPTY.format("task1"),
)
bad(
    "a named task without labels",
    lambda: clf().fit(X, frame(put(Y, (ALL, 1), np.nan), "buy", "churn")),
    EMPTY.format("churn"),
)
bad(
    "no label at all",
    lambda: clf().fit(X, np.full((N, 2), np.nan)),
    "Got y without any label: Input y contains NaN in all 40 rows, expected at least one label a "
    "task.",
)
bad(
    "no label at all, 1-D",
    lambda: reg().fit(X, [None] * N),
    "Got y without any label: Input y contains NaN in all 40 rows, expected at least one label a "
    "task.",
)
bad(
    "Y sparse",
    lambda: clf().fit(X, sparse.csr_array(Y)),
    "Got a sparse y (csr_array), expected a dense one: a sparse matrix cannot say which labels "
    "are missing. Pass y.toarray().",
)
LAZY = (
    "Got a LazyFrame, which has no cells yet, expected a table that has. Pass what its collect() "
    "returns."
)
bad("Y lazy", lambda: clf().fit(X, pl.DataFrame(Y).lazy()), LAZY)
bad("X lazy", lambda: clf().fit(pl.DataFrame(X).lazy(), Y), LAZY)
bad(
    "Y structured",
    lambda: clf().fit(X, np.zeros(N, dtype=[("a", int), ("b", float)])),
    "Got y as a structured array with fields ['a', 'b'], expected one array of shape (n_samples, "
    "n_tasks). Pass pandas.DataFrame(y).",
)
bad(
    "Y dates",
    lambda: clf().fit(X, frame(np.full((N, 1), "2020-01-01", "M8[s]"), "day")),
    "Got dates (dtype datetime64[s]) as labels of task 'day', expected classes or numbers. "
    "Convert them to numbers first.",
)
bad(
    "Y dates of polars",
    lambda: clf().fit(X, pl.Series([datetime.date(2020, 1, 1)] * N)),
    r"^Got dates \(dtype datetime64.*\) as labels of task 'task0', expected classes or numbers. "
    "Convert them to numbers first",
)
bad(
    "Y date objects",
    lambda: clf().fit(X, [datetime.date(2020, 1, 1)] * N),
    "Got labels of type ['date'] in task 'task0', expected numbers, booleans or strings. Convert "
    "them first.",
)
bad(
    "Y complex",
    lambda: reg().fit(X, R + 1j),
    "Got complex numbers as labels of task 'task0': Complex data not supported. Pass real labels.",
)
bad(
    "Y of mixed types",
    lambda: clf().fit(X, put(Y, (0, 1), "yes")),
    "Got labels of mixed types ['int', 'str'] in task 'task1', expected one type a task. Convert "
    "them, for instance to strings.",
)
bad(
    "Y of lists",
    lambda: clf().fit(X, pd.Series([[1]] * N)),
    "Got labels of type ['list'] in task 'task0', expected numbers, booleans or strings. Convert "
    "them first.",
)
bad(
    "Y columns twice",
    lambda: clf().fit(X, frame(Y, "a", "a")),
    "Got y with repeated column names ['a'], expected one column a task. Rename them.",
)
bad(
    "classifier, continuous",
    lambda: clf().fit(X, frame(put(MIXED, (0, 1), 0.25)[:, :2], "buy", "amount")),
    "^Unknown label type: continuous. Got \\[.*\\] in classification task 'amount', expected "
    r"classes. Use MultiTaskRegressor, or MultiTaskEstimator for both types\.$",
)
STRINGS = (
    "Got labels of dtype {} ('a', ...) in regression task 'task0', expected numbers: could not "
    "convert string to float. Use MultiTaskClassifier, or name the task's type in "
    "MultiTaskEstimator(tasks=...)."
)
bad("regressor, strings", lambda: reg().fit(X, np.full((N, 2), "a")), STRINGS.format("<U1"))
bad(
    "regressor, string objects",
    lambda: reg().fit(X, np.full((N, 2), "a", dtype=object)),
    STRINGS.format("object"),
)
bad(
    "poisson, negative",
    lambda: reg(loss="poisson").fit(X, put(np.abs(R), (0, 1), -3.0)),
    "Got the target -3.0 in task 'task1', expected non-negative values for loss 'poisson'. Use "
    "'squared_error'.",
)

# Sample weights -------------------------------------------------------------------------------
WEIGHTS = "expected (40,) or (40, 2). Pass one weight a row, or one a row and task."
NOT_FINITE = (
    "Got NaN or infinity in sample_weight, expected finite weights. Use 0 for a label that should "
    "not count."
)
NEGATIVE = (
    "Negative values in data passed to `sample_weight`: got -1.0, expected weights >= 0. Use 0 "
    "for a label that should not count."
)
ALL_ZERO = (
    "Got sample_weight that is zero in every row, expected at least one positive weight. Pass "
    "None to weigh all rows alike."
)
for shape in [(39,), (N, 3), (N, 2, 1), (39, 1)]:
    bad(
        f"weights of shape {shape}",
        lambda shape=shape: clf().fit(X, Y, np.ones(shape)),
        f"Got sample_weight of shape {shape}, {WEIGHTS}",
    )
bad("weights NaN", lambda: clf().fit(X, Y, put(ONES, 0, np.nan)), NOT_FINITE)
bad("weights NaN, 2-D", lambda: clf().fit(X, Y, put(np.ones((N, 2)), (0, 1), np.nan)), NOT_FINITE)
bad("weights negative", lambda: clf().fit(X, Y, put(ONES, 0, -1)), NEGATIVE)
bad("weights negative, 2-D", lambda: clf().fit(X, Y, put(np.ones((N, 2)), (0, 1), -1)), NEGATIVE)
bad("weights all zero", lambda: clf().fit(X, Y, np.zeros(N)), ALL_ZERO)
bad("weights all zero, 2-D", lambda: clf().fit(X, Y, np.zeros((N, 2))), ALL_ZERO)
bad(
    "weights all zero for a task",
    lambda: clf().fit(X, Y, put(np.ones((N, 2)), (ALL, 1), 0)),
    "Got a sample weight of zero for every label of task 'task1', expected a positive one. Drop "
    "the task, or set its task_weights to 0.",
)
bad(
    "weights all zero where a task has labels",
    lambda: reg().fit(X, put(R, (slice(1, None), 1), np.nan), put(ONES, 0, 0)),
    "Got a sample weight of zero for every label of task 'task1', expected a positive one. Drop "
    "the task, or set its task_weights to 0.",
)
bad(
    "weights strings",
    lambda: clf().fit(X, Y, np.full(N, "a")),
    "^Got sample_weight that is not numeric: .*Pass numbers.$",
)
bad(
    "weights with other names",
    lambda: clf().fit(X, frame(Y, "a", "b"), frame(np.ones((N, 2)), "a", "c")),
    "Got sample_weight with columns ['a', 'c'], expected ['a', 'b'], the tasks. Rename or select "
    "the columns.",
)
bad(
    "weights of score",
    lambda: fitted().score(X, Y, np.ones(3)),
    f"Got sample_weight of shape (3,), {WEIGHTS}",
)
for name, weights, message in [
    ("of another shape", np.ones(3), f"Got sample_weight of shape (3,), {WEIGHTS}"),
    ("NaN", put(ONES, 0, np.nan), NOT_FINITE),
    ("negative", put(ONES, 0, -1), NEGATIVE),
    ("all zero", np.zeros((N, 2)), ALL_ZERO),
]:
    bad(
        f"weights of task_scores, {name}",
        lambda weights=weights: task_scores(fitted(), X, Y, sample_weight=weights),
        message,
    )

# Task weights and weightings ------------------------------------------------------------------
TASKS = "['task0', 'task1']"


def weighted(name, task_weights, message):
    bad(f"task_weights {name}", lambda: clf(task_weights=task_weights).fit(X, Y), message)


weighted(
    "of wrong length",
    [1, 2, 3],
    f"Got task_weights of length 3, expected 2. Pass one a task: {TASKS}.",
)
weighted(
    "with unknown name",
    {"tsk1": 2.0},
    f"Got task_weights for unknown task 'tsk1', expected names among {TASKS}. Did you mean "
    "'task1'?",
)
weighted(
    "negative",
    [1, -1],
    "Got task_weights=[1, -1], expected finite numbers >= 0. Use 0 to leave a task untrained.",
)
weighted(
    "NaN",
    [np.nan, 1],
    "Got task_weights=[nan, 1], expected finite numbers >= 0. Use 0 to leave a task untrained.",
)
weighted(
    "all zero",
    (0, 0),
    "Got task_weights=(0, 0), all of them zero, expected at least one positive weight. Only their "
    "ratios matter.",
)
weighted(
    "2-D",
    [[1, 1], [2, 2]],
    "Got task_weights of shape (2, 2), expected (2,). Pass one a task.",
)
weighted(
    "strings",
    ["a", "b"],
    "Got task_weights=['a', 'b'], expected numbers. Pass one a task, or a dict by task name.",
)
bad(
    "task_weights with uniform",
    lambda: clf(weighting="uniform", task_weights=[1, 2]).fit(X, Y),
    "Got task_weights=[1, 2] with weighting='uniform', which has no use for them, expected None: "
    "it finds the weights itself. Use weighting='static', or one that takes a preference: "
    f"{[n for n, w in WEIGHTINGS.items() if w.uses_task_weights and n != 'static']}.",
)

# Class weights --------------------------------------------------------------------------------
bad(
    "class_weight of a class that is not there",
    lambda: clf(class_weight={0: 1, 5: 2}).fit(X, Y[:, 0]),
    "Got class_weight for classes [5] of task 'task0', expected some of [0, 1]. Remove the others.",
)
bad(
    "class_weight by class, several tasks",
    lambda: clf(class_weight={0: 1, 1: 2}).fit(X, Y),
    f"Got class_weight for unknown tasks 0, 1, expected names among {TASKS}. Rename or remove "
    "them.",
)
bad(
    "class_weight of wrong length",
    lambda: clf(class_weight=["balanced"]).fit(X, Y),
    f"Got class_weight of length 1, expected 2. Pass one a task: {TASKS}.",
)
bad(
    "class_weight with an unknown rule",
    lambda: clf(class_weight=["balanced", "even"]).fit(X, Y),
    "Got class_weight='even' for task 'task1', expected None, 'balanced' or a dict from classes "
    "to weights. With several tasks pass a dict by task name.",
)
bad(
    "class_weight negative",
    lambda: clf(class_weight=[{0: -1, 1: 1}, None]).fit(X, Y),
    "Got class weights {0: -1} for task 'task0', expected finite numbers >= 0. Use 0 for a class "
    "that should not count.",
)
bad(
    "class_weight for a regression task",
    lambda: mix(class_weight=["balanced"] * 2).fit(X, MIXED),
    "Got a class_weight for task 'task1', which is a regression task, expected class weights for "
    "classification tasks only. Remove it.",
)

# Recipes --------------------------------------------------------------------------------------
LOSS_NAMES = (
    "['absolute_error', 'focal', 'huber', 'log_loss', 'poisson', 'quantile', 'squared_error']"
)
bad(
    "unknown trunk",
    lambda: clf(trunk="shared_botom").fit(X, Y),
    f"Got trunk='shared_botom', expected one of {sorted(TRUNKS)} or a Trunk object. Did you mean "
    "'shared_bottom'?",
)
bad(
    "unknown loss",
    lambda: clf(loss="logloss").fit(X, Y),
    f"Got loss='logloss', expected one of {LOSS_NAMES} or a Loss object. Did you mean 'log_loss'?",
)
bad(
    "unknown weighting",
    lambda: clf(weighting="unifrom").fit(X, Y),
    "^Got weighting='unifrom', expected one of \\[.*'static', .*\\] or a Weighting object. Did "
    "you mean 'uniform'\\?$",
)
for what, recipe in [("trunk", MMoE), ("loss", Focal), ("weighting", Uniform)]:
    bad(
        f"{what} as a class",
        lambda what=what, recipe=recipe: clf(**{what: recipe}).fit(X, Y),
        f"Got the class {recipe.__name__} as {what}, expected an object. Write "
        f"{what}={recipe.__name__}().",
        TypeError,
    )
for what, other in [("trunk", Huber()), ("loss", MMoE()), ("weighting", None)]:
    invalid(
        f"{what} of another kind",
        lambda what=what, other=other: clf(**{what: other}).fit(X, Y),
        f"{what}' parameter of MultiTaskClassifier must be .* Got {re.escape(repr(other))} ",
    )
bad(
    "loss of wrong length",
    lambda: clf(loss=["focal"]).fit(X, Y),
    f"Got loss of length 1, expected 2. Pass one a task: {TASKS}.",
)
bad(
    "loss with unknown name",
    lambda: clf(loss={"tsk1": "focal"}).fit(X, Y),
    f"Got loss for unknown task 'tsk1', expected names among {TASKS}. Did you mean 'task1'?",
)
bad(
    "loss that does not fit classes",
    lambda: clf(loss="huber").fit(X, Y),
    "Got loss='huber' for classification task 'task0', expected one of ['focal', 'log_loss']. "
    "Give each task its loss in a dict by task name.",
)
bad(
    "loss that does not fit amounts",
    lambda: mix(loss="focal").fit(X, MIXED),
    "Got loss='focal' for regression task 'task1', expected one of ['absolute_error', 'huber', "
    "'poisson', 'quantile', 'squared_error']. Give each task its loss in a dict by task name.",
)
for recipe, name, limits in [
    (MMoE(n_experts=0), "n_experts", r"an int in the range \[1, inf\)"),
    (MMoE(n_experts=2.5), "n_experts", r"an int in the range \[1, inf\)"),
    (PLE(n_levels=0), "n_levels", r"an int in the range \[1, inf\)"),
    (PLE(n_shared_experts=-1), "n_shared_experts", r"an int in the range \[1, inf\)"),
    (PLE(n_task_experts=0), "n_task_experts", r"an int in the range \[1, inf\)"),
]:
    invalid(
        f"{recipe!r}",
        lambda recipe=recipe: clf(trunk=recipe).fit(X, Y),
        f"{name}' parameter of {type(recipe).__name__} must be {limits}. Got ",
    )
for recipe, name, limits in [
    (Quantile(2), "quantile", r"a float in the range \(0.0, 1.0\)"),
    (Huber(delta=0), "delta", r"a float in the range \(0.0, inf\)"),
    (Focal(gamma=-1), "gamma", r"a float in the range \[0.0, inf\)"),
]:
    invalid(
        f"{recipe!r}",
        lambda recipe=recipe: mix(loss=recipe).fit(X, Y if "Focal" in repr(recipe) else R),
        f"{name}' parameter of {type(recipe).__name__} must be {limits}. Got ",
    )

# Architecture and training --------------------------------------------------------------------
for trunk, named in [("mmoe", "MMoE()"), ("ple", "PLE()")]:
    bad(
        f"no hidden layer, {trunk}",
        lambda trunk=trunk: clf(trunk=trunk, hidden_layer_sizes=()).fit(X, Y),
        f"Got hidden_layer_sizes=() with trunk {named}, expected at least one layer: its experts "
        "are made of them. Use trunk='shared_bottom' for a linear model.",
    )
for what, sizes in [
    ("hidden_layer_sizes", (10, 0)),
    ("hidden_layer_sizes", (10.5,)),
    ("hidden_layer_sizes", (True,)),
    ("hidden_layer_sizes", [[3, 4], 3]),
    ("hidden_layer_sizes", ("a",)),
    ("head_hidden_layer_sizes", (-1,)),
]:
    bad(
        f"{what}={sizes}",
        lambda what=what, sizes=sizes: clf(**{what: sizes}).fit(X, Y),
        f"Got {what}={sizes}, expected positive ints. Pass one a layer.",
    )
for what, value in [
    ("activation", "rleu"),
    ("dropout", 1.0),
    ("solver", "adma"),
    ("alpha", -1),
    ("batch_size", 0),
    ("learning_rate_init", 0),
    ("momentum", 1.5),
    ("max_iter", 0),
    ("tol", -1),
    ("random_state", np.random.default_rng(0)),
    ("early_stopping", "always"),
    ("validation_fraction", 1.0),
    ("n_iter_no_change", 0),
    ("stopping_tasks", "task0"),
    ("stopping_rule", "best"),
    ("task_weights", 3),
    ("class_weight", "even"),
    ("dtype", "float16"),
    ("device", 0),
    ("callbacks", EarlyStopping()),
]:
    invalid(
        # no address in it, so that every process finds the same tests
        f"{what}={type(value).__name__}" if isinstance(value, EarlyStopping) else f"{what}={value}",
        lambda what=what, value=value: clf(**{what: value}).fit(X, Y),
        f"{what}' parameter of MultiTaskClassifier must be ",
    )
bad(
    "device unknown to torch",
    lambda: clf(device="gpu").fit(X, Y),
    "Got device='gpu', expected 'cpu', 'cuda', 'mps' or 'auto'.",
)
bad(
    "device without values",
    lambda: clf(device="meta").fit(X, Y),
    "Got device='meta', expected one that torch can compute on here. Use device='cpu' or "
    "device='auto'.",
)
if not torch.cuda.is_available():
    bad(
        "device that is not there",
        lambda: clf(device="cuda").fit(X, Y),
        "Got device='cuda', expected one that torch can compute on here. Use device='cpu' or "
        "device='auto'.",
    )
for entry in (3, "print_log", EarlyStopping, ("stop", EarlyStopping)):
    bad(
        f"callbacks=[{entry!r}]",
        lambda entry=entry: clf(callbacks=[entry]).fit(X, Y),
        f"Got {entry!r} in callbacks, expected objects of skorch's callbacks, or pairs of a name "
        "and one. scikit-learn's own go to set_callbacks.",
        TypeError,
    )
bad(
    "training that diverges",
    lambda: reg(solver="sgd", learning_rate_init=1e300, max_iter=5).fit(X, R),
    "Got weights that are not finite after epoch 2, expected finite ones: training diverged. "
    "Scale X, or lower learning_rate_init.",
)
FRACTION = (
    "Got validation_fraction={} of {} rows, which leaves {} for validation and {} for training, "
    "expected at least one each. Set early_stopping=False, or pass X_val and y_val."
)
for fraction, left in [(0.001, (0, 40)), (0.999, (40, 0))]:
    bad(
        f"validation_fraction={fraction}",
        lambda fraction=fraction: clf(early_stopping=True, validation_fraction=fraction).fit(X, Y),
        FRACTION.format(fraction, N, *left),
    )
bad(
    "validation rows that training needs",
    lambda: reg(early_stopping=True, validation_fraction=0.5).fit(
        X[:2], [[1.0, np.nan], [np.nan, 1.0]]
    ),
    FRACTION.format(0.5, 2, 0, 2),
)
bad(
    "X_val without y_val",
    lambda: clf().fit(X, Y, X_val=X),
    "Got X_val without y_val, expected both or none. Pass both.",
)
bad(
    "y_val without X_val",
    lambda: clf().fit(X, Y, y_val=Y),
    "Got y_val without X_val, expected both or none. Pass both.",
)
bad(
    "sample_weight_val alone",
    lambda: clf().fit(X, Y, sample_weight_val=ONES),
    "Got sample_weight_val without X_val and y_val, expected all of them. Pass X_val and y_val, "
    "or leave it out.",
)
FEATURES = "X has 2 features, but MultiTaskClassifier is expecting 3 features as input."
bad("X_val, features", lambda: clf().fit(X, Y, X_val=X[:, :2], y_val=Y), FEATURES)
bad(
    "y_val, unseen label",
    lambda: clf().fit(X, Y, X_val=X, y_val=Y + 1),
    "Got labels [2] in task 'task0', expected labels seen at fit time: [0, 1]. Drop them, refit, "
    "or pass every class at the first partial_fit.",
)
bad(
    "y_val, no label",
    lambda: clf().fit(X, Y, X_val=X, y_val=np.full((N, 2), np.nan)),
    "Got y_val without any label, expected at least one to validate on. Pass rows with labels, or "
    "no validation set.",
)
COLUMNS = f"Got y with {{}} columns, expected 2. Pass one a task: {TASKS}."
bad("y_val, columns", lambda: clf().fit(X, Y, X_val=X, y_val=Y[:, 0]), COLUMNS.format(1))
for task in ("buy", 2):
    bad(
        f"stopping_tasks=[{task!r}]",
        lambda task=task: clf(stopping_tasks=[task]).fit(X, Y),
        f"Got the task {task!r} in stopping_tasks, expected names or indices of {TASKS}. Pass "
        "None to watch all.",
    )
bad(
    "stopping_tasks=[]",
    lambda: clf(stopping_tasks=[]).fit(X, Y),
    "Got stopping_tasks=[], expected at least one task. Pass None to watch all.",
)

# Types of tasks -------------------------------------------------------------------------------
bad(
    "tasks of unknown type",
    lambda: mix(tasks=["class", "regression"]).fit(X, MIXED),
    "Got the type 'class' for task 'task0' in tasks, expected 'classification' or 'regression' "
    "for every task.",
)
bad(
    "tasks of wrong length",
    lambda: mix(tasks=["regression"]).fit(X, R),
    f"Got tasks of length 1, expected 2. Pass one a task: {TASKS}.",
)
bad(
    "tasks with unknown name",
    lambda: mix(tasks={"b": "regression"}).fit(X, R),
    f"Got tasks for unknown task 'b', expected names among {TASKS}. Rename or remove them.",
)
bad(
    "tasks without one of them",
    lambda: mix(tasks={"b": "regression"}).fit(X, frame(R, "a", "b")),
    "Got no type for task 'a' in tasks={'b': 'regression'}, expected one for each. Add "
    "'classification' or 'regression'.",
)

# partial_fit ----------------------------------------------------------------------------------
bad(
    "partial_fit, early stopping",
    lambda: clf(early_stopping=True).partial_fit(X, Y, classes=[0, 1]),
    "Got early_stopping=True in partial_fit, expected False or 'auto': there is no validation set "
    "from call to call. Use fit.",
)
bad(
    "partial_fit, auto, no label",
    lambda: mix().partial_fit(X, put(MIXED, (ALL, 1), np.nan)),
    "Got no label at all for task 'task1' in the first call of partial_fit, expected its classes. "
    "Pass classes, name its type in tasks if these are amounts, or begin with a batch that has "
    "labels.",
)
bad(
    "partial_fit, classes, no label",
    lambda: mix(tasks=["classification", "regression"]).partial_fit(
        X, put(MIXED, (ALL, 0), np.nan)
    ),
    "Got no label at all for task 'task0' in the first call of partial_fit, expected its classes. "
    "Pass classes, name its type in tasks if these are amounts, or begin with a batch that has "
    "labels.",
)
bad(
    "partial_fit, no classes",
    lambda: clf().partial_fit(X, Y),
    "classes must be passed on the first call to partial_fit: got None, expected all classes of "
    "every classification task. Pass an array of them, or one a task.",
)
bad(
    "partial_fit, balanced classes",
    lambda: clf(class_weight=["balanced", None]).partial_fit(X, Y, classes=[0, 1]),
    "Got class_weight='balanced' in partial_fit, expected weights by class: one batch does not "
    "tell how frequent the classes are. Pass dicts of weights by class "
    "(sklearn.utils.class_weight.compute_class_weight finds them), or use fit.",
)
bad(
    "partial_fit, classes as a number",
    lambda: clf().partial_fit(X, Y, classes=3),
    "Got classes=3, expected an array of them. Pass all classes, or an array a task in a list or "
    "in a dict by task name.",
)
bad(
    "partial_fit, classes of wrong length",
    lambda: clf().partial_fit(X, Y3, classes=[[0, 1]] * 3),
    f"Got classes of length 3, expected 2. Pass one a task: {TASKS}.",
)
for given in ({"task0": [0, 1]}, [[0, 1], None], [[0, 1], []]):
    bad(
        f"partial_fit, classes={given}",
        lambda given=given: clf().partial_fit(X, Y, classes=given),
        "Got no classes for classification task 'task1', expected all of them. Pass an array of "
        "every label that the task may have.",
    )
bad(
    "partial_fit, classes of an amount",
    lambda: mix().partial_fit(X, MIXED, classes=[[0, 1], [0, 1]]),
    "Got some classes for regression task 'task1', expected none. Pass None for it.",
)
bad(
    "partial_fit, other classes",
    then(started, lambda e: e.partial_fit(X, Y, classes=[0, 1, 2])),
    "Got classes [0, 1, 2] for task 'task0', expected those of the first call: [0, 1]. Leave "
    "classes out after it.",
)
bad(
    "partial_fit, unseen label",
    then(started, lambda e: e.partial_fit(X, Y3)),
    "Got labels [2] in task 'task1', expected labels seen at fit time: [0, 1]. Drop them, refit, "
    "or pass every class at the first partial_fit.",
)
bad(
    "partial_fit, label of another type",
    then(started, lambda e: e.partial_fit(X, np.full((N, 2), "a"))),
    "Got labels such as 'a' in task 'task0', expected the type of the labels seen at fit time: "
    "[0, 1]. Convert them.",
)
bad("partial_fit, features", then(started, lambda e: e.partial_fit(X[:, :2], Y)), FEATURES)
bad("partial_fit, tasks", then(started, lambda e: e.partial_fit(X, Y[:, 0])), COLUMNS.format(1))
bad(
    "partial_fit, a batch without labels",
    then(started, lambda e: e.partial_fit(X, np.full((N, 2), np.nan))),
    "Got no label that counts: all are missing or weigh nothing, expected at least one. Leave "
    "this batch out.",
)
bad(
    "partial_fit, no amount to begin with",
    lambda: reg().partial_fit(X, put(R, (ALL, 1), np.nan)),
    "Got no label at all for regression task 'task1' in the first call of partial_fit, expected "
    "some: its scale is taken from them. Begin with a batch that has labels.",
)
bad(
    "partial_fit, negative for poisson",
    lambda: reg(loss="poisson").partial_fit(X, np.abs(R)).partial_fit(X, -np.abs(R) - 1.5),
    "^Got the target -.* in task 'task0', expected non-negative values for loss 'poisson'. Use "
    "'squared_error'.$",
)

# warm_start -----------------------------------------------------------------------------------
bad("warm_start, tasks", then(warm, lambda e: e.fit(X, Y[:, 0])), COLUMNS.format(1))
bad(
    "warm_start, classes",
    then(warm, lambda e: e.fit(X, Y3)),
    "Got labels [2] in task 'task1', expected labels seen at fit time: [0, 1]. Drop them, refit, "
    "or pass every class at the first partial_fit.",
)
bad("warm_start, features", then(warm, lambda e: e.fit(X[:, :2], Y)), FEATURES)
bad(
    "warm_start, a task without labels",
    then(warm, lambda e: e.fit(X, put(Y, (ALL, 1), np.nan))),
    EMPTY.format("task1"),
)
bad(
    "warm_start, strings for amounts",
    lambda: warm(R, reg).fit(X, np.full((N, 2), "a")),
    STRINGS.format("<U1"),
)
for what, old, new in [
    ("hidden_layer_sizes", (4,), (7,)),
    ("head_hidden_layer_sizes", (), (3,)),
    ("trunk", "shared_bottom", "mmoe"),
    ("loss", None, "focal"),
    ("activation", "relu", "tanh"),
    ("dropout", 0.0, 0.5),
]:
    bad(
        f"warm_start, {what}",
        then(warm, lambda e, what=what, new=new: e.set_params(**{what: new}).fit(X, Y)),
        f"Got {what}={new!r} to continue a network with {what}={old!r}, expected the same. Set "
        "warm_start=False, or clone the estimator.",
    )

# After fitting --------------------------------------------------------------------------------
for name in ("predict", "predict_proba", "predict_log_proba", "decision_function", "transform"):
    bad(
        f"{name} before fit",
        lambda name=name: getattr(clf(), name)(X),
        "This MultiTaskClassifier instance is not fitted yet. Call 'fit' with appropriate "
        "arguments before using this estimator.",
    )
bad("score before fit", lambda: clf().score(X, Y), "^This MultiTaskClassifier instance is not fit")
bad("predict, features", then(fitted, lambda e: e.predict(X[:, :2])), FEATURES)
bad(
    "predict, infinite",
    then(fitted, lambda e: e.predict(put(X, 0, np.inf))),
    "^Input X contains inf",
)
bad(
    "predict, strings",
    then(fitted, lambda e: e.predict(put(X, (ALL, 1), "red"))),
    TEXT.format(1, 1),
)
bad("predict, no row", then(fitted, lambda e: e.predict(X[:0])), r"^Found array with 0 sample\(s\)")
bad("predict, 1-D", then(fitted, lambda e: e.predict(X[0])), "^Expected 2D array, got 1D array")
bad(
    "predict, other names",
    lambda: clf().fit(frame(X, "a", "b", "c"), Y).predict(frame(X, "a", "b", "d")),
    "^The feature names should match those that were passed during fit.\nFeature names unseen at",
)
bad(
    "predict, other order of names",
    lambda: clf().fit(frame(X, "a", "b", "c"), Y).predict(frame(X, "b", "a", "c")),
    "^The feature names should match those that were passed during fit.\nFeature names must be in",
)
bad(
    "decision_function, several tasks",
    then(fitted, lambda e: e.decision_function(X)),
    "This 'MultiTaskClassifier' has no attribute 'decision_function'",
    AttributeError,
)
bad(
    "predict_proba, amounts only",
    lambda: mix().fit(X, R).predict_proba(X),
    "This 'MultiTaskEstimator' has no attribute 'predict_proba'",
    AttributeError,
)
bad(
    "score, other names",
    lambda: clf().fit(X, frame(Y, "a", "b")).score(X, frame(Y, "a", "c")),
    "Got y with columns ['a', 'c'], expected ['a', 'b'], the tasks seen at fit time. Rename or "
    "select the columns.",
)
bad("score, columns", then(fitted, lambda e: e.score(X, Y[:, [0, 1, 1]])), COLUMNS.format(3))
bad(
    "score, rows",
    then(fitted, lambda e: e.score(X, Y[:-1])),
    "Found input variables with inconsistent numbers of samples: [40, 39]",
)
bad(
    "score, no label",
    then(fitted, lambda e: e.score(X, np.full((N, 2), np.nan))),
    "Got y without any label: all of them are missing, expected at least one to score. Score on "
    "rows with labels.",
)
bad(
    "score, strings for amounts",
    lambda: reg().fit(X, R).score(X, np.full((N, 2), "a")),
    STRINGS.format("<U1"),
)
for how in ("score", "task_scores"):
    bad(
        f"{how}, labels of another type",
        lambda how=how: (
            fitted().score(X, Y.astype(str))
            if how == "score"
            else task_scores(fitted(), X, Y.astype(str))
        ),
        "^Got labels such as '[01]' in task 'task0', expected the type of the labels seen at fit "
        r"time: \[0, 1\]. Convert them.$",
    )

# Scorers and folds ----------------------------------------------------------------------------
bad(
    "metric of a wrong type",
    lambda: make_task_scorer(3, task=0),
    "Got metric 3, expected a scorer name or a callable. Pass 'roc_auc' or "
    "make_scorer(roc_auc_score), for instance.",
    TypeError,
)
bad(
    "metric of no name",
    lambda: make_task_scorer("zzz", task=0),
    "Got metric 'zzz', expected one of sklearn.metrics.get_scorer_names() or a callable. Pass "
    "another name or a function.",
)
bad(
    "undefined of a scorer",
    lambda: make_task_scorer("r2", task=0, undefined="skip"),
    "Got undefined='skip', expected 'nan', 'raise' or a number. Leave it out for 'nan'.",
)
bad(
    "more folds than rows",
    lambda: next(MultiTaskStratifiedKFold(50).split(X, Y)),
    "Got n_splits=50 for 40 rows, expected no more folds than rows. Pass n_splits=40 at most.",
)
bad(
    "folds by an unknown kind",
    lambda: next(MultiTaskStratifiedKFold(tasks=["classes", "regression"]).split(X, Y)),
    "Got kind 'classes' for task 'task0', expected 'classification' or 'regression'. Pass one "
    "of them.",
)
bad(
    "folds by strings for amounts",
    lambda: next(MultiTaskStratifiedKFold(tasks=["regression"]).split(X, np.full(N, "a"))),
    STRINGS.format("<U1"),
)


@pytest.mark.parametrize("name", CASES)
def test_message(name):
    call, message, error = CASES[name]
    with pytest.raises(error) as caught:
        call()
    said = str(caught.value)
    if message.startswith("^"):
        assert re.match(message, said, re.DOTALL), said
    else:
        assert said == message


def test_the_table_is_long_enough():
    assert len(CASES) >= 60


def test_good_input_is_not_refused():
    """Negative control of the whole table: what the cases start from is accepted."""
    for estimator, y in [(clf(), Y), (clf(), Y3), (reg(), R), (mix(), MIXED)]:
        estimator.fit(X, y, X_val=X, y_val=y).score(X, y)
    started().partial_fit(X, Y, classes=[0, 1])
    warm().fit(X, Y)


# Odd input that is accepted -------------------------------------------------------------------


def test_large_batch_is_clipped_with_a_warning():
    with pytest.warns(UserWarning, match="Got batch_size=100, expected at most the number of"):
        large = clf(batch_size=100, random_state=0).fit(X, Y)
    whole = clf(batch_size=N, random_state=0).fit(X, Y)
    assert large.loss_curve_ == whole.loss_curve_


def test_one_row_gives_its_amounts_and_its_class():
    amounts = reg(max_iter=500, learning_rate_init=0.01, alpha=0, n_iter_no_change=np.inf).fit(
        X[:1], R[:1]
    )
    np.testing.assert_allclose(amounts.predict(X[:1]), R[:1], atol=1e-3)
    with pytest.warns(SingleClassWarning, match="Got a single class in 2 of 2 tasks"):
        classes = clf().fit(X[:1], Y[:1])
    assert (classes.predict(X) == Y[:1]).all()


def test_task_with_one_class_warns_and_leaves_the_others_alone():
    y = Y.copy()
    y[:, 1] = 1
    with pytest.warns(SingleClassWarning, match=r"1 of 2 tasks \(\['task1'\]\)"):
        model = clf(random_state=0).fit(X, y)
    assert (model.predict(X)[:, 1] == 1).all()
    assert [p.shape for p in model.predict_proba(X)] == [(N, 2), (N, 1)]
    assert model.task_loss_curves_[:, 1].tolist() == [0.0, 0.0]
    assert model.classes_[1].tolist() == [1]


@pytest.mark.parametrize("params", [{}, {"scaling": "robust", "embedding": "piecewise_linear"}])
def test_missing_cells_of_x_are_accepted(params):
    gaps = put(X, (slice(None, None, 3), 0), np.nan)
    model = clf(**params).fit(gaps, Y, X_val=put(X, 1, np.nan), y_val=Y)
    assert all(np.isfinite(p).all() for p in model.predict_proba(put(X, 2, np.nan)))
    assert np.isfinite(clf(**params).partial_fit(gaps, Y, classes=[0, 1]).transform(gaps)).all()
    full = clf(**params).fit(X, Y)  # gaps that come later
    assert all(np.isfinite(p).all() for p in full.predict_proba(gaps))


def test_masked_cells_are_missing():
    masked = np.ma.masked_array(X, X > 1)
    model = clf(random_state=0).fit(masked, Y)
    gaps = np.where(X > 1, np.nan, X)
    np.testing.assert_array_equal(model.predict(masked), model.predict(gaps))
    twin = clf(random_state=0).fit(gaps, Y)
    np.testing.assert_array_equal(twin.transform(gaps), model.transform(masked))
    whole = clf(random_state=0).fit(X, Y)  # negative control
    assert not np.allclose(whole.transform(X), model.transform(masked))


def test_sparse_x_is_accepted():
    for matrix in (sparse.csr_array(X), sparse.csc_matrix(X)):
        model = clf().fit(matrix, Y)
        assert model.predict(matrix).shape == model.predict(X).shape == (N, 2)


def test_constant_columns_are_accepted():
    constant = np.column_stack([X, np.full(N, 7.0)])
    assert np.isfinite(reg().fit(constant, R).predict(constant)).all()
    targets = np.column_stack([R[:, 0], np.full(N, 7.0)])
    model = reg(max_iter=300, learning_rate_init=0.01).fit(X, targets)
    np.testing.assert_allclose(model.predict(X)[:, 1], 7.0, atol=0.5)  # by chance at most


def test_a_warning_points_at_the_callers_line():
    with pytest.warns(SingleClassWarning) as caught:
        clf().fit(X, np.ones(N))
    assert caught[0].filename == __file__


# A failing fit loses nothing ------------------------------------------------------------------


class Broken(Callback):
    """Fails in the midst of training."""

    def on_epoch_end(self, net, **kwargs):
        raise ValueError("broken")


FAILING_REFITS = {
    "a callback": lambda e: e.set_params(callbacks=[Broken()]).fit(X, Y),
    "a callback, warm": lambda e: e.set_params(callbacks=[Broken()], warm_start=True).fit(X, Y3),
    "other features": lambda e: e.fit(put(X[:, :2], (0, 0), np.inf), Y[:, 0]),
    "other categories": lambda e: e.set_params(categorical_features=[1]).fit(X, put(Y, 0, np.inf)),
    "n_members": lambda e: e.set_params(n_members=0).fit(X, Y),
    "n_members, warm": lambda e: e.set_params(n_members=2, warm_start=True).fit(X, Y3),
    "infinite": lambda e: e.fit(X, put(Y, (0, 0), np.inf)),
    "task_weights": lambda e: e.set_params(task_weights=[1, 2, 3]).fit(X, Y3[:, ::-1]),
    "class_weight": lambda e: e.set_params(class_weight=["even", None]).fit(X, Y3[:, ::-1]),
    "trunk": lambda e: e.set_params(trunk="mmoe", hidden_layer_sizes=()).fit(X, Y3[:, ::-1]),
    "callbacks": lambda e: e.set_params(callbacks=[3]).fit(X, Y3[:, ::-1]),
    "y_val": lambda e: e.fit(X, Y3[:, ::-1], X_val=X, y_val=Y3 + 5),
    "divergence": lambda e: e.set_params(solver="sgd", learning_rate_init=1e308).fit(X * 9, Y),
    "divergence, warm": lambda e: e.set_params(
        solver="sgd", learning_rate_init=1e308, warm_start=True
    ).fit(X * 9, Y3),
    "partial_fit": lambda e: e.partial_fit(X, Y3 + 7),
    "partial_fit, diverging": lambda e: [
        e.set_params(solver="sgd", learning_rate_init=1e308).partial_fit(X * 9, Y3)
        for _ in range(3)
    ],
}


@pytest.mark.parametrize("n_members", [1, 3])
@pytest.mark.parametrize("name", FAILING_REFITS)
@pytest.mark.filterwarnings("ignore:overflow")
def test_failing_refit_leaves_the_fitted_estimator_as_it_was(name, n_members):
    model = clf(random_state=0, max_iter=3, n_members=n_members).fit(X, Y3)
    before, proba = dict(vars(model)), model.predict_proba(X)
    nets = [member.net_ for member in getattr(model, "estimators_", [model])]
    n_epochs = [len(net.history) for net in nets]
    with pytest.raises((ValueError, TypeError)):
        FAILING_REFITS[name](model)
    fitted = [key for key in before if key.endswith("_")]
    assert all(vars(model)[key] is before[key] for key in fitted)
    assert set(vars(model)) == set(before)
    assert [len(net.history) for net in nets] == n_epochs == [model.n_iter_] * n_members
    for p, q in zip(model.predict_proba(X), proba, strict=True):
        np.testing.assert_array_equal(p, q)


def test_failing_first_fit_leaves_nothing():
    model = clf(task_weights=[1, 2, 3])
    with pytest.raises(ValueError, match="task_weights"):
        model.fit(X, Y)
    assert [key for key in vars(model) if key.endswith("_")] == []
