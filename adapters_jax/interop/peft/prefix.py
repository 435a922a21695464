"""Prefixes as peft's PREFIX_TUNING.

    prompt_embeddings    (l, L * 2 * d)    adapters/encoder/0.../key_value/{k,v} [l n h], by layers, keys first

A network that makes prefixes is evaluated: peft saves what it gives, and so do we. There, positions of tokens start at
l, since a prefix stands in the place of past tokens.
"""

from typing import Any

import numpy as np

from adapters_jax.interop.peft.source import Source
from adapters_jax.interop.rules import Flat, Kind, Refusal
from adapters_jax.methods import Method
from adapters_jax.methods.p_tuning_v2 import PTuningV2
from adapters_jax.methods.prefix import Prefix, PrefixMethod
from adapters_jax.model import Model

EMBEDDINGS = "prompt_embeddings"

NO_TASK = Refusal(
    "no task_type",
    "peft then leaves the rows out of the forward pass; expected SEQ_CLS, TOKEN_CLS or FEATURE_EXTRACTION",
    lambda source: source.task is None,
)


def rows(source: Source) -> int:
    """The number of rows, once the sizes that a config names have been found to be the backbone's.

    Raises:
        AdapterError: they are not.
    """
    config = source.bert
    own = {
        "token_dim": config.hidden_size,
        "num_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_transformer_submodules": 1,
    }
    for name, size in own.items():
        if source.whole(name, size) != size:
            raise source.error(name, f"the backbone's {size}", source.get(name))
    return source.whole("num_virtual_tokens")


def sizes(model: Model, length: int) -> dict[str, Any]:
    """The options that name sizes."""
    return {
        "num_virtual_tokens": length,
        "token_dim": model.config.hidden_size,
        "num_layers": model.config.num_hidden_layers,
        "num_attention_heads": model.config.num_attention_heads,
        "num_transformer_submodules": 1,
    }


def _read(source: Source) -> tuple[Method, Flat]:
    length, config = rows(source), source.bert
    source.ignore("prefix_projection", "encoder_hidden_size", "init_weights")
    layers, heads = config.num_hidden_layers, config.num_attention_heads
    whole = source.claims.take(EMBEDDINGS, length, layers * 2 * config.hidden_size)
    each = whole.reshape(length, layers, 2, heads, config.head_width)
    flat = {
        f"adapters/encoder/{layer}/key_value/{name}": each[:, layer, kind]
        for layer in range(layers)
        for kind, name in enumerate("kv")
    }
    return Prefix(length, bottleneck=0, position_offset=True), flat


def _write(model: Model, flat: Flat, stem: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    method = model.method
    assert isinstance(method, PrefixMethod)
    layers = range(model.config.num_hidden_layers)
    each = [flat[f"adapters/encoder/{layer}/key_value/{name}"] for layer in layers for name in "kv"]
    embeddings = np.stack(each, 1).reshape(method.length, -1)
    options = {"prefix_projection": False, "encoder_hidden_size": model.config.hidden_size}
    return {EMBEDDINGS: embeddings}, sizes(model, method.length) | options


KIND = Kind(
    title="PREFIX_TUNING",
    methods=(Prefix, PTuningV2),
    read=_read,
    write=_write,
    note="loads as prefix with position_offset, without the network; the bare encoder: of texts of token type 0, since "
    "peft drops token types there",
    not_read=(NO_TASK,),
    not_written=(
        Refusal(
            "positions that start at 0 (position_offset is off)",
            "peft's start after the prefix; train with --method.position_offset",
            lambda model: isinstance(model.method, Prefix) and not model.method.position_offset,
        ),
        Refusal(
            "chosen layers",
            "peft's prefixes stand in all of them",
            lambda model: (
                len(model.method.layers or model.config.num_hidden_layers * (0,)) < model.config.num_hidden_layers
            ),
        ),
    ),
)
