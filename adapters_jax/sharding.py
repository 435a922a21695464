"""Where arrays live on a mesh of devices: path rules -> `NamedSharding`, for parameters, optimiser states and batches.

The mesh has the axes `data` (copies of the model, each with rows of its own), `fsdp` (rows of its own, and a share of
the backbone's weights) and `model` (shares of each layer's heads and feed-forward width). Rules are read from above,
the first that matches a path decides, and every path must be matched. What trains is placed as its parameter is.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from adapters_jax import trees
from adapters_jax.bert import quant, weights
from adapters_jax.errors import ConfigError, unknown
from adapters_jax.types import BATCH_AXES, Tree

AXES = (*BATCH_AXES, "model")
WIDEST = "widest"
"""In place of a rule's axes: `fsdp` on the widest dimension that it divides; none of them: replicated."""


class Rule(NamedTuple):
    """The mesh axis of each dimension of the leaves at some paths; one for layers, where they are stacked, is added.

    `pattern` is a regular expression for a whole path; `axes` are names of `AXES` or None, dimensions that are not
    named are not split; or `WIDEST`.
    """

    pattern: str
    axes: tuple[str | None, ...] | str


def _backbone_rules() -> tuple[Rule, ...]:
    """From the table of weights: the model width over fsdp, heads and the feed-forward width over model.

    What is small stays whole: vectors of the model width, positions and token types.
    """
    axis = {"d": "fsdp", "e": "fsdp", "a": "model", "f": "model"}

    def split(row: weights.Weight) -> tuple[str | None, ...]:
        if {"s", "y"} & set(row.axes):
            return ()
        axes = [axis.get(letter) for letter in row.axes]
        once = [name if name not in axes[:i] else None for i, name in enumerate(axes)]
        return tuple(once) if len(once) > 1 else tuple(None if name == "fsdp" else name for name in once)

    table = [(row.path, split(row)) for row in weights.EMBEDDINGS + weights.PROJECTION + weights.POOLER]
    layers = [(rf"encoder/(\d+/)?{row.path}", split(row)) for row in weights.LAYER]
    return tuple(Rule(f"backbone/{path}", axes) for path, axes in table + layers)


BACKBONE_RULES = _backbone_rules()
RULES = (*BACKBONE_RULES, Rule("(adapters|head)/.*", ()))
"""Adapters and head are everywhere: their gradients are all that data parallelism exchanges."""

SHARDED_ADAPTERS = (*BACKBONE_RULES, Rule("(adapters|head)/.*", WIDEST))
"""For methods with many parameters (AdapterFusion, K-Adapter): they and their moments are split over fsdp too."""


def read_sizes(text: str) -> dict[str, int]:
    """Axis -> size, of `data=-1,fsdp=1,model=1`: -1 is the rest; what is not named is 1, or the rest where no -1 is.

    Raises:
        ConfigError: an unknown axis, one given twice, or a size that is none.
    """
    sizes: dict[str, int] = {}
    for part in text.split(","):
        name, _, size = part.strip().partition("=")
        if name not in AXES:
            raise ConfigError(f"--mesh={text}: {unknown('axis', name, AXES)}")
        if name in sizes:
            raise ConfigError(f"--mesh={text}: expected each axis once, got {name} twice")
        if not re.fullmatch(r"-1|[1-9]\d{0,8}", size):
            raise ConfigError(f"--mesh={text}: expected {name}=N, N from 1, or -1 for the rest, got {size!r}")
        sizes[name] = int(size)
    if list(sizes.values()).count(-1) > 1:
        raise ConfigError(f"--mesh={text}: expected -1 for one axis at most")
    rest = 1 if -1 in sizes.values() or "data" in sizes else -1
    return {name: sizes.get(name, rest if name == "data" else 1) for name in AXES}


def make_mesh(sizes: str | Mapping[str, int] = "data=-1", devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh of these sizes; over several slices of a pod, each slice holds a part of the `data` axis.

    Args:
        sizes: see `read_sizes`.
        devices: default is all of all processes. A smaller mesh takes the first ones, in one process alone.

    Raises:
        ConfigError: sizes that do not divide the number of devices, or need more, or do not suit the slices.
    """
    if not isinstance(sizes, str):
        sizes = ",".join(f"{name}={size}" for name, size in sizes.items())
    sizes = read_sizes(sizes)
    shown = ",".join(f"{name}={size}" for name, size in sizes.items())
    found = list(jax.devices() if devices is None else devices)
    given = math.prod(size for size in sizes.values() if size != -1)
    if -1 in sizes.values() and len(found) % given:
        raise ConfigError(f"--mesh={shown}: expected sizes that divide the {len(found)} devices, got {given}")
    shape = tuple(len(found) // given if sizes[name] == -1 else sizes[name] for name in AXES)
    count = math.prod(shape)
    if count > len(found):
        raise ConfigError(f"--mesh={shown}: expected at most the {len(found)} devices that there are, got {count}")
    if count < len(found) and len({device.process_index for device in found}) > 1:
        raise ConfigError(f"--mesh={shown}: expected all {len(found)} devices of the processes, got {count}; use -1")
    found = found[:count]
    # Devices of other kinds count each host as a slice.
    slices = len({getattr(device, "slice_index", 0) for device in found}) if found[0].platform == "tpu" else 1
    if slices == 1:
        array = mesh_utils.create_device_mesh(shape, found, allow_split_physical_axes=True)
    else:
        if shape[0] % slices:
            raise ConfigError(f"--mesh={shown}: expected data to be a multiple of the {slices} slices, got {shape[0]}")
        inside = (shape[0] // slices, *shape[1:])
        array = mesh_utils.create_hybrid_device_mesh(inside, (slices, 1, 1), found, allow_split_physical_axes=True)
    return Mesh(array, AXES, axis_types=(AxisType.Auto,) * len(AXES))


@dataclasses.dataclass(frozen=True)
class Layout:
    """A mesh, and the rules by which trees are laid out on it.

    Attributes:
        mesh: of `make_mesh`; shapes are laid out on an abstract one too.
        rules: the first that matches a path decides.
    """

    mesh: Mesh | AbstractMesh
    rules: tuple[Rule, ...] = RULES

    @property
    def batch_parts(self) -> int:
        """Into how many parts a batch is split."""
        return math.prod(self.mesh.shape[axis] for axis in BATCH_AXES)

    @property
    def everywhere(self) -> NamedSharding:
        return NamedSharding(self.mesh, P())

    @property
    def rows(self) -> NamedSharding:
        """Of arrays whose first dimension is the batch's."""
        return NamedSharding(self.mesh, P(BATCH_AXES))

    def leaf(self, path: str, leaf: Any) -> Any:
        """The sharding of a leaf in memory; of a quantised one, those of the arrays that it consists of.

        Args:
            path: from the root of params: `backbone/encoder/query/kernel`.
            leaf: an array or its shape.

        Raises:
            ConfigError: no rule matches, or a size of the mesh does not divide the leaf's.
        """
        rule = next((rule for rule in self.rules if re.fullmatch(rule.pattern, path)), None)
        if rule is None:
            raise ConfigError(f"sharding: expected a rule for {path}, found none; end the rules with one for '.*'")
        layers = (None,) * trees.is_stacked(path)
        if isinstance(leaf, quant.Quantised):
            # Codes are rows of outputs; what scales them is small.
            codes = (*layers, *reversed(rule.axes[:2]))
            spec = lambda child: self._dividing(codes, child) if child is leaf.codes else P()
            return jax.tree.map(lambda child: NamedSharding(self.mesh, spec(child)), leaf)
        if rule.axes == WIDEST:
            return NamedSharding(self.mesh, self._widest(leaf.shape, len(layers)))
        axes = (*layers, *rule.axes)
        for axis, size in zip(axes, leaf.shape, strict=False):
            if axis is not None and size % self.mesh.shape[axis]:
                raise ConfigError(
                    f"--mesh: {axis}={self.mesh.shape[axis]} does not divide the {size} of {path} {list(leaf.shape)}; "
                    f"choose a size that does"
                )
        return NamedSharding(self.mesh, P(*axes[: len(leaf.shape)]))

    def _dividing(self, axes: Sequence[str | None], leaf: Any) -> P:
        fits = lambda axis, size: axis is not None and size % self.mesh.shape[axis] == 0
        return P(*(axis if fits(axis, size) else None for axis, size in zip(axes, leaf.shape, strict=True)))

    def _widest(self, shape: tuple[int, ...], layers: int) -> P:
        size = self.mesh.shape["fsdp"]
        fitting = [i for i in range(layers, len(shape)) if shape[i] % size == 0 and shape[i] >= size]
        if not fitting:
            return P()
        widest = max(fitting, key=lambda i: shape[i])
        return P(*("fsdp" if i == widest else None for i in range(widest + 1)))

    def params(self, tree: Tree) -> Tree:
        """The tree of shardings of a tree of parameters, arrays or shapes; holes stay."""
        return trees.map_paths(self.leaf, tree)

    def like(self, state: Any, trained: Tree) -> Any:
        """The shardings of whatever mirrors parameters, such as an optimiser's state.

        Each leaf lies as the parameter whose path its own ends with, if their shapes agree, else it is everywhere.

        Args:
            state: a pytree of arrays or shapes.
            trained: of parameters.
        """
        known = {path: (leaf.shape, self.leaf(path, leaf)) for path, leaf in trees.flatten(trained).items()}

        def sharding(path: Any, leaf: Any) -> NamedSharding:
            names = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
            ends = ["/".join(names[i:]) for i in range(len(names))]
            shape, found = next((known[end] for end in ends if end in known), (None, self.everywhere))
            return found if shape == leaf.shape else self.everywhere

        return jax.tree_util.tree_map_with_path(sharding, state)

    def put(self, tree: Tree) -> Tree:
        """Parameters in their places; those that are there already stay, from others every process takes its shards.

        Args:
            tree: on every process the same values.
        """
        return jax.tree.map(_put, tree, self.params(tree))

    def batch(self, ids: np.ndarray, make: Callable[[np.ndarray], Mapping[str, np.ndarray]]) -> dict[str, jax.Array]:
        """The arrays of a batch, of which every process makes its own rows alone.

        Args:
            ids: rows of the whole batch [b], a multiple of `batch_parts`.
            make: some of these -> their arrays.
        """
        held = self.rows.addressable_devices_indices_map(ids.shape).values()
        starts = sorted({index[0].start or 0 for index in held if index is not None})
        size = len(ids) // self.batch_parts
        own = make(np.concatenate([ids[start : start + size] for start in starts]))
        place = {start: number * size for number, start in enumerate(starts)}

        def whole(array: np.ndarray) -> jax.Array:
            take = lambda index: array[place[index[0].start or 0] :][:size]
            return jax.make_array_from_callback((len(ids), *array.shape[1:]), self.rows, take)

        return {name: whole(array) for name, array in own.items()}

    def table(self, params: Tree) -> str:
        """Which leaves lie where, those alike in one line, and what they take of each device."""
        found: dict[tuple[str, str], list[tuple[str, int]]] = {}
        for path, leaf in trees.flatten(params).items():
            parts, places = jax.tree.leaves(leaf), jax.tree.leaves(self.leaf(path, leaf))
            held = [
                math.prod(place.shard_shape(part.shape)) * part.dtype.itemsize
                for part, place in zip(parts, places, strict=True)
            ]
            name = re.sub(r"/\d+(?=/)", "", path)
            axes = ["-" if axis is None else str(axis) for axis in places[0].spec]
            spec = ",".join(axes) if set(axes) - {"-"} else "everywhere"
            found.setdefault((path.split("/")[0], spec), []).append((name, sum(held)))
        rows = [("leaves", "split over", "MB per device")]
        for (_, spec), leaves in found.items():
            names = list(dict.fromkeys(name for name, _ in leaves))
            shown = f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}"
            rows.append((shown, spec, f"{sum(size for _, size in leaves) / 1e6:.2f}"))
        width = [max(len(row[i]) for row in rows) for i in range(3)]
        lines = [f"{a:<{width[0]}}  {b:<{width[1]}}  {c:>{width[2]}}" for a, b, c in rows]
        sizes = ", ".join(f"{name} {size}" for name, size in self.mesh.shape.items())
        return "\n".join([f"mesh of {self.mesh.size} devices: {sizes}", *lines])


def _put(leaf: Any, sharding: NamedSharding) -> jax.Array:
    if isinstance(leaf, jax.Array):
        if leaf.sharding.is_equivalent_to(sharding, leaf.ndim):
            return leaf
        if not leaf.is_fully_addressable:
            return jax.device_put(leaf, sharding)
    host = np.asarray(leaf)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def fetch(leaf: Any) -> np.ndarray:
    """A leaf on the host, wherever it lies; all processes must ask for those that no single one holds."""
    if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
        return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
    return np.asarray(leaf)
