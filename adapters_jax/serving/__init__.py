"""Predictions with trained adapters."""
