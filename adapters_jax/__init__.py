"""Adapter tuning of BERT encoders in JAX: one frozen backbone, many small adapters.

    import adapters_jax as aj

Names are imported when first used, so that `import adapters_jax` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from adapters_jax.artefact import save_adapter
    from adapters_jax.bert.backbone import Backbone, load_backbone
    from adapters_jax.bert.config import BertConfig
    from adapters_jax.bert.heads import (
        HEADS,
        Classification,
        DependencyHead,
        MaskedLM,
        MultiLabel,
        MultipleChoice,
        NoHead,
        QuestionAnswering,
        Ranking,
        Regression,
        Relation,
        TokenClassification,
    )
    from adapters_jax.errors import AdaptersJaxError
    from adapters_jax.interop.sources import load_adapter
    from adapters_jax.methods import (
        IA3,
        MAM,
        METHODS,
        AdaLoRA,
        AdapterDrop,
        BitFit,
        Compose,
        Frozen,
        Full,
        Fusion,
        HeadOnly,
        Houlsby,
        KAdapter,
        LayerNormTuning,
        Lin,
        LoRA,
        Method,
        Parallel,
        Pfeiffer,
        Prefix,
        Prompt,
        PTuning,
        PTuningV2,
        QLoRA,
        Recipe,
        ScaledParallel,
        Stack,
        TopN,
        UniPELT,
        arithmetic,
        compose,
    )
    from adapters_jax.model import Model, Output
    from adapters_jax.optim import apply_updates, freeze
    from adapters_jax.serving.predictor import Predictor
    from adapters_jax.serving.shared import together
    from adapters_jax.training.fit import fit
    from adapters_jax.trees import join, split

_HOMES = {
    "AdaLoRA": "methods",
    "AdapterDrop": "methods",
    "AdaptersJaxError": "errors",
    "Backbone": "bert.backbone",
    "BertConfig": "bert.config",
    "BitFit": "methods",
    "Classification": "bert.heads",
    "Compose": "methods",
    "DependencyHead": "bert.heads",
    "Frozen": "methods",
    "Full": "methods",
    "Fusion": "methods",
    "HEADS": "bert.heads",
    "HeadOnly": "methods",
    "Houlsby": "methods",
    "IA3": "methods",
    "KAdapter": "methods",
    "LayerNormTuning": "methods",
    "Lin": "methods",
    "LoRA": "methods",
    "MAM": "methods",
    "METHODS": "methods",
    "MaskedLM": "bert.heads",
    "Method": "methods",
    "Model": "model",
    "MultiLabel": "bert.heads",
    "MultipleChoice": "bert.heads",
    "Output": "model",
    "PTuning": "methods",
    "PTuningV2": "methods",
    "NoHead": "bert.heads",
    "Parallel": "methods",
    "Pfeiffer": "methods",
    "Predictor": "serving.predictor",
    "Prefix": "methods",
    "Prompt": "methods",
    "QLoRA": "methods",
    "QuestionAnswering": "bert.heads",
    "Ranking": "bert.heads",
    "Recipe": "methods",
    "Regression": "bert.heads",
    "Relation": "bert.heads",
    "ScaledParallel": "methods",
    "Stack": "methods",
    "TokenClassification": "bert.heads",
    "TopN": "methods",
    "UniPELT": "methods",
    "apply_updates": "optim",
    "arithmetic": "methods",
    "compose": "methods",
    "fit": "training.fit",
    "freeze": "optim",
    "join": "trees",
    "load_adapter": "interop.sources",
    "load_backbone": "bert.backbone",
    "save_adapter": "artefact",
    "split": "trees",
    "together": "serving.shared",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'adapters_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(f"adapters_jax.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
