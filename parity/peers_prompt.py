"""Vectors of prefixes, prompts and P-tuning's networks in `adapters` and peft.

With prompts, both libraries read the first row of what the encoder returns, which is the prompt's: read="first" here.
"""

from collections.abc import Callable, Iterator
from types import SimpleNamespace

import adapters
import numpy as np
import peft
import torch
from transformers import BertConfig, BertForSequenceClassification

from parity import peers
from parity.torch_bert import Leaf, bert, vectors

Vectors = Iterator[tuple[str, np.ndarray]]

LENGTH = 5
LAYERS, HEADS = peers.CONFIG["num_hidden_layers"], peers.CONFIG["num_attention_heads"]
DIRECTIONS = {"": "forward", "_reverse": "backward"}


def plain(tensor: torch.Tensor) -> Leaf:
    return tensor, lambda whole: whole


def dense(place: str, linear: torch.nn.Linear) -> dict[str, Leaf]:
    return {f"{place}/kernel": (linear.weight, torch.t), f"{place}/bias": plain(linear.bias)}


def prefix_network(embedding: torch.nn.Embedding, network: torch.nn.Sequential) -> dict[str, Leaf]:
    place = "adapters/prefix"
    return {
        f"{place}/embedding": plain(embedding.weight),
        **dense(f"{place}/down", network[0]),
        **dense(f"{place}/up", network[2]),
    }


def flat_prefix(tensor: torch.Tensor) -> dict[str, Leaf]:
    """Each layer's keys and values in the one tensor that holds them all."""

    def part(layer: int, kind: int) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda whole: whole.view(LENGTH, LAYERS, 2, HEADS, -1)[:, layer, kind]

    return {
        f"adapters/encoder/{layer}/key_value/{name}": (tensor, part(layer, kind))
        for layer in range(LAYERS)
        for kind, name in enumerate("kv")
    }


def p_tuning_network(encoder: torch.nn.Module) -> dict[str, Leaf]:
    place = "adapters/p_tuning"
    found = {f"{place}/embedding": plain(encoder.embedding.weight)}
    if hasattr(encoder, "lstm_head"):
        for name, tensor in encoder.lstm_head.named_parameters():
            kind, source, rest = name.split("_", 2)
            layer, direction = rest[1], DIRECTIONS[rest[2:]]
            part = f"{place}/lstm/{layer}/{direction}/{'input' if source == 'ih' else 'state'}"
            found |= {f"{part}/kernel": (tensor, torch.t)} if kind == "weight" else {f"{part}/bias": plain(tensor)}
    linear = [layer for layer in encoder.mlp_head if isinstance(layer, torch.nn.Linear)]
    for number, layer in enumerate(linear):
        found |= dense(f"{place}/mlp/{number}", layer)
    return found


def with_adapters(config: adapters.AdapterConfig) -> Vectors:
    model = bert()
    adapters.init(model)
    model.add_adapter("a", config=config)
    model.set_active_adapters("a")
    if isinstance(config, adapters.PromptTuningConfig):
        leaves = {"adapters/embed/prompt": plain(model.prompt_tuning.prompt_tunings["a"].prompt_embedding.weight)}
    else:
        prefix = model.prefix_tuning.prefix_tunings["a"]["self_prefix"]
        leaves = flat_prefix(prefix.control_trans) if config.flat else prefix_network(prefix.wte, prefix.control_trans)
    yield from vectors(model.eval(), leaves)


def with_peft(config: peft.PeftConfig) -> Vectors:
    """The model for sequences, which passes token types on, with its pooled output for logits."""
    whole = BertForSequenceClassification(BertConfig(**peers.CONFIG, attn_implementation="eager"))
    whole.bert, whole.classifier = bert(), torch.nn.Identity()
    model = peft.get_peft_model(whole, config).eval()
    encoder = model.prompt_encoder["default"]
    if isinstance(config, peft.PromptTuningConfig):
        leaves = {"adapters/embed/prompt": plain(encoder.embedding.weight)}
    elif isinstance(config, peft.PromptEncoderConfig):
        leaves = p_tuning_network(encoder)
    elif config.prefix_projection:
        leaves = prefix_network(encoder.embedding, encoder.transform)
    else:
        leaves = flat_prefix(encoder.embedding.weight)
    yield from vectors(lambda **inputs: SimpleNamespace(pooler_output=model(**inputs).logits), leaves)


def of_peft(kind: type, **fields: object) -> Callable[[], Vectors]:
    return lambda: with_peft(kind(task_type="SEQ_CLS", num_virtual_tokens=LENGTH, **fields))


def of_adapters(kind: type, **fields: object) -> Callable[[], Vectors]:
    return lambda: with_adapters(kind(**fields))


CASES: dict[str, Callable[[], Vectors]] = {
    "adapters-prefix": of_adapters(adapters.PrefixTuningConfig, prefix_length=LENGTH, bottleneck_size=8),
    "adapters-prefix-flat": of_adapters(adapters.PrefixTuningConfig, prefix_length=LENGTH, flat=True),
    "adapters-prompt": of_adapters(adapters.PromptTuningConfig, prompt_length=LENGTH),
    "peft-prefix": of_peft(peft.PrefixTuningConfig, prefix_projection=True, encoder_hidden_size=8),
    "peft-prefix-flat": of_peft(peft.PrefixTuningConfig),
    "peft-prompt": of_peft(peft.PromptTuningConfig),
    "peft-p_tuning-lstm": of_peft(
        peft.PromptEncoderConfig, encoder_reparameterization_type="LSTM", encoder_hidden_size=12
    ),
    "peft-p_tuning-mlp": of_peft(
        peft.PromptEncoderConfig, encoder_reparameterization_type="MLP", encoder_hidden_size=12
    ),
}
