"""GLUE's tasks: the table, official files with their oddities, places, errors, predictions."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from adapters_jax.data import as_source, fetch, glue
from adapters_jax.data.source import Features
from adapters_jax.errors import ConfigError, DataError
from adapters_jax.metrics import METRICS

MNLI_COLUMNS = (
    "index promptID pairID genre sentence1_binary_parse sentence2_binary_parse sentence1_parse sentence2_parse"
)
MNLI_HEADER = "\t".join([*MNLI_COLUMNS.split(), "sentence1", "sentence2"])
FIVE = "\t".join(f"label{i}" for i in range(1, 6))
DASHES = "\t".join("-" * 7)

FILES = {
    "CoLA/train.tsv": "gj04\t1\t\tIt works.\nks08\t0\t*\tIt work.\n",
    "CoLA/dev.tsv": "gj04\t0\t*\tThey sings.\n",
    "CoLA/test.tsv": "index\tsentence\n0\tWho knows?\n",
    "SST-2/train.tsv": 'sentence\tlabel\na " lone quote \t0\ngood\t1\n',
    "SST-2/dev.tsv": "sentence\tlabel\nfine\t1\n",
    "MRPC/train.tsv": "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n1\t12\t13\tHe said.\tSaid he.\r\n",
    "MRPC/dev.tsv": "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n0\t14\t15\tHe said.\tShe sat.\r\n",
    "MRPC/test.tsv": "index\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n0\t16\t17\tA.\tB.\r\n",
    "STS-B/train.tsv": "index\tsentence1\tsentence2\tscore\n0\tA\tB\t2.500\n",
    "STS-B/dev.tsv": "index\tsentence1\tsentence2\tscore\n0\tA\tA\t5.000\n",
    "QQP/train.tsv": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n133273\t1\t2\tWhy?\tHow?\t0\n",
    "QQP/dev.tsv": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n201\t1\t2\tWhy?\tWhy so?\t1\n",
    "QQP/test.tsv": "id\tquestion1\tquestion2\n0\tWhere?\tWhere to?\n",
    "MNLI/train.tsv": f"{MNLI_HEADER}\tlabel1\tgold_label\n0\t{DASHES}\tP\tH\tneutral\tneutral\n",
    "MNLI/dev_matched.tsv": f"{MNLI_HEADER}\t{FIVE}\tgold_label\n0\t{DASHES}\tP\tH"
    + "\tneutral" * 5
    + "\tentailment\n",
    "MNLI/dev_mismatched.tsv": f"{MNLI_HEADER}\t{FIVE}\tgold_label\n0\t{DASHES}\tP"
    + "\tneutral" * 6
    + "\tcontradiction\n",
    "MNLI/test_matched.tsv": f"{MNLI_HEADER}\n0\t{DASHES}\tP\tH\n",
    "MNLI/test_mismatched.tsv": f"{MNLI_HEADER}\n7\t{DASHES}\tP\tH\n",
    "QNLI/train.tsv": "index\tquestion\tsentence\tlabel\n0\tWho?\tHe.\tnot_entailment\n",
    "QNLI/dev.tsv": "index\tquestion\tsentence\tlabel\n0\tWho?\tShe.\tentailment\n",
    "RTE/train.tsv": "index\tsentence1\tsentence2\tlabel\n0\tA.\tB.\tentailment\n",
    "RTE/dev.tsv": "index\tsentence1\tsentence2\tlabel\n0\tA.\tB.\tnot_entailment\n",
    "WNLI/train.tsv": "index\tsentence1\tsentence2\tlabel\n0\tA.\tB.\t1\n",
    "WNLI/dev.tsv": "index\tsentence1\tsentence2\tlabel\n0\tA.\tB.\t0\n",
}

FIRST_ROWS = {
    "cola": {"id": "0", "text": "It works.", "label": 1},
    "sst2": {"id": "0", "text": 'a " lone quote ', "label": 0},
    "mrpc": {"id": "0", "text": "He said.", "text_pair": "Said he.", "label": 1},
    "stsb": {"id": "0", "text": "A", "text_pair": "B", "label": 2.5},
    "qqp": {"id": "133273", "text": "Why?", "text_pair": "How?", "label": 0},
    "mnli": {"id": "0", "text": "P", "text_pair": "H", "label": 1},
    "qnli": {"id": "0", "text": "Who?", "text_pair": "He.", "label": 1},
    "rte": {"id": "0", "text": "A.", "text_pair": "B.", "label": 0},
    "wnli": {"id": "0", "text": "A.", "text_pair": "B.", "label": 1},
}


@pytest.fixture
def folder(tmp_path):
    for name, content in FILES.items():
        path = tmp_path / "glue" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode())
    return tmp_path / "glue"


def test_the_table():
    assert list(glue.TASKS) == ["cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli"]
    assert {name: task.metrics for name, task in glue.TASKS.items()} == {
        "cola": ("matthews",),
        "sst2": ("accuracy",),
        "mrpc": ("f1", "accuracy"),
        "stsb": ("pearson", "spearman"),
        "qqp": ("f1", "accuracy"),
        "mnli": ("accuracy",),
        "qnli": ("accuracy",),
        "rte": ("accuracy",),
        "wnli": ("accuracy",),
    }
    for task in glue.TASKS.values():
        assert task.best_metric in task.metrics
        assert set(task.metrics) <= set(METRICS)
        assert len(task.labels) == len(task.file_labels)
        assert len(task.texts) == len(task.tfds_texts)
        assert set(task.files) == set(task.tfds_splits)
    assert glue.TASKS["mnli"].labels == ("entailment", "neutral", "contradiction")
    assert glue.TASKS["stsb"].features == Features(("text", "text_pair"), (), "regression")


def test_labels_texts_and_splits_are_those_that_tfds_registers():
    import tensorflow_datasets.text.glue as registered

    configs = {config.name: config for config in registered.Glue.BUILDER_CONFIGS}
    for name, task in glue.TASKS.items():
        assert list(task.tfds_texts) == list(configs[name].text_features)
        assert list(task.labels) == (configs[name].label_classes or [])
        assert task.folder == configs[name].data_dir
        if name not in ("cola", "mrpc"):  # no header, and no archive
            assert task.label == configs[name].label_column
            assert list(task.texts) == list(configs[name].text_features.values())


def test_recipes():
    for name in glue.TASKS:
        for method in ("houlsby", "full", "head", "another"):
            assert set(glue.recipe(name, method)) <= {"epochs", "lr", "batch_size"}
    assert glue.recipe("mnli", "houlsby") == {"epochs": 3.0}
    assert glue.recipe("mrpc", "houlsby") == {}
    with pytest.raises(ConfigError, match=r"unknown task 'mnlli': .*did you mean 'mnli'\?"):
        glue.recipe("mnlli", "houlsby")


@pytest.mark.parametrize("task", glue.TASKS)
def test_rows_of_official_files(folder, task):
    splits = glue.find_data(task, data_dir=folder)
    assert splits.train[0] == FIRST_ROWS[task]
    assert splits.train.features == splits.evals[""].features == glue.TASKS[task].features
    assert splits.train.name == f"glue/{task}/train"


def test_mnli_has_two_dev_and_test_sets(folder):
    splits = glue.find_data("mnli", data_dir=folder)
    assert {suffix: source[0]["label"] for suffix, source in splits.evals.items()} == {"": 0, "mismatched": 2}
    assert splits.tests[""][0] == {"id": "0", "text": "P", "text_pair": "H"}
    assert splits.tests["mismatched"][0]["id"] == "7"


def test_test_files_are_optional_and_hold_no_labels(folder):
    assert glue.find_data("wnli", data_dir=folder).tests == {}
    assert glue.find_data("mrpc", data_dir=folder).tests[""][0] == {"id": "0", "text": "A.", "text_pair": "B."}
    assert glue.open_glue("cola", "test", folder)[0] == {"id": "0", "text": "Who knows?"}
    with pytest.raises(DataError, match=r"WNLI/test\.tsv: expected a file, got none"):
        glue.open_glue("wnli", "test", folder)


@pytest.mark.parametrize("name", ["SST-2", "sst-2", "sst2", "SST2"])
def test_folders_of_other_spellings(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "train.tsv").write_text(FILES["SST-2/train.tsv"])
    (tmp_path / name / "dev.tsv").write_text(FILES["SST-2/dev.tsv"])
    assert len(glue.find_data("sst2", data_dir=tmp_path).train) == 2
    assert len(glue.find_data("sst2", data_dir=tmp_path / name).train) == 2


def test_the_folder_may_be_one_above(folder):
    assert len(glue.find_data("rte", data_dir=str(folder.parent)).train) == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "RTE/train.tsv",
            FILES["RTE/train.tsv"] + "1\tA.\tB.\n",
            r"RTE/train\.tsv:3: expected 4 tab-separated .* got 3",
        ),
        (
            "RTE/train.tsv",
            FILES["RTE/train.tsv"] + "1\tA.\tB.\tentailmnt\n",
            r"RTE/train\.tsv:3: unknown label 'entailmnt': known are entailment, .*; did you mean 'entailment'",
        ),
        ("RTE/dev.tsv", "", r"RTE/dev\.tsv: expected a row per line, got an empty file"),
        ("RTE/dev.tsv", None, r"RTE/dev\.tsv: expected a file, got none"),
        ("RTE/train.tsv", None, r"RTE/train\.tsv: expected a file, got none"),
    ],
)
def test_damaged_files(folder, name, content, message):
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        glue.find_data("rte", data_dir=folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("label", ["", "-", "2", "entailment "])
def test_labels_that_no_class_has(folder, label):
    (folder / "CoLA/dev.tsv").write_text(f"gj04\t1\t\tFine.\ngj04\t{label}\t\tA sentence.\n")
    with pytest.raises(DataError, match=r"CoLA/dev\.tsv:2: unknown label"):
        glue.open_glue("cola", "dev", folder)


@pytest.mark.parametrize("score", ["", "high", "nan", "inf", "5.1", "-0.1"])
def test_scores_that_are_none(folder, score):
    (folder / "STS-B/dev.tsv").write_text(f"index\tsentence1\tsentence2\tscore\n0\tA\tB\t{score}\n")
    with pytest.raises(DataError, match=r"STS-B/dev\.tsv:2: expected a score from 0 to 5, got"):
        glue.open_glue("stsb", "dev", folder)


def test_the_broken_rows_of_the_official_qqp_are_left_out(folder):
    row = "1\t2\t3\tWhy?\tHow?\t1\n"
    path = folder / "QQP/train.tsv"
    header, broken = FILES["QQP/train.tsv"].splitlines()[0] + "\n", "4\t5\t6\tWhy\n"
    path.write_text(header + row * 10_000 + broken)
    assert len(glue.open_glue("qqp", "train", folder)) == 10_000
    path.write_text(header + row * 9_999 + broken)
    with pytest.raises(DataError, match=r"QQP/train\.tsv:10001: expected 6"):
        glue.open_glue("qqp", "train", folder)


def test_names_that_are_unknown(folder):
    with pytest.raises(ConfigError, match=r"unknown task 'SST-2'"):
        glue.find_data("SST-2", data_dir=folder)
    with pytest.raises(ConfigError, match=r"unknown data 'file': known are auto, tfds, files; did you mean 'files'\?"):
        glue.find_data("rte", "file", data_dir=folder)
    with pytest.raises(ConfigError, match=r"unknown split of mnli 'dev_matched'"):
        glue.open_glue("mnli", "dev_matched", folder)


def no_fetching(*args, **kwargs):
    raise AssertionError("must not fetch")


@pytest.mark.parametrize("data", glue.DATA)
def test_a_given_folder_is_used_or_refused_and_nothing_fetched(folder, tmp_path, monkeypatch, data):
    monkeypatch.setattr(fetch, "fetch_glue", no_fetching)
    with pytest.raises(DataError, match=r"data folder .*/nowhere: expected a folder, got nothing there"):
        glue.find_data("rte", data, data_dir=tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"data folder .*: expected a folder, got a file"):
        glue.find_data("rte", data, data_dir=folder / "RTE/dev.tsv")
    with pytest.raises(DataError, match=r"data folder .*: expected .*, got dev\.tsv, train\.tsv; correct --data-dir"):
        glue.find_data("rte", data, data_dir=folder / "WNLI")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"expected .*got an empty folder"):
        glue.find_data("rte", data, data_dir=tmp_path / "empty")


def test_without_a_folder_the_cache_comes_before_the_network(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "fetch_glue", no_fetching)
    places = {"tfds_dir": tmp_path / "none", "cache_dir": folder.parent}
    assert len(glue.find_data("rte", **places).train) == 1
    assert len(glue.find_data("rte", "files", **places).train) == 1
    with pytest.raises(DataError, match=r"glue/rte: expected a prepared TFDS set in .*, got none; prepare it with"):
        glue.find_data("rte", "tfds", **places)


def test_predictions_of_dev_rows(tmp_path):
    source = as_source([{"text": "a", "label": "no", "id": "7"}, {"text": "b", "label": "yes", "id": "8"}])
    decoded = [
        {"label": "yes", "scores": {"no": 0.25, "yes": 0.75}},
        {"label": "yes", "scores": {"no": 0.0, "yes": 1.0}},
    ]
    path = tmp_path / "predictions" / "dev.jsonl"
    glue.write_predictions(path, source, decoded)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows == [
        {"id": "7", "label": "no", "prediction": "yes", "scores": {"no": 0.25, "yes": 0.75}},
        {"id": "8", "label": "yes", "prediction": "yes", "scores": {"no": 0.0, "yes": 1.0}},
    ]
    values = as_source([{"text": "a", "label": 1.5}])
    glue.write_predictions(path, values, [{"score": 2.25}])
    assert json.loads(path.read_text()) == {"id": "0", "label": 1.5, "prediction": 2.25}
    with pytest.raises(DataError, match="expected 1 predictions, got 2"):
        glue.write_predictions(path, values, decoded)


SUBMISSIONS = {
    ("cola", ""): ("CoLA.tsv", "1"),
    ("sst2", ""): ("SST-2.tsv", "1"),
    ("mrpc", ""): ("MRPC.tsv", "1"),
    ("stsb", ""): ("STS-B.tsv", "1.000"),
    ("qqp", ""): ("QQP.tsv", "1"),
    ("mnli", ""): ("MNLI-m.tsv", "neutral"),
    ("mnli", "mismatched"): ("MNLI-mm.tsv", "neutral"),
    ("qnli", ""): ("QNLI.tsv", "not_entailment"),
    ("rte", ""): ("RTE.tsv", "not_entailment"),
    ("wnli", ""): ("WNLI.tsv", "1"),
}


@pytest.mark.parametrize(("task", "suffix"), SUBMISSIONS)
def test_submissions_are_in_the_leaderboards_form(tmp_path, task, suffix):
    name, value = SUBMISSIONS[task, suffix]
    path = glue.write_submission(tmp_path, task, suffix, as_source([{"text": "a", "id": "0"}]), np.array([1]))
    assert path == tmp_path / name
    assert path.read_bytes() == f"index\tprediction\n0\t{value}\n".encode()


def test_submissions_cover_every_file_of_the_leaderboard():
    assert set(SUBMISSIONS) == {(name, suffix) for name, task in glue.TASKS.items() for suffix in task.suffixes}


def test_submissions_are_sorted_by_index_and_clipped(tmp_path):
    source = as_source([{"text": "a", "id": i} for i in ("10", "2", "0")])
    path = glue.write_submission(tmp_path, "stsb", "", source, np.array([5.7, -0.3, 3.14159], np.float32))
    assert path.read_text() == "index\tprediction\n0\t3.142\n2\t0.000\n10\t5.000\n"


def test_submissions_that_cannot_be_written(tmp_path):
    source = as_source([{"text": "a"}])
    with pytest.raises(ConfigError, match="unknown test set of rte 'mismatched'"):
        glue.write_submission(tmp_path, "rte", "mismatched", source, [0])
    with pytest.raises(DataError, match="expected 1 predictions, got 2"):
        glue.write_submission(tmp_path, "rte", "", source, [0, 1])
    with pytest.raises(DataError, match=r"row 0: expected an index .*got 'x7'"):
        glue.write_submission(tmp_path, "rte", "", as_source([{"text": "a", "id": "x7"}]), [0])
    with pytest.raises(DataError, match=r"expected a finite score, got nan"):
        glue.write_submission(tmp_path, "stsb", "", source, [math.nan])
    (tmp_path / "taken").write_text("")
    with pytest.raises(DataError, match=r"taken/RTE\.tsv: expected to write to it, got (Not a directory|File exists)"):
        glue.write_submission(tmp_path / "taken", "rte", "", source, [0])


ROWS = {
    "cola": (8551, 1043, 1063),
    "sst2": (67349, 872, 1821),
    "mrpc": (3668, 408, 1725),
    "stsb": (5749, 1500, 1379),
    "qqp": (28868, 4000, None),
    "mnli": (22641, 9815, None),
    "qnli": (19476, 5463, 5463),
    "rte": (2490, 277, 3000),
    "wnli": (635, 71, None),
}


@pytest.mark.parametrize("task", glue.TASKS)
def test_real_data(shared_data: Path, task):
    splits = glue.find_data(task, data_dir=shared_data / "glue")
    tests = len(splits.tests[""]) if splits.tests else None
    assert (len(splits.train), len(splits.evals[""]), tests) == ROWS[task]
    labels = [row["label"] for row in map(splits.train.__getitem__, range(len(splits.train)))]
    if task == "stsb":
        assert (min(labels), max(labels)) == (0.0, 5.0)
    else:
        assert set(labels) == set(range(len(splits.train.features.labels)))
    if task == "mnli":
        assert len(splits.evals["mismatched"]) == 1000


def test_real_rows_with_a_lone_quote(shared_data: Path):
    row = glue.open_glue("mrpc", "dev", shared_data / "glue")[0]
    assert row["text_pair"] == '"The foodservice pie business does not fit our long-term growth strategy.'
