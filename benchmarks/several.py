"""What adapters of several tasks are worth on real data: fusion, multi-task, AdapterDrop, K-Adapter, language adapters.

    python -m benchmarks.several --data-dir=path/to/data --parts=fusion,drop,knowledge,language

`--data-dir` holds glue/, lama/trex_rc/, ud_ewt/, semeval2010_task8/ and mlm_text/. The installed MiniLM; every run is a
training job of its own, resumed if cut short; the same rows, epochs and rates on both sides of each comparison. Scores
are means and standard deviations over the seeds, in points.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import report, runs

TASKS = {"mrpc": "accuracy", "stsb": "pearson", "qqp": "accuracy", "sst2": "accuracy"}
EPOCHS = 3
COMMON = ("--backbone=minilm", "--optimizer=adamw", "--batch-size=16", "--max-length=64")
ADAPTER = ("--method=pfeiffer", "--lr=1e-3")
AT_THE_END = ("--keep=last", "--eval-every=1000000")
"""Evaluated once, after the last step."""
KNOWLEDGE = ("--method=k_adapter", "--method.inner=384")


class Bench:
    """Where runs and data are."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.data, self.runs = Path(arguments.data_dir), Path(arguments.runs)
        self.rows = arguments.rows
        self.seeds = arguments.seeds
        self.results: dict[str, Any] = {}

    def run(self, module: str, name: str, seed: int, *argv: str) -> dict[str, Any]:
        return runs.run(module, self.folder(name, seed), *COMMON, f"--seed={seed}", *argv)

    def folder(self, name: str, seed: int) -> Path:
        return self.runs / f"{name}-{seed}"

    def glue(self, *argv: str) -> tuple[str, ...]:
        rows = f"--train-rows={self.rows}", "--eval-rows=1000"
        return (f"--data-dir={self.data / 'glue'}", *rows, f"--epochs={EPOCHS}", *argv)

    def alone(self, task: str, seed: int) -> dict[str, Any]:
        """A task's adapter, trained by itself: what several parts compare with, in the folder st-TASK."""
        return self.run("train.glue", f"st-{task}", seed, *self.glue(f"--task={task}", *ADAPTER))

    def show(self, part: str, header: list[str], cells: list[list[Any]]) -> None:
        print(f"\n{part}\n\n{report.table(header, cells)}", flush=True)
        self.results[part] = {"header": header, "rows": cells}


def fusion(bench: Bench) -> None:
    """Adapters trained alone, a shared one, and fusions of both."""
    scores: dict[tuple[str, str], list[float]] = {}
    keep = lambda way, task, result, prefix="": scores.setdefault((way, task), []).append(
        result["metrics"][prefix + TASKS[task]]
    )
    for seed in bench.seeds:
        for task in TASKS:
            keep("ST-A", task, bench.alone(task, seed))
        shared = bench.run("train.multitask", "mt", seed, *bench.glue(f"--tasks={','.join(TASKS)}", *ADAPTER))
        folders = {
            "ST-A": [f"{task}={bench.folder(f'st-{task}', seed) / 'adapter'}" for task in TASKS],
            "MT-A": [f"{task}={bench.folder('mt', seed) / task / 'adapter'}" for task in TASKS],
        }
        for task in TASKS:
            keep("MT-A", task, shared, f"{task}/")
            for way, named in folders.items():
                given = bench.glue(f"--task={task}", f"--adapters={','.join(named)}", "--lr=5e-4")
                keep(f"fusion of {way}", task, bench.run("train.fuse", f"fuse-{way}-{task}", seed, *given))
    ways = list(dict.fromkeys(way for way, _ in scores))
    cells = []
    for way in ways:
        own = [scores[way, task] for task in TASKS]
        cells.append([way, *map(runs.shown, own), runs.shown(runs.averages(own))])
    bench.show("fusion", ["adapters", *(f"{task} ({metric})" for task, metric in TASKS.items()), "average"], cells)


def drop(bench: Bench) -> None:
    """One task's score against the layers left out: ordinary, robust and specialised training."""
    ways = {"plain": None, "robust": "robust"} | {f"specialised, {n}": str(n) for n in (2, 4)}
    found: dict[tuple[str, int], list[float]] = {}
    for seed in bench.seeds:
        for way, left_out in ways.items():
            if left_out is None:
                name = "st-sst2"
                bench.alone("sst2", seed)
            else:
                name = f"drop-{way.replace(', ', '-')}"
                bench.run("train.glue", name, seed, *bench.glue("--task=sst2", *ADAPTER, f"--drop={left_out}"))
            for line in evaluated(bench.folder(name, seed) / "adapter", bench.data / "glue"):
                found.setdefault((way, line["drop"]), []).append(line["metrics"]["accuracy"])
    layers = sorted({n for _, n in found})
    cells = [[way, *(runs.shown(found[way, n]) if (way, n) in found else "-" for n in layers)] for way in ways]
    bench.show("drop", ["training", *(f"{n} left out" for n in layers)], cells)


def evaluated(adapter: Path, data: Path) -> list[dict[str, Any]]:
    """What `adapters-jax evaluate --drop` prints."""
    command = [sys.executable, "-c", "from adapters_jax.cli import main; main()", "evaluate", f"--adapter={adapter}"]
    command += [f"--data-dir={data}", "--drop=0,1,2,3,4,5,6"]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [json.loads(line) for line in told.splitlines()]


def knowledge(bench: Bench) -> None:
    """Relation classification with none, one and both of K-Adapter's adapters, over the frozen backbone."""
    trex, trees, semeval = (bench.data / name for name in ("lama/trex_rc", "ud_ewt", "semeval2010_task8"))
    files = (f"--train={semeval / 'TRAIN_FILE.TXT'}", f"--dev={semeval / 'TEST_FILE_FULL.TXT'}")
    files += (f"--train-rows={bench.rows}", *AT_THE_END)
    facts = (f"--train={trex / 'train.jsonl'}", f"--dev={trex / 'dev.jsonl'}", "--epochs=2", "--lr=5e-4")
    facts += (f"--train-rows={2 * bench.rows}", "--eval-rows=1000")
    heads = (f"--train={trees / 'en_ewt-ud-dev.conllu'}", f"--dev={trees / 'en_ewt-ud-test.conllu'}", *AT_THE_END)
    scores: dict[str, list[float]] = {}
    before: dict[str, list[float]] = {}
    for seed in bench.seeds:
        fact = bench.run("train.relations", "factual", seed, *KNOWLEDGE, *facts)
        tree = bench.run("train.dependencies", "linguistic", seed, *KNOWLEDGE, *heads, "--epochs=2", "--lr=5e-4")
        before.setdefault("factual (T-REx accuracy)", []).append(fact["metrics"]["accuracy"])
        before.setdefault("linguistic (EWT unlabelled attachment)", []).append(tree["metrics"]["uas"])
        named = {name: f"{name}={bench.folder(name, seed) / 'adapter'}" for name in ("factual", "linguistic")}
        given: dict[str, tuple[str, ...]] = {"none": ("--method=head", "--lr=1e-2")}
        for chosen in (["factual"], ["linguistic"], ["factual", "linguistic"]):
            adapters = f"--adapters={','.join(named[name] for name in chosen)}"
            given[" and ".join(chosen)] = (*KNOWLEDGE, adapters, "--lr=1e-3")
        for which, flags in given.items():
            name = f"semeval-{which.replace(' ', '-')}"
            result = bench.run("train.relations", name, seed, *files, "--epochs=3", *flags)
            scores.setdefault(which, []).append(result["metrics"]["semeval"])
    bench.show("knowledge, pre-training", ["adapter", "score"], [[k, runs.shown(v)] for k, v in before.items()])
    bench.show("knowledge", ["adapters", "SemEval-2010 task 8, F1"], [[k, runs.shown(v)] for k, v in scores.items()])


def language(bench: Bench) -> None:
    """Perplexity on held-out reviews, and sentiment with and without the adapter that was trained on reviews."""
    text = f"--text={bench.data / 'mlm_text' / 'imdb_unsup_8k.txt'}"
    phase = (text, f"--train-rows={3 * bench.rows}", "--eval-rows=500", "--epochs=2", "--lr=1e-3")
    methods = {"head alone": ("--method=head",), "adapter": ("--method=pfeiffer",)}
    cells: list[list[Any]] = []
    found: dict[str, list[float]] = {}
    for seed in bench.seeds:
        for name, given in methods.items():
            result = bench.run("train.mlm", f"mlm-{name.replace(' ', '-')}", seed, *phase, *given)
            for when in ("perplexity_before", "perplexity"):
                found.setdefault(f"{name}/{when}", []).append(result["metrics"][when] / 100)  # `shown` is in points
    for name in methods:
        cells.append([name, *(runs.shown(found[f"{name}/{when}"]) for when in ("perplexity_before", "perplexity"))])
    bench.show("language", ["trained", "perplexity before", "after"], cells)
    scores: dict[str, list[float]] = {}
    for seed in bench.seeds:
        trained = bench.folder("mlm-adapter", seed) / "adapter"
        scores.setdefault("task adapter", []).append(bench.alone("sst2", seed)["metrics"]["accuracy"])
        ways = {
            "head alone": ("--method=head", "--lr=1e-2"),
            "head on the language adapter, frozen": (
                "--method=pfeiffer",
                f"--init-adapter={trained}",
                "--freeze-adapter",
                "--lr=1e-2",
            ),
            "task adapter on the language adapter": (*ADAPTER, f"--on={trained}"),
            "language adapter continued": (*ADAPTER, f"--init-adapter={trained}"),
        }
        for way, given in ways.items():
            result = bench.run("train.glue", f"sst2-{way.replace(' ', '-')}", seed, *bench.glue("--task=sst2", *given))
            scores.setdefault(way, []).append(result["metrics"]["accuracy"])
    bench.show("language, SST-2", ["trained", "accuracy"], [[way, runs.shown(found)] for way, found in scores.items()])


PARTS: dict[str, Callable[[Bench], None]] = {
    "fusion": fusion,
    "drop": drop,
    "knowledge": knowledge,
    "language": language,
}


def main() -> None:
    parser = runs.parser(__doc__, "runs/several", "1,2,3")
    parser.add_argument("--rows", type=int, default=1000, help="train rows of each task")
    parser.add_argument("--parts", default=",".join(PARTS))
    arguments = parser.parse_args()
    bench = Bench(arguments)
    for part in arguments.parts.split(","):
        PARTS[part](bench)
    path = Path(arguments.runs, f"{arguments.parts.replace(',', '-')}.json")
    report.write(path, {"seeds": bench.seeds, "rows": bench.rows, "parts": bench.results, **report.surroundings()})


if __name__ == "__main__":
    main()
