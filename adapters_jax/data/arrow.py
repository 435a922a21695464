"""Tables that pyarrow reads: Parquet, and folders of Arrow files as `datasets.save_to_disk` writes them.

A saved set is a folder with state.json (which names its Arrow files) and dataset_info.json; a saved dict of sets has
dataset_dict.json and such a folder for each split. The package `datasets` is not needed.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from adapters_jax.data.bad import BadRows
from adapters_jax.data.tables import Row, Table
from adapters_jax.errors import ConfigError, DataError, unknown

CHUNK = 4096
"""Rows that are Python objects at a time."""
END = b"\xff\xff\xff\xff\0\0\0\0"
"""Of a stream of Arrow data. Source: Arrow columnar format, IPC streaming format."""
STATE, INFO, SPLITS = "state.json", "dataset_info.json", "dataset_dict.json"


def read_parquet(file: str | Path, bad: BadRows) -> Table:
    """A Parquet file; rows are numbered from 1.

    Raises:
      DataError: a file that is missing, unreadable or no Parquet.
      ConfigError: pyarrow is not installed.
    """
    parquet, path = _pyarrow("pyarrow.parquet"), Path(file)
    try:
        schema = parquet.read_schema(path)
        columns, classes = tuple(schema.names), _classes(_stored_info(schema.metadata))
    except OSError as error:
        raise DataError(f"{path}: expected a readable Parquet file, got: {error.strerror or _line(error)}") from None
    except Exception as error:  # of damaged files pyarrow raises nearly anything
        raise DataError(f"{path}: expected a Parquet file, got: {_line(error)}") from None

    def rows(names: Sequence[str]) -> Iterator[Row]:
        try:
            with parquet.ParquetFile(path) as opened:
                yield from _rows(path, opened.iter_batches(CHUNK, columns=list(names)), bad)
        except DataError:
            raise
        except Exception as error:
            raise DataError(f"{path}: expected a Parquet file, got: {_line(error)}") from None

    return Table(path.name, columns, rows, classes)


def is_saved(folder: Path) -> bool:
    """Whether a folder is one that `datasets.save_to_disk` wrote, with or without splits."""
    return (folder / STATE).is_file() or (folder / SPLITS).is_file()


def splits_of(folder: Path) -> tuple[str, ...]:
    """The splits of a saved dict of sets; () for a saved set.

    Raises:
      DataError: dataset_dict.json is damaged.
    """
    if not (folder / SPLITS).is_file():
        return ()
    splits = _json(folder / SPLITS).get("splits")
    if not isinstance(splits, list) or not splits or not all(isinstance(name, str) for name in splits):
        raise DataError(f"{folder / SPLITS}: expected a list of splits, got {splits!r:.80}; save the set again")
    return tuple(splits)


def read_saved(folder: str | Path, bad: BadRows, split: str | None = None) -> Table:
    """A set that `datasets.save_to_disk` wrote; rows are numbered from 1.

    Args:
      folder: of a set, or of a dict of sets.
      bad: what to do with rows that cannot be used.
      split: of a dict, the name.

    Raises:
      DataError: files that are missing or damaged, no such split, or a set with an indices file.
      ConfigError: pyarrow is not installed.
    """
    path = Path(folder)
    if splits := splits_of(path):
        if split not in splits:
            raise DataError(f"{path}: {unknown('split', str(split), splits)}")
        path = path / split
    pyarrow = _pyarrow("pyarrow")
    state = _json(path / STATE)
    files = state.get("_data_files")
    listed = [each.get("filename") for each in files if isinstance(each, dict)] if isinstance(files, list) else []
    names = [name for name in listed if isinstance(name, str) and Path(name).name == name]
    if not names or names != listed:
        raise DataError(
            f"{path / STATE}: expected the names of Arrow files beside it, got {files!r:.80}; save it again"
        )
    if state.get("_indices_data_files"):
        raise DataError(f"{path}: expected a set without indices, got one; call flatten_indices() and save it again")
    info = _json(path / INFO) if (path / INFO).is_file() else {}
    try:
        with pyarrow.memory_map(str(path / names[0])) as source:
            schema = pyarrow.ipc.open_stream(source).schema
    except Exception as error:
        raise DataError(f"{path / names[0]}: expected a stream of Arrow data, got: {_line(error)}") from None

    def batches(file: Path, wanted: Sequence[str]) -> Iterator[Any]:
        with pyarrow.memory_map(str(file)) as source:
            source.seek(max(source.size() - len(END), 0))
            if source.read() != END:  # cut between two batches it would end like a whole one
                raise ValueError("a file without its end")
            source.seek(0)
            for batch in pyarrow.ipc.open_stream(source):
                # Streams of thousands of rows a batch are cut, so that few rows are Python objects at a time.
                for start in range(0, batch.num_rows, CHUNK):
                    yield batch.slice(start, CHUNK).select(list(wanted))

    def rows(wanted: Sequence[str]) -> Iterator[Row]:
        count = 0
        for name in names:
            try:
                for row in _rows(path, batches(path / name, wanted), bad, count):
                    yield row
                    count = row.line or 0
            except DataError:
                raise
            except Exception as error:
                raise DataError(f"{path / name}: expected a stream of Arrow data, got: {_line(error)}") from None

    classes = _classes(info.get("features")) or _classes(_stored_info(schema.metadata))
    name = f"{Path(folder).name}/{split}" if splits else path.name
    return Table(name, tuple(schema.names), rows, classes)


def _rows(place: Path, batches: Iterator[Any], bad: BadRows, before: int = 0) -> Iterator[Row]:
    """Rows of record batches, numbered from `before` + 1."""
    number = before
    for batch in batches:
        try:
            values = batch.to_pylist()
        except UnicodeDecodeError:  # one of the texts; the others are not to be lost with it
            values = [_one(batch, index) for index in range(batch.num_rows)]
        for row in values:
            number += 1
            if isinstance(row, UnicodeDecodeError):
                bad.found(place, number, f"expected UTF-8, got the byte 0x{row.object[row.start]:02x}")
            else:
                yield Row(str(place), number, row, str(number))


def _one(batch: Any, index: int) -> Any:
    try:
        return batch.slice(index, 1).to_pylist()[0]
    except UnicodeDecodeError as error:
        return error


def _classes(features: Any) -> dict[str, tuple[str, ...]]:
    """The names of classes, by column, of a description of features as `datasets` writes it."""
    found = {}
    for column, feature in features.items() if isinstance(features, Mapping) else ():
        if isinstance(feature, list) and feature:
            feature = feature[0]
        if isinstance(feature, Mapping) and isinstance(feature.get("feature"), Mapping):
            feature = feature["feature"]  # of a list of them
        names = feature.get("names") if isinstance(feature, Mapping) else None
        if isinstance(names, list) and all(isinstance(name, str) for name in names):
            found[column] = tuple(names)
    return found


def _stored_info(metadata: Mapping[bytes, bytes] | None) -> Any:
    """The features that `datasets` keeps in a schema."""
    try:
        return json.loads((metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return None


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise DataError(f"{path}: expected a saved data set's description, got: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: expected JSON, got: {_line(error)}; save the set again") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected a JSON object, got {type(content).__name__}; save the set again")
    return content


def _line(error: Exception) -> str:
    return f"{' '.join(str(error).split()):.160}" or type(error).__name__


def _pyarrow(module: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError:
        raise ConfigError(
            "Parquet and Arrow files: expected pyarrow to read them, got none; pip install pyarrow"
        ) from None
