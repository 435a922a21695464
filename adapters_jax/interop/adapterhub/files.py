"""What every file of AdapterHub's `adapters` shares: who it is for, its version, its options, its tensors.

A config is {"config": options, "name", "hidden_size", "model_type", "model_class", "model_name", "version"}; only the
name and the options must be there. Names of tensors carry the adapter's name, and "bert." in front where the model had
a head; keys of versions before 2.0 are renamed as the library does (loading.py).
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adapters_jax import fields, tensors
from adapters_jax.bert.config import BertConfig
from adapters_jax.errors import AdapterError, ConfigError
from adapters_jax.interop import folders
from adapters_jax.interop.rules import Flat, Refusal, refuse

CONFIG, WEIGHTS, PICKLE = "adapter_config.json", "adapter.safetensors", "pytorch_adapter.bin"
PLUGIN = "adapter_interface.json"
VERSION = "adapters.1.3.0"
"""The version of the library whose files we write."""

LEGACY = {
    "attention_text_task_adapters": "adapters",
    "attention_text_lang_adapters": "adapters",
    "layer_text_task_adapters": "adapters",
    "layer_text_lang_adapters": "adapters",
    "invertible_lang_adapters": "invertible_adapters",
}
"""Parts of tensors' names in old files, and today's."""
RENAMED = {"gelu": "gelu_new", "gelu_orig": "gelu"}
"""Activations in files without a version, and today's names."""

LARGEST = 1e38
"""Of numbers in a config: what float32 holds."""

Options = dict[str, Any]
Fields = Mapping[str, tuple[Any, Any]]
"""Option -> (type, default); the types are those that `fields.fits` knows."""


class _Required:
    """The default of options that have none."""


REQUIRED = _Required()

UNKNOWN = Refusal(
    "an option that we do not know",
    "it could change the function; take it out if it does not",
    lambda own: set(own[0]) - set(own[1]),
    lambda own: min(set(own[0]) - set(own[1])),
)
PLUGGED = Refusal(
    f"a model behind the plug-in interface ({PLUGIN})",
    "its adapters stand elsewhere; expected one trained with BertAdapterModel",
    lambda folder: (folder / PLUGIN).exists(),
)
OTHER_MODEL = Refusal(
    "another model_type than bert",
    "load it on the model that it was trained on, elsewhere",
    lambda own: own[0].get("model_type") not in (None, "bert"),
    lambda own: own[0]["model_type"],
)
OTHER_WIDTH = Refusal(
    "another hidden_size than the backbone's",
    "load the backbone that it was trained on",
    lambda own: own[0].get("hidden_size") not in (None, own[1].hidden_size),
    lambda own: own[0]["hidden_size"],
)
NOT_READ = (UNKNOWN, PLUGGED, OTHER_MODEL, OTHER_WIDTH)

NESTED: Fields = {
    "block_type": (str | None, REQUIRED),
    "non_linearity": (str | None, None),
    "reduction_factor": (float | None, REQUIRED),
}
"""Options of `invertible_adapter`, which files of version 1 have; the activation is the adapter's, there too."""


def options(where: str | Path, given: Any, known: Fields) -> Options:
    """The options of a config, with the library's defaults for those that are not given.

    Raises:
        AdapterError: an option that is unknown here, missing, or of another type.
    """
    if not isinstance(given, dict):
        raise AdapterError(f"{where}: expected an object of options, got {given!r:.60}")
    refuse((UNKNOWN,), (given, known), where)
    for key, value in given.items():
        if not fields.fits(value, known[key][0]) or (isinstance(value, int | float) and not abs(value) <= LARGEST):
            raise AdapterError(f"{where}: {key}: expected {_shown(known[key][0])}, got {value!r:.60}")
    found = {key: default for key, (_, default) in known.items()} | given
    missing = [key for key, value in found.items() if value is REQUIRED]
    if missing:
        raise AdapterError(f"{where}: expected the option {missing[0]}, found none")
    return found


def _shown(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint)


def defaults(known: Fields) -> Options:
    """What is written where nothing else is said; required options are left to the caller."""
    return {key: default for key, (_, default) in known.items() if default is not REQUIRED}


def layers_of(leave_out: Sequence[int] | None, config: BertConfig) -> tuple[int, ...] | None:
    """The layers that are not left out; None for all of them."""
    kept = tuple(layer for layer in range(config.num_hidden_layers) if layer not in (leave_out or ()))
    return None if len(kept) == config.num_hidden_layers else kept


def leave_out(kept: Iterable[int], config: BertConfig) -> list[int]:
    return sorted(set(range(config.num_hidden_layers)) - set(kept))


@dataclasses.dataclass(frozen=True)
class Row:
    """One tensor: our path under adapters/, its name there, and its shape there.

    Attributes:
        turned: a kernel, [out in] there.
        ours: our shape where it is another and not turned.
        copies: further names that may hold the same tensor; one of all is enough.
    """

    path: str
    name: str
    shape: tuple[int, ...]
    turned: bool = False
    ours: tuple[int, ...] | None = None
    copies: tuple[str, ...] = ()


def dense(path: str, name: str, inputs: int, outputs: int) -> list[Row]:
    """The rows of a dense layer."""
    return [
        Row(f"{path}/kernel", f"{name}.weight", (outputs, inputs), turned=True),
        Row(f"{path}/bias", f"{name}.bias", (outputs,)),
    ]


def take(claims: folders.Claims, rows: Iterable[Row]) -> Flat:
    """The rows' tensors, by our paths and in our layout.

    Raises:
        AdapterError: one is missing, has another shape, or copies of it that are not alike.
    """
    flat = {}
    for row in rows:
        names = [name for name in (row.name, *row.copies) if name in claims] or [row.name]
        first, *others = (claims.take(name, *row.shape) for name in names)
        if any(not np.array_equal(first, other) for other in others):
            raise AdapterError(f"{claims.path}: {row.name}: expected its copies to be alike, got unlike ones")
        flat[row.path] = first.T if row.turned else first.reshape(row.ours if row.ours is not None else row.shape)
    return flat


def put(rows: Iterable[Row], flat: Flat, part: str = "adapters") -> Flat:
    """The inverse of `take`: the rows' leaves are taken out of `flat`; `part` of the tree, which errors name."""
    each = ((row, own(flat, row, part)) for row in rows)
    return {row.name: leaf.T if row.turned else leaf.reshape(row.shape) for row, leaf in each}


def own(flat: Flat, row: Row, part: str = "adapters") -> np.ndarray:
    """The leaf of a row, taken out.

    Raises:
        ConfigError: it is not there, or has another shape.
    """
    shape = row.shape[::-1] if row.turned else row.shape if row.ours is None else row.ours
    if row.path not in flat or flat[row.path].shape != shape:
        got = list(flat[row.path].shape) if row.path in flat else "none"
        raise ConfigError(f"params: {part}/{row.path}: expected a leaf {list(shape)}, got {got}")
    return flat.pop(row.path)


@dataclasses.dataclass(frozen=True)
class Source:
    """One adapter of a folder, as a kind reads it.

    Attributes:
        where: its config's file.
        name: of the adapter, part of its tensors' names.
        options: as they stand there, for `options`.
        claims: its tensors, by names without "bert.".
        config: of the backbone.
        reads_row: whether the head reads the first row that the encoder returns.
    """

    where: Path
    name: str
    options: Any
    claims: folders.Claims
    config: BertConfig
    reads_row: bool


@dataclasses.dataclass(frozen=True)
class Target:
    """One adapter as a kind writes it.

    Attributes:
        name: of the adapter.
        flat: its leaves by their paths under adapters/; taken out as they are written.
        config: of the backbone.
    """

    name: str
    flat: Flat
    config: BertConfig


def source(folder: Path, config: BertConfig, reads_row: bool) -> Source:
    """The adapter in a folder, after the rules for older versions.

    Raises:
        AdapterError: files that are missing, damaged, of another model or of the library's plug-in interface.
    """
    where = folder / CONFIG
    content = folders.read_config(where)
    refuse((PLUGGED,), folder, folder)
    name, given = content.get("name"), content.get("config")
    if not isinstance(name, str) or not name:
        raise AdapterError(f"{where}: expected the adapter's name, got {name!r:.60}")
    refuse_other_model(where, content, config)
    claims = named_tensors(folders.weights_file(folder, WEIGHTS, PICKLE))
    if isinstance(given, dict):
        given = _as_of_its_version(where, dict(given), content.get("version"))
        nested = given.pop("invertible_adapter", None)
        if nested is not None and nested != {}:  # of version 1
            inner = options(f"{where}: invertible_adapter", nested, NESTED)
            given |= {"inv_adapter": inner["block_type"], "inv_adapter_reduction_factor": inner["reduction_factor"]}
        task = content.get("type") == "text_task"
        if task and not any(name.startswith("invertible_adapters.") for name in claims.names()):
            given |= {"inv_adapter": None} if "inv_adapter" in given else {}  # named there, and never used
    return Source(where, name, given, claims, config, reads_row)


def refuse_other_model(where: Path, content: Mapping[str, Any], config: BertConfig) -> None:
    """Raises AdapterError where a config names a model that the backbone cannot be."""
    refuse((OTHER_MODEL, OTHER_WIDTH), (content, config), where)


def named_tensors(path: Path) -> folders.Claims:
    """The tensors of a file, by today's names and without "bert." in front.

    Raises:
        AdapterError: it is damaged, holds values that are not finite, or two tensors of one name.
    """
    flat = tensors.read(path)
    tensors.refuse_not_finite(path, flat)
    prefix = "bert." if any(name.startswith("bert.") for name in flat) else ""
    renamed: Flat = {}
    for name, leaf in flat.items():
        new = name.removeprefix(prefix)
        for old, today in LEGACY.items():
            new = new.replace(old, today)
        if new in renamed:
            raise AdapterError(f"{path}: expected one tensor {new[:100]}, got two")
        renamed[new] = leaf
    return folders.Claims(path, renamed)


def _as_of_its_version(where: Path, given: Options, version: Any) -> Options:
    """The options as today's library reads them from a file of that version (loading.py)."""
    if version is None:
        activation = given.get("non_linearity")
        return given | ({"non_linearity": RENAMED[activation]} if activation in list(RENAMED) else {})
    # Versions of adapter-transformers, its predecessor, carry a number alone and are taken as they are.
    if not isinstance(version, str):
        raise AdapterError(f"{where}: version: expected a text, got {version!r:.60}")
    if not version.startswith("adapters.") or given.get("architecture") != "lora":
        return given
    match = re.fullmatch(r"adapters\.(\d{1,9})(?:\.(\d{1,9}))?(?:\.(\d{1,9}))?(.{0,40})", version)
    if not match:
        raise AdapterError(f"{where}: version: expected one such as {VERSION}, got {version[:60]!r}")
    number = tuple(int(part or 0) for part in match.groups()[:3])
    unfinished = bool(re.match(r"\.?(dev|a|b|rc)", match[4]))
    # Before 1.1.0 the change was never multiplied by alpha / r, whatever alpha was.
    faulty = number < (1, 1, 0) or (number == (1, 1, 0) and unfinished)
    return given | ({"alpha": given["r"]} if faulty and "r" in given else {})


def envelope(name: str, config: BertConfig, model_name: str, inner: Mapping[str, Any]) -> dict[str, Any]:
    """The whole config around an adapter's, a head's or a fusion's own."""
    return {
        "config": dict(inner),
        "hidden_size": config.hidden_size,
        "model_class": "BertAdapterModel",
        "model_name": model_name,
        "model_type": "bert",
        "name": name,
        "version": VERSION,
    }


def with_prefix(flat: Flat) -> Flat:
    """As a model with a head names the encoder's tensors."""
    return {f"bert.{name}": leaf for name, leaf in flat.items()}
