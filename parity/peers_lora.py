"""LoRA, its variants and (IA)^3 as `adapters` and peft compute them."""

import re
from collections.abc import Callable, Iterator, Mapping

import adapters
import numpy as np
import peft
import torch

from parity import recipe
from parity.torch_bert import Leaf, bert, vectors

Vectors = Iterator[tuple[str, np.ndarray]]


def leaves(model: torch.nn.Module, kinds: Mapping[str, str]) -> dict[str, Leaf]:
    """Our path -> tensor, for the tensors of which a part of the name is one of `kinds`, by our names for those."""
    found: dict[str, Leaf] = {}
    for name, tensor in model.named_parameters():
        match = re.search(rf"(encoder\.layer\.[\w.]+?)\.(?:loras\.a\.)?({'|'.join(kinds)})\b", name)
        if match:
            place = recipe.path_of(f"{match[1]}.weight").replace("backbone/", "adapters/").removesuffix("kernel")
            kind = kinds[match[2]]
            transposed = kind in ("a", "b")
            found[place + kind] = tensor, (torch.t if transposed else torch.flatten)
    return found


def with_adapters(config: adapters.AdapterConfig, **kinds: str) -> Vectors:
    model = bert()
    adapters.init(model)
    model.add_adapter("a", config=config)
    model.set_active_adapters("a")
    yield from vectors(model.eval(), leaves(model, kinds))


def with_peft(config: peft.PeftConfig, **kinds: str) -> Vectors:
    model = peft.get_peft_model(bert(), config).eval()
    yield from vectors(model, leaves(model, kinds))


LOW_RANK = dict(lora_A="a", lora_B="b")
ATTENTION, OUTPUT = r"encoder\.layer\.\d+\.attention\.self\.", r"encoder\.layer\.\d+\.output\.dense"
FEED_FORWARD = r"encoder\.layer\.\d+\.(intermediate|output)\.dense"

CASES: dict[str, Callable[[], Vectors]] = {
    "adapters-lora": lambda: with_adapters(
        adapters.LoRAConfig(r=8, alpha=16, attn_matrices=["q", "v"], intermediate_lora=True, output_lora=True),
        **LOW_RANK,
    ),
    "adapters-ia3": lambda: with_adapters(adapters.IA3Config(), lora_B="scale"),
    "peft-lora": lambda: with_peft(
        peft.LoraConfig(
            r=8,
            lora_alpha=16,
            target_modules=r"encoder\.layer\..*(query|key|value|dense)",
            rank_pattern={FEED_FORWARD: 2},
            alpha_pattern={FEED_FORWARD: 6},
        ),
        **LOW_RANK,
    ),
    "peft-rslora": lambda: with_peft(
        peft.LoraConfig(r=8, lora_alpha=4, target_modules=ATTENTION + "(query|value)", use_rslora=True), **LOW_RANK
    ),
    "peft-dora": lambda: with_peft(
        peft.LoraConfig(
            r=4, lora_alpha=8, target_modules=rf"{ATTENTION}(query|value)|.*intermediate\.dense", use_dora=True
        ),
        **LOW_RANK,
        lora_magnitude_vector="magnitude",
    ),
    "peft-adalora": lambda: with_peft(
        peft.AdaLoraConfig(
            init_r=4,
            target_r=2,
            lora_alpha=8,
            total_step=10,
            target_modules=r"encoder\.layer\..*(query|key|value|dense)",
        ),
        **LOW_RANK,
        lora_E="e",
    ),
    "peft-ia3": lambda: with_peft(
        peft.IA3Config(target_modules=rf"{ATTENTION}(key|value)|{OUTPUT}", feedforward_modules=OUTPUT), ia3_l="scale"
    ),
}
