"""Networks whose tasks have other names can be one stack: each has its history by its own."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from plain import plain

from sk_mtl import MultiTaskRegressor
from sk_mtl.estimators import _stacking as stacking

pd = pytest.importorskip("pandas")


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_networks_of_other_task_names_are_trained_together():
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(60, 3)), rng.normal(size=(60, 3))
    tables = [
        pd.DataFrame(Y[:, [0, 1]], columns=["a", "b"]),
        pd.DataFrame(Y[:, 1:], columns=["b", "c"]),
    ]
    models = [
        plain(MultiTaskRegressor, hidden_layer_sizes=(4,), max_iter=4, random_state=s)
        for s in (0, 1)
    ]
    alone = [
        plain(MultiTaskRegressor, hidden_layer_sizes=(4,), max_iter=4, random_state=s).fit(X, y)
        for s, y in enumerate(tables)
    ]
    sessions = [
        stacking.open_session(m, X, y, {}, {}, 0) for m, y in zip(models, tables, strict=True)
    ]
    plans = [session.plan() for session in sessions]
    assert stacking.form(sessions[0], plans[0]) == stacking.form(sessions[1], plans[1])
    assert stacking.train_stack(sessions, plans) == [None, None]
    for together, one, names in zip(models, alone, (["a", "b"], ["b", "c"]), strict=True):
        assert together.task_names_ == names
        assert_allclose(together.task_loss_curves_, one.task_loss_curves_, atol=1e-12)
        assert [f"train_loss_{n}" in together.net_.history[-1] for n in "abc"] == [
            n in names for n in "abc"
        ]
