"""What methods say of values that cannot be used: field, expected, got. And which layers a method stands in."""

import math
from collections.abc import Iterable, Sequence

from adapters_jax.bert.config import BertConfig
from adapters_jax.errors import ConfigError, unknown


def whole(field: str, value: object, least: int = 1) -> None:
    """A whole number of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"method.{field}: expected a whole number of at least {least}, got {value!r}")


def number(field: str, value: float, *, least: float = 0.0, above: float | None = None) -> None:
    """A finite number of at least `least`, or above `above`."""
    if not math.isfinite(value) or (value < least if above is None else value <= above):
        bound = f"of at least {least:g}" if above is None else f"above {above:g}"
        raise ConfigError(f"method.{field}: expected a finite number {bound}, got {value}")


def rate(field: str, value: float) -> None:
    """A dropout rate."""
    if not 0 <= value < 1:
        raise ConfigError(f"method.{field}: expected a rate in [0, 1), got {value}")


def one_of(field: str, value: str, known: Iterable[str]) -> None:
    """A name out of a set."""
    names = list(known)
    if value not in names:
        raise ConfigError(f"method.{field}: {unknown(field.replace('_', ' '), value, names)}")


def some_of(field: str, values: Sequence[str], known: Iterable[str]) -> None:
    """At least one name out of a set, none twice."""
    names = list(known)
    for value in values:
        one_of(field, value, names)
    if not values or len(set(values)) < len(values):
        raise ConfigError(f"method.{field}: expected some of {', '.join(names)}, each once, got {tuple(values)}")


def in_layers(layers: Sequence[int] | None, config: BertConfig) -> tuple[int, ...]:
    """The chosen layers, in order; None stands for all.

    Raises:
        ConfigError: a layer that the backbone lacks, one given twice, or none at all.
    """
    if layers is None:
        return tuple(range(config.num_hidden_layers))
    wrong = [layer for layer in layers if not 0 <= layer < config.num_hidden_layers]
    if wrong or not layers or len(set(layers)) < len(layers):
        raise ConfigError(
            f"method.layers: expected some of 0 to {config.num_hidden_layers - 1}, each once, got {tuple(layers)}"
        )
    return tuple(sorted(layers))


def segments(layers: Sequence[int] | None, config: BertConfig) -> tuple[int, ...]:
    """First layers of the runs that are all in the chosen layers, or all out of them."""
    chosen = in_layers(layers, config)
    return borders([layer in chosen for layer in range(config.num_hidden_layers)])


def borders(values: Sequence[object]) -> tuple[int, ...]:
    """First indices of the runs of equal values."""
    return tuple(i for i, value in enumerate(values) if i == 0 or value != values[i - 1])
