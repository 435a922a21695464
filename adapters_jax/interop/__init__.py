"""Adapters as files of other libraries, and back; the hub; folded models; `nnx`.

Names are imported when first used: reading pickles needs no JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adapters_jax.interop.adapterhub import load_adapterhub, save_adapterhub
    from adapters_jax.interop.hf import save_hf
    from adapters_jax.interop.peft import load_peft, save_peft
    from adapters_jax.interop.sources import load_adapter

_HOMES = {
    "load_adapter": "sources",
    "load_adapterhub": "adapterhub",
    "load_peft": "peft",
    "save_adapterhub": "adapterhub",
    "save_hf": "hf",
    "save_peft": "peft",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'adapters_jax.interop' has no attribute {name!r}")
    return getattr(importlib.import_module(f"adapters_jax.interop.{_HOMES[name]}"), name)
