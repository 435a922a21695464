"""What peft's folders may hold that we cannot have: refused in one line, whatever it is."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from adapters_jax.errors import AdapterError
from adapters_jax.interop import load_peft
from adapters_jax.interop.peft import patterns
from parity import peft_ours

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
SMALL = peft_ours.backbone()


@pytest.fixture
def copied(golden: Path, tmp_path: Path):
    """A stored case in a folder of its own, some options of its config changed."""

    def copy(case: str, **options: object) -> Path:
        folder = tmp_path / case
        shutil.copytree(golden / "peft" / case, folder)
        config = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps(config | options))
        return folder

    return copy


OPTIONS = {
    "a kind we lack": ("lora-texts", dict(peft_type="VERA"), "peft_type: expected one of LORA, .*, got 'VERA'"),
    "no kind": ("lora-texts", dict(peft_type=["LORA"]), "peft_type: expected one of"),
    "a task we lack": ("lora-texts", dict(task_type="QUESTION_ANS"), "another task: .* expected task_type SEQ_CLS"),
    "a task of another type": ("lora-texts", dict(task_type=1), "task_type: expected a task type, got 1"),
    "a model we lack": ("lora-no_task-tokens", dict(auto_mapping=None), "auto_mapping: expected a base_model_class"),
    "an option": ("lora-texts", dict(lora_bias=True), "expected options that we have, got lora_bias = True"),
    "one of tomorrow": (
        "lora-texts",
        dict(use_xora={"a": 1}),
        "expected options that we have, got use_xora = {'a': 1}",
    ),
    "a turned layer": ("lora-texts", dict(fan_in_fan_out=True), "options that we have, got fan_in_fan_out = True"),
    "biases": ("lora-texts", dict(bias="lora_only"), "trained biases .*expected bias none"),
    "a changed backbone": ("lora-texts", dict(init_lora_weights="pissa"), "a start that changes the backbone"),
    "the pooler": ("lora-texts", dict(target_modules=["query", "value", "dense"]), "a module outside of the layers"),
    "an embedding": ("lora-bare", dict(target_modules=["query", "word_embeddings"]), "a module outside of the layers"),
    "more modules": ("lora-texts", dict(target_modules=["query", "value", "key"]), "expected a tensor .*key.lora_A"),
    "fewer modules": ("lora-texts", dict(target_modules=["query"]), "expected no other tensors, got .*value"),
    "no modules": ("lora-texts", dict(target_modules=["gate"]), "other dense layers in one layer than in the next"),
    "fewer layers": ("lora-texts", dict(layers_to_transform=[0]), "expected no other tensors, got .*layer.1"),
    "left out": ("lora-texts", dict(exclude_modules=".*layer.0.*"), "expected no other tensors, got .*layer.0"),
    "uneven": ("lora-texts", dict(exclude_modules=["0.attention.self.query"]), "other dense layers in one layer than"),
    "uneven ranks": ("lora-texts", dict(rank_pattern={"layer.0.*query": 1}), "ranks or alphas that differ from layer"),
    "a rank": ("lora-texts", dict(r=3), r"lora_A.weight: expected floats \[3, 64\], got float32 \[2, 64\]"),
    "a rank in words": ("lora-texts", dict(r="many"), "r: expected a whole number, got 'many'"),
    "a huge rank": ("lora-texts", dict(r=10**30), "r: expected a whole number"),
    "a pattern in words": (
        "lora-texts",
        dict(alpha_pattern={"query": "x"}),
        "alpha_pattern: expected numbers, got 'x'",
    ),
    "half a rank": ("lora-texts", dict(rank_pattern={"query": 1.5}), "rank_pattern: expected whole numbers, got 1.5"),
    "no table": ("lora-texts", dict(alpha_pattern=[1]), "alpha_pattern: expected a table"),
    "no alpha": ("lora-texts", dict(lora_alpha=0), "method.alpha: expected a finite number above 0"),
    "an alpha beyond": ("lora-texts", dict(lora_alpha=float("inf")), "lora_alpha: expected a finite number"),
    "no flag": ("lora-texts", dict(use_dora="yes"), "use_dora: expected true or false"),
    "no list": ("lora-texts", dict(modules_to_save=[1]), "modules_to_save: expected a list of texts"),
    "a slow expression": ("lora-texts", dict(target_modules="(.*a)*.*"), "target_modules: expected .*quickly matched"),
    "a broken expression": ("lora-texts", dict(target_modules="(("), "target_modules: expected .*quickly matched"),
    "a slow pattern": ("lora-texts", dict(alpha_pattern={"(a|a)+": 1}), "alpha_pattern: expected .*quickly matched"),
    "no magnitude": ("lora-texts", dict(use_dora=True), "expected a tensor .*lora_magnitude_vector, found none"),
    "AdaLoRA's variants": ("adalora-texts", dict(use_rslora=True), "options of LoRA's variants"),
    "AdaLoRA's rank": ("adalora-texts", dict(init_r=3), "rank_pattern: expected 3 booleans for bert.encoder"),
    "AdaLoRA's width": ("adalora-texts", dict(init_r=10**9), "method.rank: expected at most the backbone's width 64"),
    "no run": ("adalora-texts", dict(total_step=0), "total_step: expected the length of the run"),
    "no pattern": ("adalora-texts", dict(rank_pattern=None), r"lora_A: expected floats \[4, 64\]"),
    "a strange pattern": (
        "adalora-texts",
        dict(rank_pattern={"a": []}),
        "rank_pattern: expected bert.encoder.*found no",
    ),
    "scaled inputs": ("ia3-texts", dict(feedforward_modules=["key"]), "scaled inputs of query, key, value or"),
    "both ends": (
        "ia3-texts",
        dict(target_modules=r".*layer.*dense", feedforward_modules=r".*\d\.output\.dense"),
        "the result of intermediate.dense and the input of output.dense",
    ),
    "another width": ("prefix-bare", dict(token_dim=32), "token_dim: expected the backbone's 64, got 32"),
    "two submodules": ("prompt-texts", dict(num_transformer_submodules=2), "num_transformer_submodules: expected the"),
    "another length": ("prompt-texts", dict(num_virtual_tokens=4), r"prompt_embeddings: expected floats \[4, 64\]"),
    "no length": (
        "prompt-texts",
        dict(num_virtual_tokens=None),
        "num_virtual_tokens: expected a whole number, got None",
    ),
    "rows without a task": ("prompt-bare", dict(task_type=None), "no task_type: peft then leaves the rows out"),
    "some LayerNorms": (
        "layernorm-bare",
        dict(target_modules=["attention.output.LayerNorm"]),
        "some of a layer's LayerNorms",
    ),
    "no LayerNorms": ("layernorm-bare", dict(target_modules=["query"]), "modules that are no LayerNorms"),
}


@pytest.mark.parametrize("case, options, message", OPTIONS.values(), ids=OPTIONS)
def test_options_that_we_cannot_have(case, options, message, copied):
    with pytest.raises(AdapterError, match=message):
        load_peft(copied(case, **options), SMALL)


QUERY = "base_model.model.bert.encoder.layer.1.attention.self.query.lora_A.weight"
HEAD = "base_model.model.classifier.bias"


def test_tensors_that_do_not_fit(copied):
    folder = copied("lora-texts")
    whole = load_file(folder / WEIGHTS)
    cases = {
        "expected no other tensors, got strange": whole | {"strange": np.zeros(1, "f4")},
        f"expected a tensor {HEAD}, found none": {k: v for k, v in whole.items() if k != HEAD},
        f"expected a tensor {QUERY}, found none": {k: v for k, v in whole.items() if k != QUERY},
        "expected finite values": whole | {QUERY: np.full((2, 64), np.nan, "f4")},
        r"expected floats \[2, 64\], got int32 \[2, 64\]": whole | {QUERY: np.zeros((2, 64), "i4")},
    }
    for message, tensors in cases.items():
        save_file(tensors, folder / WEIGHTS)
        with pytest.raises(AdapterError, match=message):
            load_peft(folder, SMALL)


def test_files_that_are_missing_or_damaged(copied):
    folder = copied("lora-texts")
    file = folder / WEIGHTS
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(AdapterError, match="expected a safetensors file"):
        load_peft(folder, SMALL)
    file.rename(folder / "adapter_model.bin")
    with pytest.raises(AdapterError, match="found adapter_model.bin, a pickle, which can run code"):
        load_peft(folder, SMALL)
    (folder / CONFIG).unlink()
    with pytest.raises(AdapterError, match="adapter_config.json: expected a file"):
        load_peft(folder, SMALL)


def test_no_pooler_at_all(copied):
    with pytest.raises(AdapterError, match="expected a backbone with the pooler of its training, got one without"):
        load_peft(copied("lora-texts"), peft_ours.backbone(pooler=False))


@pytest.mark.parametrize("options", [dict(target_modules=None), dict(r=2, unknown=None, layers_pattern="layer")])
def test_what_changes_nothing_is_read(options, copied):
    assert load_peft(copied("lora-texts", **options), SMALL)[0].method.slots == ("query", "value")


QUICK = (r".*decoder.*(SelfAttention|EncDecAttention).*(q|v)$", r"encoder\.layer\.\d+\.[a-z.*]+", "query", r"a\*\(b\)*")
SLOW = (
    "(a+)+",
    "(a|a)*b",
    "a?" * 40,
    "(a|b)" * 30,
    ".*.*.*.*.*.*x",
    r"(a)\1",
    "(?=a)b",
    "[",
    "a" * (1 << 15),
    "(a{9}){9}",
)


def test_only_quick_expressions_are_matched():
    assert all(patterns.cost(pattern) <= patterns.MOST for pattern in QUICK)
    assert all(patterns.cost(pattern) > patterns.MOST for pattern in SLOW)


def test_a_key_that_stands_twice(copied):
    folder = copied("lora-texts")
    text = (folder / CONFIG).read_text()
    (folder / CONFIG).write_text(text[:-1] + ', "r": 4}')
    with pytest.raises(AdapterError, match="readable JSON, expected each key once, got 'r' twice"):
        load_peft(folder, SMALL)
