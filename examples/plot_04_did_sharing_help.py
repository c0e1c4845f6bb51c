"""
Did sharing help? Tasks that contend for one network
====================================================

Seven tasks share a small network. Four of them follow one signal, three another, and the network
has no room for both. What sharing brings each task, which tasks pull together, and what groups of
them make of it: measured, on a table whose truth is known.
"""

# %%
# The table
# ---------
# Two waves, each along a direction of two features of its own. Four sensors see the first, three
# the second, all with noise. A wave takes about three hidden units, and three are all there are:
# a made-up squeeze, which in a real table comes from too small a network or too short a training.
# The network is one and plain, as members and encoded numbers would give it room.

import os
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from rich.console import Console
from sklearn.exceptions import ConvergenceWarning

from sk_mtl import MultiTaskRegressor, TaskGrouper
from sk_mtl.relations import multi_task_gain, task_affinity

warnings.simplefilter("ignore", ConvergenceWarning)  # a fixed number of epochs is meant here
small = os.environ.get("SK_MTL_EXAMPLES") == "small"  # a smoke test, not a result
n_rows, n_repeats, n_epochs = (120, 1, 5) if small else (300, 3, 100)

rng = np.random.default_rng(0)
X = rng.normal(size=(n_rows, 4))
first = np.sin(2 * X[:, :2] @ np.array([0.6, 0.8]))
second = np.sin(2 * X[:, 2:] @ np.array([0.8, -0.6]))
columns = {f"a{i}": first for i in range(1, 5)} | {f"b{i}": second for i in (1, 2, 3)}
Y = pd.DataFrame({name: wave + 0.35 * rng.normal(size=n_rows) for name, wave in columns.items()})

model = MultiTaskRegressor(
    n_members=1,
    scaling=None,
    embedding=None,
    input_scale_rate=0,
    linear_path=False,
    hidden_layer_sizes=(3,),
    activation="tanh",
    dropout=0.0,
    learning_rate_init=0.02,
    batch_size=50,
    ema_decay=0.0,
    max_iter=n_epochs,
    n_iter_no_change=10,
    tol=0,
    random_state=0,
)

# %%
# With sharing and without
# ------------------------
# The same network and the same folds, once shared by all tasks and once with a network a task.
# The intervals account for folds whose training rows overlap.

console = Console(highlight=False, width=100)
shared = multi_task_gain(model, X, Y, n_repeats=n_repeats, random_state=0)
console.print(str(shared), markup=False)

# %%
# Who pulls together
# ------------------
# The mean cosine between two tasks' gradients of what they share, over the training. Above zero a
# step for one also helps the other.

affinity = task_affinity(model, X, Y)
console.print(affinity.round(2).to_string(), markup=False)

# %%
# A network a group
# -----------------
# ``TaskGrouper`` looks at the affinity, trains one network for each group that it finds, and
# predicts as one estimator. No harm is to be seen any more. Nothing is gained over a
# network a task either, but two networks do the work of seven.

grouper = TaskGrouper(model)
grouped = multi_task_gain(grouper, X, Y, n_repeats=n_repeats, random_state=0)
console.print(f"groups: {grouper.fit(X, Y).groups_}", markup=False)
console.print(str(grouped), markup=False)

# %%
# The picture
# -----------
# Left, what pulls together; right, what each task gains over a network of its own.

plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
SHARED, GROUPED, GRID = "#d55e00", "#0072b2", "#e4e8eb"
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
image = left.imshow(affinity, cmap="RdBu", vmin=-1, vmax=1)
left.set_xticks(range(len(Y.columns)), Y.columns)
left.set_yticks(range(len(Y.columns)), Y.columns)
left.set_title("mean cosine of gradients", loc="left", fontsize=10)
figure.colorbar(image, ax=left, shrink=0.8)
for gain, shift, colour, name in (
    (shared, -0.12, SHARED, "one network"),
    (grouped, 0.12, GROUPED, "one a group"),
):
    low, high = gain.gain_interval.T
    where = np.arange(len(Y.columns)) + shift
    right.errorbar(
        where, gain.gain, [gain.gain - low, high - gain.gain], fmt="o", color=colour, label=name
    )
right.axhline(0, color="black", linewidth=0.8)
right.set_xticks(range(len(Y.columns)), Y.columns)
right.set_title("gain in R² over a network of its own", loc="left", fontsize=10)
right.grid(color=GRID)
right.set_axisbelow(True)
right.legend(fontsize=9)

path = Path("outputs/did_sharing_help.png")
path.parent.mkdir(exist_ok=True)
figure.savefig(path, dpi=120)
console.print(f"Picture: {path}")
