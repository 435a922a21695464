"""`train.squad` from end to end on tiny files, both versions: trained, resumed, scored as the official script would."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import adapters_jax as aj
from adapters_jax.data.squad import read_squad
from adapters_jax.data.windows import encode_questions
from adapters_jax.metrics import answers as rules
from adapters_jax.training.evaluate import evaluate
from tests.refusal import refused
from train import flags, squad

WORDS = ("cat", "dog", "man", "woman", "good", "bad")
V1, V2 = ("f1", "exact_match"), ("f1", "exact_match", "f1_answered", "exact_answered", "exact_unanswerable")


def contents(count: int, impossible: bool) -> dict[str, Any]:
    paragraphs = []
    for n in range(count):
        word, other = WORDS[n % 6], WORDS[(n + 1 + n // 6) % 6]
        context = "the " + "not " * (12 * (n % 2)) + f"{word} is on the {other} ."
        own = [{"text": f"the {other}", "answer_start": context.index(f"the {other}")}] * (1 + n % 2)
        question: dict[str, Any] = {"id": f"q{n}", "question": f"what is the {word} on ?", "answers": own}
        if impossible:
            question |= {"is_impossible": n % 3 == 0} | ({"answers": []} if n % 3 == 0 else {})
        paragraphs.append({"context": context, "qas": [question]})
    return {"version": "v2.0" if impossible else "1.1", "data": [{"title": "x", "paragraphs": paragraphs}]}


class Place:
    """Files, a backbone and the runs on them."""

    def __init__(self, folder: Path, backbone: Path) -> None:
        self.folder, self.backbone = folder, backbone
        for name, count, impossible in (
            ("train", 24, False),
            ("dev", 10, False),
            ("train2", 24, True),
            ("dev2", 12, True),
        ):
            (folder / f"{name}.json").write_text(json.dumps(contents(count, impossible)))

    def run(self, out: Path, version: str = "", *more: str) -> None:
        squad.main(
            [
                f"--train={self.folder / f'train{version}.json'}",
                f"--dev={self.folder / f'dev{version}.json'}",
                f"--backbone={self.backbone}",
                f"--cache-dir={self.folder / 'cache'}",
                f"--out-dir={out}",
                "--max-length=24",
                "--doc-stride=4",
                "--max-question-length=8",
                "--batch-size=8",
                "--eval-batch-size=4",
                "--steps=6",
                "--eval-every=3",
                "--save-every=3",
                "--lr=1e-3",
                *more,
            ]
        )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, backbone_folder: Path) -> Place:
    return Place(tmp_path_factory.mktemp("squad"), backbone_folder)


@pytest.fixture(scope="module")
def first(place: Place) -> Path:
    place.run(place.folder / "v1", "", "--nbest", "--n-best=3")
    return place.folder / "v1"


@pytest.fixture(scope="module")
def second(place: Place) -> Path:
    place.run(place.folder / "v2", "2", f"--test={place.folder / 'dev2.json'}")
    return place.folder / "v2"


def stored(path: Path) -> Any:
    return json.loads(path.read_text())


def true_answers(path: Path) -> dict[str, list[str]]:
    return {question.id: [text for text, _ in question.answers] for question in read_squad(path).questions}


def by_the_rules(run: Path, gold: Path, prefix: str = "") -> dict[str, float]:
    found = rules.score(stored(run / "predictions" / f"{prefix}predictions.json"), true_answers(gold))
    return {"exact_match" if name == "exact" else name: value for name, value in found.items()}


def test_the_scores_are_those_of_the_written_file(first: Path, place: Place):
    result = stored(first / "result.json")
    assert (result["task"], result["steps"], tuple(result["metrics"])) == ("squad", 6, V1)
    assert result["metrics"] == by_the_rules(first, place.folder / "dev.json")
    said = stored(first / "predictions" / "predictions.json")
    assert list(said) == [f"q{n}" for n in range(10)] and all(said.values())
    for question in read_squad(place.folder / "dev.json").questions:
        assert said[question.id] in question.context
    nbest = stored(first / "predictions" / "nbest_predictions.json")
    assert all(next(span["text"] for span in nbest[name] if span["text"]) == text for name, text in said.items())
    assert {len(spans) for spans in nbest.values()} == {4}
    assert not (first / "predictions" / "null_odds.json").exists() and "no_answer_threshold" not in result


def test_of_v2_the_threshold_is_tuned_recorded_and_applied(second: Path, place: Place):
    result, manifest = stored(second / "result.json"), stored(second / "adapter" / "manifest.json")
    assert set(result["metrics"]) == {*V2, *(f"{name}_test" for name in V2)}
    gold = true_answers(place.folder / "dev2.json")
    for prefix, suffix in (("", ""), ("test_", "_test")):
        scores = by_the_rules(second, place.folder / "dev2.json", prefix)
        assert scores == {name: result["metrics"][f"{name}{suffix}"] for name in V2}
        odds = stored(second / "predictions" / f"{prefix}null_odds.json")
        said = stored(second / "predictions" / f"{prefix}predictions.json")
        assert {name for name in gold if odds[name] > result["no_answer_threshold"]} == {
            name for name, text in said.items() if not text
        }
    assert result["metrics"]["f1"] >= sum(not true for true in gold.values()) / len(gold)
    extra = manifest["extra"]
    assert extra["no_answer_threshold"] == result["no_answer_threshold"]
    assert (extra["doc_stride"], extra["max_question_length"]) == (4, 8)
    assert extra["data_summary"]["train"]["no_answer"] == 8 and extra["data_summary"]["dev"]["questions"] == 12
    assert manifest["head"] == {"name": "question_answering", "n_best": 20, "max_answer_tokens": 30}


def test_no_threshold_is_tuned_on_a_test_set(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture):
    """Dev of v1.1 gives none; the test set of v2.0 is scored as its file of answers is, all answered."""
    gold = place.folder / "dev2.json"
    place.run(tmp_path / "run", "", f"--test={gold}", "--method=head", "--steps=1")
    result = stored(tmp_path / "run" / "result.json")
    assert "no_answer_threshold" not in result and not list((tmp_path / "run" / "predictions").glob("*null_odds*"))
    assert all(stored(tmp_path / "run" / "predictions" / "test_predictions.json").values())
    scores = by_the_rules(tmp_path / "run", gold, "test_")
    assert scores == {name: result["metrics"][f"{name}_test"] for name in V2} and scores["exact_unanswerable"] == 0.0


def test_it_goes_on_where_it_was_killed(first: Path, place: Place, tmp_path: Path):
    run = shutil.copytree(first, tmp_path / "run")
    (run / "result.json").unlink()
    shutil.rmtree(run / "adapter")
    shutil.rmtree(run / "checkpoints" / "6")
    place.run(run, "", "--nbest", "--n-best=3")
    assert '"resumed_from": 3' in (run / "metrics.jsonl").read_text()
    for name in ("adapter/adapter.safetensors", "predictions/predictions.json"):
        assert (run / name).read_bytes() == (first / name).read_bytes()


def test_the_artefact_answers_questions_without_gold(second: Path, place: Place):
    """As prediction does: the same answers from pairs of texts and what the manifest says."""
    backbone = aj.load_backbone(str(place.backbone))
    model, params = aj.load_adapter(second / "adapter", backbone)
    extra = stored(second / "adapter" / "manifest.json")["extra"]
    questions = read_squad(place.folder / "dev2.json").questions
    rows = encode_questions(
        [(question.question, question.context) for question in questions],
        backbone.tokenizer,
        24,
        doc_stride=extra["doc_stride"],
        max_question_length=extra["max_question_length"],
        threshold=extra["no_answer_threshold"],
    )
    assert len(rows) > len(questions)
    metrics, answers = evaluate(model, params, rows, ())
    assert metrics == {}
    said = stored(second / "predictions" / "predictions.json")
    assert [answer["answer"] for answer in rows.decode(model.head, answers)] == list(said.values())


@pytest.mark.slow
def test_it_learns(place: Place, tmp_path: Path):
    """On its own training questions, answers improve far beyond those of a fresh head."""
    train = str(place.folder / "train.json")
    place.run(tmp_path / "run", "", f"--dev={train}", "--method=full", "--steps=150", "--lr=2e-3", "--eval-every=150")
    assert stored(tmp_path / "run" / "result.json")["metrics"]["f1"] > 0.6


def test_bad_questions_end_it_or_are_counted(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture):
    broken = contents(24, impossible=False)
    broken["data"][0]["paragraphs"][5]["qas"][0]["answers"][0]["answer_start"] = 1
    (tmp_path / "train.json").write_text(json.dumps(broken))
    given = [f"--train={tmp_path / 'train.json'}", "--steps=1", "--method=head"]
    place_run = lambda *more: place.run(tmp_path / "run", "", *given[:2], *more)
    line = refused(capsys, place_run)
    assert f"{tmp_path / 'train.json'}:1: question 'q5' (data[0].paragraphs[5].qas[0]): expected the answer" in line
    assert "--on-bad-row=skip" in line and not (tmp_path / "run").exists()
    place_run("--on-bad-row=skip")
    assert "1 row was skipped" in capsys.readouterr().err
    summary = stored(tmp_path / "run" / "adapter" / "manifest.json")["extra"]["data_summary"]["train"]
    assert (summary["questions"], summary["skipped"]) == (23, 1)


@pytest.mark.parametrize(
    ("more", "match"),
    [
        ("--max-question-length=30", "max_question_length: expected 1 to 20, so that windows of 24"),
        ("--doc-stride=0", "doc_stride: expected at least 1 token, got 0"),
        ("--n-best=0", "n_best must be at least 1"),
        ("--dev=none.json", "none.json: expected a JSON file, got: No such file or directory"),
        ("--on-bad-row=mend", "--on-bad-row: expected one of error, skip, got 'mend'"),
    ],
)
def test_flags_at_fault_are_one_line(more: str, match: str, place: Place, tmp_path: Path, capsys: Any):
    assert match in refused(capsys, place.run, tmp_path / "run", "", more)
    assert not (tmp_path / "run").exists()


def test_a_file_must_be_given_and_epochs_are_those_of_squad(capsys: pytest.CaptureFixture):
    assert "--dev: expected a JSON file of SQuAD's form, got none" in refused(capsys, squad.main, ["--train=a.json"])
    files = ["--train=a.json", "--dev=b.json"]
    resolved = lambda *more: flags.resolve(flags.parse([*files, *more], cls=squad.Flags)).flags
    full = resolved("--method=full")
    assert (full.lr, full.epochs, full.batch_size, full.max_length) == (5e-5, 3.0, 32, 384)
    assert resolved().epochs == 3.0 and resolved("--epochs=1").epochs == 1.0
