"""Learn to find answers in texts: `python -m train.squad --train=FILE --dev=FILE`.

Files are JSON of SQuAD v1.1 or v2.0, see docs/tasks/squad.md. The run folder is that of `train.glue`;
predictions/predictions.json holds the answers as SQuAD's official script reads them, of v2.0 beside null_odds.json.
"""

import dataclasses
import json
import math
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import adapters_jax as aj
from adapters_jax.data.bad import BadRows, OnBadRow
from adapters_jax.data.source import take
from adapters_jax.data.squad import read_squad
from adapters_jax.errors import ConfigError
from train import flags


@dataclasses.dataclass(frozen=True)
class Flags(flags.Training):
    """What `python -m train.squad` can be told."""

    train: Annotated[str | None, flags.Unset] = None
    """A file to learn from, in the form of SQuAD v1.1 or v2.0."""
    dev: Annotated[str | None, flags.Unset] = None
    """A file to evaluate on, which chooses the best step and when to give no answer."""
    test: Annotated[str | None, flags.Unset] = None
    """A further file to evaluate on, once, at the end, with that threshold."""
    max_length: int = 384
    """Tokens of a window: the question and a part of its context."""
    doc_stride: int = 128
    """Tokens of the context between the starts of two windows."""
    max_question_length: int = 64
    """Tokens of a question; longer ones are cut and counted."""
    n_best: int = 20
    """So many answers are kept of each window."""
    max_answer_tokens: int = 30
    """Tokens of the longest answer."""
    nbest: bool = False
    """Also write the n best answers of each question, nbest_predictions.json."""
    on_bad_row: OnBadRow = "error"
    """What to do with a question that cannot be used: stop, or skip and count it."""

    def task_name(self) -> str:
        for name in ("train", "dev"):
            if getattr(self, name) is None:
                raise ConfigError(f"--{name}: expected a JSON file of SQuAD's form, got none")
        return "squad"


def main(argv: Sequence[str] | None = None) -> None:
    """Flags, configuration, run."""
    flags.start(run, argv, "train.squad", __doc__, Flags)


def run(config: flags.Config) -> None:
    """Trains on the questions, and writes the answers."""
    # What needs JAX is imported here, so that `--help` and misspelled flags answer at once.
    from train import job

    job.run(config, open_work, note=note, add=predict)


def open_work(config: flags.Config, backbone: Any) -> Any:
    """The windows of the files, and the head that finds answers."""
    from adapters_jax.data.windows import METRICS, WindowRows, encode_windows
    from train import job

    f = config.flags
    head = aj.QuestionAnswering(n_best=f.n_best, max_answer_tokens=f.max_answer_tokens)
    lengths = {"doc_stride": f.doc_stride, "max_question_length": f.max_question_length}
    summary: dict[str, Any] = {}

    def rows(name: str, file: str, count: int | None) -> WindowRows:
        bad = BadRows(f.on_bad_row)
        questions = take(read_squad(file, bad), count)
        encoded = encode_windows(questions, backbone.tokenizer, f.max_length, **lengths)
        summary[name] = encoded.summary() | ({"skipped": bad.skipped} if bad.skipped else {})
        told = ", ".join(f"{key.replace('_', ' ')} {value:,}" for key, value in summary[name].items())
        print(f"{file}: {told}", file=sys.stderr)
        if bad.skipped:
            print(f"{file}: {bad.summary()}", file=sys.stderr)
        return encoded

    train, dev = rows("train", f.train, f.train_rows), rows("dev", f.dev, f.eval_rows)
    tests = {} if f.test is None else {"test": rows("test", f.test, f.eval_rows)}
    metrics = METRICS if dev.impossible else head.metrics
    extra = {"data_summary": summary, **lengths}
    return job.Work(train, {"": dev}, head, metrics, metrics[0], extra=extra, tests=tests)


def note(outcome: Any) -> dict[str, Any]:
    """The threshold that dev gives: into the artefact, and into the result."""
    threshold = outcome.work.evals[""].tune(outcome.scores.logits[""])
    return {} if threshold == math.inf else {"no_answer_threshold": threshold}


def predict(outcome: Any) -> dict[str, Any]:
    """Scores the test set with the threshold of dev, and writes the answers to both sets."""
    from adapters_jax.data.windows import METRICS

    dev = outcome.work.evals[""]
    threshold = dev.tune(outcome.scores.logits[""])
    tests = {suffix: rows.with_threshold(threshold) for suffix, rows in outcome.work.tests.items()}
    metrics = METRICS if any(rows.impossible for rows in tests.values()) else outcome.model.head.metrics
    scores = outcome.score(tests, metrics)
    write(outcome, "", dev.with_threshold(threshold), outcome.scores.logits[""])
    for suffix, rows in tests.items():
        write(outcome, f"{suffix}_", rows, scores.logits[suffix])
    return {"metrics": outcome.scores.metrics | scores.metrics, "truncated": scores.truncated}


def write(outcome: Any, prefix: str, rows: Any, answers: Any) -> None:
    """predictions.json (question -> answer), null_odds.json where there is a threshold, nbest_predictions.json; of
    several processes, the first writes."""
    from adapters_jax.training.processes import is_first

    if not is_first():
        return
    folder = outcome.config.out_dir / "predictions"
    folder.mkdir(exist_ok=True)
    files: dict[str, Any] = {"predictions": rows.texts(answers)}
    if rows.threshold != math.inf:
        files["null_odds"] = rows.odds(answers)
    if outcome.config.flags.nbest:
        files["nbest_predictions"] = rows.nbest(answers, outcome.config.flags.n_best)
    for name, content in files.items():
        (folder / f"{prefix}{name}.json").write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
