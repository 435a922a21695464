"""Tables of the user's own: what was written is read back, whatever is wrong is told with file and line."""

import csv
import io
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters_jax.data import arrow, bad, tables
from adapters_jax.data.bad import BadRows
from adapters_jax.data.own import Form, read_own
from adapters_jax.data.places import READERS, open_table
from adapters_jax.errors import DataError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

CSV_AND_TSV = (tables.read_csv, tables.read_tsv)
TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
QUOTED = st.text('a,"\t\n\r| é', max_size=8)
NAMES = st.lists(st.text("abcÄ ,\"'", min_size=1, max_size=4), min_size=1, max_size=4, unique=True)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tables")


def put(path, content):
    path.write_bytes(content)
    return path


def values(table, columns=None):
    return [dict(row.values) for row in table.rows(columns or table.columns)]


@st.composite
def written_tables(draw):
    names = draw(NAMES)
    row = st.lists(TEXT | QUOTED, min_size=len(names), max_size=len(names))
    return names, draw(st.lists(row, max_size=5))


@settings(deadline=None)
@given(written_tables(), st.booleans(), st.booleans())
def test_what_the_csv_module_writes_is_read_back(folder, written, mark, all_quoted):
    names, rows = written
    stream = io.StringIO(newline="")
    quoting, end = (csv.QUOTE_ALL, "\n") if all_quoted else (csv.QUOTE_MINIMAL, "\r\n")
    csv.writer(stream, quoting=quoting, lineterminator=end).writerows([names, *rows])
    content = stream.getvalue().encode("utf-8-sig" if mark else "utf-8")
    table = tables.read_csv(put(folder / "a.csv", content), BadRows())
    assert table.columns == tuple(names)
    assert values(table) == [dict(zip(names, row, strict=True)) for row in rows]
    lines = [row.line for row in table.rows(())]
    assert lines == sorted(set(lines))
    assert values(table, names[-1:]) == [{names[-1]: row[-1]} for row in rows]


BARE = st.text('a,"| é\r', max_size=6).filter(lambda text: not text.endswith("\r"))


@settings(deadline=None)
@given(st.lists(st.lists(BARE, min_size=2, max_size=2), max_size=5), st.booleans(), st.sampled_from(["\n", "\r\n"]))
def test_cells_between_tabs_are_what_they_are(folder, rows, mark, end):
    content = "".join("\t".join(row) + end for row in [["a", "b"], *rows]).encode("utf-8-sig" if mark else "utf-8")
    table = tables.read_tsv(put(folder / "a.tsv", content), BadRows())
    assert values(table) == [dict(zip("ab", row, strict=True)) for row in rows]


def test_quotes_in_tsv_lose_no_row(tmp_path, shared_data):
    content = b'text\tlabel\n"so good\tpos\nand bad"\tneg\nx\tpos\ny\tneg'
    found = values(open_table(str(put(tmp_path / "a.tsv", content)), BadRows()))
    assert found == [
        {"text": text, "label": label}
        for text, label in (('"so good', "pos"), ('and bad"', "neg"), ("x", "pos"), ("y", "neg"))
    ]
    for name in ("MRPC/train", "RTE/train", "RTE/dev", "STS-B/train", "STS-B/dev", "MNLI/dev_matched"):
        path = shared_data / "glue" / f"{name}.tsv"
        lines = path.read_bytes().removesuffix(b"\n").count(b"\n")
        assert sum(1 for _ in open_table(str(path), BadRows()).rows(())) == lines > 200


@pytest.mark.parametrize(
    ("content", "texts", "messages"),
    [
        (b'"he said "hi" there\nWell, fine\nend",pos', [], [":3: .*in a row of 3 lines"]),
        (b'"ok\nsecond "bad" line\nend",pos', [], [":3: .*in a row of 3 lines"]),
        (b'5" pipe,pos\nb,x\n6" pipe,neg', ["b"], [""":3: .*got '5" pipe""", """:5: .*got '6" pipe"""]),
        (b'"b" b,pos', [], [""":3: .*got '"b" b"""]),
        (b'"b\n"two\nlines",y\n""\n"",x', ["two\nlines", ""], [":3: .*not closed", ":6: expected 2 columns"]),
        (b'"b\n"c",y', ["c"], [":3: .*not closed"]),
        (b'"b\xff\nb\xff",pos\nd,x', ["d"], [":3: expected UTF-8, got the byte 0xff at column 3"]),
        (b'"b\nbb\xff",pos\nd,x', ["d"], [":4: expected UTF-8, got the byte 0xff at column 3"]),
    ],
)
def test_a_broken_row_takes_no_other_with_it_and_leaves_none_behind(tmp_path, content, texts, messages):
    rows = BadRows("skip")
    found = values(open_table(str(put(tmp_path / "a.csv", b"text,label\na,x\n" + content + b"\nz,y\n")), rows))
    assert [row["text"] for row in found] == ["a", *texts, "z"]
    assert rows.skipped == len(messages)
    for told, message in zip(rows.messages, messages, strict=True):
        assert re.search(message, told), told


@settings(deadline=None)
@given(st.lists(st.dictionaries(TEXT, JSON, min_size=1, max_size=4), min_size=1, max_size=5), st.booleans())
def test_what_json_writes_is_read_back(folder, rows, plain):
    lines = [json.dumps(row, ensure_ascii=plain) for row in rows]
    table = tables.read_jsonl(put(folder / "a.jsonl", "\n".join(lines).encode()), BadRows())
    assert values(table) == rows
    assert [row.line for row in table.rows(())] == list(range(1, len(rows) + 1))


def saved(folder, table, features=None):
    folder.mkdir(exist_ok=True)
    with pa.OSFile(str(folder / "data-0.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-0.arrow"}]}))
    (folder / "dataset_info.json").write_text(json.dumps({"features": features or {}}))
    return folder


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(TEXT, st.integers(-9, 9), st.lists(TEXT, max_size=2) | st.none()), min_size=1, max_size=6))
def test_what_pyarrow_writes_is_read_back(folder, rows):
    columns = dict(zip(("text", "n", "many"), map(list, zip(*rows, strict=True)), strict=True))
    schema = pa.schema([("text", pa.string()), ("n", pa.int64()), ("many", pa.list_(pa.string()))])
    table = pa.table(columns, schema=schema)
    pq.write_table(table, folder / "a.parquet", row_group_size=2)
    expected = [dict(zip(columns, row, strict=True)) for row in rows]
    for found in (
        arrow.read_parquet(folder / "a.parquet", BadRows()),
        arrow.read_saved(saved(folder / "saved", table), BadRows()),
    ):
        assert values(found) == expected
        assert [row.line for row in found.rows(("n",))] == list(range(1, len(rows) + 1))
        assert values(found, ("n",)) == [{"n": row["n"]} for row in expected]


BYTES = st.binary(max_size=60) | st.text('text,label\n"ab\r\t{}:[]1\ufeff', max_size=60).map(str.encode)


@settings(deadline=None, max_examples=300)
@given(st.sampled_from([*READERS]), BYTES, st.sampled_from(["error", "skip"]), st.booleans())
def test_any_bytes_are_read_or_refused(folder, ending, content, policy, header):
    path = put(folder / f"any{ending}", (b"text,label\n" if header else b"") + content)
    try:
        rows = BadRows(policy)
        own = read_own(open_table(str(path), rows), Form(), rows)
        assert len(own.source) > 0
    except DataError as error:
        assert "\n" not in str(error)


def test_damaged_binary_files_are_refused(folder):
    table = pa.table({"text": ["a", "b"] * 50, "label": ["x", "y"] * 50})
    pq.write_table(table, folder / "b.parquet")
    whole = (folder / "b.parquet").read_bytes()
    for end in range(0, len(whole), 97):
        with pytest.raises(DataError, match=r"c\.parquet: expected a "):
            list(arrow.read_parquet(put(folder / "c.parquet", whole[:end]), BadRows()).rows(("text",)))
    stream = saved(folder / "cut", table) / "data-0.arrow"
    whole = stream.read_bytes()
    for end in range(0, len(whole), 97):
        stream.write_bytes(whole[:end])
        with pytest.raises(DataError, match=r"data-0\.arrow: expected a stream of Arrow data"):
            list(arrow.read_saved(folder / "cut", BadRows()).rows(("text",)))


def test_text_that_is_no_utf8_within_parquet(folder):
    raw = pa.array([b"fine", b"b\xff", b"well"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": raw}), folder / "d.parquet")
    rows = BadRows("skip")
    assert values(arrow.read_parquet(folder / "d.parquet", rows)) == [{"text": "fine"}, {"text": "well"}]
    assert rows.messages == [f"{folder / 'd.parquet'}:2: expected UTF-8, got the byte 0xff"]


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("a.csv", b"text,label\na,x\nb\nc,y\n", r"a\.csv:3: expected 2 columns \(text, label\), got 1"),
        ("a.csv", b"text,label\na,x\nb,y,z\nc,y\n", r"a\.csv:3: expected 2 columns \(text, label\), got 3"),
        ("a.tsv", b"text\tlabel\na\tx\nb\xff\ty\nc\ty\n", r"a\.tsv:3: expected UTF-8, got the byte 0xff at column 2"),
        ("a.csv", b'text,label\na,x\n"b\n"c",y\nc,y\n', r"a\.csv:3: expected cells quoted as RFC 4180 says"),
        ("a.csv", b'text,label\na,x\nc,y\n"b,y\n', r"a\.csv:4: expected cells quoted .* not closed: '\"b,y'"),
        ("a.csv", b"text,label\na,x\nb\rc,y\nc,y\n", r"a\.csv:3: expected cells quoted"),
        (
            "a.jsonl",
            b'{"text": "a"}\nfree text\n{"text": "c"}\n',
            r"a\.jsonl:2: expected a JSON object, got 'free text'",
        ),
        ("a.jsonl", b'{"text": "a"}\n[1]\n{"text": "c"}\n', r"a\.jsonl:2: expected a JSON object, got '\[1\]'"),
        ("a.jsonl", b'{"text": "a"}\n' + b"[" * 9999 + b'\n{"text": "c"}\n', r"a\.jsonl:2: expected a JSON object"),
    ],
)
def test_bad_rows_are_refused_or_skipped_and_nothing_else_is_lost(tmp_path, name, content, match):
    path = put(tmp_path / name, content)
    with pytest.raises(DataError, match=match) as caught:
        values(open_table(str(path), BadRows()))
    assert "--on-bad-row=skip" in str(caught.value)
    rows = BadRows("skip")
    found = [row["text"] for row in values(open_table(str(path), rows))]
    assert found[0] == "a" and found[-1] == "c"
    header = not name.endswith(".jsonl")
    assert rows.skipped == 1 and len(found) == content.count(b"\n") - header - 1


def test_an_unclosed_quote_loses_its_own_line_only(tmp_path):
    content = b'text,label\n"open,x\n' + b"".join(b"%d,y\n" % n for n in range(3 * tables.MOST_LINES))
    rows = BadRows("skip")
    table = open_table(str(put(tmp_path / "a.csv", content)), rows)
    assert [row["text"] for row in values(table)] == [str(n) for n in range(3 * tables.MOST_LINES)]
    assert rows.skipped == 1 and ":2: " in rows.messages[0] and "a quote that is not closed" in rows.messages[0]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_a_line_of_100_mb_is_told_and_passed_over(tmp_path, name):
    row = {"a.csv": b"%s,x\n", "a.jsonl": b'{"text": "%s", "label": "x"}\n'}[name]
    path = tmp_path / name
    with path.open("wb") as file:
        file.write(b"text,label\n" if name == "a.csv" else b"")
        for text in (b"first", b"x" * 100 * 2**20, b"last"):
            file.write(row % text)
    rows = BadRows("skip")
    assert [each["text"] for each in values(open_table(str(path), rows))] == ["first", "last"]
    assert (
        rows.skipped == 1 and f"expected a line of at most {bad.MOST_BYTES:,} bytes, got 104,857," in rows.messages[0]
    )
    with pytest.raises(DataError, match=f"{name}:"):
        values(open_table(str(path), BadRows()))


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "got an empty file"),
        (b"\n\r\n", "expected a header with the columns' names, got no line with text"),
        (b"text,text\na,b\n", r":1: expected each column once, got 'text' twice"),
        ("text,label\na,b\n".encode("utf-16"), r":1: expected UTF-8, got the byte 0xff at column 1; mend the header"),
        (b'"text,label\na,b\n', r":1: expected cells quoted as RFC 4180 says, .*; mend the header"),
    ],
)
def test_headers_are_needed_whatever_is_done_with_bad_rows(tmp_path, content, match):
    for policy in ("error", "skip"):
        with pytest.raises(DataError, match=match):
            tables.read_csv(put(tmp_path / "a.csv", content), BadRows(policy))


@pytest.mark.parametrize("read", CSV_AND_TSV)
def test_headers_of_very_many_columns_take_no_time(tmp_path, read):
    names = [f"c{n}" for n in range(100_000)]
    content = ("," if read is tables.read_csv else "\t").join(names).encode() + b"\n"
    assert read(put(tmp_path / "a", content), BadRows()).columns == tuple(names)


def test_cells_may_be_long_and_open_ones_end_somewhere(tmp_path):
    long = 'x"\n' * 999 + "y" * 200_000
    cell = long.replace('"', '""')
    path = put(tmp_path / "a.csv", f'text\n"{cell}"\nz\n'.encode())
    assert values(tables.read_csv(path, BadRows())) == [{"text": long}, {"text": "z"}]
    path, rows = put(tmp_path / "a.csv", f'text\n"x\n{cell}"\nz\n'.encode()), BadRows("skip")
    values(tables.read_csv(path, rows))
    assert "a.csv:2: expected cells quoted as RFC 4180 says, got a quote that is not closed" in rows.messages[0]


def test_names_of_columns_that_cannot_be_written(tmp_path):
    rows = BadRows("skip")
    table = tables.read_jsonl(put(tmp_path / "a.jsonl", b'{"\\ud800": "a"}\n{"text": "b"}\n'), rows)
    assert table.columns == ("text",) and "a.jsonl:1: expected names of columns in UTF-8" in rows.messages[0]


CLASSES = {"label": {"names": ["no", "yes"], "_type": "ClassLabel"}, "text": {"dtype": "string", "_type": "Value"}}


def test_saved_sets_with_splits_and_named_classes(tmp_path):
    table = pa.table({"text": ["a", "b", "c"], "label": [1, 0, -1]})
    (tmp_path / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "validation"]}))
    saved(tmp_path / "train", table.slice(0, 2), CLASSES)
    saved(tmp_path / "validation", table, CLASSES)
    train = read_own(open_table(str(tmp_path), BadRows()), Form(), BadRows()).source
    assert train.features.labels == ("no", "yes") and [row["label"] for row in train] == [1, 0]
    rows = BadRows("skip")
    assert len(read_own(open_table(str(tmp_path), rows, "dev"), Form(), rows, train.features).source) == 2
    assert "validation:3: expected a label, got none" in rows.messages[0]
    assert values(open_table(f"{tmp_path}#validation", BadRows()))[2] == {"text": "c", "label": -1}
    with pytest.raises(DataError, match="unknown split 'tset': known are train, validation"):
        open_table(f"{tmp_path}#tset", BadRows())
    with pytest.raises(DataError, match="expected a split named test, got train, validation; choose one by #NAME"):
        open_table(str(tmp_path), BadRows(), "test")
    (tmp_path / "train" / "state.json").write_text('{"_data_files": [{"filename": "../x.arrow"}]}')
    with pytest.raises(DataError, match="expected the names of Arrow files beside it"):
        open_table(str(tmp_path), BadRows())
