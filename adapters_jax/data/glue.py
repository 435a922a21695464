"""GLUE's rows, from official files or prepared TFDS sets, wherever they are, and its predictions as files.

The official files have their oddities: MRPC begins with a byte-order mark, CoLA's train and dev have no header, nothing
is quoted, MNLI's dev files carry five annotators' labels beside the gold one, and WNLI's test is missing from some
copies. Test files hold no labels.
"""

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adapters_jax.data import fetch, tfds
from adapters_jax.data.source import ListSource, Source, Splits
from adapters_jax.data.tasks import TASKS, GlueTask, find_task, recipe
from adapters_jax.data.tsv import read_table
from adapters_jax.errors import ConfigError, DataError, unknown

__all__ = [
    "DATA",
    "TASKS",
    "GlueTask",
    "find_data",
    "find_task",
    "open_glue",
    "recipe",
    "write_predictions",
    "write_submission",
]

DATA = ("auto", "tfds", "files")
DEFAULT_CACHE = "~/.cache/adapters_jax"


def open_glue(task: str, split: str, data_dir: str | os.PathLike) -> Source:
    """One split of a task from its official file.

    Args:
      task: its name, e.g. "mnli".
      split: "train", "dev" or "test"; for MNLI also "dev_mismatched" and "test_mismatched".
      data_dir: the folder that holds the task's folder (`SST-2`, `sst-2`, `sst2`), or that folder itself.

    Raises:
      ConfigError: an unknown task or split.
      DataError: no such folder or file; with file and line: a row with too few columns, an unknown label, a score that
        is not a number from 0 to 5, bytes that are not UTF-8, an empty file.
    """
    spec = find_task(task)
    if split not in spec.files:
        raise ConfigError(unknown(f"split of {task}", split, spec.files))
    folder = _task_folder(spec, _existing(data_dir))
    if folder is None:
        raise _lacks_task(spec, Path(data_dir), f"a folder {spec.folder} with {spec.files[split]}")
    return _read_split(spec, split, folder)


def find_data(
    task: str,
    data: str = "auto",
    data_dir: str | os.PathLike | None = None,
    *,
    tfds_dir: str | os.PathLike = tfds.DEFAULT_DIR,
    cache_dir: str | os.PathLike = DEFAULT_CACHE,
    downloads: Mapping[str, Sequence[fetch.Download]] = fetch.DOWNLOADS,
    report: Callable[[str], object] = lambda message: None,
) -> Splits:
    """All splits of a task, from the first place that has it.

    With `data_dir` that is a prepared TFDS set in it, else a GLUE folder in it, and nothing else. Without, it is a
    prepared set in `tfds_dir`, a GLUE folder in the cache, or the official archive, fetched into the cache.

    Args:
      task: its name.
      data: "auto"; "tfds" for prepared sets only, "files" for GLUE's own files only.
      data_dir: a TFDS folder or a GLUE folder.
      tfds_dir: where TFDS prepares sets by default.
      cache_dir: where fetched files are kept, as `<cache_dir>/glue/MNLI/train.tsv`.
      downloads: the addresses, by task.
      report: gets a line of text at the start and in the course of fetching.

    Raises:
      ConfigError: an unknown task or kind of data.
      DataError: a `data_dir` that is missing or lacks the task, a damaged file, nothing found and no network.
    """
    spec = find_task(task)
    if data not in DATA:
        raise ConfigError(unknown("data", data, DATA))
    if data_dir is not None:
        return _given(spec, data, _existing(data_dir))
    if data != "files":
        found = tfds.prepared(Path(tfds_dir).expanduser(), task)
        if found is not None and (data == "tfds" or tfds.readable(found)):
            return _tfds_splits(spec, found)
    if data == "tfds":
        raise DataError(
            f"glue/{task}: expected a prepared TFDS set in {tfds_dir}, got none; prepare it with "
            f"`tfds build glue/{task} --file_format={tfds.READABLE}`, or use --data=auto"
        )
    cache = Path(cache_dir).expanduser() / "glue"
    folder = cache / spec.folder
    if not (folder / spec.files["train"]).is_file():
        fetch.fetch_glue(task, cache, downloads=downloads, report=report)
    return _file_splits(spec, folder)


def write_predictions(path: str | os.PathLike, source: Source, decoded: Sequence[Mapping[str, Any]]) -> None:
    """Predictions for rows, a JSON object per line: id, label, prediction, and scores for classes.

    Args:
      path: the file to write; its folder is created.
      source: the rows.
      decoded: per row what the head decodes, {"label": name, "scores": {name: probability}}, {"labels": names,
        "scores": ...} or {"score": value}.

    Raises:
      DataError: as many predictions as rows are not given, or the file cannot be written.
    """
    _same_length(source, decoded)
    labels = source.features.labels
    rows = []
    for i, prediction in enumerate(decoded):
        row = source[i]
        label = row.get("label")
        if isinstance(label, tuple):
            label = [labels[one] for one in label]
        elif labels and label is not None:
            label = labels[label]
        answer = next(prediction[key] for key in ("label", "labels", "score") if key in prediction)
        rows.append(
            {"id": row.get("id", str(i)), "label": label, "prediction": answer}
            | ({"scores": dict(prediction["scores"])} if "scores" in prediction else {})
        )
    _write(Path(path), (json.dumps(row, ensure_ascii=False) for row in rows))


def write_submission(
    folder: str | os.PathLike, task: str, suffix: str, source: Source, predictions: Sequence[Any] | np.ndarray
) -> Path:
    """Predictions for a test split as gluebenchmark.com takes them: `index<tab>prediction`, in the order of the index.

    Args:
      folder: gets the leaderboard's file name, such as `MNLI-mm.tsv`.
      task: its name.
      suffix: "", or "mismatched" for MNLI.
      source: the test rows; a TFDS set holds them shuffled, their ids give the index.
      predictions: [n] class numbers, or scores, which are clipped to 0..5.

    Returns:
      The file written.

    Raises:
      ConfigError: an unknown task or suffix.
      DataError: as many predictions as rows are not given, or the file cannot be written.
    """
    spec = find_task(task)
    if suffix not in spec.submissions:
        raise ConfigError(unknown(f"test set of {task}", suffix, spec.submissions))
    _same_length(source, predictions)
    if spec.labels:
        values = [spec.file_labels[int(prediction)] for prediction in predictions]
    else:
        values = [_score(float(prediction), source.name) for prediction in predictions]
    rows = sorted((_index(source, i), value) for i, value in enumerate(values))
    path = Path(folder) / spec.submissions[suffix]
    _write(path, ["index\tprediction", *(f"{index}\t{value}" for index, value in rows)])
    return path


def _score(prediction: float, name: str) -> str:
    if not math.isfinite(prediction):
        raise DataError(f"{name}: expected a finite score, got {prediction}; train again with a lower --lr")
    return f"{min(max(prediction, 0.0), 5.0):.3f}"


def _index(source: Source, i: int) -> int:
    index = source[i].get("id", str(i))
    if not index.isdecimal():
        raise DataError(f"{source.name}, row {i}: expected an index from the test file as its id, got {index!r:.40}")
    return int(index)


def _given(task: GlueTask, data: str, data_dir: Path) -> Splits:
    found = tfds.prepared(data_dir, task.name) if data != "files" else None
    if found is not None:
        return _tfds_splits(task, found)
    folder = _task_folder(task, data_dir) if data != "tfds" else None
    if folder is not None:
        return _file_splits(task, folder)
    files = f"a folder {task.folder} with {', '.join(_needed(task))}"
    prepared = f"a prepared TFDS set glue/{task.name}"
    raise _lacks_task(task, data_dir, {"auto": f"{prepared} or {files}", "tfds": prepared, "files": files}[data])


def _file_splits(task: GlueTask, folder: Path) -> Splits:
    tests = {s: _split("test", s) for s in task.suffixes if (folder / task.files[_split("test", s)]).is_file()}
    return Splits(
        _read_split(task, "train", folder),
        {suffix: _read_split(task, _split("dev", suffix), folder) for suffix in task.suffixes},
        {suffix: _read_split(task, split, folder) for suffix, split in tests.items()},
    )


def _tfds_splits(task: GlueTask, folder: Path) -> Splits:
    def open_split(split: str) -> Source:
        return tfds.open_tfds(folder, task.tfds_splits[split], task.tfds_texts, task.features, task.file_labels)

    known = tfds.splits(folder)
    tests = {s: _split("test", s) for s in task.suffixes if task.tfds_splits[_split("test", s)] in known}
    return Splits(
        open_split("train"),
        {suffix: open_split(_split("dev", suffix)) for suffix in task.suffixes},
        {suffix: open_split(split) for suffix, split in tests.items()},
    )


def _split(kind: str, suffix: str) -> str:
    return f"{kind}_{suffix}" if suffix else kind


def _read_split(task: GlueTask, split: str, folder: Path) -> Source:
    path = folder / task.files[split]
    labelled = not split.startswith("test")
    columns = (*task.texts, task.label) if labelled else task.texts
    rows = []
    for line, index, fields in read_table(path, columns, task.headers.get(split, ()), task.rows_per_broken):
        row: dict[str, Any] = {"id": index} | dict(zip(task.features.columns, fields, strict=False))
        if labelled:
            row["label"] = _label(task, fields[-1], path, line)
        rows.append(row)
    return ListSource(rows, task.features, f"glue/{task.name}/{split}")


def _label(task: GlueTask, field: str, path: Path, line: int) -> int | float:
    if task.labels:
        if field not in task.file_labels:
            raise DataError(f"{path}:{line}: {unknown('label', field, task.file_labels)}")
        return task.file_labels.index(field)
    try:
        score = float(field)
    except ValueError:
        score = math.nan
    if not 0.0 <= score <= 5.0:
        raise DataError(f"{path}:{line}: expected a score from 0 to 5, got {field!r:.40}; repair or remove the line")
    return score


def _task_folder(task: GlueTask, data_dir: Path) -> Path | None:
    """The task's folder in a GLUE folder, in `glue` or `glue_data` within it, or that folder itself."""
    wanted = {_plain(task.folder), _plain(task.name)}
    for root in (data_dir, data_dir / "glue", data_dir / "glue_data"):
        for path in sorted(root.iterdir()) if root.is_dir() else ():
            if path.is_dir() and _plain(path.name) in wanted and any((path / f).is_file() for f in _needed(task)):
                return path
    own = _plain(data_dir.resolve().name) in wanted and any((data_dir / f).is_file() for f in _needed(task))
    return data_dir if own else None


def _needed(task: GlueTask) -> list[str]:
    return [name for split, name in task.files.items() if not split.startswith("test")]


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def _existing(data_dir: str | os.PathLike) -> Path:
    path = Path(data_dir).expanduser()
    if not path.is_dir():
        found = "a file" if path.exists() else "nothing there"
        raise DataError(f"data folder {data_dir}: expected a folder, got {found}; correct --data-dir or leave it out")
    if not os.access(path, os.R_OK | os.X_OK):
        raise DataError(f"data folder {data_dir}: expected a readable folder, got one without permission")
    return path


def _lacks_task(task: GlueTask, data_dir: Path, expected: str) -> DataError:
    names = sorted(path.name for path in Path(data_dir).expanduser().iterdir())
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "") if names else "an empty folder"
    return DataError(
        f"data folder {data_dir}: expected {expected}, got {shown}; correct --data-dir, or leave it out to have "
        f"{task.name} fetched"
    )


def _same_length(source: Source, predictions: Sequence[Any] | np.ndarray) -> None:
    if len(source) != len(predictions):
        raise DataError(f"{source.name}: expected {len(source)} predictions, got {len(predictions)}")


def _write(path: Path, lines: Iterable[str]) -> None:
    """Writes beside the file first: a file of that name is complete."""
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "w", encoding="utf-8", newline="\n") as file:
            file.writelines(line + "\n" for line in lines)
        os.replace(part, path)
    except OSError as error:
        raise DataError(f"{path}: expected to write to it, got {error.strerror}; choose another folder") from error
