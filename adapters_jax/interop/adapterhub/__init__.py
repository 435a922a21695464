"""AdapterHub's `adapters`: its folders read, and written.

    FOLDER/adapter_config.json, adapter.safetensors           an adapter           (files.py, a module for each kind)
          /head_config.json, model_head.safetensors           its head             (heads.py)
          /adapter_setup.json, a folder for each part         stacks and fusions   (setups.py)

KINDS says what can be exchanged, and what is refused and why. Stricter than the library: every option and every tensor
is accounted for, in both directions.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from adapters_jax import tensors, trees
from adapters_jax.bert.config import BertConfig
from adapters_jax.errors import AdapterError, ConfigError
from adapters_jax.interop import folders
from adapters_jax.interop.adapterhub import files, heads, prompt, setups, unions
from adapters_jax.interop.rules import Kind, kind_for
from adapters_jax.methods import IA3, AdapterDrop, Compose, Frozen, Fusion, LoRA, Method, Prefix, Stack
from adapters_jax.methods.bottleneck import BottleneckMethod
from adapters_jax.methods.checks import in_layers
from adapters_jax.model import Model
from adapters_jax.types import Tree

KINDS: tuple[Kind, ...] = (*unions.SINGLE, unions.KIND, setups.FUSE, setups.STACK)
"""How each kind of adapter is exchanged."""


def load_adapterhub(folder: str | Path, backbone: Any) -> tuple[Model, Tree]:
    """The model of a folder that AdapterHub's `adapters` wrote, and its parameters on this backbone.

    Args:
        folder: of an adapter, a fusion or a setup, with safetensors.
        backbone: the `Backbone` that it was trained on; the files tell its width, not which weights it had.

    Raises:
        AdapterError: a file is missing, damaged, or of another model; options that we lack; tensors that are missing,
            unexpected, misshapen or not finite.
    """
    where, config = Path(folder), backbone.config
    try:
        head, own = heads.read(setups.head_folder(where), config, backbone.has_pooler)
        method, flat = setups.read(where, config, prompt.reads_row(head))
        model = Model(config, method, head)
    except ConfigError as error:
        raise AdapterError(f"{where}: {error}") from None
    except OSError as error:
        raise AdapterError(f"{where}: cannot be read: {error.strerror}") from None
    named = {f"adapters/{path}": leaf for path, leaf in flat.items()}
    named |= {f"head/{path}": leaf for path, leaf in own.items()}
    template = model.abstract(backbone.params)
    wanted = {part: template[part] for part in ("adapters", "head")}
    try:
        made = trees.from_layers({path: jnp.asarray(leaf, jnp.float32) for path, leaf in named.items()}, wanted)
    except AdapterError as error:
        raise AdapterError(f"{where}: {error}") from None
    return model, {"backbone": backbone.params} | made


def save_adapterhub(folder: str | Path, model: Model, params: Tree, backbone: Any, *, name: str = "default") -> None:
    """Writes what BertAdapterModel reads with `load_adapter(folder, use_safetensors=True)`.

    Stacks and fusions are written for `load_adapter_setup`, each part under our name for it.

    Args:
        folder: made if it is not there; files of the same names are replaced.
        model, params: as trained.
        backbone: whose name the files shall tell.
        name: of the adapter and its head; of stacks and fusions, of the head.

    Raises:
        ConfigError: a method, an option or a head that the library lacks.
        AdapterError: values that are not finite; the folder cannot be written.
    """
    setups.refuse_name(name)
    config = model.config
    model = dataclasses.replace(model, method=plain(model.method, config))
    kind = kind_for(KINDS, unions.LIBRARY, model)
    leaves = {path: np.asarray(leaf, np.float32) for path, leaf in trees.to_layers(_own(params)).items()}
    tensors.refuse_not_finite(Path(folder), leaves)
    under = lambda part: {path.removeprefix(part): leaf for path, leaf in leaves.items() if path.startswith(part)}
    head = heads.write(model, under("head/"), name)
    target = files.Target(name, under("adapters/"), config)
    if kind in (setups.FUSE, setups.STACK):
        found = kind.write(model.method, target, str(backbone.name), name if head else None)  # type: ignore[misc]
    else:
        found = {"": setups.adapter_files(model.method, target, str(backbone.name))}
    if target.flat:
        raise ConfigError(f"params: expected the model's own leaves, got adapters/{next(iter(target.flat))} too")
    if head is not None:
        own, written = head
        top = found.setdefault(name if "" not in found or setups.SETUP in found[""] else "", {})
        top |= {heads.WEIGHTS: written, heads.CONFIG: files.envelope(name, config, str(backbone.name), own)}
    for place, content in sorted(found.items(), reverse=True):  # the setup last, which names the rest
        folders.write(Path(folder) / place, content)


def _own(params: Tree) -> Tree:
    return {part: params[part] for part in ("adapters", "head")}


def plain(method: Method, config: BertConfig) -> Method:
    """The same function with the same leaves, without what only says how it is trained, or where it was left out of.

    `Frozen` is its method; `AdapterDrop` its method in the layers that carry it, where that can be said.
    """
    if isinstance(method, Frozen):
        return plain(method.of, config)
    if isinstance(method, AdapterDrop):
        return _dropped(plain(method.of, config), method, config)
    if isinstance(method, Compose | Stack | Fusion):
        return dataclasses.replace(method, parts=tuple(plain(part, config) for part in method.parts))
    return method


def _dropped(of: Method, around: AdapterDrop, config: BertConfig) -> Method:
    if isinstance(of, BottleneckMethod):
        sizes = tuple(width if layer >= around.drop else 0 for layer, width in enumerate(of.widths(config)))
        return dataclasses.replace(of, sizes=sizes, bottleneck=None, reduction_factor=None, layers=None)
    if isinstance(of, LoRA | IA3) or (isinstance(of, Prefix) and not of.bottleneck):
        return dataclasses.replace(of, layers=tuple(x for x in in_layers(of.layers, config) if x >= around.drop))
    return around
