"""Sets that TensorFlow Datasets prepared as ArrayRecord, read without TensorFlow and the set's own code."""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from adapters_jax.data.bad import BadRows
from adapters_jax.data.source import Features
from adapters_jax.data.tables import Row, Table
from adapters_jax.errors import DataError, unknown

READABLE = "array_record"
DEFAULT_DIR = "~/tensorflow_datasets"
INFO = "dataset_info.json"


def prepared(data_dir: Path, config: str) -> Path | None:
    """The newest prepared version of `glue/<config>` under a TFDS folder, or under its `glue` folder; None if none is.

    A version folder counts if it holds `dataset_info.json`, which TFDS writes last.
    """
    return _newest(data_dir / "glue" / config) or _newest(data_dir / config)


def find(name: str, data_dir: Path) -> Path:
    """The newest prepared version of a set.

    Args:
      name: as TFDS has it, `imdb_reviews` or `glue/sst2`, or the folder of one version; a configuration that is the
        only one prepared may be left out.
      data_dir: where sets are prepared.

    Raises:
      DataError: there is none, or several configurations.
    """
    if (Path(name).expanduser() / INFO).is_file():
        return Path(name).expanduser()
    if (found := _newest(data_dir / name)) is not None:
        return found
    configs = sorted({path.parent.parent for path in (data_dir / name).glob(f"*/*/{INFO}")})
    if len(configs) == 1:
        found = _newest(configs[0])
        assert found is not None
        return found
    if configs:
        raise DataError(
            f"tfds:{name}: expected one of its configurations, {', '.join(f'{name}/{c.name}' for c in configs)}"
        )
    raise DataError(
        f"tfds:{name}: expected a prepared set in {data_dir}, got none; prepare it with "
        f"`tfds build {name} --file_format={READABLE}`, or say where it is with --tfds-dir"
    )


def _newest(root: Path) -> Path | None:
    found = [path.parent for path in root.glob(f"*/{INFO}")]
    version = lambda path: [int(part) if part.isdigit() else -1 for part in path.name.split(".")]
    return max(found, key=version, default=None)


def readable(folder: Path) -> bool:
    """Whether a prepared set is in the random-access format."""
    return _info(folder).get("fileFormat") == READABLE


def splits(folder: Path) -> tuple[str, ...]:
    """The names of a prepared set's splits."""
    return tuple(split["name"] for split in _info(folder).get("splits", ()))


def open_tfds(
    folder: Path,
    split: str,
    texts: Sequence[str],
    features: Features,
    file_labels: Sequence[str] = (),
) -> "TfdsSource":
    """A split of a prepared set.

    Args:
      folder: of one version, as `prepared` gives it.
      split: its name in TFDS, e.g. "validation_matched".
      texts: TFDS's names of the text columns.
      features: the labels' names and order wanted; TFDS's own class numbers are mapped to them by name.
      file_labels: other names of the same labels, in the same order.

    Raises:
      DataError: another file format, no such split or column, other class names, a damaged set.
    """
    described, rows = _open(folder, split)
    columns = list(described)
    for column in (*texts, "label"):
        if column not in columns:
            raise DataError(f"{folder}: {unknown('column', column, columns)}")
    names = getattr(described["label"], "names", None) or []
    order = _order(folder, names, features, file_labels)
    source = TfdsSource(rows, tuple(texts), features, order, f"glue/{folder.parent.name}/{split}", folder)
    if len(source) == 0:
        raise DataError(f"{folder}: expected rows in the split {split}, got none; prepare it again")
    source[0], source[len(source) - 1]  # files that are missing or cut are noticed now
    return source


def read_table(folder: Path, split: str, bad: BadRows) -> Table:
    """A split of any prepared set as a table; rows are numbered from 1.

    Raises:
      DataError: another file format, no such split, a damaged set.
    """
    described, data = _open(folder, split)
    classes: dict[str, tuple[str, ...]] = {}
    for column, feature in described.items():
        names = getattr(feature, "names", None) or getattr(getattr(feature, "feature", None), "names", None)
        classes |= {column: tuple(names)} if names else {}

    def rows(wanted: Sequence[str]) -> Iterator[Row]:
        for number in range(len(data)):
            try:
                row = data[number]
                values = {name: _plain(row[name]) for name in wanted}
            except UnicodeDecodeError as error:
                bad.found(folder, number + 1, f"expected UTF-8, got the byte 0x{error.object[error.start]:02x}")
                continue
            except (RuntimeError, AttributeError, TypeError, ValueError, KeyError) as error:
                raise DataError(f"{folder}: expected row {number + 1} of {split}, got {error!s:.200}") from error
            yield Row(f"{folder}#{split}", number + 1, values, str(number + 1))

    name = "/".join(part for part in folder.parts[-3:-1])
    return Table(f"{name}/{split}", tuple(described), rows, classes)


def _plain(value: Any) -> Any:
    """Bytes as text, numbers and arrays as Python has them."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value.decode("utf-8") if isinstance(value, bytes) else value


def _open(folder: Path, split: str) -> tuple[Any, Any]:
    """The description of a prepared set's columns, the rows of one split."""
    if not readable(folder):
        info = _info(folder)
        form = info.get("fileFormat", "unknown")
        name = "/".join(str(info[key]) for key in ("name", "configName") if info.get(key)) or "NAME"
        raise DataError(
            f"{folder}: expected a set prepared as {READABLE}, got {form}; prepare it again with "
            f"`tfds build {name} --file_format={READABLE}`"
        )
    from tensorflow_datasets import builder_from_directory

    try:
        builder = builder_from_directory(folder)
        known = list(builder.info.splits)
        if split not in known:
            raise DataError(f"{folder}: {unknown('split', split, known)}")
        return builder.info.features, builder.as_data_source(split)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{folder}: expected a prepared TFDS set, got {error!s:.200}; prepare it again") from error


@dataclasses.dataclass(frozen=True)
class TfdsSource:
    """Rows of a TFDS data source in this library's form; -1, TFDS's label for "none", gives a row without a label."""

    rows: Any
    texts: tuple[str, ...]
    features: Features
    order: Mapping[int, int]
    name: str
    folder: Path

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            row = self.rows[int(index)]
            texts = [row[name].decode("utf-8") for name in self.texts]
            label = float(row["label"])
        except (RuntimeError, AttributeError, TypeError, ValueError) as error:
            # ArrayRecord raises the first for a missing file; of a cut one it gives rows without content.
            raise DataError(f"{self.folder}: expected row {index} of {self.name}, got {error!s:.200}") from error
        result = {"id": str(row.get("idx", index))} | dict(zip(self.features.columns, texts, strict=True))
        if label < 0:
            return result
        return result | {"label": label if self.features.kind == "regression" else self.order[int(label)]}


def _order(folder: Path, names: Sequence[str], features: Features, file_labels: Sequence[str]) -> dict[int, int]:
    """TFDS's class number -> ours."""
    if features.kind == "regression":
        return {}
    for ours in (features.labels, tuple(file_labels)):
        if sorted(names) == sorted(ours):
            return {i: ours.index(name) for i, name in enumerate(names)}
    raise DataError(f"{folder}: expected the classes {', '.join(features.labels)}, got {', '.join(names) or 'none'}")


def _info(folder: Path) -> dict[str, Any]:
    path = folder / INFO
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: expected TFDS's description, got {error!s:.120}; prepare it again") from None
