"""Writes models folded into plain BERT, and their answers: `python -m parity.folded_ours FOLDER`."""

import sys
from pathlib import Path

import jax
import numpy as np

import adapters_jax as aj
from adapters_jax import trees
from adapters_jax.bert.backbone import Backbone
from adapters_jax.bert.heads import Head
from adapters_jax.interop.hf import save_hf
from parity import ours, peers, recipe

CONFIG = aj.BertConfig(**peers.CONFIG)
CLASSES = aj.Classification(labels=("no", "yes", "maybe"))
TAGS = aj.TokenClassification(labels=("O", "B-PER", "I-PER", "B-ORG", "I-ORG"))
DENSE = ("query", "key", "value", "attn_out", "ffn_in", "ffn_out")

CASES: dict[str, tuple[aj.Method, Head]] = {
    "lora": (aj.LoRA(slots=DENSE, rank=4), CLASSES),
    "lora-tags": (aj.LoRA(slots=DENSE, rank=4, rank_stabilised=True, alpha=4.0), TAGS),
    "lora-bare": (aj.LoRA(rank=4, layers=(1,)), aj.NoHead()),
    "dora": (aj.LoRA(slots=DENSE, rank=4, dora=True), CLASSES),
    "adalora": (aj.AdaLoRA(rank=4, target_rank=2), CLASSES),
    "ia3": (aj.IA3(), CLASSES),
    "ia3-paper-regression": (aj.IA3(preset="paper"), aj.Regression(mean=2.5, deviation=1.5)),
    "loras": (aj.compose(aj.LoRA(rank=2), aj.IA3()), TAGS),
    "drop": (aj.AdapterDrop(of=aj.LoRA(rank=4), drop=1), CLASSES),
    "bitfit": (aj.BitFit(), CLASSES),
    "top": (aj.TopN(top=1), CLASSES),
    "full-bare": (aj.Full(), aj.NoHead()),
}


def backbone() -> Backbone:
    """The small BERT of the oracles."""
    return Backbone(CONFIG, ours.backbone(CONFIG), "", "small")


def trained(method: aj.Method, head: Head, small: Backbone) -> tuple[aj.Model, dict]:
    """A model with every trained leaf drawn by its path, those of the backbone around what they were."""
    model = aj.Model(small.config, method, head)
    template = model.abstract(small.params)
    labels, own = trees.flatten(model.labels(template)), trees.to_layers({"backbone": small.params})
    flat = {}
    for path, leaf in trees.flatten(template).items():
        for name in trees.layer_paths(path, leaf):
            shape = leaf.shape[1:] if trees.is_stacked(path) else leaf.shape
            change = 0.0 if labels[path] == "frozen" else recipe.normal(name, shape, 0.02)
            flat[name] = own[name] + change if name in own else peers.value(name, shape)
    return model, trees.from_layers(flat, template)


def answers(model: aj.Model, params: dict, batch: dict) -> np.ndarray:
    """What transformers calls logits, or, of a bare encoder, its last hidden state; a regression on its own scale."""
    output = model.apply(params, batch)
    if isinstance(model.head, aj.NoHead):
        return np.asarray(output.hidden)
    if isinstance(model.head, aj.Regression):
        return np.asarray(model.head.predictions(np.asarray(output.logits)))[:, None]
    return np.asarray(output.logits)


def main() -> None:
    folder, small = Path(sys.argv[1]), backbone()
    for name, (method, head) in CASES.items():
        model, params = trained(method, head, small)
        save_hf(folder / name, model, params, small)
        with jax.default_matmul_precision("highest"):
            np.save(folder / name / "answers.npy", answers(model, params, peers.batches()[0]))
    print(f"{folder}: {len(CASES)} folded models written")


if __name__ == "__main__":
    main()
