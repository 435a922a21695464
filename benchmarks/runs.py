"""Training runs as commands of their own, finished earlier, resumed or new; and their scores with spread."""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def run(module: str, folder: Path, *argv: str) -> dict[str, Any]:
    """What result.json of `python -m MODULE --out-dir=FOLDER ...` holds.

    Args:
        module: a training job, "train.glue".
        folder: of the run; a finished one is read.
        argv: its other flags.
    """
    if not (folder / "result.json").is_file():
        command = [sys.executable, "-m", module, *argv, f"--out-dir={folder}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    result = json.loads((folder / "result.json").read_text())
    print(f"{folder.name}: {result['metrics']}", file=sys.stderr, flush=True)
    return result


def parser(doc: str | None, folder: str, seeds: str) -> argparse.ArgumentParser:
    """What every benchmark of runs is told: where data and runs are, and the seeds."""
    found = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--data-dir", required=True)
    found.add_argument("--runs", default=folder)
    found.add_argument("--seeds", default=seeds, type=lambda given: [int(seed) for seed in given.split(",")])
    return found


def averages(scores: Iterable[Sequence[float]]) -> list[float]:
    """Of each seed, over the tasks; `scores` are those of each task, by seed."""
    return [statistics.mean(of_seed) for of_seed in zip(*scores, strict=True)]


def artefact_bytes(folder: Path) -> int:
    """Of the artefact of a run."""
    return sum(file.stat().st_size for file in (folder / "adapter").iterdir())


def spread(values: Sequence[float]) -> tuple[float, float]:
    """(mean, standard deviation) in points."""
    return 100 * statistics.mean(values), 100 * (statistics.stdev(values) if len(values) > 1 else 0.0)


def shown(values: Sequence[float]) -> str:
    """Mean and deviation, as tables show them."""
    return "{:.1f} ± {:.1f}".format(*spread(values))
