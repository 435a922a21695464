"""Weights in pickles (`.bin`) as safetensors: the one place that unpickles, and only where it was asked to.

A pickle is a program: reading one can run whatever its author liked. torch's `weights_only` allows tensors and plain
containers alone, a filter that had holes before (CVE-2025-32434), so it is still a matter of trust. torch is needed
here and nowhere else.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from adapters_jax import manifest
from adapters_jax.errors import AdapterError, ConfigError

FILES = {
    "adapter_model.bin": "adapter_model.safetensors",
    "pytorch_adapter.bin": "adapter.safetensors",
    "pytorch_model_head.bin": "model_head.safetensors",
    "pytorch_model_adapter_fusion.bin": "model_adapter_fusion.safetensors",
    "pytorch_model.bin": "model.safetensors",
}
"""Pickles of peft, of AdapterHub's adapters, heads and fusions, and of backbones; the names that safetensors have."""

COPIED = (".json", ".txt", ".md", ".model")
"""Endings of what is copied along into another folder: configs, tokenizers, cards."""


def reason(name: str, source: str | Path) -> str:
    """Why a pickle is not read, and the ways around it: the end of an error."""
    return (
        f"{name}, a pickle, which can run code when it is read; ask its author for safetensors, or if you trust it: "
        f"adapters-jax convert --from={source} --allow-pickle --out=FOLDER"
    )


def to_safetensors(folder: str | Path, out: str | Path | None = None) -> list[Path]:
    """Writes the tensors of a folder's pickles, and of the folders in it, as safetensors.

    Args:
        folder: with one or more of `FILES`.
        out: where to, with copies of the configs; None: beside the pickles, which stay.

    Returns:
        The files that were written; where a safetensors file stands beside a pickle already, the pickle is not read.

    Raises:
        ConfigError: torch is not installed; the folder has no pickle.
        AdapterError: a pickle that holds other things than tensors by name, or a folder that cannot be written.
    """
    where = Path(folder)
    target = where if out is None else Path(out)
    found = list(_pickles(where))
    if not found:
        raise ConfigError(f"{where}: expected one of {', '.join(FILES)}, found none")
    written = []
    try:
        if target.resolve() != where.resolve():
            _copy(where, target)
        for path in found:
            place = target / path.relative_to(where).with_name(FILES[path.name])
            if place.exists():
                continue
            tensors = _tensors(path)
            partial = place.with_name(f".{place.name}.partial")
            safetensors.numpy.save_file(tensors, partial, metadata={"format": "pt"})
            manifest.sync(partial)
            partial.replace(place)
            written.append(place)
    except (OSError, safetensors.SafetensorError) as error:
        raise AdapterError(f"{target}: cannot be written: {manifest.why(error)}") from error
    return written


def _pickles(folder: Path) -> Iterator[Path]:
    """Those of a folder and of the folders in it, as plain files."""
    for path in sorted([*folder.glob("*.bin"), *folder.glob("*/*.bin")]):
        if path.name in FILES and path.is_file() and not path.is_symlink():
            yield path


def _copy(where: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted([*where.glob("*"), *where.glob("*/*")]):
        place = target / path.relative_to(where)
        if path.is_file() and not path.is_symlink() and path.suffix in (*COPIED, ".safetensors"):
            place.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, place)
        elif path.name in FILES:
            place.parent.mkdir(exist_ok=True)


def _tensors(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError:
        raise ConfigError(
            f"{path}: expected torch, which reads pickles, found it not installed; pip install torch, here or on "
            "another machine where you run the same command"
        ) from None
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a stranger's pickle does
        raise AdapterError(f"{path}: not read, torch refuses it: {manifest.one_line(error)}") from None
    if not isinstance(found, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in found.items()
    ):
        raise AdapterError(f"{path}: expected tensors by name, got {type(found).__name__} of other things")
    return {name: _array(tensor, torch) for name, tensor in found.items()}


def _array(tensor: Any, torch: Any) -> np.ndarray:
    """A copy of its own, in the tensor's own type."""
    plain = tensor.detach().contiguous()
    if plain.dtype == torch.bfloat16:  # numpy has none of its own
        import ml_dtypes

        return plain.view(torch.int16).numpy().view(ml_dtypes.bfloat16).copy()
    return plain.numpy().copy()
