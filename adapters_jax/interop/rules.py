"""What can be exchanged with other libraries: the table that decides, and that docs/exchange.md shows."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adapters_jax.errors import AdapterError, ConfigError
from adapters_jax.methods import Method

Flat = dict[str, np.ndarray]
"""Layer-numbered path (`adapters/encoder/3/query/a`, `head/...`, trained leaves under `backbone/`) -> leaf."""


@dataclasses.dataclass(frozen=True)
class Refusal:
    """A case that the other library, or this one, has no equal for.

    Attributes:
        when: the case, as the table shows it: "rank-stabilised".
        why: what the error says after the case: why not, and what to do.
        holds: whether it is the case, of a config as read (loading) or of a `Model` (saving).
    """

    when: str
    why: str
    holds: Callable[[Any], Any]


@dataclasses.dataclass(frozen=True)
class Kind:
    """How one kind of adapter is exchanged with one library.

    Attributes:
        title: as the table calls it.
        methods: the classes of ours that are written as this kind.
        read: see the library's package; None: only written.
        write: None: only read.
        note: of a conversion that is exact: with which option, or up to what.
        not_read, not_written: what is refused.
    """

    title: str
    methods: tuple[type[Method], ...]
    read: Callable[..., Any] | None
    write: Callable[..., Any] | None
    note: str = ""
    not_read: tuple[Refusal, ...] = ()
    not_written: tuple[Refusal, ...] = ()


def refuse(rules: Sequence[Refusal], subject: Any, where: str | Path, error: type[Exception] = AdapterError) -> None:
    """Raises `error` by the first rule that holds of the subject; `where` begins the line."""
    for rule in rules:
        if rule.holds(subject):
            raise error(f"{where}: {rule.when}: {rule.why}")


def kind_for(kinds: Sequence[Kind], library: str, model: Any) -> Kind:
    """How a model is written.

    Raises:
        ConfigError: its method has no counterpart there, or a rule refuses it.
    """
    for kind in kinds:
        if type(model.method) in kind.methods and kind.write is not None:
            refuse(kind.not_written, model, f"method {model.method.name}", ConfigError)
            return kind
    raise ConfigError(
        f"method {model.method.name}: {library} has no counterpart; keep the native folder, which loses nothing"
    )


def table(libraries: dict[str, Sequence[Kind]]) -> str:
    """In Markdown: what is exact, what needs an option, what is refused and why."""
    lines = ["| library | kind | our method | exact | refused when loading | refused when saving |"]
    lines.append("|---|---|---|---|---|---|")
    shown = lambda rules: "; ".join(f"{rule.when}: {rule.why}" for rule in rules) or "-"
    for library, kinds in libraries.items():
        for kind in kinds:
            ours = ", ".join(f"`{method.name}`" for method in kind.methods)
            ways = [way for way, there in (("loading", kind.read), ("saving", kind.write)) if there]
            exact = " and ".join(ways) + (f"; {kind.note}" if kind.note else "")
            row = (library, kind.title, ours, exact, shown(kind.not_read), shown(kind.not_written))
            lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)
