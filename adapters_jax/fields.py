"""Frozen dataclasses from JSON values that a stranger may have written: names and types are checked first."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any

from adapters_jax.errors import AdaptersJaxError, ConfigError, unknown

LONGEST = 64
"""Objects in one field, at most."""

DEEPEST = 4
"""Objects inside each other, at most."""


def build(kind: str, classes: Mapping[str, type], stored: Mapping[str, Any], depth: int = 0) -> Any:
    """The object whose `to_dict` gave `stored`: its class by "name", its fields by the rest; lists become tuples.

    Args:
        kind: what it is called in messages.
        classes: name -> dataclass.
        stored: JSON values; fields left out take their defaults.
        depth: of objects that hold it.

    Raises:
        ConfigError: unknown name or field, or a value of another type or out of range.
    """
    name = stored.get("name")
    if not isinstance(name, str) or name not in classes:
        raise ConfigError(unknown(kind, str(name)[:80], classes))
    cls = classes[name]
    hints = typing.get_type_hints(cls)
    known = [field.name for field in dataclasses.fields(cls)]
    given = {key: value for key, value in stored.items() if key != "name"}
    for key, value in given.items():
        if key not in known:
            raise ConfigError(unknown(f"field of {kind} {name}", key[:80], known))
        if nested(hints[key]):
            given[key] = _parts(kind, classes, key, hints[key], value, depth)
        elif not fits(value, hints[key]):
            raise ConfigError(f"{kind}.{key}: expected {_show(hints[key])}, got {value!r:.80}")
    try:
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in given.items()})
    except (AdaptersJaxError, TypeError, ValueError, ArithmeticError) as error:
        raise ConfigError(f"{kind} {name}: {error}") from None


def nested(hint: Any) -> bool:
    """Whether a field holds objects that are themselves told apart by name: Method, or tuple[Method, ...]."""
    inner = typing.get_args(hint)[0] if typing.get_origin(hint) is tuple else hint
    return isinstance(inner, type) and hasattr(inner, "to_dict")


def _parts(kind: str, classes: Mapping[str, type], key: str, hint: Any, values: Any, depth: int) -> Any:
    if depth == DEEPEST:
        raise ConfigError(f"{kind}.{key}: expected at most {DEEPEST} objects inside each other")
    if typing.get_origin(hint) is not tuple:
        if not isinstance(values, Mapping):
            raise ConfigError(f"{kind}.{key}: expected a mapping, got {values!r:.80}")
        return build(kind, classes, values, depth + 1)
    if not isinstance(values, list | tuple) or not all(isinstance(value, Mapping) for value in values):
        raise ConfigError(f"{kind}.{key}: expected a list of mappings, got {values!r:.80}")
    if len(values) > LONGEST:
        raise ConfigError(f"{kind}.{key}: expected at most {LONGEST}, got {len(values)}")
    return tuple(build(kind, classes, value, depth + 1) for value in values)


def fits(value: Any, hint: Any) -> bool:
    """Whether a JSON value can stand for a field of that type; types of which JSON has none fit anything."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, each) for each in inner)
    if origin is typing.Literal:
        return value in inner
    if origin is tuple:
        return isinstance(value, list | tuple) and all(fits(each, inner[0]) for each in value)
    if hint is float:
        return type(value) in (int, float)
    if hint in (int, str, bool, type(None)):
        return type(value) is hint
    return True


def _show(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint)
