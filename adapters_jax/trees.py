"""Trees of parameters: paths, first-match labels, splitting into trained and frozen, layer-numbered names.

A tree is nested dicts of arrays; a path joins the keys with "/". Layer weights stand once in memory, stacked over
layers (`backbone/encoder/query/kernel`, shape [l d d]), or, where layers differ, stacked over runs of layers that are
keyed by their first layer (`adapters/encoder/5/...` holds layers 5 and up to the next run). On disk and in tables each
layer's leaf carries its own number whatever the runs (`backbone/encoder/3/query/kernel`): `to_layers`, `from_layers`.
A quantised kernel is one leaf, though JAX sees the arrays that it consists of.
"""

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from adapters_jax.errors import AdapterError
from adapters_jax.types import Key, Tree

HOLE = optax.MaskedNode()
"""What stands where the other part's leaf is, after `split`."""

STACKED = "encoder"
"""The key under which leaves are stacked over layers, in `backbone`, in `adapters`, or in either by itself."""


def is_hole(leaf: Any) -> bool:
    return leaf is None or isinstance(leaf, optax.MaskedNode)


def flatten(tree: Tree, prefix: str = "") -> dict[str, Any]:
    """Path -> leaf, in the order of the tree; holes are left out."""
    flat = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict):
            flat.update(flatten(value, path + "/"))
        elif not is_hole(value):
            flat[path] = value
    return flat


def unflatten(flat: dict[str, Any]) -> Tree:
    """The inverse of `flatten`."""
    tree: Tree = {}
    for path, leaf in flat.items():
        *parents, last = path.split("/")
        node = tree
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = leaf
    return tree


def map_paths(function: Callable[[str, Any], Any], tree: Tree, prefix: str = "") -> Tree:
    """The tree of function(path, leaf); holes stay."""
    return {
        key: map_paths(function, value, f"{prefix}{key}/")
        if isinstance(value, dict)
        else (value if is_hole(value) else function(f"{prefix}{key}", value))
        for key, value in tree.items()
    }


def split(params: Tree, labels: Tree) -> tuple[Tree, Tree]:
    """(trained, frozen): both have all the keys of `params`, with `optax.MaskedNode()` where the other has the leaf.

    Args:
        params: a tree of arrays.
        labels: the same tree of "frozen" or a trained label.
    """
    trained, frozen = {}, {}
    for key, value in params.items():
        if isinstance(value, dict):
            trained[key], frozen[key] = split(value, labels[key])
        else:
            rest = labels[key] == "frozen"
            trained[key], frozen[key] = (HOLE, value) if rest else (value, HOLE)
    return trained, frozen


def join(trained: Tree, frozen: Tree) -> Tree:
    """The inverse of `split`."""
    return {
        key: join(value, frozen[key]) if isinstance(value, dict) else (frozen[key] if is_hole(value) else value)
        for key, value in trained.items()
    }


def count(tree: Tree) -> int:
    """The number of parameters; holes count nothing."""
    return sum(int(np.prod(leaf.shape)) for leaf in flatten(tree).values())


def diff(a: Tree, b: Tree) -> list[str]:
    """Layer-numbered paths that only one tree has, or whose leaves differ in any bit, dtype or shape."""
    left, right = to_layers(a), to_layers(b)

    def differs(path: str) -> bool:
        if path not in left or path not in right:
            return True
        (form, arrays), (other_form, others) = _parts(left[path]), _parts(right[path])
        bits = lambda array: (array.dtype, array.shape, array.tobytes())
        return form != other_form or any(bits(x) != bits(y) for x, y in zip(arrays, others, strict=True))

    return [path for path in dict.fromkeys([*left, *right]) if differs(path)]


def _parts(leaf: Any) -> tuple[Any, list[np.ndarray]]:
    """The form of a leaf, and the arrays it consists of: itself, or those of a quantised one."""
    children, form = jax.tree.flatten(leaf)
    return form, [np.asarray(child) for child in children]


def same(a: Any, b: Any) -> bool:
    """Whether two leaves hold equal values; all processes must ask of leaves that no single one holds."""
    forms: list[Any] = [jax.tree.structure(leaf) for leaf in (a, b)]
    return forms[0] == forms[1] and all(map(_equal, jax.tree.leaves(a), jax.tree.leaves(b)))


def _equal(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if all(isinstance(each, jax.Array) for each in (a, b)) and not (a.is_fully_addressable and b.is_fully_addressable):
        return bool(jnp.array_equal(a, b))
    return np.array_equal(np.asarray(a), np.asarray(b))


def fold_path(key: Key, *path: str | int | jax.Array) -> Key:
    """A key for a place in the tree: each name (its crc32) or number folded in, so that keys depend on nothing else."""
    for part in path:
        key = jax.random.fold_in(key, zlib.crc32(part.encode()) if isinstance(part, str) else part)
    return key


def site_keys(key: Key | None, sites: Sequence[str], layers: Sequence[int] | None = None) -> dict[str, jax.Array]:
    """Place -> its key, or, given layers, its keys in each of them [l]; nothing outside training (key None)."""
    if key is None:
        return {}
    paths = sites if layers is None else [f"{STACKED}/{i}/{site}" for site in sites for i in layers]
    drawn = jax.vmap(jax.random.fold_in, (None, 0))(key, np.array([zlib.crc32(p.encode()) for p in paths], np.uint32))
    return dict(zip(sites, drawn if layers is None else drawn.reshape(len(sites), len(layers)), strict=True))


def runs(encoder: Tree, num_layers: int) -> Iterator[tuple[int, int, Tree]]:
    """(first layer, layer after the last, leaves stacked over that run) of a tree under `encoder`."""
    starts = sorted(int(key) for key in encoder if key.isdigit())
    if not starts:
        yield 0, num_layers, encoder
    for start in starts:
        run = encoder[str(start)]
        yield start, start + jax.tree.leaves(run)[0].shape[0], run


def cut(encoder: Tree, num_layers: int, start: int, stop: int) -> Tree:
    """The leaves of layers start..stop-1, stacked; the range lies within one run, or in none ({})."""
    for first, last, run in runs(encoder, num_layers):
        if first <= start and stop <= last:
            whole = (start, stop) == (first, last)
            return run if whole else jax.tree.map(lambda leaf, a=first: leaf[start - a : stop - a], run)
    return {}


def split_runs(encoder: Tree, num_layers: int, starts: Iterable[int]) -> Tree:
    """The same layers, stacked over runs that begin at `starts`; one run of all layers carries no number."""
    starts = sorted(set(starts))
    if starts == [0]:
        return encoder
    ends = [*starts[1:], num_layers]
    return {str(a): cut(encoder, num_layers, a, b) for a, b in zip(starts, ends, strict=True)}


def join_runs(encoder: Tree, num_layers: int) -> Tree:
    """The inverse of `split_runs`: the same layers, stacked over all of them."""
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *(run for _, _, run in runs(encoder, num_layers)))


def _layer_of(path: str) -> tuple[str, int, str] | None:
    """(before, first layer of the run, after) if the leaf is stacked over layers."""
    parts = path.split("/")
    if STACKED not in parts[:-1]:
        return None
    at = parts.index(STACKED) + 1
    numbered = parts[at].isdigit()
    return "/".join(parts[:at]), int(parts[at]) if numbered else 0, "/".join(parts[at + numbered :])


def is_stacked(path: str) -> bool:
    """Whether the leaf at this path in memory is stacked over layers."""
    return _layer_of(path) is not None


def layer_paths(path: str, leaf: Any) -> list[str]:
    """The layer-numbered paths of one leaf in memory: one per layer where it is stacked, else its own."""
    place = _layer_of(path)
    if place is None:
        return [path]
    before, first, after = place
    return [f"{before}/{first + i}/{after}" for i in range(leaf.shape[0])]


def to_layers(tree: Tree) -> dict[str, Any]:
    """Flat, with stacked leaves taken apart: `backbone/encoder/3/query/kernel`. The naming on disk and in tables."""
    flat = {}
    for path, leaf in flatten(tree).items():
        names = layer_paths(path, leaf)
        flat.update({name: leaf[i] for i, name in enumerate(names)} if is_stacked(path) else {path: leaf})
    return flat


def from_layers(flat: dict[str, Any], like: Tree) -> Tree:
    """The inverse of `to_layers`, shaped as the template `like` (arrays or `jax.ShapeDtypeStruct`).

    Raises:
        AdapterError: naming every leaf that is missing, unexpected, or of another shape or dtype.
    """
    wanted: dict[str, tuple[tuple[int, ...], Any]] = {}
    for path, leaf in flatten(like).items():
        names = layer_paths(path, leaf)
        shape = leaf.shape[1:] if is_stacked(path) else leaf.shape
        wanted.update({name: (tuple(shape), jnp.dtype(leaf.dtype)) for name in names})
    problems = [f"missing {name}" for name in wanted if name not in flat]
    problems += [f"unexpected {name}" for name in flat if name not in wanted]
    for name, (shape, dtype) in wanted.items():
        if name in flat and (tuple(flat[name].shape), jnp.dtype(flat[name].dtype)) != (shape, dtype):
            found = flat[name]
            problems.append(f"{name} is {found.dtype}{list(found.shape)}, expected {dtype}{list(shape)}")
    if problems:
        more = f" and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise AdapterError(f"leaves do not fit the model: {'; '.join(problems[:8])}{more}")

    def build(path: str, leaf: Any) -> Any:
        if not is_stacked(path):
            return flat[path]
        return jnp.stack([jnp.asarray(flat[name]) for name in layer_paths(path, leaf)])

    return map_paths(build, like)
