"""Training checkpoints where folders cannot be written, disks are full and processes are killed."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from adapters_jax import manifest
from adapters_jax.checkpoint import Checkpoints
from adapters_jax.errors import CheckpointError

ROOT = Path(__file__).resolve().parents[1]


def small(step: int = 0) -> dict[str, np.ndarray]:
    return {"x": np.full(10, step, np.float32)}


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError) as error:
        Checkpoints(tmp_path / "file" / "checkpoints").save(1, small())
    assert str(tmp_path / "file") in str(error.value) and "\n" not in str(error.value)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    if os.access(closed, os.W_OK):
        closed = Path("/sys/kernel")
    with pytest.raises(CheckpointError, match=f"{closed}/checkpoints: no permission to write there; choose another"):
        Checkpoints(closed / "checkpoints").save(1, small())


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of 1 MiB, where this user may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no small disk: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_told_at_once_and_loses_no_step(small_disk: Path, capfd: pytest.CaptureFixture):
    folder = small_disk / "checkpoints"
    large = {"x": np.random.default_rng(0).normal(size=400_000)}
    with Checkpoints(folder) as store:
        store.save(1, small(1))
        store.save(2, small(2))
        with pytest.raises(CheckpointError, match=f"step 3 cannot be saved in {folder}: the disk is full; free some"):
            store.save(3, large)
        assert store.steps() == [1, 2] and store.latest() == 2
        assert np.array_equal(store.restore(small()).state["x"], small(2)["x"])
        store.save(4, small(4))
        assert store.steps() == [2, 4]
    assert "Traceback" not in capfd.readouterr().err
    assert sorted(path.name for path in folder.iterdir()) == ["2", "4"]


def test_a_full_disk_reported_by_the_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The same where no disk can be mounted: the errors are those that Orbax and the system raise."""
    failures = [
        ValueError('RESOURCE_EXHAUSTED: Failed to write 9 bytes: No space left on device\n[os_error_code="28"]')
    ]
    failures.append(OSError(28, "No space left on device"))
    with Checkpoints(tmp_path) as store:
        store.save(1, small(1))
        for failure in failures:
            with monkeypatch.context() as patch:
                patch.setattr(manifest, "write", lambda *_, failure=failure: (_ for _ in ()).throw(failure))
                with pytest.raises(CheckpointError, match=r"the disk is full; free some space"):
                    store.save(2, small(2))
            assert store.steps() == [1]
        store.save(2, small(2))
    assert store.latest() == 2


SAVER = """
import sys
import numpy as np
from adapters_jax.checkpoint import Checkpoints

state = lambda step: {"x": np.random.default_rng(step).normal(size=(50, 50)), "step": np.int32(step)}
store = Checkpoints(sys.argv[1])
restored = store.restore(state(0))
start = 0 if restored is None else restored.step
if restored is not None:
    expected = state(start)
    assert all(restored.state[name].tobytes() == expected[name].tobytes() for name in expected), start
print("start", start, flush=True)
for step in range(start + 1, 100_000):
    store.save(step, state(step), best=1.0 / step)
    print("saved", step, flush=True)
"""


def test_killed_at_any_moment_the_last_saved_step_is_there(tmp_path: Path):
    rng = random.Random(0)
    saved = 0
    for _ in range(4):
        with subprocess.Popen(
            [sys.executable, "-c", SAVER, str(tmp_path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        ) as process:
            first = process.stdout.readline().split()
            assert first and first[0] == "start", process.stderr.read()
            # The step after the one last reported may be whole, too.
            assert saved <= int(first[1]) <= saved + 1
            process.stdout.readline()
            time.sleep(rng.uniform(0, 0.4))
            process.send_signal(signal.SIGKILL)
            lines = process.stdout.read().split("\n")
        saved = max([int(first[1]) + 1, *(int(line.split()[1]) for line in lines if line.startswith("saved "))])
    store = Checkpoints(tmp_path, warn=lambda message: None)
    newest = store.latest()
    assert newest is not None and saved <= newest <= saved + 1
    assert store.best_step() == 1
    with store:
        store.save(newest + 1, {"x": np.zeros(1)})
    assert sorted(int(path.name) for path in tmp_path.iterdir())[-1] == newest + 1
    assert all(path.name.isdigit() for path in tmp_path.iterdir())
