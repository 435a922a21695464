"""AdapterHub's `adapters`: its folders read, and written.

    FOLDER/adapter_config.json, adapter.safetensors           an adapter           (files.py, a module for each kind)
          /head_config.json, model_head.safetensors           its head             (heads.py)
          /adapter_setup.json, a folder for each part         stacks and fusions   (setups.py, compositions.py)

KINDS says what can be exchanged, and what is refused and why. Stricter than the library: every option and every tensor
is accounted for, in both directions.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adapters_jax.errors import AdapterError, ConfigError
from adapters_jax.interop import folders, leaves
from adapters_jax.interop.adapterhub import compositions, files, heads, names, prompt, setups, unions
from adapters_jax.interop.plain import plain
from adapters_jax.interop.rules import OTHER_ENCODER, QUANTISED, Kind, Refusal, kind_for, refuse
from adapters_jax.methods import AdapterDrop, Frozen, Fusion, Stack
from adapters_jax.model import Model
from adapters_jax.types import Tree


def load_adapterhub(folder: str | Path, backbone: Any, labels: Sequence[str] = ()) -> tuple[Model, Tree]:
    """The model of a folder that AdapterHub's `adapters` wrote, and its parameters on this backbone.

    Args:
        folder: of an adapter, a fusion or a setup, with safetensors.
        backbone: the `Backbone` that it was trained on; the files tell its width, not which weights it had.
        labels: names of the classes, in order, where the head's file has none; () for "0", "1", ...

    Raises:
        AdapterError: a file is missing, damaged, or of another model; options that we lack; tensors that are missing,
            unexpected, misshapen or not finite; a backbone of another family than BERT.
        ConfigError: another number of labels, or labels of classes that the file names.
    """
    where, config = Path(folder), backbone.config
    refuse((OTHER_ENCODER,), backbone, f"backbone {backbone.name}")
    try:
        head, own = heads.read(compositions.head_folder(where), config, backbone.has_pooler)
        method, flat = setups.read(where, config, prompt.reads_row(head))
        model = Model(config, method, head)
    except ConfigError as error:
        raise AdapterError(f"{where}: {error}") from None
    except OSError as error:
        raise AdapterError(f"{where}: cannot be read: {error.strerror}") from None
    model = dataclasses.replace(model, head=heads.named(model.head, labels, where))
    named = {f"adapters/{path}": leaf for path, leaf in flat.items()}
    named |= {f"head/{path}": leaf for path, leaf in own.items()}
    return model, leaves.assembled(model, named, backbone, where)


def save_adapterhub(folder: str | Path, model: Model, params: Tree, backbone: Any, *, name: str = "default") -> None:
    """Writes what BertAdapterModel reads with `load_adapter(folder, use_safetensors=True)`.

    Stacks and fusions are written for `load_adapter_setup`, each part under our name for it.

    Args:
        folder: made if it is not there; files of the same names are replaced.
        model, params: as trained.
        backbone: the `Backbone` they were trained on, whose name the files shall tell.
        name: of the adapter and its head; of stacks and fusions, of the head.

    Raises:
        ConfigError: a method, an option, a head or a name that the library lacks.
        AdapterError: params are not the model's, or changed where it is frozen; the folder cannot be written.
    """
    where, config = Path(folder), model.config
    refuse((OTHER_ENCODER,), backbone, f"backbone {backbone.name}", ConfigError)
    written = dataclasses.replace(model, method=plain(model.method, config))
    kind = kind_for(KINDS, unions.LIBRARY, written)
    of_parts = list(written.method.by_name) if isinstance(written.method, Stack | Fusion) else []
    for each in (name, *of_parts):
        refuse(names.NAMES, each, "name", ConfigError)
    refuse(heads.NOT_WRITTEN, model, f"head {model.head.name}", ConfigError)
    flat = leaves.stored(model, params, backbone, where)
    under = {
        part: {path.removeprefix(part): flat.pop(path) for path in list(flat) if path.startswith(part)}
        for part in ("adapters/", "head/")
    }
    head = heads.write(model, under["head/"], name)
    target = files.Target(name, under["adapters/"], config)
    if kind in (setups.FUSE, setups.STACK):
        found = kind.write(written.method, target, str(backbone.name), name if head else None)  # type: ignore[misc]
    else:
        found = {"": setups.adapter_files(written.method, target, str(backbone.name))}
    left = [*flat, *(f"{part}{path}" for part, own in under.items() for path in own)]
    if left:
        raise ConfigError(f"params: expected leaves that the library has a place for, got {left[0]} too")
    if head is not None:
        own, tensors = head
        top = found.setdefault(name if "" not in found or compositions.SETUP in found[""] else "", {})
        top |= {heads.WEIGHTS: tensors, heads.CONFIG: files.envelope(name, config, str(backbone.name), own)}
    for place, content in found.items():
        folders.refuse_others(where / place, content)
    for place, content in sorted(found.items(), reverse=True):  # the setup last, which names the rest
        folders.write(where / place, content)


ALL = Kind(
    "all of them",
    (),
    None,
    None,
    note="a regression's mean and deviation are multiplied into its classifier, and come back as 0 and 1: the same "
    "answers, other bits; a head of two layers keeps the second one's dropout",
    not_read=(OTHER_ENCODER, *files.NOT_READ, unions.OTHER, *heads.NOT_READ),
    not_written=(QUANTISED, OTHER_ENCODER, *names.NAMES, *heads.NOT_WRITTEN),
)
PLAIN = Kind(
    "frozen or left out of layers",
    (Frozen, AdapterDrop),
    None,
    plain,
    note="as the method inside, in the layers that it is left in; comes back as that method",
    not_written=(
        Refusal(
            "adapter_drop around another method than bottleneck adapters, LoRA, (IA)^3 and flat prefixes",
            "the others have no layers to name there",
            lambda model: isinstance(model.method, AdapterDrop),
        ),
    ),
)
KINDS: tuple[Kind, ...] = (ALL, *unions.SINGLE, unions.KIND, setups.FUSE, setups.STACK, PLAIN, compositions.KIND)
KINDS += unions.LACKED
"""How each kind of adapter is exchanged, and what is refused."""
