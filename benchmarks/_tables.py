"""Tables with several tasks: read from a folder, or made up, and what a user does to them first.

A folder holds one folder a table: ``meta.json`` and the data file that it names. Nothing here
knows ``sk_mtl``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

MISSING = "missing"  # the category of cells that have none
FARTHEST = 5.0  # standard deviations, where numbers are cut: R2 shall not hang on one odd row


@dataclass(frozen=True)
class Table:
    """A table with several tasks.

    Attributes
    ----------
    X, Y : DataFrame
        Features, and labels with NaN where one is missing.
    kinds : list of str
        "classification" or "regression", a task.
    categorical : list of str
        Columns of X that hold categories.
    sha256 : str
        Of the data file, as ``meta.json`` has it; empty if it was made up.
    """

    X: Any
    Y: Any
    kinds: list[str]
    categorical: list[str]
    sha256: str = ""

    def facts(self) -> dict[str, Any]:
        """Return what a reader wants to know of it, and what it is recognised by."""
        n_classes = sum(kind == "classification" for kind in self.kinds)
        return {
            "n_rows": len(self.X),
            "n_features": self.X.shape[1],
            "n_classification_tasks": n_classes,
            "n_regression_tasks": len(self.kinds) - n_classes,
            "missing_labels": round(float(self.Y.isna().to_numpy().mean()), 4),
            "sha256": self.sha256,
        }


def read(folder: Path, name: str, most_rows: int, most_tasks: int) -> Table:
    """Return a table, cut to some of its rows at random and to the first of its tasks.

    Parameters
    ----------
    folder : Path
        Where the tables are.
    name : str
        Folder of the table in it.
    most_rows, most_tasks : int
        How much of it to keep at most.
    """
    path = folder / name / "meta.json"
    if not path.exists():
        raise FileNotFoundError(
            f"Got no {path}, expected the description of a table. Pass another folder or name."
        )
    meta = json.loads(path.read_text(encoding="utf-8"))
    X, Y = _columns(path.with_name(meta["file"]), meta)
    categorical = list(meta["categorical_columns"])
    if len(X) > most_rows:
        rows = np.random.default_rng(0).choice(len(X), size=most_rows, replace=False)
        X, Y = X.iloc[np.sort(rows)], Y.iloc[np.sort(rows)]
    Y = Y.iloc[:, :most_tasks].reset_index(drop=True)
    X = X.reset_index(drop=True)
    for column in categorical:
        X[column] = X[column].astype("string").fillna(MISSING).astype(object)
    types = [str(meta["target_types"][task]) for task in Y.columns]
    kinds = ["regression" if t.startswith("regression") else "classification" for t in types]
    return Table(X, Y, kinds, categorical, meta.get("sha256", ""))


def _columns(path: Path, meta: Any) -> tuple[Any, Any]:
    """Return features and labels of a file of columns, or of arrays that describe molecules."""
    if path.suffix == ".npz":  # its fingerprints would take more time than all other tables
        arrays = np.load(path)
        X = pd.DataFrame(arrays["descriptors"], columns=arrays["descriptor_names"])
        return X, pd.DataFrame(arrays["Y"], columns=arrays["target_names"])
    is_parquet = path.suffix == ".parquet"
    table = pd.read_parquet(path) if is_parquet else pd.read_csv(path, low_memory=False)
    return table[meta["feature_columns"]].copy(), table[meta["target_columns"]].copy()


def made_up(n_rows: int = 120) -> Table:
    """Return a small table of every kind of column and task, with gaps."""
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(n_rows, 4)), columns=list("abcd"))
    X["kind"] = rng.choice(["red", "green", MISSING], n_rows)
    score = X["a"] + (X["kind"] == "red")
    Y = pd.DataFrame(
        {
            "two": (score > 0).astype(float),
            "three": np.digitize(X["b"] + score, [0.0, 1.0]).astype(float),
            "amount": 10.0 * score - X["c"],
        }
    )
    X.loc[::7, "d"] = np.nan
    Y.loc[::5, "two"] = np.nan
    kinds = ["classification", "classification", "regression"]
    return Table(X, Y, kinds, ["kind"])


def preprocessing(table: Table) -> ColumnTransformer:
    """Return categories as columns of 0 and 1; numbers scaled, with the median for gaps."""
    numbers = [column for column in table.X.columns if column not in table.categorical]
    fill = SimpleImputer(strategy="median", keep_empty_features=True)
    cut = FunctionTransformer(np.clip, kw_args={"a_min": -FARTHEST, "a_max": FARTHEST})
    one_hot = OneHotEncoder(
        handle_unknown="infrequent_if_exist", min_frequency=10, sparse_output=False
    )
    return ColumnTransformer(
        [
            ("numbers", make_pipeline(fill, StandardScaler(), cut), numbers),
            ("categories", one_hot, table.categorical),
        ]
    )
