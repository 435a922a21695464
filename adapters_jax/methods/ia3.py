"""(IA)^3: activations scaled by learned vectors (Liu et al., 2022).

With x a dense layer's input, W [in out] and b its weights, * along the last axis:

    y = (x W + b) * l             l [out]    key, value, and preset "adapters": ffn_in, before the activation
    y = (x * l) W + b             l [in]     preset "paper": the feed-forward, after the activation

l starts at 1: exactly the plain backbone.

    adapters/encoder/3/key/scale      [d]
                      /value/scale    [d]
                      /ffn_in/scale   [f]     preset "adapters"
                      /ffn_out/scale  [f]     preset "paper": the slot whose input is scaled

Parameters, L (2 d + f): BERT-base 55,296, BERT-large 147,456, with either preset.

Source: r-three/t-few; preset "adapters" is AdapterHub's, "paper" the paper's equation and peft's. Difference: the
release's Adafactor scales the rate by each leaf's root mean square, ours does not; for l near 1 that is the same.
"""

import dataclasses
import operator
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from adapters_jax import trees
from adapters_jax.bert.config import BertConfig
from adapters_jax.bert.ops import across
from adapters_jax.errors import ConfigError, NotFoldable
from adapters_jax.methods import checks, folding
from adapters_jax.methods.base import Method, Recipe
from adapters_jax.slots import PROJECT, Context, Modules
from adapters_jax.types import Array, Float, Tree

PRESETS = ("adapters", "paper")
LEAST = 1e-6
"""A column scaled closer to 0 is not divided back: rounding or underflow may have lost it."""


class Scale(nn.Module):
    """dense(x) * l, or dense(x * l) where `inputs`."""

    inputs: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b t i"], dense: Any, ctx: Context) -> Float[Array, "b t o"]:
        scaled = x if self.inputs else dense(x)
        scaled = scaled * across(self.param("scale", nn.initializers.ones, scaled.shape[-1:]), x)
        return dense(scaled) if self.inputs else scaled


@dataclasses.dataclass(frozen=True)
class IA3(Method):
    """Liu et al. (2022), https://arxiv.org/abs/2205.05638.

    Attributes:
        slots: the dense layers whose result is scaled: any of query, key, value, attn_out, ffn_in, ffn_out.
        preset: "adapters": ffn_in's result is scaled before the activation; "paper": after it, that is, the input of
            ffn_out, which cannot be named beside ffn_in then.
        layers: the layers with scales; all, if not given.
    """

    name: ClassVar[str] = "ia3"
    slots: tuple[str, ...] = ("key", "value", "ffn_in")
    preset: str = "adapters"
    layers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        checks.one_of("preset", self.preset, PRESETS)
        checks.some_of("slots", self.slots, PROJECT)
        if self.preset == "paper" and {"ffn_in", "ffn_out"} <= set(self.slots):
            raise ConfigError(
                "method.slots: expected one of ffn_in and ffn_out with preset 'paper', where ffn_in stands at ffn_out, "
                "got both"
            )

    @property
    def recipe(self) -> Recipe:
        return Recipe(
            lr=3e-3,
            epochs=20.0,
            optimizer="adafactor",
            batch_size=8,
            warmup=0.06,
            weight_decay=0.0,
            source="Liu et al. (2022) and r-three/t-few, configs/ia3.json, which train for 1,000 steps of 8 rows; "
            "epochs: peft, examples/sequence_classification/IA3.ipynb",
        )

    def modules(self, config: BertConfig, segment: int) -> Modules:
        if not self.lives_in(segment, config):
            return {}
        return {slot: Scale(inputs) for slot, inputs in self.places().items()}

    def places(self) -> dict[str, bool]:
        """Where scales stand -> whether on the dense layer's input."""
        moved = {"ffn_in"} if self.preset == "paper" else set()
        return {("ffn_out" if slot in moved else slot): slot in moved for slot in self.slots}

    def fold(self, backbone: Tree, adapters: Tree) -> Tree:
        return self._scaled(backbone, adapters, operator.mul)

    def unfold(self, backbone: Tree, adapters: Tree) -> Tree:
        for path, leaf in trees.flatten(adapters).items():
            least = float(jnp.abs(leaf).min())
            if not least >= LEAST:
                raise NotFoldable(
                    f"ia3 cannot be unfolded: adapters/{path} holds a scale of {least:.1e}, below {LEAST:.0e}; keep "
                    "the backbone from before, which fold never changes"
                )
        return self._scaled(backbone, adapters, operator.truediv)

    def _scaled(self, backbone: Tree, adapters: Tree, combine: Callable[[Any, Any], Any]) -> Tree:
        """The backbone with each scaled weight combined with its scale."""
        places = self.places()

        def change(slot: str, kind: str, leaf: jax.Array, own: Tree) -> Array:
            scale = own["scale"]
            if places[slot]:
                return leaf if kind == "bias" else combine(leaf, scale[:, :, None])
            return combine(leaf, scale if kind == "bias" else scale[:, None])

        return folding.rewrite(backbone, adapters, change)
