"""A trained model on all of a task's evaluation or test sets."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from adapters_jax.data.source import Source
from adapters_jax.data.tokenize import Rows, encode
from adapters_jax.sharding import Layout
from adapters_jax.training.evaluate import evaluate
from adapters_jax.types import Tree


class Scores(NamedTuple):
    """What a model makes of several sets.

    `metrics` are fractions, named `accuracy`, and `accuracy_mismatched` for the set with that suffix; `logits` [n c]
    and `truncated` (texts that were cut) are by suffix.
    """

    metrics: dict[str, float]
    logits: dict[str, np.ndarray]
    truncated: dict[str, int]


def score(
    model: Any,
    params: Tree,
    backbone: Any,
    sets: Mapping[str, Source | Rows],
    metrics: Sequence[str] = (),
    *,
    max_length: int = 128,
    batch_size: int = 64,
    cache_dir: str | os.PathLike | None = None,
    layout: Layout | None = None,
) -> Scores:
    """Every row of every set once.

    Args:
        model, params: as trained.
        backbone: brings the tokenizer.
        sets: by suffix, as in `Splits.evals`; sets without labels give logits alone; `Rows` are encoded already.
        metrics: names of `adapters_jax.metrics`.
        max_length: in tokens.
        batch_size: changes speed and memory only.
        cache_dir: where token ids are kept.
        layout: of the parameters; None: they are on one device.
    """
    found = Scores({}, {}, {})
    for suffix, source in sets.items():
        rows = source if isinstance(source, Rows) else encode(source, backbone.tokenizer, max_length, cache_dir)
        values, found.logits[suffix] = evaluate(model, params, rows, metrics, batch_size, layout)
        found.metrics.update({f"{name}_{suffix}" if suffix else name: value for name, value in values.items()})
        found.truncated[suffix] = rows.truncated
    return found
