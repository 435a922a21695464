"""What a user sees of a command that refuses what it was given."""

from collections.abc import Callable
from typing import Any

import pytest


def refused(capsys: pytest.CaptureFixture, call: Callable[..., object], *args: Any, code: int = 2) -> str:
    """The one line that the command ends with, and nothing after it; its exit code is 2, or `code`."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        call(*args)
    told = capsys.readouterr().err.splitlines()
    assert end.value.code == code
    assert [line for line in told if line.startswith("error: ")] == told[-1:], told
    assert "Traceback" not in "".join(told)
    return told[-1]
