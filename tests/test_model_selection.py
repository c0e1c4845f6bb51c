"""Folds spread every task's labels; out-of-fold predictions keep missing labels missing."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
from fakes import LinearClassifiers, LinearRegressions, LinearTasks
from numpy.testing import assert_allclose, assert_array_equal
from plain import plain
from sklearn import config_context
from sklearn.base import clone
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.exceptions import UnsetMetadataPassedError
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    RepeatedKFold,
    StratifiedKFold,
    cross_val_score,
)
from sklearn.model_selection import cross_val_predict as sklearn_cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sk_mtl.estimators import MultiTaskClassifier, MultiTaskEstimator, MultiTaskRegressor
from sk_mtl.metrics import make_multi_task_scorer, make_task_scorer
from sk_mtl.model_selection import MultiTaskStratifiedKFold, cross_val_predict


def make_labels(n=300, seed=0):
    """Return tasks of two, three (as strings, one rare) classes and an amount, with gaps."""
    rng = np.random.default_rng(seed)
    Y = pd.DataFrame(
        {
            "buys": rng.integers(0, 2, n).astype(float),
            "size": rng.choice(np.array(["s", "m", "xl"], dtype=object), n, p=[0.6, 0.35, 0.05]),
            "wage": rng.lognormal(size=n),
        }
    )
    for share, name in zip((0.3, 0.1, 0.6), Y, strict=True):
        Y.loc[rng.uniform(size=n) < share, name] = np.nan
    return Y


def count(Y, test):
    """Return the number of rows of every level of every task in a test fold."""
    part = Y.iloc[test]
    bins = pd.qcut(Y["wage"], 5, labels=False).iloc[test]
    return np.concatenate(
        [
            [(part["buys"] == value).sum() for value in (0, 1)],
            [(part["size"] == value).sum() for value in ("s", "m", "xl")],
            [(bins == value).sum() for value in range(5)],
            part.isna().sum().to_numpy(),
        ]
    )


def fold_rows(folds, Y):
    return [test for _, test in folds.split(np.zeros((len(Y), 1)), Y)]


class TestMultiTaskStratifiedKFold:
    @pytest.mark.parametrize("n_splits", [2, 5, 7])
    def test_every_level_of_every_task_is_shared_evenly(self, n_splits):
        """Classes, bins and missing labels; negative control: KFold does not."""
        Y = make_labels()
        folds = MultiTaskStratifiedKFold(n_splits, random_state=0)
        ours = np.array([count(Y, test) for test in fold_rows(folds, Y)])
        shuffled = KFold(n_splits, shuffle=True, random_state=0)
        theirs = np.array([count(Y, test) for test in fold_rows(shuffled, Y)])
        assert np.ptp(ours, axis=0).max() <= 4 < np.ptp(theirs, axis=0).max()

    @pytest.mark.parametrize("shuffle", [True, False])
    def test_one_task_is_as_even_as_stratified_k_fold(self, shuffle):
        """Independent reference: counts of a class differ by at most one, as do fold sizes."""
        rng = np.random.default_rng(0)
        for seed in range(20):
            y = rng.choice(4, size=int(rng.integers(20, 90)), p=[0.5, 0.3, 0.15, 0.05])
            options = {"shuffle": shuffle, "random_state": seed if shuffle else None}
            tests = fold_rows(MultiTaskStratifiedKFold(4, **options), y)
            counts = np.array([np.bincount(y[test], minlength=4) for test in tests])
            keep = np.isin(y, np.flatnonzero(np.bincount(y) >= 4))
            theirs = [t for _, t in StratifiedKFold(4).split(y[keep], y[keep])]
            reference = np.array([np.bincount(y[keep][t], minlength=4) for t in theirs])
            assert np.ptp(counts, axis=0).max() <= max(1, np.ptp(reference, axis=0).max())
            assert np.ptp([len(test) for test in tests]) <= 1

    @pytest.mark.parametrize("n", [50, 51, 54, 301])
    def test_every_row_is_in_one_test_fold_and_sizes_differ_by_one(self, n):
        Y = make_labels(n)
        splits = list(MultiTaskStratifiedKFold(random_state=1).split(np.zeros((n, 1)), Y))
        assert_array_equal(np.sort(np.concatenate([test for _, test in splits])), np.arange(n))
        assert np.ptp([len(test) for _, test in splits]) <= 1
        for train, test in splits:
            assert_array_equal(np.sort(np.concatenate([train, test])), np.arange(n))

    def test_same_seed_same_folds(self):
        Y = make_labels()
        once = fold_rows(MultiTaskStratifiedKFold(random_state=3), Y)
        again = fold_rows(MultiTaskStratifiedKFold(random_state=3), Y)
        other = fold_rows(MultiTaskStratifiedKFold(random_state=4), Y)
        assert all(map(np.array_equal, once, again))
        assert not all(map(np.array_equal, once, other))
        unshuffled = [fold_rows(MultiTaskStratifiedKFold(shuffle=False), Y) for _ in range(2)]
        assert all(map(np.array_equal, *unshuffled))

    def test_the_global_random_state_is_left_alone(self):
        before = np.random.get_state()[1].copy()  # noqa: NPY002
        fold_rows(MultiTaskStratifiedKFold(random_state=0), make_labels())
        assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002

    def test_containers_give_the_same_folds(self):
        Y = make_labels()
        expected = fold_rows(MultiTaskStratifiedKFold(random_state=0), Y)
        as_object = Y.to_numpy(dtype=object)
        lists = [[None if pd.isna(v) else v for v in row] for row in as_object]
        for same in (as_object, lists, Y.astype({"buys": "Int64"})):
            found = fold_rows(MultiTaskStratifiedKFold(random_state=0), same)
            assert all(map(np.array_equal, expected, found))
        pl = pytest.importorskip("polars")
        frame = pl.DataFrame(lists, schema=list(Y), orient="row")
        found = fold_rows(MultiTaskStratifiedKFold(random_state=0), frame)
        assert all(map(np.array_equal, expected, found))

    def test_kinds_of_tasks(self):
        """Whole numbers of few values are classes; ``tasks`` says otherwise where they are not."""
        y = np.repeat(np.arange(10), 10)
        by_class = [
            np.bincount(y[t], minlength=10) for t in fold_rows(MultiTaskStratifiedKFold(), y)
        ]
        assert np.ptp(by_class, axis=0).max() == 0
        for tasks in (["regression"], {"task0": "regression"}):
            folds = MultiTaskStratifiedKFold(n_bins=2, tasks=tasks, random_state=0)
            by_half = np.array([[(y[t] < 5).sum(), (y[t] >= 5).sum()] for t in fold_rows(folds, y)])
            by_value = [np.bincount(y[t], minlength=10) for t in fold_rows(folds, y)]
            assert np.ptp(by_half, axis=0).max() == 0 < np.ptp(by_value, axis=0).max()

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"n_splits": 1}, ValueError, "n_splits=1, expected a whole number of at least 2"),
            ({"n_splits": 2.5}, ValueError, r"n_splits=2\.5"),
            ({"n_bins": 1}, ValueError, "n_bins=1"),
            ({"shuffle": 1}, TypeError, "shuffle=1"),
            ({"shuffle": False, "random_state": 0}, ValueError, "shuffle=True"),
        ],
    )
    def test_bad_parameters(self, options, error, message):
        with pytest.raises(error, match=message):
            MultiTaskStratifiedKFold(**options)

    @pytest.mark.parametrize(
        ("tasks", "message"),
        [
            ("regression", "expected 'auto'"),
            ({"sise": "regression"}, "unknown task 'sise'"),
            (["regression"], "length 1, expected 3"),
            ({"buys": "numbers"}, "'numbers' for task 'buys'"),
            ({"size": "regression"}, "in regression task 'size', expected numbers"),
        ],
    )
    def test_bad_kinds(self, tasks, message):
        with pytest.raises(ValueError, match=message):
            fold_rows(MultiTaskStratifiedKFold(tasks=tasks), make_labels())

    def test_bad_data(self):
        X = np.zeros((4, 1))
        with pytest.raises(ValueError, match="n_splits=5 for 4 rows"):
            next(MultiTaskStratifiedKFold().split(X, np.zeros(4)))
        with pytest.raises(ValueError, match="Got y=None"):
            next(MultiTaskStratifiedKFold().split(X))
        with pytest.raises(ValueError, match="GroupKFold"):
            next(MultiTaskStratifiedKFold(2).split(X, np.zeros(4), groups=[0, 0, 1, 1]))

    def test_is_a_splitter_to_scikit_learn(self):
        folds = MultiTaskStratifiedKFold(3, random_state=0)
        assert folds.get_n_splits() == 3
        assert repr(folds).startswith("MultiTaskStratifiedKFold(n_bins=5, n_splits=3")
        Y = make_labels(60)
        found = fold_rows(pickle.loads(pickle.dumps(folds)), Y)
        assert all(map(np.array_equal, found, fold_rows(folds, Y)))

    @pytest.mark.filterwarnings("ignore:invalid value encountered in cast")  # scikit-learn's
    def test_as_cv_with_missing_labels(self):
        """Negative control: a number of folds is refused by scikit-learn."""
        Y = make_labels(150)[["buys", "size"]]
        X = np.random.default_rng(0).normal(size=(150, 3))
        options = {"scoring": make_multi_task_scorer(), "refit": "mean"}
        search = GridSearchCV(
            LinearClassifiers(), {"C": [0.1, 1.0]}, cv=MultiTaskStratifiedKFold(3), **options
        ).fit(X, Y)
        assert np.isfinite(search.cv_results_["mean_test_size"]).all()
        numeric = Y[["buys"]].assign(again=Y["buys"])
        with pytest.raises(ValueError, match="NaN"):
            GridSearchCV(LinearClassifiers(), {"C": [1.0]}, cv=3, **options).fit(X, numeric)

    def test_metadata_routing(self):
        Y = make_labels(60)
        with config_context(enable_metadata_routing=True):
            scores = cross_val_score(
                LinearTasks(),
                np.random.default_rng(0).normal(size=(60, 2)),
                Y,
                cv=MultiTaskStratifiedKFold(3),
                scoring=make_task_scorer(task="buys"),
            )
        assert np.isfinite(scores).all()


@pytest.fixture(scope="module")
def data():
    """Rows that tell the labels, so that predictions are worth something."""
    Y = make_labels(120)
    rng = np.random.default_rng(1)
    signal = np.column_stack(
        [
            Y["buys"].fillna(0.5),
            Y["size"].map({"s": 0, "m": 1, "xl": 2}).fillna(1),
            Y["wage"].fillna(1),
        ]
    )
    X = signal.astype(float) + rng.normal(size=signal.shape) * 0.3
    return pd.DataFrame(X, columns=["a", "b", "c"]), Y


class TestCrossValPredict:
    @pytest.mark.parametrize("method", ["predict", "predict_proba", "predict_log_proba"])
    def test_equals_fitting_each_fold_by_hand(self, data, method):
        """Independent reference: single-task models on the labelled training rows."""
        X, Y = data
        folds = MultiTaskStratifiedKFold(4, random_state=0)
        found = cross_val_predict(LinearTasks(), X, Y, cv=folds, method=method)
        for train, test in folds.split(X, Y):
            rows = train[Y["size"].iloc[train].notna()]
            alone = LogisticRegression().fit(X.iloc[rows], Y["size"].iloc[rows].astype(object))
            part = found[test, 1] if method == "predict" else found[1][test]
            expected = getattr(alone, method)(X.iloc[test])
            if method == "predict":
                assert_array_equal(part, expected)
            else:
                assert_allclose(part, expected)

    def test_shapes_and_types_are_the_estimators(self, data):
        X, Y = data
        model = LinearTasks().fit(X, Y)
        table = cross_val_predict(LinearTasks(), X, Y)
        assert table.shape == (120, 3) and table.dtype == model.predict(X).dtype
        proba = cross_val_predict(LinearTasks(), X, Y, method="predict_proba")
        assert [None if p is None else p.shape for p in proba] == [(120, 2), (120, 3), None]
        assert_allclose(proba[1].sum(axis=1), 1)
        one_d = cross_val_predict(LinearTasks(), X, Y["size"], method="predict_proba")
        assert isinstance(one_d, np.ndarray) and one_d.shape == (120, 3)
        assert cross_val_predict(LinearTasks(), X, Y["size"]).shape == (120,)
        assert cross_val_predict(LinearTasks(), X, Y, method="transform").shape == (120, 3)

    def test_a_missing_label_is_not_a_class(self, data):
        """Negative control: scikit-learn's function makes a third class of NaN."""
        X, Y = data
        Y = Y[["buys"]].assign(again=Y["buys"])
        ours = cross_val_predict(LinearClassifiers(), X, Y, method="predict_proba")
        theirs = sklearn_cross_val_predict(
            LinearClassifiers(), X, Y, cv=KFold(5), method="predict_proba"
        )
        assert [p.shape[1] for p in ours] == [2, 2]
        assert [p.shape[1] for p in theirs] == [3, 3]

    @pytest.mark.parametrize("method", ["predict", "predict_proba"])
    def test_equals_scikit_learn_where_nothing_is_missing(self, data, method):
        X, Y = data
        Y = np.column_stack([Y["buys"].fillna(0), Y["size"] == "s"]).astype(int)
        forest = RandomForestClassifier(n_estimators=3, random_state=0)
        folds = KFold(3, shuffle=True, random_state=0)
        ours = cross_val_predict(forest, X, Y, cv=folds, method=method)
        theirs = sklearn_cross_val_predict(forest, X, Y, cv=folds, method=method)
        for a, b in zip(ours, theirs, strict=True):
            # scikit-learn 1.9 leaves lists in the order of the folds
            if method == "predict_proba":
                order = np.concatenate([test for _, test in folds.split(X)])
                unsorted = np.array_equal(a[order], b)
                assert unsorted or np.array_equal(a, b)
            else:
                assert_array_equal(a, b)

    def test_a_fold_without_a_class_gets_a_column_of_zeros(self, data):
        X, Y = data
        Y = Y.copy()
        rows = np.flatnonzero(Y["size"] == "xl")
        test = np.union1d(rows, np.arange(60))
        folds = [
            (np.setdiff1d(np.arange(120), test), test),
            (test, np.setdiff1d(np.arange(120), test)),
        ]
        proba = cross_val_predict(LinearTasks(), X, Y, cv=folds, method="predict_proba")[1]
        log = cross_val_predict(LinearTasks(), X, Y, cv=folds, method="predict_log_proba")[1]
        assert proba.shape == log.shape == (120, 3)  # classes m, s, xl
        assert (proba[test, 2] == 0).all() and (proba[folds[1][1], 2] > 0).all()
        assert np.isneginf(log[test, 2]).all() and np.isfinite(log[folds[1][1]]).all()
        assert_allclose(proba.sum(axis=1), 1)

    def test_a_class_that_no_fold_trains_on_has_a_column_too(self):
        X = np.arange(12.0).reshape(-1, 1)
        y = np.array([0, 1, 0, 1, 5, 5, 1, 0, 1, 0, 1, 0])
        a, b = np.arange(6), np.arange(6, 12)
        proba = cross_val_predict(
            LinearTasks(), X, y, cv=[(b, a), (b[::-1], b)], method="predict_proba"
        )
        assert proba.shape == (12, 3)
        assert (proba[:, 2] == 0).all()

    def test_pipeline_and_parallel_folds(self, data):
        X, Y = data
        model = make_pipeline(StandardScaler(), LinearTasks())
        serial = cross_val_predict(model, X, Y, method="predict_proba")
        parallel = cross_val_predict(model, X, Y, method="predict_proba", n_jobs=2)
        assert_array_equal(serial[1], parallel[1])
        scaled = cross_val_predict(LinearTasks(), X, Y, method="predict_proba")
        assert not np.array_equal(serial[1], scaled[1])

    def test_polars(self, data):
        pl = pytest.importorskip("polars")
        X, Y = data
        columns = {name: [None if pd.isna(v) else v for v in Y[name]] for name in Y}
        found = cross_val_predict(
            LinearTasks(), pl.DataFrame(X.to_dict("list")), pl.DataFrame(columns)
        )
        assert_array_equal(found, cross_val_predict(LinearTasks(), X, Y))

    def test_groups(self, data):
        """Rows of one group are predicted together: no training row shares it."""
        X, Y = data
        groups = np.arange(120) // 10

        class Spy(LinearTasks):
            def fit(self, X, y):
                self.seen_ = set(X["c"].index // 10)
                return super().fit(X, y)

            def transform(self, X):
                shared = self.seen_ & set(X.index // 10)
                return np.full((len(X), 1), len(shared))

        options = {"method": "transform", "groups": groups}
        assert (cross_val_predict(Spy(), X, Y, cv=GroupKFold(3), **options) == 0).all()
        control = cross_val_predict(Spy(), X, Y, cv=KFold(7), method="transform")
        assert (control > 0).any()

    def test_fit_parameters_are_cut_to_the_fold(self, data):
        X, Y = data
        weights = np.where(Y["buys"] == 1, 50.0, 0.1)
        plain = cross_val_predict(LinearTasks(), X, Y, method="predict_proba")[0]
        weighted = cross_val_predict(
            LinearTasks(), X, Y, method="predict_proba", params={"sample_weight": weights}
        )[0]
        assert weighted[:, 1].mean() > plain[:, 1].mean() + 0.1

    def test_a_number_of_folds(self, data):
        """Stratified for classifiers and mixed tasks, plain for regressors."""
        X, Y = data
        stratified = MultiTaskStratifiedKFold(3, shuffle=False)
        assert_array_equal(
            cross_val_predict(LinearTasks(), X, Y, cv=3),
            cross_val_predict(LinearTasks(), X, Y, cv=stratified),
        )
        amounts = Y[["wage"]].assign(b=X["a"]).to_numpy()
        assert_array_equal(
            cross_val_predict(LinearRegressions(), X, amounts, cv=3),
            cross_val_predict(LinearRegressions(), X, amounts, cv=KFold(3)),
        )
        complete = np.column_stack([X["a"], X["b"]])
        assert_allclose(
            cross_val_predict(Ridge(), X, complete),
            sklearn_cross_val_predict(Ridge(), X, complete),
        )

    def test_errors(self, data):
        X, Y = data
        with pytest.raises(ValueError, match="method='fit'"):
            cross_val_predict(LinearTasks(), X, Y, method="fit")
        with pytest.raises(ValueError, match=r"120 in several.*partitions"):
            cross_val_predict(LinearTasks(), X, Y, cv=RepeatedKFold(n_splits=2, n_repeats=2))
        with pytest.raises(ValueError, match="60 rows in no test set"):
            cross_val_predict(LinearTasks(), X, Y, cv=[(np.arange(60), np.arange(60, 120))])

    def test_metadata_routing(self, data):
        X, Y = data
        weights = np.linspace(0.1, 5, 120)
        groups = np.arange(120) // 10
        plain = cross_val_predict(
            LinearTasks(), X, Y, cv=GroupKFold(3), groups=groups, params={"sample_weight": weights}
        )
        with config_context(enable_metadata_routing=True):
            params = {"sample_weight": weights, "groups": groups}
            asking = LinearTasks().set_fit_request(sample_weight=True)
            routed = cross_val_predict(asking, X, Y, cv=GroupKFold(3), params=params)
            by_number = cross_val_predict(asking, X, Y, cv=3, params={"sample_weight": weights})
            with pytest.raises(UnsetMetadataPassedError, match="cross_val_predict"):
                cross_val_predict(LinearTasks(), X, Y, params={"sample_weight": weights})
            with pytest.raises(ValueError, match="params"):
                cross_val_predict(LinearTasks(), X, Y, cv=GroupKFold(3), groups=groups)
        assert_array_equal(plain, routed)
        assert by_number.shape == (120, 3)

    def test_the_estimator_is_not_touched(self, data):
        model = RandomForestRegressor(n_estimators=2)
        cross_val_predict(model, data[0], data[0], cv=2)
        assert not hasattr(model, "estimators_")
        assert repr(clone(model)) == repr(model)


class TestOurEstimators:
    SMALL = {"hidden_layer_sizes": (4,), "max_iter": 100, "tol": 1.0, "random_state": 0}

    def test_out_of_fold_predictions(self, data):
        """Independent reference: one fold by hand."""
        X, Y = data
        kinds = {"buys": "classification", "size": "classification", "wage": "regression"}
        model = make_pipeline(
            StandardScaler(), plain(MultiTaskEstimator, tasks=kinds, **self.SMALL)
        )
        folds = MultiTaskStratifiedKFold(3, random_state=0)
        proba = cross_val_predict(model, X, Y, cv=folds, method="predict_proba", n_jobs=2)
        table = cross_val_predict(model, X, Y, cv=folds)
        shared = cross_val_predict(model, X, Y, cv=folds, method="transform")
        assert [None if p is None else p.shape for p in proba] == [(120, 2), (120, 3), None]
        train, test = next(folds.split(X, Y))
        by_hand = clone(model).fit(X.iloc[train], Y.iloc[train])
        assert_allclose(proba[1][test], by_hand.predict_proba(X.iloc[test])[1])
        assert_array_equal(table[test], by_hand.predict(X.iloc[test]))
        assert_allclose(shared[test], by_hand.transform(X.iloc[test]))

    def test_a_fold_without_a_class(self, data):
        X, Y = data
        rare = Y["size"].where(Y["size"] != "xl", np.nan).fillna("s").astype(object)
        rare.iloc[7] = "xl"
        Y = Y[["buys"]].assign(size=rare)
        model = plain(MultiTaskClassifier, **self.SMALL)
        proba = cross_val_predict(model, X, Y, cv=3, method="predict_proba")[1]
        log = cross_val_predict(model, X, Y, cv=3, method="predict_log_proba")[1]
        assert proba.shape == (120, 3)
        assert (proba[7, 2], log[7, 2]) == (0.0, -np.inf)
        assert (proba[:, 2] > 0).sum() == 80
        assert_allclose(proba.sum(axis=1), 1)

    def test_regressors_and_one_dimensional_labels(self, data):
        X, Y = data
        amounts = Y[["wage"]].assign(other=X["a"])
        table = cross_val_predict(plain(MultiTaskRegressor, **self.SMALL), X, amounts, cv=3)
        assert table.shape == (120, 2) and table.dtype == np.float64
        one = cross_val_predict(plain(MultiTaskClassifier, **self.SMALL), X, Y["buys"], cv=3)
        assert one.shape == (120,) and set(one) <= {0, 1}

    def test_folds_for_a_search_with_missing_labels(self, data):
        X, Y = data
        search = GridSearchCV(
            plain(MultiTaskClassifier, **self.SMALL),
            {"alpha": [1e-4, 1e-2]},
            cv=MultiTaskStratifiedKFold(2, random_state=0),
        ).fit(X, Y[["buys", "size"]])
        assert np.isfinite(search.cv_results_["mean_test_score"]).all()
