"""Which columns of a table are the texts and the label: as told, else by their usual names."""

import dataclasses
import difflib
from collections.abc import Sequence

from adapters_jax.data.tables import Table
from adapters_jax.errors import DataError, unknown

PAIRS = (
    ("text", "text_pair"),
    ("text1", "text2"),
    ("text_a", "text_b"),
    ("sentence1", "sentence2"),
    ("sentence_a", "sentence_b"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("query", "passage"),
    ("question", "passage"),
    ("question", "sentence"),
)
TEXTS = tuple(
    "text sentence sentence1 text1 content document review review_body tweet comment comment_text message body "
    "utterance question query premise title description".split()
)
LABELS = tuple(
    "label labels class classes category categories target tags tag sentiment intent topic emotion score rating stars "
    "similarity similarity_score y".split()
)
IDS = ("id", "idx", "index", "guid", "uid", "uuid")
EXACT = ("text", "label", "labels", "id")
"""What says itself what it is; beside it, other usual names do not matter."""


SHOWN = 20
"""Columns in a message."""


@dataclasses.dataclass(frozen=True)
class Columns:
    """The names of a table's columns; None: there is none.

    Attributes:
      text, text_pair: of the texts.
      label: of the labels.
      id: of what rows are called in predictions.
    """

    text: str | None = None
    text_pair: str | None = None
    label: str | None = None
    id: str | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(name for name in (self.text, self.text_pair) if name is not None)

    @property
    def all(self) -> tuple[str, ...]:
        return tuple(name for name in (self.text, self.text_pair, self.label, self.id) if name is not None)


def find_columns(table: Table, told: Columns, labelled: bool = True) -> Columns:
    """The columns of a table.

    Args:
      table: its rows are not read.
      told: names that are given; the others are guessed from the usual names, whatever their case.
      labelled: whether there must be a label; else one that is told may be missing.

    Raises:
      DataError: a column that is not there, or none or several that may be meant, with the columns that there are.
    """
    unlabelled = not labelled and told.label is not None and told.label not in table.columns
    if unlabelled:
        told = dataclasses.replace(told, label=None)
    for name in told.all:
        if name not in table.columns:
            near = difflib.get_close_matches(name, table.columns, n=1) if len(table.columns) > SHOWN else []
            known = dict.fromkeys([*near, *table.columns[:SHOWN]])
            more = f"; there are {len(table.columns):,} columns" if len(table.columns) > SHOWN else ""
            raise DataError(f"{table.name}: {unknown('column', name, known)}{more}{_hint(table)}")
    if len(set(told.all)) < len(told.all):
        raise DataError(f"{table.name}: expected different columns for texts, label and id, got {', '.join(told.all)}")
    free = [name for name in table.columns if name not in told.all]
    label = None if unlabelled else told.label or _one_of(table, free, LABELS, "label", needed=labelled)
    free = [name for name in free if name != label]
    identity = told.id or _one_of(table, free, IDS, "id", needed=False)
    free = [name for name in free if name != identity]
    text, pair = told.text, told.text_pair
    if text is None and pair is None:
        text, pair = _pair(free)
    if text is None:
        # Where one column is left it is the text, whatever its name.
        text = free[0] if len(free) == 1 else _one_of(table, free, TEXTS, "text", needed=True)
    return Columns(text, pair, label, identity)


def _pair(free: Sequence[str]) -> tuple[str | None, str | None]:
    by_name = {name.lower(): name for name in free}
    found = [(by_name[a], by_name[b]) for a, b in PAIRS if a in by_name and b in by_name]
    return found[0] if len(found) == 1 else (None, None)


def _one_of(table: Table, free: Sequence[str], usual: Sequence[str], what: str, needed: bool) -> str | None:
    found = [name for name in free if name.lower() in usual]
    exact = [name for name in found if name.lower() in EXACT]
    if len(exact) == 1 or len(found) == 1:
        return exact[0] if len(exact) == 1 else found[0]
    if not needed and not found:
        return None
    if what == "id":
        return None  # a row's place in its file will do
    got = ", ".join(found) if found else "none of a usual name"
    more = f" and {len(table.columns) - SHOWN:,} more" if len(table.columns) > SHOWN else ""
    among = ", ".join(name if len(name) <= 40 else f"{name[:37]}..." for name in table.columns[:SHOWN]) or "none"
    raise DataError(
        f"{table.name}: expected one column with the {what}, got {got} among {among}{more}; name it with --{what}"
        f"{_hint(table)}"
    )


def _hint(table: Table) -> str:
    """That several columns were read as one."""
    found = [mark for mark in ";\t,|" if mark in table.columns[0]] if len(table.columns) == 1 else []
    return f"; if {found[0]!r} stands between columns, put commas (.csv) or tabs (.tsv) there" if found else ""
