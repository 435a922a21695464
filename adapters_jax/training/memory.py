"""The checkpoints of a run without a folder."""

from pathlib import Path
from typing import Any

import jax

from adapters_jax.checkpoint import Restored
from adapters_jax.training.step import State


class InMemory:
    """What `Checkpoints` is to a run with a folder: for one without, which needs to remember its best state only."""

    folder = Path("memory")

    def __init__(self) -> None:
        self._best: tuple[float, Restored] | None = None

    def restore(self, template: State, step: int | None = None) -> Restored | None:
        return None if self._best is None else self._best[1]

    def latest(self) -> int | None:
        return None

    def best_step(self) -> int | None:
        return None if self._best is None else self._best[1].step

    def save(self, step: int, state: State, metrics: Any, best: float | None, extra: dict[str, Any]) -> None:
        if best is not None and (self._best is None or best > self._best[0]):
            # The next step takes over the state's memory.
            self._best = best, Restored(step, jax.tree.map(lambda leaf: leaf.copy(), state), extra)

    def __enter__(self) -> "InMemory":
        return self

    def __exit__(self, *_: object) -> None:
        pass
