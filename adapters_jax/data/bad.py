"""Rows that cannot be used: refused with file and line, or skipped and counted where the user asked for it.

bad = BadRows("skip")
for number, line in numbered_lines("train.conll", bad): ...
bad.found("train.conll", 12, "expected a tag for every word, got none for 'Rome'")
print(bad.summary())                                     # "2 rows were skipped: 1 without ..., the first is ..."
"""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from adapters_jax.errors import DataError

OnBadRow = Literal["error", "skip"]

MOST_BYTES = 16 * 2**20
"""Of a line. Longer ones are no text of a person's; they are passed over without being held in memory."""
KEPT = 5
"""So many messages are kept of rows that were skipped."""


@dataclasses.dataclass
class BadRows:
    """What to do with a row that cannot be used.

    Attributes:
      policy: "error" raises at the first one, "skip" counts it.
      skipped: how many were.
      messages: of the first few.
    """

    policy: OnBadRow = "error"
    skipped: int = 0
    messages: list[str] = dataclasses.field(default_factory=list)

    def found(
        self, file: object, line: int | Callable[[], int | None] | None, message: str | Callable[[], str]
    ) -> None:
        """A row that cannot be used; returns only where rows are skipped.

        Args:
          file, line: where it stands; a line of None is left out.
          message: "expected ..., got ...". What takes time to find out may be a function, for both: it is called for
            the few rows alone whose messages somebody sees.

        Raises:
          DataError: under "error".
        """
        self.skipped += self.policy == "skip"
        if self.policy == "skip" and len(self.messages) >= KEPT:
            return
        line, message = line() if callable(line) else line, message() if callable(message) else message
        text = f"{file}: {message}" if line is None else f"{file}:{line}: {message}"
        if self.policy == "error":
            raise DataError(f"{text}; mend or remove it, or skip such rows with --on-bad-row=skip")
        self.messages.append(text)

    def summary(self) -> str:
        """How many rows were skipped, and why the first ones were."""
        if not self.skipped:
            return "no row was skipped"
        more = f"; and {self.skipped - len(self.messages)} more" if self.skipped > len(self.messages) else ""
        counted = "1 row was skipped" if self.skipped == 1 else f"{self.skipped} rows were skipped"
        return f"{counted}: {'; '.join(self.messages)}{more}"


def raw_lines(file: str | Path, bad: BadRows) -> Iterator[tuple[int, bytes]]:
    """The lines of a file with their numbers from 1, one at a time, each with its line feed.

    A line longer than MOST_BYTES is a bad row.

    Raises:
      DataError: a file that is missing, unreadable or empty; under "error" a bad line.
    """
    path = Path(file)
    number = 0
    try:
        with path.open("rb") as stream:
            while raw := stream.readline(MOST_BYTES + 1):
                number += 1
                if len(raw) > MOST_BYTES and not raw.endswith(b"\n"):
                    size = len(raw)
                    while (rest := stream.readline(MOST_BYTES)) and not rest.endswith(b"\n"):
                        size += len(rest)
                    size += len(rest)
                    bad.found(path, number, f"expected a line of at most {MOST_BYTES:,} bytes, got {size:,}")
                    continue
                yield number, raw
    except OSError as error:
        raise DataError(f"{path}: expected a readable text file, got: {error.strerror}") from None
    if not number:
        raise DataError(f"{path}: expected text, got an empty file")


def numbered_lines(file: str | Path, bad: BadRows) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 file with their numbers from 1, one at a time, split at line feeds alone.

    A byte-order mark and carriage returns at line ends are dropped. A line that is no UTF-8 or longer than MOST_BYTES
    is a bad row.

    Raises:
      DataError: a file that is missing, unreadable or empty; under "error" a bad line.
    """
    for number, raw in raw_lines(file, bad):
        raw = raw.removesuffix(b"\n").removesuffix(b"\r")
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            bad.found(Path(file), number, not_utf8(error))
            continue
        yield number, text.removeprefix("\ufeff") if number == 1 else text


def not_utf8(error: UnicodeDecodeError) -> str:
    """What is wrong with bytes that are no UTF-8."""
    return f"expected UTF-8, got the byte 0x{error.object[error.start]:02x} at column {error.start + 1}"
