"""What each head is asked, and the rows that are made of it.

    classification, multilabel, regression   "a text" or ("a pair", "of texts")
    token_classification                     "a text" or ["a", "list", "of", "words"]
    question_answering                       ("a question", "its context")
    multiple_choice, ranking                 ("a text", ["a choice", "another"])

A file has an input per line: JSON with the keys of `Form.keys`, or where a form can be said so, plain text with tabs.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from adapters_jax.data.choices import ChoiceSource, check, encode_choices
from adapters_jax.data.source import as_source
from adapters_jax.data.tagged_rows import encode_texts
from adapters_jax.data.tokenize import Rows, encode
from adapters_jax.data.windows import encode_questions
from adapters_jax.errors import ConfigError, DataError


@dataclasses.dataclass(frozen=True)
class Form:
    """How a head is asked.

    Attributes:
      encode: (inputs, tokenizer, max_length, options) -> rows, in any number and order, that answer for each input.
      keys: of an input in JSON, the required ones first.
      needed: how many of them are.
      instead: a key that may stand in place of the first one, with a list of texts.
      plain: whether a line of text, with tabs between its parts, says it too.
      options: what else `encode` can be told.
      max_length: tokens of a row where nothing else is said.
      check: raises DataError for an input that says nothing.
      cut: what `Rows.truncated` counts.
    """

    encode: Callable[..., Rows]
    keys: tuple[str, ...]
    needed: int
    instead: str | None = None
    plain: bool = True
    options: tuple[str, ...] = ()
    max_length: int = 128
    check: Callable[[Any], object] = lambda asked: None
    cut: str = "texts that were longer than {max_length} tokens"

    def of_json(self, line: str) -> tuple[Any, Any]:
        """(the input of a line of JSON, its "id" or None).

        Raises:
          DataError: no JSON, or no such object.
        """
        shown = "{" + ", ".join(f'"{key}": ...' for key in self.keys[: self.needed]) + "}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"expected JSON such as {shown}, got {line[:80]!r} ({error})") from None
        if not isinstance(row, dict):
            raise DataError(f"expected an object such as {shown}, got {line[:80]!r}")
        if self.instead is not None and row.get(self.instead) is not None:
            return _checked(self.instead, row[self.instead]), row.get("id")
        found = [key for key in self.keys if row.get(key) is not None]
        if len(found) < self.needed or any(key not in found for key in self.keys[: self.needed]):
            raise DataError(f"expected an object such as {shown}, got one with {', '.join(row) or 'nothing in it'}")
        parts = [_checked(key, row[key]) for key in found]
        asked = parts[0] if len(parts) == 1 else tuple(parts)
        self.check(asked)
        return asked, row.get("id")

    def of_text(self, line: str) -> Any:
        """The input of a line of text, its parts between tabs.

        Raises:
          DataError: an empty line, too many parts or too few, or a head that is asked in JSON alone.
        """
        if not self.plain:
            raise DataError("expected --format=jsonl for this head, got plain text")
        parts = tuple(line.split("\t"))
        if not self.needed <= len(parts) <= len(self.keys) or not line.strip():
            told = "a text" if self.needed == 1 else f"a {self.keys[0]}, a tab and a {self.keys[1]}"
            more = ", or two with a tab between them" if len(self.keys) > self.needed else ""
            raise DataError(f"expected {told}{more}, got {line[:80]!r}")
        asked = parts[0] if len(parts) == 1 else parts
        self.check(asked)
        return asked


LISTS = ("words", "choices")


def _checked(key: str, part: Any) -> Any:
    many = isinstance(part, list) and all(isinstance(each, str) for each in part)
    if not (many if key in LISTS else isinstance(part, str)):
        kind = "a list of texts" if key in LISTS else "a text"
        raise DataError(f'expected "{key}" to be {kind}, got {part!r:.80}')
    return part


def _texts(texts: Sequence[Any], tokenizer: Any, max_length: int) -> Rows:
    pairs = [not isinstance(text, str) for text in texts]
    if any(pairs) != all(pairs):
        raise DataError(f"expected texts or pairs of texts, got both: text {pairs.index(not pairs[0])} differs")
    for n, pair in enumerate(texts if pairs[0] else ()):
        if not isinstance(pair, tuple | list) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):
            raise DataError(f"text {n}: expected a text or a pair of texts, got {pair!r}")
    rows = [{"text": text[0], "text_pair": text[1]} if pairs[0] else {"text": text} for text in texts]
    return encode(as_source(rows), tokenizer, max_length)


def _choices(items: Sequence[Any], tokenizer: Any, max_length: int) -> Rows:
    rows = []
    for n, item in enumerate(items):
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise DataError(f"text {n}: expected a text and its choices, got {item!r:.80}")
        try:
            rows.append(_chosen(item) | {"id": str(n)})
        except DataError as error:
            raise DataError(f"text {n}: {error}") from None
    return encode_choices(ChoiceSource(tuple(rows), "texts"), tokenizer, max_length, "choice")


def _chosen(item: Any) -> dict[str, Any]:
    return check({"text": item[0], "choices": item[1]}, "choice", labelled=False)


def _filled(asked: Any) -> None:
    for what, part in zip(("question", "context"), asked, strict=True):
        if not part.strip():
            raise DataError(f"expected a {what}, got an empty text")


TEXTS = Form(_texts, ("text", "text_pair"), 1)
CHOICES = Form(_choices, ("text", "choices"), 2, plain=False, check=_chosen)
TAGS = Form(encode_texts, ("text",), 1, instead="words", cut="words that were longer than a row of {max_length} tokens")
QUESTIONS = Form(
    encode_questions,
    ("question", "context"),
    2,
    options=("doc_stride", "max_question_length", "threshold"),
    max_length=384,
    check=_filled,
    cut="questions that were longer than {max_question_length} tokens",
)
FORMS: Mapping[str, Form] = {
    "classification": TEXTS,
    "regression": TEXTS,
    "multilabel": TEXTS,
    "token_classification": TAGS,
    "question_answering": QUESTIONS,
    "multiple_choice": CHOICES,
    "ranking": CHOICES,
}


def form_of(head: Any) -> Form:
    """How a head is asked; several at once (`serving.shared`) read texts.

    Raises:
      ConfigError: a head that has no answer to a text alone (masked_lm, relation, dependency, none).
    """
    name = getattr(head, "name", None)
    if name is None:
        return TEXTS
    if name not in FORMS:
        further = "; continue this adapter on a task first: python -m train.glue --init-adapter=FOLDER"
        raise ConfigError(
            f"head {name}: expected one that answers texts ({', '.join(FORMS)})"
            f"{further if name == 'masked_lm' else ', got one that is scored in its training job alone'}"
        )
    return FORMS[name]
