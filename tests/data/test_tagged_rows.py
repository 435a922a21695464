"""Rows of tagged words: which token carries which tag, long sentences in several rows, scores, decoding."""

import itertools
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from seqeval.metrics import classification_report, f1_score, precision_score, recall_score

import adapters_jax as aj
from adapters_jax import testing
from adapters_jax.bert.heads.tokens import NO_TAG, UNKNOWN
from adapters_jax.data.batches import eval_batches
from adapters_jax.data.source import take
from adapters_jax.data.tagged import Sentence, Tagged
from adapters_jax.data.tagged_rows import SPAN_METRICS, TaggedRows, encode_tagged, encode_texts
from adapters_jax.data.tokenize import Rows, Scored
from adapters_jax.errors import ConfigError, DataError

LABELS = ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")
HEAD = aj.TokenClassification(labels=LABELS)
NO = NO_TAG


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory):
    return testing.tiny_backbone(tmp_path_factory.mktemp("backbone")).tokenizer


def tagged(*rows: str, labels: tuple[str, ...] = LABELS) -> Tagged:
    """Of "word/tag word/tag"."""
    pairs = [[token.rsplit("/", 1) for token in row.split()] for row in rows]
    sentences = [Sentence(tuple(word for word, _ in row), tuple(tag for _, tag in row)) for row in pairs]
    return Tagged(tuple(sentences), labels, "bio", "rows")


def flat(rows: list[list]) -> list:
    return list(itertools.chain.from_iterable(rows))


SOURCE = tagged("x7/B-PER is/O a9b/B-LOC dog/I-LOC ./O", "who/O")


def answers(rows: TaggedRows, tags: list[str], names: tuple[str, ...] = LABELS, share: float = 0.5) -> np.ndarray:
    """What a head that says these tags, word by word, gives; filled up to the longest row."""
    found = np.full((len(rows), 2 * int(rows.lengths.max())), -1, np.float32)
    said = iter(tags)
    for row in range(len(rows)):
        batch = rows.batch(np.array([row]), int(rows.lengths[row]))
        for column in np.flatnonzero(batch["tags"][0] != NO):
            found[row, 2 * column : 2 * column + 2] = names.index(next(said)), share
    assert next(said, None) is None
    return found


def test_the_first_piece_of_a_word_carries_its_tag(tokenizer):
    rows = encode_tagged(SOURCE, LABELS, tokenizer, 16)
    assert isinstance(rows, Rows) and isinstance(rows, Scored)
    batch = rows.batch(np.array([0, 1, -1]), 12)
    assert tokenizer.convert_ids_to_tokens(batch["input_ids"][0])[:10] == [
        *("[CLS]", "x", "##7", "is", "a", "##9", "##b", "dog", ".", "[SEP]")
    ]
    np.testing.assert_array_equal(
        batch["tags"],
        [[NO, 3, NO, 0, 1, NO, NO, 2, 0, NO, NO, NO], [NO, 0, *[NO] * 10], [NO] * 12],
    )
    np.testing.assert_array_equal(batch["weight"], [5, 1, 0])
    assert batch["tags"].dtype == np.int32 and batch["weight"].dtype == np.float32
    assert rows.labels is None and any(array is rows.tags for array in rows.arrays())
    assert (rows.truncated, rows.split, rows.metrics) == (0, 0, SPAN_METRICS)
    assert rows.true_tags() == [list(sentence.tags) for sentence in SOURCE.sentences]
    assert sorted(int(n) for ids, _ in eval_batches(rows, 4) for n in ids if n >= 0) == [0, 1]


@pytest.mark.parametrize("max_length", [5, 6, 7, 8, 9, 10, 16])
def test_long_sentences_are_split_between_words_and_put_together_again(tokenizer, max_length: int):
    """Every word is in one row, whole; scores and answers are those of sentences in one row."""
    rows = encode_tagged(SOURCE, LABELS, tokenizer, max_length)
    whole = encode_tagged(SOURCE, LABELS, tokenizer, 16)
    assert rows.lengths.max() <= max_length and rows.truncated == 0
    assert rows.split == (max_length < 10)
    inner = lambda some: [
        some.encoded.ids[a + 1 : b - 1].tolist()
        for a, b in zip(some.encoded.offsets, some.encoded.offsets[1:], strict=False)
    ]
    assert flat(inner(rows)) == flat(inner(whole))
    assert rows.true_tags() == whole.true_tags()
    weights = rows.batch(np.arange(len(rows)), max_length)["weight"]
    assert weights.sum() == 6 and (weights > 0).all()
    said = ["B-PER", "O", "B-LOC", "O", "O", "O"]
    found = rows.score(SPAN_METRICS, answers(rows, said))
    assert found == whole.score(SPAN_METRICS, answers(whole, said))
    assert found == {"span_f1": 0.5, "span_precision": 0.5, "span_recall": 0.5, "tag_accuracy": pytest.approx(5 / 6)}
    assert rows.decode(HEAD, answers(rows, said)) == whole.decode(HEAD, answers(whole, said))


def test_a_word_longer_than_a_row_loses_its_last_pieces(tokenizer):
    rows = encode_tagged(tagged("is/O abcdefgh/B-LOC dog/I-LOC"), LABELS, tokenizer, 6)
    assert (rows.truncated, rows.split, list(rows.lengths)) == (1, 1, [3, 6, 3])
    assert rows.true_tags() == [["O", "B-LOC", "I-LOC"]]
    with pytest.raises(ConfigError, match="max_length: expected at least 3 for these rows, got 2"):
        encode_tagged(SOURCE, LABELS, tokenizer, 2)


def test_words_without_pieces_have_a_place(tokenizer):
    rows = encode_tagged(tagged("\u200b/O cat/B-LOC"), LABELS, tokenizer, 8)
    assert rows.encoded.ids.tolist()[1] == tokenizer.unk_token_id
    assert rows.true_tags() == [["O", "B-LOC"]]


def test_a_sample_can_be_taken(tokenizer):
    rows = encode_tagged(take(SOURCE, 1), LABELS, tokenizer, 16)
    assert len(rows.sentences) == 1 and "1 of 2" in rows.name


@pytest.mark.parametrize("max_length", [7, 24])
def test_scores_are_those_of_seqeval(tokenizer, max_length: int):
    draw = np.random.default_rng(0)
    for case in range(40):
        lengths = draw.integers(1, 9, draw.integers(1, 5))
        true = [[LABELS[n] for n in draw.integers(0, 5, length)] for length in lengths]
        said = [[tag if draw.random() < 0.6 else LABELS[draw.integers(0, 5)] for tag in row] for row in true]
        source = tagged(*(" ".join(f"x{n}/{tag}" for n, tag in enumerate(row)) for row in true))
        rows = encode_tagged(source, LABELS, tokenizer, max_length)
        given = answers(rows, flat(said))
        found = rows.score(SPAN_METRICS, given)
        assert rows.predicted_tags(given) == said
        for name, reference in (("f1", f1_score), ("precision", precision_score), ("recall", recall_score)):
            assert found[f"span_{name}"] == pytest.approx(reference(true, said, zero_division=0), abs=1e-12), case
        report = classification_report(true, said, output_dict=True, zero_division=0)
        for kind, counts in rows.counts(given)[1].items():
            assert counts.true == report[kind]["support"]
            assert counts.f1 == pytest.approx(report[kind]["f1-score"], abs=1e-12)
        right = [a == b for a, b in zip(flat(true), flat(said), strict=True)]
        assert found["tag_accuracy"] == pytest.approx(sum(right) / len(right))


def test_plain_tags_have_an_accuracy(tokenizer):
    names = ("DET", "NOUN", "VERB")
    rows = encode_tagged(tagged("the/DET dog/NOUN is/VERB", "who/NOUN", labels=names), names, tokenizer, 16)
    assert rows.metrics == ("tag_accuracy",)
    given = answers(rows, ["DET", "VERB", "VERB", "NOUN"], names)
    assert rows.score(("tag_accuracy",), given) == {"tag_accuracy": 0.75}
    total, each = rows.counts(given)
    assert (total.right, total.true) == (3, 4)
    assert {tag: (c.precision, c.recall) for tag, c in each.items()} == {
        "DET": (1.0, 1.0),
        "NOUN": (1.0, 0.5),
        "VERB": (0.5, 1.0),
    }
    with pytest.raises(ConfigError, match="unknown metric 'span_f1'"):
        rows.score(("span_f1",), given)
    decoded = rows.decode(aj.TokenClassification(labels=names), given)
    assert "spans" not in decoded[0] and [word["tag"] for word in decoded[0]["tags"]] == ["DET", "VERB", "VERB"]


def test_a_word_that_the_answers_say_nothing_of_is_wrong(tokenizer):
    rows = encode_tagged(tagged("the/O dog/B-LOC is/O"), LABELS, tokenizer, 16)
    given = answers(rows, ["O", "B-LOC", "O"])[:, :6]  # [CLS] the dog
    assert rows.score(("span_f1", "tag_accuracy"), given) == {"span_f1": 1.0, "tag_accuracy": pytest.approx(2 / 3)}
    assert rows.predicted_tags(given[:, :4]) == [["O", "O", "O"]]
    assert rows.score(("span_f1",), given[:, :4]) == {"span_f1": 0.0}
    with pytest.raises(DataError, match=r"expected \[1 2t\] answers of a token classifier, got \(2, 6\)"):
        rows.score(("span_f1",), np.zeros((2, 6), np.float32))


def test_texts_become_words_with_places(tokenizer):
    texts = ["the X7's dog,  a9b!", "", "日本 caf\ud800 𝒳—x"]
    rows = encode_texts(texts, tokenizer, 8)
    assert (rows.tags[rows.tags != NO] == UNKNOWN).all() and rows.split == 2
    assert not rows.batch(np.arange(len(rows)), 8)["weight"].any()
    words = [sentence.words for sentence in rows.sentences]
    assert words[:2] == [("the", "X7", "'", "s", "dog", ",", "a9b", "!"), ()]
    for text, sentence in zip(texts, rows.sentences, strict=True):
        clean = text.replace("\ud800", "?")
        assert [clean[start:end] for start, end in sentence.places] == list(sentence.words)
    assert words[2][-3:] == ("𝒳", "—", "x")
    said = ["O", "B-PER", "I-PER", "I-PER", "O", "O", "B-LOC", "O", *["O"] * len(words[2])]
    first, empty, _ = rows.decode(HEAD, answers(rows, said, share=0.25))
    assert first["spans"] == [
        {"type": "PER", "text": "X7's", "start": 4, "end": 8, "score": 0.25},
        {"type": "LOC", "text": "a9b", "start": 15, "end": 18, "score": 0.25},
    ]
    assert first["tags"][1] == {"word": "X7", "start": 4, "end": 6, "tag": "B-PER", "score": 0.25}
    assert empty == {"tags": [], "spans": []}
    with pytest.raises(DataError, match="expected rows with a tag for every word"):
        rows.score(("tag_accuracy",), answers(rows, said))
    assert rows.score((), answers(rows, said)) == {}


def test_lists_of_words_stay_as_they_are(tokenizer):
    rows = encode_texts([["the", "New York's", "dog"], "a b", []], tokenizer, 16)
    found = rows.decode(HEAD, answers(rows, ["O", "B-LOC", "I-LOC", "O", "I-PER"]))
    assert found[0]["spans"] == [{"type": "LOC", "text": "New York's dog", "start": 1, "end": 3, "score": 0.5}]
    assert found[0]["tags"][1]["word"] == "New York's" and found[1]["spans"][0]["start"] == 2
    assert found[2] == {"tags": [], "spans": []}
    only_empty = encode_texts([""], tokenizer, 16)
    assert only_empty.decode(HEAD, np.zeros((1, 4), np.float32)) == [{"tags": [], "spans": []}]
    for texts, match in (
        ("a text", "expected a list of texts"),
        ([], "expected a list of texts"),
        (["a", 3], "text 1: expected a text or a list of words, got 3"),
        ([["a", 3]], "text 0: expected a text or a list of words"),
    ):
        with pytest.raises(DataError, match=match):
            encode_texts(texts, tokenizer, 16)


def test_the_head_answers_what_the_rows_ask(tokenizer):
    """Unknown tags are answered, and cost nothing."""
    rows = encode_texts(["the dog"], tokenizer, 8)
    batch = {name: jnp.asarray(value) for name, value in rows.batch(np.array([0, -1]), 5).items()}
    logits = np.zeros((2, 5, 5), np.float32)
    logits[0, 1, 3], logits[0, 2, 4] = 9.0, 9.0
    found = np.asarray(HEAD.answers(jnp.asarray(logits), batch))[:1]
    decoded = rows.decode(HEAD, found)
    assert decoded[0]["spans"][0] | {"score": 1} == {"type": "PER", "text": "the dog", "start": 0, "end": 7, "score": 1}
    assert 0.99 < decoded[0]["spans"][0]["score"] < 1
    assert not np.asarray(HEAD.loss(jnp.asarray(logits), batch)).any()


def test_real_sentences_fit(shared_data: Path, minilm):
    from adapters_jax.data.bad import BadRows
    from adapters_jax.data.tagged import read_tagged

    dev = read_tagged(shared_data / "wnut17" / "dev.conll", BadRows())
    rows = encode_tagged(dev, dev.labels, minilm.tokenizer, 32)
    assert rows.split > 100 and rows.lengths.max() <= 32
    assert rows.true_tags() == [list(sentence.tags) for sentence in dev.sentences]
    assert rows.batch(np.arange(len(rows)), 32)["weight"].sum() == 15_733
    perfect = answers(rows, [tag for sentence in dev.sentences for tag in sentence.tags], dev.labels)
    assert rows.score(SPAN_METRICS, perfect) == dict.fromkeys(SPAN_METRICS, 1.0)
