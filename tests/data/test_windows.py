"""Windows of questions and contexts: by hand, against the released rules by brute force, on real data; what is made of
their answers."""

import math
import re
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import adapters_jax as aj
from adapters_jax import testing
from adapters_jax.bert.heads.question_answering import INSIDE, LOWEST, OUTSIDE, START
from adapters_jax.data.passages import Pairing, Passage
from adapters_jax.data.source import take
from adapters_jax.data.squad import MOST_CHARACTERS, Question, Questions, read_squad
from adapters_jax.data.tokenize import Rows, Scored
from adapters_jax.data.windows import WindowRows, encode_questions, encode_windows
from adapters_jax.errors import ConfigError, DataError
from adapters_jax.metrics import answers as rules
from parity.encoders_texts import FAMILIES

LONG = "the cat is on the dog . A man is bad ."  # 12 tokens, each a word


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory):
    return testing.tiny_backbone(tmp_path_factory.mktemp("backbone")).tokenizer


def rows_of(tokenizer: Any, *questions: Question, length: int = 12, **more: Any) -> WindowRows:
    return encode_windows(Questions(questions, "a.json"), tokenizer, length, **{"max_question_length": 4} | more)


def test_windows_by_hand(tokenizer: Any):
    """Three tokens of the question and three special ones leave room for six of the twelve."""
    rows = rows_of(
        tokenizer,
        Question("1", "who is bad", LONG, (("A man", LONG.index("A man")),)),
        Question("2", "what is not on the dog", "the cat"),
        doc_stride=3,
    )
    assert isinstance(rows, Rows) and isinstance(rows, Scored)
    batch = rows.batch(np.array([0, 1, 2, 3, -1]), 12)
    words = [tokenizer.convert_ids_to_tokens(ids) for ids in batch["input_ids"].tolist()]
    asking = ["[CLS]", "who", "is", "bad", "[SEP]"]
    assert words[0] == [*asking, "the", "cat", "is", "on", "the", "dog", "[SEP]"]
    assert words[1] == [*asking, "on", "the", "dog", ".", "a", "man", "[SEP]"]
    assert words[2] == [*asking, ".", "a", "man", "is", "bad", ".", "[SEP]"]
    assert words[3][:9] == ["[CLS]", "what", "is", "not", "on", "[SEP]", "the", "cat", "[SEP]"]
    assert rows.truncated == 1 and rows.asked.tolist() == [0, 0, 0, 1]
    assert batch["answer"].tolist() == [[0, 0], [9, 10], [6, 7], [0, 0], [0, 0]]
    assert batch["token_type_ids"][0].tolist() == [0] * 5 + [1] * 7
    assert batch["weight"].tolist() == [1, 1, 1, 1, 0]
    o, i, s = OUTSIDE, INSIDE, START
    # "the", fifth in one window and second in the next, has one neighbour on its poorer side in both: the first counts.
    assert batch["context"].tolist() == [
        [i, o, o, o, o, s, s, s, s, s, i, o],
        [i, o, o, o, o, i, i, s, s, s, i, o],
        [i, o, o, o, o, i, i, s, s, s, s, o],
        [i, o, o, o, o, o, s, s, o, o, o, o],
        [i, o, o, o, o, o, o, o, o, o, o, o],
    ]
    assert rows.characters[rows.encoded.offsets[1] + 9].tolist() == [LONG.index("A man"), LONG.index("A man") + 1]
    assert rows.summary() == {
        "questions": 2,
        "contexts": 2,
        "windows": 4,
        "median_tokens": 12,
        "longest_tokens": 12,
        "questions_cut": 1,
        "no_answer": 1,
        "unreachable": 0,
    }


def test_a_very_long_context(tokenizer: Any, monkeypatch: pytest.MonkeyPatch):
    """200,000 tokens: memory is not theirs times that of 1,561 windows (2.5 GB), which are found once."""
    calls, real = [], Passage.windows
    monkeypatch.setattr(Passage, "windows", lambda *given: calls.append(given) or real(*given))
    text, tokens = "the cat is bad " * 50_000, 200_000
    questions = [Question(str(n), "who is bad", text, (("cat", 4),)) for n in range(2)]
    tracemalloc.start()
    rows = rows_of(tokenizer, *questions, length=384)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 250e6 and len(calls) == 1
    windows = 1 + math.ceil((tokens - 378) / 128)
    assert len(rows) == 2 * windows and rows.lengths.max() == 384
    assert (rows.context == START).sum() == 2 * tokens and rows.answer[windows].tolist() == [6, 6]


def test_an_answer_that_no_window_holds_is_none(tokenizer: Any):
    rows = rows_of(tokenizer, Question("1", "who", LONG, ((LONG, 0),)), doc_stride=2)
    assert len(rows) == 3 and not rows.answer.any() and rows.summary()["unreachable"] == 1


def test_two_separators_and_one_type_as_of_roberta(tokenizer: Any):
    from tokenizers import Tokenizer, processors

    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    ids = [(name, backend.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    backend.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] [SEP] $B [SEP]", ids)
    other = type("Fast", (), {"backend_tokenizer": backend, "cls_token_id": 2, "sep_token_id": 3, "pad_token_id": 0})
    assert (Pairing.of(other).special, Pairing.of(other).types) == (4, False)
    batch = rows_of(other, Question("1", "who is", LONG, (("cat", 4),)), length=8, max_question_length=2).batch(
        np.array([0]), 8
    )
    assert tokenizer.convert_ids_to_tokens(batch["input_ids"][0]) == "[CLS] who is [SEP] [SEP] the cat [SEP]".split()
    assert batch["answer"].tolist() == [[6, 6]] and not batch["token_type_ids"].any()


CONTEXT = "the man is good  and not bad , a cat's dog is in a woman\n\nof 42 dogs. who is not?"


@pytest.mark.parametrize(("length", "stride", "windows"), [(128, 128, 1), (24, 3, 3)])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_answer_comes_back_to_the_letter(golden: Path, family: str, length: int, stride: int, windows: int):
    """Byte-level BPE has blanks within tokens, SentencePiece before them; their rows have two [SEP] and no types.

    Up to five words of a context with blanks of several kinds are each an answer, in whole and in narrow windows.
    """
    tokenizer, asking = aj.load_backbone(str(golden / "encoders" / family)).tokenizer, "who is it"
    borders = [found.span() for found in re.finditer(r"\S+", CONTEXT)]
    spans = [(start, end) for n, (start, _) in enumerate(borders) for _, end in borders[n : n + 5]]
    questions = [Question(str(n), asking, CONTEXT, ((CONTEXT[a:b], a),)) for n, (a, b) in enumerate(spans)]
    rows = rows_of(tokenizer, *questions, length=length, doc_stride=stride, max_question_length=8)
    held = np.flatnonzero(rows.answer[:, 1] > 0).tolist()
    assert len(rows) >= windows * len(questions) and len(set(rows.asked[held].tolist())) > 0.9 * len(questions)
    for row in held:
        assert recovered(rows, row) == rows.questions[rows.asked[row]].answers[0][0]
    if windows == 1:  # a row is what the tokenizer itself makes of the two texts
        own, batch = tokenizer(asking, CONTEXT), rows.batch(np.array([0]), int(rows.lengths[0]))
        assert batch["input_ids"][0].tolist() == own["input_ids"]
        types = [0] * len(own["input_ids"]) if family in ("roberta", "xlm-roberta") else own["token_type_ids"]
        assert batch["token_type_ids"][0].tolist() == types
    # Each letter of the context may start an answer in some window, and no blank may.
    starts = rows.characters[(rows.context == START) & (np.repeat(rows.asked, rows.lengths) == 0)].tolist()
    assert {place for start, end in starts for place in range(start, end)} == {
        place for place, letter in enumerate(CONTEXT) if not letter.isspace()
    }
    assert all(start < end for start, end in starts)


def test_tokens_of_white_space_are_no_answer_of_their_own(golden: Path):
    """The second of two blanks is a token of RoBERTa's; as the end of an answer it would leave a blank there."""
    tokenizer = aj.load_backbone(str(golden / "encoders" / "roberta")).tokenizer
    rows = rows_of(tokenizer, Question("1", "who", "the man  is", (("man  is", 4),)), length=32)
    words = [tokenizer.convert_ids_to_tokens(token) for token in rows.encoded.ids.tolist()]
    blank = words.index("Ġ")
    assert rows.context[blank - 1 : blank + 2].tolist() == [START, OUTSIDE, START] and recovered(rows, 0) == "man  is"


def test_accents_that_are_characters_come_back(golden: Path):
    """An uncased vocabulary drops them from its tokens; the text of an answer has them."""
    tokenizer = aj.load_backbone(str(golden / "encoders" / "distilbert")).tokenizer
    rows = rows_of(tokenizer, Question("1", "who", "a cafe\u0301 .", (("cafe\u0301", 2),)), length=32)
    assert recovered(rows, 0) == "cafe\u0301"


def test_lengths_that_leave_no_room(tokenizer: Any):
    question = Question("1", "who", LONG)
    for length, more, match in (
        (12, {"doc_stride": 0}, "doc_stride: expected at least 1 token, got 0"),
        (12, {"max_question_length": 0}, "max_question_length: expected 1 to 8, so that windows of 12 tokens hold"),
        (12, {"max_question_length": 9}, "max_question_length: expected 1 to 8"),
        (4, {}, "max_length: expected at least 5 for these rows, got 4"),
    ):
        with pytest.raises(ConfigError, match=match):
            rows_of(tokenizer, question, length=length, **more)
    with pytest.raises(DataError, match="expected at least one question"):
        rows_of(tokenizer)


def said(rows: WindowRows, *windows: tuple[list[tuple[str, float]], float]) -> np.ndarray:
    """What a head would keep: for each window (text, score) of its spans, and the score of none."""
    found = np.full((len(rows), 7), LOWEST, np.float32)
    for row, (texts, nothing) in enumerate(windows):
        found[row, -1] = nothing
        found[row, [0, 1, 3, 4]] = -1
        first, last = rows.encoded.offsets[row : row + 2]
        context = rows.questions[rows.asked[row]].context
        for number, (text, score) in enumerate(texts):
            start = context.index(text)
            own = rows.characters[first:last]
            there = np.flatnonzero((own[:, 1] > start) & (own[:, 0] < start + len(text)))
            found[row, 3 * number : 3 * number + 3] = there[0], there[-1], score
    return found


QUESTIONS = (
    Question("a", "who is bad", LONG, (("A man", LONG.index("A man")),)),
    Question("b", "who", "the cat", (("cat", 4), ("the cat", 0))),
    Question("c", "who", "the dog"),
)


def test_windows_of_a_question_answer_together(tokenizer: Any):
    rows = rows_of(tokenizer, *QUESTIONS, doc_stride=3)
    answers = said(
        rows,
        ([("cat", 3.0), ("the cat", 1.0)], 0.5),
        ([("A man", 5.0), ("dog", 4.0)], 2.0),
        ([], 4.0),
        ([("cat", 1.0), ("the", 0.5)], 0.0),
        ([("dog", 1.5)], 3.0),
    )
    start = LONG.index("A man")
    first, _, third = rows.decode(None, answers)
    assert first == {"answer": "A man", "start": start, "end": start + 5, "score": 5.0, "no_answer_score": 0.5}
    assert third == {"answer": "dog", "start": 4, "end": 7, "score": 1.5, "no_answer_score": 3.0}
    assert rows.odds(answers) == {"a": -4.5, "b": -1.0, "c": 1.5}
    nbest = rows.nbest(answers, 3)["a"]
    assert [span["text"] for span in nbest] == ["A man", "dog", "cat", ""]
    shares = np.exp([5.0, 4.0, 3.0, 0.5])
    np.testing.assert_allclose([span["probability"] for span in nbest], shares / shares.sum())

    assert rows.impossible and rows.tune(answers) == -1.0  # the lowest with which a and b are answered, c is not
    given = rows.with_threshold(rows.tune(answers))
    assert given.texts(answers) == {"a": "A man", "b": "cat", "c": ""}
    assert given.decode(None, answers)[2] == {"answer": "", "start": 0, "end": 0, "score": 1.5, "no_answer_score": 3.0}
    names = rows.metrics
    assert names[0] == "f1" and given.score(names, answers) == rows.score(names, answers) == dict.fromkeys(names, 1.0)
    silent = rows.with_threshold(-9.0).score(names, answers)
    assert (silent["f1"], silent["f1_answered"], silent["exact_unanswerable"]) == (pytest.approx(1 / 3), 0.0, 1.0)


def test_a_threshold_is_tuned_only_where_none_is_given(tokenizer: Any):
    """Where training had none, the scores of a file with unanswerable questions are those of answering all."""
    rows = rows_of(tokenizer, *QUESTIONS, length=20, threshold=math.inf)
    answers = said(rows, ([("A man", 5.0)], 2.0), ([("cat", 1.0)], 0.0), ([("dog", 1.5)], 3.0))
    assert rows.texts(answers) == {"a": "A man", "b": "cat", "c": "dog"}
    assert rows.score(("f1", "exact_unanswerable"), answers) == {"f1": pytest.approx(2 / 3), "exact_unanswerable": 0.0}
    tuned = rows_of(tokenizer, *QUESTIONS, length=20)
    assert tuned.threshold is None and tuned.score(("f1",), answers) == {"f1": 1.0}


def test_unknown_metrics_are_refused(tokenizer: Any):
    rows = rows_of(tokenizer, QUESTIONS[1])
    answers = said(rows, ([("cat", 1.0)], 0.0))
    with pytest.raises(ConfigError, match="unknown metric 'exact_macth': known are f1, .*did you mean 'exact_match'"):
        rows.score(("f1", "exact_macth"), answers)
    assert rows.score(rows.metrics, answers) == {"f1": 1.0, "exact_match": 1.0}  # no question without an answer


def test_best_is_to_say_nothing(tokenizer: Any):
    """The official script tunes to 0 then; applied to differences of scores that would not leave all unanswered."""
    questions = (QUESTIONS[1], QUESTIONS[2], Question("d", "who", "the man"))
    rows = rows_of(tokenizer, *questions)
    answers = said(rows, ([("the", 2.0)], 1.0), ([("dog", 9.0)], 1.0), ([("man", 3.0)], 1.0))
    threshold = rows.tune(answers)
    assert set(rows.with_threshold(threshold).texts(answers).values()) == {""}
    assert rows.score(("f1",), answers) == {"f1": pytest.approx(2 / 3)}


def test_scores_are_those_of_the_rules_on_the_predictions(tokenizer: Any):
    rng = np.random.default_rng(0)
    questions = tuple(
        Question(
            str(n),
            "who",
            LONG,
            ((LONG[4:7], 4),) if n % 3 else (),
        )
        for n in range(30)
    )
    rows = rows_of(tokenizer, *questions, length=20)
    for _ in range(20):
        windows = [([(LONG.split()[rng.integers(6)], float(rng.normal()))], float(rng.normal())) for _ in questions]
        answers = said(rows, *windows)
        given = rows.with_threshold(rows.tune(answers))
        theirs = rules.score(given.texts(answers), rows.true)
        ours = rows.score(rows.metrics, answers)
        assert {"exact" if name == "exact_match" else name: value for name, value in ours.items()} == theirs
        _, best = rules.best_threshold(rows.texts(answers), rows.odds(answers), rows.true)
        assert ours["f1"] == pytest.approx(best)


def test_questions_alone_are_answered_and_not_scored(tokenizer: Any):
    rows = encode_questions([("who", "the cat"), ("who", "\u200b")], tokenizer, 12, max_question_length=4)
    assert "answer" not in rows.batch(np.array([0]), 12) and not rows.impossible
    answers = said(rows, ([("cat", 1.0)], 9.0), ([], 0.0))
    assert [answer["answer"] for answer in rows.decode(None, answers)] == ["cat", ""]
    assert rows.score((), answers) == {} and rows.tune(answers) == math.inf
    with pytest.raises(DataError, match="expected questions with answers to be scored"):
        rows.score(("f1",), answers)
    again = encode_questions([("who", "the cat")], tokenizer, 12, max_question_length=4, threshold=3.0)
    assert again.decode(None, answers[:1])[0]["answer"] == ""
    for pairs, match in (
        ([("who", "the cat"), "who"], "question 1: expected a question and its context, got 'who'"),
        ([("who", 1)], "question 0: expected a question and its context"),
        ([("who", " ")], "question 0: expected a context, got an empty text"),
        ([("", "the cat")], "question 0: expected a question, got an empty text"),
        ([("who", "a" * (MOST_CHARACTERS + 1))], "a context of at most 4,194,304 characters, got 4,194,305"),
        ([], "expected at least one question, got none"),
    ):
        with pytest.raises(DataError, match=match):
            encode_questions(pairs, tokenizer, 12, max_question_length=4)


def test_what_is_digested_tells_rows_apart(tokenizer: Any):
    digest = lambda *questions: [
        None if each is None else each.tobytes() for each in rows_of(tokenizer, *questions).arrays()
    ]
    assert digest(QUESTIONS[0]) == digest(QUESTIONS[0])
    assert digest(QUESTIONS[0]) != digest(Question("a", "who is bad", LONG, (("man", LONG.index("man")),)))
    assert digest(QUESTIONS[1]) != digest(Question("b", "who", "the cat", (("cat", 4),)))


def recovered(rows: WindowRows, row: int) -> str:
    first, last = rows.encoded.offsets[row] + rows.answer[row]
    return rows.questions[rows.asked[row]].context[rows.characters[first, 0] : rows.characters[last, 1]]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "windows", "wider"), [("dev-v1.1", 10833, 67), ("train-v1.1-100articles", 18870, 95)])
def test_real_answers_come_back_from_their_tokens(shared_data: Path, minilm, name: str, windows: int, wider: int):
    """All of them, but for those that begin or end within a token, which come back with the whole token."""
    rows = encode_windows(read_squad(shared_data / "squad" / f"{name}.json"), minilm.tokenizer, 384)
    assert len(rows) == windows and rows.summary()["unreachable"] == rows.truncated == 0
    inexact = 0
    for row in np.flatnonzero(rows.answer[:, 1] > 0):
        true, found = rows.questions[rows.asked[row]].answers[0][0].strip(), recovered(rows, int(row))
        assert true in found
        inexact += true != found
    assert inexact == wider


def test_a_real_sample_in_narrow_windows(shared_data: Path, minilm):
    source = take(read_squad(shared_data / "squad" / "dev-v1.1.json"), 200)
    rows = encode_windows(source, minilm.tokenizer, 96, doc_stride=16, max_question_length=24)
    assert len(rows) > 3 * 200 and rows.summary()["unreachable"] == 0
    assert set(rows.lengths[rows.asked == 0]) <= set(range(60, 97))
    for row in np.flatnonzero(rows.answer[:, 1] > 0):
        assert rows.questions[rows.asked[row]].answers[0][0].strip() in recovered(rows, int(row))
    # Every token of a context may start an answer in one window of a question, and in one alone.
    for number, question in enumerate(rows.questions[:50]):
        own = [slice(*rows.encoded.offsets[row : row + 2]) for row in np.flatnonzero(rows.asked == number)]
        starts = np.concatenate([rows.characters[here][rows.context[here] == START] for here in own])
        expected = Pairing.of(minilm.tokenizer).encoded([question.context])[0].characters
        assert sorted(starts.tolist()) == sorted(expected.tolist())
