"""AdaLoRA as peft's files: those that peft wrote give its logits, ours come back bit for bit, others are refused."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import adapters_jax as aj
from adapters_jax import trees
from adapters_jax.analysis.ranks import of_params
from adapters_jax.errors import AdapterError, ConfigError
from adapters_jax.interop import load_peft, save_peft
from adapters_jax.testing import assert_same
from parity import peers
from parity.peft_ours import METHOD, backbone, pruned


@pytest.fixture(scope="module")
def small() -> aj.Backbone:
    return backbone()


def test_a_folder_of_peft_gives_its_golden_logits(small, golden: Path):
    folder = golden / "peft_adalora"
    model, params = load_peft(folder, small)
    assert (model.method.rank, model.method.target_rank, model.method.slots) == (4, 2, ("query", "value", "ffn_in"))
    left = [rank.left for layers in of_params(params).values() for rank in layers.values()]
    assert sum(left) == 2 * 2 * 3
    assert len(set(left)) > 1
    expected = np.load(folder / "logits.npz")
    with jax.default_matmul_precision("highest"):
        for number, batch in enumerate(peers.batches()):
            found = model.apply(params, batch).logits
            np.testing.assert_allclose(found, expected[str(number)], atol=1e-5)
    plain = (
        aj.Model(model.config, aj.HeadOnly(), model.head).apply(params | {"adapters": {}}, peers.batches()[0]).logits
    )
    assert abs(np.asarray(plain) - expected["0"]).max() > 0.01


@pytest.fixture
def written(small, tmp_path: Path) -> Path:
    save_peft(tmp_path / "peft", *pruned(), small)
    return tmp_path / "peft"


def test_there_and_back(written: Path, small):
    model, params = pruned()
    again, loaded = load_peft(written, small)
    assert again.method == METHOD and again.head.num_labels == model.head.num_labels
    assert_same(loaded["head"], params["head"])
    for path, leaf in trees.to_layers(params["adapters"]).items():
        place, kind = path.rsplit("/", 1)
        kept = np.asarray(trees.to_layers(params["adapters"])[f"{place}/e"]) != 0
        found = trees.to_layers(loaded["adapters"])[path]
        of = lambda leaf, k=kept, kind=kind: np.asarray(leaf)[k] if kind in "eb" else np.asarray(leaf)[:, k]
        np.testing.assert_array_equal(of(found), of(leaf), path)
    tensors = load_file(written / "adapter_model.safetensors")
    name = "base_model.model.bert.encoder.layer.1.{}.lora_A"
    assert tensors[name.format("attention.self.query")].shape == (0, 64)
    assert tensors[name.format("output.dense")].shape == (2, 128)


def test_a_regression_answers_on_the_scale_of_its_labels(small, tmp_path: Path):
    model, params = pruned()
    head = aj.Regression(mean=2.5, deviation=1.5)
    params = params | {"head": {"classifier": {"kernel": np.ones((64, 1), "f4"), "bias": np.ones(1, "f4")}}}
    save_peft(tmp_path, aj.Model(model.config, model.method, head), params, small)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    assert tensors["base_model.model.classifier.bias"].item() == 4.0
    assert set(tensors["base_model.model.classifier.weight"].ravel()) == {1.5}


def test_other_methods_and_heads_are_not_written(small, tmp_path: Path):
    model, params = pruned()
    with pytest.raises(ConfigError, match="method lora: expected adalora"):
        save_peft(tmp_path, aj.Model(model.config, aj.LoRA(), model.head), params, small)
    with pytest.raises(ConfigError, match="head masked_lm: expected classification or regression"):
        save_peft(tmp_path, aj.Model(model.config, model.method, aj.MaskedLM()), params, small)


def changed(folder: Path, **options) -> None:
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | options))


CONFIGS = {
    "another method": (dict(peft_type="LORA"), "expected an adapter of peft's ADALORA, got LORA"),
    "an option": (dict(use_rslora=True), "expected use_rslora False, got True, which we lack"),
    "a rank": (dict(init_r=3), "rank_pattern of .*: expected 3 values, got 4"),
    "a huge rank": (dict(init_r=10**9), "method.rank: expected at most the backbone's width 64"),
    "no length": (dict(total_step=0), "adapter_config.json: .*division by zero"),
    "a text": (dict(lora_alpha="many"), "adapter_config.json: "),
    "a pattern": (dict(rank_pattern=[1, 2]), "expected a rank_pattern of lists"),
    "no pattern": (dict(rank_pattern=None), "expected lora_A, lora_E, lora_B of rank 4, got"),
}


@pytest.mark.parametrize("options, message", CONFIGS.values(), ids=CONFIGS)
def test_a_config_that_does_not_fit_is_refused(options, message, written: Path, small):
    changed(written, **options)
    with pytest.raises(AdapterError, match=message):
        load_peft(written, small)


def test_tensors_that_do_not_fit_are_refused(written: Path, small):
    file = written / "adapter_model.safetensors"
    whole = load_file(file)
    query = "base_model.model.bert.encoder.layer.1.output.dense.lora_A"
    cases = {
        "unexpected strange": whole | {"strange": np.zeros(1, "f4")},
        "missing base_model.model.classifier.bias": {k: v for k, v in whole.items() if not k.endswith("bias")},
        "expected lora_A, lora_E, lora_B of rank 2": {k: v for k, v in whole.items() if k != query},
        "expected finite values": whole | {query: np.full((2, 128), np.nan, "f4")},
        r"ffn_out/a is float32\[127, 4\], expected float32\[128, 4\]": whole | {query: np.zeros((2, 127), "f4")},
        "expected changes of the same dense layers": {
            k.replace("layer.1.output.dense", "layer.0.output.dense"): v for k, v in whole.items()
        },
    }
    for message, tensors in cases.items():
        save_file(tensors, file)
        with pytest.raises(AdapterError, match=message):
            load_peft(written, small)
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(AdapterError, match="expected a safetensors file"):
        load_peft(written, small)
    (written / "adapter_config.json").unlink()
    with pytest.raises(AdapterError, match="adapter_config.json: expected a file"):
        load_peft(written, small)
