"""`fit_tasks`: several tasks over one frozen backbone, a task a step; they share an adapter, or each has its own.

Shared ("MT-A" where adapters are fused): every step moves the one adapter and the head of its task. Own: every step
moves the adapter and the head of its task alone, so the tasks learn side by side without touching each other.

Both are the same step: what all share and what a task has to itself are two branches of one optimiser, under one
gradient norm and one learning rate by the step of the whole run; a step's task brings its own branch along. Nothing of
the other tasks moves, neither leaves nor moments.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from adapters_jax import trees
from adapters_jax.data.batches import Batches, make_batch
from adapters_jax.data.sampling import draw_tasks, probabilities
from adapters_jax.data.tokenize import Rows
from adapters_jax.errors import ConfigError
from adapters_jax.sharding import Layout
from adapters_jax.training.evaluate import evaluate
from adapters_jax.training.fit import Report, check_layout, describe, encode_rows, identity_of
from adapters_jax.training.loop import Taking, Trainee, train_loop
from adapters_jax.training.settings import Settings
from adapters_jax.training.step import State, init_state, make_optimizer, make_train_step, train_program
from adapters_jax.types import Tree

SHARED, OWN = "shared", "own"
MEAN = "mean"
"""The mean of the tasks' scores, which chooses the best step."""


@dataclasses.dataclass(frozen=True)
class Task:
    """One of the tasks.

    Attributes:
        model: over the same backbone as the others, with the same method where they share it.
        train, dev: as `fit` takes them.
        metrics: names of `adapters_jax.metrics`; the head's own if not given.
        best_metric: of these; the first if not given.
    """

    model: Any
    train: Any
    dev: Any
    metrics: tuple[str, ...] = ()
    best_metric: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return self.metrics or self.model.head.metrics

    @property
    def score(self) -> str:
        return self.best_metric or self.names[0]


def initial_tasks(tasks: Mapping[str, Task], backbone: Tree, seed: int) -> dict[str, Tree]:
    """Task -> fresh params; adapters of like methods start alike, heads by their task's name."""
    key = jax.random.key(seed)
    drawn = {name: task.model.init(trees.fold_path(key, name), backbone) for name, task in tasks.items()}
    return {name: task.model.init(key, backbone) | {"head": drawn[name]["head"]} for name, task in tasks.items()}


def fit_tasks(
    tasks: Mapping[str, Task],
    params: Mapping[str, Tree],
    backbone: Any,
    *,
    share: bool = True,
    sampling: str = "proportional",
    temperature: float = 2.0,
    settings: Settings | None = None,
    out_dir: str | Path | None = None,
    cache_dir: str | Path | None = None,
    tensorboard: bool = False,
    quiet: bool = False,
    layout: Layout | None = None,
    **overrides: Any,
) -> tuple[dict[str, Tree], Report]:
    """Trains all tasks; see `fit` for what is not said here.

    Args:
        tasks: name -> task, in the order of the draw.
        params: name -> where to start, as `initial_tasks` makes them; of a shared adapter, the first task's is taken.
        backbone: of all.
        share: one adapter for all, or one each.
        sampling, temperature: see `data.sampling`.
        settings: how; default is the first method's recipe. An epoch is as many steps as all tasks' rows fill.

    Returns:
        (task -> its whole params at the kept step, the report, whose `params` are these; metrics are "TASK/METRIC",
        and "mean", that of the tasks' scores).

    Raises:
        ConfigError: no task, unlike methods where they share, a task without dev rows; and as `fit`.
    """
    first = _check(tasks, share)
    settings = Settings.from_recipe(settings or first.model.method.recipe, **overrides)
    rows = {
        name: encode_rows(t.model, backbone, settings, t.names, t.score, cache_dir, t.train, t.dev)
        for name, t in tasks.items()
    }
    check_layout(settings, layout)
    batches = {
        name: Batches(own.lengths, settings.batch_size, settings.seed, settings.max_length)
        for name, (own, _) in rows.items()
    }
    epoch = sum(b.steps_per_epoch for b in batches.values())
    total = settings.total_steps(epoch)
    shares = probabilities({name: len(own) for name, (own, _) in rows.items()}, sampling, temperature)
    turns = draw_tasks(shares, settings.seed, total)
    parts = {name: Part(task.model, params[name], settings, total, share, layout) for name, task in tasks.items()}
    schedule = next(iter(parts.values())).schedule

    def judge(trained: Tree) -> dict[str, float]:
        scores: dict[str, float] = {}
        for name, task in tasks.items():
            whole = parts[name].whole(trained[SHARED], trained[OWN][name])
            found, _ = evaluate(task.model, whole, rows[name][1], task.names, settings.eval_batch_size, layout)
            scores |= {f"{name}/{metric}": value for metric, value in found.items()}
        return {MEAN: float(np.mean([scores[f"{name}/{task.score}"] for name, task in tasks.items()]))} | scores

    def start(impl: str) -> Taking:
        return Turns(parts, {name: own for name, (own, _) in rows.items()}, batches, turns, impl, settings.accumulate)

    identity = {
        name: identity_of(t.model, backbone, settings, total, *rows[name], (*t.names, t.score), parts[name].frozen)
        for name, t in tasks.items()
    }
    end = train_loop(
        Trainee(
            state=_initial_state(parts),
            start=start,
            judge=judge,
            total=total,
            eval_every=settings.eval_every or epoch,
            best_metric=MEAN,
            settled=max(task.model.method.settled(total) for task in tasks.values()),
            schedule=schedule,
            identity={"tasks": identity, "order": list(tasks), "share": share, "shares": shares},
            summary="\n\n".join(
                f"{name}\n{describe(t.model, backbone, params[name], layout)}" for name, t in tasks.items()
            ),
        ),
        settings,
        None if out_dir is None else Path(out_dir),
        tensorboard=tensorboard,
        quiet=quiet,
    )
    whole = {name: parts[name].whole(end.kept[SHARED], end.kept[OWN][name]) for name in tasks}
    return whole, Report(
        params=whole,
        metrics=end.metrics,
        **end.measures,
        compile_seconds=end.taking.seconds,
        compilations=end.taking.compilations,
        truncated=(
            sum(own.truncated for own, _ in rows.values()),
            sum(dev.truncated for _, dev in rows.values() if dev is not None),
        ),
    )


def _check(tasks: Mapping[str, Task], share: bool) -> Task:
    if not tasks:
        raise ConfigError("tasks: expected at least one, got none")
    (first_name, first), *others = tasks.items()
    for name, task in tasks.items():
        if task.dev is None:
            raise ConfigError(f"tasks: expected dev rows for each, got none for {name}")
        if "/" in name or name in (MEAN, ""):
            raise ConfigError(f"tasks: expected names without /, and none {MEAN!r}, got {name!r}")
    for name, task in others:
        if share and task.model.method != first.model.method:
            raise ConfigError(
                f"tasks: expected one method to share, got {first.model.method} of {first_name} and "
                f"{task.model.method} of {name}"
            )
        if (task.model.config, task.model.dtype) != (first.model.config, first.model.dtype):
            raise ConfigError(f"tasks: expected one backbone and dtype, got others for {first_name} and {name}")
    return first


class Mix:
    """A tree of which some leaves belong to all tasks and the others to one: apart, as tuples of leaves, and together.

    Args:
        template: the tree.
        own: path (keys of the tree) -> whether the leaf belongs to the task.
    """

    def __init__(self, template: Any, own: Callable[[list[Any]], bool]) -> None:
        pairs, self._structure = jax.tree_util.tree_flatten_with_path(template)
        self._own = [own([getattr(key, "key", None) for key in path]) for path, _ in pairs]

    def split(self, tree: Any) -> tuple[tuple, tuple]:
        """(leaves that all share, leaves of the task's own)."""
        pairs = list(zip(jax.tree.leaves(tree), self._own, strict=True))
        return tuple(leaf for leaf, own in pairs if not own), tuple(leaf for leaf, own in pairs if own)

    def join(self, shared: tuple, own: tuple) -> Any:
        """The inverse of `split`."""
        sources = {False: iter(shared), True: iter(own)}
        return jax.tree.unflatten(self._structure, [next(sources[mine]) for mine in self._own])


class Part:
    """One task's share of the state.

    Args:
        model, params: of the task.
        settings, total: of the run.
        share: whether what the method trains belongs to all.
        layout: see `fit`.
    """

    def __init__(
        self, model: Any, params: Tree, settings: Settings, total: int, share: bool, layout: Layout | None = None
    ) -> None:
        self.model, self.layout = model, layout
        labels = model.labels(params)
        self.trained, frozen = trees.split(params, labels)
        self.frozen = jax.device_put(frozen) if layout is None else layout.put(frozen)
        branches = trees.map_paths(lambda _, label: SHARED if share and label == "adapter" else OWN, labels)
        self.tx, self.schedule = make_optimizer(model, settings, total, labels, branches)
        self.state = init_state(self.trained, self.tx, settings.seed, layout)
        flat = trees.flatten(branches)
        self.leaves = Mix(self.state.trained, lambda keys: flat["/".join(keys)] == OWN)

        def belongs_to_task(keys: list[Any]) -> bool:
            # Moments lie under their branch's name, what a method keeps of a leaf under the leaf's path. What lies
            # outside of both, such as the learning rate's step, belongs to the run.
            names = [key for key in keys if isinstance(key, str)]
            ends = ["/".join(names[i:]) for i in range(len(names))]
            found = [name for name in names if name in (SHARED, OWN)] + [flat[end] for end in ends if end in flat]
            return bool(found) and found[0] == OWN

        self.moments = Mix(self.state.opt_state, belongs_to_task)

    def whole(self, shared: tuple, own: tuple) -> Tree:
        """The task's params."""
        return trees.join(self.leaves.join(shared, own), self.frozen)


def _initial_state(parts: Mapping[str, Part]) -> State:
    """The state of all tasks: trained and opt_state are {"shared": leaves, "own": {task: leaves}}."""
    first = next(iter(parts.values()))

    def each(mix: str, field: str) -> dict[str, Any]:
        apart = {name: getattr(part, mix).split(getattr(part.state, field)) for name, part in parts.items()}
        return {SHARED: next(iter(apart.values()))[0], OWN: {name: own for name, (_, own) in apart.items()}}

    return first.state._replace(trained=each("leaves", "trained"), opt_state=each("moments", "opt_state"))


class Turns:
    """The steps of several tasks, one task a step.

    Args:
        parts, rows, batches: by task.
        turns: the task of each step, by its place.
        impl, accumulate: see `make_train_step`.
    """

    def __init__(
        self,
        parts: Mapping[str, Part],
        rows: Mapping[str, Rows],
        batches: Mapping[str, Batches],
        turns: np.ndarray,
        impl: str,
        accumulate: int,
    ) -> None:
        self._parts, self._rows, self._batches, self._turns = parts, rows, batches, turns
        self._names = list(parts)
        # The how-manieth turn of its task each step is: its place in the task's own order of rows.
        self._count = np.stack([np.cumsum(turns == task) - 1 for task in range(len(parts))])
        make = functools.partial(make_train_step, impl=impl, accumulate=accumulate)
        self._programs = {
            name: train_program(make(part.model, part.tx), part.state, part.layout) for name, part in parts.items()
        }

    @property
    def seconds(self) -> float:
        return sum(program.seconds for program in self._programs.values())

    @property
    def compilations(self) -> int:
        return sum(program.compilations for program in self._programs.values())

    def __call__(self, state: State, step: int) -> tuple[State, dict[str, Any], int]:
        number = int(self._turns[step])
        name = self._names[number]
        part = self._parts[name]
        ids, length = self._batches[name].rows(int(self._count[number, step]))
        trained, moments = state.trained, state.opt_state
        one = state._replace(
            trained=part.leaves.join(trained[SHARED], trained[OWN][name]),
            opt_state=part.moments.join(moments[SHARED], moments[OWN][name]),
        )
        one, measured = self._programs[name](one, part.frozen, make_batch(self._rows[name], ids, length, part.layout))

        def back(whole: dict[str, Any], mix: Mix, tree: Any) -> dict[str, Any]:
            shared, own = mix.split(tree)
            return {SHARED: shared, OWN: whole[OWN] | {name: own}}

        state = one._replace(
            trained=back(trained, part.leaves, one.trained), opt_state=back(moments, part.moments, one.opt_state)
        )
        return state, measured | {"task": number}, int(np.sum(ids >= 0))
