"""Tasks whose heads read what is predicted of others: names, outputs, gradients, stacks."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from chains import (
    NAN,
    PARENTS,
    TASKS,
    CountOperators,
    both_ways,
    every_trunk,
    fast_outputs,
    network_of,
    rows,
    slow_outputs,
)
from numpy.testing import assert_array_equal
from stacks import estimator, raw, table

from sk_mtl import training
from sk_mtl.cascades import Funnel, OutputCascade
from sk_mtl.cascades._recipes import Links, resolve_cascade
from sk_mtl.gradients import task_jacobian
from sk_mtl.objective import Objective
from sk_mtl.tasks import Task
from sk_mtl.weighting import ConstantWeights

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

# Who depends on whom ------------------------------------------------------------------------


def resolved(value):
    return resolve_cascade(value, list(TASKS.values()))


def test_names_become_positions_and_levels():
    """Below late (0) is default (3), below early (5) kind (1), below both loss (2); alone is 4."""
    links = resolved(PARENTS)
    parents = ((), (5,), (1, 3), (0,), (), ())
    assert links == Links(parents, (0, 1, 2, 1, 0, 0), "outputs", False)
    assert resolved(OutputCascade(PARENTS)) == links
    assert resolved(OutputCascade(PARENTS, backpropagate=True)).flows
    assert resolved({"loss": ("default", "kind")}).parents[2] == (3, 1)  # in the order given


def test_a_level_is_one_below_the_lowest_parent():
    chain = {"default": "late", "kind": "default", "loss": ["late", "kind"]}
    assert resolved(chain).levels == (0, 2, 3, 1, 0, 0)


NOTHING = [None, {}, {"late": []}, OutputCascade({}), OutputCascade({}, True), Funnel({})]


@pytest.mark.parametrize("nothing", NOTHING, ids=repr)
def test_an_empty_mapping_is_no_cascade(nothing):
    assert resolved(nothing) is None
    X, Y = table()
    names = dict(zip(["task0", "late", "task2"], "crr", strict=True))
    Y = pd.DataFrame(Y, columns=list(names))
    kinds = ["classification", "regression", "regression"]
    models = [
        estimator(task_dependencies=d, tasks=dict(zip(names, kinds, strict=True))).fit(X, Y)
        for d in (nothing, None, {"late": "task0"})
    ]
    assert_array_equal(raw(models[0], X), raw(models[1], X))
    assert np.abs(raw(models[2], X) - raw(models[1], X)).max() > 1e-3  # negative control


KNOWN = "['late', 'kind', 'loss', 'default', 'alone', 'early']"
WRONG = {
    "an unknown parent": (
        {"default": "latte"},
        f"Got ['latte'] in task_dependencies, expected some of the tasks {KNOWN}. Map the name of "
        "each task that depends on others to their names.",
    ),
    "an unknown child": (
        {"defalt": ["late", "kynd"]},
        f"Got ['defalt', 'kynd'] in task_dependencies, expected some of the tasks {KNOWN}. Map the "
        "name of each task that depends on others to their names.",
    ),
    "a position": (
        {3: "late"},
        f"Got [3] in task_dependencies, expected some of the tasks {KNOWN}. Map the name of each "
        "task that depends on others to their names.",
    ),
    "itself": (
        {"late": "late"},
        "Got task_dependencies in which ['late'] depend on one another in a circle, expected an "
        "order. Leave one of them out.",
    ),
    "a circle": (
        {"late": "default", "default": "kind", "kind": "late"},
        "Got task_dependencies in which ['late', 'kind', 'default'] depend on one another in a "
        "circle, expected an order. Leave one of them out.",
    ),
    "a circle, and one below it": (
        {"late": "default", "default": "late", "kind": "late", "loss": "kind"},
        "Got task_dependencies in which ['late', 'default'] depend on one another in a circle, "
        "expected an order. Leave one of them out.",
    ),
    "a parent twice": (
        {"default": ["late", "late"]},
        "Got ['late', 'late'] as what task 'default' depends on, expected each once.",
    ),
    "two parents in a funnel": (
        Funnel({"default": ["late", "kind"]}),
        "Got 2 tasks over 'default' in a Funnel, expected one: its probability is a product along "
        "one way. Use OutputCascade.",
    ),
    "a funnel from three classes": (
        Funnel({"default": "kind"}),
        "Got the multiclass task 'kind' in a Funnel, expected tasks of two classes. Use "
        "OutputCascade.",
    ),
    "a funnel to an amount": (
        Funnel({"loss": "late"}),
        "Got the regression task 'loss' in a Funnel, expected tasks of two classes. Use "
        "OutputCascade.",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_not_admissible_is_said(name):
    given, message = WRONG[name]
    with pytest.raises(ValueError) as error:
        resolved(given)
    assert str(error.value) == message


def test_only_parents_of_children_have_to_fit_a_funnel():
    assert resolved(Funnel({"default": ["late"]})).kind == "funnel"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["late"], "must be an instance of 'dict', an object implementing 'link' or None"),
        ("late", "must be an instance of 'dict', an object implementing 'link' or None"),
        (Funnel, "expected None, a dict from task names to names, or an object of sk_mtl.casc"),
        (Funnel("late"), "The 'parents' parameter of Funnel must be an instance of 'dict'"),
        (OutputCascade({}, "yes"), "The 'backpropagate' parameter of OutputCascade must be"),
        ({"task1": 3}, "Got 3 as what task 'task1' depends on, expected a name or a list of names"),
        ({"task1": None}, "Got None as what task 'task1' depends on, expected a name or a list"),
        ({"task1": "task2", "task2": "task1"}, "in a circle"),
    ],
    ids=repr,
)
def test_a_fit_says_it_before_it_trains(given, message, monkeypatch):
    X, Y = table()
    monkeypatch.setattr(training.MultiTaskNet, "fit_loop", None)
    model = estimator(task_dependencies=given)
    with pytest.raises((ValueError, TypeError), match=message):
        model.fit(X, Y)
    assert not hasattr(model, "net_")
    with pytest.raises(TypeError, match="not callable"):  # negative control: this one would train
        estimator(task_dependencies={"task1": "task2"}).fit(X, Y)


# Outputs, against a loop over tasks ---------------------------------------------------------

ORDERS = {
    "parents first": ["late", "early", "kind", "default", "loss", "alone"],
    "children first": ["loss", "alone", "default", "kind", "late", "early"],
    "mixed": ["early", "default", "late", "alone", "loss", "kind"],
}


@every_trunk
@both_ways
@pytest.mark.parametrize("head", [(), (3,), (4, 3)], ids=str)
@pytest.mark.parametrize("order", ORDERS)
def test_outputs_and_gradients_are_those_of_a_loop_over_tasks(trunk, flows, head, order):
    tasks = [TASKS[name] for name in ORDERS[order]]
    network, links = network_of(trunk, tasks, OutputCascade(PARENTS, flows), head=head)
    X = rows()
    fast, slow = fast_outputs(network, X), slow_outputs(network, links, tasks, X)
    for ours, theirs in zip(fast, slow, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-13)
    slopes = [
        torch.autograd.grad(sum(out.square().sum() for out in outputs), list(network.parameters()))
        for outputs in (fast, slow)
    ]
    for ours, theirs in zip(*slopes, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)


def test_the_loop_sees_parents_in_another_order_and_other_ways_of_gradients():
    """Negative control of the test above."""
    tasks = list(TASKS.values())
    network, links = network_of("shared_bottom", tasks, PARENTS)
    swapped = slow_outputs(network, links, tasks, rows(), order=lambda p: p[::-1])
    gaps = [
        (a - b).abs().max() for a, b in zip(fast_outputs(network, rows()), swapped, strict=True)
    ]
    assert [bool(gap > 1e-3) for gap in gaps] == [False, False, True, False, False, False]


def reaches(network, child, parent, X):
    """Whether a child's loss has a slope over the head of a parent."""
    outputs = fast_outputs(network, X)
    g = next(g for g, group in enumerate(network.groups) if parent in group.tasks)
    place = network.groups[g].tasks.index(parent)
    head = list(network.heads[g].parameters())
    slopes = torch.autograd.grad(outputs[child].square().sum(), head, allow_unused=True)
    return any(bool(s is not None and s[place].any()) for s in slopes)


@every_trunk
@both_ways
def test_a_childs_loss_reaches_its_parents_heads_only_where_it_may(trunk, flows):
    tasks = list(TASKS.values())  # late, kind, loss, default, alone, early
    network, _ = network_of(trunk, tasks, OutputCascade(PARENTS, flows))
    above = {(1, 5), (3, 0), (2, 1), (2, 3), (2, 0), (2, 5)}  # (child, parent), and further up
    for child in range(6):
        for other in set(range(6)) - {child}:
            expected = flows and (child, other) in above
            assert reaches(network, child, other, rows()) == expected, (child, other)


def operators(n_children, kind):
    """Operators of a forward and a backward pass: one parent, many children."""
    names = [f"child{i}" for i in range(n_children)]
    tasks = [TASKS["late"], *(Task(name, "binary", np.array([0, 1])) for name in names)]
    network, _ = network_of("shared_bottom", tasks, kind(dict.fromkeys(names, "late")))
    with CountOperators() as counter:
        sum(out.square().sum() for out in network(rows())).backward()
    return counter.count


@pytest.mark.parametrize("kind", [OutputCascade, Funnel])
def test_the_number_of_operators_does_not_depend_on_the_number_of_children(kind):
    assert operators(2, kind) == operators(16, kind)


@every_trunk
@both_ways
def test_a_stack_of_networks_is_each_of_them(trunk, flows):
    tasks, cascade = list(TASKS.values()), OutputCascade(PARENTS, flows)
    stacked, _ = network_of(trunk, tasks, cascade, stack=(2, 3), seeds=range(6))
    together = stacked(rows())
    for i in range(6):
        one, _ = network_of(trunk, tasks, cascade, seeds=[i])
        for part, alone in zip(together, one(rows()), strict=True):
            assert part.shape == (2, 3, *alone.shape)
            torch.testing.assert_close(part.flatten(0, 1)[i], alone, rtol=0, atol=1e-13)
            assert (part.flatten(0, 1)[i - 1] - alone).abs().max() > 1e-3  # negative control


# The gradients of tasks ---------------------------------------------------------------------


def one_backward_a_task(network, X, losses_of):
    losses = losses_of(network(X))[0]
    parameters = list(network.trunk.parameters())
    grads = [torch.autograd.grad(loss, parameters, retain_graph=True) for loss in losses]
    return torch.stack([torch.cat([g.flatten() for g in row]) for row in grads])


@every_trunk
@both_ways
def test_the_jacobian_takes_tasks_apart_only_where_no_loss_flows_back(trunk, flows):
    tasks = list(TASKS.values())
    network, _ = network_of(trunk, tasks, OutputCascade(PARENTS, flows))
    ones = torch.ones(6, dtype=torch.float64)
    objective = Objective(network.groups, 6, ConstantWeights(ones), ones)
    rng = np.random.default_rng(1)
    columns = [rng.integers(0, 2, 13), rng.integers(0, 3, 13), rng.normal(size=13)]
    columns += [rng.integers(0, 2, 13), rng.normal(size=13), rng.integers(0, 2, 13)]
    y = np.column_stack(columns).astype(float)
    y[::3, 0] = y[1::4, 2] = NAN
    losses_of = partial(
        objective.task_losses, target=torch.from_numpy(y), weight=None, complete=False
    )
    _, _, _, jacobian = task_jacobian(network, rows(), losses_of)
    gap = (jacobian - one_backward_a_task(network, rows(), losses_of)).abs().max()
    # Why such weightings are refused: the gradients of children would be booked to their parents.
    assert gap > 1e-6 if flows else gap < 1e-13
