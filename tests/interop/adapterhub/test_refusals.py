"""Folders of the library that hold what we lack, or that are damaged or hostile, are refused with the reason."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from adapters_jax.errors import AdapterError
from adapters_jax.interop.adapterhub import load_adapterhub
from adapters_jax.testing import assert_same
from parity.adapterhub_ours import backbone
from tests.interop.adapterhub.test_golden import arranged


def edited(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


OPTIONS = {
    "gates": ("seq_bn", dict(use_gating=True), "use_gating: we have gates in UniPELT alone"),
    "compacter": ("seq_bn", dict(phm_layer=True), "phm_layer: sums of Kronecker products"),
    "ln_after": ("seq_bn", dict(ln_after=True), "ln_after"),
    "glow": ("seq_bn_inv", dict(inv_adapter="glow"), "inv_adapter other than nice"),
    "nowhere": ("seq_bn", dict(output_adapter=False), "neither mh_adapter nor output_adapter"),
    "residual": ("seq_bn", dict(residual_before_ln="post_add"), "a place of the LayerNorms and residuals"),
    "no norm": ("par_bn", dict(original_ln_after=False), "a place of the LayerNorms and residuals"),
    "activation": ("seq_bn", dict(non_linearity="prelu"), "a non_linearity that we lack"),
    "scaling": ("par_bn", dict(scaling="many"), "a scaling other than"),
    "a negative scale": ("par_bn", dict(scaling=-1.0), "method.scale: expected a finite number above 0"),
    "dropout": ("seq_bn", dict(dropout=1.5), "a dropout or stochastic_depth that is no rate"),
    "depth": ("seq_bn", dict(stochastic_depth=-0.1), "a dropout or stochastic_depth that is no rate"),
    "no factor": ("seq_bn", dict(reduction_factor=0), "reduction_factor of layer 0: expected a number above 0"),
    "half the factors": ("seq_bn", dict(reduction_factor={"0": 16}), "reduction_factor of layer 1: .* got None"),
    "a tiny factor": ("seq_bn", dict(reduction_factor=1e-300), "reduction_factor of layer 0"),
    "another factor": ("seq_bn", dict(reduction_factor=8), r"adapter_down.0.weight: expected floats \[8, 64\]"),
    "a large factor": ("seq_bn", dict(reduction_factor=1e30), r"expected floats \[1, 64\]"),
    "a huge factor": ("seq_bn", dict(reduction_factor=10**400), "reduction_factor: expected"),
    "a huge factor of a layer": ("seq_bn", dict(reduction_factor={"default": 10**400}), "reduction_factor of layer 0"),
    "a huge alpha": ("lora", dict(alpha=1e300), "alpha: expected float, got 1e"),
    "all left out": ("seq_bn", dict(leave_out=[0, 1]), "method.sizes: expected a width for each layer"),
    "an unknown option": ("seq_bn", dict(new_option=1), "an option that we do not know: .*, got 'new_option'"),
    "a text for a number": ("lora", dict(r="2"), "r: expected int, got '2'"),
    "not a number": ("lora", dict(alpha=float("nan")), "alpha: expected float, got nan"),
    "dora": ("lora", dict(use_dora=True), "use_dora: it scales the bias too"),
    "vera": ("lora", dict(vera_d=0.1), "vera_d, vera_b: random matrices"),
    "half precision": ("lora", dict(dtype="float16"), "a dtype other than float32"),
    "matrices": ("lora", dict(attn_matrices=["q", "o"]), "attn_matrices other than q, k, v"),
    "no matrix": ("lora", dict(attn_matrices=[]), "no dense layer at all"),
    "another rank": ("lora", dict(r=3), r"lora_A: expected floats \[3, 64\]"),
    "no rank": ("lora", dict(r=0), "r or alpha that is not above 0"),
    "mtl": ("lora", dict(architecture="mtl_lora"), "architecture mtl_lora: a LoRA of several tasks"),
    "reft": ("lora", dict(architecture="reft"), "architecture reft: it edits"),
    "a list": ("lora", dict(architecture=["lora"]), "another architecture or composition_mode: .*, got"),
    "a mode": ("ia3", dict(composition_mode="mul"), "another architecture or composition_mode: .*, got .*'mul'"),
    "ia3 with vera": ("ia3", dict(vera_b=0.1), "vera_d, vera_b: random matrices"),
    "a factor of nothing": ("seq_bn_inv", dict(inv_adapter_reduction_factor=0), "an inv_adapter_reduction_factor of"),
    "an old coupling": ("seq_bn", dict(invertible_adapter="nice"), "invertible_adapter: expected an object of options"),
    "an old coupling's option": (
        "seq_bn",
        dict(invertible_adapter={"block_type": "nice", "reduction_factor": 2, "depth": 2}),
        "invertible_adapter: an option that we do not know: .*, got 'depth'",
    ),
    "ia3's alpha": ("ia3", dict(alpha=2), "r or alpha other than 1"),
    "prefix's activation": ("prefix", dict(non_linearity="relu"), "another non_linearity than tanh"),
    "a long prefix": ("prefix", dict(prefix_length=10**9), "expected floats"),
    "no prefix": ("prefix", dict(prefix_length=0), "a length or a network's width below 1"),
    "after bos": ("prompt", dict(combine="prefix_after_bos"), "combine other than prefix"),
    "unions in unions": (
        "mam",
        dict(configs=[{"architecture": "union", "configs": []}]),
        "another architecture .*, got .*'union'",
    ),
    "no parts": ("mam", dict(configs=[]), "configs: expected a list of 1 to 16"),
}


@pytest.mark.parametrize("case, options, message", OPTIONS.values(), ids=OPTIONS)
def test_options_that_we_lack(case, options, message, golden: Path, tmp_path: Path):
    folder = arranged(golden, case, "none", tmp_path)
    edited(folder / "adapter_config.json", lambda content: content["config"].update(options))
    with pytest.raises(AdapterError, match=message):
        load_adapterhub(folder, backbone())


def test_gates_that_are_not_unipelts(golden: Path, tmp_path: Path):
    folder = arranged(golden, "unipelt", "none", tmp_path)
    changes = [
        lambda configs: configs[0].update(shared_gating=False),
        lambda configs: configs[2].update(use_gating=False),
        lambda configs: configs.pop(),
    ]
    original = (folder / "adapter_config.json").read_text()
    for change in changes:
        (folder / "adapter_config.json").write_text(original)
        edited(folder / "adapter_config.json", lambda content, change=change: change(content["config"]["configs"]))
        with pytest.raises(AdapterError, match="use_gating on other parts than UniPELT's"):
            load_adapterhub(folder, backbone())


HEADS = {
    "multilabel": (dict(head_type="multilabel_classification"), "another head_type"),
    "layers": (dict(layers=1), "layers and use_pooler that are none of"),
    "a pooler below": (dict(use_pooler=True), "layers and use_pooler that are none of"),
    "activation": (dict(activation_function="gelu"), "another activation_function than tanh"),
    "an unknown option": (dict(temperature=2), "got 'temperature'"),
    "labels": (dict(label2id={"a": 0, "b": 1, "c": 1}), "label2id: expected the numbers 0 to 2"),
    "labels that are none": (dict(label2id={"a": []}), "label2id: expected a number for each name"),
    "more labels": (dict(num_labels=4, label2id=None), r"heads.two.4.weight: expected floats \[4, 64\]"),
    "no labels": (dict(num_labels=0), "fewer than one label"),
}


@pytest.mark.parametrize("options, message", HEADS.values(), ids=HEADS)
def test_heads_that_we_lack(options, message, golden: Path, tmp_path: Path):
    folder = arranged(golden, "ia3", "two", tmp_path)
    edited(folder / "head_config.json", lambda content: content["config"].update(options))
    with pytest.raises(AdapterError, match=message):
        load_adapterhub(folder, backbone())


CONTENTS = {
    "no name": (dict(name=None), "expected the adapter's name"),
    "another name": (dict(name="b"), "expected a tensor .*loras.b.lora_B, found none"),
    "another model": (dict(model_type="roberta"), "another model_type than bert: .*, got 'roberta'"),
    "another width": (dict(hidden_size=768), "another hidden_size than the backbone's: .*, got 768"),
    "no options": (dict(config="ia3"), "expected an object of options"),
    "a version": (dict(version=3), "version: expected a text"),
    "no version": (dict(version="adapters.next"), "version: expected one such as adapters.1.3.0"),
}


@pytest.mark.parametrize("content, message", CONTENTS.values(), ids=CONTENTS)
def test_configs_that_do_not_fit(content, message, golden: Path, tmp_path: Path):
    folder = arranged(golden, "ia3", "none", tmp_path)
    edited(folder / "adapter_config.json", lambda whole: whole.update(content))
    with pytest.raises(AdapterError, match=message):
        load_adapterhub(folder, backbone())


def test_tensors_that_do_not_fit(golden: Path, tmp_path: Path):
    folder = arranged(golden, "prefix", "two", tmp_path)
    file = folder / "adapter.safetensors"
    whole = load_file(file)
    top = "bert.prefix_tuning.prefix_tunings.prefix.self_prefix.wte.weight"
    cases = {
        "expected no other tensors, got strange": whole | {"bert.strange": np.zeros(1, "f4")},
        "expected its copies to be alike": whole | {top: whole[top] + 1},
        "expected a tensor .*wte.weight, found none": {k: v for k, v in whole.items() if "wte" not in k},
        r"wte.weight: expected floats \[3, 64\], got float32 \[3, 63\]": whole | {top: whole[top][:, :-1].copy()},
        "expected floats .* got int32": whole | {top: whole[top].astype("i4")},
        "expected finite values": whole | {top: whole[top] * np.float32("nan")},
        "expected one tensor prefix_tuning.*, got two": whole | {top.removeprefix("bert."): whole[top]},
    }
    for message, tensors in cases.items():
        save_file(tensors, file)
        with pytest.raises(AdapterError, match=message):
            load_adapterhub(folder, backbone())
    file.rename(folder / "pytorch_adapter.bin")
    with pytest.raises(AdapterError, match="a pickle, which can run code"):
        load_adapterhub(folder, backbone())


def test_tensors_left_over(golden: Path, tmp_path: Path):
    alone, fused = arranged(golden, "ia3", "two", tmp_path), arranged(golden, "fusion", "two", tmp_path)
    for folder, name in ((alone, "model_head"), (fused / "b,a", "model_adapter_fusion"), (fused / "b", "adapter")):
        file = folder / f"{name}.safetensors"
        whole = load_file(file)
        save_file(whole | {"strange": np.zeros(1, "f4")}, file)
        with pytest.raises(AdapterError, match=f"{name}.safetensors: expected no other tensors, got strange"):
            load_adapterhub(alone if folder == alone else fused, backbone())
        save_file(whole, file)


def test_a_head_that_needs_a_pooler(golden: Path, tmp_path: Path):
    bare = dataclasses.replace(backbone(), params={k: v for k, v in backbone().params.items() if k != "pooler"})
    with pytest.raises(AdapterError, match="use_pooler on a backbone without a pooler"):
        load_adapterhub(arranged(golden, "ia3", "pooled", tmp_path), bare)
    model, params = load_adapterhub(arranged(golden, "ia3", "two", tmp_path / "own"), bare)
    assert model.head.own_pooler and "pooler" in params["head"]


SETUPS = {
    "split": ({"type": "Split", "children": []}, "Parallel, Split, .*: we have Stack and Fuse alone, got 'Split'"),
    "nested": (
        {"type": "Stack", "children": [{"type": "single", "children": ["lang"]}, {"type": "Fuse", "children": []}]},
        "a composition in another one, .*, got .*'Fuse'",
    ),
    "no children": ({"type": "Stack"}, "expected an adapter_setup with its children"),
    "none": ({"type": "Stack", "children": []}, "other than 1 to 16 adapters, each once: .*, got ..$"),
    "twice": (
        {"type": "Stack", "children": [{"type": "single", "children": ["lang"]}] * 2},
        "other than 1 to 16 adapters, each once: .*, got .'lang', 'lang'.",
    ),
    "a way out": ({"type": "Stack", "children": [{"type": "single", "children": ["../ia3"]}]}, "expected a folder"),
    "a path": ({"type": "Stack", "children": [{"type": "single", "children": ["lang/."]}]}, "expected a folder"),
}


@pytest.mark.parametrize("setup, message", SETUPS.values(), ids=SETUPS)
def test_setups_that_we_lack(setup, message, golden: Path, tmp_path: Path):
    arranged(golden, "ia3", "none", tmp_path)
    folder = arranged(golden, "stack", "none", tmp_path)
    edited(folder / "adapter_setup.json", lambda content: content.update(adapter_setup=setup))
    with pytest.raises(AdapterError, match=message):
        load_adapterhub(folder, backbone())


HEADS_OF_SETUPS = {
    "several heads": (["two", "two"], r"several heads \(head_setup\): .*, got .'two', 'two'."),
    "a number": (1.5, "several heads"),
    "another folder": ("../two", "expected a folder '../two'"),
}


@pytest.mark.parametrize("head, message", HEADS_OF_SETUPS.values(), ids=HEADS_OF_SETUPS)
def test_heads_of_setups_that_we_lack(head, message, golden: Path, tmp_path: Path):
    folder = arranged(golden, "stack", "two", tmp_path)
    edited(folder / "adapter_setup.json", lambda content: content.update(head_setup=head))
    with pytest.raises(AdapterError, match=message):
        load_adapterhub(folder, backbone())


def test_a_head_of_a_class_that_we_lack(golden: Path, tmp_path: Path):
    folder = arranged(golden, "ia3", "two", tmp_path)
    edited(folder / "head_config.json", lambda content: content.update(model_class="RobertaAdapterModel"))
    with pytest.raises(AdapterError, match="the head of another class: .*, got 'RobertaAdapterModel'"):
        load_adapterhub(folder, backbone())


def test_the_plug_in_interface(golden: Path, tmp_path: Path):
    folder = arranged(golden, "ia3", "none", tmp_path)
    (folder / "adapter_interface.json").write_text("{}")
    with pytest.raises(AdapterError, match="a model behind the plug-in interface"):
        load_adapterhub(folder, backbone())


@pytest.mark.parametrize("option", ["dropout", "stochastic_depth"])
def test_what_acts_in_training_alone_is_told(option: str, golden: Path, tmp_path: Path, caplog):
    folder = arranged(golden, "seq_bn", "none", tmp_path)
    before, expected = load_adapterhub(folder, backbone())
    assert not caplog.messages
    edited(folder / "adapter_config.json", lambda content: content["config"].update({option: 0.1}))
    model, params = load_adapterhub(folder, backbone())
    assert [f"adapter_config.json: {option} 0.1 is not kept" in message for message in caplog.messages] == [True]
    assert model == before
    assert_same(params, expected)


FUSIONS = {
    "static": (dict(value=False), "without query, key or value"),
    "temperature": (dict(temperature=True), "temperature"),
    "query": (dict(query_before_ln=True), "query_before_ln"),
    "residual": (dict(residual_before=True), "residual_before"),
    "no rate": (dict(dropout_prob=2), "dropout: expected"),
}


@pytest.mark.parametrize("options, message", FUSIONS.values(), ids=FUSIONS)
def test_fusions_that_we_lack(options, message, golden: Path, tmp_path: Path):
    folder = arranged(golden, "fusion", "none", tmp_path)
    edited(folder / "b,a" / "adapter_fusion_config.json", lambda content: content["config"].update(options))
    with pytest.raises(AdapterError, match=message):
        load_adapterhub(folder, backbone())


def test_parts_that_do_not_fit_each_other(golden: Path, tmp_path: Path):
    stack, fusion = (arranged(golden, case, "none", tmp_path) for case in ("stack", "fusion"))
    edited(stack / "task" / "adapter_config.json", lambda content: content["config"].update(is_parallel=True))
    with pytest.raises(AdapterError, match="parts that meet where they are not serial"):
        load_adapterhub(stack, backbone())
    edited(fusion / "b" / "adapter_config.json", lambda content: content["config"].update(original_ln_before=False))
    with pytest.raises(AdapterError, match="adapters that are not all like seq_bn"):
        load_adapterhub(fusion, backbone())
    edited(fusion / "b" / "adapter_config.json", lambda content: content.update(name="c"))
    with pytest.raises(AdapterError, match="expected a tensor encoder.layer.0.output.adapters.c"):
        load_adapterhub(fusion, backbone())
    edited(fusion / "b,a" / "adapter_fusion_config.json", lambda content: content.update(adapter_names=["a", "b"]))
    with pytest.raises(AdapterError, match=r"expected the adapters .'b', 'a'. of adapter_setup.json"):
        load_adapterhub(fusion, backbone())


def test_folders_that_hold_something_else(tmp_path: Path):
    for folder, message in ((tmp_path / "none", "found none"), (tmp_path, "found some")):
        (tmp_path / "some").mkdir(exist_ok=True)
        with pytest.raises(AdapterError, match=f"expected adapter_config.json.*{message}"):
            load_adapterhub(folder, backbone())
