"""Folders that AdapterHub's `adapters` wrote give its answers here, under each of its heads."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import adapters_jax as aj
from adapters_jax.bert.heads import NoHead, TokenClassification
from adapters_jax.interop.adapterhub import load_adapterhub
from adapters_jax.testing import assert_same
from parity import peers
from parity.adapterhub_ours import backbone

KEPT = 4  # of each token's states, the oracle keeps so many
HEADS = {
    "two": aj.Classification(labels=("no", "maybe", "yes"), own_pooler=True),
    "pooled": aj.Classification(labels=("LABEL_0", "LABEL_1", "LABEL_2")),
    "tagging": TokenClassification(labels=("O", "B", "I")),
    "none": NoHead(),
}

METHODS = {
    "seq_bn": aj.Pfeiffer(bottleneck=4),
    "seq_bn_inv": aj.Pfeiffer(bottleneck=4, layers=(0,), activation="gelu", invertible=True),
    "double_seq_bn": aj.Houlsby(preset="adapterhub", sizes=(2, 5)),
    "houlsby-norm": aj.Houlsby(
        preset="adapterhub", bottleneck=4, slots=("attn_merge",), inner_norm=True, activation="leaky_relu"
    ),
    "scaled-serial": aj.Pfeiffer(bottleneck=4, activation="gelu"),
    "adapter-plus": aj.Lin(bottleneck=4, inner_norm=False, activation="gelu"),
    "lin": aj.Lin(bottleneck=4),
    "par_bn": aj.Parallel(bottleneck=4, slots=("attn_merge", "ffn_merge")),
    "scaled_par_bn": aj.ScaledParallel(bottleneck=4),
    "channel_par_bn": aj.ScaledParallel(bottleneck=4, channels=True),
    "lora": aj.LoRA(slots=("query", "key"), rank=2, alpha=5.0, dropout=0.1),
    "lora-feed-forward": aj.LoRA(slots=("ffn_in", "ffn_out"), rank=2, alpha=4.0, layers=(1,)),
    "ia3": aj.IA3(),
    "ia3-other": aj.IA3(slots=("query", "ffn_out")),
    "prefix": aj.Prefix(length=3, bottleneck=4),
    "prefix-flat": aj.Prefix(length=3, bottleneck=0),
    "prefix-layer": aj.Prefix(length=2, bottleneck=4, layers=(1,)),
    "prompt": aj.Prompt(length=3, init="uniform", insertion="encoder", read="first"),
    "mam": aj.MAM(length=2, prefix_bottleneck=4, bottleneck=4),
    "unipelt": aj.UniPELT(length=2, prefix_bottleneck=4, reduction_factor=16.0, rank=2, gate_padding=True),
    "union": aj.compose(
        aj.IA3(),
        aj.Prompt(length=2, init="uniform", insertion="encoder", read="first"),
        aj.Pfeiffer(bottleneck=2, slots=("attn_merge",)),
        aj.Parallel(bottleneck=2),
    ),
    "old-bottleneck": aj.Pfeiffer(
        bottleneck=4, slots=("attn_merge", "ffn_merge"), activation="gelu_new", invertible=True
    ),
    "old-lora": aj.LoRA(rank=2, alpha=2.0),
    "stack": aj.Stack((aj.Pfeiffer(bottleneck=4, invertible=True), aj.Houlsby(preset="adapterhub", bottleneck=2))),
    "fusion": aj.Fusion((aj.Pfeiffer(bottleneck=4), aj.Pfeiffer(bottleneck=2)), ("b", "a")),
}
"""Case -> the method of ours that is read, under a head for texts."""


def arranged(golden: Path, case: str, head: str, folder: Path) -> Path:
    """The folder of a case with that head, as the library lays them out."""
    whole, heads = shutil.copytree(golden / "adapterhub" / case, folder / case), golden / "adapterhub" / "heads"
    setup = whole / "adapter_setup.json"
    if setup.exists():
        own = json.loads(setup.read_text())
        shutil.rmtree(whole / own["head_setup"])
        setup.write_text(json.dumps(own | {"head_setup": None if head == "none" else head}))
        if head != "none":
            shutil.copytree(heads / head, whole / head)
    elif head != "none":
        shutil.copytree(heads / head, whole, dirs_exist_ok=True)
    return whole


def gap(model: aj.Model, params: dict, golden: Path, case: str, head: str, batches: tuple[int, ...] = (1,)) -> float:
    """The largest difference from what the library answers."""
    stored = np.load(golden / "adapterhub" / "logits.npz")
    gaps = []
    for number in batches:
        with jax.default_matmul_precision("highest"):
            output = jax.jit(model.apply)(params, peers.batches()[number])
        found = output.hidden[..., :KEPT] if head == "none" else output.logits
        gaps.append(float(np.abs(np.asarray(found) - stored[f"{case}/{head}/{number}"]).max()))
    return max(gaps)


@pytest.mark.parametrize("case", METHODS)
def test_a_golden_folder_under_a_head_for_texts(case: str, golden: Path, tmp_path: Path):
    model, params = load_adapterhub(arranged(golden, case, "two", tmp_path), backbone())
    assert model.method == METHODS[case]
    assert model.head == HEADS["two"]
    assert gap(model, params, golden, case, "two") < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("head", [head for head in HEADS if head != "two"])
@pytest.mark.parametrize("case", METHODS)
def test_a_golden_folder_under_the_other_heads(case: str, head: str, golden: Path, tmp_path: Path):
    model, params = load_adapterhub(arranged(golden, case, head, tmp_path), backbone())
    assert model.head == HEADS[head]
    assert gap(model, params, golden, case, head) < 1e-5


@pytest.mark.parametrize("head", ["pooled", "tagging", "none"])
def test_golden_heads(head: str, golden: Path, tmp_path: Path):
    model, params = load_adapterhub(arranged(golden, "union", head, tmp_path), backbone())
    assert model.head == HEADS[head]
    assert model.method.parts[1].read == ("first" if head == "pooled" else "cls")
    assert gap(model, params, golden, "union", head, (0, 1)) < 1e-5


@pytest.mark.parametrize("kind, head", [("Sequence", aj.Classification), ("Token", TokenClassification)])
def test_golden_heads_of_transformers(kind: str, head: type, golden: Path):
    case = f"BertFor{kind}Classification"
    model, params = load_adapterhub(golden / "adapterhub" / case, backbone())
    assert model.head == head(labels=("no", "maybe", "yes"))
    assert gap(model, params, golden, case, "own") < 1e-5


@pytest.mark.parametrize("kept", ["prefix_tuning", "encoder.layer.0", "encoder.layer.1"])
def test_one_copy_of_a_prefix_is_enough(kept: str, golden: Path, tmp_path: Path):
    folder = arranged(golden, "prefix", "two", tmp_path)
    whole = load_file(folder / "adapter.safetensors")
    some = {name: leaf for name, leaf in whole.items() if name.startswith(f"bert.{kept}")}
    assert 3 * len(some) == len(whole)
    save_file(some, folder / "adapter.safetensors")
    _, params = load_adapterhub(folder, backbone())
    _, expected = load_adapterhub(arranged(golden, "prefix", "two", tmp_path / "whole"), backbone())
    assert_same(params["adapters"], expected["adapters"])


def test_a_fusion_by_its_own_folder(golden: Path, tmp_path: Path):
    """As save_adapter_fusion and save_all_adapters leave it."""
    top = arranged(golden, "fusion", "two", tmp_path)
    _, expected = load_adapterhub(top, backbone())
    (top / "adapter_setup.json").unlink()
    shutil.copytree(top / "two", top / "b,a", dirs_exist_ok=True)
    model, params = load_adapterhub(top / "b,a", backbone())
    assert model.method == METHODS["fusion"]
    assert_same(params, expected)
