"""A prompt that starts from the names of the classes, from flags to artefact: what `prepare` fills in is kept."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

import adapters_jax as aj
from train import glue


@pytest.fixture(scope="module")
def argv(backbone_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return [
        "--data=toy",
        f"--backbone={backbone_folder}",
        f"--cache-dir={tmp_path_factory.mktemp('cache')}",
        "--method=prompt",
        "--method.init=labels",
        "--method.length=4",
        "--method.ensemble=2",
        "--train-rows=32",
        "--eval-rows=16",
        "--max-length=32",
        "--batch-size=8",
        "--steps=4",
    ]


@pytest.fixture(scope="module")
def finished(argv: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "toy"
    glue.main([*argv, f"--out-dir={folder}"])
    return folder


def test_the_artefact_holds_the_prepared_method(finished: Path, backbone_folder: Path):
    backbone = aj.load_backbone(str(backbone_folder))
    model, params = aj.load_adapter(finished / "adapter", backbone)
    rows = [" ".join(map(str, backbone.tokenize(label))) for label in model.head.labels]
    assert model.method == aj.Prompt(length=4, init="labels", ensemble=2, init_tokens=tuple(rows))
    assert params["adapters"]["embed"]["prompt"].shape == (2, 4, 16)
    fresh = model.init(jax.random.key(0), backbone.params)
    words = np.asarray(backbone.params["embeddings"]["words"])
    np.testing.assert_allclose(
        fresh["adapters"]["embed"]["prompt"][:, 0],
        np.tile(words[backbone.tokenize(model.head.labels[0])].mean(0), (2, 1)),
        rtol=1e-6,
    )
    scores = json.loads((finished / "adapter" / "manifest.json").read_text())["scores"]
    assert scores == json.loads((finished / "result.json").read_text())["metrics"]


def test_an_unfinished_run_goes_on(finished: Path, argv: list[str], capsys: pytest.CaptureFixture):
    result = json.loads((finished / "result.json").read_text())
    (finished / "result.json").unlink()
    glue.main([*argv, f"--out-dir={finished}"])
    again = json.loads((finished / "result.json").read_text())
    assert '"resumed_from": 4' in (finished / "metrics.jsonl").read_text()
    assert (again["metrics"], again["steps"]) == (result["metrics"], 4)


def test_the_written_configuration_repeats_the_run(finished: Path, tmp_path: Path):
    glue.main(
        [f"--config={finished / 'config.yaml'}", f"--out-dir={tmp_path / 'again'}", f"--cache-dir={tmp_path / 'cache'}"]
    )
    name = "adapter/adapter.safetensors"
    assert (tmp_path / "again" / name).read_bytes() == (finished / name).read_bytes()


def test_a_run_starts_from_another_tasks_prompt(finished: Path, argv: list[str], glue_folder: Path, tmp_path: Path):
    """Its classes have other names, so its rows started elsewhere: it is the same method all the same."""
    other = [flag for flag in argv if flag != "--data=toy"]
    glue.main(
        [
            *other,
            "--task=rte",
            f"--data-dir={glue_folder}",
            f"--out-dir={tmp_path / 'rte'}",
            f"--init-adapter={finished / 'adapter'}",
        ]
    )
    assert (tmp_path / "rte" / "result.json").exists()


def test_a_text_that_leaves_no_room_is_refused(argv: list[str], tmp_path: Path, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as end:
        glue.main([*argv, "--method.length=40", f"--out-dir={tmp_path / 'run'}"])
    told = capsys.readouterr().err.strip().splitlines()
    assert end.value.code == 2
    assert told == [f"error: --max-length: expected at most the 24 positions of {argv[1].split('=')[1]}, got 32"]
    assert not (tmp_path / "run").exists()
