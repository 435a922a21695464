"""Heads in peft's folders: a dense layer named `classifier` over BERT's pooler, or over every token, or none.

    base_model.model.classifier.weight, .bias              (c, d), (c)   head/classifier/kernel, bias
    base_model.model.bert.pooler.dense.weight, .bias       (d, d), (d)   head/pooler/kernel, bias: if the head has
                                                                         its own (`modules_to_save`: pooler), or LoRA
                                                                         changes the backbone's
    base_model.classifier.weight, base_model.bert.pooler.dense.weight    with prefixes and prompts

The task is `task_type`; where that is null, `auto_mapping` names the class of the model that was trained.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from adapters_jax.bert.heads import Classification, Head, NoHead, Regression, TokenClassification
from adapters_jax.errors import AdapterError, ConfigError
from adapters_jax.interop.peft.source import PROMPT, WHOLE, Source
from adapters_jax.interop.rules import Flat, Refusal

TASKS: dict[str, tuple[type[Head], ...]] = {
    "SEQ_CLS": (Classification, Regression),
    "TOKEN_CLS": (TokenClassification,),
    "FEATURE_EXTRACTION": (NoHead,),
}
"""peft's task types -> our heads; a classifier of one output is a regression."""

MODELS = {"BertForSequenceClassification": "SEQ_CLS", "BertForTokenClassification": "TOKEN_CLS"}
"""transformers' classes that have a head of ours -> the task."""

CLASSIFIER, POOLER = "classifier", "bert.pooler.dense"

NOT_READ = (
    Refusal(
        "another task",
        f"we have no such head; expected task_type {', '.join(TASKS)} or null",
        lambda source: source.task not in (*TASKS, None),
    ),
)
NOT_WRITTEN = (
    Refusal(
        "another head",
        "transformers' BERT has no such one; expected classification, regression, token_classification or none",
        lambda model: type(model.head) not in sum(TASKS.values(), ()),
    ),
)


def read(source: Source, labels: Sequence[str], adds_rows: bool, has_pooler: bool, changed: Flat) -> tuple[Head, Flat]:
    """The head, and its leaves under head/.

    Args:
        labels: of the classes, in order; () for their numbers.
        adds_rows: whether the adapter is a prefix or a prompt.
        has_pooler: whether the backbone has one.
        changed: the leaves of the head's own pooler, where the adapter changes the backbone's; or {}.

    Raises:
        AdapterError: a classifier that is missing, misshapen or of one class of tokens; no pooler at all.
        ConfigError: another number of labels.
    """
    lead, d, claims = PROMPT if adds_rows else WHOLE, source.bert.hidden_size, source.claims
    source.ignore("modules_to_save")
    task = source.task or _task_of_model(source, f"{lead}{CLASSIFIER}.weight")
    if task == "FEATURE_EXTRACTION":
        _check_labels(labels, 0)
        return NoHead(), {}
    weight = claims.take(f"{lead}{CLASSIFIER}.weight", None, d)
    classes = weight.shape[0]
    leaves = {
        "head/classifier/kernel": weight.T,
        "head/classifier/bias": claims.take(f"{lead}{CLASSIFIER}.bias", classes),
    }
    regression = task == "SEQ_CLS" and classes == 1
    _check_labels(labels, 0 if regression else classes)
    if task == "TOKEN_CLS":
        return _built(source, TokenClassification, num_labels=classes, labels=tuple(labels)), leaves
    own_pooler = f"{lead}{POOLER}.weight" in claims
    if own_pooler:
        leaves["head/pooler/kernel"] = claims.take(f"{lead}{POOLER}.weight", d, d).T
        leaves["head/pooler/bias"] = claims.take(f"{lead}{POOLER}.bias", d)
    elif not has_pooler:
        raise AdapterError(f"{source.path}: expected a backbone with the pooler of its training, got one without")
    leaves |= changed
    own_pooler = bool(own_pooler or changed) and has_pooler  # where the backbone has none, heads bring one anyway
    if regression:
        return Regression(own_pooler=own_pooler), leaves
    return _built(source, Classification, num_labels=classes, labels=tuple(labels), own_pooler=own_pooler), leaves


def _built(source: Source, kind: type[Head], **fields: Any) -> Head:
    try:
        return kind(**fields)
    except ConfigError as error:
        raise AdapterError(f"{source.claims.path}: {error}") from None


def _task_of_model(source: Source, classifier: str) -> str:
    named = source.get("auto_mapping", {})
    model = named.get("base_model_class") if isinstance(named, dict) else None
    if classifier not in source.claims:
        return "FEATURE_EXTRACTION"
    if model not in MODELS:
        raise source.error("auto_mapping", f"a base_model_class of {', '.join(MODELS)}, or a task_type", named)
    return MODELS[model]


def _check_labels(labels: Sequence[str], classes: int) -> None:
    if len(labels) not in (0, classes):
        raise ConfigError(f"labels: expected {classes or 'no'} names, one for each class, got {len(labels)}")


def write(head: Head, flat: Flat, adds_rows: bool) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(tensors, options) of a head; `flat`: its leaves are taken out."""
    own = {path: flat.pop(path) for path in list(flat) if path.startswith("head/")}
    task = next(task for task, kinds in TASKS.items() if type(head) in kinds)
    if isinstance(head, NoHead):
        return {}, {"task_type": task, "modules_to_save": None}
    kernel, bias = own["head/classifier/kernel"], own["head/classifier/bias"]
    if isinstance(head, Regression):  # there, the head answers on the labels' scale by itself
        kernel, bias = kernel * np.float32(head.deviation), bias * np.float32(head.deviation) + np.float32(head.mean)
    lead, saved = PROMPT if adds_rows else WHOLE, ["classifier", "score"]
    tensors = {f"{lead}{CLASSIFIER}.weight": kernel.T, f"{lead}{CLASSIFIER}.bias": bias}
    if "head/pooler/kernel" in own:
        saved.append("pooler")
        tensors |= {
            f"{lead}{POOLER}.weight": own["head/pooler/kernel"].T,
            f"{lead}{POOLER}.bias": own["head/pooler/bias"],
        }
    return tensors, {"task_type": task, "modules_to_save": saved}
