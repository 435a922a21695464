"""Which modules of BERT an adapter of peft changes: by its `target_modules`, as peft itself reads them, and back.

target_modules    a list: whole names of modules, or their last parts; in the layers of `layers_to_transform`
                  a text: a regular expression for whole names; "all-linear": every dense layer but the classifier
exclude_modules   the same, for what is left out; modules in `modules_to_save` are left out too
"""

import re
from collections.abc import Callable, Iterable, Sequence

from adapters_jax.bert import weights
from adapters_jax.bert.config import BertConfig
from adapters_jax.interop.peft import patterns
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
        self._saved = source.names("modules_to_save")
        self._excluded = self._given("exclude_modules", ())
        self._targets = self._given("target_modules", default)
        if not self._targets:
            raise source.error("target_modules", "names of modules or a regular expression", self._targets)
        layers = source.get("layers_to_transform", [])
        self._layers = layers if isinstance(layers, list) else [layers]
        patterns_given = source.get("layers_pattern", [])
        self._patterns = [patterns_given] if isinstance(patterns_given, str) else source.names("layers_pattern")

        config = source.bert
        places = {(slot, i): dense_name(slot, i) for slot in PLACES for i in range(config.num_hidden_layers)}
        others = [*EMBEDDINGS, *([] if source.task == "TOKEN_CLS" else [POOLER])]  # that model has no pooler
        if isinstance(self._targets, str) and self._targets.lower() == ALL_LINEAR:
            linear = [source.stem + name for name in [*places.values(), *others] if name not in EMBEDDINGS]
            self._targets = frozenset(linear + ([] if source.task == "SEQ_CLS" else [CLASSIFIER]))
        self.dense = [place for place, name in places.items() if self._hit(source.stem + name)]
        self.norms = [path for path, name in norm_names(config).items() if self._hit(source.stem + name)]
        self.others = [name for name in (*(source.stem + each for each in others), CLASSIFIER) if self._hit(name)]

    def _given(self, option: str, default: Sequence[str]) -> str | frozenset[str]:
        found = self._source.get(option, list(default))
        if isinstance(found, str):
            return checked(self._source, option, found)
        return frozenset(self._source.names(option) or default)

    def _hit(self, name: str) -> bool:
        """Whether peft changes the module of that name."""
        saved = any(f".{each}." in f".{name}." for each in self._saved)
        if saved or _among(self._excluded, name) or not _among(self._targets, name):
            return False
        if isinstance(self._targets, str) or name in self._targets or not self._layers:
            return True
        lead = r"(?:^|.*?\.)" if self._patterns else r".*?\."
        for pattern in self._patterns or [r"[^.]*"]:
            if match := re.match(checked(self._source, "layers_pattern", rf"{lead}{pattern}\.(\d+)\."), name):
                number = match.groups()[-1]
                return number is not None and int(number) in self._layers
        return False


def _among(given: str | frozenset[str], name: str) -> bool:
    """Whether an expression matches a name, or a list holds it or its last parts."""
    if isinstance(given, str):
        return re.fullmatch(given, name) is not None
    parts = name.split(".")
    return any(".".join(parts[start:]) in given for start in range(len(parts)))


def checked(source: Source, option: str, *expressions: str) -> str:
    """The first of an option's regular expressions, which together are quickly matched.

    Raises:
        AdapterError: one is none, or they could take too long.
    """
    ways = sum(2 ** min(patterns.cost(each), patterns.MOST + 1) for each in expressions)
    if ways > 2**patterns.MOST:
        raise source.error(option, "names or regular expressions that are quickly matched", source.config.get(option))
    return expressions[0]


def by_pattern(source: Source, option: str, default: float | int) -> Callable[[str], float | int]:
    """name -> the number under the first key of a table that matches the end of a name: of `rank_pattern`, say.

    Raises:
        AdapterError: a key is no regular expression, or they could take too long; a value is no number.
    """
    table = {patterns.ending(pattern): value for pattern, value in source.table(option).items()}
    if table:
        checked(source, option, *table)
    for value in table.values():
        if not is_number(value):
            raise source.error(option, "numbers", value)
    return lambda name: next((value for pattern, value in table.items() if re.match(pattern, name)), default)


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
