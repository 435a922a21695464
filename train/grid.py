"""What a comparison can be told, and the runs that come of it; all flags are checked before the first one starts."""

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import tyro

from adapters_jax.analysis.comparison import Run, grid
from adapters_jax.data.named import task_metrics
from adapters_jax.errors import ConfigError, unknown
from adapters_jax.flags import Given, fill, merge, print_help, read_argv
from train import flags

PROG = "python -m train.compare"
List = tyro.conf.arg(metavar="A,B,...")


@dataclasses.dataclass(frozen=True)
class Grid:
    """What is compared. All other flags are those of `python -m train.glue`, for every run."""

    methods: Annotated[tuple[str, ...], List]
    """Published methods. --NAME.FIELD=value sets a field of one of them: --houlsby.preset=paper."""
    sizes: Annotated[tuple[str, ...], List] = ()
    """Bottlenecks, ranks, lengths or layers: 8,64 for every method that has such a size, lora:2,lora:8 for one."""
    lrs: Annotated[tuple[str, ...], List] = ()
    """Highest learning rates of single methods, houlsby:5e-4,lora:1e-3; else --lr, else each method's own recipe."""
    head_lrs: Annotated[tuple[str, ...], List] = ()
    """Highest learning rates of the head under single methods; else --head-lr, else the method's."""
    seeds: Annotated[tuple[int, ...], List] = (0,)
    """Of each method in each size."""
    jobs: int = 1
    """Runs at a time; they share the machine, and their speeds and peaks are no longer comparable with others."""
    out_dir: Annotated[str | None, flags.Unset] = None
    """The folder of all runs (default: runs/TASK-compare)."""


@dataclasses.dataclass(frozen=True)
class Job:
    """One run: its place in the grid, the arguments of train.glue, and the configuration that they come to."""

    run: Run
    argv: tuple[str, ...]
    config: flags.Config


@dataclasses.dataclass(frozen=True)
class Plan:
    """The whole comparison.

    Attributes:
      jobs: every run.
      out_dir: the folder of all.
      at_once: how many run at a time.
      overwrite: whether finished runs are repeated.
      title: task and backbone.
      metric: the score, the one that chooses the best step.
    """

    jobs: tuple[Job, ...]
    out_dir: Path
    at_once: int
    overwrite: bool
    title: str
    metric: str


def plan(argv: list[str], description: str) -> Plan:
    """Flags to runs.

    Raises:
      ConfigError: an unknown flag or method, or a value of the wrong type or out of range.
      SystemExit: after `--help`.
    """
    if {"-h", "--help"} & set(argv):
        print_help(
            Grid, PROG, f"{description} Every other flag is one of `python -m train.glue`, and goes to each run."
        )
        raise SystemExit(0)
    given = merge(read_argv(argv))
    own = [_dashed(field.name) for field in dataclasses.fields(Grid)]
    asked = fill(Grid, {name: g for name, g in given.items() if name in own})
    for name, count in {"methods": len(asked.methods), "seeds": len(asked.seeds), "jobs": asked.jobs}.items():
        if count < 1:
            raise ConfigError(f"--{name}: expected at least 1, got {count}")
    methods: dict[str, Any] = {name: flags.method_class(name) for name in asked.methods}
    rest = [g for name, g in given.items() if name not in own]
    of_method = {method: [g for g in rest if g.name.startswith(f"{_dashed(method)}.")] for method in methods}
    shared = [g for g in rest if not any(g in fields for fields in of_method.values())]
    _refuse_unknown(shared, own)
    # Their types are checked here, where messages still name the place that they were given at.
    common = fill(flags.Flags, {g.name: g for g in shared})
    task = common.task_name()
    out_dir = Path(asked.out_dir or f"runs/{task}-compare")
    sizes = _sizes(asked.sizes, methods)
    rates = {"lr": _rates("lrs", asked.lrs, methods), "head-lr": _rates("head-lrs", asked.head_lrs, methods)}

    def job(run: Run) -> Job:
        line = [f"--method={run.method}", f"--seed={run.seed}", f"--out-dir={out_dir / run.name}"]
        line += [_argument(g, g.name) for g in shared if run.method not in rates.get(g.name, {})]
        line += [f"--{flag}={own[run.method]}" for flag, own in rates.items() if run.method in own]
        line += [_argument(g, f"method.{g.name.partition('.')[2]}") for g in of_method[run.method]]
        line += [] if run.size is None else [f"--method.{methods[run.method].size}={run.size}"]
        return Job(run, tuple(line), flags.resolve(flags.parse(line)))

    return Plan(
        jobs=tuple(job(run) for run in grid(sizes, list(dict.fromkeys(asked.seeds)))),
        out_dir=out_dir,
        at_once=asked.jobs,
        overwrite=common.overwrite,
        title=f"{task}, {common.backbone}",
        metric=task_metrics(task)[1],
    )


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def _argument(given: Given, name: str) -> str:
    return f"--{name}" if given.value is None else f"--{name}={given.value}"


def _refuse_unknown(given: Iterable[Given], own: list[str]) -> None:
    """Refuses what neither a comparison nor train.glue knows, and what the grid itself sets."""
    known = {_dashed(field.name) for field in dataclasses.fields(flags.Flags)} - {"method", "seed", "config"}
    for g in given:
        if g.name not in known:
            near = difflib.get_close_matches(g.name, [*own, *known], n=1)
            hint = (
                f"perhaps you meant --{near[0]}?" if near else "expected one of --help, of train.glue, or METHOD.FIELD"
            )
            raise ConfigError(f"unknown flag {g.place}: {hint}")


def _sizes(entries: Iterable[str], methods: Mapping[str, Any]) -> dict[str, list[int | None]]:
    """The sizes of each method: its own entries, else those without a name if it has a size, else its default."""
    found = _by_method("sizes", entries, methods, int)
    for method in methods:
        if method in found and methods[method].size is None:
            raise ConfigError(f"--sizes: {method} has no size, got {method}:{found[method][0]}")
    common = found.get("", [None])
    return {name: found.get(name, [None] if cls.size is None else common) for name, cls in methods.items()}


def _rates(flag: str, entries: Iterable[str], methods: Mapping[str, Any]) -> dict[str, float]:
    """The rate of each method that has an entry."""
    found = _by_method(flag, entries, methods, float)
    for method, rates in found.items():
        if not method or len(rates) > 1:
            raise ConfigError(f"--{flag}: expected METHOD:RATE once for a method, got {', '.join(entries)}")
    return {method: rates[0] for method, rates in found.items()}


def _by_method(flag: str, entries: Iterable[str], methods: Mapping[str, Any], kind: Callable) -> dict[str, list[Any]]:
    """`8,lora:2,lora:4` -> {"": [8], "lora": [2, 4]}."""
    found: dict[str, list[Any]] = {}
    for entry in entries:
        method, _, value = entry.rpartition(":")
        if method and method not in methods:
            raise ConfigError(f"--{flag}: {unknown('method', method, methods)}")
        try:
            found.setdefault(method, []).append(kind(value))
        except ValueError:
            expected = "a whole number" if kind is int else "a number"
            raise ConfigError(f"--{flag}: expected {expected}, alone or as METHOD:NUMBER, got {entry!r}") from None
    return {method: list(dict.fromkeys(values)) for method, values in found.items()}
