"""Penalties on related heads in training: against a slow copy of it, in stacks and in searches."""

from __future__ import annotations

import pickle
import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from plain import plain
from searches import AMOUNTS, CLASSES, TASKS, X, Y, check_equal, loop, mixed, regressor, with_gaps
from sklearn.base import clone
from stacks import fit_alone, fit_stack, open_stack, plain_loss, plain_penalty, weights

from sk_mtl import MultiTaskClassifier, MultiTaskEstimator
from sk_mtl.cascades import Funnel, OutputCascade
from sk_mtl.estimators import _stacking as stacking
from sk_mtl.estimators._run import build
from sk_mtl.penalties import PENALTIES, Cluster, Covariance, Graph, TraceNorm
from sk_mtl.trunks import TRUNKS
from sk_mtl.weighting import ConstantWeights, Weighting

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

SHARING = [name for name, trunk in TRUNKS.items() if not trunk.private]
SIMILARITY = np.array([[0, 2, 1], [2, 0, 0], [1, 0, 0]], dtype=float)
STRONG = [Covariance(0.3), TraceNorm(0.3), Graph(SIMILARITY, 0.3), Cluster(1, 0.3)]
every_penalty = pytest.mark.parametrize("penalty", STRONG, ids=repr)
every_name = pytest.mark.parametrize("name", PENALTIES)
three_classes = pytest.mark.filterwarnings("ignore:Got penalty=")


# A slow copy of training --------------------------------------------------------------------


def head_of(network, task):
    """A task's output weights for the trunk's features; None for one of several outputs."""
    for head, group in zip(network.heads, network.groups, strict=True):
        if task in group.tasks and group.n_outputs == 1:
            return head.output.weight[group.tasks.index(task), 0, : network.trunk.n_outputs]
    return None


def slow_form(penalty, W):
    """A, by the singular values of all heads, the tasks in their order; W is None to begin with."""
    n = len(SIMILARITY) if W is None else len(W)
    if isinstance(penalty, Graph):
        return np.diag(SIMILARITY.sum(axis=0)) - SIMILARITY
    if W is None:
        return np.eye(n) if isinstance(penalty, Covariance) else np.zeros((n, n))
    U, s, _ = np.linalg.svd(W)
    s = np.pad(s, (0, n - len(s)))
    if isinstance(penalty, Covariance):  # beside a thousandth of the mean eigenvalue
        return np.linalg.inv(n * U @ np.diag(s / s.sum()) @ U.T + 1e-3 * np.eye(n))
    if isinstance(penalty, TraceNorm):
        return U @ np.diag(1 / np.maximum(s, 1e-4 * s.max())) @ U.T
    return np.eye(n) - U[:, : penalty.n_clusters] @ U[:, : penalty.n_clusters].T


def train_slowly(model, X, Y):
    """Return the network after gradient descent on the losses and strength / 2n tr(W' A W)."""
    session = clone(model)._session(X, Y)
    plan, penalty = session.plan(), model.penalty
    network = build([session], [plan], stack=())
    related = [t for t in range(Y.shape[1]) if head_of(network, t) is not None]
    form = slow_form(penalty, None)
    optimizer = torch.optim.SGD(network.parameters(), lr=model.learning_rate_init)
    even = [1.0] * Y.shape[1]
    rows, y = plan.train.X, plan.train.y
    for _ in range(model.max_iter):
        for start in range(0, len(rows), model.batch_size):
            batch = slice(start, start + model.batch_size)
            optimizer.zero_grad()
            loss = plain_loss(network, rows[batch], y[batch], even)
            loss = loss + plain_penalty(network, even, 0.0)  # of a trunk that has one
            heads = [head_of(network, t) for t in related]
            for i, a in enumerate(heads):
                for j, b in enumerate(heads):
                    loss = loss + penalty.strength / 2 / len(heads) * form[i, j] * (a @ b)
            loss.backward()
            optimizer.step()
        W = np.stack([head_of(network, t).detach().numpy() for t in related])
        form = slow_form(penalty, W)
    return network


SLOW = {
    "solver": "sgd",
    "momentum": 0.0,
    "alpha": 0.0,
    "shuffle": False,
    "max_iter": 4,
    "activation": "tanh",
}


def assert_trained_as_slowly(model, X, Y):
    """Every weight, after several epochs; and that the penalty made a difference."""
    fitted = clone(model).fit(X, Y)
    slow = train_slowly(model, X, Y)
    for name, tensor in slow.state_dict().items():
        if tensor.is_floating_point():
            ours = weights(fitted)[name]
            assert_allclose(ours, tensor, rtol=0, atol=1e-9, err_msg=name)
    free = weights(clone(model).set_params(penalty=None).fit(X, Y))  # negative control
    apart = [(free[f"heads.{g}.output.weight"] - h.output.weight).abs().max() for g, h in
             enumerate(slow.heads)]  # fmt: skip
    assert max(apart) > 1e-3
    return fitted


@every_penalty
@pytest.mark.parametrize("trunk", SHARING)
def test_training_is_descent_on_the_penalised_loss(trunk, penalty):
    """Tasks in two groups of heads, in an order that groups do not have, labels missing."""
    Y = with_gaps(np.column_stack([AMOUNTS[:, 0], CLASSES[:, 1], AMOUNTS[:, 2]]))
    tasks = ["regression", "classification", "regression"]
    assert_trained_as_slowly(mixed(trunk=trunk, tasks=tasks, penalty=penalty, **SLOW), X, Y)


@every_penalty
@pytest.mark.parametrize("backpropagate", [False, True])
def test_heads_that_read_parents_are_compared_by_features(penalty, backpropagate):
    """What they read beside them is not pulled: this is what the slow copy leaves out."""
    model = mixed(penalty=penalty, **SLOW)
    first, second, third = clone(model)._session(X, Y).est.task_names_
    links = OutputCascade({third: [first, second]}, backpropagate=backpropagate)
    fitted = assert_trained_as_slowly(model.set_params(task_dependencies=links), X, Y)
    assert fitted.net_.module_.heads[-1].output.weight.shape[-1] == 5 + 2


@every_penalty
def test_heads_of_a_funnel_are_related(penalty):
    Y = np.column_stack([CLASSES[:, 0], CLASSES[:, 0] & CLASSES[:, 1], CLASSES[:, 1]])
    model = plain(MultiTaskClassifier,
        hidden_layer_sizes=(6, 5), learning_rate_init=0.02, batch_size=30, random_state=0,
        penalty=penalty, **SLOW,
    )  # fmt: skip
    names = clone(model)._session(X, Y).est.task_names_
    assert_trained_as_slowly(model.set_params(task_dependencies=Funnel({names[1]: names[0]})), X, Y)


@three_classes
@every_penalty
def test_a_task_of_many_classes_stands_apart(penalty):
    """It is in the midst of the others, and its head is trained as without a penalty."""
    Y = np.column_stack([AMOUNTS[:, 0], CLASSES[:, 2], CLASSES[:, 1], AMOUNTS[:, 2]])
    model = mixed(
        tasks=["regression", "classification", "classification", "regression"],
        penalty=_of_four(penalty),
        **SLOW,
    )
    assert_trained_as_slowly(model, X, Y)


def _of_four(penalty):
    """The same penalty, where a task without relations stands second."""
    if not isinstance(penalty, Graph):
        return penalty
    similarity = np.insert(np.insert(SIMILARITY, 1, 7.0, axis=0), 1, 7.0, axis=1)
    return Graph(similarity, penalty.strength)


class Even(Weighting):
    """Even weights, for which it wants to see the tasks' gradients."""

    needs = "jacobian"

    def build(self, task_weights):
        return ConstantWeights(task_weights)


@every_penalty
def test_weightings_by_gradients_leave_heads_to_the_penalty(penalty):
    assert_trained_as_slowly(mixed(penalty=penalty, weighting=Even(), **SLOW), X, Y)


# A penalty of no strength, and one that reaches its end -------------------------------------


@every_name
@pytest.mark.parametrize("trunk", ["shared_bottom", "soft_sharing"])
def test_no_strength_gives_the_bits_of_no_penalty(name, trunk):
    none = mixed(trunk=trunk).fit(X, Y)
    zero = mixed(trunk=trunk, penalty=PENALTIES[name](strength=0.0)).fit(X, Y)
    assert_array_equal(zero.predict(X), none.predict(X))
    assert all(torch.equal(a, b) for a, b in zip(weights(zero).values(), weights(none).values(),
                                                 strict=True))  # fmt: skip
    some = mixed(trunk=trunk, penalty=PENALTIES[name](strength=0.5)).fit(X, Y)  # negative control
    assert any(not torch.equal(weights(some)[k], v) for k, v in weights(none).items())


def test_a_strong_graph_makes_heads_equal():
    model = regressor(penalty=Graph(strength=90.0), solver="sgd", max_iter=50, momentum=0.0)
    heads = model.fit(X, AMOUNTS).net_.module_.heads[0].output.weight.detach()
    assert heads.std(dim=0).max() < 0.01 * heads.abs().max()
    free = clone(model).set_params(penalty=None).fit(X, AMOUNTS).net_.module_.heads[0].output.weight
    assert free.detach().std(dim=0).max() > 0.1 * free.detach().abs().max()  # negative control


# What is refused ----------------------------------------------------------------------------


@every_name
def test_private_trunks_have_no_heads_to_compare(name):
    message = (
        rf"Got penalty='{name}' with trunk='single_task' and head_hidden_layer_sizes=\(\), "
        "expected heads that read what tasks share, so that they can be compared. Use a trunk "
        "that is shared, and heads without hidden layers."
    )
    with pytest.raises(ValueError, match=message):
        mixed(trunk="single_task", penalty=name).fit(X, Y)


@every_name
def test_heads_with_layers_of_their_own_cannot_be_compared(name):
    message = (
        rf"Got penalty='{name}' with trunk='shared_bottom' and head_hidden_layer_sizes=\(3,\), "
        "expected heads that read what tasks share"
    )
    with pytest.raises(ValueError, match=message):
        mixed(head_hidden_layer_sizes=(3,), penalty=name).fit(X, Y)


@every_name
@pytest.mark.parametrize("kind", ["one task", "one task that counts"])
def test_one_task_has_none_to_relate_to(name, kind):
    message = (
        rf"Got penalty='{name}', expected at least two tasks of amounts or two classes to "
        r"relate\. Set penalty=None\."
    )
    if kind == "one task":
        model, labels = regressor(penalty=name), AMOUNTS[:, 0]
    else:
        model = mixed(penalty=name, tasks=["regression", "classification"])
        labels = np.column_stack([AMOUNTS[:, 0], CLASSES[:, 2]])
    with pytest.raises(ValueError, match=message):
        model.fit(X, labels)


def test_tasks_that_stand_apart_are_named():
    model = mixed(penalty="graph", tasks=["regression", "classification", "regression"])
    labels = np.column_stack([AMOUNTS[:, 0], CLASSES[:, 2], AMOUNTS[:, 1]])
    message = (
        r"Got penalty='graph' with 1 tasks of more than two classes \(\['.*1'\]\): their heads "
        "have more outputs and are not related to others."
    )
    with pytest.warns(UserWarning, match=message):
        model.fit(X, labels)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", message="Stochastic Optimizer")
        mixed(penalty="graph").fit(X, Y)  # negative control: two classes are one output


@pytest.mark.parametrize(
    ("penalty", "message"),
    [
        ("covarience", r"Got penalty='covarience', expected one of .* Did you mean 'covariance'"),
        (Cluster(3), "Got n_clusters=3 for 3 tasks, expected fewer clusters than tasks"),
        (Graph(np.ones((2, 2))), r"Got a similarity of shape \(2, 2\), expected \(3, 3\): a row"),
        (TraceNorm(-1.0), "The 'strength' parameter of TraceNorm must be a float in the range"),
    ],
    ids=str,
)
def test_penalties_that_cannot_be(penalty, message):
    with pytest.raises(ValueError, match=message):
        mixed(penalty=penalty).fit(X, Y)


# What is remembered -------------------------------------------------------------------------


@every_penalty
def test_partial_fit_goes_on_from_what_was_learned(penalty):
    """Epochs one by one, a pickle in between, are epochs in a row."""
    whole = mixed(penalty=penalty, shuffle=False, batch_size=103).fit(X, Y)
    parts = mixed(penalty=penalty, shuffle=False, batch_size=103)
    forgetful = clone(parts)
    classes = [[0, 1], None, None]
    for _ in range(whole.n_iter_):
        parts = pickle.loads(pickle.dumps(parts)).partial_fit(X, Y, classes)
        if hasattr(forgetful, "net_"):
            forgetful.net_.criterion_.relation.form.zero_()
        forgetful.partial_fit(X, Y, classes)
    assert_allclose(parts.predict(X), whole.predict(X), rtol=0, atol=1e-10)
    if not isinstance(penalty, Graph):  # negative control: what is lost between the calls shows
        assert np.abs(forgetful.predict(X) - whole.predict(X)).max() > 1e-6


@every_penalty
def test_a_warm_start_goes_on_from_what_was_learned(penalty):
    model = mixed(penalty=penalty, **SLOW)
    whole = clone(model).set_params(max_iter=8).fit(X, Y)
    parts = clone(model).set_params(warm_start=True).fit(X, Y)
    early = parts.predict(X)
    assert_allclose(parts.fit(X, Y).predict(X), whole.predict(X), rtol=0, atol=1e-10)
    assert np.abs(early - whole.predict(X)).max() > 1e-3  # negative control


def test_similarities_that_are_changed_between_calls_count():
    """They are a setting, not a memory."""
    model = regressor(penalty=Graph(strength=1.0)).partial_fit(X, AMOUNTS)
    assert model.net_.criterion_.relation.form.any()
    model.set_params(penalty__similarity=np.zeros((3, 3))).partial_fit(X, AMOUNTS)
    assert not model.net_.criterion_.relation.form.any()


@every_penalty
def test_a_fit_begins_anew(penalty):
    model = mixed(penalty=penalty).fit(X, with_gaps(AMOUNTS * [1, 1, 1]) > 0)
    first = clone(model).fit(X, Y)
    again = model.fit(X[:50], Y[:50]).fit(X, Y)
    assert_array_equal(again.predict(X), first.predict(X))


# What was learned of relations --------------------------------------------------------------

LEARNED = ("task_covariance_", "task_correlation_")


def test_only_a_covariance_tells_how_tasks_covary():
    model = mixed()
    for name in (None, *PENALTIES, None):
        model.set_params(penalty=name).fit(X, Y)
        assert [hasattr(model, a) for a in LEARNED] == [name == "covariance"] * 2, name


def test_task_covariance_is_of_the_final_heads():
    """In the order of the tasks, though heads are grouped by what they predict."""
    tasks = ["regression", "classification", "regression", "classification"]
    labels = np.column_stack([AMOUNTS[:, 0], CLASSES[:, 1], AMOUNTS[:, 2], CLASSES[:, 0]])
    model = mixed(penalty="covariance", tasks=tasks, early_stopping=True).fit(X, labels)
    network = model.net_.module_
    assert [g.tasks for g in network.groups] == [(0, 2), (1, 3)]
    W = np.stack([head_of(network, t).detach().numpy() for t in range(4)])
    U, s, _ = np.linalg.svd(W)
    covariance = U @ np.diag(s / s.sum()) @ U.T
    assert_allclose(model.task_covariance_, covariance, rtol=0, atol=1e-8)
    scale = np.sqrt(np.diag(covariance))
    assert_allclose(model.task_correlation_, covariance / np.outer(scale, scale), atol=1e-7)
    assert_allclose(np.diag(model.task_correlation_), 1.0, rtol=1e-12)
    grouped = covariance[np.ix_([0, 2, 1, 3], [0, 2, 1, 3])]  # negative control
    assert np.abs(model.task_covariance_ - grouped).max() > 1e-3


@three_classes
def test_unrelated_tasks_covary_with_none():
    labels = np.column_stack([AMOUNTS[:, 0], CLASSES[:, 2], AMOUNTS[:, 2]])
    tasks = ["regression", "classification", "regression"]
    model = mixed(penalty="covariance", tasks=tasks).fit(X, labels)
    apart = np.array([False, True, False])
    for learned in (model.task_covariance_, model.task_correlation_):
        assert_array_equal(np.isnan(learned), apart | apart[:, None])
    assert model.task_covariance_[[0, 2], [0, 2]].sum() == pytest.approx(1, abs=1e-6)


# Stacks and searches ------------------------------------------------------------------------

DATA = (X, Y, {})


@every_penalty
@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_a_stack_is_trained_as_its_networks_alone(penalty, solver):
    """Strengths of their own, and networks that leave early: the others keep their relations."""
    models = [
        mixed(
            penalty=clone(penalty).set_params(strength=strength),
            random_state=seed,
            max_iter=max_iter,
            solver=solver,
        )
        for strength, seed, max_iter in [(0.0, 0, 6), (0.1, 1, 2), (0.5, 0, 3), (0.5, 3, 9)]
    ]
    stacked, errors = fit_stack(models, [DATA] * 4)
    assert errors == [None] * 4
    alone = fit_alone(models, [DATA] * 4)
    for ours, theirs in zip(stacked, alone, strict=True):
        for name, tensor in weights(theirs).items():
            assert_allclose(weights(ours)[name], tensor, rtol=0, atol=1e-10, err_msg=name)
        if isinstance(penalty, Covariance):
            assert_allclose(ours.task_covariance_, theirs.task_covariance_, rtol=0, atol=1e-7)
    for a, b in pairwise(alone):  # negative control
        assert np.abs(a.predict(X) - b.predict(X)).max() > 1e-3


@every_name
def test_a_network_that_diverges_says_so_and_leaves_the_others_alone(name):
    options = {"penalty": name, "solver": "sgd", "hidden_layer_sizes": ()}
    models = [mixed(learning_rate_init=rate, **options) for rate in (0.01, 1e100, 0.02)]
    with pytest.raises(ValueError, match="expected finite ones: training diverged"):
        clone(models[1]).fit(X, Y)
    stacked, errors = fit_stack(models, [DATA] * 3)
    assert "training diverged" in str(errors[1])
    assert errors[0] is errors[2] is None
    for i, alone in zip((0, 2), fit_alone([models[0], models[2]], [DATA] * 2), strict=True):
        for key, tensor in weights(alone).items():
            assert_allclose(weights(stacked[i])[key], tensor, rtol=0, atol=1e-10, err_msg=key)


def test_only_strengths_may_differ_in_a_stack():
    penalties = [None, Graph(), Graph(SIMILARITY), Cluster(1), Cluster(2), Covariance()]
    models = [mixed(penalty=penalty) for penalty in penalties]
    forms = [stacking.form(*each) for each in zip(*open_stack(models, [DATA] * 6), strict=True)]
    assert len(set(forms)) == 6
    alike = [mixed(penalty=Graph(SIMILARITY, strength)) for strength in (0.0, 0.5, 2.0)]
    forms = [stacking.form(*each) for each in zip(*open_stack(alike, [DATA] * 3), strict=True)]
    assert len(set(forms)) == 1


@every_penalty
def test_strengths_are_searched_in_a_stack(penalty):
    grid = {"penalty__strength": [0.0, 0.05, 2.0]}
    ours, _ = check_equal(mixed(penalty=penalty), grid)
    assert len(set(ours.cv_results_["mean_test_score"])) == 3


def test_penalties_are_searched_as_other_parameters_are():
    grid = {"penalty": [None, *PENALTIES], "learning_rate_init": [0.01, 0.03]}
    ours, _ = check_equal(mixed(), grid)
    assert len(set(ours.cv_results_["mean_test_score"])) == 10


def test_scikit_learns_search_finds_the_strength():
    """One wave for all tasks, seen by few rows: heads that are the same predict it best."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(60, 8))
    labels = (rows @ rng.normal(size=(8, 1))).repeat(5, axis=1) + 3 * rng.normal(size=(60, 5))
    model = regressor(
        hidden_layer_sizes=(), penalty=Graph(), solver="sgd", learning_rate_init=0.05,
        max_iter=60, alpha=0.0,
    )  # fmt: skip
    search = loop(model, {"penalty__strength": [0.0, 1.0]}, rows, labels)
    assert search.best_params_ == {"penalty__strength": 1.0}


def test_the_estimator_of_mixed_tasks_takes_penalties_by_name():
    model = plain(MultiTaskEstimator, tasks=TASKS, penalty="covariance", max_iter=2, random_state=0)
    assert "penalty='covariance'" in repr(model)
    assert clone(model).fit(X, Y).task_correlation_.shape == (3, 3)
