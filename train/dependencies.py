"""Learn which word each word depends on: `python -m train.dependencies --train=FILE --dev=FILE --method=k_adapter`.

This pre-trains the linguistic adapter of K-Adapter on a treebank in CoNLL-U. The run folder is that of `train.glue`,
without predictions; `uas` is the share of words whose head is right.
"""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any

import adapters_jax as aj
from adapters_jax.data.source import take
from adapters_jax.errors import ConfigError
from train import flags


@dataclasses.dataclass(frozen=True)
class Flags(flags.Training):
    """What `python -m train.dependencies` can be told."""

    train: Annotated[str | None, flags.Unset] = None
    """A file to learn from, in CoNLL-U, with heads."""
    dev: Annotated[str | None, flags.Unset] = None
    """A file to evaluate on, which chooses the best step."""
    test: Annotated[str | None, flags.Unset] = None
    """A further file to evaluate on, once, at the end."""

    def task_name(self) -> str:
        for name in ("train", "dev"):
            if getattr(self, name) is None:
                raise ConfigError(f"--{name}: expected a treebank in CoNLL-U, got none")
        return "dependencies"


def main(argv: Sequence[str] | None = None) -> None:
    """Flags, configuration, run."""
    flags.start(run, argv, "train.dependencies", __doc__, Flags)


def run(config: flags.Config) -> None:
    """Trains on the treebank."""
    # What needs JAX is imported here, so that `--help` and misspelled flags answer at once.
    from train import job

    job.run(config, open_work)


def open_work(config: flags.Config, backbone: Any) -> Any:
    """The sentences of the files, and the head that finds heads."""
    from adapters_jax.data.conllu import encode_treebank, read_conllu
    from train import job

    f = config.flags
    rows = lambda file, count: encode_treebank(take(read_conllu(file), count), backbone.tokenizer, f.max_length)
    files = {"": f.dev} | ({} if f.test is None else {"test": f.test})
    head = aj.DependencyHead()
    evals = {suffix: rows(file, f.eval_rows) for suffix, file in files.items()}
    return job.Work(rows(f.train, f.train_rows), evals, head, head.metrics, head.metrics[0])


if __name__ == "__main__":
    main()
