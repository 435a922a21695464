"""Lines of a file, ids of pieces, and rows with more than tokens."""

from pathlib import Path

import numpy as np
import pytest

from adapters_jax import testing
from adapters_jax.bert.pieces import pieces
from adapters_jax.data.rows import encoded_ids, frame, read_lines
from adapters_jax.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory):
    return testing.tiny_backbone(tmp_path_factory.mktemp("backbone")).tokenizer


def test_lines_end_at_line_feeds_alone(tmp_path: Path):
    file = tmp_path / "a.txt"
    file.write_bytes("\ufeffone\u2028still one\r\n\r\nthree\n".encode())
    assert read_lines(file) == ["one\u2028still one", "", "three"]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (None, "a.txt: expected a text file, got: No such file"),
        (b"", "a.txt: expected text, got an empty file"),
        (b"\n \n", "a.txt: expected text, got an empty file"),
        (b"one\ntw\xff\n", r"a.txt:2: expected UTF-8, got b'\\xff'"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, content: bytes | None, match: str):
    if content is not None:
        (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(DataError, match=match):
        read_lines(tmp_path / "a.txt")


def test_pieces_are_the_tokenizers_own_without_special_tokens(tokenizer):
    texts = ["the cat", "", "a dog is not good", "caf\ud800"]
    found = pieces(tokenizer, texts)
    assert found[:3] == [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts[:3]]
    assert len(found[3]) == 4  # half a surrogate pair became a question mark


def test_a_users_truncation_does_not_matter(tokenizer):
    tokenizer.backend_tokenizer.enable_truncation(2)
    try:
        assert len(pieces(tokenizer, ["the cat is not good"])[0]) == 5
    finally:
        tokenizer.backend_tokenizer.no_truncation()


def test_special_tokens_and_their_room(tokenizer):
    assert frame(tokenizer, "rows", 8, 6) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
    with pytest.raises(ConfigError, match="max_length: expected at least 8 for these rows, got 7"):
        frame(tokenizer, "rows", 7, 6)

    class Bare:
        cls_token_id = sep_token_id = None

    with pytest.raises(ConfigError, match="rows: expected a tokenizer with .CLS. and .SEP., got Bare without"):
        frame(Bare(), "rows", 8, 6)


def test_encoded_rows_are_one_text_each():
    encoded = encoded_ids([[2, 7, 3], [2, 3]], np.array([1, 0], np.int32), 0, 8, 0, "two")
    batch = encoded.batch(np.array([1, 0, -1]), 4)
    np.testing.assert_array_equal(batch["input_ids"], [[2, 3, 0, 0], [2, 7, 3, 0], [0, 0, 0, 0]])
    assert not batch["token_type_ids"].any()
    np.testing.assert_array_equal(batch["weight"], [1, 1, 0])
    assert (encoded.name, len(encoded), list(encoded.lengths)) == ("two", 2, [3, 2])
