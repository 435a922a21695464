"""What the bottleneck adapters share: the inner module, where it stands, its size in each layer, what is trained.

    B(x) = W_up act(W_down x + b_down) + b_up              W_down [d m], W_up [m d]

With `inner_norm`, x is normalised first by a LayerNorm of the adapter's own; with `inner_layers` k, k dense layers
[m m], each before an activation, stand between down and up (both are variations that Houlsby et al., 2019, report).

    adapters/encoder/3/ffn_merge/down/kernel   [d m]
                                /down/bias     [m]
                                /up/kernel     [m d]
                                /up/bias       [d]
                                /norm/scale    [d]   and bias, with inner_norm
                                /inner_0/kernel [m m] and bias [m], with inner_layers
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

from flax import linen as nn
from jax.nn.initializers import ones, zeros

from adapters_jax.bert.config import BertConfig
from adapters_jax.bert.ops import ACTIVATIONS, Norm
from adapters_jax.errors import ConfigError
from adapters_jax.methods import checks, invertible
from adapters_jax.methods.base import Method, is_layer_norm
from adapters_jax.methods.initial import Initialiser
from adapters_jax.slots import MERGE, Context, Modules
from adapters_jax.types import Hidden, Tree

Normalise = Callable[[Hidden], Hidden]


class InnerNorm(nn.Module):
    """A LayerNorm of the adapter's own, from scale 1 and bias 0; eps as in torch."""

    @nn.compact
    def __call__(self, x: Hidden) -> Hidden:
        width = x.shape[-1:]
        params = {name: self.param(name, init, width) for name, init in (("scale", ones), ("bias", zeros))}
        return Norm(params, 1e-5)(x)


class Bottleneck(nn.Module):
    """W_up dropout(act(W_down x)): [.. d] -> [.. d], without the residual.

    Attributes:
        bottleneck: the inner width m.
        activation: a key of `bert.ops.ACTIVATIONS`.
        down_init, up_init: of the kernels; biases start at 0.
        dropout: on the inner activations, in training.
        inner_norm: normalise x first.
        inner_layers: dense layers [m m] between the two.
    """

    bottleneck: int
    activation: str
    down_init: Initialiser
    up_init: Initialiser
    dropout: float = 0.0
    inner_norm: bool = False
    inner_layers: int = 0

    @nn.compact
    def __call__(self, x: Hidden) -> Hidden:
        dense = lambda width, name, init: nn.Dense(width, name=name, dtype=x.dtype, kernel_init=init)
        act = ACTIVATIONS[self.activation]
        width = x.shape[-1]
        x = InnerNorm(name="norm")(x) if self.inner_norm else x
        inner = act(dense(self.bottleneck, "down", self.down_init)(x))
        for number in range(self.inner_layers):
            inner = act(dense(self.bottleneck, f"inner_{number}", self.down_init)(inner))
        inner = nn.Dropout(self.dropout, deterministic=not self.has_rng("dropout"))(inner)
        return dense(width, "up", self.up_init)(inner)


class AdapterMerge(nn.Module):
    """norm(residual + y + delta): what the bottleneck adapters that only add something have in common.

    `delta` is offered on its own, so that several can stand in one place; `adapter_input` is what the bottleneck sees.
    """

    additive: ClassVar[bool] = True
    adapter: Bottleneck

    def setup(self) -> None:
        nn.share_scope(self, self.adapter)

    def adapter_input(self, y: Hidden, residual: Hidden, norm: Normalise) -> Hidden:
        raise NotImplementedError

    def delta(self, y: Hidden, residual: Hidden, norm: Normalise, ctx: Context) -> Hidden:
        """What the adapter adds to y."""
        return self.adapter(self.adapter_input(y, residual, norm))

    def __call__(self, y: Hidden, residual: Hidden, norm: Normalise, ctx: Context) -> Hidden:
        return norm(residual + y + self.delta(y, residual, norm, ctx))


class SerialMerge(AdapterMerge):
    """norm(residual + y + B(y)): after the sublayer, before its residual."""

    def adapter_input(self, y: Hidden, residual: Hidden, norm: Normalise) -> Hidden:
        return y


@dataclasses.dataclass(frozen=True)
class BottleneckMethod(Method, abc.ABC):
    """Fields of every bottleneck method; each says in its own docstring what it publishes.

    Attributes:
        bottleneck: the inner width m.
        reduction_factor: m = d / reduction_factor, instead of `bottleneck`.
        sizes: an inner width for each layer, instead of both; 0 leaves the layer out.
        activation: a key of `bert.ops.ACTIVATIONS`; None for the published one.
        slots: after attention ("attn_merge"), after the feed-forward ("ffn_merge"), or both.
        layers: the layers with adapters; all, if not given.
        layer_norms: train the backbone's LayerNorms in those layers too, and with all layers the embeddings'.
        inner_norm: a LayerNorm of the adapter's own on the bottleneck's input.
        inner_layers: further dense layers [m m] inside the bottleneck.
        dropout: on the inner activations.
        invertible: also a NICE coupling on the embeddings, for training languages with a masked-LM head.
        invertible_factor: by which the coupling's inner width is smaller than its halves.
    """

    size: ClassVar[str | None] = "bottleneck"
    bottleneck: int | None = None
    reduction_factor: float | None = None
    sizes: tuple[int, ...] = ()
    activation: str | None = None
    slots: tuple[str, ...] = ("ffn_merge",)
    layers: tuple[int, ...] | None = None
    layer_norms: bool | None = None
    inner_norm: bool = False
    inner_layers: int = 0
    dropout: float = 0.0
    invertible: bool = False
    invertible_factor: float = 2.0

    @abc.abstractmethod
    def published(self) -> dict[str, Any]:
        """What stands in for fields that are None; of the sizes, if none is given."""

    @abc.abstractmethod
    def merge(self, slot: str, adapter: Bottleneck) -> nn.Module:
        """The merge module around the bottleneck."""

    @abc.abstractmethod
    def initialisers(self) -> tuple[Initialiser, Initialiser]:
        """Of W_down (and inner layers) and W_up."""

    def __post_init__(self) -> None:
        sized = [name for name in ("bottleneck", "reduction_factor", "sizes") if getattr(self, name) not in (None, ())]
        if len(sized) > 1:
            got = " and ".join(sized)
            raise ConfigError(f"method: expected one of bottleneck, reduction_factor and sizes, got {got}")
        for name, value in self.published().items():
            if getattr(self, name) is None and not (sized and name in ("bottleneck", "reduction_factor")):
                object.__setattr__(self, name, value)
        if self.bottleneck is not None:
            checks.whole("bottleneck", self.bottleneck)
        if self.reduction_factor is not None:
            checks.number("reduction_factor", self.reduction_factor, least=1e-3)
        for width in self.sizes:
            checks.whole("sizes", width, least=0)
        if self.sizes and (self.layers is not None or not any(self.sizes)):
            raise ConfigError("method.sizes: expected a width for each layer, 0 to leave one out, and no method.layers")
        checks.one_of("activation", str(self.activation), ACTIVATIONS)
        checks.some_of("slots", self.slots, MERGE)
        checks.rate("dropout", self.dropout)
        checks.whole("inner_layers", self.inner_layers, least=0)
        checks.number("invertible_factor", self.invertible_factor, least=1e-3)

    def given(self) -> dict[str, Any]:
        published = self.published()
        return {name: None if published.get(name) == value else value for name, value in self.to_dict().items()}

    def check(self, config: BertConfig) -> None:
        super().check(config)
        if self.invertible and config.hidden_size % 2:
            raise ConfigError(f"method.invertible: expected a backbone of even width, got {config.hidden_size}")

    def widths(self, config: BertConfig) -> tuple[int, ...]:
        """The inner width in each layer; 0 where it carries none."""
        layers = config.num_hidden_layers
        if self.sizes:
            if len(self.sizes) != layers:
                raise ConfigError(f"method.sizes: expected {layers} widths, one for each layer, got {len(self.sizes)}")
            return self.sizes
        if self.bottleneck is None:
            width = int(config.hidden_size / float(self.reduction_factor or 1))
            if width < 1:
                raise ConfigError(
                    f"method.reduction_factor: expected at most {config.hidden_size}, got {self.reduction_factor}"
                )
        else:
            width = self.bottleneck
        chosen = checks.in_layers(self.layers, config)
        return tuple(width if layer in chosen else 0 for layer in range(layers))

    def segments(self, config: BertConfig) -> tuple[int, ...]:
        return checks.borders(self.widths(config))

    def modules(self, config: BertConfig, segment: int) -> Modules:
        width = self.widths(config)[segment]
        outer = {}
        if self.invertible and segment == 0:
            outer = {"embed": invertible.Coupling(str(self.activation), self.invertible_factor)}
        if not width:
            return outer
        down, up = self.initialisers()
        adapter = Bottleneck(width, str(self.activation), down, up, self.dropout, self.inner_norm, self.inner_layers)
        return outer | {slot: self.merge(slot, adapter.copy()) for slot in self.slots}

    @property
    def inverts(self) -> bool:
        return self.invertible

    def invert(self, adapters: Tree, x: Hidden) -> Hidden:
        if not self.invertible:
            return x
        coupling = invertible.Coupling(str(self.activation), self.invertible_factor)
        return coupling.apply({"params": adapters["embed"]}, x, method="inverse")

    def trainable(self, path: str, config: BertConfig) -> bool:
        if path.startswith("adapters/"):
            return True
        return bool(self.layer_norms) and is_layer_norm(path) and self._has_layer(path, config)

    def _has_layer(self, path: str, config: BertConfig) -> bool:
        """Whether a LayerNorm belongs to a layer that carries adapters; the embeddings' belongs to all layers."""
        widths = self.widths(config)
        _, part, number, *_ = path.split("/")
        return bool(widths[int(number)]) if part == "encoder" else all(widths)
