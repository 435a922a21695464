"""BERT with prefixes and prompts in numpy, float64, row by row and without padding: written from the papers alone."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from adapters_jax import trees


def _norm(x, p, eps):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps) * p("scale") + p("bias")


def _gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / np.sqrt(2)))


def forward(
    backbone: dict,
    config,
    batch: Mapping,
    *,
    prefixes: Mapping[int, tuple] = {},
    prompt: np.ndarray | None = None,
    place: str = "words",
    positions: Sequence[int] | None = None,
) -> list[np.ndarray]:
    """The last hidden states of each row's tokens, the prompt's rows first.

    Args:
        prefixes: layer -> (keys, values), each [l n h].
        prompt: [l d].
        place: where the prompt goes, "words" or "encoder".
        positions: position ids of the prompt's rows (at "words") and the tokens; from 0 if not given.
    """
    flat = {path: np.asarray(leaf, np.float64) for path, leaf in trees.to_layers(backbone).items()}
    at = lambda place: lambda name: flat[f"{place}/{name}"]
    words, embeddings = flat["embeddings/words"], at("embeddings")
    found = []
    for ids, types, mask in zip(*(np.asarray(batch[n]) for n in ("input_ids", "token_type_ids", "mask")), strict=True):
        ids, types = ids[mask == 1], types[mask == 1]
        x = words[ids]
        if prompt is not None and place == "words":
            x, types = np.concatenate([prompt, x]), np.concatenate([np.zeros(len(prompt), int), types])
        numbers = np.arange(len(x)) if positions is None else np.asarray(positions)[: len(x)]
        x = x + embeddings("positions")[numbers] + embeddings("types")[types]
        x = _norm(x, at("embeddings/norm"), config.layer_norm_eps)
        if prompt is not None and place == "encoder":
            x = np.concatenate([prompt, x])
        for layer in range(config.num_hidden_layers):
            x = _layer(x, lambda name, layer=layer: at(f"encoder/{layer}/{name}"), config, prefixes.get(layer))
        found.append(x)
    return found


def _layer(x, part, config, prefix):
    dense = lambda name, x: x @ part(name)("kernel") + part(name)("bias")
    heads = lambda x: x.reshape(len(x), config.num_attention_heads, -1)
    q, k, v = (heads(dense(name, x)) for name in ("query", "key", "value"))
    if prefix is not None:
        k, v = (np.concatenate([own, rest]) for own, rest in zip(prefix, (k, v), strict=True))
    mixed = np.empty_like(q)
    for head in range(config.num_attention_heads):
        scores = q[:, head] @ k[:, head].T / math.sqrt(q.shape[-1])
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        mixed[:, head] = weights / weights.sum(-1, keepdims=True) @ v[:, head]
    h = _norm(x + dense("attn_out", mixed.reshape(x.shape)), part("attn_norm"), config.layer_norm_eps)
    return _norm(h + dense("ffn_out", _gelu(dense("ffn_in", h))), part("ffn_norm"), config.layer_norm_eps)


def assert_tokens_agree(hidden, expected: Sequence[np.ndarray], mask, front: int = 0) -> None:
    """Hidden states [b t d] agree where there are tokens; `front`: rows of the expected ones that come before them."""
    for ours, theirs, seen in zip(np.asarray(hidden), expected, np.asarray(mask), strict=True):
        np.testing.assert_allclose(ours[seen == 1], theirs[front:], atol=2e-5)
