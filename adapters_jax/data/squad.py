"""Questions on texts, the answers parts of the text: files of SQuAD v1.1 and v2.0 (Rajpurkar et al., 2016, 2018).

    {"data": [{"paragraphs": [{"context": "Rome is old.", "qas": [
        {"id": "1", "question": "What is old?", "answers": [{"text": "Rome", "answer_start": 0}]},
        {"id": "2", "question": "What is new?", "answers": [], "is_impossible": true}]}]}]}

`answer_start` counts characters of the context from 0. Only questions marked `is_impossible` may have no answer; other
keys ("version", "title", "plausible_answers") are passed over. A file is read whole: it is one JSON value.
"""

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from adapters_jax.data.bad import BadRows
from adapters_jax.data.source import Features
from adapters_jax.errors import DataError

PAIR = Features(("text", "text_pair"))
MOST_CHARACTERS = 4 * 2**20
"""Of a context: more than Tolstoy's longest novel has. A question on such a text makes thousands of windows already."""


@dataclasses.dataclass(frozen=True)
class Question:
    """A question on a text.

    Attributes:
      id: its name in the file, alone of that name.
      question, context: texts.
      answers: (text, its first character in the context) of each true answer; () where there is none.
    """

    id: str
    question: str
    context: str
    answers: tuple[tuple[str, int], ...] = ()


@dataclasses.dataclass(frozen=True)
class Questions:
    """A `Source`; its rows are {"text": question, "text_pair": context, "id", "asked": Question}."""

    questions: tuple[Question, ...]
    name: str
    features: Features = PAIR

    def __len__(self) -> int:
        return len(self.questions)

    def __getitem__(self, index: int) -> dict[str, Any]:
        asked = self.questions[index]
        return {"text": asked.question, "text_pair": asked.context, "id": asked.id, "asked": asked}


class _Unusable(Exception):
    """A question that cannot be used; says what was expected and what was found."""


def read_squad(file: str | Path, bad: BadRows | None = None) -> Questions:
    """The questions of a file, in its order.

    A question cannot be used if a field is missing, empty or of another type, if its context is longer than
    MOST_CHARACTERS, if an answer does not stand where it is said to, if it has no answer and is not marked as
    impossible (or has some and is), or if its id was there before.

    Args:
      file: UTF-8.
      bad: what to do with such questions; refuses them if not given.

    Raises:
      DataError: a file that cannot be read, is no JSON or not of this form, or without a question that can be used;
        under "error" the first question that cannot. With the line, or the place within the JSON value.
    """
    path, bad = Path(file), BadRows() if bad is None else bad
    text = _text(path)
    contents = _parsed(path, text)
    if not isinstance(contents, dict) or not isinstance(contents.get("data"), list):
        raise DataError(f'{path}: expected an object with a list "data", as of SQuAD, got {_keys(contents)}')

    passed: list[str | None] = []  # the ids so far, and None where a list of questions begins

    def unusable(where: str, name: Any, message: str) -> None:
        if not isinstance(name, str):
            bad.found(path, None, f"{where}: {message}")
        else:
            bad.found(path, lambda: _line(text, passed), f"question {name!r:.80} ({where}): {message}")

    def inside(where: str, value: Any, key: str) -> Iterator[tuple[str, Any]]:
        items = value.get(key) if isinstance(value, Mapping) else None
        if not isinstance(items, list):
            unusable(where, None, f"expected an object with a list {key!r}, got {_keys(value)}")
            return
        if key == "qas":
            passed.append(None)
        yield from ((f"{where}.{key}[{number}]", item) for number, item in enumerate(items))

    questions: dict[str, Question] = {}
    for number, article in enumerate(contents["data"]):
        for within, paragraph in inside(f"data[{number}]", article, "paragraphs"):
            for where, entry in inside(within, paragraph, "qas"):
                name = entry.get("id") if isinstance(entry, Mapping) else None
                if isinstance(name, str):
                    passed.append(name)
                try:
                    question = _question(entry, paragraph.get("context"))
                    if question.id in questions:
                        raise _Unusable("expected an id of its own, got that of an earlier question")
                    questions[question.id] = question
                except _Unusable as error:
                    unusable(where, name, str(error))
    if not questions:
        raise DataError(f"{path}: expected at least one question, got none that can be used; {bad.summary()}")
    return Questions(tuple(questions.values()), path.name)


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: expected a JSON file, got: {error.strerror}") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line, column = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
        raise DataError(
            f"{path}:{line}: expected UTF-8, got the byte 0x{data[error.start]:02x} at byte {column} of the line"
        ) from None


def _parsed(path: Path, text: str) -> Any:
    if not text.strip():
        raise DataError(f"{path}: expected JSON, got an empty file")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        what = f"got {text[error.pos : error.pos + 40]!r}" if text[error.pos :].strip() else "the file ends"
        raise DataError(f"{path}:{error.lineno}: expected JSON, {what} at column {error.colno} ({error.msg})") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; lists in lists in lists
        raise DataError(f"{path}: expected JSON as of SQuAD, got a value that is too large: {error}") from None


def _question(entry: Any, context: Any) -> Question:
    if not isinstance(entry, Mapping):
        raise _Unusable(f"expected an object with a question, got {_keys(entry)}")
    name, question = _filled("id", entry.get("id")), _filled("question", entry.get("question"))
    context = _filled("context", context)
    if len(context) > MOST_CHARACTERS:
        raise _Unusable(f"expected a context of at most {MOST_CHARACTERS:,} characters, got {len(context):,}")
    impossible = entry.get("is_impossible", False)
    if not isinstance(impossible, bool):
        raise _Unusable(f"expected is_impossible to be true or false, got {impossible!r:.80}")
    given = entry.get("answers", [] if impossible else None)
    if not isinstance(given, list):
        raise _Unusable(f"expected a list of answers, got {'none' if given is None else repr(given)[:80]}")
    if impossible and given:
        raise _Unusable(f"expected no answers where is_impossible is true, got {len(given)}")
    if not impossible and not given:
        raise _Unusable("expected at least one answer, or is_impossible to be true, got none")
    return Question(name, question, context, tuple(_answer(answer, context) for answer in given))


def _answer(answer: Any, context: str) -> tuple[str, int]:
    if not isinstance(answer, Mapping):
        raise _Unusable(f"expected an answer with text and answer_start, got {_keys(answer)}")
    text, start = _filled("text", answer.get("text"), "an answer's "), answer.get("answer_start")
    if isinstance(start, bool) or not isinstance(start, int) or start < 0:
        raise _Unusable(f"expected answer_start to be a number of characters, got {start!r:.80}")
    if not context.startswith(text, start):
        there = context[start : start + len(text)]
        raise _Unusable(f"expected the answer {text!r:.80} at character {start} of its context, got {there!r:.80}")
    return text, start


def _filled(field: str, value: Any, of: str = "") -> str:
    if not isinstance(value, str) or not value.strip():
        raise _Unusable(f"expected {of}{field} to be a text, got {'none' if value is None else repr(value)[:80]}")
    return value


def _keys(value: Any) -> str:
    """What stands in an object's place, without all that is in it."""
    if isinstance(value, Mapping):
        return f"an object with {', '.join(map(repr, list(value)[:8])) or 'nothing'}"[:120]
    return f"a list of {len(value)}" if isinstance(value, list) else f"{value!r:.80}"


_ENTRY = re.compile(r'"(?:qas"\s*:\s*\[|id"\s*:\s*("[^"\\]*(?:\\.[^"\\]*)*"))')


def _line(text: str, passed: Sequence[str | None]) -> int | None:
    """The line of the last of these ids, each of them sought behind the one before and in its own list of questions: an
    article may have the same id, and so may another question. None where the file spells its keys in another way."""
    wanted = 0
    for hit in _ENTRY.finditer(text):
        spelling = hit[1]
        if passed[wanted] == (None if spelling is None else json.loads(spelling)):
            wanted += 1
            if wanted == len(passed):
                return text.count("\n", 0, hit.start()) + 1
    return None
