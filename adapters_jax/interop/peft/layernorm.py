"""LayerNorm tuning as peft's LN_TUNING.

base_model.model.bert.encoder.layer.3.output.LayerNorm.ln_tuning_layers.weight, .bias    (d)
                                                                   backbone/encoder/3/ffn_norm/scale, bias
"""

from typing import Any

import numpy as np

from adapters_jax.interop.peft import targets
from adapters_jax.interop.peft.source import WHOLE, Source
from adapters_jax.interop.peft.targets import Targets
from adapters_jax.interop.rules import Flat, Kind, Refusal
from adapters_jax.methods import Method
from adapters_jax.methods.layernorm import LayerNormTuning
from adapters_jax.model import Model

KINDS = {"scale": "weight", "bias": "bias"}


def _method(source: Source) -> LayerNormTuning | None:
    """The method that trains these LayerNorms; None if there is none."""
    found = Targets.of(source, ()).norms
    names = targets.norm_names(source.bert)
    if len(found) == len(names):
        return LayerNormTuning()
    layers = tuple(sorted({int(path.split("/")[1]) for path in found if path.startswith("encoder/")}))
    wanted = [path for path in names if path.startswith("encoder/") and int(path.split("/")[1]) in layers]
    return LayerNormTuning(layers=layers) if found and found == wanted else None


def _read(source: Source) -> tuple[Method, Flat]:
    method, flat = _method(source), {}
    assert method is not None
    names = targets.norm_names(source.bert)
    for path in Targets.of(source, ()).norms:
        for kind, theirs in KINDS.items():
            name = f"{WHOLE}{source.stem}{names[path]}.ln_tuning_layers.{theirs}"
            flat[f"backbone/{path}/{kind}"] = source.claims.take(name, source.bert.hidden_size)
    return method, flat


def _write(model: Model, flat: Flat, stem: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    method = model.method
    assert isinstance(method, LayerNormTuning)
    names, tensors = targets.norm_names(model.config), {}
    for path, leaf in flat.items():
        norm, kind = path.removeprefix("backbone/").rsplit("/", 1)
        tensors[f"{WHOLE}{stem}{names[norm]}.ln_tuning_layers.{KINDS[kind]}"] = leaf
    return tensors, {"target_modules": targets.norm_expression(method.layers)}


KIND = Kind(
    title="LN_TUNING",
    methods=(LayerNormTuning,),
    read=_read,
    write=_write,
    not_read=(
        Refusal(
            "modules that are no LayerNorms",
            "we train LayerNorms alone; expected target_modules that name them",
            lambda source: Targets.of(source, ()).others + Targets.of(source, ()).dense,
        ),
        Refusal(
            "some of a layer's LayerNorms",
            "ours are all, or both of each chosen layer",
            lambda source: _method(source) is None,
        ),
    ),
)
