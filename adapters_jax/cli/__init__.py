"""`adapters-jax predict|evaluate|prune|inspect|convert`: what people do with artefacts."""

import dataclasses
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from adapters_jax.cli.convert import Convert, convert
from adapters_jax.cli.evaluate import Evaluate, Prune, evaluate, prune
from adapters_jax.cli.predict import Predict, predict
from adapters_jax.errors import ConfigError, unknown
from adapters_jax.flags import fill, merge, one_line_errors, print_help, read_argv


@dataclasses.dataclass(frozen=True)
class Inspect:
    """Print what an artefact, a training checkpoint or a run folder holds, and whether its hashes hold."""

    folder: str
    """The folder; `adapters-jax inspect FOLDER` is short for --folder=FOLDER."""
    json: bool = False
    """As one JSON object."""
    fusion: bool = False
    """Draw how much attention a fusion gives to each of its adapters, layer by layer."""
    ranks: bool = False
    """Draw which ranks AdaLoRA left to each layer and slot of an adapter."""
    figure: str | None = None
    """Also draw the ranks into this file (.png, .svg, .pdf; needs matplotlib)."""


def inspect(flags: Inspect) -> None:
    """What `describe` finds; ends with 1 if some hash does not hold."""
    from adapters_jax.describe import describe, render

    if flags.figure is not None and not flags.ranks:
        raise ConfigError(f"--figure={flags.figure}: expected --ranks, which it draws")
    if flags.ranks:
        return show_ranks(flags)
    found = describe(flags.folder)
    if flags.fusion:
        from adapters_jax.training.attention import heat_map

        shares = found.get("adapter", found).get("extra", {}).get("attention")
        if not isinstance(shares, dict):
            raise ConfigError(
                f"{flags.folder}: expected a fusion (python -m train.fuse), its manifest holds no attention"
            )
        print(heat_map(shares))
        return
    print(json.dumps(found, indent=2, ensure_ascii=False) if flags.json else render(found))
    if found["problems"]:
        raise SystemExit(1)


def show_ranks(flags: Inspect) -> None:
    """AdaLoRA's ranks as a table, and in a figure."""
    from adapters_jax.analysis import ranks

    run = Path(flags.folder, "adapter")
    folder = run if run.is_dir() else Path(flags.folder)
    found = ranks.of_artefact(folder)
    if flags.figure is not None:
        ranks.save(found, Path(flags.figure), f"ranks of {folder}")
    print(ranks.heat_map(found))


COMMANDS: dict[str, tuple[type, Callable[[Any], None]]] = {
    "predict": (Predict, predict),
    "evaluate": (Evaluate, evaluate),
    "prune": (Prune, prune),
    "inspect": (Inspect, inspect),
    "convert": (Convert, convert),
}


def main(argv: Sequence[str] | None = None) -> None:
    """The console script."""
    # Else transformers tells everybody that there is no torch, which is as it should be.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    with one_line_errors():
        command, *rest = list(sys.argv[1:] if argv is None else argv) or ["--help"]
        if command in ("-h", "--help"):
            print("usage: adapters-jax COMMAND [OPTIONS]\n")
            for name, (cls, _) in COMMANDS.items():
                print(f"  {name:10} {cls.__doc__}")
            print("\nThe flags of a command: adapters-jax COMMAND --help")
            return
        if command not in COMMANDS:
            raise ConfigError(unknown("command", command, COMMANDS))
        cls, run = COMMANDS[command]
        if {"-h", "--help"} & set(rest):
            print_help(cls, f"adapters-jax {command}")
            return
        run(fill(cls, merge(read_argv(rest, positional="folder" if cls is Inspect else None))))
