"""Learn a tag for each word: `python -m train.tag --train=FILE --dev=FILE`.

Names in a text (BIO or IOB1 in CoNLL columns) or parts of speech (CoNLL-U). The run folder is that of `train.glue`;
predictions/ holds a line "word true-tag predicted-tag" for each word, which is what conlleval reads. See
docs/tasks/tag.md.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import adapters_jax as aj
from adapters_jax.data.bad import BadRows, OnBadRow
from adapters_jax.data.source import Subset, take
from adapters_jax.data.splitting import DEV_SHARE, hold_out
from adapters_jax.data.tagged import Column, Format, Scheme, Tagged, read_tagged
from adapters_jax.errors import ConfigError
from train import flags


@dataclasses.dataclass(frozen=True)
class Flags(flags.Training):
    """What `python -m train.tag` can be told."""

    train: Annotated[str | None, flags.Unset] = None
    """A file to learn from: a line per word, or CoNLL-U."""
    dev: Annotated[str | None, flags.Unset] = None
    """A file of the same form to evaluate on, which chooses the best step."""
    dev_share: Annotated[float | None, flags.Unset] = None
    """Of the sentences of --train, held out where there is no --dev (default: 0.1)."""
    split_seed: int = 0
    """Of that split; --seed does not change it."""
    test: Annotated[str | None, flags.Unset] = None
    """A further file to evaluate on, once, at the end."""
    format: Format = "auto"
    """Of each file; auto: conllu by the ending .conllu, else conll (columns)."""
    word_column: int = 1
    """Of a column file, where the words stand, from 1; -1 is the last column."""
    tag_column: int = -1
    """Of a column file, where the tags stand."""
    column: Column = "upos"
    """Of CoNLL-U: universal or language-specific parts of speech."""
    scheme: Scheme = "auto"
    """How a column file's tags name spans; auto looks, none takes them as they stand."""
    on_bad_row: OnBadRow = "error"
    """What to do with a sentence that cannot be used: stop, or skip and count it."""

    def task_name(self) -> str:
        if self.train is None:
            raise ConfigError("--train: expected a file of words with tags, got none")
        if self.dev is not None and self.dev_share is not None:
            raise ConfigError("--dev-share: expected no --dev beside it, all of which is to evaluate on, got both")
        return "tag"


def main(argv: Sequence[str] | None = None) -> None:
    """Flags, configuration, run."""
    flags.start(run, argv, "train.tag", __doc__, Flags)


def run(config: flags.Config) -> None:
    """Trains on the sentences, and writes what is predicted."""
    # What needs JAX is imported here, so that `--help` and misspelled flags answer at once.
    from train import job

    job.run(config, open_work, add=predict)


def open_work(config: flags.Config, backbone: Any) -> Any:
    """The rows of the files, and the head over their tags."""
    from adapters_jax.data.tagged_rows import encode_tagged
    from train import job

    f = config.flags
    summary: dict[str, Any] = {}
    skipped: dict[str, int] = {}
    form = {name: getattr(f, name) for name in ("format", "word_column", "tag_column", "column", "scheme")}

    def read(name: str, file: str, labels: tuple[str, ...] | None = None) -> Tagged:
        bad = BadRows(f.on_bad_row)
        found = read_tagged(file, bad, labels=labels, **form)
        skipped[name] = bad.skipped
        if bad.skipped:
            print(f"{file}: {bad.summary()}", file=sys.stderr)
        return found

    train, split = read("train", f.train), None
    labels = train.labels
    evals: dict[str, Tagged] = {}
    if f.dev is None:
        parts = hold_out(train, DEV_SHARE if f.dev_share is None else f.dev_share, f.split_seed)
        evals[""], split = train.part(parts.dev.indices.tolist(), parts.dev.name), parts.record
        train = train.part(parts.train.indices.tolist(), parts.train.name)
    else:
        evals[""] = read("dev", f.dev, labels)
    if f.test is not None:
        evals["test"] = read("test", f.test, labels)
    train = sample(train, f.train_rows)
    seen = {sentence.words for sentence in train.sentences}

    def encode(name: str, source: Tagged) -> Any:
        rows = encode_tagged(source, labels, backbone.tokenizer, f.max_length)
        found = source.summary() | {"skipped": skipped.get(name, 0), "split": rows.split, "truncated": rows.truncated}
        found |= {} if source is train else {"in_train": sum(one.words in seen for one in source.sentences)}
        summary[name] = found
        print(told(name, found), file=sys.stderr)
        return rows

    head = aj.TokenClassification(labels=labels)
    rows = encode("train", train)
    return job.Work(
        rows,
        {suffix: encode(suffix or "dev", sample(source, f.eval_rows)) for suffix, source in evals.items()},
        head,
        rows.metrics,
        rows.metrics[0],
        extra={"data_summary": summary, "split": split, "form": form},
    )


def sample(source: Tagged, count: int | None) -> Tagged:
    """A fixed sample of the sentences, or all of them."""
    taken = take(source, count)
    return source.part(taken.indices.tolist(), taken.name) if isinstance(taken, Subset) else source


def told(name: str, found: dict[str, Any]) -> str:
    """What was read of a file, in a line."""
    kinds = "spans" if "spans" in found else "tags"
    each = ", ".join(f"{kind} {number:,}" for kind, number in found[kinds].items()) or "none"
    in_train = f"; {found['in_train']:,} sentences are in train too" if found.get("in_train") else ""
    cut = f"; {found['truncated']:,} words longer than a row were cut" if found["truncated"] else ""
    return (
        f"{name}: {found['file']}: {found['sentences']:,} sentences, {found['words']:,} words, {kinds} "
        f"({found['scheme']}): {each}; the longest sentence has {found['longest']:,} words, {found['split']:,} "
        f"sentences are in several rows{cut}{in_train}"
    )


def predict(outcome: Any) -> dict[str, Any]:
    """Writes dev.conll and test.conll (of several processes, the first); the scores of each type are in the result."""
    from adapters_jax.training.processes import is_first

    folder = outcome.config.out_dir / "predictions"
    types = {}
    for suffix, rows in outcome.work.evals.items():
        answers, name = outcome.scores.logits[suffix], suffix or "dev"
        types[name] = {
            kind: {"precision": found.precision, "recall": found.recall, "f1": found.f1, "true": found.true}
            for kind, found in rows.counts(answers)[1].items()
        }
        if is_first():
            folder.mkdir(exist_ok=True)
            write_conll(folder / f"{name}.conll", rows, answers)
    return {"types": types}


def write_conll(file: Path, rows: Any, answers: Any) -> None:
    """A line "word true-tag predicted-tag" for each word, and a blank one after each sentence."""
    tagged = zip(rows.sentences, rows.true_tags(), rows.predicted_tags(answers), strict=True)
    with file.open("w", encoding="utf-8", newline="\n") as stream:
        for sentence, true, predicted in tagged:
            lines = zip(sentence.words, true, predicted, strict=True)
            stream.write("".join(f"{word} {theirs} {ours}\n" for word, theirs, ours in lines) + "\n")


if __name__ == "__main__":
    main()
