"""Learn from your own texts and labels: `python -m train.classify --train=a.csv --dev=b.csv --backbone=minilm`.

One class for each text, several, or a value; CSV, TSV, JSONL, Parquet, folders of text files, prepared TFDS sets, sets
that `datasets` saved. The run folder is that of `train.glue`.
"""

import dataclasses
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import tyro

from adapters_jax.data.bad import BadRows, OnBadRow
from adapters_jax.data.columns import Columns
from adapters_jax.data.labels import balanced, weighted
from adapters_jax.data.overview import lines_of, overview, shared_rows
from adapters_jax.data.own import Form, Own, read_own
from adapters_jax.data.places import open_table
from adapters_jax.data.source import Features, Source, take
from adapters_jax.data.splitting import DEV_SHARE, hold_out
from adapters_jax.data.tfds import DEFAULT_DIR
from adapters_jax.errors import ConfigError, unknown
from train import flags

METRICS = {
    "classification": ("accuracy", "macro_f1", "matthews"),
    "multilabel": ("micro_f1", "macro_f1", "subset_accuracy"),
    "regression": ("pearson", "spearman"),
}
"""By what the labels are."""
DEFAULT_METRICS = METRICS | {"classification": ("accuracy", "macro_f1")}
SAMPLE = 4000
"""Rows of a set whose lengths are told. What is trained on is tokenised once more, cut at --max-length."""
UNCUT = 10**6
"""Tokens; longer texts are told as so long."""

Guessed = tyro.conf.arg(help_behavior_hint="(default: by its usual names)", metavar="COLUMN")


@dataclasses.dataclass(frozen=True)
class Flags(flags.Training):
    """What `python -m train.classify` can be told."""

    train: Annotated[str | None, flags.Unset] = None
    """Rows to learn from: a .csv, .tsv, .jsonl or .parquet file, a folder, or tfds:NAME; #SPLIT behind it."""
    dev: Annotated[str | None, flags.Unset] = None
    """Rows to evaluate on, which choose the best step (default: a share of --train is held out)."""
    test: Annotated[str | None, flags.Unset] = None
    """Further rows, with labels or without, to score or answer once, at the end."""
    text: Annotated[str | None, Guessed] = None
    """The column with the text."""
    text_pair: Annotated[str | None, Guessed] = None
    """The column with the second text, where there are pairs."""
    label: Annotated[str | None, Guessed] = None
    """The column with the label."""
    id: Annotated[str | None, Guessed] = None
    """The column with what each row is called in the predictions; must differ in all."""
    kind: Literal["auto", "single", "multi", "regression"] = "auto"
    """One class per row, any number of them, a value; auto: by the labels' looks."""
    label_separator: Annotated[str | None, flags.Unset] = None
    """Between the classes of a cell (default: | with --kind=multi); a row may have several then."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: rows of rare classes count more in the loss, so that all classes count alike."""
    dev_share: Annotated[float | None, flags.Unset] = None
    """Of the rows of --train, held out where there is no --dev (default: 0.1)."""
    split_seed: int = 0
    """Of that split; --seed does not change it."""
    metrics: Annotated[tuple[str, ...], flags.Unset] = ()
    """What to score, the first chooses the best step (default: by the labels' kind)."""
    on_bad_row: OnBadRow = "error"
    """What to do with rows that cannot be used: stop at the first, or skip and count them."""
    tfds_dir: str = DEFAULT_DIR
    """Where tfds:NAME is prepared."""

    def task_name(self) -> str:
        if self.train is None:
            raise ConfigError("--train: expected a file, a folder or tfds:NAME with texts and labels, got none")
        if self.dev is not None and self.dev_share is not None:
            raise ConfigError("--dev-share: expected no --dev beside it, whose rows are all to evaluate on, got both")
        if self.label_separator == "":
            raise ConfigError("--label-separator: expected a text between classes, got an empty one")
        if self.label_separator is not None and self.kind not in ("auto", "multi"):
            raise ConfigError(f"--label-separator: expected --kind=multi, got {self.kind}")
        return "classify"

    def form(self) -> Form:
        """How rows are to be read, as far as it is told."""
        columns = Columns(self.text, self.text_pair, self.label, self.id)
        return Form(columns, None if self.kind == "auto" else self.kind, self.label_separator)


def main(argv: Sequence[str] | None = None) -> None:
    """Flags, configuration, run."""
    flags.start(run, argv, "train.classify", __doc__, Flags)


def run(config: flags.Config) -> None:
    """Trains on the rows, and writes what is predicted."""
    # What needs JAX is imported here, so that `--help` and misspelled flags answer at once.
    from train import job

    job.run(config, open_work, add=predict)


def open_work(config: flags.Config, backbone: Any) -> Any:
    """The rows, their summary, the head that the labels ask for."""
    from train import common, job

    f, bad = config.flags, BadRows(config.flags.on_bad_row)
    own = _read(f, bad, f.train, "train", f.form())
    train: Source = own.source
    like, form, split = train.features, own.form, None
    sets, read = dict[str, Source](), {"train": own.read}
    if f.dev is None:
        parts = hold_out(train, DEV_SHARE if f.dev_share is None else f.dev_share, f.split_seed)
        train, sets[""], split = parts.train, parts.dev, parts.record
    else:
        sets[""], _, read["dev"] = _read(f, bad, f.dev, "dev", form, like)
    if f.test is not None:
        sets["test"], _, read["test"] = _read(f, bad, f.test, "test", form, like)
    train = take(train, f.train_rows)
    evals = {suffix: take(source, f.eval_rows) for suffix, source in sets.items() if "label" in source[0]}
    tests = {suffix: source for suffix, source in sets.items() if suffix not in evals}
    metrics = _metrics(f.metrics, like)
    summary = _summary(config, backbone, {"train": train, "dev": evals[""], "test": {**tests, **evals}.get("test")})
    for name, told in read.items():
        summary[name]["read"] = list(told)
    for line in lines_of(summary):
        print(line, file=sys.stderr)
    if bad.skipped:
        print(bad.summary(), file=sys.stderr)
    weights = {} if f.class_weights == "none" else balanced(train)
    head = common.head_for(train)
    if weights and like.kind == "multilabel":
        head = dataclasses.replace(head, positive_weights=tuple(weights[name] for name in like.labels))
    elif weights:
        train = weighted(train, weights)
    extra: dict[str, Any] = {
        "columns": like.columns,
        "form": form.to_dict(),
        "data_summary": summary | {"skipped": bad.skipped, "skipped_first": bad.messages},
        "split": split,
        "class_weights": weights,
    }
    return job.Work(train, evals, head, metrics, metrics[0], extra, tests)


def _read(f: Any, bad: BadRows, where: str, role: str, form: Form, like: Features | None = None) -> Own:
    return read_own(open_table(where, bad, role, f.tfds_dir), form, bad, like, labelled=role != "test")


def _metrics(given: tuple[str, ...], features: Features) -> tuple[str, ...]:
    known = METRICS[features.kind] + (("f1",) if len(features.labels) == 2 else ())
    for name in given:
        if name not in known:
            raise ConfigError(f"--metrics: {unknown(f'metric of a {features.kind}', name, known)}")
    return given or DEFAULT_METRICS[features.kind]


def _summary(config: flags.Config, backbone: Any, sets: dict[str, Any]) -> dict[str, Any]:
    from adapters_jax.data.tokenize import encode

    summary = {}
    for name, source in sets.items():
        if source is not None:
            lengths = encode(take(source, SAMPLE), backbone.tokenizer, UNCUT).lengths
            summary[name] = overview(source, lengths, config.flags.max_length)
            if name != "train":
                summary[name]["in_train"] = shared_rows(sets["train"], source)
    return summary


def predict(outcome: Any) -> dict[str, Any]:
    """Writes predictions/dev.jsonl and test.jsonl: a line for each row."""
    from adapters_jax.data.glue import write_predictions
    from adapters_jax.training.processes import is_first
    from train import common

    work, head = outcome.work, outcome.model.head
    tests = outcome.score(work.tests)
    if is_first():
        for suffix, logits in {**outcome.scores.logits, **tests.logits}.items():
            path = outcome.config.out_dir / "predictions" / f"{suffix or 'dev'}.jsonl"
            write_predictions(path, {**work.evals, **work.tests}[suffix], head.decode(logits))
    return {"truncated": common.by_split("dev", tests.truncated)}


if __name__ == "__main__":
    main()
