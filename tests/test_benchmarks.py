"""Every benchmark runs and writes what its README says; no test here looks at a clock."""

from __future__ import annotations

import importlib
import json
import os
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
SCRIPTS = sorted(path.stem.removeprefix("bench_") for path in FOLDER.glob("bench_*.py"))
HEAD = {
    "benchmark",
    "quick",
    "created",
    "machine",
    "versions",
    "threads",
    "settings",
    "rows",
    "ratios",
    "skipped",
}
TIMES = {"case", "contender", "repeats", "wall", "cpu"}
MEMORY = {"case", "contender", "bytes", "x_bytes", "y_bytes", "multiple_of_x", "target", "met"}
SEARCH = TIMES | {
    "fits",
    "measured_fits",
    "scaled_by",
    "score",
    "peak_bytes",
    "idle_bytes",
    "stack_size",
    "network_bytes",
    "bound_bytes",
}
QUALITY = {
    "case",
    "family",
    "contender",
    "score",
    "fold_scores",
    "task_scores",
    "fit_seconds",
    "trained",
}
SUMMARY = {
    "family",
    "contender",
    "mean_rank",
    "tables",
    "difference",
    "median_difference",
    "better",
    "worse",
    "p",
    "p_adjusted",
}
BESIDE = {
    "case",
    "fold",
    "contender",
    "made_by",
    "cell",
    "protocol",
    "score",
    "task_scores",
    "squares",
    "calibration",
    "fit_cpu",
    "predict_cpu",
    "wall",
    "n_train",
    "n_test",
    "threads",
}
SURE = BESIDE - {"score", "task_scores", "squares"}
SURE |= {"log_loss", "coverage", "width", "set_coverage", "set_size"}
KEYS = {"memory": MEMORY, "search": SEARCH, "balance_quality": QUALITY, "quality": BESIDE}
KEYS |= {"uncertainty": SURE}
WITHOUT_RATIOS = {"memory", "balance_quality", "quality", "uncertainty"}
RATIO = {
    "case",
    "ours",
    "against",
    "wall",
    "wall_pairwise",
    "cpu",
    "cpu_pairwise",
    "target",
    "judged_by",
    "met",
}


@pytest.fixture(scope="module")
def harness():
    return imported("_harness")


@pytest.fixture(scope="module")
def processes():
    return imported("_processes")


@pytest.fixture(scope="module")
def search():
    return imported("bench_search")


def imported(name):
    sys.path.insert(0, str(FOLDER))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(FOLDER))


def run(name, *options):
    command = [sys.executable, str(FOLDER / f"bench_{name}.py"), "--quick", *map(str, options)]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_script_runs_and_writes_what_the_readme_documents(name, tmp_path):
    said = run(name, "--output", tmp_path)
    content = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
    assert content.keys() >= HEAD
    assert content["quick"] is True
    assert content["rows"]
    for row in content["rows"]:
        assert row.keys() >= KEYS.get(name, TIMES)
    for ratio in content["ratios"]:
        assert ratio.keys() == RATIO
    assert content["ratios"] or name in WITHOUT_RATIOS
    assert content["rows"][0]["case"] in said, "the table is printed"


def test_readme_lists_every_script_and_every_key():
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert SCRIPTS
    for name in SCRIPTS:
        assert f"bench_{name}.py" in readme
    rows = TIMES | MEMORY | SEARCH | QUALITY | BESIDE | SURE
    for key in HEAD | rows | RATIO | SUMMARY | {"summary"}:
        assert f"`{key}`" in readme


def test_contenders_take_turns(harness):
    turns = []
    contenders = {
        name: lambda name=name: turns.append(name) or harness.Cost(1.0, 1.0) for name in "AB"
    }
    samples = harness.interleaved(contenders, repeats=2, warmup=1)
    assert turns == ["A", "B"] * 3
    assert [len(costs) for costs in samples.values()] == [2, 2], "the warm-up does not count"


def test_ratios_of_a_hand_worked_case(harness, tmp_path):
    # A takes 1, 2, 9 and B 2, 2, 3 seconds: medians 2 and 2; pairs 1/2, 1, 3, their median 1.
    options = harness.arguments(None, repeats=3, argv=["--output", str(tmp_path)])
    report = harness.Report("demo", options, {})
    report.add(
        "case",
        {
            "A": [harness.Cost(t, 2 * t) for t in (1.0, 2.0, 9.0)],
            "B": [harness.Cost(t, t) for t in (2.0, 2.0, 3.0)],
        },
    )
    report.ratio("case", "A", "B", target=1.5)
    (ratio,) = report.content["ratios"]
    assert (ratio["wall"], ratio["wall_pairwise"]) == (1.0, 1.0)
    assert (ratio["cpu"], ratio["cpu_pairwise"]) == (2.0, 2.0)
    assert ratio["judged_by"] == "cpu_pairwise"  # one thread
    assert ratio["met"] is False  # negative control: by wall it would have been met


def test_a_lap_is_the_time_between_stamps(harness):
    laps = harness.Laps()
    laps.stamps = [(10.0, 1.0), (11.0, 1.5), (14.0, 2.5), (16.0, 3.0)]  # laps of 1, 3 and 2 s
    assert laps.cost() == harness.Cost(2.0, 0.5)
    with pytest.raises(RuntimeError, match="Got 0 stamps, expected at least 2"):
        harness.Laps().cost()


# The search -------------------------------------------------------------------------------


@pytest.mark.slow
def test_search_starts_workers_of_one_thread(tmp_path):
    run("search", "--threads", 2, "--only", "cold start", "--output", tmp_path)
    content = json.loads((tmp_path / "search.json").read_text(encoding="utf-8"))
    (row,) = content["rows"]
    assert row["case"] == "cold start"
    assert content["settings"]["threads_of_a_worker"] == 1


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("trunk", ["shared_bottom", "mmoe"])
@pytest.mark.parametrize("rates", [1, 2])
def test_contenders_of_a_search_do_the_same_work(search, trunk, rates):
    case = replace(search.TINY, trunk=trunk, rates=rates)
    facts = {}
    for name in search.CONTENDERS:
        candidates = case.candidates if name == search.STACKED else case.measured
        run = search.search_of(name, case, candidates, n_jobs=1)
        facts[name] = search.facts_of(run.fit(*search.data_of(name, case)), case)
    ours, grid, skorch = (facts[n] for n in (search.STACKED, search.GRID, search.SKORCH))
    # The same two candidates, although ours was run with all four.
    assert (ours["measured_fits"], grid["measured_fits"], ours["fits"]) == (20, 10, 20)
    assert (ours["scaled_by"], grid["scaled_by"]) == (1, 2)
    assert ours["score"] == pytest.approx(grid["score"], abs=0.01)  # one label is worth 1/240
    assert 0 < skorch["score"] < 1
    assert ours["stack_size"] == 20
    assert ours["bound_bytes"] == 20 * ours["network_bytes"] > 0
    assert skorch["bound_bytes"] is None


def test_loss_and_score_of_the_skorch_net_by_hand(search):
    net = search.skorch_net(search.TINY).set_params(task_weights=(0.75, 0.25)).initialize()
    raw, y = np.array([[0.0, 2.0], [0.0, -2.0]]), np.array([[0.0, 1.0], [1.0, 1.0]])
    # Task 0 has ln 2 twice; task 1 has -ln s(2) and -ln s(-2), whose mean is ln(1 + e^-2) + 1.
    first, second = np.log(2), np.log1p(np.exp(-2)) + 1
    raw, targets = (search.torch.tensor(a, dtype=search.torch.float32) for a in (raw, y))
    assert float(net.get_loss(raw, targets)) == pytest.approx(0.75 * first + 0.25 * second)
    net.set_params(task_weights=None)
    assert float(net.get_loss(raw, targets)) == pytest.approx(first + second)
    net.predict = lambda X: raw.numpy()
    # Raw outputs above 0 mean 1: right are one of two and one of two.
    assert search.mean_accuracy(net, None, y) == 0.5


def test_multiplied_cost_of_a_hand_worked_case(harness, search):
    assert search.scaled(harness.Cost(2.0, 3.0), 4.0) == harness.Cost(8.0, 12.0)


def test_search_goes_on_where_it_was_left(harness, search, tmp_path, monkeypatch):
    measured = []

    def measure(report, key, *args):
        measured.append(key)
        if key == "base" and fails:
            raise KeyboardInterrupt
        nothing = {fact: {"A": None} for fact in search.FACTS}
        report.add(key, {"A": [harness.Cost(1.0, len(measured))]}, **nothing)

    def main(*options):
        measured.clear()
        search.main(["--threads", "1", "--output", str(tmp_path), *options])
        rows = json.loads((tmp_path / "search.json").read_text(encoding="utf-8"))["rows"]
        assert [row["case"] for row in rows] == list(search.CASES)[: len(rows)]
        return list(measured)

    monkeypatch.setattr(search, "measure", measure)
    fails = True
    with pytest.raises(KeyboardInterrupt):
        main()
    assert measured == ["headline", "base"]
    fails = False
    assert main() == list(search.CASES)[1:], "the headline is kept"
    assert main() == []
    assert main("--only", "mmoe") == []
    assert main("--only", "mmoe", "--fresh") == ["mmoe"], "and the others are kept"
    monkeypatch.setitem(search.CASES, "8 tasks", search.Case(n_tasks=9))
    assert main() == ["8 tasks"], "it is another case now"
    assert main("--fresh") == list(search.CASES)
    monkeypatch.setattr(harness, "versions", lambda: {"python": "0"})
    assert main() == list(search.CASES), "all was measured with another Python"


WORKER = """
import resource
held = bytearray(50 * 2**20)
while (used := resource.getrusage(resource.RUSAGE_SELF)).ru_utime < 0.1: pass
print(used.ru_utime, flush=True)
input()
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize("ended", [False, True])
def test_watch_sees_what_other_processes_cost(processes, ended):
    with processes.Watch() as watch:
        before = resource.getrusage(resource.RUSAGE_SELF)
        pipe = subprocess.PIPE
        child = subprocess.Popen(
            [sys.executable, "-S", "-c", WORKER], stdin=pipe, stdout=pipe, text=True
        )
        used = float(child.stdout.readline())
        assert child.pid in processes.family()
        assert processes.resident([child.pid]) > 50 * 2**20
        if ended:
            child.communicate("\n")
            assert child.pid not in processes.family()
        after = resource.getrusage(resource.RUSAGE_SELF)
    if not ended:
        child.communicate("\n")
    own = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert watch.cost.cpu >= own + used - 0.03  # three ticks
    if not ended:  # an ended one may have lived for less than a look takes
        assert watch.peak - watch.idle > 50 * 2**20


def test_a_server_answers_and_says_if_it_cannot(processes):
    code = "import sys\nprint(0, flush=True)\nfor line in sys.stdin: print(len(line), flush=True)"
    with processes.Server("counter", [sys.executable, "-S", "-c", code]) as server:
        assert [server.answer(), server.ask(), server.ask()] == [0, 1, 1]
    with (
        pytest.raises(RuntimeError, match="Got no answer from 'mute'; its error stands above"),
        processes.Server("mute", [sys.executable, "-S", "-c", ""]) as server,
    ):
        server.answer()
