"""Names of dimensions and array types that signatures use.

Dimensions: b batch, t tokens, n heads, h head width, d model width, f feed-forward width, m bottleneck, r rank,
p prefix length, l layers, c classes, k adapters, v vocabulary. Units of everything else stand in its docstring.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, PRNGKeyArray

Array = jax.Array | np.ndarray
"""On a device or not yet."""

Tree = dict[str, Any]
"""Nested dicts whose leaves are arrays (or the holes that `trees.split` leaves)."""

Batch = Mapping[str, Any]
"""input_ids [b t]; optional token_type_ids [b t] and mask [b t] (1 = token); labels [b] and weight [b] in training."""

Key = PRNGKeyArray
Hidden = Float[Array, "b t d"]
Mask = Bool[Array, "b t"]
Ids = Int[Array, "b t"]
Logits = Float[Array, "b c"]

BATCH_AXES = ("data", "fsdp")
"""The axes of a mesh that a batch's rows are split over (sharding.py)."""

__all__ = ["BATCH_AXES", "Array", "Batch", "Bool", "Float", "Hidden", "Ids", "Int", "Key", "Logits", "Mask", "Tree"]
