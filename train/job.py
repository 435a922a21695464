"""What training jobs share: a folder, a model, rows to learn from, an artefact, a result; each adds its own.

Starting again with the same flags goes on where the run stopped, or prints its result. The folder of --out-dir gets
config.yaml, metrics.jsonl, checkpoints/, adapter/ (the artefact) and result.json.
"""

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import adapters_jax as aj
from adapters_jax.sharding import Layout
from adapters_jax.training.fit import Report
from adapters_jax.training.preemption import Preempted
from adapters_jax.training.processes import exchange, is_first, together
from adapters_jax.training.run import RunFolder, finished
from adapters_jax.training.score import Scores, score
from adapters_jax.types import Tree
from train import common, flags


@dataclasses.dataclass(frozen=True)
class Work:
    """What a model learns from, and how it is judged.

    Attributes:
      train: a `Source`, or `Rows` that are encoded already.
      evals: by the suffix of their metrics' names; "" is the main set, which chooses the best step.
      head: what is learnt.
      metrics, best_metric: names of `adapters_jax.metrics`; higher is better.
      extra: of the artefact's manifest.
      tests: sets without labels, by suffix.
    """

    train: Any
    evals: Mapping[str, Any]
    head: Any
    metrics: tuple[str, ...]
    best_metric: str
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    tests: Mapping[str, Any] = dataclasses.field(default_factory=dict)


Prepared = TypeVar("Prepared")
Trained = TypeVar("Trained")

NO_SCORES = Scores({}, {}, {})
"""Of a model that was not scored yet."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A trained model at its kept step, as what a job adds at the end sees it."""

    config: flags.Config
    model: aj.Model
    params: Tree
    backbone: aj.Backbone
    work: Work
    report: Report
    scores: Scores
    layout: Layout | None = None

    def score(self, sets: Mapping[str, Any], metrics: tuple[str, ...] = ()) -> Scores:
        """Of further sets, in the same way."""
        f = self.config.flags
        lengths = {"max_length": f.max_length, "batch_size": f.eval_batch_size}
        tokens = self.config.cache_dir / "tokens"
        params = self.params if self.layout is None else self.layout.put(self.params)
        given = lengths | {"cache_dir": tokens, "layout": self.layout}
        return score(self.model, params, self.backbone, sets, metrics, **given)


def run(
    config: flags.Config,
    open_work: Callable[[flags.Config, aj.Backbone], Work],
    *,
    method: Callable[[flags.Config], aj.Method] = common.method_for,
    start: Callable[[flags.Config, aj.Model, aj.Backbone], Tree] = common.initialise,
    note: Callable[[Outcome], dict[str, Any]] = lambda outcome: {},
    add: Callable[[Outcome], dict[str, Any]] = lambda outcome: {},
) -> Outcome | None:
    """Trains, unless the folder holds this very run, finished; shows the result.

    Args:
      config: resolved.
      open_work: finds what to learn from. All that can be wrong with what was given shows before the folder is touched.
      method: the method, before anything is loaded.
      start: the parameters to begin with.
      note: what this job measures besides: into the artefact's manifest and into result.json.
      add: writes what this job writes besides, in `config.out_dir`; what it returns goes into result.json.

    Returns:
      What came of it, if it was trained to the end just now.
    """

    def prepare(layout: Layout | None) -> tuple[aj.Model, aj.Backbone, Work, Tree]:
        chosen = method(config)
        backbone = common.load_backbone(config, chosen, layout)
        work = open_work(config, backbone)
        model = common.make_model(config, chosen, backbone, work.head)
        return model, backbone, work, start(config, model, backbone)

    def train(prepared: tuple[Any, ...], layout: Layout | None) -> tuple[Outcome, dict[str, Any]]:
        model, backbone, work, params = prepared
        outcome = _train(config, model, params, backbone, work, layout)
        notes = note(outcome)
        save(config.out_dir / "adapter", outcome, notes)
        added = notes | add(outcome)
        truncated = {"train": outcome.report.truncated[0]} | common.by_split("dev", outcome.scores.truncated)
        truncated |= added.pop("truncated", {})
        result = common.result(config, model, backbone, outcome.scores.metrics, outcome.report, truncated) | added
        return outcome, result

    return once(config, prepare, train)


def once(
    config: flags.Config,
    prepare: Callable[[Layout | None], Prepared],
    train: Callable[[Prepared, Layout | None], tuple[Trained, dict[str, Any]]],
) -> Trained | None:
    """What every job does around its training, in one process or in several, of which the first writes and shows.

    Args:
      config: resolved.
      prepare: reads and checks all that was given, before the folder is touched; no process waits in it for another.
      train: prepared -> what came of it, and what result.json is to hold.

    Returns:
      What came of it, if it was trained to the end just now.
    """
    out_dir, overwrite, first = config.out_dir, config.flags.overwrite, is_first()
    with together():
        result = None if overwrite else finished(out_dir, config.to_dict())
    if exchange("finished" if result else "")[0]:
        if first and result:
            print(f"{out_dir}: already finished; --overwrite starts anew")
            common.show(result, out_dir)
        return None

    common.keep_programs(config.cache_dir)
    with together():
        layout = common.layout_of(config)
        prepared = prepare(layout)
    with contextlib.ExitStack() as stack:
        with together():
            opened = RunFolder.open(out_dir, config.to_dict(), overwrite=overwrite) if first else None
        folder = None if opened is None else stack.enter_context(opened)
        try:
            outcome, result = train(prepared, layout)
        except Preempted as stop:
            if first:
                print(stop, file=sys.stderr)
            return None
        if folder is not None:
            folder.finish(result)
    if first:
        common.show(result, out_dir)
    return outcome


def _train(
    config: flags.Config, model: aj.Model, params: Tree, backbone: aj.Backbone, work: Work, layout: Layout | None
) -> Outcome:
    """Fits and scores."""
    settings = flags.settings(config.flags)
    _, report = aj.fit(
        model,
        params,
        backbone,
        work.train,
        work.evals[""],
        settings=settings,
        out_dir=config.out_dir,
        metrics=work.metrics,
        best_metric=work.best_metric,
        cache_dir=config.cache_dir / "tokens",
        tensorboard=config.flags.tensorboard,
        layout=layout,
    )
    outcome = Outcome(config, model, report.params, backbone, work, report, NO_SCORES, layout)
    return dataclasses.replace(outcome, scores=outcome.score(work.evals, work.metrics))


def save(folder: Path, outcome: Outcome, notes: Mapping[str, Any]) -> None:
    """Writes the artefact, with notes in its manifest."""
    flags, work = outcome.config.flags, outcome.work
    aj.save_adapter(
        folder,
        outcome.model,
        outcome.params,
        outcome.backbone,
        task=outcome.config.task,
        scores=outcome.scores.metrics,
        max_length=flags.max_length,
        seed=flags.seed,
        data=work.train.name,
        extra={
            **work.extra,
            "eval_rows": flags.eval_rows,
            "eval_batch_size": flags.eval_batch_size,
            "command": list(outcome.config.command),
            **notes,
        },
    )
