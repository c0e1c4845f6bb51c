"""Every benchmark runs and writes what its README says; no test here looks at a clock."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

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
    sys.path.insert(0, str(FOLDER))
    try:
        import _harness
    finally:
        sys.path.remove(str(FOLDER))
    return _harness


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_script_runs_and_writes_what_the_readme_documents(name, tmp_path):
    command = [sys.executable, str(FOLDER / f"bench_{name}.py"), "--quick", "--output", tmp_path]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
    assert content.keys() >= HEAD
    assert content["quick"] is True
    assert content["rows"]
    for row in content["rows"]:
        assert row.keys() >= (MEMORY if name == "memory" else TIMES)
    for ratio in content["ratios"]:
        assert ratio.keys() == RATIO
    assert content["ratios"] or name == "memory"
    assert content["rows"][0]["case"] in done.stdout, "the table is printed"


def test_readme_lists_every_script_and_every_key():
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert SCRIPTS
    for name in SCRIPTS:
        assert f"bench_{name}.py" in readme
    for key in HEAD | TIMES | MEMORY | RATIO:
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
