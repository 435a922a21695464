"""Every kind of bad input ends the command with one line, what was expected and what was found, and exit code 2.

Flags and YAML alone are in test_flags.py; what the command line of an artefact refuses is in tests/test_cli.py.
"""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from adapters_jax import testing
from adapters_jax.bert.config import BertConfig
from tests.refusal import refused
from train import glue


class Place:
    """A backbone, a GLUE folder and an output folder that a test may damage, and the command on them."""

    def __init__(self, tmp_path: Path, backbone: Path, data: Path) -> None:
        self.out = tmp_path / "run"
        self.backbone = shutil.copytree(backbone, tmp_path / "backbone")
        self.data = shutil.copytree(data, tmp_path / "data")
        self.cache = tmp_path / "cache"

    def run(self, *more: str) -> None:
        glue.main(
            [
                "--task=rte",
                f"--data-dir={self.data}",
                f"--backbone={self.backbone}",
                f"--cache-dir={self.cache}",
                f"--out-dir={self.out}",
                "--method.bottleneck=4",
                "--max-length=32",
                "--batch-size=8",
                "--eval-batch-size=8",
                "--steps=2",
                *more,
            ]
        )


@pytest.fixture
def place(tmp_path: Path, backbone_folder: Path, glue_folder: Path) -> Place:
    return Place(tmp_path, backbone_folder, glue_folder)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, backbone_folder: Path, glue_folder: Path) -> Place:
    """A finished run; tests copy what they damage."""
    place = Place(tmp_path_factory.mktemp("trained"), backbone_folder, glue_folder)
    place.run()
    return place


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def weights(place: Place) -> Path:
    return place.backbone / "model.safetensors"


def change(path: Path, edit: Callable[[dict], None]) -> None:
    tensors = dict(load_file(path))
    edit(tensors)
    save_file(tensors, path)


def rows(place: Place, name: str, text: str) -> None:
    (place.data / "RTE" / name).write_text(text, encoding="utf-8")


HEADER = "index\tsentence1\tsentence2\tlabel\n"


def query(tensors: dict) -> str:
    return next(name for name in tensors if name.endswith("layer.0.attention.self.query.weight"))


def lack(tensors: dict) -> None:
    del tensors[query(tensors)]


def widen(tensors: dict) -> None:
    tensors[query(tensors)] = np.zeros((3, 3), np.float32)


def poison(tensors: dict) -> None:
    tensors[query(tensors)] = np.full_like(tensors[query(tensors)], np.nan)


DAMAGE: dict[str, tuple[Callable[[Place], object], list[str]]] = {
    "missing data folder": (lambda p: shutil.rmtree(p.data), ["data", "expected a folder"]),
    "data folder without the task": (lambda p: (p.data / "RTE").rename(p.data / "WNLI"), ["RTE", "train.tsv", "WNLI"]),
    "missing file": (lambda p: (p.data / "RTE" / "dev.tsv").unlink(), ["dev.tsv"]),
    "empty file": (lambda p: rows(p, "train.tsv", ""), ["train.tsv", "empty"]),
    "header alone": (lambda p: rows(p, "dev.tsv", HEADER), ["dev.tsv"]),
    "too few columns": (
        lambda p: rows(p, "train.tsv", HEADER + "0\ta\tb\tentailment\n1\ta\n"),
        ["train.tsv:3", "column"],
    ),
    "unknown label": (
        lambda p: rows(p, "dev.tsv", HEADER + "0\ta\tb\tentailmant\n"),
        ["dev.tsv:2", "'entailmant'", "entailment"],
    ),
    "no column": (
        lambda p: rows(p, "train.tsv", "index\tsentence1\tlabel\n0\ta\tentailment\n"),
        ["train.tsv", "sentence2"],
    ),
    "missing backbone": (lambda p: shutil.rmtree(p.backbone), ["backbone", "config.json"]),
    "no weights": (lambda p: weights(p).unlink(), ["model.safetensors"]),
    "truncated weights": (lambda p: os.truncate(weights(p), 3000), ["model.safetensors"]),
    "weights without a tensor": (lambda p: change(weights(p), lack), ["missing", "query"]),
    "weights of another shape": (lambda p: change(weights(p), widen), ["[3, 3]", "[16, 16]", "query"]),
    "weights that are no numbers": (lambda p: change(weights(p), poison), ["not finite", "query"]),
    "no configuration": (lambda p: (p.backbone / "config.json").unlink(), ["config.json"]),
    "broken configuration": (lambda p: (p.backbone / "config.json").write_text("{"), ["config.json", "JSON"]),
    "no tokenizer": (lambda p: (p.backbone / "tokenizer.json").unlink(), ["tokenizer"]),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damaged_files_are_named(place: Place, capsys: pytest.CaptureFixture, what: str):
    damage, words = DAMAGE[what]
    damage(place)
    message = refused(capsys, place.run)
    assert [word for word in words if word not in message] == [], message
    assert not (place.out / "config.yaml").exists(), "a run that never began must not claim the folder"


FLAGS = {
    "length above the positions": (["--max-length=65"], ["--max-length", "64", "65"]),
    "adapter that is not there": (["--init-adapter=none"], ["none", "expected the folder of an adapter"]),
    "hub that cannot be reached": (["--backbone=nobody/nothing"], ["nobody/nothing", "local folder"]),
}


@pytest.mark.parametrize("what", FLAGS)
def test_flags_that_do_not_fit_the_files(place: Place, capsys: pytest.CaptureFixture, monkeypatch, what: str):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    more, words = FLAGS[what]
    message = refused(capsys, lambda: place.run(*more))
    assert [word for word in words if word not in message] == [], message


def test_an_adapter_of_another_backbone_is_refused(trained: Place, place: Place, capsys: pytest.CaptureFixture):
    shutil.rmtree(place.backbone)
    testing.write_backbone(place.backbone, seed=9)
    message = refused(capsys, lambda: place.run(f"--init-adapter={trained.out / 'adapter'}"))
    assert message.count("fingerprint") == 1
    assert str(trained.backbone) in message
    assert str(place.backbone) in message


def test_an_adapter_of_another_size_of_backbone_is_refused(trained: Place, place: Place, capsys: pytest.CaptureFixture):
    shutil.rmtree(place.backbone)
    testing.write_backbone(place.backbone, BertConfig.tiny(num_hidden_layers=3))
    assert "fingerprint" in refused(capsys, lambda: place.run(f"--init-adapter={trained.out / 'adapter'}"))


@pytest.mark.parametrize("other", [["--method.bottleneck=8"], ["--method.layer-norms=false"]])
def test_an_adapter_of_another_method_is_refused(trained: Place, place: Place, capsys, other: list[str]):
    place.backbone = trained.backbone
    message = refused(capsys, lambda: place.run(f"--init-adapter={trained.out / 'adapter'}", *other))
    assert "bottleneck=4" in message


DAMAGED_ADAPTER: dict[str, Callable[[Path], object]] = {
    "missing file": lambda folder: (folder / "adapter.safetensors").unlink(),
    "missing manifest": lambda folder: (folder / "manifest.json").unlink(),
    "truncated file": lambda folder: os.truncate(folder / "adapter.safetensors", 1000),
    "flipped bit": lambda folder: flip(folder / "adapter.safetensors"),
    "flipped bit of the manifest": lambda folder: flip(folder / "manifest.json"),
}


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("what", DAMAGED_ADAPTER)
def test_a_damaged_adapter_is_refused(trained: Place, place: Place, capsys: pytest.CaptureFixture, what: str):
    place.backbone = trained.backbone
    folder = shutil.copytree(trained.out / "adapter", place.cache / "adapter")
    DAMAGED_ADAPTER[what](folder)
    assert str(folder) in refused(capsys, lambda: place.run(f"--init-adapter={folder}"))


def damage_steps(run: Path, damage: Callable[[Path], object], only_newest: bool) -> None:
    """Damages the largest data file of the newest or of every step."""
    steps = sorted((path for path in (run / "checkpoints").iterdir() if path.name.isdigit()), key=lambda p: int(p.name))
    for step in steps[-1:] if only_newest else steps:
        files = [path for path in step.rglob("*") if path.is_file() and path.name != "manifest.json"]
        damage(max(files, key=lambda path: path.stat().st_size))


DAMAGED_STEP: dict[str, Callable[[Path], object]] = {
    "flipped bit": flip,
    "truncated file": lambda path: os.truncate(path, path.stat().st_size // 2),
    "missing file": lambda path: path.unlink(),
}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, backbone_folder: Path, glue_folder: Path) -> Place:
    """A run with two checkpoints that has lost its result: it would go on from the newest."""
    place = Place(tmp_path_factory.mktemp("stopped"), backbone_folder, glue_folder)
    place.run("--save-every=1", "--keep=last")
    (place.out / "result.json").unlink()
    return place


@pytest.mark.parametrize("what", DAMAGED_STEP)
def test_damaged_checkpoints_are_refused_and_kept(stopped: Place, tmp_path: Path, capsys, what: str):
    damaged = Place.__new__(Place)
    damaged.__dict__ = stopped.__dict__ | {"out": shutil.copytree(stopped.out, tmp_path / "run")}
    damage_steps(damaged.out, DAMAGED_STEP[what], only_newest=False)
    before = contents(damaged.out / "checkpoints")
    message = refused(capsys, lambda: damaged.run("--save-every=1", "--keep=last"))
    assert f"{damaged.out / 'checkpoints'}" in message
    assert "another configuration" not in message
    assert contents(damaged.out / "checkpoints") == before


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(stopped: Place, tmp_path: Path, capsys):
    again = Place.__new__(Place)
    again.__dict__ = stopped.__dict__ | {"out": shutil.copytree(stopped.out, tmp_path / "run")}
    damage_steps(again.out, flip, only_newest=True)
    again.run("--save-every=1", "--keep=last")
    same = Path("adapter", "adapter.safetensors")
    assert (again.out / same).read_bytes() == (stopped.out / same).read_bytes()
    assert '"resumed_from": 1' in (again.out / "metrics.jsonl").read_text()


def test_a_folder_of_something_else_is_refused_and_kept(place: Place, capsys: pytest.CaptureFixture):
    place.out.mkdir()
    (place.out / "thesis.tex").write_text("years of work")
    for more in ([], ["--overwrite"]):
        assert "thesis.tex" in refused(capsys, lambda more=more: place.run(*more))
    assert (place.out / "thesis.tex").read_text() == "years of work"


def test_a_file_in_the_place_of_the_folder(place: Place, capsys: pytest.CaptureFixture):
    place.out.write_text("")
    assert "expected a folder" in refused(capsys, place.run)
    place.out = place.out / "below"
    assert str(place.out) in refused(capsys, place.run)


def deny(monkeypatch: pytest.MonkeyPatch, code: int, where: Path) -> None:
    """Writing below `where` fails as on a full or forbidden disk."""
    real = os.open

    def refuse(path, flags, *rest, **named):
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and str(path).startswith(str(where)):
            raise OSError(code, os.strerror(code), str(path))
        return real(path, flags, *rest, **named)

    monkeypatch.setattr(os, "open", refuse)


@pytest.mark.parametrize(("code", "words"), [(errno.EACCES, ["Permission denied"]), (errno.ENOSPC, ["No space left"])])
def test_a_folder_that_cannot_be_written(place: Place, capsys, monkeypatch, code: int, words: list[str]):
    deny(monkeypatch, code, place.out)
    message = refused(capsys, place.run)
    assert [word for word in [str(place.out), *words] if word not in message] == [], message


def test_a_disk_that_fills_up_keeps_the_last_good_step(place: Place, capsys, monkeypatch):
    from adapters_jax.training import log

    real, full = log.Logger.evaluation, []

    def fill_up(self, step, values):
        full.append(step)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(place.out / "metrics.jsonl"))

    more = ["--steps=4", "--eval-every=4", "--save-every=1"]
    monkeypatch.setattr(log.Logger, "evaluation", fill_up)
    assert "No space left" in refused(capsys, lambda: place.run(*more))
    assert full == [4]
    monkeypatch.setattr(log.Logger, "evaluation", real)
    place.run(*more)
    assert '"resumed_from": 3' in (place.out / "metrics.jsonl").read_text()
    assert json.loads((place.out / "result.json").read_text())["steps"] == 4


def test_long_texts_are_cut_counted_and_reported(place: Place, capsys: pytest.CaptureFixture):
    text = (place.data / "RTE" / "train.tsv").read_text()
    rows(place, "train.tsv", text + "99\t" + "the cat is good " * 40 + "\ta dog\tentailment\n")
    place.run()
    assert json.loads((place.out / "result.json").read_text())["truncated"] == {"train": 1, "dev": 0, "test": 0}
    assert "truncated texts      train 1, dev 0, test 0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--mesh=dta=2"], "unknown axis 'dta': known are data, fsdp, model; did you mean 'data'?"),
        (["--mesh=data=2"], "at most the 1 devices that there are, got 2"),
        (["--mesh=fsdp=0"], "expected fsdp=N, N from 1"),
        (["--processes=2", "--process=0"], "got no --coordinator"),
        (["--coordinator=127.0.0.1:1", "--processes=2", "--process=1", "--patience=1"], "nobody listens there"),
        (["--distributed", "--patience=1"], "give --coordinator, --processes and --process"),
    ],
)
def test_a_mesh_or_a_group_that_cannot_be(place: Place, capsys: pytest.CaptureFixture, flags: list[str], words: str):
    late = 75 if words == "nobody listens there" else 2  # worth another try
    assert words in refused(capsys, lambda: place.run(*flags), code=late)
    assert not place.out.exists()


def test_a_mesh_of_one_device_and_the_batches_it_cannot_split(place: Place, capsys, monkeypatch):
    place.run("--mesh=data=1")
    assert "mesh of 1 devices: data 1, fsdp 1, model 1" in capsys.readouterr().err
    from adapters_jax.sharding import Layout

    monkeypatch.setattr(Layout, "batch_parts", 3)
    words = "batch_size: expected a multiple of 3, to be split over the 3 devices that data and fsdp make, got 8"
    assert words in refused(capsys, lambda: place.run("--mesh=data=1", "--overwrite"))
