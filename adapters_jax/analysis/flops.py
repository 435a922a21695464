"""FLOPs of a function's matrix products, counted on what JAX traces: loops as often as they turn, on any platform.

XLA's own count takes the body of a loop once, whatever its length.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax


def matmul_flops(function: Callable[..., Any], *args: Any) -> int:
    """Two for each multiplication and addition of a matrix product; of what `jax.lax.cond` chooses, the dearest.

    Args:
        function: pure.
        args: arrays or shapes.
    """
    return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(jaxpr: Any) -> int:
    total = 0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total += 2 * equation.outvars[0].aval.size * math.prod(shape[i] for i in contracted)
        elif name == "cond":
            total += max(_count(branch.jaxpr) for branch in params["branches"])
        else:
            turns = params["length"] if name == "scan" else 1
            total += turns * sum(_count(inner) for inner in _inner(params.values()))
    return total


def _inner(values: Any) -> Iterator[Any]:
    """The programs within an equation's parameters."""
    for value in values:
        if isinstance(value, tuple | list):
            yield from _inner(value)
        elif hasattr(value, "eqns"):
            yield value
        elif hasattr(value, "jaxpr") and hasattr(value.jaxpr, "eqns"):
            yield value.jaxpr
