"""A quantised backbone beside a float one: its bytes, the time of a training step and of a forward pass, the memory.

    python -m benchmarks.quantised

LoRA on float32, NF4 and int8 kernels of the installed MiniLM, in turns, so that noise falls on all alike: medians, and
their ratios to float32. Bytes are those of the arrays; temporary memory is the compiled gradient's, without arguments.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

import adapters_jax as aj
from adapters_jax import testing, trees
from adapters_jax.bert import quant
from benchmarks import report
from benchmarks.adapter_drop import Steps

KINDS = (None, *quant.KINDS)


def sizes(params: Any) -> dict[str, int]:
    """Bytes of a backbone: the kernels that can be quantised, the embeddings, all else."""
    found = {"kernels": 0, "embeddings": 0, "rest": 0}
    for path, leaf in trees.flatten(params).items():
        part = path.split("/")[0]
        found["kernels" if quant.is_quantisable(path) else part if part in found else "rest"] += leaf.nbytes
    return found


def compiled(steps: Steps, batch: dict[str, Any]) -> tuple[Callable[[], Any], int]:
    """(a forward pass, the temporary bytes of the gradient's program)."""
    forward = jax.jit(steps.model.answers)
    inputs = {name: batch[name] for name in ("input_ids", "token_type_ids", "mask")}
    memory = steps.step.lower(steps.state, steps.frozen, batch).compile().memory_analysis()
    return lambda: forward(steps.params, inputs), int(memory.temp_size_in_bytes)


def measure(name: str, method: aj.Method, rows: int, length: int, repeats: int, dtype: str) -> list[dict[str, Any]]:
    """A row for each form of the backbone."""
    lines, runs = {}, {}
    for kind in KINDS:
        backbone = aj.load_backbone(name, quantize=kind)
        model = aj.Model(backbone.config, method, aj.Classification(num_labels=2), dtype=dtype)
        params = jax.device_put(model.init(jax.random.key(0), backbone.params))
        steps = Steps(model, params)
        batch = testing.fake_batch(backbone.config, rows, length, classes=2)
        forward, temporary = compiled(steps, batch)
        runs[kind] = {"step": lambda s=steps, b=batch: s.seconds(b), "forward": lambda f=forward: seconds(f)}
        lines[kind] = sizes(backbone.params) | {"temporary": temporary}
    times: dict[tuple[Any, str], list[float]] = {}
    for repeat in range(repeats + 1):
        for kind, of_kind in runs.items():
            for what, run in of_kind.items():
                spent = run()
                if repeat:  # the first compiles
                    times.setdefault((kind, what), []).append(spent)
    median = {place: float(np.median(found)) for place, found in times.items()}
    return [
        {
            "kernels": kind or "float32",
            **{f"{part}, bytes": size for part, size in lines[kind].items()},
            "step, s": median[kind, "step"],
            "step, ratio": median[kind, "step"] / median[None, "step"],
            "forward, s": median[kind, "forward"],
            "forward, ratio": median[kind, "forward"] / median[None, "forward"],
        }
        for kind in KINDS
    ]


def seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="minilm")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("runs/quantised.json"))
    asked = parser.parse_args()
    shape = {"rows": asked.rows, "length": asked.length, "repeats": asked.repeats, "dtype": asked.dtype}
    rows = measure(asked.backbone, aj.LoRA(rank=asked.rank), **shape)
    shown = lambda value: (
        f"{value:.3f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else value
    )
    print(report.table(list(rows[0]), [[shown(value) for value in row.values()] for row in rows]))
    settings = {"backbone": asked.backbone, "rank": asked.rank, **shape}
    report.write(asked.out, {**settings, **report.surroundings(), "rows": rows})


if __name__ == "__main__":
    main()
