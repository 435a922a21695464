"""Published methods of tuning, one file each."""

from adapters_jax.methods.base import Method, Recipe
from adapters_jax.methods.full import Full
from adapters_jax.methods.head import HeadOnly
from adapters_jax.methods.houlsby import Houlsby

METHODS: dict[str, type[Method]] = {"houlsby": Houlsby, "full": Full, "head": HeadOnly}

__all__ = ["METHODS", "Full", "HeadOnly", "Houlsby", "Method", "Recipe"]
