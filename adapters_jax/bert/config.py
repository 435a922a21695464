"""Hyper-parameters of a BERT encoder or one of its kin, with the field names of Hugging Face's config.json."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from adapters_jax.bert.families import FAMILIES, SIZES
from adapters_jax.errors import BackboneError

HIDDEN_ACTS = ("gelu", "gelu_new", "relu")
_IGNORED = "position_embedding_type", "is_decoder", "add_cross_attention"
_KINDS: Mapping[Any, tuple[type, ...]] = {
    int: (int,),
    float: (int, float),
    str: (str,),
    int | None: (type(None), int),
}


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """A BERT encoder (Devlin et al., 2019) or another of `families`; the defaults are those of BERT-base, uncased.

    Attributes:
        model_type: a key of `FAMILIES`.
        max_position_embeddings: rows of the position table, `position_offset` of which no token uses.
        type_vocab_size: 0 where there are no token types.
        position_offset: the position id of a text's first token; pad_token_id + 1 in RoBERTa.
        embedding_size: e, the embeddings' width, where it is not `hidden_size`: a dense layer stands after them then;
            None where it is.
    """

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
    model_type: str = "bert"
    position_offset: int = 0
    embedding_size: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.model_type, str) or self.model_type not in FAMILIES:
            raise BackboneError(f"config: {_expected()}, got {self.model_type!r}")
        always = FAMILIES[self.model_type].always
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            _check_type(field, value)
            if value != (own := always.get(field.name, value)):
                raise BackboneError(f"config: {field.name} is {own!r} in every {self.model_type}, got {value!r}")
            if field.name in always or field.name == "position_offset":
                continue
            if field.type in (int, int | None) and value is not None and value < 1:
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
        after_pad = FAMILIES[self.model_type].positions_after_pad
        most = self.max_position_embeddings - 1 if after_pad else 0
        if not 0 <= self.position_offset <= most:
            named = "position_offset (pad_token_id + 1)" if after_pad else "position_offset"
            raise BackboneError(f"config: {named} must be from 0 to {most}, got {self.position_offset!r}")
        if self.embedding_size is not None and self.model_type != "electra":
            raise BackboneError(f"config: embedding_size is for model_type 'electra', got it for {self.model_type!r}")
        if self.embedding_size == self.hidden_size:
            object.__setattr__(self, "embedding_size", None)
        if self.hidden_act not in HIDDEN_ACTS:
            raise BackboneError(f"config: hidden_act must be one of {', '.join(HIDDEN_ACTS)}, got {self.hidden_act!r}")

    @property
    def head_width(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def embedding_width(self) -> int:
        """e."""
        return self.embedding_size or self.hidden_size

    @property
    def projects(self) -> bool:
        """Whether a dense layer [e d] stands after the embeddings."""
        return self.embedding_width != self.hidden_size

    @property
    def positions(self) -> int:
        """How many tokens have a position."""
        return self.max_position_embeddings - self.position_offset

    @property
    def attn_out_dropout_prob(self) -> float:
        """Of the attention's output; DistilBERT has none there."""
        return 0.0 if self.model_type == "distilbert" else self.hidden_dropout_prob

    @property
    def masked_lm_act(self) -> str:
        """The activation of the released masked-LM head."""
        return FAMILIES[self.model_type].masked_lm_act or self.hidden_act

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
        return cls(**(small | _always(changes) | changes))

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

    @classmethod
    def family(cls, model_type: str, **changes: Any) -> "BertConfig":
        """The base release of a family: "roberta", "xlm-roberta", "distilbert", "electra" or "bert"."""
        if model_type not in SIZES:
            raise BackboneError(f"config: {_expected()}, got {model_type!r}")
        return cls(**(SIZES[model_type] | changes), model_type=model_type)

    def to_dict(self) -> dict[str, Any]:
        """For fingerprints and manifests, where BERT's are as they were before there were other families."""
        fields = dataclasses.asdict(self)
        return {name: value for name, value in fields.items() if name not in _LATER or self.model_type != "bert"}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "BertConfig":
        """From a config.json; what changes the function and is not supported here is refused.

        Raises:
            BackboneError: another architecture, or a value out of range.
        """
        kind = fields.get("model_type", "bert")
        if not isinstance(kind, str) or kind not in FAMILIES:
            raise BackboneError(f"config: {_expected()}, got {kind!r}")
        for name, plain in zip(_IGNORED, ("absolute", False, False), strict=True):
            if fields.get(name, plain) not in (plain, None):
                raise BackboneError(f"config: {name}={fields[name]!r} is not supported, only {plain!r}")
        given = _renamed(kind, fields)
        known = [field for field in dataclasses.fields(cls) if field.name in given]
        for field in known:
            _check_type(field, given[field.name])
        return cls(**{field.name: given[field.name] for field in known})


_LATER = ("model_type", "position_offset", "embedding_size")
"""Fields that BERT's fingerprints and manifests do not hold."""


def _expected() -> str:
    """What `model_type` may be; 'bert' first."""
    return "model_type must be 'bert'" + "".join(f", {name!r}" for name in FAMILIES if name != "bert")


def _check_type(field: dataclasses.Field, value: Any) -> None:
    types = _KINDS[field.type]
    if not isinstance(value, types) or isinstance(value, bool):
        raise BackboneError(f"config: {field.name} must be of type {types[-1].__name__}, got {value!r}")


def _always(changes: Mapping[str, Any]) -> dict[str, Any]:
    """What follows from the `model_type` that the changes name, if it is one."""
    kind = changes.get("model_type", "bert")
    return dict(FAMILIES[kind].always) if isinstance(kind, str) and kind in FAMILIES else {}


def _renamed(model_type: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """A config.json by our names, with the family's own defaults; fields that are not the family's are left out."""
    family = FAMILIES[model_type]
    for name, ours in family.fields.items():
        if name in fields and ours in fields and fields[name] != fields[ours]:
            raise BackboneError(f"config: {name} and {ours} are one, got {fields[name]!r} and {fields[ours]!r}")
    given = {**family.defaults, **{family.fields.get(name, name): value for name, value in fields.items()}}
    if family.positions_after_pad and "pad_token_id" in fields:
        pad = fields["pad_token_id"]
        if not isinstance(pad, int) or isinstance(pad, bool) or pad < 0:
            raise BackboneError(f"config: pad_token_id must be an integer of at least 0, got {pad!r}")
        if fields.get("position_offset", pad + 1) != pad + 1:
            raise BackboneError(
                f"config: position_offset is pad_token_id + 1, got {fields['position_offset']!r} and {pad!r}"
            )
        given["position_offset"] = pad + 1
    foreign = set() if family.positions_after_pad else {"position_offset"}
    if model_type != "electra" or given.get("embedding_size") in (None, given.get("hidden_size")):
        foreign.add("embedding_size")
    own = {name: value for name, value in given.items() if name not in foreign}
    return own | dict(family.always) | {"model_type": model_type}
