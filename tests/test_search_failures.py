"""Fits, scorers and refits that fail, other estimators, and a user who presses Ctrl-C."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
from joblib import parallel_config
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import rankdata
from searches import (
    AMOUNTS,
    CLASSES,
    FOLDS,
    GRID,
    N,
    X,
    Y,
    assert_same_results,
    check_equal,
    fitted_names,
    grid_search,
    loop,
    mixed,
    pipe,
    refit_fails,
)
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.exceptions import FitFailedWarning
from sklearn.model_selection import KFold
from sklearn.svm import SVC
from sklearn.utils._param_validation import InvalidParameterError

from sk_mtl.model_selection import VectorizedHalvingGridSearchCV
from sk_mtl.model_selection._chunks import Schedule
from sk_mtl.model_selection._jobs import Outcome
from sk_mtl.model_selection._partial import shared_folds
from sk_mtl.model_selection._stage import Data, stage_fold
from sk_mtl.stacked_training import StackedTraining
from sk_mtl.training import MultiTaskNet

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


# Failures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_errors_are_raised_as_they_are(n_jobs):
    cells = np.where(X > 1, np.inf, X)
    with parallel_config("threading"):
        with pytest.raises(ValueError, match="Input X contains infinity"):
            grid_search(mixed(), GRID, cells, error_score="raise", n_jobs=n_jobs)
        with pytest.raises(InvalidParameterError, match="The 'alpha' parameter of MultiTaskEsti"):
            grid_search(mixed(), {"alpha": [0, -1]}, error_score="raise", n_jobs=n_jobs)


def test_errors_are_raised_before_any_network_is_trained(monkeypatch):
    monkeypatch.setattr(StackedTraining, "run", None)
    with pytest.raises(InvalidParameterError, match="alpha"):
        grid_search(mixed(), {"alpha": [0, 1, -1]}, error_score="raise")


def test_some_fits_that_fail():
    with pytest.warns(FitFailedWarning, match="3 fits failed out of a total of 9"):
        found = grid_search(mixed(), {"alpha": [0, 1, -1]}, error_score=-2.5).cv_results_
    assert found["mean_test_score"][2] == -2.5
    assert found["rank_test_score"][2] == 3


def test_all_fits_that_fail():
    with pytest.raises(ValueError, match="All the 9 fits failed") as ours:
        grid_search(mixed(), {"task_weights": [[1, 2], [0, 0, 0], {"x": 1}]})
    with pytest.raises(ValueError, match="All the 9 fits failed") as theirs:
        loop(mixed(), {"task_weights": [[1, 2], [0, 0, 0], {"x": 1}]})
    for each in (ours, theirs):
        assert "Got task_weights for unknown task 'x'" in str(each.value)


def test_a_refit_that_fails_leaves_a_fitted_search_whole():
    search = grid_search(mixed(), GRID)
    before, predicted = dict(vars(search)), search.predict(X)
    broken, cv = refit_fails()
    search.set_params(cv=cv)
    with pytest.raises(ValueError, match="Input X contains infinity"):
        search.fit(broken, Y)
    assert vars(search) == {**before, "cv": cv}
    assert_array_equal(search.predict(X), predicted)
    fresh = clone(search)
    with pytest.raises(ValueError, match="Input X contains infinity"):
        fresh.fit(broken, Y)
    assert fitted_names(fresh) == set()
    fresh.set_params(refit=False).fit(broken, Y)  # negative control: the folds can be


def test_parameters_and_data_that_are_refused():
    for bad in (0, -1, 1.5, "all"):
        with pytest.raises(InvalidParameterError, match="The 'max_stack' parameter of Vectorized"):
            grid_search(mixed(), GRID, max_stack=bad)
    with pytest.raises(InvalidParameterError, match="The 'estimator' parameter of Vectorized"):
        grid_search("mixed", GRID)
    with pytest.raises(ValueError, match="Invalid parameter 'alphas' for estimator MultiTask"):
        grid_search(mixed(), {"alphas": [0]})
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        grid_search(mixed(), GRID, X[:50])
    with pytest.raises(ValueError, match="need to be a non-empty sequence"):
        grid_search(mixed(), {"alpha": []})
    with pytest.raises(ValueError, match="No fits were performed"):
        grid_search(mixed(), [])
    with pytest.raises(TypeError, match="unexpected keyword argument 'weights'"):
        grid_search(mixed(), GRID, fit_params={"weights": 1}, error_score="raise")


def test_no_folds():
    with pytest.raises(ValueError, match=r"No fits were performed\. Was the CV iterator empty"):
        grid_search(mixed(), GRID, cv=iter([]))


def test_folds_that_are_not_as_many_as_promised():
    class Lying(KFold):
        def get_n_splits(self, *args, **kwargs):
            return 2

    with pytest.raises(ValueError, match=r"inconsistent results. Expected 2 splits, got 3"):
        grid_search(mixed(), GRID, cv=Lying(3))


class Mute(BaseEstimator):
    """Predicts nothing, though it has a score."""

    def __init__(self, level=0):
        self.level = level

    def fit(self, X, y):
        self.fitted_ = True
        return self

    def predict(self, X):
        raise RuntimeError("predict failed")

    def score(self, X, y):
        return float(self.level)


def test_another_estimator_that_cannot_predict():
    check_equal(Mute(), {"level": [0, 1]}, X, AMOUNTS[:, 0], trained="alone", refit=False)


def test_another_estimator_with_a_kernel():
    kernel, labels = X @ X.T, CLASSES[:, 0]
    check_equal(SVC(kernel="precomputed"), {"C": [0.1, 1]}, kernel, labels, trained="alone")


class Odd(Exception):
    """An exception that pickle cannot make again from its text."""

    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


class Failing(TransformerMixin, BaseEstimator):
    """A step that fails."""

    def fit(self, X, y=None):
        raise Odd(1, 2)

    def transform(self, X):
        return X


def test_a_step_that_failed_can_be_sent_to_a_worker():
    stage = stage_fold(pipe(Failing()), {}, Data(X, Y, {}, {}), *next(FOLDS.split(X)))
    assert stage.error is not None
    pickle.loads(pickle.dumps(stage))


# Interrupts -----------------------------------------------------------------------------------


def interrupt_at(monkeypatch, cls, call):
    """Let the user press Ctrl-C at the beginning of an epoch, counted over all fits."""
    calls = iter(range(1, 10_000))
    run = cls._run_epoch

    def run_epoch(self, *args, **kwargs):
        if next(calls) == call:
            raise KeyboardInterrupt
        return run(self, *args, **kwargs)

    monkeypatch.setattr(cls, "_run_epoch", run_epoch)


def split_scores(search, n_folds=3):
    """Scores by candidate and fold."""
    return np.column_stack([search.cv_results_[f"split{f}_test_score"] for f in range(n_folds)])


EQUAL_FOLDS = [
    (np.delete(np.arange(102), range(f, 102, 3)), np.arange(f, 102, 3)) for f in range(3)
]


interrupted = pytest.mark.filterwarnings(
    "ignore:Training interrupted by user:UserWarning",
    "ignore:One or more of the test scores:UserWarning",
)


@interrupted
def test_an_interrupt_of_the_only_stack_scores_all_as_they_stand(monkeypatch):
    whole = np.column_stack([CLASSES[:, 0], AMOUNTS[:, 1:]])
    expected = grid_search(mixed(max_iter=3), GRID, X, whole, cv=EQUAL_FOLDS)
    interrupt_at(monkeypatch, StackedTraining, 4)
    with pytest.warns(UserWarning, match="Search interrupted by user after 12 of 12 fits"):
        search = grid_search(
            mixed(max_iter=500, tol=0), GRID, X, whole, cv=EQUAL_FOLDS, refit=False
        )
    assert_same_results(search.cv_results_, expected.cv_results_)
    assert_allclose(search.task_scores_, expected.task_scores_)


@interrupted
def test_an_interrupt_keeps_the_stacks_that_are_done(monkeypatch):
    expected = grid_search(mixed(), GRID)
    interrupt_at(monkeypatch, StackedTraining, 8)  # in the second stack: folds differ in size
    with pytest.warns(UserWarning, match="Search interrupted by user after 8 of 12 fits"):
        search = grid_search(mixed(), GRID, max_stack=4)
    scores, all_scores = split_scores(search), split_scores(expected)
    assert list(search.cv_results_) == list(expected.cv_results_)
    done = np.isfinite(scores)
    assert done.sum() == 8
    assert_array_equal(done.all(axis=0), [True, True, False])
    assert_allclose(scores[:, 0], all_scores[:, 0], atol=1e-9)
    # Each lacks the third fold and was cut short on the second, so they compare by the first.
    means = scores[:, 0]
    assert_allclose(search.cv_results_["mean_test_score"], means)
    assert_allclose(search.cv_results_["std_test_score"], 0)
    assert_array_equal(search.cv_results_["rank_test_score"], rankdata(-means, "min"))
    assert search.best_index_ == means.argmax()
    assert_allclose(search.task_scores_.mean(axis=1), means)
    assert len(search.pareto_front_) >= 1
    assert search.predict(X).shape == Y.shape
    assert len(search.fit_candidates(X, Y, range(4))) == 4


@interrupted
def test_an_interrupt_in_the_midst_of_a_fold_compares_by_those_that_all_have(monkeypatch):
    """Six of twelve fits: all have the first fold, two the second."""
    expected = grid_search(mixed(), GRID, cv=EQUAL_FOLDS)
    interrupt_at(monkeypatch, StackedTraining, 12)
    with pytest.warns(UserWarning, match=r"after 6 of 12 fits.*over folds \[0\]"):
        search = grid_search(mixed(), GRID, cv=EQUAL_FOLDS, max_stack=2)
    first = split_scores(expected)[:, 0]
    assert_allclose(search.cv_results_["mean_test_score"], first, atol=1e-9)
    assert_allclose(search.cv_results_["split0_test_score"], first, atol=1e-9)
    assert np.isfinite(search.cv_results_["split1_test_score"]).sum() == 2
    assert search.best_index_ == first.argmax()
    assert_allclose(search.best_score_, first.max())


def test_folds_in_common_when_workers_were_at_different_places():
    def done(*places):
        return [Outcome(c, f, {}, {}, "", 1, False) for c, f in places]

    every = [(c, 0) for c in range(4)]
    assert shared_folds(done(*every), 3) == [0]
    assert shared_folds(done(*every, (0, 1), (1, 1)), 3) == [0]
    assert shared_folds(done(*every, *((c, 2) for c in range(4))), 3) == [0, 2]
    # Two have the first fold, and one of them the last; the third has another and is left out.
    assert shared_folds(done((0, 0), (1, 0), (0, 2), (2, 1)), 3) == [0]
    assert shared_folds(done((0, 0), (1, 0), (0, 2), (1, 2), (2, 1)), 3) == [0, 2]
    # What was cut short counts if there is nothing else.
    cut = [replace(outcome, interrupted=True) for outcome in done(*((c, 1) for c in range(4)))]
    assert shared_folds([*done(*every), *cut], 3) == [0]
    assert shared_folds(cut, 3) == [1]


@interrupted
def test_an_interrupt_of_a_later_round_of_halving_goes_by_the_round_before(monkeypatch):
    options = {"cv": EQUAL_FOLDS, "min_resources": 30, "factor": 2, "random_state": 0}
    whole = np.column_stack([CLASSES[:, 0], AMOUNTS[:, 1:]])
    halving = VectorizedHalvingGridSearchCV(mixed(batch_size=10), GRID, **options)
    run, calls = Schedule.run, iter(range(9))

    def stopped(self, pre_dispatch):
        return ([], True) if next(calls) == 1 else run(self, pre_dispatch)

    monkeypatch.setattr(Schedule, "run", stopped)
    with pytest.warns(UserWarning, match="after 0 of .* fits of a round, which is left out"):
        halving.fit(X, whole)
    assert set(halving.cv_results_["iter"]) == {0}
    assert halving.best_index_ == halving.cv_results_["mean_test_score"].argmax()


@interrupted
@pytest.mark.parametrize("epoch", [1, 2])
def test_an_interrupt_of_fits_one_by_one(monkeypatch, epoch):
    """The fit under way is scored as it stands; after no epoch at all it has no score."""
    interrupt_at(monkeypatch, MultiTaskNet, 5 * 4 + epoch)
    with pytest.warns(UserWarning, match="Search interrupted by user after 5 of 12 fits"):
        search = grid_search(mixed(), GRID, max_stack=1, refit=False)
    assert np.isfinite(split_scores(search)).sum() == 5
    assert sorted(set(search.search_report_["trained"])) == ["alone"]


@interrupted
def test_an_interrupt_leaves_candidates_untrained(monkeypatch):
    grid = [{"alpha": [0, 1]}, {"trunk": ["mmoe"], "alpha": [0, 1]}]
    interrupt_at(monkeypatch, StackedTraining, 12)  # in the second group
    rows = np.arange(N)
    cv = [(rows[:60], rows[60:]), (rows[43:], rows[:43])]
    with pytest.warns(UserWarning, match="Search interrupted by user after"):
        search = grid_search(mixed(), grid, cv=cv, max_stack=2)
    means = search.cv_results_["mean_test_score"]
    assert np.isfinite(means[:2]).all()
    assert search.search_report_["trained"][:2] == ["stacked", "stacked"]
    assert search.best_index_ == int(np.nanargmax(means))
    assert search.select([1, 1, 1]) in search.pareto_front_
    assert np.isfinite(search.hypervolume())
    assert len(search.fit_candidates(X, Y, [0, 3])) == 2


def test_an_interrupt_of_another_estimator(monkeypatch):
    class Patient(BaseEstimator):
        n_fits = 0

        def __init__(self, level=0):
            self.level = level

        def fit(self, X, y):
            Patient.n_fits += 1
            if Patient.n_fits == 4:
                raise KeyboardInterrupt
            return self

        def score(self, X, y):
            return float(self.level)

    with pytest.warns(UserWarning, match="interrupted by user after 3 of 6 fits|One or more"):
        search = grid_search(Patient(), {"level": [0, 1]}, X, AMOUNTS, refit=False)
    assert np.isfinite(split_scores(search)).sum() == 3


def test_an_interrupt_before_anything_is_scored_is_raised(monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    search = grid_search(mixed(), GRID)
    before = dict(vars(search))
    monkeypatch.setattr(FOLDS.__class__, "split", interrupt)
    with pytest.raises(KeyboardInterrupt):
        search.fit(X, Y)
    monkeypatch.undo()
    monkeypatch.setattr("sk_mtl.model_selection._jobs.open_job", interrupt)
    with pytest.raises(KeyboardInterrupt):
        search.fit(X, Y)
    assert vars(search) == before
