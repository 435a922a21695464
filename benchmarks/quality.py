"""Scores of methods on GLUE, with spread: every run is a `python -m train.glue` of its own, resumed if cut short.

    python -m benchmarks.quality --data-dir=path/to/glue

Equal budgets: each method tries the same number of learning rates on one task with one seed, and keeps the best for all
tasks and seeds; every method sees the same rows for the same number of epochs. Writes RUNS/quality.json and prints the
table.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

from benchmarks import report, runs

# Task -> (train rows, epochs, metric): what 2 cores manage. Dev sets are a sample of EVAL_ROWS, or whole.
TASKS: dict[str, tuple[int, int, str]] = {
    "mrpc": (2000, 3, "accuracy"),
    "sst2": (3000, 2, "accuracy"),
    "stsb": (2000, 3, "pearson"),
    "mnli": (3000, 2, "accuracy"),
}
EVAL_ROWS = 1000
RATES = {
    "full": ("5e-5", "1e-4"),
    "houlsby": ("5e-4", "1e-3"),
    "head": ("1e-3", "1e-2"),
}
TUNED_ON = "sst2"


def run(arguments: argparse.Namespace, task: str, method: str, rate: str, seed: int) -> dict[str, Any]:
    """One training run, and its artefact's bytes."""
    rows, epochs, _ = TASKS[task]
    folder = Path(arguments.runs) / f"{task}-{method}-{rate}-{seed}"
    given = [f"--task={task}", f"--method={method}", "--backbone=minilm", f"--data-dir={arguments.data_dir}"]
    given += [f"--train-rows={rows}", f"--epochs={epochs}", f"--lr={rate}", f"--eval-rows={EVAL_ROWS}"]
    result = runs.run("train.glue", folder, *given, "--optimizer=adamw", "--batch-size=32", f"--seed={seed}")
    return result | {"artefact_bytes": runs.artefact_bytes(folder)}


def best_rate(arguments: argparse.Namespace, method: str) -> str:
    """The rate with the best score on the task that rates are tuned on, seed 0."""
    metric = TASKS[TUNED_ON][2]
    return max(RATES[method], key=lambda rate: run(arguments, TUNED_ON, method, rate, 0)["metrics"][metric])


def main() -> None:
    parser = runs.parser(__doc__, "runs/quality", "1,2,3")
    parser.add_argument("--methods", default="houlsby,full,head")
    arguments = parser.parse_args()
    seeds, methods = arguments.seeds, arguments.methods.split(",")

    rates = {method: best_rate(arguments, method) for method in methods}
    results = {
        (task, method, seed): run(arguments, task, method, rates[method], seed)
        for seed in seeds
        for task in TASKS
        for method in methods
    }
    rows = []
    for method in methods:
        scores = {t: [results[t, method, s]["metrics"][TASKS[t][2]] for s in seeds] for t in TASKS}
        averages = runs.averages(scores.values())
        one = [results[t, method, seeds[0]] for t in TASKS]
        rows.append(
            {
                "method": method,
                "rate": rates[method],
                "scores": {task: runs.spread(values) for task, values in scores.items()},
                "average": runs.spread(averages),
                "standard_error": runs.spread(averages)[1] / len(seeds) ** 0.5,
                "trained": one[0]["parameters"]["trained"],
                "artefact_bytes": one[0]["artefact_bytes"],
                "rows_per_second": statistics.mean(r["rows_per_second"] for r in one),
            }
        )
    header = ["method", "rate", *(f"{task} ({TASKS[task][2]})" for task in TASKS)]
    header += ["average", "trained", "artefact", "rows/s"]
    cells = [
        [
            *(row["method"], row["rate"]),
            *("{:.1f} ± {:.1f}".format(*pair) for pair in (*row["scores"].values(), row["average"])),
            *(f"{row['trained']:,}", f"{row['artefact_bytes'] / 1e6:.1f} MB", f"{row['rows_per_second']:.0f}"),
        ]
        for row in rows
    ]
    print(report.table(header, cells))
    summary = {
        "tasks": TASKS,
        "seeds": seeds,
        "rows": rows,
        "versions": one[0]["versions"],
        "devices": one[0]["devices"],
    }
    report.write(Path(arguments.runs, "quality.json"), summary)


if __name__ == "__main__":
    main()
