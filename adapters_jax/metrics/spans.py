"""Scores of spans in tagged sentences: a span counts if its type and both ends are right (Tjong Kim Sang, CoNLL-2000).

Tags are `O`, or `B-TYPE` and `I-TYPE`. Where an `I` stands at no span of its type, one begins there, as conlleval and
seqeval have it; strict reading sees none. Precision, recall and F1 are 0.0 where they are undefined.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence

from adapters_jax.errors import DataError

Span = tuple[str, int, int]
"""(type, first word, the word after the last one)."""


def spans(tags: Sequence[str], strict: bool = False) -> list[Span]:
    """The spans of a sentence, in order.

    Args:
      tags: one per word.
      strict: see above.

    Raises:
      DataError: a tag that is neither `O` nor begins with `B-` or `I-`.
    """
    found: list[Span] = []
    open_type: str | None = None
    start = 0
    for place, tag in enumerate([*tags, "O"]):
        mark, _, kind = tag.partition("-")
        if mark not in ("B", "I", "O") or (mark == "O") != (tag == "O"):
            raise DataError(f"tag {tag!r:.40} of word {place}: expected O, B-TYPE or I-TYPE")
        if mark == "I" and kind == open_type:
            continue
        if open_type is not None:
            found.append((open_type, start, place))
        begins = mark == "B" or (mark == "I" and not strict)
        open_type, start = (kind if begins else None), place
    return found


def to_bio(tags: Sequence[str]) -> list[str]:
    """IOB1 tags (`B` only between two spans of a type that touch) as BIO: every span begins with `B`."""
    starts = {start: kind for kind, start, _ in spans(tags)}
    return [f"B-{starts[place]}" if place in starts else tag for place, tag in enumerate(tags)]


@dataclasses.dataclass(frozen=True)
class Counts:
    """Of spans: right ones, predicted ones, true ones."""

    right: int
    predicted: int
    true: int

    @property
    def precision(self) -> float:
        return self.right / self.predicted if self.predicted else 0.0

    @property
    def recall(self) -> float:
        return self.right / self.true if self.true else 0.0

    @property
    def f1(self) -> float:
        total = self.predicted + self.true
        return 2 * self.right / total if total else 0.0


def count(
    predicted: Iterable[Sequence[str]], true: Iterable[Sequence[str]], strict: bool = False
) -> tuple[Counts, dict[str, Counts]]:
    """(over all types, of each type that occurs).

    Args:
      predicted, true: the tags of each sentence, as many of one as of the other.
      strict: see `spans`.

    Raises:
      DataError: lengths that differ, or tags of another form.
    """
    right: Counter[str] = Counter()
    guessed: Counter[str] = Counter()
    known: Counter[str] = Counter()
    for number, (ours, theirs) in enumerate(zip(predicted, true, strict=True)):
        if len(ours) != len(theirs):
            raise DataError(f"sentence {number}: expected {len(theirs)} tags, got {len(ours)}")
        found, wanted = set(spans(ours, strict)), set(spans(theirs, strict))
        right.update(kind for kind, _, _ in found & wanted)
        guessed.update(kind for kind, _, _ in found)
        known.update(kind for kind, _, _ in wanted)
    each = {kind: Counts(right[kind], guessed[kind], known[kind]) for kind in sorted({*guessed, *known})}
    return Counts(right.total(), guessed.total(), known.total()), each
