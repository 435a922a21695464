"""Token ids: what transformers gives, compactly; the cache and its damage."""

import dataclasses
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters_jax.data import Features, ListSource
from adapters_jax.data import tokenize as module
from adapters_jax.data.tokenize import Encoded, encode
from adapters_jax.errors import ConfigError, DataError
from adapters_jax.testing import tiny_backbone

PAIR = ("text", "text_pair")
CLASSES = Features(PAIR, ("no", "yes"))
WORDS = "the cat is not good 7 Zebra's, ".split(" ")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return tiny_backbone(tmp_path_factory.mktemp("backbone")).tokenizer


def texts(seed, n):
    draw = np.random.RandomState(seed)
    return [" ".join(draw.choice(WORDS, draw.randint(0, 12))) for _ in range(n)]


def pairs(n=50):
    rows = zip(texts(0, n), texts(1, n), strict=True)
    return ListSource([{"text": a, "text_pair": b, "label": i % 2} for i, (a, b) in enumerate(rows)], CLASSES)


def same(a: Encoded, b: Encoded) -> bool:
    return all(np.array_equal(getattr(a, field.name), getattr(b, field.name)) for field in dataclasses.fields(Encoded))


@pytest.mark.parametrize("columns", [PAIR, ("text",)])
@pytest.mark.parametrize("max_length", [5, 9, 20, 64])
@pytest.mark.parametrize("chunk", [7, 4096])
def test_rows_are_those_of_transformers(tokenizer, monkeypatch, columns, max_length, chunk):
    monkeypatch.setattr(module, "CHUNK", chunk)
    source = ListSource([{c: row[c] for c in columns} for row in pairs().rows], Features(columns, ("no", "yes")))
    encoded = encode(source, tokenizer, max_length)
    columns_of_text = [[row[c] for row in source.rows] for c in columns]
    whole = tokenizer(*columns_of_text, verbose=False)["input_ids"]
    expected = tokenizer(
        *columns_of_text, truncation=True, max_length=max_length, padding="max_length", return_tensors="np"
    )
    batch = encoded.batch(np.arange(len(source)), max_length)
    np.testing.assert_array_equal(batch["input_ids"], expected["input_ids"])
    np.testing.assert_array_equal(batch["token_type_ids"], expected["token_type_ids"])
    np.testing.assert_array_equal(batch["mask"], expected["attention_mask"])
    assert encoded.truncated == sum(len(ids) > max_length for ids in whole)
    assert encoded.labels is None
    assert "labels" not in batch
    assert {array.dtype for name, array in batch.items() if name != "weight"} == {np.dtype(np.int32)}


def test_minilm_truncates_a_pair_like_transformers(minilm):
    row = {"text": "one two three four five six", "text_pair": "seven eight nine", "label": 1}
    encoded = encode(ListSource([row], CLASSES), minilm.tokenizer, 8)
    expected = minilm.tokenizer(row["text"], row["text_pair"], truncation=True, max_length=8)
    assert encoded.ids.tolist() == expected["input_ids"]
    assert encoded.second.tolist() == [expected["token_type_ids"].index(1)]
    assert encoded.truncated == 1


@given(rows=st.lists(st.tuples(st.text(max_size=20), st.text(max_size=20)), min_size=1, max_size=8))
def test_any_text_can_be_encoded(tokenizer, rows):
    source = ListSource([{"text": a, "text_pair": b} for a, b in rows], Features(PAIR))
    encoded = encode(source, tokenizer, 16)
    assert len(encoded) == len(rows)
    assert (encoded.lengths >= 3).all()
    assert (encoded.lengths <= 16).all()


def test_half_a_surrogate_pair_becomes_a_question_mark(tokenizer):
    encoded = [encode(ListSource([{"text": text}], Features()), tokenizer, 16).ids for text in ("a \ud800", "a ?")]
    np.testing.assert_array_equal(*encoded)


def test_values_are_float32(tokenizer):
    rows = [{"text": "a", "label": 2.5}, {"text": "b", "label": 1}]
    encoded = encode(ListSource(rows, Features(kind="regression")), tokenizer, 16)
    assert encoded.labels.dtype == np.float32
    assert encoded.labels.tolist() == [2.5, 1.0]
    assert encoded.batch(np.array([0, -1]), 8)["labels"].tolist() == [2.5, 0.0]


def test_the_tokenizer_is_left_alone(tokenizer):
    before = tokenizer.backend_tokenizer.to_str()
    encode(pairs(), tokenizer, 16)
    assert tokenizer.backend_tokenizer.to_str() == before


def test_padding_rows(tokenizer):
    encoded = encode(pairs(), tokenizer, 16)
    batch = encoded.batch(np.array([3, -1]), 16)
    assert batch["weight"].tolist() == [1, 0]
    assert batch["weight"].dtype == np.float32
    assert batch["labels"].tolist() == [1, 0]
    assert batch["mask"][1].tolist() == [1] + [0] * 15
    assert set(batch["input_ids"][1]) == {tokenizer.pad_token_id}
    assert not batch["token_type_ids"][1].any()


def test_a_row_longer_than_its_batch_is_a_bug(tokenizer):
    encoded = encode(pairs(), tokenizer, 16)
    with pytest.raises(AssertionError, match="does not fit into 8"):
        encoded.batch(np.arange(len(encoded)), 8)


def test_refusals(tokenizer):
    with pytest.raises(DataError, match="rows: expected at least one row, got none"):
        encode(ListSource([], CLASSES), tokenizer, 16)
    with pytest.raises(ConfigError, match="expected more than the 3 special tokens of a row, got 3"):
        encode(pairs(), tokenizer, 3)
    with pytest.raises(DataError, match="row 1: expected labels on all rows or none, got None"):
        encode(ListSource([{"text": "a", "label": 1}, {"text": "a"}], Features()), tokenizer, 16)


def test_the_cache_gives_the_same_arrays_without_tokenising(tokenizer, tmp_path, monkeypatch):
    first = encode(pairs(), tokenizer, 16, tmp_path / "new" / "folder")
    assert same(first, encode(pairs(), tokenizer, 16))
    monkeypatch.setattr(module, "_tokenise", None)
    again = encode(pairs(), tokenizer, 16, tmp_path / "new" / "folder")
    assert same(first, again)
    assert len(list((tmp_path / "new" / "folder").iterdir())) == 1


def test_unlabelled_rows_come_back_unlabelled(tokenizer, tmp_path):
    source = ListSource([{"text": "a cat"}], Features())
    assert [encode(source, tokenizer, 16, tmp_path).labels for _ in range(2)] == [None, None]


def test_the_cache_knows_what_it_was_made_from(tokenizer, tmp_path):
    rows = pairs().rows
    first = rows[0]
    other = tiny_backbone(tmp_path / "backbone").tokenizer
    other.add_tokens(["zebra"])
    asked = [
        (ListSource(rows, CLASSES), tokenizer, 16),
        (ListSource(rows, CLASSES), tokenizer, 17),
        (ListSource(rows, CLASSES), other, 16),
        (ListSource(rows[1:], CLASSES), tokenizer, 16),
        (ListSource([*rows[1:], rows[0]], CLASSES), tokenizer, 16),
        (ListSource([first | {"label": 1 - first["label"]}, *rows[1:]], CLASSES), tokenizer, 16),
        (ListSource([first | {"text": first["text"] + " ", "text_pair": ""}, *rows[1:]], CLASSES), tokenizer, 16),
        (ListSource([first | {"text": "", "text_pair": first["text"] + " "}, *rows[1:]], CLASSES), tokenizer, 16),
        (ListSource(rows, Features(("text",), ("no", "yes"))), tokenizer, 16),
    ]
    for number, arguments in enumerate(asked, start=1):
        encode(*arguments, tmp_path / "cache")
        assert len(list((tmp_path / "cache").iterdir())) == number
    tokenizer(["padded", "and cut"], padding=True, truncation=True, max_length=4)
    encode(*asked[0], tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == len(asked), "padding set by the user made another file"


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "flip", "pickle", "swap"])
def test_a_damaged_file_is_made_anew(tokenizer, tmp_path, damage):
    first = encode(pairs(), tokenizer, 16, tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    if damage == "pickle":
        np.savez(path, allow_pickle=True, **{name: np.array([{}], object) for name in (*module.ARRAYS, "checksum")})
    elif damage == "swap":
        with np.load(path) as stored:
            arrays = dict(stored)
        np.savez(path, **(arrays | {"ids": arrays["ids"][::-1]}))
    else:
        middle = len(whole) // 3
        flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
        path.write_bytes({"empty": b"", "cut": whole[:-100], "text": b"no zip", "flip": flipped}[damage])
    assert same(first, encode(pairs(), tokenizer, 16, tmp_path))
    assert path.read_bytes() == whole
    assert len(list(tmp_path.iterdir())) == 1


@given(position=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_no_flipped_bit_is_trusted(tokenizer, tmp_path_factory, position, bit):
    folder = tmp_path_factory.mktemp("cache")
    first = encode(pairs(4), tokenizer, 16, folder)
    (path,) = folder.iterdir()
    data = bytearray(path.read_bytes())
    data[position % len(data)] ^= 1 << bit
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert same(first, encode(pairs(4), tokenizer, 16, folder))


def test_a_cache_that_cannot_be_written_costs_a_warning(tokenizer, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="the token cache cannot be written"):
        encoded = encode(pairs(), tokenizer, 16, tmp_path / "file")
    assert same(encoded, encode(pairs(), tokenizer, 16))


def test_a_full_disk_leaves_nothing_behind(tokenizer, tmp_path, monkeypatch):
    def full(*arguments, **named):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.np, "savez", full)
    with pytest.warns(UserWarning, match="No space left on device"):
        encode(pairs(), tokenizer, 16, tmp_path)
    assert not list(tmp_path.iterdir())
