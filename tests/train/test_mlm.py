"""Masked-language-model training from flags to artefact, in one process; what a task makes of the artefact."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import adapters_jax as aj
from adapters_jax import cli, testing, trees
from adapters_jax.data.text import hold_out, pack_files
from adapters_jax.training import fit as loop
from adapters_jax.training.score import score
from tests.refusal import refused
from train import flags, glue, mlm

pytestmark = pytest.mark.slow

NICE = ("--method=pfeiffer", "--method.bottleneck=4", "--method.invertible=true")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 documents of one line each; two thirds of them alike."""
    file = tmp_path_factory.mktemp("text") / "text.txt"
    words = ("cat", "dog", "man", "woman", "unusual zebra")
    file.write_text("\n".join(f"the {words[n % 5]} is good and the {words[n % 3]} is {n}" for n in range(60)))
    return file


@pytest.fixture(scope="module")
def base(backbone_folder: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return [
        f"--text={text}",
        f"--backbone={backbone_folder}",
        f"--cache-dir={tmp_path_factory.mktemp('cache')}",
        "--max-length=20",
        "--batch-size=8",
        "--eval-batch-size=8",
        "--eval-share=0.2",
        "--steps=8",
        "--eval-every=4",
        "--log-every=1",
        "--lr=1e-2",
    ]


@pytest.fixture(scope="module")
def finished(base: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "mlm"
    mlm.main([*base, *NICE, f"--out-dir={folder}"])
    return folder


def result(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


def test_perplexity_before_and_after(finished: Path, base: list[str], backbone_folder: Path, text: Path):
    found = result(finished)
    assert (found["task"], found["method"], found["steps"], found["truncated"]) == (
        "mlm",
        "pfeiffer",
        8,
        {"train": 0, "dev": 0},
    )
    metrics = found["metrics"]
    assert 100 < metrics["perplexity_before"] < 160  # a fresh head guesses: 128 words
    assert metrics["perplexity"] < 0.9 * metrics["perplexity_before"]
    for suffix in ("", "_before"):
        assert metrics[f"perplexity{suffix}"] == pytest.approx(np.exp(-metrics[f"log_likelihood{suffix}"]))
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    best = max(line["eval"]["log_likelihood"] for line in lines if "eval" in line)
    assert metrics["log_likelihood"] == best


def test_the_artefact_holds_adapters_and_head_and_scores_the_same_in_any_order(
    finished: Path, backbone_folder: Path, text: Path
):
    backbone = aj.load_backbone(str(backbone_folder))
    model, params = aj.load_adapter(finished / "adapter", backbone)
    assert model.head == aj.MaskedLM.of(backbone)
    stored = load_file(finished / "adapter" / "adapter.safetensors")
    assert {name.split("/")[0] for name in stored} == {"adapters", "head"}
    assert {"adapters/embed/f/down/kernel", "head/dense/kernel", "head/norm/scale", "head/decoder/bias"} <= set(stored)
    _, held_out = hold_out(pack_files([text], backbone.tokenizer, 20), 0.2)
    turned = held_out.subset(np.arange(len(held_out))[::-1], "turned")
    recorded = {name: value for name, value in result(finished)["metrics"].items() if "before" not in name}
    for rows, batch_size in ((held_out, 8), (held_out, 64), (turned, 3)):  # padded to unlike lengths
        found = score(model, params, backbone, {"": rows}, model.head.metrics, batch_size=batch_size).metrics
        assert found == pytest.approx(recorded, rel=1e-5)


def test_a_stopped_run_ends_as_the_uninterrupted_one(
    finished: Path, base: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    make_batch = loop.make_batch

    def terminated(*args):
        os.kill(os.getpid(), signal.SIGTERM)
        return make_batch(*args)

    run = [*base, *NICE, f"--out-dir={tmp_path / 'run'}"]
    monkeypatch.setattr(loop, "make_batch", terminated)
    for step in (1, 2):
        mlm.main(run)
        assert f"after step {step} of 8" in capsys.readouterr().err
    monkeypatch.setattr(loop, "make_batch", make_batch)
    mlm.main(run)
    weights = "adapter/adapter.safetensors"
    assert (tmp_path / "run" / weights).read_bytes() == (finished / weights).read_bytes()
    assert result(tmp_path / "run")["metrics"] == result(finished)["metrics"]
    mlm.main(run)
    assert "already finished" in capsys.readouterr().out


def test_the_head_alone_is_the_baseline(base: list[str], tmp_path: Path, text: Path):
    given = tmp_path / "held-out.txt"
    given.write_text("the cat is good\n\nthe zoo\nis in the unusual house")
    mlm.main(
        [*base, "--method=head", f"--out-dir={tmp_path / 'run'}", f"--eval-text={given}", "--whole-word", "--steps=2"]
    )
    manifest = json.loads((tmp_path / "run" / "adapter" / "manifest.json").read_text())
    assert manifest["summary"]["adapter"] == 0
    assert manifest["head"]["whole_word"] is True
    assert manifest["data"] == "text.txt"
    assert manifest["extra"]["eval_text"] == "held-out.txt"
    config = (tmp_path / "run" / "config.yaml").read_text()
    shutil.rmtree(tmp_path / "run")
    (tmp_path / "config.yaml").write_text(config)
    again = [f"--config={tmp_path / 'config.yaml'}", f"--out-dir={tmp_path / 'run'}", base[2]]
    mlm.main(again)
    assert (tmp_path / "run" / "config.yaml").read_text() == config


def test_rows_may_be_few(base: list[str], tmp_path: Path):
    mlm.main([*base, *NICE, f"--out-dir={tmp_path}", "--train-rows=8", "--eval-rows=3", "--steps=2", "--keep=last"])
    log = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    manifest = json.loads((tmp_path / "adapter" / "manifest.json").read_text())
    assert manifest["data"] == "text.txt[8 of 57 rows, seed 0]"
    assert manifest["extra"]["eval_text"].startswith("text.txt[12 of 60 documents, seed 0][3 of ")
    assert len([line for line in log if "loss" in line]) == 2


def test_a_task_starts_from_the_artefact(finished: Path, base: list[str], glue_folder: Path, tmp_path: Path, capsys):
    same = [flag for flag in base if flag.startswith(("--backbone", "--cache-dir"))]
    task = [*same, "--task=rte", f"--data-dir={glue_folder}", "--max-length=32", "--batch-size=8", "--steps=1"]
    start = f"--init-adapter={finished / 'adapter'}"
    glue.main([*task, *NICE, start, f"--out-dir={tmp_path / 'rte'}", "--lr=1e-12"])
    before, after = (
        {name: leaf for name, leaf in load_file(run / "adapter" / "adapter.safetensors").items() if "adapters/" in name}
        for run in (finished, tmp_path / "rte")
    )
    assert before.keys() == after.keys()
    for name, leaf in before.items():
        np.testing.assert_allclose(after[name], leaf, atol=1e-9)
    line = refused(capsys, lambda: glue.main([*task, "--method=pfeiffer", start, f"--out-dir={tmp_path / 'other'}"]))
    assert "expected an adapter of" in line
    # And on with the words, from the task's adapters or from the same head.
    mlm.main([*base, *NICE, start, f"--out-dir={tmp_path / 'longer'}", "--lr=1e-12", "--steps=1"])
    assert result(tmp_path / "longer")["metrics"]["perplexity_before"] == pytest.approx(
        result(finished)["metrics"]["perplexity"], rel=1e-6
    )
    mlm.main(
        [*base, *NICE, f"--init-adapter={tmp_path / 'rte/adapter'}", f"--out-dir={tmp_path / 'back'}", "--steps=1"]
    )
    assert result(tmp_path / "back")["metrics"]["perplexity_before"] > 100  # the task's head is no masked-LM head


def test_a_pooler_that_a_task_brought_stays_with_the_task(text: Path, tmp_path: Path):
    backbone = testing.tiny_backbone(tmp_path / "backbone", pooler=False)
    method = aj.Pfeiffer(bottleneck=4)
    task = aj.Model(backbone.config, method, aj.Classification(num_labels=2))
    params = task.init(jax.random.key(1), backbone.params)
    assert "pooler" in params["head"]
    aj.save_adapter(tmp_path / "task", task, params, backbone)
    argv = [f"--text={text}", "--method=pfeiffer", "--method.bottleneck=4", f"--init-adapter={tmp_path / 'task'}"]
    config = flags.resolve(flags.parse(argv, cls=mlm.Flags))
    model = aj.Model(backbone.config, method, aj.MaskedLM.of(backbone))
    start = mlm.initialise(config, model, backbone)
    assert set(start["head"]) == {"dense", "norm", "decoder"}
    testing.assert_same(start["adapters"], params["adapters"])


def test_a_head_that_the_backbone_brings_is_the_start(backbone_folder: Path, base: list[str], tmp_path: Path):
    folder = Path(shutil.copytree(backbone_folder, tmp_path / "backbone"))
    tensors = dict(load_file(folder / "model.safetensors"))
    shapes = {"transform.dense.weight": (16, 16), "transform.dense.bias": 16, "bias": 128}
    shapes |= {"transform.LayerNorm.weight": 16, "transform.LayerNorm.bias": 16}
    draw = np.random.default_rng(0)
    own = {f"cls.predictions.{name}": draw.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    save_file(tensors | own, folder / "model.safetensors")
    run = [flag for flag in base if "--backbone" not in flag]
    mlm.main(
        [*run, "--method=head", f"--backbone={folder}", f"--out-dir={tmp_path / 'run'}", "--steps=1", "--lr=1e-12"]
    )
    stored = load_file(tmp_path / "run" / "adapter" / "adapter.safetensors")
    np.testing.assert_allclose(stored["head/dense/kernel"], own["cls.predictions.transform.dense.weight"].T, atol=1e-6)
    np.testing.assert_allclose(stored["head/decoder/bias"], own["cls.predictions.bias"], atol=1e-6)


def test_in_a_library(backbone_folder: Path, text: Path, tmp_path: Path):
    backbone = aj.load_backbone(str(backbone_folder))
    rows, held_out = hold_out(pack_files([text], backbone.tokenizer, 20), 0.2)
    model = aj.Model(backbone.config, aj.LoRA(rank=2), aj.MaskedLM.of(backbone))
    params = model.init(jax.random.key(0), backbone.params)
    settings = dict(steps=8, batch_size=16, accumulate=2, lr=1e-2, max_length=20, quiet=True)
    _, report = aj.fit(model, params, backbone, rows, held_out, **settings)
    assert list(report.metrics) == ["log_likelihood", "perplexity", "masked_accuracy"]
    assert report.metrics["perplexity"] < 128
    aj.save_adapter(tmp_path / "adapter", model, report.params, backbone)
    again, stored = aj.load_adapter(tmp_path / "adapter", backbone)
    assert again == model
    assert not trees.diff(stored, jax.tree.map(np.asarray, report.params))


def test_commands_that_answer_texts_say_what_to_do(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    (tmp_path / "in.txt").write_text("the cat\n")
    adapter = f"--adapter={finished / 'adapter'}"
    line = refused(capsys, lambda: cli.main(["predict", adapter, f"--input={tmp_path / 'in.txt'}"]))
    assert "head masked_lm: expected one that answers texts" in line and "--init-adapter" in line
    line = refused(capsys, lambda: cli.main(["evaluate", adapter]))
    assert "was trained on 'mlm'; its scores are in its run's result.json" in line


BAD: dict[str, tuple[Callable[[Path], list[str]], list[str]]] = {
    "no text": (lambda p: ["--text="], ["--text: expected text files to learn from, got none"]),
    "missing file": (lambda p: [f"--text={p / 'none.txt'}"], ["none.txt", "expected a text file"]),
    "missing held-out file": (lambda p: [f"--eval-text={p / 'none.txt'}"], ["none.txt", "expected a text file"]),
    "empty file": (lambda p: [f"--text={write(p, b'')}"], ["text.txt", "empty"]),
    "not UTF-8": (lambda p: [f"--text={write(p, bytes([65, 10, 255]))}"], ["text.txt:2", "expected UTF-8"]),
    "one document": (lambda p: [f"--text={write(p, b'the cat')}"], ["at least 2 documents", "got 1"]),
    "share out of range": (lambda p: ["--eval-share=1.5"], ["between 0 and 1", "1.5"]),
    "another rule": (lambda p: ["--documents=paragraphs"], ["--documents", "auto, blank, lines", "paragraphs"]),
    "a method without couplings": (
        lambda p: ["--method=lora", "--method.invertible=true"],
        ["unknown flag --method.invertible"],
    ),
    "long rows": (lambda p: ["--max-length=65"], ["--max-length", "64"]),
    "short rows": (lambda p: ["--max-length=2"], ["max_length", "at least 3"]),
    "best by what is better low": (lambda p: ["--keep=perplexity"], ["--keep", "best, last"]),
    "a task's flag": (lambda p: ["--task=rte"], ["unknown flag --task"]),
}


def write(folder: Path, content: bytes) -> Path:
    (folder / "text.txt").write_bytes(content)
    return folder / "text.txt"


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_one_line_and_leaves_no_folder(
    what: str, base: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
):
    given, expected = BAD[what]
    line = refused(capsys, lambda: mlm.main([*base, f"--out-dir={tmp_path / 'run'}", *given(tmp_path)]))
    assert all(part in line for part in expected), line
    assert not (tmp_path / "run").exists()


def test_a_width_that_has_no_halves_is_refused(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    odd = testing.write_backbone(tmp_path / "odd", aj.BertConfig.tiny(hidden_size=15, num_attention_heads=3))
    line = refused(
        capsys,
        lambda: mlm.main([f"--text={text}", f"--backbone={odd}", *NICE, f"--out-dir={tmp_path / 'run'}"]),
    )
    assert "method.invertible: expected a backbone of even width, got 15" in line


def test_help_is_quick_and_lists_the_flags(capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as end:
        mlm.main(["--help"])
    told = capsys.readouterr().out
    assert not end.value.code
    assert all(flag in told for flag in ("--text", "--eval-text", "--whole-word", "--documents", "--init-adapter"))
