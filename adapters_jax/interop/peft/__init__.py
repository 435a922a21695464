"""Adapters as peft's folders, and back: adapter_config.json and adapter_model.safetensors.

Every conversion is exact or refused with the reason, every tensor and every option of the config accounted for. A kind
of adapter has a file of its own here; `heads.py` has the classifiers.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from adapters_jax import manifest
from adapters_jax.errors import AdapterError, ConfigError
from adapters_jax.interop import folders, leaves, rules
from adapters_jax.interop.folders import Claims
from adapters_jax.interop.peft import adalora, heads, ia3, layernorm, lora, prefix, prompt
from adapters_jax.interop.peft.source import CONFIG, PICKLED, WEIGHTS, Source
from adapters_jax.interop.rules import Kind
from adapters_jax.model import Model
from adapters_jax.types import Tree

KINDS: tuple[Kind, ...] = (
    Kind("all of them", (), None, None, not_read=heads.NOT_READ, not_written=heads.NOT_WRITTEN),
    lora.KIND,
    adalora.KIND,
    ia3.KIND,
    prefix.KIND,
    prompt.PROMPT,
    prompt.P_TUNING,
    layernorm.KIND,
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
            we cannot express, or tensors that are missing, unexpected, misshapen or not finite.
        ConfigError: another number of labels.
    """
    where = Path(folder)
    path = where / CONFIG
    config = folders.read_config(path)
    kinds = {kind.title: kind for kind in KINDS if kind.read is not None}
    kind = kinds.get(config["peft_type"]) if isinstance(config.get("peft_type"), str) else None
    if kind is None or kind.read is None:
        raise AdapterError(
            f"{path}: peft_type: expected one of {', '.join(kinds)}, got {config.get('peft_type')!r:.60}"
        )
    source = Source(path, config, Claims.of(folders.weights_file(where, WEIGHTS, PICKLED)), backbone.config)
    rules.refuse((*KINDS[0].not_read, *kind.not_read), source, path)
    head, flat = heads.read(source, labels, kind in ADD_ROWS, backbone.has_pooler)
    try:
        method, own = kind.read(source)
        source.finish()
        model = Model(backbone.config, method, head)
    except ConfigError as error:
        raise AdapterError(f"{path}: {manifest.one_line(error)}") from None
    return model, leaves.assembled(model, flat | own, backbone, where / WEIGHTS)


def save_peft(folder: str | Path, model: Model, params: Tree, backbone: Any) -> None:
    """Writes a model for `peft.PeftModel.from_pretrained` over transformers' BERT.

    Over BertForSequenceClassification with a classification or regression head, BertForTokenClassification with that
    of tokens, BertModel with none.

    Args:
        folder: made if it is not there; files of the same names are replaced.
        model, params: as trained.
        backbone: the `Backbone` they were trained on, whose name peft shall load.

    Raises:
        ConfigError: a method, option or head that peft has no equal for.
        AdapterError: params are not the model's, or changed where it is frozen; the folder cannot be written.
    """
    where, kind = Path(folder), rules.kind_for(KINDS, "peft", model)
    rules.refuse(KINDS[0].not_written, model, f"head {model.head.name}", ConfigError)
    assert kind.write is not None
    flat = leaves.stored(model, params, backbone, where)
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
