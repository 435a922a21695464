"""The table of GLUE's nine tasks (Wang et al. 2019): columns, labels, metrics, files, recipes of their own."""

import dataclasses
from collections.abc import Mapping

from adapters_jax.data.source import Features
from adapters_jax.errors import ConfigError, unknown

_NO_YES = ("0", "1")
_FILES = {"train": "train.tsv", "dev": "dev.tsv", "test": "test.tsv"}
_TFDS = {"train": "train", "dev": "validation", "test": "test"}
_PAIR = ("sentence1", "sentence2")

# Houlsby et al. (2019, section 3.2) choose between 3 and 20 epochs: here 3 over 60,000 rows, 20 under 3,000. Between
# them stay the 5 epochs of the released command (google-research/adapter-bert, README, for MRPC), the method's recipe.
_LARGE: Mapping[str, Mapping[str, float]] = {"houlsby": {"epochs": 3.0}}
_SMALL: Mapping[str, Mapping[str, float]] = {"houlsby": {"epochs": 20.0}}


@dataclasses.dataclass(frozen=True)
class GlueTask:
    """One task. Its splits are train, dev and test, for MNLI also dev_mismatched and test_mismatched.

    Attributes:
      folder: the folder's name in the official archive.
      texts: the header's names of one or two text columns.
      label: the header's name of the label column.
      labels: the class names, in TFDS's order; empty for STS-B.
      file_labels: the same classes as the files and the leaderboard write them.
      metrics: what the leaderboard reports.
      best_metric: the one that chooses the best step, on the main dev set.
      files: split -> file name.
      tfds_texts: TFDS's names of the text columns.
      tfds_splits: split -> TFDS's name of it.
      submissions: suffix -> the leaderboard's file name.
      headers: split -> column names, for files without a header.
      rows_per_broken: short rows tolerated, see `read_table`.
      recipes: method -> what the task needs otherwise than the method's recipe says (epochs, lr, batch_size).
    """

    name: str
    folder: str
    texts: tuple[str, ...]
    label: str
    labels: tuple[str, ...]
    file_labels: tuple[str, ...]
    metrics: tuple[str, ...]
    best_metric: str
    submissions: Mapping[str, str]
    tfds_texts: tuple[str, ...]
    tfds_splits: Mapping[str, str] = dataclasses.field(default_factory=lambda: _TFDS)
    files: Mapping[str, str] = dataclasses.field(default_factory=lambda: _FILES)
    headers: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    rows_per_broken: int = 0
    recipes: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)

    @property
    def features(self) -> Features:
        """The rows' columns and labels, whatever they are read from."""
        columns = ("text", "text_pair")[: len(self.texts)]
        return Features(columns, self.labels, "classification" if self.labels else "regression")

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Of its evaluation and test sets: "" is the main one."""
        return tuple(self.submissions)


_COLA_HEADER = ("source", "label", "mark", "sentence")
_MNLI_SPLITS = {
    "train": "train",
    "dev": "dev_matched",
    "dev_mismatched": "dev_mismatched",
    "test": "test_matched",
    "test_mismatched": "test_mismatched",
}

TASKS: dict[str, GlueTask] = {
    task.name: task
    for task in (
        GlueTask(
            name="cola",
            folder="CoLA",
            texts=("sentence",),
            label="label",
            labels=("unacceptable", "acceptable"),
            file_labels=_NO_YES,
            metrics=("matthews",),
            best_metric="matthews",
            submissions={"": "CoLA.tsv"},
            tfds_texts=("sentence",),
            headers={"train": _COLA_HEADER, "dev": _COLA_HEADER},
        ),
        GlueTask(
            name="sst2",
            folder="SST-2",
            texts=("sentence",),
            label="label",
            labels=("negative", "positive"),
            file_labels=_NO_YES,
            metrics=("accuracy",),
            best_metric="accuracy",
            submissions={"": "SST-2.tsv"},
            tfds_texts=("sentence",),
            recipes=_LARGE,
        ),
        GlueTask(
            name="mrpc",
            folder="MRPC",
            texts=("#1 String", "#2 String"),
            label="Quality",
            labels=("not_equivalent", "equivalent"),
            file_labels=_NO_YES,
            metrics=("f1", "accuracy"),
            best_metric="accuracy",  # the released code's metric; F1 is 0.81 without looking at the text
            submissions={"": "MRPC.tsv"},
            tfds_texts=_PAIR,
        ),
        GlueTask(
            name="stsb",
            folder="STS-B",
            texts=_PAIR,
            label="score",
            labels=(),
            file_labels=(),
            metrics=("pearson", "spearman"),
            best_metric="pearson",
            submissions={"": "STS-B.tsv"},
            tfds_texts=_PAIR,
        ),
        GlueTask(
            name="qqp",
            folder="QQP",
            texts=("question1", "question2"),
            label="is_duplicate",
            labels=("not_duplicate", "duplicate"),
            file_labels=_NO_YES,
            metrics=("f1", "accuracy"),
            best_metric="accuracy",
            submissions={"": "QQP.tsv"},
            tfds_texts=("question1", "question2"),
            rows_per_broken=10_000,  # a few questions of the official train file hold line feeds; TFDS drops them too
            recipes=_LARGE,
        ),
        GlueTask(
            name="mnli",
            folder="MNLI",
            texts=_PAIR,
            label="gold_label",
            labels=("entailment", "neutral", "contradiction"),
            file_labels=("entailment", "neutral", "contradiction"),
            metrics=("accuracy",),
            best_metric="accuracy",
            submissions={"": "MNLI-m.tsv", "mismatched": "MNLI-mm.tsv"},
            tfds_texts=("premise", "hypothesis"),
            tfds_splits={split: name.replace("dev", "validation") for split, name in _MNLI_SPLITS.items()},
            files={split: f"{name}.tsv" for split, name in _MNLI_SPLITS.items()},
            recipes=_LARGE,
        ),
        GlueTask(
            name="qnli",
            folder="QNLI",
            texts=("question", "sentence"),
            label="label",
            labels=("entailment", "not_entailment"),
            file_labels=("entailment", "not_entailment"),
            metrics=("accuracy",),
            best_metric="accuracy",
            submissions={"": "QNLI.tsv"},
            tfds_texts=("question", "sentence"),
            recipes=_LARGE,
        ),
        GlueTask(
            name="rte",
            folder="RTE",
            texts=_PAIR,
            label="label",
            labels=("entailment", "not_entailment"),
            file_labels=("entailment", "not_entailment"),
            metrics=("accuracy",),
            best_metric="accuracy",
            submissions={"": "RTE.tsv"},
            tfds_texts=_PAIR,
            recipes=_SMALL,
        ),
        GlueTask(
            name="wnli",
            folder="WNLI",
            texts=_PAIR,
            label="label",
            labels=("not_entailment", "entailment"),
            file_labels=_NO_YES,
            metrics=("accuracy",),
            best_metric="accuracy",
            submissions={"": "WNLI.tsv"},
            tfds_texts=_PAIR,
            recipes=_SMALL,
        ),
    )
}


def find_task(name: str) -> GlueTask:
    """The task of that name.

    Raises:
      ConfigError: an unknown name, with the known and nearest ones.
    """
    if name not in TASKS:
        raise ConfigError(unknown("task", name, TASKS))
    return TASKS[name]


def recipe(task: str, method: str) -> dict[str, float]:
    """What a task needs otherwise than the recipe of a method says: some of epochs, lr, batch_size; often nothing.

    Raises:
      ConfigError: an unknown task.
    """
    return dict(find_task(task).recipes.get(method, {}))
