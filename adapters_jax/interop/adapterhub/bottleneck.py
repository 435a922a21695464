"""Bottleneck adapters: `BnConfig`, whose options span our serial, parallel and Lin's adapters.

    encoder.layer.3.attention.output.adapters.NAME.adapter_down.0.{weight,bias}  encoder/3/attn_merge/down/{kernel,bias}
    encoder.layer.3.output.adapters.NAME.adapter_up.{weight,bias}                encoder/3/ffn_merge/up/{kernel,bias}
                                        .scaling                                                    /scale
                                        .adapter_norm_before.{weight,bias}                          /norm/{scale,bias}
    invertible_adapters.NAME.{F,G}.{0,2}.{weight,bias}                           embed/{f,g}/{down,up}/{kernel,bias}

With a LayerNorm of the adapter's own, it stands there as adapter_down.0 too, and the dense layer is adapter_down.1.
"""

import logging
import math
from pathlib import Path
from typing import Any

from adapters_jax.bert.config import BertConfig
from adapters_jax.errors import AdapterError
from adapters_jax.interop.adapterhub import files
from adapters_jax.interop.adapterhub.files import REQUIRED, Options, Row, Source, Target
from adapters_jax.interop.rules import Flat, Kind, Refusal, refuse
from adapters_jax.methods import Houlsby, Lin, Parallel, Pfeiffer, ScaledParallel
from adapters_jax.methods.bottleneck import BottleneckMethod

FIELDS: files.Fields = {
    "mh_adapter": (bool, REQUIRED),
    "output_adapter": (bool, REQUIRED),
    "reduction_factor": (object, REQUIRED),
    "non_linearity": (str, REQUIRED),
    "original_ln_before": (bool, False),
    "original_ln_after": (bool, True),
    "ln_before": (bool, False),
    "ln_after": (bool, False),
    "init_weights": (str, "bert"),
    "init_weights_seed": (int | None, None),
    "is_parallel": (bool, False),
    "scaling": (float | str, 1.0),
    "use_gating": (bool, False),
    "residual_before_ln": (bool | str, True),
    "adapter_residual_before_ln": (bool, False),
    "inv_adapter": (str | None, None),
    "inv_adapter_reduction_factor": (float | None, None),
    "cross_adapter": (bool, False),
    "leave_out": (tuple[int, ...] | None, []),
    "dropout": (float, 0.0),
    "phm_layer": (bool, False),
    "phm_dim": (int, 4),
    "factorized_phm_W": (bool | None, True),
    "shared_W_phm": (bool | None, False),
    "shared_phm_rule": (bool | None, True),
    "factorized_phm_rule": (bool | None, False),
    "phm_c_init": (str | None, "normal"),
    "phm_init_range": (float | None, 0.0001),
    "learn_phm": (bool | None, True),
    "hypercomplex_nonlinearity": (str | None, "glorot-uniform"),
    "phm_rank": (int | None, 1),
    "phm_bias": (bool | None, True),
    "stochastic_depth": (float | None, 0.0),
}
PAST = {"attention_type": (object, None), "new_attention_norm": (object, None)}
"""Options of the first versions, which spoke of fusions."""

IN_TRAINING = ("dropout", "stochastic_depth")
"""Rates that change training alone: of the adapter's result there, of the inner activations here."""

PLACES = {"attn_merge": "attention.output", "ffn_merge": "output"}
SAME = ("gelu", "gelu_new", "relu", "relu6", "leaky_relu", "swish", "silu", "mish", "tanh", "sigmoid", "linear")
"""Activations that both have, by one name."""
ALSO = {
    "leakyrelu": "leaky_relu",
    "gelu_python": "gelu",
    "gelu_accurate": "gelu_new",
    "gelu_fast": "gelu_new",
    "gelu_pytorch_tanh": "gelu_new",
}
"""Further names there of functions that we have."""

FORMS: dict[tuple[bool, bool, bool | str | None], type[BottleneckMethod]] = {
    (False, True, None): Houlsby,
    (True, True, True): Pfeiffer,
    (True, False, False): Lin,
}
"""(original_ln_before, original_ln_after, residual_before_ln) of serial adapters; None: of no account."""


def form(given: Options) -> type[BottleneckMethod] | None:
    """Which of our classes has the LayerNorms and residuals of the options."""
    if given["is_parallel"]:
        learned = given["scaling"] in ("learned", "channel")
        return (ScaledParallel if learned else Parallel) if given["original_ln_after"] else None
    before = given["original_ln_before"]
    return FORMS.get((before, given["original_ln_after"], given["residual_before_ln"] if before else None))


def method(where: Path, given: Options, config: BertConfig) -> BottleneckMethod:
    """Our method of these options."""
    cls = form(given)
    assert cls is not None, "refused before"
    slots = {"attn_merge": given["mh_adapter"], "ffn_merge": given["output_adapter"]}
    sizes = _widths(where, given, config)
    chosen = {size for size in sizes if size}
    own: dict[str, Any] = {"sizes": sizes}
    if len(chosen) == 1:
        own = {"bottleneck": chosen.pop(), "layers": files.layers_of(given["leave_out"], config)}
    if cls in (Parallel, ScaledParallel):
        scale = given["scaling"]
        own |= {"channels": scale == "channel"} if cls is ScaledParallel else {"scale": float(scale)}
    if cls is Houlsby:
        own |= {"preset": "adapterhub"}
    if given["inv_adapter"]:
        own |= {"invertible": True, "invertible_factor": float(given["inv_adapter_reduction_factor"])}
    return cls(
        slots=tuple(slot for slot, there in slots.items() if there),
        activation=_activation(given),
        inner_norm=given["ln_before"],
        **own,
    )


def _activation(given: Options) -> str | None:
    name = given["non_linearity"].lower()
    return name if name in SAME else ALSO.get(name)


def _widths(where: Path, given: Options, config: BertConfig) -> tuple[int, ...]:
    """The inner width in each layer, 0 where it is left out; int(d // factor), and 1 at least, as there."""
    factors = given["reduction_factor"]

    def width(layer: int) -> int:
        of = factors
        if isinstance(factors, dict):
            of = factors.get(str(layer), factors.get("default"))
        if type(of) not in (int, float) or not 1e-3 <= of <= files.LARGEST:
            raise AdapterError(f"{where}: reduction_factor of layer {layer}: expected a number above 0, got {of!r:.60}")
        return max(1, int(config.hidden_size // of))

    left = given["leave_out"] or ()
    return tuple(0 if layer in left else width(layer) for layer in range(config.num_hidden_layers))


def _gives_width(factor: float | int | None, config: BertConfig) -> bool:
    """Whether our width of an invertible adapter, int(h / factor), is int(h // factor), as there, and 1 at least."""
    half = config.hidden_size // 2
    return factor is not None and factor >= 1e-3 and int(half // factor) == max(1, int(half / factor))


def rows(method: BottleneckMethod, config: BertConfig, name: str) -> list[Row]:
    """The adapter's tensors, of serial adapters without a scale."""
    d, found = config.hidden_size, []
    for layer, width in enumerate(method.widths(config)):
        for slot in method.slots if width else ():
            path, place = f"encoder/{layer}/{slot}", f"encoder.layer.{layer}.{PLACES[slot]}.adapters.{name}"
            if method.inner_norm:
                for leaf, kind in (("scale", "weight"), ("bias", "bias")):
                    own, copy = f"{place}.adapter_norm_before.{kind}", f"{place}.adapter_down.0.{kind}"
                    found.append(Row(f"{path}/norm/{leaf}", own, (d,), copies=(copy,)))
            found += files.dense(f"{path}/down", f"{place}.adapter_down.{int(method.inner_norm)}", d, width)
            found += files.dense(f"{path}/up", f"{place}.adapter_up", width, d)
            if isinstance(method, ScaledParallel):
                shape = (d,) if method.channels else (1,)
                found.append(Row(f"{path}/scale", f"{place}.scaling", shape, ours=shape if method.channels else ()))
    if method.invertible:
        half = d // 2
        inner = max(1, int(half / method.invertible_factor))
        for own in "fg":
            place = f"invertible_adapters.{name}.{own.upper()}"
            found += files.dense(f"embed/{own}/down", f"{place}.0", half, inner)
            found += files.dense(f"embed/{own}/up", f"{place}.2", inner, half)
    return found


def read(source: Source) -> tuple[BottleneckMethod, Flat]:
    given = files.options(source.where, source.options, {"architecture": (object, None), **FIELDS, **PAST})
    refuse(OPTIONS, given, source.where)
    refuse((FACTOR,), (given, source.config), source.where)
    for name in IN_TRAINING:
        if given[name]:
            _tell_not_kept(f"{source.where}: {name} {given[name]}")
    made = method(source.where, given, source.config)
    flat = files.take(source.claims, rows(made, source.config, source.name))
    return made, flat if given["is_parallel"] else _folded(source, given, made, flat)


def _tell_not_kept(what: str) -> None:
    logging.getLogger(__name__).warning(
        "%s is not kept: ours and the library's act at different places, in training alone; the answers are the same",
        what,
    )


def _folded(source: Source, given: Options, made: BottleneckMethod, flat: Flat) -> Flat:
    """With the scale of a serial adapter, of which ours have none, in W_up and b_up."""
    scaling = given["scaling"]
    if scaling == 1:
        return flat
    shape = {"learned": (1,), "channel": (source.config.hidden_size,)}.get(scaling)
    for path in [path for path in flat if path.endswith("/up/kernel") and path.startswith("encoder/")]:
        _, layer, slot, *_ = path.split("/")
        name = f"encoder.layer.{layer}.{PLACES[slot]}.adapters.{source.name}.scaling"
        scale = scaling if shape is None else source.claims.take(name, *shape)
        for leaf in (path, path.removesuffix("kernel") + "bias"):
            flat[leaf] = (flat[leaf] * scale).astype("float32")
    return flat


def reduction(width: int, config: BertConfig) -> float:
    """The factor of which int(d // factor) is the width."""
    factor = config.hidden_size / width
    while int(config.hidden_size // factor) < width:  # rounded up
        factor = math.nextafter(factor, 0.0)
    return factor


def write(method: BottleneckMethod, target: Target) -> tuple[Options, Flat]:
    config = target.config
    if method.dropout:
        _tell_not_kept(f"method {method.name}: dropout {method.dropout}")
    sizes = {layer: size for layer, size in enumerate(method.widths(config)) if size}
    factors = {str(layer): reduction(size, config) for layer, size in sizes.items()}
    same = len(set(sizes.values())) == 1
    own = files.defaults(FIELDS) | {
        "mh_adapter": "attn_merge" in method.slots,
        "output_adapter": "ffn_merge" in method.slots,
        "reduction_factor": next(iter(factors.values())) if same else factors,
        "leave_out": files.leave_out(sizes, config),
        "non_linearity": method.activation,
        "ln_before": method.inner_norm,
    }
    if isinstance(method, Parallel):
        scale = ("channel" if method.channels else "learned") if isinstance(method, ScaledParallel) else method.scale
        own |= {"is_parallel": True, "scaling": scale, "init_weights": "mam_adapter"}
    else:
        before, after, residual = next(key for key, cls in FORMS.items() if isinstance(method, cls))
        own |= {"original_ln_before": before, "original_ln_after": after}
        own |= {"residual_before_ln": True if residual is None else residual}
    if method.invertible:
        own |= {"inv_adapter": "nice", "inv_adapter_reduction_factor": method.invertible_factor}
    return own, files.put(rows(method, config, target.name), target.flat)


def _unlike_width(model: Any) -> bool:
    return model.method.invertible and not _gives_width(model.method.invertible_factor, model.config)


def trains_norms(model: Any) -> bool:
    return bool(model.method.layer_norms)


OPTIONS = (
    Refusal("use_gating", "we have gates in UniPELT alone", lambda own: own["use_gating"]),
    Refusal("ln_after", "a LayerNorm on the adapter's result, which we lack", lambda own: own["ln_after"]),
    Refusal(
        "inv_adapter other than nice",
        "we have NICE couplings alone",
        lambda own: own["inv_adapter"] not in (None, "nice"),
    ),
    Refusal("neither mh_adapter nor output_adapter", "it stands nowhere", lambda own: not _places(own)),
    Refusal(
        "a place of the LayerNorms and residuals that is none of houlsby's, pfeiffer's, lin's and parallel's",
        "expected original_ln_before, original_ln_after and residual_before_ln of one of these",
        lambda own: form(own) is None,
    ),
    Refusal(
        "a non_linearity that we lack",
        f"expected one of {', '.join((*SAME, *ALSO))}",
        lambda own: _activation(own) is None,
    ),
    Refusal(
        "a scaling other than a number, learned and channel",
        "expected one of these",
        lambda own: isinstance(own["scaling"], str) and own["scaling"] not in ("learned", "channel"),
    ),
    Refusal(
        "a dropout or stochastic_depth that is no rate",
        "expected 0 to 1",
        lambda own: any(not 0 <= (own[name] or 0) <= 1 for name in IN_TRAINING),
    ),
)
FACTOR = Refusal(
    "an inv_adapter_reduction_factor of which int(d / 2 / factor) is another width than int(d / 2 // factor)",
    "expected a number above 0 that gives at least 1",
    lambda own: bool(own[0]["inv_adapter"]) and not _gives_width(own[0]["inv_adapter_reduction_factor"], own[1]),
    lambda own: own[0]["inv_adapter_reduction_factor"],
)

KIND = Kind(
    title="bottleneck adapters (`seq_bn`, `double_seq_bn`, `par_bn`, `scaled_par_bn` and their options)",
    methods=(Houlsby, Pfeiffer, Lin, Parallel, ScaledParallel),
    read=read,
    write=write,
    note="a scale of serial adapters is multiplied into W_up and b_up when loading; widths come back as `bottleneck`; "
    "dropout and stochastic_depth, which act in training alone, at other places than ours, become 0 both ways, with a "
    "warning",
    not_read=(*OPTIONS, FACTOR),
    not_written=(
        Refusal(
            "layer_norms",
            "it trains the backbone's LayerNorms, which those files cannot hold; train with --method.layer-norms=false",
            trains_norms,
        ),
        Refusal(
            "insertion='gated'",
            "there is no multiplicative interaction there",
            lambda model: getattr(model.method, "insertion", "serial") != "serial",
        ),
        Refusal(
            "inner_layers",
            "there are no dense layers between down and up there",
            lambda model: model.method.inner_layers,
        ),
        Refusal(
            "activation elu, selu",
            "the library does not know them",
            lambda model: model.method.activation not in SAME,
        ),
        Refusal(
            "an invertible_factor that gives another width there",
            "expected one with int(d / 2 // factor) equal to int(d / 2 / factor)",
            _unlike_width,
        ),
    ),
)


def _places(given: Options) -> bool:
    return given["mh_adapter"] or given["output_adapter"]
