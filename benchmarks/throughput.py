"""Rows per second of a Houlsby step, beside `adapters` on torch, in one run.

    python -m benchmarks.throughput --data-dir=GLUE_FOLDER

Both sides take turns, so that whatever else the machine does hits both; the table gives medians and the spread.
"equal shapes": every row full. "real lengths": one epoch over a sample of a task's rows, in buckets (what `fit` does),
padded to `--max-length`, and padded to each batch's longest row (here rounded up to a multiple of 8, to bound
compilation, on torch exactly). Compile time is reported by itself and is in no other number.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import adapters_jax as aj
from adapters_jax import optim, trees
from adapters_jax.bert import weights
from adapters_jax.data import take
from adapters_jax.data.batches import Batches
from adapters_jax.data.glue import find_data
from adapters_jax.data.tokenize import Encoded, encode
from adapters_jax.training.prng import platform_default
from adapters_jax.training.step import PerShape, init_state, make_train_step
from benchmarks import report

FULL = {"minilm 32 x 128": ("minilm", 32, 128), "BERT-base 8 x 128": ("base", 8, 128)}
BOTTLENECK, LR, LABELS = 64, 1e-3, 3
ROOT = Path(__file__).resolve().parents[1]
BUCKETED, LONGEST = -1, 0
"""What "length" means where it is no number of tokens: buckets (JAX alone), or each batch's longest row."""


class Jax:
    """The step that `fit` takes, with state."""

    def __init__(self, name: str):
        if name == "minilm":
            backbone = aj.load_backbone("minilm")
            config, params = backbone.config, backbone.params
        else:
            config = aj.BertConfig.base()
            params = weights.initialise(jax.random.key(0), config)
        self.vocab_size = config.vocab_size
        model = aj.Model(config, aj.Houlsby(bottleneck=BOTTLENECK), aj.Classification(num_labels=LABELS))
        params = model.init(jax.random.key(0), params)
        labels = model.labels(params)
        tx, _ = optim.make_optimizer(
            "adamw", lr=LR, total_steps=10**6, warmup=0.0, schedule="constant", weight_decay=0.01, clip_norm=1.0
        )
        tx = aj.freeze(tx, labels)
        trained, frozen = trees.split(params, labels)
        self.trained = trees.count(trained)
        self.frozen, self.state = jax.device_put(frozen), init_state(trained, tx)
        self.step = PerShape(make_train_step(model, tx, impl=platform_default()), donate=(0,))

    def run(self, batches: Sequence[dict[str, np.ndarray]]) -> float:
        """Seconds for one step per batch."""
        start = time.perf_counter()
        for batch in batches:
            self.state, measured = self.step(self.state, self.frozen, batch)
        jax.block_until_ready((self.state, measured))
        return time.perf_counter() - start

    def warm(self, batches: Sequence[dict[str, np.ndarray]]) -> float:
        """Compiles every shape and runs it once; returns the seconds of compilation."""
        before = self.step.seconds
        shapes = {batch["input_ids"].shape: batch for batch in batches}
        self.run(list(shapes.values()))
        return self.step.seconds - before


class Torch:
    """The worker in the other environment."""

    def __init__(self, python: Path, name: str):
        command = [str(python), "-m", "benchmarks.torch_worker"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        self.about = self._ask({"weights": name, "bottleneck": BOTTLENECK, "lr": LR})

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"torch worker: ended with {self.process.wait()}; its message is above")
        return json.loads(answer)

    def run(self, lengths: Sequence[Sequence[int]], length: int) -> float:
        """Seconds for one step per batch, given by its rows' lengths."""
        batches = [[int(n) for n in rows] for rows in lengths]
        return self._ask({"length": max(length, 0), "batches": batches})["seconds"]

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def full_batch(rows: int, length: int, vocab_size: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    ones = np.ones((rows, length), np.int32)
    return {
        "input_ids": draw.integers(1000, vocab_size, (rows, length)).astype(np.int32),
        "token_type_ids": 0 * ones,
        "mask": ones,
        "labels": draw.integers(0, LABELS, rows).astype(np.int32),
        "weight": np.ones(rows, np.float32),
    }


def equal_shapes(name: str, python: Path, steps: int, repeats: int) -> dict[str, Any]:
    """Both sides on full rows of one shape, in turns."""
    backbone, rows, length = FULL[name]
    ours, theirs = Jax(backbone), Torch(python, backbone)
    batch = full_batch(rows, length, ours.vocab_size)
    compiling = ours.warm([batch])
    theirs.run([[length] * rows], length)
    seconds: dict[str, list[float]] = {"adapters_jax": [], "adapters": []}
    for _ in range(repeats):
        seconds["adapters_jax"].append(ours.run([batch] * steps) / steps)
        seconds["adapters"].append(theirs.run([[length] * rows] * steps, length) / steps)
    theirs.close()
    return {
        "rows": rows,
        "length": length,
        "steps": steps,
        "repeats": repeats,
        "seconds_per_step": seconds,
        "rows_per_second": {side: rows / statistics.median(values) for side, values in seconds.items()},
        "compile_seconds": compiling,
        "trained": {"adapters_jax": ours.trained, "adapters": theirs.about["trained"]},
        "torch": theirs.about,
    }


def epoch(encoded: Encoded, batch_size: int, max_length: int, length: int) -> list[tuple[np.ndarray, int]]:
    """(rows, padded length) of the steps of one epoch; without buckets in a shuffled order."""
    if length == BUCKETED:
        batches = Batches(encoded.lengths, batch_size, 0, max_length)
        return [batches.rows(step) for step in range(batches.steps_per_epoch)]
    order = np.random.default_rng(0).permutation(len(encoded))
    parts = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    longest = lambda rows: min(max_length, -(-int(encoded.lengths[rows].max()) // 8) * 8)
    return [(rows, length or longest(rows)) for rows in parts]


def real_lengths(
    task: str, python: Path, data_dir: Path, rows: int, batch_size: int, max_length: int, turns: int
) -> dict[str, Any]:
    """One epoch of a task's rows, MiniLM, each side and way of padding; cut into turns that alternate."""
    backbone = aj.load_backbone("minilm")
    source = take(find_data(task, data="files", data_dir=data_dir).train, rows)
    encoded = encode(source, backbone.tokenizer, max_length)
    ours, theirs = Jax("minilm"), Torch(python, "minilm")
    ways = {"buckets": BUCKETED, f"padded to {max_length}": max_length, "padded to the longest": LONGEST}
    epochs = {way: epoch(encoded, batch_size, max_length, length) for way, length in ways.items()}

    compiling = {}
    for way, steps in epochs.items():
        compiling[way] = ours.warm([encoded.batch(ids, padded) for ids, padded in steps])
    theirs.run([encoded.lengths[:batch_size]], max_length)

    seconds: dict[str, float] = {}
    for turn in range(turns):
        for way, steps in epochs.items():
            part = steps[turn::turns]
            started = time.perf_counter()
            ours.run([encoded.batch(ids, padded) for ids, padded in part])
            took = time.perf_counter() - started
            seconds[f"adapters_jax, {way}"] = seconds.get(f"adapters_jax, {way}", 0.0) + took
            if ways[way] != BUCKETED:
                took = theirs.run([encoded.lengths[ids] for ids, _ in part], ways[way])
                seconds[f"adapters, {way}"] = seconds.get(f"adapters, {way}", 0.0) + took
    theirs.close()
    return {
        "rows": len(encoded),
        "batch_size": batch_size,
        "tokens": int(encoded.lengths.sum()),
        "padded_tokens": {way: sum(len(ids) * padded for ids, padded in steps) for way, steps in epochs.items()},
        "seconds": seconds,
        "rows_per_second": {side: len(encoded) / value for side, value in seconds.items()},
        "compile_seconds": compiling,
        "shapes": {way: len({padded for _, padded in steps}) for way, steps in epochs.items()},
        "torch": theirs.about,
    }


def equal_rows(found: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    theirs = found["rows_per_second"]["adapters"]
    for side, speed in found["rows_per_second"].items():
        times = found["seconds_per_step"][side]
        compiling = f"{found['compile_seconds']:.1f}" if side == "adapters_jax" else "-"
        spread = f"{min(times):.3f} .. {max(times):.3f}"
        yield side, f"{speed:.2f}", f"{statistics.median(times):.3f}", spread, f"{speed / theirs:.2f}", compiling


def real_rows(found: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    best = found["rows_per_second"]["adapters_jax, buckets"]
    for side, speed in found["rows_per_second"].items():
        way = side.split(", ")[1]
        compiling = f"{found['compile_seconds'][way]:.0f}" if side.startswith("adapters_jax") else "-"
        tokens = f"{found['padded_tokens'][way]:,}"
        yield side, f"{speed:.1f}", f"{found['seconds'][side]:.1f}", tokens, f"{best / speed:.2f}", compiling


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch-python", type=Path, default=Path(".venv-parity/bin/python"))
    parser.add_argument("--data-dir", type=Path, help="a folder of GLUE tasks; without it, no real lengths")
    parser.add_argument("--shapes", nargs="*", choices=list(FULL), default=list(FULL))
    parser.add_argument("--tasks", nargs="*", default=["sst2", "mnli"])
    parser.add_argument("--steps", type=int, default=5, help="steps of one turn at equal shapes")
    parser.add_argument("--repeats", type=int, default=7, help="turns of each side at equal shapes")
    parser.add_argument("--rows", type=int, default=2048, help="rows of an epoch of real lengths")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--turns", type=int, default=4, help="turns that an epoch is cut into")
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks"))
    args = parser.parse_args()
    if not args.torch_python.exists():
        sys.exit(f"--torch-python: expected the environment that `make parity` makes, found no {args.torch_python}")

    results: dict[str, Any] = {"command": sys.argv[1:], "surroundings": report.surroundings()}
    for name in args.shapes:
        found = results[name] = equal_shapes(name, args.torch_python, args.steps, args.repeats)
        print(f"\n{name}, Houlsby {BOTTLENECK}, float32, dropout 0.1, {args.repeats} turns of {args.steps} steps\n")
        print(report.table(("", "rows/s", "s/step", "range", "of adapters", "compile s"), list(equal_rows(found))))
    for task in args.tasks if args.data_dir else ():
        found = results[task] = real_lengths(
            task, args.torch_python, args.data_dir, args.rows, args.batch_size, args.max_length, args.turns
        )
        print(f"\nMiniLM, {found['rows']} rows of {task}, batches of {args.batch_size}, one epoch\n")
        header = ("", "rows/s", "seconds", "padded tokens", "buckets are faster by", "compile s")
        print(report.table(header, list(real_rows(found))))
    report.write(args.out / "throughput.json", results)


if __name__ == "__main__":
    main()
