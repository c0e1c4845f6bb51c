"""One training step of MMoE: our stacked experts, a ModuleList of experts, torch-rechub's MMOE.

50 features, 8 experts, 8 tasks with linear heads, a linear gate a task; expert layers (64, 32)
and (128, 64); batches of 32, 200 and 1024. A step is clearing gradients, forward and backward;
then the same with Adam's step: as each project runs it (ours fused, the others torch's default),
and fused for everyone. The loss is one mean over the batch and the tasks, in one operator, for
everyone.

torch-rechub cannot be asked for the very same network: its perceptrons have BatchNorm and Dropout
after every layer and its gates have BatchNorm. It is therefore measured three times: as its
documentation shows it (one DenseFeature a column); with all columns in one DenseFeature; and that
without BatchNorm and Dropout, which is our network in its code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from _harness import Report, arguments, binary_tasks, clocked, interleaved, use_threads
from torch import Tensor, nn
from torch.nn import functional as F

from sk_mtl.losses import LogLoss
from sk_mtl.network import build_network, group_tasks
from sk_mtl.tasks import Task
from sk_mtl.trunks import MMoE

N_FEATURES, N_EXPERTS, N_TASKS = 50, 8, 8
OURS, LISTED, RECHUB = "sk_mtl", "ModuleList", "torch-rechub"
RECHUB_WIDE, RECHUB_BARE = "torch-rechub, one feature", "torch-rechub, no BatchNorm"
TARGETS = {LISTED: 0.45, RECHUB: 0.20}
# A network, what it is called with, and its loss.
Built = tuple[nn.Module, Callable[[Any], Tensor]]


class ListedMMoE(nn.Module):
    """MMoE as it is commonly written: lists of modules, a stack, an einsum a task.

    Parameters
    ----------
    sizes : sequence of int
        Layers of an expert.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.experts = nn.ModuleList(perceptron(sizes) for _ in range(N_EXPERTS))
        self.gates = nn.ModuleList(
            nn.Sequential(nn.Linear(N_FEATURES, N_EXPERTS), nn.Softmax(dim=-1))
            for _ in range(N_TASKS)
        )
        self.towers = nn.ModuleList(nn.Linear(sizes[-1], 1) for _ in range(N_TASKS))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of shape (batch, task)."""
        experts = torch.stack([expert(x) for expert in self.experts])
        logits = []
        for gate, tower in zip(self.gates, self.towers, strict=True):
            logits.append(tower(torch.einsum("eb...,be->b...", experts, gate(x))))
        return torch.cat(logits, dim=1)


def perceptron(sizes: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    width = N_FEATURES
    for size in sizes:
        layers += [nn.Linear(width, size), nn.ReLU()]
        width = size
    return nn.Sequential(*layers)


def ours(sizes: Sequence[int], X: Tensor, Y: Tensor) -> Built:
    tasks = [Task(f"task{t}", "binary", torch.arange(2).numpy()) for t in range(N_TASKS)]
    loss = LogLoss()
    net = build_network(
        MMoE(N_EXPERTS),
        group_tasks(tasks, [loss] * N_TASKS),
        n_inputs=N_FEATURES,
        n_tasks=N_TASKS,
        hidden_layer_sizes=sizes,
        head_hidden_layer_sizes=(),
        activation="relu",
        dropout=0.0,
        seeds=[(0, 1, 2)],
        dtype=torch.float32,
    )
    return net, lambda net: loss.elementwise(net(X)[0], Y.mT).mean()


def listed(sizes: Sequence[int], X: Tensor, Y: Tensor) -> Built:
    return ListedMMoE(sizes), lambda net: F.binary_cross_entropy_with_logits(net(X), Y)


def rechub(
    sizes: Sequence[int], X: Tensor, Y: Tensor, *, columns: bool = True, bare: bool = False
) -> Built:
    from torch_rechub.basic.features import DenseFeature
    from torch_rechub.models.multi_task import MMOE

    if columns:
        features = [DenseFeature(f"x{i}") for i in range(N_FEATURES)]
        inputs = {f"x{i}": column.contiguous() for i, column in enumerate(X.unbind(1))}
    else:
        features, inputs = [DenseFeature("x", embed_dim=N_FEATURES)], {"x": X}
    net = MMOE(
        features,
        ["classification"] * N_TASKS,
        N_EXPERTS,
        {"dims": list(sizes), "activation": "relu"},
        [{"dims": []} for _ in range(N_TASKS)],
    )
    if bare:
        for module in [m for m in net.modules() if isinstance(m, nn.Sequential)]:
            for name, child in list(module.named_children()):
                if isinstance(child, (nn.BatchNorm1d, nn.Dropout)):
                    delattr(module, name)
    return net, lambda net: F.binary_cross_entropy(net(inputs), Y)  # it returns probabilities


def contenders(report: Report) -> dict[str, Callable[..., Built]]:
    """Return how everyone builds the network; torch-rechub only where it is installed."""
    found: dict[str, Callable[..., Built]] = {OURS: ours, LISTED: listed}
    try:
        import torch_rechub  # noqa: F401
    except ImportError as error:
        report.skip(RECHUB, f"{error}. Run: pip install --no-deps torch-rechub tqdm pandas")
        return found
    return found | {
        RECHUB: rechub,
        RECHUB_WIDE: lambda *args: rechub(*args, columns=False),
        RECHUB_BARE: lambda *args: rechub(*args, columns=False, bare=True),
    }


def stepper(built: Built, adam: dict[str, Any] | None) -> Callable[[], None]:
    """Return a training step; without ``adam`` it stops at the gradients."""
    net, loss = built
    parameters = list(net.parameters())
    optimizer = torch.optim.Adam(parameters, lr=1e-3, **(adam or {}))

    def step() -> None:
        for parameter in parameters:
            parameter.grad = None
        loss(net).backward()
        if adam is not None:
            optimizer.step()

    return step


def main() -> None:
    options = arguments(__doc__, repeats=9)
    use_threads(options.threads)
    sizes_tried, batches = [(64, 32), (128, 64)], {32: 10, 200: 5, 1024: 2}  # steps a sample
    if options.quick:
        sizes_tried, batches = [(8, 4)], {32: 1}
    settings = {"n_features": N_FEATURES, "n_experts": N_EXPERTS, "n_tasks": N_TASKS}
    report = Report("experts", options, settings | {"steps_a_sample": batches})
    everyone = contenders(report)
    for sizes in sizes_tried:
        for batch_size, number in batches.items():
            X, Y = map(torch.from_numpy, binary_tasks(batch_size, N_FEATURES, N_TASKS))
            for kind in ("gradients", "step", "step, all fused"):
                torch.manual_seed(0)
                runs, counts = {}, {}
                for name, build in everyone.items():
                    built = build(sizes, X, Y)
                    fused = kind == "step, all fused" or name == OURS
                    adam = None if kind == "gradients" else {"fused": True} if fused else {}
                    counts[name] = sum(p.numel() for p in built[0].parameters())
                    step = stepper(built, adam)
                    runs[name] = partial(clocked, step, number)
                samples = interleaved(runs, options.repeats)
                case = f"{sizes}, batch {batch_size}, {kind}"
                report.add(case, samples, parameters=counts)
                for name in runs:
                    if name != OURS:
                        report.ratio(case, OURS, name, TARGETS.get(name))
    report.finish()


if __name__ == "__main__":
    main()
