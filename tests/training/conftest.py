"""Fixtures of the training tests."""

from pathlib import Path
from typing import Any

import pytest

from tests.training.tiny_job import Job, make_job


@pytest.fixture(scope="session")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A Houlsby adapter in a tiny BERT, dropout 0.1."""
    return make_job(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="session")
def finished(job: Job, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    """(folder, state, report) of the uninterrupted run."""
    folder = tmp_path_factory.mktemp("finished")
    state, report = job.fit(out_dir=folder)
    return folder, state, report
