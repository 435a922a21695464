"""P-tuning (v1): a prompt that a small network makes (Liu et al., 2021, "GPT Understands, Too").

With E [n d] trained rows, one per place of the prompt:

    lstm   P = W_2 relu(W_1 BiLSTM(BiLSTM(E)) + b_1) + b_2                 widths d -> 2 h -> 2 h -> 2 h -> d
    mlp    P = W_3 relu(W_2 relu(W_1 E + b_1) + b_2) + b_3                 widths d -> h -> h -> d

P stands in front of the text as in prompt tuning (prompt.py). h is d / 2 in the release's LSTM (preset "lama") and d
in peft's networks. An LSTM is torch's, gates i, f, g, o in that order, with a bias on the input and one on the state:

    i, f, g, o = W_in x_t + b_in + W_st h_(t-1) + b_st
    c_t = sigmoid(f) c_(t-1) + sigmoid(i) tanh(g)        h_t = sigmoid(o) tanh(c_t)

    adapters/p_tuning/embedding                       [n d]
                     /lstm/0/forward/input/kernel     [d 4h]   and bias [4h]; 1: [2h 4h]; backward: the same
                                    /state/kernel     [h 4h]   and bias [4h]
                     /mlp/0/kernel                    [2h 2h]  and bias, one for each W

Parameters: BERT-base, n = 9, "lama": 6,912 + 7,090,176 (LSTM) + 1,181,184 = 8,278,272, of which `flattened` keeps the
6,912 of P. Embeddings start at N(0, 1), the rest as in torch. Sources: THUDM/P-tuning, LAMA/p_tuning; huggingface/peft,
tuners/p_tuning. Deviations: the rows stand before [CLS], as in peft, where LAMA places three around each part of a
cloze; no dropout between the LSTMs, of which both sources have 0; the recipe is peft's for classification, since LAMA's
(1e-5 until it stops getting better) has no head to train.
"""

import dataclasses
import itertools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from adapters_jax import trees
from adapters_jax.bert.config import BertConfig
from adapters_jax.bert.ops import Dense
from adapters_jax.methods import checks
from adapters_jax.methods.base import Method, Recipe
from adapters_jax.methods.initial import torch_linear
from adapters_jax.methods.prompt import Prompt, PromptMethod
from adapters_jax.types import Array, Float, Key, Tree

ENCODERS = ("lstm", "mlp")
PRESETS = ("lama", "peft")
LSTM_LAYERS = 2
DIRECTIONS = ("forward", "backward")


def lstm(params: Tree, x: Float[Array, "t i"], reverse: bool) -> Float[Array, "t h"]:
    """An LSTM over the rows of x, from the first or from the last."""

    def step(carry: Any, given: Any) -> Any:
        h, c = carry
        i, f, g, o = jnp.split(given + Dense(params["state"])(h), 4)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    start = jnp.zeros(params["state"]["kernel"].shape[0], x.dtype)
    return jax.lax.scan(step, (start, start), Dense(params["input"])(x), reverse=reverse)[1]


@dataclasses.dataclass(frozen=True)
class PTuning(PromptMethod):
    """Liu et al. (2021), https://arxiv.org/abs/2103.10385.

    Attributes:
        length: n, of the prompt; 9 in LAMA's templates.
        encoder: "lstm" or "mlp" (peft's alone).
        preset: whose LSTM: "lama" (the release's) or "peft", which differ in its width.
        hidden: h, of the network, overrides the preset's; None for d / 2 (LAMA's LSTM) or d.
        insertion: "words" or "encoder".
        read: "cls", or "first", the first row of the prompt.
    """

    name: ClassVar[str] = "p_tuning"
    length: int = 9
    encoder: str = "lstm"
    preset: str = "lama"
    hidden: int | None = None
    insertion: str = "words"
    read: str = "cls"

    def __post_init__(self) -> None:
        PromptMethod.__post_init__(self)
        checks.one_of("encoder", self.encoder, ENCODERS)
        checks.one_of("preset", self.preset, PRESETS)
        if self.hidden is not None:
            checks.whole("hidden", self.hidden)

    @property
    def recipe(self) -> Recipe:
        return Recipe(
            lr=1e-3,
            epochs=30.0,
            warmup=0.06,
            source="huggingface/peft: examples/sequence_classification/P_Tuning.ipynb (MRPC)",
        )

    def initialise(self, key: Key, config: BertConfig, backbone: Tree) -> Tree:
        key, d = trees.fold_path(key, "p_tuning"), self.width(config)
        halved = (self.encoder, self.preset) == ("lstm", "lama")
        h = self.hidden or (d // 2 if halved else d)
        embedding = jax.random.normal(trees.fold_path(key, "embedding"), (self.length, d), jnp.float32)
        if self.encoder == "mlp":
            return {"p_tuning": {"embedding": embedding, "mlp": _mlp(key, (d, h, h, d))}}
        layers = {
            str(layer): {
                direction: {
                    "input": torch_linear(
                        trees.fold_path(key, "input", layer, direction), 2 * h if layer else d, 4 * h, h
                    ),
                    "state": torch_linear(trees.fold_path(key, "state", layer, direction), h, 4 * h, h),
                }
                for direction in DIRECTIONS
            }
            for layer in range(LSTM_LAYERS)
        }
        return {"p_tuning": {"embedding": embedding, "lstm": layers, "mlp": _mlp(key, (2 * h, 2 * h, d))}}

    def expand(self, adapters: Tree, key: Key | None, config: BertConfig) -> Tree:
        network = adapters["p_tuning"]
        x = network["embedding"]
        for layer in network.get("lstm", {}).values():
            x = jnp.concatenate([lstm(layer[name], x, name == "backward") for name in DIRECTIONS], axis=-1)
        *inner, last = network["mlp"].values()
        for dense in inner:
            x = jax.nn.relu(Dense(dense)(x))
        return {"embed": {"prompt": Dense(last)(x)}}

    def flattened(self, adapters: Tree, config: BertConfig) -> tuple[Method, Tree]:
        prompt = Prompt(self.length, insertion=self.insertion, read=self.read)
        return prompt, self.expand(adapters, None, config)


def _mlp(key: Key, widths: tuple[int, ...]) -> Tree:
    pairs = enumerate(itertools.pairwise(widths))
    return {str(n): torch_linear(trees.fold_path(key, "mlp", n), inputs, outputs) for n, (inputs, outputs) in pairs}
