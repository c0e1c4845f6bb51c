"""What every test starts from: one thread, fixed seeds, a device, no window for plots.

Environment: ``SK_MTL_TEST_DEVICE`` (default cpu) runs the tests that take ``device`` on another
device; ``SK_MTL_DATA`` is the folder of tables for tests marked ``data``, skipped without it.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

os.environ.setdefault("MPLBACKEND", "Agg")

DEVICE = os.environ.get("SK_MTL_TEST_DEVICE", "cpu")
DATA = os.environ.get("SK_MTL_DATA")


def pytest_configure() -> None:
    torch.set_num_threads(1)  # the networks are small, and equal bits need equal threads


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if DATA is None:
        skip = pytest.mark.skip(reason="needs a folder of tables: set SK_MTL_DATA")
        for item in items:
            if "data" in item.keywords:
                item.add_marker(skip)


def global_state() -> list[object]:
    """The state of every random generator that a library could touch."""
    _, keys, position, *rest = np.random.get_state()  # noqa: NPY002
    state = [random.getstate(), keys.tolist(), position, *rest, torch.get_rng_state().tolist()]
    return state + [s.tolist() for s in torch.cuda.get_rng_state_all()]


@pytest.fixture(autouse=True)
def _seeds() -> None:
    """Fix what a test draws itself; the library draws from its own generators."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - scikit-learn's checks draw from it
    torch.manual_seed(0)


@pytest.fixture
def no_global_rng() -> Iterator[None]:
    """Fail the test if the global random state is not left as it was."""
    before = global_state()
    yield
    assert global_state() == before, "the global random state was changed"


@pytest.fixture
def device() -> str:
    return DEVICE


@pytest.fixture
def data_folder() -> Path:
    """The folder of tables; only for tests marked ``data``."""
    assert DATA is not None, "mark the test with pytest.mark.data"
    return Path(DATA)
