"""A learned factor for every input of the trunk: how it moves, what shares it, what it is for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from plain import plain
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from skorch.callbacks import Callback

from sk_mtl import MultiTaskClassifier, MultiTaskRegressor, VectorizedGridSearchCV
from sk_mtl.entrance import InputScales, enter
from sk_mtl.layers import Draws

pytestmark = pytest.mark.filterwarnings(
    "ignore:Stochastic Optimizer:sklearn.exceptions.ConvergenceWarning"
)

rng = np.random.default_rng(0)
N, NOISE = 120, 60
X = rng.normal(size=(N, 3))
R = np.column_stack([X[:, 0] + X[:, 1], np.sin(2 * X[:, 0]), X[:, 2]])
R[::4, 1] = np.nan
WIDE, WIDE_TEST = (np.hstack([x, rng.normal(size=(len(x), NOISE))]) for x in (X, X[:40]))
SMALL = {"hidden_layer_sizes": (8,), "max_iter": 5, "random_state": 0, "early_stopping": False}


def reg(**kw):
    return plain(MultiTaskRegressor, **{**SMALL, "input_scale_rate": 6.0, **kw})


def factors(fitted):
    scales = fitted.net_.module_.trunk.scales
    return (1 + scales.rate * scales.gain).detach().numpy()


# The module -----------------------------------------------------------------------------------


def test_factors_start_at_one_and_multiply_their_inputs():
    scales = InputScales(3, 2.0, Draws([0]), None)
    x = torch.randn(5, 3)
    assert_array_equal(scales(x).detach(), x)
    with torch.no_grad():
        scales.gain.copy_(torch.tensor([0.5, 0.0, -0.5]))
    assert_array_equal(scales(x).detach(), x * torch.tensor([2.0, 1.0, 0.0]))


@pytest.mark.parametrize("shape", [(5, 3), (2, 5, 3), (2, 4, 5, 3)])
def test_networks_and_tasks_have_factors_of_their_own(shape):
    scales = InputScales(3, 1.0, Draws([0, 1], stack=(2,)), parallel=4)
    with torch.no_grad():
        scales.gain.copy_(torch.arange(24.0).view(2, 4, 3))
    x = torch.randn(shape)
    found = scales(x)
    assert found.shape == (2, 4, 5, 3)
    for s in range(2):
        for t in range(4):
            own = x if x.dim() == 2 else x[s] if x.dim() == 3 else x[s, t]
            assert_allclose(found[s, t].detach(), own * (1 + scales.gain[s, t]).detach())


def test_without_inputs_or_scales_the_trunk_is_all_there_is():
    trunk = torch.nn.Linear(3, 3)
    assert enter(None, None, trunk) is trunk
    model = reg(input_scale_rate=0.0).fit(X, R)
    assert not hasattr(model.net_.module_.trunk, "scales")


# Training -------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [1.0, 6.0])
def test_a_step_of_adam_changes_a_factor_by_rate_times_the_learning_rate(rate):
    """The first step of Adam has the length of the learning rate, whatever the gradient."""
    options = {"max_iter": 1, "batch_size": N, "learning_rate_init": 0.01, "alpha": 0.0}
    model = reg(input_scale_rate=rate, **options).fit(X, R)
    assert_allclose(np.abs(factors(model) - 1), rate * 0.01, rtol=1e-4)


def test_first_step_follows_the_slope_of_the_loss():
    """Against finite differences of the loss in each factor."""
    options = {"max_iter": 1, "batch_size": N, "solver": "sgd", "momentum": 0.0, "alpha": 0.0}
    model = reg(input_scale_rate=1.0, learning_rate_init=1e-9, **options).fit(X, R)
    gain = model.net_.module_.trunk.scales.gain

    def loss(shift):
        with torch.no_grad():
            gain.copy_(torch.tensor(shift))
            raw = model.net_.raw_outputs(torch.from_numpy(X))[0].numpy()
        scaled = (R - np.nanmean(R, axis=0)) / np.nanstd(R, axis=0)
        return np.nanmean((raw[..., 0].T - scaled) ** 2, axis=0).mean() / 2

    slopes = [(loss(1e-5 * e) - loss(-1e-5 * e)) / 2e-5 for e in np.eye(3)]
    trained = reg(input_scale_rate=1.0, learning_rate_init=1e-3, **options).fit(X, R)
    assert_allclose((1 - factors(trained)) / 1e-3, slopes, rtol=1e-3)


def test_inputs_that_say_nothing_are_left_out():
    """A property, and its negative control: factors that hardly learn leave them in."""
    options = {"max_iter": 60, "learning_rate_init": 0.005, "hidden_layer_sizes": (32,)}
    fast = reg(input_scale_rate=6.0, **options).fit(WIDE, R)
    slow = reg(input_scale_rate=0.01, **options).fit(WIDE, R)

    def contrast(model):
        found = np.abs(factors(model))
        return np.median(found[3:]) / found[:3].min()

    assert contrast(fast) < 0.75
    assert contrast(slow) > 0.9


@pytest.mark.parametrize("trunk", ["shared_bottom", "single_task"])
def test_penalty_on_weights_leaves_factors_alone(trunk):
    options = {"max_iter": 1, "batch_size": N, "solver": "sgd", "momentum": 0.0, "trunk": trunk}
    left, pulled = (reg(alpha=alpha, **options).fit(X, R) for alpha in (0.0, 100.0))
    assert_array_equal(factors(left), factors(pulled))
    assert not np.array_equal(left.predict(X), pulled.predict(X)), "other weights are pulled"


# Sharing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("embedding", [None, "piecewise_linear", "periodic"])
def test_single_task_has_factors_a_task_as_separate_fits_have(embedding):
    options = {"embedding": embedding, "batch_size": N, "shuffle": False, "alpha": 0.0}
    Y = R[:, [0, 2]]
    both = reg(trunk="single_task", **options).fit(X, Y)
    for t in range(2):
        alone = reg(trunk="single_task", **options).fit(X, Y[:, t])
        assert_allclose(factors(both)[t], factors(alone)[0], rtol=1e-9)
        assert_allclose(both.predict(X)[:, t], alone.predict(X).ravel(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("trunk", ["shared_bottom", "mmoe", "soft_sharing", "single_task"])
def test_members_in_a_stack_equal_members_alone(trunk):
    model = reg(trunk=trunk, n_members=3, embedding="piecewise_linear", dtype="float64").fit(X, R)
    alone = clone(model).set_params(callbacks=[Callback()]).fit(X, R)
    for a, b in zip(model.estimators_, alone.estimators_, strict=True):
        assert_allclose(factors(a), factors(b), rtol=1e-9)
        assert not np.allclose(factors(a), 1)


def test_searches_keep_candidates_of_other_rates_apart():
    grid = {"input_scale_rate": [0.0, 3.0, 6.0], "alpha": [1e-4, 1.0]}
    search = VectorizedGridSearchCV(reg(), grid, cv=2, refit=False).fit(X, R)
    for parameters, score in zip(
        search.cv_results_["params"], search.cv_results_["split0_test_score"], strict=True
    ):
        rows = np.arange(N) >= N // 2
        alone = reg(**parameters).fit(X[rows], R[rows])
        assert_allclose(score, alone.score(X[~rows], R[~rows]), rtol=1e-6)


@pytest.mark.parametrize("weighting", ["pcgrad", "mgda"])
def test_gradient_weightings_count_them_among_what_is_shared(weighting):
    assert not np.allclose(factors(reg(weighting=weighting).fit(X, R)), 1)


# Parameters -----------------------------------------------------------------------------------


def test_training_goes_on_only_at_the_same_rate():
    model = reg(warm_start=True).fit(X, R)
    before = factors(model)
    assert not np.array_equal(factors(model.fit(X, R)), before)
    with pytest.raises(ValueError, match=r"Got input_scale_rate=3\.0 to continue a network"):
        model.set_params(input_scale_rate=3.0).fit(X, R)


@pytest.mark.parametrize("rate", [-1.0, "fast", None])
def test_rates_that_make_no_sense_are_refused(rate):
    with pytest.raises(ValueError, match="'input_scale_rate' parameter of MultiTaskRegressor"):
        reg(input_scale_rate=rate).fit(X, R)


def test_sparse_tables_and_categories_have_factors_too():
    import pandas as pd
    from scipy import sparse

    few = reg(max_iter=2).fit(sparse.csr_array(np.where(X > 0, X, 0)), R)
    assert factors(few).shape == (3,)
    frame = pd.DataFrame({"a": X[:, 0], "b": pd.Categorical((X[:, 1] > 0).astype(str))})
    model = reg(max_iter=2, embedding="piecewise_linear").fit(frame, R)
    assert factors(model).shape == (model.net_.module_.trunk.inputs.n_outputs,)


def test_default_estimators_have_them():
    with pytest.warns(ConvergenceWarning):
        model = MultiTaskClassifier(max_iter=2, random_state=0).fit(X, R[:, [0, 2]] > 0)
    assert all(not np.allclose(factors(m), 1) for m in model.estimators_)
