"""Task heads, one kind each in a file of its own."""

from adapters_jax.bert.heads.bare import NoHead
from adapters_jax.bert.heads.base import VOTES, Head, Surroundings
from adapters_jax.bert.heads.choices import MultipleChoice, Ranking
from adapters_jax.bert.heads.dependency import DependencyHead
from adapters_jax.bert.heads.masked_lm import MaskedLM
from adapters_jax.bert.heads.multilabel import MultiLabel
from adapters_jax.bert.heads.pooled import Classification, Regression
from adapters_jax.bert.heads.question_answering import QuestionAnswering
from adapters_jax.bert.heads.relation import Relation
from adapters_jax.bert.heads.tokens import TokenClassification

HEADS: dict[str, type[Head]] = {
    "classification": Classification,
    "dependency": DependencyHead,
    "masked_lm": MaskedLM,
    "multilabel": MultiLabel,
    "multiple_choice": MultipleChoice,
    "none": NoHead,
    "question_answering": QuestionAnswering,
    "ranking": Ranking,
    "regression": Regression,
    "relation": Relation,
    "token_classification": TokenClassification,
}

__all__ = [
    "HEADS",
    "VOTES",
    "Classification",
    "DependencyHead",
    "Head",
    "MaskedLM",
    "MultiLabel",
    "MultipleChoice",
    "NoHead",
    "QuestionAnswering",
    "Ranking",
    "Regression",
    "Relation",
    "Surroundings",
    "TokenClassification",
]
