"""The job that chooses and ranks, from end to end on tiny files."""

import json
from pathlib import Path

import pytest

import adapters_jax as aj
from tests.refusal import refused
from train import choose

WORDS = ("cat", "dog", "man", "woman", "good", "bad")


def write(path: Path, count: int, ranking: bool = False) -> Path:
    lines = []
    for n in range(count):
        choices = [f"the {WORDS[n % 6]}", f"a {WORDS[(n + 1) % 6]}", "not"][: 2 + n % 2]
        label = [2, 1, 0][: len(choices)] if ranking else n % 2
        lines.append(json.dumps({"id": f"q{n}", "text": f"the {WORDS[n % 6]} is", "choices": choices, "label": label}))
    path.write_text("\n".join(lines) + "\n")
    return path


def run(folder: Path, backbone: Path, *more: str, ranking: bool = False) -> None:
    train, dev = write(folder / "train.jsonl", 24, ranking), write(folder / "dev.jsonl", 9, ranking)
    choose.main(
        [
            *(f"--train={train}", f"--dev={dev}", f"--backbone={backbone}", f"--cache-dir={folder / 'cache'}"),
            *("--max-length=32", "--batch-size=8", "--eval-batch-size=4", "--steps=6", "--eval-every=3", "--lr=1e-3"),
            *(f"--kind={'ranking' if ranking else 'choice'}", f"--out-dir={folder / 'run'}", *more),
        ]
    )


@pytest.mark.parametrize("ranking", [False, True])
def test_run(ranking: bool, tmp_path: Path, backbone_folder: Path, capsys: pytest.CaptureFixture[str]):
    run(tmp_path, backbone_folder, ranking=ranking)
    assert "rows 24, choices 2 to 3, longest " in capsys.readouterr().err
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert list(result["metrics"]) == (["mrr", "ndcg", "map"] if ranking else ["accuracy"])
    lines = [json.loads(line) for line in (tmp_path / "run" / "predictions" / "dev.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == [f"q{n}" for n in range(9)]
    assert [len(line["scores"]) for line in lines] == [2 + n % 2 for n in range(9)]
    if ranking:
        first = [line["order"].index(0) for line in lines]
        assert result["metrics"]["ndcg"] <= 1.0 and any(first)  # best first would be all of it
    else:
        right = sum(line["choice"] == n % 2 for n, line in enumerate(lines))
        assert result["metrics"]["accuracy"] == pytest.approx(right / 9)
    model, _ = aj.load_adapter(tmp_path / "run" / "adapter", aj.load_backbone(str(backbone_folder)))
    assert model.head == (aj.Ranking() if ranking else aj.MultipleChoice())
    run(tmp_path, backbone_folder, ranking=ranking)
    assert "already finished" in capsys.readouterr().out


def test_refused(tmp_path: Path, backbone_folder: Path, capsys: pytest.CaptureFixture[str]):
    said = refused(capsys, choose.main, ["--train=a.jsonl"])
    assert "--dev: expected a JSONL file with texts and choices, got none" in said
    train, bad, out = write(tmp_path / "train.jsonl", 4), tmp_path / "bad.jsonl", tmp_path / "run"
    bad.write_text('{"text": "a"}\n')
    given = [f"--train={train}", f"--dev={bad}", f"--backbone={backbone_folder}", f"--out-dir={out}", "--max-length=32"]
    assert 'bad.jsonl:1: expected "choices" to be a list' in refused(capsys, choose.main, given)
    assert not out.exists()
