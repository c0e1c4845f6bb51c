"""The benchmarks of weightings and trunks measure what they say; no test looks at a clock."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from test_benchmarks import SUMMARY, imported


@pytest.fixture(scope="module")
def harness():
    return imported("_harness")


@pytest.fixture(scope="module")
def weighting():
    return imported("bench_weighting")


@pytest.fixture(scope="module")
def quality():
    return imported("bench_balance_quality")


@pytest.fixture(scope="module")
def ranking():
    return imported("_ranking")


@pytest.fixture(scope="module")
def tables():
    return imported("_tables")


# The weightings ---------------------------------------------------------------------------


def test_counterparts_are_of_weightings_that_there_are(weighting):
    counterparts = weighting.SCALARIZERS.keys() | weighting.AGGREGATORS.keys()
    assert counterparts <= weighting.WEIGHTINGS.keys()
    assert set(weighting.PROMISED) <= weighting.AGGREGATORS.keys()
    assert weighting.counterpart("uniform") is None


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_ours_and_torchjds_loops_reach_the_same_loss(harness, weighting):
    from torchjd.aggregation import Mean
    from torchjd.scalarization import Mean as MeanLoss

    data = (*harness.binary_tasks(600, weighting.N_FEATURES, weighting.N_TASKS), 20)
    _, ours = weighting.ours("static", *data, epochs=4)
    _, gradients = weighting.by_gradients(Mean(), *data, epochs=4)
    _, losses = weighting.by_losses(MeanLoss(), *data, epochs=4)
    # Other first weights and orders of rows; the same network, rows and steps.
    assert [gradients, losses] == pytest.approx([ours] * 2, rel=0.05)
    _, early = weighting.by_gradients(Mean(), *data, epochs=2)
    assert early != pytest.approx(ours, rel=0.05)  # negative control


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("key", ["uncertainty", "dwa", "famo", "pcgrad", "gradvac"])
def test_counterparts_learn(harness, weighting, key):
    data = (*harness.binary_tasks(600, weighting.N_FEATURES, weighting.N_TASKS), 20)
    name, run = weighting.counterpart(key)
    assert name.startswith("torchjd ")
    first, second = (run(*data, 4)[1] for _ in range(2))
    assert second == first, "each run begins anew, whatever the method remembers"
    assert first < 0.6  # ln 2 = 0.69 is what knows nothing
    assert weighting.ours(key, *data, 4)[1] == pytest.approx(first, rel=0.1)


def test_a_method_whose_solver_is_missing_is_skipped(harness, weighting, tmp_path, monkeypatch):
    def missing(key):
        raise ImportError(f"{key} needs a solver.")

    monkeypatch.setattr(weighting, "counterpart", missing)
    options = harness.arguments(None, repeats=1, argv=["--output", str(tmp_path)])
    report = harness.Report("demo", options, {})
    runs, counterparts = weighting.contenders(report)
    assert counterparts == {}
    assert "pcgrad" in runs
    assert {"contender": "torchjd's mgda", "reason": "mgda needs a solver."} in report.content[
        "skipped"
    ]


# The quality ------------------------------------------------------------------------------


def test_comparison_of_a_hand_worked_case(ranking):
    scores = {
        "base": {"r": 0.5, "s": 0.5, "t": 0.5},
        "good": {"r": 0.7, "s": 0.6, "t": 0.50001},  # a tie, by four digits
        "frail": {"r": 0.4, "s": 0.9, "t": None},
    }
    good, base, frail = ranking.compare(scores, "base")
    # Ranks: r good base frail; s frail good base; t base and good share 1 and 2, frail failed.
    assert [good["contender"], base["contender"], frail["contender"]] == ["good", "base", "frail"]
    assert (good["mean_rank"], base["mean_rank"]) == (
        pytest.approx((1 + 2 + 1.5) / 3),
        pytest.approx((2 + 3 + 1.5) / 3),
    )
    assert frail["mean_rank"] == pytest.approx((3 + 1 + 3) / 3)
    assert (good["difference"], good["median_difference"]) == (pytest.approx(0.1), 0.1)
    assert (good["better"], good["worse"], good["tables"]) == (2, 0, 3)
    assert (frail["better"], frail["worse"], frail["tables"]) == (1, 1, 2)
    assert frail["difference"] == pytest.approx((0.4 - 0.1) / 2)
    # Two signs can fall in four ways, two of them as one-sided as good's; frail's are 0.4 - 0.1.
    assert (good["p"], frail["p"], base["p"]) == (0.5, 1.0, None)
    assert (good["p_adjusted"], frail["p_adjusted"]) == (1.0, 1.0)
    assert all(entry.keys() | {"family"} == SUMMARY for entry in (good, base, frail))


def test_signed_ranks_by_hand(ranking):
    of = ranking.signed_rank_p
    assert of(np.array([1.0, 2.0, 3.0, 4.0])) == 2 / 2**4
    assert of(np.array([0.0, 1.0, 2.0, 3.0, 4.0])) == 2 / 2**4, "no difference says nothing"
    # Of 16 signs of ranks 1, 2, 3, 4: sums of at most 1 or at least 9 for +,+,+ and -1.
    assert of(np.array([-1.0, 2.0, 3.0, 4.0])) == 4 / 2**4
    # All alike: ranks 2.5 each, so that signs are counted: 3 to 1 or more in 10 of 16.
    assert of(np.array([-1.0, 1.0, 1.0, 1.0])) == 10 / 2**4
    assert of(np.zeros(4)) == of(np.array([0.0, -3.0])) == 1.0
    many = np.arange(1.0, 31.0)
    assert of(many) < 1e-6
    assert of(many * (-1) ** np.arange(30)) > 0.5


def test_holm_by_hand(ranking):
    # Sorted 0.01, 0.03, 0.04: times 3, 2, 1 is 0.03, 0.06, 0.04; none below the one before it.
    assert ranking.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert ranking.holm([0.9, 0.8]) == [1.0, 1.0]
    assert ranking.holm([]) == []


def write_table(folder, **columns):
    folder.mkdir(parents=True)
    pd.DataFrame(columns).to_csv(folder / "data.csv", index=False)
    meta = {
        "file": "data.csv",
        "feature_columns": ["x", "colour"],
        "categorical_columns": ["colour"],
        "target_columns": ["price", "grade", "left out"],
        "target_types": {"price": "regression (USD)", "grade": "multiclass (3)", "left out": ""},
        "sha256": "abc",
    }
    (folder / "meta.json").write_text(json.dumps(meta), encoding="utf-8")


def test_reading_a_folder_of_tables(tables, tmp_path):
    n = 40
    number = np.arange(n)
    write_table(
        tmp_path / "shop" / "one",
        x=np.where(number % 4, number, np.nan),
        colour=np.where(number % 3, "red", None),
        price=2.0 * number,
        grade=np.where(number % 5, number % 3, np.nan),
        **{"left out": number, "no feature": number},
    )
    table = tables.read(tmp_path, "shop/one", most_rows=30, most_tasks=2)
    assert (table.X.shape, list(table.X), list(table.Y)) == (
        (30, 2),
        ["x", "colour"],
        ["price", "grade"],
    )
    assert table.kinds == ["regression", "classification"]
    rows = table.Y["price"].to_numpy() / 2
    assert (np.diff(rows) > 0).all(), "in the order of the file, none twice"
    known = rows % 4 != 0
    np.testing.assert_array_equal(table.X["x"][known], rows[known])
    assert (table.X["colour"] == np.where(rows % 3, "red", "missing")).all()
    assert table.Y["grade"].isna().sum() == (rows % 5 == 0).sum()
    facts = table.facts()
    assert (facts["n_classification_tasks"], facts["n_regression_tasks"]) == (1, 1)
    assert facts["missing_labels"] == pytest.approx((rows % 5 == 0).sum() / 60, abs=1e-4)
    again = tables.read(tmp_path, "shop/one", most_rows=30, most_tasks=2)
    assert again.facts() == facts
    assert again.X.equals(table.X), "the same rows every time"
    assert len(tables.read(tmp_path, "shop/one", most_rows=50, most_tasks=2).X) == n
    with pytest.raises(FileNotFoundError, match=r"two.meta.json, expected the description"):
        tables.read(tmp_path, "shop/two", most_rows=30, most_tasks=2)


def test_reading_molecules(tables, tmp_path):
    descriptors = np.arange(12.0).reshape(6, 2)
    np.savez(
        tmp_path / "data.npz",
        fingerprints=np.zeros((6, 128), dtype=np.uint8),
        descriptors=descriptors,
        descriptor_names=np.array(["mass", "charge"]),
        Y=np.eye(6)[:, :2],
        target_names=np.array(["toxic", "active"]),
    )
    types = {"toxic": "binary", "active": "binary"}
    meta = {"file": "data.npz", "categorical_columns": [], "target_types": types}
    (tmp_path / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    table = tables.read(tmp_path, ".", most_rows=10, most_tasks=12)
    np.testing.assert_array_equal(table.X[["mass", "charge"]], descriptors)
    assert table.X.shape == (6, 2)
    np.testing.assert_array_equal(table.Y["active"], [0, 1, 0, 0, 0, 0])


def test_preprocessing_knows_only_the_rows_it_was_fitted_on(tables):
    table = tables.made_up()
    table.X.loc[100, "a"] = 1e6
    X = tables.preprocessing(table).fit(table.X[:60]).transform(table.X)
    assert np.isfinite(X).all()
    assert X.max() == X[100, 0] == tables.FARTHEST
    assert X.shape[1] == 4 + 3
    np.testing.assert_allclose(X[:60, :4].mean(axis=0), 0, atol=1e-12)
    assert (np.abs(X[:, :4].mean(axis=0)) > 1e-3).all()  # negative control


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_measured_row_is_what_cross_validation_says(quality, tables):
    from sklearn.model_selection import cross_validate

    table, network = tables.made_up(), quality.QUICK_NETWORK
    grid = {"weighting": ["static", "mgda"], "trunk": ["shared_bottom", "mmoe"]}
    static, mgda, shared, mmoe = quality.measure(table, grid, network, n_folds=2, n_jobs=1)
    assert [r["contender"] for r in (static, mgda, shared, mmoe)] == [
        *grid["weighting"],
        *grid["trunk"],
    ]
    assert (static["family"], mmoe["family"]) == ("weighting", "trunk")
    assert (static["trained"], mgda["trained"]) == ("stacked", "alone")
    model = quality.pipeline(table, network | {"weighting": "mgda"})
    found = cross_validate(
        model,
        table.X,
        table.Y,
        cv=quality.MultiTaskStratifiedKFold(2, tasks=table.kinds, random_state=0),
        scoring=quality.make_multi_task_scorer(quality.METRICS),
    )
    assert mgda["fold_scores"] == pytest.approx(found["test_mean"].tolist(), abs=1e-6)
    assert mgda["score"] == pytest.approx(found["test_mean"].mean())
    assert mgda["task_scores"] == pytest.approx(
        {name: found[f"test_{name}"].mean() for name in table.Y}, abs=1e-6
    )
    assert static["fold_scores"] == pytest.approx(shared["fold_scores"], abs=1e-6)
    assert static["fold_scores"] != pytest.approx(mmoe["fold_scores"], abs=1e-6)


@pytest.mark.filterwarnings("default")
def test_half_a_table_is_not_kept(quality, tables, monkeypatch):
    def interrupted(search, X, Y):
        warnings.warn("Search interrupted by user after 3 of 9 fits.", stacklevel=2)

    monkeypatch.setattr(quality.VectorizedGridSearchCV, "fit", interrupted)
    grid = {"weighting": ["static"], "trunk": []}
    with pytest.raises(UserWarning, match="Search interrupted by user after 3"):
        list(quality.measure(tables.made_up(), grid, quality.QUICK_NETWORK, 2, 1))


def rows_of(grid):
    """What could have been measured: mgda is best."""
    facts = {"fold_scores": [0.5], "task_scores": {}, "fit_seconds": 1.0, "trained": "alone"}
    return [
        {"family": family, "contender": name, "score": 0.5 + (name == "mgda"), **facts}
        for family, names in grid.items()
        for name in names
    ]


def test_quality_goes_on_where_it_was_left(harness, quality, tmp_path, monkeypatch):
    measured = []

    def measure(table, grid, network, n_folds, n_jobs):
        rows = rows_of(grid)
        measured.append([(row["family"], row["contender"]) for row in rows])
        return rows

    def main(*options):
        measured.clear()
        quality.main(["--quick", "--output", str(tmp_path), *options])
        content = json.loads((tmp_path / "balance_quality.json").read_text(encoding="utf-8"))
        assert [(row["family"], row["contender"]) for row in content["rows"]] == everyone
        first = content["summary"][0]
        assert (first["contender"], first["better"]) == ("mgda", 1)
        return list(measured)

    monkeypatch.setattr(quality, "measure", measure)
    everyone = [(family, name) for family, (names, _) in quality.FAMILIES.items() for name in names]
    assert main() == [everyone]
    assert main() == [], "nothing is trained twice"
    assert main("--again", "mgda") == [[("weighting", "mgda")]]
    assert main("--fresh") == [everyone]
    monkeypatch.setitem(quality.QUICK_NETWORK, "max_iter", 3)
    assert main() == [everyone], "it is another network now"
    monkeypatch.setattr(quality, "made_up", lambda: quality_table)
    quality_table = replace(imported("_tables").made_up(), sha256="another")
    assert main() == [everyone], "it is another table now"
    monkeypatch.setattr(harness, "versions", lambda: {"python": "0"})
    assert main() == [everyone], "all was measured with another Python"


def test_tables_that_are_not_asked_for_stay(quality, tables, tmp_path, monkeypatch):
    measured = []

    def measure(table, grid, network, n_folds, n_jobs):
        measured.append(table.sha256)
        return rows_of(grid)

    def main(*options):
        measured.clear()
        quality.main(["--data", str(tmp_path), "--output", str(tmp_path), *options])
        content = json.loads((tmp_path / "balance_quality.json").read_text(encoding="utf-8"))
        return list(measured), list(dict.fromkeys(row["case"] for row in content["rows"]))

    monkeypatch.setattr(quality, "measure", measure)
    monkeypatch.setattr(quality, "TABLES", ("a", "b"))
    monkeypatch.setattr(
        quality, "read", lambda folder, name, *most: replace(tables.made_up(), sha256=name)
    )
    assert main() == (["a", "b"], ["a", "b"])
    assert main("--table", "c") == (["c"], ["a", "b", "c"])
    assert main("--table", "b", "--fresh") == (["b"], ["a", "b", "c"])
    assert main() == ([], ["a", "b", "c"])


def test_quality_asks_for_tables(quality, monkeypatch, capsys):
    monkeypatch.delenv("SK_MTL_DATA", raising=False)
    with pytest.raises(SystemExit):
        quality.main([])
    assert "Got no folder of tables, expected one. Pass --data FOLDER" in capsys.readouterr().err


@pytest.mark.data
def test_tables_of_the_folder_can_be_read(quality, tables, data_folder):
    for name in quality.TABLES:
        table = tables.read(data_folder, name, quality.MOST_ROWS, quality.MOST_TASKS)
        facts = table.facts()
        assert facts["n_rows"] <= quality.MOST_ROWS
        assert len(table.kinds) == table.Y.shape[1] <= quality.MOST_TASKS
        assert np.isfinite(tables.preprocessing(table).fit_transform(table.X)).all()
