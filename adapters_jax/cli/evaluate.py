"""`adapters-jax evaluate` repeats the score of an artefact, `adapters-jax prune` takes idle parts out of a fusion."""

import dataclasses
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from adapters_jax.cli.common import Folders, FromArtefact, Unset, load_backbone
from adapters_jax.data.bad import BadRows, OnBadRow
from adapters_jax.errors import ConfigError, DataError
from adapters_jax.metrics import METRICS

Numbers = tyro.conf.arg(metavar="0,1,...")


@dataclasses.dataclass(frozen=True)
class Data:
    """Which rows an artefact is scored on."""

    task: Annotated[str | None, FromArtefact] = None
    """A GLUE task, or toy."""
    backbone: Annotated[str | None, FromArtefact] = None
    """The backbone it was trained on: a hub id, a local folder, or `minilm`."""
    revision: Annotated[str | None, FromArtefact] = None
    """Commit, tag or branch of a hub id."""
    quantize: Annotated[Literal["nf4", "int8", "none"] | None, FromArtefact] = None
    """How the dense kernels of the backbone's layers are kept; it may be otherwise than in training."""
    data: Literal["auto", "tfds", "files"] = "auto"
    """A prepared TFDS set, the official files, or the first of them found."""
    data_dir: Annotated[str | None, Unset] = None
    """Folder of the GLUE files or of TFDS."""
    file: Annotated[str | None, Unset] = None
    """In place of a task: a file of the kind that the artefact was trained on (see docs/tasks)."""
    on_bad_row: OnBadRow = "error"
    """What to do with rows of --file that cannot be used: stop at the first, or skip and count them."""
    cache_dir: str = "~/.cache/adapters_jax"
    """Where fetched archives are kept."""
    eval_rows: Annotated[int | None, FromArtefact] = None
    """Evaluate on a fixed sample of so many rows."""
    eval_batch_size: Annotated[int | None, FromArtefact] = None
    """Rows of one step."""


@dataclasses.dataclass(frozen=True)
class _Evaluate:
    adapter: Annotated[tuple[str, ...], Folders]
    """Folder of the artefact; several are scored one after the other."""
    drop: Annotated[tuple[int, ...], Numbers] = ()
    """AdapterDrop: score with the adapter left out of the first n layers, for each of these n."""
    figure: Annotated[str | None, Unset] = None
    """Also draw score against n into this file (.png, .svg, .pdf; needs matplotlib)."""


@dataclasses.dataclass(frozen=True)
class Evaluate(Data, _Evaluate):
    """Repeat the score of an artefact."""


@dataclasses.dataclass(frozen=True)
class _Prune:
    adapter: str
    """Folder of a fusion's artefact (`python -m train.fuse`)."""
    out: str
    """Folder of the new artefact."""
    keep: int = 2
    """Keep so many adapters: those that got most attention on the dev set when it was trained."""


@dataclasses.dataclass(frozen=True)
class Prune(Data, _Prune):
    """Leave the adapters with the least attention out of a fusion; report what it costs and what it saves."""


def evaluate(flags: Evaluate) -> None:
    """Scores the task's dev sets with each artefact, and says whether that is what was recorded."""
    from adapters_jax.methods.adapter_drop import drop_of, left_out

    if not flags.adapter or (flags.figure and not flags.drop):
        raise ConfigError("expected --adapter=FOLDER, and --drop=0,1,... where there is a --figure")
    curves: dict[str, dict[int, float]] = {}
    for folder in flags.adapter:
        scored = Scored(flags, folder)
        if not flags.drop:
            found = scored.score(scored.model, scored.params)
            print(
                json.dumps(
                    {"task": scored.task, "metrics": found} | ({"adapter": folder} if len(flags.adapter) > 1 else {})
                )
            )
            scored.compare(found)
        method = scored.model.method
        least = drop_of(method)
        for drop in flags.drop:
            if drop < least:
                print(
                    f"{folder}: has no adapter in the first {least} layers; nothing to score at {drop}", file=sys.stderr
                )
                continue
            dropped, adapters = left_out(method, scored.params["adapters"], drop, scored.model.config)
            model = dataclasses.replace(scored.model, method=dropped)
            found = scored.score(model, scored.params | {"adapters": adapters})
            print(json.dumps({"adapter": folder, "task": scored.task, "drop": drop, "metrics": found}), flush=True)
            curves.setdefault(folder, {})[drop] = found[scored.best_metric]
    if flags.figure:
        from adapters_jax.analysis.curves import save

        save(curves, Path(flags.figure), "layers left out", scored.best_metric, scored.task)


def prune(flags: Prune) -> None:
    """Scores and times the fusion with all adapters and with the best ones, and writes the latter."""
    import adapters_jax as aj
    from adapters_jax.training.attention import mean_shares

    scored = Scored(flags, flags.adapter)
    model, params, recorded = scored.model, scored.params, scored.recorded
    if not isinstance(model.method, aj.Fusion):
        raise ConfigError(f"{flags.adapter}: expected a fusion of adapters, got {model.method.name}")
    if not 2 <= flags.keep <= len(model.method.names):
        raise ConfigError(f"--keep: expected 2 to the fusion's {len(model.method.names)} adapters, got {flags.keep}")
    shares = recorded["extra"].get("attention")
    if not isinstance(shares, dict):
        raise ConfigError(f"{flags.adapter}: its manifest holds no attention; train it with python -m train.fuse")
    means = mean_shares(shares)
    kept = list(means)[: flags.keep]
    method, adapters = model.method.keep(params["adapters"], kept, model.config)
    small, fewer = dataclasses.replace(model, method=method), params | {"adapters": adapters}
    extra = {name: value for name, value in recorded["extra"].items() if name != "attention"}
    before, slow = scored.timed(model, params)
    after, fast = scored.timed(small, fewer)
    aj.save_adapter(
        flags.out,
        small,
        fewer,
        scored.backbone,
        task=scored.task,
        scores=after,
        max_length=scored.max_length,
        seed=recorded.get("seed"),
        data=recorded.get("data"),
        extra=extra
        | {
            "pruned_from": list(model.method.names),
            "eval_rows": scored.rows,
            "eval_batch_size": scored.batch_size,
        }
        | ({} if scored.file is None else {"scored_on": scored.file}),
    )
    found = {"kept": kept, "attention": means, "before": before, "after": after, "speed": slow / fast}
    print(json.dumps({"adapter": flags.out, "task": scored.task} | found))


NUMBERS: Mapping[str, type] = {"eval_rows": int, "eval_batch_size": int}


class Scored:
    """An artefact and the rows that it is scored on.

    Args:
      flags: which rows.
      folder: of the artefact.
    """

    def __init__(self, flags: Data, folder: str) -> None:
        from adapters_jax.artefact import load_adapter, read_manifest
        from adapters_jax.data.alike import stored

        for name in ("eval_rows", "eval_batch_size"):
            if (value := getattr(flags, name)) is not None and value < 1:
                raise ConfigError(f"--{name.replace('_', '-')}: expected at least 1, got {value}")
        beside = {"eval_rows": None, "task": None, "data_dir": None, "data": "auto"}
        for name, default in beside.items():
            if flags.file is not None and getattr(flags, name) != default:
                raise ConfigError(
                    f"--{name.replace('_', '-')}: expected no --file beside it, which is scored whole, got both"
                )
        if flags.file is None and flags.on_bad_row != "error":
            raise ConfigError("--on-bad-row: expected --file, whose rows it is about, got none")
        self.recorded = read_manifest(folder)
        extra = self.recorded["extra"]
        told = stored({name: value for name, value in extra.items() if value is not None}, NUMBERS)
        self.rows = None if flags.file else flags.eval_rows or told.get("eval_rows")
        self.batch_size = flags.eval_batch_size or told.get("eval_batch_size") or 64
        self.file = flags.file
        if flags.file is None:
            splits = self._splits(flags, folder)
        self.backbone = load_backbone(folder, flags)
        self.model, self.params = load_adapter(folder, self.backbone)
        self.max_length = min(self.recorded.get("max_length") or 128, self.model.max_length)
        if flags.file is None:
            self._choose(splits)
        else:
            self._read(flags.file, extra, BadRows(flags.on_bad_row))

    def _splits(self, flags: Data, folder: str) -> Any:
        from adapters_jax.data.alike import FILES
        from adapters_jax.data.named import NAMES, open_task

        task = flags.task or self.recorded.get("task")
        if task is None:
            raise ConfigError(f"{folder}: names no task; give --task, or --file")
        if flags.task is None and task not in NAMES:
            if self.recorded["head"]["name"] in FILES:
                wanted = "expected --file with rows to score it on, got none"
                raise ConfigError(f"{folder}: was trained on {task!r}: {wanted}")
            raise ConfigError(f"{folder}: was trained on {task!r}; its scores are in its run's result.json")
        self.task: str = task
        return open_task(task, flags.data, flags.data_dir, flags.cache_dir, lambda line: print(line, file=sys.stderr))

    def _choose(self, splits: Any) -> None:
        from adapters_jax.data import take
        from adapters_jax.data.named import task_metrics

        features, head = splits.train.features, self.model.head
        if (features.kind, features.labels) != (head.name, getattr(head, "labels", ())):
            raise DataError(
                f"task {self.task}: expected a head for {features.kind} {list(features.labels)}, the artefact's is "
                f"{head}"
            )
        self.metrics, self.best_metric = task_metrics(self.task)
        self.sets: dict[str, Any] = {suffix: take(source, self.rows) for suffix, source in splits.evals.items()}

    def _read(self, file: str, extra: Mapping[str, Any], bad: BadRows) -> None:
        from adapters_jax.data.alike import encode_alike
        from adapters_jax.data.tokenize import Scored as Scoring

        self.task, head = str(self.recorded.get("task") or file), self.model.head
        rows = encode_alike(file, head, extra, self.backbone.tokenizer, self.max_length, bad)
        if bad.skipped:
            print(f"{file}: {bad.summary()}", file=sys.stderr)
        usual = rows.metrics if isinstance(rows, Scoring) else head.metrics
        known = dict.fromkeys(usual if isinstance(rows, Scoring) else (*usual, *METRICS))
        self.metrics = tuple(name for name in known if name in self.recorded["scores"]) or usual
        self.best_metric = self.metrics[0]
        self.sets = {"": rows}

    def score(self, model: Any, params: Any) -> dict[str, float]:
        """The metrics of a model, this or one made of it."""
        from adapters_jax.training.score import score

        lengths: dict[str, Any] = {"max_length": self.max_length, "batch_size": self.batch_size}
        return score(model, params, self.backbone, self.sets, self.metrics, **lengths).metrics

    def timed(self, model: Any, params: Any) -> tuple[dict[str, float], float]:
        """(metrics, seconds of the faster of two passes over the main set, compiled and tokenised before)."""
        from adapters_jax.data.tokenize import Rows, encode
        from adapters_jax.training.evaluate import evaluate

        found = self.score(model, params)
        rows = self.sets[""]
        rows = rows if isinstance(rows, Rows) else encode(rows, self.backbone.tokenizer, self.max_length)
        seconds = []
        for _ in range(2):
            start = time.perf_counter()
            evaluate(model, params, rows, (), self.batch_size)
            seconds.append(time.perf_counter() - start)
        return found, min(seconds)

    def compare(self, found: Mapping[str, float]) -> None:
        """Says on standard error whether the scores are those of the manifest, if they are of the same rows; of a file,
        which nobody knows, it shows both."""
        recorded = self.recorded["scores"]
        if self.file is not None:
            print(f"recorded at the end of training: {json.dumps(recorded)}", file=sys.stderr)
        elif self.task == self.recorded.get("task") and self.rows == self.recorded.get("extra", {}).get("eval_rows"):
            same = "equal to" if recorded == found else "not equal to"
            print(f"{same} the recorded scores {json.dumps(recorded)}", file=sys.stderr)
