"""Which task a step of multi-task training learns from: drawn from (seed, step) by the tasks' numbers of rows."""

from collections.abc import Mapping

import numpy as np

from adapters_jax.errors import ConfigError, unknown

SAMPLING = ("proportional", "temperature", "uniform")


def probabilities(rows: Mapping[str, int], sampling: str, temperature: float = 2.0) -> dict[str, float]:
    """Task -> the probability that a step is its own.

    Args:
        rows: task -> number of training rows n.
        sampling: "proportional" to n; "temperature", to n^(1 / temperature); "uniform".
        temperature: 1 is proportional, a large one nearly uniform.

    Raises:
        ConfigError: an unknown sampling, or a temperature that is not a finite number above 0.
    """
    if sampling not in SAMPLING:
        raise ConfigError(unknown("sampling", sampling, SAMPLING))
    if not (np.isfinite(temperature) and temperature > 0):
        raise ConfigError(f"temperature: expected a finite number above 0, got {temperature}")
    power = {"proportional": 1.0, "temperature": 1.0 / temperature, "uniform": 0.0}[sampling]
    # Relative to the largest, so that no power overflows.
    weights = {task: (n / max(rows.values())) ** power for task, n in rows.items()}
    return {task: weight / sum(weights.values()) for task, weight in weights.items()}


def draw_tasks(shares: Mapping[str, float], seed: int, steps: int) -> np.ndarray:
    """The task of each step, by its place in `shares`: int64 [steps]. A longer run begins like a shorter one."""
    draw = np.random.RandomState(np.random.Philox(np.random.SeedSequence([seed, len(shares)])))
    ends = np.cumsum(list(shares.values()))
    return np.minimum(np.searchsorted(ends, draw.random_sample(steps), side="right"), len(shares) - 1)
