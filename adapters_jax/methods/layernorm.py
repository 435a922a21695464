"""LayerNorm tuning: only the backbone's LayerNorms are trained (Qi et al., 2022; Zhao et al., 2024).

No module at all: labels alone.

    backbone/encoder/3/{attn_norm,ffn_norm}/{scale,bias}, backbone/embeddings/norm/{scale,bias}     [d]

Parameters, 2 d (2 L + 1): 38,400 on BERT-base (0.035 %), 100,352 on BERT-large. With `layers` given, the embeddings'
LayerNorm stays frozen. Source: huggingface/peft, tuners/ln_tuning, with every LayerNorm as a target.
"""

import dataclasses
from typing import ClassVar

from adapters_jax.bert.config import BertConfig
from adapters_jax.methods.base import Method, Recipe, is_layer_norm
from adapters_jax.slots import Modules


@dataclasses.dataclass(frozen=True)
class LayerNormTuning(Method):
    """Qi et al. (2022), https://arxiv.org/abs/2209.15001; Zhao et al. (2024), https://arxiv.org/abs/2312.11420.

    Attributes:
        layers: the layers whose LayerNorms are trained; all, and the embeddings', if not given.
    """

    name: ClassVar[str] = "layernorm"
    layers: tuple[int, ...] | None = None

    @property
    def recipe(self) -> Recipe:
        return Recipe(lr=1e-3, epochs=20.0, source="none published for GLUE and BERT; BitFit's rate")

    def modules(self, config: BertConfig, segment: int) -> Modules:
        return {}

    def trainable(self, path: str, config: BertConfig) -> bool:
        if not is_layer_norm(path):
            return False
        _, part, number, *_ = path.split("/")
        return self.layers is None or (part == "encoder" and int(number) in self.layers)
