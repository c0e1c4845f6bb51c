"""Cross-entropy."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from sk_mtl.losses._base import Loss


class LogLoss(Loss):
    """Negative log-likelihood of the class: logistic for two classes, softmax for more.

    References
    ----------
    Bishop 2006, "Pattern Recognition and Machine Learning", equations 4.90 and 4.108.

    Examples
    --------
    >>> import torch
    >>> from sk_mtl.losses import LogLoss
    >>> LogLoss().elementwise(torch.zeros(1, 1), torch.ones(1))  # log 2
    tensor([0.6931])
    """

    mixes_linear = True

    kinds = frozenset({"binary", "multiclass"})

    def elementwise(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return -log p(target)."""
        if raw.shape[-1] == 1:
            logit = raw.squeeze(-1)
            if target.shape != logit.shape:  # stacked networks share the targets
                target = target.expand_as(logit)
            return F.binary_cross_entropy_with_logits(logit, target, reduction="none")
        index = target.long().expand(raw.shape[:-1]).unsqueeze(-1)
        picked = raw.gather(-1, index).squeeze(-1)
        return raw.logsumexp(-1) - picked

    def to_prediction(self, raw: Tensor) -> Tensor:
        """Return class probabilities."""
        if raw.shape[-1] == 1:
            return torch.cat([torch.sigmoid(-raw), torch.sigmoid(raw)], dim=-1)
        return raw.softmax(-1)
