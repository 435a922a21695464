"""Writes adapters of ours for peft, and their outputs: `python -m parity.peft_ours FOLDER`."""

import dataclasses
import sys
from pathlib import Path

import jax
import numpy as np

import adapters_jax as aj
from adapters_jax import trees
from adapters_jax.bert.backbone import Backbone
from adapters_jax.bert.heads import Head
from adapters_jax.interop import save_peft
from adapters_jax.interop.leaves import assembled
from adapters_jax.methods import Method
from adapters_jax.types import Tree
from parity import ours, peers, peft_cases, recipe

CONFIG = aj.BertConfig(**peers.CONFIG)
SIX = ("query", "key", "value", "attn_out", "ffn_in", "ffn_out")
ADALORA = aj.AdaLoRA(rank=4, target_rank=2, layers=(1,), slots=("query", "attn_out", "ffn_in", "ffn_out"))

METHODS: dict[str, Method] = {
    "lora": aj.LoRA(rank=2, alpha=6.0),
    "lora-pattern": aj.LoRA(SIX, rank=4, ranks=(4, 4, 4, 2, 3, 1), alphas=(8.0, 8.0, 2.5, 6.0, 6.0, 1.0)),
    "lora-rs": aj.LoRA(("attn_out", "key"), rank=4, alpha=4.0, rank_stabilised=True, layers=(1,)),
    "lora-ends": aj.LoRA(("ffn_out",), rank=2, alpha=6.0),
    "lora-dora": aj.LoRA(("query", "value", "ffn_in"), rank=2, alpha=4.0, dora=True),
    "qlora": aj.QLoRA(rank=2),
    "adalora": ADALORA,
    "ia3": aj.IA3(),
    "ia3-paper": aj.IA3(preset="paper"),
    "ia3-layer": aj.IA3(slots=("query", "ffn_out"), layers=(0,)),
    "prefix": aj.Prefix(length=5, bottleneck=0, position_offset=True),
    "prefix-network": aj.Prefix(length=5, bottleneck=8, position_offset=True),
    "prefix-v2": aj.PTuningV2(length=5),
    "prompt": aj.Prompt(length=5),
    "p_tuning-lstm": aj.PTuning(length=5, hidden=12),
    "p_tuning-mlp": aj.PTuning(length=5, encoder="mlp", hidden=12),
    "layernorm": aj.LayerNormTuning(),
    "layernorm-layer": aj.LayerNormTuning(layers=(1,)),
}
HEADS: dict[str, Head] = {
    "texts": aj.Classification(num_labels=recipe.LABELS),
    "tokens": aj.TokenClassification(num_labels=recipe.LABELS),
    "bare": aj.NoHead(),
}
CASES: dict[str, tuple[Method, Head]] = {
    f"{name}-{about}": (method, head) for name, method in METHODS.items() for about, head in HEADS.items()
} | {
    "lora-regression": (METHODS["lora"], aj.Regression(mean=2.5, deviation=1.5)),
    "lora-pooler": (METHODS["lora"], HEADS["texts"]),
    "prompt-pooler": (METHODS["prompt"], HEADS["texts"]),
    "lora-own_pooler": (METHODS["lora"], aj.Classification(num_labels=recipe.LABELS, own_pooler=True)),
    "dropped": (aj.AdapterDrop(METHODS["lora"], drop=1), HEADS["texts"]),
}


def backbone(pooler: bool = True) -> Backbone:
    """The small BERT of the oracles."""
    params = ours.backbone(CONFIG)
    if not pooler:
        del params["pooler"]
    return Backbone(CONFIG, params, "", "small")


def case(name: str) -> tuple[aj.Model, Tree, Backbone]:
    """A model whose every leaf is drawn; of AdaLoRA's slots one is pruned wholly, another not at all."""
    method, head = CASES[name]
    if isinstance(head, aj.Classification) and hasattr(method, "read"):
        method = dataclasses.replace(method, read="first")
    small = backbone(pooler=not name.endswith("-pooler"))
    model = aj.Model(CONFIG, method, head)

    def drawn(path: str, shape: tuple[int, ...]) -> np.ndarray:
        own = peers.value(path, shape)
        left = {"query": 0, "attn_out": 4}.get(path.split("/")[-2], 2)
        return own * (np.arange(4) >= 4 - left) if path.endswith("/e") else own

    template = model.abstract(small.params)
    labels = trees.flatten(model.labels(template))
    flat = {}
    for path, leaf in trees.flatten(template).items():
        if not path.startswith("backbone/") or labels[path] != "frozen":
            numbered = trees.layer_paths(path, leaf)
            shape = leaf.shape[1:] if trees.is_stacked(path) else leaf.shape
            flat |= {each: drawn(each, shape) for each in numbered}
    return model, assembled(model, flat, small, Path(name)), small


def outputs(name: str, model: aj.Model, params: Tree) -> np.ndarray:
    """What stands beside an adapter, as our model gives it."""
    bare = isinstance(model.head, aj.NoHead)
    with jax.default_matmul_precision("highest"):
        answer = jax.jit(model.apply)(params, peft_cases.batch(name, bare))
    if isinstance(model.head, aj.Regression):
        return np.asarray(answer.logits) * model.head.deviation + model.head.mean
    return np.asarray(answer.hidden if bare else answer.logits)


def main() -> None:
    folder = Path(sys.argv[1])
    for name in CASES:
        model, params, small = case(name)
        save_peft(folder / name, model, params, small)
        peft_cases.save(folder / name, outputs(name, model, params), isinstance(model.head, aj.NoHead))
    print(f"{folder}: {len(CASES)} adapters written for peft")


if __name__ == "__main__":
    main()
