"""Stopped in any way at any moment, a run ends with the bits of the one that was never stopped, dropout on."""

import contextlib
import dataclasses
import json
import multiprocessing
import multiprocessing.process
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import adapters_jax as aj
from adapters_jax.errors import CheckpointError
from adapters_jax.testing import assert_same, perturb, tiny_backbone
from adapters_jax.training import fit as loop
from adapters_jax.training.preemption import Preempted, Preemption
from tests.training.tiny_job import log_of, make_job, run_in_process

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_stopped_after_every_single_step(job, finished, tmp_path, monkeypatch):
    make_batch = loop.make_batch

    def terminated(*args):
        os.kill(os.getpid(), signal.SIGTERM)
        return make_batch(*args)

    monkeypatch.setattr(loop, "make_batch", terminated)
    for step in range(1, 12):
        with pytest.raises(Preempted, match=f"after step {step} of 12"):
            job.fit(out_dir=tmp_path)
    state, report = job.fit(out_dir=tmp_path)
    _, whole_state, whole = finished
    assert_same(report.params, whole.params)
    _assert_equal_states(state, whole_state)
    assert (report.history, report.step, report.metrics) == (whole.history, whole.step, whole.metrics)
    lines = log_of(tmp_path)
    assert [line["resumed_from"] for line in lines if "resumed_from" in line] == list(range(1, 12))
    strip = lambda line: {name: value for name, value in line.items() if name != "rows_per_second"}
    assert [strip(x) for x in lines if "step" in x] == [strip(x) for x in log_of(finished[0])]


def _assert_equal_states(a, b):
    assert_same(a.trained, b.trained)
    for x, y in zip(jax.tree.leaves(a.opt_state), jax.tree.leaves(b.opt_state), strict=True):
        np.testing.assert_array_equal(x, y)
    assert int(a.step) == int(b.step)


def test_a_damaged_newest_step_falls_back(job, finished, tmp_path, monkeypatch, capsys):
    make_batch, calls = loop.make_batch, iter(range(1, 100))

    def terminated(*args):
        if next(calls) == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return make_batch(*args)

    monkeypatch.setattr(loop, "make_batch", terminated)
    with pytest.raises(Preempted):
        job.fit(out_dir=tmp_path)
    largest = max(
        (p for p in (tmp_path / "checkpoints" / "6").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size
    )
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)
    _, report = job.fit(out_dir=tmp_path, quiet=False)
    assert "going back to step 4" in capsys.readouterr().err
    assert {"resumed_from": 4} in log_of(tmp_path)
    assert_same(report.params, finished[2].params)


def test_the_handler_is_put_back_and_only_installed_when_wanted():
    before = signal.getsignal(signal.SIGTERM)
    with Preemption() as preemption:
        os.kill(os.getpid(), signal.SIGTERM)
        assert preemption.requested
    assert signal.getsignal(signal.SIGTERM) is before
    with Preemption(wanted=False):
        assert signal.getsignal(signal.SIGTERM) is before


@contextlib.contextmanager
def process(folder: Path, work: Path) -> Iterator[multiprocessing.process.BaseProcess]:
    """The job in a process of its own, which ends with the block."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["adapters_jax.training.fit", "tests.training.tiny_job", "transformers"])
    started = context.Process(target=run_in_process, args=(folder, work, ROOT / ".cache" / "jax"))
    started.start()
    try:
        yield started
    finally:
        started.kill()
        started.join()
        started.close()


def final(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "final.npz") as stored:
        return dict(stored)


def lines_of(folder: Path) -> list[dict]:
    """metrics.jsonl as far as it is written."""
    lines = []
    for text in (folder / "metrics.jsonl").read_text().splitlines() if (folder / "metrics.jsonl").exists() else ():
        with contextlib.suppress(ValueError):
            lines.append(json.loads(text))
    return lines


def wait_for_steps(started: Any, folder: Path, restarts: int, steps: int) -> None:
    """Until the process, the run's restart of that number, has taken so many steps, or has ended."""
    while started.is_alive():
        lines = lines_of(folder)
        starts = [i for i, line in enumerate(lines) if "resumed_from" in line]
        since = lines[starts[-1] :] if starts else lines
        if len(starts) >= restarts and sum("loss" in line for line in since) >= steps:
            return
        time.sleep(0.002)


def finish(folder: Path, work: Path) -> dict[str, np.ndarray]:
    with process(folder, work) as started:
        started.join()
        assert started.exitcode == 0
    return final(folder)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """(work folder, final leaves) of the job in a process that nobody stops."""
    work = tmp_path_factory.mktemp("processes")
    return work, finish(work / "whole", work)


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    unlike = [name for name in expected if found[name].tobytes() != expected[name].tobytes()]
    assert not unlike


@pytest.mark.slow
def test_sigterm(uninterrupted):
    work, expected = uninterrupted
    folder = work / "terminated"
    with process(folder, work) as started:
        wait_for_steps(started, folder, 0, 7)
        started.terminate()
        started.join()
        assert started.exitcode == 0
    assert not (folder / "final.npz").exists()
    last = [line["step"] for line in lines_of(folder) if "loss" in line][-1]
    same(finish(folder, work), expected)
    assert {"resumed_from": last} in log_of(folder)


@pytest.mark.slow
def test_sigkill_ten_times_at_random_moments(uninterrupted):
    work, expected = uninterrupted
    folder, draw = work / "killed", random.Random(0)
    for _ in range(10):
        restarts = sum("resumed_from" in line for line in lines_of(folder)) + (folder / "metrics.jsonl").exists()
        with process(folder, work) as started:
            if draw.random() < 0.2:
                time.sleep(draw.uniform(0.0, 3.0))  # while it starts
            else:
                wait_for_steps(started, folder, restarts, draw.randrange(9))
                time.sleep(draw.uniform(0.0, 0.05))
    assert not (folder / "final.npz").exists(), "the run ended before it was killed ten times"
    same(finish(folder, work), expected)
    assert sum("resumed_from" in line for line in log_of(folder)) >= 5


def test_a_backbone_of_other_weights_is_refused(job, finished, tmp_path):
    other = tiny_backbone(tmp_path, aj.BertConfig.tiny(), seed=5)
    with pytest.raises(CheckpointError, match="backbone is"):
        dataclasses.replace(job, backbone=other).fit(out_dir=finished[0])


def test_frozen_adapters_of_other_values_are_refused(tmp_path):
    """They are read from where they were trained, which may have changed since the run began."""
    job = make_job(tmp_path / "backbone", aj.Stack((aj.Frozen(aj.Pfeiffer(bottleneck=2)), aj.Pfeiffer(bottleneck=2))))
    job.fit(out_dir=tmp_path / "run", steps=2)
    adapters = job.params["adapters"]
    other = adapters | {"pfeiffer": perturb(adapters["pfeiffer"])}
    with pytest.raises(CheckpointError, match="frozen_adapters.adapters/pfeiffer/encoder"):
        dataclasses.replace(job, params=job.params | {"adapters": other}).fit(out_dir=tmp_path / "run", steps=2)
