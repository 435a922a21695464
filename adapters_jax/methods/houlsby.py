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

Parameters, L 2 (2 d m + m + d) and 2 d (2 L + 1): BERT-base, m = 64: 24 x 99,136 = 2,379,264 in adapters and 38,400 in
LayerNorms; BERT-large 6,343,680 and 100,352.

Variations that the paper reports (section 3.6), each an option: `inner_norm`, `inner_layers`, `activation`, `slots`
(attention or feed-forward only), and `insertion="gated"`, in parallel with a multiplicative interaction; the paper
gives no equation for it, here out = LayerNorm(r + h * (1 + W_up act(W_down r + b_down) + b_up)).

Source: google-research/adapter-bert, modeling.py and run_classifier.py. The release's gelu, in its bottleneck and its
BERT, is the tanh form: "gelu_new" here, and the default; the backbone's own activation follows its config.
"""

import dataclasses
from typing import Any, ClassVar

from flax import linen as nn
from jax.nn.initializers import normal, truncated_normal

from adapters_jax.methods import checks
from adapters_jax.methods.base import Recipe
from adapters_jax.methods.bottleneck import (
    AdapterMerge,
    Bottleneck,
    BottleneckMethod,
    Initialiser,
    Normalise,
    SerialMerge,
)
from adapters_jax.slots import Context
from adapters_jax.types import Hidden

PRESETS: dict[str, dict[str, Any]] = {
    "adapter-bert": {"bottleneck": 64, "activation": "gelu_new", "layer_norms": True, "init_std": 1e-3},
    "paper": {"bottleneck": 64, "activation": "gelu_new", "layer_norms": True, "init_std": 1e-2},
    "adapterhub": {"reduction_factor": 16.0, "activation": "swish", "layer_norms": False, "init_std": 0.02},
}
"""The release's code; the paper's text (section 3.6: "zero-mean Gaussian with standard deviation 10^-2, truncated to
two standard deviations"); AdapterHub's `double_seq_bn`, whose normal is not cut off."""
INSERTIONS = ("serial", "gated")


class MultiplicativeMerge(AdapterMerge):
    """norm(residual + y * (1 + B(residual)))."""

    def adapter_input(self, y: Hidden, residual: Hidden, norm: Normalise) -> Hidden:
        return residual

    def delta(self, y: Hidden, residual: Hidden, norm: Normalise, ctx: Context) -> Hidden:
        return y * self.adapter(residual)


@dataclasses.dataclass(frozen=True)
class Houlsby(BottleneckMethod):
    """Houlsby et al. (2019), https://arxiv.org/abs/1902.00751. Further fields: `BottleneckMethod`.

    Fields that are None are filled in by the preset, so `dataclasses.replace` keeps them: for another preset make a new
    object.

    Attributes:
        preset: "adapter-bert" (the released code), "paper" (its text), which differ in how kernels start, or
            "adapterhub" (`double_seq_bn`: m = d / 16, swish, LayerNorms frozen, N(0, 0.02^2)).
        insertion: "serial", or "gated": parallel, with a multiplicative interaction.
        init_std: the standard deviation of fresh kernels, in place of the preset's.
    """

    name: ClassVar[str] = "houlsby"
    slots: tuple[str, ...] = ("attn_merge", "ffn_merge")
    preset: str = "adapter-bert"
    insertion: str = "serial"
    init_std: float | None = None

    def __post_init__(self) -> None:
        checks.one_of("preset", self.preset, PRESETS)
        checks.one_of("insertion", self.insertion, INSERTIONS)
        super().__post_init__()
        checks.number("init_std", float(self.init_std or 0.0))

    @property
    def recipe(self) -> Recipe:
        if self.preset == "adapterhub":
            return Recipe(lr=1e-4, epochs=10.0, source="adapter-hub/adapters: documentation's defaults")
        return Recipe(
            lr=3e-4,
            epochs=5.0,
            optimizer="adam_no_bias_correction",
            source="google-research/adapter-bert: README (MRPC) and optimization.py",
        )

    def published(self) -> dict[str, Any]:
        return PRESETS[self.preset]

    def initialisers(self) -> tuple[Initialiser, Initialiser]:
        draw = normal if self.preset == "adapterhub" else truncated_normal
        return draw(self.init_std), draw(self.init_std)

    def merge(self, slot: str, adapter: Bottleneck) -> nn.Module:
        return SerialMerge(adapter) if self.insertion == "serial" else MultiplicativeMerge(adapter)
