"""A quantised backbone as a whole: artefacts, resuming, serving, shardings, and how much memory loading takes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import adapters_jax as aj
from adapters_jax import artefact, manifest, testing, trees
from adapters_jax.bert import quant, weights
from adapters_jax.errors import AdapterError, CheckpointError

pytestmark = pytest.mark.slow

CONFIG = aj.BertConfig.tiny(num_hidden_layers=2, hidden_size=32, intermediate_size=64)
TEXTS = ["the cat is good", "a dog is bad", "who is the man", "not the woman"]
ROWS = [{"text": text, "label": n % 2} for n, text in enumerate(TEXTS * 2)]
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return testing.write_backbone(tmp_path_factory.mktemp("weights") / "tiny", CONFIG)


@pytest.fixture(scope="module")
def backbones(folder: Path) -> dict[str | None, aj.Backbone]:
    return {kind: aj.load_backbone(str(folder), quantize=kind) for kind in (None, *quant.KINDS)}


@pytest.fixture(scope="module")
def trained(backbones: dict) -> tuple[aj.Model, dict]:
    """A model over the NF4 backbone, away from where it starts."""
    model = aj.Model(CONFIG, aj.QLoRA(rank=4), aj.Classification(num_labels=2))
    params = model.init(jax.random.key(0), backbones["nf4"].params)
    return model, params | {part: testing.perturb(params[part]) for part in ("adapters", "head")}


def test_the_artefact_says_how_the_backbone_was_quantised(backbones: dict, trained: tuple, tmp_path: Path):
    aj.save_adapter(tmp_path / "a", *trained, backbones["nf4"])
    recorded = artefact.read_manifest(tmp_path / "a")["backbone"]
    assert recorded["quantization"] == "nf4" and recorded["fingerprint"] == backbones[None].fingerprint
    assert all(name.startswith(("adapters/", "head/")) for name in artefact.read_manifest(tmp_path / "a")["leaves"])
    model, params = aj.load_adapter(tmp_path / "a", backbones["nf4"])
    testing.assert_same(params, trained[1])
    assert model == trained[0]


def test_an_adapter_goes_onto_any_form_of_its_backbone(backbones: dict, trained: tuple, tmp_path: Path):
    """And answers nearly alike; another backbone is refused as ever."""
    aj.save_adapter(tmp_path / "a", *trained, backbones["nf4"])
    answers = {}
    for kind, backbone in backbones.items():
        model, params = aj.load_adapter(tmp_path / "a", backbone)
        assert quant.kind_of(params["backbone"]) == kind
        testing.assert_same(params["adapters"], trained[1]["adapters"])
        answers[kind] = [answer["scores"] for answer in aj.Predictor(model, params, backbone, max_length=16)(TEXTS)]
    scores = {kind: np.array([list(each.values()) for each in found]) for kind, found in answers.items()}
    assert 0 < np.abs(scores["int8"] - scores[None]).max() < 0.01
    assert 0 < np.abs(scores["nf4"] - scores[None]).max() < 0.1
    with pytest.raises(AdapterError, match="expected the backbone it was trained on"):
        aj.load_adapter(tmp_path / "a", testing.tiny_backbone(tmp_path / "b", CONFIG, seed=5))


def test_manifests_from_before_still_load(backbones: dict, trained: tuple, tmp_path: Path):
    aj.save_adapter(tmp_path / "a", *trained, backbones["nf4"])
    content = artefact.read_manifest(tmp_path / "a")
    del content["backbone"]["quantization"]
    own = {name: value for name, value in content.items() if name not in ("files", "sha256")}
    manifest.write(tmp_path / "a", own)
    assert "quantization" not in artefact.read_manifest(tmp_path / "a")["backbone"]
    testing.assert_same(aj.load_adapter(tmp_path / "a", backbones["nf4"])[1], trained[1])


def test_params_of_another_form_of_the_backbone_are_not_saved(backbones: dict, trained: tuple, tmp_path: Path):
    """The manifest would say what they were not trained on."""
    for kind in (None, "int8"):
        with pytest.raises(AdapterError, match="not saved, (backbone/encoder/query/kernel differs|expected the model)"):
            aj.save_adapter(tmp_path / "a", *trained, backbones[kind])
    assert not (tmp_path / "a").exists()


def test_tasks_share_one_quantised_backbone(backbones: dict, trained: tuple):
    model, params = trained
    other = model.init(jax.random.key(5), backbones["nf4"].params)
    joined, together = aj.together({"a": (model, params), "b": (model, other)})
    answers = aj.Predictor(joined, together, backbones["nf4"], max_length=16)(TEXTS)
    alone = aj.Predictor(model, params, backbones["nf4"], max_length=16)(TEXTS)
    for both, one in zip(answers, alone, strict=True):
        np.testing.assert_allclose(
            list(both["a"]["scores"].values()), list(one["scores"].values()), rtol=1e-4, atol=1e-5
        )
    plain = model.init(jax.random.key(5), backbones["int8"].params)
    with pytest.raises(aj.AdaptersJaxError, match="expected one backbone, a and b differ in encoder/query/kernel"):
        aj.together({"a": (model, params), "b": (model, plain)})


def fit(backbone: aj.Backbone, out: Path, steps: int = 4, **overrides: Any) -> Any:
    model = aj.Model(CONFIG, aj.QLoRA(rank=4), aj.Classification(num_labels=2))
    settings = dict(steps=steps, batch_size=4, max_length=16, lr=1e-2, save_every=2, keep="last", quiet=True)
    params = model.init(jax.random.key(0), backbone.params)
    return aj.fit(model, params, backbone, ROWS, ROWS, out_dir=out, **settings | overrides)[1]


def test_training_moves_no_code_and_is_not_resumed_over_another_quantisation(backbones: dict, tmp_path: Path):
    report = fit(backbones["nf4"], tmp_path / "run")
    assert trees.diff(report.params["backbone"], backbones["nf4"].params) == []
    assert any(np.any(leaf) for path, leaf in trees.flatten(report.params["adapters"]).items() if path.endswith("/b"))
    files = [path.name for path in (tmp_path / "run" / "checkpoints").rglob("*") if path.is_file()]
    assert files and not [name for name in files if "backbone" in name]
    again = fit(backbones["nf4"], tmp_path / "run")
    testing.assert_same(again.params, report.params)
    with pytest.raises(CheckpointError, match="quantize is 'nf4' there and 'int8' here"):
        fit(backbones["int8"], tmp_path / "run")
    with pytest.raises(CheckpointError, match="another configuration: quantize"):
        fit(backbones[None], tmp_path / "run")


SHARDED = """
import jax, numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P
import adapters_jax as aj
from adapters_jax import testing, trees
from adapters_jax.bert import quant, weights

config = aj.BertConfig.tiny(num_hidden_layers=2, hidden_size=64, intermediate_size=128, num_attention_heads=8)
mesh = jax.make_mesh((8,), ("model",), axis_types=(AxisType.Auto,))
floats = weights.initialise(jax.random.key(0), config)
batch = testing.fake_batch(config, rows=2, length=8)
for kind in quant.KINDS:
    model = aj.Model(config, aj.QLoRA(rank=4), aj.Classification(num_labels=3))
    params = model.init(jax.random.key(0), quant.quantise(floats, kind)[0])
    params |= {part: testing.perturb(params[part]) for part in ("adapters", "head")}
    trained, frozen = trees.split(params, model.labels(params))

    def place(leaf):
        over_outputs = leaf.ndim > 2 and leaf.dtype in (np.uint8, np.int8)
        return jax.device_put(leaf, NamedSharding(mesh, P(None, "model") if over_outputs else P()))

    shared = jax.tree.map(place, frozen)
    codes = shared["backbone"]["encoder"]["ffn_in"]["kernel"].codes
    assert codes.addressable_shards[0].data.shape[1] * 8 == codes.shape[1] == 128, codes.sharding
    gradient_of = jax.jit(jax.value_and_grad(lambda t, f: model.loss(trees.join(t, f), batch)[0]))
    (value, found), (expected, plain) = gradient_of(trained, shared), gradient_of(trained, frozen)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for path, leaf in trees.flatten(found).items():
        other = np.asarray(trees.flatten(plain)[path])
        np.testing.assert_allclose(leaf, other, rtol=1e-4, atol=1e-5 * max(1e-3, abs(other).max()), err_msg=path)
    print(kind, jax.device_count())
"""


def test_codes_are_sharded_over_outputs():
    """On 8 virtual devices: the same loss and gradients as on one."""
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", SHARDED], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["nf4", "8", "int8", "8"]


WATCHED = """
import json, sys, threading, time
from pathlib import Path
import jax
import adapters_jax as aj
from adapters_jax import trees
from adapters_jax.bert import convert, quant

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

import safetensors.numpy, ml_dtypes
before, peak, done = anonymous(), [0], threading.Event()
def watch():
    while not done.is_set():
        peak[0] = max(peak[0], anonymous())
        time.sleep(0.002)
watcher = threading.Thread(target=watch)
watcher.start()
backbone = aj.load_backbone(sys.argv[1], quantize="nf4")
done.set()
watcher.join()
sizes = {path: leaf.nbytes for path, leaf in trees.flatten(backbone.params).items()}
quantised = [path for path, leaf in trees.flatten(backbone.params).items() if isinstance(leaf, quant.Quantised)]
print(json.dumps({
    "grown": peak[0] - before,
    "quantised": sum(sizes[path] for path in quantised),
    "embeddings": sum(size for path, size in sizes.items() if path.startswith("embeddings/")),
    "elements": trees.count({path: trees.flatten(backbone.params)[path] for path in quantised}),
    "leaves": len(quantised),
}))
"""


def write_large(folder: Path) -> int:
    """BERT-large with random weights, written tensor by tensor; returns the bytes of its weights."""
    config = aj.BertConfig.large()
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"} | config.to_dict()))
    rows = list(weights.numbered(config))
    shapes = {row.released: row.shape(config)[:: -1 if row.transposed else 1] for row in rows}
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    draw = np.random.default_rng(0)
    with (folder / "model.safetensors").open("wb") as file:
        encoded = json.dumps(header).encode()
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for shape in shapes.values():
            file.write((draw.standard_normal(int(np.prod(shape)), np.float32) * np.float32(0.02)).tobytes())
    return end


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_bert_large_is_quantised_while_it_is_read(tmp_path: Path):
    """The float model is 1.34 GB; mapped pages of the file do not count, anonymous memory does."""
    assert write_large(tmp_path / "large") == 4 * 335_141_888
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, str(tmp_path / "large")], cwd=ROOT, capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    print(found)
    assert found["leaves"] == 6 and found["elements"] == 24 * 12 * 1024**2
    assert found["quantised"] < 0.17e9
    assert 8 * found["quantised"] / found["elements"] == pytest.approx(4.127, abs=1e-3)
    assert found["embeddings"] == 4 * 1024 * (30_522 + 512 + 2 + 2) < 0.13e9
    assert found["grown"] < 0.6e9
