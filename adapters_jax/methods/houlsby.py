"""Houlsby adapters: a bottleneck after each of the two sublayers (Houlsby et al., 2019).

With h the sublayer's output after its dense layer and dropout, r its input, m the bottleneck:

    A(h) = h + W_up act(W_down h + b_down) + b_up          W_down [d m], W_up [m d]
    out  = LayerNorm(r + A(h))

Trained: the adapters, every LayerNorm of the backbone (25 in BERT-base, the embeddings' included) and the head. The
pooler stays frozen, as in the release. At initialisation A is nearly the identity: kernels are drawn from a truncated
normal of `init_std` and biases are 0.

    adapters/encoder/3/attn_merge/down/kernel  [d m]
                                       /bias    [m]
                                  /up/kernel    [m d]
                                     /bias      [d]
             and the same under ffn_merge

Parameters, BERT-base, m = 64: 24 x 99,136 = 2,379,264 in adapters and 38,400 in LayerNorms; BERT-large 6,343,680.
Source: google-research/adapter-bert, modeling.py and run_classifier.py. The release's gelu, in its bottleneck and its
BERT, is the tanh form: "gelu_new" here, and the default; the backbone's own activation follows its config.
"""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

from flax import linen as nn
from jax.nn.initializers import truncated_normal

from adapters_jax.bert.config import BertConfig
from adapters_jax.bert.ops import ACTIVATIONS
from adapters_jax.errors import ConfigError, unknown
from adapters_jax.methods.base import Method, Recipe, is_layer_norm
from adapters_jax.slots import Context, Modules
from adapters_jax.types import Hidden

INIT_STD = {"adapter-bert": 1e-3, "paper": 1e-2}
"""Standard deviation of a fresh adapter's kernels, before the cut at two of them: the release's code, the paper's text
(section 3.6: "zero-mean Gaussian with standard deviation 10^-2, truncated to two standard deviations")."""


class Bottleneck(nn.Module):
    """W_up dropout(act(W_down x)): [.. d] -> [.. d], without the residual.

    Attributes:
        bottleneck: the inner width m.
        activation: a key of `bert.ops.ACTIVATIONS`.
        init_std: of both kernels.
        dropout: on the inner activations, in training.
    """

    bottleneck: int
    activation: str
    init_std: float
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Hidden) -> Hidden:
        dense = lambda width, name: nn.Dense(
            width,
            name=name,
            dtype=x.dtype,
            kernel_init=truncated_normal(self.init_std),
            bias_init=nn.initializers.zeros,
        )
        inner = ACTIVATIONS[self.activation](dense(self.bottleneck, "down")(x))
        inner = nn.Dropout(self.dropout, deterministic=not self.has_rng("dropout"))(inner)
        return dense(x.shape[-1], "up")(inner)


class SerialMerge(nn.Module):
    """LayerNorm(residual + y + bottleneck(y)): the adapter after a sublayer, before its residual."""

    bottleneck: int
    activation: str
    init_std: float
    dropout: float = 0.0

    def setup(self) -> None:
        self.adapter = Bottleneck(self.bottleneck, self.activation, self.init_std, self.dropout)
        nn.share_scope(self, self.adapter)

    def delta(self, y: Hidden, residual: Hidden, norm: Callable[[Hidden], Hidden], ctx: Context) -> Hidden:
        """What the adapter adds to y."""
        return self.adapter(y)

    def __call__(self, y: Hidden, residual: Hidden, norm: Callable[[Hidden], Hidden], ctx: Context) -> Hidden:
        return norm(residual + y + self.delta(y, residual, norm, ctx))


@dataclasses.dataclass(frozen=True)
class Houlsby(Method):
    """Houlsby et al. (2019), https://arxiv.org/abs/1902.00751.

    Attributes:
        bottleneck: the inner width m; 64 in the release, 8 to 256 in the paper.
        preset: "adapter-bert" (the released code) or "paper" (its text), which differ in how kernels start.
        activation: of the bottleneck: gelu_new (the release's), gelu, relu.
        layer_norms: train the backbone's LayerNorms too, as published.
        dropout: inside the bottleneck; none as published.
        init_std: overrides the preset's standard deviation of fresh kernels.
    """

    name: ClassVar[str] = "houlsby"
    bottleneck: int = 64
    preset: str = "adapter-bert"
    activation: str = "gelu_new"
    layer_norms: bool = True
    dropout: float = 0.0
    init_std: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.bottleneck, int) or self.bottleneck < 1:
            raise ConfigError(f"method.bottleneck: expected a whole number of at least 1, got {self.bottleneck!r}")
        if self.preset not in INIT_STD:
            raise ConfigError(f"method.preset: {unknown('preset', self.preset, INIT_STD)}")
        if self.activation not in ACTIVATIONS:
            raise ConfigError(f"method.activation: {unknown('activation', self.activation, ACTIVATIONS)}")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"method.dropout: expected a rate in [0, 1), got {self.dropout}")
        if self.init_std is not None and not 0 <= self.init_std < float("inf"):
            raise ConfigError(f"method.init_std: expected a finite number of at least 0, got {self.init_std}")

    @property
    def recipe(self) -> Recipe:
        return Recipe(
            lr=3e-4,
            epochs=5.0,
            optimizer="adam_no_bias_correction",
            source="google-research/adapter-bert: README (MRPC) and optimization.py",
        )

    def modules(self, config: BertConfig, segment: int) -> Modules:
        std = INIT_STD[self.preset] if self.init_std is None else self.init_std
        merge = SerialMerge(self.bottleneck, self.activation, std, self.dropout)
        return {"attn_merge": merge, "ffn_merge": merge.copy()}

    def trainable(self, path: str) -> bool:
        return path.startswith("adapters/") or (self.layer_norms and is_layer_norm(path))
