"""Scores of answers to questions on a text, by the rules of SQuAD (Rajpurkar et al., 2016, 2018).

Answers are compared without case, punctuation, articles and extra white space. Of several true answers the nearest
counts. A question without an answer has none (""): saying nothing is right there, and wrong elsewhere.
"""

import re
import string
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from adapters_jax.errors import DataError

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b", re.UNICODE)


def normalise(answer: str) -> str:
    """What is compared of an answer."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def exact(answer: str, true: str) -> float:
    """1.0 if both are the same once normalised."""
    return float(normalise(answer) == normalise(true))


def f1(answer: str, true: str) -> float:
    """F1 of their words; where one of them has none, 1.0 if the other has none either."""
    ours, theirs = normalise(answer).split(), normalise(true).split()
    if not ours or not theirs:
        return float(ours == theirs)
    same = sum((Counter(ours) & Counter(theirs)).values())
    return 2.0 * same / (len(ours) + len(theirs))


def score(answers: Mapping[str, str], true: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """{"exact", "f1", and where some questions have no answer "exact_answered", "f1_answered", "exact_unanswerable"}.

    Args:
      answers: question -> answer, "" for none; every question has one.
      true: question -> its true answers; () for a question without one.

    Raises:
      DataError: no questions, or one without a prediction.
    """
    if not true:
        raise DataError("answers: expected at least one question, got none")
    missing = [question for question in true if question not in answers]
    if missing:
        raise DataError(f"answers: expected one for every question, got none for {missing[0]!r:.80}")
    each = {question: _best(answers[question], true[question]) for question in true}
    found = _means(each.values(), "")
    open_ones = [question for question in true if not true[question]]
    if open_ones:
        rest = [each[question] for question in true if true[question]]
        found |= _means(rest, "_answered") if rest else {}
        found["exact_unanswerable"] = float(np.mean([each[question][0] for question in open_ones]))
    return found


def best_threshold(
    answers: Mapping[str, str], nothing: Mapping[str, float], true: Mapping[str, Sequence[str]]
) -> tuple[float, float]:
    """(the threshold above which a question is left unanswered, the F1 that it gives).

    Args:
      answers: question -> the best answer that is none of "".
      nothing: question -> how much likelier it is that there is no answer; larger is likelier.
      true: see `score`.

    Returns:
      Of thresholds with the same F1 the lowest; 0.0 where answering nothing is best, as in the official script.
    """
    ranked = sorted(true, key=lambda question: nothing[question])
    current = best = float(sum(not true[question] for question in true))
    threshold = 0.0
    for question in ranked:
        if true[question]:
            current += _best(answers[question], true[question])[1]
        else:
            current -= 1.0 if answers[question] else 0.0
        if current > best:
            best, threshold = current, nothing[question]
    return threshold, best / len(true)


def _best(answer: str, true: Sequence[str]) -> tuple[float, float]:
    """Exact match and F1; true answers of which nothing is left once normalised count where there is no other."""
    golds = [gold for gold in true if normalise(gold)] or [""]
    return max(exact(answer, gold) for gold in golds), max(f1(answer, gold) for gold in golds)


def _means(each: Iterable[tuple[float, float]], suffix: str) -> dict[str, float]:
    values = np.array(list(each), np.float64)
    return {f"exact{suffix}": float(values[:, 0].mean()), f"f1{suffix}": float(values[:, 1].mean())}
