"""A score against a number, a line per artefact, as a figure."""

from collections.abc import Mapping
from pathlib import Path

from adapters_jax.analysis.figures import drawn


def save(curves: Mapping[str, Mapping[int, float]], file: Path, xlabel: str, metric: str, title: str) -> None:
    """Draws the curves, in points, into a file of matplotlib's formats.

    Raises:
        ConfigError: see `drawn`.
    """
    with drawn(file, 7.0, 4.0) as axes:
        axes.set(xlabel=xlabel, ylabel=f"{metric}, points", title=title)
        for marker, (name, curve) in zip("osD^v<>P" * len(curves), curves.items(), strict=False):
            axes.plot(list(curve), [100 * score for score in curve.values()], f"{marker}-", label=name)
        axes.legend(fontsize="small")
