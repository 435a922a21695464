"""What a user's labels mean: one class per row, any number of classes, or a value; and how much each class weighs."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from adapters_jax.data.source import Features, ListSource, Source
from adapters_jax.data.source import Kind as FeatureKind
from adapters_jax.data.tables import is_utf8
from adapters_jax.errors import ConfigError, DataError

Kind = Literal["single", "multi", "regression"]
KINDS: Mapping[Kind, FeatureKind] = {
    "single": "classification",
    "multi": "multilabel",
    "regression": "regression",
}
"""What users call them -> `Features.kind`."""
KIND_OF: Mapping[FeatureKind, Kind] = {features: kind for kind, features in KINDS.items()}
SEPARATOR = "|"
"""Between the classes of a cell, where nothing else is said."""
MOST_SINGLE = 20
"""Classes; of more than these in auto, no class may have one row on average: such labels are values or ids."""
MOST_DIGITS = 640
"""Of a number. Python can be told to refuse longer ones (`sys.set_int_max_str_digits`), and none does a class's name
need.
"""

Label = str | tuple[str, ...] | float


def is_missing(value: Any) -> bool:
    """Whether there is no label: nothing, NaN, or an empty cell."""
    return value is None or (isinstance(value, float) and math.isnan(value)) or value == ""


def find_kind(values: Sequence[Any], separator: str | None, name: str) -> Kind:
    """What labels are, by their looks: lists, or any in a table with a separator, are several classes; numbers of
    which one has a fraction or a decimal point are values; others are classes.

    Args:
      values: those that are there.
      separator: where the user named one.
      name: of the table, for messages.

    Raises:
      DataError: lists beside others, or nearly as many classes as rows.
    """
    lists = [isinstance(value, list | tuple) for value in values]
    if any(lists) or separator is not None:
        if any(lists) and not all(lists) and separator is None:
            other = values[lists.index(False)]
            raise DataError(f"{name}: expected labels of one kind, got lists and {other!r:.60}; give --label-separator")
        return "multi"
    if values and all(_is_number(value) for value in values) and not all(_is_whole(value) for value in values):
        return "regression"
    classes = {str(value).strip() for value in values}
    if len(classes) > max(MOST_SINGLE, len(values) // 2):
        raise DataError(
            f"{name}: expected classes that recur, got {len(classes):,} different labels in {len(values):,} rows, "
            f"such as {min(classes)!r:.40}; choose another --label, or --kind=regression or single"
        )
    return "single"


def read_label(value: Any, kind: Kind, separator: str | None, classes: Sequence[str] = ()) -> Label:
    """A label as its kind has it: a class's name, a tuple of names, or a value.

    Args:
      value: as the table has it; not missing.
      kind: what it is to be.
      separator: between the classes of a cell; `SEPARATOR` if not given.
      classes: their names, where labels are their numbers.

    Raises:
      ValueError: it cannot be read so: "expected ..., got ...".
    """
    if kind == "regression":
        try:
            found = math.nan if isinstance(value, bool) or not isinstance(value, str | int | float) else float(value)
        except (ValueError, OverflowError):
            found = math.nan
        if not math.isfinite(found) or abs(found) > float(np.finfo(np.float32).max):
            raise ValueError(f"expected a number as the label, got {value!r:.60}")
        return found
    if kind == "single":
        return _class(value, classes)
    between = separator or SEPARATOR
    if isinstance(value, str):
        value = value.split(between) if value.strip() else []
    if not isinstance(value, list | tuple):
        raise ValueError(f"expected a list of classes, or their names with {between!r} between them, got {value!r:.60}")
    return tuple(sorted({_class(one, classes) for one in value}))


def _class(value: Any, classes: Sequence[str]) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # 1.0, which a column with a gap in it makes of 1
    if isinstance(value, int):
        if not classes:
            return str(value)
        if 0 <= value < len(classes):
            return classes[value]
        raise ValueError(f"expected the number of one of {len(classes)} classes, got {value}")
    if isinstance(value, str) and value.strip() and is_utf8(value):
        return value.strip()
    raise ValueError(f"expected the name or number of a class, got {value!r:.60}")


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """The different names, sorted: as numbers where all are, of at most MOST_DIGITS."""
    different = set(names)
    number = lambda name: name.removeprefix("-").isdecimal() and name.isascii() and len(name) <= MOST_DIGITS
    whole = all(map(number, different))
    return tuple(sorted(different, key=lambda name: (int(name), name) if whole else (0, name)))


def counts_of(source: Source) -> dict[str, int]:
    """The number of rows of each class, in the classes' order; {} for values."""
    labels = source.features.labels
    found = Counter[int]()
    for row in range(len(source)):
        label = source[row].get("label")
        found.update(label if isinstance(label, tuple) else () if label is None or not labels else (label,))
    return {name: found[number] for number, name in enumerate(labels)}


def balanced(source: Source) -> dict[str, float]:
    """The weight of each class that makes all of them count alike, as scikit-learn's `class_weight="balanced"`.

    One class per row: rows / (classes that occur * rows of the class), for rows of the class. Several: rows without the
    class / rows with it, for rows with it (`heads.MultiLabel.positive_weights`); at least 1 row without is assumed.

    Raises:
      ConfigError: the labels are values.
    """
    counts, rows = counts_of(source), len(source)
    if source.features.kind == "regression":
        raise ConfigError("--class-weights: expected classes, got values; leave it out for a regression")
    if source.features.kind == "multilabel":
        return {name: max(rows - count, 1) / count if count else 1.0 for name, count in counts.items()}
    present = sum(count > 0 for count in counts.values())
    return {name: rows / (present * count) for name, count in counts.items() if count}


def weighted(source: Source, weights: Mapping[str, float]) -> ListSource:
    """The same rows, each with its class's weight: how much it counts in the loss. One class per row."""
    features: Features = source.features
    rows = [source[row] for row in range(len(source))]
    return ListSource([row | {"weight": weights[features.labels[row["label"]]]} for row in rows], features, source.name)


def _is_number(value: Any) -> bool:
    if isinstance(value, str):
        try:
            return math.isfinite(float(value))
        except ValueError:
            return False
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    """Whether a number is written as a whole one."""
    if isinstance(value, str):
        return value.strip().removeprefix("-").isdecimal()
    return isinstance(value, int)
