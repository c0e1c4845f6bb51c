"""Train an estimator by its plan, and set what it then has."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from skorch.callbacks import Callback

from sk_mtl._support import has_sklearn_callbacks, open_callback_context
from sk_mtl.callbacks import EpochReport, SklearnEpochs
from sk_mtl.columns import torch_dtype
from sk_mtl.estimators._architecture import check_same_architecture
from sk_mtl.estimators._fitted import set_fitted
from sk_mtl.estimators._optimizer import hand_over, hand_over_rates, optimizer_arguments
from sk_mtl.estimators._session import Plan, Session
from sk_mtl.network import MultiTaskNetwork, build_network, group_tasks
from sk_mtl.objective import make_objective
from sk_mtl.training import MultiTaskNet

OWN_CALLBACKS = ("epoch_report", "sklearn_epochs", "task_stopping")


def train(session: Session, plan: Plan | None = None) -> None:
    """Train the one network of the session's estimator, and set its fitted attributes."""
    est = session.est
    plan = plan or session.plan()
    network = _network(session, plan)
    relay = SklearnRelay(session)
    own = copy.deepcopy(check_callbacks(est.callbacks))
    net = make_net(session, plan, network, [*own, *_our_callbacks(session, plan, relay)])
    net.initialize()
    if session.continued:
        net.history.extend(est.net_.history)
        hand_over(est.net_, net, optimizer=session.incremental)
        hand_over_rates(est.net_, net)
    est.net_ = net
    relay.open()
    net.partial_fit(
        plan.train, None, valid=plan.valid, epochs=1 if session.incremental else est.max_iter
    )
    last = "train_loss" if plan.valid is None else "valid_score"
    if len(net.history) and last not in net.history[-1]:
        del net.history[-1]  # an epoch that was interrupted
    net.callbacks = own
    net.callbacks_ = [(name, c) for name, c in net.callbacks_ if name not in OWN_CALLBACKS]
    set_fitted(session, net, plan.stopping, relay.close)


def _network(session: Session, plan: Plan) -> MultiTaskNetwork:
    """Return a copy of the network trained so far, or a new one."""
    est = session.est
    if session.continued:
        check_same_architecture(est._architecture, plan.shape)
        network: MultiTaskNetwork = copy.deepcopy(est.net_.module_)
        network.rest_no_longer(absorb=session.incremental)
        return network
    est._architecture = plan.shape
    return build([session], [plan], stack=())


def build(
    sessions: Sequence[Session], plans: Sequence[Plan], stack: tuple[int, ...]
) -> MultiTaskNetwork:
    """Return a new network, or a stack of one a session, all of one form."""
    session, plan = sessions[0], plans[0]
    est = session.est
    rates = [s.dropout for s in sessions]
    return build_network(
        plan.trunk,
        group_tasks(est._tasks, est._task_losses, est._links),
        n_inputs=session.X.shape[1],
        embedding=plan.embedding,
        input_scale_rate=est.input_scale_rate,
        prepared=[p.prepared for p in plans],
        layout=est._columns.layout,
        n_tasks=est.n_tasks_,
        hidden_layer_sizes=plan.shape["hidden_layer_sizes"][1],
        head_hidden_layer_sizes=plan.shape["head_hidden_layer_sizes"][1],
        activation=est.activation,
        dropout=rates,
        seeds=[tuple(s.est._seeds[:3]) for s in sessions],
        dtype=torch_dtype(session.dtype),
        stack=stack,
        links=est._links,
    )


def make_net(
    session: Session, plan: Plan, network: MultiTaskNetwork, callbacks: list[Any]
) -> MultiTaskNet:
    """Return the skorch net of one network, not yet initialised."""
    est = session.est
    objective = make_objective(
        plan.weighting,
        network.groups,
        plan.task_weights,
        seeds=[weighting_seed(est)],
        private=plan.trunk.private,
        levels=est._links and est._links.levels,
        penalty=plan.penalty,
    )
    return MultiTaskNet(
        network,
        objective,
        task_names=est.task_names_,
        decay=plan.decay,
        ema_decay=0.0 if session.incremental else est.ema_decay,
        shuffle=est._shuffle if est.shuffle else None,
        device=session.device,
        lr=est.learning_rate_init,
        batch_size=plan.batch_size,
        callbacks=callbacks,
        verbose=0,
        train_split=None,
        **optimizer_arguments(est, session.device),
    )


def weighting_seed(est: Any) -> int:
    """Return the seed of the weighting's random numbers; those of dropout lie below."""
    return int(est._seeds[2]) + 10**6


# Callbacks ----------------------------------------------------------------------------------


def check_callbacks(callbacks: Sequence[Any] | None) -> list[Any]:
    """Return the user's callbacks; raise where one is none of skorch's, nor named."""
    for entry in callbacks or ():
        callback = entry[1] if isinstance(entry, tuple) and len(entry) == 2 else entry
        if not isinstance(callback, Callback):
            raise TypeError(
                f"Got {entry!r} in callbacks, expected objects of skorch's callbacks, or pairs of "
                "a name and one. scikit-learn's own go to set_callbacks."
            )
    return list(callbacks or ())


def _our_callbacks(session: Session, plan: Plan, relay: SklearnRelay) -> list[Any]:
    """Return our callbacks, which run after the user's."""
    ours: list[tuple[str, Callback]] = []
    if session.est.verbose:
        ours.append(("epoch_report", EpochReport(session.est.task_names_)))
    if relay.active:
        ours.append(("sklearn_epochs", SklearnEpochs(relay.begin_epoch, relay.end_epoch)))
    return [*ours, ("task_stopping", plan.stopping)]


class SklearnRelay:
    """Tells scikit-learn's own callbacks about a fit, from its beginning to its end.

    Parameters
    ----------
    session : Session
        The fit.
    """

    def __init__(self, session: Session) -> None:
        self.est, (self.X, self.y) = session.est, session.given
        self.active = not session.incremental and has_sklearn_callbacks(self.est)

    def open(self) -> None:
        """Tell that the fit begins."""
        if self.active:
            self._context = open_callback_context(self.est, self.est.max_iter)
            self._context.call_on_fit_task_begin(estimator=self.est, X=self.X, y=self.y)

    def begin_epoch(self) -> Any:
        """Tell that an epoch begins."""
        context = self._context.subcontext(task_name="epoch")
        context.call_on_fit_task_begin(estimator=self.est, X=self.X, y=self.y)
        return context

    def end_epoch(self, context: Any) -> bool:
        """Tell that an epoch ends; return whether training is to stop."""
        return bool(
            context.call_on_fit_task_end(
                estimator=self.est,
                X=self.X,
                y=self.y,
                reconstruction_attributes=lambda: fitted_so_far(self.est),
            )
        )

    def close(self) -> None:
        """Tell that the fit ends."""
        if self.active:
            self.end_epoch(self._context)


def fitted_so_far(est: Any) -> dict[str, Any]:
    """Return what an estimator has by now beside its parameters."""
    parameters = est.get_params(deep=False)
    return {k: v for k, v in vars(est).items() if k not in parameters}
