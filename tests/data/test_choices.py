"""Rows of choices: what is read, what is refused, what a batch holds."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters_jax import testing
from adapters_jax.data.bad import MOST_BYTES, BadRows
from adapters_jax.data.batches import eval_batches
from adapters_jax.data.choices import check, encode_choices, read_choices
from adapters_jax.data.source import Source, take
from adapters_jax.data.tokenize import Rows, Scored
from adapters_jax.errors import DataError

GOOD = {"text": "the cat is", "choices": ["good", "a very bad dog", "not"], "label": 1}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory):
    return testing.tiny_backbone(tmp_path_factory.mktemp("backbone")).tokenizer


def written(path: Path, *rows: object) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_rows_as_they_are_read(tmp_path: Path):
    source = read_choices(written(tmp_path / "a.jsonl", GOOD, "", GOOD | {"id": 7, "more": None, "label": 0}), "choice")
    assert isinstance(source, Source)
    assert [row["id"] for row in map(source.__getitem__, range(len(source)))] == ["line 1", "7"]
    assert source[0] == {"text": "the cat is", "choices": ("good", "a very bad dog", "not"), "label": 1, "id": "line 1"}
    unnamed = read_choices(written(tmp_path / "c.jsonl", "", GOOD, GOOD), "choice")
    assert [unnamed[n]["id"] for n in range(2)] == ["2", "3"]
    graded = read_choices(written(tmp_path / "b.jsonl", GOOD | {"label": [0, 2, 0.5]}, GOOD), "ranking")
    assert [graded[n]["label"] for n in range(2)] == [(0.0, 2.0, 0.5), (0.0, 1.0, 0.0)]


BAD = {
    "no JSON": ("{", "expected JSON"),
    "a list": ("[1]", "expected an object"),
    "no text": (GOOD | {"text": " "}, 'expected "text" to be a text'),
    "one choice": (GOOD | {"choices": ["a"]}, 'expected "choices" to be a list of 2 to'),
    "choices in a text": (GOOD | {"choices": "ab"}, 'expected "choices" to be a list'),
    "a number as choice": (GOOD | {"choices": ["a", 2]}, "expected every choice to be a text"),
    "no label": ({key: GOOD[key] for key in ("text", "choices")}, 'expected a "label"'),
    "label too high": (GOOD | {"label": 3}, "the number of a choice, 0 to 2, got 3"),
    "label a truth value": (GOOD | {"label": True}, "the number of a choice"),
    "label a name": (GOOD | {"label": "good"}, "the number of a choice"),
    "an id again": (GOOD | {"id": "a"}, "expected ids that differ, got 'a' again (line 1)"),
    "an id that is no text": (GOOD | {"id": "\ud800"}, 'expected "id" to be a text that UTF-8 can hold'),
    "an integer without end": ('{"text": "a", "choices": ["a", "b"], "label": ' + "1" * 5000 + "}", "expected JSON"),
    "too long": ('{"text": "' + "a" * MOST_BYTES + '"}', "expected a line of at most"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_rows_are_named_or_skipped(name: str, tmp_path: Path):
    row, message = BAD[name]
    file = written(tmp_path / "a.jsonl", GOOD | {"id": "a"}, row, GOOD)
    with pytest.raises(DataError) as caught:
        read_choices(file, "choice")
    assert message in str(caught.value) and f"{file}:2: " in str(caught.value)
    assert "--on-bad-row=skip" in str(caught.value)
    bad = BadRows("skip")
    assert len(read_choices(file, "choice", bad)) == 2
    assert bad.skipped == 1 and message in bad.summary() and f"{file}:2: " in bad.summary()


@pytest.mark.parametrize(
    "label", [[1, 2], [1, 2, -1], [1, 2, float("nan")], [1, 2, "3"], "x", [1, 2, 1e39], [1, 2, 10**400]]
)
def test_relevances_are_a_number_for_each_choice(label: object):
    with pytest.raises(DataError, match='expected "label" to be'):
        check(GOOD | {"label": label}, "ranking", labelled=True)


def test_orders_in_which_nothing_is_relevant(tmp_path: Path):
    rows = written(tmp_path / "a.jsonl", GOOD | {"label": [0, 0, 0]})
    with pytest.raises(DataError, match=r"a\.jsonl: expected a row in which some choice is relevant"):
        read_choices(rows, "ranking")


def test_encoding_that_is_none(tmp_path: Path):
    file = tmp_path / "a.jsonl"
    file.write_bytes(json.dumps(GOOD).encode() + b"\n\xff\xfe\n")
    with pytest.raises(DataError, match=r"a\.jsonl:2: expected UTF-8, got the byte 0xff at column 1"):
        read_choices(file, "choice")
    for content in (b"", b"\n\n"):
        file.write_bytes(content)
        with pytest.raises(DataError, match="got an empty file|got none"):
            read_choices(file, "choice")
    with pytest.raises(DataError, match="expected a readable text file"):
        read_choices(tmp_path / "missing.jsonl", "choice")


TEXT = st.text(min_size=1).filter(lambda text: text.strip() and not any("\ud800" <= c <= "\udfff" for c in text))


@given(
    st.lists(st.tuples(TEXT, st.lists(TEXT, min_size=2, max_size=5), st.integers(0, 1)), min_size=1, max_size=5),
    st.booleans(),
)
def test_whatever_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, rows: list, ascii_only: bool):
    file = tmp_path_factory.mktemp("rows") / "a.jsonl"
    dicts = [dict(zip(("text", "choices", "label"), row, strict=True)) for row in rows]
    file.write_text("".join(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in dicts), "utf-8", newline="")
    source = read_choices(file, "choice")
    found = [(source[n]["text"], list(source[n]["choices"]), source[n]["label"]) for n in range(len(source))]
    assert found == rows


@given(st.binary(max_size=200))
def test_any_bytes_are_rows_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes):
    file = tmp_path_factory.mktemp("rows") / "a.jsonl"
    file.write_bytes(content)
    with pytest.raises(DataError):
        read_choices(file, "choice")
    with pytest.raises(DataError):  # skipping them all leaves no row
        read_choices(file, "ranking", BadRows("skip"))


def test_batches_hold_a_row_for_each_choice(tmp_path: Path, tokenizer):
    rows = [GOOD, {"text": "the dog", "choices": ["is", "is not"], "label": 0}]
    encoded = encode_choices(read_choices(written(tmp_path / "a.jsonl", *rows), "choice"), tokenizer, 32, "choice")
    assert isinstance(encoded, Rows) and not isinstance(encoded, Scored)
    batch = encoded.batch(np.array([-1, 1, 0]), 16)
    assert {name: array.shape for name, array in batch.items()} == {
        "input_ids": (3, 3, 16),
        "token_type_ids": (3, 3, 16),
        "mask": (3, 3, 16),
        "choices": (3, 3),
        "weight": (3,),
        "labels": (3,),
    }
    np.testing.assert_array_equal(batch["choices"], [[False] * 3, [True, True, False], [True] * 3])
    np.testing.assert_array_equal(batch["weight"], [0, 1, 1])
    np.testing.assert_array_equal(batch["labels"], [0, 0, 1])
    assert (batch["mask"].sum(-1) > 0).all()  # softmax of what is not there stays finite
    for row, (n, k) in ((2, (0, 1)), (1, (1, 0)), (1, (1, 1))):
        ids = tokenizer(rows[n]["text"], rows[n]["choices"][k])
        length = len(ids["input_ids"])
        np.testing.assert_array_equal(batch["input_ids"][row, k, :length], ids["input_ids"])
        np.testing.assert_array_equal(batch["token_type_ids"][row, k, :length], ids["token_type_ids"])
        assert batch["mask"][row, k].sum() == length
    tokens = [[len(tokenizer(row["text"], choice)["input_ids"]) for choice in row["choices"]] for row in rows]
    np.testing.assert_array_equal(encoded.lengths, [max(counts) for counts in tokens])
    seen = np.concatenate([ids for ids, _ in eval_batches(encoded, 2)])
    assert sorted(seen[seen >= 0]) == [0, 1]


def test_orders_are_judged_by_the_rows(tmp_path: Path, tokenizer):
    rows = [GOOD | {"label": [0, 2, 1]}, {"text": "the dog", "choices": ["is", "is not"], "label": 0}]
    encoded = encode_choices(read_choices(written(tmp_path / "a.jsonl", *rows), "ranking"), tokenizer, 32, "ranking")
    assert isinstance(encoded, Scored)
    np.testing.assert_array_equal(encoded.batch(np.array([0, 1]), 16)["labels"], [[0, 2, 1], [1, 0, 0]])
    answers = np.array([[3.0, 2.0, 1.0], [5.0, 4.0, -1e9]], np.float32)
    assert encoded.score(("mrr",), answers) == {"mrr": 0.75}
    small = take(read_choices(tmp_path / "a.jsonl", "ranking"), 1)
    assert len(encode_choices(small, tokenizer, 32, "ranking")) == 1
