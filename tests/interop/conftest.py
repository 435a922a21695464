"""A hub on the loopback, and a tiny backbone with an adapter in each format."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import adapters_jax as aj
from adapters_jax import testing
from tests.interop.drawn import drawn
from tests.interop.hub_server import Hub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Where the hub is, for this test; its cache is empty, nobody is logged in."""
    from huggingface_hub import constants

    with Hub() as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.endpoint)
        template = served.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setattr("time.sleep", lambda seconds: None)  # huggingface_hub, before it tries again
        yield served


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> aj.Backbone:
    """A random BERT of two layers with its files."""
    return testing.tiny_backbone(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def saved(tiny: aj.Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artefact with all that a manifest can tell."""
    folder = tmp_path_factory.mktemp("saved") / "adapter"
    model, params = drawn(tiny, aj.LoRA(rank=2))
    extra = {"command": ["python", "-m", "train.glue", "--task=rte", "--note=it's"], "columns": ["text"]}
    told = dict(task="rte", scores={"accuracy": 0.81254}, max_length=32, seed=3, data="glue/rte", extra=extra)
    aj.save_adapter(folder, model, params, tiny, **told)
    return folder
