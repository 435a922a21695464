"""What both sides of the exchange with peft share, without torch and without JAX."""

from pathlib import Path

import numpy as np

from parity import peers

EVERY = 8
"""Of a bare encoder's hidden states, every eighth value is kept."""

NO_TYPES = ("prefix", "prompt", "p_tuning")
"""Methods (by the first word of a case) with which peft drops token types, where there is no head."""

STORED = (
    *("lora-texts", "lora-tokens", "lora-bare", "lora-pattern-tokens", "lora-rs-bare", "lora-dora-texts"),
    *("lora-regression", "lora-pooler", "lora-no_task", "lora-no_task-tokens", "lora-all_linear", "lora-linear"),
    "lora-dense",
    *("adalora-texts", "adalora-bare", "ia3-texts", "ia3-results-tokens", "ia3-paper-bare"),
    *("prefix-tokens", "prefix-network-texts", "prefix-bare", "prompt-texts", "prompt-tokens", "prompt-bare"),
    *("prompt-pooler", "p_tuning-lstm-texts", "p_tuning-mlp-tokens"),
    *("layernorm-texts", "layernorm-layer-tokens", "layernorm-bare"),
)
"""The cases of which tests/golden/peft keeps a copy; `make parity` makes all of them."""


def batch(case: str, bare: bool) -> dict[str, np.ndarray]:
    """The rows, of unlike lengths, whose outputs stand beside an adapter."""
    drop = bare and case.split("-")[0] in NO_TYPES
    return {name: value for name, value in peers.batches()[1].items() if not (drop and name == "token_type_ids")}


def save(folder: Path, outputs: np.ndarray, bare: bool) -> None:
    """Writes what stands beside an adapter: logits, or a part of a bare encoder's hidden states."""
    np.save(folder / "outputs.npy", outputs[..., ::EVERY] if bare else outputs)


def gap(folder: Path, outputs: np.ndarray, bare: bool) -> float:
    """The largest difference from what stands there."""
    return float(abs((outputs[..., ::EVERY] if bare else outputs) - np.load(folder / "outputs.npy")).max())
