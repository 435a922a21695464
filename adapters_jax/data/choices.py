"""A text and several choices per row: which is right, or how relevant each is.

JSONL, a row per line::

    {"text": "The cat sat on the", "choices": ["mat", "moon"], "label": 0}              one is right
    {"text": "opening hours", "choices": ["We open at 9", "Our team"], "label": [2, 0]}  how relevant each is, from 0

"id" is optional, else a row is called by its line; other keys are passed over.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from adapters_jax.data.bad import BadRows, numbered_lines
from adapters_jax.data.rows import AnnotatedRows
from adapters_jax.data.source import Features, ListSource, Source
from adapters_jax.data.tokenize import encode
from adapters_jax.errors import DataError
from adapters_jax.metrics import ranking

Kind = Literal["choice", "ranking"]

PAIR = Features(("text", "text_pair"))
MOST = 1000
"""Choices of a row."""
HIGHEST = 1e9
"""Relevance: the sum of a row's stays finite in float32."""


@dataclasses.dataclass(frozen=True)
class ChoiceSource:
    """A `Source`; its rows are {"text", "choices": tuple of texts, "label"?, "id"}.

    A label is the number of the right choice, or in a ranking a tuple with the relevance of each.
    """

    rows: tuple[dict[str, Any], ...]
    name: str
    features: Features = PAIR

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return dict(self.rows[index])


def read_choices(file: str | Path, kind: Kind, bad: BadRows | None = None, labelled: bool = True) -> ChoiceSource:
    """The rows of a JSONL file.

    Args:
      file: its path.
      kind: whether a label is a number ("choice") or a list of relevances ("ranking"; a number there says which one is
        relevant).
      bad: what to do with rows that cannot be used; refuses them if not given.
      labelled: whether rows must have a label.

    Raises:
      DataError: a file without rows, or a bad row under "error"; with file and line.
    """
    bad = BadRows() if bad is None else bad
    rows: list[dict[str, Any]] = []
    named: dict[str, int] = {}
    for number, line in numbered_lines(file, bad):
        if not line.strip():
            continue
        try:
            row = check(json.loads(line), kind, labelled)
        except (ValueError, RecursionError) as error:
            bad.found(
                file, number, f'expected JSON such as {{"text": ..., "choices": [...]}}, got {line[:80]!r} ({error})'
            )
            continue
        except DataError as error:
            bad.found(file, number, str(error))
            continue
        if (name := row.get("id")) in named:
            bad.found(file, number, f"expected ids that differ, got {name!r:.80} again (line {named[str(name)]})")
            continue
        if name is not None:
            named[name] = number
        rows.append(row | {"line": number})
    if not rows:
        raise DataError(f"{file}: expected rows with a text and choices, got none")
    # Rows without an id are called by their line; where some have one, it is not to be taken for another's.
    alone = "line " if named else ""
    rows = [{"id": f"{alone}{row.pop('line')}"} | row for row in rows]
    if kind == "ranking" and labelled and not any(any(row["label"]) for row in rows):
        raise DataError(f"{file}: expected a row in which some choice is relevant, got labels of 0 alone")
    return ChoiceSource(tuple(rows), Path(file).name)


def check(row: Any, kind: Kind, labelled: bool) -> dict[str, Any]:
    """A row with texts, choices and label of the right types, and no other keys.

    Raises:
      DataError: what is wrong with it.
    """
    if not isinstance(row, Mapping):
        raise DataError(f'expected an object with "text" and "choices", got {row!r:.80}')
    text, choices = row.get("text"), row.get("choices")
    if not isinstance(text, str) or not text.strip():
        raise DataError(f'expected "text" to be a text, got {text!r:.80}')
    if not isinstance(choices, Sequence) or isinstance(choices, str) or not 2 <= len(choices) <= MOST:
        raise DataError(f'expected "choices" to be a list of 2 to {MOST} texts, got {choices!r:.80}')
    for choice in choices:
        if not isinstance(choice, str) or not choice.strip():
            raise DataError(f"expected every choice to be a text, got {choice!r:.80}")
    found = {"text": text, "choices": tuple(choices)} | ({"id": str(row["id"])} if row.get("id") is not None else {})
    if any("\ud800" <= character <= "\udfff" for character in str(found.get("id", ""))):
        raise DataError(f'expected "id" to be a text that UTF-8 can hold, got {found["id"]!a:.80}')
    label = row.get("label")
    if label is None:
        if labelled:
            raise DataError('expected a "label", got none')
        return found
    return found | {"label": _choice(label, len(choices)) if kind == "choice" else _relevance(label, len(choices))}


def _choice(label: Any, count: int) -> int:
    if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < count:
        raise DataError(f'expected "label" to be the number of a choice, 0 to {count - 1}, got {label!r:.80}')
    return label


def _relevance(label: Any, count: int) -> tuple[float, ...]:
    if not isinstance(label, list | tuple):
        right = _choice(label, count)
        return tuple(float(number == right) for number in range(count))
    numbers = [value for value in label if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) != len(label) or len(label) != count or not all(0 <= value <= HIGHEST for value in numbers):
        raise DataError(
            f'expected "label" to be {count} numbers from 0 to {HIGHEST:g}, one for each choice, got {label!s:.80}'
        )
    return tuple(float(value) for value in numbers)


@dataclasses.dataclass(frozen=True, eq=False)
class ChoiceRows(AnnotatedRows):
    """`Rows` for `heads.MultipleChoice`.

    Attributes:
      encoded: a row for each choice of each text, one after the other.
      first: where in `encoded` the choices of row i begin, int64 [n + 1].
      gold: the right choice, int32 [n]; relevances, float32 [n k]; None for rows without labels.
      ids: of the rows.
    """

    first: np.ndarray
    gold: np.ndarray | None
    ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.first) - 1

    @property
    def labels(self) -> np.ndarray | None:
        return self.gold

    @property
    def counts(self) -> np.ndarray:
        """Choices of each row, [n]."""
        return np.diff(self.first)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row's longest choice."""
        return np.maximum.reduceat(self.encoded.lengths, self.first[:-1])

    def arrays(self) -> tuple[np.ndarray | None, ...]:
        return *self.encoded.arrays(), self.first, self.gold

    def batch(self, rows: np.ndarray, length: int) -> dict[str, np.ndarray]:
        """As of `Encoded`, but tokens are [b k t], with "choices" bool [b k]; k is the most that any row has."""
        rows = np.asarray(rows)
        column, real = np.arange(int(self.counts.max())), rows >= 0
        there = real[:, None] & (column < self.counts[rows][:, None])
        flat = self.encoded.batch(np.where(there, self.first[:-1][rows][:, None] + column, -1).ravel(), length)
        tokens = {name: flat[name].reshape(*there.shape, length) for name in ("input_ids", "token_type_ids", "mask")}
        batch = tokens | {"choices": there, "weight": real.astype(np.float32)}
        if self.gold is not None:
            pad = real.reshape(-1, *[1] * (self.gold.ndim - 1))
            batch["labels"] = np.where(pad, self.gold[rows], self.gold.dtype.type(0))
        return batch


@dataclasses.dataclass(frozen=True, eq=False)
class RankingRows(ChoiceRows):
    """`Rows` for `heads.Ranking`, which judge orders: see `metrics.ranking`."""

    @property
    def metrics(self) -> tuple[str, ...]:
        return tuple(ranking.RANKING_METRICS)

    def score(self, names: Sequence[str], answers: np.ndarray) -> dict[str, float]:
        if self.gold is None:
            return {}
        parts = [(answers[row, :count], self.gold[row, :count]) for row, count in enumerate(self.counts)]
        return ranking.score(names, [ours for ours, _ in parts], [true for _, true in parts])


def encode_choices(source: Source, tokenizer: Any, max_length: int, kind: Kind) -> ChoiceRows:
    """The rows of a `ChoiceSource`, or of a sample of it (`take`), tokenised; all of them labelled, or none.

    A text and its choice that are too long together lose tokens from the end of the longer one.

    Raises:
      ConfigError: max_length leaves no room for the special tokens.
      DataError: no rows, or labels on some of them alone.
    """
    if len(source) == 0:
        raise DataError(f"{source.name}: expected at least one row, got none")
    rows = [source[number] for number in range(len(source))]
    pairs = [{"text": row["text"], "text_pair": choice} for row in rows for choice in row["choices"]]
    encoded = encode(ListSource(pairs, PAIR, source.name), tokenizer, max_length)
    counts = [len(row["choices"]) for row in rows]
    labels = [row["label"] for row in rows if "label" in row]
    if len(labels) not in (0, len(rows)):
        raise DataError(f"{source.name}: expected labels on all rows or none, got {len(labels)} of {len(rows)}")
    first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    encoded, ids = dataclasses.replace(encoded, name=source.name), tuple(str(row["id"]) for row in rows)
    if kind == "choice":
        return ChoiceRows(encoded, first, np.array(labels, np.int32) if labels else None, ids)
    gold = np.zeros((len(rows), max(counts)), np.float32)
    for row, label in enumerate(labels):
        gold[row, : len(label)] = label
    return RankingRows(encoded, first, gold if labels else None, ids)
