"""The leaves of a training state as a checkpoint has them: readable names, forms that no device shapes, and back."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from adapters_jax.errors import CheckpointError


def named(state: Any) -> dict[str, Any]:
    """Readable path -> leaf: trained/adapters/encoder/..., opt_state/0/mu/...; holes have no leaves."""
    pairs, _ = jax.tree_util.tree_flatten_with_path(state)
    found = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in pairs}
    if len(found) != len(pairs):
        raise CheckpointError(
            f"state: expected a path of its own for each of {len(pairs)} leaves, got {len(found)} paths"
        )
    return found


def signature(leaf: Any) -> dict[str, Any]:
    """What a manifest says of it."""
    dtype = leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype
    return {"shape": list(np.shape(leaf)), "dtype": str(dtype)}


def storable(name: str, leaf: Any) -> Any:
    """On the host where one host has all of it: the stored form then does not depend on the devices."""
    if isinstance(leaf, jax.Array):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            raise CheckpointError(f"state: {name} is a random key; save jax.random.key_data(key)")
        if not (leaf.is_fully_addressable or leaf.is_fully_replicated):
            return leaf
    return np.asarray(leaf)


def _placed(leaf: Any) -> jax.sharding.Sharding | None:
    """Where the template wants the leaf; None: nowhere in particular."""
    free = isinstance(leaf, jax.Array) and not leaf.committed
    return None if free else getattr(leaf, "sharding", None)


def restore_args(leaf: Any) -> ocp.RestoreArgs:
    """How Orbax is to read a leaf of a template."""
    sharding = _placed(leaf)
    if sharding is None:
        return ocp.RestoreArgs(restore_type=np.ndarray)
    return ocp.ArrayRestoreArgs(sharding=sharding, global_shape=leaf.shape, dtype=leaf.dtype)


def like(value: Any, leaf: Any) -> Any:
    """`value` as the kind of array that the template has."""
    if isinstance(value, jax.Array):
        return value
    if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
        return jnp.array(value)
    return np.asarray(value)


def check(where: Path, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    def show(leaf: Mapping[str, Any]) -> str:
        return f"{leaf['dtype']}{leaf['shape']}"

    report = [f"expected {name} {show(wanted[name])}, got none" for name in wanted if name not in stored]
    report += [f"expected none, got {name} {show(stored[name])}" for name in stored if name not in wanted]
    report += [
        f"expected {name} {show(wanted[name])}, got {show(stored[name])}"
        for name in wanted
        if name in stored and dict(stored[name]) != dict(wanted[name])
    ]
    if report:
        more = f"; and {len(report) - 5} more" if len(report) > 5 else ""
        raise CheckpointError(
            f"{where} is of another model or optimiser: {'; '.join(report[:5])}{more}; start anew in another folder"
        )
