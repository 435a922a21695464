"""Questions and texts as rows: [CLS] question [SEP] part of the text [SEP], windows that overlap where it is long.

As google-research/bert makes them (run_squad.py): windows begin `doc_stride` tokens apart, the last ends with the
text, and a token that is in several windows counts in the one where it has most context on its poorer side. A window
that does not hold the whole answer is labelled with [CLS], "no answer". Answers are cut from the text by the characters
of their tokens, so they are parts of it to the letter.
"""

import dataclasses
import functools
import itertools
import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from adapters_jax.bert.heads.question_answering import INSIDE, LOWEST, OUTSIDE, START
from adapters_jax.data.passages import Pairing
from adapters_jax.data.rows import AnnotatedRows, encoded_ids, frame
from adapters_jax.data.source import Source
from adapters_jax.data.squad import MOST_CHARACTERS, Question, Questions
from adapters_jax.errors import ConfigError, DataError, unknown
from adapters_jax.metrics import answers as rules

LEAST = 3
"""Between [CLS] and the last [SEP] of the shortest row: a token of the question, [SEP], one of the text."""
MAX_QUESTION = 64
"""Tokens of a question, where nothing else is said."""
METRICS = ("f1", "exact_match", "f1_answered", "exact_answered", "exact_unanswerable")
"""The last three, where some questions have no answer: over those that have one, and over those that have none. Where
there are no such questions, scores are without them."""


class Span(NamedTuple):
    """A part of a context: its first character, the one after its last, and the sum of its two logits."""

    start: int
    end: int
    score: float


class Merged(NamedTuple):
    """What all windows of a question say: spans, the best first, and the lowest score of no answer among them."""

    spans: list[Span]
    nothing: float

    @property
    def odds(self) -> float:
        """How much likelier no answer is than the best one: the difference of their scores."""
        return self.nothing - (self.spans[0].score if self.spans else LOWEST)


@dataclasses.dataclass(frozen=True, eq=False)
class WindowRows(AnnotatedRows):
    """`Rows` for `heads.QuestionAnswering`, a row per window; they judge answers per question (`Scored`).

    Attributes:
      encoded: the tokens; `truncated` counts the questions that were cut.
      context: what each token may be in an answer, see the head; int8, flat as the tokens are.
      characters: of the context that each token stands for, the first and the one after the last; int32 [tokens 2].
      asked: which question a window is of, ascending, int32 [n].
      answer: first and last token of the answer in each window, 0 for none; int32 [n 2]; None: no answers are known.
      questions: all of them.
      threshold: odds above which a question is left without an answer; math.inf: none ever is; None: none is, and to
        score these questions the threshold is tuned on them, as on a dev set.
    """

    context: np.ndarray
    characters: np.ndarray
    asked: np.ndarray
    answer: np.ndarray | None
    questions: tuple[Question, ...]
    threshold: float | None = None

    @property
    def metrics(self) -> tuple[str, ...]:
        return METRICS

    @functools.cached_property
    def impossible(self) -> bool:
        """Whether there are questions known to have no answer."""
        return self.answer is not None and not all(question.answers for question in self.questions)

    @functools.cached_property
    def true(self) -> dict[str, list[str]]:
        """The true answers of each question."""
        return {question.id: [text for text, _ in question.answers] for question in self.questions}

    def arrays(self) -> tuple[np.ndarray | None, ...]:
        gold = np.frombuffer(json.dumps(self.true).encode(), np.uint8)
        return *self.encoded.arrays(), self.context, self.asked, self.answer, gold

    def batch(self, rows: np.ndarray, length: int) -> dict[str, np.ndarray]:
        """As of `Encoded`, with "context" int32 [b t] and, where answers are known, "answer" int32 [b 2]."""
        rows = np.asarray(rows)
        real, column = rows >= 0, np.arange(length)
        token = column < np.where(real, self.encoded.lengths[rows], 0)[:, None]
        context = self.context[np.where(token, self.encoded.offsets[rows][:, None] + column, 0)]
        context = np.where(token, context, np.int8(OUTSIDE)).astype(np.int32)
        context[:, 0] = INSIDE  # of padding rows too, so that softmax is finite
        batch = self.encoded.batch(rows, length) | {"context": context}
        if self.answer is not None:
            batch["answer"] = np.where(real[:, None], self.answer[rows], np.int32(0))
        return batch

    def merged(self, answers: np.ndarray, most: int = 1) -> list[Merged]:
        """The `most` best spans of each question, over all its windows.

        Args:
          answers: what the head keeps of each window, [n 3k+1]; no more than k are asked for.
        """
        spans = answers[:, :-1].reshape(len(answers), -1, 3)[:, :most]
        first, last = (spans[:, :, side].astype(np.int64) for side in (0, 1))
        there = first >= 0
        flat = lambda places: self.encoded.offsets[:-1][:, None] + np.maximum(places, 0)
        start, end = self.characters[flat(first), 0], self.characters[flat(last), 1]
        borders = np.searchsorted(self.asked, np.arange(len(self.questions) + 1))
        found = []
        for left, right in itertools.pairwise(borders):
            here = there[left:right]
            columns = (each[left:right][here].tolist() for each in (start, end, spans[:, :, 2]))
            # Of equal scores the earliest, whatever the order of the windows.
            ranked = sorted(map(Span, *columns), key=lambda span: (-span.score, span.start, span.end))
            found.append(Merged(ranked[:most], float(answers[left:right, -1].min())))
        return found

    def tune(self, answers: np.ndarray) -> float:
        """The threshold with the best F1 on these questions; math.inf where all of them have an answer."""
        if not self.impossible:
            return math.inf
        odds = self.odds(answers)
        threshold, best = rules.best_threshold(self.with_threshold(math.inf).texts(answers), odds, self.true)
        if best == sum(not true for true in self.true.values()) / len(self.true):
            # Best is to answer nothing. The official script says 0 then, which is below all of its probabilities only.
            return min(odds.values()) - 1.0
        return threshold

    def with_threshold(self, threshold: float) -> "WindowRows":
        """The same rows, judged by another threshold."""
        return dataclasses.replace(self, threshold=threshold)

    def texts(self, answers: np.ndarray) -> dict[str, str]:
        """Question -> answer, "" for none: SQuAD's prediction file."""
        said = zip(self.questions, self.decode(None, answers), strict=True)
        return {question.id: answer["answer"] for question, answer in said}

    def odds(self, answers: np.ndarray) -> dict[str, float]:
        """Question -> how much likelier no answer is: what a threshold is compared with."""
        found = zip(self.questions, self.merged(answers), strict=True)
        return {question.id: merged.odds for question, merged in found}

    def nbest(self, answers: np.ndarray, most: int) -> dict[str, list[dict[str, Any]]]:
        """Question -> its `most` best answers and "" (none), best first, as {"text", "start", "end", "score",
        "probability"}; the probability is a softmax over the scores of these.
        """
        said = {}
        for question, found in zip(self.questions, self.merged(answers, most), strict=True):
            spans = sorted([*found.spans, Span(0, 0, found.nothing)], key=lambda span: -span.score)
            shares = np.exp(np.array([span.score for span in spans]) - spans[0].score)
            said[question.id] = [
                {"text": question.context[span.start : span.end], **span._asdict(), "probability": float(share)}
                for span, share in zip(spans, shares / shares.sum(), strict=True)
            ]
        return said

    def decode(self, head: Any, answers: np.ndarray) -> list[dict[str, Any]]:
        """Of each question {"answer", "start", "end", "score", "no_answer_score"}.

        `start` and `end` are characters of the context, the end exclusive; the scores are sums of two logits, that of
        the best span even where the answer is "" (then start and end are 0).

        Args:
          head: not needed; `answers` says how many spans there are.
          answers: of the head, [n 3k+1].
        """
        said = []
        for question, found in zip(self.questions, self.merged(answers), strict=True):
            best = found.spans[0] if found.spans else Span(0, 0, LOWEST)
            silent = self.threshold is not None and found.odds > self.threshold
            start, end = (0, 0) if silent else (best.start, best.end)
            scores = {"score": best.score, "no_answer_score": found.nothing}
            said.append({"answer": question.context[start:end], "start": start, "end": end} | scores)
        return said

    def score(self, names: Sequence[str], answers: np.ndarray) -> dict[str, float]:
        """See `METRICS`; where the threshold is None, that which is best on these questions is applied.

        Raises:
          ConfigError: an unknown name.
          DataError: metrics of questions whose answers are not known.
        """
        for name in names:
            if name not in self.metrics:
                raise ConfigError(unknown("metric", name, self.metrics))
        if not names:
            return {}
        if self.answer is None:
            raise DataError(f"{self.name}: expected questions with answers to be scored, got questions alone")
        rows = self.with_threshold(self.tune(answers)) if self.threshold is None else self
        found = rules.score(rows.texts(answers), self.true)
        found["exact_match"] = found.pop("exact")
        return {name: found[name] for name in names if name in found}

    def summary(self) -> dict[str, int]:
        """What was read, in numbers; `unreachable`: questions whose answer is in no window as a whole."""
        counts = {
            "questions": len(self.questions),
            "contexts": len({question.context for question in self.questions}),
            "windows": len(self),
            "median_tokens": int(np.median(self.lengths)),
            "longest_tokens": int(self.lengths.max()),
            "questions_cut": self.truncated,
        }
        if self.answer is not None:
            reached = set(self.asked[self.answer[:, 1] > 0].tolist())
            answered = {number for number, question in enumerate(self.questions) if question.answers}
            counts |= {"no_answer": len(self.questions) - len(answered), "unreachable": len(answered - reached)}
        return counts


def encode_windows(
    source: Source,
    tokenizer: Any,
    max_length: int,
    *,
    doc_stride: int = 128,
    max_question_length: int = MAX_QUESTION,
    known: bool = True,
    threshold: float | None = None,
) -> WindowRows:
    """The rows of `Questions`, or of a sample of them (`take`), as windows.

    Args:
      source: questions with their contexts.
      tokenizer: a fast one.
      max_length: tokens of a window, special ones and the question included.
      doc_stride: tokens of the context from the start of a window to that of the next.
      max_question_length: tokens of a question; longer ones lose their end.
      known: whether the answers are; of several, the first is learnt.
      threshold: see `WindowRows`.

    Raises:
      ConfigError: lengths that leave no room, or a tokenizer without [CLS] and [SEP].
      DataError: no questions.
    """
    cls, sep = frame(tokenizer, source.name, max_length, LEAST)
    if doc_stride < 1:
        raise ConfigError(f"doc_stride: expected at least 1 token, got {doc_stride}")
    pairing = Pairing.of(tokenizer)
    if not 1 <= max_question_length <= max_length - pairing.special - 1:
        raise ConfigError(
            f"max_question_length: expected 1 to {max_length - pairing.special - 1}, so that windows of {max_length} "
            f"tokens hold a part of the context, got {max_question_length}"
        )
    questions = tuple(source[number]["asked"] for number in range(len(source)))
    if not questions:
        raise DataError(f"{source.name}: expected at least one question, got none")
    texts = list(dict.fromkeys(question.context for question in questions))
    contexts = dict(zip(texts, pairing.encoded(texts), strict=True))
    asking = pairing.encoded([question.question for question in questions])
    # Questions on a context that are of one length share its windows.
    windows = functools.cache(lambda context, room: list(context.windows(room, doc_stride)))
    made, places, asked, labels, cut = [], [], [], [], 0
    for number, (question, words) in enumerate(zip(questions, asking, strict=True)):
        cut += len(words.ids) > max_question_length
        opening = [cls, *words.ids[:max_question_length], *[sep] * (pairing.special - 2)]
        context = contexts[question.context]
        answer = context.tokens_of(*question.answers[0]) if known and question.answers else None
        for start, end, starts in windows(context, max_length - len(opening) - 1):
            made.append([*opening, *context.ids[start:end], sep])
            places.append((len(opening), context.characters[start:end], starts))
            asked.append(number)
            whole = answer is not None and start <= answer[0] and answer[1] < end
            labels.append([place - start + len(opening) for place in answer] if whole and answer else [0, 0])
    encoded = encoded_ids(made, None, cut, max_length, tokenizer.pad_token_id or 0, source.name)
    if pairing.types:  # the second text's tokens have type 1
        encoded = dataclasses.replace(encoded, second=np.array([before for before, _, _ in places], np.int32))
    kinds, characters = np.zeros(len(encoded.ids), np.int8), np.zeros((len(encoded.ids), 2), np.int32)
    kinds[encoded.offsets[:-1]] = INSIDE
    for row, (before, own, starts) in zip(encoded.offsets[:-1], places, strict=True):
        here = slice(row + before, row + before + len(own))
        # A token of white space is in an answer only where words around it are.
        kinds[here] = np.where(own[:, 0] < own[:, 1], np.where(starts, START, INSIDE), OUTSIDE)
        characters[here] = own
    return WindowRows(
        encoded,
        context=kinds,
        characters=characters,
        asked=np.array(asked, np.int32),
        answer=np.array(labels, np.int32) if known else None,
        questions=questions,
        threshold=threshold,
    )


def encode_questions(
    pairs: Sequence[Any],
    tokenizer: Any,
    max_length: int,
    *,
    doc_stride: int = 128,
    max_question_length: int = MAX_QUESTION,
    threshold: float = math.inf,
) -> WindowRows:
    """Windows of (question, context) whose answers are not known; options as of `encode_windows`.

    Raises:
      ConfigError: as of `encode_windows`.
      DataError: no pairs, or one that is not of two texts that say something, the context in MOST_CHARACTERS.
    """
    questions = []
    for number, pair in enumerate(pairs):
        if not isinstance(pair, tuple | list) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):
            raise DataError(f"question {number}: expected a question and its context, got {pair!r:.80}")
        for what, part in zip(("question", "context"), pair, strict=True):
            if not part.strip():
                raise DataError(f"question {number}: expected a {what}, got an empty text")
        if len(pair[1]) > MOST_CHARACTERS:
            raise DataError(
                f"question {number}: expected a context of at most {MOST_CHARACTERS:,} characters, got {len(pair[1]):,}"
            )
        questions.append(Question(str(number), *pair))
    source = Questions(tuple(questions), "questions")
    return encode_windows(
        source,
        tokenizer,
        max_length,
        doc_stride=doc_stride,
        max_question_length=max_question_length,
        known=False,
        threshold=threshold,
    )
