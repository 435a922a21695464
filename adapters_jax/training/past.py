"""What a run remembers of itself over restarts: evaluations, time."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable


class Past(NamedTuple):
    """What a run remembers besides its state: JSON values that come back with a checkpoint."""

    prng: str
    seconds: float = 0.0
    rows: int = 0
    history: Sequence[dict[str, Any]] = ()

    def with_scores(self, step: int, scores: Mapping[str, float]) -> "Past":
        return self._replace(history=[*self.history, {"step": step, "metrics": dict(scores)}])

    def best(self, metric: str, since: int = 0) -> dict[str, Any]:
        """The evaluation with the highest score, of equals the earliest; those before step `since` do not count."""
        counted = [entry for entry in self.history if entry["step"] >= since]
        return max(counted, key=lambda entry: (entry["metrics"][metric], -entry["step"]))

    def is_stale(self, metric: str, patience: int | None, since: int = 0) -> bool:
        """Whether the last `patience` evaluations, of those since that step, brought no improvement."""
        if patience is None or not any(entry["step"] >= since for entry in self.history):
            return False
        return sum(entry["step"] > self.best(metric, since)["step"] for entry in self.history) >= patience

    def speed(self, steps: int) -> dict[str, float]:
        seconds = max(self.seconds, 1e-9)
        return {"steps_per_second": steps / seconds, "rows_per_second": self.rows / seconds}


@runtime_checkable
class Compiled(Protocol):
    @property
    def seconds(self) -> float: ...


class Clock:
    """Seconds of training: compilation and what happens while `stopped` do not count."""

    def __init__(self, seconds: float, compiled: Compiled) -> None:
        self._compiled = compiled
        self._since = time.perf_counter() - seconds
        self._pause = 0.0

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._since - self._compiled.seconds

    def stopped(self) -> "Clock":
        return self

    def __enter__(self) -> None:
        self._pause = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._since += time.perf_counter() - self._pause
