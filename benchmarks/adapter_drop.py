"""AdapterDrop: the time of a training step by the number of layers left out, and of many tasks on the same texts.

    python -m benchmarks.adapter_drop

Steps of the installed MiniLM with Pfeiffer adapters, in the order 0 1 ... L 0 1 ... so that noise falls on all alike:
"fixed" is a program for each number, "drawn" the one program that robust training uses, which draws it. Then all tasks
over one backbone: passes task by task beside one pass that shares the layers left out.
"""

import argparse
import dataclasses
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

import adapters_jax as aj
from adapters_jax import optim, testing, trees
from adapters_jax.methods.adapter_drop import left_out
from adapters_jax.training.prng import platform_default
from adapters_jax.training.step import State, dropout_key, init_state, make_train_step
from benchmarks import report

METHOD = aj.Pfeiffer()
SETTINGS = dict(total_steps=1000, warmup=0.0, schedule="constant", weight_decay=0.01, clip_norm=1.0, lr=1e-4)


@dataclasses.dataclass
class Steps:
    """A training step that can be taken again and again."""

    model: aj.Model
    params: Any

    def __post_init__(self) -> None:
        labels = self.model.labels(self.params)
        trained, self.frozen = trees.split(self.params, labels)
        tx = optim.freeze(optim.make_optimizer("adamw", **SETTINGS)[0], labels)
        self.state = init_state(trained, tx)
        self.step = jax.jit(make_train_step(self.model, tx, impl=platform_default()))

    def seconds(self, batch: dict[str, Any], state: State | None = None) -> float:
        start = time.perf_counter()
        jax.block_until_ready(self.step(self.state if state is None else state, self.frozen, batch))
        return time.perf_counter() - start


def states_by_depth(steps: Steps, layers: int) -> dict[int, State]:
    """For each number of layers a state in which the robust step draws it."""
    found: dict[int, State] = {}
    number = 0
    while len(found) < layers:
        key = trees.site_keys(dropout_key(0, platform_default(), number, 0), ("depth",))["depth"]
        depth = int(steps.model.method.depth(key, steps.model.config))
        found.setdefault(depth, steps.state._replace(step=steps.state.step + number))
        number += 1
    return found


def training(backbone: aj.Backbone, rows: int, length: int, repeats: int) -> list[dict[str, Any]]:
    """A row for each number of layers: the medians, and their shares of the time with none left out."""
    head, layers = aj.Classification(num_labels=2), backbone.config.num_hidden_layers
    batch = testing.fake_batch(backbone.config, rows, length, classes=2)
    whole = aj.Model(backbone.config, METHOD, head)
    params = whole.init(jax.random.key(0), backbone.params)
    robust = Steps(dataclasses.replace(whole, method=aj.AdapterDrop(METHOD, robust=True)), params)
    drawn = states_by_depth(robust, layers)
    fixed = {}
    for drop in range(layers):
        method, adapters = left_out(METHOD, params["adapters"], drop, backbone.config)
        fixed[drop] = Steps(dataclasses.replace(whole, method=method), params | {"adapters": adapters})
    times: dict[tuple[str, int], list[float]] = {}
    for repeat in range(repeats + 1):
        for drop in range(layers):
            found = {"fixed": fixed[drop].seconds(batch), "drawn": robust.seconds(batch, drawn[drop])}
            for kind, seconds in found.items():
                if repeat:  # the first compiles
                    times.setdefault((kind, drop), []).append(seconds)
    median = {place: float(np.median(found)) for place, found in times.items()}
    return [
        {
            "left out": drop,
            "fixed, s": median["fixed", drop],
            "drawn, s": median["drawn", drop],
            "fixed, share": median["fixed", drop] / median["fixed", 0],
            "drawn, share": median["drawn", drop] / median["fixed", 0],
        }
        for drop in range(layers)
    ]


def serving(backbone: aj.Backbone, tasks: int, rows: int, length: int, repeats: int) -> list[dict[str, Any]]:
    """A row for each number of layers that all tasks share: seconds of separate passes and of one together."""
    batch = testing.fake_batch(backbone.config, rows, length)
    inputs = {name: batch[name] for name in ("input_ids", "token_type_ids", "mask")}
    return [passes(backbone, drop, tasks, inputs, repeats) for drop in range(0, backbone.config.num_hidden_layers, 2)]


def passes(backbone: aj.Backbone, drop: int, tasks: int, inputs: dict[str, Any], repeats: int) -> dict[str, Any]:
    """Medians of separate passes and of one together, with `drop` layers shared."""
    model = aj.Model(backbone.config, aj.AdapterDrop(METHOD, drop=drop), aj.Classification(num_labels=2))
    own = {str(n): (model, model.init(jax.random.key(n), backbone.params)) for n in range(tasks)}
    joined, params = aj.together(own)
    separate, together = jax.jit(model.answers), jax.jit(joined.answers)
    kinds = {
        "separate": lambda: [separate(leaves, inputs) for _, leaves in own.values()],
        "together": lambda: together(params, inputs),
    }
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(repeats + 1):
        for kind, run in kinds.items():
            start = time.perf_counter()
            jax.block_until_ready(run())
            times[kind].append(time.perf_counter() - start)
    slow, fast = (float(np.median(found[1:])) for found in times.values())  # the first compiles
    return {"shared": drop, "tasks": tasks, "separate, s": slow, "together, s": fast, "share": fast / slow}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/adapter_drop.json"))
    arguments = parser.parse_args()
    backbone = aj.load_backbone("minilm")
    sizes = {"rows": arguments.rows, "length": arguments.length, "repeats": arguments.repeats}
    steps = training(backbone, **sizes)
    served = serving(backbone, arguments.tasks, **sizes)
    for rows in (steps, served):
        cells = [[f"{value:.3f}" if isinstance(value, float) else value for value in row.values()] for row in rows]
        print(f"\n{report.table(list(rows[0]), cells)}")
    report.write(arguments.out, {**sizes, **report.surroundings(), "training": steps, "serving": served})


if __name__ == "__main__":
    main()
