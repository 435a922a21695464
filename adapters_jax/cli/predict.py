"""`adapters-jax predict`: texts in, a JSON object per text out."""

import contextlib
import dataclasses
import json
import os
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, TextIO

from adapters_jax.cli.common import Folders, FromArtefact, load_backbone
from adapters_jax.data.bad import BadRows, OnBadRow, not_utf8
from adapters_jax.errors import ConfigError, DataError


@dataclasses.dataclass(frozen=True)
class Predict:
    """Write the label and the probabilities of each text, a JSON object per line, in the order of the texts."""

    adapter: Annotated[tuple[str, ...], Folders]
    """Folder of the artefact, such as runs/mnli-houlsby-0/adapter; several answer each text, by their tasks' names."""
    backbone: Annotated[str | None, FromArtefact] = None
    """The backbone it was trained on: a hub id, a local folder, or `minilm`."""
    revision: Annotated[str | None, FromArtefact] = None
    """Commit, tag or branch of a hub id."""
    quantize: Annotated[Literal["nf4", "int8", "none"] | None, FromArtefact] = None
    """How the dense kernels of the backbone's layers are kept; it may be otherwise than in training."""
    input: str = "-"
    """A text per line, tabs between its parts; or JSONL with the head's keys and maybe an "id"; `-`: standard input."""
    output: str = "-"
    """A file; `-`: standard output."""
    format: Literal["auto", "text", "jsonl"] = "auto"
    """Of the input; auto goes by the ending .jsonl."""
    max_length: Annotated[int | None, FromArtefact] = None
    """Tokens of a text or pair; longer ones are cut and counted."""
    batch_size: int = 64
    """Rows of one step."""
    on_bad_row: OnBadRow = "error"
    """What to do with a line that is no input: stop, or leave it out and count it."""


def predict(flags: Predict) -> None:
    """Streams texts to predictions, in memory that does not grow with their number."""
    from adapters_jax.artefact import load_adapter, read_manifest
    from adapters_jax.data.alike import columns_of
    from adapters_jax.data.windows import MAX_QUESTION
    from adapters_jax.serving.inputs import form_of
    from adapters_jax.serving.predictor import Predictor
    from adapters_jax.serving.shared import together

    if not flags.adapter:
        raise ConfigError("--adapter: expected the folder of an artefact, got nothing")
    with _reading(flags.input) as source, _writing(flags.output) as sink:
        manifests = [read_manifest(folder) for folder in flags.adapter]
        backbone = load_backbone(flags.adapter[0], flags)
        loaded = [load_adapter(folder, backbone) for folder in flags.adapter]
        model, params = loaded[0] if len(loaded) == 1 else together(_by_task(flags.adapter, manifests, loaded))
        columns, *others = [columns_of(manifest["extra"]) for manifest in manifests]
        if any(other != columns for other in others):
            raise ConfigError(f"--adapter: expected tasks on the same columns, got {columns} and {others}")
        pair = None if columns is None else len(columns) == 2
        lengths = [manifest.get("max_length") or model.max_length for manifest in manifests]
        max_length = flags.max_length if flags.max_length is not None else min(lengths)
        form = form_of(model.head)
        options = options_of(form, manifests[0])
        predictor = Predictor(model, params, backbone, max_length=max_length, batch_size=flags.batch_size, **options)
        is_jsonl = flags.format == "jsonl" or (flags.format == "auto" and flags.input.endswith(".jsonl"))
        ids: deque[Any] = deque()
        bad = BadRows(flags.on_bad_row)
        asked = _inputs(source, flags.input, form, is_jsonl, pair, ids, bad)
        count, start = 0, time.perf_counter()
        # One by one for a person at a terminal; else as many as keep the padding small.
        for answer in predictor.stream(asked, chunk=1 if source.isatty() else None):
            count += 1
            named = {} if (name := ids.popleft()) is None else {"id": name}
            line = json.dumps(named | answer, ensure_ascii=False) + "\n"
            sink.write(line.encode(errors="replace").decode())  # half a surrogate pair is no UTF-8
            sink.flush()
        seconds = time.perf_counter() - start
    print(f"{count:,} texts in {seconds:.1f} s, {count / max(seconds, 1e-9):.1f} a second", file=sys.stderr)
    if bad.skipped:
        print(bad.summary(), file=sys.stderr)
    if predictor.truncated:
        told = {"max_length": predictor.max_length, "max_question_length": MAX_QUESTION} | options
        print(f"cut: {predictor.truncated} {form.cut.format(**told)}", file=sys.stderr)


def options_of(form: Any, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What an artefact's manifest says of how its rows are made."""
    from adapters_jax.data.alike import WINDOWS, stored

    found = stored(manifest.get("extra"), WINDOWS)
    found |= {"threshold": found.pop("no_answer_threshold")} if "no_answer_threshold" in found else {}
    return {name: value for name, value in found.items() if name in form.options}


def _by_task(folders: Sequence[str], manifests: Sequence[Any], loaded: Sequence[Any]) -> dict[str, Any]:
    tasks: dict[str, Any] = {}
    for folder, manifest, pair in zip(folders, manifests, loaded, strict=True):
        name = str(manifest.get("task") or folder)
        tasks[folder if name in tasks else name] = pair
    return tasks


def _inputs(
    lines: Iterable[bytes], name: str, form: Any, is_json: bool, pair: bool | None, ids: deque, bad: BadRows
) -> Iterator[Any]:
    """What the head is asked, line by line; the "id" of each, or None, is put into `ids`.

    `pair` is whether pairs of texts are expected, None if the first line decides.
    """
    name = "standard input" if name == "-" else name
    for number, raw in enumerate(lines, start=1):
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            asked, own = form.of_json(line) if is_json else (form.of_text(line), None)
            if form.keys == ("text", "text_pair"):
                found = not isinstance(asked, str)
                pair = found if pair is None else pair
                if pair != found:
                    expected, got = ("a pair of texts", "one") if pair else ("one text", "a pair")
                    raise DataError(f"expected {expected}, got {got}")
        except UnicodeDecodeError as error:
            bad.found(name, number, not_utf8(error))
        except DataError as error:
            bad.found(name, number, str(error))
        else:
            ids.append(own)
            yield asked


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
