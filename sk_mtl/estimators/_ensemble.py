"""The networks of an estimator: one, or members whose predictions are averaged."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from sk_mtl._support import (
    fingerprint,
    has_sklearn_callbacks,
    open_callback_context,
    spawn_seeds,
    warn,
)
from sk_mtl.estimators._linear_models import mix_linear_models
from sk_mtl.estimators._out_of_fold import set_out_of_fold
from sk_mtl.estimators._run import fitted_so_far, train
from sk_mtl.estimators._session import Plan, Session
from sk_mtl.estimators._stacking import form, size_of_stacks, train_stack, why_alone

Networks = list[tuple[Session, Plan]]


def fit_networks(session: Session) -> None:
    """Train the network of a session's estimator, or its members."""
    est = session.est
    if session.continued:
        _check_same_number(est)
    if est.n_members == 1:
        est.__dict__.pop("estimators_", None)  # of an earlier fit
        plan = session.plan()
        train(session, plan)
        finish(session, [(session, plan)])
        return
    networks = plan_networks(session)
    relay = MemberRelay(session)
    relay.open()
    if why_one_by_one(session, networks) is None:
        trained = _train_in_stacks(networks)
        networks = trained or _train_one_by_one(plan_networks(session), relay)
    else:
        networks = _train_one_by_one(networks, relay)
    finish(session, networks)
    assemble(session, networks)
    relay.close()
    _warn_of_the_end(session, networks)


def plan_networks(session: Session) -> Networks:
    """Return every network of a session's estimator, and the plan of its training."""
    est = session.est
    if est.n_members == 1:
        return [(session, session.plan())]
    members = est.estimators_ if session.continued else [None] * est.n_members
    seeds = spawn_seeds(est._member_seed, est.n_members)
    sessions = [
        session.of_member(m, _member(est, seed, old))
        for m, (seed, old) in enumerate(zip(seeds, members, strict=True))
    ]
    return [(each, each.plan()) for each in sessions]


def _check_same_number(est: Any) -> None:
    """Raise where an estimator is to go on with more or fewer networks than it has."""
    n = len(est._nets)
    if n != est.n_members:
        raise ValueError(
            f"Got n_members={est.n_members} to continue {n} networks, expected the same. Set "
            "warm_start=False, or clone the estimator."
        )


def _member(est: Any, seed: int, old: Any) -> Any:
    """Return an estimator of one network: a new one, or a copy that goes on where ``old`` is."""
    if old is None:
        member = copy.copy(est)
        for name in ("estimators_", "net_", "_skl_callbacks"):
            member.__dict__.pop(name, None)
        member.n_members, member.random_state = 1, seed
        member._draw_seeds()
        return member
    member = copy.copy(old)
    parameters = est.get_params(deep=False)
    given = parameters.keys() - {"n_members", "random_state"}
    vars(member).update({name: parameters[name] for name in given})
    member._shuffle = copy.deepcopy(old._shuffle)  # a call that fails shall not advance it
    return member


def form_of(networks: Networks) -> Hashable:
    """Return what estimators have to have in common to be trained in one stack."""
    forms = {form(*network) for network in networks}
    key: Hashable = (len(networks), *sorted(map(fingerprint, forms), key=str))
    return key


def train_together(ensembles: Sequence[Networks], parents: Sequence[Session]) -> list[Any]:
    """Train the networks of estimators of one form as one stack.

    Parameters
    ----------
    ensembles : sequence of list of (Session, Plan)
        The networks of every estimator.
    parents : sequence of Session
        The estimators' own sessions.

    Returns
    -------
    errors : list of Exception or None
        One an estimator: what its fit alone would have raised.

    Raises
    ------
    NotStackableError
        If a part of the network was not written for stack axes.
    """
    flat = [network for networks in ensembles for network in networks]
    found = train_stack([s for s, _ in flat], [p for _, p in flat])
    errors = []
    for networks, parent in zip(ensembles, parents, strict=True):
        own = [found.pop(0) for _ in networks]
        error = next((e for e in own if e is not None), None)
        if error is None:
            try:
                finish(parent, networks)
                if parent.est.n_members > 1:
                    assemble(parent, networks)
                    _warn_of_the_end(parent, networks)
            except Exception as failure:  # also a warning that the user's filters make one
                error = failure
        errors.append(error)
    return errors


def why_one_by_one(session: Session, networks: Networks) -> str | None:
    """Return why the members cannot be trained in a stack; None if they can."""
    if session.continued or session.incremental:
        return "their training goes on"
    if has_sklearn_callbacks(session.est):
        return "scikit-learn's callbacks follow them"
    alone = why_alone(*networks[0])
    if alone is None and len({form(*network) for network in networks}) > 1:
        return "they differ in form"
    return alone


def _train_in_stacks(networks: Networks) -> Networks | None:
    """Train members as stacks of a size that the cache serves well.

    Returns
    -------
    trained : list of (Session, Plan) or None
        Those that were trained until the user ended it; None if a part of the user's own does
        not stack.

    Raises
    ------
    Exception
        What a fit alone would have raised.
    """
    trained: Networks = []
    failures: list[Exception] = []
    try:
        size = min(size_of_stacks(*networks[0])[0], len(networks))
        n_parts = -(-len(networks) // size)
        for part in np.array_split(np.arange(len(networks)), n_parts):
            trained += (these := [networks[i] for i in part])
            if len(these) == 1:  # a stack of one is none
                train(*these[0])
            else:
                found = train_stack([s for s, _ in these], [p for _, p in these])
                failures += [error for error in found if error is not None]
            if failures or any(s.est.net_.interrupted_ for s, _ in these):
                break
    except Exception:  # of whatever kind: a fit alone says what is wrong, if it is wrong there too
        return None
    if failures:
        raise failures[0]
    return trained


def _train_one_by_one(networks: Networks, relay: MemberRelay) -> Networks:
    """Train members one after the other; return those that were trained until it was ended."""
    for n, (session, plan) in enumerate(networks, start=1):
        relay.begin_member()
        train(session, plan)
        if relay.end_member(networks[:n]) or session.est.net_.interrupted_:
            return networks[:n]
    return networks


def finish(session: Session, networks: Networks) -> None:
    """Do what is done with trained networks, whether they were trained alone or in a stack."""
    mix_linear_models(networks)
    set_out_of_fold(session.est, networks)


# Afterwards -----------------------------------------------------------------------------------


def assemble(session: Session, networks: Networks) -> None:
    """Set what an estimator of several members has once they are trained."""
    est = session.est
    est.__dict__.pop("net_", None)  # of an earlier fit
    est.estimators_ = members = [member.est for member, _ in networks]
    est.n_iter_ = max(m.n_iter_ for m in members)
    est.best_loss_ = float(np.mean([m.best_loss_ for m in members]))
    est.best_iter_ = round(float(np.mean([m.best_iter_ for m in members])))
    est.loss_curve_ = _mean_curve([m.loss_curve_ for m in members]).tolist()
    est.task_loss_curves_ = _mean_curve([m.task_loss_curves_ for m in members])
    validated = all(m.validation_scores_ is not None for m in members)
    est.validation_scores_ = est.validation_task_loss_curves_ = None
    if validated:
        est.validation_scores_ = _mean_curve([m.validation_scores_ for m in members]).tolist()
        est.validation_task_loss_curves_ = _mean_curve(
            [m.validation_task_loss_curves_ for m in members]
        )
    for name in ("task_covariance_", "task_correlation_"):
        est.__dict__.pop(name, None)
        if all(hasattr(m, name) for m in members):
            setattr(est, name, np.mean([getattr(m, name) for m in members], axis=0))
    est._n_features_transformed = sum(m._n_features_transformed for m in members)
    est._architecture = members[0]._architecture


def _mean_curve(curves: Sequence[Any]) -> Any:
    """Return the mean over the members that were still training, epoch by epoch."""
    longest = max(map(len, curves))
    total = np.zeros((longest, *np.shape(curves[0])[1:]))
    n_there = np.zeros((longest, *[1] * (total.ndim - 1)))
    for curve in curves:
        total[: len(curve)] += curve
        n_there[: len(curve)] += 1
    return total / n_there


def _warn_of_the_end(session: Session, networks: Networks) -> None:
    """Warn once where members ended by an accident, or too early."""
    est, members = session.est, [member.est for member, _ in networks]
    if any(m.net_.interrupted_ for m in members):
        warn(
            f"Training interrupted by user after {est.n_iter_} epochs; the estimator is fitted "
            f"and keeps {len(members)} of {est.n_members} members as they stood."
        )
        return
    diverged = sum(bool(m.n_iter_ and not np.isfinite(m.loss_curve_[-1])) for m in members)
    unfinished = sum(not m.net_.stopped_by_callback_ for m in members)
    if diverged:
        warn(
            f"Training diverged in {diverged} of {len(members)} members; they keep the weights of "
            "their best epochs. Scale X, or lower learning_rate_init.",
            ConvergenceWarning,
        )
    elif unfinished and not session.incremental:
        warn(
            f"Stochastic Optimizer: Maximum iterations ({est.max_iter}) reached and the "
            f"optimization hasn't converged yet in {unfinished} of {len(members)} members. Raise "
            "max_iter, learning_rate_init or tol.",
            ConvergenceWarning,
        )


class MemberRelay:
    """Tells scikit-learn's own callbacks about the members of a fit, one after the other.

    Parameters
    ----------
    session : Session
        The fit.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.active = not session.incremental and has_sklearn_callbacks(session.est)

    def open(self) -> None:
        """Tell that the fit begins."""
        if self.active:
            est = self.session.est
            self._whole = open_callback_context(est, est.n_members)
            self._begin(self._whole)

    def begin_member(self) -> None:
        """Tell that the training of a member begins."""
        if self.active:
            self._member = self._whole.subcontext(task_name="member")
            self._begin(self._member)

    def end_member(self, trained: Networks) -> bool:
        """Tell of the estimator as it is by now; return whether training is to stop."""
        if not self.active:
            return False
        assemble(self.session, trained)
        return self._end(self._member)

    def close(self) -> None:
        """Tell that the fit ends."""
        if self.active:
            self._end(self._whole)

    def _begin(self, context: Any) -> None:
        X, y = self.session.given
        context.call_on_fit_task_begin(estimator=self.session.est, X=X, y=y)

    def _end(self, context: Any) -> bool:
        est, (X, y) = self.session.est, self.session.given
        return bool(
            context.call_on_fit_task_end(
                estimator=est, X=X, y=y, reconstruction_attributes=lambda: fitted_so_far(est)
            )
        )
