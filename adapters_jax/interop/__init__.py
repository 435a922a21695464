"""Adapters as files of other libraries, and back."""

from adapters_jax.interop.peft import load_peft, save_peft

__all__ = ["load_peft", "save_peft"]
