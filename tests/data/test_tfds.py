"""Prepared TFDS sets: built here as ArrayRecord, without TensorFlow, and read back."""

import json
import subprocess
import sys

import numpy as np
import pytest

from adapters_jax.data import glue, tfds
from adapters_jax.errors import DataError

MNLI = ["entailment", "neutral", "contradiction"]


def rows(n, texts, labels, test=False):
    """Rows whose texts name their number and label; `labels` of None gives scores."""
    for i in range(n):
        label = i % len(labels) if labels else i % 6
        value = -1 if test else label
        name = "none" if test else labels[label] if labels else str(label)
        yield i, {t: f"{t} {i} {name} é" for t in texts} | {"label": value, "idx": i}


def prepare(folder, config, texts, labels, splits, version="2.0.0", fmt="array_record"):
    """A prepared set as `tfds build` leaves it."""
    import tensorflow_datasets as lib

    with lib.core.registered.skip_registration():

        class Glue(lib.core.GeneratorBasedBuilder):
            name = "glue"
            pkg_dir_path = None
            VERSION = lib.core.Version(version)
            BUILDER_CONFIGS = [lib.core.BuilderConfig(name=config, version=version)]  # noqa: RUF012

            def _info(self):
                label = lib.features.ClassLabel(names=labels) if labels else np.float32
                texts_ = {text: lib.features.Text() for text in texts}
                features = lib.features.FeaturesDict(texts_ | {"label": label, "idx": np.int32})
                return lib.core.DatasetInfo(builder=self, description="tiny", features=features)

            def _split_generators(self, dl_manager):
                return {name: rows(n, texts, labels, "test" in name) for name, n in splits.items()}

            def _generate_examples(self):
                raise NotImplementedError

    Glue(config=config, data_dir=folder, file_format=fmt).download_and_prepare()


SPLITS = {"train": 12, "validation": 6, "test": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    # Not in our order: the numbers have to be mapped by name.
    mnli = {"train": 12, "validation_matched": 6, "validation_mismatched": 3, "test_matched": 2, "test_mismatched": 2}
    prepare(folder, "mnli", ("premise", "hypothesis"), MNLI[::-1], mnli)
    prepare(folder, "stsb", ("sentence1", "sentence2"), None, SPLITS)
    prepare(folder, "sst2", ("sentence",), ["0", "1"], {"train": 4, "validation": 2})
    prepare(folder, "rte", ("sentence1", "sentence2"), ["yes", "no"], SPLITS)
    prepare(folder, "cola", ("phrase",), ["unacceptable", "acceptable"], SPLITS)
    prepare(folder, "wnli", ("sentence1", "sentence2"), ["not_entailment", "entailment"], {"train": 4, "test": 2})
    return folder


def all_rows(source):
    return [source[i] for i in range(len(source))]


def test_class_numbers_are_mapped_by_name_and_texts_decoded(folder):
    splits = glue.find_data("mnli", "tfds", data_dir=folder)
    assert (len(splits.train), len(splits.evals[""]), len(splits.evals["mismatched"])) == (12, 6, 3)
    assert splits.train.features == glue.TASKS["mnli"].features
    assert splits.train.name == "glue/mnli/train"
    ids = set()
    for row in all_rows(splits.train):
        ids.add(row["id"])
        assert row["text"] == f"premise {row['id']} {MNLI[row['label']]} é"
        assert row["text_pair"].startswith("hypothesis")
        assert isinstance(row["label"], int)
    assert ids == {str(i) for i in range(12)}


def test_test_rows_have_no_label_and_their_submission_is_in_order(folder, tmp_path):
    splits = glue.find_data("stsb", data_dir=folder)
    test = splits.tests[""]
    assert all("label" not in row for row in all_rows(test))
    assert {row["label"] for row in all_rows(splits.train)} == {0.0, 1.0, 2.0, 3.0, 4.0, 5.0}
    assert all(row["text"] == f"sentence1 {row['id']} {row['label']:.0f} é" for row in all_rows(splits.train))
    path = glue.write_submission(tmp_path, "stsb", "", test, np.array([float(row["id"]) for row in all_rows(test)]))
    assert path.read_text().splitlines()[1:] == [f"{i}\t{i}.000" for i in range(4)]


def test_other_names_of_the_same_classes_and_no_test_split(folder):
    splits = glue.find_data("sst2", data_dir=folder)
    assert splits.tests == {}
    assert all(row["text"].endswith(f" {row['label']} é") for row in all_rows(splits.train))


def test_a_prepared_set_comes_first(folder, tmp_path):
    assert len(glue.find_data("sst2", tfds_dir=folder, cache_dir=tmp_path).train) == 4
    assert len(glue.find_data("sst2", data_dir=folder / "glue").train) == 4  # the folder of the set itself
    (folder / "SST-2").mkdir(exist_ok=True)
    (folder / "SST-2" / "train.tsv").write_text("sentence\tlabel\nonly\t1\n")
    (folder / "SST-2" / "dev.tsv").write_text("sentence\tlabel\nonly\t1\n")
    assert len(glue.find_data("sst2", data_dir=folder).train) == 4
    assert len(glue.find_data("sst2", "files", data_dir=folder).train) == 1


def test_the_newest_version_is_read(tmp_path):
    for version, n in (("10.0.0", 3), ("2.0.0", 2), ("9.1.0", 1)):
        prepare(tmp_path, "sst2", ("sentence",), ["negative", "positive"], {"train": n, "validation": 1}, version)
    assert len(glue.find_data("sst2", data_dir=tmp_path).train) == 3


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("rte", "expected the classes entailment, not_entailment, got yes, no"),
        ("cola", r"unknown column 'sentence': known are "),
        ("wnli", "unknown split 'validation': known are "),
        ("qqp", r"expected a prepared TFDS set glue/qqp, got .*glue"),
    ],
)
def test_sets_that_are_not_the_tasks(folder, task, message):
    with pytest.raises(DataError, match=message) as caught:
        glue.find_data(task, "tfds", data_dir=folder)
    assert "\n" not in str(caught.value)


def test_a_set_in_another_file_format(folder, tmp_path):
    source = tfds.prepared(folder, "sst2")
    target = tmp_path / "glue" / "sst2" / "2.0.0"
    target.mkdir(parents=True)
    info = json.loads((source / "dataset_info.json").read_text()) | {"fileFormat": "tfrecord"}
    (target / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(
        DataError, match=r"expected a set prepared as array_record, got tfrecord; prepare it again with"
    ):
        glue.find_data("sst2", data_dir=tmp_path)
    (tmp_path / "cache" / "glue" / "SST-2").mkdir(parents=True)
    for name in ("train.tsv", "dev.tsv"):
        (tmp_path / "cache" / "glue" / "SST-2" / name).write_text("sentence\tlabel\nonly\t1\n")
    # Not given by the user, so passed over.
    assert len(glue.find_data("sst2", tfds_dir=tmp_path, cache_dir=tmp_path / "cache").train) == 1


def test_damaged_sets(folder, tmp_path):
    target = tmp_path / "glue" / "sst2" / "2.0.0"
    target.mkdir(parents=True)
    (target / "dataset_info.json").write_text("{")
    with pytest.raises(DataError, match=r"dataset_info\.json: expected TFDS's description, got"):
        glue.find_data("sst2", data_dir=tmp_path)
    (target / "dataset_info.json").write_text((tfds.prepared(folder, "sst2") / "dataset_info.json").read_text())
    with pytest.raises(DataError, match=r"expected a prepared TFDS set, got .*; prepare it again") as caught:
        glue.find_data("sst2", data_dir=tmp_path)
    assert "\n" not in str(caught.value)
    for path in tfds.prepared(folder, "sst2").iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    assert len(glue.find_data("sst2", data_dir=tmp_path).train) == 4
    for damage in (lambda path: path.write_bytes(path.read_bytes()[:-50_000]), lambda path: path.unlink()):
        damage(target / "glue-validation.array_record-00000-of-00001")
        with pytest.raises(DataError, match=r"expected row \d of glue/sst2/validation, got .*"):
            glue.find_data("sst2", data_dir=tmp_path)


def test_reading_needs_no_tensorflow(folder, repo):
    code = (
        "import sys\n"
        "from adapters_jax.data import glue\n"
        "assert 'tensorflow_datasets' not in sys.modules\n"
        f"print(len(glue.find_data('mnli', data_dir={str(folder)!r}).train))\n"
        "assert 'tensorflow' not in sys.modules and 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=repo, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["12"]
