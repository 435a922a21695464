"""Raw text: documents, rows that lose nothing and cross nothing, held-out parts, the cache."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters_jax.bert.heads.masking import quota
from adapters_jax.data import text as module
from adapters_jax.data.text import hold_out, pack, pack_files, read_documents, take_rows
from adapters_jax.data.tokenize import Rows
from adapters_jax.errors import ConfigError, DataError
from adapters_jax.testing import tiny_backbone

TEXTS = [
    "the cat is not good . ",
    "Zebra's, 7 unusual words!",
    "a",
    "who is in the zoo, and what is on the woman? " * 9,
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return tiny_backbone(tmp_path_factory.mktemp("backbone")).tokenizer


def plain(tokenizer, text):
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


def rows_of(packed) -> list[list[int]]:
    return [packed.ids[a : a + n].tolist() for a, n in zip(packed.starts, packed.sizes, strict=True)]


def assert_whole(packed, tokenizer, documents, max_length):
    """Each document's rows are its tokens, in order, cut as late as possible."""
    for number, document in enumerate(documents):
        own = [row for row, of in zip(rows_of(packed), packed.documents, strict=True) if of == number]
        assert [token for row in own for token in row] == plain(tokenizer, document)
        assert all(len(row) == max_length - 2 for row in own[:-1])
    assert packed.sizes.sum() == len(packed.ids)
    assert (np.diff(packed.documents) >= 0).all()


@pytest.mark.parametrize("max_length", [3, 7, 64])
def test_no_token_is_lost_or_doubled(tokenizer, max_length):
    assert_whole(pack(TEXTS, tokenizer, max_length), tokenizer, TEXTS, max_length)


@settings(max_examples=30, deadline=None)
@given(
    documents=st.lists(st.text(max_size=60), min_size=1, max_size=6),
    max_length=st.integers(3, 20),
    chunk=st.integers(1, 4),
)
def test_of_any_text_no_token_is_lost_or_doubled(tokenizer, documents, max_length, chunk):
    documents = [text.encode(errors="replace").decode() for text in documents]
    if not any(plain(tokenizer, text) for text in documents):
        with pytest.raises(DataError, match="documents without a token"):
            pack(documents, tokenizer, max_length)
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", chunk)
        packed = pack(documents, tokenizer, max_length)
    assert_whole(packed, tokenizer, documents, max_length)
    assert packed.lengths.max() <= max_length
    assert packed.lengths.min() >= 3


def test_batches(tokenizer):
    packed = pack(TEXTS, tokenizer, 16)
    assert isinstance(packed, Rows)
    chosen = np.array([2, -1, 0])
    batch = packed.batch(chosen, 16)
    specials = {tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id}
    for n, row in enumerate(chosen):
        own = rows_of(packed)[row] if row >= 0 else None
        ids = [tokenizer.cls_token_id, *own, tokenizer.sep_token_id] if own else []
        assert batch["input_ids"][n].tolist() == ids + [tokenizer.pad_token_id] * (16 - len(ids))
        assert batch["mask"][n].tolist() == ([1] * len(ids) or [1]) + [0] * (16 - max(1, len(ids)))
        assert not batch["words"][n][np.isin(batch["input_ids"][n], list(specials))].any()
        assert batch["weight"][n] == quota(int((batch["words"][n] > 0).sum()))
    assert batch["row"].tolist() == [2, -1, 0]
    assert batch["weight"][1] == 0
    assert not batch["token_type_ids"].any()
    kinds = {name: array.dtype for name, array in batch.items()}
    assert kinds.pop("weight") == np.float32
    assert set(kinds.values()) == {np.dtype(np.int32)}
    with pytest.raises(AssertionError, match="does not fit into 8"):
        packed.batch(np.arange(len(packed)), 8)


def test_words_are_those_of_the_tokenizer_and_special_tokens_are_none(tokenizer):
    text = "the unusual cat's [MASK] zoo é cat"
    ids = plain(tokenizer, text)
    tokens = tokenizer.convert_ids_to_tokens(ids)
    words = pack([text], tokenizer, 64).batch(np.array([0]), 64)["words"][0, 1 : 1 + len(ids)]
    expected, number = [], 0
    for token in tokens:
        number += not token.startswith("##")
        expected.append(0 if token in tokenizer.all_special_tokens else number)
    assert words.tolist() == expected
    assert {"[MASK]", "[UNK]"} & set(tokens) and max(np.bincount(words)[1:]) > 3


def test_a_word_that_is_cut_is_two_words(tokenizer):
    packed = pack(["unusual"], tokenizer, 5)
    assert packed.batch(np.arange(len(packed)), 8)["words"].tolist() == [[0, 1, 1, 1, 0, 0, 0, 0]] * 2 + [
        [0, 1, 0, 0, 0, 0, 0, 0]
    ]


def test_rules(tmp_path: Path):
    file = tmp_path / "text.txt"
    file.write_bytes("\ufeffone\r\ntwo\r\n \t\r\n\r\nthree\u2028four\n\n\n".encode())
    assert read_documents(file) == read_documents(file, "blank") == ["one\ntwo", "three\u2028four"]
    assert read_documents(file, "lines") == ["one", "two", "three\u2028four"]
    file.write_text("\n\none\ntwo\n\n")  # blank lines separate nothing
    assert read_documents(file) == ["one", "two"]
    assert read_documents(file, "blank") == ["one\ntwo"]
    with pytest.raises(ConfigError, match="unknown rule 'paragraphs': known are auto, blank, lines"):
        read_documents(file, "paragraphs")


def test_files_that_are_no_text(tmp_path: Path, tokenizer):
    with pytest.raises(DataError, match=r"none.txt: expected a text file, got: No such file"):
        pack_files([tmp_path / "none.txt"], tokenizer)
    with pytest.raises(DataError, match=r"expected a text file, got: Is a directory"):
        pack_files([tmp_path], tokenizer)
    file = tmp_path / "text.txt"
    for content in (b"", b" \n\n \t\n", b"\xef\xbb\xbf"):
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"text.txt: expected text, got an empty file"):
            pack_files([file], tokenizer)
    file.write_bytes(b"one\ntwo\nthr\xffe")
    with pytest.raises(DataError, match=r"text.txt:3: expected UTF-8, got b'\\xff'"):
        pack_files([file], tokenizer)


def test_files_and_documents_in_memory_are_the_same(tmp_path: Path, tokenizer):
    for number, half in enumerate((TEXTS[:2], TEXTS[2:])):
        (tmp_path / f"{number}.txt").write_text("\n\n".join(half))
    files = pack_files([tmp_path / "0.txt", tmp_path / "1.txt"], tokenizer, 16)
    memory = pack([text.strip() for text in TEXTS], tokenizer, 16)
    assert all(np.array_equal(a, b) for a, b in zip(files.arrays(), memory.arrays(), strict=True))
    assert files.name == "0.txt, 1.txt"


def test_refusals(tokenizer):
    with pytest.raises(ConfigError, match="expected at least 3 for these rows, got 2"):
        pack(TEXTS, tokenizer, 2)
    other = tiny_tokenizer_without_cls(tokenizer)
    with pytest.raises(ConfigError, match=r"expected a tokenizer with \[CLS\] and \[SEP\]"):
        pack(TEXTS, other)


def tiny_tokenizer_without_cls(tokenizer):
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, mask_token="[MASK]")


def test_held_out_documents_are_a_fixed_sample(tokenizer):
    documents = [f"the cat is {n} . " * (1 + n % 5) for n in range(40)]
    packed = pack(documents, tokenizer, 16)
    rest, out = hold_out(packed, 0.1)
    assert len(np.unique(out.documents)) == 4
    assert not set(out.documents) & set(rest.documents)
    assert sorted([*rest.numbers, *out.numbers]) == list(range(len(packed)))
    assert np.array_equal(hold_out(packed, 0.1)[1].numbers, out.numbers)
    assert not np.array_equal(hold_out(packed, 0.1, seed=1)[1].numbers, out.numbers)
    # A row keeps its number, and so its masks.
    for n in (0, len(out) - 1):
        left, right = out.batch(np.array([n]), 16), packed.batch(out.numbers[[n]].astype(np.int64), 16)
        assert all(np.array_equal(left[name], right[name]) for name in left)
    assert [len(np.unique(part.documents)) for part in hold_out(packed, 0.999)] == [1, 39]
    for share in (0.0, 1.0, -1.0):
        with pytest.raises(ConfigError, match="expected between 0 and 1"):
            hold_out(packed, share)
    with pytest.raises(DataError, match="expected at least 2 documents, to hold one out, got 1"):
        hold_out(pack(["the cat " * 50], tokenizer, 16), 0.5)


def test_samples_of_rows(tokenizer):
    packed = pack(TEXTS * 10, tokenizer, 16)
    few, more = take_rows(packed, 5), take_rows(packed, 20)
    assert len(few) == 5 and set(few.numbers) < set(more.numbers)
    assert take_rows(packed, None) is packed is take_rows(packed, 10**6)


def test_the_cache(tokenizer, tmp_path: Path, monkeypatch):
    first = pack(TEXTS, tokenizer, 16, cache_dir=tmp_path / "new")
    tokenise = module._tokenise
    monkeypatch.setattr(module, "_tokenise", None)
    again = pack(TEXTS, tokenizer, 16, cache_dir=tmp_path / "new")
    longer = pack(TEXTS, tokenizer, 32, cache_dir=tmp_path / "new")  # rows are cut after the cache
    same = lambda a, b: all(np.array_equal(x, y) for x, y in zip(a.arrays(), b.arrays(), strict=True))
    assert same(first, again) and same(first, pack_uncached(tokenizer, tokenise, monkeypatch))
    assert longer.lengths.max() == 32
    monkeypatch.setattr(module, "_tokenise", tokenise)
    (file,) = (tmp_path / "new").iterdir()
    whole = file.read_bytes()
    for damaged in (whole[:100], b"", whole[: len(whole) // 2] + b"\x00" + whole[len(whole) // 2 + 1 :]):
        file.write_bytes(damaged)
        assert same(first, pack(TEXTS, tokenizer, 16, cache_dir=tmp_path / "new"))
        assert file.read_bytes() == whole
    pack(TEXTS[:-1], tokenizer, 16, cache_dir=tmp_path / "new")
    assert len(list((tmp_path / "new").iterdir())) == 2


def pack_uncached(tokenizer, tokenise, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(module, "_tokenise", tokenise)
        return pack(TEXTS, tokenizer, 16)


def test_a_cache_that_cannot_be_written_is_a_warning(tokenizer, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        pack(TEXTS, tokenizer, 16, cache_dir=tmp_path / "file" / "cache")
    assert "the token cache cannot be written" in str(told[0].message)


def test_real_text(shared_data: Path, minilm):
    documents = read_documents(shared_data / "wikitext2" / "wiki.valid.txt")[:40]
    packed = pack(documents, minilm.tokenizer, 64)
    assert_whole(packed, minilm.tokenizer, documents, 64)
