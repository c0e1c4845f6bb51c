"""The optimiser: its arguments, its memory from call to call, and whether it went astray."""

from __future__ import annotations

import copy
from typing import Any

import torch

from sk_mtl.training import MultiTaskNet


def hand_over(old: MultiTaskNet, new: MultiTaskNet, *, optimizer: bool) -> None:
    """Give the next net what weighting, penalty and optimiser remember, not their settings."""
    if optimizer and type(old.optimizer_) is type(new.optimizer_):
        state = copy.deepcopy(old.optimizer_.state_dict())
        settings = new.optimizer_.state_dict()["param_groups"]
        new.optimizer_.load_state_dict({**state, "param_groups": settings})
    for part in ("balance", "relation"):
        before, after = getattr(old.criterion_, part), getattr(new.criterion_, part)
        if before is not None and type(before) is type(after):
            after.load_state_dict(before.state_dict())


def hand_over_rates(old: MultiTaskNet, new: MultiTaskNet) -> None:
    """Let a schedule of the learning rate go on, unless the user sets another rate to begin with.

    Schedulers look for the rate that they began with beside the rate of today.
    """
    groups = zip(old.optimizer_.param_groups, new.optimizer_.param_groups, strict=True)
    for before, group in groups:
        group["initial_lr"] = group["lr"]
        if before.get("initial_lr") == group["lr"]:
            group["lr"] = before["lr"]


def check_finite(net: MultiTaskNet) -> None:
    """Raise where the weights that are kept cannot predict anything."""
    if not all(bool(p.isfinite().all()) for p in net.module_.parameters()):
        raise ValueError(
            f"Got weights that are not finite after epoch {len(net.history)}, expected finite "
            "ones: training diverged. Scale X, or lower learning_rate_init."
        )


def optimizer_arguments(est: Any, device: torch.device) -> dict[str, Any]:
    """Return skorch's arguments for the optimiser."""
    fused = device.type in ("cpu", "cuda")  # one kernel for all parameters
    if est.solver == "adam":
        return {"optimizer": torch.optim.Adam, "optimizer__fused": fused}
    return {
        "optimizer": torch.optim.SGD,
        "optimizer__momentum": est.momentum,
        "optimizer__nesterov": est.nesterovs_momentum and est.momentum > 0,
        "optimizer__fused": fused,
    }
