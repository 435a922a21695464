"""The artefact: everything that tuning made, apart from the unchanged backbone.

    folder/adapter.safetensors    every leaf under adapters/ and head/, and the backbone's trained leaves, by the
                                  layer-numbered names that tables show: adapters/encoder/3/attn_merge/down/kernel
    folder/manifest.json          method and head with all hyper-parameters and label names, BertConfig, the backbone's
                                  fingerprint, each leaf's shape, dtype and label, scores, versions, sha256 and size
    folder/README.md              a card that says what of this people want to know; nothing reads it

What is read is decided by the model that the manifest names and by the backbone at hand, never by the weights' file:
its size, names, shapes and dtypes must be those the model expects, its bytes those of the manifest, its values finite.
Nothing is unpickled and no name becomes a path.
"""

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from adapters_jax import agreement, card, fields, manifest, tensors, trees
from adapters_jax.bert.config import BertConfig
from adapters_jax.bert.heads import HEADS
from adapters_jax.errors import AdapterError, AdaptersJaxError, ConfigError
from adapters_jax.methods import METHODS, Method
from adapters_jax.model import Model
from adapters_jax.sharding import fetch
from adapters_jax.summary import summarise
from adapters_jax.types import Tree

FORMAT = 1
WEIGHTS = "adapter.safetensors"

FACTS: dict[str, Any] = {"task": str | None, "max_length": int | None, "seed": int | None, "data": str | None}
PARTS: dict[str, dict[str, Any]] = {
    "method": {"name": str},
    "head": {"name": str},
    "backbone": {"fingerprint": str, "name": str, "revision": str | None, "quantization": str | None},
}
TABLES: dict[str, Any] = {"scores": float, "summary": float, "versions": str, "extra": Any}
"""Of a manifest: fact -> type; part -> key -> type; table -> type of its values."""
LARGEST = 1e300  # of a number in a manifest: an integer that is no float breaks what prints it


def identity(model: Model, backbone: Any) -> dict[str, Any]:
    """What a stored tree of leaves means: method, head, configuration and backbone, as JSON values."""
    return {
        "method": model.method.to_dict(),
        "head": model.head.to_dict(),
        "config": model.config.to_dict(),
        "dtype": model.dtype,
        "backbone": {
            "fingerprint": backbone.fingerprint,
            "name": str(backbone.name),
            "revision": backbone.revision,
            "quantization": backbone.quantize,
        },
    }


def save_adapter(
    folder: str | Path,
    model: Model,
    params: Tree,
    backbone: Any,
    *,
    task: str | None = None,
    scores: Mapping[str, Any] | None = None,
    max_length: int | None = None,
    seed: int | None = None,
    data: str | None = None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write the artefact, complete or not at all; one that stands there is replaced once the new one is on disk.

    Args:
        folder: new, empty, or an artefact.
        model, params: as trained; only leaves that differ from the backbone's are written.
        backbone: the `Backbone` they were trained on.
        task: name of the task.
        scores: name -> fraction.
        max_length: in tokens, at training.
        seed: of the run.
        data: name of the training data.
        extra: further JSON values of the user's own.

    Raises:
        AdapterError: params are not the model's, not finite, or differ from the backbone where the method freezes it;
            the folder holds something else or cannot be written.
    """
    target = Path(folder).absolute()
    template = model.abstract(backbone.params)
    places = _places(model, template)
    wanted, _ = trees.split(template, places)
    agreement.refuse_other_paths(target, params, template)
    stored, rest = trees.split(params, places)
    flat = trees.to_layers(trees.map_paths(lambda path, leaf: _whole(target, path, leaf), stored))
    try:
        trees.from_layers(flat, wanted)
    except AdapterError as error:
        raise AdapterError(f"{target}: not saved, {error}") from None
    agreement.refuse_changed(target, rest["backbone"], _cut(backbone.params, template))
    labels = model.labels(template)
    counts = dataclasses.asdict(summarise(template, labels))
    del counts["rows"]
    content = {
        "format": FORMAT,
        "kind": "adapter",
        **identity(model, backbone),
        "leaves": _table(wanted, trees.flatten(labels)),
        "summary": counts,
        "task": task,
        "scores": {name: float(score) for name, score in (scores or {}).items()},
        "max_length": max_length,
        "seed": seed,
        "data": data,
        "versions": manifest.versions(),
        "extra": dict(extra or {}),
    }
    if jax.process_index() == 0:
        _write(target, {name: np.asarray(leaf, order="C") for name, leaf in flat.items()}, content)


def load_adapter(
    folder: str | Path, backbone: Any, methods: Mapping[str, type[Method]] | None = None
) -> tuple[Model, Tree]:
    """The model and its parameters, after everything the manifest says has been verified.

    Args:
        folder: an artefact.
        backbone: the `Backbone` it was trained on; its unchanged leaves are shared, not copied. The fingerprint
            decides, which is that of the weights as read: it may be quantised otherwise than in training, or not.
        methods: name -> class of methods that are not in `METHODS`.

    Raises:
        AdapterError: a file is missing, damaged or hostile; the method or head is unknown; it belongs to another
            backbone; leaves are not the model's or not finite.
    """
    where = Path(folder)
    content = read_manifest(where)
    found = manifest.problems(where, content, extra_files=True)
    if found:
        raise AdapterError(f"{where}: {'; '.join(found[:3])}; copy it anew from where it was trained")
    agreement.refuse_other_backbone(where, content, backbone)
    model = _model(where, content, backbone.config, METHODS | dict(methods or {}))
    try:
        template = model.abstract(backbone.params)
    except Exception as error:  # whatever a method does with a stranger's values
        raise AdapterError(f"{where}: its method cannot be built: {manifest.one_line(error)}") from None
    places = _places(model, template)
    wanted, _ = trees.split(template, places)
    agreement.refuse_other_leaves(where, content["leaves"], _table(wanted, trees.flatten(model.labels(template))))
    size = tensors.check_size(where / WEIGHTS, trees.flatten(wanted).values())
    flat = tensors.read(where / WEIGHTS, size)
    try:
        stored = trees.from_layers(flat, wanted)
    except AdapterError as error:
        raise AdapterError(f"{where / WEIGHTS}: {error}") from None
    tensors.refuse_not_finite(where / WEIGHTS, flat)
    stored = trees.map_paths(lambda path, leaf: jnp.asarray(leaf), stored)
    _, rest = trees.split(template | {"backbone": _cut(backbone.params, template)}, places)
    return model, trees.join(stored, rest)


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The manifest of an artefact, unchanged since it was written; the files it names are not looked at.

    Raises:
        AdapterError: there is none, it was changed, or a newer version wrote it.
    """
    where = Path(folder)
    if not where.is_dir():
        raise AdapterError(
            f"{where}: expected the folder of an adapter, found {'a file' if where.exists() else 'none'}"
        )
    try:
        content = manifest.read(where, FORMAT)
    except manifest.Damaged as error:
        raise AdapterError(f"{where}: no adapter to trust: {error}") from None
    if content.get("kind") != "adapter":
        raise AdapterError(f"{where}: expected an adapter, got {content.get('kind')!r}; give the run's adapter/ folder")
    if not isinstance(content.get("dtype"), str):
        raise AdapterError(f"{where / manifest.NAME}: expected a text 'dtype', got {content.get('dtype')!r:.80}")
    for name in ("method", "head", "config", "backbone", "leaves", "files"):
        if not isinstance(content.get(name), dict):
            raise AdapterError(f"{where / manifest.NAME}: expected a table {name!r}, got {content.get(name)!r:.80}")
    _refuse_other_types(where / manifest.NAME, content)
    if list(content["files"]) != [WEIGHTS]:
        raise AdapterError(f"{where / manifest.NAME}: expected the file {WEIGHTS}, got {list(content['files'])!s:.80}")
    return content


def _refuse_other_types(where: Path, content: Mapping[str, Any]) -> None:
    """Facts of another type than `save_adapter` writes; what builds method and head is checked when they are built."""
    found: list[tuple[str, Any, Any]] = [(key, content.get(key), hint) for key, hint in FACTS.items()]
    for part, keys in PARTS.items():
        found += [(f"{part}.{key}", content[part].get(key), hint) for key, hint in keys.items()]
    for name, hint in TABLES.items():
        table = content.get(name, {})
        if not isinstance(table, dict):
            raise AdapterError(f"{where}: expected a table {name!r}, got {table!r:.80}")
        found += [(f"{name}.{key[:80]}", value, hint) for key, value in table.items()]
    for name, value, hint in found:
        if not fields.fits(value, hint) or (isinstance(value, int | float) and not abs(value) <= LARGEST):
            raise AdapterError(f"{where}: {name}: expected {getattr(hint, '__name__', hint)}, got {value!r:.80}")


def read_method(folder: str | Path) -> Method:
    """The method of an artefact, by its manifest alone.

    Raises:
        AdapterError: as `read_manifest`, or a method that is unknown or cannot be.
    """
    try:
        return fields.build("method", METHODS, read_manifest(folder)["method"])
    except ConfigError as error:
        raise AdapterError(f"{Path(folder) / manifest.NAME}: {manifest.one_line(error)}") from None


def verify(folder: str | Path) -> list[str]:
    """What is wrong with an artefact's files, one line each; [] if it is as it was written."""
    try:
        return manifest.problems(Path(folder), read_manifest(folder), extra_files=True)
    except AdapterError as error:
        return [str(error)]


def _whole(target: Path, path: str, leaf: Any) -> np.ndarray:
    """A leaf on the host that writes; on the others, once it is known to be finite, its shape alone."""
    found = fetch(leaf)
    tensors.refuse_not_finite(target, trees.to_layers(trees.unflatten({path: found})))
    return found if jax.process_index() == 0 else np.broadcast_to(np.zeros((), found.dtype), found.shape)


def _places(model: Model, template: Tree) -> Tree:
    """For `trees.split`: "frozen" is what the backbone brings, everything else is stored."""
    here = lambda path, label: label if path.startswith("backbone/") else "stored"
    return trees.map_paths(here, model.labels(template))


def _cut(backbone: Tree, template: Tree) -> Tree:
    """The backbone's own leaves, its layers in the runs that the template has."""
    layers = next(iter(trees.flatten(backbone["encoder"]).values())).shape[0]
    starts = [start for start, _, _ in trees.runs(template["backbone"]["encoder"], layers)]
    return backbone | {"encoder": trees.split_runs(backbone["encoder"], layers, starts)}


def _table(stored: Tree, labels: Mapping[str, str]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for path, leaf in trees.flatten(stored).items():
        names = trees.layer_paths(path, leaf)
        shape = list(leaf.shape if names == [path] else leaf.shape[1:])
        table |= {name: {"shape": shape, "dtype": str(leaf.dtype), "label": labels[path]} for name in names}
    return table


def _write(target: Path, flat: Mapping[str, np.ndarray], content: Mapping[str, Any]) -> None:
    """Beside the target first; then two renames put it in the place of what stood there."""
    partial, old = (target.with_name(f".{target.name}.{kind}") for kind in ("partial", "old"))
    try:
        strangers = [path.name for path in target.iterdir()] if target.exists() else []
        own = {WEIGHTS, manifest.NAME, card.NAME} if manifest.NAME in strangers else {WEIGHTS}
        strangers = sorted(set(strangers) - own)
        if strangers:
            raise AdapterError(
                f"{target}: expected a new or empty folder or an adapter to replace, found {', '.join(strangers[:3])}; "
                "choose another folder"
            )
        if old.exists() and not target.exists():  # an earlier save was stopped between its two renames
            old.rename(target)
        for leftover in (partial, old):
            shutil.rmtree(leftover, ignore_errors=True)
        partial.mkdir(parents=True)
        safetensors.numpy.save_file(dict(flat), partial / WEIGHTS)
        manifest.sync(partial / WEIGHTS)
        manifest.write(partial, content)
        manifest.write_text(partial / card.NAME, card.render(content, "native", None))
        if target.exists():
            target.rename(old)
        partial.rename(target)
        manifest.sync(target.parent)
        shutil.rmtree(old, ignore_errors=True)
    except (OSError, ValueError, TypeError, safetensors.SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        if old.exists() and not target.exists():
            old.rename(target)
        raise AdapterError(f"{target}: cannot be written: {manifest.why(error)}") from error


def _model(where: Path, content: Mapping[str, Any], config: BertConfig, methods: Mapping[str, type[Method]]) -> Model:
    try:
        method = fields.build("method", methods, content["method"])
        head = fields.build("head", HEADS, content["head"])
        return Model(config, method, head, dtype=content["dtype"])
    except (AdaptersJaxError, ArithmeticError, TypeError, ValueError) as error:
        raise AdapterError(f"{where / manifest.NAME}: {manifest.one_line(error)}") from None
