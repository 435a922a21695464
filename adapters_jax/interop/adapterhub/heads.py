"""Heads in AdapterHub's files: head_config.json and model_head.safetensors beside the adapter's.

    classification, layers 2                  heads.NAME.1.{weight,bias}  (d, d)     head/pooler, the head's own
      (the library's default, tanh)               NAME.4.{weight,bias}  (c, d)     head/classifier
    classification, layers 1, use_pooler          NAME.1.{weight,bias}  (c, d)     head/classifier, on the backbone's
    tagging, layers 1                             NAME.1.{weight,bias}  (c, d)     head/classifier, on each token
    BertForSequenceClassification, ...TokenClassification:   classifier.{weight,bias}

One class is a regression. Names of classes are `label2id`, both ways. Of the two dropouts of a head of two layers, ours
has the second.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adapters_jax.bert.config import BertConfig
from adapters_jax.bert.heads import Classification, Head, NoHead, Regression, TokenClassification
from adapters_jax.errors import AdapterError, ConfigError
from adapters_jax.interop import folders
from adapters_jax.interop.adapterhub import files
from adapters_jax.interop.adapterhub.files import REQUIRED, Options, Row
from adapters_jax.interop.rules import Flat, Refusal, refuse

CONFIG, WEIGHTS, PICKLE = "head_config.json", "model_head.safetensors", "pytorch_model_head.bin"
FLEXIBLE = ("BertAdapterModel", "BertModelWithHeads")
"""Classes of the library whose heads have a config of their own."""
STATIC: dict[str, Options] = {
    "BertForSequenceClassification": {"head_type": "classification", "layers": 1, "use_pooler": True},
    "BertForTokenClassification": {"head_type": "tagging", "layers": 1},
}
"""Classes of transformers with one head, and what it is."""

FIELDS: files.Fields = {
    "head_type": (str, REQUIRED),
    "num_labels": (int, 2),
    "layers": (int, None),
    "activation_function": (str | None, "tanh"),
    "label2id": (object, None),
    "id2label": (object, None),
    "use_pooler": (bool, False),
    "bias": (bool, True),
    "dropout_prob": (float | None, None),
}
LAYERS = {"classification": 2, "tagging": 1}
"""Types that we have, and the library's number of layers."""


def _two(own: Options) -> bool:
    return own["head_type"] == "classification" and own["layers"] == 2 and not own["use_pooler"]


def _one(own: Options) -> bool:
    return own["layers"] == 1 and (own["head_type"] == "tagging" or own["use_pooler"])


OTHER_CLASS = Refusal(
    "the head of another class",
    f"expected that of {', '.join((*FLEXIBLE, *STATIC))}",
    lambda content: (
        content.get("model_class") not in (None, *FLEXIBLE)
        if content.get("config") is not None
        else content.get("model_class") not in list(STATIC)
    ),
    lambda content: content.get("model_class"),
)
NO_POOLER = Refusal(
    "use_pooler on a backbone without a pooler",
    "load one that has it",
    lambda own: own[0]["use_pooler"] and own[0]["head_type"] == "classification" and not own[1],
)
OPTIONS = (
    Refusal(
        "another head_type than classification and tagging",
        "load the adapter without head_config.json, then train a head of ours",
        lambda own: own["head_type"] not in LAYERS,
    ),
    Refusal(
        "layers and use_pooler that are none of (2, false), (1, true), and 1 for tagging",
        "we have no head of these layers",
        lambda own: not _two(own) and not _one(own),
    ),
    Refusal(
        "two layers with another activation_function than tanh",
        "our poolers have tanh",
        lambda own: _two(own) and own["activation_function"] != "tanh",
    ),
    Refusal("fewer than one label", "there is nothing to read", lambda own: own["num_labels"] < 1),
    Refusal(
        "one tag",
        "expected two classes or more",
        lambda own: own["head_type"] == "tagging" and own["num_labels"] < 2,
    ),
)
NOT_READ = (OTHER_CLASS, *OPTIONS, NO_POOLER)
NOT_WRITTEN = (
    Refusal(
        "a head other than classification, regression, token_classification, none",
        "the library has none of this form",
        lambda model: type(model.head) not in (Classification, Regression, TokenClassification, NoHead),
    ),
    Refusal(
        "two classes of one name",
        "label2id cannot hold them",
        lambda model: len(set(getattr(model.head, "labels", ()))) < len(getattr(model.head, "labels", ())),
    ),
)


def read(folder: Path, config: BertConfig, has_pooler: bool) -> tuple[Head, Flat]:
    """The head in a folder and its leaves by their paths under head/; NoHead where there is none.

    Args:
        folder: of the adapter, or of the head alone.
        config: of the backbone.
        has_pooler: whether the backbone has one.

    Raises:
        AdapterError: a head that we lack, or files that are missing, damaged or of another model.
    """
    where = folder / CONFIG
    if not any((folder / name).exists() for name in (CONFIG, WEIGHTS, PICKLE)):
        return NoHead(), {}
    content = folders.read_config(where)
    files.refuse_other_model(where, content, config)
    path = folders.weights_file(folder, WEIGHTS, PICKLE)
    given, names = _described(where, content)
    own = files.options(where, given, FIELDS)
    own |= {"layers": own["layers"] if own["layers"] is not None else LAYERS.get(own["head_type"])}
    refuse(OPTIONS, own, where)
    refuse((NO_POOLER,), (own, has_pooler), where)
    claims = files.named_tensors(path)
    classes, d = own["num_labels"], config.hidden_size
    rows = files.dense("classifier", names[-1], d, classes)
    leaves = files.take(claims, rows if own["bias"] else rows[:1])
    leaves |= {} if own["bias"] else {"classifier/bias": np.zeros(classes, np.float32)}
    if _two(own):
        leaves |= files.take(claims, files.dense("pooler", names[0], d, d))
    claims.finish()
    return _head(where, own, config), leaves


def _described(where: Path, content: dict[str, Any]) -> tuple[Any, tuple[str, ...]]:
    """The head's options, and the names of its dense layers."""
    refuse((OTHER_CLASS,), content, where)
    cls, name = content.get("model_class"), content.get("name")
    if content.get("config") is None:
        own = STATIC[str(cls)] | {"num_labels": content.get("num_labels", 2), "label2id": content.get("label2id")}
        return own, ("classifier",)
    if not isinstance(name, str) or not name:
        raise AdapterError(f"{where}: expected the head's name, got {name!r:.60}")
    given = content["config"]
    two = isinstance(given, dict) and given.get("head_type") == "classification" and given.get("layers", 2) == 2
    return given, (f"heads.{name}.1", f"heads.{name}.4") if two else (f"heads.{name}.1",)


def _head(where: Path, own: Options, config: BertConfig) -> Head:
    dropout = config.hidden_dropout_prob if own["dropout_prob"] is None else float(own["dropout_prob"])
    if own["head_type"] == "tagging":
        return TokenClassification(own["num_labels"], _labels(where, own), dropout)
    if own["num_labels"] == 1:
        return Regression(dropout=dropout, own_pooler=_two(own))
    return Classification(own["num_labels"], _labels(where, own), dropout, own_pooler=_two(own))


def _labels(where: Path, own: Options) -> tuple[str, ...]:
    """The names of the classes in their order; () where the file has none."""
    named, classes = own["label2id"], own["num_labels"]
    if named is None:
        return ()
    try:
        by_id = {int(number): str(name) for name, number in named.items()}
    except (AttributeError, TypeError, ValueError, OverflowError):
        raise AdapterError(f"{where}: label2id: expected a number for each name, got {named!r:.60}") from None
    if len(named) != classes or sorted(by_id) != list(range(classes)):
        raise AdapterError(f"{where}: label2id: expected the numbers 0 to {classes - 1}, each once, got {named!r:.60}")
    return tuple(by_id[number] for number in range(classes))


def named(head: Head, labels: Sequence[str], folder: Path) -> Head:
    """The head with the user's names of its classes, which the file only numbers.

    Raises:
        ConfigError: the file names them, or they are others in number.
    """
    own = getattr(head, "labels", ())
    if not labels or tuple(labels) == own:
        return head
    if own != tuple(map(str, range(len(own)))):
        raise ConfigError(f"{folder}: labels: expected none, since its own files name the classes")
    if len(labels) != len(own):
        raise ConfigError(f"{folder}: labels: expected {len(own) or 'no'} names, one for each class, got {len(labels)}")
    return dataclasses.replace(head, labels=tuple(labels))  # type: ignore[type-var]


def write(model: Any, flat: Flat, name: str) -> tuple[Options, Flat] | None:
    """(options, tensors) of a model's head; None where it has none.

    Args:
        model: whose head it is, none of those that NOT_WRITTEN refuses.
        flat: leaves by their paths under head/; taken out.
        name: of the head.

    Raises:
        ConfigError: a leaf that is missing or misshapen.
    """
    head: Any = model.head
    if isinstance(head, NoHead):
        return None
    d, two = model.config.hidden_size, "pooler/kernel" in flat
    named = {label: number for number, label in enumerate(head.labels)} if hasattr(head, "labels") else None
    own: Options = {
        "head_type": "tagging" if isinstance(head, TokenClassification) else "classification",
        "num_labels": 1 if named is None else head.num_labels,
        "layers": 2 if two else 1,
        "activation_function": "tanh",
        "label2id": named,
        "dropout_prob": head.dropout,
    }
    if own["head_type"] == "classification":
        own |= {"use_pooler": not two, "bias": True}
    kernel, bias = files.dense("classifier", f"heads.{name}.{4 if two else 1}", d, own["num_labels"])
    poolers: list[Row] = files.dense("pooler", f"heads.{name}.1", d, d) if two else []
    written = files.put([kernel, bias, *poolers], flat, "head")
    if isinstance(head, Regression):  # there, a head answers on the labels' scale by itself
        scale, mean = np.float32(head.deviation), np.float32(head.mean)
        written |= {kernel.name: written[kernel.name] * scale, bias.name: written[bias.name] * scale + mean}
    return own, written
