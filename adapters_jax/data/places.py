"""Where the user's own rows are: files by their ending, folders, prepared sets; each becomes a `Table`."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from adapters_jax.data import arrow, tfds
from adapters_jax.data.bad import MOST_BYTES, BadRows, not_utf8
from adapters_jax.data.tables import Row, Table, read_delimited, read_jsonl
from adapters_jax.errors import DataError, unknown

READERS = {
    ".csv": read_delimited,
    ".tsv": read_delimited,
    ".tab": read_delimited,
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".parquet": arrow.read_parquet,
    ".pq": arrow.read_parquet,
}
"""By a file's ending."""
ROLES: Mapping[str, tuple[str, ...]] = {
    "train": ("train",),
    "dev": ("validation", "dev", "valid", "val", "eval"),
    "test": ("test",),
}
"""What rows are for -> the usual names of that split, where a place has several."""
PREPARED = "tfds:"


def open_table(where: str, bad: BadRows, role: str = "train", tfds_dir: str | Path = tfds.DEFAULT_DIR) -> Table:
    """The table at a place: a .csv, .tsv, .jsonl or .parquet file, a folder with a sub-folder of .txt files for each
    class, one that `datasets.save_to_disk` wrote, or `tfds:NAME`, a prepared set.

    Args:
      where: its path or name. Where it has several splits, `#NAME` behind it chooses one.
      bad: what to do with rows that cannot be used.
      role: a key of `ROLES`: which split is meant where none is named.
      tfds_dir: where prepared sets are.

    Raises:
      DataError: nothing there, of no known form, damaged, or no such split; under "error" a bad row.
      ConfigError: a package that reads it is missing.
    """
    place, sharp, split = (where, "", "") if Path(where).exists() else where.partition("#")
    if where.startswith(PREPARED):
        folder = tfds.find(place.removeprefix(PREPARED), Path(tfds_dir).expanduser())
        return tfds.read_table(folder, _split(where, split, tfds.splits(folder), role), bad)
    path = Path(place).expanduser()
    if path.is_dir() and arrow.is_saved(path):
        splits = arrow.splits_of(path)
        if splits:
            return arrow.read_saved(path, bad, _split(where, split, splits, role))
        if not sharp:
            return arrow.read_saved(path, bad)
    if sharp:
        raise DataError(f"{where}: expected a place with splits before the #, got one without; leave out #{split}")
    if path.is_dir():
        return read_folder(path, bad)
    if not path.exists():
        raise DataError(f"{where}: expected a file or folder, got nothing there")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{where}: expected a file that ends in {', '.join(READERS)}, got {path.suffix or 'no ending'}")
    return reader(path, bad)


def _split(where: str, split: str, splits: Sequence[str], role: str) -> str:
    if split:
        if split not in splits:
            raise DataError(f"{where}: {unknown('split', split, splits)}")
        return split
    found = [name for name in ROLES[role] if name in splits]
    if not found:
        raise DataError(
            f"{where}: expected a split named {' or '.join(ROLES[role])}, got {', '.join(splits)}; choose one by "
            "#NAME behind the place"
        )
    return found[0]


def read_folder(folder: Path, bad: BadRows) -> Table:
    """A folder with a sub-folder of .txt files for each class, each file a text; or with .txt files and no classes.

    Raises:
      DataError: no .txt files, or a sub-folder without any.
    """
    inner = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    files = {each: sorted(each.glob("*.txt")) for each in (inner or [folder])}
    for each, found in files.items():
        if not found:
            raise DataError(f"{each}: expected .txt files, each a text, got none; or give a file of rows")

    def rows(names: Sequence[str]) -> Iterator[Row]:
        for each, found in files.items():
            for file in found:
                if (text := _text_file(file, bad)) is not None:
                    values = {"text": text} | ({"label": each.name} if inner else {})
                    yield Row(str(file), None, values, file.relative_to(folder).as_posix())

    return Table(folder.name, ("text", "label") if inner else ("text",), rows)


def _text_file(file: Path, bad: BadRows) -> str | None:
    try:
        with file.open("rb") as stream:
            raw = stream.read(MOST_BYTES + 1)
        if len(raw) > MOST_BYTES:
            bad.found(file, None, f"expected at most {MOST_BYTES:,} bytes, got {file.stat().st_size:,}")
            return None
        return raw.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        bad.found(file, line, not_utf8(error).partition(" at ")[0])
    except OSError as error:
        bad.found(file, None, f"expected a readable text file, got: {error.strerror}")
    return None
