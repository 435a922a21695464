"""LoRA with its variants as peft's LORA.

base_model.model.bert.encoder.layer.3.attention.self.query.lora_A.weight           (r, in)    .../query/a, turned
                                                          .lora_B.weight           (out, r)   .../query/b, turned
                                                          .lora_magnitude_vector   (out)      .../query/magnitude
r, rank_pattern, lora_alpha, alpha_pattern                                  rank, ranks, alpha, alphas
use_rslora, use_dora, lora_dropout                                          rank_stabilised, dora, dropout
"""

import math
from typing import Any

import numpy as np

from adapters_jax.interop.peft import targets
from adapters_jax.interop.peft.source import WHOLE, Source, is_whole
from adapters_jax.interop.peft.targets import Targets
from adapters_jax.interop.rules import Flat, Kind, Refusal
from adapters_jax.methods import Method
from adapters_jax.methods.lora import LoRA
from adapters_jax.methods.qlora import QLoRA
from adapters_jax.model import Model
from adapters_jax.sharding import fetch
from adapters_jax.types import Tree

DEFAULT = ("query", "value")
"""peft's `target_modules` for BERT where none are named."""

STARTS = (True, False, "gaussian", "eva", "orthogonal", "mica")
"""Values of `init_lora_weights` that leave the backbone's weights as they are; others subtract A B from them."""

OUTSIDE = Refusal(
    "a module outside of the layers' dense ones (pooler, embeddings, classifier)",
    "we change none there; expected target_modules within encoder.layer",
    lambda source: outside(source),
)
BEYOND = Refusal(
    "a module outside of the layers' dense ones, other than the pooler of SEQ_CLS (embeddings, classifier)",
    "we change none there; expected target_modules within encoder.layer, or pooler.dense beside them",
    lambda source: [name for name in outside(source) if name != pooler_name(source) or source.task != "SEQ_CLS"],
)
UNEVEN = Refusal(
    "other dense layers in one layer than in the next",
    "ours are the same in every layer that has any",
    lambda source: grid(source) is None,
)
BIASES = Refusal(
    "trained biases (bias lora_only or all)",
    "we train no biases beside it; expected bias none",
    lambda source: source.get("bias", "none") != "none",
)


def outside(source: Source) -> list[str]:
    """The changed modules that are none of the layers' dense ones."""
    found = Targets.of(source, DEFAULT)
    return found.others + found.norms


def pooler_name(source: Source) -> str:
    return source.stem + targets.POOLER


def grid(source: Source) -> tuple[tuple[str, ...], tuple[int, ...]] | None:
    """(slots, layers) of the changed dense layers; None if the slots differ from layer to layer, or there are none."""
    places = Targets.of(source, DEFAULT).dense
    slots, layers = tuple(dict.fromkeys(s for s, _ in places)), tuple(sorted({i for _, i in places}))
    return (slots, layers) if places and len(places) == len(slots) * len(layers) else None


def chosen(layers: tuple[int, ...], source: Source) -> tuple[int, ...] | None:
    """`layers` of a method; None for all."""
    return None if len(layers) == source.bert.num_hidden_layers else layers


def _by_slot(source: Source, option: str, default: float | int) -> dict[str, set[float | int]]:
    """The values that a pattern's option has for each slot."""

    def make() -> dict[str, set[float | int]]:
        value_of = targets.by_pattern(source, option, default)
        slots, layers = grid(source) or ((), ())
        return {slot: {value_of(source.stem + targets.dense_name(slot, i)) for i in layers} for slot in slots}

    return source.once((option, "by slot"), make)


def _ranks(source: Source) -> dict[str, set[float | int]]:
    return _by_slot(source, "rank_pattern", source.whole("r", 8))


def _alphas(source: Source) -> dict[str, set[float | int]]:
    return _by_slot(source, "alpha_pattern", source.number("lora_alpha", 8))


def folded_pooler(source: Source, backbone: Tree) -> Flat:
    """The pooler, as the head's own one, where the adapter changes it: its kernel W + s A B, or with DoRA's columns.

    peft computes x W + s x A B: the same but for the order of rounding. {} where it stays as it is.

    Raises:
        AdapterError: tensors that are missing or misshapen; a rank that is none.
    """
    name, claims, d = pooler_name(source), source.claims, source.bert.hidden_size
    if name not in outside(source) or "pooler" not in backbone:
        return {}
    rank = targets.by_pattern(source, "rank_pattern", source.whole("r", 8))(name)
    alpha = targets.by_pattern(source, "alpha_pattern", source.number("lora_alpha", 8))(name)
    if not is_whole(rank) or not 1 <= rank <= d:
        raise source.error("rank_pattern", f"a rank of 1 to {d} for {name}", rank)
    kernel, bias = (np.asarray(fetch(backbone["pooler"][kind]), np.float64) for kind in ("kernel", "bias"))
    a = claims.take(f"{WHOLE}{name}.lora_A.weight", int(rank), d).T
    b = claims.take(f"{WHOLE}{name}.lora_B.weight", d, int(rank)).T
    kernel = kernel + alpha / (math.sqrt(rank) if source.flag("use_rslora") else rank) * (a.astype(np.float64) @ b)
    if source.flag("use_dora"):
        norms = np.linalg.norm(kernel, axis=0)
        magnitude = claims.take(f"{WHOLE}{name}.lora_magnitude_vector", d)
        kernel = kernel * np.where(norms > 0, magnitude / np.where(norms > 0, norms, 1.0), 1.0)
    with np.errstate(over="ignore"):
        return {"head/pooler/kernel": kernel.astype(np.float32), "head/pooler/bias": bias.astype(np.float32)}


def _read(source: Source) -> tuple[Method, Flat]:
    slots, layers = grid(source) or ((), ())
    if wrong := [rank for own in _ranks(source).values() for rank in own if not is_whole(rank)]:
        raise source.error("rank_pattern", "whole numbers", wrong[0])
    ranks = {slot: int(own.pop()) for slot, own in _ranks(source).items()}
    alphas = {slot: float(own.pop()) for slot, own in _alphas(source).items()}
    dora = source.flag("use_dora")
    method = LoRA(
        slots=slots,
        rank=source.whole("r", 8),
        alpha=source.number("lora_alpha", 8),
        ranks=tuple(ranks.values()) if source.table("rank_pattern") else (),
        alphas=tuple(alphas.values()) if source.table("alpha_pattern") else (),
        rank_stabilised=source.flag("use_rslora"),
        dropout=source.number("lora_dropout", 0.0),
        dora=dora,
        layers=chosen(layers, source),
    )
    source.ignore("init_lora_weights", "qalora_group_size", "loftq_config", "eva_config")
    flat: Flat = {}
    for slot in slots:
        inputs, outputs = targets.widths(slot, source.bert)
        for layer in layers:
            name, path = WHOLE + source.stem + targets.dense_name(slot, layer), f"adapters/encoder/{layer}/{slot}"
            flat[f"{path}/a"] = source.claims.take(f"{name}.lora_A.weight", ranks[slot], inputs).T
            flat[f"{path}/b"] = source.claims.take(f"{name}.lora_B.weight", outputs, ranks[slot]).T
            if dora:
                flat[f"{path}/magnitude"] = source.claims.take(f"{name}.lora_magnitude_vector", outputs)
    return method, flat


def _write(model: Model, flat: Flat, stem: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    method = model.method
    assert isinstance(method, LoRA)
    tensors = {}
    for path, leaf in flat.items():
        _, _, layer, slot, kind = path.split("/")
        name = f"{WHOLE}{stem}{targets.dense_name(slot, int(layer))}"
        if kind == "magnitude":
            tensors[f"{name}.lora_magnitude_vector"] = leaf
        else:
            tensors[f"{name}.lora_{kind.upper()}.weight"] = leaf.T
    ranks, alphas = method.ranks, [plain(alpha) for alpha in method.alphas]
    return tensors, {
        "target_modules": targets.expression(method.slots, method.layers),
        "r": method.rank,
        "lora_alpha": plain(method.alpha),
        "rank_pattern": {targets.key(slot): rank for slot, rank in zip(method.slots, ranks, strict=False)},
        "alpha_pattern": {targets.key(slot): alpha for slot, alpha in zip(method.slots, alphas, strict=False)},
        "use_rslora": method.rank_stabilised,
        "use_dora": method.dora,
        "lora_dropout": method.dropout,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
    }


def plain(value: float) -> float | int:
    """A whole number where it is one, as peft writes alpha."""
    return int(value) if value.is_integer() else value


KIND = Kind(
    title="LORA",
    methods=(LoRA, QLoRA),
    read=_read,
    write=_write,
    note="with rsLoRA, DoRA, patterns and chosen layers; a changed pooler under a classifier of texts becomes the "
    "head's own (W + s A B, up to rounding), and is written as a whole one; QLoRA comes back as lora",
    not_read=(
        BIASES,
        Refusal(
            "a start that changes the backbone (pissa, olora, corda, loftq, lora_ga)",
            "its weights do not belong to the backbone as it is; save it with peft's "
            "path_initial_model_for_weight_conversion",
            lambda source: source.get("init_lora_weights", True) not in STARTS,
        ),
        BEYOND,
        UNEVEN,
        Refusal(
            "ranks or alphas that differ from layer to layer",
            "ours are the same in every layer, one for each slot",
            lambda source: any(len(own) > 1 for each in (_ranks(source), _alphas(source)) for own in each.values()),
        ),
    ),
)
