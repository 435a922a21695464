"""Scores over every row of a set, exactly once."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from adapters_jax import metrics
from adapters_jax.data.batches import eval_batches
from adapters_jax.data.tokenize import Scored
from adapters_jax.errors import TrainingError
from adapters_jax.sharding import Layout
from adapters_jax.training.step import eval_step
from adapters_jax.types import Tree

PAD = -1.0
"""What the answers of short batches are filled up with, of heads that answer for each token; no class has it."""
INPUTS = ("input_ids", "token_type_ids", "mask")
"""What logits depend on; passing no more, sets with labels and without share what is compiled."""


def evaluate(
    model: Any,
    params: Tree,
    encoded: Any,
    metric_names: Sequence[str],
    batch_size: int = 64,
    layout: Layout | None = None,
) -> tuple[dict[str, float], np.ndarray]:
    """(metrics as fractions, logits [n c] float32 in the order of the rows).

    Args:
        model: its head turns logits into predictions.
        params: the whole tree.
        encoded: encoded rows; with no labels there are no metrics.
        metric_names: of `adapters_jax.metrics`.
        batch_size: changes speed and memory only.
        layout: of the parameters; None: they are on one device.

    Raises:
        TrainingError: a row's logits are not finite.
    """
    forward = eval_step(model, layout)
    pending = []
    for ids, batch in eval_batches(encoded, batch_size, layout):
        pending.append((ids, forward(params, {name: batch[name] for name in (*INPUTS, *model.head.inputs)})))
    rows = np.concatenate([ids for ids, _ in pending])
    found = _stacked([np.asarray(logits) for _, logits in pending])
    logits = np.empty((len(encoded), *found.shape[1:]), np.float32)
    real = rows >= 0
    logits[rows[real]] = found[real]
    bad = np.flatnonzero(~np.isfinite(logits).all(axis=-1))
    if bad.size:
        raise TrainingError(
            f"evaluation: expected finite logits, got {logits[bad[0]].tolist()} for row {bad[0]} "
            f"and {bad.size - 1} more; the weights are damaged, or the learning rate was too high"
        )
    if isinstance(encoded, Scored):
        return (encoded.score(metric_names, logits) if metric_names else {}), logits
    if encoded.labels is None and model.head.learns_from_labels:
        return {}, logits
    return metrics.compute(metric_names, model.head.predictions(logits), encoded.labels), logits


def _stacked(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Answers of batches padded to several lengths, [n c]: all as long as the longest."""
    width = max(part.shape[1] for part in parts)
    pad = lambda part: np.pad(part, ((0, 0), (0, width - part.shape[1])), constant_values=PAD)
    return np.concatenate([pad(part) for part in parts])
