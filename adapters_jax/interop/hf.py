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

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from adapters_jax import manifest, tensors
from adapters_jax.bert.convert import released_weights
from adapters_jax.bert.heads import Classification, Head, NoHead, Regression, TokenClassification
from adapters_jax.errors import AdapterError, ConfigError
from adapters_jax.interop import folders
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
        ConfigError: the head has no class there, or the folder is the backbone's own.
        AdapterError: values are not finite, or the folder cannot be written.
    """
    where, head = Path(folder), model.head
    if type(head) not in ARCHITECTURES:
        known = ", ".join(dict.fromkeys(cls.name for cls in ARCHITECTURES))
        raise ConfigError(f"head {head.name}: expected one of {known}, which plain BERT has; keep the native folder")
    if backbone.folder is not None and where.resolve() == Path(backbone.folder).resolve():
        raise ConfigError(f"{where}: expected another folder than the backbone's own, which stays as it is")
    _, folded = model.fold(params)
    written = _released(head, folded)
    tensors.refuse_not_finite(where / WEIGHTS, written)
    folders.write(where, {WEIGHTS: written, CONFIG: _config(model)})
    for name in TOKENIZER:
        if backbone.folder is not None and (Path(backbone.folder) / name).is_file():
            try:
                shutil.copyfile(Path(backbone.folder) / name, where / name)
            except OSError as error:
                raise AdapterError(f"{where}: cannot be written: {manifest.why(error)}") from error


def _released(head: Head, folded: Tree) -> dict[str, np.ndarray]:
    """Name in released files -> tensor."""
    backbone, own = folded["backbone"], folded["head"]
    if isinstance(head, TokenClassification):
        backbone = {part: tree for part, tree in backbone.items() if part != "pooler"}
    elif "pooler" in own:
        backbone = backbone | {"pooler": own["pooler"]}
    elif "pooler" not in backbone:
        raise ConfigError("head none: expected a backbone with a pooler, which BertModel has; keep the native folder")
    prefix = "" if isinstance(head, NoHead) else "bert."
    written = {f"{prefix}{name}": np.asarray(leaf, np.float32) for name, leaf in released_weights(backbone).items()}
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
    names = {
        "num_labels": len(labels),
        "id2label": {str(number): name for number, name in enumerate(labels)},
        "label2id": {name: number for number, name in enumerate(labels)},
        "classifier_dropout": head.dropout,  # type: ignore[attr-defined]
    }
    return config | own | names
