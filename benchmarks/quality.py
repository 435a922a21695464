"""Scores of methods on GLUE, with spread: every run is a `python -m train.glue` of its own, resumed if cut short.

    python -m benchmarks.quality --data-dir=path/to/glue

Equal budgets: each method tries the same number of learning rates on one task with one seed, and keeps the best for all
tasks and seeds; every method sees the same rows for the same number of epochs. Writes RUNS/quality.json and prints the
table.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

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
    """One training run, finished earlier, resumed or new; its result.json, and the artefact's bytes."""
    rows, epochs, _ = TASKS[task]
    folder = Path(arguments.runs) / f"{task}-{method}-{rate}-{seed}"
    if not (folder / "result.json").is_file():
        command = [sys.executable, "-m", "train.glue", f"--task={task}", f"--method={method}", "--backbone=minilm"]
        command += [f"--data-dir={arguments.data_dir}", f"--train-rows={rows}", f"--epochs={epochs}", f"--lr={rate}"]
        command += [f"--eval-rows={EVAL_ROWS}"]
        command += ["--optimizer=adamw", "--batch-size=32", f"--seed={seed}", f"--out-dir={folder}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    result = json.loads((folder / "result.json").read_text())
    result["artefact_bytes"] = sum(file.stat().st_size for file in (folder / "adapter").iterdir())
    print(f"{task} {method} lr {rate} seed {seed}: {result['metrics']}", file=sys.stderr, flush=True)
    return result


def best_rate(arguments: argparse.Namespace, method: str) -> str:
    """The rate with the best score on the task that rates are tuned on, seed 0."""
    metric = TASKS[TUNED_ON][2]
    return max(RATES[method], key=lambda rate: run(arguments, TUNED_ON, method, rate, 0)["metrics"][metric])


def spread(values: list[float]) -> tuple[float, float]:
    """(mean, standard deviation) in points."""
    return 100 * statistics.mean(values), 100 * (statistics.stdev(values) if len(values) > 1 else 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True, help="folder of the GLUE files")
    parser.add_argument("--runs", default="runs/quality")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--methods", default="houlsby,full,head")
    arguments = parser.parse_args()
    seeds, methods = [int(s) for s in arguments.seeds.split(",")], arguments.methods.split(",")

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
        averages = [statistics.mean(scores[t][i] for t in TASKS) for i in range(len(seeds))]
        one = [results[t, method, seeds[0]] for t in TASKS]
        rows.append(
            {
                "method": method,
                "rate": rates[method],
                "scores": {task: spread(values) for task, values in scores.items()},
                "average": spread(averages),
                "standard_error": spread(averages)[1] / len(seeds) ** 0.5,
                "trained": one[0]["parameters"]["trained"],
                "artefact_bytes": one[0]["artefact_bytes"],
                "rows_per_second": statistics.mean(r["rows_per_second"] for r in one),
            }
        )
    heads = [f"{task} ({TASKS[task][2]})" for task in TASKS]
    print("| method | rate | " + " | ".join(heads) + " | average | trained | artefact | rows/s |")
    print("|---" * (len(heads) + 6) + "|")
    for row in rows:
        cells = [f"{mean:.1f} ± {deviation:.1f}" for mean, deviation in (*row["scores"].values(), row["average"])]
        size = f"{row['artefact_bytes'] / 1e6:.1f} MB"
        tail = f"{row['trained']:,} | {size} | {row['rows_per_second']:.0f}"
        print(f"| {row['method']} | {row['rate']} | " + " | ".join(cells) + f" | {tail} |")
    summary = {
        "tasks": TASKS,
        "seeds": seeds,
        "rows": rows,
        "versions": one[0]["versions"],
        "devices": one[0]["devices"],
    }
    Path(arguments.runs, "quality.json").write_text(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
