"""`fit`: the training loop, in the order in which things happen."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from adapters_jax import optim, trees
from adapters_jax.checkpoint import Checkpoints
from adapters_jax.data.batches import Batches, make_batch
from adapters_jax.data.source import Source, as_source
from adapters_jax.data.tokenize import Encoded, encode
from adapters_jax.errors import ConfigError, DataError, TrainingError, unknown
from adapters_jax.metrics import METRICS as KNOWN
from adapters_jax.training.evaluate import evaluate
from adapters_jax.training.log import Logger
from adapters_jax.training.memory import InMemory
from adapters_jax.training.past import Clock, Past
from adapters_jax.training.preemption import Preempted, Preemption
from adapters_jax.training.prng import platform_default
from adapters_jax.training.run import refuse_another
from adapters_jax.training.settings import FREE, Settings
from adapters_jax.training.step import PerShape, State, eval_step, init_state, make_train_step
from adapters_jax.types import Tree

METRICS = {"classification": ("accuracy",), "regression": ("pearson", "spearman")}
"""What a head is scored by where nothing is asked for; the first is the one that the best step is chosen by."""


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
    **overrides: Any,
) -> tuple[State, Report]:
    """Trains the leaves that the model's method trains.

    Args:
        model: see `Model`.
        params: where to start, as `Model.init` or `load_adapter` return them; they stay as they are.
        backbone: brings the tokenizer and the fingerprint.
        train: rows to learn from: a source or a list of {"text", "text_pair"?, "label"}.
        dev: rows to evaluate on, in the same forms; None for no evaluation.
        settings: how; default is the method's recipe.
        out_dir: checkpoints and metrics.jsonl go there, and a run found there is resumed, bit for bit; None: nothing
            is written.
        metrics: names of `adapters_jax.metrics`; default is accuracy, or both correlations for a regression.
        best_metric: chooses the best step, higher is better; default is the first of `metrics`.
        cache_dir: where token ids are kept between runs.
        tensorboard: also write event files to out_dir/tensorboard.
        quiet: show nothing.
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
    names = tuple(metrics) or METRICS[model.head.name]
    best_metric = best_metric or names[0]
    _check(model, settings, names, best_metric, dev)

    train = as_source(train, name="train")
    dev = None if dev is None else as_source(dev, like=train.features, name="dev")
    encoded = functools.partial(_encode, model.head, backbone.tokenizer, settings.max_length, cache_dir)
    rows, dev_rows = encoded(train), None if dev is None else encoded(dev)
    batches = Batches(rows.lengths, settings.batch_size, settings.seed, settings.max_length)
    total = settings.total_steps(batches.steps_per_epoch)
    eval_every = settings.eval_every or batches.steps_per_epoch

    labels = model.labels(params)
    tx, schedule = optim.make_optimizer(
        settings.optimizer,
        lr=settings.lr,
        total_steps=total,
        warmup=settings.warmup,
        schedule=settings.schedule,
        weight_decay=settings.weight_decay,
        clip_norm=settings.clip_norm,
    )
    tx = optim.freeze(model.method.transform(tx, total), labels)
    trained, frozen = trees.split(params, labels)
    frozen = jax.device_put(frozen)
    state = init_state(trained, tx, settings.seed)

    logger = Logger(total, folder, tensorboard=tensorboard, quiet=quiet)
    keep_best = settings.keep == "best"
    store = InMemory() if folder is None else Checkpoints(folder / "checkpoints", keep_best, warn=logger.say)
    identity = _identity(model, backbone, settings, total, rows, dev_rows, (*names, best_metric))
    past = Past(prng=platform_default())
    step = 0
    if (restored := store.restore(state)) is not None:
        refuse_another(store.folder, restored.extra["run"], identity)
        step, state, past = restored.step, restored.state, Past(**restored.extra["past"])

    train_step = PerShape(
        make_train_step(model, tx, impl=past.prng, accumulate=settings.accumulate),
        donate=(0,),
    )
    forward = eval_step(model)
    before = forward.seconds, forward.compilations
    clock = Clock(past.seconds, train_step)
    with logger, store, Preemption(folder is not None) as preemption:
        logger.say(str(model.summary(backbone.params)))
        logger.start(step)
        while step < total and not past.is_stale(best_metric, settings.early_stop):
            ids, length = batches.rows(step)
            state, measured = train_step(state, frozen, make_batch(rows, ids, length))
            step += 1
            past = past._replace(rows=past.rows + int(np.sum(ids >= 0)))
            logger.advance(step)

            stopping = preemption.requested
            evaluating = dev_rows is not None and (step % eval_every == 0 or step == total)
            saving = step % settings.save_every == 0 or step == total or stopping
            logging = step % settings.log_every == 0
            if not (evaluating or saving or logging):
                continue
            if int(state.bad_step) > 0:
                raise _not_finite(state, store, past, identity, schedule)
            past = past._replace(seconds=clock.seconds)
            if logging:
                values = {name: float(value) for name, value in measured.items()} | {"lr": schedule(step - 1)}
                logger.train(step, values | {"rows_per_second": past.speed(step)["rows_per_second"]})
            scores = None
            with clock.stopped():
                if evaluating:
                    whole = trees.join(state.trained, frozen)
                    scores, _ = evaluate(model, whole, dev_rows, names, settings.eval_batch_size)
                    logger.evaluation(step, scores)
                    past = past.with_scores(step, scores)
                    improved = past.best(best_metric)["step"] == step
                    saving = saving or improved or past.is_stale(best_metric, settings.early_stop)
                if saving:
                    best = None if scores is None else scores[best_metric]
                    store.save(step, state, scores, best, {"run": identity, "past": past._asdict()})
            if stopping and step < total:
                raise Preempted(f"stopped by SIGTERM after step {step} of {total}; the same command goes on from there")

        kept_step, kept = step, state.trained
        if keep_best and past.history:
            kept_step, kept = _best(store, state, step, past.best(best_metric), logger)
    return state, Report(
        params=trees.join(kept, frozen),
        step=kept_step,
        metrics=next((dict(entry["metrics"]) for entry in past.history if entry["step"] == kept_step), {}),
        history=tuple(past.history),
        steps=step,
        seconds=past.seconds,
        **past.speed(step),
        compile_seconds=train_step.seconds + forward.seconds - before[0],
        compilations=train_step.compilations + forward.compilations - before[1],
        truncated=(rows.truncated, 0 if dev_rows is None else dev_rows.truncated),
        prng=past.prng,
    )


def _check(model: Any, settings: Settings, names: Sequence[str], best_metric: str, dev: Any) -> None:
    for name in names:
        if name not in KNOWN:
            raise ConfigError(unknown("metric", name, KNOWN))
    if best_metric not in names:
        raise ConfigError(unknown("best metric", best_metric, names))
    if settings.early_stop is not None and dev is None:
        raise ConfigError("early_stop: expected dev rows to evaluate on, got none")
    if settings.max_length > model.max_length:
        raise ConfigError(
            f"max_length: expected at most the model's {model.max_length} positions, got {settings.max_length}"
        )


def _encode(head: Any, tokenizer: Any, max_length: int, cache_dir: Any, source: Source) -> Encoded:
    """The rows, with labels that the head has."""
    rows, features, name = encode(source, tokenizer, max_length, cache_dir), source.features, source.name
    if rows.labels is None:
        raise DataError(f"{name}: expected rows with labels, got none")
    if head.name != features.kind:
        raise DataError(f"{name}: expected labels for a {head.name} head, got those of a {features.kind}")
    if head.name == "classification":
        numbers = tuple(str(i) for i in range(head.num_labels))
        if len(features.labels) > head.num_labels or (
            features.labels != head.labels and head.labels != numbers and features.labels != numbers
        ):
            raise DataError(f"{name}: expected the head's labels {list(head.labels)}, got {list(features.labels)}")
    return rows


def _digest(rows: Encoded | None) -> str:
    digest = hashlib.sha256()
    for array in () if rows is None else (rows.ids, rows.offsets, rows.second, rows.labels):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _identity(
    model: Any, backbone: Any, settings: Settings, total: int, rows: Encoded, dev: Encoded | None, scores: Sequence[str]
) -> dict[str, Any]:
    """What two runs must share for one to go on where the other stopped, as JSON values."""
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
    }
    return json.loads(json.dumps(identity))


def _not_finite(state: State, store: Any, past: Past, identity: dict[str, Any], schedule: Any) -> TrainingError:
    """The error of a step that is not finite; the state, which is the one before it, is saved first."""
    bad = int(state.bad_step)
    good = state._replace(bad_step=state.bad_step * 0)
    if (store.latest() or 0) < bad - 1:
        store.save(bad - 1, good, None, None, {"run": identity, "past": past._asdict()})
    kept = "" if (step := store.latest()) is None else f"the state of step {step} is kept; "
    return TrainingError(
        f"step {bad}: the loss or its gradient is not finite (learning rate {schedule(bad - 1):.3g}); "
        f"{kept}choose a lower lr or a longer warmup"
    )


def _best(store: Any, state: State, step: int, best: Mapping[str, Any], logger: Logger) -> tuple[int, Tree]:
    """(step, trained leaves) of the best step, or of the best one that is whole."""
    found = store.best_step()
    if found != best["step"]:
        logger.say(f"the best step {best['step']} is damaged; keeping step {step if found is None else found}")
    if found is None or found == step:
        return step, state.trained
    restored = store.restore(state, found)
    return restored.step, restored.state.trained
