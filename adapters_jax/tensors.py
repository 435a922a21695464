"""Named arrays in a safetensors file that a stranger may have written; nothing is unpickled, no name becomes a path."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import safetensors

from adapters_jax.errors import AdapterError
from adapters_jax.manifest import one_line

MAX_HEADER = 1 << 20
"""The longest header read, 1 MiB: names and shapes of about 10,000 leaves."""

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


def check_size(path: Path, wanted: Iterable) -> None:
    """Before a byte is read: the file is as large as the wanted leaves, plus a header of sane length.

    Args:
        path: the file.
        wanted: arrays or `jax.ShapeDtypeStruct`.

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


def read(path: Path) -> dict[str, np.ndarray]:
    """Every array of the file by its name, read-only.

    Raises:
        AdapterError: it is not a whole safetensors file, or has a dtype that we do not store.
    """
    try:
        entries = safetensors.deserialize(path.read_bytes())
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise AdapterError(f"{path}: expected a safetensors file, got one that is not: {one_line(error)}") from None
    flat = {}
    for name, entry in entries:
        if entry["dtype"] not in DTYPES:
            raise AdapterError(f"{path}: {name[:80]!r} has the unknown dtype {entry['dtype']}")
        flat[name] = np.frombuffer(entry["data"], jnp.dtype(DTYPES[entry["dtype"]])).reshape(entry["shape"])
    return flat


def refuse_not_finite(where: Path, flat: Mapping[str, np.ndarray]) -> None:
    """Raises AdapterError, naming the leaves, where a value is NaN or infinite."""
    is_float = lambda leaf: jnp.issubdtype(leaf.dtype, jnp.floating)
    bad = [name for name, leaf in flat.items() if is_float(leaf) and not np.isfinite(leaf).all()]
    if bad:
        more = f" and {len(bad) - 3} more leaves" if len(bad) > 3 else ""
        raise AdapterError(f"{where}: expected finite values, got NaN or infinity in {', '.join(bad[:3])}{more}")
