"""BitFit: only the biases are trained (Ben-Zaken et al., 2022).

No module at all: labels alone. Trained are the biases of the chosen parts of every layer, of the embeddings' LayerNorm
and of the pooler, and the head.

    backbone/encoder/3/{query,key,value,attn_out,attn_norm,ffn_in,ffn_out,ffn_norm}/bias
    backbone/embeddings/norm/bias, backbone/pooler/bias

Parameters, 11 d L + 2 d: 102,912 on BERT-base (0.094 %), 272,384 on BERT-large. The paper's smaller choice is
`biases=query,ffn_in`, about half of them. The key's bias has no gradient, in theory: a shift of all keys by one vector
moves all of a query's scores alike, which softmax does not see.
Source: benzakenelad/BitFit, glue_evaluator.py.
"""

import dataclasses
from typing import ClassVar

from adapters_jax.bert.config import BertConfig
from adapters_jax.methods import checks
from adapters_jax.methods.base import Method, Recipe
from adapters_jax.slots import PROJECT, Modules

PARTS = (*PROJECT, "attn_norm", "ffn_norm", "embeddings", "pooler")


@dataclasses.dataclass(frozen=True)
class BitFit(Method):
    """Ben-Zaken et al. (2022), https://arxiv.org/abs/2106.10199.

    Attributes:
        biases: whose biases are trained: any of query, key, value, attn_out, ffn_in, ffn_out, attn_norm, ffn_norm,
            embeddings (their LayerNorm), pooler.
    """

    name: ClassVar[str] = "bitfit"
    biases: tuple[str, ...] = PARTS

    def __post_init__(self) -> None:
        checks.some_of("biases", self.biases, PARTS)

    @property
    def recipe(self) -> Recipe:
        return Recipe(
            lr=1e-3,
            epochs=16.0,
            batch_size=8,
            warmup=0.0,
            schedule="constant",
            weight_decay=0.0,
            source="benzakenelad/BitFit: README and glue_evaluator.py",
        )

    def modules(self, config: BertConfig, segment: int) -> Modules:
        return {}

    def trainable(self, path: str, config: BertConfig) -> bool:
        parts = path.split("/")
        place = parts[3] if parts[1] == "encoder" else parts[1]
        return parts[-1] == "bias" and place in self.biases
