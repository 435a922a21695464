"""Learn the relation between two marked entities: `python -m train.relations --train=FILE --dev=FILE`.

On T-REx this pre-trains the factual adapter of K-Adapter; on SemEval-2010 task 8, or T-REx, `--adapters=` uses trained
ones as they are. The run folder is that of `train.glue`; predictions/ holds a line "id<TAB>relation" for each row,
which is what SemEval's official scorer reads.
"""

import dataclasses
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import adapters_jax as aj
from adapters_jax.data.relations import encode_relations, format_of, read_relations
from adapters_jax.data.source import take
from adapters_jax.errors import AdapterError, ConfigError
from train import flags

METRICS = {"trex": ("accuracy", "macro_f1"), "semeval": ("semeval", "accuracy")}
"""By format; the first chooses the best step."""


@dataclasses.dataclass(frozen=True)
class Flags(flags.Training):
    """What `python -m train.relations` can be told."""

    train: Annotated[str | None, flags.Unset] = None
    """A file to learn from: T-REx in LAMA's JSONL, or SemEval-2010 task 8 in its text form."""
    dev: Annotated[str | None, flags.Unset] = None
    """A file of the same form to evaluate on, which chooses the best step."""
    test: Annotated[str | None, flags.Unset] = None
    """A further file to evaluate on, once, at the end."""
    format: Literal["auto", "trex", "semeval"] = "auto"
    """Of the files; auto goes by the ending of the first: .jsonl or .txt."""
    adapters: tuple[str, ...] = ()
    """Trained adapters of K-Adapter, factual=runs/fac/adapter,linguistic=runs/lin/adapter: used as they are."""

    def task_name(self) -> str:
        for name in ("train", "dev"):
            if getattr(self, name) is None:
                raise ConfigError(f"--{name}: expected a file with relations, got none")
        return format_of(str(self.train)) if self.format == "auto" else self.format

    def sources(self) -> dict[str, str]:
        """The name of each trained adapter, and its artefact.

        Raises:
          ConfigError: not of the form name=folder, or a name given twice.
        """
        found: dict[str, str] = {}
        for given in self.adapters:
            name, _, folder = given.partition("=")
            if not name or not folder or name in found:
                raise ConfigError(f"--adapters: expected name=folder,name=folder, each name once, got {given!r}")
            found[name] = folder
        return found


def main(argv: Sequence[str] | None = None) -> None:
    """Flags, configuration, run."""
    flags.start(lambda config: run(with_adapters(config)), argv, "train.relations", __doc__, Flags)


def with_adapters(config: flags.Config) -> flags.Config:
    """The configuration whose method has the trained adapters, frozen.

    Raises:
      ConfigError: another method than K-Adapter, other names in it, or a second place to start from.
    """
    names = tuple(config.flags.sources())
    if not names:
        return config
    if config.method.name != "k_adapter":
        raise ConfigError(f"--adapters: expected --method=k_adapter, got {config.method.name}")
    if config.method.adapters not in (names, type(config.method)().adapters):
        raise ConfigError(f"--method.adapters: expected the names of --adapters, got {config.method.adapters}")
    if config.flags.init_adapter is not None or config.flags.on is not None:
        raise ConfigError("--adapters: expected no --init-adapter and no --on beside it, got both")
    return dataclasses.replace(config, method=dataclasses.replace(config.method, adapters=names, train_adapters=False))


def run(config: flags.Config) -> None:
    """Trains on the relations, and writes what is predicted."""
    # What needs JAX is imported here, so that `--help` and misspelled flags answer at once.
    from train import job

    job.run(config, open_work, start=initialise, add=predict)


def open_work(config: flags.Config, backbone: Any) -> Any:
    """The rows of the files, and the head over their relations."""
    from train import job

    f = config.flags
    report = lambda line: print(line, file=sys.stderr)
    train = read_relations(f.train, config.task, report=report)
    labels = train.features.labels
    files = {"": f.dev} | ({} if f.test is None else {"test": f.test})
    evals = {suffix: read_relations(file, config.task, labels, report) for suffix, file in files.items()}
    encoded = lambda source, rows: encode_relations(take(source, rows), backbone.tokenizer, f.max_length)
    metrics = METRICS[config.task]
    return job.Work(
        encoded(train, f.train_rows),
        {suffix: encoded(source, f.eval_rows) for suffix, source in evals.items()},
        aj.Relation(labels=labels),
        metrics,
        metrics[0],
    )


def initialise(config: flags.Config, model: Any, backbone: Any) -> dict[str, Any]:
    """Fresh parameters, or those of `--init-adapter`; with `--adapters`, these in their places.

    Raises:
      AdapterError: an artefact that is missing, damaged, of another backbone or method, or of unlike networks.
    """
    from adapters_jax.methods.k_adapter import take_over
    from train import common

    params = common.initialise(config, model, backbone)
    adapters = params["adapters"]
    for name, folder in config.flags.sources().items():
        try:
            other, trained = aj.load_adapter(folder, backbone)
            adapters = take_over(config.method, model.config, adapters, name, other.method, trained["adapters"])
        except AdapterError as error:
            raise AdapterError(f"--adapters={name}={folder}: {error}") from None
    return params | {"adapters": adapters}


def predict(outcome: Any) -> dict[str, Any]:
    """Writes dev.tsv and test.tsv; of several processes, the first."""
    from adapters_jax.training.processes import is_first

    if not is_first():
        return {}
    head, folder = outcome.model.head, outcome.config.out_dir / "predictions"
    folder.mkdir(exist_ok=True)
    for suffix, rows in outcome.work.evals.items():
        classes = head.predictions(outcome.scores.logits[suffix])
        lines = [f"{name}\t{head.labels[number]}\n" for name, number in zip(rows.ids, classes, strict=True)]
        (folder / f"{suffix or 'dev'}.tsv").write_text("".join(lines), encoding="utf-8")
    return {}


if __name__ == "__main__":
    main()
