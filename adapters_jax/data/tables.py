"""Tables of the user's own, read as they stand there: CSV, TSV and JSONL; see `own` for the other forms.

    table = read_csv("train.csv", BadRows("skip"))
    for row in table.rows(("text", "label")): row.place, row.line, row.values["text"]

Nothing is converted: cells of CSV are strings, values of JSONL what JSON says. What they mean is said by who asks.
"""

import collections
import dataclasses
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from adapters_jax.data.bad import MOST_BYTES, BadRows, not_utf8, numbered_lines, raw_lines
from adapters_jax.errors import DataError

MOST_LINES = 1000
"""Of a quoted cell. A quote that nobody closed shows after so many lines, and not at the end of the file."""
CELL = re.compile(r'(?:"([^"]*(?:""[^"]*)*)"|([^",\r\n]*))(,|\r?\n?\Z)')
"""Of CSV: what stands within its quotes, or without any, and its end."""
ROW = re.compile(rb'"[^",\r\n]')
"""So a row may begin, but never a line that goes on with an open cell."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One row: the file, its line there (or row, from 1; None where a file is one row), its values by column.

    `id` is what it is called where the table has no column of ids.
    """

    place: str
    line: int | None
    values: Mapping[str, Any]
    id: str


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows and columns.

    Attributes:
      name: for logs and the manifest.
      columns: their names.
      rows: gives the rows with the named columns; a value that is not there is left out. Bad rows may be found by it.
      classes: the names of classes, by column, where the values are numbers of classes and the table says which.
    """

    name: str
    columns: tuple[str, ...]
    rows: Callable[[Sequence[str]], Iterator[Row]]
    classes: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)


def table_of(name: str, place: object, columns: Sequence[str], read: Sequence[tuple[int, Mapping[str, Any]]]) -> Table:
    """A table in memory: rows with their lines."""

    def rows(names: Sequence[str]) -> Iterator[Row]:
        for line, values in read:
            yield Row(str(place), line, {key: values[key] for key in names if key in values}, str(line))

    return Table(name, tuple(columns), rows)


def is_utf8(text: str) -> bool:
    """Whether a text can be written: half a surrogate pair, as JSON can name it, cannot."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def read_csv(file: str | Path, bad: BadRows) -> Table:
    """CSV with a header, quoted as RFC 4180 says: a quoted cell may hold commas, line ends and doubled quotes.

    A row that is not so is a bad row, with all lines up to the end of its quotes; where these do not end, or open
    within a cell, with its first line alone. Empty lines are passed over. Rows are read when they are asked for.

    Args:
      file: UTF-8, with or without a byte-order mark.
      bad: what to do with rows that cannot be used.

    Raises:
      DataError: a file that is missing, unreadable, empty or without a header; under "error" a bad row.
    """
    return _with_header(Path(file), bad, _csv_records)


def read_tsv(file: str | Path, bad: BadRows) -> Table:
    """Cells with tabs between them, with a header; else as `read_csv`. Nothing is quoted, as in the files of GLUE: a
    quote is a character like others, and a cell holds no tab and no line end.
    """
    return _with_header(Path(file), bad, _tsv_records)


Records = Callable[[Path, BadRows], Iterator[tuple[int, list[str]]]]
"""(number of the first line, cells) of each row that is not empty."""


def _with_header(path: Path, bad: BadRows, records: Records) -> Table:
    damaged = BadRows("skip")
    first, header = next(records(path, damaged), (0, []))
    if damaged.skipped:  # whatever is done with bad rows: without the first line nobody knows what the others mean
        raise DataError(f"{damaged.messages[0]}; mend the header")
    if not header:
        raise DataError(f"{path}: expected a header with the columns' names, got no line with text")
    for column, count in collections.Counter(header).items():
        if count > 1:
            raise DataError(f"{path}:{first}: expected each column once, got {column!r:.80} twice; rename one of them")
    number_of = {column: number for number, column in enumerate(header)}
    expected = f"expected {len(header)} columns ({', '.join(header)[:80]})"

    def rows(names: Sequence[str]) -> Iterator[Row]:
        wanted = [(name, number_of[name]) for name in names if name in number_of]
        for line, cells in records(path, bad):
            if line == first:
                continue
            if len(cells) != len(header):
                bad.found(path, line, f"{expected}, got {len(cells)}")
                continue
            yield Row(str(path), line, {name: cells[number] for name, number in wanted}, str(line))

    return Table(path.name, tuple(header), rows)


def _tsv_records(path: Path, bad: BadRows) -> Iterator[tuple[int, list[str]]]:
    for line, text in numbered_lines(path, bad):
        if text:
            yield line, text.split("\t")


def _csv_records(path: Path, bad: BadRows) -> Iterator[tuple[int, list[str]]]:
    lines = _Lines(raw_lines(path, bad))
    for line, raw in lines:
        held, text = [raw], _text(line, raw)
        cells, rest = _cells(text)
        if rest.startswith('"') and raw.count(b'"') % 2:  # a cell that goes on in the next line
            following = lines.to_quote(line)
            if following is None:
                why = f"got a quote that is not closed: {rest[:60].rstrip()!r}"
                bad.found(path, line, f"expected cells quoted as RFC 4180 says, {why}")
                continue
            held += following
            text = _text(line, b"".join(held))
            cells, rest = _cells(text)
        if "\ufffd" in text and (wrong := _not_utf8(line, held)) is not None:
            bad.found(path, *wrong)
        elif rest:
            several = f" in a row of {len(held)} lines" if len(held) > 1 else ""
            bad.found(path, line, f"expected cells quoted as RFC 4180 says, got {rest[:60].rstrip()!r}{several}")
        elif text.strip("\r\n"):
            yield line, cells


class _Lines:
    """Numbered lines, of which one can look at the next ones."""

    def __init__(self, lines: Iterator[tuple[int, bytes]]) -> None:
        self._lines = lines
        self._seen = collections.deque[tuple[int, bytes]]()

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        return self

    def __next__(self) -> tuple[int, bytes]:
        return self._seen.popleft() if self._seen else next(self._lines)

    def to_quote(self, line: int) -> list[bytes] | None:
        """The lines after the given one up to that which closes its open quote; None, and they come again, where none
        does.
        """
        taken, size = list[tuple[int, bytes]](), 0
        for number, raw in self:
            taken.append((number, raw))
            size += len(raw)
            if number != line + len(taken) or len(taken) >= MOST_LINES or size > MOST_BYTES or ROW.match(raw):
                break
            if raw.count(b'"') % 2:
                return [raw for _, raw in taken]
        self._seen.extendleft(reversed(taken))
        return None


def _text(line: int, raw: bytes) -> str:
    """Bytes that are no UTF-8 are replaced: quotes and line ends are where they were."""
    return raw.decode("utf-8", "replace").removeprefix("\ufeff" if line == 1 else "")


def _not_utf8(line: int, held: Sequence[bytes]) -> tuple[int, str] | None:
    for number, raw in enumerate(held, line):
        try:
            raw.decode("utf-8")
        except UnicodeDecodeError as error:
            return number, not_utf8(error)
    return None


def _cells(text: str) -> tuple[list[str], str]:
    """The cells of a row, and what follows those that can be read: nothing, in a sound row."""
    if '"' not in text:
        text = text.removesuffix("\n").removesuffix("\r")
        if "\r" not in text:
            return text.split(","), ""
    cells, at = list[str](), 0
    while (match := CELL.match(text, at)) is not None:
        quoted, plain, end = match.groups()
        cells.append(plain if quoted is None else quoted.replace('""', '"'))
        at = match.end()
        if end != ",":
            return cells, ""
    return cells, text[at:]


def read_jsonl(file: str | Path, bad: BadRows) -> Table:
    """A JSON object per line; its keys are the columns, which need not be the same in all rows. Empty lines are passed
    over.

    Raises:
      DataError: a file that is missing, unreadable, empty or without any object; under "error" a bad row.
    """
    path = Path(file)
    read, columns = [], dict[str, None]()
    for line, text in numbered_lines(path, bad):
        if not text.strip():
            continue
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:  # too deep, or a number of thousands of digits
            bad.found(path, line, f"expected a JSON object, got {text!r:.60} ({error!s:.80})")
            continue
        if not isinstance(values, dict):
            bad.found(path, line, f"expected a JSON object, got {text!r:.60}")
            continue
        if not values.keys() <= columns.keys() and not all(map(is_utf8, values)):
            bad.found(path, line, f"expected names of columns in UTF-8, got {', '.join(values)!r:.60}")
            continue
        columns.update(dict.fromkeys(values))
        read.append((line, values))
    return table_of(path.name, path, tuple(columns), read)
