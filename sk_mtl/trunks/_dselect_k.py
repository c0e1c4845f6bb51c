"""A mixture of few experts, chosen by a gate that is smooth."""

from __future__ import annotations

from numbers import Integral, Real

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sk_mtl._support import Interval, StrOptions
from sk_mtl.layers import StackedMLP, combine, mix
from sk_mtl.trunks._base import Trunk, TrunkSpec


class DSelectK(Trunk):
    """Experts that all tasks share, of which each task may come to choose at most ``k``.

    For many experts, or where it should be read off which expert serves which task: the gates of
    :class:`MMoE` give every expert some weight, these can give exactly zero. How soon they do is
    a matter of ``gamma``. Every expert has the estimator's ``hidden_layer_sizes``.

    Parameters
    ----------
    n_experts : int, default=8
        Number of experts.
    k : int, default=2
        How many of them a task may choose.
    gate : {"input", "static"}, default="input"
        Whether a task chooses anew for every sample, or once for all.
    gamma : float, default=1.0
        Width of the range in which a choice is undecided: the smaller, the sooner it is made,
        and then kept. With the default all experts often keep some weight to the end; try 0.1
        and 0.03 for few.

    Notes
    -----
    Each of ``k`` selectors writes the number of an expert in binary digits. While digits are
    undecided, a selector spreads its weight over several experts; from half of ``gamma`` on a
    digit is exactly 0 or 1.

    The paper adds the entropy of the selectors to the loss, which makes them decide. That term,
    which is one of every batch, is left out here: selectors decide where the losses of
    the tasks make them, and may stay undecided. Where ``n_experts`` is no power of two,
    the paper penalises numbers without an expert, likewise in the loss; here the numbers start
    again from the first expert, so that the weights always add up to one.

    References
    ----------
    Hazimeh et al. 2021, "DSelect-k: Differentiable Selection in the Mixture of Experts with
    Applications to Multi-Task Learning", section 3; its smooth-step function is that of
    Hazimeh et al. 2020, "The Tree Ensemble Layer: Differentiability meets Conditional
    Computation".

    Examples
    --------
    >>> from sk_mtl import MultiTaskRegressor
    >>> from sk_mtl.trunks import DSelectK
    >>> model = MultiTaskRegressor(trunk=DSelectK(n_experts=16, k=4), hidden_layer_sizes=(64,))
    """

    _parameter_constraints = {
        "n_experts": [Interval(Integral, 1, None, closed="left")],
        "k": [Interval(Integral, 1, None, closed="left")],
        "gate": [StrOptions({"input", "static"})],
        "gamma": [Interval(Real, 0, None, closed="neither")],
    }

    def __init__(
        self, n_experts: int = 8, k: int = 2, gate: str = "input", gamma: float = 1.0
    ) -> None:
        self.n_experts = n_experts
        self.k = k
        self.gate = gate
        self.gamma = gamma

    def build(self, spec: TrunkSpec) -> nn.Module:
        """Return the module; see :class:`Trunk`."""
        spec.require_hidden_layers(self)
        if self.k > self.n_experts:
            raise ValueError(
                f"Got k={self.k} with n_experts={self.n_experts}, expected no more than there "
                "are experts. Lower k, or add experts."
            )
        experts = spec.mlp(spec.n_inputs, parallel=self.n_experts)
        selection = _Selection(self.n_experts, self.k, float(self.gamma))
        gate = _StaticGate if self.gate == "static" else _InputGate
        return _DSelectK(experts, gate(spec, selection))


class _DSelectK(nn.Module):
    def __init__(self, experts: StackedMLP, gate: nn.Module) -> None:
        super().__init__()
        self.experts = experts
        self.gate = gate
        self.n_outputs = experts.n_outputs

    def forward(self, x: Tensor) -> Tensor:
        weights = self.gate(x)
        experts = self.experts(x)  # (*stack, expert, batch, d)
        if isinstance(self.gate, _StaticGate):  # the same for every sample
            return combine(weights, experts)
        return mix(weights, experts)  # (*stack, task, batch, d)


class _StaticGate(nn.Module):
    """Weights of experts that a task learns: ``(*stack, task, expert)``."""

    def __init__(self, spec: TrunkSpec, selection: _Selection) -> None:
        super().__init__()
        self.selection = selection
        self.n_tasks = spec.n_tasks
        n_digits = selection.k * selection.n_digits
        digits = spec.draws.uniform((spec.n_tasks, n_digits), selection.gamma / 100)
        shares = spec.draws.uniform((spec.n_tasks, selection.k), 0.05)
        # In one row, as biases are: the penalty takes two axes for the weights of a layer.
        self.logits = nn.Parameter(torch.cat([digits, shares], dim=-1).flatten(-2))

    def forward(self, x: Tensor) -> Tensor:
        """Return the weights, whatever the input."""
        logits = self.logits.unflatten(-1, (self.n_tasks, -1)).unsqueeze(-1)
        weights: Tensor = self.selection(logits).squeeze(-1)
        return weights


class _InputGate(nn.Module):
    """Weights of experts, a sample each: ``(*stack, batch, task, expert)``."""

    def __init__(self, spec: TrunkSpec, selection: _Selection) -> None:
        super().__init__()
        self.selection = selection
        n_digits = selection.k * selection.n_digits
        self.linear = spec.gate(spec.n_inputs, n_digits + selection.k, parallel=spec.n_tasks)
        with torch.no_grad():
            # NOTE[DIFF] small by a factor, not by a bound: however many inputs there are, all
            # choices are open when training begins.
            self.linear.weight[..., :n_digits, :] *= selection.gamma / 100

    def forward(self, x: Tensor) -> Tensor:
        """Return the weights, in the order that :func:`mix` reads."""
        weights: Tensor = self.selection(self.linear(x).mT)  # (*stack, task, expert, batch)
        return weights.movedim(-1, -3).contiguous()


class _Selection(nn.Module):
    """The gate's weights from its logits: first the selectors' digits, then their shares.

    Shape: ``(*stack, task, k * n_digits + k, batch)`` -> ``(*stack, task, expert, batch)``.
    """

    codes: Tensor

    def __init__(self, n_experts: int, k: int, gamma: float) -> None:
        super().__init__()
        self.n_experts, self.k, self.gamma = n_experts, k, gamma
        self.n_digits = (n_experts - 1).bit_length()
        numbers = torch.arange(2**self.n_digits).unsqueeze(-1)
        codes = (numbers >> torch.arange(self.n_digits)) % 2 == 1  # (number, digit)
        self.register_buffer("codes", codes.unsqueeze(-1), persistent=False)

    def forward(self, logits: Tensor) -> Tensor:
        """Return every task's weights of the experts, which add up to one."""
        digits, shares = logits.split([self.k * self.n_digits, self.k], dim=-2)
        z = digits.unflatten(-2, (self.k, 1, self.n_digits))  # (..., k, 1, digit, batch)
        ones, zeros = (_log(smooth_step(t, self.gamma)) for t in (z, -z))  # S(-z) = 1 - S(z)
        # r(z): a product over the digits. As a sum of logarithms, since the slope of torch's
        # product looks for zeros first, and a device would have to wait for the answer.
        selected = torch.where(self.codes, ones, zeros).sum(-2).exp()  # (..., k, number, batch)
        shares = shares.softmax(-2).unsqueeze(-2)
        weights: Tensor = (shares * selected).sum(-3)  # q = sum_i sigma(alpha)_i r(z_i)
        surplus = weights.shape[-2] - self.n_experts
        if not surplus:
            return weights
        # NOTE[DIFF] numbers beyond the last expert stand for the first ones.
        first: Tensor = weights.narrow(-2, 0, self.n_experts)
        again = weights.narrow(-2, self.n_experts, surplus)
        return first + F.pad(again, (0, 0, 0, self.n_experts - surplus))


def smooth_step(t: Tensor, gamma: float) -> Tensor:
    """Return a cubic step that is exactly 0 up to -gamma / 2, and 1 from gamma / 2 on."""
    u = (t / gamma).clamp(-0.5, 0.5)
    return u * (1.5 - 2 * u * u) + 0.5  # -2 t^3 / gamma^3 + 3 t / (2 gamma) + 1 / 2


def _log(p: Tensor) -> Tensor:
    """Return the logarithm; of 0 a number whose exponential is 0, and no slope."""
    return p.clamp_min(torch.finfo(p.dtype).tiny).log().masked_fill(p <= 0, -1e4)
