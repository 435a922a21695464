"""Scores of predictions, as fractions."""

from adapters_jax.metrics.scores import METRICS, compute

__all__ = ["METRICS", "compute"]
