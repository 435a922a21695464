"""A backbone's tree while its tensors are read one by one: stacked on the host, or as its devices' shares.

Nothing is in memory twice: each tensor is written where it belongs, and what other hosts' devices hold is dropped.
"""

import math
import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from adapters_jax import trees
from adapters_jax.types import Tree

Place = Callable[[str, Any], Any]
"""(path from the root of params, leaf of shapes) -> its sharding, for a quantised leaf a tree of them."""


class Assembly:
    """Takes the tensors of a backbone, by layer-numbered path, and gives its tree.

    Args:
        layers: of the encoder.
        place: where leaves go; None: they stay on the host, as NumPy arrays.
    """

    def __init__(self, layers: int, place: Place | None = None) -> None:
        self._layers = layers
        self._place = place
        self._leaves: dict[str, tuple[list[_Buffer], Any]] = {}

    def add(self, path: str, tensor: Any) -> None:
        """One tensor, or the quantised form of one: `embeddings/words`, `encoder/3/query/kernel`."""
        match = re.fullmatch(r"encoder/(\d+)/(.+)", path)
        layer, leaf = (int(match[1]), f"encoder/{match[2]}") if match else (None, path)
        arrays, form = jax.tree.flatten(tensor)
        arrays = [np.asarray(array) for array in arrays]
        if leaf not in self._leaves:
            self._leaves[leaf] = self._buffers(leaf, arrays, form, layer is not None), form
        for buffer, array in zip(self._leaves[leaf][0], arrays, strict=True):
            buffer.write(layer, array)

    def _buffers(self, path: str, arrays: list[np.ndarray], form: Any, stacked: bool) -> "list[_Buffer]":
        lead = (self._layers,) if stacked else ()
        shapes = [jax.ShapeDtypeStruct((*lead, *array.shape), array.dtype) for array in arrays]
        whole = jax.tree.unflatten(form, shapes)
        places: list[Any] = [None] * len(shapes)
        if self._place is not None:
            places = jax.tree.leaves(self._place(f"backbone/{path}", whole))
        return [_Buffer(shape, place) for shape, place in zip(shapes, places, strict=True)]

    def tree(self) -> Tree:
        """{"embeddings", "encoder", and "pooler" where there is one}, once all tensors are in."""
        flat = {}
        while self._leaves:
            path, (buffers, form) = self._leaves.popitem()
            flat[path] = jax.tree.unflatten(form, [buffer.take() for buffer in buffers])
        nested = trees.unflatten(dict(reversed(flat.items())))
        return {part: nested[part] for part in ("embeddings", "encoder", "pooler") if part in nested}


class _Buffer:
    """An array as it comes: as a whole, or this process's shards of it."""

    def __init__(self, shape: jax.ShapeDtypeStruct, place: Any) -> None:
        self._shape, self._place = shape.shape, place
        whole = {None: (slice(None),) * len(shape.shape)}
        indices = whole if place is None else place.addressable_devices_indices_map(shape.shape)
        self._bounds = {
            device: tuple(part.indices(size)[:2] for part, size in zip(index, shape.shape, strict=True))
            for device, index in indices.items()
        }
        sizes = {bounds: tuple(stop - start for start, stop in bounds) for bounds in self._bounds.values()}
        self._parts = {bounds: _empty(size, shape.dtype) for bounds, size in sizes.items()}

    def write(self, layer: int | None, array: np.ndarray) -> None:
        for bounds, part in self._parts.items():
            inner = tuple(slice(*each) for each in bounds[layer is not None :])
            part[() if layer is None else layer] = array[inner]

    def take(self) -> Any:
        parts = self._parts
        self._parts = {}
        if self._place is None:
            return next(iter(parts.values()))
        held = [jax.device_put(parts[bounds], device) for device, bounds in self._bounds.items()]
        return jax.make_array_from_single_device_arrays(self._shape, self._place, held)


def _empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Memory that starts where a CPU device takes it over as it is; what starts elsewhere it would copy."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.empty(size + _ALIGNED, np.uint8)
    start = -raw.ctypes.data % _ALIGNED
    return raw[start : start + size].view(dtype).reshape(shape)


_ALIGNED = 64
"""Bytes: XLA's alignment of buffers on CPU."""
