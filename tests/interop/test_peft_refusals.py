"""What peft's folders may hold that we cannot have: refused in one line, whatever it is."""

import functools
import json
import os
import random
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from adapters_jax import tensors
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
    "the pooler of tags": (
        "lora-bare",
        dict(target_modules=["query", "pooler.dense"]),
        "a module outside of the layers",
    ),
    "the pooler, AdaLoRA": ("adalora-texts", dict(target_modules="all-linear"), "a module outside of the layers"),
    "the pooler, IA3": ("ia3-texts", dict(target_modules=["key", "pooler.dense"]), "a module outside of the layers"),
    "the pooler's tensors": ("lora-texts", dict(target_modules=["query", "dense"]), "tensor .*pooler.dense.lora_A"),
    "the pooler's rank": ("lora-linear", dict(rank_pattern={"pooler.dense": 0}), "a rank of 1 to 64 for bert.pooler"),
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
    "a lookbehind": ("lora-texts", dict(target_modules="(?<=a)b"), "target_modules: expected .*quickly matched"),
    "many patterns": (
        "lora-texts",
        dict(rank_pattern={f"{i}.query": 2 for i in range(2000)}),
        "rank_pattern: expected at most 1024 expressions",
    ),
    "long patterns": (
        "lora-texts",
        dict(rank_pattern={f"{i}.*" * 600: 2 for i in range(1000)}),
        "rank_pattern: expected at most 1024 expressions of 32768 characters together",
    ),
    "no layer": ("lora-texts", dict(layers_to_transform=["0"]), "layers_to_transform: expected numbers of layers"),
    "alternatives": (
        "lora-texts",
        dict(layers_to_transform=[0], layers_pattern="layer|layers"),
        "layers_pattern: expected alternatives in parentheses",
    ),
    "a broken expression": ("lora-texts", dict(target_modules="(("), "target_modules: expected .*quickly matched"),
    "a slow pattern": ("lora-texts", dict(alpha_pattern={"(?>a)": 1}), "alpha_pattern: expected .*quickly matched"),
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
    for message, changed in cases.items():
        save_file(changed, folder / WEIGHTS)
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


@pytest.mark.parametrize(
    "options",
    [
        dict(target_modules=None),
        dict(r=2, unknown=None, layers_pattern="layer"),
        dict(layers_to_transform=[0, 1], layers_pattern="(layer|h)"),
        dict(layers_to_transform=[0, 1, 7]),
    ],
)
def test_what_changes_nothing_is_read(options, copied):
    assert load_peft(copied("lora-texts", **options), SMALL)[0].method.slots == ("query", "value")


ORDINARY = (
    r".*encoder.*layer.*attention.*(query|value).*",
    r"(?!.*(key|dense|Norm)).*encoder\.layer.*",
    r"(?:.*\.)*(?=query|value)\w+",
    r"bert\.encoder\.layer\.[0-9]{1,2}\.attention\.self\.(query|value)",
)


@pytest.mark.parametrize("expression", ORDINARY)
def test_ordinary_expressions_are_read(expression: str, copied):
    assert load_peft(copied("lora-texts", target_modules=expression), SMALL)[0].method.slots == ("query", "value")


@pytest.mark.parametrize(
    "options",
    [
        dict(modules_to_save=[f"x{i}" for i in range(300_000)]),
        dict(layers_to_transform=list(range(300_000))),
        dict(rank_pattern={rf"(.*\.)*.*{i}.*.*.*.*x": 3 for i in range(100)}),
    ],
    ids=["saved", "layers", "patterns"],
)
def test_long_lists_do_not_stall(options, copied):
    """Minutes, where each name is compared with each, or Python's matcher goes back."""
    assert load_peft(copied("lora-texts", **options), SMALL)[0].method.slots == ("query", "value")


def test_steps_are_counted_and_end():
    name = "a" * 60
    for pattern in ("(a+)+b", "(a|a)*b", "(((a*)*)*)*b", ".*.*.*.*.*.*.*b", "(?=(a*)*b)a"):
        work = patterns.Work()
        assert not work.matches(patterns.parsed(pattern), name)
        assert work.steps > patterns.STEPS - 50_000, pattern
    nested = patterns.parsed("((a?){50}b?){50}" * 100)
    with pytest.raises(patterns.Unfit, match="too many steps"):
        patterns.Work(10_000).matches(nested, name)


@pytest.mark.parametrize(
    "options",
    [
        dict(target_modules="((.*a?){50}b?){50}" * 100),
        dict(exclude_modules="((.*a?){50}b?){50}" * 100),
        dict(rank_pattern={"((.*a?){50}b?){50}" * 100: 2}),
        dict(layers_to_transform=[0], layers_pattern=["((.*a?){50}b?){50}" * 100]),
    ],
)
def test_slow_expressions_are_refused(options, copied, monkeypatch: pytest.MonkeyPatch):
    folder = copied("lora-texts", **options)
    monkeypatch.setattr(patterns, "Work", functools.partial(patterns.Work, 20_000))
    with pytest.raises(AdapterError, match=f"{list(options)[-1]}: expected .*quickly matched"):
        load_peft(folder, SMALL)


def drawn(rng: random.Random, depth: int) -> str:
    """An expression over a, b and the dot."""
    inner = lambda: drawn(rng, depth - 1)
    kind = rng.randrange(10 if depth else 4)
    if kind < 2:
        return rng.choice("ab")
    if kind == 2:
        return rng.choice((".", r"\.", "[ab]", "[^a]", "[]a]", r"\w", r"\D", r"\b", "^", "$", "{"))
    if kind == 3:
        return rng.choice("ab.") + rng.choice(("*", "+", "?", "*?", "+?", "??", "{2}", "{1,2}", "{,2}", "{2,}"))
    if kind == 4:
        return f"({inner()})" + rng.choice(("*", "+", "?", "{2}", "{1,3}", "*?", ""))
    if kind == 5:
        return f"(?:{inner()}|{inner()})" + rng.choice(("", "*", "?"))
    if kind == 6:
        return rng.choice(("(?=", "(?!")) + inner() + ")"
    return f"{inner()}|{inner()}" if kind == 7 else inner() + inner()


def test_expressions_match_what_python_matches():
    rng, found = random.Random(0), 0
    for _ in range(500):
        pattern = drawn(rng, 4)
        for text in ("", "a", "a.b", "".join(rng.choices("ab.1", k=rng.randrange(7)))):
            part, work, expected = patterns.parsed(pattern), patterns.Work(), bool(re.fullmatch(pattern, text))
            assert work.matches(part, text) == expected, (pattern, text)
            assert work.ends(part, text) == bool(re.match(rf"(.*\.)?({pattern})$", text)), (pattern, text)
            found += expected
    assert 100 < found < 1500


@pytest.mark.parametrize("pattern", [r"(a)\1", "(?i)a", "(?>a)", "a++", "(?<!a)b", "[", "a" * (1 << 16), r"\x61"])
def test_unknown_parts_of_expressions(pattern: str):
    with pytest.raises(patterns.Unfit):
        patterns.parsed(pattern)


def test_float64_is_not_rounded_silently(copied):
    folder = copied("lora-texts")
    whole = load_file(folder / WEIGHTS)
    for value in (1e300, 0.1, 1e-300):
        save_file(whole | {QUERY: np.full((2, 64), value, "f8")}, folder / WEIGHTS)
        with pytest.raises(AdapterError, match="that float32 holds, got float64 with others; save it as float32"):
            load_peft(folder, SMALL)
    save_file(whole | {QUERY: whole[QUERY].astype("f8")}, folder / WEIGHTS)
    assert load_peft(folder, SMALL)[0].method.rank == 2


def test_a_file_of_300_gb_is_not_read(copied):
    file = copied("lora-texts") / WEIGHTS
    whole, huge = file.read_bytes(), 300 << 30
    os.truncate(file, huge)
    with pytest.raises(AdapterError, match="its header tells of [0-9]+ bytes of tensors, [0-9]+ are there"):
        load_peft(file.parent, SMALL)
    entry = {"dtype": "U8", "shape": [huge], "data_offsets": [0, huge]}
    header = json.dumps({"a": entry}).encode()
    file.write_bytes(len(header).to_bytes(8, "little") + header)
    os.truncate(file, 8 + len(header) + huge)
    with pytest.raises(AdapterError, match=f"expected at most {tensors.MOST} bytes of tensors, got {huge}"):
        load_peft(file.parent, SMALL)
    for data in (whole[:4], (1 << 40).to_bytes(8, "little") + whole[8:], b""):
        file.write_bytes(data)
        with pytest.raises(AdapterError, match="expected a safetensors file, got one that is not: its header"):
            load_peft(file.parent, SMALL)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_links_as_in_the_hubs_cache(name: str, copied, tmp_path: Path):
    file = copied("lora-texts") / name
    file.rename(tmp_path / "blob")
    file.symlink_to(tmp_path / "blob")
    with pytest.raises(AdapterError, match=f"{name}: expected a file, found a link; copy .* hf:user/name"):
        load_peft(file.parent, SMALL)


def test_a_config_that_is_too_long(copied):
    folder = copied("lora-texts", modules_to_save=["x" * (1 << 22)])
    with pytest.raises(AdapterError, match="adapter_config.json: expected at most 4194304 bytes, got 419"):
        load_peft(folder, SMALL)


def test_a_key_that_stands_twice(copied):
    folder = copied("lora-texts")
    text = (folder / CONFIG).read_text()
    (folder / CONFIG).write_text(text[:-1] + ', "r": 4}')
    with pytest.raises(AdapterError, match="readable JSON, expected each key once, got 'r' twice"):
        load_peft(folder, SMALL)
