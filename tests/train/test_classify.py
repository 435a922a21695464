"""`python -m train.classify` from end to end on tiny files of one's own."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import adapters_jax as aj
from adapters_jax.data.bad import BadRows
from adapters_jax.data.own import Form, read_own
from adapters_jax.data.places import open_table
from tests.refusal import refused
from train import classify

WORDS = ("cat", "dog", "man", "woman", "good", "bad")


def write(path: Path, count: int, label=lambda n: ("neg", "pos", "pos")[n % 3], first: int = 0) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "text", "label"])
        for n in range(first, first + count):
            rows.writerow([f"r{n}", f'the {WORDS[n % 6]}, "{WORDS[n % 4]}"\nis {"not " * (n % 3)}{n}', label(n)])
    return path


class Place:
    def __init__(self, folder: Path, backbone: Path) -> None:
        self.folder, self.backbone = folder, backbone
        self.train, self.dev = write(folder / "a.csv", 40), write(folder / "b.csv", 9, first=38)
        self.common = [f"--backbone={backbone}", f"--cache-dir={folder / 'cache'}", "--max-length=12", "--batch-size=8"]
        self.common += ["--eval-batch-size=4", "--steps=6", "--eval-every=3", "--save-every=3", "--lr=1e-3"]
        self.common += ["--method.bottleneck=4"]

    def run(self, out: Path, *more: str) -> None:
        classify.main([*self.common, f"--out-dir={out}", *more])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, backbone_folder: Path) -> Place:
    return Place(tmp_path_factory.mktemp("own"), backbone_folder)


@pytest.fixture(scope="module")
def files(place: Place) -> list[str]:
    return [f"--train={place.train}", f"--dev={place.dev}", f"--test={place.dev}", "--class-weights=balanced"]


@pytest.fixture(scope="module")
def finished(place: Place, files: list[str]) -> Path:
    place.run(place.folder / "run", *files)
    return place.folder / "run"


def manifest(run: Path) -> dict:
    return json.loads((run / "adapter" / "manifest.json").read_text())


def lines(run: Path, name: str = "dev") -> list[dict]:
    return [json.loads(line) for line in (run / "predictions" / f"{name}.jsonl").read_text().splitlines()]


def test_scores_and_predictions_are_of_the_same_rows(finished: Path):
    result = json.loads((finished / "result.json").read_text())
    assert list(result["metrics"]) == ["accuracy", "macro_f1", "accuracy_test", "macro_f1_test"]
    found = lines(finished)
    assert [row["id"] for row in found] == [f"r{n}" for n in range(38, 47)]
    assert [row["label"] for row in found] == [("neg", "pos", "pos")[n % 3] for n in range(38, 47)]
    right = sum(row["label"] == row["prediction"] for row in found)
    assert result["metrics"]["accuracy"] == pytest.approx(right / 9)
    assert lines(finished, "test") == found
    assert all(sum(row["scores"].values()) == pytest.approx(1) for row in found)


def test_the_manifest_says_what_was_read_and_how(finished: Path, place: Place):
    stored = manifest(finished)
    extra = stored["extra"]
    summary = extra["data_summary"]
    assert stored["head"]["labels"] == ["neg", "pos"] and stored["data"] == "a.csv"
    assert summary["train"]["classes"] == {"neg": 14, "pos": 26} and summary["dev"]["in_train"] == 2
    assert summary["train"]["tokens"]["longest"] > 12 and summary["train"]["truncated"] > 0
    assert summary["train"]["read"] == ["text from 'text', label from 'label' (single)"]
    assert summary["skipped"] == 0 and extra["split"] is None
    assert extra["class_weights"] == {"neg": pytest.approx(40 / 28), "pos": pytest.approx(40 / 52)}
    own = read_own(open_table(str(place.dev), BadRows()), Form.of(extra["form"]), BadRows())
    assert [row["id"] for row in own.source] == [row["id"] for row in lines(finished)]


def test_lengths_are_of_a_sample_and_texts_are_cached_once(place: Place, files: list[str], tmp_path: Path, monkeypatch):
    monkeypatch.setattr(classify, "SAMPLE", 20)
    place.run(tmp_path / "run", *files, "--steps=1", f"--cache-dir={tmp_path / 'cache'}")
    train = manifest(tmp_path / "run")["extra"]["data_summary"]["train"]
    assert (train["rows"], train["tokens"]["rows"]) == (40, 20) and 0 < train["truncated"] <= 20
    assert len(list((tmp_path / "cache" / "tokens").iterdir())) == 2  # train and dev, which is --test too


def test_it_goes_on_where_it_was_killed(finished: Path, place: Place, files: list[str], tmp_path: Path):
    run = shutil.copytree(finished, tmp_path / "run")
    (run / "result.json").unlink()
    shutil.rmtree(run / "adapter")
    shutil.rmtree(run / "checkpoints" / "6")
    place.run(run, *files)
    assert '"resumed_from": 3' in (run / "metrics.jsonl").read_text()
    same = "adapter/adapter.safetensors"
    assert (run / same).read_bytes() == (finished / same).read_bytes()


def test_the_artefact_answers(finished: Path, place: Place):
    backbone = aj.load_backbone(str(place.backbone))
    predictor = aj.Predictor(*aj.load_adapter(finished / "adapter", backbone), backbone, max_length=12)
    (row, *_) = open_table(str(place.dev), BadRows()).rows(("text",))
    (answer,) = predictor([row.values["text"]])
    assert answer["scores"] == pytest.approx(lines(finished)[0]["scores"], abs=1e-6)


def test_a_split_is_made_the_same_for_every_seed(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture):
    splits = []
    for seed, more in ((0, "--split-seed=0"), (1, "--split-seed=0"), (1, "--split-seed=1")):
        run = tmp_path / f"run{len(splits)}"
        place.run(run, f"--train={place.train}", "--steps=1", f"--seed={seed}", "--dev-share=0.2", more)
        splits.append(manifest(run)["extra"]["split"]["dev_ids_sha256"])
    assert splits[0] == splits[1] != splits[2]
    split = manifest(tmp_path / "run0")["extra"]["split"]
    assert (split["train"], split["dev"], split["share"]) == (32, 8, 0.2)
    assert "train: 32 rows of a.csv[train: 32 of 40, split seed 0]; 2 classes: neg " in capsys.readouterr().err


def test_several_classes_and_values(place: Place, tmp_path: Path):
    several = write(tmp_path / "m.csv", 24, lambda n: ("", "a", "a|b")[n % 3])
    place.run(tmp_path / "multi", f"--train={several}", f"--dev={several}", "--kind=multi", "--class-weights=balanced")
    stored = manifest(tmp_path / "multi")
    assert stored["head"]["name"] == "multilabel" and stored["head"]["positive_weights"] == [0.5, 2.0]
    assert set(stored["scores"]) == {"micro_f1", "macro_f1", "subset_accuracy"}
    assert [row["label"] for row in lines(tmp_path / "multi")[:3]] == [[], ["a"], ["a", "b"]]
    assert isinstance(lines(tmp_path / "multi")[0]["prediction"], list)

    values = write(tmp_path / "v.csv", 24, lambda n: n / 2)
    bare = tmp_path / "t.csv"
    bare.write_text("text\na cat\n")
    place.run(tmp_path / "value", f"--train={values}", f"--dev={values}", f"--test={bare}")
    stored = manifest(tmp_path / "value")
    assert stored["head"]["mean"] == 5.75 and set(stored["scores"]) == {"pearson", "spearman"}
    (answer,) = lines(tmp_path / "value", "test")
    assert answer["id"] == "2" and answer["label"] is None and isinstance(answer["prediction"], float)


def test_bad_rows(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture):
    mixed = tmp_path / "bad.csv"
    mixed.write_bytes(place.train.read_bytes() + b"r98,,pos\r\nr99,text\r\n")
    run = lambda *more: place.run(tmp_path / "run", f"--train={mixed}", f"--dev={place.dev}", "--steps=1", *more)
    assert "bad.csv:82: expected a text in column 'text', got an empty one" in refused(capsys, run)
    assert not (tmp_path / "run").exists()
    run("--on-bad-row=skip")
    told = capsys.readouterr().err
    assert "2 rows were skipped: " in told and "bad.csv:83: expected 3 columns (id, text, label), got 2" in told
    assert manifest(tmp_path / "run")["extra"]["data_summary"]["skipped"] == 2


@pytest.mark.parametrize(
    ("more", "match"),
    [
        (["--dev-share=0.2"], "--dev-share: expected no --dev beside it"),
        (["--dev=none.csv"], "none.csv: expected a file or folder, got nothing there"),
        (["--label=lable"], "a.csv: unknown column 'lable': known are id, text, label; did you mean 'label'?"),
        (["--kind=regression"], "a.csv:2: expected a number as the label, got 'neg'"),
        (["--kind=single", "--label-separator=,"], "--label-separator: expected --kind=multi, got single"),
        (
            ["--metrics=pearson"],
            "--metrics: unknown metric of a classification 'pearson': known are accuracy, macro_f1",
        ),
    ],
)
def test_flags_at_fault_are_one_line(place: Place, more: list[str], match: str, capsys, tmp_path: Path):
    given = [f"--train={place.train}", f"--dev={place.dev}", *more]
    assert match in refused(capsys, place.run, tmp_path / "run", *given)
    assert not (tmp_path / "run").exists()


def test_no_train_and_help_do_not_wait_for_jax(capsys: pytest.CaptureFixture):
    assert "--train: expected a file, a folder or tfds:NAME" in refused(capsys, classify.main, [])
    code = "import sys, train.classify; print([m for m in ('jax', 'flax', 'pyarrow') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
