"""Losses: the contract that all keep, and each against an independent reference.

Every test of the first part loops over ``LOSSES``: a new entry inherits them.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from plain import plain
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.base import clone
from sklearn.linear_model._huber import _huber_loss_and_gradient
from sklearn.metrics import (
    log_loss,
    mean_absolute_error,
    mean_pinball_loss,
    mean_poisson_deviance,
    mean_squared_error,
)
from torch.testing import assert_close

from sk_mtl import MultiTaskClassifier, MultiTaskEstimator, MultiTaskRegressor
from sk_mtl._support import stack_recipes
from sk_mtl.estimators._stacking import likely_form
from sk_mtl.losses import (
    LOSSES,
    AbsoluteError,
    Focal,
    Huber,
    LogLoss,
    Poisson,
    Quantile,
    RegressionLoss,
    SquaredError,
)

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

VARIANTS = [Focal(gamma=0.5), Huber(delta=0.3), Quantile(quantile=0.9)]
RECIPES = [*[cls() for cls in LOSSES.values()], *VARIANTS]
CLASS_COUNTS = {"binary": 2, "multiclass": 4, "regression": 0}
CASES = [(loss, kind) for loss in RECIPES for kind in CLASS_COUNTS if kind in loss.kinds]
every_loss = pytest.mark.parametrize(
    ("loss", "kind"), CASES, ids=[f"{loss!r}-{kind}" for loss, kind in CASES]
)


def sample(loss, kind, shape=(40,), seed=0, dtype=torch.float64):
    """Raw outputs and targets: class indices, or non-negative numbers (as Poisson wants)."""
    g = torch.Generator().manual_seed(seed)
    n_classes = CLASS_COUNTS[kind]
    raw = torch.randn((*shape, loss.n_outputs(n_classes)), dtype=dtype, generator=g)
    if kind == "regression":
        return raw, torch.rand(shape, dtype=dtype, generator=g) * 3
    return raw, torch.randint(n_classes, shape, generator=g).to(dtype)


# The contract -------------------------------------------------------------------------------


@every_loss
def test_recipes_hold_hyper_parameters_only(loss, kind):
    assert repr(clone(loss)) == repr(loss)
    loss.validate()
    loss.elementwise(*sample(loss, kind))
    assert vars(loss) == loss.get_params(deep=False)


@every_loss
def test_one_number_a_sample_over_any_leading_axes(loss, kind):
    raw, target = sample(loss, kind, (2, 3, 40))
    each = loss.elementwise(raw, target)
    assert each.shape == (2, 3, 40)
    prediction = loss.to_prediction(raw)
    n_classes = CLASS_COUNTS[kind]
    assert prediction.shape == ((2, 3, 40, n_classes) if n_classes else (2, 3, 40))
    assert_close(each[1, 2], loss.elementwise(raw[1, 2], target[1, 2]), rtol=0, atol=1e-14)
    assert_close(prediction[1, 2], loss.to_prediction(raw[1, 2]), rtol=0, atol=1e-14)


@every_loss
def test_stacked_networks_share_the_targets(loss, kind):
    raw, _ = sample(loss, kind, (2, 3, 40))  # (stack, task, batch, out)
    _, target = sample(loss, kind, (3, 40))  # (task, batch)
    each = loss.elementwise(raw, target)
    assert each.shape == (2, 3, 40)
    assert_close(each[1], loss.elementwise(raw[1], target), rtol=0, atol=1e-14)


@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_losses_are_not_negative(loss, kind, dtype):
    raw, target = sample(loss, kind, (5000,), dtype=dtype)
    each = loss.elementwise(raw * 8, target)
    assert each.dtype == dtype
    assert (each >= (-1e-5 if isinstance(loss, Poisson) else 0)).all()
    assert each.max() > 1


@every_loss
def test_gradients_are_finite_differences(loss, kind):
    raw, target = sample(loss, kind)
    raw.requires_grad_()
    assert torch.autograd.gradcheck(lambda r: loss.elementwise(r, target), (raw,))


@every_loss
def test_finite_at_extreme_raw_values(loss, kind):
    size = 50.0 if isinstance(loss, Poisson) else 1e4  # an exponential cannot go further
    for dtype in (torch.float32, torch.float64):
        raw, target = sample(loss, kind, (200,), dtype=dtype)
        raw = (raw.sign() * size).requires_grad_()
        each = loss.elementwise(raw, target)
        each.sum().backward()
        assert each.isfinite().all() and raw.grad.isfinite().all()
        assert loss.to_prediction(raw).isfinite().all()


@every_loss
def test_the_prediction_is_what_the_loss_wants_for_a_single_target(loss, kind):
    grid = torch.linspace(-4, 4, 1601, dtype=torch.float64)
    targets = [0.25, 1.0, 2.5] if kind == "regression" else range(CLASS_COUNTS[kind])
    for target in targets:
        raw = grid[:, None]
        if kind == "multiclass":  # raise one class at a time
            raw = torch.eye(4, dtype=torch.float64) * 3
        each = loss.elementwise(raw, torch.full(raw.shape[:1], float(target), dtype=raw.dtype))
        best = loss.to_prediction(raw)[each.argmin()]
        if kind == "regression":
            assert best.item() == pytest.approx(target, abs=0.01)
        else:
            assert best.argmax() == target


@pytest.mark.parametrize(("loss", "kind"), [c for c in CASES if c[1] != "regression"], ids=repr)
def test_probabilities_add_up_to_one(loss, kind):
    raw, _ = sample(loss, kind, (30,))
    p = loss.to_prediction(raw * 5)
    assert (p >= 0).all()
    assert_close(p.sum(-1), torch.ones(30, dtype=torch.float64), rtol=0, atol=1e-14)


def test_each_loss_is_for_classes_or_for_amounts():
    for loss in RECIPES:
        assert loss.kinds in ({"binary", "multiclass"}, {"regression"})


# Independent references ---------------------------------------------------------------------


def focal_by_hand(p, gamma):
    return (1 - p) ** gamma * -np.log(p)


def probability_of_target(y, raw):
    two = np.column_stack([-raw, raw]) / 2 if raw.shape[1] == 1 else raw
    return np.exp(log_softmax(two, axis=1)[np.arange(len(y)), y.astype(int)])


def huber_by_sklearn(y, raw, delta):
    """scikit-learn's HuberRegressor with scale 1 minimises sum(1 + H(r)), H twice ours."""
    params = np.array([1.0, 1.0])  # coefficient, scale
    total, _ = _huber_loss_and_gradient(params, raw, y, delta, 0.0, np.ones(len(y)))
    return (total - len(y)) / 2 / len(y)


REFERENCES = {
    LogLoss: lambda loss, y, raw: log_loss(
        y,
        loss.to_prediction(torch.from_numpy(raw)).numpy(),
        labels=range(max(2, raw.shape[1])),
    ),
    Focal: lambda loss, y, raw: focal_by_hand(probability_of_target(y, raw), loss.gamma).mean(),
    SquaredError: lambda loss, y, raw: mean_squared_error(y, raw) / 2,
    AbsoluteError: lambda loss, y, raw: mean_absolute_error(y, raw),
    Huber: lambda loss, y, raw: huber_by_sklearn(y, raw, loss.delta),
    Poisson: lambda loss, y, raw: mean_poisson_deviance(y, np.exp(raw[:, 0])) / 2,
    Quantile: lambda loss, y, raw: mean_pinball_loss(y, raw[:, 0], alpha=loss.quantile),
}


def test_every_loss_has_a_reference():
    assert set(REFERENCES) == set(LOSSES.values())


@every_loss
def test_the_mean_loss_is_the_references(loss, kind):
    raw, target = sample(loss, kind, (300,))
    expected = REFERENCES[type(loss)](loss, target.numpy(), raw.numpy())
    assert loss.elementwise(raw, target).mean().item() == pytest.approx(expected, abs=1e-12)


@every_loss
def test_another_loss_fails_the_comparison(loss, kind):
    """Negative control: the references tell the losses, and their parameters, apart."""
    raw, target = sample(loss, kind, (300,))
    expected = REFERENCES[type(loss)](loss, target.numpy(), raw.numpy())
    others = [other for other, k in CASES if k == kind and repr(other) != repr(loss)]
    for other in others:
        assert abs(other.elementwise(raw, target).mean().item() - expected) > 1e-4, other


HAND_WORKED = [  # loss, raw, target, value
    (LogLoss(), [0.0], 1, np.log(2)),
    (LogLoss(), [np.log(3)], 1, np.log(4 / 3)),  # odds of 3 to 1: p = 3/4
    (LogLoss(), [np.log(3)], 0, np.log(4)),
    (LogLoss(), [0.0, np.log(2), 0.0], 1, np.log(2)),  # p = 2 / (1 + 2 + 1)
    (LogLoss(), [0.0, np.log(2), 0.0], 2, np.log(4)),
    (Focal(2.0), [np.log(3)], 1, np.log(4 / 3) / 16),  # (1 - 3/4)^2
    (Focal(2.0), [np.log(3)], 0, np.log(4) * 9 / 16),
    (Focal(1.0), [0.0, np.log(2), 0.0], 1, np.log(2) / 2),
    (SquaredError(), [3.0], 1.0, 2.0),  # 2^2 / 2
    (AbsoluteError(), [3.0], 1.0, 2.0),
    (Huber(1.0), [1.5], 1.0, 0.125),  # inside: 0.5^2 / 2
    (Huber(1.0), [4.0], 1.0, 2.5),  # outside: 1 * (3 - 1/2)
    (Huber(2.0), [4.0], 1.0, 4.0),  # 2 * (3 - 1)
    (Poisson(), [0.0], 0.0, 1.0),  # mean 1 for a count of 0
    (Poisson(), [np.log(2)], 2.0, 0.0),
    (Poisson(), [0.0], 2.0, 2 * np.log(2) - 1),  # y log(y / mu) - y + mu
    (Quantile(0.9), [1.0], 3.0, 1.8),  # too low: 0.9 * 2
    (Quantile(0.9), [3.0], 1.0, 0.2),  # too high: 0.1 * 2
]


@pytest.mark.parametrize(
    ("loss", "raw", "target", "value"),
    HAND_WORKED,
    ids=[f"{c[0]!r}-{i}" for i, c in enumerate(HAND_WORKED)],
)
def test_hand_worked_values(loss, raw, target, value):
    each = loss.elementwise(
        torch.tensor([raw], dtype=torch.float64), torch.tensor([target], dtype=torch.float64)
    )
    assert each.item() == pytest.approx(value, abs=1e-14)


# What each loss predicts --------------------------------------------------------------------


def huber_location(y, delta):
    """The M-estimator, by another route: a search over scikit-learn's Huber loss."""
    return minimize_scalar(
        lambda m: huber_by_sklearn(y, np.full((len(y), 1), m), delta),
        bounds=(y.min(), y.max()),
        method="bounded",
        options={"xatol": 1e-8},
    ).x


OPTIMA = [
    (SquaredError(), lambda y: y.mean()),
    (AbsoluteError(), lambda y: np.median(y)),
    (Huber(0.3), lambda y: huber_location(y, 0.3)),
    (Poisson(), lambda y: y.mean()),
    (Quantile(0.9), lambda y: np.quantile(y, 0.9)),
    (Quantile(0.25), lambda y: np.quantile(y, 0.25)),
]


@pytest.mark.parametrize(("loss", "statistic"), OPTIMA, ids=[repr(loss) for loss, _ in OPTIMA])
def test_the_best_constant_is_the_right_statistic(loss, statistic):
    y = np.random.default_rng(0).exponential(size=401)  # skewed: mean, median, quantile differ
    grid = torch.linspace(-3, 3, 6001, dtype=torch.float64)
    constants = grid[:, None, None].expand(-1, len(y), 1)  # each for the whole batch
    means = loss.elementwise(constants, torch.from_numpy(y)).mean(-1)
    best = loss.to_prediction(grid[:, None])[means.argmin()].item()
    assert best == pytest.approx(statistic(y), abs=0.01)
    others = [other(y) for name, other in OPTIMA if other is not statistic]
    assert max(abs(best - other) for other in others) > 0.3


def test_log_loss_predicts_frequencies_and_focal_pulls_them_to_the_middle():
    y = torch.tensor([1.0] * 80 + [0.0] * 20, dtype=torch.float64)
    grid = torch.linspace(-4, 4, 4001, dtype=torch.float64)

    def best(loss):
        means = loss.elementwise(grid[:, None, None].expand(-1, 100, 1), y).mean(-1)
        return loss.to_prediction(grid[:, None])[means.argmin(), 1].item()

    assert best(LogLoss()) == pytest.approx(0.8, abs=1e-3)
    assert best(Focal(gamma=0.0)) == pytest.approx(0.8, abs=1e-3)
    assert 0.55 < best(Focal(gamma=2.0)) < 0.75


@pytest.mark.parametrize("kind", ["binary", "multiclass"])
def test_focal_without_gamma_is_the_log_loss(kind):
    raw, target = sample(LogLoss(), kind)
    assert_close(Focal(gamma=0).elementwise(raw, target), LogLoss().elementwise(raw, target))
    assert (Focal(1).elementwise(raw, target) < LogLoss().elementwise(raw, target)).all()


@pytest.mark.parametrize("loss", [LogLoss(), Focal(1.0)], ids=repr)
def test_a_confident_right_answer_keeps_its_small_loss_in_float32(loss):
    """-log p of p near 1, where the naive difference of two large numbers is noise."""
    logit = torch.tensor([[12.0], [15.0]])
    exact = loss.elementwise(logit.double(), torch.ones(2, dtype=torch.float64))
    assert_close(loss.elementwise(logit, torch.ones(2)).double(), exact, rtol=1e-4, atol=0)


def test_quantile_one_half_is_half_the_absolute_error():
    raw, target = sample(AbsoluteError(), "regression")
    assert_close(
        2 * Quantile(0.5).elementwise(raw, target), AbsoluteError().elementwise(raw, target)
    )


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (Focal(gamma=-1), "'gamma' parameter of Focal"),
        (Huber(delta=0), "'delta' parameter of Huber"),
        (Quantile(quantile=1), "'quantile' parameter of Quantile"),
    ],
    ids=repr,
)
def test_parameters_outside_their_range_are_refused(loss, message):
    with pytest.raises(ValueError, match=message):
        loss.validate()


# In a stack ---------------------------------------------------------------------------------

STACKABLE = {  # three networks, of which two have the same number
    Focal: [0.0, 2.0, 2.0],
    Huber: [0.3, 1.0, 0.3],
    Quantile: [0.1, 0.9, 0.5],
}


def test_every_loss_with_a_number_says_whether_it_can_be_stacked():
    for cls in LOSSES.values():
        assert set(cls.stackable) == set(cls().get_params())
    assert set(STACKABLE) == {cls for cls in LOSSES.values() if cls.stackable}


@pytest.mark.parametrize("kind", ["shared targets", "targets a network"])
@pytest.mark.parametrize(
    ("cls", "kinds"), [(cls, k) for cls in STACKABLE for k in sorted(cls.kinds)]
)
def test_a_number_a_network_equals_the_losses_one_by_one(cls, kinds, kind):
    """Values and gradients, over (stack, task, batch)."""
    (name,), numbers = cls.stackable, STACKABLE[cls]
    losses = [cls(**{name: number}) for number in numbers]
    together = stack_recipes(losses, 2, torch.float64, torch.device("cpu"))
    assert getattr(together, name).shape == (3, 1, 1)
    raw, target = sample(together, kinds, (3, 2, 40))
    if kind == "shared targets":
        target = target[0]
    if cls is Huber:  # where the pieces meet: at the networks' own distances
        near = target.expand(3, 2, 40)[..., :5]
        raw[..., :5, 0] = near + torch.tensor(numbers, dtype=torch.float64).view(3, 1, 1)
    raw.requires_grad_()
    each = together.elementwise(raw, target)
    (slope,) = torch.autograd.grad(each.square().sum(), raw)
    for i, loss in enumerate(losses):
        own = raw[i].detach().requires_grad_()
        expected = loss.elementwise(own, target.expand(3, 2, 40)[i])
        assert_close(each[i], expected, rtol=0, atol=1e-14)
        expected.square().sum().backward()
        assert_close(slope[i], own.grad, rtol=0, atol=1e-13)
    other = losses[1].elementwise(raw[0], target.expand(3, 2, 40)[0])  # negative control
    assert (each[0] - other).abs().max() > 1e-3
    assert [getattr(loss, name) for loss in losses] == numbers  # the recipes are left alone


@pytest.mark.parametrize("cls", STACKABLE)
def test_equal_numbers_stay_numbers(cls):
    (name,) = cls.stackable
    first = cls()
    together = stack_recipes([first, cls(), cls()], 2, torch.float64, torch.device("cpu"))
    assert getattr(together, name) == getattr(first, name)
    assert together is not first  # what a stack sets does not reach the user's recipe


@pytest.mark.parametrize("cls", STACKABLE)
def test_numbers_of_a_stack_have_the_type_of_its_tensors(cls):
    (name,) = cls.stackable
    losses = [cls(**{name: number}) for number in STACKABLE[cls]]
    together = stack_recipes(losses, 2, torch.float32, torch.device("cpu"))
    (kind, *_) = cls.kinds
    raw, target = sample(together, kind, (3, 2, 40), dtype=torch.float32)
    assert together.elementwise(raw, target).dtype == torch.float32


def test_numbers_that_are_not_declared_keep_networks_apart():
    """Whether networks may share a stack is told from the parameters alone."""
    models = {
        "declared": [plain(MultiTaskRegressor, loss=Quantile(quantile=q)) for q in (0.1, 0.9)],
        "a list": [plain(MultiTaskRegressor, loss=[Huber(delta=d), "poisson"]) for d in (0.1, 0.9)],
        "not declared": [plain(MultiTaskRegressor, loss=LogCosh(width=w)) for w in (0.1, 0.9)],
        "equal": [plain(MultiTaskRegressor, loss=LogCosh(width=w)) for w in (0.1, 0.1)],
        "other losses": [plain(MultiTaskRegressor, loss=name) for name in ("huber", "quantile")],
    }
    forms = {what: len({likely_form(m) for m in pair}) for what, pair in models.items()}
    assert forms == {
        "declared": 1,
        "a list": 1,
        "not declared": 2,
        "equal": 1,
        "other losses": 2,
    }


# In an estimator ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 3))
    counts = rng.poisson(np.exp(0.5 * X[:, 0] + 1.0)).astype(float)
    skewed = X[:, 1] + rng.exponential(size=300)
    Y = np.column_stack([counts, skewed])
    Y[::5, 1] = np.nan
    return X, Y


def test_every_regression_loss_fits_what_it_says(table):
    X, Y = table
    counts, skewed = Y[:, 0], Y[:, 1]
    losses = ["poisson", Quantile(0.9)]
    model = plain(
        MultiTaskRegressor,
        loss=losses,
        hidden_layer_sizes=(),
        learning_rate_init=0.02,
        max_iter=300,
        random_state=0,
    ).fit(X, Y)
    predicted = model.predict(X)
    assert (predicted[:, 0] > 0).all()
    assert predicted[:, 0].mean() == pytest.approx(counts.mean(), rel=0.02)  # as in any GLM
    known = ~np.isnan(skewed)
    assert np.mean(skewed[known] <= predicted[known, 1]) == pytest.approx(0.9, abs=0.02)
    median = clone(model).set_params(loss=["poisson", "absolute_error"]).fit(X, Y).predict(X)
    assert np.mean(skewed[known] <= median[known, 1]) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_trains_by_its_name(loss, table):
    X, Y = table
    model = plain(
        MultiTaskEstimator,
        tasks=["regression" if "regression" in LOSSES[loss].kinds else "classification"],
        loss=loss,
        hidden_layer_sizes=(8,),
        learning_rate_init=0.01,
        max_iter=20,
        random_state=0,
    )
    y = Y[:, 0] if "regression" in LOSSES[loss].kinds else (Y[:, 0] > 2).astype(int)
    curve = model.fit(X, y).loss_curve_
    assert curve[-1] < curve[0]
    assert min(curve) >= 0


class LogCosh(RegressionLoss):
    """log cosh(residual / width); registered nowhere."""

    def __init__(self, width=1.0):
        self.width = width

    def elementwise(self, raw, target):
        return ((raw.squeeze(-1) - target) / self.width).cosh().log() * self.width**2


def test_a_users_loss_needs_no_registration(table):
    X, Y = table
    model = plain(
        MultiTaskRegressor,
        loss={"task1": LogCosh()},
        hidden_layer_sizes=(),
        learning_rate_init=0.01,
        max_iter=100,
        random_state=0,
    )
    fitted = clone(model).fit(X, Y)
    wide = clone(model).set_params(loss={"task1": LogCosh(width=100.0)}).fit(X, Y)
    squared = clone(model).set_params(loss=None).fit(X, Y)
    # log cosh is half the square near zero: in the limit of a wide one, everywhere
    np.testing.assert_allclose(wide.predict(X), squared.predict(X), atol=1e-3)
    assert np.abs(fitted.predict(X)[:, 1] - squared.predict(X)[:, 1]).max() > 0.01


def test_a_loss_of_the_wrong_type_is_refused(table):
    X, Y = table
    with pytest.raises(ValueError, match="Got loss='poisson' for classification task 'task0'"):
        plain(MultiTaskClassifier, loss="poisson").fit(X, (Y[:, :1] > 2).astype(int).ravel())
