"""The run folder: one configuration, one writer, nothing lost."""

import json
import os
import subprocess
import sys

import pytest

from adapters_jax.errors import CheckpointError
from adapters_jax.training.run import RunFolder, write_atomically

CONFIG = {"task": "mnli", "lr": 1e-3, "method": {"name": "houlsby", "bottleneck": 64}, "seeds": (1, 2)}


def test_new_folder_resume_and_result(tmp_path):
    folder = tmp_path / "runs" / "x"
    with RunFolder.open(folder, CONFIG) as run:
        assert run.result is None
        assert "bottleneck: 64" in (folder / "config.yaml").read_text()
    with RunFolder.open(folder, CONFIG) as run:
        run.finish({"metrics": {"accuracy": 0.5}})
    with RunFolder.open(folder, CONFIG) as run:
        assert run.result == {"metrics": {"accuracy": 0.5}}


def test_another_configuration_is_refused_with_the_difference(tmp_path):
    RunFolder.open(tmp_path / "x", CONFIG).close()
    other = CONFIG | {"lr": 2e-3, "method": {"name": "full"}}
    with pytest.raises(CheckpointError) as error:
        RunFolder.open(tmp_path / "x", other)
    for part in ("lr is 0.001 there and 0.002 here", "method.bottleneck is 64 there", "--overwrite"):
        assert part in str(error.value)
    assert "\n" not in str(error.value)
    RunFolder.open(tmp_path / "x", CONFIG).close()


def test_what_changes_no_parameter_may_be_another_on_a_resume(tmp_path):
    RunFolder.open(tmp_path / "x", CONFIG | {"save_every": 10}).close()
    RunFolder.open(tmp_path / "x", CONFIG | {"save_every": 20, "tensorboard": True}).close()
    with pytest.raises(CheckpointError, match="seed is .* there and 1 here"):
        RunFolder.open(tmp_path / "x", CONFIG | {"seed": 1})


def test_overwrite_removes_the_run_and_nothing_else(tmp_path):
    folder = tmp_path / "x"
    with RunFolder.open(folder, CONFIG) as run:
        run.finish({})
    (folder / "checkpoints" / "3").mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("{}\n")
    (folder / "notes.txt").write_text("mine")
    with RunFolder.open(folder, CONFIG | {"lr": 1.0}, overwrite=True) as run:
        assert run.result is None
    assert {path.name for path in folder.iterdir()} == {"config.yaml", "notes.txt", ".lock"}
    assert "lr: 1.0" in (folder / "config.yaml").read_text()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_something_else_is_left_alone(tmp_path, overwrite):
    (tmp_path / "thesis.tex").write_text("years of work")
    (tmp_path / "result.json").write_text("{}")
    with pytest.raises(CheckpointError, match="expected an empty folder or that of a run, found result.json, thesis"):
        RunFolder.open(tmp_path, CONFIG, overwrite=overwrite)
    assert {path.name for path in tmp_path.iterdir()} == {"thesis.tex", "result.json"}


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "x").write_text("")
    with pytest.raises(CheckpointError, match="found a file"):
        RunFolder.open(tmp_path / "x", CONFIG)


def test_no_second_process(tmp_path):
    folder = tmp_path / "x"
    program = (
        "import sys; from adapters_jax.training.run import RunFolder\n"
        f"try: RunFolder.open({str(folder)!r}, {{'a': 1}})\n"
        "except Exception as error: sys.exit(str(error))"
    )
    with RunFolder.open(folder, {"a": 1}):
        second = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert "another process is training here" in second.stderr
        with pytest.raises(CheckpointError, match="another process"):
            RunFolder.open(folder, {"a": 1})
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_no_permission(tmp_path):
    if os.geteuid() == 0:
        folder = "/proc/adapters_jax_run"
    else:
        tmp_path.chmod(0o500)
        folder = tmp_path / "x"
    with pytest.raises(CheckpointError, match="cannot write.*choose another --out-dir") as error:
        RunFolder.open(folder, CONFIG)
    assert "\n" not in str(error.value)


def test_full_disk_keeps_the_old_file(tmp_path, monkeypatch):
    target = tmp_path / "result.json"
    write_atomically(target, "old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        write_atomically(target, "new")
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_damaged_config_and_result(tmp_path):
    with RunFolder.open(tmp_path / "x", CONFIG) as run:
        run.finish({"a": 1})
    (tmp_path / "x" / "result.json").write_text(json.dumps({"a": 1})[:-2])
    with pytest.raises(CheckpointError, match="result.json: cannot be read; --overwrite"):
        RunFolder.open(tmp_path / "x", CONFIG)
    (tmp_path / "x" / "config.yaml").write_text("a: [")
    with pytest.raises(CheckpointError, match="config.yaml: cannot be read"):
        RunFolder.open(tmp_path / "x", CONFIG)
    RunFolder.open(tmp_path / "x", CONFIG, overwrite=True).close()
