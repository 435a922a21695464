"""The artefact: what it holds, what a load verifies, and what it shows. Hostile folders: test_hostile_artefact.py."""

import dataclasses
import json
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

import adapters_jax as aj
from adapters_jax import artefact, testing, trees
from adapters_jax.bert.backbone import Backbone
from adapters_jax.checkpoint import Checkpoints
from adapters_jax.describe import describe, render
from adapters_jax.errors import AdapterError

LABELS = ("ja", "nein ☃", "weiß nicht")
METHODS = {
    "houlsby": aj.Houlsby(bottleneck=4),
    "houlsby-frozen-norms": aj.Houlsby(bottleneck=3, layer_norms=False, init_std=0.1 + 0.2, preset="paper"),
    "full": aj.Full(),
    "head": aj.HeadOnly(),
}


@dataclasses.dataclass(frozen=True)
class TopLayers(aj.Method):
    """Another's method, whose backbone leaves are trained in the last layer alone."""

    name: ClassVar[str] = "top"
    first: int = 1
    rates: tuple[float, ...] = ()

    @property
    def recipe(self):
        return aj.Recipe(lr=1e-3, epochs=1, source="a test")

    def modules(self, config, segment):
        return {}

    def trainable(self, path, config):
        parts = path.split("/")
        return parts[1] == "encoder" and int(parts[2]) >= self.first


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return testing.tiny_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return testing.tiny_backbone(tmp_path_factory.mktemp("bare"), seed=3, pooler=False)


def build(backbone: Backbone, method: aj.Method, head=None) -> tuple[aj.Model, dict]:
    """A model, and random trained leaves beside the backbone's own: compiling `init` would take most of the time."""
    model = aj.Model(backbone.config, method, head or aj.Classification(labels=LABELS))
    template = model.abstract(backbone.params)
    own, labels = trees.flatten({"backbone": backbone.params}), trees.flatten(model.labels(template))
    rng = np.random.default_rng(0)
    fresh = lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype)
    return model, trees.map_paths(lambda p, leaf: own[p] if labels[p] == "frozen" else fresh(leaf), template)


def entries(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", METHODS)
def test_what_is_saved_comes_back_bit_for_bit(tmp_path: Path, backbone: Backbone, bare: Backbone, name: str):
    for source in (backbone, bare):
        for head in (aj.Classification(labels=LABELS, dropout=0.3), aj.Regression()):
            model, params = build(source, METHODS[name], head)
            aj.save_adapter(tmp_path / "a", model, params, source)
            loaded, found = aj.load_adapter(tmp_path / "a", source)
            assert loaded == model and hash(loaded) == hash(model)
            testing.assert_same(found, params)
            assert jax.tree.structure(found) == jax.tree.structure(params)
            assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(found["head"]))


def test_what_is_stored_is_all_but_the_unchanged_backbone(tmp_path: Path, backbone: Backbone):
    norms = [f"backbone/embeddings/norm/{part}" for part in ("bias", "scale")]
    norms += [f"backbone/encoder/{i}/{n}_norm/{p}" for i in (0, 1) for n in ("attn", "ffn") for p in ("bias", "scale")]
    dense = [f"{side}/{part}" for side in ("down", "up") for part in ("bias", "kernel")]
    adapters = [f"adapters/encoder/{i}/{n}_merge/{d}" for i in (0, 1) for n in ("attn", "ffn") for d in dense]
    head = [f"head/classifier/{part}" for part in ("bias", "kernel")]
    every = [f"backbone/{path}" for path in trees.to_layers(backbone.params)]
    expected = {
        "houlsby": norms + adapters + head,
        "houlsby-frozen-norms": adapters + head,
        "full": every + head,
        "head": head,
    }
    for name, method in METHODS.items():
        model, params = build(backbone, method)
        aj.save_adapter(tmp_path / name, model, params, backbone)
        stored = load_file(tmp_path / name / "adapter.safetensors")
        assert sorted(stored) == sorted(expected[name])
        assert set(entries(tmp_path / name)["leaves"]) == set(stored)
        assert all(leaf.dtype == np.float32 for leaf in stored.values())
        flat = trees.to_layers(params)
        assert all(np.array_equal(leaf, flat[path]) for path, leaf in stored.items())
        names = sorted(path.name for path in (tmp_path / name).iterdir())
        assert names == ["README.md", "adapter.safetensors", "manifest.json"]


def test_a_pooler_that_the_backbone_lacks_is_stored_with_the_head(tmp_path: Path, bare: Backbone):
    model, params = build(bare, METHODS["houlsby"])
    aj.save_adapter(tmp_path / "a", model, params, bare)
    assert {"head/pooler/kernel", "head/pooler/bias"} <= set(load_file(tmp_path / "a" / "adapter.safetensors"))


def test_the_backbones_unchanged_leaves_are_shared(tmp_path: Path, backbone: Backbone):
    model, params = build(backbone, METHODS["houlsby"])
    aj.save_adapter(tmp_path / "a", model, params, backbone)
    _, found = aj.load_adapter(tmp_path / "a", backbone)
    own, loaded = trees.flatten(backbone.params), trees.flatten(found["backbone"])
    assert {path for path in own if own[path] is not loaded[path]} == {path for path in own if "norm/" in path}


def test_methods_of_others_and_layers_trained_in_part(tmp_path: Path, backbone: Backbone):
    model = aj.Model(backbone.config, TopLayers(first=1, rates=(0.5, 0.25)), aj.Regression())
    params = model.init(jax.random.key(0), backbone.params)
    aj.save_adapter(tmp_path / "a", model, params, backbone)
    stored = load_file(tmp_path / "a" / "adapter.safetensors")
    assert {path.split("/")[2] for path in stored if path.startswith("backbone/")} == {"1"}
    with pytest.raises(AdapterError, match="unknown method 'top': known are houlsby, .*full, head"):
        aj.load_adapter(tmp_path / "a", backbone)
    loaded, found = aj.load_adapter(tmp_path / "a", backbone, methods={"top": TopLayers})
    assert loaded == model
    testing.assert_same(found, params)


def test_the_manifest_tells_everything(tmp_path: Path, backbone: Backbone):
    model, params = build(backbone, METHODS["houlsby-frozen-norms"])
    aj.save_adapter(
        tmp_path / "a",
        model,
        params,
        backbone,
        task="mnli",
        scores={"accuracy": np.float32(1 / 3), "f1": 2 / 3},
        max_length=77,
        seed=5,
        data="toy",
        extra={"note": "größer", "rate": 1e-17},
    )
    found = artefact.read_manifest(tmp_path / "a")
    explicit = {
        "name": "houlsby",
        "bottleneck": 3,
        "preset": "paper",
        "activation": "gelu_new",
        "layer_norms": False,
        "dropout": 0.0,
        "init_std": 0.1 + 0.2,
    }
    assert {name: found["method"][name] for name in explicit} == explicit
    assert set(found["method"]) == {"name", *(field.name for field in dataclasses.fields(aj.Houlsby))}
    assert found["head"] == {
        "name": "classification",
        "num_labels": 3,
        "labels": list(LABELS),
        "dropout": 0.1,
        "own_pooler": False,
    }
    assert found["config"] == backbone.config.to_dict()
    own = {"fingerprint": backbone.fingerprint, "name": backbone.name, "revision": None, "quantization": None}
    assert found["backbone"] == own
    assert found["scores"] == {"accuracy": float(np.float32(1 / 3)), "f1": 2 / 3}
    assert [found[name] for name in ("task", "max_length", "seed", "data")] == ["mnli", 77, 5, "toy"]
    assert found["extra"] == {"note": "größer", "rate": 1e-17}
    assert {"jax", "flax", "optax", "adapters_jax", "python"} <= set(found["versions"])
    assert found["summary"]["adapter"] == 4 * (2 * 16 * 3 + 3 + 16)
    assert found["leaves"]["head/classifier/kernel"] == {"shape": [16, 3], "dtype": "float32", "label": "head"}
    weights = tmp_path / "a" / "adapter.safetensors"
    assert found["files"]["adapter.safetensors"]["size"] == weights.stat().st_size
    assert artefact.verify(tmp_path / "a") == []
    assert "größer" in (tmp_path / "a" / "manifest.json").read_text(encoding="utf-8")


def test_two_saves_of_one_model_are_the_same_bytes(tmp_path: Path, backbone: Backbone):
    model, params = build(backbone, METHODS["houlsby"])
    for name in ("a", "b"):
        aj.save_adapter(tmp_path / name, model, params, backbone)
    for file in ("adapter.safetensors", "manifest.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_another_dtype_of_backbone_and_computation(tmp_path: Path, backbone: Backbone):
    half = aj.load_backbone(str(backbone.folder), dtype="bfloat16")
    model, params = build(half, METHODS["houlsby"])
    model = dataclasses.replace(model, dtype="bfloat16")
    aj.save_adapter(tmp_path / "a", model, params, half)
    loaded, found = aj.load_adapter(tmp_path / "a", half)
    assert loaded == model and found["backbone"]["encoder"]["query"]["kernel"].dtype == jnp.bfloat16
    testing.assert_same(found, params)
    loaded, found = aj.load_adapter(tmp_path / "a", backbone)
    assert found["backbone"]["encoder"]["query"]["kernel"].dtype == jnp.float32
    testing.assert_same(found["adapters"], params["adapters"])


def test_an_artefact_is_replaced_and_nothing_else_is(tmp_path: Path, backbone: Backbone):
    model, params = build(backbone, METHODS["houlsby"])
    target = tmp_path / "runs" / "adapter"
    aj.save_adapter(target, model, params, backbone, seed=1)
    other = build(backbone, METHODS["head"])
    aj.save_adapter(target, *other, backbone, seed=2)
    assert aj.load_adapter(target, backbone)[0] == other[0]
    assert [path.name for path in target.parent.iterdir()] == ["adapter"]
    (target / "thesis.txt").write_text("mine")
    with pytest.raises(AdapterError, match=r"or an adapter to replace, found thesis.txt; choose another folder"):
        aj.save_adapter(target, model, params, backbone)
    assert aj.load_adapter(target, backbone)[0] == other[0]


@pytest.mark.parametrize("moment", ["weights", "manifest", "rename"])
def test_a_save_that_fails_leaves_what_was_there(tmp_path, backbone, monkeypatch, moment):
    model, params = build(backbone, METHODS["houlsby"])
    aj.save_adapter(tmp_path / "a", model, params, backbone, seed=1)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    if moment == "rename":
        rename = Path.rename
        monkeypatch.setattr(Path, "rename", lambda a, b: full() if a.name == ".a.partial" else rename(a, b))
    else:
        where = ("safetensors.numpy.save_file", "adapters_jax.manifest.write")[moment == "manifest"]
        monkeypatch.setattr(where, full)
    with pytest.raises(AdapterError, match="cannot be written: the disk is full; free some space and start again"):
        aj.save_adapter(tmp_path / "a", model, params, backbone, seed=2)
    monkeypatch.undo()
    assert artefact.read_manifest(tmp_path / "a")["seed"] == 1 and artefact.verify(tmp_path / "a") == []
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, backbone: Backbone):
    model, params = build(backbone, METHODS["head"])
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "adapter"):
        with pytest.raises(AdapterError, match="cannot be written") as error:
            aj.save_adapter(folder, model, params, backbone)
        assert "\n" not in str(error.value)
    for bad in ({"extra": {"x": object()}}, {"scores": {"f1": float("nan")}}):
        with pytest.raises(AdapterError, match="cannot be written"):
            aj.save_adapter(tmp_path / "a", model, params, backbone, **bad)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_params_that_would_not_load_are_not_saved(tmp_path: Path, backbone: Backbone):
    model, params = build(backbone, METHODS["houlsby"])
    change = lambda wanted, function: trees.map_paths(lambda p, x: function(x) if p == wanted else x, params)
    cases = {
        r"unexpected head/more": params | {"head": params["head"] | {"more": jnp.zeros(1)}},
        r"missing head/classifier/bias; missing head": params | {"head": {}},
        r"head/classifier/bias is float32\[2\], expected": change("head/classifier/bias", lambda x: x[:2]),
        r"head/classifier/bias is bfloat16": change("head/classifier/bias", lambda x: x.astype(jnp.bfloat16)),
        r"expected finite values, got NaN or infinity in head/classifier/bias": change(
            "head/classifier/bias", lambda x: x.at[1].set(jnp.nan)
        ),
        r"backbone/encoder/query/bias differs from the backbone's": change(
            "backbone/encoder/query/bias", lambda x: x + 1
        ),
    }
    for message, wrong in cases.items():
        with pytest.raises(AdapterError, match=message):
            aj.save_adapter(tmp_path / "a", model, wrong, backbone)
    assert not any(tmp_path.iterdir())


def test_another_backbone_is_refused_with_both_fingerprints(tmp_path: Path, backbone: Backbone, bare: Backbone):
    model, params = build(backbone, METHODS["houlsby"])
    aj.save_adapter(tmp_path / "a", model, params, backbone)
    with pytest.raises(AdapterError) as error:
        aj.load_adapter(tmp_path / "a", bare)
    for part in (backbone.fingerprint, backbone.name, bare.fingerprint, bare.name, "load that backbone"):
        assert part in str(error.value)
    other = dataclasses.replace(backbone, config=dataclasses.replace(backbone.config, hidden_dropout_prob=0.2))
    with pytest.raises(AdapterError, match=r"another; its and the backbone's: hidden_dropout_prob 0.1 and 0.2"):
        aj.load_adapter(tmp_path / "a", other)


def test_describe_an_artefact(tmp_path: Path, backbone: Backbone):
    model, params = build(backbone, METHODS["houlsby"])
    aj.save_adapter(tmp_path / "a", model, params, backbone, task="mnli", scores={"accuracy": 0.81254})
    found = describe(tmp_path / "a")
    assert json.loads(json.dumps(found)) == found
    assert found["kind"] == "adapter" and found["problems"] == [] and found["method"]["bottleneck"] == 4
    text = render(found)
    for part in (
        "houlsby(activation=gelu_new, bottleneck=4",
        ", ".join(LABELS),
        backbone.fingerprint,
        "accuracy 0.8125",
        "adapters/encoder/*/attn_merge/down/kernel  2 x float32 16x4",
        "hashes      all hold",
    ):
        assert part in text
    weights = tmp_path / "a" / "adapter.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    assert "1 do not hold" in render(describe(tmp_path / "a"))
    (tmp_path / "a" / "manifest.json").write_text("{")
    assert "expected readable JSON" in render(describe(tmp_path / "a"))


def test_describe_checkpoints_and_runs(tmp_path: Path, backbone: Backbone):
    model, params = build(backbone, METHODS["houlsby"])
    trained, _ = trees.split(params, model.labels(params))
    run = {"method": model.method.to_dict(), "head": model.head.to_dict(), "backbone": backbone.fingerprint}
    with Checkpoints(tmp_path / "run" / "checkpoints") as store:
        store.save(1, {"trained": trained}, {"accuracy": 0.25}, 0.25, {"run": run})
        store.save(2, {"trained": trained}, {"accuracy": 0.5}, 0.5, {"run": run})
    found = describe(tmp_path / "run" / "checkpoints")
    assert [step["step"] for step in found["steps"]] == [1, 2] and found["problems"] == []
    assert found["method"]["name"] == "houlsby" and found["metrics"] == {"accuracy": 0.5}
    for part in ("step        2: ", "score 0.5000, whole", "trained/adapters/encoder", backbone.fingerprint):
        assert part in render(found)
    assert describe(tmp_path / "run" / "checkpoints" / "1")["kind"] == "checkpoint"
    aj.save_adapter(tmp_path / "run" / "adapter", model, params, backbone)
    whole = describe(tmp_path / "run")
    assert whole["kind"] == "run" and whole["problems"] == []
    assert ": adapter\n" in render(whole) and ": checkpoints\n" in render(whole)
    (tmp_path / "run" / "checkpoints" / "2" / "manifest.json").unlink()
    assert describe(tmp_path / "run")["problems"] == ["checkpoints: 2: manifest.json: expected a file, found none"]
    assert "step        2: " in render(describe(tmp_path / "run"))


def test_describe_what_is_none_of_these(tmp_path: Path):
    for folder, message in ((tmp_path, "found none of them"), (tmp_path / "none", "expected a folder, found none")):
        with pytest.raises(AdapterError, match=message):
            describe(folder)


def test_mnli_on_minilm_is_small_and_holds_no_frozen_leaf(minilm, tmp_path):
    labels = ("entailment", "neutral", "contradiction")
    model = aj.Model(minilm.config, aj.Houlsby(bottleneck=64), aj.Classification(labels=labels))
    aj.save_adapter(tmp_path / "mnli", model, model.init(jax.random.key(0), minilm.params), minilm)
    assert sum(file.stat().st_size for file in (tmp_path / "mnli").iterdir()) < 5_000_000
    names = set(load_file(tmp_path / "mnli" / "adapter.safetensors"))
    norms = {f"backbone/encoder/{i}/{s}_norm/{p}" for i in range(6) for s in ("attn", "ffn") for p in ("scale", "bias")}
    assert {n for n in names if n.startswith("backbone/")} == norms | {
        f"backbone/embeddings/norm/{p}" for p in ("scale", "bias")
    }
