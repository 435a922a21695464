"""Top-n fine-tuning: the top n layers, the pooler and the head; the baseline of Houlsby et al. (2019), section 3.4.

No module at all: labels alone. Gradients stop below the lowest trained layer.

    backbone/encoder/{L-n .. L-1}/*, backbone/pooler/{kernel,bias}

Parameters, n (4 d^2 + 2 d f + 9 d + f) + d^2 + d: n x 7,087,872 + 590,592 on BERT-base, n x 12,596,224 + 1,049,600 on
BERT-large. Houlsby et al. call it variable fine-tuning and sweep n over 1, 2, 3, 5, 7, 9, 11 and 12.
"""

import dataclasses
from typing import ClassVar

from adapters_jax.bert.config import BertConfig
from adapters_jax.errors import ConfigError
from adapters_jax.methods import checks
from adapters_jax.methods.base import Method, Recipe
from adapters_jax.slots import Modules


@dataclasses.dataclass(frozen=True)
class TopN(Method):
    """Houlsby et al. (2019), https://arxiv.org/abs/1902.00751, as a baseline.

    Attributes:
        top: n, how many layers are trained, counted from the last; 0 trains the pooler and the head alone.
        pooler: train the pooler too.
    """

    name: ClassVar[str] = "top_n"
    size: ClassVar[str | None] = "top"
    top: int = 1
    pooler: bool = True

    def __post_init__(self) -> None:
        checks.whole("top", self.top, least=0)

    @property
    def recipe(self) -> Recipe:
        return Recipe(lr=5e-5, epochs=3.0, source="as full fine-tuning: Devlin et al. (2019), appendix A.3")

    def check(self, config: BertConfig) -> None:
        if self.top > config.num_hidden_layers:
            raise ConfigError(f"method.top: expected at most {config.num_hidden_layers} layers, got {self.top}")

    def modules(self, config: BertConfig, segment: int) -> Modules:
        return {}

    def trainable(self, path: str, config: BertConfig) -> bool:
        _, part, *rest = path.split("/")
        if part == "encoder":
            return int(rest[0]) >= config.num_hidden_layers - self.top
        return part == "pooler" and self.pooler
