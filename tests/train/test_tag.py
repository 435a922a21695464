"""`python -m train.tag` from end to end, on tiny files: scores are seqeval's on what it wrote."""

import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from seqeval.metrics import classification_report, f1_score, precision_score, recall_score

import adapters_jax as aj
from tests.refusal import refused
from train import tag

NAMES = ("cat", "dog", "man", "woman")


def write_names(path: Path, count: int) -> Path:
    """Spans of one and two words; every fourth sentence is longer than a row."""
    blocks = []
    for n in range(count):
        lines = ["the O", f"{NAMES[n % 4]} B-{'PER' if n % 4 > 1 else 'PET'}"]
        lines += [f"x{n % 10} I-{'PER' if n % 4 > 1 else 'PET'}"] * (n % 2)
        lines += ["is O", "in O", f"{'ab'[n % 2]}{n % 10} B-LOC", *[". O"] * (1 if n % 4 else 12)]
        blocks.append("\n".join(lines) + "\n")
    path.write_text("-DOCSTART- O\n\n" + "\n".join(blocks))
    return path


def write_words(path: Path, count: int) -> Path:
    tags = {"the": "DET", "is": "AUX", "not": "PART", **dict.fromkeys(NAMES, "NOUN")}
    sentences = [["the", NAMES[n % 4], "is", *["not"] * (n % 2), "the", NAMES[(n + 1) % 4]] for n in range(count)]
    lines = lambda row: (f"{i}\t{word}\t{word}\t{tags[word]}\tX\t_\n" for i, word in enumerate(row, 1))
    path.write_text("".join("# text\n" + "".join(lines(row)) + "\n" for row in sentences))
    return path


class Place:
    """Files, a backbone and the runs on them."""

    def __init__(self, folder: Path, backbone: Path) -> None:
        self.folder, self.backbone = folder, backbone
        self.names, self.names_dev = write_names(folder / "a.conll", 32), write_names(folder / "b.conll", 10)
        self.words, self.words_dev = write_words(folder / "a.conllu", 24), write_words(folder / "b.conllu", 9)

    def run(self, out: Path, *given: str, conllu: bool = False) -> None:
        files = (self.words, self.words_dev) if conllu else (self.names, self.names_dev)
        tag.main(
            [
                *(f"--train={files[0]}", f"--dev={files[1]}", f"--backbone={self.backbone}"),
                *(f"--cache-dir={self.folder / 'cache'}", "--max-length=16", "--batch-size=8", "--eval-batch-size=4"),
                *("--steps=60", "--eval-every=30", "--lr=1e-2", "--method=houlsby", f"--out-dir={out}", *given),
            ]
        )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, backbone_folder: Path) -> Place:
    return Place(tmp_path_factory.mktemp("tag"), backbone_folder)


@pytest.fixture(scope="module")
def finished(place: Place) -> Path:
    place.run(place.folder / "run", f"--test={place.names}")
    return place.folder / "run"


def read_predictions(file: Path) -> tuple[list[list[str]], list[list[str]], list[list[str]]]:
    """(words, true tags, predicted tags) of each sentence."""
    blocks = file.read_text().strip("\n").split("\n\n")
    rows = [[line.rsplit(" ", 2) for line in block.split("\n")] for block in blocks]
    return tuple([[line[place] for line in row] for row in rows] for place in range(3))  # type: ignore


def test_the_scores_are_seqeval_s_on_the_predictions(finished: Path, place: Place):
    result = json.loads((finished / "result.json").read_text())
    for name, suffix, count in (("dev", "", 10), ("test", "_test", 32)):
        words, true, said = read_predictions(finished / "predictions" / f"{name}.conll")
        assert len(words) == count
        for metric, reference in (("f1", f1_score), ("precision", precision_score), ("recall", recall_score)):
            expected = reference(true, said, zero_division=0)
            assert result["metrics"][f"span_{metric}{suffix}"] == pytest.approx(expected, abs=1e-12)
        report = classification_report(true, said, output_dict=True, zero_division=0)
        assert list(result["types"][name]) == ["LOC", "PER", "PET"]
        for kind, scores in result["types"][name].items():
            assert scores["f1"] == pytest.approx(report[kind]["f1-score"], abs=1e-12)
            assert scores["true"] == report[kind]["support"]
    lines = place.names_dev.read_text().split("\n\n", 1)[1].split()
    assert [word for row in read_predictions(finished / "predictions" / "dev.conll")[0] for word in row] == lines[::2]
    assert result["metrics"]["span_f1"] > 0.5 and result["metrics"]["tag_accuracy"] > 0.7


def test_what_was_read_is_in_the_manifest(finished: Path, place: Place):
    manifest = json.loads((finished / "adapter" / "manifest.json").read_text())
    summary = manifest["extra"]["data_summary"]
    assert summary["train"]["sentences"] == 32 and summary["train"]["split"] == 8
    assert summary["train"]["spans"] == {"LOC": 32, "PET": 16, "PER": 16}
    assert (summary["dev"]["sentences"], summary["dev"]["skipped"], summary["dev"]["in_train"]) == (10, 0, 10)
    assert manifest["head"]["labels"] == ["O", "B-LOC", "I-LOC", "B-PER", "I-PER", "B-PET", "I-PET"]
    evaluations = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert set(next(line["eval"] for line in evaluations if "eval" in line)) == {
        *("span_f1", "span_precision", "span_recall", "tag_accuracy")
    }


def test_parts_of_speech(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture):
    place.run(tmp_path / "run", "--train-rows=20", "--eval-rows=8", conllu=True)
    told = capsys.readouterr().err
    assert "a.conllu[20 of 24, seed 0]: 20 sentences, 110 words, tags (none): DET 40, NOUN 40, AUX 20, PART 10" in told
    manifest = json.loads((tmp_path / "run" / "adapter" / "manifest.json").read_text())
    read = manifest["extra"]["data_summary"]  # what was trained on, and no more of the file
    assert (read["train"]["sentences"], read["dev"]["sentences"]) == (20, 8)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert set(result["metrics"]) == {"tag_accuracy"} and set(result["types"]["dev"]) == {"AUX", "DET", "NOUN", "PART"}
    words, true, said = read_predictions(tmp_path / "run" / "predictions" / "dev.conll")
    right = [a == b for x, y in zip(true, said, strict=True) for a, b in zip(x, y, strict=True)]
    assert len(words) == 8 and result["metrics"]["tag_accuracy"] == pytest.approx(sum(right) / len(right))
    assert result["metrics"]["tag_accuracy"] > 0.8


def test_bad_sentences_are_refused_or_skipped_and_counted(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture):
    bad = tmp_path / "bad.conll"
    bad.write_text(place.names.read_text() + "\ncat O\ndog\n")
    line = len(bad.read_text().splitlines())
    refusal = refused(capsys, place.run, tmp_path / "run", f"--train={bad}")
    assert f"bad.conll:{line}: expected a tag for every word, after blanks, got none for 'dog'" in refusal
    assert "--on-bad-row=skip" in refusal and not (tmp_path / "run").exists()
    place.run(tmp_path / "run", f"--train={bad}", "--on-bad-row=skip", "--steps=1")
    assert f"{bad}: 1 row was skipped: {bad}:{line}: " in capsys.readouterr().err
    manifest = json.loads((tmp_path / "run" / "adapter" / "manifest.json").read_text())
    assert manifest["extra"]["data_summary"]["train"]["skipped"] == 1


@pytest.mark.parametrize(
    ("more", "match"),
    [
        (["--dev=none.conll"], "none.conll: expected a readable text file, got: No such file"),
        (["--scheme=iob2"], "--scheme: expected one of auto, bio, iob1, none, got 'iob2'"),
        (["--tag-column=3"], "tag_column: expected 1 to 2"),
        (["--max-length=2"], "max_length: expected a whole number of at least 3, got 2"),
        (["--format=conllu"], "expected 4 tab-separated columns, got 1"),
    ],
)
def test_flags_at_fault_are_one_line(
    place: Place, more: list[str], match: str, tmp_path: Path, capsys: pytest.CaptureFixture
):
    assert match in refused(capsys, place.run, tmp_path / "run", *more)
    assert not (tmp_path / "run").exists()


def test_missing_files_are_one_line(capsys: pytest.CaptureFixture):
    assert "--train: expected a file of words with tags, got none" in refused(capsys, tag.main, [])
    line = refused(capsys, tag.main, ["--train=a.conll", "--dev=b.conll", "--dev-share=0.2"])
    assert "--dev-share: expected no --dev beside it" in line


def test_a_part_is_held_out_where_no_dev_file_is_given(place: Place, tmp_path: Path):
    """Sentences that are equal stay on one side."""
    backbone = aj.load_backbone(str(place.backbone))
    config = lambda *given: tag.flags.resolve(
        tag.flags.parse([f"--train={place.names}", "--max-length=32", *given], cls=tag.Flags)
    )
    work = tag.open_work(config("--dev-share=0.25"), backbone)
    words = lambda rows: {sentence.words for sentence in rows.sentences}
    train, dev = work.train, work.evals[""]
    assert len(train.sentences) + len(dev.sentences) == 32 and 6 <= len(dev.sentences) <= 8
    assert not words(train) & words(dev)
    assert work.extra["split"]["dev"] == len(dev.sentences) and work.extra["data_summary"]["dev"]["in_train"] == 0
    assert {tag for row in dev.true_tags() for tag in row} >= {"O", "B-LOC", "B-PER", "B-PET"}
    assert words(tag.open_work(config("--dev-share=0.25"), backbone).evals[""]) == words(dev)
    assert 2 <= len(tag.open_work(config(), backbone).evals[""].sentences) <= 4


def test_help_does_not_wait_for_jax():
    code = "import sys, train.tag; print([m for m in ('jax', 'flax') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_the_example_of_the_guide_runs(finished: Path, place: Place, repo: Path):
    (block,) = re.findall(r"```python\n(.*?)```", (repo / "docs" / "tasks" / "tag.md").read_text(), flags=re.DOTALL)
    block = block.replace('"minilm"', repr(str(place.backbone))).replace("runs/tag-houlsby-0", str(finished))
    scope: dict = {}
    exec(compile(block.replace("max_length=128", "max_length=16"), "tag.md", "exec"), scope)
    text, words = scope["found"]
    assert [word["word"] for word in text["tags"]] == ["Peter", "Blackburn", "lives", "in", "Rome", "."]
    assert [(word["start"], word["end"]) for word in words["tags"]] == [(0, 1), (1, 2)]
    assert all(0 < word["score"] <= 1 for word in text["tags"]) and "spans" in text


def test_a_loop_of_the_user_s_own_is_scored_by_its_rows(place: Place):
    """`fit` takes the names of scores from rows that score themselves."""
    from adapters_jax.data.bad import BadRows
    from adapters_jax.data.tagged import read_tagged
    from adapters_jax.data.tagged_rows import encode_tagged

    backbone = aj.load_backbone(str(place.backbone))
    source = read_tagged(place.names, BadRows())
    rows = encode_tagged(source, source.labels, backbone.tokenizer, 16)
    model = aj.Model(backbone.config, aj.HeadOnly(), aj.TokenClassification(labels=source.labels))
    params = model.init(jax.random.key(0), backbone.params)
    _, report = aj.fit(model, params, backbone, rows, rows, epochs=None, steps=2, max_length=16, quiet=True)
    assert tuple(report.metrics) == rows.metrics
