"""Houlsby and LoRA beside full fine-tuning on data that is not GLUE's: names, parts of speech, questions, a CSV file.

    python -m benchmarks.own_data --data-dir=path/to/data

`data-dir` holds wnut17/, ud_ewt/, squad/ and semeval2010_task8/. The installed MiniLM; every run is a training job of
its own, resumed if cut short; the same rows, epochs and batches for all methods. Rates are those that served MiniLM on
GLUE (`benchmarks.quality`); none is tuned here. Scores are means and standard deviations over the seeds, in points.
"""

import argparse
import csv
import dataclasses
import re
import statistics
from pathlib import Path

from benchmarks import report, runs

COMMON = ("--backbone=minilm", "--optimizer=adamw", "--schedule=linear", "--batch-size=16")
METHODS = {
    "houlsby": ("--method=houlsby", "--lr=1e-3"),
    "lora": ("--method=lora", "--lr=2e-3"),
    "full": ("--method=full", "--lr=1e-4"),
    "head": ("--method=head", "--lr=1e-2"),
}
SEMEVAL = {"train": "TRAIN_FILE.TXT", "dev": "TEST_FILE_FULL.TXT"}


@dataclasses.dataclass(frozen=True)
class Task:
    """A job and what it reads: files by flag, under the data folder; what else it is told; what is shown."""

    job: str
    files: dict[str, str]
    flags: tuple[str, ...]
    metrics: tuple[str, ...]


TASKS = {
    "wnut17": Task(
        "train.tag",
        {"train": "wnut17/train.conll", "dev": "wnut17/dev.conll", "test": "wnut17/test.conll"},
        ("--max-length=64", "--epochs=5"),
        ("span_f1", "span_f1_test"),
    ),
    "ud_ewt": Task(
        "train.tag",
        {"train": "ud_ewt/train_pos6.conllu", "dev": "ud_ewt/en_ewt-ud-dev.conllu"},
        ("--max-length=64", "--epochs=3", "--train-rows=3000"),
        ("tag_accuracy",),
    ),
    "squad": Task(
        "train.squad",
        {"train": "squad/train-v1.1-100articles.json", "dev": "squad/dev-v1.1.json"},
        ("--max-length=256", "--epochs=2", "--train-rows=3000", "--eval-rows=1000"),
        ("f1", "exact_match"),
    ),
    "relations.csv": Task(
        "train.classify",
        {"train": "train.csv", "dev": "dev.csv"},
        ("--max-length=64", "--epochs=3", "--train-rows=4000"),
        ("accuracy", "macro_f1"),
    ),
}


def write_csv(data: Path, folder: Path) -> None:
    """SemEval-2010 task 8 as CSV: each sentence with its marks, and its relation without the direction."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, file in SEMEVAL.items():
        text = (data / "semeval2010_task8" / file).read_text(encoding="utf-8")
        rows = re.findall(r'^(\d+)\t"(.*)"\s*\n(\S+?)(?:\(.*\))?\s*$', text, re.MULTILINE)
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as out:
            csv.writer(out).writerows([("id", "sentence", "label"), *rows])


def main() -> None:
    parser = runs.parser(__doc__, "runs/own_data", "1,2")
    parser.add_argument("--tasks", default=",".join(TASKS), type=lambda given: given.split(","))
    parser.add_argument("--methods", default=",".join(METHODS), type=lambda given: given.split(","))
    arguments = parser.parse_args()
    tables = {name: table(arguments, name) for name in arguments.tasks}
    for name, (header, cells) in tables.items():
        print(f"\n{name}\n{report.table(header, cells)}")
    content = {name: {"header": header, "cells": cells} for name, (header, cells) in tables.items()}
    report.write(Path(arguments.runs, "own_data.json"), {"seeds": arguments.seeds, **content} | report.surroundings())


def table(arguments: argparse.Namespace, name: str) -> tuple[list[str], list[list[str]]]:
    """The header, and a line for each method."""
    task, folder = TASKS[name], Path(arguments.runs)
    data = Path(arguments.data_dir)
    if task.job == "train.classify":
        data, source = folder / "csv", data
        write_csv(source, data)
    files = [f"--{flag}={data / file}" for flag, file in task.files.items()]
    cells = []
    for method in arguments.methods:
        given = (*files, *COMMON, *task.flags, *METHODS[method])
        place = lambda seed, method=method: folder / f"{name}-{method}-{seed}"
        found = [runs.run(task.job, place(seed), *given, f"--seed={seed}") for seed in arguments.seeds]
        scores = [runs.shown([result["metrics"][metric] for result in found]) for metric in task.metrics]
        trained = f"{found[0]['parameters']['trained']:,}"
        speed = statistics.mean(result["rows_per_second"] for result in found)
        cells.append([method, METHODS[method][1].removeprefix("--lr="), *scores, trained, f"{speed:.0f}"])
    return ["method", "rate", *task.metrics, "trained", "rows/s"], cells


if __name__ == "__main__":
    main()
