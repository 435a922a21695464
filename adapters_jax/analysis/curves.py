"""A score against a number, a line per artefact, as a figure."""

from collections.abc import Mapping
from pathlib import Path

from adapters_jax.errors import ConfigError


def save(curves: Mapping[str, Mapping[int, float]], file: Path, xlabel: str, metric: str, title: str) -> None:
    """Draws the curves, in points, into a file of matplotlib's formats.

    Raises:
        ConfigError: matplotlib is not installed, the file's ending is unknown to it, or it cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError(f"--figure={file}: needs matplotlib: pip install matplotlib") from None
    drawing = Figure(figsize=(7, 4), layout="constrained")
    axes = drawing.add_subplot()
    axes.set(xlabel=xlabel, ylabel=f"{metric}, points", title=title)
    for marker, (name, curve) in zip("osD^v<>P" * len(curves), curves.items(), strict=False):
        axes.plot(list(curve), [100 * score for score in curve.values()], f"{marker}-", label=name)
    axes.legend(fontsize="small")
    try:
        drawing.savefig(file, dpi=150)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--figure={file}: cannot be written: {' '.join(str(error).split())}") from None
