"""The generated inference task: balanced, repeatable, without shortcuts."""

from collections import Counter

import numpy as np
import pytest

from adapters_jax.data import Source
from adapters_jax.data.toy import DEEDS, FAMILIES, FEATURES, KINDS, toy_rows, toy_splits

LABELS = FEATURES.labels


@pytest.fixture(scope="module")
def splits():
    return toy_splits()


def rows_of(source):
    return [source[i] for i in range(len(source))]


def family(row):
    return row["id"].split("-")[-1]


def test_it_is_a_task_like_the_others(splits):
    dev = splits.evals[""]
    assert isinstance(splits.train, Source)
    assert (len(splits.train), len(dev), dict(splits.tests)) == (3000, 600, {})
    assert LABELS == ("entailment", "neutral", "contradiction")
    assert splits.train.features == dev.features == FEATURES
    assert set(dev[0]) == {"id", "text", "text_pair", "label"}


def test_train_and_dev_share_no_premise_whatever_their_seeds(splits):
    dev = {row["text"] for row in rows_of(splits.evals[""])}
    for seed in range(3):
        assert not dev & {row["text"] for row in toy_rows("train", 2000, seed)}


def test_no_pair_comes_twice(splits):
    for source in (splits.train, splits.evals[""]):
        pairs = Counter((row["text"], row["text_pair"]) for row in rows_of(source))
        assert max(pairs.values()) == 1
        assert len({row["id"] for row in rows_of(source)}) == len(source)


def test_labels_and_families_are_balanced(splits):
    for source in (splits.train, splits.evals[""]):
        counts = Counter((family(row), row["label"]) for row in rows_of(source))
        assert len(counts) == 3 * len(FAMILIES)
        assert max(counts.values()) - min(counts.values()) <= 1


def test_the_same_seed_gives_the_same_rows_and_another_others():
    assert toy_rows("train", 300, 5) == toy_rows("train", 300, 5)
    assert toy_rows("train", 300, 5) != toy_rows("train", 300, 6)
    assert [(row["text"], row["text_pair"], row["label"]) for row in toy_rows("train", 3)] == [
        ("The bakery was not deserted last week.", "The bakery was not deserted.", 0),
        ("The teacher was rich last night.", "The teacher was well.", 1),
        ("The nurse was well on Monday.", "The nurse was not well.", 2),
    ]


def test_more_train_rows_leave_the_dev_set_alone():
    assert rows_of(toy_splits(train=90).evals[""]) == rows_of(toy_splits(train=300).evals[""])


def test_rows_are_short_sentences(splits, minilm):
    for row in rows_of(splits.train):
        for text in (row["text"], row["text_pair"]):
            assert text[0].isupper()
            assert text.endswith(".")
            assert "  " not in text
    tokens = minilm.tokenizer([(row["text"], row["text_pair"]) for row in rows_of(splits.train)])["input_ids"]
    assert max(map(len, tokens)) <= 32


def bag_of_words(splits, columns):
    """Dev accuracy of a logistic regression on the words and word pairs of each column by itself."""
    from scipy.sparse import hstack
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    train, dev = rows_of(splits.train), rows_of(splits.evals[""])
    counters = [CountVectorizer(ngram_range=(1, 2)).fit([row[c] for row in train]) for c in columns]
    counts = [
        hstack([counter.transform([row[c] for row in rows]) for counter, c in zip(counters, columns, strict=True)])
        for rows in (train, dev)
    ]
    model = LogisticRegression(C=0.3, max_iter=1000).fit(counts[0], [row["label"] for row in train])
    return float(np.mean(model.predict(counts[1]) == [row["label"] for row in dev]))


def test_the_hypothesis_alone_says_nothing(splits):
    assert bag_of_words(splits, ["text_pair"]) < 0.40


def test_words_without_their_relation_say_little(splits):
    assert bag_of_words(splits, ["text", "text_pair"]) < 0.45


def split_sentence(text):
    return text.rstrip(".").split(" ")


def test_kinds_mean_what_the_label_says():
    known = {member: {member, kind} for kind, members in KINDS.items() for member in members}
    for row in toy_rows("train", 1000):
        if family(row) != "kind":
            continue
        premise, hypothesis = split_sentence(row["text"]), split_sentence(row["text_pair"])
        seen, said = premise[-1], hypothesis[-1]
        if premise[0] != hypothesis[3] or (seen in known.get(said, ()) and seen != said):
            expected = "neutral"
        else:
            expected = "entailment" if said in known.get(seen, {seen}) else "contradiction"
        assert expected == LABELS[row["label"]], row


def test_quantifiers_mean_what_the_label_says():
    for row in toy_rows("train", 1000):
        if family(row) != "quantifier":
            continue
        premise, hypothesis = row["text"], row["text_pair"]
        same_deed = next(deed for deed in DEEDS if deed in premise) in hypothesis
        agree = premise.startswith(("No", "None")) == hypothesis.startswith("None")
        expected = "neutral" if not same_deed else "entailment" if agree else "contradiction"
        assert expected == LABELS[row["label"]], row
