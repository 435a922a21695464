"""P-tuning v2: prefixes trained themselves, for understanding tasks of every size (Liu et al., 2022).

The arithmetic is that of prefix tuning (prefix.py), with three differences: no network makes the prefixes (unless
`projection`), they are dropped out like hidden states, and the tokens' positions start at l, since the release passes
the prefixes as past keys and values. A text may thus have 512 - l tokens.

    adapters/encoder/3/key_value/{k,v}  [l n h]           projection: adapters/prefix/{embedding,down,up}, as there

Parameters, 2 L l d: 368,640 on BERT-base, 983,040 on BERT-large with l = 20. Prefixes start at N(0, 1).
Source: THUDM/P-tuning-v2, model/prefix_encoder.py and model/sequence_classification.py. The backbone and its pooler are
frozen, the classifier reads the pooled [CLS]: what every head here does. The release's dropout follows the backbone's
`hidden_dropout_prob`; 0.1 in its scripts, and a field here.
"""

import dataclasses
from typing import ClassVar

from adapters_jax.bert.config import BertConfig
from adapters_jax.methods import checks
from adapters_jax.methods.base import Method, Recipe
from adapters_jax.methods.prefix import PrefixMethod


@dataclasses.dataclass(frozen=True)
class PTuningV2(PrefixMethod):
    """Liu et al. (2022), https://arxiv.org/abs/2110.07602.

    Attributes:
        length: l, of the prefix; 16 to 40 in the scripts for BERT-large.
        projection: make the prefixes by a network, as prefix tuning does.
        bottleneck: m, of that network.
        dropout: on the prefixes, in training.
        layers: those that get a prefix; None for all.
    """

    name: ClassVar[str] = "p_tuning_v2"
    length: int = 20
    projection: bool = False
    bottleneck: int = 512
    dropout: float = 0.1
    layers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        PrefixMethod.__post_init__(self)
        checks.whole("bottleneck", self.bottleneck)

    @property
    def recipe(self) -> Recipe:
        return Recipe(
            lr=1e-2,
            epochs=60.0,
            warmup=0.0,
            weight_decay=0.0,
            source="THUDM/P-tuning-v2: run_script/run_rte_bert.sh; its README: seeds and rates matter a lot",
        )

    @property
    def width(self) -> int:
        return self.bottleneck if self.projection else 0

    def positions(self, config: BertConfig) -> int:
        return self.length

    def flat(self) -> Method:
        return dataclasses.replace(self, projection=False)
