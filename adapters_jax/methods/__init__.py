"""Published methods of tuning, one file each."""

from adapters_jax.methods import arithmetic
from adapters_jax.methods.adalora import AdaLoRA
from adapters_jax.methods.adapter_drop import AdapterDrop
from adapters_jax.methods.base import Method, Recipe
from adapters_jax.methods.bitfit import BitFit
from adapters_jax.methods.composition import Compose, compose
from adapters_jax.methods.frozen import Frozen
from adapters_jax.methods.full import Full
from adapters_jax.methods.fusion import Fusion
from adapters_jax.methods.head import HeadOnly
from adapters_jax.methods.houlsby import Houlsby
from adapters_jax.methods.ia3 import IA3
from adapters_jax.methods.k_adapter import KAdapter
from adapters_jax.methods.layernorm import LayerNormTuning
from adapters_jax.methods.lin import Lin
from adapters_jax.methods.lora import LoRA
from adapters_jax.methods.mam import MAM
from adapters_jax.methods.p_tuning import PTuning
from adapters_jax.methods.p_tuning_v2 import PTuningV2
from adapters_jax.methods.parallel import Parallel, ScaledParallel
from adapters_jax.methods.pfeiffer import Pfeiffer
from adapters_jax.methods.prefix import Prefix
from adapters_jax.methods.prompt import Prompt
from adapters_jax.methods.qlora import QLoRA
from adapters_jax.methods.stack import Stack
from adapters_jax.methods.top_n import TopN
from adapters_jax.methods.unipelt import UniPELT

METHODS: dict[str, type[Method]] = {
    "houlsby": Houlsby,
    "pfeiffer": Pfeiffer,
    "lin": Lin,
    "parallel": Parallel,
    "scaled_parallel": ScaledParallel,
    "lora": LoRA,
    "adalora": AdaLoRA,
    "qlora": QLoRA,
    "ia3": IA3,
    "bitfit": BitFit,
    "layernorm": LayerNormTuning,
    "top_n": TopN,
    "prefix": Prefix,
    "p_tuning_v2": PTuningV2,
    "prompt": Prompt,
    "p_tuning": PTuning,
    "mam": MAM,
    "unipelt": UniPELT,
    "k_adapter": KAdapter,
    "compose": Compose,
    "stack": Stack,
    "fusion": Fusion,
    "adapter_drop": AdapterDrop,
    "frozen": Frozen,
    "full": Full,
    "head": HeadOnly,
}

__all__ = [
    "IA3",
    "MAM",
    "METHODS",
    "AdaLoRA",
    "AdapterDrop",
    "BitFit",
    "Compose",
    "Frozen",
    "Full",
    "Fusion",
    "HeadOnly",
    "Houlsby",
    "KAdapter",
    "LayerNormTuning",
    "Lin",
    "LoRA",
    "Method",
    "PTuning",
    "PTuningV2",
    "Parallel",
    "Pfeiffer",
    "Prefix",
    "Prompt",
    "QLoRA",
    "Recipe",
    "ScaledParallel",
    "Stack",
    "TopN",
    "UniPELT",
    "arithmetic",
    "compose",
]
