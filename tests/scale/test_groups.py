"""Real processes: the same losses, the same steps after a restart elsewhere, and one end for all."""

import json
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from tests.scale.start import free_port, said, start, start_group, stop

HOULSBY = {"method": ["houlsby", {"bottleneck": 4}]}
FULL = {"method": ["full", {}]}


def losses(folder: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def together(told: dict, count: int) -> list[list[dict]]:
    processes = start_group(told, count)
    try:
        return [said(process) for process in processes]
    finally:
        stop(processes)


@pytest.mark.slow
def test_saved_on_two_goes_on_on_any_number(tmp_path: Path):
    """Two processes of two devices, then four of one, one of eight and one of one; full, split over fsdp."""
    told = lambda mesh, devices, run, steps=30, **fit: {
        "devices": devices,
        "folder": str(tmp_path),
        "runs": [FULL | {"mesh": mesh, "run": run, "fit": {"steps": steps, "save_every": 10, **fit}}],
    }
    (alone,) = said(start(told("data=1", 1, "alone")))
    two = together(told("data=2,fsdp=2", 2, "two"), 2)
    for run in two:
        np.testing.assert_allclose(run[0]["losses"], alone["losses"], rtol=1e-5)

    processes = start_group(told("data=2,fsdp=2", 2, "stopped", save_every=1), 2)
    try:
        wait_for(tmp_path / "stopped", 6)
        processes[1].send_signal(signal.SIGTERM)
        assert all("after step" in said(process, seconds=60)[0]["stopped"] for process in processes)
    finally:
        stop(processes)
    step = max(losses(tmp_path / "stopped"))
    for count, devices, mesh in ((4, 1, "data=2,fsdp=2"), (1, 8, "fsdp=8"), (1, 1, "data=1"), (2, 2, "data=2,fsdp=2")):
        name = f"on-{count}-{devices}"
        shutil.copytree(tmp_path / "stopped", tmp_path / name)
        runs = together(told(mesh, devices, name), count) if count > 1 else [said(start(told(mesh, devices, name)))]
        assert len(runs) == count
        found = losses(tmp_path / name)
        assert len(found) == 30
        assert found[step + 1] == pytest.approx(alone["losses"][step], rel=1e-6)
        later = [found[number] for number in range(step + 1, min(step + 21, 31))]
        np.testing.assert_allclose(later, alone["losses"][step : step + 20], rtol=1e-5, err_msg=name)
        if count == 2:
            assert [found[number] for number in range(step + 1, 31)] == [
                losses(tmp_path / "two")[number] for number in range(step + 1, 31)
            ]


def wait_for(folder: Path, steps: int, seconds: float = 300) -> None:
    """Until so many steps are logged."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if (folder / "metrics.jsonl").exists() and len(losses(folder)) >= steps:
            return
        time.sleep(0.05)
    raise AssertionError(f"{folder}: no {steps} steps after {seconds} s")


@pytest.mark.slow
def test_a_killed_peer_ends_all_and_the_restart_goes_on(tmp_path: Path):
    told = {
        "devices": 1,
        "folder": str(tmp_path),
        "runs": [HOULSBY | {"mesh": "data=2", "run": "killed", "fit": {"steps": 4000, "save_every": 5}}],
    }
    processes = start_group(told, 2)
    try:
        wait_for(tmp_path / "killed", 12)
        processes[1].kill()
        start_of_wait = time.monotonic()
        assert processes[0].wait(timeout=60) != 0
        assert time.monotonic() - start_of_wait < 40  # heartbeat: 10 s
    finally:
        stop(processes)
    saved = max(int(path.parent.name) for path in (tmp_path / "killed" / "checkpoints").glob("[0-9]*/manifest.json"))
    processes = start_group(told, 2)
    try:
        wait_for_restart(tmp_path / "killed")
        processes[0].send_signal(signal.SIGTERM)
        for process in processes:
            said(process)
    finally:
        stop(processes)
    lines = (tmp_path / "killed" / "metrics.jsonl").read_text().splitlines()
    restart = next(line for line in map(json.loads, lines) if "resumed_from" in line)
    assert restart["resumed_from"] == saved >= 10


LATE = "--distributed: expected the {} of --processes to join within --patience=8 s, and not all did"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("numbers", "code", "lines"),
    [
        ((3, 2), 75, [LATE.format(3), LATE.format(2)]),
        ((2, 3), 2, ["--processes: expected the 2 that take part on each of them, got 2, 3"] * 2),
    ],
)
def test_processes_that_were_told_different_numbers(numbers: tuple, code: int, lines: list[str], tmp_path: Path):
    told = {"devices": 1, "folder": str(tmp_path), "runs": []}
    group = {"coordinator": f"127.0.0.1:{free_port()}", "heartbeat": 10, "patience": 8}
    processes = [start(told, group | {"process": i, "processes": number}) for i, number in enumerate(numbers)]
    try:
        for process, line in zip(processes, lines, strict=True):
            err = process.communicate(timeout=120)[1]
            assert process.returncode == code, err[-2000:]
            assert err.splitlines()[-1].startswith(f"error: {line}")
    finally:
        stop(processes)


@pytest.mark.slow
def test_what_one_process_meets_ends_all(tmp_path: Path):
    """The folder of the artefact, which the first process alone writes, is taken."""
    (tmp_path / "run-adapter").mkdir()
    (tmp_path / "run-adapter" / "notes.txt").touch()
    run = HOULSBY | {"mesh": "data=2", "run": "run", "fit": {"steps": 2}}
    processes = start_group({"devices": 1, "folder": str(tmp_path), "runs": [run]}, 2)
    try:
        err = processes[0].communicate(timeout=300)[1]
        assert processes[0].returncode == 2, err[-2000:]
        assert "run-adapter: expected a new or empty folder or an adapter to replace" in err.splitlines()[-1]
        processes[1].communicate(timeout=60)
    finally:
        stop(processes)


@pytest.mark.slow
def test_artefacts_of_split_backbones(tmp_path: Path):
    """Layers cut from a backbone that no process holds, and one of codes, are compared with what was loaded."""
    runs = [
        {"method": ["top_n", {"top": 1}], "mesh": "fsdp=4", "run": "top"},
        {"method": ["lora", {}], "quantize": "nf4", "mesh": "data=2,fsdp=2", "run": "codes"},
    ]
    for run in runs:
        run["fit"] = {"steps": 3}
    told = {"devices": 2, "folder": str(tmp_path), "runs": runs}
    both = together(told, 2)
    assert both[0] == both[1]
    alone = said(start(told | {"devices": 1, "folder": str(tmp_path / "alone"), "runs": [one_device(r) for r in runs]}))
    for run, found, own in zip(runs, both[0], alone, strict=True):
        np.testing.assert_allclose(found["losses"], own["losses"], rtol=1e-5)
        assert (tmp_path / f"{run['run']}-adapter" / "manifest.json").is_file()


def one_device(run: dict) -> dict:
    return run | {"mesh": "data=1"}


def wait_for_restart(folder: Path, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while "resumed_from" not in (folder / "metrics.jsonl").read_text():
        assert time.monotonic() < end, "the run did not go on"
        time.sleep(0.05)
