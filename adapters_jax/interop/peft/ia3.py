"""(IA)^3 as peft's IA3.

    base_model.model.bert.encoder.layer.3.attention.self.key.ia3_l    (out, 1)    adapters/encoder/3/key/scale
                                         .output.dense.ia3_l          (1, in)     .../ffn_out/scale, preset "paper"

`feedforward_modules` names the dense layers whose input is scaled. peft's own choice for BERT, "output.dense", is the
end of attention.output.dense too, whose input is an average of the values by the attention: its scale is a further one
of the values, with which it is multiplied on loading.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from adapters_jax.interop.peft import targets
from adapters_jax.interop.peft.source import WHOLE, Source
from adapters_jax.interop.peft.targets import Targets
from adapters_jax.interop.rules import Flat, Kind, Refusal
from adapters_jax.methods import Method
from adapters_jax.methods.ia3 import IA3
from adapters_jax.model import Model
from adapters_jax.slots import PROJECT

DEFAULT = ("key", "value", "output.dense")
FEED_FORWARD = ("output.dense",)
"""peft's `target_modules` and `feedforward_modules` for BERT where none are named."""


def _places(source: Source) -> dict[tuple[str, int], bool]:
    """(slot, layer) of the scaled dense layers -> whether their input is scaled."""
    return source.once("places", lambda: _found(source))


def _found(source: Source) -> dict[tuple[str, int], bool]:
    found = source.get("feedforward_modules", list(FEED_FORWARD))
    is_input: Callable[[str], bool]
    if isinstance(found, str):
        pattern = targets.compiled(source, "feedforward_modules", found)[0]
        is_input = lambda name: targets.checked(
            source, "feedforward_modules", lambda: source.work.matches(pattern, name)
        )
    else:
        ends = source.names("feedforward_modules") if "feedforward_modules" in source.config else FEED_FORWARD
        is_input = lambda name: name.endswith(tuple(ends))  # without a dot before it, as peft has it
    places = Targets.of(source, DEFAULT).dense
    return {(slot, i): is_input(source.stem + targets.dense_name(slot, i)) for slot, i in places}


def _uneven(source: Source) -> bool:
    places = _places(source)
    slots, layers = {(slot, side) for (slot, _), side in places.items()}, {i for _, i in places}
    return not places or len(places) != len(slots) * len(layers)


def _is_input_of(source: Source, *slots: str) -> bool:
    return any(side and slot in slots for (slot, _), side in _places(source).items())


def _read(source: Source) -> tuple[Method, Flat]:
    source.ignore("init_ia3_weights")
    flat: Flat = {}
    places = _places(source)
    for (slot, layer), side in places.items():
        inputs, outputs = targets.widths(slot, source.bert)
        shape = (1, inputs) if side else (outputs, 1)
        name = f"{WHOLE}{source.stem}{targets.dense_name(slot, layer)}.ia3_l"
        leaf, path = source.claims.take(name, *shape).reshape(-1), f"adapters/encoder/{layer}/{slot}/scale"
        if side and slot == "attn_out":
            path = f"adapters/encoder/{layer}/value/scale"
            leaf = leaf * flat.get(path, np.float32(1))
        flat[path] = leaf
    slots, layers = {path.split("/")[3] for path in flat}, tuple(sorted({i for _, i in places}))
    paper = any(side for (slot, _), side in places.items() if slot == "ffn_out")
    named = {"ffn_in" if paper and slot == "ffn_out" else slot for slot in slots}
    method = IA3(
        slots=tuple(slot for slot in PROJECT if slot in named),
        preset="paper" if paper else "adapters",
        layers=None if len(layers) == source.bert.num_hidden_layers else layers,
    )
    return method, flat


def _write(model: Model, flat: Flat, stem: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    method = model.method
    assert isinstance(method, IA3)
    places, tensors = method.places(), {}
    for path, leaf in flat.items():
        _, _, layer, slot, _ = path.split("/")
        name = f"{WHOLE}{stem}{targets.dense_name(slot, int(layer))}.ia3_l"
        tensors[name] = leaf[None] if places[slot] else leaf[:, None]
    inputs = [slot for slot, side in places.items() if side]
    return tensors, {
        "target_modules": targets.expression(places, method.layers),
        "feedforward_modules": targets.expression(inputs, method.layers) if inputs else [],
        "fan_in_fan_out": False,
        "init_ia3_weights": True,
    }


KIND = Kind(
    title="IA3",
    methods=(IA3,),
    read=_read,
    write=_write,
    note="scales of the input of attention.output.dense, of which peft's default has some, come to the values",
    not_read=(
        Refusal(
            "a module outside of the layers' dense ones (pooler, embeddings, classifier)",
            "we scale none there; expected target_modules within encoder.layer",
            lambda source: Targets.of(source, DEFAULT).others + Targets.of(source, DEFAULT).norms,
        ),
        Refusal(
            "other dense layers in one layer than in the next",
            "ours are the same in every layer that has any",
            _uneven,
        ),
        Refusal(
            "scaled inputs of query, key, value or intermediate.dense",
            "ours stand on results, and on the input of output.dense",
            lambda source: _is_input_of(source, "query", "key", "value", "ffn_in"),
        ),
        Refusal(
            "the result of intermediate.dense and the input of output.dense, both scaled",
            "ours has one of the two",
            lambda source: _is_input_of(source, "ffn_out") and any(slot == "ffn_in" for slot, _ in _places(source)),
        ),
    ),
)
