"""Weights in pickles (`.bin`) as safetensors: the one place that unpickles, and only where it was asked to.

A pickle is a program: reading one can run whatever its author liked. torch's `weights_only` allows tensors and plain
containers alone, a filter that had holes before (CVE-2025-32434), so it is still a matter of trust. torch is needed
here and nowhere else.
"""

import re
import shutil
from collections.abc import Iterator, Sequence
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

ADAPTERS = tuple(name for name in FILES if name != "pytorch_model.bin")

TORCH = (2, 6)
"""The oldest torch that is used: before, a file could run code in spite of `weights_only` (CVE-2025-32434)."""

DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
"""torch's types that are written; others (float8, complex, quantised ones) are in no adapter that we know."""

COPIED = (".json", ".txt", ".md", ".model")
"""Endings of what is copied along into another folder: configs, tokenizers, cards."""


def reason(names: Sequence[str], source: str | Path) -> str:
    """Why pickles are not read, and the ways around it: the end of an error.

    Args:
        names: of the pickles.
        source: the folder or the repository that holds them, as `--from` takes it.
    """
    pickled = [name for name in names if name in FILES]
    told = (
        f"{(pickled or sorted(names))[0]}, a pickle, which can run code when it is read; ask its author for safetensors"
    )
    if pickled:
        return f"{told}, or if you trust it: adapters-jax convert --from={source} --allow-pickle --out=FOLDER"
    return f"{told}, or if you trust it, load it with the library that wrote it and save it anew, as safetensors"


def to_safetensors(folder: str | Path, out: str | Path | None = None) -> list[Path]:
    """Writes the tensors of a folder's pickles, and of the folders in it, as safetensors.

    Args:
        folder: with one or more of `FILES`.
        out: a new or empty folder, where configs are copied to as well; None: beside the pickles, which stay.

    Returns:
        The files that were written; where a safetensors file stands beside a pickle already, the pickle is not read.

    Raises:
        ConfigError: torch is not installed, or too old; the folder has none of these pickles; `out` has files.
        AdapterError: a pickle that holds other things than plain tensors by name, or a folder that cannot be written.
    """
    where = Path(folder)
    target = where if out is None else Path(out)
    found = list(_pickles(where))
    if not found:
        others = sorted(path.name for path in where.glob("*.bin"))
        told = reason(others, where) if others else "none"
        raise ConfigError(f"{where}: expected one of {', '.join(FILES)}, found {told}")
    if out is not None and target.resolve() != where.resolve() and target.exists() and any(target.iterdir()):
        raise ConfigError(f"{target}: expected a new or empty folder, found files in it; choose another")
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


def _torch(path: Path) -> Any:
    try:
        import torch
    except ImportError:
        raise ConfigError(
            f"{path}: expected torch, which reads pickles, found it not installed; pip install torch, here or on "
            "another machine where you run the same command"
        ) from None
    found = re.match(r"(\d+)\.(\d+)", torch.__version__)
    if found is None or (int(found[1]), int(found[2])) < TORCH:
        raise ConfigError(
            f"{path}: expected torch {TORCH[0]}.{TORCH[1]} or newer, got {torch.__version__}, where a file can run "
            "code in spite of all filters (CVE-2025-32434); pip install --upgrade torch"
        )
    return torch


def _tensors(path: Path) -> dict[str, np.ndarray]:
    torch = _torch(path)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a stranger's pickle does
        raise AdapterError(f"{path}: not read, torch refuses it: {manifest.one_line(error)}") from None
    if not isinstance(found, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in found.items()
    ):
        raise AdapterError(f"{path}: expected tensors by name, got {type(found).__name__} of other things")
    arrays = {}
    for name, tensor in found.items():
        try:
            wrong = _problem(tensor, torch)
            arrays[name] = np.empty(0) if wrong else _array(tensor, torch)
        except Exception as error:  # torch has kinds of tensors without end
            wrong = f"one that cannot be read ({manifest.one_line(error)})"
        if wrong:
            raise AdapterError(f"{path}: {name[:100]}: expected a plain tensor of {', '.join(DTYPES)}, got {wrong}")
    return arrays


def _problem(tensor: Any, torch: Any) -> str | None:
    """What keeps a tensor from being written as it is; None: nothing."""
    if tensor.layout != torch.strided:
        return f"a layout of {tensor.layout}"
    if tensor.is_quantized or str(tensor.dtype).removeprefix("torch.") not in DTYPES:
        return f"{tensor.dtype}"
    if tensor.device.type != "cpu":
        return f"one without values, on {tensor.device.type}"
    needed, there = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
    return f"{needed} bytes of {list(tensor.shape)!s:.80}, of which it has {there}" if needed > there else None


def _array(tensor: Any, torch: Any) -> np.ndarray:
    """A copy of its own, in the tensor's own type."""
    plain = tensor.detach().resolve_neg().contiguous()
    if plain.dtype == torch.bfloat16:  # numpy has none of its own
        import ml_dtypes

        return plain.view(torch.int16).numpy().view(ml_dtypes.bfloat16).copy()
    return plain.numpy().copy()
