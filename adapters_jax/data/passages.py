"""A long text in tokens that know their characters, and the windows that it is read through."""

import dataclasses
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Pairing:
    """How a tokenizer puts two texts into a row: [CLS] a [SEP] b [SEP], or with two [SEP] between them (RoBERTa).

    Attributes:
      backend: a tokenizer of our own.
      special: how many special tokens a row of two texts has.
      types: whether the tokens of the second text have a type of their own.
    """

    backend: Any
    special: int
    types: bool

    @classmethod
    def of(cls, tokenizer: Any) -> "Pairing":
        """That of a fast tokenizer, whose own state is left alone."""
        from tokenizers import Tokenizer

        backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        backend.no_padding()
        backend.no_truncation()
        return cls(backend, backend.num_special_tokens_to_add(True), any(backend.encode("a", "a").type_ids))

    def encoded(self, texts: Sequence[str]) -> list["Passage"]:
        """Texts in tokens, without special ones; what UTF-8 cannot say becomes a question mark of the same length."""
        clean = [text.encode(errors="replace").decode() for text in texts]
        found = self.backend.encode_batch(clean, add_special_tokens=False)
        return [Passage.of(text, encoding) for text, encoding in zip(clean, found, strict=True)]


@dataclasses.dataclass(frozen=True, eq=False)
class Passage:
    """A text in tokens.

    Attributes:
      ids: of its tokens.
      characters: of the text that each token stands for: the first and the one after the last, int32 [tokens 2]; white
        space at either end is not among them, so of a token of white space there are none; accents that are characters
        of their own are.
    """

    ids: list[int]
    characters: np.ndarray

    @classmethod
    def of(cls, text: str, encoding: Any) -> "Passage":
        characters = np.array(encoding.offsets, np.int32).reshape(-1, 2)
        for token, (start, end) in enumerate(encoding.offsets):
            # Uncased vocabularies drop accents, and with them the characters that are nothing else.
            while end < len(text) and unicodedata.category(text[end]) == "Mn":
                end += 1
                characters[token, 1] = end
            # Some tokenizers count the space before a word as the word's.
            if start < end and (text[start].isspace() or text[end - 1].isspace()):
                own = text[start:end]
                start += len(own) - len(own.lstrip())
                characters[token] = start, max(start, start + len(own.strip()))
        return cls(encoding.ids, characters)

    def tokens_of(self, text: str, start: int) -> tuple[int, int] | None:
        """(first, last) token of a part of the text that starts at a character; None where no token stands for it.

        Where a border lies inside a token, the whole token counts.
        """
        inner, end = start + len(text) - len(text.lstrip()), start + len(text.rstrip())
        first, last = self.characters.T
        touched = np.flatnonzero(np.maximum(first, inner) < np.minimum(last, end))
        return (int(touched[0]), int(touched[-1])) if touched.size else None

    def windows(self, room: int, stride: int) -> Iterator[tuple[int, int, np.ndarray]]:
        """(first token, the one after the last, which of them have most context here) of each window.

        Args:
          room: tokens of a window, at most.
          stride: tokens from the start of one to that of the next; no more than `room` are taken, so none is passed
            over.
        """
        tokens = len(self.ids)
        starts = [0]
        while starts[-1] + room < tokens:
            starts.append(starts[-1] + min(room, stride))
        ends = [min(start + room, tokens) for start in starts]
        most, best = np.full(tokens, -np.inf), np.zeros(tokens, np.int32)
        for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
            place = np.arange(start, end)
            # As _check_is_max_context of run_squad.py; of equals, the first window.
            context = np.minimum(place - start, end - 1 - place) + 0.01 * (end - start)
            here = place[context > most[start:end]]
            most[here], best[here] = context[here - start], number
        for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
            yield start, end, best[start:end] == number
