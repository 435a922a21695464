"""Pre-train adapters by masked language modelling on raw text: `python -m train.mlm --text=FILE --method=pfeiffer`.

What the method trains, and the head, learn to predict hidden words (a language or domain adapter; Pfeiffer et al.,
2020, MAD-X); `--method=head` trains the head alone, the baseline. The artefact is where a task may start:
`python -m train.glue --init-adapter=runs/mlm-pfeiffer-0/adapter`. The run folder is that of `train.glue`, without
predictions; metrics named `..._before` are those of the fresh adapters and head.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import adapters_jax as aj
from adapters_jax.errors import ConfigError
from adapters_jax.types import Tree
from train import flags


@dataclasses.dataclass(frozen=True)
class Flags(flags.Training):
    """What `python -m train.mlm` can be told."""

    text: tuple[str, ...] = ()
    """Text files to learn from, UTF-8."""
    eval_text: tuple[str, ...] = ()
    """Held-out text files; if none are given, a fixed sample of the documents is held out."""
    eval_share: float = 0.05
    """The share of the documents that is held out, where --eval-text is not given."""
    documents: Literal["auto", "blank", "lines"] = "auto"
    """Documents are separated by blank lines, or one on each line; auto: the first where a file has blank lines."""
    whole_word: bool = False
    """Hide all pieces of a word or none."""

    def task_name(self) -> str:
        if not self.text:
            raise ConfigError("--text: expected text files to learn from, got none")
        return "mlm"


def main(argv: Sequence[str] | None = None) -> None:
    """Flags, configuration, run."""
    flags.start(run, argv, "train.mlm", __doc__, Flags)


def run(config: flags.Config) -> None:
    """Trains on the text; the perplexity of held-out text before and after is in the result."""
    # What needs JAX is imported here, so that `--help` and misspelled flags answer at once.
    from train import job

    job.run(config, open_work, start=initialise, add=score_start)


def open_work(config: flags.Config, backbone: aj.Backbone) -> Any:
    """The rows of the text, and the head that learns from them."""
    from adapters_jax.data.text import hold_out, pack_files, take_rows
    from train import job

    f = config.flags
    head = aj.MaskedLM.of(backbone, f.whole_word)
    rows = lambda files: pack_files(
        files, backbone.tokenizer, f.max_length, rule=f.documents, cache_dir=config.cache_dir / "tokens"
    )
    train = rows(f.text)
    train, held_out = (train, rows(f.eval_text)) if f.eval_text else hold_out(train, f.eval_share)
    train, held_out = take_rows(train, f.train_rows), take_rows(held_out, f.eval_rows)
    return job.Work(train, {"": held_out}, head, head.metrics, head.metrics[0], extra={"eval_text": held_out.name})


def initialise(config: flags.Config, model: aj.Model, backbone: aj.Backbone) -> Tree:
    """Fresh parameters, or those of `--init-adapter`; the head is the artefact's, else the backbone's own, if any."""
    from adapters_jax.artefact import read_manifest
    from adapters_jax.bert.backbone import weight_files
    from adapters_jax.bert.convert import read_masked_lm
    from train import common

    params = common.initialise(config, model, backbone)
    start = config.flags.init_adapter
    if backbone.folder is None or (start is not None and read_manifest(start)["head"] == model.head.to_dict()):
        return params
    released = read_masked_lm(weight_files(backbone.folder), backbone.config)
    return params if released is None else params | {"head": released}


def score_start(outcome: Any) -> dict[str, Any]:
    """The scores of the parameters that the run began with, beside those of the end."""
    fresh = initialise(outcome.config, outcome.model, outcome.backbone)
    before = dataclasses.replace(outcome, params=fresh).score(outcome.work.evals, outcome.work.metrics).metrics
    return {"metrics": {**outcome.scores.metrics, **{f"{name}_before": value for name, value in before.items()}}}


if __name__ == "__main__":
    main()
