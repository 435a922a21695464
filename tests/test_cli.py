"""`adapters-jax predict|evaluate|inspect` on an artefact."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

import adapters_jax as aj
from adapters_jax import cli, testing

LABELS = ("no", "yes")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> aj.Backbone:
    return testing.tiny_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="module")
def adapter(backbone: aj.Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained adapter for single texts."""
    folder = tmp_path_factory.mktemp("run") / "adapter"
    model = aj.Model(backbone.config, aj.Houlsby(bottleneck=4), aj.Classification(labels=LABELS))
    params = model.init(jax.random.key(0), backbone.params)
    aj.save_adapter(folder, model, params, backbone, max_length=16, extra={"columns": ["text"]})
    return folder


class Stdin:
    """Standard input that is not a terminal."""

    def __init__(self, content: bytes) -> None:
        self.buffer = io.BytesIO(content)


def predict(adapter: Path, *argv: str) -> None:
    cli.main(["predict", f"--adapter={adapter}", *argv])


def answers(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def refused(capsys: pytest.CaptureFixture, *argv: str) -> str:
    with pytest.raises(SystemExit) as end:
        cli.main(list(argv))
    told = capsys.readouterr()
    assert end.value.code == 2
    assert len(told.err.splitlines()) == 1, told.err
    assert told.err.startswith("error: ")
    return told.err


def test_standard_input_to_standard_output(adapter, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", Stdin(b"the cat is good\nthe dog is bad\n"))
    predict(adapter)
    found = answers(capsys.readouterr().out)
    assert len(found) == 2
    assert all(set(answer["scores"]) == set(LABELS) and answer["label"] in LABELS for answer in found)


def test_files_of_text_and_of_json_give_the_same(adapter, tmp_path, capsys):
    (tmp_path / "a.txt").write_bytes("\ufeffthe cat is good\r\na dög\n".encode())
    (tmp_path / "a.jsonl").write_text('{"text": "the cat is good"}\n{"text": "a d\\u00f6g", "label": "no"}\n')
    predict(adapter, f"--input={tmp_path / 'a.txt'}", f"--output={tmp_path / 'out.jsonl'}")
    predict(adapter, "--input", str(tmp_path / "a.jsonl"))
    printed = capsys.readouterr().out
    assert (tmp_path / "out.jsonl").read_text() == printed
    assert len(answers(printed)) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "a.txt", "out.jsonl"]


def test_pairs_are_texts_with_a_tab_or_two_fields(backbone, tmp_path, capsys):
    model = aj.Model(backbone.config, aj.Houlsby(bottleneck=4), aj.Classification(labels=LABELS))
    params = model.init(jax.random.key(0), backbone.params)
    aj.save_adapter(tmp_path / "adapter", model, params, backbone, extra={"columns": ["text", "text_pair"]})
    (tmp_path / "a.tsv").write_text("the cat\ta dog\n")
    (tmp_path / "a.jsonl").write_text('{"text": "the cat", "text_pair": "a dog"}\n')
    predict(tmp_path / "adapter", f"--input={tmp_path / 'a.tsv'}")
    predict(tmp_path / "adapter", f"--input={tmp_path / 'a.jsonl'}")
    first, second = capsys.readouterr().out.splitlines()
    assert first == second
    (tmp_path / "b.tsv").write_text("the cat\n")
    message = refused(capsys, "predict", f"--adapter={tmp_path / 'adapter'}", f"--input={tmp_path / 'b.tsv'}")
    assert "b.tsv:1: expected a pair of texts, got one" in message


def test_long_texts_are_cut_and_reported(adapter, tmp_path, capsys):
    (tmp_path / "a.txt").write_text("the cat is good " * 20 + "\nthe dog\n")
    predict(adapter, f"--input={tmp_path / 'a.txt'}")
    assert "cut: 1 texts that were longer than 16 tokens" in capsys.readouterr().err


BAD_LINES = {
    "empty": ("a.txt", b"the cat\n\n", ["a.txt:2", "expected a text"]),
    "three columns": ("a.txt", b"a\tb\tc\n", ["a.txt:1", "a tab between"]),
    "a pair": ("a.txt", b"the cat\na\tb\n", ["a.txt:2", "expected one text, got a pair"]),
    "no UTF-8": ("a.txt", b"the cat\n\xff\xfe\n", ["a.txt:2", "UTF-8"]),
    "no JSON": ("a.jsonl", b'{"text": "a"}\n{"text": \n', ["a.jsonl:2", "JSON"]),
    "no text": ("a.jsonl", b'{"sentence": "a"}\n', ["a.jsonl:1", '"text"']),
    "text of a number": ("a.jsonl", b'{"text": 3}\n', ["a.jsonl:1", '"text"']),
    "pair of a number": ("a.jsonl", b'{"text": "a", "text_pair": 3}\n', ["a.jsonl:1", '"text_pair"', "3"]),
}


@pytest.mark.parametrize("what", BAD_LINES)
def test_a_bad_line_is_named(adapter, tmp_path, capsys, what):
    name, content, words = BAD_LINES[what]
    (tmp_path / name).write_bytes(content)
    message = refused(
        capsys, "predict", f"--adapter={adapter}", f"--input={tmp_path / name}", f"--output={tmp_path / 'out'}"
    )
    assert [word for word in words if word not in message] == [], message
    assert not (tmp_path / "out").exists()


BAD_FLAGS = {
    "unknown command": (["predikt"], ["predikt", "'predict'"]),
    "misspelled flag": (["predict", "--adaptor=x"], ["--adaptor", "Perhaps you meant --adapter?"]),
    "no adapter": (["predict"], ["--adapter", "nothing"]),
    "missing folder": (["predict", "--adapter=none"], ["none", "expected the folder of an adapter"]),
    "missing input": (["predict", "--adapter={}", "--input=none.txt"], ["none.txt", "No such file"]),
    "output in a file": (
        ["predict", "--adapter={}", "--input={}/manifest.json", "--output=/dev/null/x"],
        ["/dev/null/x"],
    ),
    "no whole number": (["predict", "--adapter={}", "--batch-size=x"], ["--batch-size", "a whole number", "'x'"]),
    "batch size 0": (["predict", "--adapter={}", "--input={}/manifest.json", "--batch-size=0"], ["batch_size", "0"]),
    "too long": (
        ["predict", "--adapter={}", "--input={}/manifest.json", "--max-length=65"],
        ["max_length", "64", "65"],
    ),
    "unknown backbone": (["predict", "--adapter={}", "--input={}/manifest.json", "--backbone=./none"], ["./none"]),
    "unknown task": (["evaluate", "--adapter={}", "--task=mnlli"], ["mnlli", "'mnli'"]),
    "no task": (["evaluate", "--adapter={}"], ["--task"]),
    "no data": (["evaluate", "--adapter={}", "--task=rte", "--data-dir=none"], ["none", "--data-dir"]),
    "another head": (["evaluate", "--adapter={}", "--task=toy"], ["toy", "entailment", "yes"]),
    "nothing there": (["inspect", "none"], ["none", "expected a folder"]),
    "a file": (["inspect", "{}/manifest.json"], ["manifest.json", "found a file"]),
    "no folder": (["inspect"], ["--folder"]),
}


@pytest.mark.parametrize("what", BAD_FLAGS)
def test_bad_flags_say_what_is_expected(adapter, capsys, monkeypatch, what):
    argv, words = BAD_FLAGS[what]
    monkeypatch.setattr("sys.stdin", Stdin(b""))
    message = refused(capsys, *(arg.replace("{}", str(adapter)) for arg in argv))
    assert [word for word in words if word not in message] == [], message


def test_another_backbone_is_refused_with_both_sides(adapter, tmp_path, capsys):
    other = testing.write_backbone(tmp_path / "other", seed=1)
    (tmp_path / "a.txt").write_text("the cat\n")
    message = refused(capsys, "predict", f"--adapter={adapter}", f"--backbone={other}", f"--input={tmp_path / 'a.txt'}")
    assert "fingerprint" in message
    assert str(other) in message


def test_inspect_prints_what_an_artefact_holds(adapter, capsys):
    cli.main(["inspect", str(adapter)])
    told = capsys.readouterr().out
    for word in ("houlsby", "bottleneck=4", "no, yes", "adapters/encoder/*/attn_merge/down/kernel", "all hold"):
        assert word in told
    cli.main(["inspect", str(adapter), "--json"])
    assert json.loads(capsys.readouterr().out)["method"]["bottleneck"] == 4


def test_inspect_says_when_a_hash_does_not_hold(adapter, tmp_path, capsys):
    for path in adapter.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = bytearray((tmp_path / "adapter.safetensors").read_bytes())
    weights[-1] ^= 1
    (tmp_path / "adapter.safetensors").write_bytes(weights)
    with pytest.raises(SystemExit) as end:
        cli.main(["inspect", str(tmp_path)])
    assert end.value.code == 1
    assert "do not hold" in capsys.readouterr().out


def test_help_needs_no_jax():
    code = "import sys; from adapters_jax.cli import main; main(['predict', '--help']); assert 'jax' not in sys.modules"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    assert "--max-length" in told.stdout


def test_a_closed_pipe_ends_it_quietly(adapter, tmp_path):
    (tmp_path / "a.txt").write_text("the cat\n" * 4000)
    code = (
        f"from adapters_jax.cli import main; main(['predict', '--adapter={adapter}', '--input={tmp_path / 'a.txt'}'])"
    )
    env = os.environ | {"JAX_PLATFORMS": "cpu"}
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 0
    assert said == b""
