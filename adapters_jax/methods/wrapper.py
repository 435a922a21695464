"""What methods that change another method share: everything is the other's, unless they say otherwise."""

import abc
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import optax

from adapters_jax.bert.config import BertConfig
from adapters_jax.methods.base import Method, Recipe
from adapters_jax.slots import Modules
from adapters_jax.types import Array, Float, Hidden, Key, Tree


@dataclasses.dataclass(frozen=True)
class Wrapper(Method, abc.ABC):
    """A method around another one, whose tree of adapters it keeps as it is.

    Attributes:
        of: the other one.
    """

    of: Method

    @property
    def label(self) -> str:
        return self.of.label

    @property
    def recipe(self) -> Recipe:
        return self.of.recipe

    @property
    def quantize(self) -> str | None:
        return self.of.quantize

    @property
    def vote(self) -> str:  # type: ignore[override]
        return self.of.vote

    @property
    def members(self) -> int:
        return self.of.members

    def around(self, of: Method) -> "Wrapper":
        """The same around another one."""
        return dataclasses.replace(self, of=of)

    def check(self, config: BertConfig) -> None:
        self.of.check(config)

    def prepare(self, tokenize: Callable[[str], list[int]], labels: Sequence[str]) -> Method:
        return self.around(self.of.prepare(tokenize, labels))

    def segments(self, config: BertConfig) -> tuple[int, ...]:
        return self.of.segments(config)

    def modules(self, config: BertConfig, segment: int) -> Modules:
        return self.of.modules(config, segment)

    def positions(self, config: BertConfig) -> int:
        return self.of.positions(config)

    def initialise(self, key: Key, config: BertConfig, backbone: Tree) -> Tree:
        return self.of.initialise(key, config, backbone)

    def expand(self, adapters: Tree, key: Key | None, config: BertConfig) -> Tree:
        return self.of.expand(adapters, key, config)

    def flattened(self, adapters: Tree, config: BertConfig) -> tuple[Method, Tree]:
        flat, tree = self.of.flattened(adapters, config)
        return self.around(flat), tree

    def invert(self, adapters: Tree, x: Hidden) -> Hidden:
        return self.of.invert(adapters, x)

    @property
    def inverts(self) -> bool:
        return self.of.inverts

    def penalty(self, adapters: Tree) -> Float[Any, ""]:
        return self.of.penalty(adapters)

    def measures(self, adapters: Tree) -> dict[str, Array]:
        return self.of.measures(adapters)

    def transform(
        self, tx: optax.GradientTransformation, total_steps: int, prefix: str = "adapters/"
    ) -> optax.GradientTransformation:
        return self.of.transform(tx, total_steps, prefix)

    def settled(self, total_steps: int) -> int:
        return self.of.settled(total_steps)

    def decays(self, path: str) -> bool:
        return self.of.decays(path)

    def trainable(self, path: str, config: BertConfig) -> bool:
        return self.of.trainable(path, config)

    def fold(self, backbone: Tree, adapters: Tree) -> Tree:
        return self.of.fold(backbone, adapters)

    def unfold(self, backbone: Tree, adapters: Tree) -> Tree:
        return self.of.unfold(backbone, adapters)

    def given(self) -> dict[str, Any]:
        return self.to_dict() | {"of": self.of.given()}
