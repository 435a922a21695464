"""Tables of the user's own, read as they stand there: CSV, TSV and JSONL; see `own` for the other forms.

    table = read_delimited("train.csv", BadRows("skip"))
    for row in table.rows(("text", "label")): row.place, row.line, row.values["text"]

Nothing is converted: cells of CSV are strings, values of JSONL what JSON says. What they mean is said by who asks.
"""

import collections
import csv
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from adapters_jax.data.bad import MOST_BYTES, BadRows, not_utf8, numbered_lines, raw_lines
from adapters_jax.errors import DataError

MOST_LINES = 1000
"""Of a quoted cell. A quote that nobody closed shows after so many lines, and not at the end of the file."""


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
      rows: gives the rows with the named columns; a value that is not there is left out.
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


def read_delimited(file: str | Path, bad: BadRows, delimiter: str | None = None) -> Table:
    """CSV or TSV with a header, quoted as RFC 4180 says: a cell may hold line ends and doubled quotes.

    A row that cannot be read is a bad row, and reading goes on with the line after its first one. Empty lines are
    passed over.

    Args:
      file: UTF-8, with or without a byte-order mark.
      bad: what to do with rows that cannot be used.
      delimiter: between cells; if not given, a tab where the file's name ends in .tsv or .tab, else a comma.

    Raises:
      DataError: a file that is missing, unreadable, empty or without a header; under "error" a bad row.
    """
    path = Path(file)
    if delimiter is None:
        delimiter = "\t" if path.suffix.lower() in (".tsv", ".tab") else ","
    # The csv module's limit is the process's, not a reader's; so it is put back.
    limit = csv.field_size_limit(MOST_BYTES)
    try:
        return _delimited(path, bad, delimiter)
    finally:
        csv.field_size_limit(limit)


def _delimited(path: Path, bad: BadRows, delimiter: str) -> Table:
    damaged = BadRows("skip")
    number, header = next(_records(path, damaged, delimiter), (0, []))
    if damaged.skipped:  # whatever is done with bad rows: without the first line nobody knows what the others mean
        raise DataError(f"{damaged.messages[0]}; mend the header")
    if not header:
        raise DataError(f"{path}: expected a header with the columns' names, got no line with text")
    for column in header:
        if header.count(column) > 1:
            raise DataError(f"{path}:{number}: expected each column once, got {column!r:.80} twice; rename one of them")
    read = []
    for line, cells in _records(path, bad, delimiter):
        if line == number:
            continue
        if len(cells) != len(header):
            names = ", ".join(header)
            bad.found(path, line, f"expected {len(header)} columns ({names:.80}), got {len(cells)}")
            continue
        read.append((line, dict(zip(header, cells, strict=True))))
    return table_of(path.name, path, header, read)


class _Gap(Exception):
    """A line within a row was passed over, or the row has too many."""


def _records(path: Path, bad: BadRows, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """(number of the first line, cells) of each row that is not empty."""
    lines = raw_lines(path, bad)
    returned: collections.deque[tuple[int, bytes]] = collections.deque()
    while (first := returned.popleft() if returned else next(lines, None)) is not None:
        held, wrong = [first], dict[int, str]()

        def feed(held: list[tuple[int, bytes]] = held, wrong: dict[int, str] = wrong) -> Iterator[str]:
            while True:
                number, raw = held[-1]
                try:
                    text = raw.decode("utf-8")
                except UnicodeDecodeError as error:
                    wrong[number] = not_utf8(error)
                    text = raw.decode("utf-8", "replace")  # quotes and line ends are where they were
                yield text.removeprefix("\ufeff") if number == 1 else text
                following = returned.popleft() if returned else next(lines, None)
                if following is None:
                    return
                held.append(following)
                if following[0] != number + 1 or len(held) > MOST_LINES:
                    raise _Gap

        try:
            cells = next(csv.reader(feed(), delimiter=delimiter, strict=True), [])
        except (csv.Error, _Gap) as error:
            why = "a quote that is not closed" if isinstance(error, _Gap) else str(error)
            bad.found(path, first[0], f"expected cells quoted as RFC 4180 says, got {why}: {_shown(first[1])}")
            returned.extendleft(reversed(held[1:]))
            continue
        for number, message in wrong.items():
            bad.found(path, number, message)
            break
        else:
            if cells:
                yield first[0], cells


def _shown(raw: bytes) -> str:
    return repr(raw[:60].decode("utf-8", "replace").rstrip("\r\n"))


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
        columns.update(dict.fromkeys(values))
        read.append((line, values))
    return table_of(path.name, path, tuple(columns), read)
