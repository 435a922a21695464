"""Vectors of the bottleneck family and its compositions in `adapters`, and of LayerNorm tuning in peft.

UniPELT is compared on rows without padding, which the means of `adapters` count.
"""

import re
from collections.abc import Callable, Iterator

import adapters
import numpy as np
import peft
import torch

from parity import recipe
from parity.torch_bert import bert, vectors

Vectors = Iterator[tuple[str, np.ndarray]]

# Name in `adapters` -> path under adapters/ and whether the path holds the transpose; {part} is the part's name.
_NAMES = (
    (r"encoder\.layer\.(\d+)\.attention\.output\.adapters\.a\.(.+)", r"{bottleneck}encoder/\1/attn_merge/\2"),
    (r"encoder\.layer\.(\d+)\.output\.adapters\.a\.(.+)", r"{bottleneck}encoder/\1/ffn_merge/\2"),
    (r"encoder\.layer\.(\d+)\.attention\.self\.(query|value)\.loras\.a\.(.+)", r"lora/encoder/\1/\2/\3"),
    (
        r"encoder\.layer\.(\d+)\.attention\.self\.prefix_tuning\.prefix_gates\.a\.(.+)",
        r"prefix/encoder/\1/key_value/gate.\2",
    ),
    (r".*\.self_prefix\.wte\.weight", r"prefix/prefix/embedding"),
    (r".*\.self_prefix\.control_trans\.0\.(.+)", r"prefix/prefix/down.\1"),
    (r".*\.self_prefix\.control_trans\.2\.(.+)", r"prefix/prefix/up.\1"),
    (r"invertible_adapters\.a\.([FG])\.0\.(.+)", r"embed/\1/down.\2"),
    (r"invertible_adapters\.a\.([FG])\.2\.(.+)", r"embed/\1/up.\2"),
)
_LEAVES = {
    "adapter_down.0.weight": "down/kernel",
    "adapter_down.0.bias": "down/bias",
    "adapter_up.weight": "up/kernel",
    "adapter_up.bias": "up/bias",
    "scaling": "scale",
    "gate.weight": "gate/kernel",
    "gate.bias": "gate/bias",
    "lora_A": "a",
    "lora_B": "b",
    ".weight": "/kernel",
    ".bias": "/bias",
}
"""The end of a peer's name -> the end of the path."""


def path_of(name: str, bottleneck: str) -> str | None:
    """The path of a tensor of `adapters`; None for the backbone's."""
    for pattern, path in _NAMES:
        match = re.fullmatch(pattern, name)
        if match:
            found = match.expand(path.replace("{bottleneck}", bottleneck))
            end = next((end for end in _LEAVES if found.endswith(end)), "")
            found = found.removesuffix(end) + _LEAVES.get(end, "")
            return "adapters/" + found.replace("/F/", "/f/").replace("/G/", "/g/")
    return None


def view(path: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """How a tensor looks at that path: [in out], and one learned scale without an axis."""
    if path.endswith("/scale"):
        return lambda tensor: tensor.reshape(())
    return lambda tensor: tensor.T if tensor.ndim == 2 and not path.endswith("embedding") else tensor


def with_adapters(config: adapters.AdapterConfig, bottleneck: str = "", full_rows: bool = False) -> Vectors:
    """`bottleneck`: the part of a composition that the bottleneck is, as a folder."""
    model = bert()
    adapters.init(model)
    model.add_adapter("a", config=config)
    model.set_active_adapters("a")
    named = {path_of(name, bottleneck): tensor for name, tensor in model.named_parameters()}
    leaves = {path: (tensor, view(path)) for path, tensor in named.items() if path is not None}
    yield from vectors(model.eval(), leaves, full_rows)


def layer_norms() -> Vectors:
    names = {name.rsplit(".", 1)[0] for name, _ in bert().named_parameters() if "LayerNorm" in name}
    model = peft.get_peft_model(bert(), peft.LNTuningConfig(target_modules=sorted(names))).eval()
    trained = {
        recipe.path_of(re.sub(r"base_model\.model\.|ln_tuning_layers\.default\.", "", name)): (tensor, lambda t: t)
        for name, tensor in model.named_parameters()
        if tensor.requires_grad
    }
    yield from vectors(model, trained)


PREFIX = adapters.PrefixTuningConfig(prefix_length=3, bottleneck_size=8)

CASES: dict[str, Callable[[], Vectors]] = {
    "adapters-double_seq_bn": lambda: with_adapters(adapters.DoubleSeqBnConfig(reduction_factor=8)),
    "adapters-seq_bn": lambda: with_adapters(adapters.SeqBnConfig(reduction_factor=8)),
    "adapters-seq_bn_inv": lambda: with_adapters(adapters.SeqBnInvConfig(reduction_factor=8)),
    "adapters-par_bn": lambda: with_adapters(adapters.ParBnConfig(reduction_factor=8)),
    "adapters-scaled_par_bn": lambda: with_adapters(adapters.ParBnConfig(reduction_factor=8, scaling="learned")),
    "adapters-mam": lambda: with_adapters(
        adapters.MAMConfig(PREFIX, adapters.ParBnConfig(reduction_factor=8)), "parallel/"
    ),
    "adapters-unipelt": lambda: with_adapters(
        adapters.UniPELTConfig(PREFIX, adapters.SeqBnConfig(reduction_factor=8), adapters.LoRAConfig(r=4, alpha=2)),
        "pfeiffer/",
        full_rows=True,
    ),
    "peft-ln_tuning": layer_norms,
}
