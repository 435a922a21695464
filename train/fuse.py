"""Learn a task from adapters of others by AdapterFusion: `python -m train.fuse --task=rte --adapters=A,B,C`.

Backbone and adapters stay as they are; the attention over the adapters and a new head are trained (Pfeiffer et al.,
2021). The artefact holds the adapters too and is used like any other. The run folder is that of `train.glue`; how much
attention each adapter gets on the dev set is in result.json, and `adapters-jax inspect --fusion` draws it.
"""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any

import tyro

import adapters_jax as aj
from adapters_jax.errors import ConfigError
from adapters_jax.types import Tree
from train import flags, glue

Folders = tyro.conf.arg(metavar="A,B,...")


@dataclasses.dataclass(frozen=True)
class Flags(flags.Flags):
    """What `python -m train.fuse` can be told."""

    method: str = "fusion"
    """Fusion; --method.regulariser and --method.dropout are its fields."""
    adapters: Annotated[tuple[str, ...], Folders] = ()
    """Artefacts of single tasks, FOLDER or NAME=FOLDER; a name that is not given is the task's."""


def main(argv: Sequence[str] | None = None) -> None:
    """Flags, configuration, run."""
    flags.start(run, argv, "train.fuse", __doc__, Flags)


def run(config: flags.Config) -> None:
    """Trains a fusion of the named adapters."""
    # What needs JAX is imported here, so that `--help` and misspelled flags answer at once.
    from train import job

    others = [name for name in ("on", "drop", "init_adapter", "freeze_adapter") if getattr(config.flags, name)]
    if config.flags.method != "fusion" or others:
        got = f"--{others[0].replace('_', '-')}" if others else f"--method={config.flags.method}"
        raise ConfigError(f"train.fuse: expected --adapters and, as the method, fusion alone, got {got}")
    job.run(config, glue.open_work, method=method, start=start, note=note, add=glue.predict)


def folders(config: flags.Config) -> dict[str, str]:
    """Name -> folder of each adapter."""
    from adapters_jax.artefact import read_manifest

    found: dict[str, str] = {}
    for entry in config.flags.adapters:
        name, equals, folder = entry.rpartition("=")
        if not equals:
            name = str(read_manifest(folder).get("task") or "")
        if not name or name in found:
            raise ConfigError(f"--adapters: expected NAME={folder}, since {name or 'no task'!r} is no name of its own")
        found[name] = folder
    return found


def method(config: flags.Config) -> Any:
    """The fusion of the methods that the artefacts name."""
    from adapters_jax.artefact import read_method

    named = folders(config)
    parts = tuple(read_method(folder) for folder in named.values())
    return dataclasses.replace(config.method, parts=parts, names=tuple(named))


def start(config: flags.Config, model: Any, backbone: Any) -> Tree:
    """A fresh fusion and head over the adapters as they were trained."""
    import jax

    params = model.init(jax.random.key(config.flags.seed), backbone.params)
    for name, folder in folders(config).items():
        params["adapters"][name] = aj.load_adapter(folder, backbone)[1]["adapters"]
    return params


def note(outcome: Any) -> dict[str, Any]:
    """The attention on the dev set."""
    from adapters_jax.data.tokenize import encode
    from adapters_jax.training.attention import attention_shares, heat_map
    from adapters_jax.training.processes import is_first

    options = outcome.config.flags
    dev, tokens = outcome.work.evals[""], outcome.config.cache_dir / "tokens"
    rows = encode(dev, outcome.backbone.tokenizer, options.max_length, tokens)
    shares = attention_shares(outcome.model, outcome.params, rows, options.eval_batch_size, outcome.layout)
    if is_first():
        print(f"\nattention on the dev set\n{heat_map(shares)}")
    return {"attention": shares}


if __name__ == "__main__":
    main()
