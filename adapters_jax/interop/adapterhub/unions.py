"""Several kinds in one adapter: `ConfigUnion`, of which MAM and UniPELT are presets.

    {"architecture": "union", "configs": [options, ...]}        parts under adapters/PART/..., as of `compose`

The parts' tensors stand beside each other under one name. UniPELT's gates:

    encoder.layer.3.output.adapters.NAME.gate.{weight,bias}                    pfeiffer/encoder/3/ffn_merge/gate
    encoder.layer.3.attention.self.query.loras.NAME.gate.{weight,bias}         lora/encoder/3/query/gate
    encoder.layer.3.attention.self.prefix_tuning.prefix_gates.NAME.{...}       prefix/encoder/3/key_value/gate
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adapters_jax.bert.config import BertConfig
from adapters_jax.errors import AdapterError
from adapters_jax.interop.adapterhub import bottleneck, files, ia3, lora, prefix, prompt
from adapters_jax.interop.adapterhub.files import Options, Row, Source, Target
from adapters_jax.interop.rules import Flat, Kind, Refusal, kind_for, refuse
from adapters_jax.methods import IA3, MAM, Compose, LoRA, Method, Pfeiffer, Prefix, Prompt, UniPELT
from adapters_jax.methods.bottleneck import BottleneckMethod
from adapters_jax.methods.composition import Composed
from adapters_jax.methods.unipelt import GatedPart

SINGLE = (bottleneck.KIND, lora.KIND, ia3.KIND, prefix.KIND, prompt.KIND)
"""Kinds that can be parts."""

LIBRARY = "AdapterHub's `adapters`"
GATED: tuple[type[Method], ...] = (Prefix, Pfeiffer, LoRA)
"""UniPELT's parts, in our order."""


def single(where: Path, given: Any) -> Kind:
    """The kind of an adapter that is no union, by its options.

    Raises:
        AdapterError: one that we lack.
    """
    own = given if isinstance(given, Mapping) else {}
    architecture, mode = own.get("architecture"), own.get("composition_mode", "add")
    if architecture == "lora" and mode in ("add", "scale"):
        return lora.KIND if mode == "add" else ia3.KIND
    kinds = {None: bottleneck.KIND, "prefix_tuning": prefix.KIND, "prompt_tuning": prompt.KIND}
    if architecture is not None and (not isinstance(architecture, str) or architecture not in kinds):
        named = f"{architecture!r:.60} with composition_mode {mode!r:.60}" if architecture == "lora" else architecture
        raise AdapterError(
            f"{where}: expected a bottleneck adapter, lora, prefix_tuning, prompt_tuning or a union of these, got "
            f"{named!s:.140}, which we lack"
        )
    return kinds[architecture]


def meeting(parts: Sequence[Method], config: BertConfig) -> bool:
    """Whether two parts stand in one slot of a layer, or both at the embeddings."""
    for start in sorted({start for part in parts for start in part.segments(config)}):
        own = [part.modules(config, max(s for s in part.segments(config) if s <= start)) for part in parts]
        slots = [slot for modules in own for slot in modules]
        if len(slots) > len(set(slots)):
            return True
    return False


def read(source: Source) -> tuple[Method, Flat]:
    given = files.options(source.where, source.options, {"architecture": (str, "union"), "configs": (object, [])})
    configs = given["configs"]
    if not isinstance(configs, list) or not 1 <= len(configs) <= 16:
        raise AdapterError(f"{source.where}: configs: expected a list of 1 to 16, got {configs!r:.60}")
    gates = [isinstance(own, Mapping) and own.get("use_gating") is True for own in configs]
    plain = [own | {"use_gating": False} if gated else own for own, gated in zip(configs, gates, strict=True)]
    parts: list[tuple[Method, Flat]] = []
    for own in plain:
        parts.append(single(source.where, own).read(dataclasses.replace(source, options=own)))  # type: ignore[misc]
    methods = [method for method, _ in parts]
    if any(gates):
        return _unipelt(source, parts, configs, all(gates))
    refuse(KIND.not_read, (methods, source.config), source.where)
    whole = preset(methods)
    flat = {
        f"{name}/{path}": leaf
        for name, (_, own) in zip(whole.by_name, parts, strict=True)
        for path, leaf in own.items()
    }
    return whole, flat


def preset(parts: Sequence[Method]) -> Composed:
    """MAM where the parts are its own, else their composition."""
    if [type(part) for part in parts] == [Prefix, bottleneck.Parallel]:
        first: Any
        second: Any
        first, second = parts
        whole = MAM(first.length, first.bottleneck, second.bottleneck, second.scale)
        if list(whole.components()) == list(parts):
            return whole
    return Compose(tuple(parts))


def _unipelt(source: Source, parts: list[tuple[Method, Flat]], configs: list[Options], all_gated: bool) -> tuple:
    by_class = {type(method): (method, flat, own) for (method, flat), own in zip(parts, configs, strict=True)}
    whole: UniPELT | None = None
    if all_gated and len(parts) == len(GATED) and set(by_class) == set(GATED):
        length, width = by_class[Prefix][0].length, by_class[Prefix][0].bottleneck  # type: ignore[attr-defined]
        factor, rank = by_class[Pfeiffer][2]["reduction_factor"], by_class[LoRA][0].rank  # type: ignore[attr-defined]
        if isinstance(factor, int | float):
            whole = UniPELT(length, width, float(factor), rank, gate_padding=True)
            # The gate takes the place of alpha / r; the width says the same as the factor.
            alike: dict[type, Options] = {LoRA: {"alpha": float(rank)}, Pfeiffer: {}, Prefix: {}}
            m = int(source.config.hidden_size / factor)
            if by_class[Pfeiffer][0].bottleneck == m:  # type: ignore[attr-defined]
                alike[Pfeiffer] = {"bottleneck": None, "reduction_factor": float(factor)}
            found = [dataclasses.replace(by_class[cls][0], **alike[cls]) for cls in GATED]  # type: ignore[type-var]
            whole = whole if [GatedPart(part, padding=True) for part in found] == list(whole.components()) else None
    if whole is None or by_class[Prefix][2].get("shared_gating", True) is not True:
        raise AdapterError(
            f"{source.where}: use_gating: expected the parts of UniPELT, a prefix, a bottleneck like seq_bn and LoRA "
            "on query and value, all with one gate; we have no other gates"
        )
    flat = {
        f"{name}/{path}": leaf
        for name, cls in zip(whole.by_name, GATED, strict=True)
        for path, leaf in by_class[cls][1].items()
    }
    return whole, flat | files.take(source.claims, gates_of(whole, source.config, source.name))


def gates_of(whole: UniPELT, config: BertConfig, name: str) -> list[Row]:
    """The tensors of UniPELT's gates."""
    found = []
    for layer in range(config.num_hidden_layers):
        encoder, d = f"encoder.layer.{layer}", config.hidden_size
        places = {
            f"prefix/encoder/{layer}/key_value": f"{encoder}.attention.self.prefix_tuning.prefix_gates.{name}",
            f"pfeiffer/encoder/{layer}/ffn_merge": f"{encoder}.output.adapters.{name}.gate",
            f"lora/encoder/{layer}/query": f"{lora.place(layer, 'query', name)}.gate",
            f"lora/encoder/{layer}/value": f"{lora.place(layer, 'value', name)}.gate",
        }
        for path, place in places.items():
            found += files.dense(f"{path}/gate", place, d, 1)
    return found


def write(method: Composed, target: Target) -> tuple[Options, Flat]:
    gates = gates_of(method, target.config, target.name) if isinstance(method, UniPELT) else []
    tensors = files.put(gates, target.flat)
    configs = []
    for name, part in method.by_name.items():
        plain = part.part if isinstance(part, GatedPart) else part
        mine = {path: target.flat.pop(path) for path in list(target.flat) if path.startswith(f"{name}/")}
        own = dataclasses.replace(target, flat={path.removeprefix(f"{name}/"): leaf for path, leaf in mine.items()})
        kind = next(kind for kind in SINGLE if type(plain) in kind.methods)
        config, written = kind.write(plain, own)  # type: ignore[misc]
        configs.append(config | ({"use_gating": True} if gates else {}))
        tensors |= written
        target.flat.update({f"{name}/{path}": leaf for path, leaf in own.flat.items()})
    return {"architecture": "union", "configs": configs}, tensors


def unwritable(model: Any) -> bool:
    """Whether a part has no counterpart; where a rule of its kind refuses it, raises ConfigError."""
    for part in model.method.components():
        plain = part.part if isinstance(part, GatedPart) else part
        kind_for(SINGLE, LIBRARY, dataclasses.replace(model, method=plain))
    return False


def _of_one_architecture(model: Any) -> bool:
    """As `ConfigUnion.validate`: bottlenecks may be two, one after attention and one after the feed-forward."""
    parts = model.method.components()
    bottlenecks = [part.slots for part in parts if isinstance(part, BottleneckMethod)]
    twice = len(bottlenecks) > 1 and sorted(bottlenecks) != [("attn_merge",), ("ffn_merge",)]
    counts = [sum(isinstance(part, kinds) for part in parts) for kinds in ((LoRA, IA3), (Prefix,), (Prompt,))]
    return twice or max(counts) > 1


TOGETHER = "the library takes one of each there, and nothing says which of two comes first"
KIND = Kind(
    title="unions of the above (`mam`, `unipelt`, `ConfigUnion`)",
    methods=(MAM, UniPELT, Compose),
    read=read,
    write=write,
    note="UniPELT with gate_padding, and batches that are padded alike",
    not_read=(Refusal("parts that meet at one place", TOGETHER, lambda own: meeting(*own)),),
    not_written=(
        Refusal(
            "UniPELT's gates over tokens alone (gate_padding is off)",
            "the library's means count the padding; train with --method.gate-padding",
            lambda model: isinstance(model.method, UniPELT) and not model.method.gate_padding,
        ),
        Refusal("a part that is refused by itself", "see its kind", unwritable),
        Refusal(
            "parts of one architecture, or at one place",
            TOGETHER,
            lambda model: _of_one_architecture(model) or meeting(model.method.components(), model.config),
        ),
    ),
)
