"""QLoRA: LoRA beside dense layers that are kept in 4 bits (Dettmers et al., 2023).

With W the dequantised kernel (`bert.quant`: NF4, blocks of 64, double quantisation), the rest as in `lora`:

    y = x W + b + s x A B         A [in r], B [r out], in float32; W's codes are frozen

At initialisation B is 0: exactly the quantised backbone, which is near the float one.

The preset of the released code: all six dense layers, r = 64, alpha = 16, no dropout. Quantising is the backbone's
matter: training jobs load it in NF4 with this method unless `--quantize` says otherwise, and
`load_backbone(..., quantize="nf4")` does in code. On a float backbone this is LoRA with these values; any other method
that leaves the kernels alone works on a quantised backbone in the same way.

    adapters/encoder/3/query/a  [in r]
                            /b  [r out]      and the same under every other slot

Parameters, 18 L d r where f = 4 d: BERT-base 10,616,832, BERT-large 28,311,552.

Source: artidoro/qlora, qlora.py. Differences: no paged optimiser, the adapters' moments are small; the release names a
warm-up of 0.03, which the schedule it names ("constant") passes over, and which is made here; it counts steps of
language models, so that the number of epochs is ours.
"""

import dataclasses
from typing import ClassVar

from adapters_jax.methods.base import Recipe
from adapters_jax.methods.lora import LoRA
from adapters_jax.slots import PROJECT


@dataclasses.dataclass(frozen=True)
class QLoRA(LoRA):
    """Dettmers et al. (2023), https://arxiv.org/abs/2305.14314. Fields: `LoRA`."""

    name: ClassVar[str] = "qlora"
    slots: tuple[str, ...] = PROJECT
    rank: int = 64
    alpha: float = 16.0

    @property
    def quantize(self) -> str | None:
        return "nf4"

    @property
    def recipe(self) -> Recipe:
        return Recipe(
            lr=2e-4,
            epochs=10.0,
            batch_size=16,
            warmup=0.03,
            schedule="constant",
            weight_decay=0.0,
            clip_norm=0.3,
            source="artidoro/qlora, qlora.py: its defaults; the number of epochs is ours",
        )
