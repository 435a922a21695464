"""Head only: the backbone is frozen, pooler included, and a linear head is trained. The baseline below."""

import dataclasses
from typing import ClassVar

from adapters_jax.bert.config import BertConfig
from adapters_jax.methods.base import Method, Recipe
from adapters_jax.slots import Modules


@dataclasses.dataclass(frozen=True)
class HeadOnly(Method):
    """Nothing but the head is trained: what the frozen backbone already knows."""

    name: ClassVar[str] = "head"

    @property
    def recipe(self) -> Recipe:
        return Recipe(lr=1e-3, epochs=5.0, source="none published; a usual rate for a linear layer on frozen features")

    def modules(self, config: BertConfig, segment: int) -> Modules:
        return {}

    def trainable(self, path: str, config: BertConfig) -> bool:
        return False
