"""Figures in files of matplotlib's formats."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from adapters_jax.errors import ConfigError


@contextmanager
def drawn(file: Path, width: float, height: float) -> Iterator[Any]:
    """A figure of so many inches with its axes, written to the file at the end.

    Raises:
        ConfigError: matplotlib is not installed, the file's ending is unknown to it, or it cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError(f"--figure={file}: needs matplotlib: pip install matplotlib") from None
    drawing = Figure(figsize=(width, height), layout="constrained")
    yield drawing.add_subplot()
    try:
        drawing.savefig(file, dpi=150)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--figure={file}: cannot be written: {' '.join(str(error).split())}") from None
