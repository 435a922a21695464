"""`fit`: a model, rows and settings to trained parameters."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from adapters_jax import trees
from adapters_jax.data.batches import Batches, make_batch
from adapters_jax.data.source import Source, as_source
from adapters_jax.data.tokenize import Encoded, Rows, Scored, encode
from adapters_jax.errors import ConfigError, DataError, unknown
from adapters_jax.metrics import METRICS as KNOWN
from adapters_jax.sharding import Layout, fetch
from adapters_jax.training.evaluate import evaluate
from adapters_jax.training.loop import Taking, Trainee, train_loop
from adapters_jax.training.settings import FREE, Settings
from adapters_jax.training.step import (
    PerShape,
    State,
    eval_step,
    init_state,
    make_optimizer,
    make_train_step,
    train_program,
)
from adapters_jax.types import Tree


@dataclasses.dataclass(frozen=True)
class Report:
    """What came out of a run.

    Attributes:
        params: the whole tree at the kept step.
        step: the kept step: the best one or the last.
        metrics: of the kept step, fractions; empty without dev rows.
        history: ({"step", "metrics"}, ...), every evaluation.
        steps: taken, over all restarts.
        seconds: of training, over all restarts; compilation, evaluation and saving are not in it.
        steps_per_second, rows_per_second: over those seconds; padding rows do not count.
        compile_seconds, compilations: of this process.
        truncated: how many texts of (train, dev) were longer than `max_length`.
        prng: the generator of dropout's keys.
    """

    params: Tree
    step: int
    metrics: dict[str, float]
    history: tuple[dict[str, Any], ...]
    steps: int
    seconds: float
    steps_per_second: float
    rows_per_second: float
    compile_seconds: float
    compilations: int
    truncated: tuple[int, int]
    prng: str


def fit(
    model: Any,
    params: Tree,
    backbone: Any,
    train: Any,
    dev: Any = None,
    *,
    settings: Settings | None = None,
    out_dir: str | Path | None = None,
    metrics: Sequence[str] = (),
    best_metric: str | None = None,
    cache_dir: str | Path | None = None,
    tensorboard: bool = False,
    quiet: bool = False,
    layout: Layout | None = None,
    **overrides: Any,
) -> tuple[State, Report]:
    """Trains the leaves that the model's method trains.

    Args:
        model: see `Model`.
        params: where to start, as `Model.init` or `load_adapter` return them; they stay as they are.
        backbone: brings the tokenizer and the fingerprint.
        train: rows to learn from: a source, a list of {"text", "text_pair"?, "label"}, or `Rows`.
        dev: rows to evaluate on, in the same forms; None for no evaluation.
        settings: how; default is the method's recipe.
        out_dir: checkpoints and metrics.jsonl go there, and a run found there is resumed, bit for bit; None: nothing
            is written.
        metrics: names of `adapters_jax.metrics`, or of those that the rows know (`Scored`); default is theirs, or
            the head's.
        best_metric: chooses the best step, higher is better; default is the first of `metrics`.
        cache_dir: where token ids are kept between runs.
        tensorboard: also write event files to out_dir/tensorboard.
        quiet: show nothing.
        layout: the mesh of devices to train on, and how parameters lie on it; None: the first device. A run may go on
            in another layout than it began with.
        overrides: fields of `Settings` in place of those of `settings`.

    Returns:
        (the state after the last step, the report, whose `params` are those of the kept step).

    Raises:
        ConfigError, DataError: what was given does not fit together; before anything is compiled.
        CheckpointError: out_dir holds a run of other settings, is damaged, or cannot be written.
        TrainingError: the loss or its gradient is not finite; the state before that step is kept in out_dir.
        Preempted: SIGTERM arrived, and the state is saved in out_dir.
    """
    folder = None if out_dir is None else Path(out_dir)
    settings = Settings.from_recipe(settings or model.method.recipe, **overrides)
    names = tuple(metrics) or (train.metrics if isinstance(train, Scored) else model.head.metrics)
    best_metric = best_metric or names[0]
    rows, dev_rows = encode_rows(model, backbone, settings, names, best_metric, cache_dir, train, dev)
    check_layout(settings, layout)
    batches = Batches(rows.lengths, settings.batch_size, settings.seed, settings.max_length)
    total = settings.total_steps(batches.steps_per_epoch)

    labels = model.labels(params)
    tx, schedule = make_optimizer(model, settings, total, labels)
    trained, frozen = trees.split(params, labels)
    frozen = jax.device_put(frozen) if layout is None else layout.put(frozen)
    forward = eval_step(model, layout)
    before = forward.seconds, forward.compilations

    def judge(trained: Tree) -> dict[str, float]:
        return evaluate(model, trees.join(trained, frozen), dev_rows, names, settings.eval_batch_size, layout)[0]

    state = init_state(trained, tx, settings.seed, layout)

    def start(impl: str) -> Taking:
        step = make_train_step(model, tx, impl=impl, accumulate=settings.accumulate)
        return OneTask(train_program(step, state, layout), frozen, rows, batches, layout)

    end = train_loop(
        Trainee(
            state=state,
            start=start,
            judge=None if dev_rows is None else judge,
            total=total,
            eval_every=settings.eval_every or batches.steps_per_epoch,
            best_metric=best_metric,
            settled=model.method.settled(total),
            schedule=schedule,
            identity=identity_of(model, backbone, settings, total, rows, dev_rows, (*names, best_metric), frozen),
            summary=describe(model, backbone, params, layout),
        ),
        settings,
        folder,
        tensorboard=tensorboard,
        quiet=quiet,
    )
    return end.state, Report(
        params=trees.join(end.kept, frozen),
        metrics=end.metrics,
        **end.measures,
        compile_seconds=end.taking.seconds + forward.seconds - before[0],
        compilations=end.taking.compilations + forward.compilations - before[1],
        truncated=(rows.truncated, 0 if dev_rows is None else dev_rows.truncated),
    )


@dataclasses.dataclass(frozen=True)
class OneTask:
    """The steps of a single task."""

    program: PerShape
    frozen: Tree
    rows: Rows
    batches: Batches
    layout: Layout | None = None

    @property
    def seconds(self) -> float:
        return self.program.seconds

    @property
    def compilations(self) -> int:
        return self.program.compilations

    def __call__(self, state: State, step: int) -> tuple[State, dict[str, Any], int]:
        ids, length = self.batches.rows(step)
        state, measured = self.program(state, self.frozen, make_batch(self.rows, ids, length, self.layout))
        return state, measured, int(np.sum(ids >= 0))


def check_layout(settings: Settings, layout: Layout | None) -> None:
    """Raises ConfigError unless the batches can be split over the mesh."""
    parts = 1 if layout is None else layout.batch_parts
    if settings.batch_size % (settings.accumulate * parts):
        parted = f" in {settings.accumulate} parts" if settings.accumulate > 1 else ""
        raise ConfigError(
            f"batch_size: expected a multiple of {settings.accumulate * parts}, to be split{parted} over the {parts} "
            f"devices that data and fsdp make, got {settings.batch_size}"
        )


def describe(model: Any, backbone: Any, params: Tree, layout: Layout | None) -> str:
    """What is trained, and how it lies on a mesh."""
    summary = str(model.summary(backbone.params))
    return summary if layout is None else f"{summary}\n\n{layout.table(params)}"


def encode_rows(
    model: Any,
    backbone: Any,
    settings: Settings,
    names: Sequence[str],
    best_metric: str,
    cache_dir: Any,
    train: Any,
    dev: Any,
) -> tuple[Rows, Rows | None]:
    """The rows of both sets, with labels that the head has; arguments as of `fit`.

    Raises:
        ConfigError, DataError: what was given does not fit together.
    """
    known = train.metrics if isinstance(train, Scored) else KNOWN
    for name in names:
        if name not in known:
            raise ConfigError(unknown("metric", name, known))
    if best_metric not in names:
        raise ConfigError(unknown("best metric", best_metric, names))
    if settings.early_stop is not None and dev is None:
        raise ConfigError("early_stop: expected dev rows to evaluate on, got none")
    if settings.max_length > model.max_length:
        raise ConfigError(
            f"max_length: expected at most the model's {model.max_length} positions, got {settings.max_length}"
        )
    if isinstance(train, Rows):
        return train, _checked_rows(model.head, settings, train, dev)
    train = as_source(train, name="train")
    dev = None if dev is None else as_source(dev, like=train.features, name="dev")

    def encoded(source: Source) -> Encoded:
        rows = encode(source, backbone.tokenizer, settings.max_length, cache_dir)
        _check_labels(model.head, rows, source)
        return rows

    return encoded(train), None if dev is None else encoded(dev)


def _checked_rows(head: Any, settings: Settings, train: Rows, dev: Any) -> Rows | None:
    """The dev rows, once both sets suit the head and the settings."""
    if dev is not None and not isinstance(dev, Rows):
        raise DataError(f"dev: expected encoded rows, as those to train on, got {type(dev).__name__}")
    for rows in (train, *(() if dev is None else (dev,))):
        if rows.max_length > settings.max_length:
            raise ConfigError(
                f"max_length: expected at least the {rows.max_length} of {rows.name}, got {settings.max_length}"
            )
        batch = rows.batch(np.array([0]), int(rows.lengths[0]))
        missing = [name for name in head.inputs if name not in batch]
        missing += ["labels"] if head.learns_from_labels and "labels" not in batch else []
        if missing:
            raise DataError(f"{rows.name}: expected {missing[0]!r} for a {head.name} head, got {', '.join(batch)}")
    return dev


def _check_labels(head: Any, rows: Encoded, source: Source) -> None:
    features, name = source.features, source.name
    if rows.labels is None:
        raise DataError(f"{name}: expected rows with labels, got none")
    if head.name != features.kind:
        raise DataError(f"{name}: expected labels for a {head.name} head, got those of a {features.kind}")
    if head.name in ("classification", "multilabel"):
        numbers = tuple(str(i) for i in range(head.num_labels))
        if len(features.labels) > head.num_labels or (
            features.labels != head.labels and head.labels != numbers and features.labels != numbers
        ):
            raise DataError(f"{name}: expected the head's labels {list(head.labels)}, got {list(features.labels)}")


def _sha256(leaf: Any) -> str:
    return hashlib.sha256(np.ascontiguousarray(fetch(leaf)).tobytes()).hexdigest()


def _digest(rows: Rows | None) -> str:
    digest = hashlib.sha256()
    for array in () if rows is None else rows.arrays():
        digest.update(b"" if array is None else np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def identity_of(
    model: Any,
    backbone: Any,
    settings: Settings,
    total: int,
    rows: Rows,
    dev: Rows | None,
    scores: Sequence[str],
    frozen: Tree,
) -> dict[str, Any]:
    """What two runs must share for one to go on where the other stopped, as JSON values."""
    kept = trees.flatten({"adapters": frozen.get("adapters", {})})
    identity = {
        "method": model.method.to_dict(),
        "head": model.head.to_dict(),
        "dtype": model.dtype,
        "backbone": backbone.fingerprint,
        "train_rows": _digest(rows),
        "dev_rows": _digest(dev),
        "scores": list(scores),
        "total_steps": total,
        "settings": {name: v for name, v in dataclasses.asdict(settings).items() if name not in FREE},
        "frozen_adapters": {name: _sha256(leaf) for name, leaf in kept.items()},
    }
    # Float backbones have no such entry: their runs go on where versions without it stopped.
    identity |= {"quantize": backbone.quantize} if backbone.quantize else {}
    return json.loads(json.dumps(identity))
