"""Inside scikit-learn: pipelines, searches, metadata routing, and its own callbacks."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import sklearn
from plain import plain
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import FitFailedWarning
from sklearn.model_selection import (
    GridSearchCV,
    KFold,
    RandomizedSearchCV,
    cross_val_predict,
    cross_val_score,
    cross_validate,
    learning_curve,
)
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from sk_mtl import MultiTaskClassifier, MultiTaskEstimator, MultiTaskRegressor
from sk_mtl.trunks import MMoE

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore::sk_mtl._support.InferredTaskTypesWarning"),
]

N = 60
rng = np.random.default_rng(0)
X = rng.normal(loc=50, scale=10, size=(N, 3))
Z = (X - 50) / 10
R = Z[:, :2] @ [[1.0, 0.5], [0.5, -1.0]]
Y = np.where(rng.uniform(size=R.shape) < 0.2, np.nan, R > 0)
FRAME = pd.DataFrame(Y, columns=["buy", "churn"])
FOLDS = KFold(2)
SMALL = {"hidden_layer_sizes": (4,), "max_iter": 3, "random_state": 0, "learning_rate_init": 0.05}


def clf(**params):
    return plain(MultiTaskClassifier, **{**SMALL, **params})


def pipe(**params):
    return Pipeline([("scale", StandardScaler()), ("mtl", clf(**params))])


@pytest.fixture
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


# Searches -------------------------------------------------------------------------------------


def test_grid_over_dicts_of_task_weights_in_two_processes():
    grid = {"mtl__task_weights": [None, {"buy": 3}, {"buy": 1, "churn": 0}]}
    search = GridSearchCV(pipe(), grid, cv=FOLDS, n_jobs=2, error_score="raise").fit(X, FRAME)
    serial = GridSearchCV(pipe(), grid, cv=FOLDS, error_score="raise").fit(X, FRAME)
    scores = search.cv_results_["mean_test_score"]
    np.testing.assert_allclose(scores, serial.cv_results_["mean_test_score"])
    assert np.isfinite(scores).all()
    assert search.best_estimator_["mtl"].task_names_ == ["buy", "churn"]
    by_hand = [
        pipe(task_weights={"buy": 1, "churn": 0})
        .fit(X[a], FRAME.iloc[a])
        .score(X[b], FRAME.iloc[b])
        for a, b in FOLDS.split(X)
    ]
    assert scores[2] == pytest.approx(np.mean(by_hand))


def test_grid_over_experts_in_two_processes():
    grid = {"mtl__trunk__n_experts": [1, 3], "mtl__trunk": [MMoE()]}
    search = GridSearchCV(pipe(), grid, cv=FOLDS, n_jobs=2, error_score="raise").fit(X, Y)
    n_experts = search.best_params_["mtl__trunk__n_experts"]
    assert search.best_estimator_["mtl"].net_.module_.trunk.gates.weight.shape[-2] == n_experts


def test_random_search_draws_weights():
    from scipy.stats import dirichlet

    draws = {"mtl__task_weights": dirichlet([1, 1])}
    search = RandomizedSearchCV(
        pipe(), draws, n_iter=2, cv=FOLDS, random_state=0, error_score="raise"
    )
    assert np.isfinite(search.fit(X, Y).cv_results_["mean_test_score"]).all()


def test_cross_validate_with_missing_labels():
    results = cross_validate(
        pipe(), X, Y, cv=FOLDS, return_estimator=True, return_train_score=True, error_score="raise"
    )
    for (train, test), model, score in zip(
        FOLDS.split(X), results["estimator"], results["test_score"], strict=True
    ):
        assert score == model.score(X[test], Y[test])
        assert np.array_equal(model.predict(X), pipe().fit(X[train], Y[train]).predict(X))
    mixed = plain(MultiTaskEstimator, **SMALL)
    assert np.isfinite(cross_val_score(mixed, Z, Y, cv=3, error_score="raise")).all()


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast:RuntimeWarning")
def test_a_number_of_folds_is_refused_for_classifiers_before_we_are_asked():
    """scikit-learn's own words; the documentation says to pass a splitter object."""
    with pytest.raises(ValueError, match="contains NaN"):
        cross_val_score(clf(), X, Y, cv=2)


def test_cross_val_predict_of_labels():
    predicted = cross_val_predict(clf(), Z, Y, cv=FOLDS)
    for train, test in FOLDS.split(Z):
        assert np.array_equal(predicted[test], clf().fit(Z[train], Y[train]).predict(Z[test]))


def test_learning_curve_in_steps():
    _, _, scores = learning_curve(
        clf(), Z, Y, cv=FOLDS, train_sizes=[0.5, 1.0], exploit_incremental_learning=True,
        error_score="raise",
    )  # fmt: skip
    assert np.isfinite(scores).all()


def test_fold_without_labels_of_a_task():
    y = Y.copy()
    y[: N // 2, 1] = np.nan
    with pytest.raises(ValueError, match="Got no label at all for task 'task1'"):
        cross_val_score(clf(), Z, y, cv=FOLDS, error_score="raise")
    with pytest.warns(FitFailedWarning, match="1 fits failed out of a total of 2"):
        scores = cross_val_score(clf(), Z, y, cv=FOLDS)
    assert np.isnan(scores).tolist() == [False, True]


# Pipelines ------------------------------------------------------------------------------------


def test_columns_of_a_table():
    table = pd.DataFrame(X, columns=list("abc")).assign(city=np.resize(["x", "y", "z"], N))
    columns = ColumnTransformer(
        [("numbers", StandardScaler(), list("abc")), ("city", OneHotEncoder(), ["city"])]
    )
    model = make_pipeline(columns, clf()).fit(table, FRAME)
    assert model.predict(table).shape == (N, 2)
    assert [p.shape for p in model.predict_proba(table)] == [(N, 2), (N, 2)]
    as_features = make_pipeline(StandardScaler(), clf(), clf()).fit(X, Y)
    assert as_features[-1].n_features_in_ == 4
    assert as_features[:-1].get_feature_names_out().tolist() == [
        f"multitaskclassifier{i}" for i in range(4)
    ]


def test_weights_by_step():
    weight = rng.uniform(0.5, 2, size=(N, 2))
    through = pipe().fit(X, Y, mtl__sample_weight=weight)
    direct = clf().fit(StandardScaler().fit_transform(X), Y, weight)
    assert np.array_equal(
        through.predict_proba(X)[0], direct.predict_proba(through[0].transform(X))[0]
    )


def test_validation_rows_pass_the_steps_before(routing):
    model = clf().set_fit_request(X_val=True, y_val=True)
    steps = [("scale", StandardScaler()), ("mtl", model)]
    routed = Pipeline(steps, transform_input=["X_val"]).fit(X, Y, X_val=X[:20], y_val=Y[:20])
    scaled = StandardScaler().fit_transform(X)
    by_hand = clf().fit(scaled, Y, X_val=scaled[:20], y_val=Y[:20])
    assert routed["mtl"].validation_scores_ == by_hand.validation_scores_
    raw = clf().fit(scaled, Y, X_val=X[:20], y_val=Y[:20])  # negative control
    assert raw.validation_scores_ != by_hand.validation_scores_


def test_weights_are_routed_to_fit_and_score(routing):
    weight = rng.uniform(0.1, 2, size=(N, 2))
    model = clf().set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
    scores = cross_validate(
        model, Z, Y, cv=FOLDS, params={"sample_weight": weight}, error_score="raise"
    )["test_score"]
    by_hand = [
        clf().fit(Z[a], Y[a], weight[a]).score(Z[b], Y[b], weight[b]) for a, b in FOLDS.split(Z)
    ]
    assert scores.tolist() == by_hand


def test_search_passes_weights_without_routing():
    search = GridSearchCV(clf(), {"alpha": [0, 1]}, cv=FOLDS, error_score="raise")
    search.fit(Z, Y, sample_weight=rng.uniform(0.1, 2, size=(N, 2)))
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


# scikit-learn's own callbacks -----------------------------------------------------------------

callback = pytest.importorskip("sklearn.callback", reason="scikit-learn >= 1.9 has callbacks")


class Recorder:
    """Keeps what scikit-learn tells a callback."""

    def __init__(self, stop_after=None):
        self.stop_after = stop_after
        self.epochs, self.fits, self.begun, self.ended = [], [], 0, 0

    def setup(self, estimator, context):
        self.begun += 1

    def teardown(self, estimator, context):
        self.ended += 1

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context, *, X, y, fitted_estimator):
        where = self.epochs if context.task_name == "epoch" else self.fits
        where.append((fitted_estimator.score(X, y), X, y))
        return len(self.epochs) == self.stop_after


def test_callbacks_see_a_usable_estimator_after_every_epoch():
    recorder = Recorder()
    table = pd.DataFrame(Z, columns=list("abc"))
    model = clf().set_callbacks(recorder).fit(table, FRAME)
    assert (len(recorder.epochs), len(recorder.fits)) == (3, 1)
    assert (recorder.begun, recorder.ended) == (1, 1)
    assert recorder.epochs[-1][0] == recorder.fits[0][0] == model.score(table, FRAME)
    assert recorder.epochs[0][0] == clf(max_iter=1).fit(table, FRAME).score(table, FRAME)
    assert recorder.epochs[0][1] is table  # both as the user gave them, missing labels and all
    assert recorder.epochs[0][2] is FRAME
    assert np.array_equal(model.predict(table), clf().fit(Z, FRAME).predict(Z))


def test_callback_can_end_training():
    model = clf(max_iter=50).set_callbacks(Recorder(stop_after=2)).fit(Z, Y)
    assert model.n_iter_ == 2


def test_callbacks_are_torn_down_after_an_error():
    recorder = Recorder()
    with pytest.raises(ValueError, match="task_weights"):
        clf(task_weights=[1, 2, 3]).set_callbacks(recorder).fit(Z, Y)
    assert recorder.begun == recorder.ended
    model = clf(learning_rate_init=1e300, solver="sgd", max_iter=9).set_callbacks(recorder)
    with pytest.raises(ValueError, match="not finite"):
        model.fit(Z, Y)
    assert recorder.begun == recorder.ended == 1
    assert [key for key in vars(model) if "callback_fit_ctx" in key] == []


def test_partial_fit_does_not_tell_them():
    recorder = Recorder()
    clf().set_callbacks(recorder).partial_fit(Z, Y, classes=[0, 1])
    assert recorder.begun == len(recorder.epochs) == 0


def test_scoring_monitor_and_progress_bar():
    pytest.importorskip("rich")
    monitor = callback.ScoringMonitor(scoring=lambda est, X, y: {"mean": est.score(X, y)})
    model = clf().set_callbacks(callback.ProgressBar(), monitor).fit(Z, Y)
    scores = [row["mean"] for row in monitor.get_logs().data if row["task_name"] == "epoch"]
    assert len(scores) == 3
    assert scores[-1] == model.score(Z, Y)


def test_callbacks_inside_search_and_pipeline():
    pytest.importorskip("rich")
    monitor = callback.ScoringMonitor(scoring=lambda est, X, y: {"mean": est.score(X, y)})
    inner = Pipeline([("scale", StandardScaler()), ("mtl", clf().set_callbacks(monitor))])
    search = GridSearchCV(inner, {"mtl__alpha": [0, 1]}, cv=FOLDS, error_score="raise")
    search.set_callbacks(callback.ProgressBar())
    search.fit(X, Y)
    plain = GridSearchCV(pipe(), {"mtl__alpha": [0, 1]}, cv=FOLDS).fit(X, Y)
    np.testing.assert_array_equal(
        search.cv_results_["mean_test_score"], plain.cv_results_["mean_test_score"]
    )
    assert search.best_estimator_["mtl"].n_iter_ == 3
    assert len(monitor.get_logs(select="all")) > 0


def test_regressor_is_told_too():
    recorder = Recorder()
    plain(MultiTaskRegressor, **SMALL).set_callbacks(recorder).fit(Z, R)
    assert len(recorder.epochs) == 3
