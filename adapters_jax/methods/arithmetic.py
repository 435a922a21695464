"""Arithmetic on trained adapters: averages of like trees, sums and multiples of LoRA's changes. All pure.

    average([a, b, c], weights)      each leaf's weighted mean
    interpolate(a, b, t)             (1 - t) a + t b
    add((lora1, a), (lora2, b))      W + dW1 + dW2:  A = [A1 A2], B = [s1 B1; s2 B2], scale 1
    scale((lora, a), factor)         W + factor dW:  B = factor B
    negate((lora, a))                W - dW

An average of LoRA leaves is none of their changes: A and B are averaged by themselves. The average of two changes is
`add` of each, scaled by a half.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from adapters_jax import trees
from adapters_jax.errors import AdapterError
from adapters_jax.methods.lora import LoRA
from adapters_jax.types import Array, Tree

Change = tuple[LoRA, Tree]
"""A method and the leaves under `adapters/` that go with it."""


def average(adapters: Sequence[Tree], weights: Sequence[float] | None = None) -> Tree:
    """The weighted mean of like trees, leaf by leaf.

    Trees that are equal average to themselves, and one that has all the weight is the result, to the last bit.

    Args:
        adapters: trees with the same leaves (or whole parameter trees, heads included).
        weights: one for each, taken relative to their sum; all equal if not given. Negative ones extrapolate.

    Raises:
        AdapterError: no tree; a leaf that one tree lacks or has in another shape or dtype; weights that are not one for
            each tree, not finite, or of sum 0.
    """
    shares = np.ones(len(adapters)) if weights is None else np.asarray(weights, np.float64)
    if not adapters or shares.shape != (len(adapters),) or not np.isfinite(shares).all() or shares.sum() == 0:
        raise AdapterError(
            f"average: expected trees, and a finite weight for each, of a sum that is not 0; got {len(adapters)} trees "
            f"and weights {weights}"
        )
    for other in adapters[1:]:
        _check_alike(adapters[0], other)
    shares = shares / shares.sum()
    # As differences from the tree that weighs most: where there is none, nothing is rounded.
    base = int(np.argmax(shares))
    others = [(i, float(share)) for i, share in enumerate(shares) if i != base]

    def mean(*leaves: Array) -> Array:
        return sum((share * (leaves[i] - leaves[base]) for i, share in others), jnp.asarray(leaves[base]))

    return jax.tree.map(mean, *adapters)


def interpolate(a: Tree, b: Tree, t: float) -> Tree:
    """(1 - t) a + t b, leaf by leaf: a at 0, b at 1, beyond them outside. Raises as `average` does."""
    return average((a, b), (1 - t, t))


def add(first: Change, second: Change) -> Change:
    """Both changes at once: the function of W + dW1 + dW2, exactly, with the ranks added up.

    Args:
        first, second: LoRA on the same slots and layers; ranks and scales may differ.

    Returns:
        The method with the new ranks and scale 1, and its leaves. What matters in training alone (dropout, init) is the
        first's. A model refuses a rank above its width, as it does any.

    Raises:
        AdapterError: DoRA, whose change is no sum; other slots or layers; other shapes or dtypes.
    """
    (one, a), (two, b) = _plain("add", first), _plain("add", second)
    _check_alike(a, b, any_rank=True)
    left, right = one.sizes(), two.sizes()

    def joined(path: str, leaf: Array, other: Array) -> Array:
        slot, kind = path.split("/")[-2:]
        if kind == "a":
            return jnp.concatenate([leaf, other], axis=-1)
        return jnp.concatenate([left[slot][1] * leaf, right[slot][1] * other], axis=-2)

    rest = trees.flatten(b)
    ranks = {slot: left[slot][0] + right[slot][0] for slot in one.slots}
    sizes: dict[str, Any] = {"ranks": tuple(ranks.values()), "alphas": tuple(float(rank) for rank in ranks.values())}
    if len(set(ranks.values())) == 1:
        sizes = {"rank": sizes["ranks"][0], "alpha": sizes["alphas"][0], "ranks": (), "alphas": ()}
    method = dataclasses.replace(one, rank_stabilised=False, **sizes)
    return method, trees.map_paths(lambda path, leaf: joined(path, leaf, rest[path]), a)


def scale(change: Change, factor: float) -> Change:
    """`factor` times the change, by its B. Raises AdapterError: DoRA."""
    method, adapters = _plain("scale", change)
    return method, trees.map_paths(lambda path, leaf: factor * leaf if path.endswith("/b") else leaf, adapters)


def negate(change: Change) -> Change:
    """The change taken away: `add` of both is the plain backbone. Raises AdapterError: DoRA."""
    return scale(change, -1.0)


def _plain(what: str, change: Change) -> Change:
    method, _ = change
    if not isinstance(method, LoRA) or method.dora:
        raise AdapterError(
            f"{what}: expected LoRA, whose change of the weights is a sum, got {method.name}"
            f"{' with dora' if isinstance(method, LoRA) else ''}"
        )
    return change


def _check_alike(a: Tree, b: Tree, any_rank: bool = False) -> None:
    """Refuses trees of other leaves, shapes or dtypes; `any_rank`: but for the rank of LoRA's A and B."""
    left, right = trees.flatten(a), trees.flatten(b)

    def show(path: str, leaf: Array | None) -> str:
        if leaf is None:
            return "nothing"
        sizes = [str(size) for size in leaf.shape]
        if any_rank:
            sizes[-1 if path.endswith("/a") else -2] = "r"
        return f"{leaf.dtype}[{' '.join(sizes)}]"

    for path in dict.fromkeys([*left, *right]):
        ours, theirs = show(path, left.get(path)), show(path, right.get(path))
        if ours != theirs:
            raise AdapterError(f"adapters are unlike at {path}: {ours} and {theirs}")
