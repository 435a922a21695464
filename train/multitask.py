"""Tune one adapter, or one each, on several tasks of GLUE at once: `python -m train.multitask --tasks=cola,mrpc,rte`.

With --share (the default) all tasks train one adapter, each with a head of its own; with --share=false every task has
its own adapter too. A step learns from one task, drawn from the seed and the step. The run folder holds config.yaml,
metrics.jsonl, checkpoints/, result.json and, for each task, TASK/adapter: an artefact that is used alone, or fused by
`python -m train.fuse`. Starting again with the same flags goes on where the run stopped.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import tyro

from adapters_jax.data.tasks import TASKS
from adapters_jax.errors import ConfigError, unknown
from train import flags

NAME = "multitask"
Tasks = tyro.conf.arg(metavar="A,B,...")


@dataclasses.dataclass(frozen=True)
class Flags(flags.Flags):
    """What `python -m train.multitask` can be told."""

    tasks: Annotated[tuple[str, ...], Tasks] = ()
    """Tasks of GLUE."""
    share: bool = True
    """Train one adapter for all tasks; else one each, side by side over the backbone."""
    sampling: Literal["proportional", "temperature", "uniform"] = "proportional"
    """How often a step learns from a task: by its number of rows n, by n^(1/temperature), or all alike."""
    temperature: float = 2.0
    """Of --sampling=temperature."""

    def task_name(self) -> str:
        if self.task not in (None, NAME) or self.data == "toy":
            raise ConfigError("train.multitask: expected --tasks=A,B,... of GLUE, got --task or --data=toy")
        for name in self.tasks:
            if name not in TASKS:
                raise ConfigError(unknown("task", name, TASKS))
        if len(self.tasks) < 2 or len(set(self.tasks)) < len(self.tasks):
            raise ConfigError(f"--tasks: expected at least two, each once, got {', '.join(self.tasks) or 'nothing'}")
        return NAME


def main(argv: Sequence[str] | None = None) -> None:
    """Flags, configuration, run."""
    flags.start(run, argv, "train.multitask", __doc__, Flags)


def run(config: flags.Config) -> None:
    """Trains on all tasks, unless the folder holds this very run, finished; shows the result."""
    # What needs JAX is imported here, so that `--help` and misspelled flags answer at once.
    from adapters_jax.training.multitask import Task, initial_tasks
    from train import common, glue, job

    options = config.flags
    if options.init_adapter or options.on:
        raise ConfigError("train.multitask: expected fresh adapters, without --init-adapter and --on")

    def prepare(layout: Any) -> tuple[Any, ...]:
        method = common.method_for(config)
        backbone = common.load_backbone(config, method, layout)
        works = {name: glue.open_work(of_task(config, name), backbone) for name in options.tasks}
        model = lambda head: common.make_model(config, method, backbone, head)
        tasks = {
            name: Task(model(work.head), work.train, work.evals[""], work.metrics, work.best_metric)
            for name, work in works.items()
        }
        return tasks, works, initial_tasks(tasks, backbone.params, options.seed), backbone

    job.once(config, prepare, lambda prepared, layout: (None, train(config, prepared, layout)))


def of_task(config: flags.Config, name: str) -> flags.Config:
    """What `train.glue` would be told for one of the tasks."""
    names = [field.name for field in dataclasses.fields(flags.Flags)]
    values = {field: getattr(config.flags, field) for field in names} | {"task": name}
    return dataclasses.replace(config, flags=flags.Flags(**values))


def train(config: flags.Config, prepared: tuple[Any, ...], layout: Any) -> dict[str, Any]:
    """Fits, scores every task's sets, writes its artefact; returns what result.json holds."""
    from adapters_jax.training.multitask import fit_tasks
    from train import common, job

    tasks, works, params, backbone = prepared
    options, out_dir = config.flags, config.out_dir
    settings = flags.settings(options)
    found, report = fit_tasks(
        tasks,
        params,
        backbone,
        share=options.share,
        sampling=options.sampling,
        temperature=options.temperature,
        settings=settings,
        out_dir=out_dir,
        cache_dir=config.cache_dir / "tokens",
        tensorboard=options.tensorboard,
        layout=layout,
    )
    metrics: dict[str, float] = {"mean": report.metrics["mean"]}
    truncated: dict[str, int] = {"train": report.truncated[0]}
    counts = {}
    for name, task in tasks.items():
        own = of_task(config, name)
        outcome = job.Outcome(own, task.model, found[name], backbone, works[name], report, job.NO_SCORES, layout)
        outcome = dataclasses.replace(outcome, scores=outcome.score(works[name].evals, works[name].metrics))
        job.save(out_dir / name / "adapter", outcome, {"multitask": {"tasks": list(tasks), "share": options.share}})
        metrics |= {f"{name}/{metric}": value for metric, value in outcome.scores.metrics.items()}
        truncated |= {f"{name}/{suffix}": n for suffix, n in common.by_split("dev", outcome.scores.truncated).items()}
        counts[name] = task.model.summary(backbone.params)
    first = next(iter(tasks.values())).model
    result = common.result(config, first, backbone, metrics, report, truncated)
    return result | {"parameters": parameters(result["parameters"], list(counts.values()), options.share)}


def parameters(first: Mapping[str, Any], counts: Sequence[Any], share: bool) -> dict[str, Any]:
    """Of all tasks together: a shared adapter counts once."""
    adapter = first["adapter"] if share else sum(count.adapter for count in counts)
    backbone_trained = first["backbone_trained"] if share else sum(count.backbone_trained for count in counts)
    heads = sum(count.head for count in counts)
    trained = sum(count.trained - count.head for count in counts[: 1 if share else None]) + heads
    return {
        "adapter": adapter,
        "head": heads,
        "backbone_trained": backbone_trained,
        "trained": trained,
        "backbone": first["backbone"],
        "share": (adapter + backbone_trained) / first["backbone"],
    }


if __name__ == "__main__":
    main()
