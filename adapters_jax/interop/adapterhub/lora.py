"""LoRA: `LoRAConfig` with composition_mode "add".

    encoder.layer.3.attention.self.query.loras.NAME.lora_A  (r, in)     encoder/3/query/a  [in r]
                                                   .lora_B  (out, r)                   /b  [r out]
    and the same at intermediate.dense (ffn_in) and output.dense (ffn_out)

One r and one alpha hold for all dense layers. The library's DoRA scales the bias too and takes its norm without
alpha / r: another function than peft's and ours.
"""

from adapters_jax.bert import weights
from adapters_jax.bert.config import BertConfig
from adapters_jax.interop.adapterhub import files
from adapters_jax.interop.adapterhub.files import Options, Row, Source, Target
from adapters_jax.interop.rules import Flat, Kind, Refusal, refuse
from adapters_jax.methods import LoRA, QLoRA, checks
from adapters_jax.slots import PROJECT

FIELDS: files.Fields = {
    "architecture": (str, "lora"),
    "selfattn_lora": (bool, True),
    "intermediate_lora": (bool, False),
    "output_lora": (bool, False),
    "leave_out": (tuple[int, ...] | None, []),
    "r": (int, 8),
    "alpha": (float, 8),
    "dropout": (float, 0.0),
    "attn_matrices": (tuple[str, ...], ["q", "v"]),
    "composition_mode": (str, "add"),
    "init_weights": (str, "lora"),
    "init_weights_seed": (int | None, None),
    "use_gating": (bool, False),
    "use_dora": (bool, False),
    "vera_d": (float | None, None),
    "vera_b": (float | None, None),
    "dtype": (str | None, None),
}
MATRICES = {"query": "q", "key": "k", "value": "v"}
SWITCHES = {"ffn_in": "intermediate_lora", "ffn_out": "output_lora"}
PLACES = {
    row.path.removesuffix("/kernel"): row.released.removesuffix(".weight")
    for row in weights.LAYER
    if row.path.removesuffix("/kernel") in PROJECT
}
"""Slot -> the dense layer's name."""


def slots(given: Options) -> tuple[str, ...]:
    """The dense layers that the options name."""
    own = given["attn_matrices"] if given["selfattn_lora"] else ()
    attention = [slot for slot, letter in MATRICES.items() if letter in own]
    return (*attention, *(slot for slot, switch in SWITCHES.items() if given[switch]))


def switches(slots: tuple[str, ...]) -> Options:
    """The inverse of `slots`."""
    letters = [letter for slot, letter in MATRICES.items() if slot in slots]
    return {"selfattn_lora": bool(letters), "attn_matrices": letters} | {
        switch: slot in slots for slot, switch in SWITCHES.items()
    }


def place(layer: int, slot: str, name: str) -> str:
    return f"encoder.layer.{layer}.{PLACES[slot]}.loras.{name}"


def widths(slot: str, config: BertConfig) -> tuple[int, int]:
    """(inputs, outputs) of a dense layer."""
    d, wide = config.hidden_size, config.intermediate_size
    return {"ffn_in": (d, wide), "ffn_out": (wide, d)}.get(slot, (d, d))


def rows(method: LoRA, config: BertConfig, name: str) -> list[Row]:
    found = []
    for layer in checks.in_layers(method.layers, config):
        for slot, (rank, _) in method.sizes().items():
            inputs, outputs = widths(slot, config)
            path, own = f"encoder/{layer}/{slot}", place(layer, slot, name)
            found.append(Row(f"{path}/a", f"{own}.lora_A", (rank, inputs), turned=True))
            found.append(Row(f"{path}/b", f"{own}.lora_B", (outputs, rank), turned=True))
    return found


def read(source: Source) -> tuple[LoRA, Flat]:
    given = files.options(source.where, source.options, FIELDS)
    refuse(KIND.not_read, given, source.where)
    method = LoRA(
        slots=slots(given),
        rank=given["r"],
        alpha=float(given["alpha"]),
        dropout=float(given["dropout"]),
        layers=files.layers_of(given["leave_out"], source.config),
    )
    return method, files.take(source.claims, rows(method, source.config, source.name))


def write(method: LoRA, target: Target) -> tuple[Options, Flat]:
    (rank, scale), *_ = method.sizes().values()
    plain = not method.rank_stabilised and not method.alphas
    alpha = method.alpha if plain and rank == method.rank else scale * rank
    own = files.defaults(FIELDS) | switches(method.slots)
    own |= {"r": rank, "alpha": alpha, "dropout": method.dropout}
    own |= {"leave_out": files.leave_out(checks.in_layers(method.layers, target.config), target.config)}
    return own, files.put(rows(method, target.config, target.name), target.flat)


def unknown_matrix(given: Options) -> bool:
    return not set(given["attn_matrices"]) <= set(MATRICES.values())


NOWHERE = Refusal("no dense layer at all", "it stands nowhere", lambda own: not slots(own))
MATRIX = Refusal("attn_matrices other than q, k, v", "BERT has no others", unknown_matrix)
GATES = Refusal("use_gating", "we have gates in UniPELT alone", lambda own: own["use_gating"])
DTYPE = Refusal(
    "a dtype other than float32",
    "its arithmetic there is narrower than ours: set it to null in the config to compute in float32",
    lambda own: own["dtype"] not in (None, "float32"),
)
ATTN_OUT = Refusal(
    "slot attn_out",
    "the library leaves attention.output.dense alone",
    lambda model: "attn_out" in model.method.slots,
)
DORA = "it scales the bias too and takes the norm without alpha / r there: another function"

KIND = Kind(
    title="LoRA (`lora`)",
    methods=(LoRA, QLoRA),
    read=read,
    write=write,
    note="rsLoRA's scale becomes alpha; alpha := r in files of versions before 1.1.0, as the library has it",
    not_read=(
        Refusal("r or alpha that is not above 0", "it adds nothing", lambda own: own["r"] < 1 or own["alpha"] <= 0),
        Refusal("use_dora", DORA, lambda own: own["use_dora"]),
        GATES,
        MATRIX,
        NOWHERE,
        DTYPE,
    ),
    not_written=(
        Refusal("dora", DORA, lambda model: model.method.dora),
        ATTN_OUT,
        Refusal(
            "ranks or scales that differ between slots",
            "the library has one r and one alpha",
            lambda model: len(set(model.method.sizes().values())) > 1,
        ),
    ),
)
