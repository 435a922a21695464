"""Sentences of words with a tag each: CoNLL column files (names, chunks) and CoNLL-U (parts of speech).

    bad = BadRows("skip")
    train = read_tagged("train.conll", bad)
    dev = read_tagged("dev.conll", bad, labels=train.labels)

A column file has a line per word and a blank line between sentences; columns stand between tabs, or between blanks
where most lines have no tab. Lines that begin with -DOCSTART- are passed over. Tags that name spans are `O`, `B-TYPE`
and `I-TYPE` (BIO), or IOB1, where `B` only parts two spans of a type that touch; IOB1 is brought to BIO.
CoNLL-U is https://universaldependencies.org/format.html, or its first columns; multiword tokens and empty nodes are
passed over. A sentence with a line that cannot be used is one bad row, named by the first such line.
"""

import dataclasses
import functools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from adapters_jax.data.bad import BadRows, numbered_lines
from adapters_jax.data.source import Features
from adapters_jax.errors import ConfigError, DataError, unknown
from adapters_jax.metrics.spans import spans, to_bio

Format = Literal["auto", "conll", "conllu"]
Column = Literal["upos", "xpos"]
Scheme = Literal["auto", "bio", "iob1", "none"]

DOCUMENT = "-DOCSTART-"
NO_TYPE = "O"
UNSPECIFIED = "_"
"""Of a column of CoNLL-U."""
ID, FORM = 0, 1
PLACES: dict[str, int] = {"upos": 3, "xpos": 4}
WORD = re.compile(r"[1-9]\d*")
PASSED_OVER = re.compile(r"[1-9]\d*-[1-9]\d*|\d+\.[1-9]\d*")
"""In the first column of CoNLL-U: the number of a word; a multiword token or an empty node."""
_SPAN_TAG = re.compile(r"O|[BI]-.+")

Line = tuple[int, str]
"""(number, text)."""


@dataclasses.dataclass(frozen=True)
class Sentence:
    """Words, and the tag of each."""

    words: tuple[str, ...]
    tags: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Tagged:
    """A `Source`; its rows are {"text", "words", "tags", "label", "id"}; the label is what a split goes by.

    Attributes:
      sentences: with tags of BIO, or any others.
      labels: the tags that there are: sorted; of spans O, then B-TYPE and I-TYPE of every type.
      scheme: how the file has them.
      name: of the file.
    """

    sentences: tuple[Sentence, ...]
    labels: tuple[str, ...]
    scheme: Scheme
    name: str

    @functools.cached_property
    def features(self) -> Features:
        """A sentence has the classes of its tags, so that each part of a split gets its share of every type."""
        return Features(labels=self.labels, kind="multilabel")

    @functools.cached_property
    def _numbers(self) -> dict[str, int]:
        return {tag: number for number, tag in enumerate(self.labels)}

    def __len__(self) -> int:
        return len(self.sentences)

    def part(self, indices: Iterable[int], name: str) -> "Tagged":
        """Some of the sentences, with the same labels."""
        return dataclasses.replace(self, sentences=tuple(self.sentences[index] for index in indices), name=name)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sentence = self.sentences[index]
        return {
            "text": " ".join(sentence.words),
            "words": sentence.words,
            "tags": sentence.tags,
            "label": tuple(sorted({self._numbers[tag] for tag in sentence.tags} - {self._numbers.get(NO_TYPE)})),
            "id": str(index),
        }

    def summary(self) -> dict[str, Any]:
        """What was read: sentences, words, the longest one's words, and the spans by type or the words by tag."""
        tags = [sentence.tags for sentence in self.sentences]
        kinds = "spans" if are_spans(self.labels) else "tags"
        each = (kind for row in tags for kind, _, _ in spans(row)) if kinds == "spans" else (t for r in tags for t in r)
        return {
            "file": self.name,
            "scheme": self.scheme,
            "sentences": len(tags),
            "words": sum(map(len, tags)),
            "longest": max(map(len, tags)),
            kinds: dict(Counter(each).most_common()),
        }


def are_spans(labels: Iterable[str]) -> bool:
    """Whether tags name spans: O, B-TYPE and I-TYPE, and not O alone."""
    labels = tuple(labels)
    return all(map(_SPAN_TAG.fullmatch, labels)) and set(labels) > {NO_TYPE}


def read_tagged(
    file: str | Path,
    bad: BadRows,
    *,
    format: Format = "auto",
    word_column: int = 1,
    tag_column: int = -1,
    column: Column = "upos",
    scheme: Scheme = "auto",
    labels: Sequence[str] | None = None,
) -> Tagged:
    """The sentences of a file.

    Args:
      file: UTF-8.
      bad: what to do with sentences that cannot be used.
      format: auto goes by the ending: .conllu, or a column file.
      word_column, tag_column: of a column file, counted from 1; -1 is the last one.
      column: of CoNLL-U.
      scheme: auto takes tags as spans where one begins with B- or I-, and these as IOB1 where spans begin with I and
        none with B after another tag than its own type's; none takes them as they stand.
      labels: the tags that are known, from the file to train on; None: those of this file.

    Raises:
      ConfigError: columns that the file does not have.
      DataError: a file that cannot be read or holds no sentence; a bad one, unless they are skipped.
    """
    form = ("conllu" if Path(file).suffix.lower() == ".conllu" else "conll") if format == "auto" else format
    if form == "conllu":
        found = list(_conllu(file, bad, PLACES[column]))
    else:
        found = list(_columns(file, bad, word_column, tag_column))
    scheme = _scheme([tags for _, tags, _ in found], labels) if scheme == "auto" else scheme
    known = None if labels is None else frozenset(labels)
    sentences = []
    for words, tags, lines in found:
        for tag, line in zip(tags, lines, strict=True):
            if scheme != "none" and not _SPAN_TAG.fullmatch(tag):
                bad.found(
                    file, line, f"expected O, B-TYPE or I-TYPE, got {tag!r:.40} (--scheme=none takes tags as they are)"
                )
                break
            if known is not None and tag not in known:
                bad.found(file, line, f"expected a tag of the rows to train on: {unknown('tag', tag, labels or ())}")
                break
        else:
            sentences.append(Sentence(tuple(words), tuple(to_bio(tags) if scheme == "iob1" else tags)))
    if not sentences:
        raise DataError(f"{file}: expected sentences, got none that can be used; {bad.summary()}")
    return Tagged(tuple(sentences), _labels(sentences, scheme) if labels is None else tuple(labels), scheme, str(file))


def _labels(sentences: Iterable[Sentence], scheme: Scheme) -> tuple[str, ...]:
    """I-TYPE is among them where the file has B-TYPE alone: another file may have longer spans."""
    tags = {tag for sentence in sentences for tag in sentence.tags}
    if scheme == "none":
        return tuple(sorted(tags))
    return (NO_TYPE, *(f"{mark}-{kind}" for kind in sorted({tag[2:] for tag in tags} - {""}) for mark in "BI"))


def _scheme(rows: Sequence[Sequence[str]], labels: Sequence[str] | None) -> Scheme:
    """What `auto` comes to; rows of the file to train on say whether tags are spans, whatever else they are."""
    marked = any(tag.startswith(("B-", "I-")) for tags in rows for tag in tags)
    if not (marked if labels is None else are_spans(labels)):
        return "none"
    begun = {
        tag[0]
        for tags in rows
        for before, tag in zip((NO_TYPE, *tags), tags, strict=False)
        if _SPAN_TAG.fullmatch(tag) and tag != NO_TYPE and (before == NO_TYPE or before[2:] != tag[2:])
    }
    return "iob1" if begun == {"I"} else "bio"


def _blocks(
    file: str | Path, bad: BadRows, ends: Callable[[str], bool], passed_over: Callable[[str], bool]
) -> Iterator[list[Line]]:
    """The lines between blank ones, or those at which `ends` is true; no sentence that has an unreadable line."""
    block: list[Line] = []
    broken, seen = False, bad.skipped
    for number, text in numbered_lines(file, bad):
        broken |= bad.skipped != seen  # what stands between this line and the one before
        if not text.strip(" \t") or ends(text):
            if block and not broken:
                yield block
            block, broken = [], False
        elif not passed_over(text):
            block.append((number, text))
        seen = bad.skipped
    if block and not broken and bad.skipped == seen:
        yield block


Found = tuple[list[str], list[str], list[int]]
"""Words, tags and line numbers of a sentence."""


def _usual(widths: Iterable[int], least: int) -> int:
    """How many columns most lines have, so that no bad one, the first perhaps, makes the others look bad."""
    counts = Counter(width for width in widths if width >= least)
    return counts.most_common(1)[0][0] if counts else least


def _columns(file: str | Path, bad: BadRows, word_column: int, tag_column: int) -> Iterator[Found]:
    blocks = list(_blocks(file, bad, lambda text: text.startswith(DOCUMENT), lambda text: False))
    texts = [text for block in blocks for _, text in block]
    tabs = 2 * sum("\t" in text for text in texts) > len(texts)

    def split(text: str) -> list[str]:
        return [field.strip(" ") for field in text.split("\t")] if tabs else re.split(r"[ \t]+", text.strip(" \t"))

    width = _usual((len(split(text)) for text in texts), 2)
    word_at = _place("word_column", word_column, width, file)
    tag_at = _place("tag_column", tag_column, width, file)
    if word_at == tag_at:
        raise ConfigError(f"tag_column: expected another than that of the words, got column {tag_at + 1} for both")
    for block in blocks:
        words, tags, lines = [], [], []
        for number, text in block:
            fields = split(text)
            if problem := _problem(fields, width, word_at, tag_at, "a tab" if tabs else "blanks"):
                bad.found(file, number, problem)
                break
            words.append(fields[word_at])
            tags.append(fields[tag_at])
            lines.append(number)
        else:
            yield words, tags, lines


def _place(flag: str, column: int, width: int, file: str | Path) -> int:
    if not 1 <= abs(column) <= width:
        raise ConfigError(f"{flag}: expected 1 to {width}, the columns of {file}, or -1 for the last, got {column}")
    return column - 1 if column > 0 else width + column


def _problem(fields: Sequence[str], width: int, word_at: int, tag_at: int, separator: str) -> str | None:
    """What is wrong with the columns of a line."""
    if len(fields) == 1 and width > 1:
        return f"expected a tag for every word, after {separator}, got none for {fields[0]!r:.80}"
    if len(fields) != width:
        return f"expected {width} columns as on most lines, {separator} between them, got {len(fields)}: {fields!r:.80}"
    if not fields[word_at]:
        return f"expected a word for the tag {fields[tag_at]!r:.40}, got none"
    if len(fields[tag_at].split()) != 1:
        return f"expected a tag without blanks for every word, got {fields[tag_at]!r:.40} for {fields[word_at]!r:.80}"
    return None


def _conllu(file: str | Path, bad: BadRows, tag_at: int) -> Iterator[Found]:
    blocks = list(_blocks(file, bad, lambda text: False, lambda text: text.startswith("#")))
    width = _usual((text.count("\t") + 1 for block in blocks for _, text in block), tag_at + 1)
    for block in blocks:
        words: list[str] = []
        tags: list[str] = []
        lines: list[int] = []
        for number, text in block:
            fields = text.split("\t")
            if len(fields) == width and PASSED_OVER.fullmatch(fields[ID]):
                continue
            if problem := _no_word(fields, width, len(words) + 1, tag_at):
                bad.found(file, number, problem)
                break
            words.append(fields[FORM])
            tags.append(fields[tag_at])
            lines.append(number)
        else:
            if words:
                yield words, tags, lines


def _no_word(fields: Sequence[str], width: int, number: int, tag_at: int) -> str | None:
    """What is wrong with the line of a word in CoNLL-U."""
    if len(fields) != width:
        return f"expected {width} tab-separated columns, got {len(fields)}: {fields!r:.80}"
    if not WORD.fullmatch(fields[ID]) or fields[ID] != str(number):
        return f"expected the word number {number}, got {fields[ID]!r:.80}"
    if not fields[FORM].strip(" "):
        return f"expected a word for the tag {fields[tag_at]!r:.40}, got none"
    if fields[tag_at] == UNSPECIFIED or len(fields[tag_at].split()) != 1:
        return f"expected a tag in column {tag_at + 1}, got {fields[tag_at]!r:.40} for {fields[FORM]!r:.80}"
    return None
