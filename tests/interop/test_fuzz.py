"""Adapter files changed at random: an error of one line or a whole model, never anything else.

5,000 changes in `make test-slow`, some hundreds in `make test`; which ones is decided by the seed alone.
"""

import json
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save

import adapters_jax as aj
from adapters_jax import manifest, testing, trees
from adapters_jax.errors import AdaptersJaxError
from adapters_jax.interop import save_adapterhub, save_peft
from tests.interop.drawn import drawn

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 3, 2**31, 2**63, -(2**70), 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *("", "x", "gelu", "../../x", "/etc/passwd", "\x00", "ü" * 300, "LORA", "3", [], [1], ["x"], ["query"], [[]], {}),
    *({"x": 1}, {"name": "lora"}, {"0": "a"}, [None] * 50, {"a": {"b": {"c": []}}}),
)
"""What stands in the place of a JSON value."""

Files = dict[str, bytes]


def bytes_changed(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    kind = rng.randrange(6)
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + rng.randbytes(rng.choice((1, 8, 64))) + data[at:]
    if kind == 2:
        return data[:at] + bytes(len(data[at : at + 16])) + data[at + 16 :]
    if kind == 3:
        return struct.pack("<Q", rng.choice((0, 1, 7, 2**20, 2**40, 2**63, 2**64 - 1))) + data[8:]
    at = rng.randrange(min(len(data), rng.choice((8, 400, len(data)))))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def json_changed(rng: random.Random, data: bytes) -> bytes:
    content = json.loads(data)
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, value in items:
            places.append((node, key))
            walk(value)

    walk(content)
    node, key = rng.choice(places)
    kind = rng.randrange(6)
    if kind == 0:
        del node[key]
    elif kind == 1 and isinstance(node, dict):
        node[rng.choice(("x", "name", key + "x", key.upper(), ""))] = node.pop(key)
    elif kind == 2:
        other, name = rng.choice(places)
        node[key] = json.loads(json.dumps(other[name]))
    elif kind == 3 and isinstance(node, dict):  # twice the same key, with another value
        text = json.dumps(content)
        own = json.dumps(key) + ": "
        return text.replace(own, own + json.dumps(rng.choice(VALUES)) + ", " + own, 1).encode()
    else:
        node[key] = rng.choice(VALUES)
    return json.dumps(content).encode()


def tensors_changed(rng: random.Random, data: bytes) -> bytes:
    flat = load(data)
    first, second = rng.choice(sorted(flat)), rng.choice(sorted(flat))
    leaf = flat[first]
    kind = rng.randrange(9)
    if kind == 0:
        del flat[first]
    elif kind == 1:
        flat[rng.choice(("x", first + "x", first.replace("0", "1"), first.replace("0", "999999999"), ""))] = flat.pop(
            first
        )
    elif kind == 2:
        flat[first], flat[second] = flat[second], leaf
    elif kind == 3:
        flat[first + rng.choice((".x", "_", ".weight"))] = leaf
    elif kind == 4:
        flat[first] = leaf.astype(rng.choice((np.float16, np.float64, np.int32, np.bool_)))
        if flat[first].dtype == np.float64 and flat[first].size and rng.randrange(2):
            flat[first].flat[0] = 1e300  # finite, until it is float32
    elif kind == 5:
        flat[first] = np.full_like(leaf, rng.choice((np.nan, np.inf, -np.inf, 3e38)))
    elif kind == 6:
        flat[first] = rng.choice(
            (leaf.reshape(-1), leaf[None], leaf.T, leaf[:0], leaf[:1], np.concatenate([leaf, leaf]))
        )
    elif kind == 7:
        flat[first] = np.ascontiguousarray(leaf.T)
    else:
        flat |= {f"{first}.{i}": np.zeros(0, np.float32) for i in range(50)}
    return save({name: np.ascontiguousarray(leaf) for name, leaf in flat.items()})


def changed(rng: random.Random, files: Files) -> Files:
    """One file changed, rarely two exchanged or one missing."""
    name = rng.choice(sorted(files))
    kind = rng.randrange(12)
    if kind == 0:
        return {other: data for other, data in files.items() if other != name}
    if kind == 1:
        return files | {name: rng.choice(list(files.values()))}
    if kind < 5:
        return files | {name: bytes_changed(rng, files[name])}
    change = json_changed if name.endswith(".json") else tensors_changed
    return files | {name: change(rng, files[name])}


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> aj.Backbone:
    return testing.tiny_backbone(tmp_path_factory.mktemp("small"), aj.BertConfig.tiny(num_hidden_layers=1))


def native(folder: Path, model: aj.Model, params: dict, backbone: aj.Backbone) -> None:
    aj.save_adapter(folder, model, params, backbone, task="rte", scores={"accuracy": 0.5})


Case = tuple[Callable[..., None], aj.Method]
CASES: dict[str, tuple[Case, ...]] = {
    "native": ((native, aj.LoRA(rank=2)), (native, aj.Houlsby(bottleneck=2))),
    "peft": ((save_peft, aj.LoRA(rank=2, dora=True)), (save_peft, aj.IA3()), (save_peft, aj.PTuningV2(length=2))),
    "adapterhub": ((save_adapterhub, aj.Pfeiffer(bottleneck=2)), (save_adapterhub, aj.LoRA(rank=2, alpha=2.0))),
}


def read_files(folder: Path) -> Files:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != manifest.CARD}


def write_files(folder: Path, files: Files) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)


def loads(folder: Path, backbone: aj.Backbone) -> bool:
    """Whether the folder loads; what loads is whole and finite, what does not is one line."""
    try:
        model, params = aj.load_adapter(folder, backbone)
    except AdaptersJaxError as error:
        assert "\n" not in str(error) and 10 < len(str(error)) < 3000, str(error)
        return False
    shapes = {path: leaf.shape for path, leaf in trees.flatten(params).items()}
    assert shapes == {path: leaf.shape for path, leaf in trees.flatten(model.abstract(backbone.params)).items()}
    assert all(
        np.isfinite(leaf).all() for part in ("adapters", "head") for leaf in trees.flatten(params[part]).values()
    )
    return True


def fuzz(kind: str, rounds: int, seed: int, backbone: aj.Backbone, folder: Path) -> None:
    cases = CASES["native" if kind == "signed" else kind]
    for number, (write, method) in enumerate(cases):
        write(folder / "whole", *drawn(backbone, method), backbone)
        files = read_files(folder / "whole")
        shutil.rmtree(folder / "whole")
        write_files(folder / "a", files)
        assert loads(folder / "a", backbone)
        rng, loaded = random.Random(f"{kind}/{number}/{seed}"), 0
        for turn in range(rounds // len(cases)):
            given = changed(rng, files)
            write_files(folder / "a", given)
            if kind == "signed" and "manifest.json" in given:
                sign(folder / "a")
            try:
                found = loads(folder / "a", backbone)
            except BaseException as error:
                error.add_note(f"{kind}, {method.name}, turn {turn}")
                raise
            if kind == "native":  # the manifest can tell, so it has to
                assert found == (given == files), turn
            loaded += found
        assert loaded < rounds // len(cases), "nothing was refused"


def sign(folder: Path) -> None:
    """Hashes that hold, as whoever made the folder can."""
    try:
        content = json.loads((folder / "manifest.json").read_bytes())
        body = {key: value for key, value in content.items() if key not in ("files", "sha256")}
        (folder / "manifest.json").unlink()
        manifest.write(folder, body)
    except (ValueError, AttributeError, RecursionError):
        pass


@pytest.mark.parametrize("kind, rounds", [("native", 160), ("signed", 20), ("peft", 60), ("adapterhub", 60)])
def test_changed_files(kind: str, rounds: int, small: aj.Backbone, tmp_path: Path):
    fuzz(kind, rounds, 0, small, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind, rounds", [("native", 2400), ("signed", 300), ("peft", 1150), ("adapterhub", 1150)])
def test_many_changed_files(kind: str, rounds: int, small: aj.Backbone, tmp_path: Path):
    fuzz(kind, rounds, 1, small, tmp_path)
