"""`--quantize` from the command line to the artefact, and back by `adapters-jax`."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from adapters_jax import cli, testing
from adapters_jax.artefact import read_manifest
from train import flags, glue

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def base(backbone_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return [
        "--data=toy",
        f"--backbone={backbone_folder}",
        f"--cache-dir={tmp_path_factory.mktemp('cache')}",
        *("--method.rank=4", "--train-rows=16", "--eval-rows=8", "--max-length=32", "--batch-size=8"),
        *("--eval-batch-size=8", "--steps=3", "--save-every=1", "--log-every=1"),
    ]


@pytest.fixture(scope="module")
def run(base: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "nf4"
    glue.main([*base, "--method=lora", "--quantize=nf4", f"--out-dir={folder}"])
    return folder


def resolved(*argv: str) -> str | None:
    return flags.resolve(flags.parse(["--data=toy", *argv])).flags.quantize


def test_the_flag_goes_before_the_method_s_own(tmp_path: Path):
    assert resolved("--method=lora") is None
    assert resolved("--method=lora", "--quantize=int8") == "int8"
    assert resolved("--method=lora", "--quantize=none") is None
    assert resolved("--method=qlora") == "nf4"
    assert resolved("--method=qlora", "--quantize=int8") == "int8"
    config = flags.resolve(flags.parse(["--data=toy", "--method=qlora", "--quantize=none"]))
    assert config.flags.quantize == "none"
    again = tmp_path / "config.yaml"
    again.write_text(yaml.safe_dump(config.to_dict()))
    assert flags.resolve(flags.parse([f"--config={again}"])).flags.quantize == "none"
    assert "quantize" not in flags.resolve(flags.parse(["--data=toy", "--method=lora"])).to_dict()


def test_the_run_says_how_its_backbone_was_quantised(run: Path):
    assert yaml.safe_load((run / "config.yaml").read_text())["quantize"] == "nf4"
    assert json.loads((run / "result.json").read_text())["backbone"]["quantization"] == "nf4"
    assert read_manifest(run / "adapter")["backbone"]["quantization"] == "nf4"


def test_it_goes_on_where_it_stopped(run: Path, base: list[str], tmp_path: Path, capsys: pytest.CaptureFixture):
    stopped = shutil.copytree(run, tmp_path / "stopped")
    (stopped / "result.json").unlink()
    shutil.rmtree(stopped / "adapter")
    shutil.rmtree(stopped / "checkpoints" / "3")
    glue.main([*base, "--method=lora", "--quantize=nf4", f"--out-dir={stopped}"])
    lines = [json.loads(line) for line in (stopped / "metrics.jsonl").read_text().splitlines()]
    assert {"resumed_from": 2} in lines
    name = "adapter/adapter.safetensors"
    assert (stopped / name).read_bytes() == (run / name).read_bytes()
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        glue.main([*base, "--method=lora", "--quantize=int8", f"--out-dir={stopped}"])
    told = capsys.readouterr().err.strip().splitlines()
    assert end.value.code == 2 and len(told) == 1 and "quantize is 'nf4' there and 'int8' here" in told[0]


def test_predictions_use_the_backbone_as_it_was(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    texts = tmp_path / "texts"
    texts.write_text("the cat is good\ta cat is not bad\n")

    def scores(*argv: str) -> dict:
        cli.main(["predict", f"--adapter={run / 'adapter'}", f"--input={texts}", *argv])
        return json.loads(capsys.readouterr().out)["scores"]

    own = scores()
    assert own == scores("--quantize=nf4") != scores("--quantize=none")
    assert own == pytest.approx(scores("--quantize=none"), abs=0.1)
    cli.main(["inspect", str(run / "adapter")])
    assert ", nf4, fingerprint" in capsys.readouterr().out


def test_a_method_that_trains_kernels_ends_with_one_line(
    base: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
):
    own = [flag for flag in base if "method." not in flag]
    with pytest.raises(SystemExit) as end:
        glue.main([*own, "--method=full", "--quantize=nf4", f"--out-dir={tmp_path / 'run'}"])
    told = capsys.readouterr().err.strip().splitlines()
    assert end.value.code == 2 and len(told) == 1
    assert "method full trains backbone/encoder/*/query/kernel, which is quantised (nf4)" in told[0]
    assert not (tmp_path / "run").exists()


def test_the_preset_runs_on_four_bits(base: list[str], tmp_path: Path):
    glue.main([*base, "--method=qlora", f"--out-dir={tmp_path / 'run'}"])
    manifest = read_manifest(tmp_path / "run" / "adapter")
    assert (manifest["method"]["name"], manifest["backbone"]["quantization"]) == ("qlora", "nf4")


def test_a_stranger_s_manifest_names_an_unknown_way(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    from adapters_jax import manifest

    folder = shutil.copytree(run / "adapter", tmp_path / "adapter")
    content = {name: value for name, value in read_manifest(folder).items() if name not in ("files", "sha256")}
    for bad, message in (("fp4", "known are nf4, int8"), (["nf4"], "got ['nf4']"), (4, "expected str | None, got 4")):
        content["backbone"]["quantization"] = bad
        manifest.write(folder, content)
        with pytest.raises(SystemExit) as end:
            cli.main(["predict", f"--adapter={folder}", f"--input={testing.__file__}"])
        told = capsys.readouterr().err.strip().splitlines()
        assert end.value.code == 2 and len(told) == 1 and message in told[0]
