"""`adapters-jax evaluate --file`: an artefact of each job, scored on the file that chose its best step."""

import json
from pathlib import Path

import pytest

from adapters_jax.cli import main
from tests.refusal import refused
from train import choose, classify, squad, tag

pytestmark = pytest.mark.slow

WORDS = ("cat", "dog", "man", "woman", "good", "bad")


def table(path: Path, count: int) -> Path:
    rows = [f"the {WORDS[n % 6]} is {WORDS[n % 4]},{'yes' if n % 3 else 'no'}" for n in range(count)]
    path.write_text("\n".join(["sentence,label", *rows]) + "\n")
    return path


def several(path: Path, count: int) -> Path:
    rows = [{"text": f"the {WORDS[n % 6]}", "label": [["a"], ["a", "b"], []][n % 3]} for n in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def tagged(path: Path, count: int) -> Path:
    rows = [f"{n}\tthe\tO\n{n}\t{WORDS[n % 6]}\tB-X\n{n}\tis\tI-X\n" for n in range(count)]
    path.write_text("\n".join(rows) + "\n")
    return path


def questions(path: Path, count: int) -> Path:
    context = "the man is good and the dog is bad and the woman is not on the cat ."
    asked = [
        {
            "id": f"q{n}",
            "question": f"is the {WORDS[n % 6]}",
            "is_impossible": n % 4 == 0,
            "answers": [] if n % 4 == 0 else [{"text": "the dog", "answer_start": context.index("the dog")}],
        }
        for n in range(count)
    ]
    paragraphs = [{"context": context, "qas": asked}]
    path.write_text(json.dumps({"version": "v2.0", "data": [{"title": "a", "paragraphs": paragraphs}]}))
    return path


def choices(path: Path, count: int) -> Path:
    rows = [{"text": f"the {WORDS[n % 6]} is", "choices": ["good", "bad", "not"], "label": n % 3} for n in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


JOBS = {
    "classes": (classify, table, "csv", ()),
    "several classes": (classify, several, "jsonl", ("--kind=multi",)),
    "tags": (tag, tagged, "conll", ("--word-column=2",)),
    "answers": (squad, questions, "json", ("--doc-stride=8", "--max-question-length=12")),
    "choices": (choose, choices, "jsonl", ()),
    "orders": (choose, choices, "jsonl", ("--kind=ranking",)),
}


@pytest.mark.parametrize("name", JOBS)
def test_the_score_of_a_file_is_what_training_found(name: str, tmp_path: Path, backbone_folder: Path, capsys):
    job, write, ending, more = JOBS[name]
    train, dev = write(tmp_path / f"train.{ending}", 24), write(tmp_path / f"dev.{ending}", 10)
    common = ("--max-length=32", "--batch-size=8", "--eval-batch-size=4", "--steps=4", "--eval-every=2", "--lr=1e-3")
    places = (f"--backbone={backbone_folder}", f"--cache-dir={tmp_path / 'cache'}", f"--out-dir={tmp_path / 'run'}")
    job.main([f"--train={train}", f"--dev={dev}", *common, *places, *more])
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    capsys.readouterr()
    main(["evaluate", f"--adapter={tmp_path / 'run' / 'adapter'}", f"--file={dev}"])
    told = capsys.readouterr()
    assert json.loads(told.out)["metrics"] == pytest.approx(result["metrics"], abs=1e-6)
    assert json.dumps(result["metrics"], sort_keys=True) in told.err
    card = (tmp_path / "run" / "adapter" / "README.md").read_text()
    assert "| train set |" in card and f"--dev={dev}" in card


def test_files_that_do_not_fit(tmp_path: Path, backbone_folder: Path, capsys: pytest.CaptureFixture[str]):
    train = table(tmp_path / "train.csv", 12)
    out = tmp_path / "run"
    given = [f"--train={train}", f"--dev={train}", "--steps=1", "--max-length=32", f"--out-dir={out}"]
    classify.main([*given, f"--backbone={backbone_folder}", f"--cache-dir={tmp_path / 'cache'}"])
    artefact = f"--adapter={out / 'adapter'}"
    assert "expected --file with rows to score it on" in refused(capsys, main, ["evaluate", artefact])
    (tmp_path / "other.csv").write_text("sentence,label\nthe cat,perhaps\n")
    wrong = ["evaluate", artefact, f"--file={tmp_path / 'other.csv'}"]
    assert "other.csv:2: " in refused(capsys, main, wrong)
    assert "expected at least one row" in refused(capsys, main, [*wrong, "--on-bad-row=skip"])
    for flag in ("--eval-rows=2", "--task=rte", "--data-dir=x", "--data=files"):
        assert "expected no --file beside it" in refused(capsys, main, [*wrong, flag])
    assert "--on-bad-row: expected --file" in refused(capsys, main, [*wrong[:2], "--on-bad-row=skip"])
