"""Hyper-parameters of a BERT encoder, with the field names of Hugging Face's config.json."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from adapters_jax.errors import BackboneError

HIDDEN_ACTS = ("gelu", "gelu_new", "relu")
_IGNORED = "position_embedding_type", "is_decoder", "add_cross_attention"


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """A BERT encoder (Devlin et al., 2019); the defaults are those of BERT-base, uncased."""

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type is int and value < 1:
                raise BackboneError(f"config: {field.name} must be a positive integer, got {value!r}")
            if field.type is float and not 0 <= value < float("inf"):
                raise BackboneError(f"config: {field.name} must be a number of at least 0, got {value!r}")
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            if getattr(self, name) >= 1:
                raise BackboneError(f"config: {name} must be below 1, got {getattr(self, name)!r}")
        if self.hidden_size % self.num_attention_heads:
            raise BackboneError(
                f"config: hidden_size {self.hidden_size} is not a multiple of {self.num_attention_heads} heads"
            )
        if self.hidden_act not in HIDDEN_ACTS:
            raise BackboneError(f"config: hidden_act must be one of {', '.join(HIDDEN_ACTS)}, got {self.hidden_act!r}")

    @property
    def head_width(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @classmethod
    def tiny(cls, **changes: Any) -> "BertConfig":
        """2 layers, 16 wide: for tests."""
        small: dict[str, Any] = dict(
            vocab_size=128,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=64,
        )
        return cls(**(small | changes))

    @classmethod
    def base(cls, **changes: Any) -> "BertConfig":
        """BERT-base: 12 layers, 768 wide, 109,482,240 parameters with the pooler."""
        return cls(**changes)

    @classmethod
    def large(cls, **changes: Any) -> "BertConfig":
        """BERT-large: 24 layers, 1024 wide."""
        sizes: dict[str, Any] = dict(
            hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096
        )
        return cls(**(sizes | changes))

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "BertConfig":
        """From a config.json; what changes the function and is not supported here is refused.

        Raises:
            BackboneError: another architecture, or a value out of range.
        """
        kind = fields.get("model_type", "bert")
        if kind != "bert":
            raise BackboneError(f"config: model_type must be 'bert', got {kind!r}")
        for name, plain in zip(_IGNORED, ("absolute", False, False), strict=True):
            if fields.get(name, plain) not in (plain, None):
                raise BackboneError(f"config: {name}={fields[name]!r} is not supported, only {plain!r}")
        kinds = {int: (int,), float: (int, float), str: (str,)}
        known = {field.name: kinds[field.type] for field in dataclasses.fields(cls) if field.name in fields}  # type: ignore[index]
        for name, kind in known.items():
            value = fields[name]
            if not isinstance(value, kind) or isinstance(value, bool):
                raise BackboneError(f"config: {name} must be of type {kind[-1].__name__}, got {value!r}")
        return cls(**{name: fields[name] for name in known})
