"""Writes adapters of ours for AdapterHub, and what they answer: `python -m parity.adapterhub_ours FOLDER`."""

import dataclasses
import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

import adapters_jax as aj
from adapters_jax import trees
from adapters_jax.bert.backbone import Backbone
from adapters_jax.bert.heads import Head, NoHead, TokenClassification
from adapters_jax.interop import save_adapterhub
from adapters_jax.types import Tree
from parity import ours, peers

CONFIG = aj.BertConfig(**peers.CONFIG)
LABELS = ("no", "maybe", "yes")
ALL = ("query", "key", "value", "ffn_in", "ffn_out")
SMALL = dict(bottleneck=4)

METHODS: dict[str, Callable[[], aj.Method]] = {
    "houlsby": lambda: aj.Houlsby(preset="adapterhub", bottleneck=5, inner_norm=True, layers=(1,)),
    "houlsby-sizes": lambda: aj.Houlsby(layer_norms=False, sizes=(3, 48), slots=("attn_merge",), activation="silu"),
    "pfeiffer": lambda: aj.Pfeiffer(bottleneck=21),
    "pfeiffer-invertible": lambda: aj.Pfeiffer(bottleneck=4, invertible=True, invertible_factor=4.0),
    "lin": lambda: aj.Lin(bottleneck=4, slots=("attn_merge", "ffn_merge")),
    "lin-plain": lambda: aj.Lin(bottleneck=4, inner_norm=False, activation="leaky_relu"),
    "parallel": lambda: aj.Parallel(bottleneck=4, scale=2.5),
    "scaled_parallel": lambda: aj.ScaledParallel(bottleneck=4, inner_norm=True),
    "channels": lambda: aj.ScaledParallel(bottleneck=4, channels=True, slots=("attn_merge",)),
    "lora": lambda: aj.LoRA(slots=ALL, rank=3, alpha=1.0),
    "lora-stabilised": lambda: aj.LoRA(rank=3, alpha=4.0, rank_stabilised=True, layers=(0,)),
    "qlora": lambda: aj.QLoRA(slots=("query", "ffn_in"), rank=2),
    "ia3": lambda: aj.IA3(),
    "ia3-layer": lambda: aj.IA3(slots=("query", "ffn_out"), layers=(1,)),
    "prefix": lambda: aj.Prefix(length=3, bottleneck=4),
    "prefix-layer": lambda: aj.Prefix(length=3, bottleneck=4, layers=(1,)),
    "prefix-flat": lambda: aj.Prefix(length=3, bottleneck=0, layers=(0,)),
    "prompt": lambda: aj.Prompt(length=3, insertion="encoder"),
    "mam": lambda: aj.MAM(length=3, prefix_bottleneck=4, bottleneck=4),
    "unipelt": lambda: aj.UniPELT(length=3, prefix_bottleneck=4, reduction_factor=16.0, rank=2, gate_padding=True),
    "unipelt-flat": lambda: aj.UniPELT(length=3, prefix_bottleneck=0, reduction_factor=16.0, rank=2, gate_padding=True),
    "compose": lambda: aj.compose(
        aj.LoRA(rank=2, layers=(1,)),
        aj.Parallel(bottleneck=4, slots=("ffn_merge",)),
        aj.Pfeiffer(bottleneck=4, slots=("attn_merge",)),
        aj.Prompt(length=2, insertion="encoder"),
        aj.Prefix(length=2, bottleneck=0),
    ),
    "fusion": lambda: aj.Fusion((aj.Pfeiffer(**SMALL), aj.Frozen(aj.Pfeiffer(bottleneck=3))), ("nli", "a-b")),
    "fusion-houlsby": lambda: aj.Fusion(
        tuple(aj.Houlsby(preset="adapterhub", bottleneck=n) for n in (2, 4, 3)), ("x", "y", "z"), regulariser=0.0
    ),
    "stack": lambda: aj.Stack(
        (aj.Frozen(aj.Pfeiffer(bottleneck=4, invertible=True)), aj.Houlsby(preset="adapterhub", bottleneck=2), aj.Lin())
    ),
    "stack-apart": lambda: aj.Stack((aj.Prompt(length=2, insertion="encoder"), aj.LoRA(rank=2), aj.Parallel(**SMALL))),
    "dropped": lambda: aj.AdapterDrop(aj.Pfeiffer(bottleneck=4), 1),
    "dropped-lora": lambda: aj.AdapterDrop(aj.LoRA(rank=2), 1, robust=True),
}
HEADS: dict[str, Callable[[], Head]] = {
    "own": lambda: aj.Classification(labels=LABELS, own_pooler=True, dropout=0.2),
    "pooled": lambda: aj.Classification(labels=LABELS),
    "regression": lambda: aj.Regression(mean=2.5, deviation=1.5),
    "tokens": lambda: TokenClassification(labels=LABELS, dropout=0.0),
    "bare": NoHead,
}
TEXTS = ("own", "pooled", "regression")
"""Heads on the first row."""


@functools.cache
def backbone() -> Backbone:
    """The small BERT of the oracles."""
    return Backbone(CONFIG, ours.backbone(CONFIG), "", "small")


def reading(method: aj.Method, read: str) -> aj.Method:
    """The method with every prompt of it reading that row."""
    if isinstance(method, aj.Prompt):
        return dataclasses.replace(method, read=read)
    if isinstance(method, aj.Compose | aj.Stack):
        return dataclasses.replace(method, parts=tuple(reading(part, read) for part in method.parts))
    return method


def build(method: str, head: str) -> tuple[aj.Model, Tree]:
    """A model with every leaf drawn by its path."""
    own = reading(METHODS[method](), "first" if head in TEXTS else "cls")
    model = aj.Model(CONFIG, own, HEADS[head]())
    like = {part: tree for part, tree in model.abstract(backbone().params).items() if part != "backbone"}
    flat = {}
    for path, leaf in trees.flatten(like).items():
        shape = leaf.shape[1:] if trees.is_stacked(path) else leaf.shape
        flat |= {name: peers.value(name, shape) for name in trees.layer_paths(path, leaf)}
    return model, {"backbone": backbone().params} | trees.from_layers(flat, like)


def answers(model: aj.Model, params: Tree, batches: Sequence[int] = (1,)) -> dict[str, np.ndarray]:
    """Of the batches that are compared: logits, on the labels' scale, or the states of a bare encoder."""
    found, apply = {}, jax.jit(model.apply)
    with jax.default_matmul_precision("highest"):
        for number in batches:
            output = apply(params, peers.batches()[number])
            logits = np.asarray(output.hidden if isinstance(model.head, NoHead) else output.logits)
            is_score = isinstance(model.head, aj.Regression)
            found[str(number)] = model.head.predictions(logits)[:, None] if is_score else logits
    return found


def cases() -> Mapping[str, tuple[str, str]]:
    """Name of a folder -> method and head; the heads that only differ in themselves with one method alone."""
    each = [(method, head) for method in METHODS for head in ("own", "tokens", "bare")]
    return {f"{method}-{head}": (method, head) for method, head in [*each, ("lora", "pooled"), ("lora", "regression")]}


def main() -> None:
    top = Path(sys.argv[1])
    for name, (method, head) in cases().items():
        model, params = build(method, head)
        save_adapterhub(top / name, model, params, backbone(), name="task")
        np.savez(top / name / "logits.npz", **answers(model, params))
    print(f"{top}: {len(cases())} folders written for adapters")


if __name__ == "__main__":
    main()
