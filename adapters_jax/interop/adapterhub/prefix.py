"""Prefix tuning: `PrefixTuningConfig`, by a network or flat.

    prefix_tuning.prefix_tunings.NAME.self_prefix.wte.weight                  (l, d)         prefix/embedding
                                                 .control_trans.0.weight      (m, d)         prefix/down/kernel  [d m]
                                                 .control_trans.2.weight      (2 L d, m)     prefix/up/kernel
    flat:                                        .control_trans               (l 2 L d,)     encoder/3/key_value/{k,v}

The library's files hold it L + 1 times, here and under encoder.layer.3.attention.self.prefix_tuning.pool; any one copy
is enough for it, and this one is written.
"""

import numpy as np

from adapters_jax.bert.config import BertConfig
from adapters_jax.interop.adapterhub import files
from adapters_jax.interop.adapterhub.files import Options, Row, Source, Target
from adapters_jax.interop.rules import Flat, Kind, Refusal, refuse
from adapters_jax.methods import Prefix, PTuningV2, checks

FIELDS: files.Fields = {
    "architecture": (str, "prefix_tuning"),
    "encoder_prefix": (bool, True),
    "cross_prefix": (bool, True),
    "leave_out": (tuple[int, ...] | None, []),
    "flat": (bool, False),
    "prefix_length": (int, 30),
    "bottleneck_size": (int, 512),
    "non_linearity": (str, "tanh"),
    "dropout": (float, 0.0),
    "use_gating": (bool, False),
    "shared_gating": (bool, True),
    "init_weights_seed": (int | None, None),
}
WHOLE = "flat"
"""Where the flat tensor of all layers stands between the two layouts."""


def rows(method: Prefix, config: BertConfig, name: str) -> list[Row]:
    """The network's tensors, or one of all flat prefixes, under the path WHOLE."""
    d, length, width = config.hidden_size, method.length, method.bottleneck
    made = len(checks.in_layers(method.layers, config)) * 2 * d
    place = f"prefix_tuning.prefix_tunings.{name}.self_prefix"
    found = [
        Row("prefix/embedding", f"{place}.wte.weight", (length, d)),
        *files.dense("prefix/down", f"{place}.control_trans.0", d, width),
        *files.dense("prefix/up", f"{place}.control_trans.2", width, made),
    ]
    if not width:
        found = [Row(WHOLE, f"{place}.control_trans", (length * made,))]
    pools = [f"encoder.layer.{layer}.attention.self.prefix_tuning.pool." for layer in range(config.num_hidden_layers)]
    # The pool itself is named like one of its copies without the layer's place.
    inner = lambda row: row.name.removeprefix("prefix_tuning.")
    return [
        Row(row.path, row.name, row.shape, row.turned, row.ours, tuple(pool + inner(row) for pool in pools))
        for row in found
    ]


def read(source: Source) -> tuple[Prefix, Flat]:
    given = files.options(source.where, source.options, FIELDS)
    refuse(KIND.not_read, given, source.where)
    config = source.config
    method = Prefix(
        length=given["prefix_length"],
        bottleneck=0 if given["flat"] else given["bottleneck_size"],
        dropout=float(given["dropout"]),
        layers=files.layers_of(given["leave_out"], config),
    )
    flat = files.take(source.claims, rows(method, config, source.name))
    if WHOLE in flat:
        shape = (method.length, -1, 2, config.num_attention_heads, config.head_width)
        of_layers = zip(checks.in_layers(method.layers, config), flat[WHOLE].reshape(shape).swapaxes(0, 1), strict=True)
        flat = {
            f"encoder/{layer}/key_value/{which}": own[:, number]
            for layer, own in of_layers
            for number, which in enumerate("kv")
        }
    return method, flat


def write(method: Prefix, target: Target) -> tuple[Options, Flat]:
    config, flat = target.config, target.flat
    chosen = checks.in_layers(method.layers, config)
    if not method.bottleneck:
        shape = (method.length, config.num_attention_heads, config.head_width)
        kept = lambda layer, which: files.own(flat, Row(f"encoder/{layer}/key_value/{which}", "", shape))
        whole = np.stack([kept(layer, which) for layer in chosen for which in "kv"], axis=1)
        flat |= {WHOLE: whole.reshape(-1)}
    own = files.defaults(FIELDS) | {"prefix_length": method.length, "flat": not method.bottleneck}
    own |= {"bottleneck_size": method.bottleneck or 512, "dropout": method.dropout}
    own |= {"leave_out": files.leave_out(chosen, config)}
    return own, files.put(rows(method, config, target.name), flat)


KIND = Kind(
    title="prefix tuning (`prefix_tuning`, `prefix_tuning_flat`)",
    methods=(Prefix, PTuningV2),
    read=read,
    write=write,
    note="the network or the flat prefixes",
    not_read=(
        Refusal("use_gating", "we have gates in UniPELT alone", lambda own: own["use_gating"]),
        Refusal(
            "a network with another non_linearity than tanh",
            "ours has tanh; eject it there into flat prefixes first",
            lambda own: not own["flat"] and own["non_linearity"].lower() != "tanh",
        ),
        Refusal(
            "a length or a network's width below 1",
            "there is nothing to read",
            lambda own: own["prefix_length"] < 1 or (not own["flat"] and own["bottleneck_size"] < 1),
        ),
    ),
    not_written=(
        Refusal(
            "positions that start at the prefix's length",
            "tokens keep their positions there (p_tuning_v2, and prefix with position_offset: use peft's files)",
            lambda model: model.method.positions(model.config) > 0,
        ),
    ),
)
