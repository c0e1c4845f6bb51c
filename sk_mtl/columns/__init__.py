"""X: the user's table, read, encoded as numbers, and handed on as tensors.

``read_table`` validates X, of whatever container, and takes it apart into numbers and categories
(``RawTable``). ``Columns`` learns from a training table how to scale, fill and encode them, and
makes of any such table one compact table of floats, whose columns its ``Layout`` counts::

    raw = read_table(estimator, X, reset=True, dtypes=admissible_dtypes("auto"))
    columns = Columns(scaling="robust").fit(raw, weight)
    encoded = columns.transform(raw, np.float32)  # (n, columns.layout.width), an array or CSR
"""

from sk_mtl.columns._columns import Columns, Layout
from sk_mtl.columns._numbers import BOUND
from sk_mtl.columns._raw import Coded, RawTable
from sk_mtl.columns._read import read_table
from sk_mtl.columns._tensors import DTYPES, admissible_dtypes, to_tensor, torch_dtype

__all__ = [
    "BOUND",
    "Coded",
    "Columns",
    "DTYPES",
    "Layout",
    "RawTable",
    "admissible_dtypes",
    "read_table",
    "to_tensor",
    "torch_dtype",
]
