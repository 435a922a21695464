"""Errors that a user can cause: one line each, saying what was expected, what was found, and the fix."""

import difflib
from collections.abc import Iterable
from typing import ClassVar


class AdaptersJaxError(Exception):
    """Base of all errors that a user can cause. Command lines print it without a traceback and exit with `code`.

    Attributes:
        code: 2: trying again does not help.
        everywhere: every process of a run raises it at this point, so that none waits for another.
    """

    code: ClassVar[int] = 2
    everywhere: bool = False


class ConfigError(AdaptersJaxError):
    """A flag, field or value that cannot be used."""


class DataError(AdaptersJaxError):
    """Data that is missing, damaged or not of the task's form."""


class BackboneError(AdaptersJaxError):
    """Backbone weights that are missing, damaged or not those of a supported encoder."""


class AdapterError(AdaptersJaxError):
    """An adapter artefact that is damaged, or does not fit the backbone or the model."""


class CheckpointError(AdaptersJaxError):
    """A training checkpoint or run folder that is damaged, foreign or cannot be written."""


class TrainingError(AdaptersJaxError):
    """Training that cannot go on, such as a loss that is not finite."""


class Incomplete(AdaptersJaxError):
    """Processes of a run that did not come in time; trying again may help (75: EX_TEMPFAIL of sysexits.h)."""

    code: ClassVar[int] = 75


class NotFoldable(AdaptersJaxError):
    """A method whose change cannot be folded into the backbone's weights."""


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """The message for a misspelled name: lists the known ones and the nearest.

    >>> unknown("task", "mnlli", ["cola", "mnli"])
    "unknown task 'mnlli': known are cola, mnli; did you mean 'mnli'?"
    """
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown {kind} {name!r}: known are {', '.join(names)}{hint}"
