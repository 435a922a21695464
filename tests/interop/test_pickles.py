"""Pickles: read by torch alone, when asked, as tensors; never otherwise.

With a stand-in for torch; the real one and real files: `make parity` (parity/pickles.py).
"""

import json
import pickle
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
from adapters_jax.errors import AdapterError, BackboneError, ConfigError
from adapters_jax.interop import pickles
from tests.refusal import refused


class Tensor:
    """As much of torch's as is used."""

    def __init__(self, array: np.ndarray, dtype: str = "") -> None:
        self.array, self.dtype = array, dtype or array.dtype.name

    def detach(self) -> "Tensor":
        return self

    contiguous = detach

    def view(self, dtype: str) -> "Tensor":
        return Tensor(self.array.view(dtype))

    def numpy(self) -> np.ndarray:
        return self.array


class Bomb:
    """What a hostile file holds."""

    def __reduce__(self) -> Any:
        return pytest.fail, ("unpickled",)


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Installs a torch whose `load` returns what it is given here, by file name."""

    def install(content: dict[str, Any]) -> None:
        def load(path: Path, map_location: str, weights_only: bool) -> Any:
            assert weights_only and map_location == "cpu"
            if isinstance(content[path.name], Exception):
                raise content[path.name]
            return content[path.name]

        fake = types.ModuleType("torch")
        vars(fake).update(load=load, Tensor=Tensor, bfloat16="bfloat16", int16="int16")
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
    with pytest.raises(BackboneError, match="is a pickle, which can run code.*--allow-pickle"):
        aj.load_backbone(str(backbone))


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
    released = released_weights(tiny.params)
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
