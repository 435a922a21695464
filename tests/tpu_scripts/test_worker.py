"""tpu_scripts/worker.sh, which runs on every worker: real processes, and a Python that does as it is told."""

import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.tpu_scripts.stubs import Cloud, executable


def wait_for(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("todo", "restarts", "code", "starts"),
    [
        ("finish", 0, 0, 1),
        ("0 finish", 3, 0, 2),  # preempted: saved, exit code 0, no result
        ("134 1 finish", 3, 0, 3),  # killed with a peer
        ("1 1 1", 2, 1, 3),
        ("0 0", 1, 75, 2),
        ("75 finish", 1, 0, 2),  # the others were late
        ("2 finish", 3, 2, 1),  # input at fault
    ],
)
def test_the_result_decides_not_the_exit_code(cloud: Cloud, todo: str, restarts: int, code: int, starts: int):
    worker, out = cloud.worker(), cloud.shared / "out"
    cloud.script(*todo.split())
    done = cloud.bash(worker, "run", out, str(restarts), "train.glue", f"--out-dir={out}")
    assert (done.returncode, len(cloud.jobs())) == (code, starts), done.stderr
    assert (out / "result.json").exists() == (code == 0)


def test_a_result_of_another_run_does_not_hide_input_at_fault(cloud: Cloud):
    worker = cloud.worker()
    (cloud.shared / "result.json").touch()
    cloud.script("2")
    assert cloud.bash(worker, "run", cloud.shared, "3", "train.glue").returncode == 2


def test_a_worker_waits_for_the_result_that_process_0_still_writes(cloud: Cloud):
    worker = cloud.worker()
    cloud.script("0")
    late = f"(sleep 1; touch {cloud.shared}/result.json) & exec bash {worker} run {cloud.shared} 0 train.glue"
    assert cloud.bash("-c", late, AJ_RESULT_WAIT="60").returncode == 0


def test_sigterm_reaches_the_job_and_ends_the_restarts(cloud: Cloud):
    worker = cloud.worker()
    cloud.script("hang", "finish")
    command = ["bash", worker, "run", cloud.shared, "3", "train.glue"]
    process = subprocess.Popen(command, env=cloud.environment(AJ_RESULT_WAIT="60"), stderr=subprocess.DEVNULL)
    wait_for((cloud.place / "hangs").exists)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 75 and len(cloud.jobs()) == 1


def test_start_status_and_stop(cloud: Cloud):
    worker, out = cloud.worker(), str(cloud.shared / "out")
    do = lambda *words: cloud.bash(worker, *words)
    start = ["start", out, "3", "train.glue", f"--out-dir={out}", "a b"]
    status = lambda: do("status").stdout.splitlines()[0]
    assert status() == "idle" and "nothing is running" in do("stop").stderr
    cloud.script("hang", "2", "finish")
    assert do(*start).returncode == 0
    wait_for((cloud.place / "hangs").exists)
    assert status() == "running 0" and "already running" in do(*start).stderr
    other = do(*start, "more")
    assert other.returncode == 2 and "another run is under way: " in other.stderr
    assert do("stop").returncode == 0 and status() == "stopped" and len(cloud.jobs()) == 1
    assert do(*start).returncode == 0
    wait_for(lambda: status() == "failed 2")
    assert do(*start).returncode == 0
    wait_for(lambda: status() == "finished")
    assert "finished" in do("status").stdout.splitlines()[-1]
    count = len(cloud.jobs())
    assert "already finished" in do(*start).stderr and status() == "finished" and len(cloud.jobs()) == count
    assert {tuple(job) for job in cloud.jobs()} == {("-m", "train.glue", f"--out-dir={out}", "a b")}


@pytest.mark.parametrize(
    ("source", "mount"),
    [
        ("bucket", ["gcsfuse", "--implicit-dirs", "--metadata-cache-ttl-secs=0", "bucket"]),
        ("host:/export", ["sudo", "mount", "-t", "nfs", "host:/export"]),
    ],
)
def test_setup_mounts_tries_and_installs(cloud: Cloud, source: str, mount: list[str]):
    worker = cloud.worker()
    cloud.script("0", "2", "0", "0")
    done = cloud.bash(worker, "setup", "tpu", cloud.shared, source)
    assert done.returncode == 0, done.stderr
    calls = cloud.calls()
    assert calls[0] == ["sudo", "mkdir", "-p", str(cloud.shared)] and calls[-1] == [*mount, str(cloud.shared)]
    code = worker.parents[1]
    assert cloud.jobs() == [["-m", "pip", "install", "--quiet", "--editable", f"{code}[tpu]"]]
    assert not list(cloud.shared.iterdir())

    # After the machine was restarted nothing is mounted, and the run would go on in an empty folder.
    assert cloud.bash(worker, "start", cloud.shared, "0", "train.glue").returncode == 0
    assert cloud.calls()[-1] == [*mount, str(cloud.shared)]
    wait_for((worker.parents[2] / "exit").exists)

    # From a wheel: also one that was built again under the same version.
    (code / "a.whl").touch()
    assert cloud.bash(worker, "setup", "cuda", cloud.shared).returncode == 0
    wheel, again = cloud.jobs()[2:]
    assert wheel[-1] == f"{code}/a.whl[cuda]" and again[-3:] == ["--force-reinstall", "--no-deps", f"{code}/a.whl"]


def test_setup_refuses_a_folder_in_which_checkpoints_cannot_be_renamed(cloud: Cloud):
    worker = cloud.worker()
    (cloud.bin / "mv").unlink()
    executable(cloud.bin / "mv", "#!/bin/sh\nexit 1\n")
    done = cloud.bash(worker, "setup", "tpu", cloud.shared)
    assert done.returncode == 2 and "--enable-hierarchical-namespace" in done.stderr and not cloud.jobs()


def test_setup_makes_an_environment_by_uv_where_python_is_old(cloud: Cloud, tmp_path: Path):
    worker = cloud.worker()
    venv = worker.parents[2] / "venv"
    made = (venv / "bin" / "python").read_text()
    (venv / "bin" / "python").unlink()
    uv = f"""#!/bin/sh
echo "$@" >>{tmp_path}/python3
case "$1$3" in -c*) exit 1 ;; -mvenv) cp {tmp_path}/made {venv}/bin/python && chmod +x {venv}/bin/python ;; esac
"""
    (tmp_path / "made").write_text(made)
    executable(cloud.bin / "python3", uv)
    cloud.script("0")
    done = cloud.bash(worker, "setup", "tpu", cloud.shared)
    assert done.returncode == 0, done.stderr
    said = (tmp_path / "python3").read_text().splitlines()
    assert said[-2:] == ["-m pip install --quiet --user uv", f"-m uv venv --quiet --seed --python 3.12 {venv}"]
    assert len(cloud.jobs()) == 1
