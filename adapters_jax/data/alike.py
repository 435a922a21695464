"""A further file, read as the rows of an artefact were: what its manifest says of columns, tags and windows."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adapters_jax.data.bad import BadRows
from adapters_jax.data.choices import Kind, encode_choices, read_choices
from adapters_jax.data.own import Form, read_own
from adapters_jax.data.places import open_table
from adapters_jax.data.source import Features
from adapters_jax.data.squad import read_squad
from adapters_jax.data.tagged import read_tagged
from adapters_jax.data.tagged_rows import encode_tagged
from adapters_jax.data.tokenize import Encoded, Rows, encode
from adapters_jax.data.windows import encode_windows
from adapters_jax.errors import ConfigError

TABLES = ("classification", "multilabel", "regression")
FILES = (*TABLES, "token_classification", "question_answering", "multiple_choice", "ranking")
"""Heads that are trained on files of the user's own."""
TAGGED: Mapping[str, type] = {"format": str, "word_column": int, "tag_column": int, "column": str, "scheme": str}
WINDOWS: Mapping[str, type] = {"doc_stride": int, "max_question_length": int, "no_answer_threshold": float}
"""What a manifest may say of how rows are made, and the type of it."""


def encode_alike(
    file: str | Path, head: Any, extra: Mapping[str, Any], tokenizer: Any, max_length: int, bad: BadRows
) -> Rows:
    """Rows with labels that the head has.

    Args:
      file: of the kind that the head was trained on: a table for classes and values, tagged sentences, questions in
        SQuAD's form, rows of choices.
      head: the artefact's.
      extra: of its manifest.
      tokenizer: of its backbone.
      max_length: in tokens.
      bad: what to do with rows that cannot be used.

    Raises:
      ConfigError: a head that is trained on other data than files of the user's own.
      DataError: no such file, or rows that the head does not fit; under "error" a bad row.
    """
    if head.name in TABLES:
        form = Form.of(extra["form"]) if "form" in extra else Form()
        columns = columns_of(extra) or ("text",)
        like = Features(columns, tuple(getattr(head, "labels", ())), head.name)
        encoded: Encoded = encode(
            read_own(open_table(str(file), bad, "dev"), form, bad, like).source, tokenizer, max_length
        )
        return encoded
    if head.name == "token_classification":
        told = stored(extra.get("form"), TAGGED)
        return encode_tagged(read_tagged(file, bad, labels=head.labels, **told), head.labels, tokenizer, max_length)
    if head.name == "question_answering":
        told = stored(extra, WINDOWS)
        threshold = told.pop("no_answer_threshold", math.inf)
        return encode_windows(read_squad(file, bad), tokenizer, max_length, threshold=threshold, **told)
    if head.name in ("multiple_choice", "ranking"):
        kind: Kind = "choice" if head.name == "multiple_choice" else "ranking"
        return encode_choices(read_choices(file, kind, bad), tokenizer, max_length, kind)
    raise ConfigError(f"head {head.name}: expected one for a file of rows, such as classification")


def columns_of(extra: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The text columns that a manifest names; None: it names none.

    Raises:
      ConfigError: other columns than one text, or two.
    """
    columns = extra.get("columns")
    if columns is None:
        return None
    if columns not in (["text"], ["text", "text_pair"]):
        raise ConfigError(f"manifest: expected the columns text, or text and text_pair, got {columns!r:.60}")
    return tuple(columns)


def stored(found: Any, types: Mapping[str, type]) -> dict[str, Any]:
    """What is there of the named entries of a manifest's table.

    Raises:
      ConfigError: an entry of another type.
    """
    told = {name: found[name] for name in types if name in found} if isinstance(found, Mapping) else {}
    for name, value in told.items():
        number = isinstance(value, int) and types[name] is float
        if isinstance(value, bool) or not (number or isinstance(value, types[name])):
            raise ConfigError(f"manifest: expected {name} to be of type {types[name].__name__}, got {value!r:.60}")
    return told
