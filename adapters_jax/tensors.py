"""Named arrays in a safetensors file that a stranger may have written; nothing is unpickled, no name becomes a path."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import safetensors

from adapters_jax.errors import AdapterError
from adapters_jax.manifest import one_line

MAX_HEADER = 1 << 20
"""The longest header read, 1 MiB: names and shapes of about 10,000 leaves."""

MOST = 1 << 32
"""Bytes of all arrays of a file whose size nothing else tells, 4 GiB: BERT-large, all of it, three times in float32."""

DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}
"""The file format's names of dtypes, and ours."""


def check_size(path: Path, wanted: Iterable) -> int:
    """Before a byte is read: the file is as large as the wanted leaves, plus a header of sane length.

    Args:
        path: the file.
        wanted: arrays or `jax.ShapeDtypeStruct`.

    Returns:
        Bytes of the wanted leaves.

    Raises:
        AdapterError: it is not, or is no plain file.
    """
    if path.is_symlink() or not path.is_file():
        raise AdapterError(f"{path}: expected a file, found none; copy it anew from where it was trained")
    data = sum(int(np.prod(leaf.shape, dtype=object)) * leaf.dtype.itemsize for leaf in wanted)
    size = path.stat().st_size
    if not data <= size - 8 <= data + MAX_HEADER:
        raise AdapterError(
            f"{path}: expected {data} bytes of leaves and a header of at most {MAX_HEADER}, got {size} bytes; "
            "copy it anew from where it was trained"
        )
    return data


def read(path: Path, most: int = MOST) -> dict[str, np.ndarray]:
    """Every array of the file by its name, read-only.

    Args:
        path: the file.
        most: bytes of all arrays; the header is looked at before one of them is read.

    Raises:
        AdapterError: it is not a whole safetensors file, has more bytes, or a dtype that we do not store.
    """
    try:
        data = _promised(path)
        if data > most:
            raise AdapterError(f"{path}: expected at most {most} bytes of tensors, got {data}")
        entries = safetensors.deserialize(path.read_bytes())
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise AdapterError(f"{path}: expected a safetensors file, got one that is not: {one_line(error)}") from None
    flat = {}
    for name, entry in entries:
        if entry["dtype"] not in DTYPES:
            raise AdapterError(f"{path}: {name[:80]!r} has the unknown dtype {entry['dtype']}")
        flat[name] = np.frombuffer(entry["data"], jnp.dtype(DTYPES[entry["dtype"]])).reshape(entry["shape"])
    return flat


def _promised(path: Path) -> int:
    """The bytes of all arrays, on which the header and the file's size agree; nothing behind the header is read.

    Raises:
        ValueError: they do not agree, or there is no sane header.
        OSError: the file cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not length <= min(MAX_HEADER, size - 8):
            raise ValueError(f"its header has {length} bytes of {MAX_HEADER} that it may have, the file {size}")
        try:
            header = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
            data = max(ends, default=0)
            agree = type(data) is int and data == size - 8 - length
        except (ValueError, RecursionError, AttributeError, LookupError, TypeError):
            raise ValueError("its header cannot be read") from None
    if not agree:
        raise ValueError(f"its header tells of {data} bytes of tensors, {size - 8 - length} are there")
    return data


def refuse_not_finite(where: Path, flat: Mapping[str, np.ndarray | np.generic]) -> None:
    """Raises AdapterError, naming the leaves, where a value is NaN or infinite."""
    is_float = lambda leaf: jnp.issubdtype(leaf.dtype, jnp.floating)
    bad = [name for name, leaf in flat.items() if is_float(leaf) and not np.isfinite(leaf).all()]
    if bad:
        more = f" and {len(bad) - 3} more leaves" if len(bad) > 3 else ""
        raise AdapterError(f"{where}: expected finite values, got NaN or infinity in {', '.join(bad[:3])}{more}")
