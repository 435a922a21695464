"""SIGTERM, which clusters send before they take a machine away: finish the step, save, stop."""

import signal
import threading
from typing import Any


class Preempted(Exception):
    """Training was asked to stop by SIGTERM and saved its state: starting again in the same folder goes on."""


class Preemption:
    """While entered, SIGTERM sets `requested` instead of ending the process.

    Python takes signals in the main thread alone: elsewhere nothing is installed, and `requested` stays False.

    Args:
        wanted: False installs nothing either.
    """

    def __init__(self, wanted: bool = True) -> None:
        self.requested = False
        self._wanted = wanted
        self._previous: Any = None

    def _request(self, *_: object) -> None:
        self.requested = True

    def __enter__(self) -> "Preemption":
        if self._wanted and threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)
