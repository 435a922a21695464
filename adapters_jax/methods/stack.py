"""Methods on top of each other: each works on what the one below it gives (Pfeiffer et al., 2020, MAD-X).

In a merge slot, with B_i what the i-th bottleneck adds:

    y_0 = y,  y_i = y_(i-1) + B_i(y_(i-1)),  h = LayerNorm(r + y_k)

so a task adapter reads what a language adapter made of the sublayer's output. Everywhere else parts meet as in
`compose`: projections nest, prefixes stand in front of prefixes. Each part keeps its own tree, under adapters/PART.

    Stack((Frozen(Pfeiffer(invertible=True)), Pfeiffer()))     a task adapter on a language adapter that stays as it is

Source: adapter-hub/adapters, `Stack`; there, unlike here, two LoRAs in a stack are not W + dW1 + dW2.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from flax import linen as nn

from adapters_jax.errors import ConfigError
from adapters_jax.methods.base import Method, Recipe
from adapters_jax.methods.composition import JOINTS, MOST, Composed, Joint, adds
from adapters_jax.slots import MERGE, Context
from adapters_jax.types import Hidden


class StackedMerge(Joint):
    """Each part on the y that the one before made; the last one brings the LayerNorm."""

    @nn.compact
    def __call__(self, y: Hidden, residual: Hidden, norm: Callable[[Hidden], Hidden], ctx: Context) -> Hidden:
        *below, last = self.children()
        for module in below:
            y = y + module.delta(y, residual, norm, ctx)
        return last(y, residual, norm, ctx)


@dataclasses.dataclass(frozen=True)
class Stack(Composed):
    """Pfeiffer et al. (2020), https://arxiv.org/abs/2005.00052, section 3.

    Attributes:
        parts: the methods, the lowest first.
    """

    name: ClassVar[str] = "stack"
    joints: ClassVar[Mapping[str, type[Joint]]] = JOINTS | dict.fromkeys(MERGE, StackedMerge)
    parts: tuple[Method, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= len(self.parts) <= MOST:
            raise ConfigError(f"method.parts: expected 1 to {MOST} methods, the lowest first, got {len(self.parts)}")

    def _refuse(self, slot: str, named: Mapping[str, nn.Module]) -> None:
        whole = [name for name, module in list(named.items())[:-1] if slot in MERGE and not adds(module)]
        if whole:
            raise ConfigError(f"stack: {whole[0]} replaces the whole of {slot}: expected it as the last part there")
        super()._refuse(slot, named)

    @property
    def recipe(self) -> Recipe:
        return self.parts[-1].recipe

    def components(self) -> Sequence[Method]:
        return self.parts

    def of_flat(self, parts: tuple[Method, ...]) -> "Stack":
        return Stack(parts)

    def prepare(self, tokenize: Callable[[str], list[int]], labels: Sequence[str]) -> "Stack":
        return Stack(tuple(part.prepare(tokenize, labels) for part in self.parts))

    def given(self) -> dict[str, Any]:
        return {"name": self.name, "parts": [part.given() for part in self.parts]}
