"""Where the user's own rows are: files by their ending, folders, prepared sets; each becomes a `Table`."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from adapters_jax.data import arrow, tfds
from adapters_jax.data.bad import MOST_BYTES, BadRows, not_utf8
from adapters_jax.data.tables import Row, Table, is_utf8, read_csv, read_jsonl, read_tsv
from adapters_jax.errors import DataError, unknown

READERS = {
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".tab": read_tsv,
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
    try:
        return _open(where, bad, role, Path(tfds_dir).expanduser())
    except (OSError, RuntimeError) as error:  # no permission, a name that is too long; a home of nobody
        raise DataError(f"{where}: expected a place that can be read, got: {_why(error)}") from error


def _why(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _open(where: str, bad: BadRows, role: str, tfds_dir: Path) -> Table:
    whole = Path(where).expanduser()
    place, sharp, split = (where, "", "") if whole.exists() else where.partition("#")
    if place in ("", PREPARED) or not is_utf8(where):
        got = "none" if is_utf8(where) else "a name that is not UTF-8"
        raise DataError(f"{where!r}: expected a file, a folder or {PREPARED}NAME, got {got}")
    if where.startswith(PREPARED):
        folder = tfds.find(place.removeprefix(PREPARED), tfds_dir)
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

    Whatever else is there is a bad row, but for names that begin with a dot.

    Raises:
      DataError: no .txt files; under "error" other files, folders in those of classes, classes without .txt files.
      OSError: a folder that cannot be read.
    """
    there = lambda place: sorted(path for path in place.iterdir() if not path.name.startswith("."))
    inner = [path for path in there(folder) if path.is_dir()]
    name_of = lambda path: path.relative_to(folder).as_posix()
    readable = lambda path: path.suffix.lower() == ".txt" and path.is_file() and is_utf8(name_of(path))
    found = {each: there(each) for each in inner or [folder]}
    files = {each: [path for path in paths if readable(path)] for each, paths in found.items()}
    if not any(files.values()):
        raise DataError(f"{folder}: expected .txt files, each a text, got none; or give a file of rows")
    for path in there(folder) if inner else ():
        if path not in files:
            bad.found(path, None, "expected nothing beside the folders of classes, got a file")
    for each, paths in found.items():
        for path in paths:
            if not readable(path):
                bad.found(path, None, f"expected a .txt file, got {'a folder' if path.is_dir() else 'another file'}")
        if not files[each]:
            bad.found(each, None, "expected .txt files of a class, each a text, got none")

    def rows(names: Sequence[str]) -> Iterator[Row]:
        for each, paths in files.items():
            for file in paths:
                if (text := _text_file(file, bad)) is not None:
                    values = {"text": text} | ({"label": each.name} if inner else {})
                    yield Row(str(file), None, values, name_of(file))

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
