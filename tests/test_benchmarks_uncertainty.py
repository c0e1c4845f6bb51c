"""The benchmark of uncertainty judges and says what it should; no test looks at a clock."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from test_benchmarks import imported


@pytest.fixture(scope="module")
def bench():
    return imported("bench_uncertainty")


@pytest.fixture(scope="module")
def report():
    return imported("_uncertainty_report")


@pytest.fixture(scope="module")
def tables():
    return imported("_tables")


@pytest.fixture(scope="module")
def cells():
    return imported("_cells")


@pytest.fixture
def table(tables):
    return tables.made_up(200, as_it_comes=True)


def cell_of(cells, tables, test, **columns):
    """A cell whose last rows are tested; columns of labels, of text or of numbers."""
    Y = pd.DataFrame(columns)
    n = len(Y)
    kinds = [
        "regression" if pd.api.types.is_float_dtype(Y[name]) else "classification" for name in Y
    ]
    table = tables.Table(pd.DataFrame({"x": np.arange(n)}), Y, kinds, [])
    return cells.Cell("t", table, 0, np.arange(n - test), np.arange(n - test, n))


# Cells ------------------------------------------------------------------------------------


def test_a_quarter_is_tested_again_and_again(bench, table):
    found = list(bench.random_splits("t", table, range(20)))
    assert [cell.fold for cell in found] == list(range(20))
    assert {cell.protocol for cell in found} == {"splits"}
    for cell in found:
        assert sorted([*cell.train, *cell.test]) == list(range(200))
        assert len(cell.test) == 50
    assert len({cell.known_by() for cell in found}) == 20, "no split is another"
    (third,) = bench.random_splits("t", table, [2])
    assert third.known_by() == found[2].known_by(), "whatever others are asked for"


def test_groups_are_tested_as_a_whole_and_disjoint_tasks_in_equal_shares(bench, table):
    groups = np.arange(200) // 10
    for cell in bench.random_splits("t", replace(table, groups=groups), range(3)):
        assert not set(groups[cell.train]) & set(groups[cell.test])
        assert len(cell.test) == 50
    plain = next(iter(bench.random_splits("t", table, [0])))
    assert set(groups[plain.train]) & set(groups[plain.test]), "the control: rows one by one"
    task = np.repeat([0, 1], [160, 40])
    for cell in bench.random_splits("t", replace(table, task_of_row=task), range(3)):
        assert np.bincount(task[cell.test]).tolist() == [40, 10]


def test_amounts_and_many_classes_have_something_to_cover(bench, table):
    def part(*tasks):
        kinds = [table.kinds[task] for task in tasks]
        return replace(table, Y=table.Y.iloc[:, list(tasks)], kinds=kinds)

    assert bench.is_covered(part(0, 2))
    assert bench.is_covered(part(1)), "three classes"
    assert not bench.is_covered(part(0)), "two classes"


def test_who_is_measured_on_what(bench, table):
    amounts = replace(table, Y=table.Y[["amount"]], kinds=["regression"])
    two = replace(table, Y=table.Y[["two"]], kinds=["classification"])
    everything = {"support2": table, "amounts": amounts, "tox21": two, "other": two}

    def pairs(*options):
        options = bench.arguments(["--data", "somewhere", "--folds", "0", *options])
        found = bench.pairs_of(everything, options)
        return {(cell.case, cell.protocol, contender.name) for cell, contender in found}

    three = ("sk_mtl", "sk_mtl_calibrated", "catboost_500")
    calibration = {(case, "folds", name) for case in ("support2", "tox21") for name in three}
    coverage = {(case, "splits", "sk_mtl") for case in ("support2", "amounts")}
    assert pairs() == calibration | coverage
    assert pairs("--only", "calibration") == calibration
    assert pairs("--only", "coverage") == coverage
    named = pairs("--only", "calibration", "--table", "other")
    assert {case for case, _, _ in named} == {"support2", "tox21", "other"}, "all that were read"
    assert pairs("--contender", "catboost_500") == {p for p in calibration if p[2] == three[2]}
    with pytest.raises(SystemExit, match="Got contender 'catbost', expected one of"):
        pairs("--contender", "catbost")
    options = bench.arguments(["--data", "somewhere"])
    folds = [cell.fold for cell, _ in bench.pairs_of(everything, options)]
    assert folds == sorted(folds), "all tables have their first before any has a second"
    assert (folds.count(0), folds.count(4), folds.count(19)) == (8, 8, 2)


def test_only_the_tables_of_the_readme_are_read_for_calibration(bench, tmp_path, monkeypatch):
    for name in ("thyroid", "households"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "meta.json").write_text("{}", encoding="utf-8")
    read = []
    monkeypatch.setattr(bench, "tables_of", lambda options: read.append(options.table) or {})
    options = ("--data", str(tmp_path))
    bench.read_all(bench.arguments([*options, "--only", "calibration"]))
    bench.read_all(bench.arguments([*options, "--only", "calibration", "--table", "households"]))
    bench.read_all(bench.arguments(options))
    assert read == [["thyroid"], ["households"], None]


def test_uncertainty_asks_for_tables(bench, monkeypatch, capsys):
    monkeypatch.delenv("SK_MTL_DATA", raising=False)
    with pytest.raises(SystemExit):
        bench.main([])
    assert "Got no folder of tables, expected one. Pass --data FOLDER" in capsys.readouterr().err


# Probabilities ----------------------------------------------------------------------------


def test_log_loss_by_hand(bench):
    p = np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]])
    y = np.array(["a", "a", "b"], dtype=object)
    expected = -(math.log(0.9) + math.log(0.2) + math.log(0.5)) / 3
    assert bench.log_loss(y, np.array(["a", "b"]), p) == pytest.approx(expected)
    assert bench.log_loss(y, np.array(["b", "a"]), p) != pytest.approx(expected)
    # A class that nobody has learned is as unlikely as single precision can say.
    assert bench.log_loss(np.array([9.0]), np.array([0.0, 1.0]), p[:1]) == pytest.approx(
        -math.log(2.0**-23)
    )


def test_probabilities_of_tasks_are_judged_on_their_labelled_rows(bench, cells, tables):
    labels = np.array(["a", "b", "a", "b", "a", "b", None, "b"], dtype=object)
    cell = cell_of(cells, tables, 4, first=labels, amount=np.arange(8.0))
    p = np.array([[0.8, 0.2], [0.8, 0.2], [0.0, 1.0], [0.4, 0.6]])
    predictions = {0: (np.array(["a", "b"]), p), 1: np.zeros(4)}
    found = bench.judged_probabilities(cell, predictions)
    # Confidence 0.8 twice, right once; 0.6 once, right: (|1 - 1.6| + |1 - 0.6|) / 3.
    assert found["calibration"] == {"first": pytest.approx((0.6 + 0.4) / 3, abs=1e-6)}
    loss = -(math.log(0.8) + math.log(0.2) + math.log(0.6)) / 3
    assert found["log_loss"] == {"first": pytest.approx(loss, abs=1e-6)}


def test_to_be_too_sure_is_an_error_and_to_be_as_sure_as_right_is_none(bench, cells, tables):
    """Of ten rows seven are right: 0.7 is calibrated, 0.99 is not; both order rows alike."""
    labels = np.array([*"ab", *"aaaaaaabbb"], dtype=object)
    cell = cell_of(cells, tables, 10, y=labels)
    errors, losses = [], []
    for sure in (0.7, 0.99):
        p = np.tile([sure, 1 - sure], (10, 1))
        found = bench.judged_probabilities(cell, {0: (np.array(["a", "b"]), p)})
        errors.append(found["calibration"]["y"])
        losses.append(found["log_loss"]["y"])
    assert errors == pytest.approx([0.0, 0.29], abs=1e-6)
    assert losses[0] < losses[1]


def test_a_peer_has_no_amounts_to_fit(bench, table, monkeypatch):
    seen = []

    def run(self, cell, threads, limit):
        seen.append((self.name, list(cell.table.Y), cell.table.kinds))
        return {}, [1.0, 0.5]

    monkeypatch.setattr(bench.Contender, "run", run)
    options = SimpleNamespace(threads=1, max_seconds_per_fit=math.inf)
    (cell,) = bench.split("t", table, [0])
    for contender in bench.contenders(None, quick=False).values():
        kind, entry = bench.attempt(contender, cell, options)
        assert (kind, entry["fit_cpu"], entry["predict_cpu"]) == ("rows", 1.0, 0.5)
        assert entry.keys() >= set(bench.KEPT)
    amounts = {name: "amount" in columns for name, columns, _ in seen}
    assert amounts == {"sk_mtl": True, "sk_mtl_calibrated": True, "catboost_500": False}


def test_calibrated_is_the_default_and_one_word(bench):
    found = bench.contenders(None, quick=False)
    given = {name: contender.parameters for name, contender in found.items()}
    assert given == {"sk_mtl": {}, "sk_mtl_calibrated": {"calibrate": True}, "catboost_500": {}}
    assert found["catboost_500"].peer.parameters["iterations"] == 500


# Intervals and sets -----------------------------------------------------------------------


def test_intervals_by_hand(bench, cells, tables):
    amounts = np.array([0.0, 2.0, 4.0, 6.0, 8.0, np.nan])
    cell = cell_of(cells, tables, 4, y=amounts)
    lower, upper = np.array([3.0, 6.5, 8.0, 0.0]), np.array([5.0, 9.5, 9.0, 99.0])
    found = bench.judged_intervals(cell, {0: (lower, upper)})
    # 4 is in [3, 5], 6 is not in [6.5, 9.5], 8 is on the edge of [8, 9]; the last has no label.
    assert found["coverage"] == {"y": pytest.approx(2 / 3, abs=1e-6)}
    # Of 0, 2, 4, 6, 8 the deviation is the root of 8; widths are 2, 3 and 1.
    assert found["width"] == {"y": pytest.approx(2 / math.sqrt(8), abs=1e-6)}
    endless = bench.judged_intervals(cell, {0: (np.full(4, -np.inf), np.full(4, np.inf))})
    assert endless == {"coverage": {"y": 1.0}, "width": {"y": None}}
    assert bench.judged_intervals(cell, {0: (upper, lower)})["coverage"] == {"y": 0.0}


def test_sets_by_hand(bench, cells, tables):
    labels = np.array([*"abc", "a", "b", "d", None], dtype=object)
    cell = cell_of(cells, tables, 4, y=labels)
    chosen = np.array([[1, 0, 0], [1, 0, 1], [1, 1, 1], [1, 1, 1]], dtype=bool)
    found = bench.judged_sets(cell, {0: (np.array(list("abc")), chosen)})
    # "a" is in, "b" is not, "d" is no class that was learned, the last has no label.
    assert found["set_coverage"] == {"y": pytest.approx(1 / 3, abs=1e-6)}
    assert found["set_size"] == {"y": pytest.approx((1 + 2 + 3) / 3, abs=1e-6)}


class Known:
    """A model that knows how labels come about: an amount is normal, one of two classes likely."""

    classes_ = [None, np.array(["a", "b"])]

    def predict_interval(self, X, coverage):
        half = {0.9: 1.6449, 0.5: 0.6745}[coverage]
        ends = np.full((len(X), 2), np.nan)
        ends[:, 0] = half
        return -ends, ends

    def predict_set(self, X, coverage):
        return [None, np.tile([True, coverage > 0.8], (len(X), 1))]


def test_a_model_that_knows_covers_what_is_asked_for(bench, cells, tables):
    rng = np.random.default_rng(0)
    n = 4000
    labels = rng.choice(["a", "b"], p=[0.8, 0.2], size=n).astype(object)
    cell = cell_of(cells, tables, n - 10, amount=rng.normal(size=n), likely=labels)
    found = {}
    for coverage in (0.9, 0.5):
        intervals, sets, seconds = bench.ends_and_sets(Known(), cell, coverage)
        assert seconds >= 0.0
        found[coverage] = bench.judged_intervals(cell, intervals) | bench.judged_sets(cell, sets)
    assert found[0.9]["coverage"]["amount"] == pytest.approx(0.9, abs=0.02)
    assert found[0.9]["width"]["amount"] == pytest.approx(2 * 1.6449, rel=0.05)
    assert found[0.9]["set_coverage"] == {"likely": 1.0}
    assert found[0.5]["coverage"]["amount"] == pytest.approx(0.5, abs=0.03), "the control"
    assert found[0.5]["set_coverage"]["likely"] == pytest.approx(0.8, abs=0.02)
    assert (found[0.9]["set_size"], found[0.5]["set_size"]) == ({"likely": 2.0}, {"likely": 1.0})


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("tasks", [[0], [2], [0, 1], [0, 2]])
def test_intervals_and_sets_of_ours_are_of_their_tasks(bench, cells, table, tasks):
    X, kinds = table.X[["a", "b", "c"]], [table.kinds[task] for task in tasks]
    part = replace(table, X=X, Y=table.Y.iloc[:, tasks], kinds=kinds, categorical=[])
    (cell,) = bench.random_splits("t", part, [0])
    model, _ = cells.fitted_ours(bench.QUICK, cell)
    intervals, sets, _ = bench.ends_and_sets(model, cell, 0.9)
    assert list(intervals) == [i for i, kind in enumerate(kinds) if kind == "regression"]
    assert list(sets) == [i for i, kind in enumerate(kinds) if kind == "classification"]
    for i, (lower, upper) in intervals.items():
        expected = model.predict(X.iloc[cell.test]).reshape(len(cell.test), -1)[:, i]
        np.testing.assert_allclose((lower + upper) / 2, expected.astype(float), rtol=1e-5)
        assert (lower < upper).all()
    for i, (classes, chosen) in sets.items():
        np.testing.assert_array_equal(classes, np.unique(part.Y.iloc[:, i].dropna()))
        assert chosen.shape == (len(cell.test), len(classes))
        assert chosen.any(axis=1).all()
    judged, cost = bench.covered(bench.Contender("sk_mtl", None, bench.QUICK), cell)
    assert len(judged["coverage"]) == len(intervals)
    assert len(judged["set_size"]) == len(sets)
    assert len(cost) == 2


def test_a_table_that_holds_nothing_out_is_skipped_with_the_reason(bench, tables):
    (cell,) = bench.random_splits("t", tables.made_up(20, as_it_comes=True), [0])
    (ours,) = bench.contenders(["sk_mtl"], quick=True).values()
    options = SimpleNamespace(threads=1, max_seconds_per_fit=math.inf)
    kind, entry = bench.attempt(ours, cell, options)
    assert kind == "skipped"
    assert "held no rows out" in entry["reason"]


# The file ---------------------------------------------------------------------------------


@pytest.fixture
def run(bench, tmp_path, monkeypatch):
    """Run the benchmark with what takes no time, and return the places that were measured."""
    measured = []

    def attempt(contender, cell, options):
        if cell.case == "tiny":
            return "skipped", {}
        measured.append((cell.fold, cell.protocol, contender.name))
        if stop and len(measured) > stop[0]:
            raise KeyboardInterrupt
        return "rows", made_row(**{key: {"y": 0.5} for key in OF[cell.protocol]})

    def main(*options, after=None):
        stop[:] = [] if after is None else [after]
        measured.clear()
        bench.main(["--quick", "--output", str(tmp_path), *options])
        return list(measured)

    stop: list[int] = []
    monkeypatch.setattr(bench, "attempt", attempt)
    main.content = lambda: json.loads((tmp_path / "uncertainty.json").read_text(encoding="utf-8"))
    return main


OF = {
    "folds": ("calibration", "log_loss"),
    "splits": ("coverage", "width", "set_coverage", "set_size"),
}


def made_row(**more):
    nothing = {key: {} for keys in OF.values() for key in keys}
    row = {"fit_cpu": 1.0, "predict_cpu": 0.5, "wall": 2.0, "n_train": 8, "n_test": 2, "threads": 1}
    return row | nothing | more


OF_A_FOLD = [("folds", name) for name in ("sk_mtl", "sk_mtl_calibrated", "extra_trees")]
OF_A_FOLD += [("splits", "sk_mtl")]
EVERYTHING = [(fold, *place) for fold in (0, 1) for place in OF_A_FOLD]


def test_uncertainty_goes_on_where_it_was_left(bench, run, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        run(after=3)
    assert len(run.content()["rows"]) == 3, "every cell is written as soon as it is measured"
    assert run() == EVERYTHING[3:]
    assert run() == [], "nothing is measured twice"
    rows = run.content()["rows"]
    assert [(row["fold"], row["protocol"], row["contender"]) for row in rows] == EVERYTHING
    assert run("--only", "coverage", "--again", "sk_mtl") == [
        (fold, "splits", "sk_mtl") for fold in (0, 1)
    ], "and its probabilities stay"
    assert len(run.content()["rows"]) == len(EVERYTHING)
    monkeypatch.setitem(bench.QUICK, "max_iter", 3)
    assert {name for _, _, name in run()} == {"sk_mtl", "sk_mtl_calibrated"}


def test_a_budget_stops_and_a_report_measures_nothing(run, tmp_path, capsys):
    assert run("--budget", "0") == []
    assert "stopped after 0 s, as asked for" in capsys.readouterr().out
    assert run() == EVERYTHING
    before = run.content()
    assert run("--report") == []
    assert run.content() == before
    assert "| made up | 2 |" in (tmp_path / "uncertainty.md").read_text(encoding="utf-8")


def test_head_says_what_a_reader_needs(run):
    run()
    content = run.content()
    assert content["settings"]["coverage"] == 0.9
    assert content["settings"]["tables"]["made up"]["by_group"] is False
    assert {"python", "scikit-learn", "torch"} <= content["versions"].keys()
    assert content["threads"] == 1


# The report -------------------------------------------------------------------------------


def content_of(*rows, **settings):
    known = {"ours": "sk_mtl", "calibrated": "sk_mtl_calibrated", "peer": "catboost_500"}
    known |= {"coverage": 0.9, "tables": {}}
    head = {"machine": {"cpu": "a CPU", "cores": 2}, "versions": {"python": "3"}, "threads": 1}
    return head | {"quick": False, "rows": list(rows), "skipped": [], "settings": known | settings}


def row_of(case, fold, contender="sk_mtl", **found):
    where = {"case": case, "fold": fold, "contender": contender, "made_by": "x"}
    return where | made_row(**found)


def test_probabilities_are_compared_on_the_folds_that_all_have(report):
    errors = {
        "sk_mtl_calibrated": [0.02, 0.9],
        "sk_mtl": [0.04, 0.9],
        "catboost_500": [0.03],
    }
    rows = [
        row_of("r", fold, name, calibration={"y": e, "z": e + 0.02}, log_loss={"y": e, "z": None})
        for name, found in errors.items()
        for fold, e in enumerate(found)
    ]
    said = report.probabilities(content_of(*rows))
    assert "| r | 1 | 2 | 0.0300 | 0.0500 | 0.0400 | 0.0200 | 0.0400 | 0.0300 | met |" in said
    assert "met on 1 of 1 tables" in said
    rows[0]["calibration"] = {"y": 0.04, "z": 0.06}
    said = report.probabilities(content_of(*rows))
    assert "| MISSED |" in said
    assert "met on 0 of 1 tables" in said
    alone = report.probabilities(content_of(*rows[:4]))
    assert "| r | 2 | 2 |" in alone, "before the peer is measured"
    assert "MISSED" not in alone
    assert report.probabilities(content_of()) == ""


def test_coverage_of_tables_and_of_single_tasks(report):
    tables = {"r": {"by_group": False}, "s": {"by_group": True}}
    rows = [
        row_of("r", 0, coverage={"y": 0.86, "z": 0.94}, width={"y": 1.0, "z": 2.0}),
        row_of("r", 1, coverage={"y": 0.86, "z": 0.90}, width={"y": 2.0, "z": 3.0}),
        row_of("s", 0, coverage={"y": 0.70}, width={"y": None}),
    ]
    said = report.intervals(content_of(*rows, tables=tables))
    # Of r: 0.90 and 0.88; y is 0.86, z 0.92, which is 0.02 away and no further.
    assert "| r | 2 | rows | 2 | 0.890 | 0.010 | 2.00 | 1 s | met | y 0.860 |" in said
    assert "| s | 1 | groups | 1 | 0.700 | 0.000 | 1 endless | 1 s | MISSED | y 0.700 |" in said
    assert "met on 1 of 2 tables, on 1 of the 1 whose rows are split one by one" in said
    rows[0]["width"]["z"] = None
    assert "| 0.010 | 1.75, 1 endless |" in report.intervals(content_of(*rows, tables=tables))
    assert report.intervals(content_of()) == ""


@pytest.mark.parametrize(
    ("share", "far"), [(0.88, False), (0.92, False), (0.8799, True), (0.9201, True), (1.0, True)]
)
def test_two_points_are_near_enough(report, share, far):
    assert report.is_far(share, 0.9) is far


def test_many_tasks_are_counted(report):
    tasks = {f"t{i}": 0.5 for i in range(14)}
    assert report.named(tasks).endswith("t11 0.500, and 2 more")
    assert report.named({"y": 0.5}) == "y 0.500"
    assert report.named({}) == ""


def test_sets_are_shown_task_by_task(report):
    rows = [
        row_of("r", 0, set_coverage={"y": 0.9, "z": 1.0}, set_size={"y": 1.5, "z": 1.0}),
        row_of("r", 1, set_coverage={"y": 0.8}, set_size={"y": 2.5}),
    ]
    said = report.sets(content_of(*rows))
    assert "| r | y | 2 | 0.850 | 2.00 |" in said
    assert "| r | z | 1 | 1.000 | 1.00 |" in said
    assert report.sets(content_of()) == ""


def test_the_report_has_its_sections_and_who_was_left_out(report, tmp_path):
    rows = [row_of("r", 0, coverage={"y": 0.9}, width={"y": 1.0})]
    content = content_of(*rows)
    content["skipped"] = [
        {"case": "t", "fold": 0, "contender": "catboost_500", "reason": "not installed"}
    ]
    said = report.write_report(content, tmp_path)
    assert (tmp_path / "uncertainty.md").read_text(encoding="utf-8") == said + "\n"
    assert "# How sure it is\n\na CPU, 2 cores, 1 thread. python 3." in said
    assert "## Intervals" in said
    assert "## Probabilities" not in said
    assert "| catboost_500 | t | 0 | not installed |" in said
    assert "Quick" not in said
    assert "its numbers mean nothing" in report.text(content | {"quick": True})
