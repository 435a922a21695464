"""Adapters as `adapters` writes and reads them: `python -m parity.adapterhub_files write|read|compare FOLDER ...`,
in the oracles' environment.

write FOLDER: a folder of each case on the small BERT, its values drawn by their names, and the heads; logits.npz holds
    what the library answers with each head once it has read the folder again; reserved.json, names that no adapter can
    have. A part of it is in tests/golden.
read FOLDER: loads every folder that stands there (parity/adapterhub_ours.py); exit 1 where its answers are not those
    beside it, within 1e-5, or where the library finds tensors that it cannot place.
compare STORED LIVE: exit 1 where two folders that `write` made differ.

A head is "two" (the library's default: two layers on [CLS]), "pooled" (one layer on the pooler), "tagging" or "none"
(the encoder's last states, of which a part is kept).
"""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import adapters
import numpy as np
import torch
from adapters.composition import Fuse, Stack
from safetensors.numpy import load_file
from safetensors.torch import save_file
from transformers import BertConfig, BertForSequenceClassification, BertForTokenClassification

from parity import peers, recipe
from parity.oracle import array, inputs
from parity.torch_bert import bert

BOUND = 1e-5
KEPT = 4
"""Of each token's states, so many are kept."""
BATCHES = 2
AROUND = ("norm_before.weight", ".scaling")
"""Ends of names whose values lie around 1; those of (IA)^3 do too."""

NO_LORA = dict(selfattn_lora=False, intermediate_lora=True)
Configs = dict[str, adapters.AdapterConfig]
SINGLE: dict[str, Callable[[], adapters.AdapterConfig]] = {
    "seq_bn": lambda: adapters.SeqBnConfig(reduction_factor=16),
    "seq_bn_inv": lambda: adapters.SeqBnInvConfig(reduction_factor=16, non_linearity="gelu", leave_out=[1]),
    "double_seq_bn": lambda: adapters.DoubleSeqBnConfig(reduction_factor={"1": 12.5, "default": 32}),
    "houlsby-norm": lambda: adapters.DoubleSeqBnConfig(
        reduction_factor=16, ln_before=True, output_adapter=False, non_linearity="leakyrelu", residual_before_ln=False
    ),
    "scaled-serial": lambda: adapters.SeqBnConfig(reduction_factor=16, scaling=0.7, non_linearity="gelu_python"),
    "adapter-plus": lambda: adapters.AdapterPlusConfig(reduction_factor=16, stochastic_depth=0.0),
    "lin": lambda: adapters.BnConfig(
        dropout=0.1,
        mh_adapter=False,
        output_adapter=True,
        reduction_factor=16,
        non_linearity="relu",
        original_ln_before=True,
        original_ln_after=False,
        residual_before_ln=False,
        ln_before=True,
    ),
    "par_bn": lambda: adapters.ParBnConfig(reduction_factor=16, mh_adapter=True),
    "scaled_par_bn": lambda: adapters.ParBnConfig(reduction_factor=16, scaling="learned"),
    "channel_par_bn": lambda: adapters.ParBnConfig(reduction_factor=16, scaling="channel"),
    "lora": lambda: adapters.LoRAConfig(r=2, alpha=5, attn_matrices=["q", "k"], dropout=0.1),
    "lora-feed-forward": lambda: adapters.LoRAConfig(r=2, alpha=4, output_lora=True, leave_out=[0], **NO_LORA),
    "ia3": lambda: adapters.IA3Config(),
    "ia3-other": lambda: adapters.IA3Config(attn_matrices=["q"], output_lora=True, intermediate_lora=False),
    "prefix": lambda: adapters.PrefixTuningConfig(prefix_length=3, bottleneck_size=4),
    "prefix-flat": lambda: adapters.PrefixTuningConfig(prefix_length=3, flat=True),
    "prefix-layer": lambda: adapters.PrefixTuningConfig(prefix_length=2, bottleneck_size=4, leave_out=[0]),
    "prompt": lambda: adapters.PromptTuningConfig(prompt_length=3),
    "mam": lambda: adapters.MAMConfig(
        adapters.PrefixTuningConfig(prefix_length=2, bottleneck_size=4), adapters.ParBnConfig(reduction_factor=16)
    ),
    "unipelt": lambda: adapters.UniPELTConfig(
        adapters.PrefixTuningConfig(prefix_length=2, bottleneck_size=4),
        adapters.SeqBnConfig(reduction_factor=16),
        adapters.LoRAConfig(r=2, alpha=5),
    ),
    "union": lambda: adapters.ConfigUnion(
        adapters.IA3Config(),
        adapters.PromptTuningConfig(prompt_length=2),
        adapters.SeqBnConfig(reduction_factor=32, mh_adapter=True, output_adapter=False),
        adapters.ParBnConfig(reduction_factor=32),
    ),
    "old-bottleneck": lambda: adapters.SeqBnInvConfig(reduction_factor=16, non_linearity="gelu", mh_adapter=True),
    "old-lora": lambda: adapters.LoRAConfig(r=2, alpha=8),
}
SETUPS: dict[str, tuple[type, Callable[[], Configs]]] = {
    "stack": (
        Stack,
        lambda: {
            "lang": adapters.SeqBnInvConfig(reduction_factor=16),
            "task": adapters.DoubleSeqBnConfig(reduction_factor=32),
        },
    ),
    "fusion": (
        Fuse,
        lambda: {
            "b": adapters.SeqBnConfig(reduction_factor=16),
            "a": adapters.SeqBnConfig(reduction_factor=32),
        },
    ),
}
OF_PRESETS = {"adapter-plus": {"stochastic_depth": adapters.AdapterPlusConfig.stochastic_depth}}
"""Options that a folder holds and that need torchvision to be read there; they act in training alone."""
HEADS = ("two", "pooled", "tagging", "none")
LABELS = {"two": ("no", "maybe", "yes"), "pooled": None, "tagging": ("O", "B", "I")}


def model(configs: Configs) -> adapters.BertAdapterModel:
    """The small BERT with adapters and every head, all of them drawn by their names."""
    made = adapters.BertAdapterModel(BertConfig(**peers.CONFIG, attn_implementation="eager"))
    for name, config in configs.items():
        made.add_adapter(name, config=config)
    ids = {head: dict(enumerate(names)) if names else None for head, names in LABELS.items()}
    made.add_classification_head("two", num_labels=3, id2label=ids["two"])
    made.add_classification_head("pooled", num_labels=3, layers=1, use_pooler=True)
    made.add_tagging_head("tagging", num_labels=3, id2label=ids["tagging"])
    return made


def draw(made: torch.nn.Module) -> torch.nn.Module:
    """Gives every parameter its value: the backbone's, or one drawn by its name."""
    known = dict(bert().named_parameters())
    with torch.no_grad():
        for name, tensor in made.named_parameters():
            released = name.removeprefix("bert.")
            ones = name.endswith(AROUND) or (name.endswith("lora_B") and tensor.shape[-1] == 1)
            drawn = torch.from_numpy(recipe.normal(name, tuple(tensor.shape), peers.STD)) + float(ones)
            tensor.copy_(known.get(released, drawn))
    return made.eval()


def answers(made: Any, head: str, kept: int = KEPT) -> Iterator[tuple[int, np.ndarray]]:
    """Of each batch: logits, or states, without the rows of prompts."""
    made.active_head = None if head == "none" else head
    for number, batch in enumerate(peers.batches()[:BATCHES]):
        with torch.no_grad():
            out = made(**inputs(batch))
        found = array(out.last_hidden_state[..., :kept] if head == "none" else out.logits)
        yield number, found[:, -batch["input_ids"].shape[1] :] if found.ndim == 3 else found


def save(made: Any, folder: Path, name: str, with_head: bool = False) -> None:
    """With safetensors; where the library refuses these for tensors it holds twice, as a pickle, then converted."""
    try:
        made.save_adapter(str(folder), name, with_head=with_head, use_safetensors=True)
    except RuntimeError:
        made.save_adapter(str(folder), name, with_head=with_head)
        pickle = folder / "pytorch_adapter.bin"
        whole = {key: leaf.clone() for key, leaf in torch.load(pickle, weights_only=True).items()}
        save_file(whole, folder / "adapter.safetensors")
        pickle.unlink()


def rewrite(file: Path, change: Callable[[Any], Any]) -> None:
    content = change(json.loads(file.read_text()))
    file.write_text(json.dumps(content, indent=2, sort_keys=True))


def make_old(folder: Path, case: str) -> None:
    """Turns a folder into one of the library's past."""
    if case == "old-lora":
        rewrite(folder / "adapter_config.json", lambda own: own | {"version": "adapters.1.0.1"})
        return

    def past(own: dict) -> dict:
        inner = {key: value for key, value in own["config"].items() if not key.startswith(("phm", "inv_"))}
        inner |= {"attention_type": "sent-lvl-dynamic", "new_attention_norm": False}
        inner |= {"invertible_adapter": {"block_type": "nice", "non_linearity": "relu", "reduction_factor": 2}}
        return {key: value for key, value in own.items() if key != "version"} | {"config": inner, "type": "text_lang"}

    rewrite(folder / "adapter_config.json", past)
    renamed = {}
    for name, leaf in load_file(folder / "adapter.safetensors").items():
        name = name.replace("attention.output.adapters.", "attention.output.attention_text_lang_adapters.")
        name = name.replace(".output.adapters.", ".output.layer_text_lang_adapters.")
        renamed[name.replace("invertible_adapters.", "invertible_lang_adapters.")] = torch.from_numpy(leaf)
    save_file(renamed, folder / "adapter.safetensors")


def again(folder: Path) -> Any:
    """The model with the adapters of a folder, as the library reads them; all tensors found their places."""
    made = draw(model({}))
    if (folder / "adapter_setup.json").exists():
        made.load_adapter_setup(str(folder), set_active=True, use_safetensors=True)
    else:
        told: dict[str, list[str]] = {}
        made.load_adapter(str(folder), set_active=True, use_safetensors=True, loading_info=told)
        if told["unexpected_keys"]:
            raise ValueError(f"{folder}: unexpected {told['unexpected_keys'][:3]}")
    return made.eval()


def write(folder: Path) -> int:
    kept = {}
    folder.mkdir(parents=True, exist_ok=True)
    for case in (*SINGLE, *SETUPS):
        place = folder / case
        if case in SINGLE:
            made = draw(model({case: SINGLE[case]()}))
            save(made, place, case)
            if case.startswith("old-"):
                make_old(place, case)
        else:
            kind, configs = SETUPS[case]
            made, names = model(configs()), list(configs())
            if kind is Fuse:
                made.add_adapter_fusion(Fuse(*names))
            draw(made).save_adapter_setup(str(place), kind(*names), head_setup="two", use_safetensors=True)
        read_back = again(place)
        for head in HEADS:
            own = answers(read_back, head)
            kept |= {f"{case}/{head}/{number}": found for number, found in own}
        for option, value in OF_PRESETS.get(case, {}).items():
            rewrite(
                place / "adapter_config.json",
                lambda own, option=option, value=value: own | {"config": own["config"] | {option: value}},
            )
        print(f"{case}: written by adapters {adapters.__version__}")
    (folder / "heads").mkdir(exist_ok=True)
    for head in HEADS[:-1]:
        made.save_head(str(folder / "heads" / head), head, use_safetensors=True)
    kept |= dict(static(folder))
    reserved = [name for name in dir(torch.nn.ModuleDict()) if not name.startswith("_")]
    (folder / "reserved.json").write_text(json.dumps(reserved, indent=2))
    np.savez_compressed(folder / "logits.npz", **{name: np.asarray(own, np.float32) for name, own in kept.items()})
    return 0


def static(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Models of transformers with one head, which the library writes in a way of its own."""
    for kind in (BertForSequenceClassification, BertForTokenClassification):
        labels = {0: "no", 1: "maybe", 2: "yes"}
        config = BertConfig(**peers.CONFIG, id2label=labels, label2id={name: n for n, name in labels.items()})
        made = kind(config)
        adapters.init(made)
        made.add_adapter("a", config=adapters.SeqBnConfig(reduction_factor=32))
        draw(made).set_active_adapters("a")
        made.save_adapter(str(folder / kind.__name__), "a", use_safetensors=True)
        for number, batch in enumerate(peers.batches()[:BATCHES]):
            with torch.no_grad():
                yield f"{kind.__name__}/own/{number}", array(made(**inputs(batch)).logits)


def read(folder: Path) -> int:
    worst = {}
    for place in sorted(path for path in folder.iterdir() if path.is_dir()):
        expected = dict(np.load(place / "logits.npz"))
        made = again(place)
        heads = [name for name in made.heads if name not in LABELS]
        found = answers(made, heads[0] if heads else "none", kept=10**6)
        gaps = [abs(own - expected[str(number)]).max() for number, own in found if str(number) in expected]
        worst[place.name] = float(max(gaps))
    wrong = {name: gap for name, gap in worst.items() if not gap <= BOUND}
    print(f"{folder}: {len(worst)} folders in adapters {adapters.__version__} within {max(worst.values()):.1e}")
    for name, gap in wrong.items():
        print(f"{name}: differs by {gap:.1e}")
    return int(bool(wrong) or not worst)


def compare(stored: Path, live: Path) -> int:
    listed = [sorted(path.relative_to(top) for path in top.rglob("*") if path.is_file()) for top in (stored, live)]
    wrong = [str(path) for path in set(listed[0]) ^ set(listed[1])]
    for path in set(listed[0]) & set(listed[1]):
        if path.suffix == ".json":
            same = json.loads((stored / path).read_text()) == json.loads((live / path).read_text())
        else:
            load = np.load if path.suffix == ".npz" else load_file
            old, new = (dict(load(top / path)) for top in (stored, live))
            same = old.keys() == new.keys() and all(np.allclose(old[key], new[key], 0, BOUND) for key in old)
        wrong += [] if same else [str(path)]
    print(
        f"adapterhub: {len(listed[0])} stored files compared, {len(wrong)} differ: {', '.join(sorted(wrong)) or 'none'}"
    )
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit({"write": write, "read": read, "compare": compare}[sys.argv[1]](*map(Path, sys.argv[2:])))
