"""The training command on the folder of another encoder than BERT, and the answers of what it leaves."""

import json
from pathlib import Path

import pytest

import adapters_jax as aj
from train import glue


@pytest.mark.parametrize(
    "family", ["roberta", *(pytest.param(f, marks=pytest.mark.slow) for f in ("xlm-roberta", "distilbert", "electra"))]
)
def test_training_on_a_folder(family: str, golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    folder, out = golden / "encoders" / family, tmp_path / "run"
    flags = ["--data=toy", f"--backbone={folder}", "--method=pfeiffer", "--method.bottleneck=4", "--max-length=32"]
    flags += ["--train-rows=32", "--eval-rows=16", "--batch-size=8", "--eval-batch-size=8", "--steps=4"]
    glue.main([*flags, f"--cache-dir={tmp_path / 'cache'}", f"--out-dir={out}"])
    result = json.loads((out / "result.json").read_text())
    assert result["steps"] == 4 and 0 <= result["metrics"]["accuracy"] <= 1
    backbone = aj.load_backbone(str(folder))
    model, params = aj.load_adapter(out / "adapter", backbone)
    assert model.config.model_type == family and "pooler" in params["head"]
    answers = aj.Predictor(model, params, backbone, max_length=32)([("the cat", "is good"), ("a dog", "the man")])
    assert [set(answer) for answer in answers] == [{"label", "scores"}] * 2
