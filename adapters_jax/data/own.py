"""The user's own rows: texts and labels from the columns of a table, whatever it is stored in (`places`).

bad = BadRows("skip")
own = read_own(open_table("train.csv", bad), Form(), bad)
dev = read_own(open_table("dev.csv", bad), own.form, bad, like=own.source.features)
other = Form.of(manifest["extra"]["form"])              # to read another file as these were
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from adapters_jax.data.bad import BadRows
from adapters_jax.data.columns import Columns, find_columns
from adapters_jax.data.labels import KIND_OF, KINDS, Kind, Label, find_kind, in_order, is_missing, read_label
from adapters_jax.data.source import Features, ListSource
from adapters_jax.data.tables import Row, Table, is_utf8
from adapters_jax.errors import ConfigError, DataError, unknown


@dataclasses.dataclass(frozen=True)
class Form:
    """How rows are read: all that is needed to read others in the same way.

    Attributes:
      columns: their names; those that are None are guessed.
      kind: of the labels; None: by their looks.
      separator: between the classes of a cell.
    """

    columns: Columns = dataclasses.field(default_factory=Columns)
    kind: Kind | None = None
    separator: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> "Form":
        """What `to_dict` gave.

        Raises:
          ConfigError: something else.
        """
        try:
            given = dict(stored)
            form = cls(**given | {"columns": Columns(**given["columns"])})
        except (TypeError, KeyError, ValueError):
            raise ConfigError(f"form of the rows: expected columns, kind and separator, got {stored!r:.120}") from None
        texts = [*dataclasses.astuple(form.columns), form.separator]
        if form.kind not in (None, *KINDS) or not all(text is None or isinstance(text, str) for text in texts):
            raise ConfigError(f"form of the rows: expected columns, kind and separator, got {stored!r:.120}")
        return form


class Own(NamedTuple):
    """Rows, how they were read, with nothing left to guess, and the same in lines for people."""

    source: ListSource
    form: Form
    read: tuple[str, ...]


def text_of(row: Row, column: str, bad: BadRows) -> str | None:
    """The text in a column; None where the row is bad: none, an empty one, or no text."""
    value = row.values.get(column)
    if isinstance(value, str) and value.strip():
        return value
    got = "an empty one" if isinstance(value, str) else "none" if value is None else f"{value!r:.60}"
    bad.found(row.place, row.line, f"expected a text in column {column!r}, got {got}")
    return None


def read_own(table: Table, told: Form, bad: BadRows, like: Features | None = None, labelled: bool = True) -> Own:
    """The rows of a table.

    Args:
      table: see `open_table`.
      told: how to read them; what it leaves open is found out.
      bad: what to do with rows that cannot be used: no text, no label, one that cannot be read, or an unknown one.
      like: the features of the rows trained on: they say the kind of the labels, and other labels are bad rows.
      labelled: whether there must be labels; else they may be missing, but from all rows or none.

    Raises:
      DataError: no rows, columns that are not there or cannot be guessed, another kind than that of `like`; under
        "error" a bad row.
    """
    if like is not None and told.kind not in (None, KIND_OF[like.kind]):
        raise DataError(f"{table.name}: expected labels of the kind trained on, {KIND_OF[like.kind]}, got {told.kind}")
    columns = find_columns(table, told.columns, labelled)
    usable, named = [], columns.texts
    for row in table.rows(columns.all):
        texts = [text_of(row, name, bad) for name in named]
        if None not in texts:
            usable.append((row, texts))
    _check_any(table, usable, bad)
    values = [row.values.get(columns.label) for row, _ in usable] if columns.label is not None else []
    classes = table.classes.get(columns.label or "", ())
    # Sets whose labels are kept back have -1 in their place.
    values = [None if classes and isinstance(value, int) and value < 0 else value for value in values]
    kind = told.kind if like is None else KIND_OF[like.kind]
    if kind is None and values:
        kind = find_kind([value for value in values if not is_missing(value)], told.separator, table.name)
    if not labelled and all(is_missing(value) and (value is None or kind != "multi") for value in values):
        values = []
    read = _described(columns, kind if values else None)
    if told.columns.id is None and columns.id is not None:
        identity, why = _guessed_ids([row for row, _ in usable], columns.id)
        read += (why,) if why else ()
    else:
        identity = _ids([row for row, _ in usable], columns.id, bad)
    known = None if like is None or like.kind == "regression" else dict.fromkeys(like.labels)
    rows: list[dict[str, Any]] = []
    for number, (row, texts) in enumerate(usable):
        found: dict[str, Any] = dict(zip(("text", "text_pair"), texts, strict=False))
        if (name := identity[number]) is None:
            continue
        if values:
            assert kind is not None
            if (label := _label(row, values[number], kind, told.separator, classes, known, bad)) is None:
                continue
            found["label"] = label
        rows.append(found | {"id": name})
    _check_any(table, rows, bad)
    features = _features(table, rows, columns, kind, like)
    if features.labels:
        number_of = {name: number for number, name in enumerate(features.labels)}
        for found in rows:
            if "label" in found:
                label = found["label"]
                several = isinstance(label, tuple)
                found["label"] = tuple(sorted(number_of[one] for one in label)) if several else number_of[label]
    # A guessed column of ids is not in the form: another file need not have it.
    found_columns = dataclasses.replace(columns, id=told.columns.id)
    return Own(ListSource(rows, features, table.name), Form(found_columns, kind, told.separator), read)


def _check_any(table: Table, rows: Sequence[Any], bad: BadRows) -> None:
    if not rows:
        raise DataError(f"{table.name}: expected at least one row that can be used, got none; {bad.summary()}")


def _described(columns: Columns, kind: Kind | None) -> tuple[str, ...]:
    """Which columns were taken for what."""
    named = [(what, name) for what, name in dataclasses.asdict(columns).items() if name is not None and what != "id"]
    found = [f"{what} from {name!r:.40}" for what, name in named if what != "label" or kind is not None]
    return (", ".join(found) + (f" ({kind})" if kind is not None else ""),)


def _ids(rows: Sequence[Row], column: str | None, bad: BadRows) -> list[str | None]:
    """What each row is called, by its column or else its place; None for bad rows, as each must have another."""
    first: dict[str, int | None] = {}
    names: list[str | None] = []
    for row in rows:
        name = row.id if column is None else _id(row, column)
        if name is None:
            bad.found(
                row.place, row.line, f"expected an id in column {column!r}, got {row.values.get(column or '')!r:.60}"
            )
        elif name in first:
            bad.found(
                row.place, row.line, f"expected another id in each row, got {name!r:.60} as in line {first[name]}"
            )
            name = None
        else:
            first[name] = row.line
        names.append(name)
    return names


def _guessed_ids(rows: Sequence[Row], column: str) -> tuple[list[str | None], str]:
    """What each row is called: by its column if all have another id, else by its place, and why."""
    first: dict[str, int | None] = {}
    for row in rows:
        name = _id(row, column)
        if name is None or name in first:
            got = f"{row.values.get(column)!r:.60} stands in line {row.line}"
            got = got if name is None else f"{name!r:.60} stands in lines {first[name]} and {row.line}"
            return [row.id for row in rows], f"column {column}: {got}, rows are named by line"
        first[name] = row.line
    return list(first), ""


def _id(row: Row, column: str) -> str | None:
    value = row.values.get(column)
    return str(value) if isinstance(value, str | int) and value != "" and is_utf8(str(value)) else None


def _label(
    row: Row,
    value: Any,
    kind: Kind,
    separator: str | None,
    classes: Sequence[str],
    known: Mapping[str, None] | None,
    bad: BadRows,
) -> Label | None:
    """None where the row is bad."""
    if value is None or (is_missing(value) and kind != "multi"):
        bad.found(row.place, row.line, "expected a label, got none")
        return None
    try:
        label = read_label(value, kind, separator, classes)
    except ValueError as error:
        bad.found(row.place, row.line, str(error))
        return None
    several = label if isinstance(label, tuple) else (label,)
    strange = [str(name) for name in several if name not in known] if known is not None else []
    if known is not None and strange:
        hint = lambda: f"expected a label of the rows to train on: {unknown('label', strange[0], known)}"
        bad.found(row.place, row.line, hint)
        return None
    return label


def _features(
    table: Table, rows: Sequence[Mapping[str, Any]], columns: Columns, kind: Kind | None, like: Features | None
) -> Features:
    texts = ("text", "text_pair")[: len(columns.texts)]
    if like is not None:
        if like.columns != texts:
            raise DataError(f"{table.name}: expected {len(like.columns)} text columns, got {len(texts)}")
        return like
    if kind is None or kind == "regression":
        return Features(texts, (), "classification" if kind is None else "regression")
    labels = [row["label"] for row in rows if "label" in row]
    names = in_order(one for label in labels for one in (label if isinstance(label, tuple) else (label,)))
    least = 1 if kind == "multi" else 2
    if labels and len(names) < least:
        got = f"only {names[0]!r:.40}" if names else "none"
        raise DataError(f"{table.name}: expected labels of at least {least} classes, got {got}; choose another --label")
    return Features(texts, names, KINDS[kind])
