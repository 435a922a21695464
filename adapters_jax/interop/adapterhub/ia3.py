"""(IA)^3: `LoRAConfig` with composition_mode "scale", which scales what a dense layer gives, bias included.

encoder.layer.3.attention.self.key.loras.NAME.lora_B  (out, 1)      encoder/3/key/scale  [out]
"""

from adapters_jax.bert.config import BertConfig
from adapters_jax.interop.adapterhub import files, lora
from adapters_jax.interop.adapterhub.files import Options, Row, Source, Target
from adapters_jax.interop.rules import Flat, Kind, Refusal, refuse
from adapters_jax.methods import IA3, checks


def rows(method: IA3, config: BertConfig, name: str) -> list[Row]:
    found = []
    for layer in checks.in_layers(method.layers, config):
        for slot in method.slots:
            _, outputs = lora.widths(slot, config)
            own = f"{lora.place(layer, slot, name)}.lora_B"
            found.append(Row(f"encoder/{layer}/{slot}/scale", own, (outputs, 1), ours=(outputs,)))
    return found


def read(source: Source) -> tuple[IA3, Flat]:
    given = files.options(source.where, source.options, lora.FIELDS)
    refuse(KIND.not_read, given, source.where)
    method = IA3(slots=lora.slots(given), layers=files.layers_of(given["leave_out"], source.config))
    return method, files.take(source.claims, rows(method, source.config, source.name))


def write(method: IA3, target: Target) -> tuple[Options, Flat]:
    own = files.defaults(lora.FIELDS) | lora.switches(method.slots)
    own |= {"r": 1, "alpha": 1, "composition_mode": "scale", "init_weights": "ia3"}
    own |= {"leave_out": files.leave_out(checks.in_layers(method.layers, target.config), target.config)}
    return own, files.put(rows(method, target.config, target.name), target.flat)


KIND = Kind(
    title="(IA)^3 (`ia3`)",
    methods=(IA3,),
    read=read,
    write=write,
    note="as preset `adapters`",
    not_read=(
        Refusal(
            "r or alpha other than 1, dropout",
            "expected the library's own values",
            lambda own: own["r"] != 1 or own["alpha"] != 1 or own["dropout"],
        ),
        Refusal("use_dora", "there is none for (IA)^3", lambda own: own["use_dora"]),
        lora.GATES,
        lora.MATRIX,
        lora.NOWHERE,
        lora.DTYPE,
    ),
    not_written=(
        Refusal(
            "preset='paper' with ffn_in",
            "it scales the input of ffn_out, after the activation, which the library cannot",
            lambda model: any(model.method.places().values()),
        ),
        lora.ATTN_OUT,
    ),
)
