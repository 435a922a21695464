"""AdaLoRA adapters as peft's files, and back: adapter_config.json and adapter_model.safetensors in a folder.

    base_model.model.bert.encoder.layer.3.attention.self.query.lora_A     (r, in)     adapters/encoder/3/query/a, turned
                                                              .lora_E     (r, 1)                              /e
                                                              .lora_B     (out, r)                            /b, turned
    base_model.model.classifier.weight, .bias                             (c, d), (c) head/classifier/kernel, bias

Pruned triplets are left out, and named in the config's `rank_pattern`; read again, they are zeros: the same function.
Every tensor is accounted for, both ways. peft counts its schedule in steps, ours is in shares of the run: written are
steps of a run of 1,000, for the shares alone.
"""

import json
import re
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from adapters_jax import manifest, tensors, trees
from adapters_jax.bert import weights
from adapters_jax.bert.heads import Classification, Regression
from adapters_jax.errors import AdapterError, ConfigError
from adapters_jax.methods.adalora import AdaLoRA
from adapters_jax.model import Model
from adapters_jax.slots import PROJECT
from adapters_jax.types import Tree

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MAX_CONFIG = 1 << 22
"""The longest config read, 4 MiB: rank patterns of some 100,000 triplets."""

RUN = 1000
"""The length of the run that a written schedule is for."""

PLACES = {
    row.path.removesuffix("/kernel"): row.released.removesuffix(".weight")
    for row in weights.LAYER
    if row.path.removesuffix("/kernel") in PROJECT
}
"""Slot -> the dense layer's name in released checkpoints."""

PLACE = re.compile(
    rf"base_model\.model\.(?:bert\.)?encoder\.layer\.(\d+)\.({'|'.join(map(re.escape, PLACES.values()))})\.lora_([AEB])"
)
HEAD = {
    "base_model.model.classifier.weight": "head/classifier/kernel",
    "base_model.model.classifier.bias": "head/classifier/bias",
}

ONLY = {"bias": "none", "fan_in_fan_out": False, "use_rslora": False, "use_dora": False}
"""Options that change the function, and the values that we have."""


def save_peft(folder: str | Path, model: Model, params: Tree, backbone: Any) -> None:
    """Writes a trained AdaLoRA for `peft.PeftModel.from_pretrained` over BertForSequenceClassification.

    Args:
        folder: made if it is not there; files of the same names are replaced.
        model: of `AdaLoRA`, with a classification or regression head on the backbone's own pooler.
        params: as trained.
        backbone: whose name peft shall load.

    Raises:
        ConfigError: another method or head.
        AdapterError: the folder cannot be written.
    """
    method, head = model.method, model.head
    if not isinstance(method, AdaLoRA):
        raise ConfigError(f"method {method.name}: expected adalora, the one that is written for peft")
    if not isinstance(head, Classification | Regression) or "pooler" in params["head"]:
        raise ConfigError(f"head {head.name}: expected classification or regression on the backbone's own pooler")
    flat = {path: np.asarray(leaf, np.float32) for path, leaf in trees.to_layers(params["adapters"]).items()}
    kernel, bias = (np.asarray(params["head"]["classifier"][kind], np.float32) for kind in ("kernel", "bias"))
    if isinstance(head, Regression):  # there, the head answers on the labels' scale by itself
        kernel, bias = kernel * np.float32(head.deviation), bias * np.float32(head.deviation) + np.float32(head.mean)
    written = {f"base_model.model.classifier.{kind}": leaf for kind, leaf in (("weight", kernel.T), ("bias", bias))}
    pattern = {}
    for place in [path.removesuffix("/e") for path in flat if path.endswith("/e")]:
        _, layer, slot = place.split("/")
        a, e, b = (flat[f"{place}/{kind}"] for kind in "aeb")
        kept, name = e != 0, f"bert.encoder.layer.{layer}.{PLACES[slot]}"
        pattern[f"{name}.lora_E"] = kept.tolist()
        own = {"lora_A": a.T[kept], "lora_E": e[kept, None], "lora_B": b.T[:, kept]}
        written |= {f"base_model.model.{name}.{kind}": leaf for kind, leaf in own.items()}
    names = sorted({name.removesuffix(".lora_E") for name in pattern})
    config = {
        "peft_type": "ADALORA",
        "task_type": "SEQ_CLS",
        "base_model_name_or_path": str(backbone.name),
        "revision": backbone.revision,
        "inference_mode": True,
        "target_modules": rf".*({'|'.join(map(re.escape, names))})",
        "modules_to_save": ["classifier", "score"],
        "init_r": method.rank,
        "target_r": method.target_rank,
        "lora_alpha": method.alpha,
        "lora_dropout": method.dropout,
        "total_step": RUN,
        "tinit": round(method.start * RUN),
        "tfinal": round(method.final * RUN),
        "deltaT": method.interval,
        "beta1": method.beta1,
        "beta2": method.beta2,
        "orth_reg_weight": method.orthogonality,
        "rank_pattern": pattern,
        **ONLY,
    }
    where = Path(folder)
    try:
        where.mkdir(parents=True, exist_ok=True)
        contiguous = {name: np.ascontiguousarray(leaf) for name, leaf in written.items()}
        safetensors.numpy.save_file(contiguous, where / WEIGHTS, metadata={"format": "pt"})
        manifest.write_text(where / CONFIG, json.dumps(config, indent=2, sort_keys=True) + "\n")
    except (OSError, safetensors.SafetensorError) as error:
        raise AdapterError(f"{where}: cannot be written: {manifest.why(error)}") from error


def load_peft(folder: str | Path, backbone: Any) -> tuple[Model, Tree]:
    """The model of an AdaLoRA adapter that peft wrote, and its parameters on this backbone.

    Args:
        folder: holds adapter_config.json and adapter_model.safetensors.
        backbone: the `Backbone` that it was trained on; peft's files do not tell which weights those were.

    Raises:
        AdapterError: a file is missing or damaged, is of another method, holds options that we lack, or tensors that
            are missing, unexpected, misshapen or not finite.
    """
    where = Path(folder)
    config = _read_config(where / CONFIG)
    flat = tensors.read(where / WEIGHTS)
    tensors.refuse_not_finite(where / WEIGHTS, flat)
    places: dict[tuple[str, int], dict[str, np.ndarray]] = {}
    for name, leaf in flat.items():
        if match := PLACE.fullmatch(name):
            slot = next(slot for slot, released in PLACES.items() if released == match[2])
            places.setdefault((slot, int(match[1])), {})[match[3]] = leaf
    unexpected = [name for name in flat if not PLACE.fullmatch(name) and name not in HEAD]
    missing = [name for name in HEAD if name not in flat]
    if unexpected or missing:
        raise AdapterError(
            f"{where / WEIGHTS}: expected changes of dense layers and a classifier, "
            f"{'unexpected ' + unexpected[0] if unexpected else 'missing ' + missing[0]}"
        )
    slots = tuple(slot for slot in PROJECT if any(slot == own for own, _ in places))
    layers = tuple(sorted({layer for _, layer in places}))
    if len(places) != len(slots) * len(layers) or not places:
        raise AdapterError(f"{where / WEIGHTS}: expected changes of the same dense layers in each layer that has any")
    kernel = flat["base_model.model.classifier.weight"].T
    method = _method(where, config, backbone.config.num_hidden_layers, slots, layers)
    try:
        model = Model(backbone.config, method, Classification(num_labels=kernel.shape[-1]))
    except ConfigError as error:
        raise AdapterError(f"{where / CONFIG}: {error}") from None
    head = {"classifier": {"kernel": kernel, "bias": flat["base_model.model.classifier.bias"]}}
    pattern = config.get("rank_pattern") or {}
    named = dict(trees.flatten({"head": head}))
    for (slot, layer), own in places.items():
        name = f"bert.encoder.layer.{layer}.{PLACES[slot]}"
        kept = pattern.get(f"{name}.lora_E", pattern.get(f"{name.removeprefix('bert.')}.lora_E"))
        leaves = _whole(where, name, own, kept, method.rank)
        named |= {f"adapters/encoder/{layer}/{slot}/{kind}": leaf for kind, leaf in leaves.items()}
    template = model.abstract(backbone.params)
    own = {part: template[part] for part in ("adapters", "head")}
    try:
        made = trees.from_layers({path: jnp.asarray(leaf, jnp.float32) for path, leaf in named.items()}, own)
    except AdapterError as error:
        raise AdapterError(f"{where / WEIGHTS}: {error}") from None
    return model, {"backbone": backbone.params} | made


def _read_config(path: Path) -> dict[str, Any]:
    if path.is_symlink() or not path.is_file() or path.stat().st_size > MAX_CONFIG:
        raise AdapterError(f"{path}: expected a file of at most {MAX_CONFIG} bytes beside {WEIGHTS}, found none")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise AdapterError(f"{path}: expected readable JSON, {manifest.one_line(error)}") from None
    if not isinstance(config, dict) or config.get("peft_type") != "ADALORA":
        found = config.get("peft_type") if isinstance(config, dict) else type(config).__name__
        raise AdapterError(f"{path}: expected an adapter of peft's ADALORA, got {found!s:.60}")
    for option, only in ONLY.items():
        if config.get(option, only) not in (only, None):
            raise AdapterError(f"{path}: expected {option} {only!r}, got {config[option]!s:.60}, which we lack")
    pattern = config.get("rank_pattern")
    if pattern is not None and not (isinstance(pattern, dict) and all(isinstance(x, list) for x in pattern.values())):
        raise AdapterError(f"{path}: expected a rank_pattern of lists, got {pattern!s:.60}")
    return config


def _method(where: Path, config: dict[str, Any], deep: int, slots: tuple, layers: tuple) -> AdaLoRA:
    try:
        rank, steps = config.get("init_r", 12), config["total_step"]
        alpha = config.get("lora_alpha", 8)
        return AdaLoRA(
            slots=slots,
            rank=rank,
            target_rank=min(rank, config.get("target_r", 8)),
            alpha=float(alpha if alpha > 0 else rank),
            start=config.get("tinit", 0) / steps,
            final=config.get("tfinal", 0) / steps,
            interval=config.get("deltaT", 1),
            beta1=config.get("beta1", 0.85),
            beta2=config.get("beta2", 0.85),
            orthogonality=config.get("orth_reg_weight", 0.5),
            dropout=config.get("lora_dropout", 0.0),
            layers=None if layers == tuple(range(deep)) else layers,
        )
    except (ConfigError, ArithmeticError, KeyError, TypeError, ValueError) as error:
        raise AdapterError(f"{where / CONFIG}: {manifest.one_line(error)}") from None


def _whole(where: Path, name: str, own: dict[str, np.ndarray], kept: Any, rank: int) -> dict[str, np.ndarray]:
    """A change's leaves in our layout, at its initial rank: zeros where triplets were pruned."""
    places = np.arange(rank) if kept is None else np.flatnonzero(np.array([each is True for each in kept]))
    wanted = len(places)
    shapes = {kind: leaf.shape for kind, leaf in own.items()}
    fits = set(own) == {"A", "E", "B"} and all(len(shape) == 2 for shape in shapes.values())
    if not fits or (shapes["A"][0], shapes["E"], shapes["B"][1]) != (wanted, (wanted, 1), wanted):
        raise AdapterError(f"{where / WEIGHTS}: {name}: expected lora_A, lora_E, lora_B of rank {wanted}, got {shapes}")
    if kept is not None and len(kept) != rank:
        raise AdapterError(f"{where / CONFIG}: rank_pattern of {name}: expected {rank} values, got {len(kept)}")
    a, e, b = np.zeros((shapes["A"][1], rank)), np.zeros(rank), np.zeros((rank, shapes["B"][0]))
    a[:, places], e[places], b[places] = own["A"].T, own["E"][:, 0], own["B"].T
    return {"a": a, "e": e, "b": b}
