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


COMPACTER = Refusal(
    "phm_layer",
    "sums of Kronecker products in the place of dense layers, which we lack",
    lambda own: own.get("phm_layer") is True,
)
VERA = Refusal(
    "vera_d, vera_b",
    "random matrices that all layers share, which we lack",
    lambda own: own.get("vera_d") is not None or own.get("vera_b") is not None,
)
REFT = Refusal(
    "architecture reft",
    "it edits the states of some positions, which we cannot",
    lambda own: own.get("architecture") == "reft",
)
MTL = Refusal(
    "architecture mtl_lora",
    "a LoRA of several tasks at once, which we lack",
    lambda own: own.get("architecture") == "mtl_lora",
)
OTHER = Refusal(
    "another architecture or composition_mode",
    "expected a bottleneck adapter, lora (add, or scale for (IA)^3), prefix_tuning, prompt_tuning, or a union of these",
    lambda own: (
        own.get("architecture") not in (None, "lora", "prefix_tuning", "prompt_tuning")
        or (own.get("architecture") == "lora" and own.get("composition_mode", "add") not in ("add", "scale"))
    ),
    lambda own: tuple(own.get(name) for name in ("architecture", "composition_mode") if name in own),
)
LACKED = (
    Kind("Compacter (`compacter`, `compacter++`)", (), None, None, not_read=(COMPACTER,)),
    Kind("VeRA (`vera`)", (), None, None, not_read=(VERA,)),
    Kind("ReFT (`loreft`, `noreft`, `direft`)", (), None, None, not_read=(REFT,)),
    Kind("MTL-LoRA (`mtl_lora`)", (), None, None, not_read=(MTL,)),
)
"""Kinds of the library that we have no equal for."""


def single(where: Path, given: Any) -> Kind:
    """The kind of an adapter that is no union, by its options.

    Raises:
        AdapterError: one that we lack.
    """
    own = given if isinstance(given, Mapping) else {}
    refuse((*(rule for kind in LACKED for rule in kind.not_read), OTHER), own, where)
    if own.get("architecture") == "lora":
        return ia3.KIND if own.get("composition_mode") == "scale" else lora.KIND
    kinds = {"prefix_tuning": prefix.KIND, "prompt_tuning": prompt.KIND}
    return kinds.get(str(own.get("architecture")), bottleneck.KIND)


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
    plain = [own | {"use_gating": False} if _gated(own) else own for own in configs]
    parts: list[tuple[Method, Flat]] = []
    for own in plain:
        parts.append(single(source.where, own).read(dataclasses.replace(source, options=own)))  # type: ignore[misc]
    read = _Read([method for method, _ in parts], configs, source.config)
    refuse(KIND.not_read, read, source.where)
    whole = preset(read.parts) if not any(map(_gated, configs)) else read.unipelt
    assert whole is not None, "refused before"
    if isinstance(whole, UniPELT):
        parts.sort(key=lambda part: GATED.index(type(part[0])))
    flat = {
        f"{name}/{path}": leaf
        for name, (_, own) in zip(whole.by_name, parts, strict=True)
        for path, leaf in own.items()
    }
    gates = gates_of(whole, source.config, source.name) if isinstance(whole, UniPELT) else []
    return whole, flat | files.take(source.claims, gates)


def _gated(options: Any) -> bool:
    return isinstance(options, Mapping) and options.get("use_gating") is True


@dataclasses.dataclass(frozen=True)
class _Read:
    """A union as it was read: its parts, their options, the backbone's config."""

    parts: list[Method]
    options: list[Options]
    config: BertConfig

    @property
    def unipelt(self) -> UniPELT | None:
        """What it is with its gates; None: nothing of ours."""
        by_class = {type(part): (part, own) for part, own in zip(self.parts, self.options, strict=True)}
        if len(self.parts) != len(GATED) or set(by_class) != set(GATED) or not all(map(_gated, self.options)):
            return None
        a_prefix: Any
        a_lora: Any
        bottlenecks: Any
        (a_prefix, of_prefix), (bottlenecks, of_bottlenecks), (a_lora, _) = (by_class[cls] for cls in GATED)
        factor = of_bottlenecks["reduction_factor"]
        if of_prefix.get("shared_gating", True) is not True or not isinstance(factor, int | float):
            return None
        whole = UniPELT(a_prefix.length, a_prefix.bottleneck, float(factor), a_lora.rank, gate_padding=True)
        # The gate takes the place of alpha / r; the width says the same as the factor.
        found: list[Method] = [a_prefix, bottlenecks, dataclasses.replace(a_lora, alpha=float(a_lora.rank))]
        if bottlenecks.bottleneck == int(self.config.hidden_size / factor):
            found[1] = dataclasses.replace(bottlenecks, bottleneck=None, reduction_factor=float(factor))
        return whole if [GatedPart(part, padding=True) for part in found] == list(whole.components()) else None


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
    not_read=(
        Refusal(
            "use_gating on other parts than UniPELT's",
            "expected a prefix, a bottleneck like seq_bn and LoRA on query and value, all with one gate; we have no "
            "other gates",
            lambda own: any(map(_gated, own.options)) and own.unipelt is None,
        ),
        Refusal(
            "parts that meet at one place",
            TOGETHER,
            lambda own: not any(map(_gated, own.options)) and meeting(own.parts, own.config),
        ),
    ),
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
