"""Scores skip missing labels, carry task names, and are scorers wherever scikit-learn takes one."""

from __future__ import annotations

import pickle
import warnings
from copy import deepcopy

import numpy as np
import pandas as pd
import pytest
from fakes import LinearClassifiers, LinearTasks
from numpy.testing import assert_allclose
from plain import plain
from sklearn import config_context
from sklearn.base import clone
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import UnsetMetadataPassedError
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    brier_score_loss,
    f1_score,
    fbeta_score,
    get_scorer_names,
    log_loss,
    make_scorer,
    mean_absolute_error,
    r2_score,
    roc_auc_score,
)
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    KFold,
    cross_val_score,
    cross_validate,
    learning_curve,
)
from sklearn.multioutput import MultiOutputRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sk_mtl.estimators import MultiTaskClassifier, MultiTaskEstimator
from sk_mtl.metrics import (
    make_multi_task_scorer,
    make_task_scorer,
    mean_score,
    task_scores,
)
from sk_mtl.metrics._scores import _default_score, _Sample
from sk_mtl.model_selection import MultiTaskStratifiedKFold


def make_data(n=150, seed=0):
    """Return X and three tasks with gaps: two classes, three classes as strings, an amount."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 3))
    noise = rng.normal(size=(n, 3)) * 0.5
    size = np.array(["s", "m", "xl"], dtype=object)[np.digitize(X[:, 1] + noise[:, 1], [-0.5, 0.5])]
    Y = pd.DataFrame(
        {
            "buys": (X[:, 0] + noise[:, 0] > 0).astype(float),
            "size": size,
            "wage": 2 * X[:, 2] + noise[:, 2],
        }
    )
    for column, name in enumerate(Y.columns):
        Y.loc[rng.uniform(size=n) < 0.2 + 0.1 * column, name] = np.nan
    return X, Y


@pytest.fixture(scope="module")
def data():
    return make_data()


@pytest.fixture(scope="module")
def fitted(data):
    return LinearTasks().fit(*data)


BY_KIND = {"classification": "roc_auc_ovr", "regression": "r2"}


class TestTaskScores:
    def test_default_is_accuracy_and_r2_on_labelled_rows(self, data, fitted):
        """Independent reference: masked by hand."""
        X, Y = data
        table = fitted.predict(X)
        seen = Y.notna().to_numpy()
        scores = task_scores(fitted, X, Y)
        assert list(scores) == ["buys", "size", "wage"]
        for t, name in enumerate(["buys", "size"]):
            hits = table[seen[:, t], t] == Y[name][seen[:, t]].to_numpy()
            assert_allclose(scores[name], hits.mean())
        assert_allclose(
            scores["wage"], r2_score(Y["wage"][seen[:, 2]], table[seen[:, 2], 2].astype(float))
        )
        assert_allclose(mean_score(fitted, X, Y), np.mean(list(scores.values())))

    def test_missing_labels_do_not_count_as_anything(self, data, fitted):
        """Negative control: filling the gaps changes the score, adding gaps to all does not."""
        X, Y = data
        filled = Y.assign(buys=Y["buys"].fillna(1.0))
        assert task_scores(fitted, X, filled)["buys"] != task_scores(fitted, X, Y)["buys"]
        more_X = np.vstack([X, X[:20]])
        more_Y = pd.concat([Y, Y[:20].map(lambda _: np.nan)])
        assert task_scores(fitted, more_X, more_Y) == task_scores(fitted, X, Y)

    @pytest.mark.parametrize(
        "metric", ["neg_log_loss", "roc_auc_ovr", "neg_brier_score", "f1_macro"]
    )
    def test_every_name_of_scikit_learn_equals_the_metric_on_selected_rows(
        self, data, fitted, metric
    ):
        X, Y = data
        scores = task_scores(fitted, X, Y, metric={"classification": metric})
        for name, model in zip(["buys", "size"], fitted.models_, strict=False):
            rows = Y[name].notna().to_numpy()
            y = Y[name][rows].to_numpy()
            y = y.astype(int) if name == "buys" else y
            P = model.predict_proba(X[rows])
            binary = name == "buys"
            expected = {
                "neg_log_loss": lambda y=y, P=P: -log_loss(y, P),
                "roc_auc_ovr": lambda y=y, P=P, b=binary: roc_auc_score(
                    y, P[:, 1] if b else P, multi_class="ovr"
                ),
                "neg_brier_score": lambda y=y, P=P, b=binary: (
                    -brier_score_loss(y, P[:, 1] if b else P)
                ),
                "f1_macro": lambda y=y, m=model, r=rows: f1_score(
                    y, m.predict(X[r]), average="macro"
                ),
            }[metric]()
            assert_allclose(scores[name], expected)

    def test_functions_and_scorer_objects(self, data, fitted):
        X, Y = data
        rows = Y["buys"].notna()
        y, guess = Y["buys"][rows].astype(int), fitted.models_[0].predict(X[rows])
        f2 = make_scorer(fbeta_score, beta=2)
        metric = {"buys": f2, "wage": make_scorer(mean_absolute_error, greater_is_better=False)}
        scores = task_scores(fitted, X, Y, metric=metric)
        assert_allclose(scores["buys"], fbeta_score(y, guess, beta=2))
        assert scores["wage"] < 0 < scores["size"]

        def share_of_hits(y_true, y_pred):
            return np.mean(y_true == y_pred)

        by_function = task_scores(fitted, X, Y, metric={"classification": share_of_hits})
        assert by_function == task_scores(fitted, X, Y)

    def test_a_task_of_a_dict_comes_before_its_kind_and_before_the_default(self, data, fitted):
        X, Y = data
        metric = {"classification": "neg_log_loss", "size": "balanced_accuracy"}
        scores = task_scores(fitted, X, Y, metric=metric)
        assert scores["buys"] < 0 < scores["size"]
        assert scores["wage"] == task_scores(fitted, X, Y)["wage"]

    def test_string_labels_take_the_greater_class_as_positive(self, data):
        """As scikit-learn does for roc_auc; its own Brier scorer refuses strings."""
        X, Y = data
        labels = Y["buys"].map({0.0: "no", 1.0: "yes"}).astype(object)
        model = LinearTasks().fit(X, labels.to_frame())
        reference = task_scores(
            LinearTasks().fit(X, Y[["buys"]]), X, Y[["buys"]], "neg_brier_score"
        )
        assert_allclose(
            task_scores(model, X, labels.to_frame(), "neg_brier_score")["buys"], reference["buys"]
        )

    def test_predictions_are_computed_once_a_method(self, data):
        X, Y = data
        calls = []

        class Counting(LinearTasks):
            def predict_proba(self, X):
                calls.append(len(X))
                return super().predict_proba(X)

        model = Counting().fit(X, Y)
        task_scores(model, X, Y, metric={"classification": "neg_log_loss"})
        assert len(calls) == 1

    def test_containers(self, data, fitted):
        X, Y = data
        expected = task_scores(fitted, X, Y)
        assert task_scores(fitted, X, Y.to_numpy(dtype=object)) == expected
        assert task_scores(fitted, X, Y.astype({"buys": "Int64"})) == expected
        assert task_scores(fitted, X.tolist(), Y) == expected
        pl = pytest.importorskip("polars")
        columns = {name: [None if pd.isna(v) else v for v in Y[name]] for name in Y}
        assert task_scores(fitted, X, pl.DataFrame(columns)) == expected

    def test_one_dimensional_labels(self, data):
        X, Y = data
        model = LinearTasks().fit(X, Y["buys"])
        rows = Y["buys"].notna()
        expected = accuracy_score(Y["buys"][rows].astype(int), model.predict(X[rows]))
        assert task_scores(model, X, Y["buys"]) == {"task0": expected}
        assert make_task_scorer(task=0)(model, X, Y["buys"].to_numpy()) == expected

    def test_frames_are_aligned_by_name_or_refused(self, data, fitted):
        X, Y = data
        turned = Y[["wage", "size", "buys"]]
        assert task_scores(fitted, X, turned) == task_scores(fitted, X, Y)
        with pytest.raises(ValueError, match=r"expected \['buys', 'size', 'wage'\]"):
            task_scores(fitted, X, turned.rename(columns={"buys": "other"}))
        generic = LinearTasks().fit(X, Y[["buys", "wage"]].to_numpy())
        named = Y[["buys", "wage"]].set_axis(["task0", "task1"], axis=1)
        assert task_scores(generic, X, named[["task1", "task0"]]) == task_scores(generic, X, named)

    def test_a_baseline_of_scikit_learn_takes_its_names_from_the_frame(self, data):
        X, Y = data
        Y = Y[["buys", "size"]].fillna({"buys": 0.0, "size": "s"}).astype(str)
        forest = RandomForestClassifier(n_estimators=5, random_state=0).fit(X, Y)
        scores = task_scores(forest, X, Y)
        assert scores["size"] == np.mean(forest.predict(X)[:, 1] == Y["size"])
        assert make_task_scorer("accuracy", task="size")(forest, X, Y) == scores["size"]

    def test_one_regressor_a_task_as_a_baseline(self, data):
        X, _ = data
        amounts = np.column_stack([X[:, 0] + X[:, 1] ** 2, -X[:, 2] + X[:, 0] ** 2])
        model = MultiOutputRegressor(Ridge()).fit(X, amounts)
        expected = r2_score(amounts, model.predict(X), multioutput="raw_values")
        assert_allclose(list(task_scores(model, X, amounts).values()), expected)

    def test_pipeline(self, data):
        X, Y = data
        model = make_pipeline(StandardScaler(), LinearTasks()).fit(X, Y)
        by_hand = LinearTasks().fit(StandardScaler().fit_transform(X), Y)
        assert task_scores(model, X, Y, BY_KIND) == pytest.approx(
            task_scores(by_hand, StandardScaler().fit_transform(X), Y, BY_KIND)
        )


class Constant(LinearTasks):
    """Predicts what it is told to."""

    def __init__(self, table=None, C=1.0):
        super().__init__(C)
        self.table = table

    def predict(self, X):
        table = np.asarray(self.table)[X[:, 0].astype(int)]
        return table[:, 0] if self._one_d else table


def told(labels, predicted, rows=None):
    """An estimator of one task that predicts so, and the rows; fitted on any labels."""
    n = len(labels)
    X = np.arange(n, dtype=float)[:, None] if rows is None else rows
    model = Constant(np.reshape(predicted, (n, 1)))
    return model.fit(np.arange(4.0)[:, None], np.array([0.0, 0.5, 1.0, 2.5])), X


def sample_of(labels, weights, classes=None):
    labels = np.asarray(labels)
    return _Sample("task0", 0, classes, np.ones(len(labels), dtype=bool), labels, weights)


class TestDefaultScores:
    """Accuracy and R2 without scikit-learn's checks are scikit-learn's, to the last bit."""

    @pytest.mark.parametrize("weighted", [False, True])
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_r2(self, weighted, dtype):
        rng = np.random.default_rng(0)
        for n in [2, 3, 7, 50, 200]:
            y = rng.normal(size=n) * 10 ** rng.uniform(-3, 6) + rng.normal() * 1e3
            predicted = (y + rng.normal(size=n) * y.std()).astype(dtype)
            w = rng.uniform(0.1, 3.0, size=n) if weighted else None
            expected = r2_score(y, predicted, sample_weight=w)
            assert _default_score(predicted, sample_of(y, w)) == expected
            assert _default_score(predicted[::-1], sample_of(y, w)) != expected
            if weighted:
                assert _default_score(predicted, sample_of(y, None)) != expected

    @pytest.mark.parametrize("weighted", [False, True])
    @pytest.mark.parametrize(
        "classes", [[0, 1, 2], ["a", "b", "c"], [False, True]], ids=["ints", "words", "bools"]
    )
    def test_accuracy(self, weighted, classes):
        rng = np.random.default_rng(0)
        classes = np.array(classes)
        for n in [2, 3, 50, 200]:
            y, predicted = rng.choice(classes, n), rng.choice(classes, n)
            y[0] = predicted[0]  # at least one hit
            w = rng.uniform(0.1, 3.0, size=n) if weighted else None
            found = _default_score(predicted, sample_of(y.astype(object), w, classes))
            assert found == accuracy_score(y, predicted, sample_weight=w)
            assert isinstance(found, float)
        assert found != accuracy_score(y, y)

    @pytest.mark.parametrize("value", [0.0, 7.0, 0.1, 1 / 3, 1e9 + 0.1])
    @pytest.mark.parametrize("weighted", [False, True])
    @pytest.mark.parametrize("off", [0.0, 1.0])
    def test_a_constant_target(self, value, weighted, off):
        """1 for those that meet it, 0 for others, unless rounding moves its mean."""
        for n in (2, 10, 37):
            y = np.full(n, value)
            w = np.random.default_rng(n).uniform(0.1, 3.0, size=n) if weighted else None
            expected = r2_score(y, y + off, sample_weight=w)
            assert _default_score(y + off, sample_of(y, w)) == expected
            assert expected == (off == 0) or value != 0.0

    def test_one_row(self):
        """Its accuracy is defined; its R2 is not, as for scikit-learn."""
        X, Y = make_data()
        fitted = LinearTasks().fit(X, Y)
        row = int(np.flatnonzero(Y.notna().all(axis=1))[0])
        alone = Y.copy()
        alone.loc[alone.index != row] = np.nan
        scores = task_scores(fitted, X, alone)
        hits = fitted.predict(X[[row]])[0] == Y.loc[row].to_numpy()
        assert scores == pytest.approx(
            {"buys": float(hits[0]), "size": float(hits[1]), "wage": np.nan}, nan_ok=True
        )
        with pytest.raises(ValueError, match="for which make_scorer"):
            task_scores(fitted, X, alone, undefined="raise")

    def test_they_are_what_the_scorers_of_these_names_give(self, data, fitted):
        """By the way that any other metric takes."""
        X, Y = data
        rng = np.random.default_rng(0)
        for weight in (None, rng.uniform(0.0, 2.0, len(X)), rng.uniform(0.5, 2.0, Y.shape)):
            named = {"classification": "accuracy", "regression": "r2"}
            default = task_scores(fitted, X, Y, sample_weight=weight)
            assert default == task_scores(fitted, X, Y, metric=named, sample_weight=weight)

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_predictions_that_are_no_numbers_are_refused(self, bad):
        """As scikit-learn refuses them, and as metric="r2" does."""
        y = np.arange(4.0)
        model, X = told(y, [0.0, bad, 2.0, 3.0])
        with pytest.raises(ValueError, match=r"contains (NaN|infinity)"):
            task_scores(model, X, y, metric="r2")
        with pytest.raises(ValueError, match=r"contains (NaN|infinity)"):
            task_scores(model, X, y)


class TestErrors:
    @pytest.mark.parametrize(
        ("metric", "message"),
        [
            ("roc_auk", "Did you mean 'roc_auc'"),
            ("r2", "'r2' for the classification task 'buys', expected a classification metric"),
            ({"buys": "r2"}, "classification task 'buys'"),
            ({"wage": "accuracy"}, "'accuracy' for the regression task 'wage'"),
            ({"size": "roc_auc"}, "with 3 classes.*Use 'roc_auc_ovr'"),
            ({"sice": "accuracy"}, "Did you mean 'size'"),
        ],
    )
    def test_metrics_that_do_not_fit(self, data, fitted, metric, message):
        with pytest.raises(ValueError, match=message):
            task_scores(fitted, *data, metric=metric)

    def test_scorers_check_their_arguments_when_made(self):
        with pytest.raises(ValueError, match="Did you mean 'roc_auc'"):
            make_task_scorer("roc_auk", task=0)
        with pytest.raises(ValueError, match="Did you mean 'accuracy'"):
            make_multi_task_scorer({"classification": "acuracy"})
        with pytest.raises(ValueError, match="undefined='nope'"):
            make_task_scorer("roc_auc", task=0, undefined="nope")
        with pytest.raises(TypeError, match="expected a metric"):
            make_multi_task_scorer(make_task_scorer("r2", task=0))
        with pytest.raises(TypeError, match="scorer name or a callable"):
            make_multi_task_scorer(3)
        with pytest.raises(ValueError, match="list of task names"):
            make_multi_task_scorer(average="buys")

    def test_unknown_task(self, data, fitted):
        with pytest.raises(ValueError, match="Did you mean 'buys'"):
            make_task_scorer("accuracy", task="buy")(fitted, *data)
        with pytest.raises(ValueError, match="Did you mean 'buys'"):
            make_multi_task_scorer(average=["buy"])(fitted, *data)

    def test_rows_must_match(self, data, fitted):
        X, Y = data
        with pytest.raises(ValueError, match="inconsistent numbers of samples"):
            task_scores(fitted, X, Y[1:])

    def test_a_task_named_mean(self, data):
        X, Y = data
        Y = Y.rename(columns={"buys": "mean"})
        model = LinearTasks().fit(X, Y)
        with pytest.raises(ValueError, match="task named 'mean'"):
            make_multi_task_scorer()(model, X, Y)
        assert "mean" in make_multi_task_scorer(average=False)(model, X, Y)


class TestWeights:
    def test_weights_of_rows_and_cells(self, data, fitted):
        """Independent reference: weighted accuracy by hand; a cell of weight 0 is a missing one."""
        X, Y = data
        cells = np.random.default_rng(1).integers(0, 3, size=Y.shape).astype(float)
        seen = Y["buys"].notna().to_numpy()
        hits = fitted.predict(X)[seen, 0] == Y["buys"][seen].to_numpy()
        scores = task_scores(fitted, X, Y, sample_weight=cells)
        assert_allclose(scores["buys"], np.average(hits, weights=cells[seen, 0]))
        by_row = task_scores(fitted, X, Y, sample_weight=cells[:, 0])
        assert by_row["buys"] == scores["buys"] and by_row["wage"] != scores["wage"]
        zero_one = (cells > 0).astype(float)
        gaps = Y.where(zero_one > 0, np.nan)
        assert task_scores(fitted, X, Y, sample_weight=zero_one) == pytest.approx(
            task_scores(fitted, X, gaps)
        )

    def test_a_frame_of_weights_is_aligned_by_name(self, data, fitted):
        X, Y = data
        cells = pd.DataFrame(np.random.default_rng(1).uniform(size=Y.shape), columns=Y.columns)
        assert task_scores(fitted, X, Y, sample_weight=cells[["wage", "buys", "size"]]) == (
            task_scores(fitted, X, Y, sample_weight=cells.to_numpy())
        )

    @pytest.mark.parametrize(
        ("weights", "message"),
        [
            (np.full(150, np.nan), "Got NaN or infinity in sample_weight"),
            (-np.ones(150), r"got -1\.0, expected weights >= 0"),
            (np.zeros((150, 3)), "zero in every row"),
            (np.ones(149), r"expected \(150,\) or \(150, 3\)"),
            (np.ones((150, 2)), r"expected \(150,\) or \(150, 3\)"),
        ],
    )
    def test_bad_weights(self, data, fitted, weights, message):
        with pytest.raises(ValueError, match=message):
            task_scores(fitted, *data, sample_weight=weights)

    def test_metrics_without_weights_go_without(self, data, fitted):
        X, Y = data
        metric = {"regression": "neg_max_error"}
        weights = np.arange(1.0, 151.0)
        assert (
            task_scores(fitted, X, Y, metric, weights)["wage"]
            == task_scores(fitted, X, Y, metric)["wage"]
        )
        assert not make_task_scorer("neg_max_error", task=0)._accept_sample_weight()
        assert make_task_scorer("r2", task=0)._accept_sample_weight()
        assert make_multi_task_scorer(metric={"wage": "neg_max_error"})._accept_sample_weight() is (
            False
        )


class TestUndefined:
    """Labels alone decide whether a score exists; no warning of scikit-learn's escapes."""

    @pytest.fixture
    def one_class(self, data):
        X, Y = data
        rows = (Y["buys"] == 0).to_numpy() & Y["wage"].notna().to_numpy()
        return X[rows], Y[rows]

    @pytest.mark.parametrize(
        "metric",
        [
            "roc_auc",
            "roc_auc_ovr",
            "average_precision",
            "balanced_accuracy",
            "matthews_corrcoef",
            "f1",
            "precision",
            "recall",
            "jaccard",
            *sorted({"d2_log_loss_score", "d2_brier_score"} & set(get_scorer_names())),
            "positive_likelihood_ratio",
            "neg_negative_likelihood_ratio",
        ],
    )
    def test_one_class(self, one_class, fitted, metric):
        X, Y = one_class
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            scores = make_multi_task_scorer({"buys": metric})(fitted, X, Y)
        assert np.isnan(scores["buys"])
        assert_allclose(scores["mean"], (scores["size"] + scores["wage"]) / 2)
        assert make_task_scorer(metric, task="buys", undefined=0.5)(fitted, X, Y) == 0.5
        with pytest.raises(ValueError, match=r"for task 'buys'.*MultiTaskStratifiedKFold"):
            make_task_scorer(metric, task="buys", undefined="raise")(fitted, X, Y)

    @pytest.mark.parametrize("metric", ["accuracy", "neg_log_loss", "neg_brier_score"])
    def test_one_class_is_enough_for_others(self, one_class, fitted, metric):
        """Negative control; scikit-learn's own neg_log_loss raises here."""
        X, Y = one_class
        score = make_task_scorer(metric, task="buys")(fitted, X, Y)
        P = fitted.models_[0].predict_proba(X)
        expected = {
            "accuracy": np.mean(P[:, 0] > 0.5),
            "neg_log_loss": np.mean(np.log(P[:, 0])),
            "neg_brier_score": -np.mean(P[:, 1] ** 2),
        }[metric]
        assert_allclose(score, expected)

    def test_a_class_missing_of_three(self, data, fitted):
        X, Y = data
        rows = Y["size"].isin(["s", "m"]).to_numpy()
        assert np.isnan(make_task_scorer("roc_auc_ovr", task="size")(fitted, X[rows], Y[rows]))
        loss = make_task_scorer("neg_log_loss", task="size")(fitted, X[rows], Y[rows])
        P = pd.DataFrame(fitted.models_[1].predict_proba(X[rows]), columns=["m", "s", "xl"])
        picked = [P.loc[i, label] for i, label in enumerate(Y["size"][rows])]
        assert_allclose(loss, np.mean(np.log(picked)))

    def test_a_class_that_the_estimator_never_saw(self, data):
        X, Y = data
        model = LinearTasks().fit(X, Y.assign(size=Y["size"].replace({"xl": np.nan})))
        assert np.isnan(make_task_scorer("neg_log_loss", task="size")(model, X, Y))
        assert make_task_scorer("accuracy", task="size")(model, X, Y) > 0.3

    def test_bad_predictions_are_scored_not_skipped(self, data):
        """A model that never predicts the positive class gets F1 = 0, not NaN."""
        X, Y = data

        class Never(LinearTasks):
            def predict(self, X):
                table = super().predict(X)
                table[:, 0] = 0
                return table

        model = Never().fit(X, Y)
        for metric in ("f1", "precision"):
            assert make_task_scorer(metric, task="buys")(model, X, Y) == 0.0

    def test_no_labels_and_one_row(self, data, fitted):
        X, Y = data
        row = Y["wage"].notna() & Y["buys"].isna()
        X, Y = X[row][:1], Y[row][:1]
        scores = task_scores(fitted, X, Y)
        assert np.isnan(scores["buys"]) and np.isnan(scores["wage"])
        assert np.isfinite(task_scores(fitted, X, Y, {"wage": "neg_mean_absolute_error"})["wage"])
        assert np.isnan(mean_score(fitted, X, Y.assign(size=np.nan)))

    def test_the_positive_class_counts_for_average_precision(self, data, fitted):
        X, Y = data
        rows = Y["buys"].notna().to_numpy()
        expected = average_precision_score(
            Y["buys"][rows].astype(int), fitted.models_[0].predict_proba(X[rows])[:, 1]
        )
        assert_allclose(make_task_scorer("average_precision", task=0)(fitted, X, Y), expected)


class TestScorersInScikitLearn:
    SCORERS = (
        make_task_scorer("roc_auc", task="buys"),
        make_multi_task_scorer(BY_KIND, average=["buys", "wage"], undefined=0.5),
    )

    @pytest.mark.parametrize("scorer", SCORERS, ids=["task", "multi"])
    def test_pickle_copy_clone_repr(self, data, fitted, scorer):
        expected = scorer(fitted, *data)
        copies = [
            pickle.loads(pickle.dumps(scorer)),
            deepcopy(scorer),
            clone(GridSearchCV(LinearTasks(), {}, scoring=scorer)).scoring,
        ]
        for copy in copies:
            assert copy(fitted, *data) == expected
            assert repr(copy) == repr(scorer)

    def test_repr(self):
        assert repr(self.SCORERS[0]) == "make_task_scorer('roc_auc', task='buys')"
        assert repr(self.SCORERS[1]) == (
            "make_multi_task_scorer({'classification': 'roc_auc_ovr', 'regression': 'r2'}, "
            "average=['buys', 'wage'], undefined=0.5)"
        )
        assert repr(make_task_scorer(f1_score, task=1)) == "make_task_scorer(f1_score, task=1)"
        assert repr(make_multi_task_scorer()) == "make_multi_task_scorer(None)"

    @pytest.mark.parametrize("n_jobs", [1, 2])
    def test_cross_validate_names_every_task(self, data, n_jobs):
        X, Y = data
        results = cross_validate(
            LinearTasks(), X, Y, cv=KFold(3), scoring=make_multi_task_scorer(), n_jobs=n_jobs
        )
        assert {k for k in results if k.startswith("test_")} == {
            "test_buys",
            "test_size",
            "test_wage",
            "test_mean",
        }
        train, test = next(KFold(3).split(X))
        model = LinearTasks().fit(X[train], Y.iloc[train])
        assert results["test_mean"][0] == mean_score(model, X[test], Y.iloc[test])

    def test_a_dict_of_task_scorers(self, data):
        scoring = {
            "auc": make_task_scorer("roc_auc", task="buys"),
            "mean": make_task_scorer(task=2),
        }
        results = cross_validate(LinearTasks(), *data, cv=KFold(3), scoring=scoring)
        assert np.isfinite(results["test_auc"]).all() and np.isfinite(results["test_mean"]).all()

    @pytest.mark.parametrize("refit", ["mean", "buys"])
    def test_grid_search_selects_by_the_mean_or_by_a_task(self, data, refit):
        X, Y = data
        search = GridSearchCV(
            LinearTasks(),
            {"C": [1e-4, 1.0]},
            cv=KFold(3),
            scoring=make_multi_task_scorer({"classification": "neg_log_loss"}),
            refit=refit,
            n_jobs=2,
        ).fit(X, Y, sample_weight=np.ones(len(X)))
        assert search.best_params_ == {"C": 1.0}
        by_task = search.cv_results_["mean_test_buys"]
        assert by_task[1] > by_task[0]
        assert task_scores(search, X, Y) == task_scores(search.best_estimator_, X, Y)

    def test_weights_reach_the_scorers_of_a_search(self, data):
        """Weights that hide task ``buys`` in the test folds leave its score undefined."""
        X, Y = data
        cells = np.ones(Y.shape)
        cells[100:, 0] = 0.0
        scoring = {"buys": make_task_scorer(task="buys"), "wage": make_task_scorer(task="wage")}
        folds = [(np.arange(100), np.arange(100, 150))]
        search = GridSearchCV(LinearTasks(), {"C": [1.0]}, cv=folds, scoring=scoring, refit=False)
        with pytest.warns(UserWarning, match="non-finite"):
            search.fit(X, Y, sample_weight=cells)
        assert np.isnan(search.cv_results_["mean_test_buys"][0])
        assert np.isfinite(search.cv_results_["mean_test_wage"][0])

    def test_metadata_routing(self, data):
        X, Y = data
        weights = np.where(np.arange(150) % 2, 5.0, 0.01)
        with config_context(enable_metadata_routing=True):
            estimator = LinearTasks().set_fit_request(sample_weight=False)
            plain = make_multi_task_scorer().set_score_request(sample_weight=False)
            asking = make_multi_task_scorer().set_score_request(sample_weight=True)
            options = {"cv": KFold(3), "params": {"sample_weight": weights}}
            without = cross_validate(estimator, X, Y, scoring=plain, cv=KFold(3))
            routed = cross_validate(estimator, X, Y, scoring=asking, **options)
            single = make_task_scorer("roc_auc", task=0).set_score_request(sample_weight="weights")
            with pytest.raises(UnsetMetadataPassedError, match="make_multi_task_scorer"):
                cross_validate(estimator, X, Y, scoring=make_multi_task_scorer(), **options)
            score = cross_val_score(
                estimator, X, Y, scoring=single, cv=KFold(3), params={"weights": weights}
            )
        with pytest.raises(RuntimeError, match="enable_metadata_routing=True"):
            make_multi_task_scorer().set_score_request(sample_weight=True)
        train, test = next(KFold(3).split(X))
        model = LinearTasks().fit(X[train], Y.iloc[train])
        part = (model, X[test], Y.iloc[test])
        assert_allclose(routed["test_mean"][0], mean_score(*part, sample_weight=weights[test]))
        assert_allclose(without["test_mean"][0], mean_score(*part))
        assert_allclose(
            score[0], make_task_scorer("roc_auc", task=0)(*part, sample_weight=weights[test])
        )
        assert routed["test_mean"][0] != without["test_mean"][0]

    def test_tools_that_want_one_number(self, data):
        X, Y = data
        scorer = make_task_scorer("neg_log_loss", task="buys")
        halving = HalvingGridSearchCV(
            LinearTasks(), {"C": [1e-4, 1.0]}, cv=KFold(3), scoring=scorer, min_resources=60
        ).fit(X, Y)
        assert halving.best_params_ == {"C": 1.0}
        _, _, test = learning_curve(LinearTasks(), X, Y, cv=KFold(3), scoring=scorer)
        assert np.isfinite(test).all()
        model = LinearTasks().fit(X, Y)
        importance = permutation_importance(
            model, X, Y, scoring=scorer, n_repeats=3, random_state=0, sample_weight=np.ones(150)
        )
        assert importance.importances_mean.argmax() == 0

    def test_permutation_importance_of_several_tasks(self, data, fitted):
        X, Y = data
        scoring = {name: make_task_scorer(task=name) for name in Y}
        found = permutation_importance(
            fitted, X, Y, scoring=scoring, n_repeats=3, random_state=0, sample_weight=np.ones(150)
        )
        assert [found[name].importances_mean.argmax() for name in Y] == [0, 1, 2]

    def test_a_classifier_with_any_tags(self, data):
        """The whole estimator through make_scorer fails; a view of one task does not."""
        X, Y = data
        Y = Y[["buys", "size"]]
        model = LinearClassifiers().fit(X, Y)
        rows = Y.notna().all(axis=1)
        with pytest.raises((ValueError, TypeError)):
            make_scorer(accuracy_score)(model, X[rows], Y[rows])
        alone = LogisticRegression().fit(X[Y["buys"].notna()], Y["buys"].dropna().astype(int))
        assert_allclose(
            make_task_scorer("roc_auc", task=0)(model, X[rows], Y[rows]),
            roc_auc_score(Y["buys"][rows], alone.predict_proba(X[rows])[:, 1]),
        )


class TestOurEstimators:
    @staticmethod
    def network(**options):
        kinds = {"buys": "classification", "size": "classification", "wage": "regression"}
        return plain(
            MultiTaskEstimator,
            tasks=kinds,
            hidden_layer_sizes=(4,),
            max_iter=200,
            tol=1.0,
            random_state=0,
            **options,
        )

    def test_mean_score_is_the_estimators_own_score(self, data):
        X, Y = data
        cells = np.random.default_rng(0).integers(0, 3, size=Y.shape)
        model = self.network().fit(X, Y)
        assert_allclose(mean_score(model, X, Y), model.score(X, Y))
        assert_allclose(
            mean_score(model, X, Y[["wage", "buys", "size"]], sample_weight=cells),
            model.score(X, Y, sample_weight=cells),
        )

    def test_single_task_labels(self, data):
        X, Y = data
        model = plain(MultiTaskClassifier, hidden_layer_sizes=(4,), tol=1.0, random_state=0)
        model.fit(X, Y["buys"])
        assert_allclose(task_scores(model, X, Y["buys"])["task0"], model.score(X, Y["buys"]))

    def test_search_over_task_weights_by_every_task(self, data):
        """A heavy weight on a task is found to be best for that task's own score."""
        X, Y = data
        model = make_pipeline(StandardScaler(), self.network())
        weights = [(1.0, 1.0, 0.0), (1.0, 1.0, 50.0)]
        search = GridSearchCV(
            model,
            {"multitaskestimator__task_weights": weights},
            cv=MultiTaskStratifiedKFold(2, random_state=0),
            scoring=make_multi_task_scorer(BY_KIND),
            refit="wage",
            n_jobs=2,
        ).fit(X, Y)
        results = search.cv_results_
        assert {"mean_test_buys", "mean_test_size", "mean_test_wage", "mean_test_mean"} <= set(
            results
        )
        assert search.best_params_ == {"multitaskestimator__task_weights": weights[1]}
        assert list(task_scores(search, X, Y)) == ["buys", "size", "wage"]
