"""Compare methods on a task of GLUE: `python -m train.compare --task=cola --methods=houlsby,full --sizes=8,64`.

Every method in every size with every seed is a `python -m train.glue` of its own, in a folder of its own in --out-dir,
which also gets comparison.jsonl, table.md and figure.png. Starting again repeats no finished run and resumes the rest.
"""

import contextlib
import dataclasses
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from adapters_jax.analysis import comparison
from adapters_jax.analysis.comparison import Run
from adapters_jax.flags import one_line_errors
from adapters_jax.training.preemption import Preempted, Preemption
from adapters_jax.training.run import finished, write_atomically, writing
from train.grid import Job, Plan, plan

Line = dict[str, Any]
PAUSE = 0.2
"""Seconds between two looks at what runs."""


def main(argv: Sequence[str] | None = None) -> None:
    """Flags, runs, tables. Flags at fault end it with exit code 2 before any run, a failed run with 1 after all."""
    with one_line_errors():
        asked = plan(list(sys.argv[1:] if argv is None else argv), (__doc__ or "").splitlines()[0])
        try:
            lines = compare(asked)
        except Preempted as stop:
            return print(stop, file=sys.stderr)
    if any("error" in line for line in lines):
        raise SystemExit(1)


def compare(asked: Plan) -> list[Line]:
    """Runs what is not finished, writes what came of it, and returns the lines of comparison.jsonl."""
    lines: dict[Run, Line] = {}
    if not asked.overwrite:
        lines = {job.run: line for job in asked.jobs if (line := read(job))}
    say = lambda text: print(f"[{len(lines)}/{len(asked.jobs)}] {text}", file=sys.stderr, flush=True)
    say(f"finished in {asked.out_dir}")
    with writing(asked.out_dir):
        asked.out_dir.mkdir(parents=True, exist_ok=True)

    waiting = [job for job in asked.jobs if job.run not in lines]
    running: dict[subprocess.Popen, Job] = {}
    with Preemption() as preemption, ended(running):
        while waiting or running:
            while waiting and len(running) < asked.at_once:
                job = waiting.pop(0)
                running[start(job)] = job
            for child in [child for child in running if child.poll() is not None]:
                job = running.pop(child)
                lines[job.run] = outcome(job, child.returncode)
                say(f"{job.run.name}: {lines[job.run].get('error') or lines[job.run]['metrics']}")
                write(asked, lines)
            if preemption.requested:
                raise Preempted(f"{asked.out_dir}: stopped by SIGTERM; the same command goes on from there")
            if running:
                time.sleep(PAUSE)

    all_lines = write(asked, lines)
    draw(asked, all_lines)
    print((asked.out_dir / "table.md").read_text(encoding="utf-8"))
    return all_lines


@contextlib.contextmanager
def ended(running: Mapping[subprocess.Popen, Job]) -> Iterator[None]:
    """Leaves no run behind: what still runs is told to save its state and stop, and waited for."""
    try:
        yield
    finally:
        for child in running:
            child.terminate()
        for child in running:
            child.wait()


def start(job: Job) -> subprocess.Popen:
    """The process of one run, which goes on from where it stopped."""
    with log_of(job).open("w", encoding="utf-8") as log:
        command = [sys.executable, "-m", "train.glue", *job.argv]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)


def outcome(job: Job, code: int) -> Line:
    """The line of a run that ended; of one that failed with `error`, the last line of its standard error."""
    if code == 0 and (line := read(job)):
        return line
    told = log_of(job).read_text(encoding="utf-8", errors="replace").split("\n")
    last = next((line.strip() for line in reversed(told) if line.strip()), f"exit code {code}")
    return identity(job) | {"error": f"ended by {signal.Signals(-code).name}" if code < 0 else last}


def log_of(job: Job) -> Path:
    return job.config.out_dir.with_name(f"{job.run.name}.log")


def read(job: Job) -> Line | None:
    """The line of a finished run; None if it is not finished. Raises CheckpointError for a run of other flags."""
    folder = job.config.out_dir
    if (result := finished(folder, job.config.to_dict())) is None:
        return None
    artefact_bytes = sum(path.stat().st_size for path in (folder / "adapter").glob("*"))
    return identity(job) | comparison.measures(result, artefact_bytes)


def identity(job: Job) -> Line:
    """Which run a line is of."""
    return dataclasses.asdict(job.run) | {"lr": job.config.flags.lr, "folder": str(job.config.out_dir)}


def write(asked: Plan, lines: Mapping[Run, Line]) -> list[Line]:
    """Writes comparison.jsonl and table.md; returns the lines that there are, in the grid's order."""
    known = [lines[job.run] for job in asked.jobs if job.run in lines]
    write_atomically(asked.out_dir / "comparison.jsonl", "".join(f"{json.dumps(line)}\n" for line in known))
    write_atomically(asked.out_dir / "table.md", comparison.report(known, asked.metric, asked.title))
    return known


def draw(asked: Plan, lines: Sequence[Line]) -> None:
    """Writes figure.png, or says what it lacks."""
    try:
        figure = comparison.figure(comparison.rows(lines, asked.metric), asked.metric, asked.title)
    except ImportError:
        return print("no figure.png: pip install 'adapters-jax[plots]' and start again", file=sys.stderr)
    path = asked.out_dir / "figure.png"
    with writing(path):
        figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
