"""Choose among answers, or rank candidates: `python -m train.choose --train=FILE --dev=FILE [--kind=ranking]`.

Files are JSONL: {"text": ..., "choices": [...], "label": ...}, see docs/tasks/choose.md. The run folder is that of
`train.glue`; predictions/dev.jsonl holds a line for each row.
"""

import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import adapters_jax as aj
from adapters_jax.data.bad import BadRows, OnBadRow
from adapters_jax.data.choices import ChoiceRows, Kind, encode_choices, read_choices
from adapters_jax.data.source import take
from adapters_jax.errors import ConfigError
from train import flags


@dataclasses.dataclass(frozen=True)
class Flags(flags.Training):
    """What `python -m train.choose` can be told."""

    train: Annotated[str | None, flags.Unset] = None
    """A JSONL file to learn from."""
    dev: Annotated[str | None, flags.Unset] = None
    """A file of the same form to evaluate on, which chooses the best step."""
    test: Annotated[str | None, flags.Unset] = None
    """A further file to evaluate on, once, at the end."""
    kind: Kind = "choice"
    """choice: one is right. ranking: each is more or less relevant."""
    on_bad_row: OnBadRow = "error"
    """What to do with a row that cannot be used: stop, or skip and count it."""

    def task_name(self) -> str:
        for name in ("train", "dev"):
            if getattr(self, name) is None:
                raise ConfigError(f"--{name}: expected a JSONL file with texts and choices, got none")
        return self.kind


def main(argv: Sequence[str] | None = None) -> None:
    """Flags, configuration, run."""
    flags.start(run, argv, "train.choose", __doc__, Flags)


def run(config: flags.Config) -> None:
    """Trains on the rows, and writes what is chosen."""
    # What needs JAX is imported here, so that `--help` and misspelled flags answer at once.
    from train import job

    job.run(config, open_work, add=predict)


def open_work(config: flags.Config, backbone: Any) -> Any:
    """The rows of the files, and the head that chooses."""
    from train import job

    f = config.flags
    summary: dict[str, Any] = {}

    def rows(name: str, file: str, count: int | None) -> ChoiceRows:
        bad = BadRows(f.on_bad_row)
        source = take(read_choices(file, f.kind, bad), count)
        encoded = encode_choices(source, backbone.tokenizer, f.max_length, f.kind)
        summary[name] = summarise(source, encoded) | ({"skipped": bad.skipped} if bad.skipped else {})
        print(f"{file}: {', '.join(f'{key} {value}' for key, value in summary[name].items())}", file=sys.stderr)
        if bad.skipped:
            print(f"{file}: {bad.summary()}", file=sys.stderr)
        return encoded

    train = rows("train", f.train, f.train_rows)
    files = {"": f.dev} | ({} if f.test is None else {"test": f.test})
    evals = {suffix: rows(suffix or "dev", file, f.eval_rows) for suffix, file in files.items()}
    head = aj.MultipleChoice() if f.kind == "choice" else aj.Ranking()
    return job.Work(train, evals, head, head.metrics, head.metrics[0], extra={"data_summary": summary})


def summarise(source: Any, rows: ChoiceRows) -> dict[str, Any]:
    """What was read: rows, choices of one, tokens of the longest pair, pairs that were cut."""
    counts = rows.counts
    spread = str(counts.min()) if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"
    return {
        "rows": len(rows),
        "choices": spread,
        "longest": int(rows.lengths.max()),
        "truncated": rows.truncated,
        "texts": len({source[number]["text"] for number in range(len(source))}),
    }


def predict(outcome: Any) -> dict[str, Any]:
    """Writes dev.jsonl and test.jsonl; of several processes, the first."""
    from adapters_jax.training.processes import is_first

    if not is_first():
        return {}
    folder = outcome.config.out_dir / "predictions"
    folder.mkdir(exist_ok=True)
    for suffix, rows in outcome.work.evals.items():
        said = zip(rows.ids, outcome.model.head.decode(outcome.scores.logits[suffix]), strict=True)
        lines = [json.dumps({"id": name} | answer, ensure_ascii=False) + "\n" for name, answer in said]
        (folder / f"{suffix or 'dev'}.jsonl").write_text("".join(lines), encoding="utf-8")
    return {}


if __name__ == "__main__":
    main()
