"""Full fine-tuning: every weight of the backbone is trained (Devlin et al., 2019). The baseline above."""

import dataclasses
from typing import ClassVar

from adapters_jax.bert.config import BertConfig
from adapters_jax.methods.base import Method, Recipe
from adapters_jax.slots import Modules


@dataclasses.dataclass(frozen=True)
class Full(Method):
    """All leaves of the backbone, pooler included, and the head. No modules; the artefact is as large as the model."""

    name: ClassVar[str] = "full"

    @property
    def recipe(self) -> Recipe:
        return Recipe(
            lr=5e-5, epochs=3.0, source="Devlin et al. (2019), appendix A.3: batch 32, 2e-5 to 5e-5, 2 to 4 epochs"
        )

    def modules(self, config: BertConfig, segment: int) -> Modules:
        return {}

    def trainable(self, path: str, config: BertConfig) -> bool:
        return True
