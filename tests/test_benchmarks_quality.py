"""The benchmark of quality measures and says what it should; no test looks at a clock."""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from test_benchmarks import imported


@pytest.fixture(scope="module")
def quality():
    return imported("bench_quality")


@pytest.fixture(scope="module")
def cells():
    return imported("_cells")


@pytest.fixture(scope="module")
def peers():
    return imported("_peers")


@pytest.fixture(scope="module")
def tables():
    return imported("_tables")


@pytest.fixture(scope="module")
def report():
    return imported("_quality_report")


@pytest.fixture(scope="module")
def measuring():
    return imported("_measuring")


@pytest.fixture(scope="module")
def results_file():
    return imported("_results_file")


@pytest.fixture(scope="module")
def sharing():
    return imported("_sharing_report")


@pytest.fixture(scope="module")
def quality_rows():
    return imported("_quality_rows")


@pytest.fixture(scope="module")
def ranks():
    return imported("_rank_picture")


def write(folder, meta, **columns):
    """A table as the folder of data has it."""
    folder.mkdir(parents=True)
    pd.DataFrame(columns).to_csv(folder / "data.csv", index=False)
    known = {"file": "data.csv", "categorical_columns": [], "sha256": "abc"}
    (folder / "meta.json").write_text(json.dumps(known | meta), encoding="utf-8")


# Tables as they come ----------------------------------------------------------------------


def test_a_table_comes_as_its_file_has_it(tables, tmp_path):
    n = np.arange(30)
    meta = {
        "feature_columns": ["x", "colour"],
        "categorical_columns": ["colour"],
        "target_columns": ["price", "grade"],
        "target_types": {"price": "regression (USD)", "grade": "multiclass (3)"},
        "group_column": "shop",
    }
    colour = np.where(n % 3, "red", None)
    x = np.where(n % 4, n, np.nan)
    columns = {"x": x, "colour": colour, "price": 2.0 * n, "grade": n % 3, "shop": n // 3}
    write(tmp_path / "deep" / "one", meta, **columns)
    whole = tables.read_whole(tmp_path, "deep/one", most_rows=99)
    assert whole.kinds == ["regression", "classification"]
    assert whole.X["colour"].dtype == "category"
    assert whole.X["colour"].isna().sum() == 10, "gaps stay gaps"
    np.testing.assert_array_equal(whole.X["x"], x)
    assert list(whole.X) == ["x", "colour"], "a group is no feature"
    np.testing.assert_array_equal(whole.groups, n // 3)
    part = tables.read_whole(tmp_path, "deep/one", most_rows=20)
    kept = part.Y["price"].to_numpy() // 2
    assert (len(kept), len(set(kept))) == (20, 20)
    np.testing.assert_array_equal(part.groups, kept // 3)
    with pytest.raises(FileNotFoundError, match=r"two.meta.json, expected the description"):
        tables.read_whole(tmp_path, "two", most_rows=20)


def test_disjoint_tasks_become_columns(tables, cells, tmp_path):
    meta = {
        "feature_columns": ["x"],
        "target_columns": ["score"],
        "target_types": {"score": "regression"},
        "group_column": "school",
        "task_layout": "disjoint tasks: each row belongs to one school",
    }
    school = np.repeat([7, 9], [20, 10])
    write(tmp_path / "schools", meta, x=np.arange(30), score=np.arange(30), school=school)
    table = tables.read_whole(tmp_path, "schools", most_rows=99)
    assert list(table.Y) == ["task 7", "task 9"]
    assert table.kinds == ["regression"] * 2
    np.testing.assert_array_equal(table.Y["task 9"][20:], np.arange(20, 30))
    assert table.Y["task 9"][:20].isna().all()
    assert table.groups is None, "rows of a school may be on both sides"
    for cell in cells.split("schools", table, range(5)):
        assert np.bincount(school[cell.test])[[7, 9]].tolist() == [4, 2]


def test_molecules_have_fingerprints_and_splits(tables, cells, tmp_path):
    bits = np.random.default_rng(0).integers(0, 2, (6, 16), dtype=np.uint8)
    part = np.array([0, 0, 0, 0, 1, 2])
    (tmp_path / "tox21").mkdir()
    np.savez(
        tmp_path / "tox21" / "data.npz",
        ecfp4_1024_packed=np.packbits(bits, axis=1),
        descriptors=np.arange(12.0).reshape(6, 2),
        descriptor_names=np.array(["mass", "charge"]),
        Y=np.eye(6)[:, :2],
        target_names=np.array(["toxic", "active"]),
        split_index=part,
        split_scaffold=part[::-1],
    )
    types = {"toxic": "binary", "active": "binary"}
    meta = {"file": "data.npz", "categorical_columns": [], "target_types": types}
    (tmp_path / "tox21" / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    table = tables.read_whole(tmp_path, "tox21", most_rows=99)
    np.testing.assert_array_equal(table.X.iloc[:, :16], bits)
    np.testing.assert_array_equal(table.X["charge"], np.arange(1.0, 12, 2))
    index, scaffold = cells.published(tmp_path, None, [0])
    assert (index.case, index.train.tolist(), index.test.tolist()) == (
        "tox21, index split",
        [0, 1, 2, 3],
        [4],
    )
    assert (scaffold.train.tolist(), scaffold.test.tolist()) == ([2, 3, 4, 5], [1])
    assert list(cells.published(tmp_path, ["clintox"], [0])) == []


def test_openml_is_read_as_its_frames_say(tables, monkeypatch):
    X = pd.DataFrame({"x": [1.0, 2.0, np.nan], "text": ["a", None, "b"]})
    Y = pd.DataFrame({"sick": pd.Categorical(["no", "yes", None]), "days": [1, 2, 3]})

    def fetch_openml(*, data_id, as_frame, parser):
        assert (data_id, as_frame) == (41471, True)
        return SimpleNamespace(data=X, target=Y, details={"version": "2"})

    monkeypatch.setattr(tables, "fetch_openml", fetch_openml)
    table = tables.from_openml(41471, most_rows=99)
    assert table.kinds == ["classification", "regression"]
    assert table.categorical == ["text"]
    assert table.X["text"].dtype == "category"
    assert table.Y["sick"].isna().tolist() == [False, False, True]
    assert table.sha256 == "openml 41471 version 2"
    assert len(tables.from_openml(41471, most_rows=2).X) == 2
    one = SimpleNamespace(data=X, target=Y["days"], details={})
    monkeypatch.setattr(tables, "fetch_openml", lambda **_: one)
    assert list(tables.from_openml(41471, most_rows=99).Y) == ["days"], "a single target too"


@pytest.mark.parametrize(
    ("frame", "groups"),
    [
        # Two spans of the same values that do not touch are two runs.
        ({name: [1, 1, 2, 2, 1] for name in ("cooler", "valve", "pump_leak")}, [1, 1, 2, 2, 3]),
        ({name: [1, 1, 1, 1, 1] for name in ("cooler", "valve", "pump_leak")}, [1, 1, 1, 1, 1]),
    ],
)
def test_runs_of_equal_rows(tables, frame, groups):
    Y = pd.DataFrame(frame | {"accumulator": 0})
    np.testing.assert_array_equal(tables.GROUPS["hydraulic"](None, Y, None), groups)


def test_weeks_days_pupils_and_doubles(tables):
    times = pd.DataFrame(
        {"timestamp": ["2004-03-10 18:00", "2004-03-16 18:00", "2004-03-18 00:00"]}
    )
    np.testing.assert_array_equal(tables.GROUPS["air_quality"](None, None, times), [0, 0, 1])
    days = pd.DataFrame({"dteday": ["2011-01-01", "2011-01-02", "2011-01-01"]})
    first, second, third = tables.GROUPS["bike_sharing"](None, None, days)
    assert first == third != second
    X, Y = pd.DataFrame({"x": [1.0, 1.0, np.nan, np.nan]}), pd.DataFrame({"y": [1, 2, 3, 3]})
    doubles = tables.GROUPS["tecator"](X, Y, None)
    assert doubles[2] == doubles[3], "gaps are equal to gaps"
    assert len(set(doubles)) == 3
    pupils = pd.DataFrame({name: [0, 0, 1] for name in tables.PUPIL} | {"absences": [1, 2, 3]})
    first, second, third = tables.GROUPS["student"](pupils, None, None)
    assert first == second != third


# Cells ------------------------------------------------------------------------------------


def test_every_row_is_tested_once_and_groups_are_whole(cells, tables):
    table = tables.made_up()
    for groups in (None, np.arange(len(table.X)) // 4):
        folds = list(cells.split("t", replace(table, groups=groups), range(5)))
        rows = np.concatenate([cell.test for cell in folds])
        assert sorted(rows) == list(range(len(table.X)))
        if groups is not None:
            for cell in folds:
                assert not set(groups[cell.train]) & set(groups[cell.test])
    (third,) = cells.split("t", table, [2])
    assert third.fold == 2


def test_a_cell_is_known_by_its_table_and_its_rows(cells, tables):
    table = replace(tables.made_up(), sha256="a" * 64)
    first, second = cells.split("t", table, [0, 1])
    assert first.known_by() != second.known_by()
    (again,) = cells.split("another name", table, [0])
    assert again.known_by() == first.known_by()
    (other,) = cells.split("t", replace(table, sha256="b" * 64), [0])
    assert other.known_by() != first.known_by()


def test_tasks_without_labels_on_both_sides_cannot_be_judged(cells, tables):
    table = tables.made_up()
    (cell,) = cells.split("t", table, [0])
    assert cell.tasks() == [0, 1, 2]
    Y = table.Y.copy()
    Y.loc[cell.train, "three"] = np.nan
    Y.loc[cell.test, "amount"] = np.nan
    assert replace(cell, table=replace(table, Y=Y)).tasks() == [0]


def test_published_folds_of_amounts(cells, tables, tmp_path, monkeypatch):
    meta = {
        "feature_columns": ["x"],
        "target_columns": ["y"],
        "target_types": {"y": "regression"},
    }
    write(tmp_path / "mtr" / "enb", meta, x=np.arange(50), y=np.arange(50))
    write(tmp_path / "mtr" / "rf1", meta, x=np.arange(50), y=np.arange(50))
    monkeypatch.setitem(cells.HELD_OUT, "mtr/rf1", 30)
    found = list(cells.published(tmp_path, None, range(5)))
    assert [(cell.case, cell.fold) for cell in found] == [
        *[("mtr/enb, ten folds", fold) for fold in range(5)],
        ("mtr/rf1, first rows train", 0),
    ]
    assert {cell.protocol for cell in found} == {"Mulan"}
    assert [len(cell.test) for cell in found] == [5] * 5 + [20]
    assert found[-1].train.max() < found[-1].test.min()
    write(tmp_path / "census_income_kdd", meta, x=np.arange(50), y=np.arange(50))
    *_, halves = cells.published(tmp_path, None, [])
    assert (halves.case, len(halves.train)) == ("census_income_kdd, halves", 25)


# Scores -----------------------------------------------------------------------------------


def test_area_by_hand(peers):
    y = np.array(["a", "b", "b", "a"])
    p = np.array([0.1, 0.9, 0.4, 0.6])[:, None]
    both = np.hstack([1 - p, p])
    # Of the four pairs of a "b" and an "a", (0.4, 0.6) is in the wrong order.
    assert peers.area(y, np.array(["a", "b"]), both) == 0.75
    assert peers.area(np.array(["a", "a"]), np.array(["a", "b"]), both[:2]) is None


def test_area_of_many_classes_is_the_mean_over_those_that_rows_have(peers):
    y = np.array([0, 0, 1, 1])
    p = np.array([[0.5, 0.2, 0.3], [0.4, 0.1, 0.5], [0.4, 0.3, 0.3], [0.3, 0.6, 0.1]])
    # Class 0: pairs (0.5, 0.4), (0.5, 0.3), (0.4, 0.4) a tie, (0.4, 0.3). Class 1: all right.
    assert peers.area(y, np.arange(3), p) == pytest.approx((3.5 / 4 + 1.0) / 2)
    # Class 9 was not in the training rows: nothing can be said of it, which is worth 1/2.
    assert peers.area(np.array([0, 0, 9, 9]), np.arange(3), p) == pytest.approx((3.5 / 4 + 0.5) / 2)
    assert peers.area(np.array([0, 1, 1, 9]), np.array([1]), np.ones((4, 1))) == 0.5


def test_one_less_rrmse_by_hand(peers):
    # Errors 1 and 1; the training mean of 5 misses 6 and 8 by 1 and 3.
    errors, of_mean = peers.squares(np.array([6.0, 8.0]), np.array([7.0, 7.0]), 5.0)
    assert (errors, of_mean) == (2.0, 10.0)
    assert peers.one_less_rrmse(errors, of_mean) == pytest.approx(1 - math.sqrt(0.2))
    assert peers.one_less_rrmse(of_mean, of_mean) == 0.0, "what the mean is worth"
    assert peers.one_less_rrmse(1.0, 0.0) is None


def test_calibration_error_by_hand(peers):
    # Confidence 0.9 twice, right once; 0.6 twice, right twice: (|1 - 1.8| + |2 - 1.2|) / 4.
    p = np.array([[0.9, 0.1], [0.1, 0.9], [0.6, 0.4], [0.4, 0.6]])
    y = np.array([0, 0, 0, 1])
    assert peers.calibration_error(y, np.arange(2), p) == pytest.approx(0.4)
    sure = np.eye(2)[[0, 0, 0, 1]]
    assert peers.calibration_error(y, np.arange(2), sure) == 0.0
    # Errors in one bin cancel: with a single bin 3 of 4 are right, where 0.75 was said.
    assert peers.calibration_error(y, np.arange(2), p, n_bins=1) == pytest.approx(0.0)


def test_what_is_kept_of_predictions(cells, tables):
    table = tables.made_up()
    (cell,) = cells.split("t", table, [0])
    amounts = table.Y["amount"].iloc[cell.test].to_numpy()
    mean = table.Y["amount"].iloc[cell.train].mean()
    p = np.full((len(cell.test), 2), 0.5)
    found = cells.judged(cell, {0: (np.array([0.0, 1.0]), p), 2: amounts})
    assert found["task_scores"] == {"two": 0.5, "amount": 1.0}
    assert found["score"] == 0.75
    assert found["squares"]["amount"] == pytest.approx([0.0, np.sum((amounts - mean) ** 2)])
    assert found["calibration"].keys() == {"two"}
    worse = cells.judged(cell, {2: np.full(len(amounts), mean)})
    assert worse["score"] == 0.0
    assert cells.judged(cell, {2: np.full(len(amounts), np.nan)})["score"] is None


# Contenders -------------------------------------------------------------------------------

INSTALLED = ["ridge_logistic", "histgb", "random_forest", "extra_trees", "sklearn_mlp"]


@pytest.fixture
def cell(cells, tables):
    (found,) = cells.split("made up", tables.made_up(200, as_it_comes=True), [0])
    return found


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("name", INSTALLED)
def test_peers_learn_from_frames_with_categories_and_gaps(cells, peers, cell, name):
    predictions, cost = cells.run_peer(peers.PEERS[name], cell, 1, math.inf)
    assert cells.judged(cell, predictions)["score"] > 0.5
    assert len(cost) == 2


def test_a_peer_sees_the_labelled_training_rows_of_its_task(cells, peers, cell, monkeypatch):
    fitted = []

    class Spy:
        def fit(self, X, y):
            fitted.append((X, y))
            return self

        def predict_proba(self, X):
            return np.full((len(X), 2), 0.5)

        predict = predict_proba

    monkeypatch.setattr(peers.Peer, "model", lambda *args: Spy())
    table = cell.table
    only = replace(table, Y=table.Y[["two"]].replace({0.0: 5.0, 1.0: 9.0}), kinds=table.kinds[:1])
    predictions, _ = cells.run_peer(peers.PEERS["histgb"], replace(cell, table=only), 1, math.inf)
    ((X, y),) = fitted
    rows = table.Y["two"].iloc[cell.train].dropna()
    assert list(X.index) == list(rows.index)
    np.testing.assert_array_equal(y, rows)  # 0 and 1, as some want classes
    np.testing.assert_array_equal(predictions[0][0], [5.0, 9.0])
    assert predictions[0][1].shape == (len(cell.test), 2)


def test_a_constant_label_is_predicted_without_a_model(cells):
    p, cost = cells.one_task(None, "classification", None, np.array(["a", "a"]), np.empty(3))
    assert (p[0].tolist(), p[1].tolist(), cost) == (["a"], [[1.0]] * 3, [0.0, 0.0])
    amounts, _ = cells.one_task(None, "regression", None, np.array([4.0, 4.0]), np.empty(3))
    assert amounts.tolist() == [4.0] * 3


def test_a_slow_peer_is_stopped_between_tasks(cells, peers, cell, monkeypatch):
    seconds = iter([0.0, 2.0, 2.0, 2.0])  # the first fit takes 2 s, its predictions none
    monkeypatch.setattr(cells, "cpu_seconds", lambda: next(seconds))
    with pytest.raises(cells.TooSlow, match="about 6 s, 1 of 3 tasks were fitted") as error:
        cells.run_peer(peers.PEERS["extra_trees"], cell, 1, limit=5.0)
    assert error.value.seconds == 6.0


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_ours_as_one_estimator_a_task(cells, cell, measuring):
    """What a task's estimator predicts is what it predicts when it is fitted by hand."""
    small = {"hidden_layer_sizes": (4,), "max_iter": 2}
    predictions, cost = cells.run_peer(cells.OneTask(small), cell, 1, math.inf)
    assert list(predictions) == cell.tasks()
    assert min(cost) > 0.0
    y = cell.table.Y["two"].iloc[cell.train].dropna()
    model = cells.estimator(["classification"], small).fit(cell.table.X.loc[y.index], y)
    test = cell.table.X.iloc[cell.test]
    np.testing.assert_array_equal(predictions[0][1], model.predict_proba(test))
    together, _ = cells.run_ours(small, cell)
    assert not np.allclose(predictions[0][1], together[0][1]), "nothing is shared"
    alone = measuring.Contender("a", None, small, one_a_task=True)
    assert alone.known_by()["made_by"].endswith("one a task")
    np.testing.assert_array_equal(alone.run(cell, 1, math.inf)[0][0][1], predictions[0][1])


def test_what_peers_are_given(peers):
    X = pd.DataFrame({"a [m]": [1.0, np.nan], "b": pd.Categorical([2.0, None])})
    given = {name: peer.frame(X, ["b"]) for name, peer in peers.PEERS.items()}
    for name, (frame, categorical) in given.items():
        assert list(frame) == ["column 0", "column 1"], name
        assert categorical == ["column 1"]
        assert frame["column 0"].isna().tolist() == [False, True]
    assert given["catboost"][0]["column 1"].tolist() == ["2.0", "missing"]
    named = given["xgboost"][0]["column 1"]
    assert (named.dtype, list(named.cat.categories)) == ("category", ["2.0"])
    assert given["histgb"][0]["column 1"].cat.categories.dtype == float
    assert list(X) == ["a [m]", "b"], "the user's frame is as it was"


def test_gaps_are_filled_by_the_training_rows_and_categories_stay(peers):
    X = pd.DataFrame({"a": [1.0, 2.0, 9.0, np.nan], "b": pd.Categorical(["x", None, "y", "x"])})
    filled = peers.preprocessing("filled").fit(X[:3]).transform(X)
    assert filled["a"].tolist() == [1.0, 2.0, 9.0, 2.0]
    assert filled["b"].dtype == "category"
    assert filled["b"].isna().tolist() == [False, True, False, False]
    plain = peers.preprocessing("one_hot").fit(X[:3]).transform(X)
    assert plain[:, 0].tolist() == [1.0, 2.0, 9.0, 2.0]
    assert plain.shape == (4, 1 + 3), "a gap is a category too"
    scaled = peers.preprocessing("scaled").fit(X[:3]).transform(X)
    assert scaled[:3, 0].mean() == pytest.approx(0.0)


def test_peers_are_known_by_versions_and_parameters(peers):
    ours = peers.PEERS["histgb"]
    assert "scikit-learn" in ours.made_by()
    assert "'random_state': 0" in ours.made_by()
    assert replace(ours, parameters={"max_iter": 3}).made_by() != ours.made_by()
    assert replace(ours, package="no such package").made_by() is None
    catboost = peers.PEERS["catboost_500"]
    assert catboost.parameters["iterations"] == 500
    assert "iterations" not in peers.PEERS["catboost"].parameters


def test_one_model_for_the_rows_of_all_tasks(cells, peers):
    """A task's level is learned although no feature tells it: the task is a category."""
    task = np.arange(60) % 3
    y = 10.0 * task
    X = pd.DataFrame({"x": np.random.default_rng(0).normal(size=60)})
    Y = pd.DataFrame({f"task {i}": np.where(task == i, y, np.nan) for i in range(3)})
    tables = imported("_tables")
    table = tables.Table(X, Y, ["regression"] * 3, [], task_of_row=task)
    (cell,) = cells.split("t", table, [0])
    predictions, _ = cells.run_pooled(peers.PEERS["ridge_logistic_pooled"], cell, 1)
    assert predictions.keys() == {0, 1, 2}
    assert np.abs(predictions[0] - y[cell.test]).max() < 0.5


def test_contenders_suit_tables(quality, cell):
    everyone = quality.contenders(quick=False)
    amounts = replace(cell.table, Y=cell.table.Y[["amount"]], kinds=["regression"])
    gaps = replace(amounts, Y=amounts.Y.mask(amounts.Y > 0))
    disjoint = replace(gaps, task_of_row=np.zeros(len(gaps.X)))
    suiting = {
        name: [everyone[name].suits(table) for table in (cell.table, amounts, gaps, disjoint)]
        for name in ("sk_mtl", "catboost", "xgboost_multi", "histgb_pooled")
    }
    assert suiting == {
        "sk_mtl": [True] * 4,
        "catboost": [True] * 4,
        "xgboost_multi": [False, True, False, False],
        "histgb_pooled": [False, False, False, True],
    }


@pytest.mark.parametrize(
    ("kinds", "name"),
    [
        (["classification"] * 2, "MultiTaskClassifier"),
        (["regression"], "MultiTaskRegressor"),
        (["classification", "regression"], "MultiTaskEstimator"),
    ],
)
def test_ours_is_chosen_by_the_kinds_of_tasks(cells, kinds, name):
    model = cells.estimator(kinds, {"trunk": "single_task"})
    assert type(model).__name__ == name
    assert model.trunk == "single_task"
    assert model.random_state == 0
    default = type(model)().get_params()
    changed = {k for k, v in model.get_params().items() if v != default[k]}
    assert changed <= {"trunk", "random_state", "tasks"}, "all else is what a user gets"


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("tasks", [[0, 1], [0, 2]])
def test_predictions_of_ours_are_of_their_tasks(cells, cell, quality, tasks):
    table = cell.table
    X = table.X[["a", "b", "c"]]  # what is asked here is not how columns are read
    part = replace(table, X=X, Y=table.Y.iloc[:, tasks], kinds=[table.kinds[t] for t in tasks])
    part = replace(cell, table=replace(part, categorical=[]))
    predictions, cost = cells.run_ours(quality.QUICK, part)
    assert list(predictions) == list(range(len(tasks)))
    model = cells.estimator(part.table.kinds, quality.QUICK)
    model.fit(X.iloc[cell.train], part.table.Y.iloc[cell.train])
    for i, task in enumerate(tasks):
        if table.kinds[task] == "regression":
            expected = model.predict(X.iloc[cell.test])[:, i].astype(float)
            np.testing.assert_allclose(predictions[i], expected)
        else:
            expected = model.predict_proba(X.iloc[cell.test])[i]
            np.testing.assert_allclose(predictions[i][1], expected)
            known = table.Y.iloc[cell.train, task].dropna()
            np.testing.assert_array_equal(predictions[i][0], np.unique(known))
    assert len(cost) == 2


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("task", [0, 2])
def test_one_task_is_fitted_on_its_labelled_rows(cells, cell, quality, task):
    table = replace(cell.table, X=cell.table.X[["a", "b"]], categorical=[])
    alone = replace(table, Y=table.Y.iloc[:, [task]], kinds=[table.kinds[task]])
    predictions, _ = cells.run_ours(quality.QUICK, replace(cell, table=alone))
    assert cells.judged(replace(cell, table=alone), predictions)["score"] is not None
    found = predictions[0][1] if task == 0 else predictions[0]
    assert found.shape == ((len(cell.test), 2) if task == 0 else (len(cell.test),))


# The file ---------------------------------------------------------------------------------


@pytest.fixture
def run(quality, tmp_path, monkeypatch):
    """Run the benchmark with what takes no time, and return the places that were measured."""
    measured = []

    def attempt(contender, cell, options):
        if cell.case == "tiny":
            return "skipped", {}
        measured.append((cell.case, cell.fold, contender.name))
        return outcomes.get(contender.name, ("rows", made_row(0.5)))

    def main(*options, **other):
        outcomes.clear()
        outcomes.update(other)
        measured.clear()
        quality.main(["--quick", "--folds", "0", "1", "--output", str(tmp_path), *options])
        return list(measured)

    outcomes: dict[str, object] = {}
    monkeypatch.setattr(quality, "attempt", attempt)
    main.content = lambda: json.loads((tmp_path / "quality.json").read_text(encoding="utf-8"))
    return main


def made_row(score, **more):
    row = {"score": score, "task_scores": {"y": score, "z": score, "w": score}, "squares": {}}
    row |= {"calibration": {}, "fit_cpu": 1.0, "predict_cpu": 0.5, "wall": 2.0}
    return row | {"n_train": 8, "n_test": 2, "threads": 1} | more


QUICK_ONES = ["sk_mtl", "single_task", "one_a_task", "ridge_logistic", "extra_trees"]


def test_quality_goes_on_where_it_was_left(quality, peers, run, tables, measuring, monkeypatch):
    everything = [("made up", fold, name) for fold in (0, 1) for name in QUICK_ONES]
    assert run() == everything, "the first fold of all comes first"
    assert run() == [], "nothing is measured twice"
    places = [(row["case"], row["fold"], row["contender"]) for row in run.content()["rows"]]
    assert places == everything
    assert run("--again", "single_task") == [("made up", f, "single_task") for f in (0, 1)]
    monkeypatch.setitem(quality.OURS, "single_task", {"trunk": "single_task", "alpha": 1.0})
    assert {name for _, _, name in run()} == {"single_task"}, "it has other parameters now"
    changed = replace(peers.PEERS["extra_trees"], parameters={"random_state": 1})
    monkeypatch.setitem(peers.PEERS, "extra_trees", changed)
    assert {name for _, _, name in run()} == {"extra_trees"}
    table = replace(tables.made_up(as_it_comes=True), sha256="another")
    monkeypatch.setattr(measuring, "made_up", lambda as_it_comes: table)
    assert run() == everything
    assert len(run.content()["rows"]) == len(everything), "new rows take the places of the old"


def test_other_code_of_ours_counts_when_asked(measuring, run, monkeypatch):
    run()
    version = measuring.own("version")
    monkeypatch.setattr(measuring, "own", lambda what: "1" if what == "code" else version)
    assert run() == []
    assert {name for _, _, name in run("--renew")} == set(QUICK_ONES[:3])
    assert run("--renew") == []


def test_what_fails_is_said_and_tried_again(run):
    failed = ("skipped", {"reason": "ValueError: no"})
    run(extra_trees=failed)
    content = run.content()
    assert [(s["contender"], s["reason"]) for s in content["skipped"]] == [
        ("extra_trees", "ValueError: no")
    ] * 2
    assert len(content["rows"]) == 8
    assert run() == [("made up", fold, "extra_trees") for fold in (0, 1)]
    assert run.content()["skipped"] == []


def test_what_was_too_slow_once_is_not_tried_with_the_next_fold(run):
    slow = ("skipped", {"reason": "too slow: about 90 s, 1 of 3 tasks", "seconds": 90})
    options = ("--max-seconds-per-fit", "60")
    assert run(*options, extra_trees=slow).count(("made up", 1, "extra_trees")) == 0
    skipped = run.content()["skipped"]
    assert [s["fold"] for s in skipped] == [0, 1]
    assert {s["reason"] for s in skipped} == {"too slow: about 90 s, 1 of 3 tasks"}
    assert run(*options) == []
    more = run("--max-seconds-per-fit", "100")
    assert more == [("made up", fold, "extra_trees") for fold in (0, 1)]


def test_what_took_long_once_is_not_measured_on_more_folds(run):
    options = ("--max-seconds-per-fit", "60")
    run(*options, extra_trees=("rows", made_row(0.5, fit_cpu=80.0)))
    (skip,) = run.content()["skipped"]
    assert (skip["fold"], skip["reason"]) == (1, "too slow: fold 0 took 80 s")
    assert len(run.content()["rows"]) == 9, "what was measured is kept"


def test_peers_that_are_not_installed_are_said_to_be(peers, run, monkeypatch):
    absent = replace(peers.PEERS["extra_trees"], package="no such package")
    run("--folds", "0")
    monkeypatch.setitem(peers.PEERS, "extra_trees", absent)
    run()
    content = run.content()
    assert [(s["fold"], s["reason"]) for s in content["skipped"]] == [(1, "not installed")]
    there = [row["fold"] for row in content["rows"] if row["contender"] == "extra_trees"]
    assert there == [0], "what another Python measured stays"


def test_a_budget_stops_cleanly(run, capsys):
    assert run("--budget", "0") == []
    assert "stopped after 0 s, as asked for" in capsys.readouterr().out
    assert len(run()) == 10


def test_a_report_measures_nothing(run, tmp_path):
    assert len(run()) == 10
    before = run.content()
    assert run("--report") == []
    assert run.content() == before
    said = (tmp_path / "quality.md").read_text(encoding="utf-8")
    assert "| made up | 2 | **0.5000** |" in said


def test_contenders_are_chosen_by_name_and_by_group(quality, run, monkeypatch):
    assert {n for _, _, n in run("--contender", "ours")} == set(QUICK_ONES[:3])
    monkeypatch.setattr(quality, "ABLATIONS", {"no dropout": {"dropout": 0.0}})
    assert {n for _, _, n in run("--contender", "ablations")} == {"no dropout"}
    assert {n for _, _, n in run("--contender", "extra_trees")} == {"extra_trees"}
    assert run("--contender", "ours", "--contender", "sk_mtl", "--again", "sk_mtl") == [
        ("made up", fold, "sk_mtl") for fold in (0, 1)
    ], "named twice is measured once"
    with pytest.raises(SystemExit, match="Got contender 'catbost', expected one of"):
        run("--contender", "catbost")


def test_two_runs_share_a_file(results_file, tmp_path):
    head = {"quick": False, "settings": {"tables": {}}}
    one, two = (
        results_file.File(tmp_path / "f.json", head | {"settings": {"tables": {name: 1}}})
        for name in "ab"
    )
    one.add("rows", {"case": "a", "fold": 0, "contender": "x", "score": 1.0})
    two.add("rows", {"case": "b", "fold": 0, "contender": "x", "score": 2.0})
    one.add("skipped", {"case": "a", "fold": 0, "contender": "x", "reason": "no"})
    content = json.loads((tmp_path / "f.json").read_text(encoding="utf-8"))
    assert [row["case"] for row in content["rows"]] == ["b"]
    assert content["settings"]["tables"] == {"a": 1, "b": 1}
    quick = results_file.File(tmp_path / "f.json", head | {"quick": True})
    assert quick.read()["rows"] == [], "a smoke test is no result"


def test_an_attempt_that_fails_stops_nobody(quality, cell):
    class Failing:
        def run(self, *args):
            raise ValueError("first line\nsecond line")

    options = SimpleNamespace(threads=1, max_seconds_per_fit=math.inf)
    kind, entry = quality.attempt(Failing(), cell, options)
    assert (kind, entry) == ("skipped", {"reason": "ValueError: first line"})


def test_every_contender_can_fit_the_tiny_cell(quality, cells):
    options = SimpleNamespace(threads=1, max_seconds_per_fit=math.inf)
    cell = cells.tiny()
    for contender in quality.contenders(quick=True).values():
        assert contender.suits(cell.table)
        if contender.known_by()["made_by"] is not None:
            kind, entry = quality.attempt(contender, cell, options)
            assert kind == "rows", entry


def test_quality_asks_for_tables(quality, monkeypatch, capsys):
    monkeypatch.delenv("SK_MTL_DATA", raising=False)
    with pytest.raises(SystemExit):
        quality.main([])
    assert "Got no folder of tables, expected one. Pass --data FOLDER" in capsys.readouterr().err


def test_tables_come_the_cheapest_first(quality, tables, tmp_path, monkeypatch):
    meta = {"feature_columns": ["x"], "target_columns": ["y"], "target_types": {"y": "regression"}}
    for name, n in {"long": 30, "mtr/short": 10, "qm8": 20}.items():
        write(tmp_path / name, meta, x=np.arange(n), y=np.arange(n))
    options = quality.arguments(["--data", str(tmp_path)])
    assert list(quality.read_all(options)) == ["mtr/short", "long"]
    options = quality.arguments(["--data", str(tmp_path), "--most-rows", "20"])
    assert list(quality.read_all(options)) == ["mtr/short"]
    options = quality.arguments(["--data", str(tmp_path), "--table", "qm8", "--openml", "3"])
    monkeypatch.setattr(quality, "from_openml", lambda number, most: tables.made_up())
    assert list(quality.read_all(options)) == ["qm8", "openml 3"]


# The report -------------------------------------------------------------------------------


def results(scores, ablations=(), **more):
    """A file with a row for every score, by contender, table and fold."""
    rows = [
        {"case": case, "fold": fold, "contender": name, "made_by": "x", **made_row(score), **more}
        for name, by_table in scores.items()
        for case, folds in by_table.items()
        for fold, score in enumerate(folds)
    ]
    settings = {"ours": "sk_mtl", "ablations": list(ablations), "tables": {}}
    head = {"machine": {"cpu": "a CPU"}, "threads": 1, "settings": settings, "skipped": []}
    return head | {"rows": rows}


def test_summary_of_a_hand_worked_case(report):
    found = report.comparison(
        results(
            {
                "sk_mtl": {"r": [0.8, 0.6], "s": [0.5, 0.5]},
                "histgb": {"r": [0.6, 0.6], "s": [0.7, 0.5], "t": [0.9, 0.9]},
                "realmlp": {"r": [0.9]},
            }
        )
    )
    ours, histgb = sorted(found["summary"], key=lambda entry: entry["contender"], reverse=True)
    # On r 0.7 against 0.6, on s 0.5 against 0.6.
    assert (ours["mean_rank"], histgb["mean_rank"]) == (1.5, 1.5)
    assert (ours["wins"], histgb["wins"]) == (1, 1)
    assert (ours["mean_score"], histgb["mean_score"]) == pytest.approx((0.6, 0.6))
    assert histgb["difference"] == pytest.approx(0.0)
    # Differences -0.1 and 0.1: their standard error is 0.1, and t for one degree is 12.706.
    assert histgb["interval"] == pytest.approx((-1.2706, 1.2706), abs=1e-4)
    assert ours["interval"] is None
    assert (histgb["fit_cpu"], histgb["predict_cpu"]) == (4.0, 2.0), "of the compared cells"
    assert (found["others"], found["tables"]) == (["realmlp"], ["r", "s"])


def test_who_lacks_a_table_is_compared_on_the_cells_that_it_has(report):
    content = results(
        {
            "sk_mtl": {"r": [0.8, 0.6], "s": [0.5, 0.5]},
            "histgb": {"r": [0.6, 0.6], "s": [0.7, 0.5]},
            "realmlp": {"r": [0.9]},
        }
    )
    alone = report.comparison(content, "realmlp")
    assert alone["cells"] == [("r", 0)]
    assert alone["scores"] == {"sk_mtl": {"r": 0.8}, "histgb": {"r": 0.6}, "realmlp": {"r": 0.9}}
    text = report.text(content)
    assert "## On the cells of realmlp\n\n1 tables, 1 cells" in text
    assert "| r | 2 | **0.7000** | 0.6000 |" in text
    assert "## All at once" not in report.text(results({})), "before anything is measured"


def test_a_table_that_one_of_them_lacks_is_dropped_and_said_to_be(report):
    ours = {case: [0.8] for case in "abcdef"}
    content = results(
        {
            "sk_mtl": ours,
            "histgb": ours,
            "catboost": {c: [0.9] for c in "abcde"},
            "tabm": {"f": [1]},
        }
    )
    found = report.comparison(content)
    assert [e["contender"] for e in found["summary"]] == ["catboost", "sk_mtl", "histgb"]
    assert (found["tables"], found["dropped"]) == (list("abcde"), {"f": ["catboost"]})
    assert "Without tables that somebody lacks: f (catboost)." in report.text(content)
    said = report.one_by_one(content, "sk_mtl")
    assert "| histgb | 6 | 6 | 0.8000 | +0.0000 |" in said, "on all that the two share"
    assert "| catboost | 5 | 5 | 0.9000 | +0.1000 |" in said
    assert "| tabm | 1 | 1 | 1.0000 | +0.2000 |" in said


def test_before_ours_is_measured_peers_are_compared(report):
    found = report.comparison(results({"histgb": {"r": [0.5]}, "lightgbm": {"r": [0.6]}}))
    assert found["baseline"] == "histgb"


def test_ablations_stand_apart(report):
    scores = {"sk_mtl": {"r": [0.8], "s": [0.5]}, "no members": {"r": [0.7], "s": [0.5]}}
    content = results(scores, ablations=["no members"])
    assert [e["contender"] for e in report.comparison(content)["summary"]] == ["sk_mtl"]
    assert "| no members | 2 | -0.0500 |" in report.ingredients(content)
    assert report.ingredients(results(scores)) == ""


def test_rows_of_another_protocol_stay(results_file, tmp_path):
    file = results_file.File(tmp_path / "f.json", {"quick": False, "settings": {"tables": {}}})
    row = {"case": "a", "fold": 0, "contender": "x"}
    for protocol in ("splits", "folds", "splits"):
        file.add("rows", row | {"protocol": protocol})
    assert [row["protocol"] for row in file.read()["rows"]] == ["folds", "splits"]
    file.add("rows", row)  # of before there were protocols
    assert [row.get("protocol") for row in file.read()["rows"]] == ["splits", None]


SETTINGS = {"sk_mtl": {}, "no path": {"linear_path": False}, "more": {"n_members": 16}}


def test_what_costs_less_or_more_stands_beside_the_defaults(report):
    content = results(
        {
            "sk_mtl": {"r": [0.8, 0.6], "s": [0.5]},
            "no path": {"r": [0.8], "s": [0.4]},
            "more": {"r": [0.9, 0.6]},
            "histgb": {"r": [0.7, 0.7], "s": [0.5]},
        },
        ablations=["no path"],
    )
    content["settings"]["spending"] = SETTINGS
    for row in content["rows"]:
        if row["contender"] == "more":
            row["fit_cpu"] = 2.0 + row["fold"]
    said = report.spending(content)
    assert "| r | the defaults | 1.0, 1.0 | 1.00 | 0.7000 | +0.0000 |" in said
    assert "| r | `linear_path=False` | 1.0 | 1.00 | 0.8000 | +0.0000 |" in said, "one fold"
    assert "| r | `n_members=16` | 2.0, 3.0 | 2.50 | 0.7500 | +0.0500 |" in said
    assert "| s |" not in said, "nobody was measured there for what it costs"
    names = {entry["contender"] for entry in report.comparison(content)["summary"]}
    assert names == {"sk_mtl", "histgb"}, "they are not compared with peers"
    assert "more" not in report.one_by_one(content, "sk_mtl")
    assert "no path" in report.ingredients(content)
    assert "n_members" not in report.ingredients(content)
    del content["settings"]["spending"]  # a file of before there were settings
    assert report.spending(content) == ""


def test_spending_is_of_those_that_the_estimator_knows(quality, cells):
    assert set(quality.SPENT) <= set(quality.parameters())
    assert set(quality.SPENDING) <= set(quality.SPENT)
    spent = quality.settings()["spending"]
    assert spent["sk_mtl"] == {}
    for given in spent.values():
        model = cells.estimator(["classification", "regression"], given)
        assert given.items() <= model.get_params(deep=False).items()


def test_squares_are_pooled_where_folds_hardly_vary(quality_rows):
    rows = [
        {"score": -9.0, "squares": {"flares": [1.0, 0.01]}},
        {"score": 0.5, "squares": {"flares": [24.0, 99.99]}},
    ]
    assert quality_rows.table_score("mtr/sf2", rows) == pytest.approx(1 - math.sqrt(25 / 100))
    assert quality_rows.table_score("mtr/enb", rows) == pytest.approx((-9 + 0.5) / 2)


def test_what_shares_nothing_is_no_rival(report):
    """It is ours, too: it would push every peer down by a rank."""
    scores = {"histgb": {"r": [0.6], "s": [0.6]}, "single_task": {"r": [0.5], "s": [0.5]}}
    found = report.comparison(results({"sk_mtl": {"r": [0.8], "s": [0.8]}} | scores))
    assert [entry["contender"] for entry in found["summary"]] == ["sk_mtl", "histgb"]
    assert found["others"] == ["single_task"]
    assert "## On the cells of single_task" in report.text(
        results({"sk_mtl": {"r": [0.8]}} | scores)
    )
    without = report.comparison(results(scores))  # ours has not been measured yet
    assert without["baseline"] == "histgb"
    assert "## Each with histgb" in report.text(results(scores))
    assert report.comparison(results({"single_task": {"r": [0.5]}}))["baseline"] == "single_task"


def test_tables_where_ours_is_behind(report):
    content = results(
        {
            "sk_mtl": {"r": [0.8], "s": [0.50], "t": [0.5]},
            "histgb": {"r": [0.6], "s": [0.51], "t": [0.6]},
            "realmlp": {"t": [0.7]},
            "single_task": {"s": [0.9]},
        }
    )
    said = report.behind(content)
    assert "| t | 0.5000 | realmlp | 0.7000 | +0.2000 |" in said
    assert "| r |" not in said
    assert "| s |" not in said, "0.01 is close enough, and single_task is ours"
    assert report.behind(results({"sk_mtl": {"r": [0.8]}, "histgb": {"r": [0.8]}})) == (
        "On no table by more than 0.02."
    )
    assert report.behind(results({"histgb": {"r": [0.8]}})) == "Ours has not been measured."


def test_relative_gain_by_hand(sharing):
    # An area of 0.9 against 0.8; an RRMSE of 0.3 against 0.4; a task that was not judged.
    mine = {"task_scores": {"c": 0.9, "a": 0.7, "n": None}}
    alone = {"task_scores": {"c": 0.8, "a": 0.6, "n": 0.5}, "squares": {"a": [1.0, 2.0]}}
    assert sharing.relative_gain(mine, alone) == pytest.approx((0.1 / 0.8 + 0.1 / 0.4) / 2)
    assert sharing.relative_gain({"task_scores": {"n": None}}, alone) is None


def test_sharing_counts_tables_of_three_tasks(report):
    content = results({"sk_mtl": {"r": [0.6, 0.6]}, "single_task": {"r": [0.5, 0.4]}})
    said = report.sharing(content)
    assert "on 1 tables with 3 or more tasks: +35.00%." in said
    assert "CPU of fits: 2 s against 2 s" in said
    assert "| r | +35.00% |" in said
    both = {"sk_mtl": {"r": [0.6], "s": [0.6]}, "single_task": {"s": [0.5]}}
    said = report.sharing(results(both | {"one_a_task": {"r": [0.4]}}))
    assert "that a table has, on 2 tables: +35.00%, 95 % " in said
    assert "over `single_task` on 1 tables" in said
    assert "over `one_a_task` on 1 tables" in said
    assert "| r |  | +50.00% |" in said
    assert "| s | +20.00% |  |" in said
    disagreeing = {"single_task": {"r": [0.5], "s": [0.3]}, "one_a_task": {"r": [0.3], "s": [0.5]}}
    said = report.sharing(results({"sk_mtl": {"r": [0.6], "s": [0.6]}} | disagreeing))
    assert said.index("| s | +100.00% |") < said.index("| r | +20.00% |"), "by the first of the two"
    few = results(
        {"sk_mtl": {"r": [0.6]}, "single_task": {"r": [0.5]}}, task_scores={"y": 0.5, "z": 0.5}
    )
    assert report.sharing(few) == ""


def test_published_splits_stand_beside_what_was_published(report):
    case = "tox21, index split"
    scores = {"sk_mtl": {case: [0.8]}, "random_forest": {case: [0.75]}}
    content = results(scores, protocol="DeepChem")
    assert report.comparison(content) is None, "they are no table of ours"
    said = report.published_splits(content)
    assert (
        "XGBoost 0.753, multi-task net 0.763, graph conv 0.798 | 0.8000 (1) | 0.7500 (1) |" in said
    )


def test_calibration_is_compared_on_the_same_folds(report):
    scores = {"sk_mtl": {"r": [0.8, 0.8]}, "catboost_500": {"r": [0.8]}}
    content = results(scores, calibration={"y": 0.02, "z": 0.04})
    assert "| r | 1 | 0.0300 | 0.0300 |" in report.calibration(content)
    assert report.calibration(results(scores)) == ""


def test_several_states_of_the_code_are_said_to_be(report):
    content = results({"sk_mtl": {"r": [0.8], "s": [0.8]}}, code="one")
    assert "states of the code" not in report.text(content)
    content["rows"][0]["code"] = "other"
    assert "2 states of the code" in report.text(content)


def test_who_was_left_out_is_listed_with_the_reason(report):
    content = results({"sk_mtl": {"r": [0.8]}})
    content["skipped"] = [
        {"case": "r", "fold": fold, "contender": "tabm", "reason": "too slow"} for fold in (1, 0)
    ]
    assert "| tabm | r | 0 1 | too slow |" in report.text(content)


def test_critical_difference_of_demsars_example(ranks):
    # Demsar (2006), section 3.2.2: four classifiers, 14 data sets, q 2.569.
    assert ranks.critical_difference(4, 14) == pytest.approx(1.25, abs=0.005)


def test_bars_join_what_does_not_differ(ranks):
    assert ranks.cliques([1.0, 1.5, 2.5, 2.9], 1.0) == [(0, 1), (1, 2), (2, 3)]
    assert ranks.cliques([1.0, 1.2, 1.4], 1.0) == [(0, 2)], "no bar in another"
    assert ranks.cliques([1.0, 3.0], 1.0) == []


def test_picture_is_drawn(ranks, tmp_path):
    pytest.importorskip("matplotlib")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ranks.picture({"a": 1.2, "b": 1.9, "c": 2.9}, 10, tmp_path / "p.svg")
    assert "<svg" in (tmp_path / "p.svg").read_text(encoding="utf-8")
    assert (tmp_path / "p.png").stat().st_size > 1000


# On the real tables -----------------------------------------------------------------------


@pytest.mark.data
def test_tables_of_the_folder_can_be_split(quality, cells, tables, measuring, data_folder):
    for name in measuring.names_of_tables(data_folder):
        table = tables.read_whole(data_folder, name, quality.MOST_ROWS)
        assert len(table.X) <= quality.MOST_ROWS
        assert len(table.kinds) == table.Y.shape[1]
        for cell in cells.split(name, table, range(cells.N_FOLDS)):
            assert len(cell.tasks()) >= table.Y.shape[1] * 0.9, f"{name} {cell.fold}"
