"""What every data set looks like to the rest of the library: a length, rows by number, a description of the columns.

A `Source` is also a `grain.sources.RandomAccessDataSource`. Its rows are plain dicts::

    {"text": str, "text_pair": str, "label": int | float | tuple[int, ...], "id": str, "weight": float}

text_pair, label, id and weight where there are any.
"""

import dataclasses
import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from adapters_jax.errors import ConfigError, DataError, unknown

COLUMNS = ("text", "text_pair", "label", "id", "weight")
Kind = Literal["classification", "regression", "multilabel"]


@dataclasses.dataclass(frozen=True)
class Features:
    """The columns of a source.

    Attributes:
      columns: the text columns, `("text",)` or `("text", "text_pair")`.
      labels: the class names by class number; empty for regression.
      kind: what the labels are: class numbers, real values, or in each row any number of class numbers.
    """

    columns: tuple[str, ...] = ("text",)
    labels: tuple[str, ...] = ()
    kind: Kind = "classification"


@runtime_checkable
class Source(Protocol):
    """Rows by number. `name` is for logs and for the names of cached files."""

    @property
    def features(self) -> Features: ...

    @property
    def name(self) -> str: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...


@dataclasses.dataclass(frozen=True)
class ListSource:
    """Rows in memory; their labels are class numbers or values already."""

    rows: Sequence[Mapping[str, Any]]
    features: Features
    name: str = "rows"

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return dict(self.rows[index])


@dataclasses.dataclass(frozen=True)
class Subset:
    """Some rows of another source, in the given order."""

    source: Source
    indices: np.ndarray
    name: str

    @property
    def features(self) -> Features:
        return self.source.features

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.source[int(self.indices[index])]


@dataclasses.dataclass(frozen=True)
class Splits:
    """What a task is trained, evaluated and tested on.

    Attributes:
      train: labelled rows to train on.
      evals: labelled rows to evaluate on, by the suffix of their metrics' names: `""` is the main one that chooses the
        best step, `"mismatched"` gives `accuracy_mismatched`.
      tests: rows without labels, by the same suffixes; empty where there is no test file.
    """

    train: Source
    evals: Mapping[str, Source]
    tests: Mapping[str, Source] = dataclasses.field(default_factory=dict)


def take(source: Source, n: int | None, seed: int = 0) -> Source:
    """A fixed sample of `n` rows, in the source's order: the same for the same length and seed, whatever is trained.

    A larger sample of the same seed holds the smaller one. `n` of None, or not below the number of rows, gives all.

    Raises:
      ConfigError: n is below 1.
    """
    if n is None or n >= len(source):
        return source
    if n < 1:
        raise ConfigError(f"number of rows to take: expected at least 1, got {n}")
    # RandomState's streams are frozen for good (NEP 19), those of numpy's newer generators are not.
    chosen = np.sort(np.random.RandomState(seed).permutation(len(source))[:n])
    return Subset(source, chosen, f"{source.name}[{n} of {len(source)}, seed {seed}]")


def as_source(rows: object, like: Features | None = None, name: str = "rows") -> Source:
    """A list of dicts as a source; a source passes through.

    Labels that are strings are classes, numbered in sorted order; whole numbers are class numbers; other numbers make
    it a regression; lists of strings are classes of which a row may have several, or none.

    Args:
      rows: a source, or dicts with "text" and, where there are any, "text_pair", "label", "id" and "weight" (how much
        the row counts in the loss).
      like: the features of the rows trained on, so that dev rows get the same class numbers even if a class is missing
        among them.
      name: for logs.

    Raises:
      DataError: no rows, a missing or unknown column, a text that is not a string, labels of several kinds, a label
        that `like` lacks, or a source whose labels differ from those of `like`.
    """
    if not isinstance(rows, Sequence):
        if not isinstance(rows, Source):
            raise DataError(f"{name}: expected a list of dicts or a source with features, got {type(rows).__name__}")
        if like is not None and (rows.features.kind, rows.features.labels) != (like.kind, like.labels):
            raise DataError(
                f"{rows.name}: expected {like.kind} with the labels {list(like.labels)}, "
                f"got {rows.features.kind} with {list(rows.features.labels)}"
            )
        return rows
    if len(rows) == 0:
        raise DataError(f"{name}: expected at least one row, got an empty list")
    for i, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise DataError(f"{name}, row {i}: expected a dict such as {{'text': ...}}, got {row!r:.80}")
    columns = _columns(rows, name)
    labels = [row.get("label") for row in rows]
    features = Features(columns, *(_label_kind(labels, name) if like is None else (like.labels, like.kind)))
    return ListSource([_row(row, i, features, name) for i, row in enumerate(rows)], features, name)


def _columns(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[str, ...]:
    columns = ("text", "text_pair") if "text_pair" in rows[0] else ("text",)
    labelled = "label" in rows[0]
    for i, row in enumerate(rows):
        for key in row:
            if key not in COLUMNS:
                raise DataError(f"{name}, row {i}: {unknown('column', str(key), COLUMNS)}")
        alike = ("label" in row) == labelled and ("weight" in row) == ("weight" in rows[0])
        if not alike or ("text_pair" in row) != (len(columns) == 2):
            raise DataError(f"{name}, row {i}: expected the columns of row 0, {sorted(rows[0])}, got {sorted(row)}")
        for column in columns:
            if not isinstance(row.get(column), str):
                raise DataError(f"{name}, row {i}: expected {column!r} to be a string, got {row.get(column)!r:.80}")
    return columns


def _label_kind(labels: Sequence[Any], name: str) -> tuple[tuple[str, ...], Kind]:
    present = [label for label in labels if label is not None]
    if present and all(isinstance(label, list | tuple) for label in present):
        names = {one for label in present for one in label}
        if not names or not all(isinstance(one, str) for one in names):
            raise DataError(f"{name}: expected lists of names as labels, some not empty, got {present[0]!r:.80}")
        return tuple(sorted(names)), "multilabel"
    if all(isinstance(label, str) for label in present):
        return tuple(sorted(set(present))), "classification"
    if all(isinstance(label, numbers.Integral) for label in present):
        if min(present) < 0:
            raise DataError(f"{name}: expected class numbers from 0, got {min(present)}")
        return tuple(str(i) for i in range(int(max(present)) + 1)), "classification"
    if all(isinstance(label, numbers.Real) for label in present):
        return (), "regression"
    kinds = sorted({type(label).__name__ for label in present})
    raise DataError(f"{name}: expected labels of one kind (names, class numbers or values), got {', '.join(kinds)}")


def _row(row: Mapping[str, Any], i: int, features: Features, name: str) -> dict[str, Any]:
    label = row.get("label")
    texts = {column: row[column] for column in features.columns} | {"id": str(row.get("id", i))}
    if "weight" in row:
        if not isinstance(row["weight"], numbers.Real) or not 0 < float(row["weight"]) < math.inf:
            raise DataError(f"{name}, row {i}: expected a weight above 0, got {row['weight']!r:.80}")
        texts["weight"] = float(row["weight"])
    if label is None:
        return texts
    if features.kind == "multilabel":
        given = label if isinstance(label, list | tuple) else [label]
        for one in given:
            if one not in features.labels:
                raise DataError(f"{name}, row {i}: {unknown('label', str(one), features.labels)}")
        return texts | {"label": tuple(sorted({features.labels.index(one) for one in given}))}
    if features.kind == "regression":
        if not isinstance(label, numbers.Real) or not math.isfinite(label):
            raise DataError(f"{name}, row {i}: expected a finite number as the label, got {label!r}")
        return texts | {"label": float(label)}
    if isinstance(label, str):
        if label not in features.labels:
            raise DataError(f"{name}, row {i}: {unknown('label', label, features.labels)}")
        return texts | {"label": features.labels.index(label)}
    if not isinstance(label, numbers.Integral) or not 0 <= int(label) < len(features.labels):
        raise DataError(f"{name}, row {i}: expected a class number below {len(features.labels)}, got {label!r}")
    return texts | {"label": int(label)}
