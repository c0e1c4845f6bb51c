"""A view of one task behaves as a single-task estimator of that task alone."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
from fakes import LinearClassifiers, LinearTasks
from numpy.testing import assert_allclose, assert_array_equal
from plain import plain
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor, VotingClassifier
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.inspection import partial_dependence, permutation_importance
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import (
    FixedThresholdClassifier,
    GridSearchCV,
    KFold,
    TunedThresholdClassifierCV,
    cross_val_score,
)
from sklearn.multioutput import MultiOutputRegressor
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import get_tags
from sklearn.utils.validation import check_is_fitted

from sk_mtl.estimators import MultiTaskClassifier, MultiTaskEstimator, MultiTaskRegressor
from sk_mtl.views import TaskView


@pytest.fixture(scope="module")
def data():
    """Three tasks: integer classes with gaps, three classes as strings, an amount."""
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(120, 3)), columns=["a", "b", "c"])
    noise = rng.normal(size=(120, 3)) * 0.3
    buys = (X["a"] + noise[:, 0] > 0).astype(float)
    buys[::4] = np.nan
    size = pd.cut(X["b"] + noise[:, 1], [-9, -0.5, 0.5, 9], labels=["s", "m", "xl"]).astype(object)
    return X, pd.DataFrame({"buys": buys, "size": size, "wage": X["c"] * 2 + noise[:, 2]})


@pytest.fixture(scope="module")
def fitted(data):
    X, Y = data
    return LinearTasks().fit(X, Y)


class TestOneTask:
    def test_a_classification_view_is_a_classifier_of_that_task_alone(self, data, fitted):
        """Independent reference: the single-task model fitted on the task's labelled rows."""
        X, Y = data
        view = TaskView(fitted, "buys")
        rows = Y["buys"].notna()
        alone = LogisticRegression().fit(X[rows], Y["buys"][rows].astype(int))
        assert is_classifier(view) and not is_regressor(view)
        assert_array_equal(view.classes_, [0, 1])
        assert_array_equal(view.predict(X), alone.predict(X))
        assert view.predict(X).dtype == alone.predict(X).dtype
        assert_allclose(view.predict_proba(X), alone.predict_proba(X))
        assert_allclose(view.predict_log_proba(X), alone.predict_log_proba(X))
        assert view.score(X[rows], Y["buys"][rows]) == alone.score(X[rows], Y["buys"][rows])

    def test_string_classes_come_out_of_a_mixed_table_as_they_were(self, data, fitted):
        X, _ = data
        view = TaskView(fitted, 1)
        assert_array_equal(view.classes_, ["m", "s", "xl"])
        assert_array_equal(view.predict(X), view.classes_[view.predict_proba(X).argmax(axis=1)])

    def test_a_regression_view_is_a_regressor_without_probabilities(self, data, fitted):
        X, Y = data
        view = TaskView(fitted, "wage")
        assert is_regressor(view) and not is_classifier(view)
        assert view.predict(X).dtype == np.float64 and view.predict(X).shape == (120,)
        assert not hasattr(view, "predict_proba") and not hasattr(view, "classes_")
        assert view.score(X, Y["wage"]) > 0.9

    def test_tasks_are_not_mixed_up(self, data, fitted):
        """Negative control: the score falls where the view shows another task."""
        X, Y = data
        rows = Y["buys"].notna()
        labels = Y["buys"][rows].astype(int)
        other = pd.Series(TaskView(fitted, "size").predict(X[rows])).map({"m": 0, "s": 0, "xl": 1})
        assert (
            TaskView(fitted, "buys").score(X[rows], labels)
            > 0.85
            > np.mean(other.to_numpy() == labels)
        )

    def test_one_dimensional_fit(self, data):
        X, Y = data
        view = TaskView(LinearTasks().fit(X, Y["size"]), 0)
        assert view.task_name_ == "task0"
        assert_array_equal(view.classes_, ["m", "s", "xl"])
        assert view.predict_proba(X).shape == (120, 3)

    def test_scikit_learns_own_multi_output_estimators(self, data):
        X, Y = data
        labels = Y[["size"]].assign(up=Y["wage"] > 0).to_numpy(dtype=str)
        forest = RandomForestClassifier(n_estimators=3, random_state=0).fit(X, labels)
        view = TaskView(forest, "task1")
        assert_array_equal(view.predict_proba(X), forest.predict_proba(X)[1])
        amounts = np.column_stack([Y["wage"], -Y["wage"]])
        for regressor in (RandomForestRegressor(3), Ridge(), MultiOutputRegressor(Ridge())):
            view = TaskView(regressor.fit(X, amounts), 1)
            assert is_regressor(view)
            assert_array_equal(view.predict(X), regressor.predict(X)[:, 1])


class TestScikitLearnContract:
    def test_fitted_state_and_features_are_forwarded(self, data, fitted):
        view = TaskView(fitted, "buys")
        check_is_fitted(view)
        assert view.n_features_in_ == 3
        assert_array_equal(view.feature_names_in_, ["a", "b", "c"])
        assert get_tags(view).input_tags == get_tags(fitted).input_tags
        assert not get_tags(view).target_tags.multi_output

    def test_an_unfitted_estimator_has_no_views_to_show(self, data):
        view = TaskView(LinearTasks(), "buys")
        with pytest.raises(NotFittedError):
            check_is_fitted(view)
        with pytest.raises(NotFittedError):
            view.predict(data[0])
        assert not hasattr(view, "predict_proba")

    def test_parameters_repr_pickle_and_clone(self, data, fitted):
        view = TaskView(fitted, "buys")
        assert repr(view) == "TaskView(estimator=LinearTasks(), task='buys')"
        assert view.get_params(deep=False) == {"estimator": fitted, "task": "buys"}
        again = pickle.loads(pickle.dumps(view))
        assert_array_equal(again.predict(data[0]), view.predict(data[0]))
        assert "TaskView" in view._repr_html_()
        copy = clone(view)
        assert copy.task == "buys"
        with pytest.raises(NotFittedError):
            check_is_fitted(copy)

    @pytest.mark.parametrize(
        ("task", "error", "message"),
        [
            ("buy", ValueError, "Did you mean 'buys'"),
            (3, ValueError, "from 0 to 2"),
            (-1, ValueError, "from 0 to 2"),
            (True, TypeError, "name or position"),
            (0.5, TypeError, "name or position"),
        ],
    )
    def test_an_unknown_task_is_named(self, data, fitted, task, error, message):
        with pytest.raises(error, match=message):
            TaskView(fitted, task).predict(data[0])

    def test_predictions_of_another_width_are_refused(self, data):
        """Neighbours do not tell how many targets they have; column 0 would be a guess."""
        X, Y = data
        model = KNeighborsRegressor().fit(X, np.column_stack([Y["wage"], -Y["wage"]]))
        with pytest.raises(ValueError, match="expected one column for each of"):
            TaskView(model, 0).predict(X)


class TestUnwrapping:
    def test_pipeline_and_search(self, data, fitted):
        X, Y = data
        pipeline = make_pipeline(StandardScaler(), LinearTasks())
        search = GridSearchCV(
            pipeline, {"lineartasks__C": [0.1, 1.0]}, cv=KFold(2), scoring=lambda *_: 1.0
        )
        nested = make_pipeline(StandardScaler().set_output(transform="pandas"), search).fit(X, Y)
        for estimator in (pipeline.fit(X, Y), search.fit(X, Y), nested, FrozenEstimator(fitted)):
            view = TaskView(estimator, "size")
            assert_array_equal(view.classes_, ["m", "s", "xl"])
            assert_array_equal(view.predict_proba(X), estimator.predict_proba(X)[1])


class TestToolsThatWantOneTarget:
    """Each tool refuses the multi-task estimator and takes the view."""

    @pytest.fixture
    def task(self, data, fitted):
        X, Y = data
        rows = Y["buys"].notna()
        return X[rows], Y["buys"][rows].astype(int), TaskView(fitted, "buys")

    def test_the_estimator_itself_is_refused(self, data, fitted):
        """Negative control: why views exist."""
        X, Y = data
        with pytest.raises((ValueError, TypeError)):
            CalibratedClassifierCV(FrozenEstimator(fitted)).fit(X, Y)

    def test_fit_says_what_to_do_instead_of_leaking(self, task):
        """A fit that did nothing would score training rows in cross-validation."""
        X, y, view = task
        with pytest.raises(NotImplementedError, match="FrozenEstimator"):
            view.fit(X, y)
        with pytest.raises(NotImplementedError, match="make_task_scorer"):
            cross_val_score(view, X, y, error_score="raise")

    def test_frozen_estimator(self, task):
        X, y, view = task
        frozen = FrozenEstimator(view).fit(X, y)
        assert is_classifier(frozen)
        assert_array_equal(clone(frozen).predict(X), view.predict(X))

    def test_calibration(self, task):
        X, y, view = task
        calibrated = CalibratedClassifierCV(FrozenEstimator(view)).fit(X, y)
        assert calibrated.predict_proba(X).shape == (len(X), 2)
        assert calibrated.score(X, y) > 0.8

    def test_thresholds(self, task):
        X, y, view = task
        tuned = TunedThresholdClassifierCV(view, cv="prefit", refit=False).fit(X, y)
        frozen = TunedThresholdClassifierCV(FrozenEstimator(view)).fit(X, y)
        assert 0 < tuned.best_threshold_ < 1 and 0 < frozen.best_threshold_ < 1
        fixed = FixedThresholdClassifier(FrozenEstimator(view), threshold=0.9).fit(X, y)
        assert fixed.predict(X).sum() < view.predict(X).sum()

    def test_voting(self, task):
        X, y, view = task
        names = [("linear", FrozenEstimator(view)), ("again", FrozenEstimator(view))]
        vote = VotingClassifier(names, voting="soft").fit(X, y)
        assert_allclose(vote.predict_proba(X), view.predict_proba(X))

    def test_permutation_importance(self, task):
        X, y, view = task
        importance = permutation_importance(
            view, X, y, scoring="roc_auc", n_repeats=3, random_state=0
        )
        assert importance.importances_mean.argmax() == 0  # column "a" makes the labels

    def test_partial_dependence(self, data, task, fitted):
        X, _, view = task
        assert partial_dependence(view, X, ["a"])["average"].shape[0] == 1
        of_class = partial_dependence(TaskView(fitted, "size"), X, ["b"])["average"]
        assert of_class.shape[0] == 3
        assert partial_dependence(TaskView(fitted, "wage"), X, ["c"])["average"].shape[0] == 1

    def test_displays(self, task, fitted):
        plt = pytest.importorskip("matplotlib.pyplot")
        from sklearn.calibration import CalibrationDisplay
        from sklearn.inspection import PartialDependenceDisplay
        from sklearn.metrics import (
            ConfusionMatrixDisplay,
            PrecisionRecallDisplay,
            RocCurveDisplay,
        )

        X, y, view = task
        plt.switch_backend("Agg")
        roc = RocCurveDisplay.from_estimator(view, X, y)
        assert np.max(roc.roc_auc) > 0.9
        for display in (PrecisionRecallDisplay, ConfusionMatrixDisplay, CalibrationDisplay):
            display.from_estimator(view, X, y)
        PartialDependenceDisplay.from_estimator(TaskView(fitted, "size"), X, ["b"], target="xl")
        plt.close("all")


def test_a_view_of_a_classifier_tagged_estimator(data):
    X, Y = data
    view = TaskView(LinearClassifiers().fit(X, Y[["buys", "size"]]), "size")
    assert is_classifier(view) and get_tags(view).classifier_tags.multi_class


class TestOurEstimators:
    @pytest.fixture(scope="class")
    @classmethod
    def network(cls, data):
        X, Y = data
        return make_pipeline(
            StandardScaler(),
            plain(
                MultiTaskEstimator,
                tasks={"buys": "classification", "size": "classification", "wage": "regression"},
                hidden_layer_sizes=(8,),
                learning_rate_init=0.02,
                max_iter=400,
                tol=1e-2,
                random_state=0,
            ),
        ).fit(X, Y)

    def test_views_show_what_the_network_predicts(self, data, network):
        X, _ = data
        table, proba = network.predict(X), network.predict_proba(X)
        for t, name in enumerate(["buys", "size"]):
            view = TaskView(network, name)
            assert is_classifier(view)
            assert_array_equal(view.predict(X), table[:, t].astype(view.classes_.dtype))
            assert_array_equal(view.predict_proba(X), proba[t])
        wage = TaskView(network, "wage")
        assert is_regressor(wage) and not hasattr(wage, "predict_proba")
        assert_array_equal(wage.predict(X), table[:, 2].astype(float))

    def test_calibration_and_thresholds(self, data, network):
        X, Y = data
        rows = Y["buys"].notna()
        X, y = X[rows], Y["buys"][rows].astype(int)
        view = TaskView(network, "buys")
        assert CalibratedClassifierCV(FrozenEstimator(view)).fit(X, y).score(X, y) > 0.8
        tuned = TunedThresholdClassifierCV(view, cv="prefit", refit=False).fit(X, y)
        assert tuned.score(X, y) > 0.8

    def test_every_estimator(self, data):
        X, Y = data
        small = {"hidden_layer_sizes": (4,), "max_iter": 300, "tol": 1.0, "random_state": 0}
        classifier = plain(MultiTaskClassifier, **small).fit(X, Y[["buys", "size"]])
        assert TaskView(classifier, "size").predict_proba(X).shape == (120, 3)
        alone = plain(MultiTaskClassifier, **small).fit(X, Y["size"])
        assert_array_equal(TaskView(alone, 0).predict(X), alone.predict(X))
        regressor = plain(MultiTaskRegressor, **small).fit(X, Y[["wage"]].assign(other=-Y["wage"]))
        assert is_regressor(TaskView(regressor, "other"))
        assert_array_equal(TaskView(regressor, 1).predict(X), regressor.predict(X)[:, 1])
