"""Artefacts that were damaged on the way or made by someone unfriendly: refused in one line, never loaded in part."""

import json
import os
import random
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import safetensors.numpy

import adapters_jax as aj
from adapters_jax import artefact, manifest, testing
from adapters_jax.bert.backbone import Backbone
from adapters_jax.describe import describe, render
from adapters_jax.errors import AdapterError, AdaptersJaxError

FILES = ("adapter.safetensors", "manifest.json")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return testing.tiny_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, backbone: Backbone) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "adapter"
    model = aj.Model(backbone.config, aj.Houlsby(bottleneck=4), aj.Classification(labels=("no", "yes")))
    aj.save_adapter(folder, model, jax.jit(model.init)(jax.random.key(0), backbone.params), backbone)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "adapter"))


def refused(folder: Path, backbone: Backbone) -> str:
    """The one line with which the folder is refused; describing it does not fail in another way."""
    with pytest.raises(AdapterError) as error:
        aj.load_adapter(folder, backbone)
    message = str(error.value)
    assert "\n" not in message and len(message) < 1500
    try:
        render(describe(folder))
    except AdaptersJaxError as other:
        assert "\n" not in str(other)
    return message


def resign(folder: Path, change: Callable[[dict[str, Any]], Any] = lambda content: None) -> None:
    """Writes the manifest anew so that all of its hashes hold, as whoever made the folder can."""
    content = json.loads((folder / "manifest.json").read_text())
    change(content)
    (folder / "manifest.json").unlink()
    manifest.write(folder, {key: value for key, value in content.items() if key not in ("files", "sha256")})


def rewrite(folder: Path, change: Callable[[dict[str, np.ndarray]], Any]) -> None:
    """Changes the leaves, keeping the hashes right."""
    path = folder / "adapter.safetensors"
    flat = {name: leaf.copy() for name, leaf in safetensors.numpy.load_file(path).items()}
    change(flat)
    safetensors.numpy.save_file(flat, path)
    resign(folder)


@pytest.mark.parametrize("file", FILES)
def test_no_flipped_bit_loads(folder: Path, backbone: Backbone, file: str):
    rng = random.Random(0)
    path = folder / file
    whole = path.read_bytes()
    for _ in range(150):
        at, bit = rng.randrange(len(whole)), rng.randrange(8)
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
        refused(folder, backbone)
    path.write_bytes(whole)
    aj.load_adapter(folder, backbone)


@pytest.mark.parametrize("file", FILES)
def test_no_part_of_a_file_loads(folder: Path, backbone: Backbone, file: str):
    path = folder / file
    whole = path.read_bytes()
    lengths = {0, 1, 7, 8, 9, len(whole) // 2, len(whole) - 1, *random.Random(1).sample(range(len(whole)), 20)}
    for length in lengths:
        path.write_bytes(whole[:length])
        refused(folder, backbone)
    path.write_bytes(whole + b" ")
    refused(folder, backbone)
    path.unlink()
    assert f"{file}: expected a file, found none" in refused(folder, backbone)
    path.mkdir()
    assert f"{file}: expected a file, found none" in refused(folder, backbone)


@pytest.mark.parametrize("file", FILES)
def test_links_and_pipes_are_not_followed(folder: Path, backbone: Backbone, file: str):
    path = folder / file
    path.rename(folder.parent / file)
    path.symlink_to(folder.parent / file)
    assert re.search(f"{file}: expected a (plain )?file", refused(folder, backbone))
    path.unlink()
    os.mkfifo(path)
    assert f"{file}: expected a" in refused(folder, backbone)


def test_files_that_the_manifest_does_not_name_are_not_read(folder: Path, backbone: Backbone):
    (folder / "README.md").write_text("a description from the hub")
    (folder / "adapter.pkl").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    aj.load_adapter(folder, backbone)
    assert describe(folder)["problems"] == []


def test_no_folder_and_a_file_instead(folder: Path, backbone: Backbone):
    assert "expected the folder of an adapter, found none" in refused(folder / "none", backbone)
    assert "expected the folder of an adapter, found a file" in refused(folder / "manifest.json", backbone)
    assert artefact.verify(folder / "none") and artefact.verify(folder) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.update({"../../etc/passwd": f.pop("head/classifier/bias")}), "missing head/classifier/bias"),
        (
            lambda f: f.update({"/tmp/x": np.zeros(2, np.float32)}),
            "expected at most [0-9]+ bytes of tensors|unexpected /tmp/x",
        ),
        (lambda f: f.pop("adapters/encoder/1/ffn_merge/up/bias"), "expected 5[0-9]* bytes of leaves|missing adapters"),
        (lambda f: f.update({"head/classifier/bias": np.zeros(2, np.int32)}), r"bias is int32\[2\], expected float32"),
        (lambda f: f.update({"head/classifier/bias": np.zeros(4, np.float16)}), r"bias is float16\[4\], expected"),
        (lambda f: f.update({"head/classifier/bias": np.zeros((2, 1), np.float32)}), r"float32\[2, 1\], expected"),
        (lambda f: f["head/classifier/bias"].fill(np.nan), "NaN or infinity in head/classifier/bias"),
        (lambda f: f["adapters/encoder/1/ffn_merge/up/bias"].fill(np.inf), "NaN or infinity in adapters/encoder/1"),
        (lambda f: f.update({str(i): np.zeros(0, np.float32) for i in range(20_000)}), "header of at most"),
    ],
)
def test_leaves_that_are_not_the_models(folder: Path, backbone: Backbone, change, message):
    rewrite(folder, change)
    with pytest.raises(AdapterError, match=message):
        aj.load_adapter(folder, backbone)
    refused(folder, backbone)


def raw(folder: Path, header: Any, data: bytes, length: int | None = None) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    (folder / "adapter.safetensors").write_bytes(
        struct.pack("<Q", len(text) if length is None else length) + text + data
    )
    resign(folder)


def test_weights_files_made_by_hand(folder: Path, backbone: Backbone):
    """Hashes and size are right in all of them."""
    leaves = json.loads((folder / "manifest.json").read_text())["leaves"]
    size = sum(int(np.prod(leaf["shape"])) * 4 for leaf in leaves.values())
    entry = lambda shape, start, stop, dtype="F32": {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}
    data = bytes(size)
    cases = [
        ({}, None),
        ({"a": entry([size // 4], 0, size)}, None),
        ({"a": entry([2**62, 2**62], 0, size)}, None),
        ({"a": entry([-1], 0, size)}, None),
        ({"a": entry([size], 0, size, "F8_E4M3")}, None),
        ({"a": entry([size], 0, size, "Q9")}, None),
        ({"a": entry([size // 4], 8, size + 8)}, None),
        ({"a": entry([size // 8], 0, size // 2), "b": entry([size // 8], 0, size // 2)}, None),
        ({"a": entry([size // 4], size, 0)}, None),
        ({"a": {"dtype": "F32"}}, None),
        ({"__metadata__": {"a": 1}}, None),
        (b"[" * 100_000, None),
        (b'{"a":' * 50_000, None),
        (b"\xff" * 64, None),
        (b"", None),
        ({}, 2**63),
        ({}, 2**64 - 1),
        ({}, 10**6),
        ({}, 0),
    ]
    for header, length in cases:
        raw(folder, header, data, length)
        assert "adapter.safetensors" in refused(folder, backbone)


def test_random_changes_under_right_hashes(folder: Path, backbone: Backbone):
    """Whoever can sign can change values; names, shapes, dtypes and finiteness still hold in what loads."""
    rng = random.Random(2)
    path = folder / "adapter.safetensors"
    whole = path.read_bytes()
    header = struct.unpack("<Q", whole[:8])[0]
    original, params = aj.load_adapter(folder, backbone)
    loaded = 0
    for _ in range(40):
        at = rng.randrange(8 + header)
        path.write_bytes(whole[:at] + bytes([rng.randrange(256)]) + whole[at + 1 :])
        resign(folder)
        try:
            model, found = aj.load_adapter(folder, backbone)
        except AdapterError as error:
            assert "\n" not in str(error)
        else:
            loaded += 1
            assert model == original and jax.tree.structure(found) == jax.tree.structure(params)
    assert loaded < 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(format=2), "expected format 1 or older, got 2; upgrade adapters_jax to read it"),
        (lambda c: c.update(format="1"), "expected an object with an integer 'format'"),
        (lambda c: c.update(format=True), "expected an object with an integer 'format'"),
        (lambda c: c.update(kind="checkpoint"), "expected an adapter, got 'checkpoint'"),
        (lambda c: c.pop("leaves"), "expected a table 'leaves', got None"),
        (lambda c: c.update(method="houlsby"), "expected a table 'method'"),
        (lambda c: c.update(dtype=3), "expected a text 'dtype', got 3"),
        (lambda c: c.update(dtype="float8"), "unknown dtype 'float8': known are float32, bfloat16"),
        (lambda c: c["method"].update(name="houlsbi"), "unknown method 'houlsbi'.*did you mean 'houlsby'"),
        (lambda c: c["method"].update(name=["houlsby"]), r"method.name: expected str, got \['houlsby'\]"),
        (lambda c: c["method"].update(bottlneck=4), "unknown field of method houlsby 'bottlneck'.*did you mean"),
        (lambda c: c["method"].update(bottleneck="4"), "method.bottleneck: expected int . None, got '4'"),
        (lambda c: c["method"].update(bottleneck=4.0), "method.bottleneck: expected int . None, got 4.0"),
        (lambda c: c["method"].update(bottleneck=True), "method.bottleneck: expected int . None, got True"),
        (lambda c: c["method"].update(bottleneck=0), "method.bottleneck: expected a whole number of at least 1"),
        (lambda c: c["method"].update(bottleneck=8), r"expected \{'shape': \[8\].*got \{.*'shape': \[4\]"),
        (lambda c: c["method"].update(bottleneck=2**62), "cannot be built|are not those of its method"),
        (lambda c: c["method"].update(bottleneck=10**30), "cannot be built|are not those of its method"),
        (lambda c: c["method"].update(layer_norms=False), "got .*'label': 'adapter'"),
        (lambda c: c["method"].update(activation="eval"), "unknown activation 'eval'"),
        (lambda c: c["head"].update(name="regression"), "unknown field of head regression 'labels'"),
        (lambda c: c["head"].update(labels=["no", 1]), "head.labels: expected tuple"),
        (lambda c: c["head"].update(labels=["a"], num_labels=2), "expected at least 2 classes"),
        (lambda c: c["head"].update(labels=["a", "b", "c"], num_labels=3), r"are not those of its method, head and"),
        (lambda c: c["config"].update(num_hidden_layers=3), "num_hidden_layers 3 and 2"),
        (lambda c: c["config"].update(surprise=1), "surprise 1 and None"),
        (lambda c: c["backbone"].update(fingerprint="0" * 64), "with fingerprint 0{64}, got"),
        (lambda c: c["leaves"].update({"../x": {}}), r"\.\./x: expected no such leaf"),
        (lambda c: c["leaves"].update({"head/classifier/bias": 7}), "head/classifier/bias: expected .*got 7"),
    ],
)
def test_manifests_made_by_hand(folder: Path, backbone: Backbone, change, message):
    resign(folder, change)
    with pytest.raises(AdapterError, match=message):
        aj.load_adapter(folder, backbone)
    refused(folder, backbone)


def test_manifests_that_are_no_manifest(folder: Path, backbone: Backbone):
    path = folder / "manifest.json"
    whole = path.read_text()
    twice = whole.replace('"seed": null', '"seed": null,\n "seed": 3')
    cases = [b"", b"null", b"[]", b"\xff\xfe", b"[" * 200_000, b'{"format": 1}', b'{"format": 1e999}', b"9" * 10_000]
    cases += [twice.encode(), whole.replace("\n", "\r\n").encode(), b"\xef\xbb\xbf" + whole.encode()]
    cases += [b" " * ((1 << 24) + 1), b'{"format": 1, "x": "\\ud800"}', b'{"format": 1, "x": NaN}']
    for content in cases:
        path.write_bytes(content)
        assert "manifest.json" in refused(folder, backbone)


@pytest.mark.parametrize(
    "files", [{}, [], {"../adapter.safetensors": {"size": 1, "sha256": ""}}, {"adapter.safetensors": 1}]
)
def test_files_that_the_manifest_may_not_name(folder: Path, backbone: Backbone, files: Any, monkeypatch):
    write = manifest.render
    monkeypatch.setattr(manifest, "render", lambda content: write({**content, "files": files}))
    resign(folder)
    monkeypatch.undo()
    assert "manifest.json" in refused(folder, backbone)


def test_values_that_only_inspection_reads(folder: Path, backbone: Backbone):
    """They hold for what they are: shown where they can be, refused in one line where they cannot."""
    for change in ({"scores": {"a": "b"}}, {"scores": [1]}, {"versions": 1}, {"summary": {}}, {"extra": "x"}):
        resign(folder, lambda content, change=change: content.update(change))
        try:
            render(describe(folder))
        except AdapterError as error:
            assert "manifest.json holds values of other types" in str(error)
