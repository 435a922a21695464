"""What the oracles of other libraries' methods (peers_*.py) and their tests share, without torch.

A small random BERT (weights: recipe.backbone_tensor), adapters and a head drawn by their paths here, and which method
of ours is to meet each case. In `peers.npz`, CASE/0/logits, CASE/1/logits, ... are the logits of each batch, CASE/loss
and CASE/gradient/PATH the cross entropy of the first batch and its gradient by every trained leaf, in our layout, and
CASE/step/PATH that leaf after one AdamW step fed the recipe's gradients.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

import adapters_jax as aj
from parity import recipe

CONFIG: dict[str, Any] = dict(
    vocab_size=97,
    hidden_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=128,
    hidden_act="gelu",
    max_position_embeddings=128,
    type_vocab_size=2,
    layer_norm_eps=1e-12,
)
STD = 0.1
AROUND = {"scale": 1.0, "magnitude": 0.16}
"""Last part of a path -> the mean of its values, where it is not 0; 0.16: the norm of 64 weights of N(0, 0.02^2)."""


def batches(full_rows: bool = False) -> list[dict[str, np.ndarray]]:
    """Batches of sentence pairs of unlike lengths; `full_rows`: tokens in place of the padding."""
    found = recipe.batches(CONFIG["vocab_size"])
    if full_rows:
        for batch in found:
            batch["input_ids"] = np.maximum(batch["input_ids"], 1)
            batch["mask"] = np.ones_like(batch["mask"])
    return found


def value(path: str, shape: tuple[int, ...]) -> np.ndarray:
    """The values of a leaf under `adapters/` or `head/`, by its layer-numbered path."""
    return np.asarray(recipe.normal(path, shape, STD) + AROUND.get(path.split("/")[-1], 0.0), np.float32)


FULL_ROWS = ("adapters-unipelt",)
"""Cases that are compared on rows without padding, since the peer counts it in."""

# Our methods are looked up when a case is built, so that torch's environment needs no JAX.
METHODS: dict[str, Callable[[], Any]] = {
    "adapters-lora": lambda: aj.LoRA(slots=("query", "value", "ffn_in", "ffn_out"), rank=8, alpha=16.0),
    "adapters-ia3": lambda: aj.IA3(),
    "peft-lora": lambda: aj.LoRA(
        slots=("query", "key", "value", "attn_out", "ffn_in", "ffn_out"),
        ranks=(8, 8, 8, 8, 2, 2),
        alphas=(16.0, 16.0, 16.0, 16.0, 6.0, 6.0),
    ),
    "peft-rslora": lambda: aj.LoRA(rank=8, alpha=4.0, rank_stabilised=True),
    "peft-dora": lambda: aj.LoRA(slots=("query", "value", "ffn_in"), rank=4, alpha=8.0, dora=True),
    "peft-adalora": lambda: aj.AdaLoRA(rank=4, target_rank=2, alpha=8.0, orthogonality=0.0),
    "peft-ia3": lambda: aj.IA3(preset="paper"),
    "adapters-double_seq_bn": lambda: aj.Houlsby(preset="adapterhub", bottleneck=8),
    "adapters-seq_bn": lambda: aj.Pfeiffer(bottleneck=8),
    "adapters-seq_bn_inv": lambda: aj.Pfeiffer(bottleneck=8, invertible=True),
    "adapters-par_bn": lambda: aj.Parallel(bottleneck=8),
    "adapters-scaled_par_bn": lambda: aj.ScaledParallel(bottleneck=8),
    "adapters-mam": lambda: aj.MAM(length=3, prefix_bottleneck=8, bottleneck=8),
    "adapters-unipelt": lambda: aj.UniPELT(length=3, prefix_bottleneck=8, reduction_factor=8.0, rank=4),
    "adapters-fusion": lambda: aj.Fusion((aj.Pfeiffer(bottleneck=8), aj.Pfeiffer(bottleneck=8)), ("a", "b")),
    "peft-ln_tuning": lambda: aj.LayerNormTuning(),
    "adapters-prefix": lambda: aj.Prefix(length=5, bottleneck=8),
    "adapters-prefix-flat": lambda: aj.Prefix(length=5, bottleneck=0),
    "adapters-prompt": lambda: aj.Prompt(length=5, insertion="encoder", read="first"),
    "peft-prefix": lambda: aj.Prefix(length=5, bottleneck=8, position_offset=True),
    "peft-prefix-flat": lambda: aj.PTuningV2(length=5),
    "peft-prompt": lambda: aj.Prompt(length=5, read="first"),
    "peft-p_tuning-lstm": lambda: aj.PTuning(length=5, hidden=12, read="first"),
    "peft-p_tuning-mlp": lambda: aj.PTuning(length=5, encoder="mlp", hidden=12, read="first"),
}
"""Case -> the method of ours that is to give the same."""
