"""SIGTERM, which clusters send before they take a machine away: finish the step, save, stop."""

import itertools
import signal
import threading
from typing import Any

import jax
from jax.experimental import multihost_utils

_QUESTIONS = itertools.count(1)
"""The runtime wants numbers that rise as long as the process lives, however many runs there are in it."""


class Preempted(Exception):
    """Training was asked to stop by SIGTERM and saved its state: starting again in the same folder goes on."""


class Preemption:
    """While entered, SIGTERM asks for a stop instead of ending the process.

    In a run of several processes JAX's runtime takes the signal of any one and chooses the step after which all stop;
    a handler of Python's would take it away. Python takes signals in the main thread alone: elsewhere nothing is
    installed, and nothing asks for a stop.

    Args:
        wanted: False installs nothing either.
    """

    def __init__(self, wanted: bool = True) -> None:
        self.requested = False
        self._wanted = wanted
        self._joined = jax.distributed.is_initialized()
        self._previous: Any = None

    def stops(self) -> bool:
        """Whether to stop after this step; every process asks once after every step."""
        if not (self._joined and self._wanted):
            return self.requested
        # The runtime counts from 1: a signal that comes before the first question chooses the first, whatever the step
        # at which a run goes on.
        return multihost_utils.reached_preemption_sync_point(next(_QUESTIONS))

    def _request(self, *_: object) -> None:
        self.requested = True

    def __enter__(self) -> "Preemption":
        if self._wanted and not self._joined and threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)
