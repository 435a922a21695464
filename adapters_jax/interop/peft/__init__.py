"""Adapters as peft's folders, and back: adapter_config.json and adapter_model.safetensors.

Every conversion is exact or refused with the reason, every tensor and every option of the config accounted for. A kind
of adapter has a file of its own here; `heads.py` has the classifiers.
"""

import dataclasses
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from adapters_jax import manifest
from adapters_jax.bert.heads import NoHead
from adapters_jax.errors import AdapterError, ConfigError
from adapters_jax.interop import folders, leaves, rules
from adapters_jax.interop.folders import Claims
from adapters_jax.interop.peft import adalora, heads, ia3, layernorm, lora, prefix, prompt
from adapters_jax.interop.peft.source import CONFIG, PICKLED, WEIGHTS, Source
from adapters_jax.interop.plain import plain
from adapters_jax.interop.rules import OTHER_ENCODER, QUANTISED, Kind, Refusal
from adapters_jax.methods import AdapterDrop, Frozen
from adapters_jax.model import Model
from adapters_jax.types import Tree

PLAIN = Kind(
    "frozen or left out of layers",
    (Frozen, AdapterDrop),
    None,
    plain,
    note="as the method inside, in the layers that it is left in; comes back as that method",
    not_written=(
        Refusal(
            "adapter_drop around another method than LoRA, AdaLoRA and (IA)^3",
            "the others have no layers to name there",
            lambda model: isinstance(model.method, AdapterDrop),
        ),
    ),
)
KINDS: tuple[Kind, ...] = (
    Kind(
        "all of them",
        (),
        None,
        None,
        note="names of classes and a head's dropout are not in these files: give the names when loading (`labels`); a "
        "regression's mean and deviation are multiplied into its classifier, and come back as 0 and 1: the same "
        "answers, other bits",
        not_read=(OTHER_ENCODER, *heads.NOT_READ),
        not_written=(QUANTISED, OTHER_ENCODER, *heads.NOT_WRITTEN),
    ),
    lora.KIND,
    adalora.KIND,
    ia3.KIND,
    prefix.KIND,
    prompt.PROMPT,
    prompt.P_TUNING,
    layernorm.KIND,
    PLAIN,
)
"""Titles are peft's types. `read`: Source -> (method, leaves); `write`: (model, leaves, stem) -> (tensors, options)."""

ADD_ROWS = (prefix.KIND, prompt.PROMPT, prompt.P_TUNING)
"""Kinds that add rows in front of the text, of which peft keeps one set, without the modules' names."""


def load_peft(folder: str | Path, backbone: Any, labels: Sequence[str] = ()) -> tuple[Model, Tree]:
    """The model of an adapter that peft wrote, and its parameters on this backbone: the same function.

    Args:
        folder: holds adapter_config.json and adapter_model.safetensors.
        backbone: the `Backbone` that it was trained on; peft's files do not tell which weights those were.
        labels: names of the classes, in order, which peft's files lack; () for "0", "1", ...

    Raises:
        AdapterError: a file is missing or damaged; the adapter is of a kind that we lack, has options or targets that
            we cannot express, or tensors that are missing, unexpected, misshapen or not finite; a backbone of another
            family than BERT.
        ConfigError: another number of labels.

    Warns:
        UserWarning: prefixes and prompts with no head: peft's outputs are the same for token type 0 alone.
    """
    where = Path(folder)
    path = where / CONFIG
    rules.refuse((OTHER_ENCODER,), backbone, f"backbone {backbone.name}")
    config = folders.read_config(path)
    kinds = {kind.title: kind for kind in KINDS if kind.read is not None}
    kind = kinds.get(config["peft_type"]) if isinstance(config.get("peft_type"), str) else None
    if kind is None or kind.read is None:
        raise AdapterError(
            f"{path}: peft_type: expected one of {', '.join(kinds)}, got {config.get('peft_type')!r:.60}"
        )
    source = Source(path, config, Claims.of(folders.weights_file(where, WEIGHTS, PICKLED)), backbone.config)
    rules.refuse((*heads.NOT_READ, *kind.not_read), source, path)
    changed = lora.folded_pooler(source, backbone.params) if kind is lora.KIND else {}
    head, flat = heads.read(source, labels, kind in ADD_ROWS, backbone.has_pooler, changed)
    try:
        method, own = kind.read(source)
        source.finish()
        model = Model(backbone.config, method, head)
    except ConfigError as error:
        raise AdapterError(f"{path}: {manifest.one_line(error)}") from None
    params = leaves.assembled(model, flat | own, backbone, where / WEIGHTS)
    _warn_of_types(path, kind, head)
    return model, params


def save_peft(folder: str | Path, model: Model, params: Tree, backbone: Any) -> None:
    """Writes a model for `peft.PeftModel.from_pretrained` over transformers' BERT.

    Over BertForSequenceClassification with a classification or regression head, BertForTokenClassification with that
    of tokens, BertModel with none.

    Args:
        folder: made if it is not there; files of the same names are replaced.
        model, params: as trained.
        backbone: the `Backbone` they were trained on, whose name peft shall load.

    Raises:
        ConfigError: a method, option or head that peft has no equal for; a quantised backbone.

    Warns:
        UserWarning: prefixes and prompts with no head: peft's outputs are the same for token type 0 alone.
        AdapterError: params are not the model's, or changed where it is frozen; the folder cannot be written.
    """
    where, model = Path(folder), dataclasses.replace(model, method=plain(model.method, model.config))
    rules.refuse((OTHER_ENCODER,), backbone, f"backbone {backbone.name}", ConfigError)
    kind = rules.kind_for(KINDS, "peft", model)
    rules.refuse(heads.NOT_WRITTEN, model, f"head {model.head.name}", ConfigError)
    assert kind.write is not None
    flat = leaves.stored(model, params, backbone, where)
    _warn_of_types(where, kind, model.head)
    with jax.default_matmul_precision("highest"):
        flattened, params = model.flattened(params)
    if flattened != model:  # what a network made
        flat = leaves.stored(flattened, params, backbone, where)
    head, options = heads.write(model.head, flat, kind in ADD_ROWS)
    tensors, own = kind.write(flattened, flat, "bert." if head else "")
    about = {
        "peft_type": kind.title,
        "base_model_name_or_path": str(backbone.name),
        "revision": backbone.revision,
        "inference_mode": True,
    }
    folders.write(where, {WEIGHTS: head | tensors, CONFIG: about | options | own})


def _warn_of_types(where: Path, kind: Kind, head: Any) -> None:
    if kind in ADD_ROWS and isinstance(head, NoHead):
        warnings.warn(
            f"{where}: on the bare encoder, peft drops token types with {kind.title}: its outputs and ours are the "
            "same for texts of token type 0 alone, not for pairs",
            stacklevel=3,
        )
