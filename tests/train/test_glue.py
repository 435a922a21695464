"""The training command from flags to artefact, in one process."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

import adapters_jax as aj
from adapters_jax import cli
from train import glue


@pytest.fixture(scope="module")
def base(backbone_folder: Path, glue_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    cache = tmp_path_factory.mktemp("cache")
    return [
        "--task=rte",
        f"--data-dir={glue_folder}",
        f"--backbone={backbone_folder}",
        f"--cache-dir={cache}",
        "--method.bottleneck=4",
        "--max-length=32",
        "--batch-size=8",
        "--eval-batch-size=4",
        "--steps=6",
        "--eval-every=3",
        "--log-every=2",
    ]


@pytest.fixture(scope="module")
def finished(base: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "rte"
    glue.main([*base, f"--out-dir={folder}"])
    return folder


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_run_folder_holds_everything(finished: Path):
    names = {path.name for path in finished.iterdir()}
    assert {"config.yaml", "metrics.jsonl", "checkpoints", "adapter", "predictions", "result.json"} <= names
    logged = lines(finished / "metrics.jsonl")
    assert [line["step"] for line in logged if "loss" in line] == [2, 4, 6]
    assert [line["step"] for line in logged if "eval" in line] == [3, 6]


def test_the_result_says_what_was_done(finished: Path):
    result = json.loads((finished / "result.json").read_text())
    assert (result["task"], result["method"], result["steps"]) == ("rte", "houlsby", 6)
    assert 0 <= result["metrics"]["accuracy"] <= 1
    assert result["parameters"]["trained"] == sum(
        result["parameters"][part] for part in ("adapter", "head", "backbone_trained")
    )
    assert set(result["truncated"]) == {"train", "dev", "test"}
    for name in ("seconds", "steps_per_second", "rows_per_second", "versions", "devices"):
        assert result[name]


def test_predictions_are_written_for_dev_and_test(finished: Path):
    dev = lines(finished / "predictions" / "dev.jsonl")
    result = json.loads((finished / "result.json").read_text())
    assert len(dev) == 10
    assert sum(row["label"] == row["prediction"] for row in dev) / 10 == result["metrics"]["accuracy"]
    test = (finished / "predictions" / "RTE.tsv").read_text().splitlines()
    assert test[0] == "index\tprediction"
    assert [line.split("\t")[0] for line in test[1:]] == [str(n) for n in range(6)]


def test_the_artefact_repeats_the_score(finished: Path, glue_folder: Path, capsys: pytest.CaptureFixture):
    cli.main(["evaluate", f"--adapter={finished / 'adapter'}", f"--data-dir={glue_folder}"])
    told = capsys.readouterr()
    result = json.loads((finished / "result.json").read_text())
    assert json.loads(told.out)["metrics"] == result["metrics"]
    assert told.err.startswith("equal to the recorded scores")


def test_the_artefact_predicts_what_the_run_predicted(finished: Path, backbone_folder: Path):
    backbone = aj.load_backbone(str(backbone_folder))
    model, params = aj.load_adapter(finished / "adapter", backbone)
    from adapters_jax.data.glue import open_glue  # the same rows that the run read

    rows = open_glue("rte", "dev", json_path(finished))
    predictor = aj.Predictor(model, params, backbone, max_length=32, batch_size=4)
    answers = predictor([(rows[n]["text"], rows[n]["text_pair"]) for n in range(len(rows))])
    dev = lines(finished / "predictions" / "dev.jsonl")
    assert [answer["label"] for answer in answers] == [row["prediction"] for row in dev]
    assert [answer["scores"] for answer in answers] == [row["scores"] for row in dev]


def json_path(run: Path) -> str:
    return yaml.safe_load((run / "config.yaml").read_text())["data_dir"]


def test_a_finished_run_prints_its_result_and_changes_nothing(
    finished: Path, base: list[str], capsys: pytest.CaptureFixture
):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    glue.main([*base, f"--out-dir={finished}"])
    assert "accuracy" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()} == before


def test_the_written_configuration_repeats_the_run(finished: Path, tmp_path: Path):
    places = [f"--out-dir={tmp_path / 'again'}", f"--cache-dir={tmp_path / 'cache'}"]
    glue.main([f"--config={finished / 'config.yaml'}", *places])
    same = "adapter/adapter.safetensors"
    assert (tmp_path / "again" / same).read_bytes() == (finished / same).read_bytes()


def test_another_configuration_is_refused_and_nothing_is_lost(
    finished: Path, base: list[str], capsys: pytest.CaptureFixture
):
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit) as end:
        glue.main([*base, f"--out-dir={finished}", "--seed=5"])
    told = capsys.readouterr().err.strip().splitlines()
    assert end.value.code == 2
    assert len(told) == 1
    assert "seed is 0 there and 5 here" in told[0]
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before


def test_overwrite_starts_anew_only_if_all_else_is_right(finished: Path, base: list[str], tmp_path: Path):
    folder = shutil.copytree(finished, tmp_path / "run")
    with pytest.raises(SystemExit):
        glue.main([*base, f"--out-dir={folder}", "--overwrite", "--backbone=./none"])
    assert (folder / "result.json").exists()
    glue.main([*base, f"--out-dir={folder}", "--overwrite", "--seed=5"])
    assert json.loads((folder / "result.json").read_text())["seed"] == 5


def test_a_run_starts_from_an_artefact(finished: Path, base: list[str], tmp_path: Path):
    folder = tmp_path / "longer"
    glue.main([*base, f"--out-dir={folder}", f"--init-adapter={finished / 'adapter'}", "--lr=1e-12", "--warmup=0"])
    first, second = (json.loads((run / "result.json").read_text())["metrics"] for run in (finished, folder))
    assert first == second


def test_a_sample_of_rows_is_the_same_for_every_method(base: list[str], tmp_path: Path):
    found = []
    for method in ("head", "full"):
        folder = tmp_path / method
        argv = [flag for flag in base if "bottleneck" not in flag]
        glue.main([*argv, f"--method={method}", f"--out-dir={folder}", "--train-rows=10", "--eval-rows=5", "--steps=1"])
        found.append([row["id"] for row in lines(folder / "predictions" / "dev.jsonl")])
    assert found[0] == found[1]
    assert len(found[0]) == 5


def test_the_generated_task_ends_with_predictions_of_the_artefact(
    backbone_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    glue.main(
        [
            "--data=toy",
            f"--backbone={backbone_folder}",
            f"--out-dir={tmp_path / 'toy'}",
            f"--cache-dir={tmp_path / 'cache'}",
            "--steps=2",
            "--train-rows=64",
            "--eval-rows=32",
            "--max-length=32",
        ]
    )
    told = capsys.readouterr().out
    assert "Two predictions with" in told
    assert "accuracy" in told
    assert "adapters/encoder/*/attn_merge/down/kernel" in told
    assert str(tmp_path / "toy" / "adapter") in told
