"""Mix-and-match adapters: prefixes at attention, a parallel adapter at the feed-forward (He et al., 2022).

A preset of `compose`: prefix tuning of length 30 with a network of width 800, and a parallel adapter with m = d / 2
and a fixed scale of 4.

    adapters/prefix/...     as of `prefix`
            /parallel/...   as of `parallel`

Parameters, the sum of both: 22,493,984 on BERT-base (the network of the prefixes, which is not needed once they are
trained, holds two thirds), 65,424,160 on BERT-large. Source: adapter-hub/adapters, `mam`; He et al., section 4.6.
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from adapters_jax.methods import checks
from adapters_jax.methods.base import Method, Recipe
from adapters_jax.methods.composition import Composed
from adapters_jax.methods.parallel import RECIPE, Parallel
from adapters_jax.methods.prefix import Prefix


@dataclasses.dataclass(frozen=True)
class MAM(Composed):
    """He et al. (2022), https://arxiv.org/abs/2110.04366.

    Attributes:
        length: of the prefix.
        prefix_bottleneck: the width of the network that makes the prefixes; 0 trains them themselves.
        bottleneck: m of the parallel adapter; d / 2 if not given.
        scale: of the parallel adapter.
    """

    name: ClassVar[str] = "mam"
    size: ClassVar[str | None] = "bottleneck"
    length: int = 30
    prefix_bottleneck: int = 800
    bottleneck: int | None = None
    scale: float = 4.0

    def __post_init__(self) -> None:
        checks.whole("prefix_bottleneck", self.prefix_bottleneck, least=0)
        self.components()

    @property
    def recipe(self) -> Recipe:
        return RECIPE

    def components(self) -> Sequence[Method]:
        return (
            Prefix(length=self.length, bottleneck=self.prefix_bottleneck),
            Parallel(bottleneck=self.bottleneck, scale=self.scale),
        )

    def of_flat(self, parts: tuple[Method, ...]) -> "MAM":
        return dataclasses.replace(self, prefix_bottleneck=0)
