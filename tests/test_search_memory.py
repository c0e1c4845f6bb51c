"""A stack holds no more than the search says: tensors are counted, operator by operator."""

from __future__ import annotations

import numpy as np
import pytest
from live_tensors import LiveTensors
from plain import plain

from sk_mtl import MultiTaskClassifier, VectorizedGridSearchCV, stacked_training
from sk_mtl.estimators import _stacking as stacking
from sk_mtl.footprint import Footprint, footprint
from sk_mtl.trunks import TRUNKS

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

_rng = np.random.default_rng(0)
X = _rng.normal(size=(500, 20)).astype(np.float32)
Y = (_rng.random((500, 4)) < 0.5).astype(int)
N_FOLDS = 5
TABLES = N_FOLDS * 4 * 500 * (X.shape[1] + Y.shape[1])  # what the folds' stacks read


def run(monkeypatch, **params):
    """Return the most bytes that a search's tensors take, and what its stacks may hold."""
    # A block that is never written to is no memory.
    monkeypatch.setattr(stacked_training, "keep_freed_memory", lambda: None)
    model = plain(MultiTaskClassifier, max_iter=2, random_state=0, **params)
    grid = {"learning_rate_init": [1e-3, 1e-2, 3e-3, 3e-2]}
    search = VectorizedGridSearchCV(model, grid, cv=N_FOLDS, refit=False, max_stack=20)
    with LiveTensors() as live:
        search.fit(X, Y)
    report = search.search_report_
    assert set(report["stack_size"]) == {20}
    return live.peak, 20 * max(report["network_bytes"])


@pytest.mark.parametrize("batch_size", [32, 200])
@pytest.mark.parametrize("hidden", [(8,), (64, 32)], ids=str)
@pytest.mark.parametrize("trunk", TRUNKS)
def test_a_search_stays_within_its_bound(monkeypatch, trunk, hidden, batch_size):
    for early in ({"early_stopping": False}, {"early_stopping": True, "dropout": 0.2}):
        peak, bound = run(
            monkeypatch, trunk=trunk, hidden_layer_sizes=hidden, batch_size=batch_size, **early
        )
        assert bound / 4 < peak < bound + TABLES


def test_best_epochs_of_tasks_are_within_the_bound(monkeypatch):
    shape = {"hidden_layer_sizes": (64, 32), "batch_size": 200, "early_stopping": True}
    common, bound_of_common = run(monkeypatch, **shape)
    peak, bound = run(monkeypatch, stopping_rule="each", **shape)
    assert bound / 4 < peak < bound + TABLES
    assert peak > common and bound > bound_of_common
    of_two, _ = run(monkeypatch, stopping_rule="each", stopping_tasks=[0, 1], **shape)
    assert common < of_two < peak


def test_the_bound_can_be_passed(monkeypatch):
    """Negative control: what a step touches is less than what a stack holds."""

    def touched(*args):
        takes = footprint(*args)
        return Footprint(takes.touched, takes.touched)

    monkeypatch.setattr(stacking, "footprint", touched)
    peak, bound = run(monkeypatch, hidden_layer_sizes=(64, 32), batch_size=200)
    assert peak > bound + TABLES


@pytest.mark.parametrize(
    ("touched", "held", "size"),
    [
        (2**10, 2**11, 2**12),  # as many as the cache serves well
        (2**20, 2**22, 8),  # wider ones: the smallest stack
        (2**23, 2**24, 4),  # 64 MiB
        (2**26, 2**28, 1),
    ],
)
def test_auto_fills_the_cache_and_never_the_memory(monkeypatch, touched, held, size):
    monkeypatch.setattr(stacking, "footprint", lambda *args: Footprint(touched, held))
    model = plain(MultiTaskClassifier, hidden_layer_sizes=(4,), random_state=0)
    session = stacking.open_session(model, X, Y, {}, {}, 0)
    assert stacking.size_of_stacks(session, session.plan()) == (size, held)
