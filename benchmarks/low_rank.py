"""AdaLoRA beside LoRA at one final budget, and LoRA on a quantised backbone beside LoRA on the float one.

    python -m benchmarks.low_rank --data-dir=path/to/glue

The installed MiniLM; every run is a training job of its own, resumed if cut short; the same rows, epochs and batches.
All six dense layers carry a change. AdaLoRA starts with rank 12 and ends with 8 on average; LoRA has rank 8. Each tries
two rates on SST-2 with seed 0 and keeps the better one; on quantised backbones LoRA keeps that of the float one. Scores
are means and standard deviations over the seeds, in points.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

from benchmarks import report, runs

TASKS = {"sst2": "accuracy", "stsb": "pearson"}
COMMON = ("--backbone=minilm", "--optimizer=adamw", "--batch-size=32", "--max-length=64", "--epochs=3")
EVERYWHERE = "--method.slots=query,key,value,attn_out,ffn_in,ffn_out"
LORA = ("--method=lora", EVERYWHERE, "--method.rank=8")
WAYS: dict[str, tuple[str, ...]] = {
    "LoRA, rank 8": LORA,
    "AdaLoRA, rank 12 to 8": ("--method=adalora", "--method.rank=12", "--method.target_rank=8"),
    "LoRA, rank 8, backbone in NF4": (*LORA, "--quantize=nf4"),
    "LoRA, rank 8, backbone in int8": (*LORA, "--quantize=int8"),
}
RATES = {"lora": ("5e-4", "1e-3"), "adalora": ("2e-3", "5e-3")}
TUNED_ON, TUNED_BY = "sst2", 0
"""A task, and a seed that is not among those of the table."""


def run(arguments: argparse.Namespace, task: str, given: tuple[str, ...], rate: str, seed: int) -> dict[str, Any]:
    """One training run."""
    method, kind = given[0].removeprefix("--method="), "".join(x[11:] for x in given if x.startswith("--quantize="))
    folder = Path(arguments.runs, "-".join(filter(None, (task, method, kind, rate, str(seed)))))
    data = f"--task={task}", f"--data-dir={arguments.data_dir}", f"--train-rows={arguments.rows}"
    return runs.run("train.glue", folder, *COMMON, *data, f"--seed={seed}", f"--lr={rate}", *given)


def best_rate(arguments: argparse.Namespace, given: tuple[str, ...]) -> str:
    """The rate of a way's method, on the float backbone, that scores best on the task that rates are tuned on."""
    plain = tuple(flag for flag in given if not flag.startswith("--quantize="))
    score = lambda rate: run(arguments, TUNED_ON, plain, rate, TUNED_BY)["metrics"][TASKS[TUNED_ON]]
    return max(RATES[given[0].removeprefix("--method=")], key=score)


def main() -> None:
    parser = runs.parser(__doc__, "runs/low_rank", "1,2")
    parser.add_argument("--rows", type=int, default=2000, help="train rows of each task")
    parser.add_argument("--ways", default=",".join(str(number) for number in range(len(WAYS))), help="some of 0 to 3")
    arguments = parser.parse_args()
    tasks = [f"{task} ({metric})" for task, metric in TASKS.items()]
    header, cells = ["trained", "rate", *tasks, "average", "rows/s"], []
    for number in arguments.ways.split(","):
        way, given = list(WAYS.items())[int(number)]
        rate = best_rate(arguments, given)
        scores: dict[str, list[float]] = {task: [] for task in TASKS}
        speeds = []
        for task, metric in TASKS.items():
            for seed in arguments.seeds:
                result = run(arguments, task, given, rate, seed)
                scores[task].append(result["metrics"][metric])
                speeds.append(result["rows_per_second"])
        averages = runs.averages(scores.values())
        shown = [runs.shown(own) for own in (*scores.values(), averages)]
        cells.append([way, rate, *shown, f"{statistics.mean(speeds):.0f}"])
    print(report.table(header, cells))
    content = {"seeds": arguments.seeds, "rows": arguments.rows, "header": header, "cells": cells}
    report.write(Path(arguments.runs, "low_rank.json"), content | report.surroundings())


if __name__ == "__main__":
    main()
