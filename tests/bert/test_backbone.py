"""Loading backbones: both namings, with and without prefix and pooler; strict; the fingerprint; hub errors."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import adapters_jax as aj
from adapters_jax import testing, trees
from adapters_jax.bert import backbone as loading
from adapters_jax.bert import convert, weights
from adapters_jax.errors import BackboneError


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    return testing.write_backbone(tmp_path_factory.mktemp("weights") / "tiny")


@pytest.fixture
def folder(written, tmp_path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "tiny"))


def rewrite(folder: Path, change) -> Path:
    tensors = change(load_file(folder / "model.safetensors"))
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_round_trip(written):
    loaded = aj.load_backbone(str(written))
    assert loaded.config == aj.BertConfig.tiny() and loaded.has_pooler and loaded.revision is None
    testing.assert_same(loaded.params, weights.initialise(jax.random.key(0), loaded.config))
    released = convert.released_weights(loaded.params, loaded.config)
    stored = load_file(written / "model.safetensors")
    assert set(released) == set(stored)
    for name, tensor in stored.items():
        np.testing.assert_array_equal(released[name], tensor, err_msg=name)


def test_the_tree_is_the_table(written):
    loaded = aj.load_backbone(str(written))
    expected = weights.abstract(loaded.config)
    assert list(trees.flatten(loaded.params)) == list(trees.flatten(expected))
    assert jax.tree.map(lambda leaf: leaf.shape, loaded.params) == jax.tree.map(lambda leaf: leaf.shape, expected)
    assert trees.flatten(loaded.params)["encoder/ffn_in/kernel"].shape == (2, 16, 32)
    assert trees.count(weights.abstract(aj.BertConfig.base())) == 109_482_240
    assert trees.count(weights.abstract(aj.BertConfig.large())) == 335_141_888


def old_names(tensors):
    return {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in tensors.items()
    }


def prefixed(tensors):
    extra = {"cls.predictions.bias": np.zeros(3, np.float32), "classifier.weight": np.zeros((2, 16), np.float32)}
    return {f"bert.{name}": tensor for name, tensor in tensors.items()} | extra


def with_buffers(tensors):
    return tensors | {"embeddings.position_ids": np.arange(64)[None]}


@pytest.mark.parametrize("change", [old_names, prefixed, with_buffers, lambda t: prefixed(old_names(with_buffers(t)))])
def test_namings_of_releases_load_alike(folder, written, change):
    plain, other = aj.load_backbone(str(written)), aj.load_backbone(str(rewrite(folder, change)))
    testing.assert_same(plain.params, other.params)
    assert plain.fingerprint == other.fingerprint


def test_shards_load_as_one_file(folder, written):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    shards = {"a.safetensors": names[:20], "b.safetensors": names[20:]}
    for file, part in shards.items():
        save_file({name: tensors[name] for name in part}, folder / file)
    index = {"weight_map": {name: file for file, part in shards.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    testing.assert_same(aj.load_backbone(str(folder)).params, aj.load_backbone(str(written)).params)
    (folder / "b.safetensors").unlink()
    with pytest.raises(BackboneError, match=r"names files that are not there: b\.safetensors"):
        aj.load_backbone(str(folder))


def test_half_precision_files_are_read_in_the_type_asked_for(folder):
    rewrite(folder, lambda t: {name: tensor.astype(np.float16) for name, tensor in t.items()})
    assert {leaf.dtype for leaf in jax.tree.leaves(aj.load_backbone(str(folder)).params)} == {np.dtype("float32")}


def test_bfloat16_storage(written):
    loaded, full = aj.load_backbone(str(written), dtype="bfloat16"), aj.load_backbone(str(written))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(loaded.params)} == {"bfloat16"}
    assert loaded.fingerprint == full.fingerprint


def test_fingerprint_follows_every_bit_and_the_config(folder, written):
    first = aj.load_backbone(str(written)).fingerprint
    assert len(first) == 64

    def flip(tensors):
        tensors["encoder.layer.1.output.dense.bias"] = tensors["encoder.layer.1.output.dense.bias"] + np.float32(1e-30)
        return tensors

    assert aj.load_backbone(str(rewrite(folder, flip))).fingerprint != first
    config = json.loads((written / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 1e-5}))
    shutil.copy(written / "model.safetensors", folder)
    assert aj.load_backbone(str(folder)).fingerprint != first


def test_a_checkpoint_without_pooler(tmp_path):
    loaded = testing.tiny_backbone(tmp_path / "b", pooler=False)
    assert not loaded.has_pooler and set(loaded.params) == {"embeddings", "encoder"}


def test_small_mlm_release_loads():
    """Legacy LayerNorm names, `bert.` prefix, an MLM head, no pooler."""
    import importlib.util

    spec = importlib.util.find_spec("cognition")
    loaded = aj.load_backbone(str(Path(spec.origin).parent / "model"))
    assert (loaded.config.num_hidden_layers, loaded.config.hidden_size, loaded.has_pooler) == (2, 128, False)
    assert loaded.tokenizer("hello world")["input_ids"] == [101, 7592, 2088, 102]


def test_minilm_is_installed(minilm):
    assert (minilm.config.num_hidden_layers, minilm.config.hidden_size) == (6, 384)
    assert minilm.has_pooler and trees.count(minilm.params) == 22_713_216


def drop(name):
    return lambda t: {key: value for key, value in t.items() if key != name}


def put(name, tensor):
    return lambda t: t | {name: tensor}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (drop("encoder.layer.1.attention.self.key.weight"), r"missing encoder\.layer\.1\.attention\.self\.key\.weight"),
        (drop("pooler.dense.bias"), r"missing pooler\.dense\.bias"),
        (put("encoder.layer.2.output.dense.bias", np.zeros(16, np.float32)), r"unexpected encoder\.layer\.2\.output"),
        (
            put("pooler.dense.weight", np.zeros((16, 15), np.float32)),
            r"pooler\.dense\.weight is \[16, 15\], expected \[16, 16\]",
        ),
        (
            put("pooler.dense.bias", np.full(16, np.nan, np.float32)),
            r"pooler\.dense\.bias holds values that are not finite",
        ),
        (put("bert.pooler.dense.bias", np.zeros(16, np.float32)), r"two tensors are both pooler\.dense\.bias"),
    ],
)
def test_wrong_weights_are_named(folder, change, match):
    with pytest.raises(BackboneError, match=match) as error:
        aj.load_backbone(str(rewrite(folder, change)))
    assert "\n" not in str(error.value) and "model.safetensors" in str(error.value)


def test_many_problems_are_counted(folder):
    rewrite(folder, lambda t: {name: tensor for name, tensor in t.items() if "layer.0" not in name})
    with pytest.raises(BackboneError, match=r"and 10 more$"):
        aj.load_backbone(str(folder))


@pytest.mark.parametrize("length", [0, 4, 100, 5000])
def test_truncated_weights(folder, length):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(BackboneError, match="not a whole safetensors file") as error:
        aj.load_backbone(str(folder))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (None, "expected config.json beside the weights"),
        ("{", "not a readable JSON file"),
        ("[1]", "expected a JSON object, got list"),
        ('{"model_type": "albert"}', "model_type must be 'bert', 'roberta', .*, 'electra', got 'albert'"),
        ('{"hidden_size": "wide"}', "hidden_size must be of type int, got 'wide'"),
    ],
)
def test_wrong_configs(folder, text, match):
    (folder / "config.json").unlink()
    if text is not None:
        (folder / "config.json").write_text(text)
    with pytest.raises(BackboneError, match=match):
        aj.load_backbone(str(folder))


def test_pickled_weights_are_refused_with_the_reason(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(BackboneError, match=r"found pytorch_model\.bin, a pickle, which can run code.*--allow-pickle"):
        aj.load_backbone(str(folder))


def test_a_folder_without_a_tokenizer_says_so(folder):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.raises(BackboneError, match=r"expected tokenizer\.json or vocab\.txt"):
        _ = aj.load_backbone(str(folder)).tokenizer


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "a/b/c"])
def test_a_missing_folder_is_not_looked_up_on_the_hub(name, monkeypatch):
    monkeypatch.setattr(loading, "_fetched", lambda *_: pytest.fail("asked the hub"))
    with pytest.raises(BackboneError, match="expected a folder with"):
        aj.load_backbone(name)


def test_offline_the_local_folder_way_is_named(monkeypatch):
    import huggingface_hub

    def unreachable(*_, **__):
        raise huggingface_hub.errors.LocalEntryNotFoundError("no network\nand no cache")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(BackboneError, match="the hub cannot be reached.*or give a local folder") as error:
        aj.load_backbone("bert-base-uncased")
    assert "\n" not in str(error.value)


def test_a_hub_snapshot_records_its_commit(monkeypatch, written, tmp_path):
    import huggingface_hub

    snapshot = Path(shutil.copytree(written, tmp_path / "snapshots" / "0123abc"))
    asked = {}

    def download(name, **options):
        asked.update(options, name=name)
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    loaded = aj.load_backbone("someone/bert-tiny", revision="main")
    assert (loaded.revision, loaded.name, asked["revision"]) == ("0123abc", "someone/bert-tiny", "main")
    assert not any(pattern.endswith(".bin") for pattern in asked["allow_patterns"])
