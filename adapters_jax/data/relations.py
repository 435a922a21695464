"""Sentences with two marked entities and the relation between them: T-REx as LAMA has it, SemEval-2010 task 8.

T-REx (Elsahar et al., 2018) in LAMA's JSONL, a fact per line: `relation` (a property of Wikidata), `masked_sentence`
with [MASK] where the object stands, `obj_surface`, `sub_surface`. The object is put back; the subject is the first
place outside it where its surface stands as whole words; facts without one are left out and counted.

SemEval-2010 task 8 (Hendrickx et al., 2010), official text files:

    8001    "The most common <e1>audits</e1> were about <e2>waste</e2> and recycling."
    Message-Topic(e1,e2)
    Comment: ...

Both are fed as microsoft/K-Adapter feeds them (utils_glue.py): [CLS] ... @ subject @ ... # object # ... [SEP], the
pieces between the marks tokenised by themselves; e1 counts as the subject. Rows that are too long are cut so that both
entities stay: the end, then the beginning, then what stands between them; the release cuts the end alone, and leaves
out rows whose marks go with it.
"""

import dataclasses
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adapters_jax.bert.pieces import pieces
from adapters_jax.data.rows import AnnotatedRows, encoded_ids, frame, read_lines
from adapters_jax.data.source import Features, Source
from adapters_jax.errors import ConfigError, DataError, unknown

KINDS = (
    "Cause-Effect",
    "Component-Whole",
    "Content-Container",
    "Entity-Destination",
    "Entity-Origin",
    "Instrument-Agency",
    "Member-Collection",
    "Message-Topic",
    "Product-Producer",
)
SEMEVAL = (*(f"{kind}({way})" for kind in KINDS for way in ("e1,e2", "e2,e1")), "Other")
"""The classes of SemEval-2010 task 8. The metric `semeval` counts on their order: both directions of a relation are
neighbours, Other is last."""
FORMATS = {".jsonl": "trex", ".txt": "semeval"}
MARKS = ("@", "#")
"""Around the subject, and around the object."""
LEAST = 6
"""Tokens of the shortest row: two entities of one token, each between two marks."""
MASK = "[MASK]"
FIELDS = ("relation", "masked_sentence", "obj_surface", "sub_surface")
_ROW = re.compile(r"(\d+)\t(.*)")
_TAGGED = re.compile(r"(.*)<e([12])>(.+)</e\2>(.*)<e([12])>(.+)</e\5>(.*)")

Report = Callable[[str], object]


@dataclasses.dataclass(frozen=True)
class Marked:
    """A sentence in five parts.

    Attributes:
      parts: before the first entity, that, between, the second, after.
      turned: whether the first is the object.
    """

    parts: tuple[str, str, str, str, str]
    turned: bool

    @property
    def text(self) -> str:
        """As it is fed, with marks."""
        before, first, between, second, after = self.parts
        one, two = MARKS[::-1] if self.turned else MARKS
        return " ".join(f"{before} {one} {first} {one} {between} {two} {second} {two} {after}".split())


@dataclasses.dataclass(frozen=True)
class Relations:
    """A `Source`; its rows are {"text", "marked": Marked, "label": class number, "id"}.

    Attributes:
      sentences: with their entities.
      relations: class numbers.
      ids: as the file has them.
      features: the names of the classes.
      skipped: facts that were left out.
    """

    sentences: tuple[Marked, ...]
    relations: tuple[int, ...]
    ids: tuple[str, ...]
    features: Features
    name: str
    skipped: int = 0

    def __len__(self) -> int:
        return len(self.sentences)

    def __getitem__(self, index: int) -> dict[str, Any]:
        marked = self.sentences[index]
        return {"text": marked.text, "marked": marked, "label": self.relations[index], "id": self.ids[index]}


def format_of(file: str | os.PathLike) -> str:
    """The format that a file's ending stands for.

    Raises:
      ConfigError: another ending.
    """
    ending = Path(file).suffix.lower()
    if ending not in FORMATS:
        known = ", ".join(f"{suffix} ({name})" for suffix, name in FORMATS.items())
        raise ConfigError(f"{file}: expected one of the endings {known}; give the format")
    return FORMATS[ending]


def read_relations(
    file: str | os.PathLike, format: str, labels: Sequence[str] = (), report: Report = lambda line: None
) -> Relations:
    """A file of one of the two formats.

    Args:
      file: UTF-8.
      format: "trex" or "semeval".
      labels: names of the classes, for rows to evaluate on; if none are given, T-REx has those of the file.
      report: told how many facts were left out, where there are any.

    Raises:
      ConfigError: an unknown format.
      DataError: a file that is missing, not of the format, without a row, or with an unknown relation; with the line.
    """
    if format not in FORMATS.values():
        raise ConfigError(unknown("format", format, FORMATS.values()))
    found = _trex(file) if format == "trex" else _semeval(file)
    rows = [row for row in found if row[2] is not None]
    skipped = len(found) - len(rows)
    if not rows:
        raise DataError(f"{file}: expected facts whose subject stands in the sentence, got none of {len(found)}")
    if skipped:
        report(f"{file}: {skipped} of {len(found)} facts left out, whose subject does not stand in the sentence")
    names = tuple(labels) or (SEMEVAL if format == "semeval" else tuple(sorted({row[3] for row in rows})))
    for line, _, _, relation in rows:
        if relation not in names:
            raise DataError(f"{file}:{line}: {unknown('relation', relation, names)}")
    return Relations(
        sentences=tuple(marked for _, _, marked, _ in rows if marked is not None),
        relations=tuple(names.index(relation) for _, _, _, relation in rows),
        ids=tuple(name for _, name, _, _ in rows),
        features=Features(labels=names),
        name=Path(file).name,
        skipped=skipped,
    )


Found = list[tuple[int, str, Marked | None, str]]
"""Line, id, sentence (None: no subject in it) and relation."""


def _trex(file: str | os.PathLike) -> Found:
    found: Found = []
    for line, text in enumerate(read_lines(file), 1):
        if not text.strip():
            continue
        place = f"{file}:{line}"
        try:
            row = json.loads(text)
        except (ValueError, RecursionError):
            raise DataError(f"{place}: expected a JSON object, got {text!r:.80}") from None
        if not isinstance(row, dict):
            raise DataError(f"{place}: expected a JSON object, got {text!r:.80}")
        for field in FIELDS:
            if not isinstance(row.get(field), str) or not row[field].strip():
                raise DataError(f"{place}: expected a text {field!r}, got {row.get(field)!r:.80}")
        if row["masked_sentence"].count(MASK) != 1:
            raise DataError(f"{place}: expected one {MASK} in masked_sentence, got {row['masked_sentence']!r:.80}")
        left, right = row["masked_sentence"].split(MASK)
        marked = _with_subject(left, right, row["sub_surface"], row["obj_surface"])
        found.append((line, str(row.get("uuid", line)), marked, row["relation"]))
    return found


def _with_subject(left: str, right: str, subject: str, other: str) -> Marked | None:
    """The sentence with the object between left and right, and the subject in one of them."""
    whole = re.compile(rf"(?<!\w){re.escape(subject.strip())}(?!\w)")
    if at := whole.search(left):
        return Marked((left[: at.start()], at[0], left[at.end() :], other, right), turned=False)
    if at := whole.search(right):
        return Marked((left, other, right[: at.start()], at[0], right[at.end() :]), turned=True)
    return None


def _semeval(file: str | os.PathLike) -> Found:
    found: Found = []
    lines = read_lines(file)
    for line, text in enumerate(lines, 1):
        row = _ROW.fullmatch(text)
        if row is None:
            if text.strip() and not text.startswith("Comment") and not (line > 1 and _ROW.fullmatch(lines[line - 2])):
                raise DataError(f"{file}:{line}: expected a number, a tab and a sentence, got {text!r:.80}")
            continue
        sentence = row[2].strip().removeprefix('"').removesuffix('"')
        tagged = _TAGGED.fullmatch(sentence)
        if tagged is None or tagged[2] == tagged[5] or len(re.findall(r"</?e[12]>", sentence)) != 4:
            raise DataError(
                f"{file}:{line}: expected <e1>...</e1> and <e2>...</e2>, one beside the other, got {sentence!r:.80}"
            )
        relation = lines[line].strip() if line < len(lines) else ""
        if relation not in SEMEVAL:
            raise DataError(f"{file}:{line + 1}: {unknown('relation', relation, SEMEVAL)}")
        parts = (tagged[1], tagged[3], tagged[4], tagged[6], tagged[7])
        found.append((line, row[1], Marked(parts, turned=tagged[2] == "2"), relation))
    return found


@dataclasses.dataclass(frozen=True, eq=False)
class MarkedRows(AnnotatedRows):
    """`Rows` for `heads.Relation`.

    Attributes:
      marks: where the marks in front of subject and object stand, int32 [n 2].
      ids: of the rows, as the file has them.
    """

    marks: np.ndarray
    ids: tuple[str, ...] = ()

    def arrays(self) -> tuple[np.ndarray | None, ...]:
        return *self.encoded.arrays(), self.marks

    def batch(self, rows: np.ndarray, length: int) -> dict[str, np.ndarray]:
        """As of `Encoded`, with "marks" int32 [b 2]."""
        rows = np.asarray(rows)
        marks = np.where(rows[:, None] >= 0, self.marks[rows], np.int32(0))
        return self.encoded.batch(rows, length) | {"marks": marks}


def encode_relations(source: Source, tokenizer: Any, max_length: int) -> MarkedRows:
    """The rows of `Relations`, or of a sample of them (`take`), tokenised.

    Raises:
      ConfigError: max_length leaves no room for two entities, or a tokenizer without [CLS] and [SEP].
    """
    first, last = frame(tokenizer, source.name, max_length, LEAST)
    rows = [source[number] for number in range(len(source))]
    ids = iter(pieces(tokenizer, [part for row in rows for part in row["marked"].parts]))
    # The last piece: SentencePiece may put one for the blank before it.
    signs = [found[-1:] or [tokenizer.unk_token_id] for found in pieces(tokenizer, MARKS)]
    made, marks, truncated = [], [], 0
    for row in rows:
        parts = [next(ids) for _ in range(5)]
        truncated += _cut(parts, max_length - 6)
        before, one, between, two, after = parts
        signs_here = signs[::-1] if row["marked"].turned else signs
        opening = [1 + len(before), 3 + len(before) + len(one) + len(between)]
        marks.append(opening[::-1] if row["marked"].turned else opening)
        a, b = signs_here
        made.append([first, *before, *a, *one, *a, *between, *b, *two, *b, *after, last])
    labels = np.array([row["label"] for row in rows], np.int32)
    encoded = encoded_ids(made, labels, truncated, max_length, tokenizer.pad_token_id or 0, source.name)
    return MarkedRows(encoded, np.array(marks, np.int32), tuple(row["id"] for row in rows))


def _cut(parts: list[list[int]], room: int) -> bool:
    """Shortens a row's parts, in place, to `room` tokens together; whether that was needed."""
    over = sum(map(len, parts)) - room
    if over <= 0:
        return False
    for place in (4, 0, 2):
        gone = min(over, len(parts[place]))
        parts[place] = parts[place][gone:] if place == 0 else parts[place][: len(parts[place]) - gone]
        over -= gone
    while over > 0:  # the entities alone are too long
        longer = 1 if len(parts[1]) >= len(parts[3]) else 3
        parts[longer] = parts[longer][:-1]
        over -= 1
    return True
