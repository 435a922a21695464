"""Tab-separated files without quoting, and what is wrong with them."""

import pytest

from adapters_jax.data.tsv import read_table
from adapters_jax.errors import DataError


def table(tmp_path, content, columns=("sentence", "label"), **options):
    path = tmp_path / "train.tsv"
    path.write_bytes(content)
    return list(read_table(path, columns, **options))


def test_columns_are_found_by_name(tmp_path):
    rows = table(tmp_path, b"label\tindex\tsentence\n1\t7\tone\n0\t8\ttwo\n")
    assert rows == [(2, "7", ["one", "1"]), (3, "8", ["two", "0"])]


def test_rows_are_numbered_where_there_is_no_index(tmp_path):
    assert [index for _, index, _ in table(tmp_path, b"sentence\tlabel\na\t1\nb\t0\n")] == ["0", "1"]


def test_a_double_quote_is_a_character(tmp_path):
    rows = table(tmp_path, b'sentence\tlabel\n"open\t1\nmid"dle\t0\n"whole"\t1\n')
    assert [fields[0] for _, _, fields in rows] == ['"open', 'mid"dle', '"whole"']


def test_only_line_feeds_end_rows(tmp_path):
    text = "a\u2028b\u0085c\x0bd\x0ce\x1cf\rg"
    rows = table(tmp_path, f"sentence\tlabel\n{text}\t1\nnext\t0\n".encode())
    assert [fields[0] for _, _, fields in rows] == [text, "next"]


def test_byte_order_mark_carriage_returns_and_empty_lines_at_the_end(tmp_path):
    rows = table(tmp_path, "\ufeffsentence\tlabel\r\nä\t1\r\nb\t0\r\n\r\n\n".encode())
    assert rows == [(2, "0", ["ä", "1"]), (3, "1", ["b", "0"])]


def test_the_last_line_needs_no_line_feed(tmp_path):
    assert len(table(tmp_path, b"sentence\tlabel\na\t1\nb\t0")) == 2


def test_a_file_without_a_header(tmp_path):
    rows = table(tmp_path, b"gj04\t1\t\tA sentence.\n", header=("source", "label", "mark", "sentence"))
    assert rows == [(1, "0", ["A sentence.", "1"])]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"sentence\tlabel\na\t1\nb\n",
            r"train\.tsv:3: expected 2 tab-separated columns \(sentence, label\), got 1: 'b'",
        ),
        (b"sentence\tlabel\na\t1\n\nb\t0\n", r"train\.tsv:3: expected 2 tab-separated columns .*, got 1: ''"),
        (b"", r"train\.tsv: expected a row per line, got an empty file"),
        (b"\n\n", r"train\.tsv: expected a row per line, got an empty file"),
        (b"sentence\tlabel\n", r"train\.tsv: expected a row per line, got an empty file"),
        (b"a\t1\nb\t0\n", r"train\.tsv:1: expected a header with the columns sentence, label, got 'a\\t1'"),
        (b"sentence\tlabel\na\t1\nb\xff\t0\n", r"train\.tsv:3: expected UTF-8 text, got the byte 0xff at column 2"),
    ],
)
def test_bad_files(tmp_path, content, message):
    with pytest.raises(DataError, match=message) as caught:
        table(tmp_path, content)
    assert "\n" not in str(caught.value)


def test_missing_and_unreadable_files(tmp_path):
    with pytest.raises(DataError, match=r"none\.tsv: expected a file, got none"):
        list(read_table(tmp_path / "none.tsv", ("sentence",)))
    with pytest.raises(DataError, match="expected a readable file, got Is a directory"):
        list(read_table(tmp_path, ("sentence",)))


def test_a_few_short_rows_may_be_left_out(tmp_path):
    content = b"sentence\tlabel\n" + b"a\t1\n" * 60 + b"short\n" + b"a\t1\n" * 60
    rows = table(tmp_path, content, rows_per_broken=100)
    assert len(rows) == 120
    assert [index for _, index, _ in rows] == [str(i) for i in range(120)]
    with pytest.raises(DataError, match=r"train\.tsv:62: expected 2 .* columns .*, got 1: 'short'"):
        table(tmp_path, content, rows_per_broken=121)


def test_a_file_is_streamed(tmp_path):
    path = tmp_path / "train.tsv"
    path.write_bytes(b"sentence\tlabel\n" + b"a\t1\n" * 100_000 + b"broken\n")
    rows = read_table(path, ("sentence", "label"))
    assert next(rows) == (2, "0", ["a", "1"])  # the end of the file has not been read yet
