"""Pickles: read by torch alone, when asked, as tensors; never otherwise.

With a stand-in for torch; the real one and real files: `make parity` (parity/pickles.py).
"""

import json
import pickle
import re
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import adapters_jax as aj
from adapters_jax import cli, tensors, testing
from adapters_jax.bert.convert import released_weights
from adapters_jax.errors import AdapterError, AdaptersJaxError, BackboneError, ConfigError
from adapters_jax.interop import pickles
from tests.interop.hub_server import Hub
from tests.refusal import refused


class Tensor:
    """As much of torch's as is used; keywords are what a hostile one has instead."""

    def __init__(self, array: np.ndarray, dtype: str = "", **odd: Any) -> None:
        self.array, self.dtype, self.shape = array, f"torch.{dtype or array.dtype.name}", array.shape
        self.layout, self.is_quantized, self.device = "strided", False, types.SimpleNamespace(type="cpu")
        self.stored = array.nbytes
        vars(self).update(odd)

    def detach(self) -> "Tensor":
        return self

    contiguous = resolve_neg = detach

    def numel(self) -> int:
        return self.array.size

    def element_size(self) -> int:
        return self.array.itemsize

    def untyped_storage(self) -> Any:
        return types.SimpleNamespace(nbytes=lambda: self.stored)

    def view(self, dtype: str) -> "Tensor":
        return Tensor(self.array.view(dtype))

    def numpy(self) -> np.ndarray:
        return self.array


class Odd(Tensor):
    """One that breaks when it is read, which nothing told before."""

    def numpy(self) -> np.ndarray:
        raise RuntimeError("no\nnumpy")


class Bomb:
    """What a hostile file holds."""

    def __reduce__(self) -> Any:
        return pytest.fail, ("unpickled",)


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Installs a torch whose `load` returns what it is given here, by file name."""

    def install(content: dict[str, Any], version: str = "2.6.0+cpu") -> None:
        def load(path: Path, map_location: str, weights_only: bool) -> Any:
            assert weights_only and map_location == "cpu"
            if isinstance(content[path.name], Exception):
                raise content[path.name]
            return content[path.name]

        fake = types.ModuleType("torch")
        own = {"load": load, "Tensor": Tensor, "bfloat16": "torch.bfloat16", "int16": "int16", "strided": "strided"}
        vars(fake).update(own, __version__=version, device=type("device", (), {}))  # tyro asks for torch's devices
        monkeypatch.setitem(sys.modules, "torch", fake)

    return install


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of an adapter in pickles that must not be read."""
    where = tmp_path / "old"
    where.mkdir()
    for name in ("adapter_model.bin", "pytorch_model_head.bin", "training_args.bin"):
        (where / name).write_bytes(pickle.dumps(Bomb()))
    (where / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    return where


def test_without_the_flag_nothing_is_unpickled(folder: Path, tiny, tmp_path: Path, capsys, torch):
    torch({})
    with pytest.raises(AdapterError, match=r"found adapter_model\.bin, a pickle, which can run code"):
        aj.load_adapter(folder, tiny)
    argv = ["convert", f"--from={folder}", "--to=native", f"--out={tmp_path / 'out'}", f"--backbone={tiny.folder}"]
    assert "a pickle, which can run code when it is read; ask its author" in refused(capsys, cli.main, argv)
    backbone = tmp_path / "backbone"
    backbone.mkdir()
    (backbone / "config.json").write_bytes((tiny.folder / "config.json").read_bytes())
    (backbone / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    command = f"adapters-jax convert --from={backbone} --allow-pickle"
    with pytest.raises(BackboneError, match=f"found pytorch_model.bin, a pickle, which can run code.*{command}"):
        aj.load_backbone(str(backbone))
    (backbone / "pytorch_model.bin").rename(backbone / "pytorch_model-00001-of-00002.bin")
    with pytest.raises(BackboneError, match="load it with transformers where torch is") as told:
        aj.load_backbone(str(backbone))
    assert "adapters-jax convert" not in str(told.value)  # which could not
    with pytest.raises(
        ConfigError, match="found pytorch_model-00001-of-00002.bin, a pickle.*with the library that wrote"
    ):
        pickles.to_safetensors(backbone)


def test_tensors_come_out_bit_for_bit(folder: Path, torch, tmp_path: Path, capsys):
    values = np.array([[1.5, -0.0], [1e-45, 3e38]], np.float32)
    half = np.array([1, 2.5, -3], ml_dtypes.bfloat16)
    given = {"a.weight": Tensor(values.T), "b": Tensor(half.view(np.int16), "bfloat16"), "c": Tensor(np.arange(3))}
    torch({"adapter_model.bin": given, "pytorch_model_head.bin": {"heads.x.1.bias": Tensor(np.ones(2, np.float16))}})
    cli.main(["convert", f"--from={folder}", "--allow-pickle", f"--out={tmp_path / 'out'}"])
    assert json.loads(capsys.readouterr().out)["written"] == ["adapter_model.safetensors", "model_head.safetensors"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "model_head.safetensors",
    ]
    found = tensors.read(tmp_path / "out" / "adapter_model.safetensors")
    assert found["a.weight"].tobytes() == values.T.tobytes() and found["b"].tobytes() == half.tobytes()
    assert found["b"].dtype == ml_dtypes.bfloat16 and found["c"].dtype == np.int64
    assert pickles.to_safetensors(folder) == [folder / "adapter_model.safetensors", folder / "model_head.safetensors"]
    torch({})
    assert pickles.to_safetensors(folder) == []


def test_a_backbone_s(tiny, torch, tmp_path: Path):
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((tiny.folder / name).read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    released = released_weights(tiny.params, tiny.config)
    torch({"pytorch_model.bin": {name: Tensor(np.asarray(leaf)) for name, leaf in released.items()}})
    cli.main(["convert", f"--from={tmp_path}", "--allow-pickle"])
    loaded = aj.load_backbone(str(tmp_path))
    testing.assert_same(loaded.params, tiny.params)
    assert loaded.fingerprint == tiny.fingerprint


def test_what_is_refused(folder: Path, torch, monkeypatch, tmp_path: Path, capsys):
    torch({"adapter_model.bin": ValueError("Weights only\nload failed"), "pytorch_model_head.bin": {}})
    with pytest.raises(AdapterError, match="not read, torch refuses it: Weights only load failed"):
        pickles.to_safetensors(folder)
    for content in ([1], {"a": 3}, {1: Tensor(np.ones(1))}, None):
        torch({"adapter_model.bin": content, "pytorch_model_head.bin": {}})
        with pytest.raises(AdapterError, match="expected tensors by name"):
            pickles.to_safetensors(folder)
    monkeypatch.setitem(sys.modules, "torch", None)
    told = refused(capsys, cli.main, ["convert", f"--from={folder}", "--allow-pickle"])
    assert "expected torch, which reads pickles, found it not installed; pip install torch" in told
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"expected one of adapter_model\.bin"):
        pickles.to_safetensors(tmp_path / "empty")
    assert not list(folder.glob("*.safetensors"))


ODD = {
    "sparse": (dict(layout="torch.sparse_coo"), "got a layout of torch.sparse_coo"),
    "complex": (dict(dtype="complex64"), "got torch.complex64"),
    "float8": (dict(dtype="float8_e4m3fn"), "got torch.float8_e4m3fn"),
    "quantised": (dict(is_quantized=True), "got torch.float32"),
    "meta": (dict(device=types.SimpleNamespace(type="meta")), "got one without values, on meta"),
    "expanded": (dict(stored=4), r"got 12 bytes of \[3\], of which it has 4"),
}


@pytest.mark.parametrize("odd, message", ODD.values(), ids=ODD)
def test_tensors_that_are_no_plain_ones_are_refused(odd, message, folder: Path, torch, capsys):
    torch({"adapter_model.bin": {"a": Tensor(np.ones(3, np.float32), **odd)}, "pytorch_model_head.bin": {}})
    with pytest.raises(AdapterError, match=rf"adapter_model\.bin: a: expected a plain tensor of float64, .*{message}"):
        pickles.to_safetensors(folder)
    refused(capsys, cli.main, ["convert", f"--from={folder}", "--allow-pickle"])
    assert not list(folder.glob("*.safetensors"))


def test_whatever_torch_raises_is_one_line(folder: Path, torch):
    torch({"adapter_model.bin": {"a": Odd(np.ones(3, np.float32))}, "pytorch_model_head.bin": {}})
    with pytest.raises(AdapterError, match=r"a: expected a plain tensor.*got one that cannot be read \(no numpy\)"):
        pickles.to_safetensors(folder)


@pytest.mark.parametrize("version", ["2.5.1", "1.13.0+cu117", "nightly"])
def test_a_torch_whose_filter_has_a_hole_is_refused(version: str, folder: Path, torch):
    torch({"adapter_model.bin": {"a": Tensor(np.ones(3))}, "pytorch_model_head.bin": {}}, version)
    with pytest.raises(ConfigError, match=rf"expected torch 2\.6 or newer, got {re.escape(version)}.*CVE-2025-32434"):
        pickles.to_safetensors(folder)


def test_another_folder_must_be_empty(folder: Path, torch, tmp_path: Path):
    torch({"adapter_model.bin": {}, "pytorch_model_head.bin": {}})
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "adapter_model.safetensors").write_bytes(b"older")
    with pytest.raises(ConfigError, match="expected a new or empty folder, found files in it"):
        pickles.to_safetensors(folder, tmp_path / "out")


def test_a_backbone_of_the_hub_in_pickles(hub: Hub, tiny, torch, tmp_path: Path, capsys):
    """What load_backbone says is a command, which fetches all that a backbone needs."""
    files = {path.name: path.read_bytes() for path in tiny.folder.iterdir()}
    del files["model.safetensors"]
    commit = hub.add("me/bert", files | {"pytorch_model.bin": b"", "training_args.bin": b""})
    with pytest.raises(
        BackboneError, match="backbone me/bert: expected model.safetensors, found pytorch_model.bin"
    ) as told:
        aj.load_backbone("me/bert")
    command = f"adapters-jax convert --from=hf:me/bert@{commit} --allow-pickle --out="
    assert str(told.value).endswith(f"{command}FOLDER")
    with pytest.raises(AdapterError, match=f"expected safetensors, found pytorch_model.bin, .*{command}FOLDER"):
        aj.load_adapter("hf:me/bert", tiny)
    released = released_weights(tiny.params, tiny.config)
    torch({"pytorch_model.bin": {name: Tensor(np.asarray(leaf)) for name, leaf in released.items()}})
    cli.main([*command.split()[1:-1], f"--out={tmp_path / 'out'}"])
    assert json.loads(capsys.readouterr().out)["written"] == ["model.safetensors"]
    loaded = aj.load_backbone(str(tmp_path / "out"))
    assert loaded.fingerprint == tiny.fingerprint
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == files["tokenizer.json"]
    assert not any("training_args.bin" in line for line in hub.requests)

    whole = hub.add("me/both", files | {"pytorch_model.bin": b"", "model.safetensors": b"x"})
    argv = ["convert", "--from=hf:me/both", "--allow-pickle", f"--out={tmp_path / 'both'}"]
    assert f"hf:me/both@{whole}: expected one of adapter_model.bin" in refused(capsys, cli.main, argv)
    assert not any("me/both" in line and "pytorch_model.bin" in line for line in hub.requests)

    hub.add("me/large", files | {"pytorch_model-00001-of-00002.bin": b"", "pytorch_model-00002-of-00002.bin": b""})
    for call in (lambda: aj.load_backbone("me/large"), lambda: aj.load_adapter("hf:me/large", tiny)):
        with pytest.raises(AdaptersJaxError, match="found pytorch_model-00001-of-00002.bin, a pickle") as told:
            call()
        assert "adapters-jax convert" not in str(told.value) and "\n" not in str(told.value)
    argv = ["convert", "--from=hf:me/large", "--allow-pickle", f"--out={tmp_path / 'large'}"]
    assert "load it with the library that wrote it" in refused(capsys, cli.main, argv)
