"""CoNLL-U by the rules of its format, and the rows that are made of it."""

from pathlib import Path

import numpy as np
import pytest

from adapters_jax import testing
from adapters_jax.bert.heads.dependency import NO_HEAD, NO_WORD
from adapters_jax.data.batches import eval_batches
from adapters_jax.data.conllu import Sentence, encode_treebank, read_conllu
from adapters_jax.data.source import Source, take
from adapters_jax.data.tokenize import Rows
from adapters_jax.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory):
    return testing.tiny_backbone(tmp_path_factory.mktemp("backbone")).tokenizer


def word(number: str, form: str, head: str) -> str:
    return "\t".join([number, form, "_", "_", "_", "_", head, "dep", "_", "_"])


SENTENCES = [
    "# sent_id = 1",
    "# text = the cat isn't good",
    word("1", "the", "2"),
    word("2", "cat", "5"),
    word("3-4", "isn't", "_"),
    word("3", "is", "5"),
    word("4", "not", "5"),
    word("4.1", "very", "_"),
    word("5", "good", "0"),
    "",
    "# sent_id = 2",
    word("1", "who", "0"),
    word("2", "?", "1"),
]


def write(folder: Path, lines: list[str], name: str = "a.conllu") -> Path:
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / name


def test_words_are_the_syntactic_ones(tmp_path: Path):
    found = read_conllu(write(tmp_path, SENTENCES))
    assert isinstance(found, Source)
    assert found.sentences == (
        Sentence(("the", "cat", "is", "not", "good"), (2, 5, 5, 5, 0)),
        Sentence(("who", "?"), (0, 1)),
    )
    assert found[1]["text"] == "who ?"


def test_each_word_knows_where_its_head_begins(tmp_path: Path, tokenizer):
    """A word of several pieces counts once: x7 is x ##7."""
    lines = [word("1", "x7", "3"), word("2", "is", "3"), word("3", "a9b", "0"), word("4", ".", "1")]
    rows = encode_treebank(read_conllu(write(tmp_path, lines)), tokenizer, 16)
    assert isinstance(rows, Rows)
    batch = rows.batch(np.array([0, -1]), 12)
    assert tokenizer.convert_ids_to_tokens(batch["input_ids"][0])[:9] == [
        *("[CLS]", "x", "##7", "is", "a", "##9", "##b", ".", "[SEP]")
    ]
    no = NO_WORD
    np.testing.assert_array_equal(batch["heads"], [[no, 4, no, 4, 0, no, no, 1, no, no, no, no], [no] * 12])
    np.testing.assert_array_equal(batch["weight"], [4, 0])
    assert batch["heads"].dtype == np.int32 and batch["weight"].dtype == np.float32
    assert rows.labels is None and "labels" not in batch
    assert any(array is rows.heads for array in rows.arrays())


def test_rows_of_unlike_lengths(tmp_path: Path, tokenizer):
    rows = encode_treebank(read_conllu(write(tmp_path, SENTENCES)), tokenizer, 16)
    assert list(rows.lengths) == [7, 4]
    batch = rows.batch(np.array([1, 0]), 8)
    no = NO_WORD
    np.testing.assert_array_equal(batch["heads"], [[no, 0, 1, no, no, no, no, no], [no, 2, 5, 5, 5, 0, no, no]])
    np.testing.assert_array_equal(batch["weight"], [2, 5])
    assert sorted(int(n) for ids, _ in eval_batches(rows, 4) for n in ids if n >= 0) == [0, 1]


def test_long_sentences_lose_their_last_words(tmp_path: Path, tokenizer):
    """5 tokens of room: is, not and good are lost, and with them the head of cat, which others may still choose."""
    rows = encode_treebank(read_conllu(write(tmp_path, SENTENCES)), tokenizer, 4)
    assert rows.truncated == 1 and list(rows.lengths) == [4, 4]
    np.testing.assert_array_equal(rows.batch(np.array([0]), 4)["heads"], [[NO_WORD, 2, NO_HEAD, NO_WORD]])
    np.testing.assert_array_equal(rows.batch(np.array([0]), 4)["weight"], [1])
    with pytest.raises(ConfigError, match="max_length: expected at least 3 for these rows, got 2"):
        encode_treebank(read_conllu(tmp_path / "a.conllu"), tokenizer, 2)


def test_a_word_is_never_cut_in_two(tmp_path: Path, tokenizer):
    lines = [word("1", "is", "0"), word("2", "abcdefgh", "1")]
    rows = encode_treebank(read_conllu(write(tmp_path, lines)), tokenizer, 8)
    assert rows.truncated == 1 and list(rows.lengths) == [3]


def test_a_word_without_pieces_has_a_place(tmp_path: Path, tokenizer):
    lines = [word("1", "\u200b", "2"), word("2", "cat", "0")]
    rows = encode_treebank(read_conllu(write(tmp_path, lines)), tokenizer, 8)
    assert rows.batch(np.array([0]), 4)["input_ids"][0].tolist()[1] == tokenizer.unk_token_id
    np.testing.assert_array_equal(rows.batch(np.array([0]), 4)["heads"], [[NO_WORD, 2, 0, NO_WORD]])


def test_a_sample_can_be_taken(tmp_path: Path, tokenizer):
    rows = encode_treebank(take(read_conllu(write(tmp_path, SENTENCES)), 1), tokenizer, 16)
    assert len(rows) == 1 and "1 of 2" in rows.name


@pytest.mark.parametrize(
    ("lines", "match"),
    [
        (["1\tthe\t_"], "a.conllu:1: expected 10 tab-separated columns, got 3"),
        (["the cat"], "a.conllu:1: expected 10 tab-separated columns, got 1: 'the cat'"),
        ([word("2", "the", "0")], "a.conllu:1: expected the word number 1, got '2'"),
        ([word("1", "the", "0"), word("3", "cat", "1")], "a.conllu:2: expected the word number 2, got '3'"),
        ([word("x", "the", "0")], "a.conllu:1: expected the word number 1, got 'x'"),
        ([word("1", "the", "_")], "a.conllu:1: expected the number of the word's head in column 7, got '_'; give a"),
        ([word("1", "the", "-1")], "got '-1'"),
        ([word("1", "the", "9" * 40)], "column 7, got '9999"),
        (
            ["# x", word("1", "the", "2")],
            "a.conllu:2: expected another of the sentence's 1 words as the head of word 1",
        ),
        (
            [word("1", "a", "0"), word("2", "b", "2")],
            "a.conllu:2: expected another .* word 2, or 0 for the root, got 2",
        ),
        (["# a comment", ""], "a.conllu: expected sentences, got comments alone"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, lines: list[str], match: str):
    with pytest.raises(DataError, match=match) as error:
        read_conllu(write(tmp_path, lines))
    assert "\n" not in str(error.value)


def test_real_treebanks(shared_data: Path, minilm):
    folder = shared_data / "ud_ewt"
    dev, test = (read_conllu(folder / f"en_ewt-ud-{name}.conllu") for name in ("dev", "test"))
    assert (len(dev), len(test)) == (2001, 2077)
    assert [sum(len(s.words) for s in bank.sentences) for bank in (dev, test)] == [25_147, 25_094]
    assert all(sum(head == 0 for head in s.heads) == 1 for s in dev.sentences)  # each has one root
    rows = encode_treebank(dev, minilm.tokenizer, 128)
    assert rows.truncated == 0
    assert int((rows.heads >= 0).sum()) == 25_147
    assert dev[0]["sentence"] == Sentence(tuple("From the AP comes this story :".split()), (3, 3, 4, 0, 6, 4, 4))


def test_a_treebank_without_heads_is_refused(shared_data: Path):
    with pytest.raises(DataError, match=r"train_pos6.conllu:3: expected 10 tab-separated columns, got 6"):
        read_conllu(shared_data / "ud_ewt" / "train_pos6.conllu")
