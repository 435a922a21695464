"""AdaLoRA as peft's ADALORA.

    base_model.model.bert.encoder.layer.3.attention.self.query.lora_A     (r, in)     adapters/encoder/3/query/a, turned
                                                              .lora_E     (r, 1)                              /e
                                                              .lora_B     (out, r)                            /b, turned

Pruned triplets are left out, and named in the config's `rank_pattern`; read again, they are zeros: the same function.
peft counts its schedule in steps, ours is in shares of the run: written are steps of a run of 1,000, for the shares
alone.
"""

from typing import Any

import numpy as np

from adapters_jax.errors import AdapterError
from adapters_jax.interop.peft import targets
from adapters_jax.interop.peft.lora import BIASES, OUTSIDE, UNEVEN, chosen, grid, plain
from adapters_jax.interop.peft.source import WHOLE, Source
from adapters_jax.interop.rules import Flat, Kind, Refusal
from adapters_jax.methods import Method
from adapters_jax.methods.adalora import AdaLoRA
from adapters_jax.model import Model

RUN = 1000
"""The length of the run that a written schedule is for."""


def _read(source: Source) -> tuple[Method, Flat]:
    slots, layers = grid(source) or ((), ())
    rank, alpha, steps = source.whole("init_r", 12), source.number("lora_alpha", 8), source.whole("total_step", 0)
    if not steps:
        raise source.error("total_step", "the length of the run in steps", steps)
    method = AdaLoRA(
        slots=slots,
        rank=rank,
        target_rank=min(rank, source.whole("target_r", 8)),
        alpha=alpha if alpha > 0 else float(rank),
        start=source.whole("tinit", 0) / steps,
        final=source.whole("tfinal", 0) / steps,
        interval=source.whole("deltaT", 1),
        beta1=source.number("beta1", 0.85),
        beta2=source.number("beta2", 0.85),
        orthogonality=source.number("orth_reg_weight", 0.5),
        dropout=source.number("lora_dropout", 0.0),
        layers=chosen(layers, source),
    )
    method.check(source.bert)  # before zeros of its rank are made
    source.ignore("r", "init_lora_weights", "alpha_pattern", "qalora_group_size", "loftq_config", "eva_config")
    pattern = source.table("rank_pattern")
    flat: Flat = {}
    for slot in slots:
        for layer in layers:
            name = source.stem + targets.dense_name(slot, layer)
            kept = _kept(source, name, pattern.get(f"{name}.lora_E"), rank)
            leaves = _whole(source, name, slot, kept)
            flat |= {f"adapters/encoder/{layer}/{slot}/{kind}": leaf for kind, leaf in leaves.items()}
    return method, flat


def _kept(source: Source, name: str, pattern: Any, rank: int) -> np.ndarray:
    """Which triplets of a change are left."""
    if pattern is None:
        if source.table("rank_pattern"):
            raise AdapterError(f"{source.path}: rank_pattern: expected {name}.lora_E, found none")
        return np.ones(rank, bool)
    if not isinstance(pattern, list) or len(pattern) != rank or not all(isinstance(each, bool) for each in pattern):
        raise source.error("rank_pattern", f"{rank} booleans for {name}", pattern)
    return np.array(pattern, bool)


def _whole(source: Source, name: str, slot: str, kept: np.ndarray) -> dict[str, np.ndarray]:
    """A change's leaves in our layout, at its initial rank: zeros where triplets were pruned."""
    (inputs, outputs), left, rank = targets.widths(slot, source.bert), int(kept.sum()), len(kept)
    a, e, b = (np.zeros(shape, np.float32) for shape in ((inputs, rank), (rank,), (rank, outputs)))
    a[:, kept] = source.claims.take(f"{WHOLE}{name}.lora_A", left, inputs).T
    e[kept] = source.claims.take(f"{WHOLE}{name}.lora_E", left, 1)[:, 0]
    b[kept] = source.claims.take(f"{WHOLE}{name}.lora_B", outputs, left).T
    return {"a": a, "e": e, "b": b}


def _write(model: Model, flat: Flat, stem: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    method = model.method
    assert isinstance(method, AdaLoRA)
    tensors: Flat = {}
    pattern: dict[str, list[bool]] = {}
    for place in [path.removesuffix("/e") for path in flat if path.endswith("/e")]:
        _, _, layer, slot = place.split("/")
        a, e, b = (flat[f"{place}/{kind}"] for kind in "aeb")
        kept, name = e != 0, stem + targets.dense_name(slot, int(layer))
        pattern[f"{name}.lora_E"] = kept.tolist()
        own = {"lora_A": a.T[kept], "lora_E": e[kept, None], "lora_B": b.T[:, kept]}
        tensors |= {f"{WHOLE}{name}.{kind}": leaf for kind, leaf in own.items()}
    return tensors, {
        "target_modules": targets.expression(method.slots, method.layers),
        "init_r": method.rank,
        "target_r": method.target_rank,
        "lora_alpha": plain(method.alpha),
        "lora_dropout": method.dropout,
        "total_step": RUN,
        "tinit": round(method.start * RUN),
        "tfinal": round(method.final * RUN),
        "deltaT": method.interval,
        "beta1": method.beta1,
        "beta2": method.beta2,
        "orth_reg_weight": method.orthogonality,
        "rank_pattern": pattern,
        "bias": "none",
        "fan_in_fan_out": False,
    }


KIND = Kind(
    title="ADALORA",
    methods=(AdaLoRA,),
    read=_read,
    write=_write,
    note="pruned triplets are left out and come back as zeros; the schedule keeps its shares, not its steps",
    not_read=(
        BIASES,
        Refusal(
            "options of LoRA's variants (use_rslora, use_dora)",
            "AdaLoRA has no such form; expected false",
            lambda source: source.get("use_rslora", False) is not False or source.get("use_dora", False) is not False,
        ),
        OUTSIDE,
        UNEVEN,
    ),
)
