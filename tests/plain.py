"""One plain network: what tests start from that are not about members, columns or embeddings."""

from __future__ import annotations

PLAIN = {
    "scaling": None,
    "embedding": None,
    "input_scale_rate": 0.0,
    "linear_path": False,
    "hidden_layer_sizes": (100,),
    "dropout": 0.0,
    "n_members": 1,
    "learning_rate_init": 0.001,
    "ema_decay": 0.0,
    "max_iter": 200,
    "n_iter_no_change": 10,
}


def plain(cls, *args, **parameters):
    """Return an estimator with the parameters of a plain network, but for those given."""
    return cls(*args, **{**PLAIN, **parameters})
