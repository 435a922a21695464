"""`adapters-jax predict|evaluate|inspect`: what people do with artefacts."""

import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, TextIO

import tyro

from adapters_jax.errors import ConfigError, DataError, unknown
from adapters_jax.flags import fill, merge, one_line_errors, print_help, read_argv

FromArtefact = tyro.conf.arg(help_behavior_hint="(default: what the artefact says)", metavar="VALUE")
Unset = tyro.conf.arg(help_behavior_hint="", metavar="VALUE")


@dataclasses.dataclass(frozen=True)
class Predict:
    """Write the label and the probabilities of each text, a JSON object per line, in the order of the texts."""

    adapter: str
    """Folder of the artefact, such as runs/mnli-houlsby-0/adapter."""
    backbone: Annotated[str | None, FromArtefact] = None
    """The backbone it was trained on: a hub id, a local folder, or `minilm`."""
    revision: Annotated[str | None, FromArtefact] = None
    """Commit, tag or branch of a hub id."""
    input: str = "-"
    """A text per line, a tab between the texts of a pair; or JSONL with "text" and "text_pair"; `-`: standard input."""
    output: str = "-"
    """A file; `-`: standard output."""
    format: Literal["auto", "text", "jsonl"] = "auto"
    """Of the input; auto goes by the ending .jsonl."""
    max_length: Annotated[int | None, FromArtefact] = None
    """Tokens of a text or pair; longer ones are cut and counted."""
    batch_size: int = 64
    """Rows of one step."""


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Repeat the score of an artefact."""

    adapter: str
    """Folder of the artefact."""
    task: Annotated[str | None, FromArtefact] = None
    """A GLUE task, or toy."""
    backbone: Annotated[str | None, FromArtefact] = None
    """The backbone it was trained on: a hub id, a local folder, or `minilm`."""
    revision: Annotated[str | None, FromArtefact] = None
    """Commit, tag or branch of a hub id."""
    data: Literal["auto", "tfds", "files"] = "auto"
    """A prepared TFDS set, the official files, or the first of them found."""
    data_dir: Annotated[str | None, Unset] = None
    """Folder of the GLUE files or of TFDS."""
    cache_dir: str = "~/.cache/adapters_jax"
    """Where fetched archives are kept."""
    eval_rows: Annotated[int | None, FromArtefact] = None
    """Evaluate on a fixed sample of so many rows."""
    eval_batch_size: Annotated[int | None, FromArtefact] = None
    """Rows of one step."""


@dataclasses.dataclass(frozen=True)
class Inspect:
    """Print what an artefact, a training checkpoint or a run folder holds, and whether its hashes hold."""

    folder: str
    """The folder; `adapters-jax inspect FOLDER` is short for --folder=FOLDER."""
    json: bool = False
    """As one JSON object."""


def predict(flags: Predict) -> None:
    """Streams texts to predictions, in memory that does not grow with their number."""
    from adapters_jax.serving.predictor import Predictor

    with _reading(flags.input) as source, _writing(flags.output) as sink:
        model, params, backbone, manifest = _load(flags)
        columns = manifest.get("extra", {}).get("columns")
        pair = None if columns is None else len(columns) == 2
        max_length = flags.max_length if flags.max_length is not None else manifest.get("max_length")
        predictor = Predictor(model, params, backbone, max_length=max_length, batch_size=flags.batch_size)
        is_jsonl = flags.format == "jsonl" or (flags.format == "auto" and flags.input.endswith(".jsonl"))
        texts = _texts(source, flags.input, _json_text if is_jsonl else _plain_text, pair)
        # One by one for a person at a terminal; else as many as keep the padding small.
        for answer in predictor.stream(texts, chunk=1 if source.isatty() else None):
            sink.write(json.dumps(answer, ensure_ascii=False) + "\n")
            sink.flush()
    if predictor.truncated:
        print(f"{predictor.truncated} texts were longer than {predictor.max_length} tokens and cut", file=sys.stderr)


def evaluate(flags: Evaluate) -> None:
    """Scores the task's dev sets with the artefact, and says whether that is what was recorded."""
    from adapters_jax.artefact import read_manifest
    from adapters_jax.data import take
    from adapters_jax.data.named import open_task, task_metrics
    from adapters_jax.training.score import score

    for name in ("eval_rows", "eval_batch_size"):
        if (value := getattr(flags, name)) is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')}: expected at least 1, got {value}")
    recorded = read_manifest(flags.adapter)
    task, extra = flags.task or recorded.get("task"), recorded.get("extra", {})
    if task is None:
        raise ConfigError(f"{flags.adapter}: names no task; give --task")
    splits = open_task(task, flags.data, flags.data_dir, flags.cache_dir, lambda line: print(line, file=sys.stderr))
    model, params, backbone, _ = _load(flags)
    features = splits.train.features
    if (features.kind, features.labels) != (model.head.name, getattr(model.head, "labels", ())):
        raise DataError(
            f"task {task}: expected a head for {features.kind} {list(features.labels)}, the artefact's is {model.head}"
        )
    rows = flags.eval_rows or extra.get("eval_rows")
    found = score(
        model,
        params,
        backbone,
        {suffix: take(source, rows) for suffix, source in splits.evals.items()},
        task_metrics(task)[0],
        max_length=min(recorded.get("max_length") or 128, model.max_length),
        batch_size=flags.eval_batch_size or extra.get("eval_batch_size") or 64,
    )
    print(json.dumps({"task": task, "metrics": found.metrics}))
    if task == recorded.get("task") and rows == extra.get("eval_rows"):
        same = "equal to" if recorded["scores"] == found.metrics else "not equal to"
        print(f"{same} the recorded scores {json.dumps(recorded['scores'])}", file=sys.stderr)


def inspect(flags: Inspect) -> None:
    """What `describe` finds; ends with 1 if some hash does not hold."""
    from adapters_jax.describe import describe, render

    found = describe(flags.folder)
    print(json.dumps(found, indent=2, ensure_ascii=False) if flags.json else render(found))
    if found["problems"]:
        raise SystemExit(1)


def _load(flags: Any) -> tuple[Any, Any, Any, dict[str, Any]]:
    """Model, parameters, backbone and manifest of an artefact."""
    import adapters_jax as aj
    from adapters_jax.artefact import read_manifest

    manifest = read_manifest(flags.adapter)
    trained_on = manifest["backbone"]
    revision = flags.revision or (None if flags.backbone else trained_on.get("revision"))
    name = flags.backbone or str(trained_on.get("name"))
    backbone = aj.load_backbone(name, dtype=manifest.get("dtype") or "float32", revision=revision)
    model, params = aj.load_adapter(flags.adapter, backbone)
    return model, params, backbone, manifest


def _plain_text(line: str) -> tuple[str, ...]:
    parts = tuple(line.split("\t"))
    if len(parts) > 2 or not line.strip():
        raise DataError(f"expected a text, or two with a tab between them, got {line[:80]!r}")
    return parts


def _json_text(line: str) -> tuple[str, ...]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f'expected JSON such as {{"text": "..."}}, got {line[:80]!r} ({error.msg})') from None
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        raise DataError(f'expected an object with "text", got {line[:80]!r}')
    if not isinstance(row.get("text_pair", ""), str):
        raise DataError(f'expected "text_pair" to be a text, got {row["text_pair"]!r:.80}')
    return (row["text"], row["text_pair"]) if "text_pair" in row else (row["text"],)


def _texts(
    lines: Iterable[bytes], name: str, parse: Callable[[str], tuple[str, ...]], pair: bool | None
) -> Iterator[str | tuple[str, str]]:
    """The texts of a file; `pair` is whether pairs are expected, None if the first line decides."""
    name = "standard input" if name == "-" else name
    for number, raw in enumerate(lines, start=1):
        try:
            parts = parse(raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n"))
        except UnicodeDecodeError as error:
            raise DataError(f"{name}:{number}: expected UTF-8, got {error.object[error.start : error.end]!r}") from None
        except DataError as error:
            raise DataError(f"{name}:{number}: {error}") from None
        pair = len(parts) == 2 if pair is None else pair
        if pair != (len(parts) == 2):
            expected, found = ("a pair of texts", "one") if pair else ("one text", "a pair")
            raise DataError(f"{name}:{number}: expected {expected}, got {found}")
        yield (parts[0], parts[1]) if len(parts) == 2 else parts[0]


@contextlib.contextmanager
def _reading(path: str) -> Iterator[BinaryIO]:
    if path == "-":
        yield sys.stdin.buffer
        return
    try:
        file = open(path, "rb")  # noqa: SIM115
    except OSError as error:
        raise DataError(f"--input={path}: cannot be read: {error.strerror}") from None
    with file:
        yield file


@contextlib.contextmanager
def _writing(path: str) -> Iterator[TextIO]:
    """The output; a file takes its name when it is complete."""
    if path == "-":
        yield sys.stdout
        return
    part = Path(f"{path}.part")
    try:
        with part.open("w", encoding="utf-8") as file:
            yield file
        os.replace(part, path)
    except OSError as error:
        raise ConfigError(f"--output={path}: cannot be written: {error.strerror}") from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


COMMANDS: dict[str, tuple[type, Callable[[Any], None]]] = {
    "predict": (Predict, predict),
    "evaluate": (Evaluate, evaluate),
    "inspect": (Inspect, inspect),
}


def main(argv: Sequence[str] | None = None) -> None:
    """The console script."""
    # Else transformers tells everybody that there is no torch, which is as it should be.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    with one_line_errors():
        command, *rest = list(sys.argv[1:] if argv is None else argv) or ["--help"]
        if command in ("-h", "--help"):
            print("usage: adapters-jax COMMAND [OPTIONS]\n")
            for name, (cls, _) in COMMANDS.items():
                print(f"  {name:10} {cls.__doc__}")
            print("\nThe flags of a command: adapters-jax COMMAND --help")
            return
        if command not in COMMANDS:
            raise ConfigError(unknown("command", command, COMMANDS))
        cls, run = COMMANDS[command]
        if {"-h", "--help"} & set(rest):
            print_help(cls, f"adapters-jax {command}")
            return
        run(fill(cls, merge(read_argv(rest, positional="folder" if cls is Inspect else None))))
