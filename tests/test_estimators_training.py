"""Training: when it stops, what it keeps, how it goes on, who is told."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
from plain import plain
from sklearn.exceptions import ConvergenceWarning
from skorch.callbacks import (
    Callback,
    Checkpoint,
    EarlyStopping,
    EpochScoring,
    GradientNormClipping,
    LRScheduler,
    PrintLog,
    ProgressBar,
)

from sk_mtl import MultiTaskClassifier, MultiTaskEstimator, MultiTaskRegressor
from sk_mtl.losses import Huber
from sk_mtl.objective import Objective
from sk_mtl.trunks import MMoE, SharedBottom

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

N = 80
rng = np.random.default_rng(0)
X = rng.normal(size=(N, 4))
R = X[:, :2] @ [[1.0, 0.5], [0.5, -1.0]] + rng.normal(size=(N, 2))  # as much noise as signal
Y = (R > 0).astype(int)
X_VAL = rng.normal(size=(N, 4))
R_VAL = X_VAL[:, :2] @ [[1.0, 0.5], [0.5, -1.0]] + rng.normal(size=(N, 2))
VALID = {"X_val": X_VAL, "y_val": R_VAL}
SMALL = {"hidden_layer_sizes": (20,), "max_iter": 4, "random_state": 0, "batch_size": 20}
OVERFIT = {"max_iter": 40, "learning_rate_init": 0.05, "n_iter_no_change": np.inf}


def clf(**params):
    return plain(MultiTaskClassifier, **{**SMALL, **params})


def reg(**params):
    return plain(MultiTaskRegressor, **{**SMALL, **params})


def weights(model):
    return [p.numpy(force=True) for p in model.net_.module_.parameters()]


def equal(first, second):
    return all(np.array_equal(a, b) for a, b in zip(weights(first), weights(second), strict=True))


def validation_loss(model):
    """Mean over tasks of the validation loss, in units of the first epoch's; by hand."""
    scale = R.std(axis=0)
    losses = ((model.predict(X_VAL) - R_VAL) / scale) ** 2 / 2
    return np.mean(losses.mean(axis=0) / model.validation_task_loss_curves_[0])


# Stopping -------------------------------------------------------------------------------------


def test_best_weights_are_kept_though_patience_never_ends():
    model = reg(**OVERFIT).fit(X, R, **VALID)
    curve = model.validation_task_loss_curves_
    relative = (curve / curve[0]).mean(axis=1)
    assert model.n_iter_ == 40
    assert 1 < model.best_iter_ == relative.argmin() + 1 < 40
    assert model.best_loss_ == pytest.approx(relative.min())
    assert validation_loss(model) == pytest.approx(model.best_loss_)
    assert relative[-1] > model.best_loss_ + 0.01  # negative control: the last are worse
    # the same weights as those of a fit that goes no further
    assert equal(model, reg(**{**OVERFIT, "max_iter": model.best_iter_}).fit(X, R, **VALID))


def test_best_weights_are_kept_where_patience_ends():
    model = reg(**{**OVERFIT, "n_iter_no_change": 3}).fit(X, R, **VALID)
    assert model.n_iter_ == model.best_iter_ + 3 < 40
    assert validation_loss(model) == pytest.approx(model.best_loss_)
    assert equal(model, reg(**{**OVERFIT, "max_iter": model.best_iter_}).fit(X, R, **VALID))


def test_without_validation_the_last_weights_are_kept():
    model = reg(**OVERFIT).fit(X, R)
    assert model.validation_scores_ is model.validation_task_loss_curves_ is None
    assert model.best_loss_ == min(model.loss_curve_)
    assert model.best_iter_ == np.argmin(model.loss_curve_) + 1
    shorter = reg(**{**OVERFIT, "max_iter": 39}).fit(X, R)
    assert not equal(model, shorter)


def test_training_loss_that_no_longer_falls_ends_training():
    model = reg(max_iter=500, learning_rate_init=0.05, tol=0.01, n_iter_no_change=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no ConvergenceWarning
        model.fit(X, R)
    assert model.n_iter_ < 500
    with pytest.warns(ConvergenceWarning, match=r"Maximum iterations \(4\) reached"):
        reg().fit(X, R)


def test_worst_task_and_named_tasks_decide():
    y = R.copy()
    y[:, 1] = rng.normal(size=N)  # nothing to learn here
    y_val = np.column_stack([R_VAL[:, 0], rng.normal(size=N)])
    best = {
        name: reg(**OVERFIT, **params).fit(X, y, X_val=X_VAL, y_val=y_val)
        for name, params in {
            "mean": {},
            "worst": {"stopping_rule": "worst"},
            "task0": {"stopping_tasks": ["task0"]},
            "task1": {"stopping_tasks": [1]},
        }.items()
    }
    curve = best["mean"].validation_task_loss_curves_
    relative = curve / curve[0]
    expected = {
        "mean": relative.mean(axis=1),
        "worst": relative.max(axis=1),
        "task0": relative[:, 0],
        "task1": relative[:, 1],
    }
    for name, model in best.items():
        assert model.best_iter_ == expected[name].argmin() + 1
        assert model.best_loss_ == pytest.approx(expected[name].min())
    assert len({model.best_iter_ for model in best.values()}) > 1  # the choice matters


def test_task_without_validation_labels_is_not_watched():
    y_val = R_VAL.copy()
    y_val[:, 1] = np.nan
    model = reg(**OVERFIT).fit(X, R, X_val=X_VAL, y_val=y_val)
    curve = model.validation_task_loss_curves_[:, 0]
    assert model.best_iter_ == curve.argmin() + 1
    assert np.isfinite(model.validation_scores_).all()


def test_share_of_the_rows_is_set_aside():
    model = reg(early_stopping=True, validation_fraction=0.25, batch_size=20).fit(X, R)
    assert model.net_.history[0]["train_batch_count"] == 3  # 60 of 80 rows
    assert len(model.validation_scores_) == model.n_iter_
    plain = reg(batch_size=20).fit(X, R)
    assert plain.net_.history[0]["train_batch_count"] == 4


def test_few_rows_are_all_trained_on_and_many_are_not():
    x = rng.normal(size=(10_001, 2))
    params = {"hidden_layer_sizes": (), "max_iter": 1, "batch_size": 5000}
    assert reg(**params).fit(x[:10_000], x[:10_000]).validation_scores_ is None
    assert reg(**params).fit(x, x).validation_scores_ is not None
    assert reg(**params, early_stopping=False).fit(x, x).validation_scores_ is None


def test_rare_labels_stay_in_training():
    y = R.copy()
    y[3:, 1] = np.nan
    for seed in range(5):
        params = {"early_stopping": True, "validation_fraction": 0.9, "batch_size": "auto"}
        model = reg(**params, random_state=seed).fit(X, y)
        assert (model.task_loss_curves_ > 0).all()


def test_validation_rows_are_scored():
    model = clf(max_iter=1).fit(X, Y, X_val=X_VAL, y_val=R_VAL > 0)
    assert model.validation_scores_ == [pytest.approx(model.score(X_VAL, R_VAL > 0))]
    model = reg(max_iter=1).fit(X, R, **VALID)
    assert model.validation_scores_ == [pytest.approx(model.score(X_VAL, R_VAL))]


def test_validation_weights_count():
    weight = rng.uniform(0.1, 2, size=(N, 2))
    plain = reg(max_iter=1).fit(X, R, **VALID)
    weighted = reg(max_iter=1).fit(X, R, **VALID, sample_weight_val=weight)
    assert weighted.validation_scores_ == [pytest.approx(weighted.score(X_VAL, R_VAL, weight))]
    assert weighted.validation_scores_ != plain.validation_scores_


def test_validation_rows_may_be_watched_without_stopping():
    watched = reg(**OVERFIT, early_stopping=False).fit(X, R, **VALID)
    assert len(watched.validation_scores_) == 40
    assert equal(watched, reg(**OVERFIT).fit(X, R))


# Interrupts -----------------------------------------------------------------------------------


def interrupt_after(monkeypatch, n_calls):
    """Make the user press Ctrl-C while the objective is at work."""
    original, calls = Objective.task_losses, []

    def interrupted(self, *args, **kwargs):
        calls.append(1)
        if len(calls) > n_calls:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Objective, "task_losses", interrupted)


def test_interrupt_keeps_the_best_weights(monkeypatch):
    n_batches = 4 + 1  # of an epoch: four for training, one for validation
    whole = reg(**OVERFIT).fit(X, R, **VALID)
    assert whole.best_iter_ < 30
    interrupt_after(monkeypatch, 30 * n_batches + 2)
    model = reg(**OVERFIT)
    with pytest.warns(UserWarning, match="interrupted by user after 30 epochs.*keeps the best"):
        model.fit(X, R, **VALID)
    monkeypatch.undo()
    assert model.n_iter_ == 30 == len(model.loss_curve_) == len(model.validation_scores_)
    assert model.best_iter_ == whole.best_iter_
    assert equal(model, whole)


def test_interrupt_while_validating_drops_the_epoch(monkeypatch):
    interrupt_after(monkeypatch, 2 * 5 + 4)
    model = reg()
    with pytest.warns(UserWarning, match="interrupted by user after 2 epochs"):
        model.fit(X, R, **VALID)
    assert model.n_iter_ == 2 == len(model.loss_curve_) == len(model.validation_scores_)


def test_interrupt_without_validation_keeps_the_last_weights(monkeypatch):
    interrupt_after(monkeypatch, 2 * 4 + 1)
    model = clf()
    with pytest.warns(
        UserWarning, match="after 2 epochs; the estimator is fitted and keeps the la"
    ):
        model.fit(X, Y)
    monkeypatch.undo()
    assert model.task_loss_curves_.shape == (2, 2)
    assert 0 <= model.score(X, Y) <= 1
    assert model.set_params(warm_start=True).fit(X, Y).n_iter_ == 2 + 4  # and can go on


def test_interrupt_in_the_first_batch_leaves_a_usable_estimator(monkeypatch):
    interrupt_after(monkeypatch, 0)
    model = clf()
    with pytest.warns(UserWarning, match="after 0 epochs"):
        model.fit(X, Y)
    assert model.n_iter_ == 0
    assert model.predict(X).shape == (N, 2)


class Stop(Callback):
    """Ends training from the hook named, as skorch's callbacks do, in the third epoch."""

    def __init__(self, hook):
        self.hook = hook

    def _stop(self, net, hook):
        if hook == self.hook and len(net.history) == 3:
            raise KeyboardInterrupt

    def on_batch_end(self, net, **kwargs):
        self._stop(net, "on_batch_end")

    def on_epoch_end(self, net, **kwargs):
        self._stop(net, "on_epoch_end")


@pytest.mark.parametrize(("hook", "n_epochs"), [("on_batch_end", 2), ("on_epoch_end", 3)])
def test_callback_that_ends_training_is_no_interrupt(hook, n_epochs):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = clf(callbacks=[Stop(hook)]).fit(X, Y)
    assert model.n_iter_ == n_epochs == len(model.loss_curve_)


def test_error_of_a_callback_is_the_users_to_see():
    class Broken(Callback):
        def on_epoch_end(self, net, **kwargs):
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        clf(callbacks=[Broken()]).fit(X, Y)


# skorch's callbacks ---------------------------------------------------------------------------


class Watch(Callback):
    """Counts what it is told, as a TensorBoard writer would."""

    def on_train_begin(self, net, X=None, y=None, **kwargs):
        self.seen_ = []

    def on_batch_end(self, net, batch=None, training=None, loss=None, y_pred=None, **kwargs):
        self.seen_.append(("batch", training, len(batch[1]), float(loss)))

    def on_epoch_end(self, net, dataset_train=None, dataset_valid=None, **kwargs):
        self.seen_.append(("epoch", len(dataset_train), dataset_valid and len(dataset_valid)))


def test_callbacks_are_told_of_batches_and_epochs():
    watch = Watch()
    model = reg(max_iter=2, callbacks=[watch]).fit(X, R, **VALID)
    (seen,) = [c.seen_ for _, c in model.net_.callbacks_ if isinstance(c, Watch)]
    assert [entry[:3] for entry in seen[:6]] == [
        *[("batch", True, 20)] * 4,
        ("batch", False, N),
        ("epoch", N, N),
    ]
    assert seen[4][3] == pytest.approx(model.net_.history[0]["valid_loss"])
    assert len(seen) == 12
    assert not hasattr(watch, "seen_")  # the user's object is copied, not used
    assert equal(model, reg(max_iter=2).fit(X, R, **VALID))  # and watching changes nothing


def test_epoch_scoring():
    def error(net, data, y=None):
        (raw,) = net.forward(data.X)
        return float(((raw[..., 0].T - data.y) ** 2).mean())

    callbacks = [EpochScoring(error, name="mse", lower_is_better=True)]
    model = reg(callbacks=callbacks).fit(X, R, **VALID)
    mse = [epoch["mse"] for epoch in model.net_.history]
    expected = 2 * model.validation_task_loss_curves_.mean(axis=1)
    np.testing.assert_allclose(mse, expected)
    assert "mse_best" in model.net_.history[-1]


def test_checkpoint(tmp_path):
    callbacks = [Checkpoint(dirname=str(tmp_path), f_pickle=None, f_history=None)]
    model = reg(**OVERFIT, callbacks=callbacks).fit(X, R, **VALID)
    state = torch.load(tmp_path / "params.pt", weights_only=True)
    assert model.net_.module_.state_dict().keys() == state.keys()


def test_skorchs_early_stopping():
    callbacks = [("patience", EarlyStopping(patience=2, threshold=0))]
    model = reg(**OVERFIT, callbacks=callbacks).fit(X, R, **VALID)
    assert model.n_iter_ < 40
    assert callbacks[0][1].__dict__ == EarlyStopping(patience=2, threshold=0).__dict__


def test_learning_rate_and_gradient_callbacks():
    plain = reg().fit(X, R)
    scheduled = reg(callbacks=[LRScheduler("StepLR", step_size=1, gamma=0.1)]).fit(X, R)
    assert scheduled.net_.history[:, "event_lr"] == pytest.approx([1e-3, 1e-4, 1e-5, 1e-6])
    clipped = reg(solver="sgd", callbacks=[GradientNormClipping(1e-3)]).fit(X, R)
    assert not equal(plain, scheduled)
    assert not equal(clipped, reg(solver="sgd").fit(X, R))


def test_progress_bar_and_print_log(capsys):
    lines = []
    callbacks = [ProgressBar(), ("log", PrintLog(sink=lines.append))]
    model = reg(callbacks=callbacks, max_iter=2).fit(X, R, **VALID)
    assert "0/" in capsys.readouterr().err
    assert equal(model, reg(max_iter=2).fit(X, R, **VALID))


def test_users_callbacks_are_not_changed():
    callbacks = [EarlyStopping(patience=2), Watch(), LRScheduler("StepLR", step_size=1)]
    before = [copy.deepcopy(vars(c)) for c in callbacks]
    model = reg(callbacks=callbacks)
    first, second = weights(model.fit(X, R, **VALID)), weights(model.fit(X, R, **VALID))
    assert [vars(c) for c in callbacks] == before
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


# Going on -------------------------------------------------------------------------------------


def test_warm_start_continues():
    model = reg(warm_start=True).fit(X, R)
    first = list(model.loss_curve_)
    net = model.net_
    model.fit(X, R)
    assert model.n_iter_ == 8 == len(model.loss_curve_) == len(model.task_loss_curves_)
    assert model.loss_curve_[:4] == first
    assert model.loss_curve_[4] < first[-1]
    assert model.net_ is not net
    cold = reg().fit(X, R).fit(X, R)
    assert cold.n_iter_ == 4
    assert cold.loss_curve_ == first


def test_warm_start_may_change_the_rest():
    model = reg(warm_start=True).fit(X, R)
    before = weights(model)
    model.set_params(learning_rate_init=1e-12, max_iter=1, task_weights=[1, 2], solver="sgd")
    model.fit(X, R)
    for a, b in zip(before, weights(model), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("hidden_layer_sizes", (20,), [20]),
        ("hidden_layer_sizes", (20,), 20),
        ("hidden_layer_sizes", (20,), np.array([20])),
        ("head_hidden_layer_sizes", (), []),
        ("trunk", "shared_bottom", SharedBottom()),
        ("trunk", "mmoe", MMoE(n_experts=np.int64(8))),
        ("dropout", 0.0, 0),
        ("loss", None, "squared_error"),
        ("loss", {"task1": Huber()}, ["squared_error", "huber"]),
    ],
)
def test_same_architecture_in_other_words_goes_on(name, first, second):
    model = reg(warm_start=True, **{name: first}).fit(X, R)
    model.set_params(**{name: second}).fit(X, R)
    assert model.n_iter_ == 8


def test_other_parameters_of_a_recipe_are_another_architecture():
    model = reg(warm_start=True, trunk=MMoE(n_experts=2)).fit(X, R)
    with pytest.raises(ValueError, match=r"Got trunk=MMoE\(n_experts=3\) to continue a network"):
        model.set_params(trunk__n_experts=3).fit(X, R)
    with pytest.raises(ValueError, match=r"Got loss=Huber\(delta=2.0\) to continue a network"):
        reg(warm_start=True, loss="huber").fit(X, R).set_params(loss=Huber(delta=2.0)).fit(X, R)


def test_curves_of_earlier_calls_are_kept_not_read_again():
    """So that the thousandth call costs what the first does."""
    model = reg().partial_fit(X, R).partial_fit(X, R)
    earlier, by_task = model.loss_curve_, model.task_loss_curves_
    model.net_.history[0]["train_loss_task0"] = np.nan
    model.partial_fit(X, R)
    assert len(earlier) == 2  # what the user holds does not grow
    assert model.loss_curve_[:2] == earlier
    assert model.loss_curve_[2] == model.net_.history[-1]["train_loss"]
    assert np.array_equal(model.task_loss_curves_[:2], by_task)
    assert model.task_loss_curves_.shape == (3, 2)


def test_validation_curves_span_all_epochs_or_none():
    model = reg(warm_start=True).fit(X, R, **VALID).fit(X, R, **VALID)
    assert len(model.validation_scores_) == len(model.validation_task_loss_curves_) == 8
    assert model.validation_scores_ == list(model.net_.history[:, "valid_score"])
    model.partial_fit(X, R)
    assert model.validation_scores_ is model.validation_task_loss_curves_ is None
    model.fit(X, R, **VALID)
    assert model.validation_scores_ is model.validation_task_loss_curves_ is None


@pytest.mark.parametrize("go_on", ["fit", "partial_fit"])
def test_schedule_of_the_learning_rate_goes_on(go_on):
    """From the last rate, as in skorch; a new learning_rate_init begins a new schedule."""
    schedule = LRScheduler("StepLR", step_size=1, gamma=0.1)
    model = reg(warm_start=True, callbacks=[schedule]).fit(X, R)
    fresh = copy.deepcopy(model).set_params(learning_rate_init=0.5)
    getattr(model, go_on)(X, R)
    assert model.net_.history[:4, "event_lr"] == pytest.approx([1e-3, 1e-4, 1e-5, 1e-6])
    assert 0 < model.net_.history[4, "event_lr"] < 1e-6
    getattr(fresh, go_on)(X, R)
    assert 1e-3 < fresh.net_.history[4, "event_lr"] <= 0.5


def test_warm_start_accepts_fewer_classes():
    model = clf(warm_start=True).fit(X, Y)
    model.fit(X[Y[:, 0] == 1], Y[Y[:, 0] == 1])
    assert [c.tolist() for c in model.classes_] == [[0, 1], [0, 1]]


def test_partial_fits_are_the_epochs_of_a_fit():
    """Random stream and optimiser go on from call to call: five calls are five epochs."""
    whole = clf(max_iter=5, dropout=0.3, n_iter_no_change=np.inf).fit(X, Y)
    parts = clf(dropout=0.3)
    for _ in range(5):
        parts.partial_fit(X, Y, classes=[0, 1])
    assert equal(whole, parts)
    assert parts.loss_curve_ == whole.loss_curve_
    assert parts.n_iter_ == 5
    assert parts.best_loss_ == min(parts.loss_curve_)


@pytest.mark.parametrize(
    "change", [{"learning_rate_init": 0.1}, {"task_weights": [1, 9]}, {"solver": "sgd"}]
)
def test_partial_fit_takes_new_settings(change):
    usual = reg().partial_fit(X, R).partial_fit(X, R)
    changed = reg().partial_fit(X, R).set_params(**change).partial_fit(X, R)
    assert not equal(usual, changed)


@pytest.mark.parametrize(
    "classes", [[0, 1, 2], [[0, 1, 2], [0, 1]], {"task0": [0, 1, 2], "task1": [0, 1]}]
)
def test_partial_fit_knows_classes_before_they_come(classes):
    model = clf().partial_fit(X, Y, classes=classes)
    assert model.classes_[0].tolist() == [0, 1, 2]
    later = Y.copy()
    later[0, 0] = 2
    model.partial_fit(X, later)
    assert model.predict_proba(X)[0].shape == (N, 3)


def test_partial_fit_of_a_task_that_has_no_label_now():
    model = reg().partial_fit(X, R)
    head = model.net_.module_.heads[0].output.weight.detach()[1].clone()
    gone = R.copy()
    gone[:, 1] = np.nan
    plain = reg(solver="sgd", momentum=0, alpha=0).partial_fit(X, R)
    before = plain.net_.module_.heads[0].output.weight.detach()[1].clone()
    plain.partial_fit(X, gone)
    assert torch.equal(plain.net_.module_.heads[0].output.weight.detach()[1], before)
    assert not torch.equal(model.partial_fit(X, R).net_.module_.heads[0].output.weight[1], head)


def test_partial_fit_goes_on_after_fit_and_in_another_type():
    model = reg().fit(X, R)
    model.partial_fit(X.astype(np.float32), R)
    assert model.n_iter_ == 5
    assert model.predict(X).dtype == np.float64


def test_estimator_of_mixed_tasks_learns_in_parts():
    y = np.column_stack([Y[:, 0], R[:, 0]])
    model = plain(MultiTaskEstimator, **SMALL).partial_fit(X, y)
    assert model.partial_fit(X, y).task_types_ == ["binary", "regression"]
    assert [None if c is None else c.tolist() for c in model.classes_] == [[0, 1], None]


def test_refit_with_other_tasks_forgets_the_earlier_ones():
    model = plain(MultiTaskEstimator, **SMALL).fit(X, Y)
    assert hasattr(model, "predict_proba")
    model.fit(X, R)
    assert not hasattr(model, "classes_")
    assert not hasattr(model, "predict_proba")


class PredictsTwice(Callback):
    """Evaluates the network after every epoch, as a callback may."""

    def on_epoch_end(self, net, **kwargs):
        data = torch.from_numpy(X)
        first, second = (net.raw_outputs(data)[0] for _ in range(2))
        net.history.record("steady", bool(torch.equal(first, second)))
        net.history.record("training", net.module_.training)


def test_a_callback_finds_the_network_ready_to_predict():
    """With dropout on, two passes over the same rows would differ."""
    model = reg(dropout=0.5, callbacks=[PredictsTwice()]).fit(X, R)
    assert model.net_.history[:, "steady"] == [True] * 4
    assert model.net_.history[:, "training"] == [False] * 4


def test_the_history_marks_the_best_epochs_so_far():
    """As skorch's own nets do; over later calls as well."""
    model = reg(**OVERFIT | {"max_iter": 15}, warm_start=True).fit(X, R, **VALID)
    history = model.fit(X, R, **VALID).net_.history
    for kind in ("train", "valid"):
        losses, best = history[:, f"{kind}_loss"], history[:, f"{kind}_loss_best"]
        assert best == [loss == min(losses[: i + 1]) for i, loss in enumerate(losses)]
        assert len(best) == 30
        assert not all(best)
