"""A funnel: click, then buy, then ship; what is predicted is the product along the way."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest
import torch
from chains import FUNNEL, NAMES, NAN, as_observed, every_trunk, model_of, positive, shop
from numpy.testing import assert_allclose, assert_array_equal
from plain import plain
from searches import FOLDS, check_equal
from sklearn.base import clone
from sklearn.metrics import log_loss
from sklearn.model_selection import cross_val_score
from stacks import fit_alone, fit_stack, open_stack, raw
from torch.nn import functional as F

from sk_mtl import MultiTaskEstimator, training
from sk_mtl.cascades import Funnel
from sk_mtl.cascades._modules import FunnelOutputs
from sk_mtl.cascades._recipes import complete_labels, resolve_cascade
from sk_mtl.estimators._run import build
from sk_mtl.losses import Focal
from sk_mtl.tasks import Task
from sk_mtl.views import TaskView

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

every_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])


def tasks_of(*names, kinds=None):
    return [
        Task(n, (kinds or {}).get(n, "binary"), np.arange(3 if n in (kinds or {}) else 2))
        for n in names
    ]


def outputs_of(names, parents, groups, kinds=None):
    """The layer between the heads and the predictions."""
    return FunnelOutputs(resolve_cascade(Funnel(parents), tasks_of(*names, kinds=kinds)), groups)


# The product along the way ------------------------------------------------------------------

LOG2, LOG3, LOG7 = np.log([2.0, 3.0, 7.0])
# p(click)  given click  given buy      p(buy)           p(ship)
#   1/2        1/2          1/2         1/4: log 1/3     1/8: log 1/7
#   3/4        2/3          1/4         1/2: 0           1/8: log 1/7
#   3/4        1/3          2/3         1/4: log 1/3     1/6: log 1/5
GIVEN_PARENT = np.array([[0, 0, 0], [LOG3, LOG2, -LOG3], [LOG3, -LOG2, LOG2]])
PRODUCTS = np.array([[0, -LOG3, -LOG7], [LOG3, 0, -LOG7], [LOG3, -LOG3, -np.log(5)]])


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_logits_of_three_levels_by_hand(order):
    """In whichever order the columns come."""
    names = [NAMES[i] for i in order]
    layer = outputs_of(names, FUNNEL.parents, [(0, 1, 2)])
    (found,) = layer([torch.from_numpy(GIVEN_PARENT.T[list(order)]).unsqueeze(-1)])
    assert_allclose(found.squeeze(-1).T, PRODUCTS[:, order], rtol=0, atol=1e-14)
    with pytest.raises(AssertionError):  # negative control: what is given the parent is no product
        assert_allclose(GIVEN_PARENT, PRODUCTS, atol=0.1)


def test_heads_in_several_groups_and_tasks_beside_the_funnel():
    """Three groups, of which one holds a task of three classes; and a task that is not linked."""
    names = ["buy", "colour", "click", "other", "ship"]
    layer = outputs_of(names, FUNNEL.parents, [(0, 2), (1,), (3, 4)], {"colour": "multiclass"})
    logits = torch.from_numpy(GIVEN_PARENT.T)
    colour, other = torch.randn(1, 3, 3).double(), torch.randn(3).double()
    given = [logits[[1, 0]], torch.stack([other, logits[2]])]
    found = layer([given[0].unsqueeze(-1), colour, given[1].unsqueeze(-1)])
    assert_allclose(found[0].squeeze(-1).T, PRODUCTS[:, [1, 0]], rtol=0, atol=1e-14)
    assert torch.equal(found[1], colour)
    assert torch.equal(found[2][0, :, 0], other)
    assert_allclose(found[2][1, :, 0], PRODUCTS[:, 2], rtol=0, atol=1e-14)


def test_siblings_do_not_see_each_other():
    layer = outputs_of(["click", "buy", "call"], {"buy": "click", "call": "click"}, [(0, 1, 2)])
    logits = torch.from_numpy(GIVEN_PARENT.T).unsqueeze(-1)
    (found,) = layer([logits])
    (swapped,) = layer([logits[[0, 2, 1]]])
    assert torch.equal(found[[0, 2, 1]], swapped)
    assert_allclose(found[1].squeeze(-1), PRODUCTS[:, 1], rtol=0, atol=1e-14)


def product_logit(a, b):
    """logit(s(a) s(b)), as 1 / (s(a) s(b)) - 1 = exp(-a) + exp(-b) + exp(-a - b)."""
    return -torch.stack([-a, -b, -a - b]).logsumexp(0)


EXTREME = torch.tensor(list(itertools.product([-200, -30, -1, 0, 2, 40, 200], repeat=3))).double()


@every_dtype
def test_extreme_logits_have_finite_losses_and_gradients(dtype):
    """All that lie on a grid from -200 to 200, against another formula."""
    layer = outputs_of(NAMES, FUNNEL.parents, [(0, 1, 2)])
    logits = EXTREME.to(getattr(torch, dtype)).T.unsqueeze(-1).requires_grad_()
    (found,) = layer([logits])
    for label in (0.0, 1.0):
        loss = F.binary_cross_entropy_with_logits(found, torch.full_like(found, label))
        (slope,) = torch.autograd.grad(loss, logits, retain_graph=True)
        assert loss.isfinite()
        assert slope.isfinite().all()
    click, given_click, given_buy = EXTREME.T
    buy = product_logit(click, given_click)
    expected = torch.stack([click, buy, product_logit(buy, given_buy)])
    ours = found.squeeze(-1).double().detach()
    # Beyond 87 a probability is 1 in single precision, to the last bit, and its slope 0.
    near = expected.abs() < (500 if dtype == "float64" else 80)
    error = 1e-10 if dtype == "float64" else 2e-4
    assert_allclose(ours[near], expected[near], rtol=error, atol=error)
    assert (ours[1] <= ours[0]).all() and (ours[2] <= ours[1]).all()


def test_the_plain_formula_fails_at_extreme_logits():
    """Negative control: log(p) - log(1 - p) of probabilities."""
    p = EXTREME.sigmoid().cumprod(1)
    assert not (p.log() - (1 - p).log()).isfinite().all()


def test_slopes_are_finite_differences():
    layer = outputs_of(NAMES, FUNNEL.parents, [(0, 1, 2)])
    logits = 3 * torch.randn(3, 20, 1, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: layer([x])[0], logits.requires_grad_())


# p(child) <= p(parent) ----------------------------------------------------------------------


def many_rows():
    """100,000 rows, of which some lie far outside; of odd sizes, as vectors have remainders."""
    rng = np.random.default_rng(1)
    for n_rows, scale in ((60_001, 1), (20_001, 5), (9_999, 100), (9_997, 1e4), (13, 100), (1, 1)):
        yield scale * rng.normal(size=(n_rows, 4))


@every_trunk
@every_dtype
def test_no_row_is_likelier_to_buy_than_to_click(trunk, dtype):
    X, Y, _ = shop()
    model = model_of(trunk, dtype=dtype, learning_rate_init=0.05).fit(X, as_observed(Y))
    n_rows = 0
    for rows in many_rows():
        p = positive(model, rows)
        assert np.isfinite(p).all()
        assert (p[:, 1] <= p[:, 0]).all() and (p[:, 2] <= p[:, 1]).all()
        n_rows += len(rows)
        labels = model.predict(rows)
        assert (labels[:, 1] <= labels[:, 0]).all() and (labels[:, 2] <= labels[:, 1]).all()
    assert n_rows > 100_000
    free = model_of(trunk, dtype=dtype, task_dependencies=None).fit(X, as_observed(Y))
    p = positive(free, next(many_rows()))  # negative control
    assert (p[:, 1] > p[:, 0]).mean() > 0.01


@every_trunk
@every_dtype
def test_nor_where_who_clicks_is_certain_to_buy(trunk, dtype):
    """Equal up to rounding, which differs with the place of a row in memory."""
    X, Y, _ = shop()
    model = model_of(trunk, dtype=dtype).fit(X, Y)
    with torch.no_grad():
        for head in model.net_.module_.heads:
            head.output.bias[1:] += 30.0
    for rows in many_rows():
        p = positive(model, rows)
        assert (p[:, 1] <= p[:, 0]).all() and (p[:, 2] <= p[:, 1]).all()
        none = np.column_stack([q[:, 0] for q in model.predict_proba(rows)])
        assert (none[:, 1] >= none[:, 0]).all() and (none[:, 2] >= none[:, 1]).all()


# Training over all rows ---------------------------------------------------------------------


class ESMM(torch.nn.Module):
    """Ma et al. 2018, equations 1 and 4, with the layers of a network of ours."""

    def __init__(self, network):
        super().__init__()
        self.trunk, self.heads = network.trunk, network.heads

    def probabilities(self, X):
        features = self.trunk(X)
        (head,) = self.heads
        given_parent = []
        for t in range(3):
            own = features if features.dim() == 2 else features[t]
            logit = own @ head.output.weight[t].T + head.output.bias[t]
            given_parent.append(torch.sigmoid(logit[:, 0]))
        click, buy, ship = given_parent
        return [click, click * buy, click * buy * ship]

    def loss(self, X, Y):
        """The mean over tasks of the mean over ALL rows, by labels that are all there."""
        each = [F.binary_cross_entropy(p, Y[:, t]) for t, p in enumerate(self.probabilities(X))]
        total = sum(each) / 3
        return total + self.trunk.penalty() if hasattr(self.trunk, "penalty") else total


@every_trunk
def test_training_maximises_the_likelihood_over_all_rows(trunk):
    """Four steps of descent from the same initial weights, with probabilities and products."""
    X, Y, _ = shop(120)
    model = model_of(
        trunk,
        solver="sgd",
        momentum=0.0,
        alpha=0.0,
        learning_rate_init=0.3,
        batch_size=len(X),
        max_iter=4,
    )
    (session,), (plan,) = open_stack([model], [(X, Y, {})])
    network = build([session], [plan], stack=())
    slow = ESMM(network)
    rows, labels = torch.from_numpy(X), torch.tensor(Y.to_numpy())
    rate = 0.3 * (3 if plan.trunk.private else 1)  # networks that share nothing: a loss each
    for _ in range(4):
        network.zero_grad()
        slow.loss(rows, labels).backward()
        with torch.no_grad():
            for p in network.parameters():
                p -= rate * p.grad
    expected = torch.stack(slow.probabilities(rows), 1).detach()
    for y in (Y, as_observed(Y)):
        assert_allclose(positive(clone(model).fit(X, y), X), expected, rtol=0, atol=1e-10)
    shares = clone(model).set_params(task_dependencies=None).fit(X, Y)  # negative control
    assert np.abs(positive(shares, X) - expected.numpy()).max() > 1e-2


# Labels below a negative parent -------------------------------------------------------------


def test_labels_are_completed_level_by_level():
    """Missing parents say nothing of their children, unless the one above them is negative."""
    tasks = tasks_of(*NAMES)
    links = resolve_cascade(FUNNEL, tasks)
    given = np.array(
        [
            [0, NAN, NAN],
            [1, NAN, NAN],
            [1, 0, NAN],
            [NAN, 0, NAN],
            [NAN, NAN, 1],
            [0, 0, NAN],
            [NAN, NAN, 0],
            [1, 1, 1],
        ]
    )
    expected = given.copy()
    expected[0] = expected[5] = 0
    expected[2, 2] = expected[3, 2] = 0
    before = given.copy()
    assert_array_equal(complete_labels(given, links, tasks), expected)
    assert_array_equal(given, before)  # the caller's table is left as it was
    assert complete_labels(given, None, tasks) is given
    outputs = resolve_cascade({"buy": "click"}, tasks)
    assert_array_equal(complete_labels(given, outputs, tasks), given)


FITS = {
    "fit": {},
    "several batches": {"batch_size": 16, "shuffle": True},
    "balanced classes": {"class_weight": "balanced"},
    "early stopping": {"early_stopping": True, "validation_fraction": 0.3},
    "private networks": {"trunk": "single_task"},
    "focal": {"loss": ["focal", "log_loss", Focal(gamma=1.0)]},
}


@pytest.mark.parametrize("name", FITS)
def test_missing_labels_below_a_negative_are_negative_ones(name):
    X, Y, _ = shop()
    assert as_observed(Y).isna().to_numpy().sum() > 200
    filled, missing = (model_of(**FITS[name]).fit(X, y) for y in (Y, as_observed(Y)))
    assert_array_equal(raw(filled, X), raw(missing, X))
    other = model_of(**FITS[name] | {"task_dependencies": None}).fit(X, as_observed(Y))
    apart = model_of(**FITS[name] | {"task_dependencies": None}).fit(X, Y)
    assert np.abs(raw(other, X) - raw(apart, X)).max() > 1e-2  # negative control


def test_in_validation_data_and_from_batch_to_batch_too():
    X, Y, _ = shop()
    rows, held = slice(0, 200), slice(200, None)
    fits = [
        model_of(early_stopping=True).fit(X[rows], Y[rows], X_val=X[held], y_val=y[held])
        for y in (Y, as_observed(Y))
    ]
    assert_array_equal(fits[0].validation_task_loss_curves_, fits[1].validation_task_loss_curves_)
    assert_array_equal(raw(fits[0], X), raw(fits[1], X))
    models = [model_of(), model_of()]
    for part in (slice(0, 100), slice(100, 180), slice(180, None)):
        for model, y in zip(models, (Y, as_observed(Y)), strict=True):
            model.partial_fit(X[part], y[part], classes=[0, 1])
    assert_array_equal(raw(models[0], X), raw(models[1], X))


def test_weights_of_samples_hold_for_completed_labels():
    X, Y, _ = shop()
    weight = np.random.default_rng(0).uniform(0, 2, size=Y.shape).round()  # some are zero
    fits = [model_of().fit(X, y, sample_weight=weight) for y in (Y, as_observed(Y))]
    assert_array_equal(raw(fits[0], X), raw(fits[1], X))


CONTRADICTION = (
    "Got 2 rows in which 'buy' is positive (1) and 'click' is not (0), expected none in a Funnel. "
    "Correct them, or use OutputCascade."
)


def test_contradicting_labels_are_counted(monkeypatch):
    X, Y, _ = shop()
    wrong = Y.copy()
    wrong.loc[wrong.index[wrong["click"] == 0][:2], "buy"] = 1
    fitted = model_of().partial_fit(X, Y, classes=[0, 1])
    before = raw(fitted, X)
    monkeypatch.setattr(training.MultiTaskNet, "fit_loop", None)  # nothing is trained
    calls = [
        lambda: model_of().fit(X, wrong),
        lambda: model_of(early_stopping=True).fit(X, Y, X_val=X, y_val=wrong),
        lambda: model_of().partial_fit(X, wrong, classes=[0, 1]),
        lambda: fitted.partial_fit(X, wrong),
    ]
    for call in calls:
        with pytest.raises(ValueError) as error:
            call()
        assert str(error.value) == CONTRADICTION
    assert_array_equal(raw(fitted, X), before)
    monkeypatch.undo()
    model_of(task_dependencies={"buy": "click"}).fit(X, wrong)  # as the message says


def test_a_contradiction_two_levels_up_is_found():
    X, Y, _ = shop()
    Y.loc[Y.index[Y["click"] == 0][:3], ["buy", "ship"]] = [NAN, 1]
    with pytest.raises(
        ValueError, match=r"Got 3 rows in which 'ship' is positive \(1\) and 'buy' is not \(0\)"
    ):
        model_of().fit(X, Y)


@pytest.mark.filterwarnings("ignore::sk_mtl._support.SingleClassWarning")
def test_a_single_class_is_the_negative_one_or_an_error():
    """Which of two an only class is cannot be told, unless it is zero."""
    X, Y, _ = shop()
    clicked = (Y["click"] == 1).to_numpy()
    for rows, labels, name in (
        (X[clicked], Y[clicked], "click"),  # those who never clicked were left out
        (X, Y.assign(buy=Y["buy"].where(Y["buy"] > 0)), "buy"),  # a label only where one bought
    ):
        with pytest.raises(ValueError) as error:
            model_of().fit(rows, labels)
        assert str(error.value) == (
            f"Got the single class 1 in task '{name}' of a Funnel, expected two, or 0 alone: where "
            "it is negative cannot be told. Label the negative rows too."
        )
    model = model_of().fit(X, Y.assign(ship=0.0))
    assert not model.predict(X)[:, 2].any()


# What comes of it ---------------------------------------------------------------------------


def on_the_shop(dependencies, columns=NAMES):
    X, Y, _ = shop(8000)
    model = model_of(
        task_dependencies=dependencies,
        hidden_layer_sizes=(16,),
        learning_rate_init=0.005,
        batch_size=200,
        max_iter=20,
    )
    return model.fit(X, as_observed(Y)[columns])


def test_probabilities_over_all_rows_are_right_and_those_of_observed_rows_are_not():
    """Sample selection bias: who has clicked is not who has not. Nothing is calibrated."""
    X, Y, chances = shop(20_000, seed=1)
    true = Y.to_numpy().mean(0)
    ours, naive = (positive(on_the_shop(d), X) for d in (FUNNEL, None))
    assert 0.1 < true[2] < true[1] < 0.25
    assert_allclose(ours.mean(0), true, rtol=0, atol=0.015)
    assert (np.abs(ours - chances).mean(0) < 0.035).all()
    for t in (1, 2):
        best = log_loss(Y.iloc[:, t], chances[:, t])
        assert log_loss(Y.iloc[:, t], ours[:, t]) < best + 0.01
        # Negative control: on the rows that were observed alone
        assert naive.mean(0)[t] > true[t] + 0.15
        assert log_loss(Y.iloc[:, t], naive[:, t]) > best + 0.1


def test_children_may_come_before_their_parents():
    X, _, chances = shop(20_000, seed=1)
    turned = positive(on_the_shop(FUNNEL, ["ship", "click", "buy"]), X)
    assert (np.abs(turned - chances[:, [2, 0, 1]]).mean(0) < 0.035).all()


# With the rest of the package and of scikit-learn -------------------------------------------


def test_scores_views_copies_and_folds():
    X, Y, _ = shop()
    seen = as_observed(Y)
    model = model_of(max_iter=20).fit(X, seen)
    labels = model.predict(X)
    assert set(np.unique(labels)) <= {0, 1}
    known = seen.notna().to_numpy()
    by_hand = [(labels[k, t] == Y.to_numpy()[k, t]).mean() for t, k in enumerate(known.T)]
    assert model.score(X, seen) == pytest.approx(np.mean(by_hand))
    assert cross_val_score(model, X, seen, cv=FOLDS).shape == (3,)
    view = TaskView(model, "buy")
    assert_array_equal(view.predict_proba(X)[:, 1], positive(model, X)[:, 1])
    assert_array_equal(view.predict(X), labels[:, 1])
    copy = pickle.loads(pickle.dumps(model))
    assert_array_equal(positive(copy, X), positive(model, X))
    unfitted = clone(model)
    assert repr(unfitted) == repr(model)
    assert_array_equal(positive(unfitted.fit(X, seen), X), positive(model, X))


def test_classes_of_words():
    """The second of two in their order is the positive one."""
    X, Y, _ = shop()
    words = as_observed(Y).replace({0.0: "no", 1.0: "yes"}).astype(object)
    named = model_of().fit(X, words)
    assert [c.tolist() for c in named.classes_] == [["no", "yes"]] * 3
    numbered = model_of().fit(X, Y)
    assert_array_equal(positive(named, X), positive(numbered, X))
    assert_array_equal(named.predict(X) == "yes", numbered.predict(X) == 1)


def test_beside_an_amount():
    X, Y, _ = shop()
    seen = as_observed(Y).assign(price=5 * X[:, 3] + 20)
    model = plain(
        MultiTaskEstimator,
        tasks=dict.fromkeys(NAMES, "classification") | {"price": "regression"},
        task_dependencies=FUNNEL,
        hidden_layer_sizes=(8,),
        learning_rate_init=0.02,
        max_iter=60,
        random_state=0,
    ).fit(X, seen)
    probabilities = model.predict_proba(X)
    assert probabilities[3] is None
    p = np.column_stack([q[:, 1] for q in probabilities[:3]])
    assert (np.diff(p, axis=1) <= 0).all()
    assert np.corrcoef(np.asarray(model.predict(X)[:, 3], dtype=float), X[:, 3])[0, 1] > 0.9


@every_trunk
def test_training_in_a_stack_is_training_alone(trunk):
    X, Y, _ = shop()
    models = [
        model_of(trunk, random_state=s, alpha=a, dropout=0.1)
        for s, a in ((0, 0.0), (1, 0.1), (2, 0.0))
    ]
    data = [(X, as_observed(Y), {})] * 3
    together, errors = fit_stack(models, data)
    assert errors == [None] * 3
    alone = fit_alone(models, data)
    for ours, theirs in zip(together, alone, strict=True):
        assert_allclose(raw(ours, X), raw(theirs, X), rtol=0, atol=1e-10)
    assert np.abs(raw(together[0], X) - raw(alone[1], X)).max() > 1e-3  # negative control


def test_a_search_with_a_funnel_is_scikit_learns():
    X, Y, _ = shop(103)
    dependencies = [None, FUNNEL, Funnel({"buy": "click"}), {"buy": "click"}]
    grid = {"task_dependencies": dependencies, "alpha": [0.0, 0.3]}
    ours, _ = check_equal(model_of(), grid, X, as_observed(Y))
    assert len(ours.cv_results_["params"]) == 8
