"""A search is scikit-learn's search, in pipelines, with routing, inside others."""

from __future__ import annotations

import inspect
import pickle

import numpy as np
import pandas as pd
import pytest
import sklearn
from joblib import parallel_config
from numpy.testing import assert_allclose, assert_array_equal
from searches import (
    AMOUNTS,
    CLASSES,
    FOLDS,
    GRID,
    PIPE_GRID,
    WEIGHT,
    N,
    X,
    Y,
    assert_same_search,
    check_equal,
    classifier,
    fitted_names,
    grid_search,
    loop,
    mixed,
    pipe,
    refit_fails,
    regressor,
    some_fail,
)
from sklearn.base import BaseEstimator, TransformerMixin, clone, is_classifier, is_regressor
from sklearn.exceptions import UnsetMetadataPassedError
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    HalvingGridSearchCV,
    KFold,
    RandomizedSearchCV,
    cross_val_predict,
    cross_val_score,
    cross_validate,
)
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler, StandardScaler
from sklearn.utils._param_validation import InvalidParameterError
from sklearn.utils.estimator_checks import check_estimator

import sk_mtl.model_selection as own
from sk_mtl import VectorizedGridSearchCV, VectorizedRandomizedSearchCV
from sk_mtl.metrics import make_multi_task_scorer, make_task_scorer
from sk_mtl.model_selection import Knee

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


# It is scikit-learn's search ------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"refit": False},
        {"scoring": make_multi_task_scorer(), "refit": "mean"},
        {"scoring": make_multi_task_scorer(), "refit": False},
        {"refit": lambda results: 0},
    ],
    ids=["plain", "no refit", "several scores", "several scores, no refit", "refit by a rule"],
)
def test_attributes_are_those_of_scikit_learn_and_four_more(options):
    frame = pd.DataFrame(X, columns=list("abcd"))
    ours, theirs = check_equal(mixed(), GRID, frame, Y, **options)
    assert fitted_names(ours) - fitted_names(theirs) == {
        "task_names_", "task_scores_", "pareto_front_", "search_report_",
    }  # fmt: skip
    assert fitted_names(theirs) <= fitted_names(ours)
    if theirs.refit:
        assert ours.n_features_in_ == 4
        assert ours.feature_names_in_.tolist() == list("abcd")
        assert_array_equal(ours.classes_[0], [0, 1])


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (VectorizedGridSearchCV, GridSearchCV),
        (VectorizedRandomizedSearchCV, RandomizedSearchCV),
        (own.VectorizedHalvingGridSearchCV, HalvingGridSearchCV),
    ],
)
def test_the_signature_is_scikit_learns_and_max_stack(ours, theirs):
    assert issubclass(ours, theirs)
    taken, known = (inspect.signature(cls).parameters for cls in (ours, theirs))
    assert set(taken) - set(known) == {"max_stack"}
    for name, parameter in known.items():
        assert taken[name].kind == parameter.kind
        assert str(taken[name].default) == str(parameter.default)


def test_methods_are_those_of_the_best_estimator():
    search = grid_search(mixed(), GRID)
    best = search.best_estimator_
    assert_array_equal(search.predict(X), best.predict(X))
    assert_array_equal(search.predict_proba(X)[0], best.predict_proba(X)[0])
    assert_array_equal(search.predict_log_proba(X)[0], best.predict_log_proba(X)[0])
    assert_array_equal(search.transform(X), best.transform(X))
    assert search.score(X, Y) == best.score(X, Y)
    assert_array_equal(best.predict(X), mixed(**search.best_params_).fit(X, Y).predict(X))


def test_without_refit_it_does_not_predict():
    search = grid_search(mixed(), GRID, refit=False)
    with pytest.raises(AttributeError, match="has no attribute 'predict'"):
        search.predict(X)
    with pytest.raises(AttributeError):
        _ = search.best_estimator_
    assert search.best_index_ == loop(mixed(), GRID, refit=False).best_index_


def test_pickle_clone_and_set_params():
    search = grid_search(pipe(), PIPE_GRID, refit=Knee())
    read = pickle.loads(pickle.dumps(search))
    assert_array_equal(read.predict(X), search.predict(X))
    assert_array_equal(read.task_scores_, search.task_scores_)
    assert read.search_report_ == search.search_report_
    fresh = clone(search).set_params(estimator__mtl__max_iter=2, max_stack=3)
    assert not hasattr(fresh, "cv_results_")
    assert fresh.fit(X, Y).best_estimator_["mtl"].n_iter_ == 2
    assert search.get_params()["estimator__mtl__max_iter"] == 5


def test_text_and_html():
    search = VectorizedGridSearchCV(regressor(), {"alpha": [0, 1]}, max_stack=3)
    assert repr(search).startswith("VectorizedGridSearchCV(estimator=MultiTaskRegressor(")
    assert "max_stack=3" in repr(search)
    html = search._repr_html_()
    assert "VectorizedGridSearchCV" in html
    assert "MultiTaskRegressor" in html
    assert "best_estimator_" in grid_search(regressor(), {}, X, AMOUNTS)._repr_html_()


def test_it_passes_for_its_estimator():
    assert is_classifier(VectorizedGridSearchCV(classifier(), {}))
    assert is_regressor(VectorizedGridSearchCV(make_pipeline(StandardScaler(), regressor()), {}))
    assert not is_regressor(VectorizedGridSearchCV(mixed(), {}))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@pytest.mark.filterwarnings("ignore:invalid value encountered in cast:RuntimeWarning")
@pytest.mark.parametrize(
    "search",
    [
        VectorizedGridSearchCV(LogisticRegression(), {"C": [0.1, 1.0]}, cv=2, error_score="raise"),
        VectorizedRandomizedSearchCV(
            Ridge(), {"alpha": [0.1, 1.0]}, n_iter=2, cv=2, error_score="raise", random_state=0
        ),
    ],
)
def test_scikit_learns_checks_of_estimators(search):
    """scikit-learn's own searches are run through these, with the same exception."""
    swallowed = {"check_supervised_y_2d": "a search does not pass on DataConversionWarning"}
    check_estimator(search, expected_failed_checks=swallowed, on_skip=None)


# Tests that scikit-learn holds its searches to, and that ask for nothing we do differently: how
# verbose reports look, that callbacks hear of every fit, and that `_run_search` may be replaced.
THEIR_TESTS = [
    "SearchCV_with_fit_params",
    "X_as_list",
    "callable_multimetric_clf_all_fits_fail",
    "callable_multimetric_confusion_matrix",
    "callable_multimetric_error_failing_clf",
    "callable_multimetric_error_on_invalid_key",
    "callable_multimetric_same_as_list_of_strings",
    "callable_single_metric_same_as_single_string",
    "classes__property",
    "cv_results_dtype_issue_29074",
    "cv_results_multi_size_array",
    "empty_cv_iterator_error",
    "grid_search_bad_param_grid",
    "grid_search_classifier_all_fits_fail",
    "grid_search_correct_score_results",
    "grid_search_cv_results",
    "grid_search_cv_results_multimetric",
    "grid_search_cv_splits_consistency",
    "grid_search_error",
    "grid_search_failing_classifier",
    "grid_search_failing_classifier_raise",
    "grid_search_groups",
    "grid_search_no_score",
    "grid_search_one_grid_point",
    "grid_search_pipeline_steps",
    "grid_search_precomputed_kernel",
    "grid_search_score_method",
    "grid_search_with_multioutput_data",
    "gridsearch_nd",
    "gridsearch_no_predict",
    "n_features_in",
    "pandas_input",
    "predict_proba_disabled",
    "random_search_cv_results",
    "random_search_cv_results_multimetric",
    "refit",
    "refit_callable",
    "refit_callable_invalid_type",
    "refit_callable_multi_metric",
    "search_cv_results_none_param",
    "search_cv_results_rank_tie_breaking",
    "search_cv_timing",
    "search_html_repr",
    "search_train_scores_set_to_false",
    "search_with_estimators_issue_29157",
    "stochastic_gradient_loss_param",
    "trivial_cv_results_attr",
    "unsupervised_grid_search",
    "unsupported_sample_weight_scorer",
    "y_as_list",
]

OF_PARAMETERS = {  # what pytest would fill in
    "SearchCV_with_fit_params": {"SearchCV": VectorizedGridSearchCV},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", THEIR_TESTS)
def test_scikit_learns_tests_of_its_searches(name, monkeypatch, pytestconfig):
    for marker in ("thread_unsafe", "parallel_threads_limit"):  # its own, which we are strict about
        pytestconfig.addinivalue_line("markers", marker)
    theirs = pytest.importorskip("sklearn.model_selection.tests.test_search")
    test = getattr(theirs, f"test_{name}", None)
    if test is None:
        pytest.skip("this scikit-learn has no such test")
    monkeypatch.setattr(theirs, "GridSearchCV", VectorizedGridSearchCV)
    monkeypatch.setattr(theirs, "RandomizedSearchCV", VectorizedRandomizedSearchCV)
    test(**OF_PARAMETERS.get(name, {}))


# Pipelines ------------------------------------------------------------------------------------


class Counting(TransformerMixin, BaseEstimator):
    """Scales rows, and counts how often it was fitted and how many rows it transformed."""

    n_fits = n_transformed = 0

    def __init__(self, factor=1.0):
        self.factor = factor

    def fit(self, X, y=None):
        Counting.n_fits += 1
        self.fitted_ = True
        return self

    def transform(self, X):
        Counting.n_transformed += len(X)
        return np.asarray(X) * self.factor


@pytest.fixture
def counted():
    Counting.n_fits = Counting.n_transformed = 0
    return Counting


@pytest.mark.parametrize("max_stack", ["auto", 1, 3])
def test_steps_are_fitted_once_a_fold_and_once_to_refit(counted, max_stack):
    grid_search(pipe(Counting()), PIPE_GRID, max_stack=max_stack)
    assert counted.n_fits == 3 + 1
    assert counted.n_transformed == 3 * N + N  # training and test rows of three folds
    counted.n_fits = 0
    grid_search(pipe(Counting()), PIPE_GRID | {"scale__factor": [0.5, 1.0, 2.0]}, refit=False)
    assert counted.n_fits == 3 * 3  # not once a candidate, of which there are 12
    counted.n_fits = 0
    loop(pipe(Counting()), PIPE_GRID, refit=False)
    assert counted.n_fits == 3 * 4  # negative control


def test_steps_are_fitted_once_for_two_workers(counted):
    with parallel_config("threading"):
        grid_search(pipe(Counting()), PIPE_GRID, n_jobs=2, max_stack=2, refit=False)
    assert counted.n_fits == 3


PIPES = {
    "task weights": (pipe(), {"mtl__task_weights": [[1, 2, 3], None, {"task1": 2}]}),
    "parameters of steps": (pipe(), PIPE_GRID | {"scale__with_mean": [True, False]}),
    "steps": (pipe(), {"scale": ["passthrough", MinMaxScaler()], "mtl__alpha": [0, 1]}),
    "no steps before": (Pipeline([("mtl", mixed())]), PIPE_GRID),
    "passthrough before": (Pipeline([("scale", "passthrough"), ("mtl", mixed())]), PIPE_GRID),
    "a function": (pipe(FunctionTransformer(lambda x: 2 * x)), PIPE_GRID),
    "frames between": (pipe().set_output(transform="pandas"), PIPE_GRID),
    "the estimator": (pipe(), {"mtl": [mixed(), mixed(trunk="mmoe")], "mtl__alpha": [0, 1]}),
    "all steps": (pipe(), {"steps": [pipe().steps, [("mtl", mixed(alpha=1))]]}),
    "two networks": (
        make_pipeline(mixed(), StandardScaler(), mixed()),
        {"multitaskestimator-1__alpha": [0, 1], "multitaskestimator-2__alpha": [0, 1]},
    ),
}


@pytest.mark.parametrize("name", PIPES)
def test_pipelines(name):
    model, grid = PIPES[name]
    labels = np.column_stack([CLASSES[:, 0], AMOUNTS[:, 1:]])
    ours, _ = check_equal(model, grid, X, labels, return_train_score=True)
    assert isinstance(ours.best_estimator_, Pipeline)


def test_a_pipeline_that_remembers(tmp_path):
    check_equal(pipe().set_params(memory=str(tmp_path)), PIPE_GRID)


def test_a_pipeline_within_is_searched_one_by_one():
    model = Pipeline([("scale", StandardScaler()), ("mtl", make_pipeline(MinMaxScaler(), mixed()))])
    grid = {"mtl__multitaskestimator__alpha": [0, 1]}
    ours, _ = check_equal(model, grid, trained="alone")
    assert ours.search_report_["reason"][0].startswith("Pipeline is no multi-task estimator")


def test_frames_reach_the_steps_and_the_scorer_as_they_are():
    """A scorer of the user's own is given the whole pipeline and the rows before its steps."""
    seen = []

    def scorer(model, X, y):
        seen.append((type(model), type(X), list(X.columns), list(y.columns), len(X)))
        return model.score(X, y)

    frame = pd.DataFrame(X, columns=list("abcd"))
    labels = pd.DataFrame(Y, columns=["buys", "spends", "owes"])
    grid = {"mtl__task_weights": [{"buys": 2}, {"owes": 0}]}
    ours, _ = check_equal(pipe(), grid, frame, labels, scoring=scorer, return_train_score=True)
    of_ours = seen[: len(seen) // 2]
    names = ["buys", "spends", "owes"]
    assert {s[:2] for s in of_ours} == {(Pipeline, pd.DataFrame)}
    assert all(s[2:4] == (list("abcd"), names) for s in of_ours)
    assert sorted(s[4] for s in of_ours) == sorted([34, 34, 35, 68, 69, 69] * 2)
    assert ours.task_names_ == names
    assert ours.feature_names_in_.tolist() == list("abcd")


@some_fail
def test_a_step_that_fails_has_error_score():
    grid = {"scale__with_mean": [True, "nonsense"]}
    ours, _ = check_equal(pipe(), grid, trained=["stacked", "alone"])
    assert np.isnan(ours.cv_results_["mean_test_score"]).tolist() == [False, True]


def test_a_step_that_fails_is_raised():
    with pytest.raises(ValueError, match="The 'with_mean' parameter of StandardScaler must be"):
        grid_search(pipe(), {"scale__with_mean": ["nonsense"]}, error_score="raise")


def test_a_step_that_fails_is_raised_as_it_was():
    with pytest.raises(InvalidParameterError):
        grid_search(pipe(), {"scale__with_mean": ["nonsense"]}, error_score="raise")


@pytest.mark.parametrize("name", ["scale__func", "scale"])
def test_steps_with_functions_defined_in_place(name):
    twice, thrice = (lambda x: 2 * x), (lambda x: 3 * x)
    values = [twice, thrice]
    if name == "scale":
        values = [FunctionTransformer(each) for each in values]
    check_equal(pipe(FunctionTransformer()), {name: values, "mtl__alpha": [0, 1]})


# Weights and routing --------------------------------------------------------------------------


def test_weights_by_step_without_routing():
    given = {"mtl__sample_weight": WEIGHT, "scale__sample_weight": WEIGHT[:, 0]}
    weighted, _ = check_equal(pipe(), PIPE_GRID, fit_params=given)
    plain = grid_search(pipe(), PIPE_GRID)  # negative control
    with pytest.raises(AssertionError):
        assert_same_search(plain, weighted)


def test_weights_are_routed_to_fit_scorer_and_splitter(routing):
    model = mixed().set_fit_request(sample_weight=True, groups=False)
    given = {"sample_weight": WEIGHT, "groups": np.arange(N) % 5}
    found = {}
    for asked in (False, True):
        scorer = make_multi_task_scorer().set_score_request(sample_weight=asked)
        ours, _ = check_equal(
            model, GRID, fit_params=given, scoring=scorer, refit="mean", cv=GroupKFold(3)
        )
        found[asked] = ours.cv_results_["mean_test_mean"]
        assert_allclose(ours.task_scores_[:, 1], ours.cv_results_["mean_test_task1"])
    assert abs(found[True] - found[False]).min() > 1e-6  # negative control


def test_weights_are_routed_to_the_estimators_own_score(routing):
    model = mixed().set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
    ours, _ = check_equal(model, GRID, fit_params={"sample_weight": WEIGHT})
    assert_allclose(ours.task_scores_.mean(axis=1), ours.cv_results_["mean_test_score"])


def test_routing_through_a_pipeline(routing):
    model = mixed().set_fit_request(sample_weight=True, X_val=True, y_val=True)
    scale = StandardScaler().set_fit_request(sample_weight="rows")
    steps = Pipeline([("scale", scale), ("mtl", model)], transform_input=["X_val"])
    given = {"sample_weight": WEIGHT, "rows": WEIGHT[:, 1], "X_val": X[:20], "y_val": Y[:20]}
    scorer = make_task_scorer(task=1).set_score_request(sample_weight=True)
    check_equal(steps, PIPE_GRID, fit_params=given, scoring=scorer, return_train_score=True)


def test_weights_that_nobody_asked_for(routing):
    with pytest.raises(UnsetMetadataPassedError, match="VectorizedGridSearchCV"):
        grid_search(mixed(), GRID, fit_params={"sample_weight": WEIGHT})
    with pytest.raises(ValueError, match="not explicitly set as requested or not"):
        grid_search(pipe(), PIPE_GRID, fit_params={"sample_weight": WEIGHT})


# Inside other searches ------------------------------------------------------------------------


def test_nested_cross_validation():
    outer = KFold(3, shuffle=True, random_state=0)
    ours = VectorizedGridSearchCV(mixed(), GRID, cv=KFold(2))
    theirs = GridSearchCV(mixed(), GRID, cv=KFold(2))
    assert_allclose(
        cross_val_score(ours, X, Y, cv=outer, error_score="raise"),
        cross_val_score(theirs, X, Y, cv=outer, error_score="raise"),
        rtol=0, atol=1e-9,
    )  # fmt: skip
    inner = cross_validate(ours, X, Y, cv=outer, return_estimator=True)["estimator"]
    assert all(set(search.search_report_["trained"]) == {"stacked"} for search in inner)
    for predict in (cross_val_predict, own.cross_val_predict):
        predicted = [predict(search, X, Y, cv=outer) for search in (ours, theirs)]
        assert_array_equal(*predicted)


def test_in_a_pipeline_and_in_a_search():
    inner = VectorizedGridSearchCV(mixed(batch_size=20), GRID, cv=KFold(2))
    steps = make_pipeline(StandardScaler(), inner).fit(X, Y)
    by_hand = inner.fit(StandardScaler().fit_transform(X), Y)
    assert_array_equal(steps.predict(X), by_hand.predict(StandardScaler().fit_transform(X)))
    ours, _ = check_equal(inner, {"estimator__dropout": [0, 0.1]}, cv=KFold(2), trained="alone")
    assert ours.search_report_["reason"][0].startswith("VectorizedGridSearchCV is no multi-task")


# What it prints, and whom it tells ------------------------------------------------------------


@pytest.mark.parametrize("verbose", [0, 1, 2])
def test_verbose(verbose, capsys):
    grid_search(mixed(), GRID, verbose=verbose)
    lines = capsys.readouterr().out.splitlines()
    first = ["Fitting 3 folds for each of 4 candidates, totalling 12 fits"]
    assert lines[:1] == (first if verbose else [])
    assert len(lines) == [0, 1, 13][verbose]
    for line in lines[1:]:
        assert line.startswith("[CV] END alpha=")
        assert "learning_rate_init=" in line
        assert "; score=" in line
        assert line.endswith("s")


class Listener:
    """Keeps what scikit-learn tells a callback."""

    def __init__(self):
        self.begun, self.ended, self.tasks = 0, 0, []

    def setup(self, estimator, context):
        self.begun += 1

    def teardown(self, estimator, context):
        self.ended += 1

    def on_fit_task_begin(self, estimator, context):
        self.tasks.append(("begin", context.task_name))

    def on_fit_task_end(self, estimator, context):
        self.tasks.append(("end", context.task_name))


class TestCallbacks:
    """scikit-learn's own, where it has them."""

    @pytest.fixture(autouse=True)
    def _callbacks(self):
        self.module = pytest.importorskip("sklearn.callback", reason="scikit-learn >= 1.9")

    def test_one_set_on_the_search_hears_of_its_beginning_and_end(self):
        listener = Listener()
        search = VectorizedGridSearchCV(mixed(), GRID, cv=FOLDS).set_callbacks(listener)
        assert_same_search(search.fit(X, Y), loop(mixed(), GRID))
        assert search.search_report_["trained"] == ["stacked"] * 4
        assert listener.begun == listener.ended == 1
        assert listener.tasks[0] == ("begin", "fit")
        assert listener.tasks[-1] == ("end", "fit")

    def test_it_is_torn_down_where_the_search_fails(self):
        listener = Listener()
        broken, cv = refit_fails()
        search = VectorizedGridSearchCV(mixed(), GRID, cv=cv).set_callbacks(listener)
        with pytest.raises(ValueError, match="contains infinity"):
            search.fit(broken, Y)
        assert listener.begun == listener.ended == 1
        search.set_params(error_score="raise", param_grid={"alpha": [-1]})
        with pytest.raises(ValueError, match="alpha"):
            search.fit(X, Y)
        assert listener.begun == listener.ended

    def test_a_progress_bar(self, capsys):
        pytest.importorskip("rich")
        bar = self.module.ProgressBar()
        search = VectorizedRandomizedSearchCV(mixed(), GRID, n_iter=2, cv=FOLDS, random_state=0)
        search.set_callbacks(bar).fit(X, Y)
        assert search.search_report_["trained"] == ["stacked"] * 2
        assert "100%" in capsys.readouterr().out

    def test_one_set_on_the_estimator_follows_every_fit_one_by_one(self):
        monitor = self.module.ScoringMonitor(scoring=lambda est, X, y: {"mean": est.score(X, y)})
        model = mixed().set_callbacks(monitor)
        search = grid_search(model, {"alpha": [0, 1]}, refit=False)
        assert search.search_report_["trained"] == ["alone"] * 2
        assert set(search.search_report_["reason"]) == {"scikit-learn's callbacks follow them"}
        assert len(monitor.get_logs(select="all")) > 0
