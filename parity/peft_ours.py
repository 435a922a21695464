"""Writes a trained AdaLoRA of ours for peft, and its logits: `python -m parity.peft_ours FOLDER`."""

import sys
from pathlib import Path

import jax
import numpy as np

import adapters_jax as aj
from adapters_jax import trees
from adapters_jax.bert.backbone import Backbone
from adapters_jax.interop import save_peft
from parity import ours, peers, recipe

CONFIG = aj.BertConfig(**peers.CONFIG)
METHOD = aj.AdaLoRA(rank=4, target_rank=2, layers=(1,), slots=("query", "attn_out", "ffn_in", "ffn_out"))


def backbone() -> Backbone:
    """The small BERT of the oracles."""
    return Backbone(CONFIG, ours.backbone(CONFIG), "", "small")


def pruned() -> tuple[aj.Model, dict]:
    """A model with every leaf drawn, and half of its triplets pruned: of one slot all, of another none."""
    model = aj.Model(CONFIG, METHOD, aj.Classification(num_labels=recipe.LABELS))
    params = model.init(jax.random.key(0), backbone().params)

    def drawn(path: str, leaf: np.ndarray) -> np.ndarray:
        own = peers.value(path, leaf.shape)
        left = {"query": 0, "attn_out": 4}.get(path.split("/")[-2], 2)
        return own * (np.arange(leaf.shape[-1]) >= 4 - left) if path.endswith("/e") else own

    own = {part: params[part] for part in ("adapters", "head")}
    return model, params | trees.map_paths(drawn, own)


def main() -> None:
    folder = Path(sys.argv[1])
    model, params = pruned()
    save_peft(folder, model, params, backbone())
    with jax.default_matmul_precision("highest"):
        found = {str(i): np.asarray(model.apply(params, batch).logits) for i, batch in enumerate(peers.batches())}
    np.savez(folder / "logits.npz", **found)
    print(f"{folder}: written for peft")


if __name__ == "__main__":
    main()
