"""Train many estimators as one stack of networks, each as its ``fit`` alone would."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from skorch.callbacks import GradientNormClipping

from sk_mtl._support import Recipe, fingerprint, has_sklearn_callbacks, stack_recipes
from sk_mtl.columns import torch_dtype
from sk_mtl.estimators._architecture import plain
from sk_mtl.estimators._describe import kinds_of, resolve_losses
from sk_mtl.estimators._fitted import set_fitted
from sk_mtl.estimators._optimizer import optimizer_arguments
from sk_mtl.estimators._run import build, check_callbacks, make_net, weighting_seed
from sk_mtl.estimators._session import Plan, Session
from sk_mtl.footprint import footprint
from sk_mtl.network import MultiTaskNetwork, group_tasks
from sk_mtl.objective import Objective, make_objective
from sk_mtl.stack import check_weighting
from sk_mtl.stacked_training import Member, Source, StackedTraining, Trained

# What a step of all networks touches. Stacks up to here, give or take a factor of two, took the
# least time a network: smaller ones are ruled by the cost of calling operators, larger ones by that
# of main memory.
CACHE_BYTES = 4 * 2**20
# Wider networks gain from this many still, and the widest from none: these take no more than that.
SMALLEST_STACK = 8
MOST_BYTES = 64 * 2**20
SHAPING = (
    "trunk",
    "embedding",
    "input_scale_rate",
    "hidden_layer_sizes",
    "head_hidden_layer_sizes",
    "activation",
)


# What does not change how the data are encoded: sessions that differ in these share their tables.
_NOT_ENCODING = {
    *SHAPING,
    *(
        "dropout",
        "task_weights",
        "weighting",
        "penalty",
        "linear_path",
        "ema_decay",
        "learning_rate_init",
        "alpha",
        "random_state",
    ),
    *("random_state", "max_iter", "tol", "n_iter_no_change", "stopping_rule", "stopping_tasks"),
    *("solver", "momentum", "nesterovs_momentum", "batch_size", "shuffle", "verbose", "callbacks"),
}
# What networks of one stack may differ in; more so the stackable numbers of recipes.
_STACKABLE = {
    *("dropout", "task_weights", "learning_rate_init", "alpha", "random_state"),
    *("max_iter", "tol", "n_iter_no_change", "stopping_rule", "stopping_tasks"),
}


def open_session(
    est: Any, X: Any, y: Any, fit_params: dict[str, Any], sessions: dict[Any, Session], place: Any
) -> Session:
    """Check an estimator's parameters, and encode the data unless another one has done so.

    Parameters
    ----------
    est : BaseMultiTask
        Not fitted.
    X, y, fit_params
        As for its ``fit``.
    sessions : dict
        Those that were opened so far; a new one is added.
    place : hashable
        Says which data these are.
    """
    est._validate_params()
    params = est.get_params(deep=False)
    encoding = {k: _without_numbers(v) for k, v in params.items() if k not in _NOT_ENCODING}
    key = (place, type(est), fingerprint(encoding))
    if key not in sessions:
        sessions[key] = est._session(X, y, **fit_params)
        return sessions[key]
    first = sessions[key].est
    vars(est).update({k: v for k, v in vars(first).items() if k not in params})
    est._task_losses = resolve_losses(est.loss, kinds_of(est._tasks), est.task_names_)
    est._draw_seeds()
    return sessions[key].sibling(est)


def likely_form(est: Any) -> Hashable:
    """Return what estimators have to share to be stacked, as far as parameters tell it."""
    params = est.get_params(deep=False)
    key: Hashable = fingerprint(
        [
            type(est),
            {k: _without_numbers(v) for k, v in params.items() if k not in _STACKABLE},
            est.stopping_rule == "each",
        ]
    )
    return key


def _without_numbers(value: Any) -> Any:
    """Return a parameter without the stackable numbers of the recipes in it."""
    if isinstance(value, Recipe):
        return _fixed(value)
    if isinstance(value, dict):
        return {k: _without_numbers(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_numbers(v) for v in value]
    return plain(value)


def why_alone(session: Session, plan: Plan) -> str | None:
    """Return why an estimator cannot be trained in a stack; None if it can."""
    est = session.est
    if plan.weighting.needs != "losses":
        return f"weighting={est.weighting!r} needs gradients of one network"
    if not plan.weighting.stacks:
        return f"weighting={est.weighting!r} balances one network"
    if has_sklearn_callbacks(est):
        return "scikit-learn's callbacks follow one fit"
    if est.verbose:
        return "verbose reports every epoch of one fit"
    if (
        any(type(c) is not GradientNormClipping for c in _callbacks(est))
        or len(est.callbacks or ()) > 1
    ):
        return "callbacks follow one fit"
    return None


def form(session: Session, plan: Plan) -> Hashable:
    """Return what estimators have to have in common to be trained in one stack."""
    est = session.est
    clip = _clip(est)
    sets = [plan.train] if plan.valid is None else [plan.train, plan.valid]
    key: Hashable = fingerprint(
        (
            [plan.shape[name][1] for name in SHAPING],
            [
                (group.tasks, group.n_outputs, _fixed(group.loss))
                for group in group_tasks(est._tasks, est._task_losses, est._links)
            ],
            est._links,
            _fixed(plan.weighting),
            plan.penalty and _fixed(plan.penalty),
            est._columns.layout,
            plan.prepared.form,
            str(session.dtype),
            str(session.device),
            [(len(data), data.weight_shape) for data in sets],
            plan.batch_size,
            plan.stopping.validation,
            est.stopping_rule == "each",  # which takes more memory
            est.shuffle,
            est.ema_decay,
            optimizer_arguments(est, session.device),
            clip and clip[1],
        )
    )
    return key


def _fixed(recipe: Recipe) -> tuple[type, dict[str, Any]]:
    """Return a recipe's type, and those of its parameters that a stack has to share."""
    parameters = recipe.get_params(deep=False)
    return type(recipe), {k: plain(v) for k, v in parameters.items() if k not in recipe.stackable}


def _callbacks(est: Any) -> list[Any]:
    """Return the user's callbacks without their names."""
    return [c[1] if isinstance(c, tuple) else c for c in check_callbacks(est.callbacks)]


def _clip(est: Any) -> tuple[float, float] | None:
    """Return the largest norm of gradients that the user's callback allows, and its order."""
    for callback in _callbacks(est):
        return float(callback.gradient_clip_value), float(callback.gradient_clip_norm_type)
    return None


def size_of_stacks(session: Session, plan: Plan) -> tuple[int, int]:
    """Return how many networks of a plan's form to stack, and the bytes that one takes at most.

    On the CPU as many as the cache serves well; elsewhere as many as fit half the free memory.
    """
    network = build([session], [plan], stack=())
    objective = _objective([session], [plan], network)
    batch = plan.train[: plan.batch_size]
    network.to(session.device)
    objective.to(session.device)
    n_valid = 0 if plan.valid is None else len(plan.valid)
    n_own = session.est.n_tasks_ if plan.stopping.watches_each else 0
    takes = footprint(network, objective, batch, n_valid, n_own)
    if session.device.type == "cuda":
        return max(1, torch.cuda.mem_get_info(session.device)[0] // 2 // takes.held), takes.held
    fitting = min(SMALLEST_STACK, MOST_BYTES // takes.held)
    return max(CACHE_BYTES // takes.touched, fitting, 1), takes.held


def train_stack(sessions: Sequence[Session], plans: Sequence[Plan]) -> list[Exception | None]:
    """Train estimators of one form together, and set their fitted attributes.

    Returns
    -------
    errors : list of Exception or None
        One a session: what its fit alone would have raised.

    Raises
    ------
    NotStackableError
        If a part of the network was not written for stack axes.
    """
    device = sessions[0].device
    network = build(sessions, plans, stack=(len(sessions),)).to(device)
    template = build(sessions[:1], plans[:1], stack=()).to(device)
    objective = _objective(sessions, plans, network).to(device)
    alone = _objective(sessions[:1], plans[:1], template).to(device)
    check_weighting(objective.balance, alone.balance, objective.user_weights)
    sources, of = _sources(sessions, plans)
    members = [
        Member(
            source,
            float(s.est.learning_rate_init),
            s.est.max_iter,
            p.stopping,
            _clip(s.est),
            s.est.task_names_,
        )
        for source, s, p in zip(of, sessions, plans, strict=True)
    ]
    arguments = optimizer_arguments(sessions[0].est, device)
    options = {k.removeprefix("optimizer__"): v for k, v in arguments.items() if "__" in k}
    decay = np.stack([np.asarray(p.decay) for p in plans])
    training = StackedTraining(
        network,
        template,
        objective,
        sources,
        members,
        task_names=sessions[0].est.task_names_,
        batch_size=plans[0].batch_size,
        decay=torch.from_numpy(decay).to(device, torch_dtype(sessions[0].dtype)),
        make_optimizer=partial(arguments["optimizer"], **options),
        ema_decay=sessions[0].est.ema_decay,
    )
    outcomes = training.run()
    return [_finish(*each) for each in zip(sessions, plans, outcomes, strict=True)]


def _objective(
    sessions: Sequence[Session], plans: Sequence[Plan], network: MultiTaskNetwork
) -> Objective:
    """Return the objective of a stack, or of one network that has no stack axis."""
    weights = [plan.task_weights for plan in plans]
    dtype, stacked = weights[0].dtype, len(sessions) > 1
    user_weights = torch.stack(weights) if stacked else weights[0]
    device = sessions[0].device
    weighting = stack_recipes([plan.weighting for plan in plans], 1, dtype, device)
    objective = make_objective(
        weighting,
        network.groups,
        user_weights,
        seeds=[weighting_seed(s.est) for s in sessions],
        private=plans[0].trunk.private,
        levels=sessions[0].est._links and sessions[0].est._links.levels,
        penalty=plans[0].penalty
        and stack_recipes([p.penalty for p in plans if p.penalty], 2, dtype, device),
    )
    groups = [group_tasks(s.est._tasks, s.est._task_losses, s.est._links) for s in sessions]
    objective.losses = [
        stack_recipes([group.loss for group in same], 2, dtype, device)
        for same in zip(*groups, strict=True)
    ]
    return objective


def _sources(sessions: Sequence[Session], plans: Sequence[Plan]) -> tuple[list[Source], list[int]]:
    """Return the distinct sources of data and of their order, and which each network reads."""
    known: dict[Hashable, int] = {}
    sources: list[Source] = []
    of = []
    for session, plan in zip(sessions, plans, strict=True):
        stream = session.est._shuffle if session.est.shuffle else None
        key = (id(plan.train), id(plan.valid), stream and stream.seed)
        if key not in known:
            known[key] = len(sources)
            sources.append(Source(plan.train, plan.valid, copy.deepcopy(stream)))
        of.append(known[key])
    return sources, of


def _finish(session: Session, plan: Plan, trained: Trained) -> Exception | None:
    """Give an estimator its network, and what else it has once it is fitted."""
    est = session.est
    network = build([session], [plan], stack=())
    trained.load_into(network)
    own = copy.deepcopy(check_callbacks(est.callbacks))
    est._architecture = plan.shape
    if trained.shuffle is not None:
        est._shuffle = trained.shuffle
    net = make_net(session, plan, network, own).initialize()
    net.module_.eval()
    net.criterion_.eval()
    trained.load_own_into(net.module_)  # now that the optimiser has the network's own weights
    net.history.extend(trained.history)
    net.interrupted_, net.stopped_by_callback_ = trained.interrupted, plan.stopping.stopped_
    est.net_ = net
    try:
        set_fitted(session, net, plan.stopping, lambda: None)
    except Exception as error:  # also a warning that the user's filters make one
        return error
    return None
