"""What the tests of tpu_scripts/ share."""

from pathlib import Path

import pytest

from tests.tpu_scripts.stubs import Cloud


@pytest.fixture
def cloud(tmp_path: Path) -> Cloud:
    return Cloud(tmp_path / "place")
