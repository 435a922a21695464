"""A trained method that is used as it is: nothing of it is trained, as a part of another or under a new head.

The second phase of a pre-trained adapter (Pfeiffer et al., 2020, MAD-X; Wang et al., 2021, K-Adapter): what was learnt
stays, the head or an adapter above it learns the task.
"""

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp
import optax

from adapters_jax.bert.config import BertConfig
from adapters_jax.methods.adapter_drop import refuse_changed
from adapters_jax.methods.wrapper import Wrapper
from adapters_jax.types import Array, Float, Tree


@dataclasses.dataclass(frozen=True)
class Frozen(Wrapper):
    """Another method, with nothing of it trained; one that changed leaves of the backbone is refused.

    Attributes:
        of: the method.
    """

    name: ClassVar[str] = "frozen"

    def check(self, config: BertConfig) -> None:
        super().check(config)
        refuse_changed(self.of, config)

    def penalty(self, adapters: Tree) -> Float[Any, ""]:
        return jnp.zeros(())

    def measures(self, adapters: Tree) -> dict[str, Array]:
        return {}

    def transform(
        self, tx: optax.GradientTransformation, total_steps: int, prefix: str = "adapters/"
    ) -> optax.GradientTransformation:
        return tx

    def settled(self, total_steps: int) -> int:
        return 0

    def trainable(self, path: str, config: BertConfig) -> bool:
        return False
