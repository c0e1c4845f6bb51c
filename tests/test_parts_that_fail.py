"""Parts that cannot be built, or are frozen, spoil nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from searches import X, Y, assert_same_results, grid_search, loop, mixed, some_fail
from skorch.callbacks import Freezer

from sk_mtl.penalties import Cluster
from sk_mtl.trunks import DSelectK, SoftSharing

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def test_a_frozen_trunk_is_not_pulled():
    model = mixed(trunk=SoftSharing(1.0), callbacks=[Freezer("trunk*")]).fit(X, Y)
    towers = model.net_.module_.trunk.towers.layers[0].weight
    assert all(torch.equal(tower, towers[0]) for tower in towers)
    free = mixed(trunk=SoftSharing(1.0)).fit(X, Y).net_.module_.trunk.towers.layers[0].weight
    assert not torch.equal(free[0], free[1])  # negative control


@some_fail
@pytest.mark.parametrize(
    ("params", "grid"),
    [
        ({"penalty": Cluster()}, {"penalty__n_clusters": [1, 2, 7]}),
        ({"trunk": DSelectK(4)}, {"trunk__k": [1, 9]}),
    ],
)
def test_parts_that_cannot_be_built_fail_alone(params, grid):
    ours, theirs = (search(mixed(**params), grid) for search in (grid_search, loop))
    assert_same_results(ours.cv_results_, theirs.cv_results_)
    assert np.isnan(ours.cv_results_["mean_test_score"][-1])
    assert not np.isnan(ours.cv_results_["mean_test_score"][0])
