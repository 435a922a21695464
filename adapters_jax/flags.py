"""Command-line values and YAML files to frozen dataclasses, by tyro, with errors of one line.

YAML is flattened into the same `--name value` arguments as the command line's, so that a misspelled key or a wrong type
is refused exactly like a flag, and `1e-3`, which YAML reads as a string, is a number. Nothing here imports JAX, but for
methods that are parts of another.
"""

import contextlib
import dataclasses
import difflib
import errno
import io
import os
import sys
import time
import types
import typing
import urllib.parse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
import yaml

from adapters_jax.errors import AdaptersJaxError, ConfigError, unknown
from adapters_jax.fields import nested

OPTIONS = (tyro.conf.FlagConversionOff,)
EXCLUSIVE = frozenset({"steps", "epochs"})
"""Flags of which a later layer displaces the others."""


@dataclasses.dataclass(frozen=True)
class Given:
    """One value as it was given: its flag without dashes, its text (None: the bare flag), and its place, for errors."""

    name: str
    value: str | None
    place: str


def read_argv(argv: Sequence[str], positional: str | None = None) -> list[list[Given]]:
    """Layers of values, weakest first: each `--config` file in turn, then the command line.

    Args:
      argv: `--name=value`, `--name value` or a bare `--name`.
      positional: the flag that a lone first argument stands for.

    Raises:
      ConfigError: an argument of another form, or a file that cannot be read.
    """
    own: list[Given] = []
    files: list[list[Given]] = []
    rest = list(argv)
    if positional and rest and not rest[0].startswith("--"):
        own.append(Given(positional, rest.pop(0), positional))
    while rest:
        token = rest.pop(0)
        if not token.startswith("--") or token == "--":
            raise ConfigError(f"unexpected argument {token!r}: expected flags of the form --name=value or --name value")
        name, equals, value = token[2:].partition("=")
        if not equals and rest and not rest[0].startswith("--"):
            value, equals = rest.pop(0), "="
        name = name.replace("_", "-")
        if name == "config":
            files.append(read_yaml(value))
        else:
            own.append(Given(name, value if equals else None, f"--{name}"))
    return [*files, own]


def read_yaml(path: str) -> list[Given]:
    """The values of one YAML file, nested keys joined by dots; `name` under a group chooses it (`method: {name: x}`).

    Raises:
      ConfigError: the file is missing, not text, not YAML or not a mapping.
    """
    try:
        tree = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--config={path}: expected a YAML file, got: {error.strerror}") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"--config={path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"--config={path}: expected a mapping of flag names to values, got {type(tree).__name__}")
    flat = [(name.removesuffix(".name"), value) for name, value in _flatten(tree, "")]
    if "config" in dict(flat):
        raise ConfigError(f"{path}: config: a file names no other file; give --config several times")
    return [Given(name, value, f"{path}: {name}") for name, value in flat if value is not None]


def _flatten(tree: dict, prefix: str) -> Iterator[tuple[str, str | None]]:
    for key, value in tree.items():
        name = f"{prefix}{key}".replace("_", "-")
        if isinstance(value, dict) and prefix and "name" in value:
            yield name, _part(value)
        elif isinstance(value, dict):
            yield from _flatten(value, f"{name}.")
        else:
            yield name, _text(value)


def _text(value: Any) -> str | None:
    if isinstance(value, list):
        return ",".join(_part(v) if isinstance(v, dict) else str(v) for v in value)
    return None if value is None else str(value)


def _part(stored: dict[str, Any]) -> str:
    """A method among others, as its flag is written: `lora:slots=query+value:rank=8`; signs in texts as in a URL."""
    given = {name: value for name, value in stored.items() if name != "name" and value is not None}
    quoted = lambda value: urllib.parse.quote(str(value), safe=" ")
    shown = [
        f"{name}={'+'.join(map(quoted, value)) if isinstance(value, list | tuple) else quoted(value)}"
        for name, value in given.items()
    ]
    return ":".join([str(stored.get("name")), *shown])


def _read_part(text: str, place: str) -> Any:
    from adapters_jax.methods import METHODS

    name, *pairs = text.split(":")
    if name not in METHODS:
        raise ConfigError(f"{place}: {unknown('method', name, METHODS)}")
    hints = typing.get_type_hints(METHODS[name])
    if any(nested(hint) for hint in hints.values()):
        raise ConfigError(f"{place}: expected {name}'s own parts in its place, got {text!r}")
    given = {}
    for pair in pairs:
        field, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"{place}: expected method:field=value:field=value, got {text!r}")
        several = typing.get_origin(_strip_none(hints.get(field.replace("-", "_")))) is tuple
        value = urllib.parse.unquote(value.replace("+", ",") if several else value)
        field = field.replace("_", "-")
        given[field] = Given(field, value, f"{name}:{field} in {place}")
    return fill(METHODS[name], given)


def merge(layers: list[list[Given]]) -> dict[str, Given]:
    """One value per name, the last layer's."""
    merged: dict[str, Given] = {}
    for layer in layers:
        displaced = EXCLUSIVE & {g.name for g in layer}
        if displaced == EXCLUSIVE:
            raise ConfigError(f"expected one of --{' and --'.join(sorted(EXCLUSIVE))}, got both")
        if displaced:
            merged = {name: given for name, given in merged.items() if name not in EXCLUSIVE}
        merged |= {g.name: g for g in layer}
    return merged


def fill(cls: type, given: dict[str, Given], prefix: str = "") -> Any:
    """An instance of a frozen dataclass; what is not given keeps its default.

    Args:
      cls: fields of text, numbers, booleans, literals and tuples of those (one comma-separated value).
      given: by full name.
      prefix: what the names of the fields stand behind, `method.`.

    Raises:
      ConfigError: an unknown name, a missing value, or one of the wrong type; and what the dataclass itself raises.
    """
    hints = typing.get_type_hints(cls)
    fields = {f.name.rstrip("_").replace("_", "-"): f for f in dataclasses.fields(cls)}  # from_: a Python keyword
    kinds = {name: _strip_none(hints[f.name]) for name, f in fields.items()}
    for g in given.values():
        if g.name.removeprefix(prefix) not in kinds:
            raise ConfigError(_unknown_flag(g, [prefix + name for name in kinds]))
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and prefix + name not in given:
            raise ConfigError(
                f"--{prefix}{name}: expected {_describe(kinds[name])}, got nothing; --help lists all flags"
            )
    tokens = {g: _tokens(g, prefix, kinds[g.name.removeprefix(prefix)]) for g in given.values()}
    parts = [field for field in fields.values() if nested(hints[field.name])]
    try:
        plain = _tyro(_as_text(cls, hints) if parts else cls, [token for own in tokens.values() for token in own])
        if not parts:
            return plain
        values = {field.name: getattr(plain, field.name) for field in fields.values()}
        for field in parts:
            place = given.get(prefix + field.name, Given(field.name, None, f"--{prefix}{field.name}")).place
            texts = values[field.name]
            several = typing.get_origin(hints[field.name]) is tuple
            values[field.name] = tuple(_read_part(t, place) for t in texts) if several else _read_part(texts, place)
        return cls(**values)
    except SystemExit:
        for g, own in tokens.items():
            field = fields[g.name.removeprefix(prefix)]
            if not _parses(field, typing.get_type_hints(cls, include_extras=True)[field.name], own):
                expected = _describe(kinds[g.name.removeprefix(prefix)])
                got = "nothing" if g.value is None else repr(g.value)
                raise ConfigError(f"{g.place}: expected {expected}, got {got}") from None
        raise ConfigError(f"cannot be parsed: {' '.join(g.place for g in tokens)}") from None


def _as_text(cls: type, hints: dict[str, Any]) -> type:
    """The dataclass with texts where it holds methods, which a flag spells out."""

    def text(hint: Any) -> Any:
        if not nested(hint):
            return hint
        return tuple[str, ...] if typing.get_origin(hint) is tuple else str

    fields = [(f.name, text(hints[f.name]), f) for f in dataclasses.fields(cls)]
    return dataclasses.make_dataclass(cls.__name__, fields, frozen=True, namespace={"__doc__": cls.__doc__})


def _tyro(cls: type, args: list[str]) -> Any:
    # tyro reports in a box of several lines; `fill` finds the culprit and says it in one.
    with contextlib.redirect_stderr(io.StringIO()):
        return tyro.cli(cls, args=args, add_help=False, config=OPTIONS)


def _parses(field: dataclasses.Field, hint: Any, tokens: list[str]) -> bool:
    try:
        _tyro(dataclasses.make_dataclass("One", [(field.name, hint)], frozen=True), tokens)
    except SystemExit:
        return False
    return True


def _tokens(given: Given, prefix: str, kind: Any) -> list[str]:
    name = "--" + given.name.removeprefix(prefix)
    if kind is bool:
        return [name, "True" if given.value is None else given.value.capitalize()]
    if given.value is None:
        return [name]
    if typing.get_origin(kind) is tuple:
        return [name, *(v.strip() for v in given.value.split(",") if v.strip())]
    if given.value == "None":
        return [name, "none"]  # tyro would take None for "not given", which is said by leaving the flag out
    return [name, given.value]


def _unknown_flag(given: Given, known: list[str]) -> str:
    dashes = "--" if given.place.startswith("--") else ""
    near = difflib.get_close_matches(given.name, known, n=1)
    hint = f"Perhaps you meant {dashes}{near[0]}?" if near else f"known are {', '.join(known)}"
    return f"unknown {'flag' if dashes else 'key'} {given.place}: {hint}"


def _strip_none(kind: Any) -> Any:
    if typing.get_origin(kind) is Annotated:
        kind = typing.get_args(kind)[0]
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        rest = [k for k in typing.get_args(kind) if k is not type(None)]
        return rest[0] if len(rest) == 1 else kind
    return kind


def _describe(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return "one of " + ", ".join(str(v) for v in typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        return f"a comma-separated list, each {_describe(typing.get_args(kind)[0])}"
    if nested(kind):
        return "a method, such as lora:rank=4"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    return names.get(kind, str(kind))


def print_help(cls: type, prog: str, description: str = "", prefix: str = "") -> None:
    """The flags of a dataclass with their defaults, under a prefix such as `method.`."""
    hints = typing.get_type_hints(cls)
    shown = cls = _as_text(cls, hints) if any(nested(hint) for hint in hints.values()) else cls
    if prefix:
        group = prefix.removesuffix(".")
        shown = dataclasses.make_dataclass("Group", [(group, cls, dataclasses.field(default_factory=cls))])
    with contextlib.suppress(SystemExit):
        tyro.cli(shown, prog=prog, description=description, args=["--help"], config=OPTIONS)


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Ends the program with one line on standard error and the error's exit code, 2, for errors that a user can cause.

    A closed pipe (`| head`) ends it quietly, Ctrl-C with the shell's 130.
    """
    try:
        yield
    except BrokenPipeError:
        # What is still buffered must not be written to the closed pipe when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except AdaptersJaxError as error:
        _fail(str(error), error.code, error.everywhere)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        _fail(f"{error.filename or 'writing'}: {error.strerror}; free space or choose another folder")


def _fail(message: str, code: int = 2, everywhere: bool = False) -> None:
    print(f"error: {' '.join(message.split())}", file=sys.stderr, flush=True)
    if not everywhere and "jax" in sys.modules and sys.modules["jax"].distributed.is_initialized():
        # The others wait for this process where no exception reaches them; an orderly end would wait for them in turn,
        # and abort. The first one gives those that came to the same error the time to say so.
        if sys.modules["jax"].process_index() == 0:
            time.sleep(AFTER_THE_OTHERS)
        sys.stdout.flush()
        os._exit(code)
    raise SystemExit(code)


AFTER_THE_OTHERS = 3.0
"""Seconds that process 0, whose end aborts the others, leaves them."""
