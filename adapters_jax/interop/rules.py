"""What can be exchanged with other libraries: the table that decides, and that docs/exchange.md shows."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adapters_jax.errors import AdapterError, ConfigError
from adapters_jax.methods import METHODS, Method

Flat = dict[str, np.ndarray]
"""Layer-numbered path (`adapters/encoder/3/query/a`, `head/...`, trained leaves under `backbone/`) -> leaf."""


@dataclasses.dataclass(frozen=True)
class Refusal:
    """A case that the other library, or this one, has no equal for.

    Attributes:
        when: the case, as the table shows it: "rank-stabilised".
        why: what the error says after the case: why not, and what to do.
        holds: whether it is the case, of a config as read (loading) or of a `Model` (saving).
        got: what the error shows of the subject, where the case does not say it.
    """

    when: str
    why: str
    holds: Callable[[Any], Any]
    got: Callable[[Any], Any] | None = None


@dataclasses.dataclass(frozen=True)
class Kind:
    """How one kind of adapter is exchanged with one library.

    Attributes:
        title: as the table calls it.
        methods: the classes of ours that are written as this kind.
        read: see the library's package; None: only written.
        write: None: only read. Without both, the rules hold for several kinds, or refuse the whole of it.
        note: with which option a conversion is exact, or on what condition; what comes back in another form.
        not_read, not_written: what is refused.
    """

    title: str
    methods: tuple[type[Method], ...]
    read: Callable[..., Any] | None
    write: Callable[..., Any] | None
    note: str = ""
    not_read: tuple[Refusal, ...] = ()
    not_written: tuple[Refusal, ...] = ()


QUANTISED = Refusal(
    "a quantised backbone",
    "the files cannot say so, and on the plain weights the answers are others; load the adapter on the float backbone "
    "(--quantize=none), evaluate it there or train it on, then save; or fold it into floats (--to=hf)",
    lambda backbone: backbone.quantize is not None,
    lambda backbone: backbone.quantize,
)
"""Of what any library's adapters are saved from: the subject is the `Backbone`; `leaves.stored` asks."""

OTHER_ENCODER = Refusal(
    "another encoder than BERT",
    "modules have other names in its files; keep the native folder, which loses nothing",
    lambda backbone: backbone.config.model_type != "bert",
    lambda backbone: backbone.config.model_type,
)
"""Of what any library's adapters are read, saved or folded on: the subject is the `Backbone`."""

NATIVE = "keep the native folder, which loses nothing"
REFUSED = ("refused when loading", "refused when saving")


def refuse(rules: Sequence[Refusal], subject: Any, where: str | Path, error: type[Exception] = AdapterError) -> None:
    """Raises `error` by the first rule that holds of the subject; `where` begins the line."""
    for rule in rules:
        if rule.holds(subject):
            got = "" if rule.got is None else f", got {rule.got(subject)!r:.120}"
            raise error(f"{where}: {rule.when}: {rule.why}{got}")


def kind_for(kinds: Sequence[Kind], library: str, model: Any) -> Kind:
    """How a model is written.

    Raises:
        ConfigError: its method has no counterpart there, or a rule refuses it.
    """
    for kind in kinds:
        if type(model.method) in kind.methods and kind.write is not None:
            refuse(kind.not_written, model, f"method {model.method.name}", ConfigError)
            return kind
    raise ConfigError(f"method {model.method.name}: {library} has no counterpart; {NATIVE}")


def table(libraries: dict[str, Sequence[Kind]]) -> str:
    """In Markdown: what is exact, on what condition, and what is refused and why.

    Methods of ours that are in no library which adapters are read from too come last.
    """
    titles = ("library", "kind", "our method", "ways", "exact", *REFUSED)
    rows: list[tuple[str, ...]] = [titles, ("---",) * len(titles)]
    for library, kinds in libraries.items():
        for kind in kinds:
            ways = [way for way, there in (("loading", kind.read), ("saving", kind.write)) if there]
            ours = ", ".join(f"`{method.name}`" for method in kind.methods)
            refused = (
                "; ".join(f"{rule.when}: {rule.why}" for rule in own) for own in (kind.not_read, kind.not_written)
            )
            exact = f"on condition: {kind.note}" if kind.note else "yes" if ways else ""
            rows.append((library, kind.title, ours, " and ".join(ways), exact, *refused))
    for method in METHODS.values():
        holders = [library for library, kinds in libraries.items() if any(_writes(kind, method) for kind in kinds)]
        if not any(kind.read for library in holders for kind in libraries[library]):
            others = f"as {', '.join(holders)} alone" if holders else ""
            always = f"always: no library has a counterpart; {NATIVE}"
            rows.append(("native only", "", f"`{method.name}`", "", others, "", always))
    return "\n".join(f"| {' | '.join(cell or '-' for cell in row)} |" for row in rows)


def _writes(kind: Kind, method: type[Method]) -> bool:
    return kind.write is not None and method in kind.methods
