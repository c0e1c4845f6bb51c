"""The estimators: every parameter counts, weights mean what they say, missing means absent."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from plain import plain
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.metrics import r2_score
from skorch.callbacks import Callback

from sk_mtl import MultiTaskClassifier, MultiTaskEstimator, MultiTaskRegressor
from sk_mtl.losses import LogLoss
from sk_mtl.metrics import mean_score, task_scores
from sk_mtl.trunks import TRUNKS

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore::sk_mtl._support.SingleClassWarning"),
    pytest.mark.filterwarnings("ignore::sk_mtl._support.InferredTaskTypesWarning"),
]

N = 60
rng = np.random.default_rng(0)
X = rng.normal(size=(N, 4))
NOISE = rng.normal(size=(N, 3))
R = X[:, :2] @ [[1.0, 0.5], [0.5, -1.0]] + 0.3 * NOISE[:, :2]  # two amounts
Y = np.column_stack([R[:, 0] > 0, np.digitize(R[:, 1], [-0.7, 0.7])]).astype(int)
NAN = np.nan
SMALL = {"hidden_layer_sizes": (5,), "max_iter": 4, "random_state": 0, "batch_size": 20}


def clf(**params):
    return plain(MultiTaskClassifier, **{**SMALL, **params})


def reg(**params):
    return plain(MultiTaskRegressor, **{**SMALL, **params})


def outputs(model):
    """All that a fitted model says, as one array."""
    if hasattr(model, "predict_proba"):
        return np.hstack(model.predict_proba(X))
    return model.predict(X)


def put(array, where, value):
    array = np.array(array, dtype=float)
    array[where] = value
    return array


# Losses of the user's own ---------------------------------------------------------------------


class LastClassIsReference(LogLoss):
    """Softmax with one output less than there are classes: the last class has the score 0."""

    def n_outputs(self, n_classes):
        return n_classes - 1

    def elementwise(self, raw, target):
        return -self.to_prediction(raw).log().gather(-1, target.long().unsqueeze(-1)).squeeze(-1)

    def to_prediction(self, raw):
        return torch.cat([raw, torch.zeros_like(raw[..., :1])], dim=-1).softmax(-1)


def test_a_loss_of_the_users_own_says_what_its_outputs_mean():
    """It is the log loss with fewer parameters: same task, as good, labels as probabilities."""
    options = {"max_iter": 200, "learning_rate_init": 0.02, "n_iter_no_change": np.inf}
    model = clf(loss=LastClassIsReference(), **options).fit(X, Y)
    labels, table = model.predict(X), model.predict_proba(X)
    for t, p in enumerate(table):
        assert np.array_equal(labels[:, t], model.classes_[t][p.argmax(axis=1)])
    assert model.score(X, Y) > 0.9
    assert clf(**options).fit(X, Y).score(X, Y) > 0.9


# Every parameter changes the result -----------------------------------------------------------


class Nudge(Callback):
    """Shifts a parameter of the network: a callback that changes the result."""

    def on_train_begin(self, net, **kwargs):
        with torch.no_grad():
            next(net.module_.parameters()).add_(0.1)


STOPPING = {"early_stopping": True, "validation_fraction": 0.3, "max_iter": 60, "tol": 0}
FAST = {"learning_rate_init": 0.1, "n_iter_no_change": 2}
SGD = {"solver": "sgd", "learning_rate_init": 0.05}

# parameter: (value that differs from that of a plain network, the other parameters that it needs)
CHANGES = {
    "trunk": ("mmoe", {}),
    "scaling": ("standard", {}),
    "embedding": ("periodic", {}),
    "input_scale_rate": (6.0, {}),
    "linear_path": (True, {"early_stopping": True}),
    "n_members": (2, {}),
    "hidden_layer_sizes": ((6,), {}),
    "head_hidden_layer_sizes": ((3,), {}),
    "activation": ("tanh", {}),
    "dropout": (0.5, {}),
    "loss": ("focal", {}),
    "task_dependencies": ({"task1": "task0"}, {}),
    "task_weights": ([1, 5], {}),
    "weighting": ("mgda", {}),
    "class_weight": ("balanced", {}),
    "solver": ("sgd", {}),
    "alpha": (1.0, {}),
    "batch_size": (13, {}),
    "learning_rate_init": (0.01, {}),
    "momentum": (0.5, SGD),
    "nesterovs_momentum": (False, SGD),
    "ema_decay": (0.9, {}),
    "max_iter": (5, {}),
    "shuffle": (False, {}),
    "random_state": (1, {}),
    "tol": (1e-1, {"max_iter": 50, "n_iter_no_change": 2}),
    "early_stopping": (True, {}),
    "validation_fraction": (0.5, {"early_stopping": True}),
    "n_iter_no_change": (1, {"max_iter": 50, "tol": 0.05}),
    "stopping_tasks": (["task1"], {**STOPPING, **FAST}),
    "stopping_rule": ("worst", {**STOPPING, **FAST}),
    "dtype": ("float32", {}),
    "callbacks": ([Nudge()], {}),
}
# parameter: where it is shown to count instead
ELSEWHERE = {
    "categorical_features": "test_categories.py",
    "calibrate": "test_uncertainty_calibration.py",
    "penalty": "test_penalties_training.py",
    "tasks": "test_type_of_a_task_can_be_given",
    "verbose": "test_verbose_prints_a_line_an_epoch",
    "warm_start": "test_warm_start_continues",
    "device": "test_bad_input.py, which names devices that are not there",
}


def parameters(cls):
    return set(inspect.signature(cls).parameters)


@pytest.mark.parametrize("cls", [MultiTaskClassifier, MultiTaskRegressor, MultiTaskEstimator])
def test_every_parameter_is_shown_to_count(cls):
    known = set(CHANGES) | set(ELSEWHERE)
    assert parameters(cls) <= known
    assert known - parameters(MultiTaskEstimator) == set()


@pytest.mark.parametrize(
    ("make", "name"),
    [(m, name) for m in (clf, reg) for name in CHANGES if name in parameters(type(m()))],
)
def test_parameter_changes_the_result(make, name):
    value, needed = CHANGES[name]
    if name == "loss" and make is reg:
        value = "absolute_error"
    y = Y if make is clf else R
    usual = outputs(make(**needed).fit(X, y))
    changed = outputs(make(**needed, **{name: value}).fit(X, y))
    assert not np.array_equal(usual, changed)
    again = outputs(make(**needed).fit(X, y))  # negative control: it is the parameter
    assert np.array_equal(usual, again)


def test_uniform_is_static_without_weights():
    uniform, static = clf(weighting="uniform").fit(X, Y), clf(weighting="static").fit(X, Y)
    assert np.array_equal(outputs(uniform), outputs(static))
    weighted = clf(weighting="static", task_weights=[1, 5]).fit(X, Y)
    assert not np.array_equal(outputs(uniform), outputs(weighted))


def test_verbose_prints_a_line_an_epoch(capsys):
    clf(verbose=True).fit(X, Y)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("epoch 1: train loss ")
    assert "task1 " in lines[0]
    clf().fit(X, Y)
    assert capsys.readouterr().out == ""


def test_type_of_a_task_can_be_given():
    counts = np.column_stack([Y[:, 0], Y[:, 1]])
    guessed = plain(MultiTaskEstimator, **SMALL).fit(X, counts)
    given = plain(MultiTaskEstimator, **SMALL, tasks=["classification", "regression"]).fit(
        X, counts
    )
    assert guessed.task_types_ == ["binary", "multiclass"]
    assert given.task_types_ == ["binary", "regression"]
    assert given.classes_[1] is None
    assert given.predict_proba(X)[1] is None


# Task weights ---------------------------------------------------------------------------------


def test_forms_of_task_weights_are_equal():
    fits = [
        clf(task_weights=w).fit(X, Y)
        for w in ([1, 3], (1, 3), np.array([1.0, 3.0]), np.array([[1.0, 3.0]]), {"task1": 3})
    ]
    for other in fits[1:]:
        assert np.array_equal(outputs(fits[0]), outputs(other))


@pytest.mark.parametrize("weights", [None, [1, 1], [4, 4], {}])
def test_equal_weights_are_no_weights(weights):
    assert np.array_equal(outputs(clf().fit(X, Y)), outputs(clf(task_weights=weights).fit(X, Y)))


def test_weight_zero_leaves_a_task_untrained():
    model = reg(task_weights=[1, 0], max_iter=1).fit(X, R)
    longer = reg(task_weights=[1, 0], max_iter=30).fit(X, R)
    heads = [m.net_.module_.heads[0].output.weight.detach() for m in (model, longer)]
    assert torch.equal(heads[0][1], heads[1][1])
    assert not torch.equal(heads[0][0], heads[1][0])


# Sample weights -------------------------------------------------------------------------------


def test_weights_of_rows_and_tasks_by_hand():
    """L_t = sum_i w_it l_it / sum_i w_it, with targets standardised by the same weights."""
    weight = rng.integers(1, 4, size=(N, 2)).astype(float)
    model = reg(max_iter=1, batch_size=N, solver="sgd", learning_rate_init=1e-12)
    model.fit(X, R, weight)
    predicted = model.predict(X)
    for t in range(2):
        w = weight[:, t]
        mean = np.average(R[:, t], weights=w)
        scale = np.sqrt(np.average((R[:, t] - mean) ** 2, weights=w))
        residual = (predicted[:, t] - R[:, t]) / scale
        expected = np.average(residual**2, weights=w) / 2
        np.testing.assert_allclose(model.task_loss_curves_[0, t], expected, rtol=1e-8)


def test_a_weight_a_row_is_the_same_weight_for_every_task():
    weight = rng.uniform(0.5, 2, size=N)
    both = np.column_stack([weight, weight])
    assert np.array_equal(outputs(clf().fit(X, Y, weight)), outputs(clf().fit(X, Y, both)))
    assert not np.array_equal(outputs(clf().fit(X, Y, weight)), outputs(clf().fit(X, Y)))


def test_integer_weights_repeat_rows():
    weight = rng.integers(1, 4, size=N)
    rows = np.repeat(np.arange(N), weight)
    weighted = reg(batch_size="auto").fit(X, R, weight)
    repeated = reg(batch_size="auto").fit(X[rows], R[rows])
    np.testing.assert_allclose(weighted.predict(X), repeated.predict(X), rtol=1e-9)


def test_balanced_classes_by_hand():
    """Balanced counts only labelled cells: n_t / (k_t * count), here 4 / (2 * 1) and 4 / (2 * 3).

    Task 0 has labels 0 1 1 1 and two missing; task 1 has 0 0 0 1 1 2: 6 / (3 * 3), 6 / (3 * 2),
    6 / (3 * 1).
    """
    x = X[:6]
    y = np.array([[0, 0], [1, 0], [1, 0], [1, 1], [NAN, 1], [NAN, 2]])
    weight = np.array([[2, 2 / 3], [2 / 3, 2 / 3], [2 / 3, 2 / 3], [2 / 3, 1], [1, 1], [1, 2]])
    balanced = clf(class_weight="balanced", batch_size=6).fit(x, y)
    by_hand = clf(batch_size=6).fit(x, y, weight)
    np.testing.assert_allclose(outputs(balanced), outputs(by_hand), rtol=1e-10)
    assert not np.allclose(outputs(balanced), outputs(clf(batch_size=6).fit(x, y)), rtol=1e-6)


def test_validation_rows_are_weighted_by_the_classes_of_the_training_rows():
    """Balanced weights stand for a dict of weights found on the training labels."""
    rare = np.column_stack([np.arange(20) < 2] * 2)  # classes of other shares than in training
    valid = {"X_val": X[:20], "y_val": rare}
    tasks = [(column, np.unique(column, return_counts=True)[1]) for column in Y.T]
    rules = [dict(enumerate(N / (len(counts) * counts))) for _, counts in tasks]
    balanced = clf(class_weight="balanced").fit(X, Y, **valid)
    by_hand = clf(class_weight=rules).fit(X, Y, **valid)
    curves = [model.validation_task_loss_curves_ for model in (balanced, by_hand)]
    np.testing.assert_allclose(*curves, rtol=1e-10)
    plain = clf().fit(X, Y, **valid)
    assert not np.allclose(plain.validation_task_loss_curves_, curves[0], rtol=1e-3)


def test_class_weights_by_task():
    weight = np.column_stack([np.where(Y[:, 0] == 1, 3.0, 1.0), np.ones(N)])
    expected = outputs(clf().fit(X, Y, weight))
    for rule in ([{1: 3.0}, None], {"task0": {1: 3.0}}, {"task0": {0: 1, 1: 3}, "task1": None}):
        assert np.array_equal(outputs(clf(class_weight=rule).fit(X, Y)), expected)
    one = clf(class_weight={1: 3.0}).fit(X, Y[:, 0])
    assert np.array_equal(
        one.predict_proba(X), clf().fit(X, Y[:, 0], weight[:, 0]).predict_proba(X)
    )


def test_class_of_weight_zero_does_not_count():
    rows = Y[:, 1] != 2
    ignored = clf(class_weight=[None, {2: 0}], batch_size="auto").fit(X, Y)
    hidden = clf(batch_size="auto").fit(X, Y, np.column_stack([np.ones(N), rows]))
    assert np.array_equal(outputs(ignored), outputs(hidden))


# Missing labels -------------------------------------------------------------------------------


def missing(y, task, rows):
    return put(y, (rows, task), NAN)


@pytest.mark.parametrize("trunk", TRUNKS)
@pytest.mark.parametrize(("make", "y"), [(clf, Y), (reg, R)])
def test_row_without_labels_is_a_row_that_is_absent(make, y, trunk):
    gone = np.arange(N) % 5 == 2
    hidden = make(trunk=trunk).fit(X, put(y, gone, NAN))
    absent = make(trunk=trunk).fit(X[~gone], y[~gone])
    assert np.array_equal(outputs(hidden), outputs(absent))
    assert hidden.loss_curve_ == absent.loss_curve_
    assert not np.array_equal(outputs(hidden), outputs(make(trunk=trunk).fit(X, y)))


@pytest.mark.parametrize("trunk", TRUNKS)
@pytest.mark.parametrize(("make", "y"), [(clf, Y), (reg, R)])
def test_missing_cell_is_a_cell_of_weight_zero(make, y, trunk):
    gone = rng.uniform(size=y.shape) < 0.3
    weight = rng.uniform(0.5, 2, size=y.shape)
    missing = make(trunk=trunk).fit(X, put(y, gone, NAN), weight)
    weightless = make(trunk=trunk).fit(X, y, np.where(gone, 0, weight))
    assert np.array_equal(outputs(missing), outputs(weightless))


@pytest.mark.parametrize("behind", [0, 1e6, -1, np.inf, NAN])
def test_value_behind_a_mask_has_no_effect(behind):
    gone = rng.uniform(size=R.shape) < 0.3
    masked = np.ma.masked_array(put(R, gone, behind), gone)
    expected = reg().fit(X, put(R, gone, NAN)).predict(X)
    assert np.array_equal(reg().fit(X, masked).predict(X), expected)


def test_class_behind_a_mask_is_no_class():
    gone = np.zeros(Y.shape, dtype=bool)
    gone[:5] = True
    labels = Y.copy()
    labels[:5] = 99
    model = clf().fit(X, np.ma.masked_array(labels, gone))
    assert [c.tolist() for c in model.classes_] == [[0, 1], [0, 1, 2]]
    assert np.array_equal(outputs(model), outputs(clf().fit(X, put(Y, gone, NAN))))


def test_task_with_labels_in_few_batches_is_trained_in_those():
    rare = put(R, (slice(3, None), 1), NAN)
    model = reg(batch_size=5, max_iter=20).fit(X, rare)
    assert np.isfinite(model.predict(X)).all()
    assert model.task_loss_curves_[-1, 1] < model.task_loss_curves_[0, 1]


def test_one_d_labels_may_be_missing():
    y = put(Y[:, 0], slice(0, N, 3), NAN)
    model = clf(max_iter=30, learning_rate_init=0.05).fit(X, y)
    rows = ~np.isnan(y)
    assert model.classes_.tolist() == [0, 1]
    assert model.predict(X).dtype.kind == "i"
    assert model.score(X, y) == np.mean(model.predict(X)[rows] == y[rows])


# Scores ---------------------------------------------------------------------------------------


def test_score_is_the_mean_over_tasks_of_labelled_rows():
    """Task 0 has 4 labels, 3 of them right; task 1 has 2 labels, 1 right: (3/4 + 1/2) / 2."""
    model = clf().fit(X, Y)
    y = np.full(Y.shape, NAN)
    guess = model.predict(X)
    y[:4, 0] = guess[:4, 0]
    y[0, 0] = 1 - y[0, 0]
    y[:2, 1] = guess[:2, 1]
    y[0, 1] = (y[0, 1] + 1) % 3
    assert model.score(X, y) == 5 / 8
    # weights: task 0 as before but its wrong row counts thrice: 3 / 6; task 1: 1 / (3 + 1)
    assert model.score(X, y, put(np.ones(N), 0, 3)) == pytest.approx((3 / 6 + 1 / 4) / 2)


def test_task_without_labels_is_left_out_of_the_score():
    model = clf().fit(X, Y)
    y = put(Y, (slice(None), 1), NAN)
    assert model.score(X, y) == np.mean(model.predict(X)[:, 0] == Y[:, 0])


def test_single_row_has_no_r2():
    """It is left out of the mean over tasks, as in task_scores; alone it is NaN."""
    model = reg().fit(X, R)
    y = put(R, (slice(1, None), 1), NAN)
    assert model.score(X, y) == pytest.approx(r2_score(R[:, 0], model.predict(X)[:, 0]))
    with pytest.warns(UndefinedMetricWarning, match="Got a single labelled row in every task"):
        assert np.isnan(model.score(X[:1], R[:1]))


@pytest.mark.parametrize("shape", [(N,), (N, 1), (N, 2)])
def test_score_is_the_mean_score_for_weights_of_every_shape(shape):
    weight = np.random.default_rng(0).uniform(size=shape)
    cells = np.broadcast_to(weight.reshape(N, -1), (N, 2))
    model, y = reg().fit(X, R, weight), put(R, (slice(None, 30), 1), NAN)
    np.testing.assert_allclose(outputs(model), outputs(reg().fit(X, R, cells)), rtol=1e-10)
    assert (
        model.score(X, y, weight)
        == model.score(X, y, cells)
        == mean_score(model, X, y, sample_weight=weight)
    )
    assert model.score(X, y, weight) != model.score(X, y)
    seen = slice(30, None)
    by_hand = [
        r2_score(R[:, 0], model.predict(X)[:, 0], sample_weight=cells[:, 0]),
        r2_score(R[seen, 1], model.predict(X)[seen, 1], sample_weight=cells[seen, 1]),
    ]
    assert model.score(X, y, weight) == pytest.approx(np.mean(by_hand))
    assert list(task_scores(model, X, y, sample_weight=weight).values()) == pytest.approx(by_hand)
