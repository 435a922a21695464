"""Adapter folders of other libraries: a config in JSON and weights in safetensors, both perhaps from a stranger.

No name in a file becomes a path, nothing is unpickled, and every tensor is asked for by name or an error.
"""

import json
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from adapters_jax import manifest, tensors
from adapters_jax.errors import AdapterError
from adapters_jax.interop import pickles

MAX_CONFIG = 1 << 22
"""The longest config read, 4 MiB: the rank patterns of some 100,000 of AdaLoRA's triplets."""

NAMES = (
    manifest.NAME,
    "adapter_config.json",
    "adapter_setup.json",
    "adapter_fusion_config.json",
    "head_config.json",
    "adapter_interface.json",
    "adapter.safetensors",
    "adapter_model.safetensors",
    "model_head.safetensors",
    "model_adapter_fusion.safetensors",
)
"""Files of adapters, in all formats."""


def read_config(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        AdapterError: there is no plain file, it is too long, or holds something else.
    """
    _refuse_links(path)
    if not path.is_file():
        raise AdapterError(f"{path}: expected a file, found {'something else' if path.exists() else 'none'}")
    if (size := path.stat().st_size) > MAX_CONFIG:
        raise AdapterError(f"{path}: expected at most {MAX_CONFIG} bytes, got {size}")
    try:
        found = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_once)
    except (OSError, ValueError, RecursionError) as error:
        raise AdapterError(f"{path}: expected readable JSON, {manifest.one_line(error)}") from None
    if not isinstance(found, dict):
        raise AdapterError(f"{path}: expected a JSON object, got {type(found).__name__}")
    return found


def _refuse_links(path: Path) -> None:
    """A link may lead to any file of the reader's; those of a hub's cache are the usual ones."""
    if path.is_symlink():
        raise AdapterError(
            f"{path}: expected a file, found a link; copy the files themselves (cp -rL), or give the hub's name, "
            "hf:user/name"
        )


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; of a key that it has twice, readers would take one or the other."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [key for key, _ in pairs]
        twice = next(key for key in names if names.count(key) > 1)
        raise ValueError(f"expected each key once, got {twice!r:.60} twice")
    return found


def weights_file(folder: Path, safe: str, pickled: str) -> Path:
    """The weights of a folder.

    Args:
        safe, pickled: names of the safetensors file and of the pickle that may stand in its place.

    Raises:
        AdapterError: there is no safetensors file, or a link; if there is a pickle, how to convert it.
    """
    path = folder / safe
    _refuse_links(path)
    if path.is_file():
        return path
    if (folder / pickled).is_file():
        raise AdapterError(
            f"{folder}: expected {safe}, found {pickled}, a pickle, which can run code when it is read; ask its author "
            f"for safetensors, or if you trust the file: adapters-jax convert --from={folder} --allow-pickle"
        )
    raise AdapterError(f"{folder}: expected {safe}, found none")


class Claims:
    """The tensors of a file; each must be taken, by name and with the shape that the config leads to expect."""

    def __init__(self, path: Path, flat: Mapping[str, np.ndarray]) -> None:
        self.path = path
        self._left = dict(flat)

    @classmethod
    def of(cls, path: Path) -> "Claims":
        """Of a safetensors file, its values finite.

        Raises:
            AdapterError: it is damaged, or holds NaN or infinity.
        """
        flat = tensors.read(path)
        tensors.refuse_not_finite(path, flat)
        return cls(path, flat)

    def __contains__(self, name: object) -> bool:
        return name in self._left

    def names(self) -> list[str]:
        """Those not taken yet."""
        return list(self._left)

    def peek(self, name: str) -> np.ndarray:
        """A tensor that stays to be taken.

        Raises:
            AdapterError: there is none of that name.
        """
        if name not in self._left:
            raise AdapterError(f"{self.path}: expected a tensor {name}, found none")
        return self._left[name]

    def take(self, name: str, *shape: int | None) -> np.ndarray:
        """A tensor in float32; None in `shape` stands for any size.

        Raises:
            AdapterError: there is none of that name, or of another shape or kind, or with values that float32 lacks.
        """
        found = self.peek(name)
        fits = len(found.shape) == len(shape) and all(b in (None, a) for a, b in zip(found.shape, shape, strict=True))
        if not fits or found.dtype.kind not in "fV":  # bfloat16 has kind V
            wanted = ", ".join("any" if size is None else str(size) for size in shape)
            raise AdapterError(
                f"{self.path}: {name}: expected floats [{wanted}], got {found.dtype} {list(found.shape)}"
            )
        with np.errstate(over="ignore"):
            made = np.asarray(found, np.float32)
        if not np.array_equal(made.astype(found.dtype), found):
            raise AdapterError(
                f"{self.path}: {name}: expected values that float32 holds, got {found.dtype} with others; save it as "
                "float32, where it was trained"
            )
        del self._left[name]
        return made

    def finish(self) -> None:
        """Raises AdapterError where tensors are left that nothing asked for."""
        if self._left:
            more = f" and {len(self._left) - 3} more" if len(self._left) > 3 else ""
            names = ", ".join(name[:100] for name in list(self._left)[:3])
            raise AdapterError(f"{self.path}: expected no other tensors, got {names}{more}")


def refuse_others(folder: Path, names: Collection[str], known: Sequence[str] = (*NAMES, *pickles.ADAPTERS)) -> None:
    """Refuses a folder with files of another adapter, which would be read beside the new ones or in their place.

    Args:
        names: of the files that are about to be written.
        known: of those that must not stand beside them.

    Raises:
        AdapterError: there are some.
    """
    others = [name for name in known if name not in names and os.path.lexists(folder / name)]
    if others:
        raise AdapterError(
            f"{folder}: expected a new folder, or one whose adapter is replaced as a whole, found "
            f"{', '.join(others[:3])} beside it; choose another folder"
        )


def write(folder: Path, files: Mapping[str, Mapping[str, np.ndarray] | Mapping[str, Any]]) -> None:
    """Writes a folder, the weights before the configs that name them.

    Args:
        folder: made if it is not there; files of the same names are replaced.
        files: name -> tensors (`*.safetensors`) or a JSON object (`*.json`).

    Raises:
        AdapterError: it holds files of another adapter, or cannot be written.
    """
    refuse_others(folder, files)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in sorted(files, key=lambda name: name.endswith(".json")):
            if name.endswith(".json"):
                manifest.write_text(folder / name, json.dumps(files[name], indent=2, sort_keys=True) + "\n")
                continue
            whole = {path: np.ascontiguousarray(leaf) for path, leaf in files[name].items()}
            partial = folder / f".{name}.partial"
            safetensors.numpy.save_file(whole, partial, metadata={"format": "pt"})
            manifest.sync(partial)
            partial.replace(folder / name)
    except (OSError, safetensors.SafetensorError) as error:
        raise AdapterError(f"{folder}: cannot be written: {manifest.why(error)}") from error
