"""Speed, guarded by counting operators: seconds are left to the benchmarks.

A step must not cost more operators for more experts, tasks or stacked networks, and must not
read anything back from the device, which would make a GPU wait.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from plain import plain
from skorch.callbacks import GradientNormClipping
from stacks import fit_stack
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from sk_mtl import MultiTaskEstimator, stacked_training
from sk_mtl._support import Stream
from sk_mtl.batches import TaskData
from sk_mtl.losses import Focal, Huber, LogLoss, SquaredError
from sk_mtl.network import HeadGroup, build_network
from sk_mtl.objective import Objective
from sk_mtl.stacked_training import StackedTraining
from sk_mtl.training import MultiTaskNet
from sk_mtl.trunks import TRUNKS
from sk_mtl.weighting import WEIGHTINGS, RepresentationGradients, Static

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

every_trunk = pytest.mark.parametrize("trunk", TRUNKS)


class Operators(TorchDispatchMode):
    """Counts the operators of ATen, those of the backward pass and of the optimiser included."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.namespace == "aten"
        return func(*args, **(kwargs or {}))


def steps_of(run, monkeypatch):
    """Return the operators of every training step that ``run()`` takes."""
    train_batch, counts = MultiTaskNet._train_batch, []

    def counted(net, batch, complete):
        with Operators() as operators:
            result = train_batch(net, batch, complete)
        counts.append(operators.count)
        return result

    with monkeypatch.context() as patch:
        patch.setattr(MultiTaskNet, "_train_batch", counted)
        run()
    return counts


def table(n_tasks, *, missing=False, mixed=False, n_rows=64):
    """Amounts, or a third each of two classes, four classes and amounts."""
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(n_rows, 5)), rng.normal(size=(n_rows, n_tasks))
    if mixed:
        Y[:, ::3] = Y[:, ::3] > 0
        Y[:, 1::3] = rng.permuted(np.arange(n_rows) % 4)[:, None]
    if missing:
        Y[rng.random(Y.shape) < 0.3] = np.nan
    return X, Y


def operators_of_a_step(monkeypatch, trunk="shared_bottom", *, n_tasks=4, **params):
    """Return the number of operators of a step, which must not change from step to step."""
    data = {k: params.pop(k, False) for k in ("missing", "mixed")}
    X, Y = table(n_tasks, **data)
    kinds = ["classification", "classification", "regression"] if data["mixed"] else ["regression"]
    model = plain(
        MultiTaskEstimator,
        trunk,
        tasks=[kinds[t % len(kinds)] for t in range(n_tasks)],
        hidden_layer_sizes=(8, 6),
        batch_size=16,
        max_iter=2,
        random_state=0,
        **params,
    )
    counts = steps_of(lambda: model.fit(X, Y), monkeypatch)
    assert len(counts) == 8
    assert len(set(counts[1:])) == 1  # the first step may set up the optimiser
    return counts[-1]


# Operators do not grow ----------------------------------------------------------------------


@every_trunk
@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("mixed", [False, True])
def test_a_step_costs_the_same_for_few_and_many_tasks(trunk, missing, mixed, monkeypatch):
    # Of mixed tasks a third each is of one form; a form with a single task saves one copy.
    few, many = (
        operators_of_a_step(monkeypatch, trunk, n_tasks=n, missing=missing, mixed=mixed)
        for n in ((6, 18) if mixed else (2, 16))
    )
    assert few == many


@every_trunk
def test_a_step_costs_the_same_for_few_and_many_experts(trunk, monkeypatch):
    recipe = TRUNKS[trunk]()
    for name in recipe.get_params():
        if name.endswith("experts"):
            few, many = (
                operators_of_a_step(monkeypatch, TRUNKS[trunk](**{name: n})) for n in (2, 16)
            )
            assert few == many, name


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_a_step_costs_the_same_for_every_number_of_tasks_and_weighting(weighting, monkeypatch):
    few, many = (operators_of_a_step(monkeypatch, weighting=weighting, n_tasks=n) for n in (2, 16))
    assert few == many


def arithmetic_of_a_step(weighting, n_tasks, monkeypatch):
    """Return the floating-point operations of the products of one step."""
    train_batch, counts = MultiTaskNet._train_batch, []

    def counted(net, batch, complete):
        with FlopCounterMode(display=False) as flops:
            result = train_batch(net, batch, complete)
        counts.append(flops.get_total_flops())
        return result

    X, Y = table(n_tasks)
    with monkeypatch.context() as patch:
        patch.setattr(MultiTaskNet, "_train_batch", counted)
        plain(
            MultiTaskEstimator,
            tasks=["regression"] * n_tasks,
            hidden_layer_sizes=(256, 16),
            weighting=weighting,
            max_iter=1,
            random_state=0,
        ).fit(X, Y)
    return counts[0]


@pytest.mark.parametrize("n_tasks", [2, 16])
def test_gradients_of_features_go_through_the_trunk_once(n_tasks, monkeypatch):
    """Besides the trunk, which is wide here, there are the heads and the inner products."""
    static, of_features, of_parameters = (
        arithmetic_of_a_step(weighting, n_tasks, monkeypatch)
        for weighting in ("static", RepresentationGradients("mgda"), "mgda")
    )
    beside = 2 * 64 * 16 * n_tasks * (n_tasks + 1)
    assert of_features == static + beside
    # Negative control: of three products with the trunk's weights, two are a task's own.
    assert of_parameters > static * (1 + 2 * n_tasks) / 3.5


def stacked_steps(monkeypatch, trunk, n_members):
    """Return the operators of steps that train a stack of networks."""
    groups = [HeadGroup((0, 2), SquaredError(), 1), HeadGroup((1,), LogLoss(), 3)]
    weights = torch.rand(n_members, 3, dtype=torch.float64) + 0.1
    recipe = TRUNKS[trunk]()
    network = build_network(
        recipe,
        groups,
        n_inputs=5,
        n_tasks=3,
        hidden_layer_sizes=(8, 6),
        head_hidden_layer_sizes=(4,),
        activation="relu",
        dropout=0.1,
        seeds=[(i, i, 0) for i in range(n_members)],  # masks of one stream
        dtype=torch.float64,
        stack=(n_members,),
    )
    objective = Objective(groups, 3, Static().build(weights), weights, private=recipe.private)
    net = MultiTaskNet(
        network,
        objective,
        task_names=["a", "b", "c"],
        decay=0.1,
        optimizer=torch.optim.Adam,
        optimizer__fused=True,
        lr=0.01,
        batch_size=16,
        shuffle=Stream(0),
        train_split=None,
        verbose=0,
    ).initialize()
    X, Y = table(3)
    Y[:, 1] = np.arange(64) % 3
    data = TaskData(torch.from_numpy(X), torch.from_numpy(Y))
    # An epoch without its record: the history belongs to one network.
    monkeypatch.setattr(MultiTaskNet, "_record_epoch", lambda *args, **kwargs: None)
    before = [p.detach().clone() for p in network.parameters()]
    counts = steps_of(lambda: net.fit_loop(data, epochs=2), monkeypatch)
    assert all(not torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    return counts


@every_trunk
def test_a_step_costs_the_same_for_few_and_many_stacked_networks(trunk, monkeypatch):
    assert stacked_steps(monkeypatch, trunk, 2) == stacked_steps(monkeypatch, trunk, 16)


def operators_of_a_stacked_epoch(monkeypatch, candidates, *, n_folds=1, missing=False, **params):
    """Return the operators of an epoch of many estimators, validation and records included."""
    X, Y = table(3, missing=missing, n_rows=80)
    folds = [(X[f : 70 + f], Y[f : 70 + f], {}) for f in range(n_folds)]
    base = {"hidden_layer_sizes": (8, 6), "batch_size": 16, "max_iter": 3, "random_state": 0}
    models = [
        plain(MultiTaskEstimator, tasks=["regression"] * 3, **(base | params | candidate))
        for candidate in candidates
    ]
    run_epoch, counts = StackedTraining._run_epoch, []

    def counted(training):
        with Operators() as operators:
            run_epoch(training)
        counts.append(operators.count)

    with monkeypatch.context() as patch:
        patch.setattr(StackedTraining, "_run_epoch", counted)
        fit_stack(
            [model for _ in folds for model in models], [fold for fold in folds for _ in models]
        )
    assert len(counts) == 3 and counts[1] == counts[2]
    return counts[-1]


def candidates(what, n):
    """So many candidates that differ in something."""
    return {
        "task weights": [{"task_weights": [1, 1 + i, 2]} for i in range(n)],
        "learning rates": [{"learning_rate_init": 1e-3 * (1 + i)} for i in range(n)],
        "penalties": [{"alpha": 0.1 * i} for i in range(n)],
        "numbers of losses": [{"loss": Huber(delta=0.1 * (1 + i))} for i in range(n)],
    }[what]


@pytest.mark.parametrize(
    "what", ["task weights", "learning rates", "penalties", "numbers of losses"]
)
@pytest.mark.parametrize(
    "params",
    [
        {},
        {"missing": True, "early_stopping": True},
        {"solver": "sgd", "dropout": 0.1},
        {"callbacks": [GradientNormClipping(1.0)], "n_folds": 2},
        {"trunk": "ple"},
        {"trunk": "single_task"},
    ],
    ids=["plain", "validation", "masks", "clipping, two folds", "ple", "single_task"],
)
def test_an_epoch_costs_the_same_for_4_and_32_candidates(what, params, monkeypatch):
    few, many = (
        operators_of_a_stacked_epoch(monkeypatch, candidates(what, n), **params) for n in (4, 32)
    )
    assert few == many


def test_the_count_of_a_stacked_epoch_can_grow(monkeypatch):
    """Negative control: every seed has masks, and an order of rows, of its own."""
    few, many = (
        operators_of_a_stacked_epoch(
            monkeypatch, [{"random_state": i} for i in range(n)], dropout=0.1
        )
        for n in (2, 4)
    )
    assert few < many


def test_candidates_that_share_a_seed_share_masks_and_batches(monkeypatch):
    """Four orders of rows, and four streams of masks, for 4 as for 32 candidates."""
    few, many = (
        operators_of_a_stacked_epoch(
            monkeypatch,
            [{"random_state": i % 4, "alpha": 0.1 * i} for i in range(n)],
            dropout=0.1,
        )
        for n in (8, 32)
    )
    assert few == many


@pytest.mark.parametrize(
    ("params", "measured"),
    [
        ({"alpha": 0.0}, 62),
        ({"alpha": 0.1}, 68),
        ({"missing": True}, 96),
        ({"mixed": True}, 150),
        ({"trunk": "mmoe"}, 108),
        ({"trunk": "ple"}, 163),
        ({"trunk": "single_task"}, 69),
    ],
    ids=str,
)
def test_a_step_stays_short(params, measured, monkeypatch):
    """A bound on the count itself: a tenth above what was measured with torch 2.13."""
    assert operators_of_a_step(monkeypatch, **params) <= 1.1 * measured


# Nothing is read back inside an epoch -------------------------------------------------------


class NoReadBack(TorchDispatchMode):
    """Refuses operators for which a GPU would have to be waited for.

    These read values, or make a tensor of Python's (``lift_fresh``) and copy it to the device.
    """

    READ_BACK = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique", "lift_fresh")

    def __init__(self):
        super().__init__()
        self.allowed = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().removeprefix("aten::").split(".")[0]
        indices = (
            args[1] if name in ("index", "index_put", "index_put_", "_index_put_impl_") else ()
        )
        by_mask = any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in indices)
        if not self.allowed and (name.startswith(self.READ_BACK) or by_mask):
            raise AssertionError(f"{func.name()} makes the device wait")
        return func(*args, **(kwargs or {}))


@pytest.fixture
def no_read_back(monkeypatch):
    """Refuse read-backs in the batches of every epoch; its end may record the losses."""
    guard = NoReadBack()

    def guarded(method, *, allowed):
        def run(*args, **kwargs):
            before, guard.allowed = guard.allowed, allowed
            try:
                with guard:
                    return method(*args, **kwargs)
            finally:
                guard.allowed = before

        return run

    for owner, name, allowed in (
        (MultiTaskNet, "_run_epoch", False),
        (MultiTaskNet, "_record_epoch", True),
        (MultiTaskNet, "_record_score", True),
        (StackedTraining, "_run_epoch", False),
        (StackedTraining, "_record", True),
        (stacked_training, "encoded_scores", True),  # on the validation rows, once an epoch
    ):
        monkeypatch.setattr(owner, name, guarded(getattr(owner, name), allowed=allowed))


@pytest.mark.usefixtures("no_read_back")
@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("solver", ["adam", "sgd"])
@every_trunk
def test_nothing_is_read_back_inside_an_epoch(trunk, missing, weighted, solver):
    X, Y = table(6, missing=missing, mixed=True)
    plain(
        MultiTaskEstimator,
        trunk,
        tasks=["classification", "classification", "regression"] * 2,
        hidden_layer_sizes=(8,),
        head_hidden_layer_sizes=(4,),
        dropout=0.1,
        solver=solver,
        class_weight={"task0": "balanced"} if weighted else None,
        task_weights=[1, 2, 3, 4, 5, 6],
        batch_size=16,
        max_iter=2,
        early_stopping=True,
        random_state=0,
    ).fit(X, Y, sample_weight=np.linspace(1, 2, len(X)) if weighted else None)


@pytest.mark.usefixtures("no_read_back")
@pytest.mark.parametrize("n_folds", [1, 2])
@pytest.mark.parametrize("solver", ["adam", "sgd"])
@every_trunk
def test_nothing_is_read_back_inside_an_epoch_of_a_stack(trunk, solver, n_folds):
    """Whatever the networks differ in: rates, penalties, masks, numbers of losses, their ends."""
    X, Y = table(6, missing=True, mixed=True, n_rows=80)
    w = np.linspace(1, 2, 70)
    folds = [(X[f : 70 + f], Y[f : 70 + f], {"sample_weight": w}) for f in range(n_folds)]
    models = [
        plain(
            MultiTaskEstimator,
            trunk,
            tasks=["classification", "classification", "regression"] * 2,
            hidden_layer_sizes=(8,),
            head_hidden_layer_sizes=(4,),
            loss=["log_loss", Focal(gamma=i + 1.0), Huber(delta=i + 0.5)] * 2,
            dropout=0.1 * i,
            solver=solver,
            learning_rate_init=1e-3 * (i + 1),
            alpha=0.1 * i,
            task_weights=[1 + i, 2, 3, 4, 5, 6],
            callbacks=[GradientNormClipping(1.0)],
            batch_size=16,
            max_iter=2 + i,
            early_stopping=True,
            random_state=i,
        )
        for i in range(3)
    ]
    _, errors = fit_stack(models * n_folds, [fold for fold in folds for _ in models])
    assert not any(errors)


@pytest.mark.usefixtures("no_read_back")
@pytest.mark.parametrize("name", [n for n, cls in WEIGHTINGS.items() if cls.needs == "losses"])
def test_weightings_by_losses_read_nothing_back(name):
    X, Y = table(4, missing=True)
    plain(MultiTaskEstimator, tasks=["regression"] * 4, weighting=name, max_iter=2).fit(X, Y)


@pytest.mark.usefixtures("no_read_back")
@pytest.mark.parametrize(
    "read",
    [
        lambda raw: raw.mean().item(),
        lambda raw: raw[raw > 0],
        lambda raw: raw.nonzero(),
        lambda raw: raw if raw.sum() > 0 else -raw,
        lambda raw: raw * torch.tensor([2.0]),
    ],
    ids=["item", "mask", "nonzero", "branch", "copy"],
)
def test_the_guard_sees_a_read_back(read):
    """Negative control: a loss that looks at its values is caught."""

    class Curious(SquaredError):
        def elementwise(self, raw, target):
            read(raw.detach())
            return super().elementwise(raw, target)

    X, Y = table(2)
    with pytest.raises(AssertionError, match="makes the device wait"):
        plain(MultiTaskEstimator, tasks=["regression"] * 2, loss=Curious(), max_iter=1).fit(X, Y)


class Reads(SquaredError):
    """A loss that looks at its values."""

    def elementwise(self, raw, target):
        raw.detach().mean().item()
        return super().elementwise(raw, target)


@pytest.mark.usefixtures("no_read_back")
def test_the_guard_sees_a_read_back_in_a_stack():
    """Negative control, as above."""
    models = [plain(MultiTaskEstimator, tasks=["regression"] * 2, loss=Reads(), max_iter=1)] * 2
    with pytest.raises(AssertionError, match="makes the device wait"):
        fit_stack(models, [(*table(2), {})] * 2)
