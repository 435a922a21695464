"""Adapter tuning of BERT encoders in JAX: one frozen backbone, many small adapters.

    import adapters_jax as aj

Names are imported when first used, so that `import adapters_jax` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from adapters_jax.artefact import load_adapter, save_adapter
    from adapters_jax.bert.backbone import Backbone, load_backbone
    from adapters_jax.bert.config import BertConfig
    from adapters_jax.bert.heads import HEADS, Classification, Regression
    from adapters_jax.errors import AdaptersJaxError
    from adapters_jax.methods import METHODS, Full, HeadOnly, Houlsby, Method, Recipe
    from adapters_jax.model import Model, Output
    from adapters_jax.optim import apply_updates, freeze
    from adapters_jax.serving.predictor import Predictor
    from adapters_jax.training.loop import fit
    from adapters_jax.trees import join, split

_HOMES = {
    "AdaptersJaxError": "errors",
    "Backbone": "bert.backbone",
    "BertConfig": "bert.config",
    "Classification": "bert.heads",
    "Full": "methods",
    "HEADS": "bert.heads",
    "HeadOnly": "methods",
    "Houlsby": "methods",
    "METHODS": "methods",
    "Method": "methods",
    "Model": "model",
    "Output": "model",
    "Predictor": "serving.predictor",
    "Recipe": "methods",
    "Regression": "bert.heads",
    "apply_updates": "optim",
    "fit": "training.loop",
    "freeze": "optim",
    "join": "trees",
    "load_adapter": "artefact",
    "load_backbone": "bert.backbone",
    "save_adapter": "artefact",
    "split": "trees",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'adapters_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(f"adapters_jax.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
