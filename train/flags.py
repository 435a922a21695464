"""What a training job can be told, and the one resolved configuration that comes of it.

A value comes from the command line, else the last `--config` file that names it, else the table of task and method,
else the method's recipe. Nothing here imports JAX until a method is asked for: `--help` stays fast.
"""

import dataclasses
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from adapters_jax.data.glue import DEFAULT_CACHE
from adapters_jax.data.named import TOY, task_recipe
from adapters_jax.data.tasks import TASKS
from adapters_jax.errors import ConfigError, unknown
from adapters_jax.flags import fill, merge, one_line_errors, print_help, read_argv

Recipe = tyro.conf.arg(help_behavior_hint="(default: the recipe's)", metavar="VALUE")
Method = tyro.conf.arg(help_behavior_hint="(default: the method's)", metavar="VALUE")
Unset = tyro.conf.arg(help_behavior_hint="", metavar="VALUE")


@dataclasses.dataclass(frozen=True)
class Training:
    """What every training job can be told. None stands for "not given" and is filled by `resolve`."""

    method: str = "houlsby"
    """The published method; `--method=NAME --help` lists its own flags, --method.bottleneck and so on."""
    backbone: str = "bert-base-uncased"
    """A hub id, a local folder, or `minilm` (the installed demo weights)."""
    revision: Annotated[str | None, Unset] = None
    """Commit, tag or branch of a hub id."""
    cache_dir: Annotated[str | None, Unset] = None
    """Where fetched archives, token ids and compiled programs are kept (default: ~/.cache/adapters_jax)."""
    out_dir: Annotated[str | None, Unset] = None
    """The run folder (default: runs/TASK-METHOD-SEED). Starting again in it resumes."""
    train_rows: Annotated[int | None, Unset] = None
    """Train on a fixed sample of so many rows, the same for every method."""
    eval_rows: Annotated[int | None, Unset] = None
    """Evaluate on a fixed sample of so many rows."""
    epochs: Annotated[float | None, Recipe] = None
    """Passes over the training rows."""
    steps: Annotated[int | None, Unset] = None
    """Optimiser steps, in place of epochs."""
    batch_size: Annotated[int | None, Recipe] = None
    """Rows of one optimiser step."""
    eval_batch_size: int = 64
    """Rows of one evaluation step."""
    accumulate: int = 1
    """Split each step's rows into so many parts, one after the other, to save memory."""
    optimizer: Annotated[str | None, Recipe] = None
    """adamw, adam_no_bias_correction or adafactor."""
    lr: Annotated[float | None, Recipe] = None
    """Highest learning rate."""
    head_lr: Annotated[float | None, Unset] = None
    """Highest learning rate of the head, where it is another (default: that of --lr)."""
    warmup: Annotated[float | None, Recipe] = None
    """Share of the steps in which the rate rises."""
    schedule: Annotated[Literal["linear", "constant"] | None, Recipe] = None
    """What the rate does after the warm-up: linear (down to 0) or constant."""
    weight_decay: Annotated[float | None, Recipe] = None
    """Decoupled decay of trained leaves, but for LayerNorms and biases."""
    clip_norm: Annotated[float | None, Recipe] = None
    """Highest norm of the trained leaves' gradient."""
    seed: int = 0
    """Seed of initialisation, order and dropout."""
    max_length: int = 128
    """Tokens of a text or pair; longer ones are cut and counted."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """In which the backbone is stored and computed; trained leaves stay float32."""
    quantize: Annotated[Literal["nf4", "int8", "none"] | None, Method] = None
    """Keep the dense kernels of the backbone's layers in so few bits; they are frozen. With any adapter method."""
    remat: Literal["none", "dots", "full"] = "none"
    """What the backward pass computes again, to save memory."""
    save_every: int = 500
    """Steps between checkpoints; a new best step and the last one are saved in any case."""
    eval_every: Annotated[int | None, Unset] = None
    """Steps between evaluations (default: an epoch)."""
    log_every: int = 50
    """Steps between lines of metrics.jsonl."""
    keep: Literal["best", "last"] = "best"
    """Which evaluated step becomes the artefact."""
    early_stop: Annotated[int | None, Unset] = None
    """Stop after so many evaluations without a better score."""
    drop: Annotated[str | None, Unset] = None
    """AdapterDrop: leave the method out of so many of the first layers; `robust`: of a number drawn at each step."""
    init_adapter: Annotated[str | None, Unset] = None
    """Start from this artefact's adapters (and its head, where the labels agree)."""
    freeze_adapter: bool = False
    """Keep the adapters of --init-adapter as they are, and train the head alone."""
    on: Annotated[str | None, Unset] = None
    """Stack the method on this artefact's adapter, which stays as it is: a task adapter on a language adapter."""
    mesh: Annotated[str | None, Unset] = None
    """Devices to train on: data=-1,fsdp=1,model=1 (-1: the rest; the default is data=-1). See docs/scale.md."""
    shard_adapters: bool = False
    """Split the method's own parameters and their moments over fsdp too."""
    distributed: bool = False
    """Join the other processes of this run, as the cluster names them: Cloud TPU, GKE, Slurm or Open MPI."""
    coordinator: Annotated[str | None, Unset] = None
    """Join them by hand: HOST:PORT of process 0; with --processes and --process."""
    processes: Annotated[int | None, Unset] = None
    """How many processes there are."""
    process: Annotated[int | None, Unset] = None
    """Which of them this is, from 0."""
    heartbeat: int = 100
    """Seconds without a sign of life after which a process counts as dead, and the others end too."""
    patience: int = 300
    """Seconds to wait for the other processes at the start."""
    tensorboard: bool = False
    """Also write TensorBoard files (needs tensorboardX)."""
    overwrite: bool = False
    """Start anew in a run folder that exists."""
    config: Annotated[str | None, Unset] = None
    """A YAML file of these flags; may be given several times, later ones win."""

    def task_name(self) -> str:
        """What is learnt, known to exist.

        Raises:
          ConfigError: there is no such task.
        """
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Glue:
    """Which task of GLUE, and where its rows are."""

    task: Annotated[str | None, Unset] = None
    """cola sst2 mrpc stsb qqp mnli qnli rte wnli; not needed with --data=toy."""
    data: Literal["auto", "tfds", "files", "toy"] = "auto"
    """A prepared TFDS set, the official files, the built-in generated task, or the first of the first two found."""
    data_dir: Annotated[str | None, Unset] = None
    """Folder of the GLUE files or of TFDS; if given it must hold the task, nothing is fetched."""


@dataclasses.dataclass(frozen=True)
class Flags(Training, Glue):
    """What `python -m train.glue` can be told."""

    def task_name(self) -> str:
        if self.data == "toy":
            if self.task not in (None, TOY):
                raise ConfigError(f"--data=toy is a task of its own: expected no --task, got {self.task!r}")
            return TOY
        if self.task is None:
            raise ConfigError(f"--task: expected one of {', '.join(TASKS)}, got nothing (or give --data=toy)")
        if self.task not in TASKS:
            raise ConfigError(unknown("task", self.task, TASKS))
        return self.task


@dataclasses.dataclass(frozen=True)
class Config:
    """A resolved job: every flag explicit, and the method that `--method.*` filled.

    `command` is what was typed, for the manifest; () where the job was started otherwise.
    """

    flags: Any
    method: Any
    command: tuple[str, ...] = ()

    @property
    def task(self) -> str:
        return self.flags.task_name()

    @property
    def out_dir(self) -> Path:
        return Path(str(self.flags.out_dir))

    @property
    def cache_dir(self) -> Path:
        return Path(self.flags.cache_dir or DEFAULT_CACHE).expanduser()

    def to_dict(self) -> dict[str, Any]:
        """What config.yaml holds: `--config` of it repeats the run. Places are left out: a run folder may be moved."""
        flags = {k: v for k, v in dataclasses.asdict(self.flags).items() if v is not None}
        for other in PLACES:
            flags.pop(other, None)
        return {**flags, "method": {"name": self.flags.method, **self.method.given()}}


def parse(
    argv: Sequence[str] | None = None,
    prog: str = "python -m train.glue",
    description: str = "",
    cls: type[Training] = Flags,
) -> Config:
    """The flags as given, in their types, with the method they choose; not yet resolved.

    Args:
      argv: the command line; None for this program's.
      prog, description: for `--help`.
      cls: what the job can be told.

    Raises:
      ConfigError: an unknown flag, method or YAML key, or a value of the wrong type.
      SystemExit: after `--help`.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    wants_help = bool({"-h", "--help"} & set(argv))
    given = merge(read_argv([token for token in argv if token not in ("-h", "--help")]))
    if wants_help:
        print_help(cls, prog, description)
        if "method" in given and given["method"].value:
            print_help(method_class(given["method"].value), prog, prefix="method.")
        raise SystemExit(0)
    of_method = {name: g for name, g in given.items() if name.startswith("method.")}
    flags = fill(cls, {name: g for name, g in given.items() if name not in of_method})
    return Config(flags, fill(method_class(flags.method), of_method, prefix="method."))


def method_class(name: str) -> type:
    """The dataclass of a published method. The first import of JAX happens here."""
    from adapters_jax.methods import METHODS

    if name not in METHODS:
        raise ConfigError(unknown("method", name, METHODS))
    return METHODS[name]


ROBUST = "robust"
PLACES = (
    *("config", "overwrite", "out_dir", "cache_dir"),
    *("distributed", "coordinator", "processes", "process", "heartbeat", "patience"),
)
"""Where and how a run takes place, not what it is: config.yaml leaves them out."""
RECIPE = ("optimizer", "lr", "epochs", "warmup", "schedule", "weight_decay", "clip_norm", "batch_size")
"""What the table of task and method, or else the method's recipe, says where flags and YAML do not."""


def resolve(config: Config) -> Config:
    """Every value made explicit and checked, before anything is read, loaded or compiled.

    Raises:
      ConfigError: an unknown or missing task, or a value out of range.
    """
    flags = config.flags
    task = flags.task_name()
    table = task_recipe(task, flags.method)
    values = {name: table.get(name, getattr(config.method.recipe, name)) for name in RECIPE}
    values = {name: value if getattr(flags, name) is None else getattr(flags, name) for name, value in values.items()}
    if flags.steps is not None:
        values["epochs"] = None
    if flags.drop is not None and flags.drop != ROBUST and not flags.drop.isdecimal():
        raise ConfigError(f"--drop: expected a number of layers or {ROBUST}, got {flags.drop!r}")
    for name in ("train_rows", "eval_rows"):
        rows = getattr(flags, name)
        if rows is not None and rows < 1:
            raise ConfigError(f"{name}: expected at least 1, got {rows}; leave it out for all rows")
    out_dir = flags.out_dir or f"runs/{task}-{flags.method}-{flags.seed}"
    values |= {"task": task} if hasattr(flags, "task") else {}
    # "none" is kept only where it says other than the method: runs of before it was a flag are the same runs.
    quantize, own = flags.quantize or config.method.quantize, config.method.quantize
    values["quantize"] = None if quantize == "none" and own is None else quantize
    resolved = dataclasses.replace(flags, **values, out_dir=out_dir)
    settings(resolved)
    return dataclasses.replace(config, flags=resolved)


def settings(flags: Training) -> Any:
    """The library's settings of a training run, which checks their ranges."""
    from adapters_jax.training.settings import Settings

    names = [field.name for field in dataclasses.fields(Settings)]
    return Settings(**{name: getattr(flags, name) for name in names})


def start(
    run: Callable[[Config], object],
    argv: Sequence[str] | None,
    module: str,
    doc: str | None,
    cls: type[Training] = Flags,
) -> None:
    """What every job does: flags, configuration, run. Input that is at fault ends it with one line and exit code 2.

    Args:
      run: takes the resolved configuration.
      argv: the command line; None for this program's.
      module: its name, and `doc` its docstring, for `--help`.
      cls: what the job can be told.
    """
    # Else transformers tells everybody that there is no torch, which is as it should be.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    with one_line_errors():
        argv = list(sys.argv[1:] if argv is None else argv)
        config = resolve(parse(argv, f"python -m {module}", (doc or "").splitlines()[0], cls))
        config = dataclasses.replace(config, command=("python", "-m", module, *argv))
        join(config.flags)
        run(config)


def join(flags: Training) -> None:
    """Makes this process one of a run's, where the flags say so."""
    given = {name: getattr(flags, name) for name in ("coordinator", "processes", "process")}
    if flags.distributed or any(value is not None for value in given.values()):
        from adapters_jax.training.processes import Group
        from adapters_jax.training.processes import join as join_group

        join_group(Group(**given, heartbeat=flags.heartbeat, patience=flags.patience))
