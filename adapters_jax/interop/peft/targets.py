"""Which modules of BERT an adapter of peft changes: by its `target_modules`, as peft itself reads them, and back.

target_modules    a list: whole names of modules, or their last parts; in the layers of `layers_to_transform`
                  a text: a regular expression for whole names; "all-linear": every dense layer but the classifier
exclude_modules   the same, for what is left out; modules in `modules_to_save` are left out too
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from adapters_jax.bert import weights
from adapters_jax.bert.config import BertConfig
from adapters_jax.interop.peft import patterns
from adapters_jax.interop.peft.patterns import Part
from adapters_jax.interop.peft.source import Source, is_number

ALL_LINEAR = "all-linear"
PLACES = {
    row.path.removesuffix("/kernel"): row.released.removesuffix(".weight")
    for row in weights.LAYER
    if row.path.endswith("/kernel")
}
"""Slot -> the dense layer's name within its layer."""

NORMS = {
    row.path.removesuffix("/scale"): row.released.removesuffix(".weight")
    for row in (*weights.EMBEDDINGS, *weights.LAYER)
    if row.path.endswith("/scale")
}
"""A LayerNorm's path (within its layer, or of the embeddings) -> its name there."""

EMBEDDINGS = tuple(row.released.removesuffix(".weight") for row in weights.EMBEDDINGS if "/norm/" not in row.path)
POOLER, CLASSIFIER = "pooler.dense", "classifier"


def dense_name(slot: str, layer: int) -> str:
    return f"encoder.layer.{layer}.{PLACES[slot]}"


def widths(slot: str, config: BertConfig) -> tuple[int, int]:
    """(inputs, outputs) of a dense layer."""
    inputs, outputs = next(row for row in weights.LAYER if row.path == f"{slot}/kernel").shape(config)
    return inputs, outputs


def norm_names(config: BertConfig) -> dict[str, str]:
    """Path under backbone/ of every LayerNorm -> its name."""
    found = {"embeddings/norm": NORMS["embeddings/norm"]}
    for layer in range(config.num_hidden_layers):
        inner = {path: name for path, name in NORMS.items() if path not in found}
        found |= {f"encoder/{layer}/{path}": f"encoder.layer.{layer}.{name}" for path, name in inner.items()}
    return found


class Targets:
    """What a config's options say of every module.

    Attributes:
        dense: the (slot, layer) of the dense layers that are changed, in the order of the slots.
        norms: the paths under backbone/ of the LayerNorms that are changed.
        others: the names of other modules that are changed.
    """

    def __init__(self, source: Source, default: Sequence[str]) -> None:
        """`default`: `target_modules` where the config has none, peft's own for BERT.

        Raises:
            AdapterError: an option of another type, or an expression that could take too long.
        """
        self._source = source
        self._saved = frozenset(source.names("modules_to_save"))
        self._excluded = self._given("exclude_modules", ())
        self._targets = self._given("target_modules", default)
        if not self._targets:
            raise source.error("target_modules", "names of modules or a regular expression", self._targets)
        self._layers = _layers(source)
        self._patterns = _layer_patterns(source)

        config = source.bert
        places = {(slot, i): dense_name(slot, i) for slot in PLACES for i in range(config.num_hidden_layers)}
        others = [*EMBEDDINGS, *([] if source.task == "TOKEN_CLS" else [POOLER])]  # that model has no pooler
        if str(source.get("target_modules", "")).lower() == ALL_LINEAR:
            linear = [source.stem + name for name in [*places.values(), *others] if name not in EMBEDDINGS]
            self._targets = frozenset(linear + ([] if source.task == "SEQ_CLS" else [CLASSIFIER]))
        self.dense = [place for place, name in places.items() if self._hit(source.stem + name)]
        self.norms = [path for path, name in norm_names(config).items() if self._hit(source.stem + name)]
        self.others = [name for name in (*(source.stem + each for each in others), CLASSIFIER) if self._hit(name)]

    @classmethod
    def of(cls, source: Source, default: Sequence[str]) -> "Targets":
        """Those of a config, made once."""
        return source.once(("targets", tuple(default)), lambda: cls(source, default))

    def _given(self, option: str, default: Sequence[str]) -> Part | frozenset[str]:
        found = self._source.get(option, list(default))
        if isinstance(found, str):
            return compiled(self._source, option, found)[0] if found else frozenset()
        return frozenset(self._source.names(option) or default)

    def _hit(self, name: str) -> bool:
        """Whether peft changes the module of that name."""
        if not self._saved.isdisjoint(_runs(name)) or self._among("exclude_modules", self._excluded, name):
            return False
        if not self._among("target_modules", self._targets, name):
            return False
        if not isinstance(self._targets, frozenset) or name in self._targets or not self._layers:
            return True
        number = next((int(part) for part in name.split(".") if part.isdecimal()), None)
        first = lambda: next((p for p in self._patterns if self._source.work.matches(p, name)), None)
        return number in self._layers and checked(self._source, "layers_pattern", first) is not None

    def _among(self, option: str, given: Part | frozenset[str], name: str) -> bool:
        """Whether an expression matches a name, or a list holds it or its last parts."""
        if isinstance(given, frozenset):
            parts = name.split(".")
            return any(".".join(parts[start:]) in given for start in range(len(parts)))
        return checked(self._source, option, lambda: self._source.work.matches(given, name))


def _runs(name: str) -> set[str]:
    """All modules that a name names: runs of its parts."""
    parts = name.split(".")
    return {".".join(parts[i:j]) for i in range(len(parts)) for j in range(i + 1, len(parts) + 1)}


def _layers(source: Source) -> frozenset[int]:
    """`layers_to_transform`; none for all."""
    found = source.get("layers_to_transform", [])
    layers = found if isinstance(found, list) else [found]
    if not all(isinstance(layer, int) for layer in layers):
        raise source.error("layers_to_transform", "numbers of layers", found)
    return frozenset(layers)


def _layer_patterns(source: Source) -> list[Part]:
    """Of whole names: those whose number of the layer is found as `layers_pattern` says.

    A name of BERT has one number, so that peft's search for the first one can find no other.
    """
    found = source.get("layers_pattern", [])
    given = [found] if isinstance(found, str) else list(source.names("layers_pattern"))
    given = [each for each in given if each]
    parts = compiled(source, "layers_pattern", *given)
    if any(len(part[1]) > 1 for part in parts):
        raise source.error("layers_pattern", "alternatives in parentheses", found)
    if not parts:
        return list(compiled(source, "layers_pattern", r".*\.[^.]*\.\d+\..*"))
    return list(compiled(source, "layers_pattern", *(rf"(?:^|.*\.){each}\.\d+\..*" for each in given)))


def checked(source: Source, option: str, run: Callable[[], Any]) -> Any:
    """What `run` gives of an option's expressions.

    Raises:
        AdapterError: one is none, or has parts that we do not know, or they could take too long.
    """
    try:
        return run()
    except patterns.Unfit:
        raise source.error(
            option, "names or regular expressions that are quickly matched", source.config.get(option)
        ) from None


def compiled(source: Source, option: str, *expressions: str) -> tuple[Part, ...]:
    """An option's regular expressions.

    Raises:
        AdapterError: see `checked`; or they are too many, or too long together.
    """
    if len(expressions) > patterns.MANY or sum(map(len, expressions)) > patterns.LONGEST:
        most = f"at most {patterns.MANY} expressions of {patterns.LONGEST} characters together"
        raise source.error(option, most, source.config.get(option))
    return checked(source, option, lambda: tuple(patterns.parsed(each) for each in expressions))


def by_pattern(source: Source, option: str, default: float | int) -> Callable[[str], float | int]:
    """name -> the number under the first key of a table that matches the end of a name: of `rank_pattern`, say.

    Raises:
        AdapterError: a key is no regular expression, or they could take too long; a value is no number.
    """
    table = source.table(option)
    for value in table.values():
        if not is_number(value):
            raise source.error(option, "numbers", value)
    parts = source.once(option, lambda: compiled(source, option, *table))
    rows = tuple(zip(parts, table.values(), strict=True))
    found = lambda name: next((value for part, value in rows if source.work.ends(part, name)), default)
    return lambda name: checked(source, option, lambda: found(name))


def expression(slots: Iterable[str], layers: Sequence[int] | None) -> str:
    """`target_modules` of these dense layers; layers: None for all."""
    return _expression((PLACES[slot] for slot in slots), layers)


def norm_expression(layers: Sequence[int] | None) -> str:
    """`target_modules` of the LayerNorms of these layers, or of all LayerNorms."""
    inner = (name for path, name in NORMS.items() if not path.startswith("embeddings/"))
    return r".*LayerNorm" if layers is None else _expression(inner, layers)


def _expression(names: Iterable[str], layers: Sequence[int] | None) -> str:
    numbers = r"\d+" if layers is None else f"({'|'.join(map(str, layers))})"
    return rf".*encoder\.layer\.{numbers}\.({'|'.join(map(re.escape, names))})"


def key(slot: str) -> str:
    """A key of `rank_pattern` or `alpha_pattern`: this dense layer in all layers, and no other one."""
    return rf"\d+\.{re.escape(PLACES[slot])}"
