"""A folded model as a folder of plain BERT, which transformers loads with no missing and no unexpected key.

    model.safetensors      every tensor in released names and layout, float32
    config.json            architectures, sizes, label names
    tokenizer files        as they stand beside the backbone, where it has any

    head                      architecture                        prefix    pooler    classifier
    Classification            BertForSequenceClassification       bert.     yes       [c d]
    Regression                the same, problem_type regression   bert.     yes       [1 d]
    TokenClassification       BertForTokenClassification          bert.     no        [c d]
    NoHead                    BertModel                           none      yes       -

A regression's mean and deviation are folded into the classifier, which then answers on the labels' own scale. The
computation there is in float32, whatever `Model.dtype`.
"""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from adapters_jax import manifest, tensors
from adapters_jax.bert.config import BertConfig
from adapters_jax.bert.convert import released_weights
from adapters_jax.bert.heads import Classification, Head, NoHead, Regression, TokenClassification
from adapters_jax.errors import AdapterError, ConfigError
from adapters_jax.interop import folders
from adapters_jax.interop.rules import OTHER_ENCODER, Kind, Refusal, refuse
from adapters_jax.methods import METHODS, Method
from adapters_jax.methods.composition import Composed
from adapters_jax.methods.wrapper import Wrapper
from adapters_jax.model import Model
from adapters_jax.types import Tree

CONFIG, WEIGHTS = "config.json", "model.safetensors"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json", "added_tokens.json")

ARCHITECTURES: dict[type[Head], str] = {
    Classification: "BertForSequenceClassification",
    Regression: "BertForSequenceClassification",
    TokenClassification: "BertForTokenClassification",
    NoHead: "BertModel",
}


def save_hf(folder: str | Path, model: Model, params: Tree, backbone: Any) -> None:
    """Folds the adapters into the backbone's weights, and writes the plain BERT that comes out.

    Args:
        folder: made if it is not there; files of the same names are replaced.
        model: of a method that folds: LoRA, DoRA, AdaLoRA, IA3, and those that train backbone leaves alone.
        params: as trained.
        backbone: the `Backbone` they were trained on; its tokenizer's files are copied.

    Raises:
        NotFoldable: the method's change is no change of weights.
        ConfigError: the head has no class there, or two classes of one name; the folder is the backbone's own.
        AdapterError: values are not finite; the folder holds an adapter or another tokenizer, or cannot be written.
    """
    where, head = Path(folder), model.head
    refuse((OTHER_ENCODER,), backbone, f"backbone {backbone.name}", ConfigError)
    if type(head) not in ARCHITECTURES:
        known = ", ".join(dict.fromkeys(cls.name for cls in ARCHITECTURES))
        raise ConfigError(f"head {head.name}: expected one of {known}, which plain BERT has; keep the native folder")
    if backbone.folder is not None and where.resolve() == Path(backbone.folder).resolve():
        raise ConfigError(f"{where}: expected another folder than the backbone's own, which stays as it is")
    config = _config(model)
    source = None if backbone.folder is None else Path(backbone.folder)
    tokenizer = [name for name in TOKENIZER if source is not None and (source / name).is_file()]
    folders.refuse_others(where, tokenizer, TOKENIZER)
    _, folded = model.fold(params)
    written = _released(model, folded)
    tensors.refuse_not_finite(where / WEIGHTS, written)
    folders.write(where, {WEIGHTS: written, CONFIG: config})
    for name in tokenizer:
        assert source is not None
        try:
            shutil.copyfile(source / name, where / name)
        except OSError as error:
            raise AdapterError(f"{where}: cannot be written: {manifest.why(error)}") from error


def _released(model: Model, folded: Tree) -> dict[str, np.ndarray]:
    """Name in released files -> tensor."""
    head, backbone, own = model.head, folded["backbone"], folded["head"]
    if isinstance(head, TokenClassification):
        backbone = {part: tree for part, tree in backbone.items() if part != "pooler"}
    elif "pooler" in own:
        backbone = backbone | {"pooler": own["pooler"]}
    elif "pooler" not in backbone:
        raise ConfigError("head none: expected a backbone with a pooler, which BertModel has; keep the native folder")
    prefix = "" if isinstance(head, NoHead) else "bert."
    released = released_weights(backbone, model.config)
    written = {f"{prefix}{name}": np.asarray(leaf, np.float32) for name, leaf in released.items()}
    if isinstance(head, NoHead):
        return written
    kernel, bias = (np.asarray(own["classifier"][kind], np.float32) for kind in ("kernel", "bias"))
    if isinstance(head, Regression):
        deviation, mean = np.float32(head.deviation), np.float32(head.mean)
        kernel, bias = kernel * deviation, bias * deviation + mean
    return written | {"classifier.weight": kernel.T, "classifier.bias": bias}


def _config(model: Model) -> dict[str, Any]:
    head = model.head
    config: dict[str, Any] = {"model_type": "bert", "architectures": [ARCHITECTURES[type(head)]], "dtype": "float32"}
    config |= model.config.to_dict()
    if isinstance(head, Regression):
        own: dict[str, Any] = {"problem_type": "regression", "labels": ("LABEL_0",)}
    elif isinstance(head, Classification):
        own = {"problem_type": "single_label_classification", "labels": head.labels}
    else:
        own = {"labels": head.labels} if isinstance(head, TokenClassification) else {}
    if not own:
        return config
    labels = own.pop("labels")
    if len(set(labels)) < len(labels):
        raise ConfigError(
            f"head {head.name}: expected classes of different names, which label2id can hold, got {labels}"
        )
    names = {
        "num_labels": len(labels),
        "id2label": {str(number): name for number, name in enumerate(labels)},
        "label2id": {name: number for number, name in enumerate(labels)},
        "classifier_dropout": head.dropout,  # type: ignore[attr-defined]
    }
    return config | own | names


def folds(method: Method, config: BertConfig) -> bool:
    """Whether `Method.fold` takes the method: it has one of its own, or no modules at all."""
    if isinstance(method, Composed):
        return all(folds(part, config) for part in method.components())
    if isinstance(method, Wrapper):
        return folds(method.of, config)
    return type(method).fold is not Method.fold or not any(method.modules(config, x) for x in method.segments(config))


def _kinds() -> tuple[Kind, ...]:
    """What is written and what is not, by what the methods' classes say of themselves."""
    around = [cls for cls in METHODS.values() if {"of", "parts"} & {field.name for field in dataclasses.fields(cls)}]  # type: ignore[arg-type]
    alone = [cls for cls in METHODS.values() if cls not in around]
    folded = [cls for cls in alone if folds(cls(), BertConfig.tiny())]
    labels = lambda model: getattr(model.head, "labels", ())
    heads = (
        OTHER_ENCODER,
        Refusal(
            f"a head other than {', '.join(cls.name for cls in ARCHITECTURES)}",
            "plain BERT has none of this form; keep the native folder",
            lambda model: type(model.head) not in ARCHITECTURES,
        ),
        Refusal(
            "two classes of one name",
            "label2id cannot hold them",
            lambda model: len(set(labels(model))) < len(labels(model)),
        ),
        Refusal(
            "the head none on a backbone without a pooler",
            "BertModel has one; keep the native folder",
            lambda model: isinstance(model.head, NoHead),
        ),
    )
    part = Refusal(
        "a part that is refused by itself", "see its kind", lambda model: not folds(model.method, model.config)
    )
    rounded = "the same function up to rounding, and the adapters do not come back; a quantised backbone becomes floats"
    kinds = [
        Kind("all of them", (), None, None, "a regression's mean and deviation are multiplied in", not_written=heads),
        Kind(
            "adapters within dense layers",
            tuple(c for c in folded if c.fold is not Method.fold),
            None,
            save_hf,
            rounded,
        ),
        Kind(
            "what trains the backbone itself, or nothing",
            tuple(c for c in folded if c.fold is Method.fold),
            None,
            save_hf,
        ),
        Kind("around others", tuple(around), None, save_hf, "as their parts", not_written=(part,)),
    ]
    left = [cls for cls in alone if cls not in folded]
    for reason in dict.fromkeys(cls.not_foldable for cls in left):
        always = Refusal(
            "always", f"{reason}, and cannot be folded", lambda model: not folds(model.method, model.config)
        )
        kinds.append(
            Kind("others", tuple(c for c in left if c.not_foldable == reason), None, None, not_written=(always,))
        )
    return tuple(kinds)


KINDS = _kinds()
"""What becomes plain weights: `Model.fold` decides."""
