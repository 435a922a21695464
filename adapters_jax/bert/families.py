"""The encoders that are BERT but for names and sizes: what their released config and weights call things.

    bert          Devlin et al., 2019; multilingual BERT is one of another vocabulary
    roberta       Liu et al., 2019: positions count from pad_token_id + 1, one token type
    xlm-roberta   Conneau et al., 2020: RoBERTa of another vocabulary
    distilbert    Sanh et al., 2019: no token types, no pooler, no dropout after attention
    electra       Clark et al., 2020: embeddings of a width of their own, a dense layer after them; no pooler

Source of the names and the defaults: huggingface/transformers 4.57, models/*/configuration_*.py and modeling_*.py.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Family:
    """One `model_type`.

    Attributes:
        root: in front of the names of the encoder's tensors in files that hold a task's head too.
        heads: prefixes of tensors that are not the encoder's.
        masked_lm: stems of the masked-LM head's tensors: dense layer, LayerNorm, bias, decoder.
        masked_lm_act: its activation; None: the encoder's.
        fields: released name of a config's field -> ours, where they differ.
        defaults: of config.json, for fields that it leaves out, where they are not BERT's; by our names.
        always: fields that no config.json states, by our names.
        tensors: part of a released tensor's name that BERT's files have -> what this family's have instead.
        positions_after_pad: whether positions count from pad_token_id + 1.
    """

    root: str
    heads: tuple[str, ...]
    masked_lm: tuple[str, str, str, str]
    masked_lm_act: str | None = None
    fields: Mapping[str, str] = dataclasses.field(default_factory=dict)
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    always: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    tensors: Mapping[str, str] = dataclasses.field(default_factory=dict)
    positions_after_pad: bool = False


_ROBERTA = Family(
    root="roberta.",
    # The pooler in some releases comes from no objective (Liu et al. dropped next sentences), and transformers'
    # classifiers do not read it: heads bring their own, of the form of the released classifier.
    heads=("lm_head.", "classifier.", "qa_outputs.", "pooler."),
    masked_lm=("lm_head.dense", "lm_head.layer_norm", "lm_head.bias", "lm_head.decoder"),
    masked_lm_act="gelu",
    defaults={"vocab_size": 50265, "position_offset": 2},
    positions_after_pad=True,
)

FAMILIES: dict[str, Family] = {
    "bert": Family(
        root="bert.",
        heads=("cls.", "classifier.", "qa_outputs."),
        masked_lm=(
            "cls.predictions.transform.dense",
            "cls.predictions.transform.LayerNorm",
            "cls.predictions.bias",
            "cls.predictions.decoder",
        ),
    ),
    "roberta": _ROBERTA,
    "xlm-roberta": dataclasses.replace(_ROBERTA, defaults={"position_offset": 2}),
    "distilbert": Family(
        root="distilbert.",
        heads=("vocab_", "pre_classifier.", "classifier.", "qa_outputs."),
        masked_lm=("vocab_transform", "vocab_layer_norm", "vocab_projector.bias", "vocab_projector"),
        fields={
            "dim": "hidden_size",
            "n_layers": "num_hidden_layers",
            "n_heads": "num_attention_heads",
            "hidden_dim": "intermediate_size",
            "activation": "hidden_act",
            "dropout": "hidden_dropout_prob",
            "attention_dropout": "attention_probs_dropout_prob",
        },
        defaults={"num_hidden_layers": 6},
        always={"type_vocab_size": 0, "layer_norm_eps": 1e-12},
        tensors={
            "encoder.layer.": "transformer.layer.",
            "attention.self.query": "attention.q_lin",
            "attention.self.key": "attention.k_lin",
            "attention.self.value": "attention.v_lin",
            "attention.output.dense": "attention.out_lin",
            "attention.output.LayerNorm": "sa_layer_norm",
            "intermediate.dense": "ffn.lin1",
            "output.dense": "ffn.lin2",
            "output.LayerNorm": "output_layer_norm",
        },
    ),
    "electra": Family(
        root="electra.",
        heads=("discriminator_predictions.", "generator_", "classifier.", "qa_outputs.", "sequence_summary."),
        masked_lm=(
            "generator_predictions.dense",
            "generator_predictions.LayerNorm",
            "generator_lm_head.bias",
            "generator_lm_head",
        ),
        masked_lm_act="gelu",
        defaults={
            "embedding_size": 128,
            "hidden_size": 256,
            "num_attention_heads": 4,
            "intermediate_size": 1024,
        },
    ),
}

SIZES: dict[str, dict[str, Any]] = {
    "roberta": {
        "vocab_size": 50265,
        "max_position_embeddings": 514,
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-5,
        "position_offset": 2,
    },
    "xlm-roberta": {
        "vocab_size": 250002,
        "max_position_embeddings": 514,
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-5,
        "position_offset": 2,
    },
    "distilbert": {"num_hidden_layers": 6, "type_vocab_size": 0},
    "electra": {},
    "bert": {},
}
"""The base releases (roberta-base, xlm-roberta-base, distilbert-base-uncased, google/electra-base-*), where they are
not BERT-base's: of their config.json."""


def tensor_name(model_type: str, name: str) -> str:
    """What the family's files call a tensor that BERT's files call `name`."""
    for part, own in FAMILIES[model_type].tensors.items():
        # "output.dense" is also the end of "attention.output.dense": the longer ones come first, and are gone then.
        name = name.replace(part, own)
    return name
