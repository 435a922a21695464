"""Adapters as peft's folders: those that peft wrote give its outputs, ours come back bit for bit."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import adapters_jax as aj
from adapters_jax import trees
from adapters_jax.bert import quant, weights
from adapters_jax.bert.backbone import Backbone
from adapters_jax.errors import AdapterError, ConfigError
from adapters_jax.interop import load_adapterhub, load_peft, save_adapterhub, save_hf, save_peft
from adapters_jax.interop.folders import read_config
from adapters_jax.interop.peft import KINDS
from adapters_jax.testing import assert_same
from parity import peft_cases, peft_ours
from tests.interop.drawn import LABELS, drawn

BOUND = 1e-5

TYPES = "ignore:.*on the bare encoder, peft drops token types:UserWarning"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "written_there" in metafunc.fixturenames:
        folder = Path(metafunc.config.getoption("--golden")) / "peft"
        metafunc.parametrize("written_there", sorted(path.name for path in folder.iterdir()))


@pytest.mark.filterwarnings(TYPES)
def test_a_folder_of_peft_gives_its_outputs(written_there: str, golden: Path):
    folder, small = golden / "peft" / written_there, peft_ours.backbone(pooler="pooler" not in written_there)
    model, params = load_peft(folder, small)
    bare = isinstance(model.head, aj.NoHead)
    assert peft_cases.gap(folder, peft_ours.outputs(written_there, model, params), bare) < BOUND


def test_what_stands_there_is_far_from_the_plain_backbone(golden: Path):
    folder, small = golden / "peft" / "lora-bare", peft_ours.backbone()
    plain = aj.Model(peft_ours.CONFIG, aj.HeadOnly(), aj.NoHead())
    params = {"backbone": small.params, "adapters": {}, "head": {}}
    assert peft_cases.gap(folder, peft_ours.outputs("lora-bare", plain, params), True) > 0.1


def test_every_kind_is_among_the_stored_ones(golden: Path):
    stored = {read_config(golden / "peft" / case / "adapter_config.json")["peft_type"] for case in peft_cases.STORED}
    assert stored == {kind.title for kind in KINDS if kind.read is not None}


EXACT = [
    name
    for name in peft_ours.CASES
    if not name.startswith(("adalora", "prefix-", "p_tuning", "lora-regression", "dropped"))
]


@pytest.mark.filterwarnings(TYPES)
@pytest.mark.parametrize("name", EXACT)
def test_there_and_back_bit_for_bit(name: str, tmp_path: Path):
    model, params, small = peft_ours.case(name)
    save_peft(tmp_path, model, params, small)
    again, loaded = load_peft(tmp_path, small)
    assert again.head == model.head
    for part in ("adapters", "head", "backbone"):
        assert_same(loaded[part], params[part])
    assert type(again.method) is (aj.LoRA if name.startswith("qlora") else type(model.method))
    assert again.method.layers == model.method.layers
    assert again.method.modules(model.config, 1) == model.method.modules(model.config, 1)
    assert again.method.positions(model.config) == model.method.positions(model.config)


@pytest.mark.filterwarnings(TYPES)
@pytest.mark.parametrize(
    "name", ["prefix-network-texts", "prefix-v2-tokens", "p_tuning-lstm-texts", "p_tuning-mlp-bare"]
)
def test_networks_are_evaluated(name: str, tmp_path: Path):
    model, params, small = peft_ours.case(name)
    save_peft(tmp_path, model, params, small)
    again, loaded = load_peft(tmp_path, small)
    flat, expected = model.flattened(params)
    assert_same(loaded["adapters"], expected["adapters"])
    assert again.method.positions(model.config) == flat.method.positions(model.config) == 5
    assert set(again.method.modules(model.config, 0)) == set(flat.method.modules(model.config, 0))


def test_pruned_triplets_of_adalora_are_left_out(tmp_path: Path):
    model, params, small = peft_ours.case("adalora-texts")
    save_peft(tmp_path, model, params, small)
    again, loaded = load_peft(tmp_path, small)
    assert again.method == peft_ours.ADALORA
    assert_same(loaded["head"], params["head"])
    own, found = trees.to_layers(params["adapters"]), trees.to_layers(loaded["adapters"])
    for path, leaf in own.items():
        place, kind = path.rsplit("/", 1)
        kept = np.asarray(own[f"{place}/e"]) != 0
        of = lambda each, kept=kept, kind=kind: np.asarray(each)[kept] if kind in "eb" else np.asarray(each)[:, kept]
        np.testing.assert_array_equal(of(found[path]), of(leaf), path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    name = "base_model.model.bert.encoder.layer.1.{}.lora_A"
    assert tensors[name.format("attention.self.query")].shape == (0, 64)
    assert tensors[name.format("output.dense")].shape == (2, 128)


def test_a_regression_answers_on_the_scale_of_its_labels(tmp_path: Path):
    model, params, small = peft_ours.case("lora-regression")
    save_peft(tmp_path, model, params, small)
    kernel, bias = (np.asarray(params["head"]["classifier"][kind]) for kind in ("kernel", "bias"))
    again, loaded = load_peft(tmp_path, small)
    assert again.head == aj.Regression()
    np.testing.assert_array_equal(loaded["head"]["classifier"]["kernel"], kernel * np.float32(1.5))
    np.testing.assert_array_equal(loaded["head"]["classifier"]["bias"], bias * np.float32(1.5) + np.float32(2.5))


def test_a_pooler_that_was_trained_takes_the_place_of_the_backbones(golden: Path):
    folder, small = golden / "peft" / "lora-pooler", peft_ours.backbone()
    model, params = load_peft(folder, small)
    assert model.head == aj.Classification(num_labels=3, own_pooler=True)
    assert peft_cases.gap(folder, peft_ours.outputs("lora-pooler", model, params), False) < BOUND


def test_labels_are_named_by_the_caller(golden: Path):
    folder, small = golden / "peft", peft_ours.backbone()
    names = ("no", "maybe", "yes")
    assert load_peft(folder / "lora-texts", small, labels=names)[0].head.labels == names
    assert load_peft(folder / "lora-tokens", small)[0].head.labels == ("0", "1", "2")
    with pytest.raises(ConfigError, match="labels: expected 3 names, one for each class, got 2"):
        load_peft(folder / "lora-texts", small, labels=names[:2])
    with pytest.raises(ConfigError, match="labels: expected no names, one for each class, got 3"):
        load_peft(folder / "lora-bare", small, labels=names)


def test_the_default_of_peft_scales_the_values_twice(golden: Path):
    tensors = load_file(golden / "peft" / "ia3-texts" / "adapter_model.safetensors")
    name = "base_model.model.bert.encoder.layer.1.attention.{}.ia3_l"
    expected = tensors[name.format("self.value")].ravel() * tensors[name.format("output.dense")].ravel()
    _, params = load_peft(golden / "peft" / "ia3-texts", peft_ours.backbone())
    np.testing.assert_array_equal(params["adapters"]["encoder"]["value"]["scale"][1], expected)


@pytest.mark.parametrize("case", ["lora-linear", "lora-dense"])
def test_a_pooler_that_lora_changed_is_the_heads_own(case: str, golden: Path, tmp_path: Path):
    model, params = load_peft(golden / "peft" / case, peft_ours.backbone())
    assert model.head == aj.Classification(num_labels=3, own_pooler=True)
    plain = np.asarray(params["backbone"]["pooler"]["kernel"])
    assert abs(np.asarray(params["head"]["pooler"]["kernel"]) - plain).max() > 0.01
    save_peft(tmp_path, model, params, peft_ours.backbone())
    again, loaded = load_peft(tmp_path, peft_ours.backbone())
    assert again == model
    assert_same(loaded, params)


@pytest.mark.parametrize("name", ["prefix-bare", "prompt-bare"])
def test_token_types_that_peft_drops_are_told(name: str, tmp_path: Path):
    model, params, small = peft_ours.case(name)
    with pytest.warns(UserWarning, match="peft drops token types with P.*not for pairs"):
        save_peft(tmp_path, model, params, small)
    with pytest.warns(UserWarning, match="peft drops token types"):
        load_peft(tmp_path, small)


AROUND = {
    "frozen": aj.Frozen(peft_ours.METHODS["lora"]),
    "dropped": aj.AdapterDrop(aj.LoRA(rank=2), drop=1),
    "both": aj.Frozen(aj.AdapterDrop(aj.IA3(), drop=1, robust=True)),
    "AdaLoRA": aj.AdapterDrop(aj.AdaLoRA(rank=2), drop=1),
    "nothing left out": aj.AdapterDrop(aj.LoRA(rank=2), robust=True),
}


@pytest.mark.parametrize("method", AROUND.values(), ids=AROUND)
def test_what_is_around_a_method_is_left_out(method: aj.Method, tmp_path: Path):
    small = peft_ours.backbone()
    model, params = drawn(small, method)
    save_peft(tmp_path, model, params, small)
    again, loaded = load_peft(tmp_path, small, labels=LABELS)
    of = method.of.of if isinstance(method.of, aj.AdapterDrop) else method.of
    left = (1,) if "drop=1" in repr(method) else None
    assert (type(again.method), again.method.layers) == (type(of), left)
    assert_same(loaded, params)
    batch = peft_cases.batch("lora-texts", False)
    np.testing.assert_array_equal(again.apply(loaded, batch).logits, model.apply(params, batch).logits)


@pytest.mark.parametrize("save", [save_peft, save_adapterhub])
def test_a_quantised_backbone_is_not_taken_for_a_plain_one(save, tmp_path: Path):
    small = peft_ours.backbone()
    small = dataclasses.replace(small, params=quant.quantise(small.params, "nf4")[0])
    model = aj.Model(small.config, aj.LoRA(rank=2, alpha=2.0), aj.Classification(num_labels=3))
    params = model.init(jax.random.key(0), small.params)
    with pytest.raises(ConfigError, match="backbone small: a quantised backbone: .*float backbone.*--to=hf.*'nf4'"):
        save(tmp_path / "out", model, params, small)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("save", [save_peft, save_adapterhub, save_hf])
@pytest.mark.parametrize("load", [load_peft, load_adapterhub])
def test_another_encoder_than_bert_is_refused(save, load, tmp_path: Path):
    config = aj.BertConfig.tiny(model_type="distilbert", type_vocab_size=0)
    params = weights.initialise(jax.random.key(0), config, pooler=False)
    small = Backbone(config, params, "0" * 64, "small")
    model = aj.Model(config, aj.LoRA(rank=2), aj.Classification(num_labels=3))
    with pytest.raises(ConfigError, match="backbone small: another encoder than BERT: .*native folder.*'distilbert'"):
        save(tmp_path / "out", model, model.init(jax.random.key(0), params), small)
    assert not (tmp_path / "out").exists()
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "adapter_config.json").write_text("{}")
    with pytest.raises(AdapterError, match="backbone small: another encoder than BERT"):
        load(tmp_path / "in", small)


REFUSED = {
    "another method": (aj.Houlsby(bottleneck=4), aj.NoHead(), "method houlsby: peft has no counterpart"),
    "left out, a network": (
        aj.AdapterDrop(aj.PTuningV2(length=5), drop=1),
        aj.NoHead(),
        "method adapter_drop: adapter_drop around another method than LoRA",
    ),
    "another head": (aj.LoRA(), aj.MaskedLM(), "head masked_lm: another head: .* expected classification"),
    "positions from 0": (
        aj.Prefix(5, bottleneck=0),
        aj.NoHead(),
        r"method prefix: positions that start at 0 .*--method",
    ),
    "chosen layers": (aj.PTuningV2(5, layers=(0,)), aj.NoHead(), "method p_tuning_v2: chosen layers: "),
    "after the LayerNorm": (aj.Prompt(5, insertion="encoder"), aj.NoHead(), "rows after the embeddings' LayerNorm"),
    "the true [CLS]": (
        aj.Prompt(5),
        aj.Classification(3),
        "reads the true .CLS. .read cls.: peft's reads the prompt's",
    ),
    "P-tuning's": (aj.PTuning(5), aj.Regression(), "method p_tuning: a classifier of texts that reads the true .CLS."),
    "the prompt for [CLS]": (
        aj.Prompt(5, read="first"),
        aj.TokenClassification(3),
        "another head that reads the prompt",
    ),
    "an ensemble": (aj.Prompt(5, ensemble=2), aj.NoHead(), "method prompt: an ensemble: peft has one prompt"),
}


@pytest.mark.parametrize("method, head, message", REFUSED.values(), ids=REFUSED)
def test_what_peft_has_no_equal_for_is_not_written(method, head, message, tmp_path: Path):
    with pytest.raises(ConfigError, match=message):
        save_peft(tmp_path / "out", aj.Model(peft_ours.CONFIG, method, head), {}, peft_ours.backbone())
    assert not (tmp_path / "out").exists()


def test_a_frozen_leaf_that_was_changed_is_not_left_out_silently(tmp_path: Path):
    model, params, small = peft_ours.case("lora-bare")
    changed = params | {"backbone": jax.tree.map(lambda leaf: leaf + 1, params["backbone"])}
    with pytest.raises(AdapterError, match="not saved, backbone/.* differs from the backbone's"):
        save_peft(tmp_path, model, changed, small)
    with pytest.raises(AdapterError, match="not saved, expected the model's own params"):
        save_peft(tmp_path, model, params | {"adapters": {}}, small)
