"""Data sets: sources of rows, GLUE's tasks and where to find them, tokenising, batches."""

from adapters_jax.data.source import Features, ListSource, Source, Splits, as_source, take

__all__ = ["Features", "ListSource", "Source", "Splits", "as_source", "take"]
