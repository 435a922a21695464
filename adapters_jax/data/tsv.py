"""Tab-separated files as GLUE writes them: UTF-8, no quoting, one row per line feed.

Python's `csv` module and `str.splitlines` are both wrong here: a lone double quote is a character of its sentence, and
so is a Unicode line separator.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from adapters_jax.errors import DataError

INDEX = ("index", "id")


def read_table(
    path: Path, columns: Sequence[str], header: Sequence[str] = (), rows_per_broken: int = 0
) -> Iterator[tuple[int, str, list[str]]]:
    """The named columns of a file, row by row, without holding the file in memory.

    A byte-order mark, carriage returns at line ends and empty lines at the end are dropped; fields beyond the header's
    are ignored.

    Args:
      path: the file.
      columns: names of the columns to read.
      header: the names of all columns, for a file whose first line is a row already.
      rows_per_broken: short rows are left out if there are at least so many rows for each; 0 refuses the first one.

    Yields:
      The line's number, from 1; its field "index" or "id", else the row's number from 0; its fields for `columns`.

    Raises:
      DataError: a file that is missing, unreadable, empty or not UTF-8, a header without a wanted column, or a row with
        too few columns; with the file and line.
    """
    lines = _lines(path)
    if not header:
        number, first = next(lines, (1, ""))
        if not first:
            raise _empty(path)
        header = first.split("\t")
        missing = [column for column in columns if column not in header]
        if missing:
            raise DataError(
                f"{path}:{number}: expected a header with the column{'s' * (len(missing) > 1)} {', '.join(missing)}, "
                f"got {first!r:.120}; restore the file's first line"
            )
    picked = [header.index(column) for column in columns]
    index = next((header.index(column) for column in INDEX if column in header), None)
    rows, broken = 0, []
    for number, line in lines:
        fields = line.split("\t")
        if len(fields) < len(header):
            broken.append((number, len(fields), line))
            if not rows_per_broken:
                break
            continue
        yield number, str(rows) if index is None else fields[index], [fields[i] for i in picked]
        rows += 1
    if broken and (not rows_per_broken or rows < rows_per_broken * len(broken)):
        number, found, line = broken[0]
        raise DataError(
            f"{path}:{number}: expected {len(header)} tab-separated columns ({', '.join(header)}), "
            f"got {found}: {line!r:.80}; repair or remove the line"
        )
    if not rows:
        raise _empty(path)


def _empty(path: Path) -> DataError:
    return DataError(f"{path}: expected a row per line, got an empty file; restore it from the GLUE archives")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    blank: list[int] = []
    try:
        with open(path, "rb") as file:  # bytes are split at line feeds only
            for number, raw in enumerate(file, 1):
                text = _decode(path, number, raw.removesuffix(b"\n").removesuffix(b"\r"))
                if number == 1:
                    text = text.removeprefix("\ufeff")
                if not text:
                    blank.append(number)
                    continue
                yield from ((i, "") for i in blank)  # not at the end of the file after all
                blank.clear()
                yield number, text
    except FileNotFoundError:
        raise DataError(f"{path}: expected a file, got none; restore it from the GLUE archives") from None
    except OSError as error:
        raise DataError(f"{path}: expected a readable file, got {error.strerror}; check its permissions") from error


def _decode(path: Path, number: int, raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = raw[error.start]
        raise DataError(
            f"{path}:{number}: expected UTF-8 text, got the byte 0x{byte:02x} at column {error.start + 1}; "
            "convert the file to UTF-8"
        ) from None
