"""The comparison command: its grid, its runs and what it writes. Most runs are played by a fake train.glue."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from train import compare, flags
from train.grid import Plan, plan

GRID = ["--methods=houlsby,head", "--sizes=8,64", "--seeds=0,1", "--data=toy", "--backbone=minilm"]


class FakeGlue:
    """Stands for the subprocess module: every process is a train.glue that is finished at once.

    Attributes:
        configs: of all planned runs, by their arguments.
        started: the arguments of every run, in order.
        failures: run -> (exit code, what it says) of those that fail.
        is_done: asked whether a run has ended, each time that somebody looks.
    """

    DEVNULL = subprocess.DEVNULL

    def __init__(self) -> None:
        self.configs: dict[tuple[str, ...], flags.Config] = {}
        self.started: list[tuple[str, ...]] = []
        self.failures: dict[str, tuple[int, str]] = {}
        self.is_done: Callable[[FakeChild], bool] = lambda child: True

    @property
    def names(self) -> list[str]:
        return [self.configs[argv].out_dir.name for argv in self.started]

    def plan(self, argv: list[str], description: str) -> Plan:
        planned = plan(argv, description)
        self.configs |= {job.argv: job.config for job in planned.jobs}
        return planned

    def Popen(self, command: list[str], stdout: int, stderr: Any) -> "FakeChild":
        assert command[:3] == [sys.executable, "-m", "train.glue"]
        self.started.append(tuple(command[3:]))
        config = self.configs[self.started[-1]]
        code, text = self.failures.get(config.out_dir.name, (0, "step 1\n"))
        stderr.write(text)
        return FakeChild(self, config, code)

    def finish(self, config: flags.Config) -> None:
        size = getattr(config.method, "bottleneck", 0)
        result = {
            "metrics": {"accuracy": size / 100 + config.flags.seed / 50},
            "parameters": {"trained": 1000 * size + 10, "head": 10, "share": size / 400},
            "rows_per_second": 10.0,
            "peak_memory_bytes": 3_000_000,
            "seconds": 1.5,
        }
        (config.out_dir / "adapter").mkdir(parents=True, exist_ok=True)
        (config.out_dir / "adapter" / "adapter.safetensors").write_bytes(bytes(20_000))
        (config.out_dir / "config.yaml").write_text(yaml.safe_dump(config.to_dict()))
        (config.out_dir / "result.json").write_text(json.dumps(result))


class FakeChild:
    """A process of FakeGlue's."""

    def __init__(self, glue: FakeGlue, config: flags.Config, code: int) -> None:
        self.glue, self.config, self.code = glue, config, code
        self.returncode: int | None = None
        self.calls: list[str] = []

    def poll(self) -> int | None:
        if self.glue.is_done(self):
            self.returncode = self.code
            if self.config.out_dir.name not in self.glue.failures:
                self.glue.finish(self.config)
        return self.returncode

    def terminate(self) -> None:
        self.calls.append("terminate")

    def wait(self) -> None:
        self.calls.append("wait")


@pytest.fixture
def glue(monkeypatch: pytest.MonkeyPatch) -> FakeGlue:
    fake = FakeGlue()
    monkeypatch.setattr(compare, "subprocess", fake)
    monkeypatch.setattr(compare, "plan", fake.plan)
    return fake


def ended(*argv: str) -> int:
    """The exit code."""
    try:
        compare.main(argv)
    except SystemExit as end:
        assert isinstance(end.code, int)
        return end.code
    return 0


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "comparison.jsonl").read_text().splitlines()]


def test_a_grid_runs_every_cell_once_and_is_written_down(glue: FakeGlue, tmp_path: Path, capsys):
    assert ended(*GRID, f"--out-dir={tmp_path}") == 0
    names = ["houlsby-8-0", "houlsby-64-0", "head-0", "houlsby-8-1", "houlsby-64-1", "head-1"]
    assert glue.names == names
    assert [Path(line["folder"]).name for line in lines(tmp_path)] == names
    assert lines(tmp_path)[1] == {
        "method": "houlsby",
        "size": 64,
        "seed": 0,
        "lr": 5e-4,  # the generated task's own
        "folder": str(tmp_path / "houlsby-64-0"),
        "metrics": {"accuracy": 0.64},
        "parameters": 64000,
        "head_parameters": 10,
        "share": 0.16,
        "artefact_bytes": 20000,
        "rows_per_second": 10.0,
        "peak_memory_bytes": 3000000,
        "seconds": 1.5,
    }
    table = (tmp_path / "table.md").read_text()
    assert "# toy, minilm" in table
    # 8 and 10 points: mean 9, deviation sqrt(2 x 1^2 / (2 - 1)) = 1.4
    assert "| houlsby | 8 | 0.0005 | 9.0 ± 1.4 | 2 | 8,000 | 2.000% | 0.02 MB | 10.0 | 3 MB |" in table
    assert capsys.readouterr().out.strip() == table.strip()
    assert (tmp_path / "figure.png").stat().st_size > 1000


def test_finished_runs_are_not_repeated(glue: FakeGlue, tmp_path: Path):
    ended(*GRID, f"--out-dir={tmp_path}")
    before = [(tmp_path / name).read_text() for name in ("comparison.jsonl", "table.md")]
    glue.started.clear()
    assert ended(*GRID, f"--out-dir={tmp_path}") == 0
    assert glue.started == []
    assert [(tmp_path / name).read_text() for name in ("comparison.jsonl", "table.md")] == before
    assert ended(*GRID, f"--out-dir={tmp_path}", "--sizes=8,16,64") == 0
    assert glue.names == ["houlsby-16-0", "houlsby-16-1"]
    assert len(lines(tmp_path)) == 8


def test_overwrite_repeats_all(glue: FakeGlue, tmp_path: Path):
    ended(*GRID, f"--out-dir={tmp_path}")
    ended(*GRID, f"--out-dir={tmp_path}", "--overwrite")
    assert len(glue.started) == 12
    assert all("--overwrite" in argv for argv in glue.started[6:])


FAILURES = {
    "an error": ((2, "step 1\nerror: the rank is too high\n\n"), "error: the rank is too high"),
    "killed": ((-9, "step 1\n"), "ended by SIGKILL"),
    "stopped": ((0, "stopped by SIGTERM after step 3 of 9\n"), "stopped by SIGTERM after step 3 of 9"),
    "silent": ((3, ""), "exit code 3"),
}


@pytest.mark.parametrize("what", FAILURES)
def test_a_failed_run_is_reported_and_the_others_go_on(glue: FakeGlue, tmp_path: Path, capsys, what: str):
    glue.failures["houlsby-8-0"], error = FAILURES[what]
    assert ended(*GRID, f"--out-dir={tmp_path}") == 1
    assert len(glue.started) == 6
    first, *rest = lines(tmp_path)
    assert first["error"] == error
    assert (first["method"], first["size"], first["seed"]) == ("houlsby", 8, 0)
    assert "metrics" not in first
    assert not any("error" in line for line in rest)
    table = (tmp_path / "table.md").read_text()
    assert "| houlsby | 8 | 0.0005 | 10.0 | 1 |" in table
    assert table.endswith(f"houlsby-8-0 failed: {error}\n")
    assert f"houlsby-8-0: {error}" in capsys.readouterr().err
    glue.started.clear()
    glue.failures.clear()
    assert ended(*GRID, f"--out-dir={tmp_path}") == 0
    assert glue.names == ["houlsby-8-0"]
    assert "failed" not in (tmp_path / "table.md").read_text()


def test_a_folder_of_other_flags_is_refused_before_any_run(glue: FakeGlue, tmp_path: Path, capsys):
    ended(*GRID, f"--out-dir={tmp_path}", "--epochs=2")
    glue.started.clear()
    capsys.readouterr()
    assert ended(*GRID, f"--out-dir={tmp_path}", "--epochs=3", "--seeds=2,1") == 2
    told = capsys.readouterr().err.splitlines()
    assert glue.started == []
    assert len(told) == 1
    assert "epochs is 2.0 there and 3.0 here" in told[0]


def test_without_matplotlib_the_rest_is_written(glue: FakeGlue, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert ended(*GRID, f"--out-dir={tmp_path}") == 0
    assert "pip install 'adapters-jax[plots]'" in capsys.readouterr().err
    assert not (tmp_path / "figure.png").exists()
    assert "houlsby" in (tmp_path / "table.md").read_text()


def test_several_runs_at_a_time(glue: FakeGlue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compare, "PAUSE", 0.001)
    started_when_asked = []

    def is_done(child: FakeChild) -> bool:
        started_when_asked.append(len(glue.started))
        return len(started_when_asked) > 5

    glue.is_done = is_done
    assert ended(*GRID, f"--out-dir={tmp_path}", "--jobs=3") == 0
    assert started_when_asked[:6] == [3] * 6
    assert len(glue.names) == 6
    assert [line["seed"] for line in lines(tmp_path)] == [0, 0, 0, 1, 1, 1]


def stop_by(signal_number: int, glue: FakeGlue) -> list[FakeChild]:
    """The second run gets the signal while it runs; returns the runs that were asked whether they are done."""
    asked = []

    def is_done(child: FakeChild) -> bool:
        asked.append(child)
        if len(glue.started) < 2:
            return True
        os.kill(os.getpid(), signal_number)
        return False

    glue.is_done = is_done
    return asked


def test_sigterm_stops_what_runs_and_starts_nothing_more(glue: FakeGlue, tmp_path: Path, capsys):
    children = stop_by(signal.SIGTERM, glue)
    before = signal.getsignal(signal.SIGTERM)
    assert ended(*GRID, f"--out-dir={tmp_path}") == 0  # as a run of train.glue
    assert [child.calls for child in children] == [[], ["terminate", "wait"]]
    assert capsys.readouterr().err.endswith("stopped by SIGTERM; the same command goes on from there\n")
    assert signal.getsignal(signal.SIGTERM) is before
    assert len(lines(tmp_path)) == 1
    glue.is_done = lambda child: True
    assert ended(*GRID, f"--out-dir={tmp_path}") == 0
    assert glue.names == ["houlsby-8-0", "houlsby-64-0", "houlsby-64-0", *glue.names[3:]]


def test_ctrl_c_leaves_no_run_behind(glue: FakeGlue, tmp_path: Path):
    children = stop_by(signal.SIGINT, glue)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for jobs in the background
    try:
        assert ended(*GRID, f"--out-dir={tmp_path}") == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert [child.calls for child in children] == [[], ["terminate", "wait"]]


def test_bad_flags_end_it_before_any_run(glue: FakeGlue, tmp_path: Path, capsys):
    assert ended("--data=toy", "--methods=houlsby", "--sizes=8,0", f"--out-dir={tmp_path / 'out'}") == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: method.bottleneck: expected a whole number of at least 1, got 0"
    ]
    assert glue.started == []
    assert not (tmp_path / "out").exists()


def test_help_lists_its_own_flags(capsys):
    assert ended("--help") == 0
    told = capsys.readouterr().out
    assert all(f"--{name}" in told for name in ("methods", "sizes", "lrs", "seeds", "jobs", "out-dir"))


@pytest.mark.slow
def test_real_runs_of_which_one_fails(backbone_folder: Path, tmp_path: Path, repo: Path, monkeypatch):
    monkeypatch.chdir(repo)
    given = [
        "--methods=head,houlsby",
        "--sizes=4",
        "--lrs=head:1e38",
        "--data=toy",
        f"--backbone={backbone_folder}",
        f"--cache-dir={tmp_path / 'cache'}",
        f"--out-dir={tmp_path / 'out'}",
        "--steps=4",
        "--train-rows=32",
        "--eval-rows=16",
        "--max-length=32",
        "--batch-size=8",
    ]
    assert ended(*given) == 1
    failed, done = lines(tmp_path / "out")
    assert "not finite" in failed["error"]
    assert failed["error"].startswith("error: ")
    result = json.loads((tmp_path / "out" / "houlsby-4-0" / "result.json").read_text())
    assert done["metrics"] == result["metrics"]
    assert done["parameters"] == 2 * 2 * (2 * 16 * 4 + 4 + 16) + 2 * 16 * 5
    assert 10**8 < done["peak_memory_bytes"] < 10**11
    assert done["artefact_bytes"] > 4 * done["parameters"]
    real, started = subprocess.Popen, []
    monkeypatch.setattr(compare.subprocess, "Popen", lambda *a, **k: started.append(a) or real(*a, **k))
    assert ended(*given) == 1
    assert len(started) == 1  # what failed is tried again
    assert lines(tmp_path / "out") == [failed, done]
