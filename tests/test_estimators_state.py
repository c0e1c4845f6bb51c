"""What a fitted estimator carries: bits that repeat, pickles, nothing of the global state."""

from __future__ import annotations

import copy
import io
import pickle
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import pytest
import torch
from plain import plain
from sklearn.base import clone
from skorch.callbacks import Callback

from sk_mtl import MultiTaskClassifier, MultiTaskRegressor
from sk_mtl._support import Stream, check_device
from sk_mtl.batches import TaskData
from sk_mtl.losses import Huber
from sk_mtl.trunks import TRUNKS, MMoE

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

N = 60
rng = np.random.default_rng(0)
X = rng.normal(size=(N, 4))
R = X[:, :2] @ [[1.0, 0.5], [0.5, -1.0]]
R[::3, 1] = np.nan
Y = np.where(np.isnan(R), np.nan, R > 0)
DROPOUT = {
    "hidden_layer_sizes": (5,),
    "head_hidden_layer_sizes": (4,),
    "dropout": 0.3,
    "max_iter": 4,
    "batch_size": 20,
    "early_stopping": True,
    "n_iter_no_change": np.inf,
}


def clf(random_state=0, **params):
    return plain(MultiTaskClassifier, **{**DROPOUT, "random_state": random_state, **params})


def outputs(model):
    return np.hstack(model.predict_proba(X))


# Randomness -----------------------------------------------------------------------------------


@pytest.mark.parametrize("trunk", TRUNKS)
def test_one_seed_gives_identical_bits(trunk):
    first = clf(trunk=trunk).fit(X, Y)
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002 - neither is asked
    second = clf(trunk=trunk).fit(X, Y)
    again = copy.deepcopy(outputs(first))
    assert np.array_equal(outputs(first.fit(X, Y)), again)
    assert np.array_equal(outputs(second), again)
    assert second.validation_scores_ == first.validation_scores_
    assert not np.array_equal(outputs(clf(1, trunk=trunk).fit(X, Y)), again)


def test_random_state_as_in_scikit_learn():
    """An int repeats; a RandomState goes on from fit to fit; None follows numpy's global seed."""
    state = np.random.RandomState(0)
    model = clf(state)
    first, second = outputs(model.fit(X, Y)), outputs(model.fit(X, Y))
    assert not np.array_equal(first, second)
    anew = clf(np.random.RandomState(0))
    assert np.array_equal(outputs(anew.fit(X, Y)), first)
    np.random.seed(3)  # noqa: NPY002
    free = outputs(clf(None).fit(X, Y))
    assert not np.array_equal(outputs(clf(None).fit(X, Y)), free)
    np.random.seed(3)  # noqa: NPY002
    assert np.array_equal(outputs(clf(None).fit(X, Y)), free)


@pytest.mark.parametrize("trunk", TRUNKS)
def test_global_random_state_is_left_alone(trunk, no_global_rng):
    model = clf(trunk=trunk).fit(X, Y)
    for use in (model.predict, model.transform, model.predict_proba, pickle.dumps):
        use(model if use is pickle.dumps else X)
    model.score(X, Y)
    clf(trunk=trunk, early_stopping=False).partial_fit(X, Y, classes=[0, 1])


def test_fits_in_threads_equal_fits_in_turn():
    seeds = list(range(8))

    def fit(seed):
        return outputs(clf(seed, max_iter=10).fit(X, Y))

    one_by_one = [fit(seed) for seed in seeds]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(fit, seeds))
    for a, b in zip(one_by_one, together, strict=True):
        assert np.array_equal(a, b)


def test_a_stream_goes_on_whatever_its_device_is_called():
    stream, other = Stream(0), Stream(0)
    first = [torch.rand(3, generator=stream.generator("cpu")) for _ in range(2)]
    second = [torch.rand(3, generator=other.generator(name)) for name in ("cpu", "cpu:0")]
    assert torch.equal(torch.stack(first), torch.stack(second))
    assert not torch.equal(*first)


def test_device_is_called_what_its_tensors_call_it():
    """Data that lie there already are then not copied."""
    device = check_device("cpu:0")
    assert device == torch.empty(1, device="cpu:0").device == torch.device("cpu")
    data = TaskData(torch.from_numpy(X), torch.from_numpy(Y))
    assert data.to(device) is data


@pytest.mark.parametrize("go_on", ["fit", "partial_fit"])
def test_failing_call_draws_no_random_numbers(go_on):
    """The next call shuffles as if the one that failed had never been."""

    class Broken(Callback):
        def on_epoch_end(self, net, **kwargs):
            raise ValueError("broken")

    model = clf(early_stopping=False, warm_start=True).fit(X, Y)
    other = copy.deepcopy(model)
    with pytest.raises(ValueError, match="broken"):
        getattr(model.set_params(callbacks=[Broken()]), go_on)(X, Y)
    model.set_params(callbacks=None)
    getattr(model, go_on)(X, Y), getattr(other, go_on)(X, Y)
    assert np.array_equal(outputs(model), outputs(other))


# Copies ---------------------------------------------------------------------------------------


def through_joblib(model):
    buffer = io.BytesIO()
    joblib.dump(model, buffer)
    buffer.seek(0)
    return joblib.load(buffer)


COPIES = {
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "joblib": through_joblib,
    "deepcopy": copy.deepcopy,
}


@pytest.mark.parametrize("trunk", TRUNKS)
@pytest.mark.parametrize("how", COPIES)
def test_copy_predicts_the_same_and_goes_on_the_same(how, trunk):
    model = clf(trunk=trunk, early_stopping=False, warm_start=True).fit(X, Y)
    other = COPIES[how](model)
    assert np.array_equal(outputs(model), outputs(other))
    assert other.loss_curve_ == model.loss_curve_
    assert list(other.net_.history) == list(model.net_.history)
    before = outputs(model)
    other.partial_fit(X, Y)  # with the random stream, the dropout and the optimiser it had
    assert np.array_equal(outputs(model), before)
    assert not np.array_equal(outputs(other), before)
    assert np.array_equal(outputs(model.partial_fit(X, Y)), outputs(other))
    assert np.array_equal(outputs(model.fit(X, Y)), outputs(other.fit(X, Y)))


def test_clone_is_unfitted_and_equal():
    model = plain(
        MultiTaskRegressor,
        trunk=MMoE(n_experts=3),
        loss=[Huber(delta=2.0), "squared_error"],
        task_weights={"a": 1},
    )
    other = clone(model)
    assert repr(other) == repr(model)
    assert other.trunk is not model.trunk
    assert other.trunk.n_experts == other.get_params()["trunk__n_experts"] == 3
    assert not hasattr(clone(clf().fit(X, Y)), "net_")


def test_recipes_of_the_user_are_not_changed_by_a_fit():
    trunk, loss = MMoE(n_experts=3), Huber(delta=2.0)
    before = dict(vars(trunk)), dict(vars(loss))
    plain(MultiTaskRegressor, trunk=trunk, loss=loss, max_iter=1, hidden_layer_sizes=(3,)).fit(X, R)
    assert (vars(trunk), vars(loss)) == before


def test_parameters_may_change_after_a_fit():
    model = clf().fit(X, Y)
    before = outputs(model)
    model.set_params(hidden_layer_sizes=(9,), dtype="float32", dropout=0.0, trunk="mmoe")
    assert np.array_equal(outputs(model), before)


def size(model):
    return len(pickle.dumps(model))


def test_pickle_holds_no_training_data():
    """A hundred times the rows and batches add nothing but the counts' digits."""
    many = np.tile(X, (100, 1))
    few_rows = clf(callbacks=[]).fit(X, Y)
    many_rows = clf().fit(many, np.tile(Y, (100, 1)), X_val=many, y_val=np.tile(Y, (100, 1)))
    ranks = 1000 * 2 * 8 * Y.shape[1]  # of held-out errors: two numbers each
    assert size(many_rows) < size(few_rows) + ranks + 2000
    n_values = sum(p.numel() for p in few_rows.net_.module_.parameters())
    wide = clf(hidden_layer_sizes=(500,)).fit(X, Y)
    more = sum(p.numel() for p in wide.net_.module_.parameters()) - n_values
    growth = (size(wide) - size(few_rows)) / (8 * more)
    assert 2.5 < growth < 3.5  # the weights once, and the two moments of Adam


def test_model_of_another_machines_gpu_predicts_here():
    """The net says "cuda"; skorch puts it on the CPU where there is none, and says so."""
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    model = clf(early_stopping=False).fit(X, Y)
    expected = outputs(model)
    model.net_.device = "cuda"
    data = pickle.dumps(model.set_params(device="cuda"))
    with pytest.warns(UserWarning, match="CUDA|cuda"):
        here = pickle.loads(data)
    assert np.array_equal(outputs(here), expected)
    assert here.transform(X).shape == (N, 5)
    with pytest.raises(ValueError, match="Got device='cuda'"):
        here.partial_fit(X, Y)
    here.set_params(device="cpu").partial_fit(X, Y)


def test_fitted_attributes():
    model = clf().fit(X, Y)
    assert model.n_tasks_ == 2
    assert model.task_types_ == ["binary", "binary"]
    assert model.n_features_in_ == 4
    assert model.n_iter_ == 4 == len(model.loss_curve_) == len(model.validation_scores_)
    assert model.task_loss_curves_.shape == model.validation_task_loss_curves_.shape == (4, 2)
    assert model.best_iter_ in range(1, 5)
    assert model.net_.module_.training is False
    assert not any("batches" in epoch for epoch in model.net_.history)
    plain = clf(early_stopping=False).fit(X, Y)
    assert plain.validation_scores_ is plain.validation_task_loss_curves_ is None
