"""metrics.jsonl, the console and TensorBoard."""

import io
import json
import sys

import pytest
from rich.console import Console

from adapters_jax.errors import CheckpointError, ConfigError
from adapters_jax.training.log import Logger


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_file_and_plain_lines(tmp_path):
    out = io.StringIO()
    with Logger(4, tmp_path / "new", console=Console(file=out)) as logger:
        logger.start(0)
        logger.train(2, {"loss": 0.5, "lr": 1e-3})
        logger.evaluation(4, {"accuracy": 0.75})
    assert lines(tmp_path / "new") == [{"step": 2, "loss": 0.5, "lr": 1e-3}, {"step": 4, "eval": {"accuracy": 0.75}}]
    assert out.getvalue().splitlines() == ["step 2/4  loss 0.5  lr 0.001", "step 4/4  eval  accuracy 0.75"]


def test_a_terminal_gets_a_bar(tmp_path):
    out = io.StringIO()
    with Logger(4, console=Console(file=out, force_terminal=True)) as logger:
        logger.start(0)
        logger.train(2, {"loss": 0.5})
        logger.advance(2)
    assert "2/4" in out.getvalue() and "loss 0.5000" in out.getvalue() and "step 2/4" not in out.getvalue()


def test_restart_drops_what_is_taken_again(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 1, "loss": 1.0}\n{"resumed_from": 1}\n{"step": 2, "loss": 1.0}\n{"step": 2, "eval": {}}\n'
        '{"step": 3, "loss": 1.0}\n{"step": 4, "lo'
    )
    with Logger(4, tmp_path, quiet=True) as logger:
        logger.start(2)
    expected = [{"step": 1, "loss": 1.0}, {"resumed_from": 1}, {"step": 2, "loss": 1.0}, {"step": 2, "eval": {}}]
    assert lines(tmp_path) == [*expected, {"resumed_from": 2}]


def test_tensorboard(tmp_path):
    with Logger(4, tmp_path, tensorboard=True, quiet=True) as logger:
        logger.start(0)
        logger.train(1, {"loss": 0.5})
    assert list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))


def test_tensorboard_needs_a_folder_and_the_package(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="expected an out_dir"):
        Logger(4, tensorboard=True)
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ConfigError, match="tensorboardX is not installed; pip install"):
        Logger(4, tmp_path, tensorboard=True)


def test_full_disk_is_one_line():
    logger = Logger(4, quiet=True)
    from pathlib import Path

    logger._path = Path("/dev/full")
    with pytest.raises(CheckpointError, match="No space left on device"):
        logger.train(1, {"loss": 0.5})
