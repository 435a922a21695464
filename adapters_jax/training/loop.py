"""The training loop, in the order in which things happen, whatever is trained."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from adapters_jax.checkpoint import Checkpoints
from adapters_jax.errors import TrainingError
from adapters_jax.training.log import Logger
from adapters_jax.training.memory import InMemory
from adapters_jax.training.past import Clock, Past
from adapters_jax.training.preemption import Preempted, Preemption
from adapters_jax.training.prng import platform_default
from adapters_jax.training.processes import is_first
from adapters_jax.training.run import refuse_another
from adapters_jax.training.settings import Settings
from adapters_jax.training.step import State
from adapters_jax.types import Tree


@runtime_checkable
class Taking(Protocol):
    """Takes steps; `seconds` of compilation and `compilations` so far."""

    @property
    def seconds(self) -> float: ...

    @property
    def compilations(self) -> int: ...

    def __call__(self, state: State, step: int) -> tuple[State, dict[str, Any], int]:
        """(the next state, what the step measured, how many rows it learnt from); `step` counts from 0."""


@dataclasses.dataclass(frozen=True)
class Trainee:
    """What is trained, and how it is judged.

    Attributes:
        state: before the first step.
        start: the generator of dropout's keys -> the steps.
        judge: trained leaves -> scores; None for no evaluation.
        total, eval_every: in steps.
        best_metric: the score that chooses the best step, higher is better.
        settled: the first step that may be chosen.
        schedule: step -> learning rate, for the log.
        identity: what two runs must share for one to go on where the other stopped, as JSON values.
        summary: of what is trained, shown at the start.
    """

    state: State
    start: Callable[[str], Taking]
    judge: Callable[[Tree], dict[str, float]] | None
    total: int
    eval_every: int
    best_metric: str
    settled: int
    schedule: Callable[[int], float]
    identity: dict[str, Any]
    summary: str


@dataclasses.dataclass(frozen=True)
class End:
    """What came out.

    Attributes:
        state: after the last step.
        kept: the trained leaves of the kept step.
        metrics: of the kept step; empty without evaluation.
        measures: fields of a report: step, history, steps, seconds, steps_per_second, rows_per_second, prng.
        taking: what took the steps.
    """

    state: State
    kept: Tree
    metrics: dict[str, float]
    measures: dict[str, Any]
    taking: Taking


def train_loop(
    trainee: Trainee, settings: Settings, folder: Path | None, *, tensorboard: bool = False, quiet: bool = False
) -> End:
    """Steps, evaluations and checkpoints until the end, going on where an earlier run in `folder` stopped.

    Raises:
        CheckpointError, TrainingError, Preempted: see `fit`.
    """
    total, best_metric, settled, state = trainee.total, trainee.best_metric, trainee.settled, trainee.state
    # One process writes and shows.
    first = is_first()
    logger = Logger(total, folder if first else None, tensorboard=tensorboard and first, quiet=quiet or not first)
    keep_best = settings.keep == "best"
    store = InMemory() if folder is None else Checkpoints(folder / "checkpoints", keep_best, warn=logger.say)
    identity = trainee.identity
    past = Past(prng=platform_default())
    step = 0
    if (restored := store.restore(state)) is not None:
        refuse_another(store.folder, restored.extra["run"], identity)
        step, state, past = restored.step, restored.state, Past(**restored.extra["past"])

    take = trainee.start(past.prng)
    clock = Clock(past.seconds, take)
    with logger, store, Preemption(folder is not None) as preemption:
        logger.say(trainee.summary)
        logger.start(step)
        while step < total and not past.is_stale(best_metric, settings.early_stop, settled):
            state, measured, rows = take(state, step)
            step += 1
            past = past._replace(rows=past.rows + rows)
            logger.advance(step)

            stopping = preemption.stops()
            evaluating = trainee.judge is not None and (step % trainee.eval_every == 0 or step == total)
            saving = step % settings.save_every == 0 or step == total or stopping
            logging = step % settings.log_every == 0
            if not (evaluating or saving or logging):
                continue
            if int(state.bad_step) > 0:
                raise _not_finite(state, store, past, identity, trainee.schedule)
            past = past._replace(seconds=clock.seconds)
            if logging:
                values = {name: float(value) for name, value in measured.items()} | {"lr": trainee.schedule(step - 1)}
                logger.train(step, values | {"rows_per_second": past.speed(step)["rows_per_second"]})
            scores = None
            with clock.stopped():
                if evaluating and trainee.judge is not None:
                    scores = trainee.judge(state.trained)
                    logger.evaluation(step, scores)
                    past = past.with_scores(step, scores)
                    improved = step >= settled and past.best(best_metric, settled)["step"] == step
                    saving = saving or improved or past.is_stale(best_metric, settings.early_stop, settled)
                if saving:
                    best = None if scores is None or step < settled else scores[best_metric]
                    store.save(step, state, scores, best, {"run": identity, "past": past._asdict()})
            if stopping and step < total:
                raise Preempted(f"stopped by SIGTERM after step {step} of {total}; the same command goes on from there")

        kept_step, kept = step, state.trained
        if keep_best and past.history:
            kept_step, kept = _best(store, state, step, past.best(best_metric, settled), logger)
    measures = {"step": kept_step, "history": tuple(past.history), "steps": step, "seconds": past.seconds}
    return End(
        state=state,
        kept=kept,
        metrics=next((dict(entry["metrics"]) for entry in past.history if entry["step"] == kept_step), {}),
        measures=measures | past.speed(step) | {"prng": past.prng},
        taking=take,
    )


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
